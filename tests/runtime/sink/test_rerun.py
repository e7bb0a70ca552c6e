from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_fusion.errors import OutputError

pytest.importorskip("rerun", reason="rerun-sdk is not installed")

import rerun_cli

from edge_fusion.runtime.sink.rerun import open_rerun

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


def test_results_beyond_the_rate_are_left_out(
    tmp_path: Path, result: MakeResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = open_rerun(f"rerun://{tmp_path / 'out.rrd'}")
    logged: list[str] = []
    monkeypatch.setattr(sink, "_log", lambda frame, *_: logged.append(frame.id))
    for number in range(20):
        sink.write(*result(number))
    sink.close()
    assert logged == ["f0"]


def test_an_existing_recording_is_refused_and_untouched(tmp_path: Path) -> None:
    path = tmp_path / "out.rrd"
    path.write_bytes(b"precious")
    with pytest.raises(OutputError, match="exists; name another file, or remove"):
        open_rerun(f"rerun://{path}")
    assert path.read_bytes() == b"precious"


REFUSED = [
    ("rerun://none/out.rrd", "cannot write the recording .*create its folder"),
    ("rerun://?rate=0", "results per second: expected above 0"),
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
