from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_fusion.errors import FrameError, InputError
from edge_fusion.metrics import (
    METRICS,
    PROTOCOLS,
    Figures,
    ImageScores,
    mean_absolute_difference,
    pool,
    score,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the oracle's own imports and its deprecated class
    py_sod_metrics = pytest.importorskip("py_sod_metrics", reason="the oracle of the metrics")

Map = NDArray[np.float32]
Mask = NDArray[np.bool_]

SIZES = [(2, 1), (1, 2), (2, 2), (3, 5), (7, 4), (16, 16), (48, 64)]


def blob(rng: np.random.Generator, size: tuple[int, int]) -> Mask:
    height, width = size
    y, x = np.mgrid[:height, :width]
    centre_y, centre_x = rng.uniform(0, height), rng.uniform(0, width)
    radius = rng.uniform(0.1, 0.6) * max(size)
    return (y - centre_y) ** 2 + (x - centre_x) ** 2 < radius**2


def maps(rng: np.random.Generator, mask: Mask) -> Iterator[tuple[str, Map]]:
    noise = rng.random(mask.shape)
    yield "noise", noise.astype(np.float32)
    yield "close", np.clip(0.8 * mask + 0.25 * noise, 0, 1).astype(np.float32)
    yield "inverted", np.clip(1 - mask - 0.3 * noise, 0, 1).astype(np.float32)
    yield "dim", (0.2 + 0.3 * mask * noise).astype(np.float32)
    yield "binary", (noise > 0.5).astype(np.float32)
    yield "few levels", (np.floor(noise * 4) / 5).astype(np.float32)
    for value in (0.0, 0.31, 1.0):
        yield f"constant {value}", np.full(mask.shape, value, np.float32)


def masks(rng: np.random.Generator, size: tuple[int, int]) -> Iterator[tuple[str, Mask]]:
    yield "empty", np.zeros(size, bool)
    yield "full", np.ones(size, bool)
    yield "sparse", rng.random(size) < 0.2
    yield "blob", blob(rng, size)
    corner = np.zeros(size, bool)
    corner[0, 0] = True
    yield "corner", corner


def cases() -> Iterator[tuple[str, Map, Mask]]:
    rng = np.random.default_rng(7)
    for size in SIZES:
        for repeat in range(4):
            for mask_name, mask in masks(rng, size):
                for map_name, saliency in maps(rng, mask):
                    yield f"{size} {mask_name} {map_name} {repeat}", saliency, mask


def as_the_oracle_sees_it(saliency: Map, mask: Mask) -> dict[str, NDArray[np.float64]]:
    levels = (saliency * 255).astype(np.uint8)
    normalised, _ = py_sod_metrics.utils.prepare_data(levels, mask.astype(np.uint8) * 255)
    return {"normalised": normalised, "raw": levels / 255}


def curves_and_errors(saliency: Map, mask: Mask) -> dict[str, dict[str, object]]:
    """The oracle's figures under both protocols, through its public step()."""
    results = {}
    for protocol, normalise in (("normalised", True), ("raw", False)):
        levels = (saliency * 255).astype(np.uint8)
        pair = (levels, mask.astype(np.uint8) * 255) if normalise else (levels / 255, mask)
        handler = py_sod_metrics.FmeasureHandler(with_dynamic=True, with_adaptive=True, beta=0.3)
        meters = {
            "mae": py_sod_metrics.MAE(),
            "em": py_sod_metrics.Emeasure(),
            "fm": py_sod_metrics.FmeasureV2(metric_handlers={"fm": handler}),
        }
        results[protocol] = {}
        for name, meter in meters.items():
            meter.step(*pair, normalize=normalise)
            results[protocol][name] = meter.get_results()[name]
    return results


def exact_s_measure(view: NDArray[np.float64], mask: Mask) -> float:
    """The oracle's S-measure in extended precision.

    A quadrant of one level has no variance; in float64 the oracle's mean of equal numbers is often
    one rounding off, and the quadrant then scores 0 where the definition says 1.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # its mean over a quadrant of no pixels
        return float(py_sod_metrics.Smeasure().cal_sm(view.astype(np.longdouble), mask))


def on_adaptive_threshold(view: NDArray[np.float64]) -> bool:
    """Whether a pixel equals twice the mean, so that rounding decides for the oracle."""
    return bool(np.isclose(view, min(2 * view.mean(), 1), rtol=0, atol=1e-12).any())


def assert_figures(got: Figures, oracle: dict[str, object], skip_adaptive: bool, name: str) -> None:
    em, fm = oracle["em"], oracle["fm"]
    exact = {"rtol": 0, "atol": 1e-9, "err_msg": name}
    np.testing.assert_allclose(got.mae, oracle["mae"], **exact)
    np.testing.assert_allclose(got.f_curve, fm["dynamic"], **exact)
    np.testing.assert_allclose(got.e_curve, em["curve"], **exact)
    if not skip_adaptive:
        np.testing.assert_allclose(got.f_adaptive, fm["adaptive"], **exact)
        np.testing.assert_allclose(got.e_adaptive, em["adp"], **exact)


def test_every_figure_equals_the_oracle_on_many_cases():
    compared = {"s": 0, "s without pixels": 0, "adaptive": 0, "adaptive on a tie": 0}
    for name, saliency, mask in cases():
        got = score(saliency, mask)
        views = as_the_oracle_sees_it(saliency, mask)
        for protocol, oracle in curves_and_errors(saliency, mask).items():
            figures = getattr(got, protocol)
            view = views[protocol]
            tie = on_adaptive_threshold(view) and not set(np.unique(view)) <= {0.0, 1.0}
            assert_figures(figures, oracle, tie, f"{name} {protocol}")
            compared["adaptive on a tie" if tie else "adaptive"] += 1
            expected = exact_s_measure(view, mask)
            if np.isnan(expected):  # a quadrant of no pixels: no weight here, NaN there
                assert 0 <= figures.s_measure <= 1, name
                compared["s without pixels"] += 1
            else:
                assert figures.s_measure == pytest.approx(expected, abs=1e-9), (name, protocol)
                compared["s"] += 1
    assert compared["s"] > 1500, compared
    assert compared["adaptive"] > 1500, compared


def test_s_measure_equals_the_oracles_public_result_on_plain_images():
    rng = np.random.default_rng(3)
    for _ in range(40):
        mask = np.zeros((60, 80), bool)
        y, x = rng.integers(5, 25, 2)
        mask[y : y + 20, x : x + 30] = True
        for _, saliency in list(maps(rng, mask))[:4]:
            meter = py_sod_metrics.Smeasure()
            meter.step((saliency * 255).astype(np.uint8), mask.astype(np.uint8) * 255)
            assert score(saliency, mask).normalised.s_measure == pytest.approx(
                meter.get_results()["sm"], abs=1e-9
            )


def test_a_pooled_maximum_is_that_of_the_averaged_curve():
    rng = np.random.default_rng(11)
    handler = py_sod_metrics.FmeasureHandler(with_dynamic=True, with_adaptive=True, beta=0.3)
    f_meter = py_sod_metrics.FmeasureV2(metric_handlers={"fm": handler})
    e_meter = py_sod_metrics.Emeasure()
    scores = []
    for _ in range(12):
        mask = blob(rng, (40, 50))
        saliency = np.clip(
            rng.uniform(0.2, 0.9) * mask + 0.4 * rng.random(mask.shape), 0, 1
        ).astype(np.float32)
        scores.append(score(saliency, mask))
        for meter in (f_meter, e_meter):
            meter.step((saliency * 255).astype(np.uint8), mask.astype(np.uint8) * 255)
    pooled = pool(scores)
    f_curve = f_meter.get_results()["fm"]["dynamic"]
    e_curve = e_meter.get_results()["em"]["curve"]
    assert pooled.n == 12
    assert pooled.normalised.f_max == pytest.approx(f_curve.max(), abs=1e-12)
    assert pooled.normalised.f_mean == pytest.approx(f_curve.mean(), abs=1e-12)
    assert pooled.normalised.e_max == pytest.approx(e_curve.max(), abs=1e-12)
    assert pooled.normalised.e_mean == pytest.approx(e_curve.mean(), abs=1e-12)
    assert pooled.normalised.f_max < np.mean([one.normalised.f_max for one in scores])


def test_iou_counts_pixels_from_half_up():
    rng = np.random.default_rng(5)
    for _ in range(20):
        mask = blob(rng, (20, 30))
        saliency = rng.random(mask.shape).astype(np.float32)
        found = (saliency * 255).astype(np.uint8) >= 128
        expected = (found & mask).sum() / (found | mask).sum()
        assert score(saliency, mask).raw.iou == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("saliency", "mask", "expected"),
    [
        pytest.param(0.0, False, 1.0, id="nothing there, nothing found"),
        pytest.param(1.0, False, 0.0, id="nothing there, all found"),
        pytest.param(1.0, True, 1.0, id="all there, all found"),
    ],
)
def test_iou_of_empty_and_full_masks(saliency: float, mask: bool, expected: float):
    figures = score(np.full((4, 4), saliency, np.float32), np.full((4, 4), mask)).raw
    assert figures.iou == expected


def test_only_the_raw_protocol_sees_a_dimmed_map():
    mask = np.zeros((32, 32), bool)
    mask[8:24, 8:24] = True
    sharp = score(mask.astype(np.float32), mask)
    dim = score((0.4 * mask).astype(np.float32), mask)
    assert dim.normalised.mae == sharp.normalised.mae == 0
    assert dim.raw.mae > 0.14
    assert dim.raw.iou == 0
    assert dim.normalised.iou == 1


def test_a_level_on_the_adaptive_threshold_counts():
    mask = np.zeros((3, 6), bool)
    mask[:, 3:] = True
    # Half of the pixels at one level: twice the mean is that level, for every level there is.
    for level in range(1, 256):
        saliency = np.where(mask, (level + 0.5) / 255.5, 0).astype(np.float32)
        assert score(saliency, mask).raw.f_adaptive == pytest.approx(1), level


def test_a_quadrant_of_one_level_has_no_variance():
    mask = np.zeros((9, 9), bool)
    mask[:3, :3] = True  # centre (1, 1): three of four quadrants hold no object
    for level in range(1, 255):
        saliency = np.full(mask.shape, (level + 0.5) / 255.5, np.float32)
        saliency[0, 0] = 1  # only the upper left quadrant varies
        view = (saliency * 255).astype(np.uint8) / 255
        assert score(saliency, mask).raw.s_measure == pytest.approx(
            exact_s_measure(view, mask), abs=1e-9
        )


@pytest.mark.parametrize(
    ("saliency", "mask", "message"),
    [
        pytest.param(
            np.zeros((4, 5), np.float32), np.zeros((5, 4), bool), "does not fit its mask", id="size"
        ),
        pytest.param(
            np.full((4, 4), np.nan, np.float32), np.zeros((4, 4), bool), "without NaN", id="NaN"
        ),
        pytest.param(
            np.where(np.eye(4) > 0, np.nan, 0.5).astype(np.float32),
            np.zeros((4, 4), bool),
            "without NaN",
            id="one NaN among numbers",
        ),
        pytest.param(
            np.full((4, 4), 3.5, np.float32), np.zeros((4, 4), bool), "sigmoid", id="logits"
        ),
        pytest.param(
            np.zeros((4, 4), np.float32), np.zeros((4, 4), np.uint8), "mask > 128", id="mask dtype"
        ),
        pytest.param(np.zeros((4, 4), np.uint8), np.zeros((4, 4), bool), "float", id="map dtype"),
        pytest.param(
            np.zeros((1, 1), np.float32), np.zeros((1, 1), bool), "two pixels", id="one pixel"
        ),
    ],
)
def test_what_cannot_be_scored_is_refused(saliency: Map, mask: Mask, message: str):
    with pytest.raises(FrameError, match=message):
        score(saliency, mask)


def test_an_empty_pool_is_refused():
    with pytest.raises(InputError, match="at least one image"):
        pool([])


def test_mean_absolute_difference():
    a = np.array([[0.0, 0.5], [1.0, 0.25]], np.float32)
    assert mean_absolute_difference(a, a) == 0
    assert mean_absolute_difference(a, 1 - a) == pytest.approx((1 + 0 + 1 + 0.5) / 4)
    with pytest.raises(FrameError, match="different size"):
        mean_absolute_difference(a, a[:1])
    with pytest.raises(FrameError, match="NaN"):
        mean_absolute_difference(a, np.full_like(a, np.nan))


def test_every_metric_has_a_direction_that_a_worse_map_shows():
    mask = np.zeros((32, 32), bool)
    mask[8:24, 8:24] = True
    good = score(np.clip(mask - 0.1, 0, 1).astype(np.float32), mask)
    rng = np.random.default_rng(0)
    bad = score(rng.random(mask.shape).astype(np.float32), mask)
    for metric in METRICS.values():
        assert metric.drop(good.raw, bad.raw) > 0, metric.name


def test_scores_become_plain_numbers():
    mask = np.eye(8, dtype=bool)
    one: ImageScores = score(mask.astype(np.float32), mask)
    as_dict = pool([one]).as_dict()
    assert as_dict["n"] == 1
    for protocol in PROTOCOLS:
        assert set(as_dict[protocol]) == set(METRICS)
        assert all(type(value) is float for value in as_dict[protocol].values())
