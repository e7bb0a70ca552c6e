"""Recordings of a RealSense, made by librealsense's own recorder."""

from __future__ import annotations

import shutil
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from edge_fusion.errors import SourceError
from edge_fusion.frame import Intrinsics
from edge_fusion.runtime.source import librealsense
from edge_fusion.runtime.source.base import ArrivingSource, CountingSource
from edge_fusion.runtime.source.realsense import (
    RealSenseRecording,
    open_realsense,
)
from edge_fusion.runtime.source.uri import open_source

try:
    import pyrealsense2  # noqa: F401
except ImportError as err:  # the package, or a library of the system that it needs
    pytest.skip(f"librealsense is not usable: {err}", allow_module_level=True)

from tests.fakes.realsense import (
    FIRST_COLOR,
    PERIOD_MS,
    UNIT_M,
    Device,
    Shot,
    View,
    content,
    expected,
    pairs,
    read,
    record,
    steady,
)

PAIRS = 60


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording of 60 pairs whose images tell their numbers."""
    return record(tmp_path_factory.mktemp("recorded") / "walk.db3", Device(), steady(PAIRS))


def test_every_pair_of_a_recording_with_its_own_content(recorded: Path) -> None:
    source = open_realsense(str(recorded))
    assert isinstance(source, ArrivingSource)
    assert isinstance(source, CountingSource)
    assert not source.live
    assert read(source) == expected(range(PAIRS))
    assert source.counts == {}


def test_what_a_recording_knows_is_kept(recorded: Path) -> None:
    frames = list(open_source(f"realsense://{recorded}").frames())
    assert len(frames) == PAIRS
    for index, frame in enumerate(frames):
        assert frame.id == f"walk-{index + FIRST_COLOR:06d}"
        assert frame.timestamp_ns == pytest.approx((1002 + index * PERIOD_MS) * 1e6, abs=1)
        assert frame.arrival_ns == 0
        assert frame.depth_spec.scale_to_m == UNIT_M
        assert frame.intrinsics == Intrinsics(55.0, 56.0, 33.5, 21.5)
        assert frame.depth.shape == (48, 64)


def test_a_recording_is_read_again_from_its_start(recorded: Path) -> None:
    source = RealSenseRecording(recorded)
    assert read(source) == read(source)


def test_a_slow_reader_loses_nothing(recorded: Path) -> None:
    numbers = []
    for arrival in pairs(RealSenseRecording(recorded)):
        time.sleep(0.004)
        numbers.append(arrival.number)
    assert numbers == [FIRST_COLOR + index for index in range(PAIRS)]


def test_what_is_not_decoded_outlives_its_recording(recorded: Path) -> None:
    arrivals = list(pairs(RealSenseRecording(recorded)))
    assert [content(one) for one in arrivals] == [line[1:] for line in expected(range(PAIRS))]


def test_a_reader_that_leaves_early_frees_the_recording(recorded: Path) -> None:
    source = RealSenseRecording(recorded)
    for taken in (1, 5, 20):
        arrivals = pairs(source)
        assert len(list(islice(arrivals, taken))) == taken
        began = time.monotonic()
        arrivals.close()
        assert time.monotonic() - began < librealsense._STOP_S
    assert len(read(source)) == PAIRS
    assert "edge-fusion-realsense-stop" not in {one.name for one in threading.enumerate()}


def test_playing_many_times_never_loses_the_first_pair(recorded: Path) -> None:
    source = RealSenseRecording(recorded)
    for _ in range(15):
        with closing(pairs(source)) as arrivals:
            assert next(arrivals).number == FIRST_COLOR


def test_images_without_a_partner_are_counted(tmp_path: Path) -> None:
    lost = {("depth", 10), ("depth", 11), ("color", 20 + FIRST_COLOR)}
    shots = (shot for shot in steady(30) if (shot.stream, shot.number) not in lost)
    source = RealSenseRecording(record(tmp_path / "gaps.db3", Device(), shots))
    assert read(source) == expected([n for n in range(30) if n not in (10, 11, 20)])
    assert source.counts == {
        "colour without depth": 2,
        "depth without colour": 1,
        "depth images missing by number": 2,
        "colour images missing by number": 1,
    }
    read(source)
    assert source.counts["colour without depth"] == 4  # over all of its runs


def damage_image(path: Path) -> None:
    with closing(sqlite3.connect(path)) as file, file:
        file.execute(
            "UPDATE messages SET data = x'00' WHERE id = (SELECT messages.id FROM messages "
            "JOIN topics ON topics.id = topic_id WHERE name LIKE '%Depth_0/image/data%' "
            "ORDER BY timestamp LIMIT 1 OFFSET 30)"
        )


def cut_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGES: list[tuple[str, Callable[[Path], object], str]] = [
    # What was done to the recording, and what must be said.
    ("half.db3", cut_in_half, "'half.db3' failed.*malformed.*is it complete"),
    ("text.db3", lambda path: path.write_text("no recording"), "not a database.*is it complete"),
    ("empty.db3", lambda path: path.write_bytes(b""), "is it complete"),
    ("ros1.bag", lambda path: None, "version line.*is it complete"),  # a .db3 called .bag
    ("hole.db3", damage_image, "'hole.db3' ends early: expected 60 colour images, got 30; .*damag"),
]


@pytest.mark.parametrize(("name", "harm", "told"), DAMAGES, ids=[line[0] for line in DAMAGES])
def test_damaged_recordings(
    recorded: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    harm: Callable[[Path], object],
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    harm(Path(shutil.copy(recorded, name)))
    source = open_realsense(name)
    got = []
    with pytest.raises(SourceError, match=told):
        for arrival in pairs(source):
            got.append(content(arrival))
    # What lies before the damage is not lost.
    assert len(got) == (30 if name == "hole.db3" else 0)


def test_a_bag_at_which_the_sdk_hangs(
    recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(shutil.copy(recorded, tmp_path / "hangs.bag"))
    monkeypatch.setattr(librealsense, "_OPEN_S", 0.3)
    monkeypatch.setattr(librealsense, "_OPENING", "import time; time.sleep(60)")
    began = time.monotonic()
    with pytest.raises(SourceError, match="hangs.bag' cannot be opened: got librealsense was sti"):
        open_realsense(str(path))
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("views", "told"),
    [
        ([[View("depth")]], "no colour stream: expected colour and depth, got depth; use a camera"),
        ([[View("color")]], "no depth stream: expected colour and depth, got color; use a camera"),
    ],
)
def test_a_recording_without_one_of_the_streams(
    tmp_path: Path, views: list[list[View]], told: str
) -> None:
    stream = views[0][0].stream
    path = record(tmp_path / "half.db3", Device(views), [Shot(stream, n, n * 33) for n in range(3)])
    with pytest.raises(SourceError, match=f"recording '.*half.db3' has {told}"):
        next(pairs(RealSenseRecording(path)))


def test_a_recording_whose_images_never_belong_together(tmp_path: Path) -> None:
    shots = steady(12, late_ms=5000)
    with pytest.raises(
        SourceError, match="holds no pair: .*got colour: 12 images by hardware_clock, depth: 12"
    ):
        read(RealSenseRecording(record(tmp_path / "apart.db3", Device(), shots)))


@pytest.mark.parametrize(
    ("path", "keys", "told"),
    [
        ("gone.db3", {}, "recording 'gone.db3': expected a file, got none there"),
        ("walks/gone", {}, "recording 'walks/gone': expected a file"),
        ("note.txt", {}, "recording 'note.txt': expected .db3 or .bag, got '.txt'; record with"),
        ("walk.db3", {"fps": 30}, "recording 'realsense://walk.db3': expected no size and no fps"),
        ("walk.db3", {"size": (64, 48)}, "expected no size and no fps: it has the ones it was"),
        ("walk.db3", {"timeout": 0.0}, "timeout: expected seconds above 0, got 0"),
    ],
)
def test_paths_that_are_no_recording(
    recorded: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    keys: dict[str, Any],
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(recorded, "walk.db3")
    Path("note.txt").write_text("hello")
    with pytest.raises(SourceError, match=told):
        open_realsense(path, **keys)
