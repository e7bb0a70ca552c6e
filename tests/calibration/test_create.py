from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edge_fusion.calibration import write_set
from edge_fusion.calibration.create import CreateOptions, create_set
from edge_fusion.calibration.measure import frame_sha256, measure
from edge_fusion.calibration.set_folder import SetSource
from edge_fusion.errors import CalibrationError, EdgeFusionError, OutputError
from edge_fusion.runtime.source.folder import FolderSource
from edge_fusion.runtime.source.uri import open_source
from edge_fusion.spec import DepthSpec
from tests.calibration.planted import CLEAN, COUNT, scenes, with_depth, write_pairs


def create(source: str | Path, output: Path, **options: Any) -> SetSource:
    return create_set(CreateOptions((str(source),), output, **options)).source


def hidden(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir() if entry.name.startswith(".")]


def test_a_set_is_the_same_pairs_with_their_times(tmp_path: Path) -> None:
    made = create(CLEAN, tmp_path / "set")
    assert [frame_sha256(frame) for frame in made.frames()] == [
        frame_sha256(frame) for frame in scenes()
    ]
    assert [f.timestamp_ns for f in made.frames()] == [f.timestamp_ns for f in scenes()]
    assert hidden(tmp_path) == []
    assert made.record.choice.model_dump() == {
        "method": "all", "seed": 0, "available": COUNT, "coverage": None
    }  # fmt: skip
    item = made.items[3]
    depth_m = scenes()[3].depth.astype(float)[scenes()[3].depth > 0] / 1000
    assert item.depth.low == pytest.approx(depth_m.min())
    assert item.depth.median == pytest.approx(np.median(depth_m), rel=1e-3)
    assert item.depth.invalid == pytest.approx((scenes()[3].depth == 0).mean(), abs=1e-3)


def test_a_set_is_a_folder_source_too(tmp_path: Path) -> None:
    create(CLEAN, tmp_path / "set")
    plain = open_source(str(tmp_path / "set"))
    assert isinstance(plain, FolderSource)
    assert {frame_sha256(f) for f in plain.frames()} == {frame_sha256(f) for f in scenes()}


def test_every_and_limit(tmp_path: Path) -> None:
    made = create(CLEAN, tmp_path / "set", every=5)
    assert [item.number for item in made.items] == [0, 5, 10, 15]
    made = create(CLEAN, tmp_path / "two", every=5, limit=2)
    assert ([item.number for item in made.items], made.record.choice.available) == ([0, 5], COUNT)


@pytest.mark.parametrize("limit", [3, COUNT, COUNT + 2])
def test_a_limit_holds_for_all_sources_together(tmp_path: Path, limit: int) -> None:
    folder = write_pairs(tmp_path / "plain", scenes(seed=40))
    options = CreateOptions((CLEAN, str(folder)), tmp_path / "set", limit=limit)
    made = create_set(options).source
    assert (len(made), made.record.choice.available) == (limit, 2 * COUNT)


def test_a_camera_is_read_for_so_long_and_must_have_an_end(tmp_path: Path) -> None:
    live = "demo://?frames=100000&size=64x48&live=1&fps=200"
    made = create(live, tmp_path / "set", seconds=0.5)
    assert 1 <= len(made) <= 100
    with pytest.raises(CalibrationError, match="has no end; say how much of it to take"):
        create(live, tmp_path / "other")
    with pytest.raises(CalibrationError, match="has no end"):
        create("demo://?frames=3&size=64x48&loop=1", tmp_path / "other")


def test_seconds_of_a_recording_are_those_of_its_timestamps(tmp_path: Path) -> None:
    made = create("demo://?frames=20&size=64x48&fps=10", tmp_path / "set", seconds=0.55)
    assert len(made) == 6
    folder = write_pairs(tmp_path / "plain", scenes())
    with pytest.raises(CalibrationError, match="have no timestamps; leave --seconds out"):
        create(folder, tmp_path / "other", seconds=1)


def test_a_bag_is_made_a_set_with_its_own_times(tmp_path: Path) -> None:
    pytest.importorskip("rosbags")
    pytest.importorskip("mcap")
    from tests.fakes import bags

    bag = bags.write_bag(tmp_path / "bag", bags.camera_entries(scenes()))
    made = create(f"rosbag://{bag}", tmp_path / "set", every=3)
    assert [frame_sha256(frame) for frame in made.frames()] == [
        frame_sha256(frame) for frame in scenes()[::3]
    ]
    assert [item.timestamp_ns for item in made.items] == [
        bags.stamp_of(number) for number in range(0, COUNT, 3)
    ]
    made = create(f"rosbag://{bag}", tmp_path / "short", seconds=0.21)
    assert len(made) == 7


def test_float_metres_keep_every_bit(tmp_path: Path) -> None:
    metres = DepthSpec(scale_to_m=1.0)

    def plant(index: int, frame: Any) -> Any:
        depth = (frame.depth / np.float32(1000)).astype(np.float32)
        depth[0, :4] = np.nan
        return replace(frame, depth=depth, depth_spec=metres)

    folder = write_pairs(tmp_path / "metres", scenes(), plant=plant)
    made = create(folder, tmp_path / "set")
    assert made.record.depth_dtype == "float32"
    assert {path.suffix for path in (tmp_path / "set" / "depth").iterdir()} == {".npy"}
    for one, other in zip(made.frames(), FolderSource(folder).frames(), strict=True):
        assert one.depth.tobytes() == other.depth.tobytes()


def test_relative_depth_keeps_its_polarity(tmp_path: Path) -> None:
    disparity = DepthSpec(scale_to_m=None, larger_is="nearer", invalid=7)
    folder = write_pairs(
        tmp_path / "near",
        scenes(),
        plant=lambda i, f: replace(
            f, depth=(60000 // np.maximum(f.depth, 1)).astype(np.uint16), depth_spec=disparity
        ),
    )
    made = create(folder, tmp_path / "set")
    assert made.record.depth == disparity
    assert FolderSource(tmp_path / "set").depth_spec == disparity


def test_references_are_links_that_are_held_to_their_hash(tmp_path: Path) -> None:
    folder = write_pairs(tmp_path / "plain", scenes())
    made = create(folder, tmp_path / "set", reference=True)
    assert made.record.stored == "links"
    assert all(path.is_symlink() for path in (tmp_path / "set" / "rgb").iterdir())
    assert len(list(made.frames())) == COUNT
    (folder / "rgb" / "003.png").unlink()
    with pytest.raises(CalibrationError, match="pair '003'.*links: were the originals moved"):
        made[3]
    with pytest.raises(CalibrationError, match="has no files to refer to"):
        create(CLEAN, tmp_path / "other", reference=True)


def test_two_kinds_of_depth_do_not_mix(tmp_path: Path) -> None:
    folder = write_pairs(
        tmp_path / "tenths",
        scenes(),
        plant=lambda i, f: replace(f, depth_spec=DepthSpec(scale_to_m=0.0005)),
    )
    options = CreateOptions((CLEAN, str(folder)), tmp_path / "set")
    with pytest.raises(CalibrationError, match="another kind of depth.*make two"):
        create_set(options)
    assert list(tmp_path.iterdir()) == [folder]


def test_equal_ids_of_two_sources_both_stay(tmp_path: Path) -> None:
    folders = [
        write_pairs(tmp_path / name, scenes(seed=seed)) for name, seed in (("a", 3), ("b", 40))
    ]
    made = create_set(CreateOptions(tuple(map(str, folders)), tmp_path / "set")).source
    assert len({item.id for item in made.items}) == 2 * COUNT
    assert made.items[COUNT].id == "000-2"
    assert (made.items[COUNT].source, made.items[COUNT].source_id) == (1, "000")


def test_no_password_is_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Camera:
        live = False
        uri = "rtsp://me:secret@camera/1?depth=rtsp%3A%2F%2Fme%3Asecret%40camera/2"

        def __len__(self) -> int:
            return COUNT

        def __getitem__(self, index: int) -> Any:
            return scenes()[index]

        def frames(self) -> Any:
            return iter(scenes())

    monkeypatch.setattr("edge_fusion.calibration.create.open_source", lambda uri, masks: Camera())
    create("rtsp://me:secret@camera/1", tmp_path / "set")
    text = "".join(p.read_text() for p in (tmp_path / "set").glob("*.json"))
    assert "secret" not in text
    assert "***@camera" in text


@pytest.mark.parametrize(
    ("prepare", "force", "message"),
    [
        (lambda p: p.mkdir(), False, ""),  # an empty folder is as good as none
        (lambda p: create(CLEAN, p), False, "exists; name another place, or pass --force"),
        (lambda p: create(CLEAN, p), True, ""),
        (lambda p: p.write_text("x"), True, "it is no folder"),
        (lambda p: (p / "mine").mkdir(parents=True), True, "no calibration set: got mine"),
        (lambda p: (create(CLEAN, p), (p / "notes.txt").touch()), True, "got notes.txt"),
    ],
    ids=["empty", "older", "older, forced", "file", "foreign", "older with notes"],
)
def test_places(
    tmp_path: Path, prepare: Callable[[Path], object], force: bool, message: str
) -> None:
    place = tmp_path / "set"
    prepare(place)
    before = sorted(tmp_path.rglob("*"))
    if not message:
        assert len(create(CLEAN, place, limit=3, replace=force)) == 3
        assert hidden(tmp_path) == []
        return
    with pytest.raises(OutputError, match=message):
        create(CLEAN, place, replace=force)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = write_set._write_png

    def full(path: Path, image: Any) -> None:
        if path.name.startswith("demo-8"):
            raise OSError(errno.ENOSPC, "No space left on device")
        written(path, image)

    monkeypatch.setattr(write_set, "_write_png", full)
    with pytest.raises(OutputError, match="No space left on device; the disk is full"):
        create(CLEAN, tmp_path / "set")
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_place_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write the calibration set"):
        create(CLEAN, tmp_path / "file" / "set")


class Stopped(KeyboardInterrupt):
    """Ctrl-C."""


def stop_after(pairs: int) -> Callable[..., None]:
    def progress(step: str, done: int, total: int, detail: str = "") -> None:
        if step == "pairs" and done == pairs:
            raise Stopped

    return progress


def test_an_interrupted_run_is_taken_up_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_pairs(tmp_path / "plain", scenes())
    options = CreateOptions((str(folder),), tmp_path / "set")
    with pytest.raises(Stopped):
        create_set(options, stop_after(6))
    assert not options.output.exists()
    journal = tmp_path / ".set.partial" / "journal.jsonl"
    with journal.open("a") as file:
        file.write('{"id": "006", "sha2')  # killed while it was written
    read: list[int] = []
    reading = FolderSource.__getitem__
    monkeypatch.setattr(
        FolderSource,
        "__getitem__",
        lambda self, index: (read.append(index), reading(self, index))[1],
    )
    made = create_set(options)
    assert made.resumed == 6
    assert read == list(range(6, COUNT))
    monkeypatch.undo()
    whole = create(folder, tmp_path / "whole")
    assert [item.model_dump() for item in made.source.items] == [
        item.model_dump() for item in whole.items
    ]
    assert hidden(tmp_path) == []


@pytest.mark.parametrize("change", ["options", "file", "journal"])
def test_what_does_not_fit_is_not_taken_up(tmp_path: Path, change: str) -> None:
    folder = write_pairs(tmp_path / "plain", scenes())
    options = CreateOptions((str(folder),), tmp_path / "set")
    with pytest.raises(Stopped):
        create_set(options, stop_after(6))
    partial = tmp_path / ".set.partial"
    expected = {"options": 0, "file": 2, "journal": 0}[change]
    if change == "options":
        options = replace(options, every=2)
    elif change == "file":
        (partial / "depth" / "002.png").write_bytes(b"")  # as a crash of the machine leaves it
    else:
        (partial / "journal.jsonl").write_text("nonsense\n")
    made = create_set(options)
    assert made.resumed == expected
    assert len(made.source) == COUNT // options.every
    assert [frame_sha256(f) for f in made.source.frames()] == [
        frame_sha256(f) for f in scenes()[:: options.every]
    ]


def test_two_processes_do_not_write_one_set(tmp_path: Path) -> None:
    options = CreateOptions((CLEAN,), tmp_path / "set")

    def progress(step: str, done: int, total: int, detail: str = "") -> None:
        if done == 3:
            with pytest.raises(OutputError, match="is being written by another process"):
                create_set(options)

    assert len(create_set(options, progress).source) == COUNT


def test_damaged_pairs_stop_or_are_left_out(tmp_path: Path) -> None:
    folder = write_pairs(tmp_path / "plain", scenes())
    (folder / "depth" / "004.png").write_bytes(b"no image")
    with pytest.raises(CalibrationError, match="pair 4: cannot decode.*--skip-damaged leaves"):
        create(folder, tmp_path / "set")
    made = create_set(CreateOptions((str(folder),), tmp_path / "set", skip_damaged=True))
    assert (len(made.source), [number for number, _ in made.skipped]) == (COUNT - 1, [4])


def test_a_damaged_pair_is_left_out_of_so_many_seconds_too(tmp_path: Path) -> None:
    damaged = create("demo://?frames=20&size=64x48&fps=10&cut=1", tmp_path / "damaged")
    (damaged.folder / "depth" / f"{damaged.items[2].id}.png").write_bytes(b"no image")
    made = create(damaged.folder, tmp_path / "set", seconds=0.55, skip_damaged=True)
    assert [item.number for item in made.items] == [0, 1, 3, 4, 5]


def test_what_took_the_place_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    options = CreateOptions((CLEAN,), tmp_path / "set")

    def progress(step: str, done: int, total: int, detail: str = "") -> None:
        if done == 3:
            options.output.mkdir()
            (options.output / "mine.txt").write_text("mine")

    with pytest.raises(OutputError, match="holds something that is no calibration set"):
        create_set(options, progress)
    assert (options.output / "mine.txt").read_text() == "mine"
    assert hidden(tmp_path) == []


@pytest.mark.parametrize(("time_ns", "kept"), [(-1, 0), (2**63, 0), (2**60, 2**60)])
def test_a_time_that_no_clock_has_is_none(time_ns: int, kept: int) -> None:
    assert measure(replace(scenes()[0], timestamp_ns=time_ns)).timestamp_ns == kept


def test_an_error_of_a_check_stops(tmp_path: Path) -> None:
    folder = write_pairs(tmp_path / "plain", scenes(), plant=with_depth(np.zeros_like))
    with pytest.raises(CalibrationError, match="no valid reading of depth.*calib check"):
        create(folder, tmp_path / "set")
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sources": ()}, "no source to make a calibration set of"),
        ({"sources": ("a", "a")}, "given twice"),
        ({"limit": 0}, "limit: expected at least 1"),
        ({"every": 0}, "every: expected at least 1"),
        ({"seconds": 0.0}, "seconds: expected more than 0"),
        ({"sources": ("nowhere/at/all",)}, "does not exist"),
    ],
)
def test_bad_options(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(EdgeFusionError, match=message):
        create_set(CreateOptions(**{"sources": (CLEAN,), "output": tmp_path / "s", **options}))


LONG = os.environ.get("EDGE_FUSION_LONG_TESTS")


@pytest.mark.slow
@pytest.mark.skipif(not LONG, reason="takes minutes: set EDGE_FUSION_LONG_TESTS=1")
def test_ten_thousand_pairs_in_bounded_memory(tmp_path: Path) -> None:
    import resource

    folder = tmp_path / "plain"
    (folder / "rgb").mkdir(parents=True)
    (folder / "depth").mkdir()
    rng = np.random.default_rng(0)
    for index in range(10_000):
        rgb = cv2.resize(rng.integers(0, 255, (6, 8, 3), np.uint8), (64, 48))
        depth = cv2.resize(rng.integers(500, 4000, (6, 8)).astype(np.uint16), (64, 48))
        cv2.imwrite(str(folder / "rgb" / f"{index}.png"), rgb)
        cv2.imwrite(str(folder / "depth" / f"{index}.png"), depth)
    (folder / "meta.json").write_text('{"depth": {"unit": "mm"}}')
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    options = CreateOptions((str(folder),), tmp_path / "set", reference=True)
    with pytest.raises(Stopped):
        create_set(options, stop_after(6000))
    made = create_set(options)
    grown_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert (made.resumed, len(made.source)) == (6000, 10_000)
    # 10,000 records of a kilobyte and a half each; the pictures alone would be 150 MiB.
    assert grown_mib < 400, grown_mib
    print(f"peak memory grew by {grown_mib:.0f} MiB")
