"""``realsense://``: a RealSense camera, or what one recorded.

A pair costs one copy of its two images before it may be dropped.  Depth is registered to colour
when a pair is decoded, by our own code.  The SDK's alignment takes half the time, but it needs the
SDK's own buffers, of which there are few, so it would have to run for every pair, dropped or not;
and it moves readings without turning them into distances from the colour camera.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edge_fusion.errors import SourceError
from edge_fusion.frame import RgbdFrame

from .base import Arrival, Arrivals, decoded
from .librealsense import Inbox, PlaybackGate, check_opens, load_sdk, streaming
from .place import local_path
from .realsense_pairs import Account, Pairs, check_complete
from .realsense_streams import Mode, Streams, choose_streams
from .silence import Silence

SUFFIXES = (".db3", ".bag")
_MAY_HANG = (".bag",)
SIZE, FPS, TIMEOUT_S = (640, 480), 30, 5.0

_WAIT_S = 0.1  # how soon a closed source or the end of a recording is noticed
_ROOM = 8  # images between the SDK and us
_UDEV = (
    "install librealsense's udev rules: sudo cp 99-realsense-libusb.rules /etc/udev/rules.d/, "
    "and plug the camera in again"
)
_HELD = "another program holds the camera: end it, or unplug the camera and plug it in again"
_SILENT = (
    "plug the camera in again, into a USB 3 port of its own; where only one stream fails, try "
    "another size or fps"
)
_STUCK = "is the disk that holds it still there, and fast enough?"
#: What a message of the SDK contains, and the cure.
_CURES = {
    "busy": _HELD,
    "power state": f"{_HELD}; or {_UDEV}",
    "access": _UDEV,
    "permission": _UDEV,
}


def open_realsense(
    path: str,
    *,
    size: tuple[int, int] | None = None,
    fps: int | None = None,
    timeout: float | None = None,
) -> RealSenseCamera | RealSenseRecording:
    """What a ``realsense://`` URI names: a camera by its serial number, or a recording.

    Args:
        path: A recording, if it ends in .db3 or .bag or names a file; else a serial number, or
            nothing for the only camera that is connected.
        size: Width and height of colour, for a camera (default 640x480).
        fps: Images per second, for a camera (default 30).
        timeout: Seconds without a pair that end a source (default 5).

    Raises:
        SourceError: The camera or the recording is not there, or a key does not apply to it.
    """
    timeout_s = TIMEOUT_S if timeout is None else timeout
    file = local_path(path)
    if not (file.suffix.lower() in SUFFIXES or "/" in path or (path and file.exists())):
        return RealSenseCamera(path, size or SIZE, FPS if fps is None else fps, timeout_s)
    if size is not None or fps is not None:
        raise SourceError(
            f"recording 'realsense://{path}'",
            expected="no size and no fps: it has the ones it was recorded with",
            got="size or fps",
        )
    return RealSenseRecording(path, timeout_s)


def connected_devices() -> list[Any]:
    """The RealSense devices that are connected now."""
    return list(load_sdk().context().query_devices())


class RealSenseCamera:
    """A live camera.

    Args:
        serial: Its serial number; empty for the only one.
        size: Width and height of colour in pixels; depth comes at the nearest size it has.
        fps: Images per second of both.
        timeout_s: Seconds without a pair that end it.
        find_devices: What lists the devices that are connected.

    Raises:
        SourceError: There is no such camera, or it cannot do what is asked.
        MissingDependencyError: A system library of the SDK is missing.

    Example:
        >>> for frame in RealSenseCamera("").frames():  # doctest: +SKIP
        ...     print(frame.number, frame.depth.shape)
    """

    live = True

    def __init__(
        self,
        serial: str = "",
        size: tuple[int, int] = SIZE,
        fps: int = FPS,
        timeout_s: float = TIMEOUT_S,
        find_devices: Callable[[], Sequence[Any]] = connected_devices,
    ) -> None:
        _check_timeout(timeout_s)
        self._serial, self._timeout_s, self._find_devices = serial, timeout_s, find_devices
        self._mode = Mode(*size, fps)
        self._account = Account()
        self._open()  # what cannot work is told now, not after a model was loaded

    @property
    def uri(self) -> str:
        """The URI that opens an equal source."""
        mode = self._mode
        return (
            f"realsense://{self._serial}?size={mode.width}x{mode.height}&fps={mode.fps}"
            f"&timeout={self._timeout_s:g}"
        )

    @property
    def counts(self) -> Mapping[str, int]:
        """What was lost before there were pairs."""
        return self._account.counts

    def frames(self) -> Iterator[RgbdFrame]:
        """Every pair, decoded at once."""
        return decoded(self.arrivals())

    def arrivals(self) -> Arrivals:
        """Every pair as it comes in; None where none came for a moment.

        Raises:
            SourceError: The camera is gone, busy, sends nothing, or cannot do what is asked.
        """
        device, name, streams = self._open()
        inbox = Inbox(_ROOM, live=True)
        pairs = self._account.open(Pairs(streams, inbox, _serial(device)))
        with _border(name), streaming(streams, inbox):
            silence = Silence(name, self._timeout_s, _SILENT, pairs.describe)
            while True:
                image = inbox.take(_WAIT_S)
                if image is None and not device.is_connected():
                    raise SourceError(
                        f"{name} was unplugged",
                        cure="plug it in again; if nobody unplugged it, its cable, its hub or its "
                        "power supply is weak",
                    )
                arrived: Sequence[Arrival | None] = [] if image is None else [*pairs.take(image)]
                silence.check(heard=bool(arrived))
                for arrival in arrived or [None]:
                    with silence.paused():
                        yield arrival

    def _open(self) -> tuple[Any, str, Streams]:
        """The camera, what to call it, and the streams that it will send."""
        device = self._find()
        name = f"camera {_describe(device)}"
        with _border(name):
            return device, name, choose_streams(device.query_sensors(), self._mode, name)

    def _find(self) -> Any:
        with _border("looking for RealSense cameras"):
            devices = list(self._find_devices())
        listed = ", ".join(_describe(device) for device in devices) or "none"
        chosen = [one for one in devices if self._serial in ("", _serial(one))]
        if len(chosen) == 1:
            return chosen[0]
        if not devices:
            raise SourceError(
                "no RealSense camera is connected",
                expected=f"serial number {self._serial}" if self._serial else "one camera",
                got="none",
                cure="plug it into a USB 3 port; if 'lsusb' shows it (8086:0b..), install "
                "librealsense's udev rules",
            )
        raise SourceError(
            f"source 'realsense://{self._serial}'",
            expected=f"a camera with serial number {self._serial}"
            if self._serial
            else "one camera that is connected, or a serial number",
            got=f"connected: {listed}",
            cure=f"name one: realsense://{_serial(devices[0])}",
        )


class RealSenseRecording:
    """A recording by librealsense: .db3, or .bag of an SDK before 2.58.

    It is read as fast as its reader takes pairs, and every pair comes.

    Args:
        path: The file.
        timeout_s: Seconds without a pair that end it with an error.

    Raises:
        SourceError: There is no such file, its name says that it is something else, or the SDK
            does not open it.
    """

    live = False

    def __init__(self, path: str | Path, timeout_s: float = TIMEOUT_S) -> None:
        _check_timeout(timeout_s)
        self._given, self._path = str(path), local_path(path)
        self._timeout_s = timeout_s
        self._account = Account()
        if not self._path.is_file():
            raise SourceError(f"recording '{self._given}'", expected="a file", got="none there")
        if self._path.suffix.lower() not in SUFFIXES:
            raise SourceError(
                f"recording '{self._given}'",
                expected=" or ".join(SUFFIXES),
                got=f"'{self._path.suffix}'",
                cure="record with realsense-viewer or rs-record",
            )
        if self._path.suffix.lower() in _MAY_HANG:
            check_opens(f"recording '{self._given}'", self._path)

    @property
    def uri(self) -> str:
        """The URI that opens an equal source."""
        return f"realsense://{self._given}?timeout={self._timeout_s:g}"

    @property
    def counts(self) -> Mapping[str, int]:
        """What did not become a pair."""
        return self._account.counts

    def frames(self) -> Iterator[RgbdFrame]:
        """Every pair in the order of its recording."""
        return decoded(self.arrivals())

    def arrivals(self) -> Arrivals:
        """Every pair, not decoded yet; None where none came for a moment.

        Raises:
            SourceError: The file is damaged, no recording, or lacks a stream.
        """
        name = f"recording '{self._given}'"
        with _border(name, "is it complete, and recorded by librealsense? record it again"):
            device = load_sdk().context().load_device(str(self._path))
            device.set_real_time(False)
            streams = choose_streams(device.query_sensors(), None, name)
            inbox, gate = Inbox(_ROOM, live=False), PlaybackGate(device)
            pairs = self._account.open(Pairs(streams, inbox, self._path.stem))
            reached_ns = 0
            with streaming(streams, inbox, gate):
                silence = Silence(name, self._timeout_s, _STUCK, pairs.describe)
                while True:
                    over = gate.ended.is_set()  # before the last look into the inbox
                    image = inbox.take(0 if over else _WAIT_S)
                    if image is None and over:
                        break
                    reached_ns = max(reached_ns, device.get_position())
                    silence.check(heard=image is not None)
                    arrived: Sequence[Arrival | None] = (
                        [] if image is None else [*pairs.take(image)]
                    )
                    for arrival in arrived or [None]:
                        with silence.paused():
                            yield arrival
                length_s = device.get_duration().total_seconds()
            yield from pairs.flush()
            check_complete(name, self._path, pairs, reached_ns / 1e9, length_s)


def _serial(device: Any) -> str:
    return _info(device, "serial_number")


def _info(device: Any, what: str) -> str:
    key = getattr(load_sdk().camera_info, what)
    return str(device.get_info(key)) if device.supports(key) else ""


def _describe(device: Any) -> str:
    return f"{_serial(device)} ({_info(device, 'name') or 'no name'})"


def _check_timeout(timeout_s: float) -> None:
    if not timeout_s > 0:
        raise SourceError("realsense: timeout", expected="seconds above 0", got=f"{timeout_s:g}")


@contextmanager
def _border(name: str, cure: str = "") -> Iterator[None]:
    """Turn what the SDK raises into one of our errors."""
    try:
        yield
    except RuntimeError as err:
        told = str(err)
        known = next((cure for part, cure in _CURES.items() if part in told.lower()), cure)
        raise SourceError(f"{name} failed", got=told, cure=known) from err
