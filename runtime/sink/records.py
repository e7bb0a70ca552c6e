"""A log of a stream: one JSON object per line and frame."""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_fusion.errors import OutputError
from edge_fusion.files import writing
from edge_fusion.frame import RgbdFrame

from ..ledger import FrameRecord
from .base import SALIENT

_DECIMALS = 4  # of milliseconds and shares: below what any of them means


class FrameLog:
    """Appends one line for each frame; a line is there as a whole or not at all.

    Every line goes to the system in one write of its own, so that killing the process loses the
    line in the making at most; nothing is held back.  See :func:`frame_line` for what a line holds.

    Args:
        path: Created if missing, along with nothing else; one that holds anything is refused.

    Raises:
        OutputError: The file holds something, is a folder, or cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._ours = path, not path.exists()
        with writing("the frame log", path):
            # Unbuffered: what is left of a line on a full disk must not come back on closing.
            self._file = path.open("ab", buffering=0)
        self._lines = 0
        size = os.fstat(self._file.fileno()).st_size
        if size:
            self._file.close()
            raise OutputError(
                f"the frame log '{path}' exists",
                expected="a new or an empty file",
                got=f"{size} bytes in it",
                cure="name another file, or remove this one yourself",
            )

    @property
    def destination(self) -> str:
        """The file's path."""
        return str(self._path)

    def write(self, frame: RgbdFrame, saliency: NDArray[np.float32], record: FrameRecord) -> None:
        """Append one line.

        Raises:
            OutputError: The disk is full, or the file is gone; every line before is kept whole.
        """
        line = json.dumps(frame_line(frame, saliency, record), allow_nan=False) + "\n"
        try:
            self._append(line.encode())
        except OSError as err:
            raise OutputError(
                f"cannot write the frame log '{self._path}'",
                got=err.strerror or str(err),
                cure=f"is the disk full? the {self._lines} lines before are kept",
            ) from err
        self._lines += 1

    def close(self) -> None:
        """Close the file; without a line, leave none of ours."""
        self._file.close()
        if self._ours and not self._lines:
            self._ours = False
            self._path.unlink(missing_ok=True)

    def _append(self, line: bytes) -> None:
        """Write all of a line, or take back what was written of it."""
        begun, rest = os.fstat(self._file.fileno()).st_size, memoryview(line)
        try:
            while rest:
                rest = rest[self._file.write(rest) or 0 :]
        except OSError:
            with suppress(OSError):  # a pipe cannot be shortened
                self._file.truncate(begun)
            raise


def frame_line(
    frame: RgbdFrame, saliency: NDArray[np.float32], record: FrameRecord
) -> dict[str, Any]:
    """What a log says of one frame, JSON-ready.

    Args:
        frame: The frame.
        saliency: (H, W) float32 in 0..1.
        record: Its way through the stream until now.

    Returns:
        The record by name (number, id, timestamp_ns, milliseconds by stage, fps, captured,
        dropped) but for ``sink_ms``, which nobody knows yet, and: ``arrival_ns`` (monotonic) and
        ``unix_ns`` (the wall clock, now); ``width`` and ``height``; ``saliency_mean``, 0..1;
        ``salient_share``, the share of the pixels at one half or more; ``salient_box``, their
        ``[left, top, width, height]`` in pixels, or None where there are none.

    Example:
        >>> from edge_fusion.spec import DepthSpec
        >>> rgb, depth = np.zeros((4, 6, 3), np.uint8), np.ones((4, 6), np.uint16)
        >>> frame = RgbdFrame(rgb, depth, DepthSpec(scale_to_m=0.001), "a")
        >>> saliency = np.zeros((4, 6), np.float32)
        >>> saliency[1:3, 2:5] = 0.9
        >>> record = FrameRecord(0, "a", 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0)
        >>> line = frame_line(frame, saliency, record)
        >>> line["salient_box"], line["salient_share"]
        ([2, 1, 3, 2], 0.25)
    """
    known = {name: value for name, value in asdict(record).items() if name != "sink_ms"}
    rounded = {
        name: round(value, _DECIMALS) if isinstance(value, float) else value
        for name, value in known.items()
    }
    region = (saliency >= SALIENT).view(np.uint8)
    count = cv2.countNonZero(region)
    height, width = saliency.shape
    return {
        **rounded,
        "arrival_ns": frame.arrival_ns,
        "unix_ns": time.time_ns(),
        "width": width,
        "height": height,
        "saliency_mean": round(float(cv2.mean(saliency)[0]), _DECIMALS),
        "salient_share": round(count / saliency.size, _DECIMALS),
        "salient_box": list(cv2.boundingRect(region)) if count else None,
    }


def open_records(path: Path) -> FrameLog:
    """Open a log of frames.

    Args:
        path: ``out.jsonl``; one that holds anything is refused.

    Raises:
        OutputError: See :class:`FrameLog`.
    """
    return FrameLog(path)
