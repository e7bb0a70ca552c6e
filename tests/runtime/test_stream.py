from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
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
from edge_fusion.preprocess import resize_saliency
from edge_fusion.runtime import ledger, pipeline
from edge_fusion.runtime.sink.beside import Beside
from edge_fusion.runtime.source.base import Arrival
from edge_fusion.runtime.stream import FrameRecord, StreamOptions, StreamSummary, stream
from edge_fusion.spec import DepthInput, DepthSpec, ModelSpec, Output

SPEC = ModelSpec(name="tiny", height=16, width=16)
MM = DepthSpec(scale_to_m=0.001)
WAIT_S = 5.0  # far longer than anything here takes

Tensors = dict[str, NDArray[np.float32]]


def frame(number: int, *, depth_mm: int = 800, arrival_ns: int = 0) -> RgbdFrame:
    rgb = np.full((24, 32, 3), number % 256, np.uint8)
    depth = np.full((24, 32), depth_mm, np.uint16)
    return RgbdFrame(rgb, depth, MM, f"f{number}", number, arrival_ns=arrival_ns)


class Stored:
    """A recording held in memory; an item may be an error to raise in its place."""

    live = False
    uri = "memory://stored"

    def __init__(self, items: Sequence[RgbdFrame | Exception]) -> None:
        self.items = items
        self.read = 0

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> RgbdFrame:
        self.read += 1
        item = self.items[index]
        if isinstance(item, Exception):
            raise item
        return item

    def frames(self) -> Iterator[RgbdFrame]:
        return (self[index] for index in range(len(self)))


class Live:
    """A camera played by a generator or an iterator."""

    live = True
    uri = "memory://live"

    def __init__(self, play: Callable[[], Iterator[RgbdFrame]]) -> None:
        self.play = play

    def frames(self) -> Iterator[RgbdFrame]:
        return self.play()


class FakeSession:
    """Answers one half everywhere; ``before`` may wait or raise first."""

    def __init__(self, before: Callable[[int], None] = lambda count: None) -> None:
        self.before = before
        self.count = 0

    def run(self, inputs: Mapping[str, NDArray[np.float32]]) -> Tensors:
        self.before(self.count)
        self.count += 1
        return {"saliency": np.full((1, 1, 16, 16), 0.5, np.float32)}

    def close(self) -> None: ...


class Collect:
    """Keeps the numbers it was given; ``before`` may wait or raise first."""

    destination = "memory://sink"

    def __init__(self, before: Callable[[RgbdFrame], None] = lambda frame: None) -> None:
        self.before = before
        self.numbers: list[int] = []
        self.closed = 0

    def write(self, frame: RgbdFrame, saliency: NDArray[np.float32], record: FrameRecord) -> None:
        self.before(frame)
        assert saliency.shape == frame.rgb.shape[:2]
        self.numbers.append(frame.number)

    def close(self) -> None:
        self.closed += 1


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def raiser(error: Exception) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise error

    return fail


def adds_up(summary: StreamSummary) -> bool:
    return summary.captured == (summary.frames + sum(summary.drops.values()) + summary.unprocessed)


# -- nothing lost, nothing unaccounted ------------------------------------------------------------


def test_stored_source_with_a_slow_sink_loses_nothing_and_keeps_order() -> None:
    source = Stored([frame(number) for number in range(25)])
    ahead: list[int] = []

    def slow(item: RgbdFrame) -> None:
        time.sleep(0.004)
        ahead.append(source.read - item.number)

    sink = Collect(slow)
    summary = stream(FakeSession(), SPEC, source, [sink])
    assert sink.numbers == list(range(25))
    assert (summary.captured, summary.frames, summary.drops) == (25, 25, {})
    assert (summary.stopped, summary.unprocessed, summary.abandoned) == ("source ended", 0, ())
    assert sink.closed == 1
    # 1 in the sink, 2 + 1 around each queue, 1 in the reader's hand: it waits, it does not pile up
    assert max(ahead) <= 11


def test_live_source_with_a_busy_model_keeps_only_the_newest() -> None:
    busy, delivered = threading.Event(), threading.Event()

    def camera() -> Iterator[RgbdFrame]:
        yield frame(0)
        assert busy.wait(WAIT_S)  # the model is at frame 0 while nine more arrive
        for number in range(1, 10):
            yield frame(number)
        delivered.set()

    def model(count: int) -> None:
        busy.set()
        assert delivered.wait(WAIT_S)

    sink = Collect()
    summary = stream(FakeSession(model), SPEC, Live(camera), [sink])
    assert sink.numbers == [0, 9]
    assert summary.drops == {"overtaken by a newer frame": 8}
    assert (summary.captured, summary.frames, summary.unprocessed) == (10, 2, 0)
    assert summary.live


def test_live_source_at_its_own_pace_accounts_for_every_frame() -> None:
    def camera() -> Iterator[RgbdFrame]:
        for number in range(60):
            time.sleep(0.001)
            yield frame(number, arrival_ns=time.monotonic_ns())

    sink = Collect()
    summary = stream(FakeSession(lambda count: time.sleep(0.005)), SPEC, Live(camera), [sink])
    assert summary.captured == 60
    assert summary.frames == len(sink.numbers) < 60
    assert summary.frames + summary.drops["overtaken by a newer frame"] == 60
    assert sink.numbers == sorted(sink.numbers)
    assert sink.numbers[-1] == 59


def test_stale_frames_of_a_live_source_are_dropped() -> None:
    taken = threading.Event()

    def camera() -> Iterator[RgbdFrame]:
        yield frame(0, arrival_ns=time.monotonic_ns())
        assert taken.wait(WAIT_S)  # or the second would overtake the first
        yield frame(1, arrival_ns=time.monotonic_ns() - 3_600_000_000_000)

    sink = Collect()
    options = StreamOptions(max_staleness_ms=600_000)
    model = FakeSession(lambda count: taken.set())
    summary = stream(model, SPEC, Live(camera), [sink], options)
    assert (sink.numbers, summary.drops) == ([0], {"stale": 1})


# -- unusable frames ------------------------------------------------------------------------------

UNUSABLE: list[tuple[RgbdFrame | FrameError, str]] = [
    (frame(1, depth_mm=0), "no valid depth"),
    # the id is not part of the reason: a thousand bad files are one line
    (FrameError("depth of 'f1' does not fit"), "unusable frame: depth does not fit"),
]


@pytest.mark.parametrize(("bad", "reason"), UNUSABLE)
def test_an_unusable_frame_is_counted_and_the_run_goes_on(
    bad: RgbdFrame | FrameError, reason: str
) -> None:
    sink = Collect()
    summary = stream(FakeSession(), SPEC, Stored([frame(0), bad, frame(2), bad]), [sink])
    assert sink.numbers == [0, 2]
    assert (summary.captured, summary.drops) == (4, {reason: 2})
    assert len(summary.problems) == 2
    assert "'f1'" in summary.problems[0]


def test_an_unusable_output_is_counted() -> None:
    class Overflowing(FakeSession):
        def run(self, inputs: Mapping[str, NDArray[np.float32]]) -> Tensors:
            outputs = super().run(inputs)
            if self.count == 2:
                outputs["saliency"][:] = np.nan
            return outputs

    sink = Collect()
    summary = stream(Overflowing(), SPEC, Stored([frame(n) for n in range(3)]), [sink])
    assert sink.numbers == [0, 2]
    assert summary.drops == {"unusable output: the model's output holds NaN or infinity": 1}


def test_a_wrong_unit_is_told_instead_of_an_empty_result() -> None:
    spec = SPEC.model_copy(update={"depth": DepthInput(normalisation="linear")})
    relative = RgbdFrame(
        np.zeros((24, 32, 3), np.uint8),
        np.ones((24, 32), np.uint8),
        DepthSpec(scale_to_m=None),
        "r",
    )
    sink = Collect()
    with pytest.raises(SourceError, match="not one frame of 'memory://stored'") as caught:
        stream(FakeSession(), spec, Stored([relative] * 3), [sink])
    assert "3 x unusable frame: depth: the model takes depth in metres" in str(caught.value)
    assert "declare the source's unit" in str(caught.value)
    assert isinstance(caught.value.__cause__, FrameError)
    assert sink.closed == 1


def test_an_empty_source_is_an_error() -> None:
    with pytest.raises(SourceError, match="'memory://stored' delivered nothing"):
        stream(FakeSession(), SPEC, Stored([]), [])


def test_a_hopeless_live_source_is_given_up() -> None:
    def camera() -> Iterator[RgbdFrame]:
        number = 0
        while True:
            time.sleep(0.001)
            yield frame(number, depth_mm=0)
            number += 1

    with pytest.raises(SourceError, match="no valid depth"):
        stream(FakeSession(), SPEC, Live(camera), [], StreamOptions(give_up_after=5))


def test_bad_frames_after_a_good_one_do_not_end_the_run() -> None:
    items = [frame(0), *(frame(n, depth_mm=0) for n in range(1, 20)), frame(20)]
    sink = Collect()
    stream(FakeSession(), SPEC, Stored(items), [sink], StreamOptions(give_up_after=5))
    assert sink.numbers == [0, 20]


def test_an_iterator_goes_on_after_an_unusable_frame() -> None:
    taken = threading.Event()

    class Camera:
        number = -1

        def __iter__(self) -> Camera:
            return self

        def __next__(self) -> RgbdFrame:
            self.number += 1
            if self.number == 1:
                raise FrameError("colour of 'f1'", cure="wipe the lens")
            if self.number == 3:
                raise StopIteration
            if self.number == 2:
                assert taken.wait(WAIT_S)  # or it would overtake the first
            return frame(self.number)

    sink = Collect()
    summary = stream(FakeSession(lambda count: taken.set()), SPEC, Live(Camera), [sink])
    assert (sink.numbers, summary.captured) == ([0, 2], 3)
    assert summary.drops == {"unusable frame: colour": 1}


def test_a_generator_that_raised_is_at_its_end_and_says_why() -> None:
    error = FrameError("colour of 'f1'", cure="wipe the lens")

    def camera() -> Iterator[RgbdFrame]:
        yield frame(0)
        raise error

    sink = Collect()
    with pytest.raises(FrameError) as caught:
        stream(FakeSession(), SPEC, Live(camera), [sink])
    assert caught.value is error
    assert sink.numbers == [0]


# -- errors: raised in the caller, sinks closed, no thread left -----------------------------------


class Failing(Collect):
    """A sink that cannot be finished."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def close(self) -> None:
        super().close()
        raise self.error


def run_failing_at(stage: str, error: Exception) -> tuple[EdgeFusionError, Collect]:
    """Stream forty frames whose ``stage`` raises ``error`` at the third; what came out of it."""

    def at(name: str) -> Callable[[int], None]:
        return lambda number: raiser(error)() if (stage, number) == (name, 2) else None

    items: list[RgbdFrame | Exception] = [frame(n) for n in range(40)]
    if stage == "source":
        items[2] = error
    sink = Failing(error) if stage == "close" else Collect(lambda item: at("sink")(item.number))
    with pytest.raises(EdgeFusionError) as caught:
        stream(
            FakeSession(at("model")),
            SPEC,
            Stored(items),
            [sink],
            on_progress=lambda record: at("progress")(record.number),
        )
    return caught.value, sink


STAGES = [
    ("source", SourceError, "reading 'memory://stored' failed"),
    ("model", SessionError, "processing frame 'f2' failed"),
    ("sink", OutputError, "writing frame 'f2' to 'memory://sink' failed"),
    ("close", OutputError, "closing 'memory://sink' failed"),
    ("progress", OutputError, "reporting progress failed"),
]


@pytest.mark.parametrize(("stage", "kind", "message"), STAGES)
def test_a_foreign_error_is_wrapped_once(
    stage: str, kind: type[EdgeFusionError], message: str
) -> None:
    error = RuntimeError("driver says no")
    raised, sink = run_failing_at(stage, error)
    assert type(raised) is kind
    assert str(raised) == f"{message}: got RuntimeError: driver says no"
    assert raised.__cause__ is error
    assert sink.closed == 1


@pytest.mark.parametrize("stage", [stage for stage, _, _ in STAGES])
def test_our_own_error_arrives_as_it_is(stage: str) -> None:
    error = SourceError("unplugged") if stage == "source" else OutputError("full")
    raised, sink = run_failing_at(stage, error)
    assert raised is error
    assert sink.closed == 1


def test_what_was_captured_before_the_source_failed_is_still_delivered() -> None:
    items: list[RgbdFrame | Exception] = [frame(n) for n in range(6)]
    items.append(RuntimeError("unplugged"))
    sink = Collect(lambda item: time.sleep(0.005))
    with pytest.raises(SourceError, match="unplugged"):
        stream(FakeSession(), SPEC, Stored(items), [sink])
    assert sink.numbers == list(range(6))


def test_every_sink_is_closed_even_if_one_cannot_be() -> None:
    class Stubborn(Collect):
        def close(self) -> None:
            raise OutputError("no room to finish")

    second = Collect()
    with pytest.raises(OutputError, match="no room to finish"):
        stream(FakeSession(), SPEC, Stored([frame(0)]), [Stubborn(), second])
    assert second.closed == 1


def test_sinks_are_closed_even_if_the_stream_cannot_begin() -> None:
    class Unplugged(Stored):
        @property
        def uri(self) -> str:  # type: ignore[override]
            raise SourceError("no such camera")

    sink = Collect()
    with pytest.raises(SourceError, match="no such camera"):
        stream(FakeSession(), SPEC, Unplugged([frame(0)]), [sink])
    assert sink.closed == 1


@pytest.mark.parametrize("granted", [0, 1, 2])
def test_sinks_are_closed_even_if_threads_are_refused(
    granted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, started = threading.Thread.start, []

    def limited(thread: threading.Thread) -> None:
        if len(started) == granted:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    sink = Collect()
    with pytest.raises(SessionError, match="starting the stream's threads: got can't start"):
        stream(FakeSession(), SPEC, Stored([frame(0)]), [sink])
    assert sink.closed == 1


def test_a_missing_output_names_what_there_is() -> None:
    spec = SPEC.model_copy(update={"output": Output(name="mask")})
    with pytest.raises(SessionError, match="expected 'mask', got 'saliency'"):
        stream(FakeSession(), spec, Stored([frame(0)]), [])


def test_an_error_does_not_wait_for_a_camera_that_sleeps() -> None:
    release = threading.Event()

    def camera() -> Iterator[RgbdFrame]:
        yield frame(0)
        release.wait(WAIT_S)

    began = time.monotonic()
    with pytest.raises(SessionError):
        stream(FakeSession(raiser(RuntimeError("no"))), SPEC, Live(camera), [Collect()])
    assert time.monotonic() - began < 2
    release_and_settle(release)


# -- stopping -------------------------------------------------------------------------------------


def release_and_settle(release: threading.Event) -> None:
    """Let an abandoned thread go, so that the check for left-over threads sees the truth."""
    release.set()
    for thread in threading.enumerate():
        if thread.name.startswith("edge-fusion-"):
            thread.join(WAIT_S)


def endless() -> Iterator[RgbdFrame]:
    number = 0
    while True:
        time.sleep(0.002)
        yield frame(number)
        number += 1


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


# -- figures --------------------------------------------------------------------------------------


def test_records_and_summary_agree() -> None:
    records: list[FrameRecord] = []
    seen: list[tuple[float, int]] = []

    def progress(record: FrameRecord) -> None:
        records.append(record)
        seen.append((record.fps, record.dropped))

    items = [frame(0), frame(1, depth_mm=0), frame(2)]
    summary = stream(
        FakeSession(lambda count: time.sleep(0.01)), SPEC, Stored(items), [], on_progress=progress
    )
    assert [(record.number, record.id) for record in records] == [(0, "f0"), (2, "f2")]
    for record in records:
        stages_ms = (
            record.wait_ms, record.preprocess_ms, record.infer_ms,
            record.postprocess_ms, record.sink_ms,
        )  # fmt: skip
        assert record.infer_ms >= 10
        assert sum(stages_ms) == pytest.approx(record.latency_ms, abs=0.001)
    assert seen[0][0] == 0.0  # no rate after a single frame
    assert 0 < seen[1][0] <= 200
    assert seen[1][1] == 1
    assert list(summary.stages) == list(ledger.STAGES)
    assert summary.latency.n == 2
    assert summary.stages["infer"].p50_ms >= 10
    assert summary.fps == pytest.approx(2 / summary.wall_s)
    assert summary.wall_s >= 0.02


def test_latency_of_a_live_frame_counts_from_its_arrival() -> None:
    def camera() -> Iterator[RgbdFrame]:
        yield frame(0, arrival_ns=time.monotonic_ns() - 50_000_000)

    summary = stream(FakeSession(), SPEC, Live(camera), [])
    assert summary.latency.p50_ms >= 50


def test_the_summary_is_json() -> None:
    summary = stream(FakeSession(), SPEC, Stored([frame(0)]), [Collect()])
    data = json.loads(json.dumps(summary.as_dict()))
    assert data["sinks"] == ["memory://sink"]
    assert data["stages"]["infer"]["n"] == 1


def test_percentiles_cover_a_bounded_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "_WINDOW", 4)
    summary = stream(FakeSession(), SPEC, Stored([frame(n) for n in range(10)]), [])
    assert (summary.frames, summary.latency.n) == (10, 4)


def test_reasons_are_bounded() -> None:
    damaged = [FrameError(f"file number {n} is damaged") for n in range(40)]
    items: list[RgbdFrame | Exception] = [frame(0), *damaged]
    summary = stream(FakeSession(), SPEC, Stored(items), [])
    assert len(summary.drops) == 17
    assert summary.drops["other reasons"] == 24
    assert len(summary.problems) == 5


@pytest.mark.parametrize(
    "wrong",
    [{"limit": 0}, {"queue_size": 0}, {"max_staleness_ms": -1.0}, {"give_up_after": 0}],
    ids=str,
)
def test_options_that_cannot_be_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(wrong))}: expected above 0"):
        StreamOptions(**wrong)


# -- what to process ------------------------------------------------------------------------------


def arrivals_at(numbers: Sequence[int], decoded: list[int]) -> Iterator[Arrival | None]:
    def decoder(number: int) -> Callable[[], RgbdFrame]:
        def decode() -> RgbdFrame:
            decoded.append(number)
            return frame(number)

        return decode

    for number in numbers:
        yield Arrival(f"f{number}", number, 0, time.monotonic_ns(), decoder(number))
        yield None  # nothing came for a while


class Camera:
    """A source of arrivals that counts what it lost."""

    def __init__(self, play: Callable[[], Iterator[Arrival | None]], live: bool = True) -> None:
        self.play, self.live, self.uri = play, live, "memory://camera"
        self.counts = {"colour without depth": 2, "reconnects": 0}

    def arrivals(self) -> Iterator[Arrival | None]:
        yield from self.play()

    def frames(self) -> Iterator[RgbdFrame]:
        raise AssertionError("arrivals are there to be taken")


def test_an_overtaken_pair_is_never_decoded() -> None:
    busy, delivered, decoded = threading.Event(), threading.Event(), []

    def camera() -> Iterator[Arrival | None]:
        yield from arrivals_at([0], decoded)
        assert busy.wait(WAIT_S)
        yield from arrivals_at(range(1, 10), decoded)
        delivered.set()

    def model(count: int) -> None:
        busy.set()
        assert delivered.wait(WAIT_S)

    sink = Collect()
    summary = stream(FakeSession(model), SPEC, Camera(camera), [sink])
    assert (sink.numbers, decoded) == ([0, 9], [0, 9])
    assert (summary.mode, summary.captured, summary.frames) == ("freshest", 10, 2)
    assert summary.at_source == {"colour without depth": 2}


def test_numbers_that_a_camera_left_out_are_missed() -> None:
    decoded: list[int] = []
    numbers = [5, 6, 9, 10, 2, 3]  # it was plugged in again before the last two
    source = Camera(lambda: arrivals_at(numbers, decoded))
    summary = stream(FakeSession(), SPEC, source, [], StreamOptions(mode="every"))
    assert decoded == numbers
    assert (summary.mode, summary.frames, summary.missed) == ("every", 6, 2)
    recording = Camera(lambda: arrivals_at([0, 5, 10], decoded), live=False)
    assert stream(FakeSession(), SPEC, recording, []).missed == 0


def test_a_stored_source_may_be_taken_as_a_live_one() -> None:
    source = Stored([frame(number) for number in range(40)])
    slow = FakeSession(lambda count: time.sleep(0.005))
    summary = stream(slow, SPEC, source, [], StreamOptions(mode="freshest"))
    assert summary.frames < 40
    assert summary.frames + summary.drops["overtaken by a newer frame"] == 40


def test_smoothing_carries_the_past_on() -> None:
    class Blink(FakeSession):
        def run(self, inputs: Mapping[str, NDArray[np.float32]]) -> Tensors:
            self.count += 1
            return {"saliency": np.full((1, 1, 16, 16), self.count == 1, np.float32)}

    seen: list[float] = []

    class Levels(Collect):
        def write(
            self, frame: RgbdFrame, saliency: NDArray[np.float32], record: FrameRecord
        ) -> None:
            seen.append(float(saliency.mean()))

    source = Stored([frame(number) for number in range(3)])
    stream(Blink(), SPEC, source, [Levels()], StreamOptions(smoothing=0.5))
    assert seen == pytest.approx([1, 0.5, 0.25])


@pytest.mark.parametrize("beside", [False, True])
def test_who_only_paints_gets_the_model_s_own_map(
    beside: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Shapes(Collect):
        def __init__(self, paints: bool) -> None:
            super().__init__()
            self.paints, self.shapes = paints, set[tuple[int, ...]]()

        def write(
            self, frame: RgbdFrame, saliency: NDArray[np.float32], record: FrameRecord
        ) -> None:
            self.shapes.add(saliency.shape)

    enlarged: list[object] = []

    def counted(plane: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
        enlarged.append(size)
        return resize_saliency(plane, size)

    monkeypatch.setattr(pipeline, "resize_saliency", counted)
    painter, writer = Shapes(paints=True), Shapes(paints=False)
    source = Stored([frame(number) for number in range(3)])
    stream(FakeSession(), SPEC, source, [Beside(painter) if beside else painter])
    assert painter.shapes == {(16, 16)}
    assert not enlarged
    stream(FakeSession(), SPEC, source, [Beside(painter) if beside else painter, writer])
    assert painter.shapes == {(16, 16)}
    assert writer.shapes == {frame(0).rgb.shape[:2]}
    assert len(enlarged) == 3


def test_the_last_record_is_the_one_of_the_sinks_gone_on() -> None:
    given: list[FrameRecord] = []

    class Records(Collect):
        def write(
            self, frame: RgbdFrame, saliency: NDArray[np.float32], record: FrameRecord
        ) -> None:
            given.append(record)
            time.sleep(0.002)

    told: list[FrameRecord] = []
    source = Stored([frame(number) for number in range(3)])
    stream(FakeSession(), SPEC, source, [Records()], on_progress=told.append)
    for before, after in zip(given, told, strict=True):
        assert before.sink_ms == 0
        assert after.sink_ms >= 2
        assert after.latency_ms >= before.latency_ms + after.sink_ms - 1e-6
        assert replace(after, sink_ms=0.0, latency_ms=before.latency_ms, fps=before.fps) == before
    assert told[-1].fps > 0


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"mode": "newest"}, "stream option mode: expected auto, every, freshest, got newest"),
        ({"smoothing": 1.0}, "weight of the smoothing: expected 0 up to 1, got 1"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, object], match: str) -> None:
    with pytest.raises(InputError, match=match):
        StreamOptions(**options)
