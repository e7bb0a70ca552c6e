"""How far tensors reach: the figures that calibration pairs are chosen by."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from edge_fusion.errors import StepError
from edge_fusion.export.flavour_ranges import record_ranges
from edge_fusion.export.graph import GraphView
from edge_fusion.export.quantize import quantize
from edge_fusion.export.reach import measure_reach, quantizable_tensors
from tests.export import tiny

pytestmark = pytest.mark.export


def test_reach_is_the_larger_end_of_each_range(traced: onnx.ModelProto) -> None:
    samples = tiny.samples(3)
    reach = measure_reach(traced, samples)
    assert reach.values.shape == (3, len(reach.tensors))
    for row, sample in zip(reach.values, samples, strict=True):
        ranges = record_ranges(traced, [sample])
        for name, value in zip(reach.tensors, row, strict=True):
            assert value == pytest.approx(max(map(abs, ranges[name])))


def test_what_nncf_quantizes_is_measured(traced: onnx.ModelProto) -> None:
    quantized = quantize(traced, tiny.samples(2), tiny.SPEC).model
    view = GraphView(quantized)
    scaled = {node.input(0) for node in view.nodes if node.op_type == "QuantizeLinear"}
    measured = set(quantizable_tensors(traced))
    assert len(scaled & measured) >= 0.8 * len(scaled)


def test_the_mean_of_reach_is_the_scale_that_nncf_takes(traced: onnx.ModelProto) -> None:
    samples = tiny.samples(4)
    reach = measure_reach(traced, samples)
    mean = dict(zip(reach.tensors, reach.values.mean(axis=0), strict=True))
    view = GraphView(quantize(traced, samples, tiny.SPEC).model)
    checked = 0
    for node in view.nodes:
        if node.op_type == "QuantizeLinear" and node.input(0) in mean:
            scale, zero = view.constant(node.input(1)), view.constant(node.input(2))
            assert scale is not None
            assert zero is not None
            steps = 255 if zero.dtype == np.uint8 else 127.5
            assert float(scale) * steps == pytest.approx(mean[node.input(0)], rel=0.01)
            checked += 1
    assert checked >= 3


def test_no_samples_are_refused(traced: onnx.ModelProto) -> None:
    with pytest.raises(StepError, match="expected samples, and a graph with weights"):
        measure_reach(traced, [])


def test_infinities_are_refused_by_name(traced: onnx.ModelProto) -> None:
    broken = [{name: value * np.float32(np.inf) for name, value in tiny.samples(1)[0].items()}]
    with pytest.raises(StepError, match="is not finite in FP32.*on pair 0"):
        measure_reach(traced, broken)
