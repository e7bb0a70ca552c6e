"""The shipped reference model, whole: sound as it is built, and each planted fault named."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from edge_fusion.export.diagnose import DiagnoseOptions, Subject, diagnose, load_samples
from edge_fusion.export.options import BuildOptions
from edge_fusion.export.pipeline import build
from tests.export import faults

pytestmark = pytest.mark.skipif(
    not os.environ.get("EDGE_FUSION_LONG_TESTS"),
    reason="takes minutes: set EDGE_FUSION_LONG_TESTS=1",
)

HARMLESS = ("sensitive", "x86_saturation")
FEW = DiagnoseOptions(samples=1)


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    path: Path = tmp_path_factory.mktemp("reference") / "bundle"
    bundle = build(
        BuildOptions("mutualformer-mobilenetv2", path, calib=("demo://?frames=16",), calib_count=8)
    )
    golden = bundle.golden()
    spec = bundle.manifest.model
    names = [tensor.name for tensor in spec.inputs]
    return Subject(
        fp32=onnx.load_from_string(bundle.model_bytes("fp32")),
        int8=onnx.load_from_string(bundle.model_bytes("int8")),
        spec=spec,
        samples=load_samples(["demo://?frames=8&seed=5"], spec, FEW),
        golden=[{n: golden[f"input.{n}"][i : i + 1] for n in names} for i in range(2)],
    )


def named(subject: Subject) -> set[tuple[str, str]]:
    found = diagnose(subject, FEW)
    return {(one.cause, one.layer) for one in found.findings if one.cause not in HARMLESS}


def test_the_reference_model_is_not_accused(subject: Subject) -> None:
    assert named(subject) == set()


@pytest.mark.parametrize(
    ("cause", "layer", "factor"),
    [
        ("uint8_as_int8", "host.rgb_encoder.features.4.conv.1.0/Conv", faults.UINT8_SCALE),
        ("wide_range", "host.depth_encoder.features.9.conv.0.0/Conv", 8),
        ("clipping", "host.decoder.stages.1.1.0.0/Conv", 1 / 8),
    ],
)
def test_a_planted_fault_is_named(subject: Subject, cause: str, layer: str, factor: float) -> None:
    planted = faults.scale_times(subject.int8, layer, factor)
    # An early fault may carry a later tensor anywhere, but nothing else may be blamed for it:
    # every other quantizer is judged by the FP32 network's values.
    assert named(replace(subject, int8=planted)) == {(cause, layer)}
