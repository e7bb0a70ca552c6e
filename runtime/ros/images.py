"""Image messages as arrays: ``sensor_msgs`` Image and CompressedImage, raw, JPEG, PNG and depth.

The messages are taken by their fields, so those of rclpy, rosbags and mcap all fit.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_fusion.errors import FrameError

from ..source.image import decode_image

Kind = Literal["color", "depth"]
Bytes = NDArray[np.uint8]

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED = "sensor_msgs/msg/CompressedImage"
COMPRESSED_SUFFIXES = ("/compressed", "/compressedDepth")


@dataclass(frozen=True, slots=True)
class ColorEncoding:
    """How a colour pixel is laid out.

    Attributes:
        channels: 8-bit values per pixel.
        to_rgb: OpenCV's conversion to red, green, blue; None: it is that already.
        grey: Whether it holds no colour: taken where it is named, never guessed to be the colour.
    """

    channels: int
    to_rgb: int | None
    grey: bool = False


COLOR_ENCODINGS: dict[str, ColorEncoding] = {
    "rgb8": ColorEncoding(3, None),
    "bgr8": ColorEncoding(3, cv2.COLOR_BGR2RGB),
    "rgba8": ColorEncoding(4, cv2.COLOR_RGBA2RGB),
    "bgra8": ColorEncoding(4, cv2.COLOR_BGRA2RGB),
    # Nameless channels are in OpenCV's order: whoever writes them has an OpenCV array at hand.
    "8UC3": ColorEncoding(3, cv2.COLOR_BGR2RGB),
    "8UC4": ColorEncoding(4, cv2.COLOR_BGRA2RGB),
    "yuv422": ColorEncoding(2, cv2.COLOR_YUV2RGB_UYVY),
    "yuv422_yuy2": ColorEncoding(2, cv2.COLOR_YUV2RGB_YUY2),
    "mono8": ColorEncoding(1, cv2.COLOR_GRAY2RGB, grey=True),
    "8UC1": ColorEncoding(1, cv2.COLOR_GRAY2RGB, grey=True),
}


@dataclass(frozen=True, slots=True)
class DepthEncoding:
    """How a depth pixel is laid out.

    Attributes:
        dtype: Its dtype.
        unit_m: Metres per unit by REP 118; None where that says nothing.
    """

    dtype: type[np.generic]
    unit_m: float | None


DEPTH_ENCODINGS: dict[str, DepthEncoding] = {
    "16UC1": DepthEncoding(np.uint16, 0.001),
    "32FC1": DepthEncoding(np.float32, 1.0),
    "mono16": DepthEncoding(np.uint16, None),
    "mono8": DepthEncoding(np.uint8, None),
    "8UC1": DepthEncoding(np.uint8, None),
}

_QUANTISED = struct.Struct("<iff")  # before the PNG: format (0: inverse depth), then A and B


def base_topic(topic: str) -> str:
    """The topic of the raw images that a compressed topic belongs to.

    Example:
        >>> base_topic("/camera/color/image_raw/compressed")
        '/camera/color/image_raw'
    """
    for suffix in COMPRESSED_SUFFIXES:
        topic = topic.removesuffix(suffix)
    return topic


def encoding_of(message: Any) -> str:
    """The encoding of the pixels; of a compressed message that of the original, "" if untold.

    Args:
        message: An Image or a CompressedImage.
    """
    if not hasattr(message, "format"):
        return str(message.encoding)
    original, separator, _ = str(message.format).partition(";")
    return original.strip() if separator else ""


def kind_of(message: Any) -> Kind | None:
    """What an image shows as far as its encoding tells; None: grey, or nothing known.

    Args:
        message: An Image or a CompressedImage.
    """
    encoding = encoding_of(message)
    if "compressedDepth" in getattr(message, "format", "") or encoding in (
        "16UC1",
        "mono16",
        "32FC1",
    ):
        return "depth"
    if encoding in COLOR_ENCODINGS:
        return None if COLOR_ENCODINGS[encoding].grey else "color"
    return "color" if hasattr(message, "format") and not encoding else None


def color_from_message(message: Any, name: str) -> NDArray[np.uint8]:
    """A colour image.

    Args:
        message: An Image in one of :data:`COLOR_ENCODINGS`, or a CompressedImage of JPEG or PNG.
        name: The image, for messages, such as its topic.

    Returns:
        (H, W, 3) uint8, red first; it may share the message's memory.

    Raises:
        FrameError: The encoding is none of these, or the message is damaged.

    Example:
        >>> from types import SimpleNamespace
        >>> message = SimpleNamespace(
        ...     height=1, width=1, encoding="bgr8", is_bigendian=0, step=3, data=bytes([1, 2, 3])
        ... )
        >>> color_from_message(message, "camera").tolist()
        [[[3, 2, 1]]]
    """
    if hasattr(message, "format"):
        return _decoded_color(message, name)
    encoding = _known(COLOR_ENCODINGS, message, name, "colour")
    pixels = _pixels(message, np.uint8, encoding.channels, name)
    return pixels if encoding.to_rgb is None else _converted(pixels, encoding.to_rgb, name)


def depth_from_message(message: Any, name: str) -> tuple[NDArray[Any], str]:
    """A depth image in its own unit, and the encoding that tells the unit.

    Args:
        message: An Image in one of :data:`DEPTH_ENCODINGS`; or a CompressedImage of a 16-bit PNG,
            plain or by the ``compressedDepth`` transport, which also carries metres as quantised
            inverse depth.
        name: The image, for messages, such as its topic.

    Returns:
        (H, W) uint8, uint16 or float32, and a key of :data:`DEPTH_ENCODINGS`.

    Raises:
        FrameError: The encoding is none of these, or the message is damaged.

    Example:
        >>> from types import SimpleNamespace
        >>> message = SimpleNamespace(
        ...     height=1, width=1, encoding="16UC1", is_bigendian=1, step=2, data=bytes([3, 232])
        ... )
        >>> depth_from_message(message, "camera")
        (array([[1000]], dtype=uint16), '16UC1')
    """
    encoding = encoding_of(message)
    if hasattr(message, "format"):
        if "compressedDepth" in message.format:
            return _decoded_transport(message, name), encoding
        if encoding:
            _known(DEPTH_ENCODINGS, message, name, "depth")
        return _decoded_depth(message, name), encoding or "16UC1"
    dtype = _known(DEPTH_ENCODINGS, message, name, "depth").dtype
    return _pixels(message, dtype, 1, name)[..., 0], encoding


def _known(table: Mapping[str, Any], message: Any, name: str, what: str) -> Any:
    encoding = encoding_of(message)
    if encoding not in table:
        raise FrameError(
            f"{what} image of '{name}'",
            expected=f"an encoding of {', '.join(table)}",
            got=f"'{encoding}'",
            cure="is it the topic that was meant? if so, publish it converted, as image_proc does",
        )
    return table[encoding]


def _pixels(message: Any, dtype: type[np.generic], channels: int, name: str) -> NDArray[Any]:
    """(H, W, channels) of a raw image in this machine's byte order, padding removed."""
    stored = np.dtype(dtype).newbyteorder(">" if message.is_bigendian else "<")
    width, height, step = int(message.width), int(message.height), int(message.step)
    row = width * channels * stored.itemsize
    buffer = _buffer(message.data)
    # The last row may come without its padding.
    if not row or not height or step < row or buffer.size < step * (height - 1) + row:
        raise FrameError(
            f"image of '{name}' is damaged",
            expected=f"{height} rows of {row} bytes or more",
            got=f"{buffer.size} bytes in rows of {step}",
        )
    rows = np.lib.stride_tricks.as_strided(buffer, (height, row), (step, 1), writeable=False)
    pixels = np.ascontiguousarray(rows).view(stored).reshape(height, width, channels)
    native = pixels.astype(stored.newbyteorder("native"), copy=False)
    return np.require(native, requirements="A")  # a message may begin anywhere in its buffer


def _buffer(data: Any) -> Bytes:
    """A message's bytes without copying: bytes, array.array, memoryview or an array."""
    if isinstance(data, (bytes, bytearray, memoryview, np.ndarray)) or hasattr(data, "typecode"):
        return np.frombuffer(data, np.uint8)
    return np.asarray(data, np.uint8)


_TO_RGB = {1: cv2.COLOR_GRAY2RGB, 3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGB}


def _decoded_color(message: Any, name: str) -> NDArray[np.uint8]:
    image = decode_image(_buffer(message.data), name)
    channels = 1 if image.ndim == 2 else image.shape[2]
    if image.dtype != np.uint8 or channels not in _TO_RGB:
        raise FrameError(
            f"colour image of '{name}'",
            expected="8-bit channels",
            got=f"{channels} x {image.dtype} ('{message.format}')",
            cure="are the two streams swapped?",
        )
    return _converted(image, _TO_RGB[channels], name)


def _converted(pixels: Bytes, to_rgb: int, name: str) -> NDArray[np.uint8]:
    try:
        return np.asarray(cv2.cvtColor(pixels, to_rgb), np.uint8)
    except cv2.error as err:  # two pixels of a YUV image share their colour
        raise FrameError(
            f"colour image of '{name}' cannot be converted",
            expected="an even width, if it is YUV",
            got=f"{pixels.shape[1]}x{pixels.shape[0]} pixels ({err.err})",
        ) from err


def _decoded_depth(message: Any, name: str) -> NDArray[Any]:
    image = decode_image(_buffer(message.data), name)
    if image.ndim != 2 or image.dtype not in (np.uint8, np.uint16):
        raise FrameError(
            f"depth image of '{name}'",
            expected="a PNG of one channel of 16 bits",
            got=f"{'x'.join(map(str, image.shape))} {image.dtype} ('{message.format}')",
            cure="are the two streams swapped?",
        )
    if image.dtype != DEPTH_ENCODINGS.get(encoding_of(message), DEPTH_ENCODINGS["16UC1"]).dtype:
        raise FrameError(
            f"depth image of '{name}'",
            expected=f"what its format says, '{message.format}'",
            got=str(image.dtype),
            cure="a compressed transport has cut it to 8 bits: record compressedDepth or raw",
        )
    return image


def _decoded_transport(message: Any, name: str) -> NDArray[Any]:
    """Depth of the ``compressedDepth`` transport: 12 bytes, then a 16-bit PNG."""
    content, encoding = _buffer(message.data), encoding_of(message)
    codec = str(message.format).partition("compressedDepth")[2].strip() or "png"
    if codec != "png" or encoding not in ("16UC1", "32FC1"):
        raise FrameError(
            f"depth image of '{name}'",
            expected="'16UC1; compressedDepth png' or '32FC1; compressedDepth png'",
            got=f"'{message.format}'",
            cure="set the publisher's parameter compressedDepth.format to png",
        )
    if content.size <= _QUANTISED.size:
        raise FrameError(f"image of '{name}' is damaged", got=f"{content.size} bytes")
    image = decode_image(content[_QUANTISED.size :], name)
    if image.ndim != 2 or image.dtype != np.uint16:
        raise FrameError(
            f"depth image of '{name}'", expected="a 16-bit PNG", got=f"{image.shape} {image.dtype}"
        )
    if encoding == "16UC1":
        return image
    _, scale, offset = _QUANTISED.unpack(content[: _QUANTISED.size].tobytes())
    quantised = image.astype(np.float32)
    quantised[image == 0] = np.nan
    return np.asarray(np.float32(scale) / (quantised - np.float32(offset)), np.float32)
