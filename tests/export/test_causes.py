"""Each detector on evidence made by hand: when it speaks, and when it must not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edge_fusion.diagnosis import Finding, LayerError
from edge_fusion.export.activity import Activity, Range, WeightUse
from edge_fusion.export.causes import DETECTORS, find_causes
from edge_fusion.export.evidence import Evidence
from edge_fusion.export.kernels import judge_kernels, saturates_not

RNG = np.random.default_rng(0)
PLAIN = RNG.uniform(-1, 1, (1, 8, 16, 16)).astype(np.float32)
SCALE = 1 / 127
RANGE = Range("x", ("layer",), SCALE, SCALE, -128 * SCALE, 1.0, uint8=False, axis=1)


def layer(name: str = "layer", sqnr_db: float = 10.0, saliency: float = 0.001) -> LayerError:
    return LayerError(
        name=name,
        kind="Conv",
        position=0,
        int8=True,
        isolated_sqnr_db=sqnr_db,
        saliency_error=saliency,
    )


def activity(value: np.ndarray, range_: Range = RANGE) -> Activity:
    made = Activity()
    made.add(value.astype(np.float32), range_)
    return made


def evidence(
    *, data: np.ndarray = PLAIN, golden: np.ndarray | None = None, sqnr_db: float = 10.0
) -> Evidence:
    """One bad layer behind one range, unless told otherwise."""
    before = data if golden is None else golden
    layers = {"layer": layer(sqnr_db=sqnr_db)}
    return Evidence(layers, (RANGE,), (activity(before),), (activity(data),), ())


def causes(found: tuple[Finding, ...]) -> list[str]:
    return [one.cause for one in found]


def with_channels(*factors: float) -> np.ndarray:
    value = PLAIN.copy()
    value[:, : len(factors)] *= np.reshape(factors, (-1, 1, 1))
    return value


OUTLIERS = PLAIN * 0.05
OUTLIERS[0, 0, 0, 0] = 1.0
ONLY_SMALL = with_channels(*[0.003] * 4)
BEYOND = np.where(RNG.random(PLAIN.shape) < 0.1, 3.0, PLAIN)


@pytest.mark.parametrize(
    ("cause", "data", "golden"),
    [
        ("unseen_values", BEYOND, PLAIN),  # calibration saw a third of it
        ("outliers", OUTLIERS, None),  # one value in two thousand sets the range
        ("dead_channels", ONLY_SMALL, None),  # four of eight below half a step
        ("unexplained", PLAIN, None),  # bad, and nothing to be seen
    ],
)
def test_a_bad_layer_gets_the_cause_that_its_range_shows(cause, data, golden) -> None:
    assert causes(find_causes(evidence(data=data, golden=golden))) == [cause]
    fine = evidence(data=data, golden=golden, sqnr_db=30)
    assert find_causes(fine) == ()  # the same values do no harm where the result is good


def test_a_large_channel_is_named_where_it_starves_the_others() -> None:
    starving = with_channels(1, *[0.02] * 7)
    assert causes(find_causes(evidence(data=starving, sqnr_db=30))) == ["dominant_channel"]
    # half of the channels are small and the others fine: the median is not far from the largest
    assert find_causes(evidence(data=with_channels(1, 0.01), sqnr_db=30)) == ()


def test_one_scale_for_unlike_streams_is_named_by_its_concat() -> None:
    rgb = replace(RANGE, tensor="rgb", joined_by="join", axis=None)
    depth = replace(RANGE, tensor="depth", joined_by="join", axis=None)
    passed = (activity(PLAIN, rgb), activity(PLAIN * 0.01, depth))
    found = find_causes(Evidence({"layer": layer()}, (rgb, depth), passed, passed, ()))
    assert causes(found) == ["shared_scale"]
    assert found[0].tensor == "depth"
    assert found[0].figures["ratio"] == pytest.approx(100, rel=0.01)
    assert "--keep-fp16 'layer'" in found[0].cure
    good = Evidence({"layer": layer(sqnr_db=30)}, (rgb, depth), passed, passed, ())
    assert find_causes(good) == ()


def test_cutting_off_outliers_on_purpose_is_no_clipping() -> None:
    few = PLAIN.copy()
    few[0, 0, 0, 0] = 1.7  # 1.7 times the range, one value of two thousand
    lots = np.where(RNG.random(PLAIN.shape) < 0.05, 3.0, PLAIN)
    assert causes(find_causes(evidence(data=few * 0.9, golden=few, sqnr_db=30))) == []
    assert causes(find_causes(evidence(data=lots, sqnr_db=30))) == ["clipping"]


def weight(**changed: object) -> WeightUse:
    use = WeightUse("layer", "w", np.ones(4), 1e-4, np.ones(4))
    return replace(use, **changed)


@pytest.mark.parametrize(
    ("use", "expected"),
    [
        (weight(), []),
        (weight(gains=np.array([1, 1, 8, 1])), ["weight_scale"]),
        # a channel of nothing rounds to anything
        (weight(gains=np.array([1, 1, 0, 1]), peaks=np.array([1, 1, 1e-4, 1])), []),
        (weight(noise_share=0.2), ["coarse_weights"]),
    ],
)
def test_weights_are_held_against_their_originals(use: WeightUse, expected: list[str]) -> None:
    base = evidence(sqnr_db=10 if "coarse_weights" in expected else 30)
    assert causes(find_causes(replace(base, weights=(use,)))) == expected


def test_uint8_is_named_though_onnx_runtime_computes_it_rightly() -> None:
    stored = replace(RANGE, uint8=True)
    base = evidence(sqnr_db=40)
    assert causes(find_causes(replace(base, ranges=(stored,)))) == ["uint8_as_int8"]


@pytest.mark.parametrize(
    ("extreme", "expected"),
    [
        ((-7e4, 1.0), ["fp16_overflow"]),
        ((0.0, 6.5e4), []),
        ((-np.inf, 1.0), []),  # a mask, which FP16 has too
    ],
)
def test_fp16_overflow_is_judged_from_extremes(extreme, expected) -> None:
    base = replace(evidence(sqnr_db=30), extremes={"big": extreme})
    assert causes(find_causes(base)) == expected


def test_a_layer_that_costs_most_is_called_sensitive_unless_something_is_wrong() -> None:
    costly = {"layer": layer(sqnr_db=30, saliency=0.004), "other": layer("other", 30, 0.0005)}
    base = replace(evidence(sqnr_db=30), layers=costly, saliency_error=0.006)
    assert causes(find_causes(base)) == ["sensitive"]
    wrong = replace(base, weights=(weight(gains=np.full(4, 8.0)),))
    assert causes(find_causes(wrong)) == ["weight_scale"]
    small = replace(base, saliency_error=0.05)  # a part of the error only
    assert find_causes(small) == ()


def test_the_costliest_comes_first() -> None:
    layers = {"layer": layer(saliency=0.001), "other": layer("other", saliency=0.01)}
    uses = (weight(gains=np.full(4, 8.0)), weight(layer="other", gains=np.full(4, 8.0)))
    base = replace(evidence(), layers=layers, weights=uses)
    assert [one.layer for one in find_causes(base)] == ["other", "layer"]


def test_every_detector_has_an_id_of_its_own_and_says_what_it_measures() -> None:
    assert len({one.cause for one in DETECTORS}) == len(DETECTORS) == 13
    assert all(one.measures and one.cure for one in DETECTORS)


@pytest.mark.parametrize(
    ("machine", "cpuinfo", "said"),
    [
        ("aarch64", "", "no x86"),
        ("x86_64", "processor: 0\nflags\t\t: avx2 avx512_vnni\n", "VNNI"),
        ("x86_64", "flags\t\t: avx2 avx_vnni\n", "VNNI"),
        ("x86_64", "flags\t\t: avx2\n", ""),
        ("AMD64", "", ""),
    ],
)
def test_only_x86_without_vnni_saturates(machine: str, cpuinfo: str, said: str) -> None:
    reason = saturates_not(machine, cpuinfo)
    assert said in reason
    assert bool(reason) == bool(said)


def test_kernels_are_judged_against_the_literal_run(tiny, monkeypatch) -> None:
    from onnx import parser

    from edge_fusion.export import kernels

    model = parser.parse_model("""
        <ir_version: 9, opset_import: ["": 18]>
        g (float[1,3,32,32] rgb, float[1,1,32,32] depth) => (float[1,1,32,32] saliency) {
            saliency = Sigmoid (depth)
        }""")
    samples = tiny.samples(1)
    right = [1 / (1 + np.exp(-samples[0]["depth"]))]
    monkeypatch.setattr(kernels, "saturates_not", lambda: "")
    assert judge_kernels(model, samples, tiny.SPEC, right, threads=1) == ""
    found = judge_kernels(model, samples, tiny.SPEC, [right[0] + 0.1], threads=1)
    assert isinstance(found, Finding)
    assert found.figures["difference"] == pytest.approx(0.1, rel=1e-3)
    monkeypatch.setattr(kernels, "saturates_not", lambda: "no x86")
    assert judge_kernels(model, samples, tiny.SPEC, right, threads=1) == "no x86"
