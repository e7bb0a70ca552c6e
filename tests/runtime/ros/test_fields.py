from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edge_fusion.frame import Intrinsics, RgbdFrame
from edge_fusion.runtime.ledger import FrameRecord
from edge_fusion.runtime.ros import fields
from edge_fusion.runtime.ros.camera import camera_from_info
from edge_fusion.runtime.ros.images import color_from_message, depth_from_message
from edge_fusion.spec import DepthSpec

HEADER = fields.header_fields(2_000_000_003, "camera")


def frame_of(depth: NDArray[Any], spec: DepthSpec, **options: Any) -> RgbdFrame:
    rgb = np.random.default_rng(0).integers(0, 256, (*depth.shape, 3), np.uint8)
    return RgbdFrame(rgb, depth, spec, "a", 5, **options)


def as_message(content: fields.Fields) -> Any:
    return SimpleNamespace(**content)


def test_a_header_divides_its_stamp() -> None:
    assert HEADER == {"stamp": {"sec": 2, "nanosec": 3}, "frame_id": "camera"}


def test_colour_comes_back_bit_for_bit() -> None:
    frame = frame_of(np.ones((6, 8), np.uint16), DepthSpec(scale_to_m=0.001))
    message = as_message(fields.color_fields(frame, HEADER))
    assert (message.encoding, message.step, message.height) == ("rgb8", 24, 6)
    assert np.array_equal(color_from_message(message, "camera"), frame.rgb)


WHOLE = np.array([[0, 500], [1000, 65535]], np.uint16)
METRES = np.array([[0.0, 0.5], [1.0, np.inf]], np.float32)
NAN = np.nan


@pytest.mark.parametrize(
    ("depth", "spec", "topic", "encoding", "expected"),
    [
        # Millimetres stay as they are, whatever said that there is no reading becomes 0.
        (WHOLE, {"scale_to_m": 0.001}, fields.DEPTH_TOPIC, "16UC1", WHOLE),
        (
            WHOLE,
            {"scale_to_m": 0.001, "invalid": 65535},
            fields.DEPTH_TOPIC,
            "16UC1",
            np.array([[0, 500], [1000, 0]], np.uint16),
        ),
        # Any other metric depth becomes metres, NaN where there is no reading.
        (
            WHOLE,
            {"scale_to_m": 0.0001},
            fields.DEPTH_TOPIC,
            "32FC1",
            np.array([[NAN, 0.05], [0.1, 6.5535]], np.float32),
        ),
        (
            METRES,
            {"scale_to_m": 1.0},
            fields.DEPTH_TOPIC,
            "32FC1",
            np.array([[NAN, 0.5], [1.0, NAN]], np.float32),
        ),
        # Relative depth is no distance: it goes elsewhere.
        (WHOLE, {"scale_to_m": None}, fields.RELATIVE_TOPIC, "mono16", WHOLE),
        (
            WHOLE.astype(np.uint8),
            {"scale_to_m": None},
            fields.RELATIVE_TOPIC,
            "mono8",
            WHOLE.astype(np.uint8),
        ),
    ],
)
def test_depth_is_written_by_rep_118(
    depth: NDArray[Any],
    spec: dict[str, Any],
    topic: str,
    encoding: str,
    expected: NDArray[Any],
) -> None:
    where, content = fields.depth_fields(frame_of(depth, DepthSpec(**spec)), HEADER)
    read, told = depth_from_message(as_message(content), "camera")
    assert (where, told) == (topic, encoding)
    assert read.dtype == expected.dtype
    assert np.allclose(read, expected, rtol=1e-6, atol=0, equal_nan=True)


def test_saliency_has_the_levels_of_masks() -> None:
    saliency = np.array([[0.0, 0.5, 0.999, 1.0]], np.float32)
    message = as_message(fields.saliency_fields(saliency, HEADER))
    assert message.encoding == "mono8"
    assert message.data.tolist() == [0, 127, 254, 255]
    exact = as_message(fields.saliency_fields(saliency, HEADER, "32FC1"))
    assert np.array_equal(depth_from_message(exact, "camera")[0], saliency)


def test_an_overlay_is_a_jpeg_of_the_frames_size() -> None:
    frame = frame_of(np.full((48, 64), 900, np.uint16), DepthSpec(scale_to_m=0.001))
    content = fields.overlay_fields(frame, np.ones((48, 64), np.float32), HEADER)
    assert content["format"] == "jpeg"
    assert content["data"].ndim == 1
    assert cv2.imdecode(content["data"], cv2.IMREAD_UNCHANGED).shape == (48, 64, 3)


def test_a_camera_comes_back() -> None:
    camera = Intrinsics(600.5, 601.5, 320.25, 240.75)
    content = fields.camera_info_fields(camera, (480, 640), HEADER)
    content["roi"] = SimpleNamespace(**content["roi"])
    for topic in ("/image_raw", "/image_rect"):
        read = camera_from_info(as_message(content), topic)
        assert read is not None
        assert (read.intrinsics, read.width, read.height) == (camera, 640, 480)


def test_a_record_is_json() -> None:
    record = FrameRecord(3, "a", *(1.5,) * 7, timestamp_ns=9, fps=30.0, captured=4, dropped=1)
    content = json.loads(fields.record_fields(record)["data"])
    assert content["number"] == 3
    assert content["infer_ms"] == 1.5
    assert content["dropped"] == 1


def test_a_frame_without_a_time_is_stamped_by_its_number() -> None:
    depth, spec = np.ones((6, 8), np.uint16), DepthSpec(scale_to_m=0.001)
    assert fields.frame_stamp_ns(frame_of(depth, spec, timestamp_ns=77), 30.0) == 77
    assert fields.frame_stamp_ns(frame_of(depth, spec), 20.0) == 250_000_000
