"""The border to librealsense: how its sensors deliver, and how to be rid of them.

Sensors are driven themselves, not through the SDK's pipeline.  Played from a file, its pipeline
loses the first pair and puts together what does not belong together; and images that come one by
one can be paired by a rule of our own and driven by a test without a camera.

The SDK has few image buffers and stalls once they are all in use, so every image is copied in the
callback that brings it.  ``sensor.start(frame_queue)`` is no alternative: a queue is callable, the
bindings take it for a Python callback, and a full one then waits for its reader holding the GIL.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_fusion.errors import MissingDependencyError, SourceError

from .realsense_streams import Stream, Streams

_STOP_S = 2.0  # how long a driver may take to let go of its camera
_LEAVE_S = 1.0
_GATE_S = 5.0

_OPEN_S, _OPEN_BYTES_PER_S = 20.0, 10e6  # a recording's index may be spread over all of it
_OPENING = "import sys, pyrealsense2 as rs; rs.context().load_device(sys.argv[1])"


def load_sdk() -> Any:
    """The package ``pyrealsense2``.

    Raises:
        MissingDependencyError: It is installed, but a system library that it needs is not.
    """
    try:
        import pyrealsense2
    except ModuleNotFoundError:
        raise
    except ImportError as err:
        library = str(err).partition(":")[0]
        packages = {"libusb": "libusb-1.0-0", "libudev": "libudev1"}
        package = next((p for start, p in packages.items() if library.startswith(start)), "")
        raise MissingDependencyError(
            library,
            needed_for="pyrealsense2",
            cure=f"apt install {package}" if package else "install what provides this library",
        ) from err
    return pyrealsense2


def check_opens(name: str, path: Path) -> None:
    """Refuse a recording at which the SDK hangs, as it does at some damaged ``.bag``.

    It holds the GIL meanwhile, so that not even a signal would end this process; one of its own
    opens the file first.  What else is wrong with a file is told when it is read.

    Args:
        name: What the recording is called in messages.
        path: The file.

    Raises:
        SourceError: It does not open.
    """
    patience_s = _OPEN_S + path.stat().st_size / _OPEN_BYTES_PER_S
    command = [sys.executable, "-c", _OPENING, str(path)]
    try:
        subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=patience_s
        )
    except subprocess.TimeoutExpired as err:
        raise SourceError(
            f"{name} cannot be opened",
            got=f"librealsense was still at it after {patience_s:.0f} s",
            cure="it is damaged, or its disk is too slow: copy or record it again",
        ) from err


@dataclass(frozen=True, slots=True, eq=False)
class Image:
    """One image of one stream, copied out of the SDK.

    Attributes:
        stream: Which stream it is of.
        pixels: Colour as its format lays it out, or (h, w) uint16 depth.
        number: The hardware's frame number.
        stamp_ns: The device's time.
        clock: Which clock that is: ``hardware_clock``, ``system_time`` or ``global_time``.
        driver_ns: When it reached the computer, by the driver's clock; None: it does not say.
        arrival_ns: ``time.monotonic_ns()`` when it reached us.
        unit_m: Metres per unit of depth; 0 for colour.
    """

    stream: Stream
    pixels: NDArray[Any]
    number: int
    stamp_ns: int
    clock: str
    driver_ns: int | None
    arrival_ns: int
    unit_m: float


class Inbox:
    """Takes images from the SDK's threads and hands them to one reader.

    Args:
        room: Images that may wait.
        live: Whether a full inbox forgets its oldest image, or lets the SDK wait.
    """

    def __init__(self, room: int, live: bool) -> None:
        self._live, self._room = live, room
        self._arrived = load_sdk().frame_metadata_value.time_of_arrival
        self._images: deque[Image] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._error: Exception | None = None
        self.overrun = 0  # images forgotten because the reader was late

    def __call__(self, frame: Any) -> None:
        """Take one frame; nothing may be raised into the SDK, which would end the process."""
        try:
            self._put(self._copied(frame))
        except Exception as err:
            with self._changed:
                self._error = err
                self._changed.notify_all()

    def take(self, wait_s: float) -> Image | None:
        """The oldest image, or None where none came in time.

        Raises:
            Exception: What went wrong in the SDK's thread.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._images or self._error, wait_s)
            if not self._images:
                if self._error is not None:
                    raise self._error
                return None
            self._changed.notify_all()
            return self._images.popleft()

    def close(self) -> None:
        """Take nothing more; a thread that waits for room goes on."""
        with self._changed:
            self._closed = True
            self._images.clear()
            self._changed.notify_all()

    def _put(self, image: Image) -> None:
        with self._changed:
            if not self._live:
                self._changed.wait_for(lambda: self._closed or len(self._images) < self._room)
            elif len(self._images) >= self._room:
                self._images.popleft()
                self.overrun += 1
            if not self._closed:
                self._images.append(image)
            self._changed.notify_all()

    def _copied(self, frame: Any) -> Image:
        arrival_ns = time.monotonic_ns()
        stamp_ns = round(frame.get_timestamp() * 1e6)
        driver_ns: int | None = None
        if frame.supports_frame_metadata(self._arrived):
            driver_ns = frame.get_frame_metadata(self._arrived) * 1_000_000
        is_depth = frame.is_depth_frame()
        return Image(
            stream="depth" if is_depth else "color",
            pixels=np.array(frame.get_data()),  # a copy
            number=frame.get_frame_number(),
            stamp_ns=stamp_ns,
            clock=frame.get_frame_timestamp_domain().name,
            driver_ns=driver_ns,
            arrival_ns=arrival_ns if self._live else 0,
            # A float32: six digits are what it was set to.
            unit_m=float(f"{frame.as_depth_frame().get_units():.6g}") if is_depth else 0.0,
        )


class PlaybackGate:
    """Lets a recording start only when all sensors listen, and tells when it is at its end.

    A playback reads on as soon as its first sensor is started and skips what belongs to the others:
    the first pair would be lost.  It announces itself in the thread that reads, which waits here.

    Args:
        playback: The device of a recording; not started yet.
    """

    def __init__(self, playback: Any) -> None:
        self.ended = threading.Event()
        self._open = threading.Event()
        self._reader: int | None = None
        playback.set_status_changed_callback(self._on_status)

    def open(self) -> None:
        """Let it read."""
        self._open.set()

    def wait_until_left(self) -> None:
        """Wait until the reading thread needs the GIL no more.

        The device's destructor waits for that thread and holds the GIL meanwhile.
        """
        self._open.set()
        deadline = time.monotonic() + _LEAVE_S
        if self._reader is not None:
            self.ended.wait(_LEAVE_S)
        while self._reader in sys._current_frames() and time.monotonic() < deadline:
            time.sleep(0.001)

    def _on_status(self, status: Any) -> None:
        self._reader = threading.get_ident()
        self._open.wait(_GATE_S)
        if status.name == "stopped":
            self.ended.set()


@contextmanager
def streaming(streams: Streams, inbox: Inbox, gate: PlaybackGate | None = None) -> Iterator[None]:
    """Let sensors deliver into an inbox for as long as the context lasts."""
    sensors = [sensor for sensor, _ in streams.sensors]
    try:
        for sensor, profiles in streams.sensors:
            sensor.open(profiles)
        for sensor in sensors:
            sensor.start(inbox)
        if gate is not None:
            gate.open()
        yield
    finally:
        inbox.close()
        _stop(sensors)
        if gate is not None:
            gate.wait_until_left()


def _stop(sensors: Sequence[Any]) -> None:
    """Stop sensors in a thread of its own: for a camera that was unplugged it may never return."""

    def stop() -> None:
        for release in ("stop", "close"):
            for sensor in sensors:
                with suppress(RuntimeError):  # never started, or gone
                    getattr(sensor, release)()

    thread = threading.Thread(target=stop, name="edge-fusion-realsense-stop", daemon=True)
    thread.start()
    thread.join(_STOP_S)
