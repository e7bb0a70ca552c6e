"""Nothing lost and nothing unaccounted: what is processed, in which order, and the figures."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_fusion.errors import (
    FrameError,
    InputError,
)
from edge_fusion.frame import RgbdFrame
from edge_fusion.preprocess import resize_saliency
from edge_fusion.runtime import ledger, pipeline
from edge_fusion.runtime.sink.beside import Beside
from edge_fusion.runtime.source.base import Arrival
from edge_fusion.runtime.stream import FrameRecord, StreamOptions, stream
from tests.fakes.stream import (
    SPEC,
    WAIT_S,
    Collect,
    FakeSession,
    Live,
    Stored,
    Tensors,
    frame,
)

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


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


# -- figures --------------------------------------------------------------------------------------


def test_records_and_summary_agree() -> None:
    records: list[FrameRecord] = []
    seen: list[tuple[float, int]] = []

    def progress(record: FrameRecord) -> None:
        records.append(record)
        seen.append((record.fps, record.dropped))

    items = [frame(0), frame(1, depth_mm=0), frame(2)]
    model = FakeSession(lambda count: time.sleep(0.01))
    sink = Collect(lambda item: time.sleep(0.01))  # so far apart they are through, under any load
    summary = stream(model, SPEC, Stored(items), [sink], on_progress=progress)
    assert [(record.number, record.id) for record in records] == [(0, "f0"), (2, "f2")]
    for record in records:
        stages_ms = (
            record.wait_ms, record.preprocess_ms, record.infer_ms,
            record.postprocess_ms, record.sink_ms,
        )  # fmt: skip
        assert record.infer_ms >= 10
        assert sum(stages_ms) == pytest.approx(record.latency_ms, abs=0.001)
    assert seen[0][0] == 0.0  # no rate after a single frame
    assert 0 < seen[1][0] <= 100
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
