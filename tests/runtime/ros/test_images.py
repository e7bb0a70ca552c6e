from __future__ import annotations

import array
import struct
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edge_fusion.errors import FrameError
from edge_fusion.runtime.ros.images import (
    base_topic,
    color_from_message,
    depth_from_message,
    kind_of,
)

RGB = np.array([[[10, 20, 30], [40, 50, 60]], [[70, 80, 90], [100, 110, 120]]], np.uint8)
DEPTH = np.array([[0, 500, 1000], [1500, 40000, 65535]], np.uint16)


def image(
    pixels: NDArray[Any], encoding: str, *, padding: int = 0, big: int = 0
) -> SimpleNamespace:
    """A sensor_msgs/Image of (H, W, ...) values, each row followed by padding."""
    stored = pixels.astype(pixels.dtype.newbyteorder(">" if big else "<"))
    rows = [row.tobytes() + b"\xee" * padding for row in stored]
    return SimpleNamespace(
        height=pixels.shape[0],
        width=pixels.shape[1],
        encoding=encoding,
        is_bigendian=big,
        step=len(rows[0]),
        data=b"".join(rows),
    )


def compressed(format: str, data: bytes) -> SimpleNamespace:
    return SimpleNamespace(format=format, data=np.frombuffer(data, np.uint8))


def encoded(suffix: str, pixels: NDArray[Any]) -> bytes:
    done, content = cv2.imencode(suffix, pixels)
    assert done
    return content.tobytes()


def with_alpha(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.dstack([pixels, np.full(pixels.shape[:2], 7, np.uint8)])


BGR = np.ascontiguousarray(RGB[..., ::-1])
GREY = RGB[..., 0]
COLORS = [
    ("rgb8", RGB, RGB),
    ("bgr8", BGR, RGB),
    ("rgba8", with_alpha(RGB), RGB),
    ("bgra8", with_alpha(BGR), RGB),
    ("8UC3", BGR, RGB),  # nameless channels are in OpenCV's order
    ("8UC4", with_alpha(BGR), RGB),
    ("mono8", GREY, np.dstack([GREY] * 3)),
    ("8UC1", GREY, np.dstack([GREY] * 3)),
]


@pytest.mark.parametrize("padding", [0, 5], ids=["dense", "padded"])
@pytest.mark.parametrize(("encoding", "stored", "expected"), COLORS, ids=[row[0] for row in COLORS])
def test_every_colour_encoding_becomes_rgb(
    encoding: str, stored: NDArray[np.uint8], expected: NDArray[np.uint8], padding: int
) -> None:
    rgb = color_from_message(image(stored, encoding, padding=padding), "camera")
    assert rgb.dtype == np.uint8
    assert np.array_equal(rgb, expected)


def test_packed_yuv_is_colour_of_the_right_order() -> None:
    # One grey of full brightness, then a strong blue (U high), as YUYV and as UYVY.
    yuyv = np.array([[[235, 128], [235, 128], [100, 200], [100, 100]]], np.uint8)
    uyvy = yuyv[..., ::-1]
    first = color_from_message(image(yuyv, "yuv422_yuy2"), "camera")
    assert np.array_equal(first, color_from_message(image(uyvy, "yuv422"), "camera"))
    assert np.ptp(first[0, 0].astype(int)) <= 2
    assert first[0, 2, 2] > first[0, 2, 0] + 50


@pytest.mark.parametrize("big", [0, 1], ids=["little", "big"])
@pytest.mark.parametrize("padding", [0, 3], ids=["dense", "padded"])
@pytest.mark.parametrize(
    ("encoding", "stored"),
    [
        ("16UC1", DEPTH),
        ("mono16", DEPTH),
        ("32FC1", np.array([[np.nan, 0.5], [1.25, np.inf]], np.float32)),
        ("mono8", GREY),
    ],
)
def test_every_depth_encoding_keeps_its_values(
    encoding: str, stored: NDArray[Any], padding: int, big: int
) -> None:
    message = image(stored, encoding, padding=padding, big=big)
    depth, told = depth_from_message(message, "camera")
    assert told == encoding
    assert depth.dtype == stored.dtype
    assert depth.dtype.isnative
    assert depth.flags.aligned
    assert np.array_equal(depth, stored, equal_nan=stored.dtype.kind == "f")


@pytest.mark.parametrize(
    "container",
    [bytes, bytearray, memoryview, lambda data: array.array("B", data), list],
    ids=["bytes", "bytearray", "memoryview", "array", "list"],
)
def test_any_container_of_bytes_will_do(container: Any) -> None:
    message = image(RGB, "rgb8")
    message.data = container(message.data)
    assert np.array_equal(color_from_message(message, "camera"), RGB)


def test_depth_at_an_odd_address_is_copied_to_an_even_one() -> None:
    message = image(DEPTH, "16UC1")
    message.data = np.frombuffer(b"x" + message.data, np.uint8)[1:]
    depth, _ = depth_from_message(message, "camera")
    assert depth.flags.aligned
    assert np.array_equal(depth, DEPTH)


def test_the_last_row_may_come_without_its_padding() -> None:
    message = image(RGB, "rgb8", padding=4)
    message.data = message.data[:-4]
    assert np.array_equal(color_from_message(message, "camera"), RGB)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"data": b"\0" * 11}, "expected 2 rows of 6 bytes or more, got 11 bytes in rows of 6"),
        ({"step": 5}, "in rows of 5"),
        ({"height": 0}, "expected 0 rows"),
        ({"encoding": "bayer_rggb8"}, "got 'bayer_rggb8'; is it the topic that was meant"),
        ({"encoding": "16UC1"}, "expected an encoding of rgb8, bgr8, .*got '16UC1'"),
    ],
)
def test_what_is_no_colour_image_is_told(changed: dict[str, Any], told: str) -> None:
    with pytest.raises(FrameError, match=told):
        color_from_message(SimpleNamespace(**{**vars(image(RGB, "rgb8")), **changed}), "/camera")


def test_an_unknown_depth_encoding_names_those_that_are_known() -> None:
    with pytest.raises(FrameError, match="expected an encoding of 16UC1, 32FC1.*got '64FC1'"):
        depth_from_message(image(DEPTH.astype(np.float64), "64FC1"), "/camera")


PLAIN = np.zeros((16, 16, 3), np.uint8)
PLAIN[..., 2] = 200  # red, in OpenCV's order


@pytest.mark.parametrize(
    ("format", "suffix"),
    [
        ("jpeg", ".jpg"),
        ("rgb8; jpeg compressed bgr8", ".jpg"),
        ("png", ".png"),
        ("bgr8; png compressed bgr8", ".png"),
    ],
)
def test_compressed_colour_is_red_first(format: str, suffix: str) -> None:
    rgb = color_from_message(compressed(format, encoded(suffix, PLAIN)), "camera")
    assert rgb.shape == PLAIN.shape
    assert np.abs(rgb.astype(int) - (200, 0, 0)).max() <= 3


def test_compressed_grey_and_alpha_become_rgb() -> None:
    grey = color_from_message(compressed("png", encoded(".png", GREY)), "camera")
    assert np.array_equal(grey, np.dstack([GREY] * 3))
    alpha = color_from_message(compressed("png", encoded(".png", with_alpha(BGR))), "camera")
    assert np.array_equal(alpha, RGB)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (encoded(".jpg", PLAIN)[:-40], "got a file cut off before its end"),
        (encoded(".png", PLAIN)[:-9], "got a file cut off before its end"),
        (b"GIF89a" + bytes(40), "got no image, or a damaged one"),
        (b"", "got no bytes at all"),
        (encoded(".png", DEPTH), "expected 8-bit channels, got 1 x uint16"),
    ],
    ids=["jpeg cut", "png cut", "gif", "empty", "depth"],
)
def test_damaged_or_wrong_compressed_colour_is_told(data: bytes, told: str) -> None:
    with pytest.raises(FrameError, match=told):
        color_from_message(compressed("jpeg", data), "/camera")


@pytest.mark.parametrize("format", ["16UC1; compressedDepth png", "16UC1; compressedDepth"])
def test_compressed_depth_of_millimetres_is_exact(format: str) -> None:
    data = bytes(12) + encoded(".png", DEPTH)
    depth, encoding = depth_from_message(compressed(format, data), "camera")
    assert encoding == "16UC1"
    assert np.array_equal(depth, DEPTH)


def test_depth_through_the_png_transport_is_exact() -> None:
    message = compressed("16UC1; png compressed ", encoded(".png", DEPTH))
    depth, encoding = depth_from_message(message, "camera")
    assert encoding == "16UC1"
    assert np.array_equal(depth, DEPTH)


def test_compressed_depth_of_metres_is_dequantised() -> None:
    # As the transport's publisher does it for depth up to 10 m at a precision of 100.
    metres = np.array([[0.4, 1.0, 2.5], [5.0, 9.5, np.nan]], np.float32)
    scale = 100.0 * (100.0 + 1.0)
    offset = 1.0 - scale / 10.0
    quantised = np.where(np.isnan(metres), 0, np.floor(scale / metres + offset)).astype(np.uint16)
    data = struct.pack("<iff", 0, scale, offset) + encoded(".png", quantised)
    depth, encoding = depth_from_message(compressed("32FC1; compressedDepth png", data), "camera")
    assert encoding == "32FC1"
    assert depth.dtype == np.float32
    assert np.isnan(depth[1, 2])
    assert np.allclose(depth, metres, rtol=0.01, equal_nan=True)
    assert np.array_equal(depth[0], scale / (quantised[0] - np.float32(offset)))


@pytest.mark.parametrize(
    ("format", "data", "told"),
    [
        ("16UC1; compressedDepth rvl", bytes(60), "compressedDepth.format to png"),
        ("8UC1; compressedDepth png", bytes(60), "got '8UC1; compressedDepth png'"),
        ("16UC1; compressedDepth png", bytes(5), "damaged: got 5 bytes"),
        ("16UC1; compressedDepth png", bytes(12) + encoded(".png", PLAIN), "expected a 16-bit PNG"),
        ("16UC1; png compressed ", encoded(".png", GREY), "cut it to 8 bits"),
        ("bgr8; jpeg compressed bgr8", encoded(".jpg", PLAIN), "got 'bgr8'"),
        ("png", encoded(".png", PLAIN), "are the two streams swapped"),
    ],
)
def test_what_is_no_compressed_depth_is_told(format: str, data: bytes, told: str) -> None:
    with pytest.raises(FrameError, match=told):
        depth_from_message(compressed(format, data), "/camera")


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        (image(RGB, "rgb8"), "color"),
        (image(DEPTH, "16UC1"), "depth"),
        (image(GREY, "mono8"), None),  # infrared, perhaps
        (image(RGB, "bayer_rggb8"), None),
        (compressed("jpeg", b""), "color"),
        (compressed("bgr8; jpeg compressed bgr8", b""), "color"),
        (compressed("mono8; jpeg compressed ", b""), None),
        (compressed("16UC1; compressedDepth png", b""), "depth"),
        (compressed("16UC1; png compressed ", b""), "depth"),
    ],
)
def test_what_an_image_shows_follows_from_its_encoding(
    message: SimpleNamespace, kind: str | None
) -> None:
    assert kind_of(message) == kind


def test_a_compressed_topic_has_a_raw_one() -> None:
    assert base_topic("/a/image/compressedDepth") == base_topic("/a/image") == "/a/image"


@pytest.mark.parametrize("encoding", ["yuv422", "yuv422_yuy2"])
def test_packed_yuv_of_an_odd_width_spoils_its_image_alone(encoding: str) -> None:
    odd = image(np.zeros((4, 63, 2), np.uint8), encoding)
    with pytest.raises(FrameError, match="image of '/c' cannot be converted: .*even width.*63x4"):
        color_from_message(odd, "/c")
