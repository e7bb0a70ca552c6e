from __future__ import annotations

import os
from pathlib import Path

import pytest

from edge_fusion.errors import SourceError
from edge_fusion.runtime.source.place import is_there, local_path
from edge_fusion.runtime.source.uri import files_of, open_source

NO_FILE = "x" * 300  # file systems stop at 255


def test_a_home_is_put_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "set").mkdir()
    assert local_path("~/set") == tmp_path / "set"
    assert is_there("~/set")
    assert not is_there("~/other")


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("~nobody-of-that-name/set", "begins with a home that does not exist"),
        (NO_FILE, "cannot look for 'x+': got File name too long"),
    ],
)
def test_what_can_be_no_place(written: str, message: str) -> None:
    assert not is_there(written)
    with pytest.raises(SourceError, match=message):
        local_path(written)


@pytest.mark.parametrize("path", [NO_FILE, "~nobody-of-that-name/x"])
@pytest.mark.parametrize(
    "uri",
    [
        "{}",
        "folder://{}",
        "rosbag://{}.mcap",
        "realsense://{}.bag",
        "video://{}.mp4?depth=d.mkv&unit=mm",
    ],
)
def test_every_source_says_so(uri: str, path: str) -> None:
    if uri.startswith("rosbag"):
        pytest.importorskip("mcap")
        pytest.importorskip("rosbags")
    with pytest.raises(SourceError, match="cannot look for|a home that does not exist"):
        open_source(uri.format(path))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may look everywhere")
def test_a_folder_of_somebody_else(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0)
    with pytest.raises(SourceError, match="Permission denied"):
        local_path(tmp_path / "closed" / "set")


def test_files_below_a_home_are_known_as_played(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("a.mcap", "c.mp4", "d.mkv"):
        (tmp_path / name).write_bytes(b"")
    assert files_of("rosbag://~/a.mcap") == (tmp_path / "a.mcap",)
    assert files_of("video://~/c.mp4?depth=~/d.mkv") == (tmp_path / "c.mp4", tmp_path / "d.mkv")


def test_an_address_is_no_file_however_long_its_token() -> None:
    token = "s3cret" * 60
    assert files_of(f"rtsp://me:{token}@camera/1?depth=rtsp://camera/{token}&unit=mm") == ()
