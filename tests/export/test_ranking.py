"""What each layer alone costs: sums, order, and what a few layers cost together."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edge_fusion.diagnosis import MOST_DB
from edge_fusion.errors import StepError
from edge_fusion.export.isolate import quantizable, with_int8
from edge_fusion.export.layerwise import Deviation, layer_errors
from edge_fusion.export.legalise import legalise
from edge_fusion.export.probe import chunked, read_tensors
from edge_fusion.export.quantize import quantize
from edge_fusion.export.ranking import rank_layers, saliency_errors
from edge_fusion.runtime.ort import OrtSession


@pytest.fixture(scope="module")
def int8(tiny: ModuleType, simplified: onnx.ModelProto) -> onnx.ModelProto:
    return legalise(quantize(simplified, tiny.samples(4), tiny.SPEC).model).model


def test_the_error_of_a_layer_is_that_of_the_network_with_it_alone(tiny, simplified, int8) -> None:
    samples = tiny.samples(2, seed=3)
    ranked = rank_layers(simplified, int8, samples, tiny.SPEC, threads=1)
    assert {layer.name for layer in ranked} == set(quantizable(int8))
    errors = [layer.saliency_error for layer in ranked]
    assert errors == sorted(errors, reverse=True)
    layer = ranked[3]
    alone = with_int8(simplified, int8, [layer.name]).SerializeToString()
    with (
        OrtSession(simplified.SerializeToString(), threads=1) as plain,
        OrtSession(alone, threads=1) as mixed,
    ):
        expected = np.mean(
            [np.abs(mixed.run(s)["saliency"] - plain.run(s)["saliency"]).mean() for s in samples]
        )
    assert layer.saliency_error == pytest.approx(expected, rel=1e-4)
    assert layer.kind == {n.name: n.op_type for n in simplified.graph.node}[layer.name]


def test_groups_are_judged_together(tiny, simplified, int8) -> None:
    names = quantizable(int8)
    groups = {"all": names, "none": (), "first": names[:2]}
    errors = saliency_errors(simplified, int8, groups, tiny.samples(1), tiny.SPEC, threads=1)
    assert errors["none"] == 0 < errors["first"] < errors["all"]


def test_progress_counts_layers(tiny, simplified, int8) -> None:
    told = []
    rank_layers(
        simplified,
        int8,
        tiny.samples(1),
        tiny.SPEC,
        lambda step, done, total, detail="": told.append((step, done, total)),
        threads=1,
    )
    count = len(quantizable(int8))
    assert told == [("isolate", done, count) for done in range(1, count + 1)]


def test_no_samples_are_refused(tiny, simplified, int8) -> None:
    with pytest.raises(StepError, match="at least one sample"):
        rank_layers(simplified, int8, [], tiny.SPEC)
    with pytest.raises(StepError, match="at least one sample"):
        layer_errors(simplified, int8, [])


def test_layers_are_compared_in_topological_order_with_both_errors(tiny, simplified, int8) -> None:
    layers = layer_errors(simplified, int8, tiny.samples(2), threads=1)
    assert [one.position for one in layers] == sorted(one.position for one in layers)
    assert {one.name for one in layers if one.int8} == set(quantizable(int8))
    by_name = {one.name: one for one in layers}
    first = by_name["rgb_encoder.features.0.0/Conv"]  # the stem is float: nothing before it is not
    assert not first.int8
    assert first.accumulated_sqnr_db == MOST_DB
    assert first.isolated_sqnr_db is None
    second = by_name[quantizable(int8)[0]]  # the first INT8 layer has nothing but its own error
    assert second.accumulated_sqnr_db == pytest.approx(second.isolated_sqnr_db, abs=1e-3)
    last = max((one for one in layers if one.int8), key=lambda one: one.position)
    assert last.accumulated_sqnr_db < last.isolated_sqnr_db
    assert 25 < second.isolated_sqnr_db < 60
    assert 0.99 < second.isolated_cosine < 1


def test_the_budget_changes_memory_and_no_figure(tiny, simplified, int8) -> None:
    samples = tiny.samples(2)
    runs = []

    def note(step: str, done: int, total: int, detail: str = "") -> None:
        runs.append(total)

    plenty = layer_errors(simplified, int8, samples, note, threads=1)
    scarce = layer_errors(simplified, int8, samples, note, budget=40_000, threads=1)
    assert runs[0] == 2 < 10 < runs[-1]
    for one, two in zip(plenty, scarce, strict=True):
        assert one.accumulated_sqnr_db == pytest.approx(two.accumulated_sqnr_db, abs=1e-3)


def test_no_more_tensors_are_held_than_the_budget_allows(tiny, simplified) -> None:
    sizes = {
        name: np.prod(shape) * 4
        for name, shape in {
            "rgb": (3, 32, 32),
            "depth": (1, 32, 32),
            "rgb_encoder.features.0.0/Conv": (8, 16, 16),
            "depth_encoder.features.0.0/Conv": (8, 16, 16),
        }.items()
    }
    chunks = chunked(sizes, budget=16_384)
    assert len(chunks) == 2
    held = [
        sum(value.nbytes for value in tensors.values())
        for _, tensors in read_tensors(simplified, chunks, tiny.samples(1), threads=1)
    ]
    assert held == [16_384, 16_384]


def test_a_budget_of_nothing_is_refused() -> None:
    with pytest.raises(StepError, match="1 byte or more"):
        chunked({"x": 4}, budget=0)


def broken(model: onnx.ModelProto, value: float) -> onnx.ModelProto:
    """The network with a bias of its decoder overwritten."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    bias = next(t for t in copy.graph.initializer if t.name == "decoder.2.bias")
    bias.CopyFrom(numpy_helper.from_array(np.full((1,), value, np.float32), bias.name))
    return copy


def test_nan_is_named_by_layer_and_refused(tiny, simplified, int8) -> None:
    nan = broken(simplified, np.nan)
    with pytest.raises(StepError, match=r"'decoder\.2/Conv' gives NaN in FP32"):
        layer_errors(nan, int8, tiny.samples(1), threads=1)
    with pytest.raises(StepError, match=r"the saliency map.*repair the network"):
        rank_layers(nan, int8, tiny.samples(1), tiny.SPEC, threads=1)


@pytest.mark.parametrize(
    ("reference", "candidate", "sqnr_db", "cosine"),
    [
        ([3, 4], [3, 4], MOST_DB, 1.0),
        ([1, 0], [1, 0.1], 20.0, 0.995),
        ([0, 0], [1, 0], -MOST_DB, 0.0),  # nothing but noise
        ([0, 0], [0, 0], MOST_DB, 1.0),
        ([1, -np.inf], [1, -np.inf], MOST_DB, 1.0),  # a mask is no signal
        ([1, 1], [1, np.nan], -MOST_DB, 0.707),  # NaN in INT8 alone is the worst there can be
    ],
)
def test_deviation_is_a_number_whatever_comes(reference, candidate, sqnr_db, cosine) -> None:
    deviation = Deviation()
    deviation.add(np.array(reference, np.float32), np.array(candidate, np.float32))
    assert deviation.sqnr_db == pytest.approx(sqnr_db, abs=0.01)
    assert deviation.cosine == pytest.approx(cosine, abs=0.001)
