from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rosbags")  # what the fake takes the wire format from

from edge_fusion.errors import FrameError, MissingDependencyError, SourceError
from edge_fusion.frame import Intrinsics, RgbdFrame
from edge_fusion.runtime.source.base import Arrival
from edge_fusion.runtime.source.demo import DemoSource
from edge_fusion.runtime.source.ros_options import RosOptions
from edge_fusion.runtime.source.uri import open_source
from edge_fusion.spec import DepthSpec
from tests.fakes import bags
from tests.fakes.rclpy_api import DurabilityPolicy, FakeRos, ReliabilityPolicy, installed

LOCAL = "edge_fusion.runtime."
BOTH = RosOptions(color=bags.COLOR, depth=bags.DEPTH)


@pytest.fixture
def ros(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeRos]:
    yield from installed(monkeypatch)


@pytest.fixture(scope="module")
def scene() -> list[RgbdFrame]:
    return list(DemoSource(frames=6, width=64, height=48).frames())


@pytest.fixture
def make_source(ros: FakeRos) -> Callable[..., Any]:
    from edge_fusion.runtime.source.ros2 import Ros2Source

    return Ros2Source


def wire(entries: Iterable[bags.Entry]) -> Iterator[list[tuple[str, bytes]]]:
    """Entries as steps of a script."""
    return ([(topic, bags.serialised(kind, content))] for topic, kind, _, content in entries)


def taken(source: Any, count: int) -> list[Any]:
    """The first arrivals that are something; then the source is left."""
    found = []
    arrivals = source.arrivals()
    for arrival in arrivals:
        if arrival is not None:
            found.append(arrival)
        if len(found) == count:
            break
    arrivals.close()
    return found


def test_live_pairs_are_those_that_were_published(
    ros: FakeRos, make_source: Callable[..., Any], scene: list[RgbdFrame]
) -> None:
    ros.script = wire(bags.camera_entries(scene))
    source = make_source(BOTH, 5.0, "ros2://x")
    assert (source.live, source.uri) == (True, "ros2://x")
    before_ns = time.monotonic_ns()
    # The last pair has to wait: what would come next might lie nearer.
    arrivals = taken(source, 5)
    frames = [arrival.decode() for arrival in arrivals]  # after ROS 2 was left
    assert bags.same_frames(scene[:5], frames) == 5
    for number, (arrival, frame) in enumerate(zip(arrivals, frames, strict=True)):
        assert isinstance(arrival, Arrival)
        assert arrival.timestamp_ns == frame.timestamp_ns == bags.stamp_of(number)
        assert arrival.number == frame.number == number
        assert before_ns < arrival.arrival_ns == frame.arrival_ns < time.monotonic_ns()
    assert frames[0].intrinsics is not None
    assert source.counts["pairs"] >= 5


def test_it_subscribes_as_sensors_publish(
    ros: FakeRos, make_source: Callable[..., Any], scene: list[RgbdFrame]
) -> None:
    ros.script = wire(bags.camera_entries(scene))
    taken(make_source(BOTH), 1)
    (node,) = ros.nodes
    made = {one.topic: one for one in node.subscriptions}
    assert set(made) == {
        bags.COLOR,
        bags.DEPTH,
        bags.COLOR_INFO,
        "/camera/aligned_depth_to_color/camera_info",
        "/tf_static",
    }
    for topic in (bags.COLOR, bags.DEPTH):
        assert made[topic].qos.reliability is ReliabilityPolicy.BEST_EFFORT
        assert made[topic].raw
    assert made["/tf_static"].qos.durability is DurabilityPolicy.TRANSIENT_LOCAL
    assert made["/tf_static"].qos.reliability is ReliabilityPolicy.RELIABLE


@pytest.mark.parametrize(
    ("topic", "type_"),
    [
        ("/c/image", "Image"),
        ("/c/image/compressed", "CompressedImage"),
        ("/c/image/compressedDepth", "CompressedImage"),
    ],
)
def test_the_type_of_a_topic_follows_from_its_name(
    ros: FakeRos, make_source: Callable[..., Any], topic: str, type_: str
) -> None:
    arrivals = make_source(RosOptions(color="/a/b", depth=topic)).arrivals()
    assert next(arrivals) is None
    (made,) = (one for one in ros.nodes[0].subscriptions if one.topic == topic)
    assert made.msg_type.__name__ == type_
    arrivals.close()


def test_depth_of_another_camera_waits_for_what_registers_it(
    ros: FakeRos, make_source: Callable[..., Any], scene: list[RgbdFrame]
) -> None:
    entries = list(bags.camera_entries(scene, depth="/camera/d", frame_ids=("color", "depth")))
    camera = scene[0].intrinsics
    assert camera is not None
    info = bags.info_entry("/camera/depth_info", camera, (48, 64), "depth")
    link = bags.static_transform("color", "depth", (0.0, 0.0, 0.0))
    ros.script = wire([*entries[:9], info, link, *entries[9:]])
    options = RosOptions(color=bags.COLOR, depth="/camera/d", depth_info="/camera/depth_info")
    (arrival,) = taken(make_source(options), 1)
    frame = arrival.decode()
    # Equal cameras at one place: registration changes nothing, but it had to know.
    number = (frame.timestamp_ns - bags.START_NS) // bags.PERIOD_NS
    assert number in (2, 3)
    assert bags.same_frames([scene[number]], [frame]) == 1
    assert arrival.number == 0


def test_what_never_comes_is_told(
    ros: FakeRos, make_source: Callable[..., Any], scene: list[RgbdFrame]
) -> None:
    endless = itertools.cycle(scene)
    apart = bags.camera_entries(endless, depth="/camera/d", frame_ids=("color", "depth"))
    ros.script = wire(apart)
    source = make_source(RosOptions(color=bags.COLOR, depth="/camera/d"), timeout_s=0.2)
    with pytest.raises(SourceError, match="not registered.*no static transform from 'depth'"):
        taken(source, 1)


def test_a_wrong_topic_lists_those_with_images(
    ros: FakeRos, make_source: Callable[..., Any], scene: list[RgbdFrame]
) -> None:
    ros.graph = [
        ("/camera/colour/image", ["sensor_msgs/msg/Image"]),
        ("/rosout", ["rcl_interfaces/msg/Log"]),
    ]
    ros.script = wire(one for one in bags.camera_entries(scene) if one[0] == bags.DEPTH)
    with pytest.raises(SourceError, match="no pair came for 0.2 s") as caught:
        taken(make_source(BOTH, timeout_s=0.2), 1)
    assert f"0 messages on '{bags.COLOR}', 6 messages on '{bags.DEPTH}'" in str(caught.value)
    assert str(caught.value).endswith("topics with images now: /camera/colour/image")


def test_silence_is_counted_only_while_somebody_asks(
    ros: FakeRos, make_source: Callable[..., Any], scene: list[RgbdFrame]
) -> None:
    def paused() -> Iterator[list[tuple[str, bytes]]]:
        for step in wire(bags.camera_entries(scene)):
            yield step
            yield []  # nothing came: one wait of a moment

    ros.script = paused()
    found = []
    arrivals = make_source(BOTH, timeout_s=0.4).arrivals()
    for arrival in arrivals:
        if arrival is not None:
            found.append(arrival)
            time.sleep(0.5)  # whoever reads is busy for longer than the source may be silent
        if len(found) == 4:
            break
    arrivals.close()
    assert bags.same_frames(scene[:4], [arrival.decode() for arrival in found]) == 4


def test_depth_may_come_long_after_its_colour(
    ros: FakeRos, make_source: Callable[..., Any]
) -> None:
    frames = list(DemoSource(frames=24, width=64, height=48).frames())
    entries = list(bags.camera_entries(frames))
    late = sorted(entries, key=lambda one: one[2] + 400_000_000 * (one[0] == bags.DEPTH))
    ros.script = wire(late)
    arrivals = taken(make_source(BOTH), 20)
    assert bags.same_frames(frames[:20], [arrival.decode() for arrival in arrivals]) == 20


def test_a_calibration_of_no_use_is_counted(
    ros: FakeRos, make_source: Callable[..., Any], scene: list[RgbdFrame]
) -> None:
    stale = bags.info_entry(bags.COLOR_INFO, Intrinsics(60, 60, 80, 60), (128, 128), "a")
    pictures = [one for one in bags.camera_entries(scene) if one[0] != bags.COLOR_INFO]
    ros.script = wire([stale, *pictures])
    source = make_source(BOTH)
    (*_, last) = taken(source, 3)
    assert last.decode().intrinsics is None
    assert source.counts["CameraInfo of no use"] == 1


def test_two_clocks_are_told(
    ros: FakeRos, make_source: Callable[..., Any], scene: list[RgbdFrame]
) -> None:
    entries = []
    for topic, kind, at, content in bags.camera_entries(scene):
        if topic == bags.DEPTH:
            assert isinstance(content, dict)
            stamp = content["header"]["stamp"]
            content["header"]["stamp"] = {**stamp, "sec": stamp["sec"] - 1000}
        entries.append((topic, kind, at, content))
    ros.script = wire(entries)
    with pytest.raises(SourceError, match="0 pairs so far; do both topics come from one camera"):
        taken(make_source(BOTH, timeout_s=0.2), 1)


def test_a_damaged_message_spoils_its_pair_alone(
    ros: FakeRos, make_source: Callable[..., Any], scene: list[RgbdFrame]
) -> None:
    steps = list(wire(bags.camera_entries(scene)))
    steps[3 * 1 + 1] = [(bags.COLOR, steps[3 * 1 + 1][0][1][:-50])]
    steps.insert(0, [(bags.COLOR, b"\0\1")])
    ros.script = iter(steps)
    source = make_source(BOTH)
    good, bad, other = taken(source, 3)
    assert bags.same_frames([scene[0], scene[2]], [good.decode(), other.decode()]) == 2
    with pytest.raises(FrameError, match=f"message of '{bags.COLOR}' is damaged"):
        bad.decode()
    assert source.counts["unreadable messages"] == 1


def test_a_damaged_first_pair_is_passed_over(
    ros: FakeRos, make_source: Callable[..., Any], scene: list[RgbdFrame]
) -> None:
    steps = list(wire(bags.camera_entries(scene)))
    steps[1] = [(bags.COLOR, steps[1][0][1][:-50])]
    ros.script = iter(steps)
    bad, good = taken(make_source(BOTH), 2)
    assert isinstance(bad, FrameError)
    assert bags.same_frames([scene[1]], [good.decode()]) == 1


def test_it_can_be_left_and_opened_again(
    ros: FakeRos, make_source: Callable[..., Any], scene: list[RgbdFrame]
) -> None:
    source = make_source(BOTH)
    for _ in range(2):
        ros.script = wire(bags.camera_entries(scene))
        (arrival,) = taken(source, 1)
        assert bags.same_frames([scene[0]], [arrival.decode()]) == 1
    assert len(ros.contexts) == 2
    assert [node.destroyed for node in ros.nodes] == [True, True]


def test_a_shutdown_from_outside_ends_it(
    ros: FakeRos, make_source: Callable[..., Any], scene: list[RgbdFrame]
) -> None:
    arrivals = make_source(BOTH).arrivals()
    assert next(arrivals) is None
    ros.shut_down()
    with pytest.raises(SourceError, match="ROS 2 was shut down"):
        next(arrivals)


def test_a_middleware_that_fails_is_told(ros: FakeRos, make_source: Callable[..., Any]) -> None:
    ros.refuse = "failed to initialize rcl"
    with pytest.raises(SourceError, match="cannot join ROS 2: got failed to .*ROS_DOMAIN_ID"):
        next(make_source(BOTH).arrivals())


def test_the_uri_names_topics_and_units(ros: FakeRos, scene: list[RgbdFrame]) -> None:
    uri = f"ros2://?color={bags.COLOR}&depth={bags.DEPTH}&scale_to_m=0.0005&timeout=2.5"
    source = open_source(uri)
    assert (source.uri, source.live) == (uri, True)
    ros.script = wire(bags.camera_entries(scene))
    frame = next(iter(source.frames()))
    assert frame.depth_spec == DepthSpec(scale_to_m=0.0005)
    for wrong, told in {
        f"ros2://?color={bags.COLOR}": "names no topic for depth",
        f"ros2://camera?color={bags.COLOR}&depth=/d": "without a path",
        f"{uri}&timeout=0": "key 'timeout' is given twice",
        uri.replace("2.5", "0"): "timeout: expected SECONDS, got '0'",
    }.items():
        with pytest.raises(SourceError, match=told):
            open_source(wrong)


def test_without_ros_2_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rclpy", None)
    monkeypatch.delitem(sys.modules, f"{LOCAL}source.ros2", raising=False)
    monkeypatch.delitem(sys.modules, f"{LOCAL}ros.node", raising=False)
    with pytest.raises(MissingDependencyError, match="needs rclpy.*setup.bash"):
        open_source("ros2://?color=/a&depth=/b")


def test_intrinsics_come_from_a_named_topic(
    ros: FakeRos, make_source: Callable[..., Any], scene: list[RgbdFrame]
) -> None:
    camera = Intrinsics(50.0, 51.0, 31.0, 23.0)
    late = bags.info_entry("/calibration", camera, (48, 64), "a")
    entries = list(bags.camera_entries(scene))
    ros.script = wire([*entries[:6], late, *entries[6:]])
    options = RosOptions(color=bags.COLOR, depth=bags.DEPTH, info="/calibration")
    (arrival,) = taken(make_source(options), 1)
    assert arrival.decode().intrinsics == camera
    assert np.array_equal(arrival.decode().rgb, scene[1].rgb)
