"""The drawings of a set's report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edge_fusion.calibration_file import CalibrationFile, CoverageRecord, PairRecord
from edge_fusion.input_ranges import BINS, FARTHEST_M, NEAREST_M, InputRanges
from edge_fusion.runtime.plot_svg import INK, QUIET, draw_svg, label_axes, tone

from .choose import ONE_STEP

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = (("red", 1, "-"), ("green", 3, (0, (4, 2))), ("blue", 2, (0, (1, 1.6))))
_TICKS_M = (0.1, 0.3, 1, 3, 10, 30)


@dataclass(frozen=True, slots=True)
class Drawing:
    """One drawing: an ``<svg>`` element, its title, and what a reader should know of it."""

    title: str
    svg: str
    note: str = ""


def drawings(
    items: Sequence[PairRecord], ranges: InputRanges, record: CalibrationFile | None
) -> list[Drawing]:
    """Every drawing there is something to draw for.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    found = [_colours(ranges)]
    if "depth" in ranges.inputs:
        found.append(_nearness(ranges))
    if "distance" in ranges.inputs:
        found.append(_distance(ranges))
    found += [_exposure(items), _holes(items)]
    if record is not None and record.choice.coverage is not None:
        found.append(_coverage(record.choice.coverage))
    return found


def _colours(ranges: InputRanges) -> Drawing:
    edges = np.linspace(0, 1, BINS + 1)

    def draw(axes: Axes) -> None:
        for name, place, dash in _COLOURS:
            shares = np.asarray(ranges.inputs[name].shares)
            axes.stairs(shares, edges, color=tone(place), linewidth=1.6, linestyle=dash)
        axes.set_xlim(0, 1)
        axes.set_ylim(bottom=0)
        label_axes(axes, "level, 0 to 1", "share of pixels")

    note = "red solid, green dashed, blue dotted"
    return Drawing("Colour", draw_svg("colour", "histograms of red, green and blue", draw), note)


def _nearness(ranges: InputRanges) -> Drawing:
    edges = np.linspace(0, 1, BINS + 1)

    def draw(axes: Axes) -> None:
        shares = np.asarray(ranges.inputs["depth"].shares)
        axes.stairs(shares, edges, fill=True, color=tone(2), alpha=0.45)
        axes.set_xlim(0, 1)
        label_axes(axes, "nearness: 0 far, 1 near", "share of readings")

    drawn = draw_svg("nearness", "histogram of nearness", draw)
    return Drawing("Depth as a model takes it", drawn, "inverse depth between its percentiles")


def _distance(ranges: InputRanges) -> Drawing:
    known = ranges.inputs["distance"]
    edges = NEAREST_M * (FARTHEST_M / NEAREST_M) ** (np.arange(BINS + 1) / BINS)

    def draw(axes: Axes) -> None:
        axes.set_xscale("log")
        axes.stairs(np.asarray(known.shares), edges, fill=True, color=tone(3), alpha=0.45)
        top = max(known.shares)
        for edge in (known.low, known.high):
            axes.plot([edge, edge], [0, top], color=INK, linewidth=1.2)
        axes.set_xticks(_TICKS_M, [f"{tick:g}" for tick in _TICKS_M])
        axes.minorticks_off()
        axes.set_xlim(NEAREST_M, FARTHEST_M)
        label_axes(axes, "distance, m", "share of readings")

    drawn = draw_svg("distance", "histogram of distance", draw)
    return Drawing("Distance", drawn, "all but 0.2 % of the readings lie between the lines")


def _exposure(items: Sequence[PairRecord]) -> Drawing:
    def draw(axes: Axes) -> None:
        axes.plot(
            [float(np.mean(item.rgb.mean)) for item in items],
            [float(np.mean(item.rgb.std)) for item in items],
            linestyle="",
            marker="o",
            markersize=5,
            markeredgewidth=0,
            color=tone(1),
            alpha=0.65,
        )
        axes.set_xlim(0, 1)
        axes.set_ylim(bottom=0)
        label_axes(axes, "mean of a pair's colour, 0 to 1", "standard deviation")

    drawn = draw_svg("exposure", "brightness and contrast of every pair", draw)
    return Drawing("Brightness and contrast", drawn, "a point a pair")


def _holes(items: Sequence[PairRecord]) -> Drawing:
    def draw(axes: Axes) -> None:
        shares = [100 * item.depth.invalid for item in items]
        axes.plot(
            range(len(shares)), shares, color=tone(5), linewidth=1.4, marker="o", markersize=3
        )
        axes.set_ylim(bottom=0)
        label_axes(axes, "pair, in order", "% of depth")

    return Drawing("Depth without a reading", draw_svg("holes", "share of holes by pair", draw))


def _coverage(coverage: CoverageRecord) -> Drawing:
    counts = sorted(coverage.error)

    def draw(axes: Axes) -> None:
        errors = [100 * coverage.error[count] for count in counts]
        axes.plot(counts, errors, color=tone(4), linewidth=1.8, marker="o", markersize=5)
        ends = [counts[0], counts[-1]]
        axes.plot(ends, [100 * ONE_STEP] * 2, color=QUIET, linewidth=1, linestyle=(0, (4, 2)))
        axes.set_ylim(bottom=0)
        label_axes(axes, "pairs", "% error of ranges")

    enough = (
        f"{coverage.recommended} pairs are enough"
        if coverage.recommended
        else "no number of pairs comes below it"
    )
    note = (
        f"mean error of {coverage.tensors} ranges of {coverage.model} ({coverage.estimator}) "
        f"against those of all pairs; dashed: one step of 8 bits; {enough}"
    )
    drawn = draw_svg("coverage", "error of the ranges by number of pairs", draw)
    return Drawing("Coverage", drawn, note)
