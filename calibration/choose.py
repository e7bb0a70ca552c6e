"""Which pairs of many to calibrate on: at random, evenly in time, or by the ranges they give.

The third judges pairs by how far every quantized tensor reaches on them, an array that the caller
measures on the model.  What is then aimed at follows from how the quantizer makes a range of many
pairs.  NNCF's default averages each pair's extreme: a good choice has the same mean as all pairs,
and one that hunts for extremes, as k-center or facility location do, gives ranges that are too
wide.  ``minmax`` takes the extreme of all: then a good choice holds the pairs that reach farthest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from edge_fusion.calibration_file import CoverageRecord
from edge_fusion.errors import CalibrationError

Estimator = Literal["mean_minmax", "minmax"]
Values = NDArray[np.float64]

ESTIMATORS: tuple[str, ...] = get_args(Estimator)
#: Numbers of pairs at which a curve is recorded.
COUNTS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
#: The error of ranges that is worth no more pairs: one step of 8 bits.
ONE_STEP = 1 / 127
_NOTHING = 1e-12


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """Pairs as a model sees them.

    Attributes:
        values: (n, d) float: the largest absolute value of each of d tensors on each of n pairs.
        model: The model's name.
        model_sha256: Hash of its FP32 graph.
    """

    values: NDArray[np.floating]
    model: str
    model_sha256: str


def choose_random(lengths: Sequence[int], count: int, seed: int) -> list[tuple[int, int]]:
    """Choose ``count`` pairs uniformly from all sources together, without replacement.

    Returns:
        (source, index) in order; every pair where there are no more than ``count``.

    Example:
        >>> choose_random([2, 1], 10, seed=0)
        [(0, 0), (0, 1), (1, 0)]
    """
    everything = [(which, index) for which, n in enumerate(lengths) for index in range(n)]
    if count >= len(everything):
        return everything
    picked = np.random.default_rng(seed).choice(len(everything), size=count, replace=False)
    return [everything[position] for position in sorted(picked.tolist())]


def choose_uniform(times_ns: Sequence[int], count: int) -> list[int]:
    """Choose ``count`` pairs evenly in time; evenly by number where any pair has no time.

    Args:
        times_ns: Of every pair, in order; a time that goes back begins another recording, whose
            time counts on from the one before.
        count: How many.

    Returns:
        Indices in order, without repetition; all of them where there are no more than ``count``.

    Example:
        >>> choose_uniform([0, 0, 0, 0, 0], 3)
        [0, 2, 4]
        >>> choose_uniform([1, 2, 3, 4, 101], 2)
        [0, 4]
    """
    n = len(times_ns)
    if count >= n:
        return list(range(n))
    timed = all(times_ns[1:]) and n > 1  # the first of a recording may be at its zero
    steps = np.maximum(np.diff(np.asarray(times_ns, np.int64)), 0) if timed else np.ones(n - 1)
    places = np.concatenate(([0.0], np.cumsum(steps, dtype=np.float64)))
    wanted = np.linspace(0, places[-1], count) if count > 1 else places[-1:] / 2
    chosen: list[int] = []
    for position, want in enumerate(wanted):
        # Never one twice, and as many left as are still to be chosen.
        first = chosen[-1] + 1 if chosen else 0
        last = n - (count - position)
        nearest = int(np.abs(places[first : last + 1] - want).argmin())
        chosen.append(first + nearest)
    return chosen


def choose_coverage(
    measured: Measured, count: int | None, estimator: str = "mean_minmax"
) -> tuple[list[int], CoverageRecord]:
    """Choose the pairs whose ranges are closest to those that all pairs give.

    Pairs are taken one by one, each the best beside those that are taken: for the mean, herding
    (Welling, "Herding dynamical weights to learn", ICML 2009) of the tensors' reach in units of
    its mean; for extremes, the greedy maximum of a submodular cover (Nemhauser et al., 1978).

    Args:
        measured: What was measured of all pairs.
        count: How many; None takes the recommended number.
        estimator: How the quantizer makes a range of many pairs.

    Returns:
        Indices in order, and the record of how good the first so many are.

    Raises:
        CalibrationError: The estimator is none that a choice can be made for, or the figures are
            not finite.

    Example:
        >>> reach = np.array([[1.0], [3.0], [2.0], [9.0]])
        >>> chosen, record = choose_coverage(Measured(reach, "m", "0" * 64), 1, "minmax")
        >>> chosen, record.error[1]
        ([3], 0.0)
    """
    if estimator not in _GREEDY:
        raise CalibrationError(
            f"no choice of pairs for the estimator '{estimator}'",
            expected=" or ".join(_GREEDY),
            cure="choose for the nearer of the two, or with --choice uniform",
        )
    values = np.asarray(measured.values, np.float64)
    if values.ndim != 2 or not values.size or not np.isfinite(values).all():
        raise CalibrationError("what was measured of the pairs", expected="finite figures (n, d)")
    greedy, pooled = _GREEDY[estimator]
    longest = min(len(values), max(COUNTS[-1], count or 0))
    order = greedy(values / np.maximum(values.mean(axis=0), _NOTHING), longest)
    marks = sorted({n for n in COUNTS if n < longest} | {longest} | ({count} if count else set()))
    errors = {n: range_error(values, order[:n], pooled) for n in marks if n <= longest}
    recommended = _recommended(values, order, pooled)
    chosen = order[: count or recommended or longest]
    record = CoverageRecord(
        model=measured.model,
        model_sha256=measured.model_sha256,
        tensors=values.shape[1],
        estimator=estimator,
        error={n: round(error, 6) for n, error in errors.items()},
        recommended=recommended,
    )
    return sorted(chosen), record


_Pooled = Callable[[Values], Values]


def range_error(values: Values, chosen: Sequence[int], pooled: _Pooled) -> float:
    """Mean relative error of the ranges that some pairs give against those of all pairs."""
    of_all = pooled(values)
    apart = np.abs(pooled(values[list(chosen)]) - of_all)
    return float((apart / np.maximum(of_all, _NOTHING)).mean())


def mean_of(values: Values) -> Values:
    """Ranges as ``mean_minmax`` takes them: the mean of each pair's extreme."""
    mean: Values = values.mean(axis=0)
    return mean


def extreme_of(values: Values) -> Values:
    """Ranges as ``minmax`` takes them: the extreme of all pairs."""
    extreme: Values = values.max(axis=0)
    return extreme


def _recommended(values: Values, order: Sequence[int], pooled: _Pooled) -> int | None:
    """The smallest number from which on the error stays below one step."""
    below = None
    for n in range(len(order), 0, -1):
        if range_error(values, order[:n], pooled) > ONE_STEP:
            break
        below = n
    return below


def _match_mean(values: Values, count: int) -> list[int]:
    target = values.mean(axis=0)
    total = np.zeros(values.shape[1])
    free = np.ones(len(values), bool)
    order: list[int] = []
    for size in range(1, count + 1):
        apart = np.square((total + values) / size - target).sum(axis=1)
        order.append(int(np.where(free, apart, np.inf).argmin()))
        free[order[-1]] = False
        total += values[order[-1]]
    return order


def _cover_extremes(values: Values, count: int) -> list[int]:
    values = values / np.maximum(values.max(axis=0), _NOTHING)
    reached = np.zeros(values.shape[1])
    free = np.ones(len(values), bool)
    order: list[int] = []
    for _ in range(count):
        gain = np.maximum(values, reached).sum(axis=1)
        order.append(int(np.where(free, gain, -np.inf).argmax()))
        free[order[-1]] = False
        reached = np.maximum(reached, values[order[-1]])
    return order


_GREEDY: dict[str, tuple[Callable[[Values, int], list[int]], _Pooled]] = {
    "mean_minmax": (_match_mean, mean_of),
    "minmax": (_cover_extremes, extreme_of),
}
