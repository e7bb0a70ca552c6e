"""Where the reference model's data lies: photographs with masks, real frames, the fixed split.

::

    DATA/train-rgb/*.zip        photographs and masks, <id>.rgb.jpg and <id>.gt.png
    DATA/backgrounds/           real RGB-D frames without masks
    DATA/<set>/                 real RGB-D frames with masks
    DATA/streams/<set>/         real RGB-D sequences without masks
    DATA/weights/               ImageNet weights of the encoder
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_fusion.errors import SourceError
from edge_fusion.frame import RgbdFrame
from edge_fusion.runtime.source.folder import FolderSource

VALIDATION = 1000
#: The sets over which depth is compared with no depth.
POOLED_SETS = ("tabletop_uois", "tabletop_ycb_realsense", "gqcnn_primesense", "uw_rgbd_objects")
#: Every real set with masks.
REAL_SETS = (*POOLED_SETS, "gqcnn_phoxi_bin", "pothole_d2")

_COLOUR, _MASK = ".rgb.jpg", ".gt.png"


@dataclass(frozen=True, slots=True, eq=False)
class Photo:
    """A photograph and what is salient in it.

    Attributes:
        id: Its name.
        rgb: (H, W, 3) uint8, red first.
        mask: (H, W) uint8, 0 or 255.
    """

    id: str
    rgb: NDArray[np.uint8]
    mask: NDArray[np.uint8]


class Photographs:
    """Photographs with masks, kept compressed in memory (94 MB) and decoded when asked for.

    Args:
        folder: Holds zip files of ``<id>.rgb.jpg`` and ``<id>.gt.png``.

    Raises:
        SourceError: There is no zip file, or a photograph has no mask.
    """

    def __init__(self, folder: Path) -> None:
        self._files: dict[str, bytes] = {}
        for path in sorted(folder.glob("*.zip")):
            with zipfile.ZipFile(path) as archive:
                self._files.update({name: archive.read(name) for name in archive.namelist()})
        self.ids = sorted(n.removesuffix(_COLOUR) for n in self._files if n.endswith(_COLOUR))
        unmasked = [name for name in self.ids if name + _MASK not in self._files]
        if not self.ids or unmasked:
            raise SourceError(
                f"photographs in {folder}",
                expected="zip files of <id>.rgb.jpg and <id>.gt.png",
                got=f"no mask for '{unmasked[0]}'" if unmasked else "none",
            )

    def read(self, name: str) -> Photo:
        """Decode one photograph: about a millisecond."""
        bgr = cv2.imdecode(np.frombuffer(self._files[name + _COLOUR], np.uint8), cv2.IMREAD_COLOR)
        mask = cv2.imdecode(
            np.frombuffer(self._files[name + _MASK], np.uint8), cv2.IMREAD_GRAYSCALE
        )
        if bgr is None or mask is None or bgr.shape[:2] != mask.shape:
            raise SourceError(f"photograph '{name}' cannot be decoded, or its mask does not fit")
        rgb = np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)
        return Photo(name, rgb, np.asarray((mask > 127) * np.uint8(255), np.uint8))


def split(ids: Sequence[str], validation: int = VALIDATION) -> tuple[list[str], list[str]]:
    """(training, validation) names: the ``validation`` names with the smallest SHA-256.

    The choice depends on the names alone: not on their order, a seed or a library's version.

    Example:
        >>> split(["a", "b", "c"], validation=1)
        (['a', 'c'], ['b'])
    """
    ranked = sorted(ids, key=lambda name: hashlib.sha256(name.encode()).digest())
    held_out = set(ranked[:validation])
    return [name for name in ids if name not in held_out], ranked[:validation]


def read_backgrounds(data: Path) -> list[RgbdFrame]:
    """Real RGB-D frames without masks, 320 pixels wide, decoded (about 90 MB)."""
    return list(FolderSource(data / "backgrounds").frames())


def read_set(data: Path, name: str) -> list[RgbdFrame]:
    """A real set with masks; the whole of it."""
    return list(FolderSource(data / name).frames())
