from __future__ import annotations

import warnings
from itertools import islice

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_fusion.contour_measures import contour_of, outline
from edge_fusion.metrics import CURVES, METRICS, pool, score
from tests.edge_fusion.test_metrics import as_the_oracle_sees_it, blob, cases, maps

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the oracle's own imports and its deprecated class
    py_sod_metrics = pytest.importorskip("py_sod_metrics", reason="the oracle of the metrics")

Mask = NDArray[np.bool_]


def disc(size: tuple[int, int], centre: tuple[int, int], radius: float) -> Mask:
    y, x = np.ogrid[: size[0], : size[1]]
    return (y - centre[0]) ** 2 + (x - centre[1]) ** 2 <= radius**2


def test_weighted_f_equals_the_oracle_on_many_cases():
    """Empty, full, sparse and tiny masks of every size are among them, and ties of distance."""
    oracle = py_sod_metrics.WeightedFmeasure()
    compared = 0
    for name, saliency, mask in islice(cases(), 0, None, 2):
        got = score(saliency, mask)
        for protocol, view in as_the_oracle_sees_it(saliency, mask).items():
            expected = oracle.cal_wfm(view, mask) if mask.any() else 0.0
            assert getattr(got, protocol).f_weighted == pytest.approx(expected, abs=1e-9), name
            compared += 1
    assert compared > 1000


def test_weighted_f_equals_the_oracles_public_result_and_pools_alike():
    rng = np.random.default_rng(3)
    meter, scores = py_sod_metrics.WeightedFmeasure(), []
    for _ in range(8):
        mask = blob(rng, (70, 90))
        saliency = np.clip(0.7 * mask + 0.3 * rng.random(mask.shape), 0, 1).astype(np.float32)
        meter.step((saliency * 255).astype(np.uint8), mask.astype(np.uint8) * 255)
        scores.append(score(saliency, mask))
    assert pool(scores).normalised.f_weighted == pytest.approx(meter.get_results()["wfm"], abs=1e-9)


def test_precision_and_recall_at_every_threshold_equal_the_oracle():
    handlers = {
        "precision": py_sod_metrics.PrecisionHandler(with_dynamic=True, with_adaptive=False),
        "recall": py_sod_metrics.RecallHandler(with_dynamic=True, with_adaptive=False),
    }
    meter = py_sod_metrics.FmeasureV2(metric_handlers=handlers)
    rng = np.random.default_rng(5)
    scores = []
    for _ in range(6):
        mask = blob(rng, (40, 50))
        for _, saliency in maps(rng, mask):
            meter.step((saliency * 255).astype(np.uint8), mask.astype(np.uint8) * 255)
            scores.append(score(saliency, mask))
    pooled, expected = pool(scores).normalised, meter.get_results()
    np.testing.assert_allclose(pooled.precision_curve, expected["precision"]["dynamic"], atol=1e-9)
    np.testing.assert_allclose(pooled.recall_curve, expected["recall"]["dynamic"], atol=1e-9)


def boundary_f_by_hand(found: Mask, truth: Mask, reach: int) -> float:
    """The definition, pixel by pixel."""
    ours, theirs = (np.argwhere(outline(shape)) for shape in (found, truth))
    apart = np.sqrt(((ours[:, None] - theirs[None]) ** 2).sum(axis=2))
    precision, recall = (apart.min(axis=1) <= reach).mean(), (apart.min(axis=0) <= reach).mean()
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


@pytest.mark.parametrize("seed", range(6))
def test_boundary_f_follows_its_definition(seed):
    rng = np.random.default_rng(seed)
    truth = disc((60, 80), (28, 40), 17)
    found = disc((60, 80), tuple(rng.integers(24, 36, 2)), rng.uniform(8, 22))
    found |= rng.random(found.shape) < 0.002
    # 0.8 % of a diagonal of 100 pixels, rounded up
    expected = boundary_f_by_hand(found, truth, 1)
    assert contour_of(truth).boundary_f(found) == pytest.approx(expected, abs=1e-12)


def test_an_outline_a_pixel_off_is_within_the_tolerance_and_ten_are_not():
    truth = disc((60, 80), (30, 40), 15)
    contour = contour_of(truth)
    assert contour.boundary_f(truth) == 1
    assert contour.boundary_f(np.roll(truth, 1, axis=1)) == 1
    assert contour.boundary_f(disc((60, 80), (30, 40), 5)) == 0


def test_the_images_own_edge_is_no_outline():
    half = np.zeros((20, 30), bool)
    half[:, :15] = True
    expected = np.zeros_like(half)
    expected[:, 14] = True
    np.testing.assert_array_equal(outline(half), expected)


@pytest.mark.parametrize(
    ("found", "truth", "expected"),
    [
        pytest.param(False, False, 1.0, id="nothing there, nothing found"),
        pytest.param(True, True, 1.0, id="all there, all found"),
        pytest.param(True, False, 0.0, id="nothing there, all found"),
    ],
)
def test_shapes_without_an_outline(found, truth, expected):
    size = (8, 9)
    assert contour_of(np.full(size, truth)).boundary_f(np.full(size, found)) == expected


def test_boundary_f_is_that_of_the_map_cut_at_half():
    truth = disc((40, 40), (20, 20), 10)
    saliency = np.where(truth, 0.6, 0.1).astype(np.float32)
    figures = score(saliency, truth)
    assert figures.raw.f_boundary == figures.normalised.f_boundary == 1
    dim = score(0.5 * saliency, truth)
    assert (dim.raw.f_boundary, dim.normalised.f_boundary) == (0, 1)


def test_a_contour_made_once_gives_the_same_scores():
    rng = np.random.default_rng(9)
    mask = blob(rng, (30, 40))
    contour = contour_of(mask)
    for _, saliency in maps(rng, mask):
        alone, shared = score(saliency, mask), score(saliency, mask, contour)
        assert alone.as_dict() == shared.as_dict()


def test_curves_are_named_and_whole():
    one = score(np.eye(6, dtype=np.float32), np.eye(6, dtype=bool)).raw
    assert set(one.curves()) == set(CURVES)
    assert all(len(values) == 256 for values in one.curves().values())
    assert {metric.curve for metric in METRICS.values()} == {"", "f_curve", "e_curve"}
