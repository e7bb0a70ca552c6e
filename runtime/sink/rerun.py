"""Results for the Rerun viewer: every one into a recording, or the newest to whoever connects."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import rerun as rr
from numpy.typing import NDArray

from edge_fusion.errors import OutputError
from edge_fusion.frame import RgbdFrame

from ..ledger import STAGES, FrameRecord
from .base import SALIENT, on_standard_error
from .destination import bracketed, read_address, read_destination
from .keys import RERUN_KEYS
from .pace import Pace
from .rerun_places import Place, RecordingFile, ViewerServer, reachable

APPLICATION = "edge-fusion"
FORM = "rerun://FILE.rrd or rerun://[HOST][:PORT]"

_LOCAL_HOST, _PORT = "127.0.0.1", 9876
_RATE_HZ = 10.0
_MEMORY = "256MiB"
_JPEG_QUALITY = 80


class RerunSink:
    """Logs colour, depth, the salient region and the figures of a stream.

    Colour is logged as JPEG and depth as it is, in its unit.  Where it is
    :attr:`live`, logging waits for a viewer that is too slow for what it gets: feed it from a
    thread of its own then (:class:`.beside.Beside`).

    Args:
        destination: As the user wrote it, for messages.
        recording: Where to log, connected already.
        place: What the recording is connected to.
        pace: Which results are logged, the others are left out; None: every one.
    """

    def __init__(
        self,
        destination: str,
        recording: rr.RecordingStream,
        place: Place,
        pace: Pace | None = None,
    ) -> None:
        self._destination, self._recording, self._pace = destination, recording, pace
        self._place: Place | None = place
        self._logged = 0
        self.live = place.live
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
            OutputError: The SDK refused it, or the disk is nearly full.
        """
        if self._place is None or (self._pace is not None and not self._pace.due()):
            return
        self._place.check(self._logged)
        try:
            self._log(frame, saliency, record)
            self._place.took(frame.rgb.nbytes + frame.depth.nbytes + saliency.size)
        except Exception as err:  # the SDK names no error of its own
            raise OutputError(
                f"cannot log frame '{frame.id}' to '{self._destination}'", got=str(err)
            ) from err
        self._logged += 1

    def close(self) -> None:
        """Write what is under way, and end the recording or the server.

        Raises:
            OutputError: The recording could not be finished.
        """
        place, self._place = self._place, None
        if place is not None:
            place.finish(self._logged)

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
        region = (saliency >= SALIENT).view(np.uint8)
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
        destination: ``rerun://FILE.rrd`` or ``rerun://[HOST][:PORT]``, and of
            :data:`.keys.RERUN_KEYS` what is wanted.  Without a host only this machine can
            connect.  There is no password: name another host only on a network where everybody
            may look.
        note: Takes the line that tells how to look; standard error by default.

    Raises:
        OutputError: The destination is not of that form, the rate not above 0, the file exists or
            cannot be written, the port is taken, or the server does not start.
    """
    place, values = read_destination(destination, "rerun", RERUN_KEYS)
    is_file = place.endswith(".rrd")
    rate = values.get("rate", None if is_file else _RATE_HZ)
    pace = None if rate is None else Pace(rate)
    # An id of its own: the SDK's default would put two runs of one process into one recording.
    recording = rr.RecordingStream(APPLICATION, recording_id=uuid.uuid4())
    opened: Place
    if is_file:
        if "memory" in values:
            raise OutputError(
                f"destination '{destination}': memory", cure="a file keeps all: leave it out"
            )
        opened = RecordingFile(recording, Path(place))
    else:
        host, port = read_address(place, _LOCAL_HOST, _PORT, FORM)
        opened = ViewerServer(recording, host, port or _PORT, values.get("memory", _MEMORY))
        (note or on_standard_error)(_how_to_look(host, port or _PORT))
    try:
        return RerunSink(destination, recording, opened, pace)
    except BaseException:
        opened.finish(0)
        raise


def _how_to_look(host: str, port: int) -> str:
    look = f"'rerun rerun+http://{bracketed(reachable(host))}:{port}/proxy'"
    if host in (_LOCAL_HOST, "localhost", "::1"):
        return f"Rerun: {look}; elsewhere 'ssh -L {port}:localhost:{port}' to here first"
    return f"Rerun: {look}, from elsewhere with this machine's address; everybody there can look"


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
