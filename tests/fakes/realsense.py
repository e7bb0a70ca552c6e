"""A RealSense without hardware: librealsense's own software device, driven frame by frame.

Everything behind ``query_sensors()`` is the real SDK: its profiles, its frames, its recorder.  What
cannot be had from a software device is put on top: when sensors were started, being unplugged, and
a ``stop`` that never returns.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyrealsense2 as rs
from numpy.typing import NDArray

from edge_fusion.runtime.source.base import Arrival

PERIOD_MS = 1000 / 30
UNIT_M = 0.0005
FIRST_COLOR = 7  # the colour sensor counts from here, the depth sensor from 0
_BYTES = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "yuyv": 2, "uyvy": 2, "z16": 2, "y8": 1}
_DTYPES = {"z16": np.uint16}


@dataclass
class View:
    """One video stream of a software sensor."""

    stream: str
    width: int = 64
    height: int = 48
    fps: int = 30
    format: str = ""
    focal: float = 50.0
    lens: str = "none"
    coefficients: Sequence[float] = (0, 0, 0, 0, 0)

    def __post_init__(self) -> None:
        self.format = self.format or {"depth": "z16", "color": "rgb8"}.get(self.stream, "y8")

    def described(self, uid: int) -> Any:
        seen = rs.intrinsics()
        seen.width, seen.height = self.width, self.height
        seen.fx, seen.fy = self.focal, self.focal + 1
        seen.ppx, seen.ppy = self.width / 2 + 1.5, self.height / 2 - 2.5
        seen.model, seen.coeffs = getattr(rs.distortion, self.lens), list(self.coefficients)
        made = rs.video_stream()
        made.type, made.index, made.uid = getattr(rs.stream, self.stream), 0, uid
        made.width, made.height, made.fps = self.width, self.height, self.fps
        made.bpp, made.fmt = _BYTES[self.format], getattr(rs.format, self.format)
        made.intrinsics = seen
        return made


@dataclass
class Shot:
    """One image to be delivered."""

    stream: str
    number: int
    stamp_ms: float
    pixels: NDArray[Any] | None = None
    clock: str = "hardware_clock"
    reached_ms: int | None = None  # metadata: when the driver had it

    def drawn(self, view: View) -> NDArray[Any]:
        """The given pixels, or a plain image that tells its own number."""
        if self.pixels is not None:
            return self.pixels
        if self.stream == "depth":
            return np.full((view.height, view.width), 1000 + self.number, np.uint16)
        shape = (view.height, view.width, _BYTES[view.format])
        return np.full(shape, self.number % 256, np.uint8)


def steady(count: int, first: int = 0, late_ms: float = 2.0) -> Iterator[Shot]:
    """Depth and colour in turn, colour a little later, at 30 per second of device time."""
    for index in range(first, first + count):
        yield Shot("depth", index, 1000 + index * PERIOD_MS)
        yield Shot("color", index + FIRST_COLOR, 1000 + index * PERIOD_MS + late_ms)


class _Sensor:
    """A sensor that tells when it was started and may refuse to stop."""

    def __init__(self, real: Any, device: Device) -> None:
        self._real, self._device = real, device

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def start(self, callback: Any) -> None:
        self._real.start(callback)
        self._device.running += 1

    def stop(self) -> None:
        self._device.running -= 1
        self._device.may_stop.wait(30)
        self._real.stop()


@dataclass
class Device:
    """A camera; by default one depth and one colour sensor of 64x48."""

    views: Sequence[Sequence[View]] = field(
        default_factory=lambda: ([View("depth")], [View("color", focal=55.0)])
    )
    serial: str = "0001"
    rotation: Sequence[float] = (1, 0, 0, 0, 1, 0, 0, 0, 1)  # as the SDK writes it
    translation_m: Sequence[float] = (0.015, 0, 0)
    related: bool = True
    connected: bool = True
    running: int = 0  # sensors
    delivered: int = 0

    def __post_init__(self) -> None:
        self.may_stop = threading.Event()
        self.may_stop.set()
        self.software = rs.software_device()
        self.software.register_info(rs.camera_info.name, "Software Camera")
        self.software.register_info(rs.camera_info.serial_number, self.serial)
        self._streams: dict[str, tuple[Any, Any, View]] = {}
        uids, profiles = iter(range(100)), []
        for index, views in enumerate(self.views):
            sensor = self.software.add_sensor(f"Sensor {index}")
            if any(view.stream == "depth" for view in views):
                sensor.add_read_only_option(rs.option.depth_units, UNIT_M)
            for view in views:
                added = sensor.add_video_stream(view.described(next(uids)), True)
                profile = rs.video_stream_profile(added)
                profiles.append((view.stream, profile))
                self._streams.setdefault(view.stream, (sensor, profile, view))
        if self.related:
            extrinsics = rs.extrinsics()
            extrinsics.rotation = list(self.rotation)
            extrinsics.translation = list(self.translation_m)
            for (start, one), (end, other) in product(profiles, profiles):
                if (start, end) == ("depth", "color"):
                    one.register_extrinsics_to(other, extrinsics)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.software, name)

    def query_sensors(self) -> list[Any]:
        return [_Sensor(sensor, self) for sensor in self.software.query_sensors()]

    def is_connected(self) -> bool:
        return self.connected

    def deliver(self, shot: Shot) -> None:
        """Hand one image to the SDK."""
        sensor, profile, view = self._streams[shot.stream]
        pixels = np.ascontiguousarray(shot.drawn(view))
        frame = rs.software_video_frame()
        frame.pixels, frame.profile = pixels, profile
        frame.bpp = _BYTES[view.format]
        frame.stride = view.width * frame.bpp
        frame.timestamp, frame.frame_number = shot.stamp_ms, shot.number
        frame.domain = getattr(rs.timestamp_domain, shot.clock)
        if shot.stream == "depth":
            frame.depth_units = UNIT_M
        if shot.reached_ms is not None:
            sensor.set_metadata(rs.frame_metadata_value.time_of_arrival, shot.reached_ms)
        sensor.on_video_frame(frame)
        self.delivered += 1

    @contextmanager
    def delivering(self, shots: Iterable[Shot], pause_s: float = 0.001) -> Iterator[None]:
        """Deliver from another thread, as soon as every sensor was started."""
        over = threading.Event()

        def deliver() -> None:
            while self.running < len(self.views) and not over.wait(0.001):
                pass
            for shot in shots:
                if over.wait(pause_s):
                    return
                self.deliver(shot)

        thread = threading.Thread(target=deliver)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def record(path: Path, device: Device, shots: Iterable[Shot]) -> Path:
    """Record what a device delivers."""
    recorder = rs.recorder(str(path), device.software, True)
    sensors = recorder.query_sensors()
    written = threading.Semaphore(0)
    for sensor in sensors:
        sensor.open(sensor.profiles[0])
        sensor.start(lambda frame: written.release())
    for shot in shots:
        device.deliver(shot)
        assert written.acquire(timeout=5)
    for sensor in sensors:
        sensor.stop()
        sensor.close()
    del sensor, sensors, recorder  # it completes the file when it goes
    deadline = time.monotonic() + 5
    while not path.stat().st_size and time.monotonic() < deadline:
        time.sleep(0.01)
    return path


def content(arrival: Arrival) -> tuple[int, int]:
    """What the two images of a pair say their numbers are: colour, depth."""
    frame = arrival.decode()
    seen = frame.depth[frame.depth > 0]
    assert seen.size > 0.9 * frame.depth.size
    assert np.unique(frame.rgb).size == np.unique(seen).size == 1
    return int(frame.rgb[0, 0, 0]), int(seen[0]) - 1000


def pairs(source: Any) -> Generator[Arrival, None, None]:
    """What arrives, without the moments in which nothing does."""
    with closing(source.arrivals()) as arrivals:
        for arrival in arrivals:
            if arrival is not None:
                yield arrival


def read(source: Any) -> list[tuple[int, int, int]]:
    return [(one.number, *content(one)) for one in pairs(source)]


def expected(numbers: range | list[int]) -> list[tuple[int, int, int]]:
    return [(n + FIRST_COLOR, n + FIRST_COLOR, n) for n in numbers]
