from __future__ import annotations

import numpy as np
import pytest

from edge_fusion.runtime.intervals import (
    Interval,
    interval_of,
    mean_intervals,
    paired_interval,
    peak_change_interval,
)
from edge_fusion.runtime.latency import BLOCK, speedup_of


def test_a_mean_lies_in_its_interval_and_more_images_narrow_it():
    rng = np.random.default_rng(0)
    few, many = rng.normal(3, 1, (20, 1)), rng.normal(3, 1, (2000, 1))
    (wide,), (narrow,) = mean_intervals(few), mean_intervals(many)
    assert wide.holds(few.mean())
    # 1.96 standard errors either side
    assert narrow.high - narrow.low == pytest.approx(2 * 1.96 / np.sqrt(2000), rel=0.1)
    assert wide.high - wide.low > 5 * (narrow.high - narrow.low)


def test_one_image_has_no_interval():
    assert mean_intervals(np.ones((1, 3))) == [None] * 3
    assert peak_change_interval(np.ones((1, 4)), np.ones((1, 4))) is None


def test_no_change_is_exactly_none():
    curves = np.random.default_rng(1).random((7, 256))
    assert peak_change_interval(curves, curves.copy()) == Interval(0.0, 0.0)
    assert mean_intervals(np.zeros((7, 2))) == [Interval(0.0, 0.0)] * 2


def test_images_are_drawn_in_pairs():
    """Images differ far more from each other than the variants do on each of them."""
    rng = np.random.default_rng(2)
    before = np.repeat(rng.random((40, 1)), 8, axis=1)
    after = before - 0.01
    found = peak_change_interval(before, after)
    assert found.low == pytest.approx(-0.01)
    assert found.high == pytest.approx(-0.01)


def test_the_peak_is_that_of_the_averaged_curve():
    """Two images peak at different thresholds: the mean of the peaks would be 1."""
    before, after = np.eye(2), np.zeros((2, 2))
    found = peak_change_interval(before, after)
    # One image twice, or one of each: -1 or -0.5, as often.  One degree of freedom: t is 12.706.
    reach = 12.706 * np.sqrt(2) * 0.25
    assert (found.low, found.high) == pytest.approx((-0.75 - reach, -0.75 + reach), rel=0.05)


def test_an_interval_ends_at_the_outer_percentiles():
    found = interval_of(np.arange(1001.0), 10**6)
    assert (found.low, found.high) == pytest.approx((25, 975), abs=0.01)


@pytest.mark.parametrize(("samples", "wider"), [(6, 2.816 / 1.96), (20, 2.147 / 1.96)])
def test_few_samples_make_an_interval_as_wide_as_students(samples, wider):
    """t of n - 1 degrees of freedom, by tables, times the root of n / (n - 1)."""
    draws = np.random.default_rng(5).normal(0, 1, 400_000)
    found = interval_of(draws, samples)
    assert found.high == pytest.approx(1.96 * wider, rel=0.02)
    assert found.low == pytest.approx(-found.high, rel=0.02)


@pytest.mark.parametrize("images", [2, 3, 5, 9])
def test_means_of_few_images_lie_in_their_interval_19_times_in_20(images):
    rng = np.random.default_rng(6)
    (*found,) = mean_intervals(rng.normal(0, 1, (images, 400)))
    assert sum(one.holds(0) for one in found) >= 370


def test_five_rounds_claim_no_speed():
    """One of two equal variants wins all of them too often."""
    faster = np.full((5, BLOCK), 2.0)
    assert not speedup_of(2 * faster, faster).known
    assert paired_interval([np.ones((6, BLOCK))], lambda both: both[0][:, 0]) == Interval(1, 1)


@pytest.mark.parametrize("rounds", [6, 20])
def test_speeds_that_are_equal_are_called_so_nine_times_in_ten(rounds):
    """Common drift, a rare hiccup and noise of 5 %, as on a board that does other things, too."""
    rng = np.random.default_rng(3)
    held = 0
    for _ in range(60):
        drift = 10 * np.exp(np.cumsum(rng.normal(0, 0.02, (rounds, 1)), axis=0))
        both = [drift * rng.normal(1, 0.05, (rounds, BLOCK)) for _ in range(2)]
        for times in both:
            times[rng.random(times.shape) < 0.02] *= 4
        found = speedup_of(*both)
        held += found.low <= 1 <= found.high
    assert held >= 54


def test_a_real_speed_up_is_found():
    rng = np.random.default_rng(4)
    slow = 10 * rng.normal(1, 0.05, (20, BLOCK))
    found = speedup_of(slow, slow / 1.2)
    assert found.faster
    assert not found.slower
    assert (found.low, found.high) == pytest.approx((1.2, 1.2))


def test_too_few_rounds_say_so():
    found = speedup_of(np.full((1, BLOCK), 4.0), np.full((1, BLOCK), 2.0))
    assert (found.ratio, found.low, found.high, found.known) == (2, None, None, False)
    assert "too few rounds" in found.text
    assert not found.faster
