"""The streaming loop: source -> model -> sinks in three threads, every frame accounted for.

::

    capture ──raw frames──> inference ──results──> sink
             stored: queue              queue
             live: newest wins

A live source drops *before* any work is spent on a frame; a stored one waits instead. The calling
thread only waits, so signals reach it at once, whatever a driver or a model is doing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_fusion.errors import (
    EdgeFusionError,
    FrameError,
    InputError,
    OutputError,
    SessionError,
    SourceError,
)
from edge_fusion.frame import RgbdFrame
from edge_fusion.preprocess import Inputs, prepare, saliency_map
from edge_fusion.spec import ModelSpec

from .handoff import BoundedQueue, Closed, Handoff, LatestSlot
from .ledger import FrameRecord, Ledger, StreamSummary, now_ns, reason_of
from .session import Session
from .sink.base import Sink
from .source.base import Source, StoredSource

__all__ = ["FrameRecord", "Progress", "StreamOptions", "StreamSummary", "stream"]

OVERTAKEN = "overtaken by a newer frame"
NO_DEPTH = "no valid depth"
STALE = "stale"

_POLL_S = 0.05  # how soon the caller's stop event is noticed
# After a stop: the model may finish its frame, then the sinks their file; 1.75 s in all.
_FINISH_FRAME_S = 1.0
_FINISH_SINKS_S = 0.75

Progress = Callable[[FrameRecord, float, int], None]


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """How to stream.

    Attributes:
        limit: Stop after this many processed frames; None: at the end of the source.
        queue_size: Items that may wait between two stages; more of them even out jitter and add
            latency.
        max_staleness_ms: Live sources only: drop a frame older than this when the model could
            start on it; None: never.
        give_up_after: Unusable frames from the start that end the stream with an error, so that a
            wrong unit is told after seconds, not never; None: keep waiting for a usable one.
    """

    limit: int | None = None
    queue_size: int = 2
    max_staleness_ms: float | None = None
    give_up_after: int | None = 300

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InputError(f"stream option {name}", expected="above 0", got=f"{value}")


def stream(
    session: Session,
    spec: ModelSpec,
    source: Source,
    sinks: Sequence[Sink],
    options: StreamOptions | None = None,
    on_progress: Progress | None = None,
    stop: threading.Event | None = None,
) -> StreamSummary:
    """Run every pair of a source through a model and into sinks.

    Stored sources lose nothing and keep their order. Live sources keep only the newest pair while
    the model is busy. A pair that cannot be used is dropped, counted by reason and never ends the
    run on its own. Ctrl-C and ``stop`` end the run within two seconds: the frame in the model is
    finished, the sinks are closed and the summary is returned. A second Ctrl-C does not wait.

    Args:
        session: The model; stays open.
        spec: What the model takes and returns.
        source: Where pairs come from.
        sinks: Where results go; closed on every way out, also after an error.
        options: How to stream.
        on_progress: Called after each frame, in the sinks' thread, with the frame's record, the
            running frame rate and the drops so far; limit its rate yourself.
        stop: Ends the stream when set, from any thread or from a signal handler.

    Returns:
        The account of every frame.

    Raises:
        SourceError: The source failed, or not one of its frames could be used.
        SessionError: The model failed.
        OutputError: A sink failed.

    Example:
        >>> class Nearness:
        ...     def run(self, inputs):
        ...         return {"saliency": inputs["depth"]}
        ...     def close(self): ...
        >>> from edge_fusion.runtime.source.demo import DemoSource
        >>> stream(Nearness(), ModelSpec(name="mine"), DemoSource(frames=3), sinks=[]).frames
        3
    """
    with ExitStack() as untaken:
        for sink in sinks:
            untaken.callback(sink.close)
        pipeline = _Pipeline(session, spec, source, sinks, options or StreamOptions(), on_progress)
        untaken.pop_all()  # from here on its threads close them
    return pipeline.run(stop or threading.Event())


class _Captured(NamedTuple):
    frame: RgbdFrame
    capture_ns: int
    at_ns: int  # when it was in hand


class _Result(NamedTuple):
    captured: _Captured
    saliency: NDArray[np.float32]
    durations_ns: tuple[int, int, int, int]  # wait, preprocess, infer, postprocess
    at_ns: int  # when it was ready


class _Pipeline:
    """One run: three threads, what lies between them, and the account."""

    def __init__(
        self,
        session: Session,
        spec: ModelSpec,
        source: Source,
        sinks: Sequence[Sink],
        options: StreamOptions,
        on_progress: Progress | None,
    ) -> None:
        self._session, self._spec, self._source, self._sinks = session, spec, source, tuple(sinks)
        self._options, self._on_progress = options, on_progress
        self._ledger = Ledger(source.uri, options.give_up_after)
        self._frames: Handoff[_Captured] = (
            LatestSlot() if source.live else BoundedQueue(options.queue_size)
        )
        self._results: BoundedQueue[_Result] = BoundedQueue(options.queue_size)
        self._finished = threading.Event()
        self._stopped = "source ended"
        self._errors: list[Exception] = []

    def run(self, stop: threading.Event) -> StreamSummary:
        stages = {"sink": self._deliver, "inference": self._infer, "capture": self._capture}
        threads = {
            name: threading.Thread(target=work, name=f"edge-fusion-{name}", daemon=True)
            for name, work in stages.items()
        }
        try:
            for thread in threads.values():
                thread.start()
            while not self._finished.wait(_POLL_S):
                if stop.is_set():
                    self._stopped = "stop requested"
                    break
        except KeyboardInterrupt:
            self._stopped = "interrupted"
        except RuntimeError as err:  # the system grants no more threads
            self._errors.append(SessionError("starting the stream's threads", got=str(err)))
        abandoned = self._shut_down(threads)
        if self._errors:
            raise self._errors[0]
        if not self._ledger.frames and self._stopped == "source ended":
            raise self._ledger.nothing_processed()
        return self._ledger.summary(
            sinks=tuple(sink.destination for sink in self._sinks),
            live=self._source.live,
            stopped=self._stopped,
            abandoned=abandoned,
        )

    def _shut_down(self, threads: dict[str, threading.Thread]) -> tuple[str, ...]:
        """End every thread from the back to the front; the names of those that would not end."""
        self._frames.close(discard=True)
        _join(threads["inference"], time.monotonic() + _FINISH_FRAME_S)
        self._results.close()  # whatever the model is still at comes too late
        if threads["sink"].ident is None:
            self._deliver()  # interrupted before the threads were running: close the sinks here
        deadline = time.monotonic() + _FINISH_SINKS_S
        for name in ("sink", "capture"):
            _join(threads[name], deadline)
        return tuple(name for name, thread in threads.items() if thread.is_alive())

    # Each stage ends the next one by closing what it feeds, and the one before by closing what it
    # reads; a stage that fails ends the same way after noting its error. So what was captured
    # before the camera failed is still processed, and a blocked writer is always woken.

    def _capture(self) -> None:
        with self._noting_errors():
            try:
                self._read_source()
            finally:
                self._frames.close()

    def _infer(self) -> None:
        with self._noting_errors():
            try:
                self._process_frames()
            finally:
                self._frames.close(discard=True)
                self._results.close()

    def _deliver(self) -> None:
        try:
            with self._noting_errors():
                self._feed_sinks()
            self._frames.close(discard=True)
            self._results.close(discard=True)
            for sink in self._sinks:
                with self._noting_errors(), _border(OutputError, f"closing '{sink.destination}'"):
                    sink.close()
        finally:
            self._finished.set()

    @contextmanager
    def _noting_errors(self) -> Iterator[None]:
        try:
            yield
        except Closed:
            pass  # the regular end
        except Exception as err:
            self._errors.append(err)  # raised in the caller

    def _read_source(self) -> None:
        with _border(SourceError, f"reading '{self._source.uri}'"):
            pairs = _pairs(self._source)
            try:
                while not self._frames.closed:
                    began_ns = now_ns()
                    pair = next(pairs, None)
                    if pair is None:
                        return
                    at_ns = now_ns()
                    self._ledger.capture()
                    if isinstance(pair, FrameError):
                        self._ledger.drop_unusable(reason_of("unusable frame", pair), pair)
                    elif self._frames.put(_Captured(pair, at_ns - began_ns, at_ns)) is not None:
                        self._ledger.drop(OVERTAKEN)
            finally:
                pairs.close()

    def _process_frames(self) -> None:
        processed = 0
        while processed != self._options.limit:
            captured = self._frames.get()
            with _border(SessionError, f"processing frame '{captured.frame.id}'"):
                result = self._process(captured)
            if result is not None:
                self._results.put(result)
                processed += 1
        self._stopped = "limit reached"

    def _process(self, captured: _Captured) -> _Result | None:
        """One frame's result, or None for a frame that was dropped."""
        frame, taken_ns = captured.frame, now_ns()
        if self._is_stale(captured, taken_ns):
            self._ledger.drop(STALE)
            return None
        try:
            inputs = prepare(frame, self._spec)
        except FrameError as err:
            reason = reason_of("unusable frame", err) if frame.valid.any() else NO_DEPTH
            self._ledger.drop_unusable(reason, err)
            return None
        prepared_ns = now_ns()
        output = self._run_model(inputs)
        inferred_ns = now_ns()
        try:
            saliency = saliency_map(output, self._spec, (frame.rgb.shape[0], frame.rgb.shape[1]))
        except FrameError as err:
            self._ledger.drop_unusable(reason_of("unusable output", err), err)
            return None
        self._ledger.use()
        ready_ns = now_ns()
        durations_ns = (
            taken_ns - captured.at_ns,
            prepared_ns - taken_ns,
            inferred_ns - prepared_ns,
            ready_ns - inferred_ns,
        )
        return _Result(captured, saliency, durations_ns, ready_ns)

    def _is_stale(self, captured: _Captured, now: int) -> bool:
        limit_ms = self._options.max_staleness_ms
        if limit_ms is None or not self._source.live:
            return False
        return now - _arrival_ns(captured) > limit_ms * 1e6

    def _run_model(self, inputs: Inputs) -> NDArray[np.float32]:
        outputs = self._session.run(inputs)
        name = self._spec.output.name
        if name not in outputs:
            raise SessionError(
                "the model lacks the output its record names",
                expected=f"'{name}'",
                got=", ".join(f"'{found}'" for found in outputs) or "none at all",
                cure="name it in the model's record: output.name",
            )
        return outputs[name]

    def _feed_sinks(self) -> None:
        while True:
            captured, saliency, (wait_ns, *computing_ns), ready_ns = self._results.get()
            frame, taken_ns = captured.frame, now_ns()
            wait_ns += taken_ns - ready_ns
            stages_ns = (captured.capture_ns, wait_ns, *computing_ns)
            so_far = self._ledger.record(frame, stages_ns, taken_ns - _arrival_ns(captured))
            for sink in self._sinks:
                with _border(OutputError, f"writing frame '{frame.id}' to '{sink.destination}'"):
                    sink.write(frame, saliency, so_far)
            done_ns = now_ns()
            record = self._ledger.deliver(
                frame,
                (*stages_ns, done_ns - taken_ns),
                done_ns - _arrival_ns(captured),
            )
            if self._on_progress is not None:
                with _border(OutputError, "reporting progress"):
                    self._on_progress(record, self._ledger.running_fps(), self._ledger.dropped)


def _pairs(source: Source) -> Generator[RgbdFrame | FrameError, None, None]:
    """Every pair of a source, or in its place the error that makes it unusable."""
    if isinstance(source, StoredSource) and not source.live:
        for index in range(len(source)):
            try:
                pair = source[index]
            except FrameError as err:
                yield err
            else:
                yield pair
        return
    pairs = source.frames()
    try:
        while True:
            try:
                pair = next(pairs)
            except StopIteration:
                return
            except FrameError as err:
                if isinstance(pairs, Generator):
                    raise  # a generator that raised is at its end: nothing would follow
                yield err
            else:
                yield pair
    finally:
        if isinstance(pairs, Generator):
            pairs.close()  # here, in the thread that runs it: it may hold a camera


def _arrival_ns(captured: _Captured) -> int:
    return captured.frame.arrival_ns or captured.at_ns


@contextmanager
def _border(error: type[EdgeFusionError], doing: str) -> Iterator[None]:
    """Turn what a driver, a backend or a callback raises into one of our errors."""
    try:
        yield
    except (EdgeFusionError, Closed):
        raise
    except Exception as err:
        raise error(f"{doing} failed", got=f"{type(err).__name__}: {err}") from err


def _join(thread: threading.Thread, deadline: float) -> None:
    if thread.ident is not None:
        thread.join(max(0.0, deadline - time.monotonic()))
