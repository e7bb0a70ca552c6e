"""Layers that INT8 would clip: none on what was calibrated on, the right ones on what was not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from edge_fusion.bundle import Bundle, write_bundle
from edge_fusion.errors import BundleError, CalibrationError, FrameError
from edge_fusion.export.layer_drift import BEYOND, LEVELS, layer_drift
from edge_fusion.export.legalise import legalise
from edge_fusion.export.quantize import QuantizeOptions, quantize
from edge_fusion.preprocess import prepare
from edge_fusion.runtime.ort import OrtSession
from edge_fusion.runtime.source.demo import DemoSource

FRAMES = list(DemoSource(frames=4, seed=1, width=64, height=48).frames())


@pytest.fixture
def calibrated(tiny, simplified, tiny_bundle: Bundle, tmp_path: Path) -> Bundle:
    samples = [prepare(frame, tiny.SPEC) for frame in FRAMES]
    extremes = QuantizeOptions(estimator="minmax")
    int8 = legalise(quantize(simplified, samples, tiny.SPEC, extremes).model).model
    manifest = tiny_bundle.manifest.model_copy(update={"model": tiny.SPEC, "files": {}})
    files = {name: tiny_bundle.file(name) for name in tiny_bundle.manifest.files}
    files["model.fp32.onnx"] = simplified.SerializeToString()
    files["model.int8.onnx"] = int8.SerializeToString()
    return write_bundle(tmp_path / "layers", manifest, files)


def test_what_was_calibrated_on_is_not_clipped(calibrated: Bundle) -> None:
    found = layer_drift(calibrated, FRAMES, threads=1)
    assert len(found) > 5
    for one in found:
        assert one.clipped == pytest.approx(0, abs=1e-6), one
        assert one.reached == pytest.approx(one.limit, rel=0.51), one


def test_clipped_values_are_counted_as_numpy_counts_them(
    tiny, simplified, calibrated: Bundle
) -> None:
    bright = [replace(frame, rgb=255 - frame.rgb) for frame in FRAMES]
    found = layer_drift(calibrated, bright, threads=1)
    worst = found[0]
    assert worst.clipped > 0
    assert [one.clipped for one in found] == sorted((one.clipped for one in found), reverse=True)
    probe = onnx.ModelProto()
    probe.CopyFrom(simplified)
    probe.graph.output.append(onnx.helper.make_empty_tensor_value_info(worst.tensor))
    probe.graph.output[-1].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    session = ort.InferenceSession(probe.SerializeToString(), providers=["CPUExecutionProvider"])
    limit = np.float32(worst.limit * BEYOND)
    shares = [
        float((np.abs(session.run([worst.tensor], prepare(f, tiny.SPEC))[0]) > limit).mean())
        for f in bright
    ]
    assert worst.clipped == pytest.approx(np.mean(shares), abs=1e-6)
    assert worst.worst == pytest.approx(max(shares), abs=1e-6)


def test_frames_that_cannot_be_used_are_left_out(calibrated: Bundle) -> None:
    blind = replace(FRAMES[0], depth=np.zeros_like(FRAMES[0].depth))
    damaged = FrameError("cannot decode")
    assert layer_drift(calibrated, [damaged, blind, FRAMES[0]], threads=1)
    with pytest.raises(CalibrationError, match="not one frame"):
        layer_drift(calibrated, [damaged, blind], threads=1)


def test_a_bundle_without_int8_is_refused(tiny_bundle: Bundle, tmp_path: Path) -> None:
    manifest = tiny_bundle.manifest
    files = {n: tiny_bundle.file(n) for n in manifest.files if n != "model.int8.onnx"}
    fp32 = {"fp32": manifest.variants["fp32"]}
    changed = manifest.model_copy(update={"variants": fp32, "precision": "fp32", "files": {}})
    bundle = write_bundle(tmp_path / "fp32", changed, files)
    with pytest.raises(BundleError, match="no INT8 graph"):
        layer_drift(bundle, FRAMES)


def test_limits_are_those_of_the_scales(calibrated: Bundle) -> None:
    with OrtSession(calibrated.file("model.int8.onnx"), threads=1) as session:
        assert session.run(prepare(FRAMES[0], calibrated.manifest.model))
    model = onnx.load_model_from_string(calibrated.file("model.int8.onnx"))
    values = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    scales = {
        node.input[0]: float(values[node.input[1]].reshape(()))
        for node in model.graph.node
        if node.op_type == "QuantizeLinear"
    }
    for one in layer_drift(calibrated, FRAMES[:1], threads=1):
        assert one.limit == pytest.approx(scales[one.tensor] * LEVELS)
