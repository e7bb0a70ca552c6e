"""Two live streams: made by the test, so that every fault can be had."""

from __future__ import annotations

import gc
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edge_fusion.errors import SourceError
from edge_fusion.runtime.source.base import Arrival, ArrivingSource, CountingSource
from edge_fusion.runtime.source.camera_uri import PAIR_KEYS, address, device
from edge_fusion.runtime.source.cameras import CameraOptions, CameraSource
from edge_fusion.runtime.source.capture import Still
from edge_fusion.runtime.source.uri import open_source

PERIOD_S = 0.01
MM = {"unit": "mm"}


def colour_pixels(number: int) -> NDArray[np.uint8]:
    pixels = np.zeros((12, 16, 3), np.uint8)
    pixels[..., 2] = 200  # red
    pixels[..., 0] = number % 256
    return pixels


def depth_pixels(number: int) -> NDArray[np.uint16]:
    return np.full((12, 16), 1000 + number, np.uint16)


@dataclass
class Stream:
    """A camera whose images are numbered; what goes wrong with it is up to the test."""

    pixels: Callable[[int], NDArray[Any]]
    layout: str = "bgr"
    buffered: int = 0  # images that wait when it is opened
    ends_after: int | None = None
    late_s: float = 0.0
    sends: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)
    opened: int = 0
    number: int = -1

    def open(self) -> Stream:
        self.opened += 1
        self.number = -1
        self.released.clear()
        self._next = time.monotonic() + self.late_s
        return self

    def grab(self) -> bool:
        self.number += 1
        if self.number >= self.buffered:
            self._next += PERIOD_S
            time.sleep(max(0.0, self._next - time.monotonic()))
        while not self.sends.wait(0.01):
            if self.released.is_set():
                return False
        return self.ends_after is None or self.number < self.ends_after

    def retrieve(self) -> Still | None:
        pixels = self.pixels(self.number)
        return Still(pixels, self.layout) if pixels.size else None

    @property
    def time_ns(self) -> int:
        return self.number * 10_000_000

    def release(self) -> None:
        self.released.set()


@pytest.fixture
def streams() -> Iterator[tuple[Stream, Stream]]:
    color, depth = Stream(colour_pixels), Stream(depth_pixels, "grey")
    color.sends.set()
    depth.sends.set()
    yield color, depth
    color.sends.set()
    depth.sends.set()


Streams = tuple[Stream, Stream]


def source(
    streams: Streams, declared: dict[str, Any] | None = None, **options: Any
) -> CameraSource:
    color, depth = streams
    return CameraSource(
        "rtsp://me:hunter2@camera/1?depth=rtsp://me:hunter2@camera/2&unit=mm",
        color.open,
        depth.open,
        MM if declared is None else declared,
        CameraOptions(**{"timeout_s": 0.5, **options}),
    )


def take(cameras: CameraSource, count: int) -> list[Arrival]:
    arrivals = cameras.arrivals()
    taken: list[Arrival] = []
    for arrival in arrivals:
        if isinstance(arrival, Arrival):
            taken.append(arrival)
        if len(taken) == count:
            break
    arrivals.close()
    return taken


def test_pairs_in_order_with_times_and_numbers(streams: Streams) -> None:
    cameras = source(streams)
    assert cameras.live
    assert isinstance(cameras, ArrivingSource)
    assert isinstance(cameras, CountingSource)
    before = time.monotonic_ns()
    pairs = take(cameras, 20)
    frames = [pair.decode() for pair in pairs]
    for pair, frame in zip(pairs, frames, strict=True):
        assert frame.number == pair.number
        assert frame.rgb[0, 0].tolist() == [200, 0, frame.number % 256]
        # Arrival is all there is to go by: a busy machine delivers some images late.
        assert abs(int(frame.depth[0, 0]) - 1000 - frame.number) <= 8
        assert frame.timestamp_ns == frame.number * 10_000_000
        assert before - 10**9 < frame.arrival_ns <= time.monotonic_ns()
        assert frame.depth_spec.scale_to_m == 0.001
    apart = [abs(int(frame.depth[0, 0]) - 1000 - frame.number) for frame in frames]
    assert np.median(apart) <= 1
    numbers = [frame.number for frame in frames]
    assert numbers == sorted(set(numbers))
    assert cameras.counts["pairs"] >= 20
    assert all(stream.released.is_set() for stream in streams)


def test_what_the_connection_had_buffered_is_left_out(streams: Streams) -> None:
    streams[0].buffered = 10
    first = take(source(streams), 1)[0]
    assert first.number >= 10


def test_a_slow_reader_gets_the_newest_pair(streams: Streams) -> None:
    cameras = source(streams)
    arrivals = cameras.arrivals()
    next(arrivals)
    time.sleep(20 * PERIOD_S)
    pair = next(arrivals)
    assert isinstance(pair, Arrival)
    assert time.monotonic_ns() - pair.arrival_ns < 8 * PERIOD_S * 1e9
    assert cameras.counts["overtaken before they were read"] >= 10
    arrivals.close()


def test_depth_that_comes_later(streams: Streams) -> None:
    streams[1].late_s = 0.3 * PERIOD_S
    cameras = source(streams, depth_delay_s=0.3 * PERIOD_S)
    apart = [int(pair.decode().depth[0, 0]) - 1000 - pair.number for pair in take(cameras, 15)]
    assert abs(np.median(apart)) <= 1  # a busy machine delivers some images late


@pytest.mark.parametrize(("index", "name"), [(0, "colour"), (1, "depth")])
def test_a_stream_that_ends(streams: Streams, index: int, name: str) -> None:
    streams[index].ends_after = 20
    cameras = source(streams)
    with pytest.raises(SourceError, match=f"{name} of .* was lost") as caught:
        list(cameras.frames())
    assert "hunter2" not in str(caught.value)
    streams[index].ends_after = None
    assert len(take(cameras, 3)) == 3  # it can be opened again
    assert streams[index].opened == 2


@pytest.mark.parametrize(("index", "name"), [(0, "colour"), (1, "depth")])
def test_a_stream_that_freezes(streams: Streams, index: int, name: str) -> None:
    cameras = source(streams)
    arrivals = cameras.arrivals()
    next(arrivals)
    streams[index].sends.clear()
    began, waits = time.monotonic(), 0
    with pytest.raises(
        SourceError, match=f"{name} of .* went silent: expected an image within 0.5"
    ):
        for pair in arrivals:
            waits += pair is None
    assert 0.5 <= time.monotonic() - began < 2.5
    assert waits >= 2  # the reader could have ended the stream meanwhile


def words(message: str) -> set[str]:
    """The keys that a message says one should write."""
    return set(re.findall(r"(\w+)=", message))


def test_streams_that_never_come_together(streams: Streams) -> None:
    streams[1].late_s = 0.5 * PERIOD_S
    with pytest.raises(SourceError, match="never come together") as caught:
        source(streams, tolerance_s=1e-6, timeout_s=0.2)
    assert "colour without depth" in str(caught.value)
    cure = str(caught.value).rpartition("; ")[2]
    assert words(cure) == {"depth_delay_ms", "tolerance_ms"} <= PAIR_KEYS.keys()


def test_damaged_images_are_counted(streams: Streams) -> None:
    streams[0].pixels = lambda number: colour_pixels(number)[: 0 if number % 3 == 2 else 12]
    cameras = source(streams)
    assert all(pair.number % 3 != 2 for pair in take(cameras, 6))
    assert cameras.counts["damaged images"] >= 2


def test_an_error_of_a_driver_is_told_without_credentials(streams: Streams) -> None:
    color, depth = streams

    def refuse() -> Stream:
        raise RuntimeError("cannot reach rtsp://me:hunter2@camera/1")

    with pytest.raises(SourceError, match="reading colour of .* failed") as caught:
        CameraSource("rtsp://me:hunter2@camera/1", refuse, depth.open, MM, CameraOptions(0.5))
    error: BaseException | None = caught.value
    while error is not None:
        assert "hunter2" not in f"{error} {error!r} {error.args}"
        error = error.__cause__ or error.__context__
    assert depth.released.wait(1)
    assert not color.opened


@pytest.mark.parametrize(
    ("change", "declared", "message"),
    [
        ("swapped", MM, "are the two streams swapped"),
        ("small", MM, "expected 16x12 pixels, got 8x6"),
        ("8 bits", MM, "8-bit but declared as 0.001 m"),
        ("", {}, "add unit=mm"),
    ],
)
def test_streams_that_cannot_work(
    streams: Streams, change: str, declared: dict[str, Any], message: str
) -> None:
    color, depth = streams
    ramp = np.arange(192, dtype=np.uint8).reshape(12, 16)
    if change == "swapped":
        streams = depth, color
    elif change == "small":
        depth.pixels = lambda number: depth_pixels(number)[:6, :8]
    elif change == "8 bits":
        depth.pixels = lambda number: ramp
    with pytest.raises(SourceError, match=message):
        source(streams, declared)


def test_a_camera_in_night_mode_starts_and_comes_back(streams: Streams) -> None:
    color, _ = streams
    shade = np.tile(np.linspace(10, 240, 16, dtype=np.uint8)[:, None], (12, 1, 3))
    color.pixels = lambda number: shade
    cameras = source(streams)
    assert len(take(cameras, 2)) == 2
    assert np.ptp(take(cameras, 1)[0].decode().rgb, axis=2).max() == 0  # opened again
    assert color.opened == 2


def test_a_first_image_that_is_damaged_refuses_no_camera(streams: Streams) -> None:
    color, _ = streams
    whole = cv2.imencode(".jpg", np.full((12, 16, 3), 200, np.uint8))[1].reshape(1, -1)
    first: list[int] = []

    def pixels(number: int) -> NDArray[np.uint8]:
        first.append(number)
        return whole[:, :-40] if number == first[0] else whole

    color.pixels, color.layout = pixels, "MJPG"
    assert take(source(streams), 1)[0].number > first[0]


def test_closing_is_noticed_where_a_driver_has_nothing_yet(streams: Streams) -> None:
    _, depth = streams
    empty = threading.Event()
    grab = depth.grab

    def wait_a_moment() -> bool | None:
        return None if empty.wait(0.01) else grab()

    depth.grab = wait_a_moment  # type: ignore[method-assign, assignment]
    cameras = source(streams, timeout_s=30.0)
    arrivals = cameras.arrivals()
    next(arrivals)
    empty.set()
    time.sleep(0.05)
    assert not depth.released.is_set()
    began = time.monotonic()
    arrivals.close()
    assert depth.released.is_set()
    assert time.monotonic() - began < 0.3


def test_a_source_that_nobody_reads_ends(streams: Streams) -> None:
    cameras = source(streams)
    del cameras
    gc.collect()
    assert all(stream.released.wait(1) for stream in streams)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"timeout_s": 0.0}, "timeout: expected 0.1 to 600 s, got 0"),
        ({"tolerance_s": -1.0}, "tolerance_ms: expected 0 to 10000, got -1000"),
        ({"depth_delay_s": 60.0}, "depth_delay_ms: expected -10000 to 10000, got 60000"),
    ],
)
def test_impossible_options(options: dict[str, float], told: str) -> None:
    with pytest.raises(SourceError, match=f"^{told}$"):
        CameraOptions(**options)
    assert told.partition(":")[0] in PAIR_KEYS


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rtsp://camera/1", "rtsp://camera/1"),
        ("rtsp://camera:554/cam@2", "rtsp://camera:554/cam@2"),
        ("rtsp://me@camera/1", "rtsp://me@camera/1"),
        ("rtsp://me:pw@camera/1?a=b&c", "rtsp://me:pw@camera/1?a=b&c"),
        ("rtsp://me:p@w@camera:554/1", "rtsp://me:p%40w@camera:554/1"),
        ("rtsp://me:p/w@camera/1", "rtsp://me:p%2Fw@camera/1"),
        ("rtsp://me:p%40%2Fw@camera/cam@2", "rtsp://me:p%40%2Fw@camera/cam@2"),
        ("rtsp://me:p%w:?#@camera/1", "rtsp://me:p%25w%3A%3F%23@camera/1"),
    ],
)
def test_an_address_encodes_the_password(text: str, expected: str) -> None:
    assert address(text) == expected


@pytest.mark.parametrize("text", ["/dev/video3", "video3", "3", "v4l2://3", "v4l2:///dev/video3"])
def test_names_of_a_device(text: str) -> None:
    assert str(device(text)) == "/dev/video3"


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("rtsp://me:hunter2@camera/1?unit=mm", "names no depth camera"),
        ("rtsp://?depth=rtsp://camera/2&unit=mm", "names no colour camera"),
        ("rtsp://me:hunter2@camera/1?depth=http://me:hunter2@camera/2&unit=mm", "depth camera 'http://***@camera/2'"),
        ("rtsp://me:hunter2@camera/1?depth=rtsp://me:hunter2@camera/2", "add unit=mm"),
        ("v4l2://98?depth=99&unit=mm", "no (colour|depth) camera at /dev/video9[89]"),
    ],
)  # fmt: skip
def test_uris_that_cannot_work(uri: str, message: str) -> None:
    with pytest.raises(SourceError, match=message.replace("*", r"\*")) as caught:
        open_source(uri)
    assert "hunter2" not in str(caught.value)
