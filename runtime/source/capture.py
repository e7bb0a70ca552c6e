"""One stream of images through OpenCV: a video file, an RTSP camera, a V4L2 camera.

OpenCV decodes a video when it grabs an image.  What can wait until a pair is wanted does: the
conversion of pixels, and of a V4L2 camera the decoding, too.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_fusion.errors import FrameError, SourceError

from .credentials import without_credentials
from .image import decode_image

Pixels = NDArray[Any]

_GREY_16, _GREY_8 = 0x10003159, 0x30303859  # FFmpeg's pixel formats gray16le and gray
_GREY_LEVELS = 3  # how far apart a lossy codec brings the channels of grey
_SPARSE = np.s_[::4, ::4]  # enough of an image to tell colour from grey
_QUIET = 2  # OpenCV's log level for errors alone

_SWAPPED = "are the two streams swapped?"


def _from_jpeg(pixels: Pixels) -> Pixels:
    image = decode_image(pixels.reshape(-1), "it")
    return cv2.cvtColor(image, cv2.COLOR_GRAY2RGB if image.ndim == 2 else cv2.COLOR_BGR2RGB)


#: Layouts of colour and how they become red, green, blue; four letters are V4L2's own names.
_TO_RGB: dict[str, Callable[[Pixels], Pixels]] = {
    "bgr": lambda pixels: cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB),
    "YUYV": lambda pixels: cv2.cvtColor(pixels, cv2.COLOR_YUV2RGB_YUYV),
    "UYVY": lambda pixels: cv2.cvtColor(pixels, cv2.COLOR_YUV2RGB_UYVY),
    "MJPG": _from_jpeg,
}


@dataclass(frozen=True, slots=True, eq=False)
class Still:
    """An image as a stream delivers it; it owns its pixels.

    Attributes:
        pixels: (H, W, 3) uint8, (H, W) uint8 or uint16, or whatever ``layout`` says.
        layout: ``bgr``, ``grey``, or the V4L2 format of an image not decoded yet.
    """

    pixels: Pixels
    layout: str

    def rgb(self, name: str) -> NDArray[np.uint8]:
        """The colour image, (H, W, 3) uint8 red first.

        Raises:
            FrameError: It is damaged, or holds one channel.
        """
        if self.layout == "grey":
            raise FrameError(
                f"colour of '{name}'",
                expected="a colour image",
                got=f"one channel of {self.pixels.dtype}",
                cure=_SWAPPED,
            )
        try:
            return np.asarray(_TO_RGB[self.layout](self.pixels), np.uint8)
        except (cv2.error, FrameError) as err:
            raise FrameError(f"colour of '{name}'", got="a damaged image") from err

    def depth(self, name: str) -> NDArray[Any]:
        """The depth, (H, W) uint8 or uint16 as stored.

        Raises:
            FrameError: It is damaged, or a colour image.
        """
        if self.layout == "grey":
            return self.pixels
        rgb = self.rgb(name)
        if _colourful(rgb):
            raise FrameError(
                f"depth of '{name}'", expected="one channel", got="a colour image", cure=_SWAPPED
            )
        return np.ascontiguousarray(rgb[..., 1])  # of the three the least hurt by a lossy codec


def _colourful(rgb: NDArray[np.uint8]) -> bool:
    sparse = rgb[_SPARSE].astype(np.int16)
    return bool(np.ptp(sparse, axis=2).mean() > _GREY_LEVELS)


class Grabber(Protocol):
    """An open stream of images, used by one thread."""

    def grab(self) -> bool | None:
        """Wait for the next image; False: the stream is at its end, lost, or silent for long.

        None: there is none yet, and whoever waits may give up.
        """
        ...

    def retrieve(self) -> Still | None:
        """The image grabbed last; None: it is damaged."""
        ...

    @property
    def time_ns(self) -> int:
        """The stream's own time of the image grabbed last; 0 where it has none."""
        ...

    def release(self) -> None:
        """Close it."""
        ...


class Capture:
    """A stream that OpenCV reads.

    Args:
        capture: An open ``cv2.VideoCapture``.

    Attributes:
        length: How many images its container says it holds, which may be a few off; 0: unknown.
        fps: Its frame rate as its container says; 0: unknown.
    """

    def __init__(self, capture: cv2.VideoCapture) -> None:
        self._capture, self._layout = capture, "bgr"
        self.length = max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        self.fps = max(0.0, float(capture.get(cv2.CAP_PROP_FPS)))
        capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 0)  # depth says nothing of how it was held
        if int(capture.get(cv2.CAP_PROP_CODEC_PIXEL_FORMAT)) in (_GREY_16, _GREY_8):
            # One channel as it is stored; else OpenCV makes 8-bit colour of it.
            self._take_raw("grey")

    def grab(self) -> bool:
        """Decode the next image."""
        return bool(self._capture.grab())

    def retrieve(self) -> Still | None:
        """The image grabbed last."""
        try:
            done, pixels = self._capture.retrieve()
        except cv2.error:
            return None
        return Still(pixels, self._layout) if done and pixels is not None else None

    @property
    def time_ns(self) -> int:
        """Its time since the beginning of the stream, or of a V4L2 camera since the machine's."""
        return max(0, round(self._capture.get(cv2.CAP_PROP_POS_MSEC) * 1e6))

    def release(self) -> None:
        """Close the file, the connection or the device."""
        self._capture.release()

    def _take_raw(self, layout: str) -> None:
        if self._capture.set(cv2.CAP_PROP_CONVERT_RGB, 0):
            self._layout = layout


class CameraCapture(Capture):
    """A V4L2 camera; what it sends compressed is decoded where a pair is wanted."""

    def __init__(self, capture: cv2.VideoCapture) -> None:
        super().__init__(capture)
        code = int(capture.get(cv2.CAP_PROP_FOURCC)) & 0xFFFFFFFF
        layout = code.to_bytes(4, "little").decode("latin-1")
        if layout in _TO_RGB:
            self._take_raw(layout)


def open_file(path: Path, what: str) -> Capture:
    """Open a video file.

    Args:
        path: The file.
        what: What it holds, for messages: ``colour`` or ``depth``.

    Raises:
        SourceError: It is missing, no video, cut off, or this OpenCV has no FFmpeg.
    """
    if not path.is_file():
        raise SourceError(f"{what} video '{path}' does not exist", cure="is the path right?")
    if not os.access(path, os.R_OK):
        raise SourceError(f"{what} video '{path}' must not be read", cure="check its permissions")
    capture = _open(str(path), cv2.CAP_FFMPEG)
    if capture is None:
        raise SourceError(
            f"cannot open {what} video '{path}'",
            expected="a video that FFmpeg reads",
            got="an empty file" if not path.stat().st_size else "no such video, or a cut off one",
            cure="play it with ffplay; an .mp4 whose recorder was killed cannot be read, "
            "record to .mkv instead",
        )
    return Capture(capture)


def open_rtsp(url: str, what: str, timeout_s: float) -> Capture:
    """Connect to an RTSP camera.

    Args:
        url: Its address, credentials included; they are shown nowhere.
        what: What it sends, for messages.
        timeout_s: How long to wait for a connection, and later for an image.

    Raises:
        SourceError: There is no answer, or another one than a video.
    """
    timeout_ms = max(1, round(timeout_s * 1000))
    options = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, timeout_ms]
    options += [cv2.CAP_PROP_READ_TIMEOUT_MSEC, timeout_ms]
    if hasattr(cv2, "CAP_PROP_N_THREADS"):
        options += [cv2.CAP_PROP_N_THREADS, 1]  # every further thread delays by one image
    capture = _open(url, cv2.CAP_FFMPEG, options)
    if capture is None:
        raise SourceError(
            f"cannot open {what} of '{without_credentials(url)}'",
            expected=f"a video within {timeout_s:g} s",
            got="no connection, no such stream, or wrong credentials",
            cure="try the address with ffplay; write @, / and ? in a password as %40, %2F and %3F",
        )
    return Capture(capture)


def open_camera(
    device: Path, what: str, size: tuple[int, int] | None, fps: float | None
) -> CameraCapture:
    """Open a V4L2 camera.

    Args:
        device: Such as ``/dev/video0``.
        what: What it sends, for messages.
        size: Width and height to ask for; None: what it has.
        fps: Rate to ask for; None: what it has.

    Raises:
        SourceError: There is no such camera, it is busy, or it cannot do that.
    """
    check_device(device, what)
    capture = _open(str(device), cv2.CAP_V4L2)
    if capture is None:
        raise SourceError(
            f"cannot open {what} camera {device}",
            got="a device that is busy, or sends no colour that OpenCV knows",
            cure=f"see v4l2-ctl --device {device} --list-formats-ext, and who uses it: "
            f"fuser {device}",
        )
    wanted = {cv2.CAP_PROP_FPS: fps} if fps is not None else {}
    if size is not None:
        wanted |= {cv2.CAP_PROP_FRAME_WIDTH: size[0], cv2.CAP_PROP_FRAME_HEIGHT: size[1]}
    for key, value in wanted.items():
        capture.set(key, value)
    got = {key: capture.get(key) for key in wanted}
    if any(abs(got[key] - value) > 0.5 for key, value in wanted.items()):
        capture.release()
        raise SourceError(
            f"{what} camera {device} cannot do this",
            expected=", ".join(f"{value:g}" for value in wanted.values()),
            got=", ".join(f"{value:g}" for value in got.values()),
            cure=f"choose from v4l2-ctl --device {device} --list-formats-ext",
        )
    return CameraCapture(capture)


def check_device(device: Path, what: str) -> None:
    """Refuse a V4L2 device that is not there or not ours.

    Raises:
        SourceError: It is not.
    """
    if not device.is_char_device():
        there = ", ".join(sorted(str(path) for path in Path("/dev").glob("video*")))
        raise SourceError(
            f"no {what} camera at {device}",
            expected="a V4L2 device",
            got=f"only {there}" if there else "no /dev/video* at all",
            cure="is it plugged in, and passed to the container (--device)?",
        )
    if not os.access(device, os.R_OK | os.W_OK):
        raise SourceError(
            f"{what} camera {device} must not be used by this user",
            cure="add the user to the group 'video', and log in again",
        )


def _open(location: str, backend: int, options: list[int] | None = None) -> cv2.VideoCapture | None:
    names = cv2.videoio_registry
    if backend not in names.getBackends():
        raise SourceError(
            f"this OpenCV ({cv2.__version__}) was built without {names.getBackendName(backend)}",
            cure="use another OpenCV, such as that of pip install 'edge-fusion[opencv]'",
        )
    _quiet()
    try:
        capture = cv2.VideoCapture(location, backend, options or [])
    except cv2.error:  # which may quote the location, credentials and all
        return None
    if not capture.isOpened():
        capture.release()
        return None
    return capture


def _quiet() -> None:
    """Keep OpenCV's warnings off the terminal: what they are about, our errors say better."""
    if "OPENCV_LOG_LEVEL" in os.environ:
        return
    modules = (getattr(getattr(cv2, "utils", None), "logging", None), cv2)  # by version
    setters = (getattr(module, "setLogLevel", None) for module in modules)
    for setter in filter(None, setters):
        setter(_QUIET)
        return
