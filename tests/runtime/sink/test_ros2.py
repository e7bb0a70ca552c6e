from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("rosbags")  # what the fake takes the wire format from

from edge_fusion.errors import OutputError
from edge_fusion.runtime.ros.fields import FRAME_ID
from edge_fusion.runtime.sink.base import Sink
from edge_fusion.runtime.sink.open import open_sink
from tests.fakes.rclpy_api import FakeRos, ReliabilityPolicy, installed

MakeResult = Callable[..., Any]
TOPICS = ("/saliency", "/saliency/overlay/compressed", "/saliency/record")


@pytest.fixture
def ros(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeRos]:
    yield from installed(monkeypatch)


def unthreaded(destination: str) -> Sink:
    """The sink itself, without the thread that the door puts beside it."""
    from edge_fusion.runtime.sink.ros2 import open_ros2

    return open_ros2(destination)


def test_results_are_published_with_the_stamp_of_their_frame(
    ros: FakeRos, result: MakeResult
) -> None:
    ros.listeners = dict.fromkeys(TOPICS, 1)
    sink = unthreaded("ros2:///saliency")
    assert sink.destination == "ros2:///saliency"
    frame, saliency, record = result(45)
    sink.write(frame, saliency, record)
    sink.close()
    sink.close()
    (mask,), (overlay,), (text,) = (ros.sent(topic) for topic in TOPICS)
    assert (mask.encoding, mask.height, mask.width, mask.step) == ("mono8", 48, 64, 64)
    assert mask.data.tobytes() == (saliency * 255).astype(np.uint8).tobytes()
    for message in (mask, overlay):
        assert message.header.frame_id == FRAME_ID
        assert (message.header.stamp.sec, message.header.stamp.nanosec) == (1, 500_000_000)
    picture = cv2.imdecode(np.frombuffer(overlay.data, np.uint8), cv2.IMREAD_COLOR)
    assert (overlay.format, picture.shape) == ("jpeg", (48, 64, 3))
    assert json.loads(text.data) == asdict(record)


def test_what_nobody_takes_is_not_made(
    ros: FakeRos, result: MakeResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = unthreaded("ros2:///saliency")
    ros.listeners = {"/saliency": 2}
    from edge_fusion.runtime.sink import ros2

    monkeypatch.setattr(ros2.ros, "overlay_fields", None)  # would be called in vain
    sink.write(*result())
    assert [len(ros.sent(topic)) for topic in TOPICS] == [1, 0, 0]
    ros.listeners = {}
    sink.write(*result(1))
    assert len(ros.sent("/saliency")) == 1
    sink.close()


def test_it_publishes_what_fits_every_subscriber(ros: FakeRos) -> None:
    sink = unthreaded("ros2:///robot/saliency")
    for publisher in ros.nodes[0].publishers:
        assert publisher.qos.reliability is ReliabilityPolicy.RELIABLE
        assert publisher.qos.depth == 1
    sink.close()


def test_encoding_and_frame_can_be_chosen(ros: FakeRos, result: MakeResult) -> None:
    ros.listeners = {"/s": 1}
    sink = unthreaded("ros2:///s?encoding=32FC1&frame_id=head")
    _, saliency, _ = made = result()
    sink.write(*made)
    (mask,) = ros.sent("/s")
    assert (mask.encoding, mask.step, mask.header.frame_id) == ("32FC1", 256, "head")
    assert mask.data.tobytes() == saliency.tobytes()
    sink.close()


@pytest.mark.parametrize(
    ("destination", "told"),
    [
        ("ros2://", "names no topic: expected ros2:///TOPIC"),
        ("ros2://saliency", "names no topic: expected ros2:///TOPIC"),
        ("ros2:///s?encoding=rgb8", r"encoding: expected mono8\|32FC1"),
        ("ros2:///s?qos=1", "key 'qos' is unknown; ros2:// takes encoding="),
        ("ros2:///a-b", "cannot publish '/a-b' in ROS 2: got Invalid topic name"),
    ],
)
def test_a_wrong_destination_is_told(ros: FakeRos, destination: str, told: str) -> None:
    with pytest.raises(OutputError, match=told):
        open_sink(destination)


def test_a_middleware_that_fails_is_told(ros: FakeRos) -> None:
    ros.refuse = "failed to initialize rcl"
    with pytest.raises(OutputError, match="cannot publish '/s' in ROS 2: got failed to init"):
        open_sink("ros2:///s")


def test_a_shutdown_from_outside_is_told(ros: FakeRos, result: MakeResult) -> None:
    ros.listeners = {"/s": 1}
    sink = unthreaded("ros2:///s")
    ros.shut_down()
    with pytest.raises(OutputError, match="cannot publish '/s' any longer"):
        sink.write(*result())
    sink.close()


def test_a_time_that_ros_has_not_is_told_with_its_frame(ros: FakeRos, result: MakeResult) -> None:
    sink = unthreaded("ros2:///s")
    frame, saliency, record = result()
    with pytest.raises(OutputError, match=f"frame '{frame.id}' has a time .*1970 to 2038"):
        sink.write(replace(frame, timestamp_ns=-5), saliency, record)
    sink.close()
