"""``ros2://``: saliency as topics that other nodes of ROS 2 take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String

from edge_fusion.errors import OutputError
from edge_fusion.frame import RgbdFrame

from ..ledger import FrameRecord
from ..ros import fields as ros
from ..ros.node import OwnNode, fill
from .destination import read_destination
from .keys import ROS2_KEYS

FORM = "ros2:///TOPIC"

# Reliable and the newest alone: fits every subscriber, and none that is slow holds this one up.
_QOS_DEPTH = 1
_FPS = 30.0  # stamps frames of a source without timestamps


def open_ros2(destination: str) -> Ros2Publisher:
    """Open a publisher by its destination.

    Args:
        destination: ``ros2:///TOPIC``, and of :data:`.keys.ROS2_KEYS` what is wanted.

    Raises:
        OutputError: The destination is not of that form, or ROS 2 could not be joined.
    """
    place, values = read_destination(destination, "ros2", ROS2_KEYS)
    if len(place) < 2 or not place.startswith("/"):
        raise OutputError(f"destination '{destination}' names no topic", expected=FORM)
    return Ros2Publisher(place, **values)


class Ros2Publisher:
    """Publishes each frame's saliency, and beside it a picture and a record.

    ``TOPIC`` is the saliency map (``sensor_msgs/Image``), ``TOPIC/overlay/compressed`` a JPEG of
    what is salient, and ``TOPIC/record`` the frame's way through the stream as JSON
    (``std_msgs/String``).  Each bears the stamp of its colour image and is made only while somebody
    subscribes to it.

    Args:
        topic: Begins with a slash.
        encoding: mono8, 0..255; or 32FC1, 0..1.
        frame_id: Coordinate frame in the headers.

    Raises:
        OutputError: ROS 2 could not be joined, or this is no name of a topic.
    """

    def __init__(
        self,
        topic: str,
        encoding: ros.SaliencyEncoding = "mono8",
        frame_id: str = ros.FRAME_ID,
    ) -> None:
        self._topic, self._encoding, self._frame_id = topic, encoding, frame_id
        self._node: OwnNode | None = None
        try:
            self._node = OwnNode("sink")
            self._publishers = {
                name: self._node.node.create_publisher(type_, name, QoSProfile(depth=_QOS_DEPTH))
                for name, type_ in (
                    (topic, Image),
                    (f"{topic}/overlay/compressed", CompressedImage),
                    (f"{topic}/record", String),
                )
            }
        except Exception as err:  # the middleware raises its own
            self.close()
            raise OutputError(f"cannot publish '{topic}' in ROS 2", got=str(err)) from err

    @property
    def destination(self) -> str:
        """The topic as a destination."""
        return f"ros2://{self._topic}"

    def write(self, frame: RgbdFrame, saliency: NDArray[np.float32], record: FrameRecord) -> None:
        """Publish one result to whoever listens.

        Raises:
            OutputError: ROS 2 was shut down, or the frame's time is none that ROS has.
        """
        header = ros.frame_header(frame, ros.frame_stamp_ns(frame, _FPS), self._frame_id)
        contents: tuple[tuple[type[Any], Callable[[], ros.Fields]], ...] = (
            (Image, lambda: ros.saliency_fields(saliency, header, self._encoding)),
            (CompressedImage, lambda: ros.overlay_fields(frame, saliency, header)),
            (String, lambda: ros.record_fields(record)),
        )
        try:
            for publisher, (type_, make) in zip(self._publishers.values(), contents, strict=True):
                if publisher.get_subscription_count():
                    publisher.publish(fill(type_(), make()))
        except OutputError:
            raise
        except Exception as err:
            raise OutputError(f"cannot publish '{self._topic}' any longer", got=str(err)) from err

    def close(self) -> None:
        """Leave ROS 2."""
        if self._node is not None:
            self._node.close()
