"""Gates: figures a comparison must meet, for CI and for the release of a bundle."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from edge_fusion.errors import GateError, InputError
from edge_fusion.metrics import METRICS, PROTOCOLS, worsening

from .comparison import Comparison
from .intervals import LEAST_ROUNDS
from .latency import BLOCK

DIFFERENCE = "difference"  # mean absolute difference to the reference; needs no masks
GATED: tuple[str, ...] = (*METRICS, DIFFERENCE)
EVERY = ""  # a gate on speed that names no variant holds for every one but the reference
_ROUNDING = 1e-12


@dataclass(frozen=True, slots=True)
class Gates:
    """Limits by metric, and of speed by variant.

    Attributes:
        max_drop: By how much a variant may be worse than the reference, at most.
        require: What a variant must reach: at least where higher is better, else at most.
        min_speedup: How many times as fast as the reference a variant must be, by label;
            :data:`EVERY` for all of them.
        speed_as_it_ran: Whether to judge the speed of INT8 also where no 8-bit arithmetic ran.
    """

    max_drop: dict[str, float] = field(default_factory=dict)
    require: dict[str, float] = field(default_factory=dict)
    min_speedup: dict[str, float] = field(default_factory=dict)
    speed_as_it_ran: bool = False


def parse_gates(
    max_drop: Sequence[str] = (),
    require: Sequence[str] = (),
    min_speedup: Sequence[str] = (),
    *,
    speed_as_it_ran: bool = False,
    labels: Sequence[str] = (),
) -> Gates:
    """Read gates as they are written on a command line.

    Args:
        max_drop: ``METRIC=VALUE`` each, such as ``mae=0.002``.
        require: ``METRIC=VALUE`` each, such as ``iou=0.6``.
        min_speedup: ``VALUE`` or ``LABEL=VALUE`` each, such as ``1.15``.
        speed_as_it_ran: As in :class:`Gates`.
        labels: What is compared, the reference first.

    Raises:
        InputError: Bad syntax, an unknown metric or label, one given twice, a negative value.

    Example:
        >>> parse_gates(["mae=0.002"], ["iou=0.6"]).require
        {'iou': 0.6}
        >>> parse_gates(min_speedup=["1.15"]).min_speedup
        {'': 1.15}
    """
    return Gates(
        _limits("--max-drop", max_drop),
        _limits("--require", require),
        _speed_limits(min_speedup, labels[1:]),
        speed_as_it_ran,
    )


def _speed_limits(texts: Sequence[str], candidates: Sequence[str]) -> dict[str, float]:
    limits: dict[str, float] = {}
    for text in texts:
        label, _, number = text.rpartition("=")
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if not 0 < value < math.inf:
            raise InputError(
                f"gate --min-speedup {text}",
                expected="VALUE or LABEL=VALUE with a value above 0",
                cure="for example --min-speedup 1.15",
            )
        if label != EVERY and candidates and label not in candidates:
            raise InputError(
                f"gate --min-speedup {text}", expected=" or ".join(candidates), got=repr(label)
            )
        if label in limits:
            raise InputError(f"gate --min-speedup {text} is given twice", cure="keep one of them")
        limits[label] = value
    return limits


def _limits(option: str, texts: Sequence[str]) -> dict[str, float]:
    limits: dict[str, float] = {}
    for text in texts:
        name, equals, number = text.partition("=")
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if not equals or not 0 <= value < math.inf:  # NaN fails too
            raise InputError(
                f"gate {option} {text}",
                expected="METRIC=VALUE with a value of 0 or more",
                cure=f"for example {option} {'mae=0.002' if option == '--max-drop' else 'iou=0.6'}",
            )
        if name not in GATED:
            raise InputError(f"gate {option} {text}", expected=" or ".join(GATED), got=repr(name))
        if name in limits:
            raise InputError(f"gate {option} {name} is given twice", cure="keep one of them")
        limits[name] = value
    return limits


def check_judgeable(gates: Gates, repeats: int) -> None:
    """Find out before the measuring that what is to be measured can meet the gates.

    Args:
        gates: What must hold.
        repeats: Timed runs of each variant.

    Raises:
        InputError: A gate on speed, and too few runs for an interval.
    """
    if gates.min_speedup and -(-repeats // BLOCK) < LEAST_ROUNDS:
        least = (LEAST_ROUNDS - 1) * BLOCK + 1
        raise InputError(
            f"gate --min-speedup {next(iter(gates.min_speedup.values())):g} cannot be judged",
            expected=f"{least} timed runs or more, enough for an interval",
            got=str(repeats),
            cure=f"measure more: --repeats {LEAST_ROUNDS * BLOCK}",
        )


def exceeds(drop: float, limit: float) -> bool:
    """Whether a drop is beyond its limit by more than sums of floating-point numbers err.

    Example:
        >>> exceeds(0.1 + 0.2, 0.3), exceeds(0.31, 0.3)
        (False, True)
    """
    return drop > limit + _ROUNDING


def check_gates(comparison: Comparison, gates: Gates) -> None:
    """Hold a comparison against gates.

    A gate on a metric must be met by every variant but the reference, and under both protocols:
    the customary one alone would let through a variant whose maps are all too dim.  A gate on speed
    is met if even the lower end of the 95 % interval reaches it.

    Raises:
        GateError: A gate is missed; the message names it, what was wanted and what was found.
        InputError: None is missed, but one cannot be judged: it needs masks and no pair has one,
            or speed and INT8 ran without 8-bit arithmetic.
    """
    misses = [
        *_drops(comparison, gates),
        *_shortfalls(comparison, gates),
        *_slow(comparison, gates),
    ]
    missed = [one for one in misses if isinstance(one, _Miss)]
    unjudged = [one for one in misses if isinstance(one, _Unjudged)]
    if missed:
        first, *others = missed
        further = [f"{one.what} ({one.got})" for one in others] + [one.what for one in unjudged]
        raise GateError(
            first.what,
            expected=first.expected,
            got=first.got,
            cure=f"also {'; '.join(further)}" if further else "",
        )
    if unjudged:
        raise InputError(unjudged[0].what, cure=unjudged[0].cure)


class _Miss(NamedTuple):
    """A gate that is not met."""

    what: str
    expected: str
    got: str


class _Unjudged(NamedTuple):
    """A gate that what was measured says nothing about."""

    what: str
    cure: str


_Found = _Miss | _Unjudged
_Reading = tuple[str, float, float, bool]  # where, reference, variant, higher is better


def _drops(comparison: Comparison, gates: Gates) -> Iterator[_Found]:
    for name, limit in gates.max_drop.items():
        for reading in _readings(comparison, name):
            if isinstance(reading, _Unjudged):
                yield reading
                continue
            where, reference, value, higher = reading
            drop = worsening(reference, value, higher)
            if exceeds(drop, limit):
                yield _Miss(
                    f"gate --max-drop {name}={limit:g} is missed by {where}",
                    f"a drop of at most {limit:g}",
                    f"{drop:.4g} ({reference:.4f} to {value:.4f})",
                )


def _shortfalls(comparison: Comparison, gates: Gates) -> Iterator[_Found]:
    for name, limit in gates.require.items():
        for reading in _readings(comparison, name):
            if isinstance(reading, _Unjudged):
                yield reading
                continue
            where, _, value, higher = reading
            if exceeds(worsening(limit, value, higher), 0):
                yield _Miss(
                    f"gate --require {name}={limit:g} is missed by {where}",
                    f"at {'least' if higher else 'most'} {limit:g}",
                    f"{value:.4f}",
                )


def _readings(comparison: Comparison, name: str) -> Iterator[_Reading | _Unjudged]:
    pooled = comparison.pooled
    if name != DIFFERENCE and not pooled.scores:
        yield _Unjudged(
            f"gate on {name} cannot be judged: no pair has a mask"
            + (" with an object" if pooled.empty_masks else ""),
            f"use a set with masks, or gate on {DIFFERENCE}",
        )
        return
    for variant in comparison.candidates:
        if name == DIFFERENCE:
            yield variant, 0.0, pooled.differences[variant].mean_abs, False
            continue
        metric = METRICS[name]
        for protocol in PROTOCOLS:
            reference = getattr(pooled.scores[comparison.reference], protocol)
            figures = getattr(pooled.scores[variant], protocol)
            where = f"{variant} ({protocol} maps)"
            yield where, metric.of(reference), metric.of(figures), metric.higher_is_better


def _slow(comparison: Comparison, gates: Gates) -> Iterator[_Found]:
    for label, limit in gates.min_speedup.items():
        for variant in comparison.candidates if label == EVERY else (label,):
            yield from _speed(comparison, variant, limit, gates.speed_as_it_ran)


def _speed(comparison: Comparison, variant: str, limit: float, as_it_ran: bool) -> Iterator[_Found]:
    gate = f"gate --min-speedup {limit:g}"
    latency = comparison.latency
    speedup = latency.speedups.get(variant) if latency is not None else None
    if speedup is None or speedup.low is None:
        why = "latency was left out" if speedup is None else "too few rounds for an interval"
        yield _Unjudged(f"{gate} cannot be judged for {variant}: {why}", "measure more runs")
        return
    literal = next(
        (v for v in (variant, comparison.reference) if comparison.speed_means_nothing(v)), None
    )
    if literal is not None and not as_it_ran:
        yield _Unjudged(
            f"{gate} cannot be judged for {variant}: {literal} is INT8 and ran without 8-bit "
            f"arithmetic ({comparison.about[literal].arithmetic.text}), so its time says nothing",
            "compare engines on the device (--backend trt), or ask for it with --speed-as-it-ran",
        )
    elif exceeds(limit, speedup.low):
        yield _Miss(
            f"{gate} is missed by {variant}",
            f"{limit:g} or more at the lower end of the 95 % interval",
            speedup.text,
        )
