"""Latency figures: what was measured, as percentiles in milliseconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class LatencySummary:
    """Percentiles of a set of durations, in milliseconds.

    Attributes:
        n: How many there are.
        mean_ms: Their mean.
        p50_ms: Their median.
        p90_ms: 90 % are at most this long.
        p99_ms: 99 % are.
        p999_ms: 99.9 % are; no more than the maximum says below some thousand of them.
        max_ms: The longest.
        jitter_ms: Mean absolute difference between one and the next, in the order they came.
    """

    n: int
    mean_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float
    jitter_ms: float

    @classmethod
    def from_ns(cls, durations_ns: Sequence[int]) -> LatencySummary:
        """Summarise durations in nanoseconds; all figures are 0 where there is none.

        Example:
            >>> LatencySummary.from_ns([1_000_000, 3_000_000]).mean_ms
            2.0
        """
        if not durations_ns:
            return cls(0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
        ms = np.asarray(durations_ns, np.float64) / 1e6
        p50, p90, p99, p999 = (float(value) for value in np.percentile(ms, (50, 90, 99, 99.9)))
        jitter = float(np.abs(np.diff(ms)).mean()) if len(ms) > 1 else 0.0
        return cls(len(ms), float(ms.mean()), p50, p90, p99, p999, float(ms.max()), jitter)

    def as_dict(self) -> dict[str, float]:
        """The figures by name, for JSON."""
        return asdict(self)
