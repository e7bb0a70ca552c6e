"""The record of what a model was calibrated on, and how two histograms are held together."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from edge_fusion.input_ranges import (
    FINE,
    InputRange,
    InputRanges,
    clipped_share,
    divergence,
    position_of,
    range_of,
    value_of,
)


def test_the_divergence_is_symmetric_and_bounded() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        one, two = rng.random(32), rng.random(32) ** 4
        assert divergence(one, two) == pytest.approx(divergence(two, one), abs=1e-12)
        assert 0 < divergence(one, two) < 1


def test_the_divergence_is_the_mean_of_two_relative_entropies() -> None:
    one, two = np.array([0.7, 0.2, 0.1]), np.array([0.1, 0.4, 0.5])
    middle = (one + two) / 2
    expected = (one * np.log2(one / middle)).sum() / 2 + (two * np.log2(two / middle)).sum() / 2
    assert divergence(one, two) == pytest.approx(expected)


def test_limits_leave_a_thousandth_at_either_end() -> None:
    counts = np.zeros(FINE, np.int64)
    counts[10:20] = 10_000
    counts[0] = counts[255] = 5  # flying pixels
    found = range_of(counts, "share", usual=0.1)
    assert (found.low, found.high) == (pytest.approx(10 / FINE), pytest.approx(20 / FINE))
    assert found.median == pytest.approx(14.5 / FINE)
    assert sum(found.shares) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("unit", ["share", "m"])
def test_what_is_clipped_is_counted_to_the_bin(unit) -> None:
    calibrated = np.zeros(FINE, np.int64)
    calibrated[100:150] = 1
    known = range_of(calibrated, unit, usual=0.0)
    live = np.zeros(FINE, np.int64)
    live[[99, 100, 149, 150]] = 1, 3, 5, 1
    assert clipped_share(live, known, unit) == pytest.approx(0.2)


@pytest.mark.parametrize("unit", ["share", "m"])
def test_positions_and_values_are_inverse(unit) -> None:
    for place in (1, 77, 255):
        assert position_of(value_of(place, unit), unit) == pytest.approx(place)


def test_a_record_of_another_shape_is_refused() -> None:
    fields = {"low": 0.0, "high": 1.0, "median": 0.5, "usual": 0.1}
    with pytest.raises(ValidationError, match="3 shares"):
        InputRange(**fields, shares=(0.3, 0.3, 0.4))
    known = InputRange(**fields, shares=(0.5, 0.5))
    with pytest.raises(ValidationError, match="unknown input 'heat'"):
        InputRanges(pairs=1, inputs={"heat": known})
