"""Which images of a recording become pairs, and what is said where none do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rosbags")
pytest.importorskip("mcap")

from edge_fusion.errors import SourceError
from edge_fusion.frame import RgbdFrame
from edge_fusion.runtime.ros.fields import header_fields
from edge_fusion.runtime.source import rosbag
from edge_fusion.runtime.source.base import UNSTAMPED, UNUSED_INFO
from edge_fusion.runtime.source.demo import DemoSource
from edge_fusion.runtime.source.rosbag import RosbagSource
from tests.fakes import bags


@pytest.fixture(scope="module")
def scene() -> list[RgbdFrame]:
    return list(DemoSource(frames=30, width=64, height=48).frames())


def restamped(entries: list[bags.Entry], stamp_of: Callable[[int, str], int]) -> list[bags.Entry]:
    """Entries whose headers bear another time than they were made with."""
    found: list[bags.Entry] = []
    for topic, kind, at, content in entries:
        assert isinstance(content, dict)
        stamp, frame_id = content["header"]["stamp"], content["header"]["frame_id"]
        before = stamp["sec"] * 1_000_000_000 + stamp["nanosec"]
        header = header_fields(stamp_of(before, topic), frame_id)
        found.append((topic, kind, at, {**content, "header": header}))
    return found


@pytest.mark.parametrize("late_ms", [150, 400, 1000])
def test_depth_may_be_recorded_long_after_its_colour(
    tmp_path: Path, scene: list[RgbdFrame], late_ms: int
) -> None:
    late = [
        (topic, kind, at + late_ms * 1_000_000 * (topic == bags.DEPTH), content)
        for topic, kind, at, content in bags.camera_entries(scene)
    ]
    path = bags.write_bag(tmp_path / "bag", sorted(late, key=lambda one: one[2]))
    assert bags.same_frames(scene, RosbagSource(path).frames()) == 30


def test_a_recording_without_a_pair_is_told_with_a_cure(
    tmp_path: Path, scene: list[RgbdFrame]
) -> None:
    apart = restamped(
        list(bags.camera_entries(scene[:6])),
        lambda stamp, topic: stamp + 5_000_000_000 * (topic == bags.DEPTH),
    )
    source = RosbagSource(bags.write_bag(tmp_path / "bag", apart))
    with pytest.raises(SourceError, match="holds not one pair") as caught:
        list(source.arrivals())
    assert "got 6 colour without depth, 6 depth without colour" in str(caught.value)
    assert "tolerance_ms=MS" in str(caught.value)


def test_headers_without_a_time_are_paired_by_when_they_were_recorded(
    tmp_path: Path, scene: list[RgbdFrame]
) -> None:
    none = restamped(list(bags.camera_entries(scene[:6])), lambda stamp, topic: 0)
    source = RosbagSource(bags.write_bag(tmp_path / "none", none))
    frames = list(source.frames())
    assert bags.same_frames(scene[:6], frames) == 6
    assert [frame.timestamp_ns for frame in frames] == [bags.stamp_of(n) + 10 for n in range(6)]
    assert source.counts[UNSTAMPED] == 12
    one = restamped(
        list(bags.camera_entries(scene[:6])),
        lambda stamp, topic: 0 if topic == bags.DEPTH else stamp - 10**12,
    )
    source = RosbagSource(bags.write_bag(tmp_path / "one", one))
    assert bags.same_frames(scene[:6], source.frames()) == 6
    assert source.counts[UNSTAMPED] == 6


def test_a_clock_that_begins_at_zero_is_a_clock(tmp_path: Path, scene: list[RgbdFrame]) -> None:
    early = restamped(
        list(bags.camera_entries(scene[:6])), lambda stamp, topic: stamp - bags.START_NS
    )
    source = RosbagSource(bags.write_bag(tmp_path / "bag", early))
    assert [frame.timestamp_ns for frame in source.frames()] == [
        n * bags.PERIOD_NS for n in range(6)
    ]
    assert source.counts[UNSTAMPED] == 0


def test_a_stretch_without_pairs_can_be_left(
    tmp_path: Path, scene: list[RgbdFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = list(bags.camera_entries(scene[:8]))
    lonely = [one for one in entries[: 6 * 3] if one[0] != bags.DEPTH]
    path = bags.write_bag(tmp_path / "bag", [*lonely, *entries[6 * 3 :]])
    assert None not in list(RosbagSource(path).arrivals())  # it is over in a moment
    monkeypatch.setattr(rosbag, "_GLANCE_S", 0.0)
    arrivals = list(RosbagSource(path).arrivals())
    assert arrivals[:6] == [None] * 6
    assert len([one for one in arrivals if one is not None]) == 2


def test_a_calibration_of_another_size_is_counted_where_depth_is_registered(
    tmp_path: Path, scene: list[RgbdFrame]
) -> None:
    stale = [
        (topic, kind, at, {**content, "width": 128, "height": 96})
        if topic == bags.COLOR_INFO and isinstance(content, dict)
        else (topic, kind, at, content)
        for topic, kind, at, content in bags.camera_entries(scene[:3])
    ]
    source = RosbagSource(bags.write_bag(tmp_path / "bag", stale))
    frames = list(source.frames())
    assert [frame.intrinsics for frame in frames] == [None] * 3
    assert np.array_equal(frames[2].depth, scene[2].depth)
    assert source.counts[UNUSED_INFO] == 1
