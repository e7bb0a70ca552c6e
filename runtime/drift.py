"""How far what a camera delivers has left what a model was calibrated on.

INT8 ranges are fixed when a bundle is built.  Values beyond them are clipped, and a scene whose
values lie elsewhere is computed with ranges that were made for another.  So a sparse sample of
frames is counted into histograms, and the newest of them together are held against those of the
calibration set.
"""

from __future__ import annotations

from collections import deque
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from edge_fusion.errors import InputError
from edge_fusion.frame import RgbdFrame
from edge_fusion.input_ranges import (
    FINE,
    INPUTS,
    Counts,
    InputRanges,
    clipped_share,
    divergence,
    value_of,
)
from edge_fusion.spec import ModelSpec

from .input_counter import INVALID, InputCounter, foldable

WINDOW = 30  # counted frames that are judged together: three seconds of a camera
EVERY = 10  # counted frames from one judgement to the next
FEWEST = 10  # counted frames that can be judged
#: Where neither the user nor the calibration set says how far is too far.  Measured on real frames:
#: every other frame of a recording is within 0.05 of the rest, other rooms and cameras are 0.15 to
#: 1 away in one input at least.
LEAST_THRESHOLD = 0.15
MOST_CLIPPED = 0.05
MORE_HOLES = 0.05  # of a frame, beyond the emptiest of the set: that is but one of a few dozen


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
        self._sum = np.zeros((len(INPUTS), FINE), np.int64)
        self._all = np.zeros_like(self._sum)
        self.frames = 0
        self.worst: Drift | None = None
        self.newest: Drift | None = None

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
        drift = self.newest = self._judge(self._sum, self._recent)
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
        folded = foldable(counts)
        found = []
        for place, (name, (unit, _)) in enumerate(INPUTS.items()):
            known = self._reference.inputs.get(name)
            if known is None or not counts[place].any():
                continue
            shift = divergence(folded[place, : len(known.shares)], np.asarray(known.shares))
            if place == INVALID:
                holes = [float(one[INVALID, 1] / one[INVALID].sum()) for one in frames]
                clipped = float(np.mean([share > known.high + MORE_HOLES for share in holes]))
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
