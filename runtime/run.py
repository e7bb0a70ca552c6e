"""Stream a source through a bundle: opens what belongs together and closes it again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import cv2

from edge_fusion.bundle import Bundle

from .drift import Drift, DriftMeter
from .drift_watch import (
    DriftSummary,
    DriftWatch,
    bundle_meter,
    drift_figures,
    drift_text,
    summary_of,
)
from .latency import ARITHMETIC
from .ledger import FrameRecord, StreamSummary
from .notify import Notifier, Watchdog
from .run_meter import RunMeter, TelemetrySummary
from .session import Execution, choose_backend, execution_of, open_session
from .sink.open import SinkSetting, open_sinks
from .source.base import losses_of
from .source.uri import files_of, open_source
from .stream import StreamOptions, stream
from .telemetry import Sampler, open_telemetry

Note = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What to run on what.

    Attributes:
        bundle: A bundle's folder or ``.tar``.
        source: A folder or source URI.
        sinks: Where results go: files, folders and ``SCHEME://...``; none is allowed.
        variant: ``fp32``, ``int8``, or on TensorRT ``fp16``; None takes INT8 where the bundle
            has it.
        backend: See :func:`edge_fusion.runtime.session.open_session`.
        stream: How to stream.
        idle_s: Where power is measured: seconds to measure it at rest before the first frame, so
            that the energy of a frame can be told net of that; 0: not.
        watch_drift: Hold the frames against what the bundle was calibrated on.
        drift_threshold: How far they may be; None: see :class:`.drift.DriftMeter`.
    """

    bundle: Path
    source: str
    sinks: tuple[str, ...] = ()
    variant: str | None = None
    backend: str = "auto"
    stream: StreamOptions = field(default_factory=StreamOptions)
    idle_s: float = 0.0
    watch_drift: bool = False
    drift_threshold: float | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """What was run and how it went.

    Attributes:
        bundle: Path of the bundle.
        variant: The variant that ran.
        backend: The backend that was used, never ``auto``.
        summary: The stream's figures.
        telemetry: The machine's, from the first frame to the last.
        execution: How an engine ran; None on ONNX Runtime.
        drift: How far the inputs were from the calibration set; None where nobody watched.
    """

    bundle: str
    variant: str
    backend: str
    summary: StreamSummary
    telemetry: TelemetrySummary
    execution: Execution | None = None
    drift: DriftSummary | None = None

    def as_dict(self) -> dict[str, object]:
        """The run as JSON-ready values: what was used, then the figures of the stream."""
        used = {"bundle": self.bundle, "variant": self.variant, "backend": self.backend}
        execution = asdict(self.execution) if self.execution else None
        figures = {**self.summary.as_dict(), "telemetry": self.telemetry.as_dict()}
        if self.drift is not None:
            figures["drift"] = self.drift.as_dict()
        return {**used, "execution": execution, **figures}


def default_variant(bundle: Bundle) -> str:
    """INT8 where the bundle has it, else FP32."""
    return "int8" if "int8" in bundle.variants else "fp32"


def run_bundle(
    options: RunOptions,
    on_frame: Callable[[FrameRecord], None] | None = None,
    note: Note = lambda text: None,
    stop: threading.Event | None = None,
    on_drift: Callable[[Drift], None] | None = None,
) -> Run:
    """Stream every pair of a source through a bundle.

    Under systemd, which it tells of its progress, it is a service; see :mod:`.notify`.

    Args:
        options: What to run on what.
        on_frame: Called with each frame's record.
        note: Told in a sentence what a person should know while it runs: the address of a page,
            a camera that was lost.
        stop: Ends the run when set.
        on_drift: Told each judgement of the inputs, where they are watched.

    Returns:
        What was used and the summaries; Ctrl-C ends the stream early and still returns them.

    Raises:
        BundleError: The bundle is damaged or has no such variant.
        EngineError: No engine of it belongs to this device.
        SourceError: The source cannot be opened, or not one pair of it was usable.
        SessionError: The backend refused the model.
        OutputError: A sink could not be written.
    """
    bundle = Bundle.read(options.bundle)
    variant = options.variant or default_variant(bundle)
    backend = choose_backend(bundle, variant, options.backend)
    meter_drift = bundle_meter(bundle, options.drift_threshold) if options.watch_drift else None
    source = open_source(options.source, masks=False, note=note)
    stop = stop or threading.Event()
    with ExitStack() as held:
        held.enter_context(_one_opencv_thread())
        session = held.enter_context(closing(open_session(bundle, variant, backend)))
        sampler = held.enter_context(Sampler(open_telemetry()))
        watchdog = held.enter_context(Watchdog(Notifier()))
        meter = RunMeter(sampler)
        if options.idle_s:
            meter.measure_idle(options.idle_s, stop)
        newest: FrameRecord | None = None

        def through(record: FrameRecord) -> None:
            nonlocal newest
            newest = record
            meter.frame()
            watchdog.frame(f"{record.fps:.1f} fps, {record.dropped} dropped")
            if on_frame is not None:
                on_frame(record)

        def drops() -> dict[str, int]:
            if newest is None:
                return {}
            at_source = {f"{what}, at the source": n for what, n in losses_of(source).items()}
            return {**newest.drops, **at_source}

        about = {
            "model": f"{bundle.manifest.model.name} {variant}",
            "backend": backend,
            "source": source.uri,
        }
        setting = SinkSetting(
            machine=lambda: sampler.newest,
            drops=drops,
            drift=lambda: drift_figures(meter_drift) if meter_drift else None,
            about=about,
            note=note,
            reads=files_of(options.source),
        )
        summary = stream(
            session,
            bundle.manifest.model,
            source,
            [*open_sinks(options.sinks, setting), *_watching(meter_drift, note, on_drift)],
            options.stream,
            through,
            stop,
        )
        telemetry, execution = meter.summary(), execution_of(session)
    written = tuple(place for place in summary.sinks if place != DriftWatch.destination)
    return Run(
        str(options.bundle),
        variant,
        backend,
        replace(summary, sinks=written),
        telemetry,
        execution,
        None if meter_drift is None else summary_of(meter_drift),
    )


def _watching(
    meter: DriftMeter | None, note: Note, on_drift: Callable[[Drift], None] | None
) -> list[DriftWatch]:
    return [] if meter is None else [DriftWatch(meter, note, on_drift)]


@contextmanager
def _one_opencv_thread() -> Iterator[None]:
    """Each stage has a thread of its own: more of OpenCV's would only spin."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


_MODES = {"every": "every pair", "freshest": "always the freshest pair"}


def run_facts(run: Run) -> dict[str, str]:
    """What a person wants to know about a run first, by name."""
    summary = run.summary
    how = run.execution.text if run.execution else ARITHMETIC[run.backend].text
    facts = {
        "ran": f"{run.variant} of {run.bundle} on {run.backend}: {how}",
        "source": f"{summary.source}, {_MODES[summary.mode]}",
        "frames": f"{summary.frames} of {summary.captured} captured, {summary.stopped}"
        + (f", {summary.unprocessed} left over" if summary.unprocessed else ""),
        "rate": f"{summary.fps:.1f} fps over {summary.wall_s:.1f} s",
    }
    if summary.missed:
        facts["missed"] = f"{summary.missed} that never reached us, by their numbers"
    if summary.at_source:
        facts["at the source"] = ", ".join(f"{n} {what}" for what, n in summary.at_source.items())
    if summary.drops:
        facts["dropped"] = ", ".join(f"{n} {reason}" for reason, n in summary.drops.items())
    if summary.sinks:
        facts["written"] = ", ".join(summary.sinks)
    for number, problem in enumerate(summary.problems, start=1):
        facts[f"problem {number}"] = problem
    if run.drift is not None:
        facts["drift"] = drift_text(run.drift)
    facts |= run.telemetry.facts()
    if summary.abandoned:
        facts["abandoned"] = f"threads that did not end: {', '.join(summary.abandoned)}"
    return facts


STAGE_COLUMNS = ("p50", "p90", "p99", "p999", "max", "jitter")


def stage_rows(run: Run) -> list[tuple[str, ...]]:
    """Percentiles of every stage and of the end-to-end latency, in milliseconds."""
    stages = {**run.summary.stages, "end to end": run.summary.latency}
    return [
        (name, *(f"{getattr(s, f'{column}_ms'):.2f}" for column in STAGE_COLUMNS))
        for name, s in stages.items()
    ]
