from __future__ import annotations

import math
import struct
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edge_fusion.errors import SourceError
from edge_fusion.runtime.register import Camera
from edge_fusion.runtime.ros.camera import (
    FrameTree,
    camera_from_info,
    cdr_stamp_ns,
    ros1_stamp_ns,
    rotation_of,
    stamp_ns,
)

K = np.array([600.0, 0, 320, 0, 610, 240, 0, 0, 1])
P = np.array([580.0, 0, 318, 0, 0, 590, 242, 0, 0, 0, 1, 0])


def info(**changed: Any) -> SimpleNamespace:
    region = SimpleNamespace(x_offset=0, y_offset=0, width=0, height=0)
    fields = {
        "width": 640,
        "height": 480,
        "distortion_model": "plumb_bob",
        "d": [0.1, -0.2, 0.0, 0.0, 0.05],
        "k": K,
        "p": P,
        "binning_x": 0,
        "binning_y": 0,
        "roi": region,
    }
    return SimpleNamespace(**{**fields, **changed})


def test_stamps_are_nanoseconds() -> None:
    header = SimpleNamespace(stamp=SimpleNamespace(sec=3, nanosec=7))
    assert stamp_ns(header) == 3_000_000_007


@pytest.mark.parametrize(
    ("read", "raw"),
    [
        (cdr_stamp_ns, b"\0\1\0\0" + struct.pack("<iI", 3, 7)),
        (cdr_stamp_ns, b"\0\0\0\0" + struct.pack(">iI", 3, 7)),
        (ros1_stamp_ns, struct.pack("<III", 99, 3, 7)),
    ],
    ids=["little", "big", "ros1"],
)
def test_stamps_are_read_without_decoding(read: Any, raw: bytes) -> None:
    assert read(raw + b"rest") == 3_000_000_007
    with pytest.raises(ValueError, match="hold no header"):
        read(raw[:-1])
    with pytest.raises(ValueError, match="no fraction of a second"):
        read(raw[:-4] + b"\xff" * 4)


def test_a_raw_topic_has_k_and_its_distortion() -> None:
    camera = camera_from_info(info(), "/camera/image_raw")
    assert camera == Camera(640, 480, 600, 610, 320, 240, (0.1, -0.2, 0.0, 0.0, 0.05))


@pytest.mark.parametrize(
    "topic",
    [
        "/camera/image_rect",
        "/camera/depth/image_rect_raw",
        "/camera/image_rect_color/compressed",
        "/camera/depth/image_rect_raw/compressedDepth",
    ],
)
def test_a_rectified_topic_has_p_and_no_distortion(topic: str) -> None:
    assert camera_from_info(info(), topic) == Camera(640, 480, 580, 590, 318, 242)


def test_a_rectified_topic_without_p_has_k() -> None:
    camera = camera_from_info(info(p=np.zeros(12), d=[]), "/camera/image_rect")
    assert camera == Camera(640, 480, 600, 610, 320, 240)


def test_binning_and_region_are_applied() -> None:
    region = SimpleNamespace(x_offset=100, y_offset=40, width=400, height=400)
    camera = camera_from_info(info(d=[], roi=region, binning_x=2, binning_y=2), "/image_raw")
    assert camera == Camera(200, 200, 300, 305, 110, 100)


def test_ros_1_writes_capital_letters() -> None:
    upper = info()
    for name in ("d", "k", "p"):
        setattr(upper, name.upper(), getattr(upper, name))
        delattr(upper, name)
    assert camera_from_info(upper, "/image_raw") == camera_from_info(info(), "/image_raw")


def test_an_uncalibrated_camera_is_none() -> None:
    assert camera_from_info(info(k=np.zeros(9)), "/image_raw") is None


def test_a_fisheye_is_told() -> None:
    with pytest.raises(SourceError, match="unknown lens.*got 'equidistant'; use rectified"):
        camera_from_info(info(distortion_model="equidistant", d=[0.1] * 4), "/image_raw")
    straight = info(distortion_model="equidistant", d=[0.0] * 4)
    assert camera_from_info(straight, "/image_raw") == Camera(640, 480, 600, 610, 320, 240)


def transform(parent: str, child: str, shift: tuple[float, ...], turn: tuple[float, ...]) -> Any:
    return SimpleNamespace(
        header=SimpleNamespace(frame_id=parent),
        child_frame_id=child,
        transform=SimpleNamespace(
            translation=SimpleNamespace(**dict(zip("xyz", shift, strict=True))),
            rotation=SimpleNamespace(**dict(zip("xyzw", turn, strict=True))),
        ),
    )


UPRIGHT = (0.0, 0.0, 0.0, 1.0)
OPTICAL = (-0.5, 0.5, -0.5, 0.5)  # x forward, y left, z up -> x right, y down, z forward


def test_a_motion_goes_up_and_down_the_tree() -> None:
    tree = FrameTree()
    tree.add(
        [
            transform("link", "depth", (0.0, 0.0, 0.0), UPRIGHT),
            transform("link", "color", (0.0, 0.015, 0.0), UPRIGHT),  # 15 mm to the left
            transform("depth", "depth_optical", (0.0, 0.0, 0.0), OPTICAL),
            transform("color", "color_optical", (0.0, 0.0, 0.0), OPTICAL),
            transform("mast", "link", (0.0, 0.0, 40.0), UPRIGHT),  # far away, and of no matter
        ]
    )
    motion = tree.motion("depth_optical", "color_optical")
    assert motion is not None
    assert np.allclose(motion.rotation, np.eye(3))
    # Seen from a camera further left, everything lies further right.
    assert np.allclose(motion.translation_m, (0.015, 0, 0))
    assert tree.motion("/color_optical", "color_optical").moves_nothing
    assert tree.motion("depth_optical", "nowhere") is None
    assert FrameTree().motion("same", "same").moves_nothing


def test_a_motion_turns_as_the_quaternion_says() -> None:
    quarter = math.sqrt(0.5)
    tree = FrameTree()
    tree.add([transform("a", "b", (1.0, 0.0, 0.0), (0.0, 0.0, quarter, quarter))])
    into_a, into_b = tree.motion("b", "a"), tree.motion("a", "b")
    point = np.array((2.0, 0.0, 0.0))
    moved = into_a.rotation @ point + into_a.translation_m
    assert np.allclose(moved, (1, 2, 0))
    assert np.allclose(into_b.rotation @ moved + into_b.translation_m, point)


def test_a_quaternion_need_not_be_of_length_one() -> None:
    assert np.allclose(rotation_of(0, 0, 3, 3), [[0, -1, 0], [1, 0, 0], [0, 0, 1]])
    assert np.array_equal(rotation_of(0, 0, 0, 0), np.eye(3))
