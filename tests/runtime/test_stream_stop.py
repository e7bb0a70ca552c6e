"""Stopping a stream: by an event, a limit, a signal, whatever hangs meanwhile."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import pytest

from edge_fusion.frame import RgbdFrame
from edge_fusion.runtime.stream import StreamOptions, stream
from tests.fakes.stream import (
    SPEC,
    WAIT_S,
    Collect,
    FakeSession,
    Live,
    Stored,
    adds_up,
    endless,
    frame,
    release_and_settle,
)

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


@pytest.mark.parametrize("live", [True, False])
def test_the_stop_event_ends_the_run_with_a_summary(live: bool) -> None:
    stop = threading.Event()
    source = Live(endless) if live else Stored([frame(0)] * 1_000_000)
    sink = Collect(lambda item: stop.set() if len(sink.numbers) >= 5 else None)
    began = time.monotonic()
    summary = stream(FakeSession(), SPEC, source, [sink], stop=stop)
    assert time.monotonic() - began < 2
    assert (summary.stopped, summary.abandoned, sink.closed) == ("stop requested", (), 1)
    assert summary.frames == len(sink.numbers) > 0
    assert adds_up(summary)
    assert summary.unprocessed <= 7  # two queues of two, and what three stages had in hand


def test_a_source_that_blocks_is_left_behind_and_named() -> None:
    stop, release = threading.Event(), threading.Event()

    def camera() -> Iterator[RgbdFrame]:
        yield frame(0)
        stop.set()
        release.wait(WAIT_S)

    sink = Collect()
    began = time.monotonic()
    summary = stream(FakeSession(), SPEC, Live(camera), [sink], stop=stop)
    assert time.monotonic() - began < 2
    assert (summary.abandoned, summary.stopped) == (("capture",), "stop requested")
    assert sink.closed == 1
    release_and_settle(release)


def test_a_model_that_hangs_is_left_behind_and_the_sinks_are_closed() -> None:
    stop, release = threading.Event(), threading.Event()

    def hang(count: int) -> None:
        if count == 2:
            stop.set()
            release.wait(WAIT_S)

    sink = Collect()
    began = time.monotonic()
    source = Stored([frame(n) for n in range(9)])
    summary = stream(FakeSession(hang), SPEC, source, [sink], stop=stop)
    assert time.monotonic() - began < 2
    assert (summary.abandoned, sink.numbers, sink.closed) == (("inference",), [0, 1], 1)
    assert adds_up(summary)
    release_and_settle(release)


def test_nothing_yet_is_no_error_when_the_user_stops() -> None:
    stop = threading.Event()
    stop.set()
    summary = stream(
        FakeSession(lambda count: time.sleep(0.01)), SPEC, Live(endless), [], stop=stop
    )
    assert summary.stopped == "stop requested"


@pytest.mark.parametrize("live", [True, False])
def test_a_limit_counts_processed_frames(live: bool) -> None:
    items = [frame(0, depth_mm=0), *(frame(n) for n in range(1, 50))]
    source = Live(endless) if live else Stored(items)
    sink = Collect()
    summary = stream(FakeSession(), SPEC, source, [sink], StreamOptions(limit=4))
    assert summary.frames == len(sink.numbers) == 4
    assert summary.stopped == "limit reached"
    assert adds_up(summary)
    if not live:
        assert sink.numbers == [1, 2, 3, 4]
        assert summary.drops == {"no valid depth": 1}


def test_a_camera_is_not_read_on_after_the_last_frame_it_is_asked_for() -> None:
    slow = Collect(lambda item: time.sleep(0.1))
    summary = stream(FakeSession(), SPEC, Live(endless), [slow], StreamOptions(limit=3))
    assert summary.frames == 3
    assert summary.captured < 75  # read on until the sink is done, it would be over 100


SIGINT_SCRIPT = """
import json, signal, sys, threading, time
import numpy as np
from pathlib import Path
from edge_fusion.frame import RgbdFrame
from edge_fusion.runtime.sink.video import OverlayVideo
from edge_fusion.runtime.stream import stream
from edge_fusion.spec import DepthSpec, ModelSpec

class Endless:
    live, uri = sys.argv[2] == "live", "memory://endless"
    def frames(self):
        number = 0
        while True:
            time.sleep(0.005)
            rgb = np.full((48, 64, 3), number % 256, np.uint8)
            depth = np.full((48, 64), 800, np.uint16)
            yield RgbdFrame(rgb, depth, DepthSpec(scale_to_m=0.001), f"f{number}", number)
            number += 1

class Half:
    def run(self, inputs):
        return {"saliency": np.full((1, 1, 16, 16), 0.5, np.float32)}
    def close(self): ...

sent = []
def progress(record):
    if record.number == 20:
        sent.append(time.monotonic())
        signal.raise_signal(signal.SIGINT)

sinks = [OverlayVideo(Path(sys.argv[1]), 30.0)]
spec = ModelSpec(name="tiny", height=16, width=16)
summary = stream(Half(), spec, Endless(), sinks, on_progress=progress)
left = [t.name for t in threading.enumerate() if t is not threading.main_thread()]
seconds = time.monotonic() - sent[0]
print(json.dumps({**summary.as_dict(), "left": left, "seconds": seconds}))
"""


@pytest.mark.parametrize("kind", ["live", "stored"])
def test_ctrl_c_leaves_a_playable_video_and_a_summary(tmp_path: Path, kind: str) -> None:
    video = tmp_path / "out.mp4"
    done = subprocess.run(
        [sys.executable, "-c", SIGINT_SCRIPT, str(video), kind],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    report = json.loads(done.stdout)
    assert report["stopped"] == "interrupted"
    assert report["left"] == []
    assert report["seconds"] < 2
    capture = cv2.VideoCapture(str(video))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == report["frames"] > 10
    capture.release()
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]


def test_ctrl_c_reaches_the_caller_at_once_while_a_driver_blocks(tmp_path: Path) -> None:
    script = SIGINT_SCRIPT.replace("time.sleep(0.005)", "time.sleep(0.005 if number <= 20 else 60)")
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "out.mkv"), "live"],
        capture_output=True, text=True, timeout=50, check=True,
    )  # fmt: skip
    report = json.loads(done.stdout)
    assert report["abandoned"] == ["capture"]
    assert report["seconds"] < 2
    assert time.monotonic() - began < 30  # the process itself ended too
    assert cv2.VideoCapture(str(tmp_path / "out.mkv")).read()[0]
