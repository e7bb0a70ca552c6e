"""The streaming loop: source -> model -> sinks in threads, every frame accounted for.

::

    every:     capture ──queue──> preprocess ──queue──> inference ──queue──> sinks
    freshest:  capture ──newest wins──> preprocess and inference ──queue──> sinks

Stored sources have ``every`` pair processed, each stage in a thread of its own.  Live ones keep
the model at the ``freshest`` pair: it is dropped *before* it is decoded, and decoded only when the
model is free, since a pair that was prepared ahead would be older by one inference.

The calling thread only waits, so signals reach it at once, whatever a driver or a model is doing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from edge_fusion.errors import (
    EdgeFusionError,
    FrameError,
    OutputError,
    SessionError,
    SourceError,
)
from edge_fusion.frame import RgbdFrame
from edge_fusion.preprocess import Inputs, prepare, resize_saliency, saliency_plane
from edge_fusion.spec import ModelSpec

from .handoff import BoundedQueue, Closed, Handoff, LatestSlot
from .ledger import FrameRecord, Ledger, StreamSummary, now_ns, reason_of
from .session import Session
from .sink.base import Onlooker, Sink, only_paints
from .smooth import Smoother
from .source.arrivals import arrivals_of
from .source.base import Arrival, CountingSource, Source
from .source.credentials import without_credentials
from .stages import Captured, Prepared, Result
from .stream_options import StreamOptions

OVERTAKEN = "overtaken by a newer frame"
NO_DEPTH = "no valid depth"
STALE = "stale"

_POLL_S = 0.05  # how soon the caller's stop event is noticed
# After a stop: the model may finish its frame, then the sinks theirs; 1.75 s in all.  A file that
# is being finished is waited for: on a slow card that takes as long as it takes.
_FINISH_FRAME_S = 1.0
_FINISH_SINKS_S = 0.75

Progress = Callable[[FrameRecord], None]
T = TypeVar("T")
Feed = Callable[[Callable[[Prepared], object]], None]  # hands the next prepared pair on


class Pipeline:
    """One run: its threads, what lies between them, and the account."""

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
        self._given = [(sink, only_paints(sink)) for sink in self._sinks]
        self._ledger = Ledger(source.uri, options.give_up_after)
        self._smooth = None if options.smoothing is None else Smoother(options.smoothing)
        self._mode = options.mode
        if options.mode == "auto":
            self._mode = "freshest" if source.live else "every"
        self._arrived: Handoff[Captured] = BoundedQueue(options.queue_size)
        self._prepared: Handoff[Prepared] = BoundedQueue(options.queue_size)
        self._results: Handoff[Result] = BoundedQueue(options.queue_size)
        self._stages: dict[str, Callable[[], None]] = {
            "sink": self._deliver,
            "inference": partial(self._infer, self._take_prepared),
            "preprocess": self._preprocess,
            "capture": self._capture,
        }
        if self._mode == "freshest":
            self._arrived, self._results = LatestSlot(), BoundedQueue(1)
            self._stages["inference"] = partial(self._infer, self._prepare_next)
            del self._stages["preprocess"]
        self._finished, self._closing = threading.Event(), threading.Event()
        self._closed: list[str] = []  # destinations of the sinks that were finished
        self._stopped = "source ended"
        self._last_moment_ns = 0
        self._errors: list[BaseException] = []

    def run(self, stop: threading.Event) -> StreamSummary:
        """Stream to the end, or until ``stop`` is set or Ctrl-C is pressed; runs once."""
        threads = {
            name: threading.Thread(target=work, name=f"edge-fusion-{name}", daemon=True)
            for name, work in self._stages.items()
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
        try:
            abandoned = self._shut_down(threads)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(self._left_behind()) from None
        if self._errors:
            raise self._errors[0]
        if not self._ledger.frames and self._stopped == "source ended":
            raise self._ledger.nothing_processed()
        return self._ledger.summary(
            sinks=tuple(self._closed),
            live=self._source.live,
            mode=self._mode,
            stopped=self._stopped,
            abandoned=abandoned,
            at_source=self._source.counts if isinstance(self._source, CountingSource) else {},
        )

    def _left_behind(self) -> str:
        """What a second Ctrl-C costs."""
        unfinished = [s.destination for s in self._sinks if s.destination not in self._closed]
        return f"not finished: {', '.join(unfinished)}" if unfinished else "nothing was left"

    def _shut_down(self, threads: dict[str, threading.Thread]) -> tuple[str, ...]:
        """End every thread from the back to the front; the names of those that would not end."""
        self._close_before_model()
        _join(threads["inference"], time.monotonic() + _FINISH_FRAME_S)
        self._results.close()  # whatever the model is still at comes too late
        if threads["sink"].ident is None:
            self._deliver()  # interrupted before the threads were running: close the sinks here
        deadline = time.monotonic() + _FINISH_SINKS_S
        _join(threads["sink"], deadline)
        while self._closing.is_set() and threads["sink"].is_alive():
            threads["sink"].join(_POLL_S)
        for thread in threads.values():
            _join(thread, deadline)
        return tuple(name for name, thread in threads.items() if thread.is_alive())

    # Each stage ends the next one by closing what it feeds, and the one before by closing what it
    # reads; a stage that fails ends the same way after noting its error. So what was captured
    # before the camera failed is still processed, and a blocked writer is always woken.

    def _close_before_model(self) -> None:
        self._discard(self._arrived)
        self._discard(self._prepared)

    def _discard(self, handoff: Handoff[Any]) -> None:
        self._ledger.leave(handoff.close(discard=True))

    def _hand(self, handoff: Handoff[T], item: T) -> T | None:
        """Put an item, or leave it where nobody takes it any more."""
        try:
            return handoff.put(item)
        except Closed:
            self._ledger.leave()
            raise

    def _capture(self) -> None:
        with self._noting_errors():
            try:
                self._read_source()
            finally:
                self._arrived.close()

    def _preprocess(self) -> None:
        with self._noting_errors():
            try:
                while True:
                    self._prepare_next(lambda prepared: self._hand(self._prepared, prepared))
            finally:
                self._discard(self._arrived)
                self._prepared.close()

    def _infer(self, feed: Feed) -> None:
        with self._noting_errors():
            try:
                self._process(feed)
            finally:
                self._close_before_model()
                self._results.close()

    def _take_prepared(self, use: Callable[[Prepared], object]) -> None:
        use(self._prepared.get())

    def _deliver(self) -> None:
        try:
            with self._noting_errors():
                self._feed_sinks()
            self._close_before_model()
            self._discard(self._results)
        finally:
            self._close_sinks()
            self._finished.set()

    def _close_sinks(self) -> None:
        """Files first: whoever only looks on must not cost what was recorded."""
        self._closing.set()
        onlookers = [sink for sink in self._sinks if isinstance(sink, Onlooker)]
        for onlooker in onlookers:
            onlooker.stop()
        for sink in (*(one for one in self._sinks if one not in onlookers), *onlookers):
            with self._noting_errors(), _border(OutputError, f"closing '{sink.destination}'"):
                sink.close()
                self._closed.append(sink.destination)

    @contextmanager
    def _noting_errors(self) -> Iterator[None]:
        try:
            yield
        except Closed:
            pass  # the regular end
        except BaseException as err:  # a thread has nobody else to tell
            self._errors.append(err)  # raised in the caller

    def _read_source(self) -> None:
        pairs = arrivals_of(self._source)
        with _border(SourceError, f"reading '{self._source.uri}'"), closing(pairs):
            while not self._arrived.closed:
                began_ns = now_ns()
                pair = next(pairs, _END)
                at_ns = now_ns()
                if pair is _END:
                    return
                if isinstance(pair, FrameError):
                    self._ledger.capture_damaged()
                    self._ledger.drop_unusable(reason_of("unusable frame", pair), pair)
                elif isinstance(pair, Arrival):  # else nothing came for a while
                    self._ledger.capture(pair.number if self._source.live else None)
                    if self._hand(self._arrived, Captured(pair, at_ns - began_ns, at_ns)):
                        self._ledger.drop(OVERTAKEN)

    def _prepare_next(self, use: Callable[[Prepared], object]) -> None:
        """Wait for the next pair and give what the model takes to ``use``, unless it is dropped."""
        captured = self._arrived.get()
        taken_ns = now_ns()
        if self._is_stale(captured, taken_ns):
            self._ledger.drop(STALE)
            return
        name = captured.arrival.id
        with _border(SourceError, f"decoding frame '{name}'"):
            try:
                frame = captured.arrival.decode()
            except FrameError as err:
                self._ledger.drop_unusable(reason_of("unusable frame", err), err)
                return
        with _border(SessionError, f"preparing frame '{name}'"):
            try:
                inputs = prepare(frame, self._spec)
            except FrameError as err:
                reason = reason_of("unusable frame", err) if frame.valid.any() else NO_DEPTH
                self._ledger.drop_unusable(reason, err)
                return
        ready_ns = now_ns()
        wait_ns = taken_ns - captured.at_ns
        use(Prepared(captured, frame, inputs, wait_ns, ready_ns - taken_ns, ready_ns))

    def _process(self, feed: Feed) -> None:
        """Run the model on what ``feed`` gives, up to the limit."""
        processed = 0

        def process(prepared: Prepared) -> None:
            nonlocal processed
            with _border(SessionError, f"processing frame '{prepared.frame.id}'"):
                result = self._result(prepared)
            if result is not None:
                self._hand(self._results, result)
                processed += 1

        while processed != self._options.limit:
            feed(process)
        self._stopped = "limit reached"

    def _result(self, prepared: Prepared) -> Result | None:
        """What the model says of one frame, or None where that cannot be used."""
        taken_ns = now_ns()
        output = self._run_model(prepared.inputs)
        inferred_ns = now_ns()
        try:
            plane = saliency_plane(output, self._spec)
        except FrameError as err:
            self._ledger.drop_unusable(reason_of("unusable output", err), err)
            return None
        self._ledger.use()
        ready_ns = now_ns()
        spent_ns = taken_ns - prepared.at_ns, inferred_ns - taken_ns, ready_ns - inferred_ns
        return Result(prepared, plane, *spent_ns, ready_ns)

    def _is_stale(self, captured: Captured, now: int) -> bool:
        limit_ms = self._options.max_staleness_ms
        if limit_ms is None or not self._source.live:
            return False
        return now - captured.arrival_ns > limit_ms * 1e6

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

    def _moment_ns(self, captured: Captured, frame: RgbdFrame) -> int:
        """When a frame was taken, always by the same clock; without one, frames just follow."""
        if self._source.live:
            return captured.arrival_ns
        self._last_moment_ns = frame.timestamp_ns or self._last_moment_ns + 1
        return self._last_moment_ns

    def _feed_sinks(self) -> None:
        while True:
            result = self._results.get()
            prepared, taken_ns = result.prepared, now_ns()
            captured, frame = prepared.captured, prepared.frame
            plane = result.plane
            if self._smooth is not None:
                plane = self._smooth(plane, self._moment_ns(captured, frame))
            whole = plane
            if not all(paints for _, paints in self._given):
                whole = resize_saliency(plane, (frame.rgb.shape[0], frame.rgb.shape[1]))
            ready_ns = now_ns()
            stages_ns = (
                captured.capture_ns,
                prepared.wait_ns + result.wait_ns + taken_ns - result.at_ns,
                prepared.preprocess_ns,
                result.infer_ns,
                result.check_ns + ready_ns - taken_ns,
            )
            record = self._ledger.record(frame, stages_ns, ready_ns - captured.arrival_ns)
            for sink, paints in self._given:
                with _border(OutputError, f"writing frame '{frame.id}' to '{sink.destination}'"):
                    sink.write(frame, plane if paints else whole, record)
            done_ns = now_ns()
            record = self._ledger.deliver(
                record, (*stages_ns, done_ns - ready_ns), done_ns - captured.arrival_ns
            )
            if self._on_progress is not None:
                with _border(OutputError, "reporting progress"):
                    self._on_progress(record)


_END = object()


@contextmanager
def _border(error: type[EdgeFusionError], doing: str) -> Iterator[None]:
    """Turn what a driver, a backend or a callback raises into one of our errors."""
    try:
        yield
    except (EdgeFusionError, Closed):
        raise
    except Exception as err:
        said = without_credentials(f"{type(err).__name__}: {err}")  # drivers quote addresses
        raise error(f"{doing} failed", got=said) from err


def _join(thread: threading.Thread, deadline: float) -> None:
    if thread.ident is not None:
        thread.join(max(0.0, deadline - time.monotonic()))
