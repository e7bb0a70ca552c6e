from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_fusion.errors import OutputError

pytest.importorskip("rerun", reason="rerun-sdk is not installed")

import rerun_cli

from edge_fusion.runtime.sink.beside import Beside
from edge_fusion.runtime.sink.open import open_sink
from edge_fusion.runtime.sink.rerun import RerunSink, open_rerun

MakeResult = Callable[..., Any]


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def entities(path: Path) -> set[str]:
    """The entities of a recording, as the program that comes with the SDK reads it back."""
    program = Path(rerun_cli.__file__).with_name("rerun")
    listed = subprocess.run(
        [str(program), "rrd", "print", str(path)], capture_output=True, text=True, check=True
    )
    return set(re.findall(r"/(?:camera|figures)[\w/]*", listed.stdout))


def test_a_recording_holds_pictures_and_figures(tmp_path: Path, result: MakeResult) -> None:
    path = tmp_path / "out.rrd"
    sink = open_rerun(f"rerun://{path}?rate=1000")
    for number in range(3):
        sink.write(*result(number))
    assert not path.exists()  # it takes its name when it is whole
    sink.close()
    sink.close()
    assert [one.name for one in tmp_path.iterdir()] == ["out.rrd"]
    assert entities(path) >= {
        *("/camera/colour", "/camera/depth", "/camera/salient"),
        *("/figures/latency_ms", "/figures/fps", "/figures/dropped"),
        *("/figures/salient_share", "/figures/stages_ms/infer"),
    }


@pytest.mark.parametrize(("query", "logged"), [("", 20), ("?rate=0.01", 1)])
def test_a_recording_holds_every_result_unless_it_is_to_leave_some_out(
    tmp_path: Path, result: MakeResult, monkeypatch: pytest.MonkeyPatch, query: str, logged: int
) -> None:
    sink = open_sink(f"rerun://{tmp_path / 'out.rrd'}{query}")
    assert isinstance(sink, RerunSink)  # fed by the stream itself
    taken: list[str] = []
    monkeypatch.setattr(sink, "_log", lambda frame, *_: taken.append(frame.id))
    for number in range(20):
        sink.write(*result(number))
    sink.close()
    assert len(taken) == logged


def test_viewers_get_the_newest_beside_the_stream(free_port: int) -> None:
    sink = open_sink(f"rerun://:{free_port}")
    assert isinstance(sink, Beside)
    sink.close()


def test_a_run_that_failed_leaves_no_empty_recording(tmp_path: Path) -> None:
    for _ in range(2):  # the second would be refused
        open_sink(f"rerun://{tmp_path / 'out.rrd'}").close()
    assert list(tmp_path.iterdir()) == []


FULL_DISK_SCRIPT = """
import sys
from pathlib import Path
import numpy as np
from edge_fusion.errors import OutputError
from edge_fusion.frame import RgbdFrame
from edge_fusion.runtime.ledger import FrameRecord
from edge_fusion.runtime.sink import rerun, rerun_places
from edge_fusion.spec import DepthSpec

disk, filled_by_another = Path(sys.argv[1]), sys.argv[2] == "another"
rerun_places.RESERVE_BYTES = 16 * 2**20
record = FrameRecord(0, "f0", *(0.0,) * 7, 0, 0.0, 1, 0)
rng = np.random.default_rng(0)
sink = rerun.open_rerun(f"rerun://{disk}/out.rrd")
try:
    for number in range(3 if filled_by_another else 10_000):
        rgb = rng.integers(0, 256, (480, 640, 3), np.uint8)
        depth = rng.integers(1, 9000, (480, 640), np.uint16)
        frame = RgbdFrame(rgb, depth, DepthSpec(scale_to_m=0.001), f"f{number}", number)
        sink.write(frame, np.zeros((480, 640), np.float32), record)
except OutputError as err:
    print(err)
if filled_by_another:
    try:
        with (disk / "other").open("wb", buffering=0) as other:
            while other.write(bytes(2**16)):
                pass
    except OSError:
        pass
try:
    sink.close()
except OutputError as err:
    print(err)
print("ended", number)
"""

FULL = [
    ("itself", "no room left for the recording .*: expected 16 MiB free to finish it"),
    ("another", "may lack its end: got a disk that is full, or too slow"),
]


@pytest.mark.parametrize(("who", "message"), FULL)
def test_a_full_disk_ends_the_recording_and_not_the_patience(
    disk_of: Callable[[int], Path], who: str, message: str
) -> None:
    disk = disk_of(40)
    command = [sys.executable, "-c", FULL_DISK_SCRIPT, str(disk), who]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(message, done.stdout)
    assert "ended" in done.stdout
    assert {one.name for one in disk.iterdir()} - {"other"} == {"out.rrd"}
    if who == "itself":
        assert "/camera/colour" in entities(disk / "out.rrd")


def test_an_existing_recording_is_refused_and_untouched(tmp_path: Path) -> None:
    path = tmp_path / "out.rrd"
    path.write_bytes(b"precious")
    with pytest.raises(OutputError, match="exists; name another file, or remove"):
        open_rerun(f"rerun://{path}")
    assert path.read_bytes() == b"precious"


REFUSED = [
    ("rerun://none/out.rrd", "cannot write the recording .*create its folder"),
    ("rerun://?rate=0", "results per second: expected above 0"),
    ("rerun://x.rrd?memory=1GiB", "memory; a file keeps all: leave it out"),
    ("rerun://?memory=", "memory: expected SIZE"),
    ("rerun://a/b", "is no address to listen on: expected rerun://FILE.rrd or"),
]


@pytest.mark.parametrize(("destination", "message"), REFUSED)
def test_a_mistake_is_told(destination: str, message: str) -> None:
    with pytest.raises(OutputError, match=message):
        open_rerun(destination)


def test_a_server_serves_this_machine_alone_and_goes(free_port: int, result: MakeResult) -> None:
    said: list[str] = []
    sink = open_rerun(f"rerun://:{free_port}", note=said.append)
    try:
        sink.write(*result(0))
        assert f"'rerun rerun+http://127.0.0.1:{free_port}/proxy'" in said[0]
        assert "ssh -L" in said[0]
        listening = Path("/proc/net/tcp").read_text() if Path("/proc/net/tcp").exists() else ""
        assert f" 00000000:{free_port:04X} " not in listening
        with pytest.raises(OutputError, match=f"listen on port {free_port}.*end the program"):
            open_rerun(f"rerun://:{free_port}")
    finally:
        sink.close()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", free_port)) != 0
