from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edge_fusion.errors import OutputError
from edge_fusion.files import (
    natural_key,
    partial_directory,
    partial_name,
    partial_path,
    sha256,
    sha256_file,
    write_bytes,
    writing,
)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    write_bytes(target, b"old")
    with pytest.raises(ValueError, match="boom"), partial_path(target) as partial:
        partial.write_text("half")
        raise ValueError("boom")
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_failed_folder_leaves_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    with partial_directory(target) as partial:
        (partial / "a").write_text("old")
    with pytest.raises(KeyboardInterrupt), partial_directory(target) as partial:
        (partial / "a").write_text("half")
        raise KeyboardInterrupt
    assert (target / "a").read_text() == "old"
    with partial_directory(target) as partial:
        (partial / "b").write_text("new")
    assert [path.name for path in target.iterdir()] == ["b"]
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_named_with_its_cure() -> None:
    full = Path("/dev/full")
    with (
        pytest.raises(OutputError, match="cannot write the result /dev/full.*disk is full: free"),
        writing("the result", full),
        full.open("wb", buffering=0) as file,
    ):
        file.write(b"x")


def test_a_file_beyond_the_limit_leaves_nothing(tmp_path: Path) -> None:
    # RLIMIT_FSIZE is the full disk that needs no privileges
    script = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from edge_fusion.files import write_bytes; from edge_fusion.errors import OutputError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try:\n    write_bytes(Path(sys.argv[1]), bytes(100_000))\n"
        "except OutputError as err:\n    print(err)\n"
    )
    target = tmp_path / "big.bin"
    done = subprocess.run(
        [sys.executable, "-c", script, str(target)], capture_output=True, text=True, check=True
    )
    assert "ulimit -f" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_place_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="cannot write the file"):
        write_bytes(tmp_path / "file" / "a.txt", b"x")


def test_hashes_agree(tmp_path: Path) -> None:
    data = os.urandom(3 << 20)
    (tmp_path / "a").write_bytes(data)
    assert sha256(data) == sha256_file(tmp_path / "a")


def test_two_processes_grow_one_file_in_two_places(monkeypatch: pytest.MonkeyPatch) -> None:
    names = set()
    for process in (11, 12):
        monkeypatch.setattr(os, "getpid", lambda process=process: process)
        names.add(partial_name(Path("folder/out.mp4")))
    assert len(names) == 2
    assert {(name.parent, name.name[0], name.suffix) for name in names} == {
        (Path("folder"), ".", ".mp4")
    }


NATURAL = [
    ["a1", "a2", "a10", "b1"],
    ["2", "10", "a"],  # a name may begin with its number
    ["a", "a1", "aa"],
    ["layers.2.weight", "layers.10.weight", "layers.norm"],
    ["x\N{SUPERSCRIPT TWO}", "x\N{SUPERSCRIPT THREE}"],  # digits that int() refuses
]


@pytest.mark.parametrize("names", NATURAL)
def test_numbers_in_names_count_as_numbers(names: list[str]) -> None:
    shuffled = [names[-1], *names[:-1]]
    assert sorted(shuffled, key=natural_key) == names


def test_a_link_keeps_pointing_at_what_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "real.json").write_text("old")
    (tmp_path / "link.json").symlink_to("real.json")
    write_bytes(tmp_path / "link.json", b"new")
    assert (tmp_path / "real.json").read_text() == "new"
    (tmp_path / "folder").mkdir()
    (tmp_path / "to-folder").symlink_to("folder")
    with partial_directory(tmp_path / "to-folder") as partial:
        (partial / "a").write_text("new")
    assert (tmp_path / "folder" / "a").read_text() == "new"
    assert {p.name for p in tmp_path.iterdir() if p.is_symlink()} == {"link.json", "to-folder"}
    assert len(list(tmp_path.iterdir())) == 4


def test_devices_and_pipes_are_written_into_and_never_replaced(tmp_path: Path) -> None:
    write_bytes(Path("/dev/null"), b"gone")
    assert Path("/dev/null").is_char_device()
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_bytes(pipe, b"through")
    assert os.read(reader, 99) == b"through"
    os.close(reader)
    assert pipe.is_fifo()
    with pytest.raises(OutputError, match="no plain file"):
        write_bytes(tmp_path, b"x")
