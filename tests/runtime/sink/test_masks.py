from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edge_fusion.errors import OutputError
from edge_fusion.frame import RgbdFrame
from edge_fusion.metrics import score
from edge_fusion.runtime.sink.masks import MaskFolder, safe_stem

MakeResult = Callable[..., tuple[RgbdFrame, NDArray[np.float32]]]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_writes_eight_bit_masks_under_the_frames_ids(tmp_path: Path, result: MakeResult) -> None:
    sink = MaskFolder(tmp_path / "new" / "masks")
    frame, saliency, record = result(3)
    saliency[0, :4] = (0.5, 0.25, 0.999, 1 / 255)
    sink.write(frame, saliency, record)
    sink.close()
    assert names(tmp_path / "new" / "masks") == ["f3.png"]
    mask = cv2.imread(str(tmp_path / "new" / "masks" / "f3.png"), cv2.IMREAD_UNCHANGED)
    assert mask is not None
    assert mask.dtype == np.uint8
    assert mask.shape == (48, 64)
    np.testing.assert_array_equal(mask, np.floor(saliency * 255))


def test_scoring_the_files_gives_the_figures_of_the_maps(
    tmp_path: Path, result: MakeResult
) -> None:
    sink = MaskFolder(tmp_path)
    frame, saliency, record = result()
    truth = saliency > 0
    rng = np.random.default_rng(0)
    saliency[:] = np.clip(saliency * 0.6 + rng.random(saliency.shape, np.float32) * 0.4, 0, 1)
    saliency[0, 0] = 1
    sink.write(frame, saliency, record)
    read = cv2.imread(str(tmp_path / "f0.png"), cv2.IMREAD_UNCHANGED)
    assert read is not None
    again = score(read.astype(np.float32) / 255, truth)
    assert again.as_dict() == score(saliency, truth).as_dict()


STEMS = [
    ("0001", "0001"),
    ("left.v2_0001-a", "left.v2_0001-a"),
    ("scene 1/0001", "scene_1_0001"),
    ("../../etc/passwd", "etc_passwd"),
    ("/etc/passwd", "etc_passwd"),
    ("..", "frame"),
    ("", "frame"),
    (".hidden", "hidden"),
    ("a\x00b\nc\\d:e", "a_b_c_d_e"),
    ("\u677e\u672c", "\u677e\u672c"),
    ("x" * 999, "x" * 120),
]


@pytest.mark.parametrize(("frame_id", "stem"), STEMS)
def test_a_name_stays_inside_the_folder(frame_id: str, stem: str) -> None:
    assert safe_stem(frame_id) == stem


@pytest.mark.parametrize("frame_id", ["../../escaped", "/tmp/escaped", "a/b/c"])
def test_nothing_is_written_outside(tmp_path: Path, result: MakeResult, frame_id: str) -> None:
    sink = MaskFolder(tmp_path / "masks")
    sink.write(*result(frame_id=frame_id))
    assert names(tmp_path) == ["masks"]
    assert len(names(tmp_path / "masks")) == 1


def test_equal_names_do_not_overwrite_each_other(tmp_path: Path, result: MakeResult) -> None:
    sink = MaskFolder(tmp_path)
    for number, frame_id in enumerate(["a/1", "a_1", "a:1"]):
        sink.write(*result(number, frame_id=frame_id))
    assert names(tmp_path) == ["a_1.png", "a_1_1.png", "a_1_2.png"]


def test_a_folder_with_content_is_refused_and_untouched(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"precious")
    with pytest.raises(OutputError, match=r"is not empty: .*'holiday.jpg' in it; name another"):
        MaskFolder(tmp_path)
    assert names(tmp_path) == ["holiday.jpg"]


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "masks").write_bytes(b"")
    with pytest.raises(OutputError, match="cannot use .*masks' as a folder of masks"):
        MaskFolder(tmp_path / "masks")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="no permission"):
        MaskFolder(tmp_path)


def test_a_full_disk_is_told_and_leaves_no_half_mask(
    tmp_path: Path, result: MakeResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = MaskFolder(tmp_path)
    sink.write(*result(0))

    def half(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(OutputError, match="No space left on device; is the disk full"):
        sink.write(*result(1))
    assert names(tmp_path) == ["f0.png"]


def test_without_a_mask_no_folder_is_left(tmp_path: Path) -> None:
    MaskFolder(tmp_path / "new").close()
    (tmp_path / "kept").mkdir()
    MaskFolder(tmp_path / "kept").close()  # somebody else made it
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
