"""A live RealSense, played by librealsense's own software device."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from itertools import islice
from typing import Any

import pytest

from edge_fusion.errors import SourceError
from edge_fusion.frame import Intrinsics
from edge_fusion.runtime.source import librealsense
from edge_fusion.runtime.source.base import CLOCKS_DIFFER, Arrival
from edge_fusion.runtime.source.realsense import (
    RealSenseCamera,
    open_realsense,
)

try:
    import pyrealsense2  # noqa: F401
except ImportError as err:  # the package, or a library of the system that it needs
    pytest.skip(f"librealsense is not usable: {err}", allow_module_level=True)

from tests.fakes.realsense import (
    FIRST_COLOR,
    PERIOD_MS,
    UNIT_M,
    Device,
    Shot,
    View,
    content,
    expected,
    pairs,
    steady,
)


def camera(*devices: Device, serial: str = "", timeout_s: float = 5.0, **keys: Any) -> Any:
    keys.setdefault("size", (64, 48))
    return RealSenseCamera(serial, timeout_s=timeout_s, find_devices=lambda: devices, **keys)


@contextmanager
def running(
    source: RealSenseCamera, device: Device, shots: Iterator[Shot]
) -> Iterator[Generator[Arrival, None, None]]:
    """The arrivals of a camera that is at most three pairs ahead of a reader who keeps reading."""
    ahead = threading.Semaphore(3)

    def paced() -> Iterator[Shot]:
        for shot in shots:
            if shot.stream == "depth":
                ahead.acquire(timeout=0.05)  # a pair may also be lost, or nobody reads
            yield shot

    def read_on() -> Generator[Arrival, None, None]:
        for arrival in pairs(source):
            ahead.release()
            yield arrival

    with device.delivering(paced()), closing(read_on()) as arrivals:
        yield arrivals


def endless() -> Iterator[Shot]:
    return steady(10**6)


def test_a_camera_delivers_pairs() -> None:
    device = Device()
    source = camera(device)
    assert source.live
    before = time.monotonic_ns()
    with running(source, device, endless()) as arrivals:
        taken = list(islice(arrivals, 40))
    first = taken[0].number - FIRST_COLOR
    # The SDK may swallow the first image of a stream; from then on none is missing.
    assert first <= 1
    numbers = list(range(first, first + 40))
    assert [(one.number, *content(one)) for one in taken] == expected(numbers)
    frame = taken[5].decode()
    assert frame.id == f"0001-{first + 5 + FIRST_COLOR:06d}"
    assert frame.timestamp_ns == pytest.approx((1002 + (first + 5) * PERIOD_MS) * 1e6, abs=1)
    assert before < frame.arrival_ns == taken[5].arrival_ns < time.monotonic_ns()
    assert frame.depth_spec.scale_to_m == UNIT_M
    assert frame.intrinsics == Intrinsics(55.0, 56.0, 33.5, 21.5)


def test_both_streams_of_one_sensor() -> None:
    device = Device([[View("depth"), View("color")]])
    with running(camera(device), device, endless()) as arrivals:
        taken = [(one.number, *content(one)) for one in islice(arrivals, 10)]
    assert taken == expected([number - FIRST_COLOR for number, _, _ in taken])


def test_gaps_in_the_numbers_are_counted() -> None:
    lost = {("depth", 10), ("depth", 11), ("color", 20 + FIRST_COLOR)}
    device = Device()
    source = camera(device)
    shots = (shot for shot in endless() if (shot.stream, shot.number) not in lost)
    with running(source, device, shots) as arrivals:
        taken = list(islice(arrivals, 30))
    assert all(one.number - FIRST_COLOR not in (10, 11, 20) for one in taken)
    counts = source.counts
    assert counts["depth images missing by number"] == 2
    assert counts["colour images missing by number"] == 1
    assert counts["colour without depth"] >= 2
    assert counts["depth without colour"] >= 1


def test_a_late_reader_gets_the_newest() -> None:
    device = Device()
    source = camera(device)
    with device.delivering(steady(100)), closing(pairs(source)) as arrivals:
        next(arrivals)
        while device.delivered < 200:
            time.sleep(0.01)
        number, _ = content(next(arrivals))
    assert number - FIRST_COLOR >= 94
    assert source.counts["images overrun"] > 150


SILENCES = [
    # What still comes after five pairs, and what must be said of it.
    (lambda: iter(()), "colour: 5 images by hardware_clock, depth: 5 images by hardware_clock"),
    (lambda: (shot for shot in steady(400, 5) if shot.stream == "depth"), "colour: 5 images.*"),
]


@pytest.mark.parametrize(("rest", "told"), SILENCES, ids=["nothing", "depth alone"])
def test_a_camera_that_falls_silent(rest: Callable[[], Iterator[Shot]], told: str) -> None:
    device = Device()
    source = camera(device, timeout_s=0.3)

    def shots() -> Iterator[Shot]:
        yield from steady(5)
        yield from rest()

    with running(source, device, shots()) as arrivals:
        began = time.monotonic()
        with pytest.raises(
            SourceError, match=rf"camera 0001 .*sent no pair for 0.3 s: got {told}.*plug the camera"
        ):
            assert len(list(arrivals)) > 5
        assert time.monotonic() - began < 4
    assert device.running == 0


def test_the_time_between_two_requests_is_no_silence() -> None:
    device = Device()
    with running(camera(device, timeout_s=0.3), device, endless()) as arrivals:
        next(arrivals)
        time.sleep(0.5)
        next(arrivals)


def test_only_between_two_arrivals_can_a_stream_be_ended() -> None:
    device = Device()
    with device.delivering(steady(3)), closing(camera(device).arrivals()) as arrivals:
        while device.delivered < 6:
            next(arrivals)
        began = time.monotonic()
        assert list(islice(arrivals, 12))[-3:] == [None] * 3
        assert time.monotonic() - began < 3


def test_a_stream_can_be_ended_while_images_come_to_no_pair() -> None:
    device = Device()
    color_alone = (shot for shot in steady(10**6) if shot.stream == "color")
    source = camera(device, timeout_s=30)
    with device.delivering(color_alone, 0.005), closing(source.arrivals()) as arrivals:
        began = time.monotonic()
        assert list(islice(arrivals, 3)) == [None] * 3
        assert time.monotonic() - began < 3


def test_what_a_camera_cannot_do_is_told_when_it_is_opened() -> None:
    with pytest.raises(SourceError, match=r"colour of camera 0001 .*one of 64x48 at 30, got 8x6"):
        camera(Device(), size=(8, 6))
    with pytest.raises(SourceError, match=r"camera 0001 \(Software Camera\) has no colour stream"):
        camera(Device([[View("depth")]]))


def test_an_unplugged_camera_is_told_at_once_and_opens_again() -> None:
    device = Device()
    source = camera(device, timeout_s=30)
    for _ in range(2):
        device.connected = True
        with running(source, device, steady(5)) as arrivals:
            next(arrivals)
            device.connected = False
            began = time.monotonic()
            with pytest.raises(SourceError, match="camera 0001 .*was unplugged; plug it in again"):
                list(arrivals)
            assert time.monotonic() - began < 10


def test_a_driver_that_never_stops_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(librealsense, "_STOP_S", 0.2)
    device = Device()
    with running(camera(device), device, endless()) as arrivals:
        next(arrivals)
        device.may_stop.clear()
        began = time.monotonic()
        arrivals.close()
        assert 0.2 <= time.monotonic() - began < 10
        device.may_stop.set()


def test_clocks_that_differ_are_paired_by_arrival_and_counted() -> None:
    def shots() -> Iterator[Shot]:
        for n in range(10**6):
            reached = 5000 + round(n * PERIOD_MS)
            yield Shot("depth", n, 1000 + n * PERIOD_MS, reached_ms=reached)
            stamp = 9e6 + n * PERIOD_MS
            yield Shot("color", n + FIRST_COLOR, stamp, None, "system_time", reached + 3)

    device = Device()
    source = camera(device)
    with running(source, device, shots()) as arrivals:
        taken = [(one.number, *content(one)) for one in islice(arrivals, 20)]
    assert taken == expected([number - FIRST_COLOR for number, _, _ in taken])
    assert source.counts[CLOCKS_DIFFER] >= 38


def test_arrival_by_two_clocks_is_not_mixed() -> None:
    """Only depth says by the driver's clock when it arrived; that is years from ours."""

    def shots() -> Iterator[Shot]:
        for n in range(10**6):
            yield Shot("depth", n, 1000 + n * PERIOD_MS, reached_ms=1_700_000_000_000 + n * 33)
            yield Shot("color", n + FIRST_COLOR, 9e6 + n * PERIOD_MS, None, "system_time")

    device = Device()
    source = camera(device, timeout_s=3)
    with running(source, device, shots()) as arrivals:
        assert len(list(islice(arrivals, 5))) == 5
    assert source.counts[CLOCKS_DIFFER] >= 8


def test_an_error_in_the_sdks_thread_reaches_the_reader() -> None:
    device = Device()
    with running(camera(device), device, endless()) as arrivals:
        next(arrivals)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(librealsense.time, "monotonic_ns", lambda: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                list(arrivals)


def broken(message: str) -> Device:
    class Broken(Device):
        def query_sensors(self) -> list[Any]:
            raise RuntimeError(message)

    return Broken()


@pytest.mark.parametrize(
    ("message", "cure"),
    [
        ("xioctl(VIDIOC_S_FMT) failed, errno=16 Last Error: Device or resource busy", "end it, or"),
        ("failed to set power state", "another program holds the camera.*udev rules"),
        ("RS2_USB_STATUS_ACCESS", "udev rules"),
        ("something else", "got something else$"),
    ],
)
def test_what_the_sdk_says_comes_with_a_cure(message: str, cure: str) -> None:
    with pytest.raises(SourceError, match=rf"camera 0001 \(Software Camera\) failed.*{cure}"):
        camera(broken(message))


@pytest.mark.parametrize(
    ("serials", "wanted", "told"),
    [
        ([], "", "no RealSense camera is connected: expected one camera.*USB 3.*udev rules"),
        ([], "77", "no RealSense camera is connected: expected serial number 77"),
        (
            ["11", "22"],
            "77",
            r"'realsense://77': expected a camera with serial number 77, got connected: "
            r"11 \(Software Camera\), 22 \(Software Camera\); name one: realsense://11",
        ),
        (["11", "22"], "", "expected one camera that is connected, or a serial number.*11.*22"),
    ],
)
def test_cameras_that_are_not_there(serials: list[str], wanted: str, told: str) -> None:
    with pytest.raises(SourceError, match=told):
        camera(*(Device(serial=one) for one in serials), serial=wanted)


def test_the_cameras_of_this_computer_are_asked_for() -> None:
    with pytest.raises(SourceError, match="no RealSense camera|with serial number no-such-one"):
        open_realsense("no-such-one")


def test_a_camera_is_chosen_by_its_serial_number() -> None:
    devices = [Device(serial="11"), Device(serial="22")]
    source = camera(*devices, serial="22", fps=30)
    assert source.uri == "realsense://22?size=64x48&fps=30&timeout=5"
    with running(source, devices[1], endless()) as arrivals:
        assert next(arrivals).id.startswith("22-")
