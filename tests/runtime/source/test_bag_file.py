"""Recordings of several files, broken files, and files that claim too much."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rosbags")
pytest.importorskip("mcap")

from edge_fusion.errors import SourceError
from edge_fusion.frame import RgbdFrame
from edge_fusion.runtime.ledger import FrameRecord
from edge_fusion.runtime.sink.mcap import McapRecording
from edge_fusion.runtime.source import bag_file
from edge_fusion.runtime.source.bag_file import open_bag
from edge_fusion.runtime.source.demo import DemoSource
from edge_fusion.runtime.source.rosbag import RosbagSource
from tests.fakes import bags


def split(folder: Path, scene: list[RgbdFrame], pieces: int) -> list[Path]:
    """A recording in several files, as a recorder that was killed leaves it."""
    folder.mkdir()
    entries = list(bags.camera_entries(scene))
    each = len(entries) // pieces
    files = []
    for number in range(pieces):
        part = entries[number * each : (number + 1) * each]
        written = bags.write_bag(folder.parent / f"part_{number}", part)
        (file,) = written.glob("*.db3")
        files.append(file.rename(folder / f"all_{number}.db3"))
    return files


@pytest.mark.parametrize("damage", ["cut off", "empty", "no recording"])
def test_a_broken_file_does_not_hide_those_after_it(tmp_path: Path, damage: str) -> None:
    scene = list(DemoSource(frames=12, width=160, height=120).frames())
    files = split(tmp_path / "bag", scene, 3)
    content = {
        "cut off": files[1].read_bytes()[: files[1].stat().st_size * 4 // 5],
        "empty": b"",
        "no recording": b"\xff" * 1000,
    }
    files[1].write_bytes(content[damage])
    delivered = []
    source = RosbagSource(tmp_path / "bag")
    with pytest.raises(SourceError, match=files[1].name):
        for frame in source.frames():
            delivered.append(frame)
    assert bags.same_frames(scene[:4], delivered[:4]) == 4
    assert bags.same_frames(scene[8:], delivered[-4:]) == 4
    assert (len(delivered) > 8) == (damage == "cut off")


def test_files_that_are_all_broken_are_no_recording(tmp_path: Path) -> None:
    scene = list(DemoSource(frames=2, width=64, height=48).frames())
    for file in split(tmp_path / "bag", scene, 2):
        file.write_bytes(b"")
    with pytest.raises(SourceError, match=r"all_0\.db3' is empty"):
        open_bag(tmp_path / "bag")


def test_whatever_was_opened_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = list(DemoSource(frames=3, width=64, height=48).frames())
    split(tmp_path / "bag", scene, 3)
    closed: list[Path] = []

    def close(bag: bag_file._Indexed) -> None:
        closed.append(bag._path)
        bag._reader.close()

    monkeypatch.setattr(bag_file._Indexed, "close", close)
    open_bag(tmp_path / "bag").close()
    assert len(closed) == 3
    opening = bag_file._open_file

    def failing(path: Path) -> bag_file.Bag:
        if path.name == "all_2.db3":
            raise KeyboardInterrupt
        return opening(path)

    monkeypatch.setattr(bag_file, "_open_file", failing)
    with pytest.raises(KeyboardInterrupt):
        open_bag(tmp_path / "bag")
    assert len(closed) == 5


def test_a_chunk_that_claims_too_much_is_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "out.mcap"
    sink = McapRecording(file, 30.0)
    for frame in DemoSource(frames=4, width=160, height=120).frames():
        told = FrameRecord(frame.number, "", *(0.0,) * 7, 0, 0.0, 1, 0)
        sink.write(frame, np.zeros(frame.depth.shape, np.float32), told)
    sink.close()
    monkeypatch.setattr(bag_file, "_MOST_CHUNK", 100_000)
    for read in (open_bag, bag_file._SequentialMcap):
        with pytest.raises(SourceError, match="a chunk of .* bytes, more than the 100000 that are"):
            read(file)
    monkeypatch.undo()
    for read in (open_bag, bag_file._SequentialMcap):
        with closing(read(file)) as bag:
            assert bag.topics["/edge_fusion/color/image_raw"].count == 4
