"""The figures a web page shows and a watchdog asks for, kept while a stream runs."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from ..ledger import STAGES, FrameRecord

if TYPE_CHECKING:
    from ..telemetry import MachineSample

HISTORY_S = 300  # what the plots show

_RECENT = 300  # frames in the percentiles: ten seconds at 30 fps
_SEEN_STAGES = tuple(stage for stage in STAGES if stage != "sink")  # ours: not known yet
_NOT_SHOWN = "at_ns"  # of a machine's sample: the page says when it was asked

Status = Literal["starting", "ok", "stalled", "stopping"]


class _Second(NamedTuple):
    """What happened within one second; None where nothing did."""

    latency_p50_ms: float | None
    latency_max_ms: float | None
    fps: int
    power_w: float | None


class Numbers:
    """Counts and times of one stream; all methods may be called from any thread.

    Args:
        stalled_after_s: Seconds without a frame, be it the first one, after which the stream
            counts as stalled.
        machine: Gives the newest sample of the machine, or None; must return at once.
        drops: Gives the dropped frames by reason; must return at once.
        drift: Gives the newest judgement of the inputs, or None; must return at once.
    """

    def __init__(
        self,
        stalled_after_s: float,
        machine: Callable[[], MachineSample | None] | None = None,
        drops: Callable[[], Mapping[str, int]] | None = None,
        drift: Callable[[], Mapping[str, Any] | None] | None = None,
    ) -> None:
        self._stalled_after_s = stalled_after_s
        self._machine, self._drops = machine or (lambda: None), drops or dict
        self._drift = drift or (lambda: None)
        self._lock = threading.Lock()
        self._began_s = time.monotonic()
        self._frames = 0
        self._last_s = self._began_s
        self._last: FrameRecord | None = None
        self._size = (0, 0)
        self._recent: deque[tuple[float, ...]] = deque(maxlen=_RECENT)
        self._second = 0  # the one that is running
        self._latencies_ms: list[float] = []  # of the running second
        self._history: deque[_Second] = deque(maxlen=HISTORY_S)
        self._stopping = False

    def add(self, record: FrameRecord, size: tuple[int, int]) -> None:
        """Count one frame.

        Args:
            record: Its way through the stream.
            size: Its width and height.
        """
        row = (*(getattr(record, f"{stage}_ms") for stage in _SEEN_STAGES), record.latency_ms)
        with self._lock:
            self._roll()
            self._frames += 1
            self._last, self._last_s, self._size = record, time.monotonic(), size
            self._recent.append(row)
            self._latencies_ms.append(record.latency_ms)

    def stop(self) -> None:
        """From now on the stream is ending."""
        self._stopping = True

    def health(self) -> dict[str, Any]:
        """Whether frames are coming, in a few figures.

        Returns:
            ``status`` (starting, ok, stalled, stopping), ``frames``, ``fps``, ``drops``,
            ``uptime_s`` and ``last_frame_age_s``, None before the first frame.
        """
        with self._lock:
            return self._health()

    def now(self, watchers: int) -> dict[str, Any]:
        """Every figure of this moment, JSON-ready: the health, and what it consists of.

        Args:
            watchers: How many are looking, which only their counter knows.
        """
        sample, by_reason = self._machine(), dict(self._drops())
        with self._lock:
            self._roll()
            rows = np.array(self._recent, np.float64)  # (frames, stages and latency)
            last, size = self._last, self._size
            newest = self._history[-1] if self._history else None
            figures = {
                **self._health(),
                "captured": last.captured if last else 0,
                "drops_by_reason": by_reason,
                "watchers": watchers,
                "second": self._second - 1,
                "last_second": newest._asdict() if newest else None,
            }
        if last is not None:
            medians = np.median(rows, axis=0)
            figures["frame"] = {
                "number": last.number,
                "id": last.id,
                "timestamp_ns": last.timestamp_ns,
                "width": size[0],
                "height": size[1],
            }
            figures["stages_ms"] = {
                stage: round(float(ms), 3)
                for stage, ms in zip(_SEEN_STAGES, medians[:-1], strict=True)
            }
            figures["latency_ms"] = _percentiles(rows[:, -1])
        figures["drift"] = self._drift()
        figures["machine"] = _sample_figures(sample)
        return figures

    def history(self) -> dict[str, Any]:
        """The last minutes by seconds, oldest first; the last entry is second ``second``."""
        with self._lock:
            self._roll()
            columns = zip(*self._history, strict=True) if self._history else [()] * 4
            named = zip(_Second._fields, columns, strict=True)
            return {"second": self._second - 1, **{name: list(column) for name, column in named}}

    def _health(self) -> dict[str, Any]:
        now_s, last = time.monotonic(), self._last
        age_s = now_s - self._last_s if last else None
        return {
            "status": self._status(age_s),
            "frames": self._frames,
            "fps": round(last.fps, 2) if last and self._status(age_s) == "ok" else 0.0,
            "last_frame_age_s": None if age_s is None else round(age_s, 3),
            "drops": last.dropped if last else 0,
            "uptime_s": round(now_s - self._began_s, 1),
        }

    def _status(self, age_s: float | None) -> Status:
        if self._stopping:
            return "stopping"
        if age_s is None:
            waited_s = time.monotonic() - self._began_s
            return "stalled" if waited_s > self._stalled_after_s else "starting"
        return "stalled" if age_s > self._stalled_after_s else "ok"

    def _roll(self) -> None:
        """Close the seconds that are over; those in which nothing came are there too."""
        running = int(time.monotonic() - self._began_s)
        if running == self._second:
            return
        sample = self._machine()
        total_mw = sample.total_mw if sample else None
        power_w = None if total_mw is None else round(total_mw / 1000, 3)
        came = self._latencies_ms
        median = round(float(np.median(came)), 3) if came else None
        worst = round(max(came), 3) if came else None
        self._history.append(_Second(median, worst, len(came), power_w))
        empty = min(running - self._second - 1, HISTORY_S)
        self._history.extend([_Second(None, None, 0, power_w)] * empty)
        self._second, self._latencies_ms = running, []


def _percentiles(latency_ms: np.ndarray[Any, np.dtype[np.float64]]) -> dict[str, float]:
    p50, p90, p99, largest = np.percentile(latency_ms, (50, 90, 99, 100))
    figures = {"last": latency_ms[-1], "p50": p50, "p90": p90, "p99": p99, "max": largest}
    return {name: round(float(ms), 3) for name, ms in figures.items()}


def _sample_figures(sample: MachineSample | None) -> dict[str, Any] | None:
    if sample is None:
        return None
    return {name: value for name, value in sample.as_dict().items() if name != _NOT_SHOWN}
