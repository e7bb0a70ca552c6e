from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edge_fusion.errors import OutputError
from edge_fusion.frame import RgbdFrame
from edge_fusion.runtime.sink import video
from edge_fusion.runtime.sink.video import CODECS, OverlayVideo

MakeResult = Callable[..., tuple[RgbdFrame, NDArray[np.float32]]]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def pictures(path: Path) -> list[NDArray[np.uint8]]:
    capture = cv2.VideoCapture(str(path))
    found = []
    while (read := capture.read())[0]:
        found.append(np.asarray(read[1], np.uint8))
    capture.release()
    return found


@pytest.mark.parametrize("suffix", sorted(CODECS))
@pytest.mark.parametrize("size", [(48, 64), (49, 65)], ids=["even", "odd"])
def test_a_video_holds_every_overlay(
    tmp_path: Path, result: MakeResult, suffix: str, size: tuple[int, int]
) -> None:
    path = tmp_path / f"out{suffix}"
    sink = OverlayVideo(path, 25.0)
    for number in range(12):
        sink.write(*result(number, size=size))
        assert not path.exists()  # the name belongs to finished videos
    sink.close()
    sink.close()
    assert names(tmp_path) == [path.name]
    found = pictures(path)
    assert len(found) == 12
    assert found[0].shape == (48, 64, 3)
    # the object is where the frame had it, brighter than the darkened rest
    assert found[8][24, 16].sum() > 2 * found[8][4, 60].sum()
    assert cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FPS) == pytest.approx(25)


def test_an_older_video_stays_until_the_new_one_is_finished(
    tmp_path: Path, result: MakeResult
) -> None:
    path = tmp_path / "out.mp4"
    path.write_bytes(b"older")
    OverlayVideo(path, 30.0).close()
    assert path.read_bytes() == b"older"  # no frames, no new video
    sink = OverlayVideo(path, 30.0)
    sink.write(*result())
    assert path.read_bytes() == b"older"
    sink.close()
    assert len(pictures(path)) == 1
    assert names(tmp_path) == ["out.mp4"]


def test_two_runs_into_one_file_do_not_disturb_each_other(
    tmp_path: Path, result: MakeResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, sizes, sinks = tmp_path / "out.mp4", [(48, 64), (96, 128)], []
    for process in (11, 12):
        monkeypatch.setattr(os, "getpid", lambda process=process: process)
        sinks.append(OverlayVideo(path, 30.0))
    assert len(names(tmp_path)) == 2
    for number in range(6):
        for sink, size in zip(sinks, sizes, strict=True):
            sink.write(*result(number, size=size))
    for sink, size in zip(sinks, sizes, strict=True):  # the last to finish wins, whole
        sink.close()
        assert [picture.shape[:2] for picture in pictures(path)] == [size] * 6
    assert names(tmp_path) == ["out.mp4"]


def test_a_live_source_plays_at_the_speed_of_the_scene(tmp_path: Path, result: MakeResult) -> None:
    path = tmp_path / "out.mp4"
    sink = OverlayVideo(path, 30.0)
    # 5 frames a second for 2 s, then a pause of an hour, of which one second is shown
    arrivals_s = [*(1 + 0.2 * step for step in range(11)), 3600.0]
    for number, arrival_s in enumerate(arrivals_s):
        sink.write(*result(number, arrival_ns=int(arrival_s * 1e9)))
    sink.close()
    assert len(pictures(path)) == 1 + 2 * 30 + 30


def test_a_live_source_faster_than_the_video_loses_no_frame(
    tmp_path: Path, result: MakeResult
) -> None:
    path = tmp_path / "out.mp4"
    sink = OverlayVideo(path, 10.0)
    for number in range(20):
        sink.write(*result(number, arrival_ns=int((1 + number / 100) * 1e9)))
    sink.close()
    assert len(pictures(path)) == 20


def test_another_size_in_the_middle_is_refused_and_the_rest_kept(
    tmp_path: Path, result: MakeResult
) -> None:
    path = tmp_path / "out.mp4"
    sink = OverlayVideo(path, 30.0)
    sink.write(*result(0))
    with pytest.raises(OutputError, match="'f1' .* expected 64x48 pixels.* got 80x60; write masks"):
        sink.write(*result(1, size=(60, 80)))
    sink.close()
    assert len(pictures(path)) == 1


def test_frames_too_small_for_a_video_are_told(tmp_path: Path, result: MakeResult) -> None:
    sink = OverlayVideo(tmp_path / "out.mp4", 30.0)
    with pytest.raises(OutputError, match="expected 2 pixels or more each way, got 1x1; write mas"):
        sink.write(*result(size=(1, 1)))
    sink.close()
    assert names(tmp_path) == []


def test_a_missing_folder_is_refused_before_any_frame(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot write the video .*create its folder"):
        OverlayVideo(tmp_path / "absent" / "out.mp4", 30.0)


def test_a_folder_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out.mp4").mkdir()
    with pytest.raises(OutputError, match="is a folder; name a file"):
        OverlayVideo(tmp_path / "out.mp4", 30.0)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="cannot write the video"):
        OverlayVideo(tmp_path / "out.mp4", 30.0)


@pytest.mark.parametrize("fps", [0.0, -1.0, float("nan"), float("inf")])
def test_a_frame_rate_must_be_positive(tmp_path: Path, fps: float) -> None:
    with pytest.raises(OutputError, match="frame rate .* expected above 0"):
        OverlayVideo(tmp_path / "out.mp4", fps)
    assert names(tmp_path) == []


def test_a_codec_that_is_missing_is_told(
    tmp_path: Path, result: MakeResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cv2.VideoWriter, "isOpened", lambda writer: False, raising=True)
    sink = OverlayVideo(tmp_path / "out.mp4", 30.0)
    with pytest.raises(OutputError, match="cannot encode .* codec mp4v.*try another suffix"):
        sink.write(*result())
    sink.close()
    assert names(tmp_path) == []


def test_pictures_lost_by_the_encoder_are_found_out(
    tmp_path: Path, result: MakeResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = OverlayVideo(tmp_path / "out.mp4", 30.0)
    for number in range(4):
        sink.write(*result(number))
    monkeypatch.setattr(cv2.VideoWriter, "write", lambda writer, picture: None)
    for number in range(4, 12):
        sink.write(*result(number))
    with pytest.raises(OutputError, match="damaged and was removed: expected 12 pictures, got 4"):
        sink.close()
    assert names(tmp_path) == []


def test_a_nearly_full_disk_is_refused_at_the_door(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video, "RESERVE_BYTES", 2**62)
    with pytest.raises(OutputError, match="no room left .* MiB free to finish it"):
        OverlayVideo(tmp_path / "out.mp4", 30.0)
    assert names(tmp_path) == []


@pytest.fixture
def small_disk(disk_of: Callable[[int], Path]) -> Path:
    """A real disk of 17 MiB, one more than the reserve."""
    return disk_of(17)


def test_a_disk_that_fills_up_ends_the_video_in_time(small_disk: Path, result: MakeResult) -> None:
    path = small_disk / "out.avi"  # motion JPEG: large enough to fill the disk soon
    sink = OverlayVideo(path, 30.0)
    frame, saliency, record = result(size=(480, 640))
    frame.rgb[:] = np.random.default_rng(0).integers(0, 256, frame.rgb.shape, np.uint8)
    written = 0
    with pytest.raises(OutputError, match="no room left for the video"):
        while True:
            sink.write(frame, saliency, record)
            written += 1
    sink.close()
    assert names(small_disk) == ["out.avi"]
    assert len(pictures(path)) == written > 2


LIMITED_SCRIPT = """
import resource, sys
import numpy as np
from pathlib import Path
from edge_fusion.errors import OutputError
from edge_fusion.frame import RgbdFrame
from edge_fusion.runtime.ledger import FrameRecord
from edge_fusion.runtime.sink.video import OverlayVideo
from edge_fusion.spec import DepthSpec

resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
record = FrameRecord(0, "f0", *(0.0,) * 7, 0, 0.0, 1, 0)
rng = np.random.default_rng(0)
sink = OverlayVideo(Path(sys.argv[1]), 30.0)
for number in range(60):
    rgb = rng.integers(0, 256, (240, 320, 3), np.uint8)
    depth = np.full((240, 320), 800, np.uint16)
    frame = RgbdFrame(rgb, depth, DepthSpec(scale_to_m=0.001), f"f{number}", number)
    sink.write(frame, np.zeros((240, 320), np.float32), record)
try:
    sink.close()
except OutputError as err:
    print(err)
"""


@pytest.mark.parametrize("suffix", sorted(CODECS))
def test_a_video_cut_short_by_the_system_is_found_out_and_removed(
    tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"out{suffix}"
    path.write_bytes(b"older")
    done = subprocess.run(
        [sys.executable, "-c", LIMITED_SCRIPT, str(path)],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert "came out damaged and was removed: expected 60 pictures" in done.stdout
    assert names(tmp_path) == [path.name]
    assert path.read_bytes() == b"older"
