"""How sure a figure is: 95 % intervals by resampling what was measured, always in pairs.

Two variants see the same images and take turns under the same clocks.  So images, or rounds, are
drawn with replacement and both variants keep what they got on each: what is common to both cancels
(the percentile bootstrap; Efron and Tibshirani 1993, chapter 13).  Of few images or rounds that
interval is too narrow, so its percentiles lie farther out the fewer there are (Hesterberg, "What
Teachers Should Know about the Bootstrap", 2015, expanded percentile interval).  Of very few no
resample lies as far out as chance may: there the resamples give the standard error, and Student's
t how many of them to either side (Efron and Tibshirani 1993, chapter 12).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

RESAMPLES = 2000
#: Fewer images than this tell nothing about their spread.
LEAST_SAMPLES = 2
#: Percentiles of fewer than this are no 95 % interval: one of two equal variants wins all of 5 in 1
#: case of 16, all of 6 in 1 of 32.
_FEW = 6
#: Fewer rounds than this claim no speed: times are not normal, as Student's t would have them.
LEAST_ROUNDS = _FEW
_OUTSIDE = 0.025  # at either end
_STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571)
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
    return [interval_of(means[:, column], len(values)) for column in range(values.shape[1])]


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
    return interval_of(np.concatenate(changes), len(before))


def paired_interval(
    samples: Sequence[Array], statistic: Callable[[Sequence[Array]], Array]
) -> Interval | None:
    """Interval of a figure that is made of several variants' rounds.

    Args:
        samples: (rounds, block) float64 of each variant.
        statistic: Given (resamples, rounds * block) of each variant: (resamples,) values.

    Returns:
        The interval; None where there are fewer than :data:`LEAST_ROUNDS`.
    """
    rounds = len(samples[0])
    if rounds < LEAST_ROUNDS:
        return None
    chosen = np.random.default_rng(_SEED).integers(0, rounds, (RESAMPLES, rounds))
    values = statistic([one[chosen].reshape(RESAMPLES, -1) for one in samples])
    return interval_of(values, rounds)


def interval_of(values: Array, samples: int) -> Interval:
    """The interval of a figure whose values in resamples are known.

    Between their outer percentiles; of very few images by their standard error.

    Args:
        values: A figure in every resample.
        samples: How many images or rounds were resampled; at least :data:`LEAST_SAMPLES`.
    """
    errors = _errors(samples)
    if samples < _FEW:
        centre, reach = float(values.mean()), errors * float(values.std())
        return Interval(centre - reach, centre + reach)
    outside = 100 * NormalDist().cdf(-errors)
    low, high = np.percentile(values, (outside, 100 - outside))
    return Interval(float(low), float(high))


def _errors(samples: int) -> float:
    """How many standard deviations of resamples an interval reaches to either side.

    Resamples spread as if divided by n, not n - 1, and a normal's ends are not Student's.
    """
    return sqrt(samples / (samples - 1)) * _student(samples - 1)


def _student(freedom: int) -> float:
    """The outer quantile of Student's t: tabled, from six degrees of freedom on by its expansion.

    (Abramowitz and Stegun 1964, 26.7.5.)
    """
    if freedom <= len(_STUDENT):
        return _STUDENT[freedom - 1]
    z = NormalDist().inv_cdf(1 - _OUTSIDE)
    terms = ((z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96)
    return z + sum(term / float(freedom) ** power for power, term in enumerate(terms, start=1))


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
