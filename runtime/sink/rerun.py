"""Results for the Rerun viewer: into a recording, or to whoever connects.

The SDK's own server listens on every network of the machine and asks nobody who they are, and it
says nothing where the port is taken.  So the program that comes with the SDK serves, in a process
of its own, on the address that was asked for: this machine alone unless another is named.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import rerun as rr
import rerun_cli
from numpy.typing import NDArray
from rerun import blueprint as rrb

from edge_fusion.errors import OutputError
from edge_fusion.files import partial_name
from edge_fusion.frame import RgbdFrame

from ..ledger import STAGES, FrameRecord
from ..source.keys import Key, filled
from .destination import read_address, read_destination
from .pace import Pace

APPLICATION = "edge-fusion"
FORM = "rerun://FILE.rrd or rerun://[HOST][:PORT]"

_LOCAL_HOST, _PORT = "127.0.0.1", 9876
_RATE_HZ = 10.0
_MEMORY = "256MiB"
_JPEG_QUALITY = 80
_UP_WITHIN_S = 5.0
_FLUSH_WITHIN_S = 0.3  # of a server whose viewer is slow; a file is flushed to the end
_SALIENT = 0.5

#: What may stand behind the question mark.
KEYS: dict[str, Key] = {
    "rate": Key(float, "HZ", "results per second at most (default 10)"),
    "memory": Key(filled, "SIZE", "what is kept for viewers that come late (default 256MiB)"),
}


class RerunSink:
    """Logs colour, depth, the salient region and the figures of a stream.

    Colour is logged as JPEG and depth as it is, in its unit.  Logging waits where a viewer is too
    slow for what it gets: feed it from a thread of its own (:class:`.beside.Beside`).

    Args:
        destination: As the user wrote it, for messages.
        recording: Where to log, connected already.
        pace: Which results are logged; the others are left out.
        finish: Called at the end; closes what the recording was connected to.
    """

    def __init__(
        self,
        destination: str,
        recording: rr.RecordingStream,
        pace: Pace,
        finish: Callable[[], None],
    ) -> None:
        self._destination, self._recording = destination, recording
        self._finish: Callable[[], None] | None = finish
        self._pace = pace
        salient = rr.AnnotationInfo(id=1, label="salient", color=(60, 220, 120, 150))
        clear = rr.AnnotationInfo(id=0, color=(0, 0, 0, 0))
        recording.log("camera", rr.AnnotationContext([clear, salient]), static=True)

    @property
    def destination(self) -> str:
        """Where it goes, as the user wrote it."""
        return self._destination

    def write(self, frame: RgbdFrame, saliency: NDArray[np.float32], record: FrameRecord) -> None:
        """Log one result, unless the one before was logged too shortly ago.

        Raises:
            OutputError: The SDK refused it.
        """
        if not self._pace.due():
            return
        try:
            self._log(frame, saliency, record)
        except Exception as err:  # the SDK names no error of its own
            raise OutputError(
                f"cannot log frame '{frame.id}' to '{self._destination}'", got=str(err)
            ) from err

    def close(self) -> None:
        """Write what is under way, and end the recording or the server."""
        finish, self._finish = self._finish, None
        if finish is not None:
            finish()

    def _log(self, frame: RgbdFrame, saliency: NDArray[np.float32], record: FrameRecord) -> None:
        log = self._recording.log
        self._recording.set_time("frame", sequence=frame.number)
        self._recording.set_time("logged", timestamp=time.time())
        if frame.timestamp_ns:
            device = np.timedelta64(frame.timestamp_ns, "ns")
            self._recording.set_time("device", duration=device)
        if frame.intrinsics is not None:
            log("camera", _pinhole(frame))
        log("camera/colour", rr.Image(frame.rgb).compress(jpeg_quality=_JPEG_QUALITY))
        log("camera/depth", _depth_image(frame))
        region = (saliency >= _SALIENT).view(np.uint8)
        log("camera/salient", rr.SegmentationImage(region))
        share = cv2.countNonZero(region) / region.size
        log("figures/salient_share", rr.Scalars([share]))
        log("figures/latency_ms", rr.Scalars([record.latency_ms]))
        log("figures/fps", rr.Scalars([record.fps]))
        log("figures/dropped", rr.Scalars([float(record.dropped)]))
        for stage in STAGES[:-1]:  # the last is this very writing
            log(f"figures/stages_ms/{stage}", rr.Scalars([getattr(record, f"{stage}_ms")]))


def open_rerun(destination: str, *, note: Callable[[str], None] | None = None) -> RerunSink:
    """Open a recording, or a server that viewers connect to.

    Args:
        destination: ``rerun://FILE.rrd`` or ``rerun://[HOST][:PORT]``, and of :data:`KEYS` what is
            wanted.  Without a host only this machine can connect.  There is no password: name
            another host only on a network where everybody may look.
        note: Takes the line that tells how to look; standard error by default.

    Raises:
        OutputError: The destination is not of that form, the rate not above 0, the file exists or
            cannot be written, the port is taken, or the server does not start.
    """
    place, values = read_destination(destination, "rerun", KEYS)
    pace = Pace(values.get("rate", _RATE_HZ))
    # An id of its own: the SDK's default would put two runs of one process into one recording.
    recording = rr.RecordingStream(APPLICATION, recording_id=uuid.uuid4())
    if place.endswith(".rrd"):
        finish = _save(recording, Path(place))
    else:
        host, port = read_address(place, _LOCAL_HOST, _PORT, FORM)
        finish = _serve(recording, host, port or _PORT, values.get("memory", _MEMORY))
        (note or _on_standard_error)(_how_to_look(host, port or _PORT))
    try:
        return RerunSink(destination, recording, pace, finish)
    except BaseException:
        finish()
        raise


def _save(recording: rr.RecordingStream, path: Path) -> Callable[[], None]:
    """Log into a hidden file that takes its name when it is finished."""
    if path.exists():
        raise OutputError(
            f"the recording '{path}' exists", cure="name another file, or remove this one yourself"
        )
    partial = partial_name(path)
    try:
        partial.write_bytes(b"")  # the SDK would tell of a missing folder in its log alone
        recording.save(partial, default_blueprint=_blueprint())
    except (OSError, RuntimeError, ValueError) as err:
        partial.unlink(missing_ok=True)
        raise OutputError(
            f"cannot write the recording '{path}'",
            got=str(err),
            cure="create its folder, or choose one you may write to",
        ) from err

    def finish() -> None:
        recording.disconnect()  # writes all that is under way
        try:
            partial.replace(path)
        except OSError as err:
            raise OutputError(f"cannot finish the recording '{path}'", got=str(err)) from err

    return finish


def _serve(recording: rr.RecordingStream, host: str, port: int, memory: str) -> Callable[[], None]:
    """Start the server beside this process and connect to it."""
    _check_free(host, port)
    program = Path(rerun_cli.__file__).with_name("rerun")
    bind = ["--bind", host, "--port", str(port), "--server-memory-limit", memory]
    try:
        # A session of its own: Ctrl-C is for the stream, which then ends the server in order.
        server = subprocess.Popen(
            [str(program), "--serve-grpc", *bind],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as err:
        raise OutputError(f"cannot start Rerun's server '{program}'", got=str(err)) from err

    def finish() -> None:
        # A viewer that does not read would hold the recording for ever: then the server goes first.
        with suppress(Exception):
            recording.flush(timeout_sec=_FLUSH_WITHIN_S)
            recording.disconnect()
        _end(server)
        recording.disconnect()

    try:
        reached = _reachable(host)
        _await(server, reached, port)
        url = f"rerun+http://{_bracketed(reached)}:{port}/proxy"
        recording.connect_grpc(url, default_blueprint=_blueprint())
    except BaseException:
        _end(server)
        raise
    return finish


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


def _how_to_look(host: str, port: int) -> str:
    look = f"'rerun rerun+http://{_bracketed(_reachable(host))}:{port}/proxy'"
    if host in (_LOCAL_HOST, "localhost", "::1"):
        return f"Rerun: {look}; elsewhere 'ssh -L {port}:localhost:{port}' to here first"
    return f"Rerun: {look}, from elsewhere with this machine's address; everybody there can look"


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


def _pinhole(frame: RgbdFrame) -> rr.Pinhole:
    camera = frame.intrinsics
    assert camera is not None
    height, width = frame.depth.shape
    return rr.Pinhole(
        resolution=(width, height),
        focal_length=(camera.fx, camera.fy),
        principal_point=(camera.cx, camera.cy),
    )


def _depth_image(frame: RgbdFrame) -> rr.DepthImage:
    scale = frame.depth_spec.scale_to_m
    return rr.DepthImage(frame.depth, meter=None if scale is None else 1 / scale)


def _reachable(host: str) -> str:
    return {"0.0.0.0": _LOCAL_HOST, "::": "::1"}.get(host, host)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _on_standard_error(line: str) -> None:
    print(line, file=sys.stderr)
