"""Stream for hours and watch that nothing grows: memory, threads, file handles, uncounted frames.

A demo source plays a camera; every part that a robot has running takes part: the model, a page that
somebody looks at now and then, and telemetry.

    python -m benchmarks.soak BUNDLE --minutes 60 --json soak.json
"""

from __future__ import annotations

import gc
import json
import re
import statistics
import threading
import time
import urllib.request
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.command import run
from edge_fusion.errors import GateError
from edge_fusion.files import write_bytes
from edge_fusion.runtime.run import Run, RunOptions, run_bundle

LARGEST_GROWTH = 0.02  # of resident memory
SETTLING = 0.2  # share of the samples at the beginning that are not judged


@dataclass(frozen=True, slots=True)
class Sample:
    """What the process holds at one moment."""

    at_s: float
    resident_bytes: int
    threads: int
    handles: int


def take_sample(began: float) -> Sample:
    """From ``/proc``, after collecting what is merely not collected yet."""
    gc.collect()
    status = Path("/proc/self/status").read_text()
    kilobytes = int(status.split("VmRSS:")[1].split()[0])
    handles = len(list(Path("/proc/self/fd").iterdir()))
    return Sample(time.monotonic() - began, 1024 * kilobytes, threading.active_count(), handles)


def growth(samples: list[Sample]) -> float:
    """Resident memory of the last fifth over that of the first after settling, less one."""
    judged = samples[int(SETTLING * len(samples)) :]
    part = max(1, len(judged) // 5)
    first, last = (
        statistics.median(one.resident_bytes for one in some)
        for some in (judged[:part], judged[-part:])
    )
    return last / first - 1


class Visitor:
    """Somebody who looks at the page now and then."""

    def __init__(self) -> None:
        self.address = ""
        self.looks = 0

    def hear(self, note: str) -> None:
        """Find the page's address in what the stream says."""
        if found := re.search(r"http://\S+", note):
            self.address = found[0].rstrip("/")

    def look(self) -> None:
        """Fetch a picture and the health."""
        for part in ("overlay.jpg", "healthz") if self.address else ():
            with urllib.request.urlopen(f"{self.address}/{part}", timeout=5) as answer:
                answer.read()
            self.looks += 1


def soak(
    options: RunOptions, seconds: float, on_sample: Callable[[Sample], None]
) -> tuple[Run, list[Sample], int]:
    """Stream for so long and take a sample a hundred times meanwhile."""
    stop, began, visitor = threading.Event(), time.monotonic(), Visitor()
    samples: list[Sample] = []

    def watch() -> None:
        while not stop.wait(max(0.5, seconds / 100)):
            visitor.look()
            samples.append(take_sample(began))
            on_sample(samples[-1])
            if time.monotonic() - began > seconds:
                stop.set()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    done = run_bundle(options, note=visitor.hear, stop=stop)
    stop.set()
    watcher.join()
    return done, samples, visitor.looks


def check(done: Run, samples: list[Sample]) -> list[str]:
    """What is not as it should be."""
    summary, judged = done.summary, samples[int(SETTLING * len(samples)) :]
    uncounted = (
        summary.captured - summary.frames - sum(summary.drops.values()) - summary.unprocessed
    )
    problems = []
    if (grown := growth(samples)) > LARGEST_GROWTH:
        problems.append(f"resident memory grew by {100 * grown:.1f} %")
    for name in ("threads", "handles"):
        counts = [getattr(one, name) for one in judged]
        if counts[-1] > counts[0]:
            problems.append(f"{name} grew from {counts[0]} to {counts[-1]}")
    if uncounted or summary.abandoned:
        problems.append(f"{uncounted} frames uncounted, abandoned: {summary.abandoned}")
    return problems


def main(
    bundle: Path,
    minutes: Annotated[float, typer.Option(help="How long.")] = 60.0,
    source: Annotated[str, typer.Option(help="What to stream.")] = (
        "demo://?frames=1000000000&live=1&fps=15&size=320x240"
    ),
    json_to: Annotated[Path | None, typer.Option("--json", help="Write what was seen.")] = None,
) -> None:
    """Stream for hours and fail if anything grows."""
    console = Console(highlight=False)
    options = RunOptions(bundle, source, sinks=("web://127.0.0.1:0",))

    def show(one: Sample) -> None:
        console.print(
            f"{one.at_s:7.0f} s  {one.resident_bytes / 2**20:7.1f} MiB  "
            f"{one.threads} threads  {one.handles} handles"
        )

    done, samples, looks = soak(options, 60 * minutes, show)
    problems = check(done, samples)
    figures = {
        "growth": growth(samples),
        "looks": looks,
        "summary": done.summary.as_dict(),
        "samples": [asdict(one) for one in samples],
        "problems": problems,
    }
    if json_to is not None:
        write_bytes(json_to, json.dumps(figures, indent=1, default=str).encode(), "the samples")
    console.print(f"memory {100 * growth(samples):+.2f} % after settling")
    if problems:
        raise GateError("; ".join(problems))


if __name__ == "__main__":
    run(main)
