"""Leaving out what comes too fast, without losing pictures to a camera's jitter."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from edge_fusion.errors import OutputError

_SLACK = 0.25  # of an interval: what comes so much too early still counts as in time


class Pace:
    """Says of everything that comes whether its time has come.

    Args:
        rate_hz: How often the answer may be yes, per second.
        clock: Seconds from anywhere, never backwards.

    Raises:
        OutputError: The rate is not above 0.

    Example:
        >>> at = iter([0.0, 0.033, 0.066, 0.100, 0.133])
        >>> pace = Pace(15, clock=lambda: next(at))
        >>> [pace.due() for _ in range(5)]
        [True, False, True, False, True]
    """

    def __init__(self, rate_hz: float, clock: Callable[[], float] = time.monotonic) -> None:
        if not (math.isfinite(rate_hz) and rate_hz > 0):
            raise OutputError("results per second", expected="above 0", got=f"{rate_hz:g}")
        self._interval_s, self._clock = 1 / rate_hz, clock
        self._due_s = -math.inf

    def due(self) -> bool:
        """Whether what comes now is to be taken."""
        now_s = self._clock()
        if now_s < self._due_s:
            return False
        self._due_s = max(self._due_s, now_s - _SLACK * self._interval_s) + self._interval_s
        return True
