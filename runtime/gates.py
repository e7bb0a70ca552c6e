"""Gates: figures a comparison must meet, for CI and for the release of a bundle."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from edge_fusion.errors import GateError, InputError
from edge_fusion.metrics import METRICS, PROTOCOLS, worsening

from .comparison import Comparison

DIFFERENCE = "difference"  # mean absolute difference to the reference; needs no masks
GATED: tuple[str, ...] = (*METRICS, DIFFERENCE)
_ROUNDING = 1e-12


@dataclass(frozen=True, slots=True)
class Gates:
    """Limits by metric.

    Attributes:
        max_drop: By how much a variant may be worse than the reference, at most.
        require: What a variant must reach: at least where higher is better, else at most.
    """

    max_drop: dict[str, float] = field(default_factory=dict)
    require: dict[str, float] = field(default_factory=dict)


def parse_gates(max_drop: Sequence[str] = (), require: Sequence[str] = ()) -> Gates:
    """Read gates as they are written on a command line.

    Args:
        max_drop: ``METRIC=VALUE`` each, such as ``mae=0.002``.
        require: ``METRIC=VALUE`` each, such as ``iou=0.6``.

    Raises:
        InputError: Bad syntax, an unknown metric, a metric given twice, a negative drop.

    Example:
        >>> parse_gates(["mae=0.002"], ["iou=0.6"])
        Gates(max_drop={'mae': 0.002}, require={'iou': 0.6})
    """
    return Gates(_limits("--max-drop", max_drop), _limits("--require", require))


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


def check_gates(comparison: Comparison, gates: Gates) -> None:
    """Hold a comparison against gates.

    A gate on a metric must be met by every variant but the reference, and under both protocols:
    the customary one alone would let through a variant whose maps are all too dim.

    Raises:
        GateError: A gate is missed; the message names it, what was wanted and what was found.
        InputError: A gate needs masks and no pair has one.
    """
    misses = [*_drops(comparison, gates), *_shortfalls(comparison, gates)]
    if not misses:
        return
    what, expected, got = misses[0]
    further = [f"{what} ({got})" for what, _, got in misses[1:]]
    raise GateError(
        what, expected=expected, got=got, cure=f"also {'; '.join(further)}" if further else ""
    )


_Miss = tuple[str, str, str]
_Reading = tuple[str, float, float, bool]  # where, reference, variant, higher is better


def _drops(comparison: Comparison, gates: Gates) -> Iterator[_Miss]:
    for name, limit in gates.max_drop.items():
        for where, reference, value, higher in _readings(comparison, name):
            drop = worsening(reference, value, higher)
            if drop > limit + _ROUNDING:
                yield (
                    f"gate --max-drop {name}={limit:g} is missed by {where}",
                    f"a drop of at most {limit:g}",
                    f"{drop:.4g} ({reference:.4f} to {value:.4f})",
                )


def _shortfalls(comparison: Comparison, gates: Gates) -> Iterator[_Miss]:
    for name, limit in gates.require.items():
        for where, _, value, higher in _readings(comparison, name):
            if worsening(limit, value, higher) > _ROUNDING:
                yield (
                    f"gate --require {name}={limit:g} is missed by {where}",
                    f"at {'least' if higher else 'most'} {limit:g}",
                    f"{value:.4f}",
                )


def _readings(comparison: Comparison, name: str) -> Iterator[_Reading]:
    pooled = comparison.pooled
    for variant in comparison.candidates:
        if name == DIFFERENCE:
            yield variant, 0.0, pooled.differences[variant].mean_abs, False
            continue
        if not pooled.scores:
            raise InputError(
                f"gate on {name} cannot be judged: no pair has a mask",
                cure=f"use a set with masks, or gate on {DIFFERENCE}",
            )
        metric = METRICS[name]
        for protocol in PROTOCOLS:
            reference = getattr(pooled.scores[comparison.reference], protocol)
            figures = getattr(pooled.scores[variant], protocol)
            where = f"{variant} ({protocol} maps)"
            yield where, metric.of(reference), metric.of(figures), metric.higher_is_better
