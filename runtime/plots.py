"""What the drawings of a report show; :mod:`edge_fusion.runtime.plot_svg` says how they look.

No text that comes from data is drawn: variants are told by colour and marker, which the page's own
key explains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .plot_svg import INK, LINE, QUIET, draw_svg, label_axes, marker, tone

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = NDArray[np.float64]

_BINS = 40
_ROW = 62  # height of one variant's row, in a drawing's units
_LOGARITHMIC = 6  # times between the fastest and the slowest from which an axis is logarithmic
_PERCENTILES = ((50, "-"), (90, (0, (4, 2))), (99, (0, (1, 1.6))))
_MOST_POINTS = 300
_LEAST_SPAN = 0.002  # of a metric's axis: less is no difference, and needs ticks too long to show


@dataclass(frozen=True, slots=True)
class Point:
    """A variant between latency and accuracy.

    Attributes:
        ms: Median latency.
        ms_interval: 95 % interval, both ends; None where it is not known.
        value: The metric.
        value_interval: 95 % interval, both ends; None where it is not known.
    """

    ms: float
    ms_interval: tuple[float, float] | None
    value: float
    value_interval: tuple[float, float] | None


def tradeoff(name: str, title: str, metric: str, points: Sequence[Point]) -> str:
    """Accuracy against latency, a point a variant, with 95 % intervals.

    Args:
        name: Of the drawing.
        title: For those who cannot see it.
        metric: Name of the metric, and which direction is better.
        points: The reference first.
    """

    def draw(axes: Axes) -> None:
        for index, one in enumerate(points):
            axes.errorbar(
                one.ms,
                one.value,
                xerr=_sides(one.ms, one.ms_interval),
                yerr=_sides(one.value, one.value_interval),
                fmt=marker(index),
                color=tone(index),
                markersize=8.5,
                elinewidth=1.4,
                capsize=3,
            )
        _log_if_wide(axes, [one.ms for one in points])
        axes.margins(0.18)
        axes.autoscale_view()
        low, high = axes.get_ylim()
        spare = max(0.0, _LEAST_SPAN - (high - low)) / 2
        axes.set_ylim(low - spare, high + spare)
        label_axes(axes, "latency p50, ms", metric)

    return draw_svg(name, title, draw)


def _sides(value: float, interval: tuple[float, float] | None) -> list[list[float]] | None:
    if interval is None:
        return None
    return [[max(0.0, value - interval[0])], [max(0.0, interval[1] - value)]]


def curves(
    name: str,
    title: str,
    labels: tuple[str, str],
    lines: Sequence[tuple[Array, Array]],
    lowest: float | None = None,
) -> str:
    """Curves of all variants over one another: the reference broad and pale below the others.

    Args:
        name: Of the drawing.
        title: For those who cannot see it.
        labels: Of the axes, the horizontal one first.
        lines: (n,) float64 each: where and what, the reference first.
        lowest: Where the vertical axis begins; None shows everything.
    """

    def draw(axes: Axes) -> None:
        for index, (x, y) in enumerate(lines):
            first = index == 0
            axes.plot(
                x,
                y,
                color=tone(index),
                linewidth=5 if first else 1.6,
                alpha=0.4 if first else 1,
                marker=None if first else marker(index),
                markersize=5,
                markevery=(0.06 * index, 0.25),
                solid_capstyle="round",
            )
        if lowest is not None:
            highest = max(float(y.max()) for _, y in lines)
            axes.set_ylim(lowest, highest + 0.1 * (highest - lowest))
        label_axes(axes, *labels)

    return draw_svg(name, title, draw)


def latencies(title: str, samples_ms: Sequence[Sequence[float]]) -> tuple[str, int]:
    """Every variant's latencies, a row each, on one axis.

    Args:
        title: For those who cannot see it.
        samples_ms: By variant, the reference first.

    Returns:
        The drawing, and how many samples lie beyond its end, which is the largest p99.9.
    """
    rows = [np.asarray(one, np.float64) for one in samples_ms]
    end = max(float(np.percentile(one, 99.9)) for one in rows)
    start = min(float(one.min()) for one in rows)

    def draw(axes: Axes) -> None:
        wide = _log_if_wide(axes, [start, end])
        for index, one in enumerate(rows):
            floor = len(rows) - 1 - index
            _histogram(axes, one, floor, index, wide)
            for percent, dash in _PERCENTILES:
                at = float(np.percentile(one, percent))
                axes.plot([at, at], [floor, floor + 0.86], color=INK, linewidth=1.2, linestyle=dash)
        room = 0.03 * (end - start) or 0.05 * end or 1e-3
        axes.set_xlim(start / 1.08 if wide else max(0.0, start - room), end * 1.02 + room)
        axes.set_ylim(0, len(rows))
        axes.set_yticks(range(len(rows)), [""] * len(rows))
        label_axes(axes, "latency, ms", "")

    drawing = draw_svg("latencies", title, draw, height=46 + _ROW * len(rows), left=12, top=8)
    return drawing, int(sum((one > end).sum() for one in rows))


def _histogram(axes: Axes, ms: Array, floor: int, index: int, wide: bool) -> None:
    low, high = (float(value) for value in np.percentile(ms, (0, 99.9)))
    if high <= low:
        high = low + max(1e-3, 0.01 * low)
    edges = np.geomspace(low, high, _BINS + 1) if wide else np.linspace(low, high, _BINS + 1)
    counts, edges = np.histogram(ms, bins=edges)
    heights = floor + 0.82 * counts / max(int(counts.max()), 1)
    axes.stairs(heights, edges, baseline=floor, fill=True, color=tone(index), alpha=0.45)
    axes.stairs(heights, edges, baseline=floor, color=tone(index), linewidth=1.2)


def stages(title: str, parts_ms: Sequence[tuple[float, float, float]]) -> str:
    """Where a frame's time goes: preparing, inferring and finishing of each variant, in a row.

    Args:
        title: For those who cannot see it.
        parts_ms: By variant, the reference first.
    """

    def draw(axes: Axes) -> None:
        for index, parts in enumerate(parts_ms):
            row, begin = len(parts_ms) - 1 - index, 0.0
            for width, alpha in zip(parts, (0.4, 1.0, 0.6), strict=True):
                axes.barh(
                    row, width, left=begin, height=0.5, color=tone(index), alpha=alpha, linewidth=0
                )
                begin += width
            text = " + ".join(f"{part:.2f}" for part in parts)
            axes.text(0, row + 0.32, f"{text} = {begin:.2f}", color=INK, va="bottom", ha="left")
        axes.set_ylim(-0.5, len(parts_ms) - 0.2)
        axes.set_yticks([])
        axes.grid(visible=True, axis="x", color=LINE, linewidth=0.8)
        label_axes(axes, "median of a frame, ms", "")

    return draw_svg("stages", title, draw, height=46 + _ROW * len(parts_ms), left=12, top=8)


def pairs(title: str, errors: Sequence[Array]) -> tuple[str, int]:
    """The error of every pair, each candidate's over the reference's; on the line they are alike.

    Args:
        title: For those who cannot see it.
        errors: (n,) float64 of each variant, the reference first.

    Returns:
        The drawing, and how many pairs it shows: of many, an even choice by how they changed.
    """
    first = errors[0]
    change = errors[-1] - first
    chosen = np.argsort(change, kind="stable")
    if len(chosen) > _MOST_POINTS:
        chosen = chosen[np.linspace(0, len(chosen) - 1, _MOST_POINTS).round().astype(int)]
    end = max(float(one.max()) for one in errors) * 1.05 or 1.0

    def draw(axes: Axes) -> None:
        axes.plot([0, end], [0, end], color=QUIET, linewidth=1)
        for index, one in enumerate(errors[1:], start=1):
            axes.plot(
                first[chosen],
                one[chosen],
                linestyle="",
                marker=marker(index),
                markersize=5,
                markeredgewidth=0,
                color=tone(index),
                alpha=0.65,
            )
        axes.set_xlim(0, end)
        axes.set_ylim(0, end)
        label_axes(axes, "MAE of the reference", "MAE of the others, raw maps")

    return draw_svg("pairs", title, draw), len(chosen)


def layer_errors(title: str, series: Mapping[int, tuple[Array, Array]], most_db: float) -> str:
    """Signal to error of the layers along the network.

    Args:
        title: For those who cannot see it.
        series: Positions and decibels by place of the colour.
        most_db: What is more than this is drawn at this height.
    """

    def draw(axes: Axes) -> None:
        for index, (position, decibels) in series.items():
            axes.plot(
                position,
                np.minimum(decibels, most_db),
                color=tone(index),
                linewidth=0.6,
                marker=marker(index),
                markersize=3,
                markeredgewidth=0,
            )
        label_axes(axes, "layer, in the network's order", "signal to error, dB")

    return draw_svg("layers", title, draw)


def _log_if_wide(axes: Axes, values: Sequence[float]) -> bool:
    """Whether the horizontal axis became logarithmic, with plain numbers at its ticks."""
    low, high = min(values), max(values)
    if low <= 0 or high < _LOGARITHMIC * low:
        return False
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    return True
