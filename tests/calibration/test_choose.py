from __future__ import annotations

import numpy as np
import pytest

from edge_fusion.calibration.choose import (
    ONE_STEP,
    Measured,
    choose_coverage,
    choose_random,
    choose_uniform,
    extreme_of,
    mean_of,
    range_error,
)
from edge_fusion.errors import CalibrationError


def measured(n: int = 300, d: int = 60, seed: int = 0) -> Measured:
    """Tensors that go together, as those of a network do, with a few frames far out."""
    rng = np.random.default_rng(seed)
    scenes = rng.normal(size=(n, 6)) @ rng.normal(size=(6, d)) * 0.15
    noise = rng.normal(size=(n, d)) * 0.1
    values = np.exp(scenes + noise) * rng.uniform(1, 50, size=d)
    values[:: n // 5] *= 1.8
    return Measured(values.astype(np.float32), "m", "0" * 64)


@pytest.mark.parametrize("count", [8, 16, 32])
def test_few_chosen_pairs_give_the_mean_ranges_of_all(count: int) -> None:
    values = measured().values.astype(np.float64)
    chosen, record = choose_coverage(measured(), count)
    rng = np.random.default_rng(1)
    drawn = [
        range_error(values, rng.choice(len(values), 4 * count, replace=False).tolist(), mean_of)
        for _ in range(100)
    ]
    # No worse than the median of four times as many at random, and without their spread.
    assert record.error[count] <= float(np.median(drawn))
    assert record.error[count] == pytest.approx(range_error(values, chosen, mean_of), abs=1e-6)


def test_for_minmax_few_chosen_pairs_reach_as_far_as_all() -> None:
    values = measured().values.astype(np.float64)
    chosen, record = choose_coverage(measured(), 16, "minmax")
    rng = np.random.default_rng(1)
    drawn = [
        range_error(values, rng.choice(len(values), 64, replace=False).tolist(), extreme_of)
        for _ in range(100)
    ]
    assert range_error(values, chosen, extreme_of) < float(np.min(drawn))
    assert record.estimator == "minmax"


def test_hunting_for_extremes_widens_the_mean() -> None:
    values = measured().values.astype(np.float64)
    for_mean, _ = choose_coverage(measured(), 16, "mean_minmax")
    for_extremes, _ = choose_coverage(measured(), 16, "minmax")
    assert range_error(values, for_mean, mean_of) < range_error(values, for_extremes, mean_of) / 2


def test_the_recommended_number_is_the_first_that_stays_below_one_step() -> None:
    values = measured().values.astype(np.float64)
    chosen, record = choose_coverage(measured(), None)
    assert record.recommended == len(chosen)
    assert range_error(values, chosen, mean_of) <= ONE_STEP
    _, fewer = choose_coverage(measured(), record.recommended - 1)
    assert fewer.error[record.recommended - 1] > ONE_STEP
    assert fewer.recommended == record.recommended


def test_the_choice_by_coverage_repeats_and_ends_at_all() -> None:
    first, second = (choose_coverage(measured(40), 12) for _ in range(2))
    assert first == second
    assert len(set(first[0])) == 12
    everything, record = choose_coverage(measured(5), 5)
    assert everything == [0, 1, 2, 3, 4]
    assert record.error[5] == 0


def test_tensors_that_never_reach_anything_do_no_harm() -> None:
    values = np.zeros((6, 3))
    values[:, 0] = range(1, 7)
    chosen, record = choose_coverage(Measured(values, "m", "0" * 64), 2)
    assert len(chosen) == 2
    assert np.isfinite(list(record.error.values())).all()


@pytest.mark.parametrize("values", [np.zeros((0, 3)), np.full((2, 2), np.nan), np.zeros(4)])
def test_figures_that_are_none_are_refused(values: np.ndarray) -> None:
    with pytest.raises(CalibrationError, match=r"expected finite figures \(n, d\)"):
        choose_coverage(Measured(values, "m", "0" * 64), 1)


def test_an_estimator_without_a_choice_is_refused() -> None:
    with pytest.raises(CalibrationError, match=r"'histogram': expected mean_minmax or minmax"):
        choose_coverage(measured(), 4, "histogram")


@pytest.mark.parametrize(
    ("times", "count", "expected"),
    [
        ([0] * 9, 3, [0, 4, 8]),  # no times: by number
        ([1, 2, 3, 4, 5, 6, 7, 8, 100], 3, [0, 7, 8]),  # a camera that paused: by time
        ([5, 6, 7, 1, 2, 3], 3, [0, 2, 5]),  # two recordings with clocks of their own
        ([1, 1, 1, 1], 3, [0, 1, 3]),  # the same time throughout: never one twice
        ([7, 8], 5, [0, 1]),  # fewer than wanted
        ([1, 2, 3], 1, [1]),  # one: from the middle
    ],
)
def test_choose_uniform(times: list[int], count: int, expected: list[int]) -> None:
    chosen = choose_uniform(times, count)
    assert len(set(chosen)) == len(chosen) == min(count, len(times))
    assert chosen == sorted(chosen)
    if len(set(times)) > 1 or not any(times):
        assert chosen == expected


@pytest.mark.parametrize(
    ("lengths", "count", "size"), [([10, 30], 8, 8), ([3], 3, 3), ([2, 2], 9, 4)]
)
def test_choose_random(lengths: list[int], count: int, size: int) -> None:
    chosen = choose_random(lengths, count, seed=1)
    assert len(chosen) == len(set(chosen)) == size
    assert chosen == sorted(chosen)
    assert all(index < lengths[which] for which, index in chosen)
