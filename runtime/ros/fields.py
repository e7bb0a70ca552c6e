"""Results as the fields of ROS messages: nested mappings from which any library makes its messages.

Arrays of bytes are (n,) uint8.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_fusion.errors import OutputError
from edge_fusion.frame import Intrinsics, RgbdFrame
from edge_fusion.spec import DepthSpec

from ..ledger import FrameRecord
from ..sink.overlay import depth_inset, draw_overlay
from .images import DEPTH_ENCODINGS

Fields = dict[str, Any]
SaliencyEncoding = Literal["mono8", "32FC1"]

STRING = "std_msgs/msg/String"

#: What a recording of ours holds, by what it means.
COLOR_TOPIC = "/edge_fusion/color/image_raw"
INFO_TOPIC = "/edge_fusion/color/camera_info"
DEPTH_TOPIC = "/edge_fusion/aligned_depth_to_color/image_raw"
RELATIVE_TOPIC = "/edge_fusion/relative_depth/image_raw"
SALIENCY_TOPIC = "/edge_fusion/saliency"
OVERLAY_TOPIC = "/edge_fusion/overlay/compressed"
RECORD_TOPIC = "/edge_fusion/record"

#: What the values of relative depth mean: a DepthSpec as JSON, with every image.
DEPTH_SPEC_TOPIC = "/edge_fusion/relative_depth/spec"

#: Images that are results: nobody means them when looking for a camera's.
RESULT_TOPICS = (SALIENCY_TOPIC, OVERLAY_TOPIC)

#: Depth and saliency are seen by the colour camera, whose frame realsense and others call so.
FRAME_ID = "camera_color_optical_frame"

_JPEG_QUALITY = 85
_END_OF_TIME_S = 2**31  # in a header: a signed number of 32 bits, until January 2038
_MILLIMETRES = 0.001
_RELATIVE_ENCODINGS = {"uint8": "mono8", "uint16": "mono16", "float32": "32FC1"}


def header_fields(stamp_ns: int, frame_id: str) -> Fields:
    """A ``std_msgs/Header``."""
    seconds, nanoseconds = divmod(stamp_ns, 1_000_000_000)
    return {"stamp": {"sec": seconds, "nanosec": nanoseconds}, "frame_id": frame_id}


def is_ros_time(stamp_ns: int) -> bool:
    """Whether a header can bear this time.

    Example:
        >>> is_ros_time(1_800_000_000 * 10**9), is_ros_time(-1)
        (True, False)
    """
    return 0 <= stamp_ns < _END_OF_TIME_S * 1_000_000_000


def frame_header(frame: RgbdFrame, stamp_ns: int, frame_id: str = FRAME_ID) -> Fields:
    """The ``std_msgs/Header`` of what belongs to a frame.

    Raises:
        OutputError: ROS has no such time.
    """
    if not is_ros_time(stamp_ns):
        raise OutputError(
            f"frame '{frame.id}' has a time that no message of ROS can bear",
            expected="nanoseconds from 1970 to 2038",
            got=str(stamp_ns),
            cure="set the clock of the camera, or write another kind of file",
        )
    return header_fields(stamp_ns, frame_id)


def image_fields(pixels: NDArray[Any], encoding: str, header: Fields) -> Fields:
    """A ``sensor_msgs/Image``, in this machine's byte order.

    Args:
        pixels: (H, W) or (H, W, channels) of what the encoding says.
        encoding: As ``sensor_msgs/image_encodings`` names it.
        header: See :func:`header_fields`.
    """
    pixels = np.ascontiguousarray(pixels)
    return {
        "header": header,
        "height": pixels.shape[0],
        "width": pixels.shape[1],
        "encoding": encoding,
        "is_bigendian": int(sys.byteorder == "big"),
        "step": pixels.strides[0],
        "data": pixels.reshape(-1).view(np.uint8),
    }


def color_fields(frame: RgbdFrame, header: Fields) -> Fields:
    """The colour of a frame: rgb8."""
    return image_fields(frame.rgb, "rgb8", header)


def depth_fields(frame: RgbdFrame, header: Fields) -> tuple[str, Fields]:
    """The depth of a frame by REP 118, and the topic for it.

    Millimetres in 16 bits stay as they are, 0 where there is no reading; any other metric depth
    becomes metres in 32FC1, NaN where there is none.  Relative depth has no place in REP 118: it
    goes as it is to a topic of its own, so that nobody takes it for a distance; what it means
    goes beside it, see :func:`depth_spec_fields`.
    """
    depth, spec = frame.depth, frame.depth_spec
    if spec.scale_to_m is None:
        encoding = _RELATIVE_ENCODINGS[str(depth.dtype)]
        return RELATIVE_TOPIC, image_fields(depth, encoding, header)
    if depth.dtype == DEPTH_ENCODINGS["16UC1"].dtype and spec.scale_to_m == _MILLIMETRES:
        millimetres = depth if spec.invalid in (None, 0) else np.where(frame.valid, depth, 0)
        return DEPTH_TOPIC, image_fields(millimetres, "16UC1", header)
    metres = depth.astype(np.float32) * np.float32(spec.scale_to_m)
    metres[~frame.valid] = np.nan
    return DEPTH_TOPIC, image_fields(metres, "32FC1", header)


def depth_spec_fields(spec: DepthSpec) -> Fields:
    """A ``std_msgs/String``: what the values of a depth image mean, as JSON."""
    return {"data": spec.model_dump_json()}


def saliency_fields(
    saliency: NDArray[np.float32], header: Fields, encoding: SaliencyEncoding = "mono8"
) -> Fields:
    """A saliency map.

    Args:
        saliency: (H, W) float32, 0..1.
        header: See :func:`header_fields`.
        encoding: mono8, 0..255 cut to whole levels as masks are, or 32FC1, 0..1.
    """
    if encoding == "mono8":
        return image_fields((saliency * 255).astype(np.uint8), encoding, header)
    return image_fields(saliency, encoding, header)


def overlay_fields(frame: RgbdFrame, saliency: NDArray[np.float32], header: Fields) -> Fields:
    """The picture of what is salient: a ``sensor_msgs/CompressedImage``, JPEG.

    Raises:
        OutputError: OpenCV could not encode it.
    """
    picture = draw_overlay(frame.rgb, saliency, inset=depth_inset(frame))
    encoded, jpeg = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    if not encoded:
        raise OutputError(f"OpenCV could not encode the overlay of frame '{frame.id}' as JPEG")
    return {"header": header, "format": "jpeg", "data": np.asarray(jpeg, np.uint8).reshape(-1)}


def camera_info_fields(camera: Intrinsics, size: tuple[int, int], header: Fields) -> Fields:
    """A ``sensor_msgs/CameraInfo`` of a camera without distortion.

    Args:
        camera: The colour camera.
        size: Height and width of its images.
        header: See :func:`header_fields`.
    """
    matrix = (camera.fx, 0.0, camera.cx), (0.0, camera.fy, camera.cy), (0.0, 0.0, 1.0)
    flat = [float(value) for row in matrix for value in row]
    wide = [float(value) for row in matrix for value in (*row, 0.0)]
    region = {"x_offset": 0, "y_offset": 0, "height": 0, "width": 0, "do_rectify": False}
    return {
        "header": header,
        "height": size[0],
        "width": size[1],
        "distortion_model": "plumb_bob",
        "d": np.zeros(5),
        "k": np.array(flat),
        "r": np.eye(3).reshape(-1),
        "p": np.array(wide),
        "binning_x": 0,
        "binning_y": 0,
        "roi": region,
    }


def record_fields(record: FrameRecord) -> Fields:
    """A ``std_msgs/String``: the frame's way through the stream as JSON."""
    return {"data": json.dumps(asdict(record))}


def frame_stamp_ns(frame: RgbdFrame, fps: float) -> int:
    """The device's time of a frame; of one without a time its number at a frame rate."""
    return frame.timestamp_ns or round(frame.number * 1e9 / fps)


def message_from_fields(types: Mapping[str, Any], msgtype: str, fields: Fields) -> Any:
    """A message of rosbags.

    Args:
        types: The classes of messages by type, ``Typestore.types``.
        msgtype: Such as ``sensor_msgs/msg/Image``.
        fields: As the functions above make them.
    """
    nested = {
        "header": "std_msgs/msg/Header",
        "stamp": "builtin_interfaces/msg/Time",
        "roi": "sensor_msgs/msg/RegionOfInterest",
    }
    values = {
        name: message_from_fields(types, nested[name], value) if name in nested else value
        for name, value in fields.items()
    }
    return types[msgtype](**values)
