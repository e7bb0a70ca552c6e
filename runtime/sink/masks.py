"""A folder of saliency maps, one 8-bit PNG per frame."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_fusion.errors import OutputError
from edge_fusion.files import partial_name
from edge_fusion.frame import RgbdFrame

from ..ledger import FrameRecord

_PNG_LEVEL = 1  # level 3, OpenCV's default, costs twice the time for a few percent of the size
_LONGEST_STEM = 120  # characters; file systems stop at 255 bytes


class MaskFolder:
    """Writes ``<frame id>.png``: (H, W) uint8, saliency times 255, cut to whole levels.

    The levels are those that :mod:`edge_fusion.metrics` counts, so that scoring the files gives
    the figures of the maps.  A file appears under its name only when it is complete.

    Args:
        folder: Created if missing; one that holds anything is refused, so nothing is lost.

    Raises:
        OutputError: The folder holds something, is a file, or cannot be written to.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._ours = folder, not folder.exists()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            found = next(folder.iterdir(), None)
        except OSError as err:
            raise OutputError(f"cannot use '{folder}' as a folder of masks", got=str(err)) from err
        if found is not None:
            raise OutputError(
                f"the folder '{folder}' is not empty",
                expected="a new or an empty folder",
                got=f"'{found.name}' in it",
                cure="name another folder, or empty this one yourself",
            )
        if not os.access(folder, os.W_OK | os.X_OK):
            raise OutputError(f"no permission to write into the folder '{folder}'")

    @property
    def destination(self) -> str:
        """The folder."""
        return f"{self._folder}/"

    def write(self, frame: RgbdFrame, saliency: NDArray[np.float32], record: FrameRecord) -> None:
        """Write one map; a frame whose name is taken already gets its number appended."""
        levels = (saliency * 255).astype(np.uint8)
        encoded, png = cv2.imencode(".png", levels, [cv2.IMWRITE_PNG_COMPRESSION, _PNG_LEVEL])
        if not encoded:
            raise OutputError(f"OpenCV could not encode the mask of frame '{frame.id}' as PNG")
        path = self._free_path(frame)
        partial = partial_name(path)
        try:
            partial.write_bytes(png.tobytes())
            partial.replace(path)
        except OSError as err:
            partial.unlink(missing_ok=True)
            raise OutputError(
                f"cannot write the mask '{path}'",
                got=str(err),
                cure="is the disk full or the folder gone? masks written before are kept",
            ) from err

    def close(self) -> None:
        """Every mask is complete once it is written; without one, leave no folder of ours."""
        if self._ours:
            self._ours = False
            with suppress(OSError):  # it holds masks, or is gone
                self._folder.rmdir()

    def _free_path(self, frame: RgbdFrame) -> Path:
        # The folder was empty at the start: whatever is there now, this run wrote.
        stem = safe_stem(frame.id)
        path = self._folder / f"{stem}.png"
        attempt = frame.number
        while path.exists():
            path = self._folder / f"{stem}_{attempt}.png"
            attempt += 1
        return path


def safe_stem(frame_id: str) -> str:
    """A frame's id as a file name without suffix that stays inside its folder.

    Example:
        >>> safe_stem("../../etc/passwd"), safe_stem("left 0001"), safe_stem("..")
        ('etc_passwd', 'left_0001', 'frame')
    """
    return re.sub(r"[^\w.-]+", "_", frame_id).strip("._")[:_LONGEST_STEM] or "frame"
