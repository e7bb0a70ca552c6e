"""What values a model was calibrated on, as histograms small enough for a manifest.

The records, and the arithmetic that holds two of them against each other; numpy alone.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from edge_fusion.spec import Record

#: Bins that are recorded, and into how many each is divided while counting: percentiles and the
#: limits are read off the fine ones, 256 in all, which are exact for 8-bit colour.
BINS, FINE = 32, 256
NEAREST_M, FARTHEST_M = 2.0**-4, 2.0**6  # of the distances that are told apart, ten octaves

Unit = Literal["share", "m"]
Counts = NDArray[np.int64]

#: What is looked at, in order.  ``depth`` is what the model is given: nearness, unless its record
#: says otherwise.  ``distance`` is known of metric depth alone.
INPUTS: dict[str, tuple[Unit, str]] = {
    "red": ("share", "red"),
    "green": ("share", "green"),
    "blue": ("share", "blue"),
    "depth": ("share", "depth as the model takes it"),
    "distance": ("m", "distance"),
    "invalid": ("share", "depth without a reading"),
}

_LIMITS = (0.001, 0.999)  # of the values: a single flying pixel must not widen what was calibrated
_TINY = 1e-12


class InputRange(Record):
    """What one input looked like over a calibration set.

    Attributes:
        low: The 0.1th percentile: what lies below was practically never calibrated on.
        high: The 99.9th percentile.
        median: The median.
        shares: Shares of the values in 32 bins: equal steps of 0..1, or for metres equal ratios
            from 1/16 to 64.  For ``invalid``, whose values are shares of single frames, ``low``,
            ``high`` and ``median`` are over frames, and ``shares`` are those of pixels with a
            reading and without.
        usual: How far a single pair usually is from all the others: the 95th percentile of the
            Jensen-Shannon divergence, in 0..1.
    """

    low: float
    high: float
    median: float
    shares: tuple[float, ...]
    usual: Annotated[float, Field(ge=0, le=1)]

    @field_validator("shares")
    @classmethod
    def _has_every_bin(cls, shares: tuple[float, ...]) -> tuple[float, ...]:
        if len(shares) not in (2, BINS):
            raise ValueError(f"{len(shares)} shares, expected {BINS} (or 2, of invalid depth)")
        return shares


class InputRanges(Record):
    """What every input looked like over a calibration set.

    Attributes:
        pairs: Of how many pairs.
        inputs: By the names of :data:`INPUTS`; ``distance`` only where depth was metric.
    """

    pairs: Annotated[int, Field(ge=1)]
    inputs: dict[str, InputRange]

    @field_validator("inputs")
    @classmethod
    def _are_known(cls, inputs: dict[str, InputRange]) -> dict[str, InputRange]:
        for name in inputs:
            if name not in INPUTS:
                raise ValueError(f"unknown input '{name}'")
        return inputs


def divergence(one: NDArray[np.float64], two: NDArray[np.float64]) -> float:
    """The Jensen-Shannon divergence of two histograms, to base 2: 0 where equal, 1 where disjoint.

    Unlike the population stability index it is bounded and needs no made-up counts where a bin is
    empty (Lin, "Divergence measures based on the Shannon entropy", IEEE Trans. Inf. Theory 37(1),
    1991, equation 4.1).

    Args:
        one: Counts or shares; they are normalised.
        two: The same bins.

    Example:
        >>> divergence(np.array([1.0, 0]), np.array([0, 1.0]))
        1.0
        >>> divergence(np.array([2.0, 2]), np.array([1.0, 1]))
        0.0
    """
    first, second = one / max(one.sum(), _TINY), two / max(two.sum(), _TINY)
    middle = (first + second) / 2
    found = _entropy(middle) - (_entropy(first) + _entropy(second)) / 2
    return float(min(1.0, max(0.0, found)))


def _entropy(shares: NDArray[np.float64]) -> float:
    kept = shares[shares > 0]
    return float(-(kept * np.log2(kept)).sum())


def coarse(fine: NDArray[np.integer]) -> NDArray[np.float64]:
    """(..., 256) counts -> (..., 32)."""
    folded: NDArray[np.float64] = (
        fine.reshape(*fine.shape[:-1], BINS, FINE // BINS).sum(axis=-1).astype(np.float64)
    )
    return folded


def value_of(edge: float, unit: Unit) -> float:
    """The value at a position among the fine bins: 0 is the lower end, 256 the upper one.

    Example:
        >>> value_of(128, "share"), value_of(0, "m"), value_of(256, "m")
        (0.5, 0.0625, 64.0)
    """
    if unit == "share":
        return edge / FINE
    return float(NEAREST_M * (FARTHEST_M / NEAREST_M) ** (edge / FINE))


def position_of(value: float, unit: Unit) -> float:
    """The inverse of :func:`value_of`."""
    if unit == "share":
        return value * FINE
    return float(FINE * np.log2(value / NEAREST_M) / np.log2(FARTHEST_M / NEAREST_M))


def range_of(fine: Counts, unit: Unit, usual: float) -> InputRange:
    """The record of one input from the counts of its values in 256 bins."""
    rising = np.cumsum(fine) / fine.sum()
    first = int(np.searchsorted(rising, _LIMITS[0], side="right"))
    last = int(np.searchsorted(rising, _LIMITS[1], side="left"))
    middle = int(np.searchsorted(rising, 0.5))
    shares = coarse(fine) / fine.sum()
    return InputRange(
        low=_digits(value_of(first, unit)),
        high=_digits(value_of(last + 1, unit)),
        median=_digits(value_of(middle + 0.5, unit)),
        shares=tuple(_digits(share) for share in shares.tolist()),
        usual=_digits(usual),
    )


def clipped_share(fine: Counts, reference: InputRange, unit: Unit) -> float:
    """The share of counted values outside of what was calibrated on."""
    first = round(position_of(reference.low, unit))
    last = round(position_of(reference.high, unit))
    total = int(fine.sum())
    return 1 - int(fine[max(0, first) : last].sum()) / total if total else 0.0


def _digits(value: float) -> float:
    return float(f"{value:.6g}")
