"""How sure a figure is: 95 % intervals by resampling what was measured, always in pairs.

Two variants see the same images and take turns under the same clocks.  So images, or rounds, are
drawn with replacement and both variants keep what they got on each: what is common to both cancels
(the percentile bootstrap; Efron and Tibshirani 1993, chapter 13).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

RESAMPLES = 2000
#: Fewer images or rounds than this tell nothing about their spread.
LEAST_SAMPLES = 2
_PERCENT = (2.5, 97.5)
_CHUNK = 250  # resamples at a time: with 5000 images their weights take 10 MB
_SEED = 0


@dataclass(frozen=True, slots=True)
class Interval:
    """A 95 % interval."""

    low: float
    high: float

    def holds(self, value: float) -> bool:
        """Whether a value lies in it, ends included."""
        return self.low <= value <= self.high


def mean_intervals(values: Array) -> list[Interval | None]:
    """Intervals of the mean of each column; None for all where there is one row.

    Args:
        values: (n, m) float64, a row an image.

    Example:
        >>> mean_intervals(np.zeros((3, 1)))
        [Interval(low=0.0, high=0.0)]
        >>> mean_intervals(np.zeros((1, 1)))
        [None]
    """
    if len(values) < LEAST_SAMPLES:
        return [None] * values.shape[1]
    means = np.concatenate([weights @ values for weights in _weights(len(values))])
    return [interval_of(means[:, column]) for column in range(values.shape[1])]


def peak_change_interval(before: Array, after: Array) -> Interval | None:
    """Interval of the change of a peak: of the maximum of a curve averaged over images.

    Args:
        before: (n, k) float64, a curve an image.
        after: The same of the other variant, in the same order.

    Returns:
        The interval of after less before; None where there is one image.
    """
    if len(before) < LEAST_SAMPLES:
        return None
    if np.array_equal(before, after):  # whatever a matrix product rounds, this is no change
        return Interval(0.0, 0.0)
    changes = [
        (weights @ after).max(axis=1) - (weights @ before).max(axis=1)
        for weights in _weights(len(before))
    ]
    return interval_of(np.concatenate(changes))


def paired_interval(
    samples: Sequence[Array], statistic: Callable[[Sequence[Array]], Array]
) -> Interval | None:
    """Interval of a figure that is made of several variants' rounds.

    Args:
        samples: (rounds, block) float64 of each variant.
        statistic: Given (resamples, rounds * block) of each variant: (resamples,) values.

    Returns:
        The interval; None where there is one round.
    """
    rounds = len(samples[0])
    if rounds < LEAST_SAMPLES:
        return None
    chosen = np.random.default_rng(_SEED).integers(0, rounds, (RESAMPLES, rounds))
    return interval_of(statistic([one[chosen].reshape(RESAMPLES, -1) for one in samples]))


def interval_of(values: Array) -> Interval:
    """The interval between the outer percentiles of resampled values."""
    low, high = np.percentile(values, _PERCENT)
    return Interval(float(low), float(high))


def _weights(n: int) -> Iterator[Array]:
    """Shares of ``n`` images in resamples, (some, n); the same at every call."""
    counts = _counts(n)
    for done in range(0, RESAMPLES, _CHUNK):
        yield counts[done : done + _CHUNK] / n


@lru_cache(maxsize=2)
def _counts(n: int) -> NDArray[np.uint8]:
    """How often each image was drawn, (RESAMPLES, n): asked for again for every figure."""
    rng = np.random.default_rng(_SEED)
    counts = np.empty((RESAMPLES, n), np.uint8)
    for row in counts:
        row[:] = np.bincount(rng.integers(0, n, n), minlength=n)
    return counts
