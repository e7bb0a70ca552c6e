"""How a stream ends: what was written is finished, whatever else happens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_fusion.bundle import Bundle
from edge_fusion.frame import RgbdFrame
from edge_fusion.runtime import pipeline
from edge_fusion.runtime.ledger import FrameRecord
from edge_fusion.runtime.source.base import Arrivals
from edge_fusion.runtime.stream import StreamOptions, stream
from edge_fusion.spec import DepthSpec, ModelSpec

SPEC = ModelSpec(name="tiny", height=8, width=8)


def frame(number: int, timestamp_ns: int = 0) -> RgbdFrame:
    depth = np.full((8, 8), 800, np.uint16)
    rgb = np.full((8, 8, 3), 255 * (number == 0), np.uint8)
    return RgbdFrame(rgb, depth, DepthSpec(scale_to_m=0.001), f"f{number}", number, timestamp_ns)


class Endless:
    live, uri = False, "memory://endless"

    def frames(self) -> Iterator[RgbdFrame]:
        number = 0
        while True:
            time.sleep(0.002)
            yield frame(number)
            number += 1


class Brightness:
    """Answers how bright the picture is."""

    def run(self, inputs: dict[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
        bright = float(inputs["rgb"].mean() > 0)
        return {"saliency": np.full((1, 1, 8, 8), bright, np.float32)}

    def close(self) -> None: ...


class Log:
    """A sink that notes what is done to it in a list that it may share."""

    def __init__(
        self,
        name: str = "log",
        events: list[str] | None = None,
        on_write: Callable[[], None] = lambda: None,
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        self.destination, self.events = name, [] if events is None else events
        self.on_write, self.on_close = on_write, on_close
        self.levels: list[float] = []

    def write(self, frame: RgbdFrame, saliency: NDArray[np.float32], record: FrameRecord) -> None:
        self.on_write()
        self.levels.append(float(saliency.mean()))

    def close(self) -> None:
        self.on_close()
        self.events.append(f"{self.destination} closed")


class Viewer(Log):
    def stop(self) -> None:
        self.events.append(f"{self.destination} stops")


def stopping(after: int) -> tuple[threading.Event, Log]:
    stop, seen = threading.Event(), Log("seen")

    def count() -> None:
        if len(seen.levels) + 1 >= after:
            stop.set()

    seen.on_write = count
    return stop, seen


def test_files_are_finished_before_viewers_are_waited_for() -> None:
    events: list[str] = []
    sinks = [Viewer("page", events), Log("file", events), Viewer("window", events)]
    stream(Brightness(), SPEC, Endless(), sinks, StreamOptions(limit=2))
    assert events == [
        "page stops", "window stops", "file closed", "page closed", "window closed",
    ]  # fmt: skip


def test_a_file_that_takes_long_to_finish_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "_FINISH_SINKS_S", 0.05)
    stop, seen = stopping(after=2)
    slow = Log("slow", on_close=lambda: time.sleep(0.4))
    summary = stream(Brightness(), SPEC, Endless(), [seen, slow], stop=stop)
    assert summary.abandoned == ()
    assert summary.sinks == ("seen", "slow")


def test_a_sink_that_hangs_in_a_write_is_not_said_to_be_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pipeline, "_FINISH_SINKS_S", 0.05)
    stop, let = threading.Event(), threading.Event()

    def hang() -> None:
        stop.set()
        let.wait(5)

    summary = stream(Brightness(), SPEC, Endless(), [Log(on_write=hang)], stop=stop)
    let.set()
    assert summary.abandoned == ("sink",)
    assert summary.sinks == ()
    assert summary.captured == summary.frames + summary.unprocessed


def test_whatever_a_callback_raises_the_sinks_are_closed() -> None:
    log = Log()

    def leave(record: FrameRecord) -> None:
        raise SystemExit(1)

    with pytest.raises(SystemExit):
        stream(Brightness(), SPEC, Endless(), [log], on_progress=leave)
    assert log.events == ["log closed"]


@pytest.mark.parametrize("mode", ["every", "freshest"])
@pytest.mark.parametrize("limit", [1, 5, None])
def test_what_is_left_over_is_counted_one_by_one(mode: str, limit: int | None) -> None:
    stop, seen = stopping(after=9)
    options = StreamOptions(mode=mode, limit=limit)  # type: ignore[arg-type]
    summary = stream(Brightness(), SPEC, Endless(), [seen], options, stop=stop)
    drops = sum(summary.drops.values())
    assert summary.captured == summary.frames + drops + summary.unprocessed
    assert summary.frames == len(seen.levels)


def test_damaged_pairs_of_a_camera_are_not_missed_as_well() -> None:
    from edge_fusion.errors import FrameError
    from edge_fusion.runtime.source.arrivals import arrival_of

    class Camera:
        live, uri = True, "memory://camera"

        def arrivals(self) -> Arrivals:
            yield arrival_of(frame(0))
            yield FrameError("damaged")
            yield FrameError("damaged")
            yield arrival_of(frame(3))
            yield arrival_of(frame(5))

        def frames(self) -> Iterator[RgbdFrame]:
            raise AssertionError

    summary = stream(Brightness(), SPEC, Camera(), [], StreamOptions(mode="every"))
    assert (summary.captured, summary.missed, summary.frames) == (5, 1, 3)


@pytest.mark.parametrize("stamps", [(0, 33_000_000, 66_000_000), (0, 0, 0), (5, 10**8, 2 * 10**8)])
def test_smoothing_goes_by_one_clock(stamps: tuple[int, ...]) -> None:
    class Stored:
        live, uri = False, "memory://stored"

        def frames(self) -> Iterator[RgbdFrame]:
            return (frame(number, stamp) for number, stamp in enumerate(stamps))

    log = Log()
    stream(Brightness(), SPEC, Stored(), [log], StreamOptions(smoothing=0.5))
    assert log.levels == pytest.approx([1, 0.5, 0.25])


RUN = (sys.executable, "-m", "edge_fusion", "run")


def test_a_reader_that_leaves_early_costs_no_recording(tiny_bundle: Bundle, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*RUN, str(tiny_bundle.path), "demo://?frames=200&size=64x48&pace=50", "out.avi"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()  # the first line of progress comes after two seconds
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert process.wait(30) == 141
    assert "Traceback" not in errors
    assert (tmp_path / "out.avi").stat().st_size > 10_000
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_terminal_that_is_gone_ends_it_as_ctrl_c_does(
    tiny_bundle: Bundle, tmp_path: Path
) -> None:
    process = subprocess.Popen(
        [*RUN, str(tiny_bundle.path), "demo://?frames=100000&size=64x48", "out.avi"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGHUP)
    out, _ = process.communicate(timeout=30)
    assert "interrupted" in out
    assert (tmp_path / "out.avi").exists()


def test_one_wish_that_comes_twice_ends_it_once(tiny_bundle: Bundle, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*RUN, str(tiny_bundle.path), "demo://?frames=100000&size=64x48", "out.avi"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.readline()
    for number in (signal.SIGINT, signal.SIGINT, signal.SIGTERM):  # a terminal, then a launcher
        process.send_signal(number)  # at once: a run may be over within milliseconds
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 0, out
    assert [path.name for path in tmp_path.iterdir() if path.name != "tiny"] == ["out.avi"]


def test_output_that_nobody_reads_does_not_hold_up_the_stream(
    tiny_bundle: Bundle, tmp_path: Path
) -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, bytes(4096))
    os.set_blocking(writer, True)
    log = tmp_path / "frames.jsonl"
    process = subprocess.Popen(
        [*RUN, str(tiny_bundle.path), "demo://?live=1&size=64x48&fps=20", str(log), "web://:0"],
        stdout=writer,
        stderr=writer,
    )
    try:
        deadline = time.monotonic() + 30
        # The first line of progress, which would have to wait, comes after two seconds.
        while not log.exists() or len(log.read_bytes().splitlines()) < 60:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait()
        os.close(reader)
        os.close(writer)
