"""Which streams of a RealSense are read, and how its cameras see."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_fusion.errors import SourceError

from ..register import Camera, Rigid

Stream = Literal["color", "depth"]
ToRgb = Callable[[NDArray[Any]], NDArray[np.uint8]]


def _converted(code: int) -> ToRgb:
    return lambda pixels: np.asarray(cv2.cvtColor(pixels, code), np.uint8)


def _unpacked(code: int) -> ToRgb:
    def to_rgb(pixels: NDArray[Any]) -> NDArray[np.uint8]:
        height, width = pixels.shape[:2]
        return np.asarray(cv2.cvtColor(pixels.view(np.uint8).reshape(height, width, 2), code))

    return to_rgb


#: Colour formats by the SDK's name, best first, and how each becomes (H, W, 3) uint8, red first.
COLOR_FORMATS: Mapping[str, ToRgb] = {
    "rgb8": lambda pixels: pixels,
    "bgr8": _converted(cv2.COLOR_BGR2RGB),
    "rgba8": _converted(cv2.COLOR_RGBA2RGB),
    "bgra8": _converted(cv2.COLOR_BGRA2RGB),
    "yuyv": _unpacked(cv2.COLOR_YUV2RGB_YUY2),
    "uyvy": _unpacked(cv2.COLOR_YUV2RGB_UYVY),
}
DEPTH_FORMATS = ("z16",)
_FORMATS: Mapping[Stream, Sequence[str]] = {"color": tuple(COLOR_FORMATS), "depth": DEPTH_FORMATS}
_PINHOLE_LENSES = ("brown_conrady", "modified_brown_conrady", "inverse_brown_conrady")


@dataclass(frozen=True, slots=True)
class Mode:
    """What is asked of a live camera: size in pixels and images per second."""

    width: int
    height: int
    fps: int


@dataclass(frozen=True, slots=True, eq=False)
class Streams:
    """The two streams that are read, and how their cameras see.

    Attributes:
        sensors: Each sensor that is needed, with the profiles to open.
        to_rgb: What makes (H, W, 3) uint8, red first, of a colour image.
        color_camera: The colour camera.
        depth_camera: The depth camera.
        depth_to_color: From the depth camera to the colour camera.
        fps: Images per second of the slower stream, as declared.
    """

    sensors: tuple[tuple[Any, list[Any]], ...]
    to_rgb: ToRgb
    color_camera: Camera
    depth_camera: Camera
    depth_to_color: Rigid
    fps: int


def choose_streams(sensors: Sequence[Any], mode: Mode | None, what: str) -> Streams:
    """Choose a colour and a depth stream, and read their calibration.

    Args:
        sensors: The sensors of a device.
        mode: What is asked for; None: whatever a recording holds.
        what: What the device is called in messages.

    Raises:
        SourceError: A stream is missing, not in this mode, or without usable calibration.
    """
    color_sensor, color = _choose("color", sensors, mode, what)
    if mode is not None:  # depth may have no such size, but must come as often
        size = color.width(), color.height()
        mode = _nearest_mode(sensors, Mode(*size, color.fps()))
    depth_sensor, depth = _choose("depth", sensors, mode, what)
    # A device may deliver both by one sensor, which is opened once.
    if color_sensor is depth_sensor:
        opened: tuple[tuple[Any, list[Any]], ...] = ((color_sensor, [color, depth]),)
    else:
        opened = ((depth_sensor, [depth]), (color_sensor, [color]))
    return Streams(
        sensors=opened,
        to_rgb=COLOR_FORMATS[color.format().name],
        color_camera=_camera(color, what),
        depth_camera=_camera(depth, what),
        depth_to_color=_motion(depth, color, what),
        fps=min(color.fps(), depth.fps()),
    )


def _profiles(sensors: Sequence[Any], stream: str) -> Iterator[tuple[Any, Any]]:
    """Every sensor with every video profile of a stream."""
    for sensor in sensors:
        for profile in sensor.get_stream_profiles():
            if profile.stream_type().name == stream and profile.is_video_stream_profile():
                yield sensor, profile.as_video_stream_profile()


def _mode(profile: Any) -> Mode:
    return Mode(profile.width(), profile.height(), profile.fps())


def _nearest_mode(sensors: Sequence[Any], wanted: Mode) -> Mode:
    """The depth mode of this rate whose number of pixels is nearest; the same size where it is."""
    modes = {_mode(profile) for _, profile in _profiles(sensors, "depth")}
    pixels = wanted.width * wanted.height
    return min(
        (mode for mode in modes if mode.fps == wanted.fps),
        key=lambda mode: (
            (mode.width, mode.height) != (wanted.width, wanted.height),
            abs(mode.width * mode.height - pixels),
            mode.width,
        ),
        default=wanted,
    )


def _choose(stream: Stream, sensors: Sequence[Any], mode: Mode | None, what: str) -> Any:
    formats = _FORMATS[stream]
    found = list(_profiles(sensors, stream))
    usable = [one for one in found if one[1].format().name in formats]
    fitting = [one for one in usable if mode is None or _mode(one[1]) == mode]
    if fitting:
        return min(fitting, key=lambda one: formats.index(one[1].format().name))
    name = {"color": "colour", "depth": "depth"}[stream]
    if not found:
        streams = {p.stream_type().name for s in sensors for p in s.get_stream_profiles()}
        raise SourceError(
            f"{what} has no {name} stream",
            expected="colour and depth",
            got=", ".join(sorted(streams)) or "no stream at all",
            cure="use a camera or a recording that has both",
        )
    if not usable:
        raise SourceError(
            f"{name} of {what}",
            expected=f"one of the formats {', '.join(formats)}",
            got=", ".join(sorted({profile.format().name for _, profile in found})),
        )
    modes = sorted({_mode(profile) for _, profile in usable}, key=lambda m: (m.width, m.fps))
    raise SourceError(
        f"{name} of {what}",
        expected="one of " + ", ".join(f"{m.width}x{m.height} at {m.fps}" for m in modes),
        got=f"{mode.width}x{mode.height} at {mode.fps}" if mode else "",
        cure="choose one: realsense://?size=WIDTHxHEIGHT&fps=RATE; on a USB 2 port or cable a "
        "camera offers less than on USB 3",
    )


def _camera(profile: Any, what: str) -> Camera:
    """The calibration of a stream.

    The SDK projects with each of its Brown-Conrady models as if it were the plain one, as its own
    alignment does.
    """
    seen = profile.get_intrinsics()
    model, coefficients = seen.model.name, tuple(seen.coeffs)
    if any(coefficients) and model not in _PINHOLE_LENSES:
        raise SourceError(
            f"the lens of {what}",
            expected=f"no distortion, or one of {', '.join(_PINHOLE_LENSES)}",
            got=model,
            cure="record or stream rectified images",
        )
    return Camera(seen.width, seen.height, seen.fx, seen.fy, seen.ppx, seen.ppy, coefficients)


def _motion(depth: Any, color: Any, what: str) -> Rigid:
    """From the depth camera to the colour camera."""
    try:
        extrinsics = depth.get_extrinsics_to(color)
    except RuntimeError as err:
        raise SourceError(
            f"where the depth camera of {what} stands is unknown",
            expected="extrinsics from depth to colour",
            got=str(err),
            cure="calibrate the camera, or record with a calibrated one",
        ) from err
    # The SDK writes matrices column by column.
    rotation = np.reshape(extrinsics.rotation, (3, 3)).T
    return Rigid(rotation, np.asarray(extrinsics.translation))
