"""A video of overlays."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_fusion.errors import OutputError
from edge_fusion.files import partial_name
from edge_fusion.frame import RgbdFrame

from ..ledger import FrameRecord
from .overlay import depth_inset, draw_overlay
from .room import check_room

# Codecs every build of OpenCV carries; H.264 is missing from its wheels for licence reasons.
CODECS = {".mp4": "mp4v", ".mkv": "mp4v", ".avi": "MJPG"}

# OpenCV does not report a full disk, so a recording stops while there is room to finish it.
RESERVE_BYTES = 16 * 2**20

_SMALLEST = 2  # pixels; MPEG-4 stores colour at half the size
_LONGEST_HOLD_S = 1.0  # a live source that pauses longer is cut, not frozen for the whole pause


class OverlayVideo:
    """Draws every frame's saliency over its colour image and appends it to a video.

    The video grows in a hidden file beside its destination and takes the name, and the place of
    an older video, only when it is finished and has been read back.

    Frames of a live source (``arrival_ns`` set) are repeated as needed, so that the video plays at
    the speed of the scene however fast the model was; stored frames are written once each.

    Args:
        path: Ends with a suffix of ``CODECS``.
        fps: Frame rate of the video.

    Raises:
        OutputError: The folder is missing or cannot be written to, the disk is nearly full, or the
            frame rate is not positive.
    """

    def __init__(self, path: Path, fps: float) -> None:
        if not (math.isfinite(fps) and fps > 0):
            raise OutputError(f"frame rate of '{path}'", expected="above 0", got=f"{fps:g}")
        if path.is_dir():
            raise OutputError(f"'{path}' is a folder", cure="name a file for the video in it")
        self._path, self._fps = path, fps
        self._partial = partial_name(path)
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)  # width, height; fixed by the first frame
        self._written = 0
        self._last_arrival_ns = 0
        self._owed = 0.0  # pictures the video lags behind the scene
        try:
            self._partial.write_bytes(b"")  # fails now rather than after minutes of inference
        except OSError as err:
            raise OutputError(
                f"cannot write the video '{path}'",
                got=str(err),
                cure="create its folder, or choose one you may write to",
            ) from err
        try:
            self._check_room()
        except OutputError:
            self._partial.unlink(missing_ok=True)
            raise

    @property
    def destination(self) -> str:
        """The video's path."""
        return str(self._path)

    @property
    def paints(self) -> bool:
        """It does nothing else with saliency."""
        return True

    def write(self, frame: RgbdFrame, saliency: NDArray[np.float32], record: FrameRecord) -> None:
        """Append one overlay.

        Raises:
            OutputError: The frame has another size than the first, the codec is missing, or the
                disk is nearly full; what was written before stays and is finished by ``close``.
        """
        self._check_room()
        height, width = frame.rgb.shape[:2]
        if self._writer is None:
            self._writer, self._size = self._open_writer(width, height), (width, height)
        if (width, height) != self._size:
            raise OutputError(
                f"frame '{frame.id}' does not fit the video '{self._path}'",
                expected=f"{self._size[0]}x{self._size[1]} pixels, as the first frame",
                got=f"{width}x{height}",
                cure="write masks to a folder instead, which takes frames of any size",
            )
        picture = draw_overlay(frame.rgb, saliency, inset=depth_inset(frame), caption=frame.id)
        for _ in range(self._pictures_due(frame.arrival_ns)):
            self._writer.write(picture)
            self._written += 1

    def close(self) -> None:
        """Finish the video, read it back, and give it its name; without frames leave nothing."""
        if self._writer is not None:
            self._writer.release()
            self._writer = None
        if not self._partial.exists():
            return
        try:
            if self._written:
                self._check_readable()
                self._partial.replace(self._path)
        except OSError as err:
            raise OutputError(f"cannot finish the video '{self._path}'", got=str(err)) from err
        finally:
            self._partial.unlink(missing_ok=True)

    def _open_writer(self, width: int, height: int) -> cv2.VideoWriter:
        if min(width, height) < _SMALLEST:
            raise OutputError(
                f"frames are too small for the video '{self._path}'",
                expected=f"{_SMALLEST} pixels or more each way",
                got=f"{width}x{height}",
                cure="write masks to a folder instead, which takes frames of any size",
            )
        codec = CODECS[self._path.suffix.lower()]
        fourcc = cv2.VideoWriter.fourcc(*codec)
        writer = cv2.VideoWriter(str(self._partial), fourcc, self._fps, (width, height))
        if not writer.isOpened():
            raise OutputError(
                f"OpenCV cannot encode the video '{self._path}' with codec {codec}",
                got=f"{width}x{height} pixels at {self._fps:g} frames per second",
                cure=f"try another suffix ({', '.join(CODECS)}), or masks to a folder",
            )
        return writer

    def _pictures_due(self, arrival_ns: int) -> int:
        if not arrival_ns:
            return 1
        since_s = (arrival_ns - self._last_arrival_ns) / 1e9 if self._last_arrival_ns else 0.0
        self._last_arrival_ns = arrival_ns
        self._owed += min(since_s, _LONGEST_HOLD_S) * self._fps if self._written else 1.0
        pictures = max(1, round(self._owed))
        self._owed = max(self._owed - pictures, -1.0)  # never repay a source faster than the video
        return pictures

    def _check_room(self) -> None:
        pictures = f"{self._written} pictures"
        check_room(f"the video '{self._path}'", self._partial, RESERVE_BYTES, pictures)

    def _check_readable(self) -> None:
        capture = cv2.VideoCapture(str(self._partial))
        try:
            readable = capture.isOpened() and capture.read()[0]
            # Matroska holds a duration, not a count: rounding may cost one picture.
            counted = round(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if readable else 0
        finally:
            capture.release()
        if abs(counted - self._written) > 1:
            raise OutputError(
                f"the video '{self._path}' came out damaged and was removed",
                expected=f"{self._written} pictures",
                got=f"{counted}",
                cure="did the disk fill up, or a limit on file sizes strike?",
            )
