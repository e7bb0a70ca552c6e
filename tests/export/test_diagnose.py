"""A sound network is called sound; faults planted one by one are named by layer and cause."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import onnx
import pytest

from edge_fusion.diagnosis import Diagnosis
from edge_fusion.errors import InputError, SourceError
from edge_fusion.export.diagnose import DiagnoseOptions, Subject, diagnose, load_samples
from edge_fusion.export.input_causes import judge_inputs
from edge_fusion.export.legalise import legalise
from edge_fusion.export.precision import PrecisionPolicy, plan_precision
from edge_fusion.export.quantize import quantize
from edge_fusion.export.samples import Sample
from edge_fusion.frame import RgbdFrame
from edge_fusion.preprocess import prepare
from edge_fusion.spec import DepthSpec
from tests.export import faults

ONE = DiagnoseOptions(threads=1)
NOT_THE_GRAPH = ("x86_saturation",)  # what this machine's own kernels do is not at issue here

EARLY = "rgb_encoder.features.1.0/Conv"  # depthwise, behind the stem's ReLU
MIDDLE = "depth_encoder.features.3.0/Conv"
TOKENS = "fusion.qkv/MatMul"
LATE = "decoder.2/Conv"
LAYERS = (EARLY, MIDDLE, TOKENS, LATE)
BEHIND_RELU = (EARLY, MIDDLE, LATE)


@pytest.fixture(scope="module")
def golden(tiny: ModuleType) -> list[faults.Sample]:
    return load_samples(["demo://?frames=12"], tiny.SPEC, DiagnoseOptions(samples=6, seed=1))


@pytest.fixture(scope="module")
def pairs(tiny: ModuleType) -> list[faults.Sample]:
    return load_samples(["demo://?frames=12&seed=9"], tiny.SPEC, DiagnoseOptions(samples=3))


def quantized(model: onnx.ModelProto, samples: list[faults.Sample], spec) -> onnx.ModelProto:
    """With the head in INT8, too, so that there is a layer behind the last ReLU."""
    plan = plan_precision(model, PrecisionPolicy(force_int8=(LATE,)))
    return legalise(quantize(model, samples, spec, plan=plan).model).model


@pytest.fixture(scope="module")
def int8(tiny: ModuleType, simplified: onnx.ModelProto, golden) -> onnx.ModelProto:
    return quantized(simplified, golden, tiny.SPEC)


@pytest.fixture
def examine(tiny: ModuleType, simplified: onnx.ModelProto, int8, golden, pairs):
    """Diagnose the pair of graphs, with parts of it replaced."""

    def run(**changed: object) -> Diagnosis:
        parts = {
            "fp32": simplified,
            "int8": int8,
            "spec": tiny.SPEC,
            "samples": pairs,
            "golden": golden,
        }
        return diagnose(Subject(**(parts | changed)), ONE)

    return run


def named(diagnosis: Diagnosis) -> set[tuple[str, str]]:
    """Causes and layers of all that was found wrong."""
    return {(f.cause, f.layer) for f in diagnosis.findings if f.cause not in NOT_THE_GRAPH}


def test_a_sound_network_is_not_accused(examine) -> None:
    found = examine()
    assert named(found) == set()
    assert "no fault was found" in found.conclusion
    assert 0 < found.saliency_error < 0.01


@pytest.mark.parametrize("layer", LAYERS)
def test_a_scale_8_times_too_large_is_a_wide_range(examine, int8, layer) -> None:
    found = examine(int8=faults.scale_times(int8, layer, 8))
    assert named(found) == {("wide_range", layer)}
    assert found.findings_of(layer)[0].figures["fill"] == pytest.approx(1 / 8, rel=0.4)
    assert layer in found.conclusion


@pytest.mark.parametrize("layer", LAYERS)
def test_a_scale_8_times_too_small_clips(examine, int8, layer) -> None:
    found = examine(int8=faults.scale_times(int8, layer, 1 / 8))
    assert named(found) == {("clipping", layer)}
    assert found.findings_of(layer)[0].figures["over"] == pytest.approx(8, rel=0.2)
    assert found.worst(1)[0].name == layer


@pytest.mark.parametrize("layer", BEHIND_RELU)
def test_uint8_read_as_int8_is_told_from_clipping(examine, int8, layer) -> None:
    found = examine(int8=faults.scale_times(int8, layer, faults.UINT8_SCALE))
    assert named(found) == {("uint8_as_int8", layer)}


@pytest.mark.parametrize(("layer", "channel"), [(EARLY, 3), (MIDDLE, 3), (LATE, 1)])
def test_a_channel_50_times_too_large_is_named_with_its_number(
    tiny, simplified, golden, examine, layer, channel
) -> None:
    planted = faults.channel_times(simplified, layer, channel, factor=50)
    found = examine(fp32=planted, int8=quantized(planted, golden, tiny.SPEC))
    assert named(found) == {("dominant_channel", layer)}
    assert found.findings_of(layer)[0].figures["channel"] == channel
    assert f"--keep-fp16 '{layer}'" in found.findings_of(layer)[0].cure


@pytest.mark.parametrize(("layer", "factor"), [(EARLY, 8), (TOKENS, 1 / 8), (LATE, 8)])
def test_wrong_scales_of_weights_are_told_from_those_of_activations(
    examine, int8, layer, factor
) -> None:
    found = examine(int8=faults.weight_scale_times(int8, layer, factor))
    assert named(found) == {("weight_scale", layer)}
    assert found.findings_of(layer)[0].figures["gain"] == pytest.approx(factor, rel=0.05)


def test_a_scale_that_is_read_otherwise_than_written_is_named(examine, int8) -> None:
    found = examine(int8=faults.read_scale_times(int8, MIDDLE, 8))
    assert named(found) == {("scale_mismatch", MIDDLE)}


def test_swapped_streams_are_named_and_nothing_else_of_the_inputs(examine, pairs) -> None:
    found = examine(samples=faults.swapped(pairs))
    assert found.findings[0].cause == "swapped_streams"
    assert "wrong_normalisation" not in {one.cause for one in found.findings}
    assert "exchange the two streams" in found.conclusion


IMAGENET = (np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225]))


@pytest.mark.parametrize(
    ("mean", "std", "said"),
    [
        (0.0, 1.0, "plain 0..1"),
        (0.0, 1 / 255, "raw 8-bit values"),
        (0.5, 0.5, "8-bit level"),  # within the bounds of ImageNet's: the levels tell
        ((0.485, 0.456, 0.406), (0.225, 0.224, 0.229), "8-bit level"),  # blue first
    ],
)
def test_wrong_normalisation_of_colour_is_named(tiny, golden, pairs, mean, std, said) -> None:
    new = tuple(np.broadcast_to(np.asarray(value), 3) for value in (mean, std))
    (found,) = judge_inputs(golden, faults.renormalised(pairs, IMAGENET, new), tiny.SPEC)
    assert found.cause == "wrong_normalisation"
    assert found.tensor == "rgb"
    assert said in found.evidence
    assert "0.229, 0.224, 0.225" in found.cure


def test_wrong_normalisation_comes_before_what_it_does_to_layers(examine, pairs) -> None:
    raw = faults.renormalised(pairs, IMAGENET, (np.zeros(3), np.full(3, 1 / 255)))
    found = examine(samples=raw)
    assert found.findings[0].cause == "wrong_normalisation"
    assert "raw 8-bit values" in found.conclusion or "wrong normalisation" in found.conclusion


def test_other_scenes_are_no_fault_of_the_inputs(tiny, golden) -> None:
    for uri in ("demo://?frames=4&seed=20", "demo://?frames=4&seed=21&size=80x60"):
        others = load_samples([uri], tiny.SPEC, ONE)
        assert list(judge_inputs(golden, others, tiny.SPEC)) == []


def test_depth_in_8_bits_is_stretched_by_each_frame_and_no_fault(tiny) -> None:
    """Sets of relative depth: the same preprocessing makes levels of other distances."""
    rng = np.random.default_rng(0)
    spec = DepthSpec(scale_to_m=None, larger_is="nearer")

    def sample(levels: int) -> Sample:
        colour = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
        near = np.broadcast_to(np.linspace(1, levels, 48)[:, None], (48, 64)).astype(np.uint8)
        return prepare(RgbdFrame(colour, near, spec, id=str(levels)), tiny.SPEC)

    assert list(judge_inputs([sample(250)], [sample(120)], tiny.SPEC)) == []


def test_depth_of_the_other_polarity_is_named(tiny, golden, pairs) -> None:
    turned = [{**s, "depth": np.where(s["depth"] > 0, 1 - s["depth"], 0)} for s in pairs]
    (found,) = judge_inputs(golden, turned, tiny.SPEC)
    assert found.cause == "depth_polarity"
    assert "larger_is" in found.cure


def test_depth_in_another_unit_is_named(tiny, golden, pairs) -> None:
    far = [{**s, "depth": np.minimum(s["depth"] * 1000, 1)} for s in pairs]
    (found,) = judge_inputs(golden, far, tiny.SPEC)
    assert found.cause == "depth_unit"


def test_the_record_tells_all_that_was_measured(examine, int8) -> None:
    found = examine()
    int8_layers = [layer for layer in found.layers if layer.int8]
    assert len(int8_layers) == len(found.worst())
    assert [len(one.layers) for one in found.reverts] == [1, 3, 5, 10]
    assert found.reverts[-1].saliency_error < found.saliency_error
    assert Diagnosis.model_validate_json(found.model_dump_json()) == found


def test_the_sample_choice_follows_the_seed(tiny) -> None:
    def choose(seed: int) -> np.ndarray:
        some = load_samples(["demo://?frames=8"], tiny.SPEC, DiagnoseOptions(samples=2, seed=seed))
        return np.concatenate([sample["depth"] for sample in some])

    assert np.array_equal(choose(1), choose(1))
    assert not np.array_equal(choose(1), choose(2))


def test_bad_options_and_sets_are_refused(tiny) -> None:
    with pytest.raises(InputError, match="reference"):
        DiagnoseOptions(variant="fp32")
    with pytest.raises(InputError, match="at least 1"):
        DiagnoseOptions(samples=0)
    with pytest.raises(InputError, match="--data"):
        load_samples([], tiny.SPEC, ONE)
    with pytest.raises(SourceError):
        load_samples(["/nowhere"], tiny.SPEC, ONE)
