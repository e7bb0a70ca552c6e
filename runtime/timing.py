"""Latency figures: what was measured, as percentiles in milliseconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class LatencySummary:
    """Percentiles of a set of durations, in milliseconds."""

    n: int
    mean_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float

    @classmethod
    def from_ns(cls, durations_ns: Sequence[int]) -> LatencySummary:
        """Summarise durations in nanoseconds; all figures are 0 where there is none.

        Example:
            >>> LatencySummary.from_ns([1_000_000, 3_000_000]).mean_ms
            2.0
        """
        if not durations_ns:
            return cls(0, 0.0, 0.0, 0.0, 0.0, 0.0)
        ms = np.asarray(durations_ns, np.float64) / 1e6
        p50, p90, p99 = (float(value) for value in np.percentile(ms, (50, 90, 99)))
        return cls(len(ms), float(ms.mean()), p50, p90, p99, float(ms.max()))

    def as_dict(self) -> dict[str, float]:
        """The figures by name, for JSON."""
        return asdict(self)
