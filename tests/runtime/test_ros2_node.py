from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qsl as read_qsl

import numpy as np
import pytest

pytest.importorskip("rosbags")  # what the fake takes the wire format from

from edge_fusion.bundle import Bundle
from edge_fusion.runtime.ros2_node import main, node_options, without_ros_arguments
from edge_fusion.runtime.source.demo import DemoSource
from edge_fusion.runtime.source.schemes import SCHEMES
from edge_fusion.runtime.source.uri import open_source
from edge_fusion.runtime.stream_options import StreamOptions
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
    assert options.stream == StreamOptions()
    assert options.bundle == Path("b.tar")
    assert options.source == (
        "ros2://?color=/c/image&depth=/d/image&info=/c/info&registered=1&unit=mm&timeout=2"
    )
    assert options.sinks == ("ros2:///robot/s", "web://")
    assert options.variant == "int8"


def test_the_node_takes_whatever_its_source_and_the_stream_take(ros: FakeRos) -> None:
    line = "b --color /c/x --depth /d/x --unit relative --larger-is nearer --invalid none"
    line += " --tolerance-ms 4 --reconnect 30 --depth-info /d/i --registered 0"
    line += " --mode every --max-staleness 80 --smooth 0.5 --limit 9"
    options = node_options(line.split())
    assert options.stream == StreamOptions(9, "every", max_staleness_ms=80, smoothing=0.5)
    read = read_qsl(options.source.partition("?")[2])
    assert dict(read) == {
        "color": "/c/x",
        "depth": "/d/x",
        "unit": "relative",
        "larger_is": "nearer",
        "invalid": "none",
        "tolerance_ms": "4",
        "reconnect": "30",
        "depth_info": "/d/i",
        "registered": "0",
    }
    assert open_source(options.source).live
    scaled = node_options(["b", "--color", "/c", "--depth", "/d", "--scale-to-m", "0.0005"])
    assert scaled.source == "ros2://?color=/c&depth=/d&scale_to_m=0.0005"


def test_every_key_of_the_source_is_an_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        node_options(["--help"])
    assert ended.value.code == 0
    told = capsys.readouterr().out
    assert not [k for k in SCHEMES["ros2"].all_keys if f"--{k.replace('_', '-')} " not in told]


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
    assert 1 <= len(published) <= 3  # beside the stream, and the newest alone
    stamps = [m.header.stamp.sec * 1_000_000_000 + m.header.stamp.nanosec for m in published]
    assert stamps == sorted(stamps)
    assert not any((stamp - bags.START_NS) % bags.PERIOD_NS for stamp in stamps)
    mask = np.frombuffer(published[0].data, np.uint8)
    assert mask.size == 48 * 64
    assert np.ptp(mask) > 0


def test_a_wrong_bundle_is_told(ros: FakeRos, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["/no/bundle", "--color", "/c", "--depth", "/d"]) == 2
    assert "error: " in capsys.readouterr().err
