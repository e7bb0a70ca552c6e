"""``calib drift``: whether a source still looks like what a bundle or a set was calibrated on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_fusion.bundle import Bundle, is_bundle
from edge_fusion.errors import CalibrationError, FrameError, InputError
from edge_fusion.frame import RgbdFrame
from edge_fusion.input_ranges import InputRanges
from edge_fusion.runtime.drift import DriftMeter
from edge_fusion.runtime.drift_watch import DriftSummary, bundle_ranges, summary_of
from edge_fusion.runtime.input_counter import ranges_of
from edge_fusion.runtime.source.credentials import without_credentials
from edge_fusion.runtime.source.uri import open_source
from edge_fusion.spec import ModelSpec

from .candidates import candidates
from .pool import Pool

LIVE_FRAMES = 300  # of a camera, unless told otherwise: ten seconds


@dataclass(frozen=True, slots=True)
class DriftOptions:
    """What to hold against what.

    Attributes:
        reference: A bundle, a set, or any stored pairs that were calibrated on.
        source: What a camera gives now.
        limit: Look at so many frames; None: all, or 300 of a camera.
        every: Look at every so-manieth.
        threshold: See :class:`~edge_fusion.runtime.drift.DriftMeter`.

    Raises:
        InputError: A number is below 1.
    """

    reference: str
    source: str
    limit: int | None = None
    every: int = 1
    threshold: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("limit", self.limit), ("every", self.every)):
            if value is not None and value < 1:
                raise InputError(f"calib drift {name}", expected="at least 1", got=str(value))


@dataclass(frozen=True, slots=True)
class DriftReport:
    """What was found.

    Attributes:
        reference: What was calibrated on.
        source: What was held against it.
        unusable: Frames that could not be looked at.
        summary: The figures; its ``overall`` decides.
    """

    reference: str
    source: str
    unusable: int
    summary: DriftSummary

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        about = {
            "reference": self.reference,
            "source": self.source,
            "frames": self.summary.overall.frames,
            "unusable": self.unusable,
        }
        exceeded = {"exceeded": self.exceeded}
        return {**about, **self.summary.as_dict(), **exceeded}

    @property
    def exceeded(self) -> bool:
        """Whether the source as a whole is too far from what was calibrated on."""
        return self.summary.overall.exceeded


def measure_drift(options: DriftOptions) -> DriftReport:
    """Hold every frame of a source against what was calibrated on.

    Needs neither torch nor onnx.

    Raises:
        BundleError: The bundle is damaged, or does not say what its pairs looked like.
        CalibrationError: The reference is no bundle and no stored pairs, or the source has not one
            usable frame.
        SourceError: The source cannot be read.
        InputError: The threshold is out of range.

    Example:
        >>> demo = "demo://?frames=40&size=64x48"
        >>> measure_drift(DriftOptions(demo, demo)).exceeded
        False
    """
    ranges, spec = reference_of(options.reference)
    meter = DriftMeter(ranges, spec, options.threshold)
    unusable = 0
    for frame in frames_of(options):
        if isinstance(frame, FrameError):
            unusable += 1
        else:
            meter.add(frame)
    summary = summary_of(meter)
    shown = without_credentials(options.source)
    if summary is None:
        raise CalibrationError(
            f"not one frame of '{shown}' can be used", got=f"{unusable} unusable" * bool(unusable)
        )
    return DriftReport(without_credentials(options.reference), shown, unusable, summary)


def reference_of(reference: str) -> tuple[InputRanges, ModelSpec]:
    """What a bundle, a set or any stored pairs look like, and for which inputs."""
    if is_bundle(Path(reference)):
        bundle = Bundle.read(reference)
        return bundle_ranges(bundle), bundle.manifest.model
    spec = ModelSpec(name="calib drift")
    return ranges_of(Pool([reference]).frames(), spec), spec


def frames_of(options: DriftOptions) -> Iterator[RgbdFrame | FrameError]:
    """The frames of the source that are looked at, and the errors of those that cannot be."""
    source = open_source(options.source, masks=False)
    limit = options.limit or (LIVE_FRAMES if source.live else None)
    with closing(candidates(source)) as found:
        taken = 0
        for number, candidate in found:
            if number % options.every:
                continue
            try:
                yield candidate()
            except FrameError as err:
                yield err
            taken += 1
            if taken == limit:
                return
