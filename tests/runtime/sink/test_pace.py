from __future__ import annotations

import numpy as np
import pytest

from edge_fusion.errors import OutputError
from edge_fusion.runtime.sink.pace import Pace


def taken(rate_hz: float, times: list[float]) -> int:
    clock = iter(times)
    pace = Pace(rate_hz, clock=lambda: next(clock))
    return sum(pace.due() for _ in times)


RATES = [
    (15, 30, 300, 150),  # every second one
    (30, 30, 300, 300),  # as fast as they come: all of them
    (15, 20, 300, 200),  # two of three, not one of two
    (15, 5, 50, 50),  # slower than allowed
    (10, 1000, 1000, 10),
]


@pytest.mark.parametrize(("rate_hz", "fps", "frames", "expected"), RATES)
def test_the_rate_is_kept(rate_hz: float, fps: float, frames: int, expected: int) -> None:
    assert abs(taken(rate_hz, [n / fps for n in range(frames)]) - expected) <= 0.02 * frames


def test_jitter_costs_no_picture() -> None:
    jitter = np.random.default_rng(0).uniform(-0.007, 0.007, 300)
    times = [n / 30 + late for n, late in enumerate(jitter.tolist())]
    assert 145 <= taken(15, times) <= 155


def test_a_pause_is_not_made_up_for() -> None:
    assert taken(10, [0.0, *(5 + n / 1000 for n in range(50))]) == 2


@pytest.mark.parametrize("rate_hz", [0.0, -1.0, float("nan"), float("inf")])
def test_a_rate_must_be_above_zero(rate_hz: float) -> None:
    with pytest.raises(OutputError, match="expected above 0"):
        Pace(rate_hz)
