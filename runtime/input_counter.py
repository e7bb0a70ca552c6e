"""What frames look like, as counts of a sparse sample, and the record a calibration set leaves."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_fusion.errors import CalibrationError, FrameError
from edge_fusion.frame import RgbdFrame, valid_depth
from edge_fusion.input_ranges import (
    FARTHEST_M,
    FINE,
    INPUTS,
    NEAREST_M,
    Counts,
    InputRange,
    InputRanges,
    coarse,
    divergence,
    range_of,
)
from edge_fusion.preprocess import normalise_depth
from edge_fusion.spec import ModelSpec

SIDE = 32  # of the grid of pixels that is looked at: a thousand of them
#: Places in ``INPUTS``.
COLOURS, DEPTH, DISTANCE, INVALID = 3, 3, 4, 5

_OCTAVES = np.log2(FARTHEST_M / NEAREST_M)


class InputCounter:
    """Counts what a frame looks like, a thousand pixels of it.

    Args:
        spec: The model's input record: how it takes depth.
    """

    def __init__(self, spec: ModelSpec) -> None:
        plain = {"mean": 0.0, "std": 1.0, "holes": "zero"}
        self._depth = spec.depth.model_copy(update=plain)
        self._first = np.arange(COLOURS, dtype=np.int64) * FINE

    def count(self, frame: RgbdFrame) -> Counts:
        """(6, 256) counts in the order of ``INPUTS``.

        The last row is special: its first two entries are pixels with a reading and without.
        """
        counts = np.zeros((len(INPUTS), FINE), np.int64)
        down, across = (max(1, size // SIDE) for size in frame.depth.shape)
        rgb = frame.rgb[down // 2 :: down, across // 2 :: across].reshape(-1, COLOURS)
        levels = np.bincount((rgb + self._first).ravel(), minlength=COLOURS * FINE)
        counts[:COLOURS] = levels.reshape(COLOURS, FINE)
        depth = np.ascontiguousarray(frame.depth[down // 2 :: down, across // 2 :: across])
        valid = valid_depth(depth, frame.depth_spec)
        readings = int(valid.sum())
        counts[INVALID, :2] = readings, valid.size - readings
        if readings:
            self._count_depth(frame, depth, valid, counts)
        return counts

    def _count_depth(
        self, frame: RgbdFrame, depth: NDArray[Any], valid: NDArray[np.bool_], counts: Counts
    ) -> None:
        scale = frame.depth_spec.scale_to_m
        if scale is not None:
            metres = depth[valid].astype(np.float32) * np.float32(scale / NEAREST_M)
            counts[DISTANCE] = _binned(np.log2(metres) / np.float32(_OCTAVES))
        try:
            given = normalise_depth(depth, frame.depth_spec, self._depth)
        except FrameError:  # of these pixels alone: the frame itself was usable
            return
        counts[DEPTH] = _binned(given[valid])


def _binned(unit: NDArray[np.float32]) -> Counts:
    places = np.clip(unit * np.float32(FINE), 0, FINE - 1).astype(np.int64)
    return np.bincount(places, minlength=FINE)


def ranges_of(frames: Iterable[RgbdFrame], spec: ModelSpec) -> InputRanges:
    """The record of a calibration set, in bounded memory.

    Args:
        frames: Its pairs, at least one.
        spec: The model's input record.

    Raises:
        CalibrationError: There is no pair.

    Example:
        >>> from edge_fusion.runtime.source.demo import DemoSource
        >>> found = ranges_of(DemoSource(frames=4), ModelSpec(name="mine"))
        >>> found.pairs, sorted(found.inputs)
        (4, ['blue', 'depth', 'distance', 'green', 'invalid', 'red'])
    """
    maker = RangesMaker(spec)
    for frame in frames:
        maker.add(frame)
    return maker.ranges()


class RangesMaker:
    """The record of a calibration set, pair by pair.

    Args:
        spec: The model's input record.
    """

    def __init__(self, spec: ModelSpec) -> None:
        self._counter = InputCounter(spec)
        self._total = np.zeros((len(INPUTS), FINE), np.int64)
        self._each: list[NDArray[np.float32]] = []
        self._holes: list[float] = []

    def add(self, frame: RgbdFrame) -> None:
        """Count one pair."""
        counts = self._counter.count(frame)
        self._total += counts
        self._each.append(foldable(counts).astype(np.float32))
        self._holes.append(float(counts[INVALID, 1] / counts[INVALID].sum()))

    def ranges(self) -> InputRanges:
        """The record of all pairs so far.

        Raises:
            CalibrationError: There is none.
        """
        if not self._each:
            raise CalibrationError("no pairs to take the ranges of inputs from")
        each = np.stack(self._each).astype(np.float64)
        found = {
            name: range_of(self._total[place], unit, _usual(each[:, place]))
            for place, (name, (unit, _)) in enumerate(INPUTS.items())
            if self._total[place].any() and place != INVALID
        }
        shares = self._total[INVALID, :2] / self._total[INVALID].sum()
        found["invalid"] = InputRange(
            low=0.0,
            high=round(max(self._holes), 4),
            median=round(float(np.median(self._holes)), 4),
            shares=tuple(np.round(shares, 6).tolist()),
            usual=round(_usual(each[:, INVALID]), 6),
        )
        return InputRanges(pairs=len(self._each), inputs=found)


def foldable(counts: Counts) -> NDArray[np.float64]:
    """(6, 32) counts; those of readings and holes stay two."""
    folded = coarse(counts)
    folded[INVALID] = 0
    folded[INVALID, :2] = counts[INVALID, :2]
    return folded


def _usual(each: NDArray[np.float64]) -> float:
    """The 95th percentile of how far one pair is from all the others; 0 for a single pair."""
    total = each.sum(axis=0)
    known = [one for one in each if one.any()]
    apart = [divergence(one, total - one) for one in known if (total - one).any()]
    return float(np.percentile(apart, 95)) if apart else 0.0
