"""What messages say about cameras: times, calibrations, and how two cameras stand to each other."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_fusion.errors import SourceError

from ..register import Camera, Rigid
from .images import base_topic

CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
TRANSFORMS = "tf2_msgs/msg/TFMessage"

#: Distortion models of which D holds the coefficients as OpenCV orders them.
_OPENCV_MODELS = ("", "plumb_bob", "rational_polynomial")

Matrix = NDArray[np.float64]
ReadStamp = Callable[[bytes], int]


def stamp_ns(header: Any) -> int:
    """A header's stamp in nanoseconds.

    Args:
        header: A ``std_msgs/Header`` of ROS 2, or of ROS 1 as rosbags names its fields.
    """
    return int(header.stamp.sec) * 1_000_000_000 + int(header.stamp.nanosec)


def cdr_stamp_ns(raw: bytes) -> int:
    """The header stamp of a serialised ROS 2 message that begins with a header, in nanoseconds.

    It saves decoding an image that may be dropped.

    Raises:
        ValueError: The message is too short, or this is no stamp.

    Example:
        >>> cdr_stamp_ns(bytes((0, 1, 0, 0)) + struct.pack("<iI", 2, 500) + bytes(8))
        2000000500
    """
    order = "<" if raw[1:2] == b"\x01" else ">"
    return _stamp(raw, f"{order}iI", 4)


def ros1_stamp_ns(raw: bytes) -> int:
    """The header stamp of a serialised ROS 1 message that begins with a header, in nanoseconds.

    Raises:
        ValueError: The message is too short, or this is no stamp.
    """
    return _stamp(raw, "<II", 4)  # after the sequence number


def _stamp(raw: bytes, layout: str, offset: int) -> int:
    try:
        seconds, nanoseconds = struct.unpack_from(layout, raw, offset)
    except struct.error as err:
        raise ValueError(f"{len(raw)} bytes hold no header") from err
    if not 0 <= nanoseconds < 1_000_000_000:
        raise ValueError(f"{nanoseconds} is no fraction of a second")
    return int(seconds) * 1_000_000_000 + int(nanoseconds)


def camera_from_info(info: Any, topic: str) -> Camera | None:
    """The camera of a CameraInfo.

    Args:
        info: The message, of ROS 2 or ROS 1.
        topic: The topic of its *images*, raw or compressed: of rectified ones, which have
            ``rect`` in their name, the calibration is P without distortion; of others K and D.

    Returns:
        The camera at the size of its images: binning and region of interest are applied.  None of
        a camera that is not calibrated, whose K is empty.

    Raises:
        SourceError: Its distortion model is none of OpenCV's, or the calibration is impossible.
    """
    matrix: Matrix = _numbers(info, "k", 9).reshape(3, 3)
    distortion = tuple(float(value) for value in _field(info, "d"))
    if "rect" in base_topic(topic).rsplit("/", 1)[-1]:
        projection = _numbers(info, "p", 12).reshape(3, 4)
        if projection[0, 0] > 0:
            matrix, distortion = projection[:, :3], ()
    if not matrix[0, 0] > 0:
        return None
    if any(distortion) and info.distortion_model not in _OPENCV_MODELS:
        raise SourceError(
            f"the camera of '{topic}' has an unknown lens",
            expected="distortion_model plumb_bob or rational_polynomial",
            got=f"'{info.distortion_model}'",
            cure="use rectified images, as image_proc publishes them",
        )
    across, down = max(int(info.binning_x), 1), max(int(info.binning_y), 1)
    region = info.roi
    width, height = int(region.width) or int(info.width), int(region.height) or int(info.height)
    return Camera(
        width=width // across,
        height=height // down,
        fx=float(matrix[0, 0]) / across,
        fy=float(matrix[1, 1]) / down,
        cx=(float(matrix[0, 2]) - int(region.x_offset)) / across,
        cy=(float(matrix[1, 2]) - int(region.y_offset)) / down,
        distortion=distortion,
    )


def _field(info: Any, name: str) -> Any:
    """A field that ROS 1 writes with a capital letter."""
    return getattr(info, name) if hasattr(info, name) else getattr(info, name.upper())


def _numbers(info: Any, name: str, count: int) -> NDArray[np.float64]:
    values = np.asarray(_field(info, name), np.float64)
    return values if values.size == count else np.zeros(count)


class FrameTree:
    """How coordinate frames stand to each other, from the static transforms of a robot.

    Example:
        >>> tree = FrameTree()
        >>> camera_to_base = np.eye(4)
        >>> camera_to_base[0, 3] = 0.1
        >>> tree.link("base", "camera", camera_to_base)
        >>> tree.motion("base", "camera").translation_m.tolist()
        [-0.1, 0.0, 0.0]
    """

    def __init__(self) -> None:
        self._steps: dict[str, dict[str, Matrix]] = {}  # from -> to -> motion of a point, (4, 4)

    def add(self, transforms: Iterable[Any]) -> None:
        """Take the TransformStamped of a TFMessage; a later one replaces an earlier one."""
        for one in transforms:
            turn, shift = one.transform.rotation, one.transform.translation
            motion = np.eye(4)
            motion[:3, :3] = rotation_of(turn.x, turn.y, turn.z, turn.w)
            motion[:3, 3] = shift.x, shift.y, shift.z
            self.link(one.header.frame_id, one.child_frame_id, motion)

    def link(self, parent: str, child: str, child_to_parent: Matrix) -> None:
        """Say by a (4, 4) matrix how a point in ``child`` is found in ``parent``."""
        parent, child = _bare(parent), _bare(child)
        self._steps.setdefault(child, {})[parent] = child_to_parent
        self._steps.setdefault(parent, {})[child] = np.asarray(np.linalg.inv(child_to_parent))

    def motion(self, start: str, end: str) -> Rigid | None:
        """The motion of a point from frame ``start`` into frame ``end``; None: not connected.

        Raises:
            SourceError: What connects them is no motion between two cameras of one device.
        """
        start, end = _bare(start), _bare(end)
        reached = {start: np.eye(4)}
        front = [start]
        while front and end not in reached:
            here = front.pop(0)
            for there, step in self._steps.get(here, {}).items():
                if there not in reached:
                    reached[there] = step @ reached[here]
                    front.append(there)
        found = reached.get(end)
        return None if found is None else Rigid(found[:3, :3], found[:3, 3])


def _bare(frame: str) -> str:
    return frame.removeprefix("/")  # as ROS 1 wrote them


def rotation_of(x: float, y: float, z: float, w: float) -> NDArray[np.float64]:
    """The (3, 3) matrix of a quaternion, normalised first; of a zero one the identity.

    Example:
        >>> rotation_of(0, 0, 1, 0).round().tolist()  # half a turn about z
        [[-1.0, 0.0, 0.0], [0.0, -1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    length = float(np.sqrt(x * x + y * y + z * z + w * w))
    if length == 0:
        return np.eye(3)
    x, y, z, w = x / length, y / length, z / length, w / length
    return np.array(
        (
            (1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)),
            (2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)),
            (2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)),
        )
    )
