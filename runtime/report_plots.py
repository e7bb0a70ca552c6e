"""The drawings of a page, made from a comparison."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_fusion.metrics import METRICS, PROTOCOLS

from . import plots
from .comparison import Comparison, shown

_THRESHOLDS = np.arange(255, -1, -1) / 255
_OUTER = 13  # of 256 thresholds at either end
_PLANES = (("mae", "raw"), ("f_max", "normalised"))


@dataclass(frozen=True, slots=True)
class Plot:
    """A drawing with its words.

    Attributes:
        title: Above it.
        svg: The drawing.
        note: Below it.
    """

    title: str
    svg: str
    note: str = ""


def latency_plots(comparison: Comparison) -> list[Plot]:
    """Distributions of latency, and where a frame's time goes; none without latency.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    latency = comparison.latency
    if latency is None:
        return []
    names = ", ".join(shown(variant) for variant in comparison.variants)
    samples = [latency.samples_ms[variant] for variant in comparison.variants]
    drawing, beyond = plots.latencies(f"Latency distributions of {names}, from the top", samples)
    runs = "run lies" if beyond == 1 else "runs lie"
    left_out = f" {beyond} {runs} beyond the end, the largest p99.9." if beyond else ""
    note = f"From the top: {names}. Lines: p50 solid, p90 dashed, p99 dotted.{left_out}"
    found = [Plot("Latency of inference", drawing, note)]
    if not set(comparison.variants) - set(latency.stages):
        stages = [latency.stages[variant] for variant in comparison.variants]
        parts = [(one.prepare_ms, one.infer_ms, one.finish_ms) for one in stages]
        drawing = plots.stages(f"Parts of a frame's time of {names}, from the top", parts)
        note = f"From the top: {names}. Each from left to right: prepare, infer, finish."
        found.append(Plot("Where a frame's time goes", drawing, note))
    return found


def tradeoff_plots(comparison: Comparison) -> list[Plot]:
    """Accuracy against latency; none without masks or latency.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    if comparison.latency is None or not comparison.pooled.scores:
        return []
    return [_tradeoff(comparison, name, protocol) for name, protocol in _PLANES]


def _tradeoff(comparison: Comparison, name: str, protocol: str) -> Plot:
    metric = METRICS[name]
    better = "higher is better" if metric.higher_is_better else "lower is better"
    points = list(_points(comparison, name, protocol))
    return Plot(
        f"{metric.label} of {protocol} maps against latency",
        plots.tradeoff(
            f"tradeoff-{name}",
            f"{metric.label} of {protocol} maps and median latency of each variant",
            f"{metric.label}, {better}",
            points,
        ),
        "Bars: 95 % intervals of the change from the reference.",
    )


def _points(comparison: Comparison, name: str, protocol: str) -> Iterator[plots.Point]:
    latency, pooled = comparison.latency, comparison.pooled
    if latency is None:
        return
    summaries = latency.summaries
    first_ms = summaries[comparison.reference].p50_ms
    for variant in comparison.variants:
        value = METRICS[name].of(getattr(pooled.scores[variant], protocol))
        ms_interval = value_interval = None
        changes = pooled.changes.get(variant)
        if changes and (interval := changes[protocol][name].interval) is not None:
            before = value - changes[protocol][name].value
            value_interval = (before + interval.low, before + interval.high)
        one = latency.speedups.get(variant)
        if one is not None and one.low is not None and one.high is not None:
            ms_interval = (first_ms / one.high, first_ms / one.low)
        yield plots.Point(summaries[variant].p50_ms, ms_interval, value, value_interval)


def curve_plots(comparison: Comparison) -> list[Plot]:
    """F over thresholds, and precision over recall, under each protocol; none without masks.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    scores = comparison.pooled.scores
    found = []
    for protocol in PROTOCOLS if scores else ():
        figures = [getattr(scores[variant], protocol) for variant in comparison.variants]
        lowest = _lowest([one.f_curve for one in figures])
        found.append(
            Plot(
                f"F over threshold, {protocol} maps",
                plots.curves(
                    f"f-{protocol}",
                    f"F-measure of {protocol} maps at every threshold, a curve a variant",
                    ("threshold", "F-measure"),
                    [(_THRESHOLDS, one.f_curve) for one in figures],
                    lowest,
                ),
                "Cut off below, where all curves fall steeply." if lowest else "",
            )
        )
        found.append(
            Plot(
                f"Precision over recall, {protocol} maps",
                plots.curves(
                    f"pr-{protocol}",
                    f"Precision of {protocol} maps over recall, a curve a variant",
                    ("recall", "precision"),
                    [(one.recall_curve, one.precision_curve) for one in figures],
                ),
            )
        )
    return found


def _lowest(curves: Sequence[NDArray[np.float64]]) -> float | None:
    """Where to cut F-curves off below: near what they reach at all but the outer thresholds."""
    inner = np.concatenate([curve[_OUTER:-_OUTER] for curve in curves])
    low, high = float(inner.min()), float(inner.max())
    cut = low - max(0.25 * (high - low), 0.01)
    return cut if cut > min(float(curve.min()) for curve in curves) + 0.05 else None


def pair_plots(comparison: Comparison) -> list[Plot]:
    """The error of every pair with a mask, the candidates' over the reference's.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    scored = [image for image in comparison.images if image.scores]
    if len(scored) < 2:
        return []
    errors = [
        np.array([image.scores[variant].raw.mae for image in scored])
        for variant in comparison.variants
    ]
    drawing, count = plots.pairs("MAE of every pair, each variant's over the reference's", errors)
    reference = shown(comparison.reference)
    few = "" if count == len(scored) else f" {count} of {len(scored)} pairs are drawn."
    note = f"On the line a pair is as good as with {reference}; above it, worse.{few}"
    return [Plot(f"Error of every pair, against {reference}", drawing, note)]
