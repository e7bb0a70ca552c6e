"""Recordings of a robot's cameras, written by rosbags: real files, small, made by code."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import StoragePlugin
from rosbags.rosbag2 import Writer as Writer2
from rosbags.typesys import Stores, get_typestore

from edge_fusion.frame import Intrinsics, RgbdFrame
from edge_fusion.runtime.ros.camera import CAMERA_INFO, TRANSFORMS
from edge_fusion.runtime.ros.fields import (
    Fields,
    camera_info_fields,
    header_fields,
    image_fields,
    message_from_fields,
)
from edge_fusion.runtime.ros.images import IMAGE

COLOR, DEPTH = "/camera/color/image_raw", "/camera/aligned_depth_to_color/image_raw"
COLOR_INFO = "/camera/color/camera_info"
OPTICAL = "camera_color_optical_frame"
START_NS = 1_700_000_000_000_000_000
PERIOD_NS = 33_333_333

#: Topic, type, when it was recorded (ns), and fields or ready bytes.
Entry = tuple[str, str, int, Fields | bytes]

ROS2 = get_typestore(Stores.ROS2_HUMBLE)
ROS1 = get_typestore(Stores.ROS1_NOETIC)


def serialised(msgtype: str, content: Fields | bytes) -> bytes:
    """A message as it goes over the wire of ROS 2."""
    if isinstance(content, bytes):
        return content
    return bytes(ROS2.serialize_cdr(message_from_fields(ROS2.types, msgtype, content), msgtype))


def stamp_of(number: int) -> int:
    return START_NS + number * PERIOD_NS


def camera_entries(
    frames: Iterable[RgbdFrame],
    *,
    color: str = COLOR,
    depth: str = DEPTH,
    frame_ids: tuple[str, str] = (OPTICAL, OPTICAL),
    encoding: str = "16UC1",
) -> Iterator[Entry]:
    """Raw colour, depth and, where known, CameraInfo of every frame; depth comes 2 ms later."""
    for number, frame in enumerate(frames):
        at = stamp_of(number)
        header = header_fields(at, frame_ids[0])
        if frame.intrinsics is not None:
            size = (frame.rgb.shape[0], frame.rgb.shape[1])
            info = camera_info_fields(frame.intrinsics, size, header)
            yield f"{color.rpartition('/')[0]}/camera_info", CAMERA_INFO, at + 5, info
        yield color, IMAGE, at + 10, image_fields(frame.rgb, "rgb8", header)
        late = header_fields(at + 2_000_000, frame_ids[1])
        yield depth, IMAGE, at + 2_000_010, image_fields(frame.depth, encoding, late)


def info_entry(topic: str, camera: Intrinsics, size: tuple[int, int], frame_id: str) -> Entry:
    fields = camera_info_fields(camera, size, header_fields(START_NS, frame_id))
    return topic, CAMERA_INFO, START_NS, fields


def static_transform(parent: str, child: str, shift_m: tuple[float, float, float]) -> Entry:
    """A /tf_static message without rotation."""
    types = ROS2.types
    transform = types["geometry_msgs/msg/TransformStamped"](
        header=message_from_fields(types, "std_msgs/msg/Header", header_fields(0, parent)),
        child_frame_id=child,
        transform=types["geometry_msgs/msg/Transform"](
            translation=types["geometry_msgs/msg/Vector3"](*shift_m),
            rotation=types["geometry_msgs/msg/Quaternion"](0.0, 0.0, 0.0, 1.0),
        ),
    )
    raw = ROS2.serialize_cdr(types[TRANSFORMS](transforms=[transform]), TRANSFORMS)
    return "/tf_static", TRANSFORMS, START_NS, bytes(raw)


def write_bag(path: Path, entries: Iterable[Entry], storage: str = "sqlite3") -> Path:
    """Write a ROS 2 folder with ``sqlite3`` or ``mcap`` storage; returns it."""
    plugin = {"sqlite3": StoragePlugin.SQLITE3, "mcap": StoragePlugin.MCAP}[storage]
    with Writer2(path, version=9, storage_plugin=plugin) as writer:
        connections: dict[str, Any] = {}
        for topic, msgtype, logged_ns, content in entries:
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, msgtype, typestore=ROS2)
            writer.write(connections[topic], logged_ns, serialised(msgtype, content))
    return path


def write_ros1_bag(path: Path, entries: Iterable[Entry]) -> Path:
    """Write a ROS 1 file of the same messages."""
    with Writer1(path) as writer:
        connections: dict[str, Any] = {}
        for topic, msgtype, logged_ns, content in entries:
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, msgtype, typestore=ROS1)
            assert not isinstance(content, bytes)
            message = message_from_fields(ROS1.types, msgtype, as_ros1(content))
            raw = bytes(ROS1.serialize_ros1(message, msgtype))
            writer.write(connections[topic], logged_ns, raw)
    return path


def as_ros1(fields: Fields) -> Fields:
    """The fields as ROS 1 has them: a sequence number, capital letters in CameraInfo."""
    renamed = {name.upper() if name in "dkrp" else name: value for name, value in fields.items()}
    return {**renamed, "header": {"seq": 7, **fields["header"]}}


def same_frames(left: Iterable[RgbdFrame], right: Iterable[RgbdFrame]) -> int:
    """Assert that two sources give the same pictures; returns how many."""
    count = 0
    for one, other in zip(left, right, strict=True):
        assert np.array_equal(one.rgb, other.rgb)
        assert one.depth.dtype == other.depth.dtype
        assert equal_depth(one.depth, other.depth)
        assert one.depth_spec == other.depth_spec
        assert one.intrinsics == other.intrinsics
        count += 1
    return count


def equal_depth(one: NDArray[Any], other: NDArray[Any]) -> bool:
    return np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
