"""How far what a camera delivers has left what a model was calibrated on.

INT8 ranges are fixed when a bundle is built.  Values beyond them are clipped, and a scene whose
values lie elsewhere is computed with ranges that were made for another.  So a sparse sample of
every frame is counted into histograms, and the newest frames together are held against those of the
calibration set.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_fusion.bundle import Bundle
from edge_fusion.errors import BundleError, CalibrationError, FrameError, InputError
from edge_fusion.frame import RgbdFrame, valid_depth
from edge_fusion.input_ranges import (
    FARTHEST_M,
    FINE,
    INPUTS,
    NEAREST_M,
    Counts,
    InputRange,
    InputRanges,
    clipped_share,
    coarse,
    divergence,
    range_of,
    value_of,
)
from edge_fusion.preprocess import normalise_depth
from edge_fusion.spec import ModelSpec

from .ledger import FrameRecord

SIDE = 32  # of the grid of pixels that is looked at: a thousand of them
WINDOW = 30  # counted frames that are judged together: three seconds of a camera
EVERY = 10  # counted frames from one judgement to the next
FEWEST = 10  # counted frames that can be judged
THIRD = 3  # of the frames of a stream every third is counted: 0.1 ms a frame instead of 0.3
#: Where neither the user nor the calibration set says how far is too far; a single room seen by
#: one camera is within 0.1 of itself, other rooms are 0.2 to 0.6 away.
LEAST_THRESHOLD = 0.15
MOST_CLIPPED = 0.05
CURE = "calibrate again with frames such as these: edge-fusion calib create SOURCE -o SET"

_MORE_HOLES = 0.05  # of a frame, beyond the emptiest of the set: that is but one of a few dozen
_NAMES = tuple(INPUTS)
_COLOURS, _DEPTH, _DISTANCE, _INVALID = 3, 3, 4, 5  # places in INPUTS
_OCTAVES = np.log2(FARTHEST_M / NEAREST_M)


@dataclass(frozen=True, slots=True)
class InputDrift:
    """One input of recent frames against the calibration set.

    Attributes:
        input: Its name.
        shift: Jensen-Shannon divergence of the two histograms, 0 to 1.
        threshold: What ``shift`` may be.
        clipped: Share of the values outside of what was calibrated on; of ``invalid``, share of the
            frames with clearly more holes than any frame of the set had.
        median: Of the recent frames.
        calibrated: That of the set.
    """

    input: str
    shift: float
    threshold: float
    clipped: float
    median: float
    calibrated: float

    @property
    def exceeded(self) -> bool:
        """Whether it is too far from what was calibrated on."""
        return self.shift > self.threshold or self.clipped > MOST_CLIPPED

    @property
    def excess(self) -> float:
        """How much too far: above 1 where it is."""
        return max(self.shift / self.threshold, self.clipped / MOST_CLIPPED)

    def __str__(self) -> str:
        """In a few words."""
        beyond = "of frames have more holes" if self.input == "invalid" else "outside"
        return f"{INPUTS[self.input][1]}: {self.clipped:.0%} {beyond}, shift {self.shift:.2f}"


@dataclass(frozen=True, slots=True)
class Drift:
    """Every input of some frames against the calibration set.

    Attributes:
        frames: Over how many frames that were looked at.
        inputs: In the order of :data:`~edge_fusion.input_ranges.INPUTS`.
    """

    frames: int
    inputs: tuple[InputDrift, ...]

    @property
    def exceeded(self) -> bool:
        """Whether any input is too far from what was calibrated on."""
        return any(one.exceeded for one in self.inputs)

    @property
    def worst(self) -> InputDrift:
        """The input that is farthest, by what it may be."""
        return max(self.inputs, key=lambda one: one.excess)

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        inputs = {
            one.input: {k: v for k, v in asdict(one).items() if k != "input"}
            | {"exceeded": one.exceeded}
            for one in self.inputs
        }
        return {"frames": self.frames, "exceeded": self.exceeded, "inputs": inputs}


class InputCounter:
    """Counts what a frame looks like, a thousand pixels of it.

    Args:
        spec: The model's input record: how it takes depth.
    """

    def __init__(self, spec: ModelSpec) -> None:
        plain = {"mean": 0.0, "std": 1.0, "holes": "zero"}
        self._depth = spec.depth.model_copy(update=plain)
        self._first = np.arange(_COLOURS, dtype=np.int64) * FINE

    def count(self, frame: RgbdFrame) -> Counts:
        """(6, 256) counts in the order of ``INPUTS``.

        The last row is special: its first two entries are pixels with a reading and without.
        """
        counts = np.zeros((len(_NAMES), FINE), np.int64)
        down, across = (max(1, size // SIDE) for size in frame.depth.shape)
        rgb = frame.rgb[down // 2 :: down, across // 2 :: across].reshape(-1, _COLOURS)
        levels = np.bincount((rgb + self._first).ravel(), minlength=_COLOURS * FINE)
        counts[:_COLOURS] = levels.reshape(_COLOURS, FINE)
        depth = np.ascontiguousarray(frame.depth[down // 2 :: down, across // 2 :: across])
        valid = valid_depth(depth, frame.depth_spec)
        readings = int(valid.sum())
        counts[_INVALID, :2] = readings, valid.size - readings
        if readings:
            self._count_depth(frame, depth, valid, counts)
        return counts

    def _count_depth(
        self, frame: RgbdFrame, depth: NDArray[Any], valid: NDArray[np.bool_], counts: Counts
    ) -> None:
        scale = frame.depth_spec.scale_to_m
        if scale is not None:
            metres = depth[valid].astype(np.float32) * np.float32(scale / NEAREST_M)
            counts[_DISTANCE] = _binned(np.log2(metres) / np.float32(_OCTAVES))
        try:
            given = normalise_depth(depth, frame.depth_spec, self._depth)
        except FrameError:  # of these pixels alone: the frame itself was usable
            return
        counts[_DEPTH] = _binned(given[valid])


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
        self._total = np.zeros((len(_NAMES), FINE), np.int64)
        self._each: list[NDArray[np.float32]] = []
        self._holes: list[float] = []

    def add(self, frame: RgbdFrame) -> None:
        """Count one pair."""
        counts = self._counter.count(frame)
        self._total += counts
        self._each.append(_foldable(counts).astype(np.float32))
        self._holes.append(float(counts[_INVALID, 1] / counts[_INVALID].sum()))

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
            if self._total[place].any() and place != _INVALID
        }
        shares = self._total[_INVALID, :2] / self._total[_INVALID].sum()
        found["invalid"] = InputRange(
            low=0.0,
            high=round(max(self._holes), 4),
            median=round(float(np.median(self._holes)), 4),
            shares=tuple(np.round(shares, 6).tolist()),
            usual=round(_usual(each[:, _INVALID]), 6),
        )
        return InputRanges(pairs=len(self._each), inputs=found)


def _foldable(counts: Counts) -> NDArray[np.float64]:
    """(6, 32) counts; those of readings and holes stay two."""
    folded = coarse(counts)
    folded[_INVALID] = 0
    folded[_INVALID, :2] = counts[_INVALID, :2]
    return folded


def _usual(each: NDArray[np.float64]) -> float:
    """The 95th percentile of how far one pair is from all the others; 0 for a single pair."""
    total = each.sum(axis=0)
    known = [one for one in each if one.any()]
    apart = [divergence(one, total - one) for one in known if (total - one).any()]
    return float(np.percentile(apart, 95)) if apart else 0.0


class DriftMeter:
    """Holds the newest frames, and all together, against a calibration set.

    Args:
        reference: What the calibration set looked like.
        spec: The model's input record.
        threshold: Largest Jensen-Shannon divergence of any input, 0 to 1; None: as far as single
            pairs of the set are from the others, and :data:`LEAST_THRESHOLD` at least.
        window: How many frames are judged together.

    Raises:
        InputError: The threshold is out of range.
    """

    def __init__(
        self,
        reference: InputRanges,
        spec: ModelSpec,
        threshold: float | None = None,
        window: int = WINDOW,
    ) -> None:
        check_threshold(threshold)
        self._reference, self._threshold = reference, threshold
        self._counter = InputCounter(spec)
        self._recent: deque[Counts] = deque(maxlen=window)
        self._sum = np.zeros((len(_NAMES), FINE), np.int64)
        self._all = np.zeros_like(self._sum)
        self.frames = 0
        self.worst: Drift | None = None

    def add(self, frame: RgbdFrame) -> Drift | None:
        """Count one frame; now and then, what the newest ones look like together."""
        counts = self._counter.count(frame)
        if len(self._recent) == self._recent.maxlen:
            self._sum -= self._recent[0]
        self._recent.append(counts)
        self._sum += counts
        self._all += counts
        self.frames += 1
        if len(self._recent) < FEWEST or self.frames % EVERY:
            return None
        drift = self._judge(self._sum, self._recent)
        if self.worst is None or drift.worst.excess > self.worst.worst.excess:
            self.worst = drift
        return drift

    def recent(self) -> Drift:
        """The newest frames; at least one must have been counted."""
        return self._judge(self._sum, self._recent)

    def overall(self) -> Drift:
        """All frames; their holes are judged over the newest."""
        return self._judge(self._all, self._recent, self.frames)

    def _judge(self, counts: Counts, frames: deque[Counts], number: int | None = None) -> Drift:
        folded = _foldable(counts)
        found = []
        for place, (name, (unit, _)) in enumerate(INPUTS.items()):
            known = self._reference.inputs.get(name)
            if known is None or not counts[place].any():
                continue
            shift = divergence(folded[place, : len(known.shares)], np.asarray(known.shares))
            if place == _INVALID:
                holes = [float(one[_INVALID, 1] / one[_INVALID].sum()) for one in frames]
                clipped = float(np.mean([share > known.high + _MORE_HOLES for share in holes]))
                median = float(np.median(holes))
            else:
                clipped = clipped_share(counts[place], known, unit)
                rising = np.cumsum(counts[place])
                middle = int(np.searchsorted(rising, rising[-1] / 2))
                median = value_of(middle + 0.5, unit)
            limit = max(LEAST_THRESHOLD, known.usual)
            if self._threshold is not None:
                limit = self._threshold
            found.append(InputDrift(name, shift, limit, clipped, median, known.median))
        return Drift(number or len(frames), tuple(found))


def check_threshold(threshold: float | None) -> None:
    """Refuse what no divergence can be.

    Raises:
        InputError: It is not above 0 and at most 1.
    """
    if threshold is not None and not 0 < threshold <= 1:
        raise InputError(
            "drift threshold",
            expected="a Jensen-Shannon divergence above 0, at most 1",
            got=f"{threshold:g}",
            cure=f"leave it out for the usual one, {LEAST_THRESHOLD:g} or more",
        )


@dataclass(frozen=True, slots=True)
class DriftSummary:
    """What became of the inputs over a whole run.

    Attributes:
        overall: Of all frames that were looked at.
        worst: The window that was farthest from the calibration set; None: the run was too short.
    """

    overall: Drift
    worst: Drift | None

    @property
    def exceeded(self) -> bool:
        """Whether any window, or the run as a whole, was too far."""
        return self.overall.exceeded or (self.worst is not None and self.worst.exceeded)

    @property
    def decisive(self) -> Drift:
        """What is worth telling: the worst window where there is one."""
        return self.worst or self.overall

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "exceeded": self.exceeded,
            "overall": self.overall.as_dict(),
            "worst": None if self.worst is None else self.worst.as_dict(),
        }


def summary_of(meter: DriftMeter) -> DriftSummary | None:
    """What a meter has seen; None where it saw nothing."""
    return DriftSummary(meter.overall(), meter.worst) if meter.frames else None


def bundle_meter(bundle: Bundle, threshold: float | None = None) -> DriftMeter:
    """What holds frames against the pairs a bundle was calibrated on.

    Raises:
        BundleError: The bundle does not say what these looked like.
        InputError: The threshold is out of range.
    """
    check_threshold(threshold)
    return DriftMeter(bundle_ranges(bundle), bundle.manifest.model, threshold)


def bundle_ranges(bundle: Bundle) -> InputRanges:
    """What the pairs looked like that a bundle was calibrated on.

    Raises:
        BundleError: It does not say.
    """
    ranges = bundle.manifest.input_ranges
    if ranges is None:
        raise BundleError(
            f"{bundle.path} does not say what its calibration pairs looked like",
            expected="a bundle for INT8 or FP16, built by this version or a newer one",
            cure="build it again, or name the calibration set: edge-fusion calib drift SET SOURCE",
        )
    return ranges


def parse_threshold(text: str | None) -> float | None:
    """Read what ``--watch-drift`` was given: a number, or ``auto``.

    Raises:
        InputError: It is neither, or out of range.

    Example:
        >>> parse_threshold("0.3"), parse_threshold("auto")
        (0.3, None)
    """
    if text is None or text == "auto":
        return None
    try:
        threshold = float(text)
    except ValueError:
        threshold = float("nan")
    check_threshold(threshold)
    return threshold


class DriftWatch:
    """A sink that writes nothing: it looks at every third frame that passes.

    Args:
        meter: What they are held against.
        note: Told once, in a sentence with its cure, that inputs have drifted.
        on_drift: Told each new judgement.
    """

    destination = "drift watch"
    paints = True  # it does not look at saliency: nobody has to enlarge it for this

    def __init__(
        self,
        meter: DriftMeter,
        note: Callable[[str], None],
        on_drift: Callable[[Drift], None] | None = None,
    ) -> None:
        self._meter, self._note, self._on_drift = meter, note, on_drift
        self._passed = 0
        self._warned = False

    def write(self, frame: RgbdFrame, saliency: NDArray[np.float32], record: FrameRecord) -> None:
        """Look at a frame, if it is its turn."""
        self._passed += 1
        if self._passed % THIRD != 1:
            return
        drift = self._meter.add(frame)
        if drift is None:
            return
        if self._on_drift is not None:
            self._on_drift(drift)
        if drift.exceeded and not self._warned:
            self._warned = True
            self._note(f"input drift over {drift.frames} frames: {warning_of(drift)}")

    def close(self) -> None:
        """Nothing is held."""


def warning_of(drift: Drift) -> str:
    """What is too far, and what to do about it."""
    far = sorted((one for one in drift.inputs if one.exceeded), key=lambda one: -one.excess)
    return f"{'; '.join(map(str, far))} (than calibrated on); {CURE}"


def drift_text(summary: DriftSummary) -> str:
    """The outcome of a run in a sentence: of its worst three seconds, if they drifted."""
    return judgement_of(summary.decisive if summary.decisive.exceeded else summary.overall)


def judgement_of(drift: Drift) -> str:
    """Whether some frames are as calibrated on, in a sentence."""
    if drift.exceeded:
        return f"over {drift.frames} frames: {warning_of(drift)}"
    worst = drift.worst
    return f"inputs are as calibrated on; farthest is {worst} of {worst.threshold:.2f} allowed"


DRIFT_COLUMNS = ("input", "calibrated", "now", "outside", "shift", "allowed", "")


def drift_rows(drift: Drift) -> list[tuple[str, ...]]:
    """A table of every input."""
    rows = []
    for one in drift.inputs:
        unit, meaning = INPUTS[one.input]
        form = "{:.2f} m" if unit == "m" else "{:.2f}"
        rows.append(
            (
                meaning,
                form.format(one.calibrated),
                form.format(one.median),
                f"{one.clipped:.1%}",
                f"{one.shift:.3f}",
                f"{one.threshold:.3f}",
                "drifted" if one.exceeded else "",
            )
        )
    return rows


def drift_line(drift: Drift) -> str:
    """The worst input in a few words, for the line that lives."""
    worst = drift.worst
    return f"drift {worst.input} {worst.shift:.2f}" + ("!" if drift.exceeded else "")
