"""Watch a stream for drift of its inputs, and say what was found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_fusion.bundle import Bundle
from edge_fusion.errors import BundleError
from edge_fusion.frame import RgbdFrame
from edge_fusion.input_ranges import INPUTS, InputRanges

from .drift import Drift, DriftMeter, check_threshold
from .ledger import FrameRecord

THIRD = 3  # of the frames of a stream every third is counted: 0.1 ms a frame instead of 0.3
CURE = "calibrate again with frames such as these: edge-fusion calib create SOURCE -o SET"


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
            self._note(f"input drift: {judgement_of(drift)}")

    def close(self) -> None:
        """Nothing is held."""


def drift_figures(meter: DriftMeter) -> dict[str, Any] | None:
    """The newest judgement, JSON-ready, for whoever looks at a stream; None before the first.

    May be called from any thread.
    """
    drift = meter.newest
    return None if drift is None else {**drift.as_dict(), "text": str(drift.worst)}


def warning_of(drift: Drift) -> str:
    """What is too far, and what to do about it."""
    far = sorted((one for one in drift.inputs if one.exceeded), key=lambda one: -one.excess)
    return f"unlike what was calibrated on: {'; '.join(map(str, far))}; {CURE}"


def drift_text(summary: DriftSummary) -> str:
    """The outcome of a run in a sentence: of its worst three seconds, if they drifted."""
    return judgement_of(summary.decisive if summary.decisive.exceeded else summary.overall)


def judgement_of(drift: Drift) -> str:
    """Whether some frames are as calibrated on, in a sentence."""
    if drift.exceeded:
        return f"{drift.frames} frames are {warning_of(drift)}"
    worst = drift.worst
    return f"inputs are as calibrated on; farthest is {worst} of {worst.threshold:.2f} allowed"


DRIFT_COLUMNS = ("input", "calibrated", "now", "outside", "shift", "allowed", "")


def drift_rows(drift: Drift) -> list[tuple[str, ...]]:
    """A table of every input."""
    rows: list[tuple[str, ...]] = []
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
