"""Watching a builder at work: how far it is, and stopping it.

A build takes minutes within one call into TensorRT.  It runs in a thread of its own, since that
call would keep Ctrl-C waiting; progress is always reported from the caller's thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from .progress import Progress

POLL_SECONDS = 0.2
STEP = "build"


class Watch:
    """What a builder last said of itself; TensorRT calls from its thread, others read."""

    def __init__(self) -> None:
        self.cancelled = False
        self.ended = False  # only then may anybody else touch what the builder works on
        self.phase, self.done, self.total = "", 0, 0
        self._outermost = ""

    def start(self, phase: str, parent: str | None, steps: int) -> None:
        """A phase begins; the one without a parent is the whole build."""
        if parent is None:
            self._outermost, self.done, self.total = phase, 0, steps
        self.phase = phase

    def step(self, phase: str, step: int) -> bool:
        """A step of a phase is done; says whether to go on."""
        if phase == self._outermost:
            self.done = step + 1
        return not self.cancelled


def make_monitor(trt: Any, watch: Watch) -> Any | None:
    """TensorRT's own progress monitor, reporting to ``watch``; None before TensorRT 10."""
    if not hasattr(trt, "IProgressMonitor"):
        return None

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)  # pybind refuses super() here

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            watch.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return watch.step(phase_name, step)

        def phase_finish(self, phase_name: str) -> None:
            """Steps tell enough."""

    return Monitor()


def run_watched(
    work: Callable[[], Any], watch: Watch, progress: Progress, *, stoppable: bool
) -> Any:
    """Run a build in a thread and report until it is done.

    Args:
        work: The build.
        watch: What it reports to, if it can.
        progress: Told how far it is; the time alone where the builder does not say.
        stoppable: Whether the builder heeds ``watch``.  One that does is waited for after Ctrl-C,
            so that its timings can be kept; any other is left behind.

    Returns:
        What ``work`` returned.

    Raises:
        KeyboardInterrupt: From Ctrl-C, or whatever ``work`` raised.
    """
    results: list[Any] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as err:  # carried over to the caller's thread
            failures.append(err)
        finally:
            watch.ended = True

    thread = threading.Thread(target=run, name="tensorrt-build", daemon=True)
    started = time.monotonic()
    thread.start()
    try:
        while thread.is_alive():
            thread.join(POLL_SECONDS)
            _report(progress, watch, time.monotonic() - started)
    except BaseException:
        watch.cancelled = True
        if stoppable:
            thread.join()
        raise
    if failures:
        raise failures[0]
    return results[0]


def _report(progress: Progress, watch: Watch, seconds: float) -> None:
    # The last part is reported with the result: what is finished may still fail to be written.
    done = min(watch.done, max(0, watch.total - 1))
    detail = f"{watch.phase}, {seconds:.0f} s" if watch.phase else f"{seconds:.0f} s"
    progress(STEP, done, watch.total, detail)
