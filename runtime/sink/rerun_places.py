"""Where results for Rerun go: a file, or a server that viewers connect to.

The SDK's own server listens on every network of the machine and asks nobody who they are, and it
says nothing where the port is taken.  So the program that comes with the SDK serves, in a process
of its own, on the address that was asked for: this machine alone unless another is named.

On a full disk the SDK's writer of files dies, and whoever flushes it then waits for ever, be it the
SDK at the end of the process.  So a recording stops while there is room to finish it, and one whose
room somebody else has taken meanwhile is not flushed at all.
"""

from __future__ import annotations

import atexit
import shutil
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import rerun as rr
import rerun_cli
from rerun import blueprint as rrb

from edge_fusion.errors import OutputError
from edge_fusion.files import partial_name

from .destination import bracketed
from .room import check_room

_UP_WITHIN_S = 5.0
_FLUSH_WITHIN_S = 0.3  # of a server whose viewer is slow; a file is flushed to the end

#: Kept free to finish a recording.  The SDK writes later than it is told to: a part of this is what
#: it may hold back.
RESERVE_BYTES = 64 * 2**20
_INDEX_SHARE = 100  # the index that ends a file takes less than a hundredth of it
_WRITTEN_WITHIN_S = 5.0

#: Recordings that were not flushed; freeing one would flush it.
_ABANDONED: list[rr.RecordingStream] = []


class Place(Protocol):
    """Where a recording goes."""

    live: bool

    def check(self, logged: int) -> None:
        """Raise an OutputError where not one more result can be taken."""
        ...

    def took(self, size_bytes: int) -> None:
        """Note that a result of so many bytes at most was logged."""
        ...

    def finish(self, logged: int) -> None:
        """Write what is under way and close; ``logged`` is how many results there were."""
        ...


class RecordingFile:
    """A hidden file that takes its name when it is finished."""

    live = False

    def __init__(self, recording: rr.RecordingStream, path: Path) -> None:
        if path.exists():
            raise OutputError(
                f"the recording '{path}' exists",
                cure="name another file, or remove this one yourself",
            )
        self._recording, self._path = recording, path
        self._partial = partial_name(path)
        self._held_bytes = 0  # at most: logged and perhaps not written
        self._stuck = False
        try:
            # The SDK would tell of a missing folder in its log alone.
            self._partial.write_bytes(b"")
            self.check(0)
            recording.save(self._partial, default_blueprint=_blueprint())
        except OutputError:
            self._partial.unlink(missing_ok=True)
            raise
        except (OSError, RuntimeError, ValueError) as err:
            self._partial.unlink(missing_ok=True)
            raise OutputError(
                f"cannot write the recording '{path}'",
                got=str(err),
                cure="create its folder, or choose one you may write to",
            ) from err

    def check(self, logged: int) -> None:
        """Stop in time: see the top of this file."""
        results = f"{logged} results"
        reserve = RESERVE_BYTES + self._index_bytes()
        check_room(f"the recording '{self._path}'", self._partial, reserve, results)

    def took(self, size_bytes: int) -> None:
        """Have it written before it is more than there is room for."""
        self._held_bytes += size_bytes
        if self._held_bytes > RESERVE_BYTES // 4:
            self._stuck = True  # unless it comes back
            self._recording.flush(timeout_sec=_WRITTEN_WITHIN_S)
            self._held_bytes, self._stuck = 0, False

    def finish(self, logged: int) -> None:
        """Give the file its name; without results leave nothing.

        Raises:
            OutputError: It could not be finished.
        """
        try:
            needed = RESERVE_BYTES // 2 + self._index_bytes()
            room = shutil.disk_usage(self._partial.parent).free >= needed
            flushed = room and not self._stuck
            if flushed:
                self._recording.disconnect()  # writes all that is under way
            else:
                _abandon(self._recording)
            if not logged:
                self._partial.unlink()
                return
            self._partial.replace(self._path)
        except OSError as err:
            raise OutputError(f"cannot finish the recording '{self._path}'", got=str(err)) from err
        if not flushed:
            raise OutputError(
                f"the recording '{self._path}' may lack its end",
                got="a disk that is full, or too slow",
                cure="free some space, or write to another disk",
            )

    def _index_bytes(self) -> int:
        return self._partial.stat().st_size // _INDEX_SHARE


def _abandon(recording: rr.RecordingStream) -> None:
    """Never flush it, not even where the process ends."""
    _ABANDONED.append(recording)
    atexit.unregister(rr.rerun_shutdown)


class ViewerServer:
    """The program that serves viewers, in a process of its own, and the connection to it."""

    live = True

    def __init__(self, recording: rr.RecordingStream, host: str, port: int, memory: str) -> None:
        _check_free(host, port)
        self._recording = recording
        self._process = _start(host, port, memory)
        try:
            reached = reachable(host)
            _await(self._process, reached, port)
            url = f"rerun+http://{bracketed(reached)}:{port}/proxy"
            recording.connect_grpc(url, default_blueprint=_blueprint())
        except BaseException:
            _end(self._process)
            raise

    def check(self, logged: int) -> None:
        """It takes any number: what is beyond its memory, it forgets."""

    def took(self, size_bytes: int) -> None:
        """It says by itself when it is full: logging waits."""

    def finish(self, logged: int) -> None:
        """End the server, whatever its viewers do."""
        # A viewer that does not read would hold the recording for ever: then the server goes first.
        with suppress(Exception):
            self._recording.flush(timeout_sec=_FLUSH_WITHIN_S)
            self._recording.disconnect()
        _end(self._process)
        self._recording.disconnect()


def _start(host: str, port: int, memory: str) -> subprocess.Popen[bytes]:
    program = Path(rerun_cli.__file__).with_name("rerun")
    bind = ["--bind", host, "--port", str(port), "--server-memory-limit", memory]
    try:
        # A session of its own: Ctrl-C is for the stream, which then ends the server in order.
        return subprocess.Popen(
            [str(program), "--serve-grpc", *bind],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as err:
        raise OutputError(f"cannot start Rerun's server '{program}'", got=str(err)) from err


def _check_free(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as err:
            raise OutputError(
                f"Rerun's server cannot listen on port {port} of '{host}'",
                got=err.strerror or str(err),
                cure="end the program that has it, or name another address: rerun://:9877",
            ) from err


def _await(server: subprocess.Popen[bytes], host: str, port: int) -> None:
    deadline_s = time.monotonic() + _UP_WITHIN_S
    while server.poll() is None and time.monotonic() < deadline_s:
        with suppress(OSError), socket.create_connection((host, port), 0.5):
            return
        time.sleep(0.02)
    ended = server.poll() is not None
    said = server.stderr.read().decode(errors="replace") if ended and server.stderr else ""
    raise OutputError(
        "Rerun's server did not start",
        got=said.strip().rpartition("\n")[2] or f"nothing within {_UP_WITHIN_S:g} s",
        cure="save to a file instead: rerun://out.rrd",
    )


def _end(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(0.2)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
    if server.stderr:
        server.stderr.close()


def _blueprint() -> Any:
    """Pictures on the left, figures over time on the right."""
    colour = rrb.Spatial2DView(
        origin="camera", contents=["camera/colour", "camera/salient"], name="Salient region"
    )
    depth = rrb.Spatial2DView(origin="camera", contents=["camera/depth"], name="Depth")
    latency = rrb.TimeSeriesView(origin="figures/latency_ms", name="Latency, ms")
    stages = rrb.TimeSeriesView(origin="figures/stages_ms", name="Stages, ms")
    rows = rrb.Vertical(depth, latency, stages)
    return rrb.Blueprint(rrb.Horizontal(colour, rows, column_shares=[3, 2]), collapse_panels=True)


def reachable(host: str) -> str:
    """Where this machine itself reaches what listens on ``host``."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
