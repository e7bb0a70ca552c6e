from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rosbags")  # what the fake takes the wire format from

from edge_fusion.bundle import Bundle
from edge_fusion.runtime.ros2_node import main, node_options, without_ros_arguments
from edge_fusion.runtime.source.demo import DemoSource
from tests.fakes import bags
from tests.fakes.rclpy_api import FakeRos, installed


@pytest.fixture
def ros(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeRos]:
    yield from installed(monkeypatch)


def test_a_command_line_becomes_a_source_and_a_sink() -> None:
    line = "b.tar --color /c/image --depth /d/image --info /c/info --registered --unit mm"
    options = node_options(
        f"{line} --timeout 2 --publish robot/s --sink web:// --variant int8".split()
    )
    assert options.bundle == Path("b.tar")
    assert options.source == (
        "ros2://?color=/c/image&depth=/d/image&info=/c/info&unit=mm&timeout=2.0&registered=1"
    )
    assert options.sinks == ("ros2:///robot/s", "web://")
    assert options.variant == "int8"


def test_what_is_meant_for_ros_is_left_to_it() -> None:
    line = ["b", "--ros-args", "-r", "a:=b", "--", "--color", "/c", "--ros-args", "-p", "x:=1"]
    assert without_ros_arguments(line) == ["b", "--color", "/c"]


def test_the_node_takes_topics_and_publishes_saliency(
    ros: FakeRos, tiny_bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = list(DemoSource(frames=8, width=64, height=48).frames())
    ros.script = (
        [(topic, bags.serialised(kind, content))]
        for topic, kind, _, content in bags.camera_entries(itertools.cycle(frames))
    )
    ros.listeners = {"/saliency": 1}
    line = [str(tiny_bundle.path), "--color", bags.COLOR, "--depth", bags.DEPTH]
    line += ["--limit", "3", "--backend", "ort", "--ros-args", "-r", "__node:=saliency"]
    assert main(line) == 0
    assert "rate: " in capsys.readouterr().err
    published = ros.sent("/saliency")
    assert len(published) == 3
    stamps = [m.header.stamp.sec * 1_000_000_000 + m.header.stamp.nanosec for m in published]
    assert stamps == sorted(stamps)
    assert not any((stamp - bags.START_NS) % bags.PERIOD_NS for stamp in stamps)
    mask = np.frombuffer(published[0].data, np.uint8)
    assert mask.size == 48 * 64
    assert np.ptp(mask) > 0


def test_a_wrong_bundle_is_told(ros: FakeRos, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["/no/bundle", "--color", "/c", "--depth", "/d"]) == 2
    assert "error: " in capsys.readouterr().err
