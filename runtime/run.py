"""Stream a source through a bundle: opens what belongs together and closes it again."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

from edge_fusion.bundle import Bundle

from .latency import ARITHMETIC
from .ledger import FrameRecord, StreamSummary
from .session import Execution, choose_backend, execution_of, open_session
from .sink.open import open_sink
from .source.uri import open_source
from .stream import StreamOptions, stream


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What to run on what.

    Attributes:
        bundle: A bundle's folder or ``.tar``.
        source: A folder or source URI.
        sink: Overlay video, folder for masks, or None.
        variant: ``fp32``, ``int8``, or on TensorRT ``fp16``; None takes INT8 where the bundle
            has it.
        backend: See :func:`edge_fusion.runtime.session.open_session`.
        limit: Stop after this many pairs.
    """

    bundle: Path
    source: str
    sink: str | None = None
    variant: str | None = None
    backend: str = "auto"
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """What was run and how it went.

    Attributes:
        bundle: Path of the bundle.
        variant: The variant that ran.
        backend: The backend that was used, never ``auto``.
        summary: The stream's figures.
        execution: How an engine ran; None on ONNX Runtime.
    """

    bundle: str
    variant: str
    backend: str
    summary: StreamSummary
    execution: Execution | None = None

    def as_dict(self) -> dict[str, object]:
        """The run as JSON-ready values: what was used, then the figures of the stream."""
        used = {"bundle": self.bundle, "variant": self.variant, "backend": self.backend}
        execution = asdict(self.execution) if self.execution else None
        return {**used, "execution": execution, **self.summary.as_dict()}


def default_variant(bundle: Bundle) -> str:
    """INT8 where the bundle has it, else FP32."""
    return "int8" if "int8" in bundle.variants else "fp32"


def run_bundle(options: RunOptions, on_frame: Callable[[FrameRecord], None] | None = None) -> Run:
    """Stream every pair of a source through a bundle.

    Args:
        options: What to run on what.
        on_frame: Called with each frame's record.

    Returns:
        What was used and the summary; Ctrl-C ends the stream early and still returns it.

    Raises:
        InputError: ``limit`` is below 1.
        BundleError: The bundle is damaged or has no such variant.
        EngineError: No engine of it belongs to this device.
        SourceError: The source cannot be opened, or not one pair of it was usable.
        SessionError: The backend refused the model.
        OutputError: The sink could not be written.
    """
    stream_options = StreamOptions(limit=options.limit)  # refuses before anything is opened
    bundle = Bundle.read(options.bundle)
    variant = options.variant or default_variant(bundle)
    backend = choose_backend(bundle, variant, options.backend)
    source = open_source(options.source, masks=False)
    with closing(open_session(bundle, variant, backend)) as session:
        sinks = [open_sink(options.sink)] if options.sink else []
        summary = stream(
            session,
            bundle.manifest.model,
            source,
            sinks,
            stream_options,
            on_frame,
        )
        execution = execution_of(session)
    return Run(str(options.bundle), variant, backend, summary, execution)


def run_facts(run: Run) -> dict[str, str]:
    """What a person wants to know about a run first, by name."""
    summary = run.summary
    how = run.execution.text if run.execution else ARITHMETIC[run.backend].text
    facts = {
        "ran": f"{run.variant} of {run.bundle} on {run.backend}: {how}",
        "source": summary.source,
        "frames": f"{summary.frames} of {summary.captured} captured, {summary.stopped}",
        "rate": f"{summary.fps:.1f} fps over {summary.wall_s:.1f} s",
    }
    if summary.drops:
        facts["dropped"] = ", ".join(f"{n} {reason}" for reason, n in summary.drops.items())
    if summary.sinks:
        facts["written"] = ", ".join(summary.sinks)
    for number, problem in enumerate(summary.problems, start=1):
        facts[f"problem {number}"] = problem
    if summary.abandoned:
        facts["abandoned"] = f"threads that did not end: {', '.join(summary.abandoned)}"
    return facts


def stage_rows(run: Run) -> list[tuple[str, ...]]:
    """Percentiles of every stage and of the end-to-end latency, in milliseconds."""
    stages = {**run.summary.stages, "end to end": run.summary.latency}
    return [
        (name, *(f"{ms:.2f}" for ms in (s.p50_ms, s.p90_ms, s.p99_ms, s.max_ms)))
        for name, s in stages.items()
    ]
