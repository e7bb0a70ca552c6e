"""RTSP cameras against a real server: GStreamer's, as Debian has it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest

from edge_fusion.errors import SourceError
from edge_fusion.runtime.source.camera_uri import open_cameras
from edge_fusion.runtime.source.cameras import CameraSource

SERVER = Path(__file__).parents[2] / "fakes" / "rtsp_server.py"
PYTHON = "/usr/bin/python3"
RELATIVE = {"unit": "relative", "larger_is": "nearer"}
NEEDED = (
    "needs apt-get install python3-gi gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-base "
    "gstreamer1.0-plugins-good"
)
PROBE = """
import gi
gi.require_version("GstRtspServer", "1.0")
from gi.repository import Gst
Gst.init(None)
assert all(Gst.ElementFactory.find(name) for name in ("videotestsrc", "jpegenc", "rtpjpegpay"))
"""


class Server:
    """A server in a process of its own."""

    def __init__(self, port: int, *account: str) -> None:
        command = [PYTHON, str(SERVER), str(port), *account]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        answer = self.process.stdout.readline().split()
        assert answer[1:] == ["ready"], answer
        self.port = int(answer[0])

    def stop(self) -> None:
        with suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture(scope="module")
def gstreamer() -> None:
    probe = (
        subprocess.run([PYTHON, "-c", PROBE], capture_output=True, check=False)
        if (Path(PYTHON).exists())
        else None
    )
    if probe is None or probe.returncode:
        pytest.skip(NEEDED)


@pytest.fixture
def serve(gstreamer: None) -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(*account: str, port: int = 0) -> Server:
        servers.append(Server(port, *account))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


Serve = Callable[..., Server]


def connect(
    port: int, color: str = "color", depth: str = "depth", account: str = "", timeout: float = 3.0
) -> CameraSource:
    host = f"{account}127.0.0.1:{port}"
    query = {"depth": f"rtsp://{host}/{depth}", "timeout": timeout, **RELATIVE}
    return open_cameras("rtsp", f"{host}/{color}", query)


def test_pairs_from_a_server(serve: Serve) -> None:
    source = connect(serve().port)
    began = time.monotonic()
    frames = []
    for frame in source.frames():
        frames.append(frame)
        if len(frames) == 20:
            break
    lasted = time.monotonic() - began
    assert 0.2 < lasted < 6  # at the cameras' pace
    assert [frame.number for frame in frames] == sorted({frame.number for frame in frames})
    steps = np.diff([frame.timestamp_ns for frame in frames])
    assert np.median(steps) == pytest.approx(33.3e6, rel=0.1)
    last = frames[-1]
    assert last.rgb.shape == (120, 160, 3)
    # smpte bars: grey, yellow, cyan, green, magenta, red, blue
    colours = last.rgb[40, [34, 103, 126, 148]].astype(int)  # yellow, magenta, red, blue
    assert (colours[:, 0] > 100).tolist() == [True, True, True, False]
    assert (colours[:, 1] > 100).tolist() == [True, False, False, False]
    assert (colours[:, 2] > 100).tolist() == [False, True, False, True]
    assert last.depth.dtype == np.uint8
    assert np.all(np.diff(last.depth[::20, 80].astype(int)) != 0)
    assert source.counts["pairs"] >= 20
    assert source.counts["colour without depth"] + source.counts["depth without colour"] <= 4


@pytest.mark.slow
@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGSTOP], ids=["dies", "freezes"])
def test_a_server_that_is_lost(serve: Serve, kill: signal.Signals) -> None:
    server = serve()
    source = connect(server.port, timeout=1.5)
    arrivals = source.arrivals()
    assert next(pair for pair in arrivals if pair is not None)
    server.process.send_signal(kill)
    began, longest, last = time.monotonic(), 0.0, time.monotonic()
    with pytest.raises(SourceError, match="was lost|went silent"):
        for _ in arrivals:
            longest, last = max(longest, time.monotonic() - last), time.monotonic()
    assert time.monotonic() - began < 1.5 + 2
    assert longest < 0.5
    server.stop()
    again = connect(serve(port=server.port).port)  # the same address once more
    assert next(iter(again.frames())).rgb.shape == (120, 160, 3)


@pytest.mark.parametrize("password", ["plain", "p@ss/w:rd?#%&=1"])
def test_credentials_open_the_door_and_are_shown_nowhere(
    serve: Serve, password: str, capfd: pytest.CaptureFixture[str]
) -> None:
    server = serve("viewer", password)
    encoded = quote(password, safe="")
    source = connect(server.port, account=f"viewer:{encoded}@")
    assert next(iter(source.frames())).rgb.shape == (120, 160, 3)
    assert source.uri.startswith(f"rtsp://***@127.0.0.1:{server.port}/color")
    assert "depth=rtsp://***@127.0.0.1" in source.uri
    for wrong in ("viewer:hunter2@", f"nobody:{encoded}@", ""):
        with pytest.raises(SourceError, match="cannot open (colour|depth) of") as caught:
            connect(server.port, account=wrong)
        assert "wrong credentials" in str(caught.value)
        assert encoded not in str(caught.value)
        assert "hunter2" not in str(caught.value)
    shown = "".join(capfd.readouterr())
    assert password not in shown
    assert encoded not in shown
    assert "hunter2" not in shown


@pytest.mark.parametrize(
    ("color", "depth", "message"),
    [
        ("color", "nothing", "cannot open depth of 'rtsp://127.0.0.1:[0-9]+/nothing'"),
        ("nothing", "depth", "cannot open colour of"),
        ("depth", "color", "are the two streams swapped"),
        ("small", "depth", "expected 80x120 pixels, got 160x120"),
    ],
)
def test_streams_that_cannot_work(serve: Serve, color: str, depth: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        connect(serve().port, color, depth)


def test_no_server_at_all() -> None:
    began = time.monotonic()
    with pytest.raises(SourceError, match="expected a video within 1 s") as caught:
        connect(1, account="me:hunter2@", timeout=1.0)
    assert time.monotonic() - began < 3
    assert "hunter2" not in str(caught.value)


def test_a_server_that_never_answers(serve: Serve) -> None:
    server = serve()
    server.process.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(SourceError, match="cannot open (colour|depth)|went silent"):
        connect(server.port, timeout=1.0)
    assert time.monotonic() - began < 3


def test_the_command_shows_no_credentials(serve: Serve) -> None:
    server = serve("viewer", "hunter2")
    host = f"viewer:hunter2@127.0.0.1:{server.port}"
    uri = f"rtsp://{host}/color?depth=rtsp://{host}/nothing&unit=relative&larger_is=nearer"
    code = f"from edge_fusion.runtime.source.uri import open_source; open_source({uri!r})"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    said = ran.stderr.replace(code, "")
    assert "cannot open depth of 'rtsp://***@127.0.0.1" in said
    assert "hunter2" not in said
