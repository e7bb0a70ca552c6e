"""Reading colour, depth and mask files, with every doubt about them spoken out."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_fusion.errors import FrameError, SourceError
from edge_fusion.frame import DEPTH_DTYPES

RGB_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
DEPTH_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".npy", ".pgm", ".png", ".tif", ".tiff")
MASK_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".npy", ".pgm", ".png", ".tif", ".tiff")

#: Pixels of the largest image that is decoded: a few kilobytes can claim to be gigabytes.
MOST_PIXELS = 64_000_000

_SWAPPED = "are the two streams swapped?"
_MASK_LEVEL = 127

_PNG, _PNG_SIZE_AT = b"\x89PNG", 16
_MARKER = 0xFF
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # the others are tables

# What a whole file ends with.  Decoders fill what is missing with grey and say nothing.
_ENDINGS: dict[bytes, tuple[bytes, int]] = {
    b"\x89PNG": (b"IEND\xaeB`\x82", 12),
    b"\xff\xd8\xff": (b"\xff\xd9", 1024),  # some writers pad a JPEG
}


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """Read a colour image; an alpha channel is dropped.

    Returns:
        (H, W, 3) uint8, red first.

    Raises:
        SourceError: The file cannot be read.
        FrameError: It is damaged, or holds one channel or 16 bits: it is not a colour image.
    """
    image = decode_image(_content(path), path)
    if image.ndim != 3 or image.shape[2] not in (3, 4) or image.dtype != np.uint8:
        raise FrameError(
            f"colour image '{path}'",
            expected="three 8-bit channels",
            got=_describe(image),
            cure=_SWAPPED,
        )
    conversion = cv2.COLOR_BGR2RGB if image.shape[2] == 3 else cv2.COLOR_BGRA2RGB
    return np.asarray(cv2.cvtColor(image, conversion), np.uint8)


def read_depth(path: Path, dtype: str | None = None) -> NDArray[Any]:
    """Read a depth image or array.

    Args:
        path: An image of one channel (or three equal ones), or ``.npy``.
        dtype: The dtype the set declares, or None.

    Returns:
        (H, W) uint8, uint16 or float32, as stored; float64 becomes float32.

    Raises:
        SourceError: The file cannot be read.
        FrameError: It is damaged, a colour image, of another dtype than any depth, or than
            declared.
    """
    depth = _single_channel(_load(path), path, "depth")
    if depth.dtype == np.float64:
        depth = depth.astype(np.float32)
    if depth.dtype not in DEPTH_DTYPES:
        raise FrameError(
            f"depth '{path}'", expected="uint8, uint16 or float32", got=_describe(depth)
        )
    if dtype is not None and depth.dtype != np.dtype(dtype):
        raise FrameError(
            f"depth '{path}'",
            expected=f"{dtype}, as meta.json declares",
            got=str(depth.dtype),
            cure="correct meta.json, or export the depth again without converting it",
        )
    return depth


def read_mask(path: Path) -> tuple[NDArray[np.bool_], float]:
    """Read a mask: what is brighter than 127 is foreground.

    Returns:
        (H, W) bool, and the share of its pixels that were neither 0 nor 255: edges that were
        smoothed or stored as JPEG, cut at half.

    Raises:
        SourceError: The file cannot be read.
        FrameError: It is damaged, a colour image, has more than 8 bits, or counts 0 and 1.
    """
    mask = _single_channel(_load(path), path, "mask")
    if mask.dtype == np.bool_:
        return mask, 0.0
    if mask.dtype != np.uint8:
        raise FrameError(f"mask '{path}'", expected="8-bit grey or bool", got=_describe(mask))
    if 0 < mask.max() <= _MASK_LEVEL:
        raise FrameError(
            f"mask '{path}'",
            expected="0 for background and 255 for foreground",
            got=f"no value above {mask.max()}",
            cure="does it count 0 and 1, or hold class numbers? scale it to 0 and 255",
        )
    grey = np.count_nonzero((mask > 0) & (mask < 255)) / mask.size
    return np.asarray(mask > _MASK_LEVEL), grey


def _load(path: Path) -> NDArray[Any]:
    content = _content(path)
    if path.suffix.lower() != ".npy":
        return decode_image(content, path)
    try:
        # A pickle inside would run code.
        return np.asarray(np.load(io.BytesIO(content), allow_pickle=False))
    except Exception as err:  # NumPy raises whatever the damaged bytes lead it to
        raise FrameError(
            f"cannot decode '{path}'", expected="a plain .npy array", got=str(err)
        ) from err


def _content(path: Path) -> bytes:
    """A file's bytes.  That it cannot be read concerns the source, what it holds only its pair."""
    try:
        content = path.read_bytes()
    except OSError as err:
        raise SourceError(f"cannot read '{path}'", got=err.strerror or str(err)) from err
    if not content:
        raise FrameError(f"cannot decode '{path}'", got="an empty file", cure="copy it again")
    return content


def decode_image(content: bytes | NDArray[np.uint8], name: object) -> NDArray[Any]:
    """An image as stored: BGR order, all bits, no rotation by metadata (depth has none).

    Args:
        content: A whole file or message: bytes, or (n,) uint8.
        name: What to call it in messages.

    Raises:
        FrameError: It is cut off, damaged, no image, or a PNG or JPEG of more than
            :data:`MOST_PIXELS`.
    """
    stored = np.frombuffer(content, np.uint8)
    if not stored.size:
        raise FrameError(f"cannot decode '{name}'", got="no bytes at all")
    width, height = _told_size(stored.data)
    if width * height > MOST_PIXELS:
        raise FrameError(
            f"cannot decode '{name}'",
            expected=f"at most {MOST_PIXELS // 1_000_000} million pixels",
            got=f"{width}x{height}, as its header says",
        )
    for start, (ending, reach) in _ENDINGS.items():
        cut_off = ending not in stored[-reach:].tobytes()
        if stored[: len(start)].tobytes() == start and cut_off:
            raise FrameError(
                f"cannot decode '{name}'", got="a file cut off before its end", cure="copy it again"
            )
    try:
        image = cv2.imdecode(stored, cv2.IMREAD_UNCHANGED)
    except cv2.error as err:
        raise FrameError(f"cannot decode '{name}'", got=f"a damaged image ({err.err})") from err
    if image is None:
        raise FrameError(
            f"cannot decode '{name}'", got="no image, or a damaged one", cure="copy it again"
        )
    return image


def _told_size(stored: memoryview) -> tuple[int, int]:
    """Width and height that the header of a PNG or JPEG tells; 0, 0: it is neither, or damaged."""
    try:
        if bytes(stored[: len(_PNG)]) == _PNG:
            width, height = struct.unpack_from(">II", stored, _PNG_SIZE_AT)
            return int(width), int(height)
        at = 2 if bytes(stored[:2]) == b"\xff\xd8" else len(stored)
        while stored[at] == _MARKER:
            marker = stored[at + 1]
            if marker in _JPEG_FRAMES:
                height, width = struct.unpack_from(">HH", stored, at + 5)
                return int(width), int(height)
            # A marker may be preceded by any number of fill bytes.
            at += 1 if marker == _MARKER else 2 + struct.unpack_from(">H", stored, at + 2)[0]
    except (IndexError, struct.error):  # it ends first: the decoder says so
        pass
    return 0, 0


def _single_channel(image: NDArray[Any], path: Path, what: str) -> NDArray[Any]:
    """One channel of an image whose colour channels are all equal."""
    if image.ndim == 3 and image.shape[2] in (3, 4):
        first = image[..., 0]
        if any(not np.array_equal(first, image[..., channel]) for channel in (1, 2)):
            raise FrameError(
                f"{what} '{path}'",
                expected="one channel",
                got="a colour image",
                cure=_SWAPPED if what == "depth" else "convert it to 0 and 255 in one channel",
            )
        return np.ascontiguousarray(first)
    if image.ndim == 3 and image.shape[2] == 1:
        return np.ascontiguousarray(image[..., 0])
    if image.ndim != 2:
        raise FrameError(f"{what} '{path}'", expected="(H, W)", got=_describe(image))
    return image


def _describe(image: NDArray[Any]) -> str:
    return f"{'x'.join(str(side) for side in image.shape)} {image.dtype}"
