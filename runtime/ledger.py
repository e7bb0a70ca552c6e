"""The account of a stream: what became of every frame, and how long each stage took."""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from edge_fusion.errors import FrameError, SourceError
from edge_fusion.frame import RgbdFrame

from .timing import LatencySummary

STAGES = ("capture", "wait", "preprocess", "infer", "postprocess", "sink")

_WINDOW = 65_536  # frames in the percentiles: 36 minutes at 30 fps, 3.5 MB
_RECENT = 31  # frames in the running frame rate
_MOST_REASONS = 16  # distinct reasons kept apart, in case they hold something that varies
_MOST_PROBLEMS = 5  # messages kept in full

now_ns = time.monotonic_ns  # the clock of RgbdFrame.arrival_ns


@dataclass(frozen=True, slots=True)
class FrameRecord:
    """One frame's way through the stream, in milliseconds.

    Attributes:
        number: The frame's number.
        id: Its name in the source.
        capture_ms: Reading it, which for a live source includes waiting for it.
        wait_ms: Standing between stages, before the model and before the sinks.
        preprocess_ms: From the pair to the model's inputs, decoding of a live one included.
        infer_ms: The model itself.
        postprocess_ms: From its output to a saliency map, of the frame's size where a sink takes
            one so large.
        sink_ms: All sinks together.
        latency_ms: From its arrival (live) or the end of its reading (stored) until the last sink
            was done; in a sink's hands: until the sinks got it.
        timestamp_ns: The device's time of the pair, ns; 0 where it has none.
        fps: Frame rate of the stream over the last 30 frames.
        captured: Pairs the source has delivered so far.
        dropped: How many of them were dropped.
        drops: The same by reason.
    """

    number: int
    id: str
    capture_ms: float
    wait_ms: float
    preprocess_ms: float
    infer_ms: float
    postprocess_ms: float
    sink_ms: float
    latency_ms: float
    timestamp_ns: int
    fps: float
    captured: int
    dropped: int
    drops: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StreamSummary:
    """What became of a stream.

    ``captured == frames + sum(drops.values()) + unprocessed`` always holds.

    Attributes:
        source: The source's URI.
        sinks: The destinations of the sinks that were finished.
        live: Whether the source was live.
        mode: ``every`` pair was processed, or always the ``freshest``.
        stopped: Why it ended: ``source ended``, ``limit reached``, ``stop requested`` or
            ``interrupted``.
        captured: Pairs the source delivered, unusable ones included.
        missed: Frame numbers that a live source left out: lost before they reached us.
        at_source: What the source counted before there were pairs, such as frames without a
            partner or reconnects.
        frames: Frames that went all the way through the sinks.
        drops: How many frames were dropped, by reason.
        unprocessed: Pairs read ahead and left over when a limit or a stop ended the stream.
        problems: The first few unusable frames, with the full message.
        fps: ``frames / wall_s``.
        wall_s: Seconds from the first pair in hand to the last one delivered.
        stages: Durations by stage, over the last 65,536 frames.
        latency: End-to-end latency (:class:`FrameRecord`), over the same frames.
        abandoned: Threads that did not end in time because a driver, model or sink held them.
    """

    source: str
    sinks: tuple[str, ...]
    live: bool
    mode: str
    stopped: str
    captured: int
    missed: int
    at_source: dict[str, int]
    frames: int
    drops: dict[str, int]
    unprocessed: int
    problems: tuple[str, ...]
    fps: float
    wall_s: float
    stages: dict[str, LatencySummary]
    latency: LatencySummary
    abandoned: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """The summary as JSON-ready values."""
        return asdict(self)


class Ledger:
    """Counts and times every frame of one stream; all methods may be called from any thread.

    Args:
        uri: The source, for messages.
        give_up_after: Unusable frames before the first usable one that end the stream; None: never.
    """

    def __init__(self, uri: str, give_up_after: int | None) -> None:
        self._uri, self._give_up_after = uri, give_up_after
        self._lock = threading.Lock()
        self._durations_ns = np.empty((_WINDOW, len(STAGES) + 1), np.int64)
        self._recent_ns: deque[int] = deque(maxlen=_RECENT)
        self._started_ns = 0
        self._ended_ns = 0
        self._captured = self._usable = self._unusable = self._frames = self._missed = 0
        self._left = 0
        self._number: int | None = None
        self._drops: dict[str, int] = {}
        self._problems: list[FrameError] = []

    def capture(self, number: int | None = None) -> None:
        """Count a pair that the source delivered, whatever its state.

        Args:
            number: A live source's number of it: a gap to the one before is counted as missed.
        """
        with self._lock:
            self._started_ns = self._started_ns or now_ns()
            self._captured += 1
            if number is not None:
                if self._number is not None:  # smaller after a reconnect: no gap
                    self._missed += max(0, number - self._number - 1)
                self._number = number

    def capture_damaged(self) -> None:
        """Count a pair of a source that could not say which; it has a number all the same."""
        self.capture(None if self._number is None else self._number + 1)

    def leave(self, count: int = 1) -> None:
        """Count pairs that nobody will process any more, because the stream ends."""
        with self._lock:
            self._left += count

    def use(self) -> None:
        """Count a frame that the model took and answered."""
        with self._lock:
            self._usable += 1

    def drop(self, reason: str) -> None:
        """Count a frame that will not be processed."""
        with self._lock:
            self._count(reason)

    def drop_unusable(self, reason: str, problem: FrameError) -> None:
        """Count a frame that cannot be processed.

        Raises:
            SourceError: So many were unusable from the start that more of them are of no use.
        """
        with self._lock:
            self._count(reason)
            self._unusable += 1
            if len(self._problems) < _MOST_PROBLEMS:
                self._problems.append(problem)
            hopeless = (
                self._give_up_after is not None
                and not self._usable
                and self._unusable >= self._give_up_after
            )
        if hopeless:
            raise self.nothing_processed()

    def record(
        self, frame: RgbdFrame, durations_ns: tuple[int, ...], latency_ns: int
    ) -> FrameRecord:
        """A frame's way until now; ``durations_ns`` in the order of ``STAGES``, missing ones 0."""
        fps = self.running_fps()
        with self._lock:
            captured, drops = self._captured, dict(self._drops)
        spent_ms = dict.fromkeys((f"{stage}_ms" for stage in STAGES), 0.0)
        spent_ms.update(zip(spent_ms, (ns / 1e6 for ns in durations_ns), strict=False))
        return FrameRecord(
            number=frame.number,
            id=frame.id,
            **spent_ms,
            latency_ms=latency_ns / 1e6,
            timestamp_ns=frame.timestamp_ns,
            fps=fps,
            captured=captured,
            dropped=sum(drops.values()),
            drops=drops,
        )

    def deliver(
        self, record: FrameRecord, durations_ns: tuple[int, ...], latency_ns: int
    ) -> FrameRecord:
        """Count a frame that is through; ``durations_ns`` in the order of ``STAGES``.

        Returns:
            The record that its sinks got, with what they took and the frame rate it makes.
        """
        with self._lock:
            self._durations_ns[self._frames % _WINDOW] = (*durations_ns, latency_ns)
            self._frames += 1
            self._ended_ns = now_ns()
            self._recent_ns.append(self._ended_ns)
        return replace(
            record,
            sink_ms=durations_ns[-1] / 1e6,
            latency_ms=latency_ns / 1e6,
            fps=self.running_fps(),
        )

    def running_fps(self) -> float:
        """Frame rate over the last 30 frames; 0 before there are two."""
        with self._lock:
            if len(self._recent_ns) < 2:
                return 0.0
            span_ns = self._recent_ns[-1] - self._recent_ns[0]
            return (len(self._recent_ns) - 1) * 1e9 / max(span_ns, 1)

    @property
    def dropped(self) -> int:
        """Frames dropped so far, for whatever reason."""
        with self._lock:
            return sum(self._drops.values())

    @property
    def frames(self) -> int:
        """Frames that are through."""
        return self._frames

    def nothing_processed(self) -> SourceError:
        """The error for a stream of which not one frame came through."""
        if not self._captured:
            return SourceError(f"the source '{self._uri}' delivered nothing", cure="is it empty?")
        counts = ", ".join(f"{count} x {reason}" for reason, count in self._drops.items())
        first = self._problems[0] if self._problems else None
        error = SourceError(
            f"not one frame of '{self._uri}' could be used",
            got=f"{self._captured} captured: {counts or 'none processed'}",
            cure=f"the first was: {first}" if first else "allow frames to be older",
        )
        error.__cause__ = first
        return error

    def summary(
        self,
        *,
        sinks: tuple[str, ...],
        live: bool,
        mode: str,
        stopped: str,
        abandoned: tuple[str, ...],
        at_source: Mapping[str, int],
    ) -> StreamSummary:
        """Close the account."""
        with self._lock:
            frames, drops = self._frames, dict(self._drops)
            # What a thread that does not end still holds can only be told by what is missing.
            rest = self._captured - frames - sum(drops.values())
            columns = self._durations_ns[: min(frames, _WINDOW)].T.tolist()
            wall_s = max(self._ended_ns - self._started_ns, 0) / 1e9 if frames else 0.0
            *stages, latency = (LatencySummary.from_ns(column) for column in columns)
            return StreamSummary(
                source=self._uri,
                sinks=sinks,
                live=live,
                mode=mode,
                stopped=stopped,
                captured=self._captured,
                missed=self._missed,
                at_source={name: count for name, count in at_source.items() if count},
                frames=frames,
                drops=drops,
                unprocessed=rest if abandoned else self._left,
                problems=tuple(str(problem) for problem in self._problems),
                fps=frames / wall_s if wall_s else 0.0,
                wall_s=wall_s,
                stages=dict(zip(STAGES, stages, strict=True)),
                latency=latency,
                abandoned=abandoned,
            )

    def _count(self, reason: str) -> None:
        if reason not in self._drops and len(self._drops) >= _MOST_REASONS:
            reason = "other reasons"
        self._drops[reason] = self._drops.get(reason, 0) + 1


def reason_of(kind: str, problem: FrameError) -> str:
    """A frame's problem without its name, so that equal problems count as one reason.

    Example:
        >>> reason_of("unusable frame", FrameError("depth of 'img_7': no valid reading"))
        'unusable frame: depth: no valid reading'
    """
    return f"{kind}: " + re.sub(r"( of)? '[^']*'", "", problem.what)
