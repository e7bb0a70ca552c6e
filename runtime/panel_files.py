"""Pictures of a report as files within the page, no larger together than the page can bear."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from .panels import Panel, Picture

#: Of all pictures together, as they stand in the page.
MOST_BYTES = 3_300_000

_PHOTOS = {"colour", "depth"}


@dataclass(frozen=True, slots=True)
class Grade:
    """How pictures are stored.

    Attributes:
        scale: Of their sides.
        photo_quality: Of colour and depth as JPEG, 0..100.
        map_quality: Of maps as JPEG; None stores them without loss as PNG.
    """

    scale: float
    photo_quality: int
    map_quality: int | None


#: From the best to the smallest; the first one that fits is taken.
GRADES = (
    Grade(1.0, 85, None),
    Grade(1.0, 80, 90),
    Grade(0.75, 75, 80),
    Grade(0.5, 70, 75),
    Grade(0.35, 60, 60),
    Grade(0.2, 50, 50),
)


def picture_uris(
    panels: Sequence[Panel], most_bytes: int = MOST_BYTES
) -> tuple[list[list[str]], Grade]:
    """Every picture as a ``data:`` address, in the best grade in which all of them fit.

    Args:
        panels: What to show.
        most_bytes: All addresses together; only the smallest grade may be larger.

    Returns:
        The addresses by panel, and how the pictures were stored.
    """
    for grade in GRADES:
        left = math.inf if grade is GRADES[-1] else most_bytes
        uris: list[list[str]] = []
        for panel in panels:
            uris.append([_uri(picture, grade) for picture in panel.pictures])
            left -= sum(len(uri) for uri in uris[-1])
            if left < 0:
                break
        if left >= 0:
            break
    return uris, grade


def _uri(picture: Picture, grade: Grade) -> str:
    pixels = _scaled(picture.pixels, grade.scale)
    image = pixels[..., ::-1] if pixels.ndim == 3 else pixels
    quality = grade.photo_quality if picture.label in _PHOTOS else grade.map_quality
    kind, options = (
        ("png", [cv2.IMWRITE_PNG_COMPRESSION, 9])
        if quality is None
        else ("jpeg", [cv2.IMWRITE_JPEG_QUALITY, quality])
    )
    _, encoded = cv2.imencode(f".{kind}", image, options)
    return f"data:image/{kind};base64,{base64.b64encode(encoded.tobytes()).decode()}"


def _scaled(pixels: NDArray[np.uint8], scale: float) -> NDArray[np.uint8]:
    if scale == 1:
        return pixels
    height, width = (max(1, round(side * scale)) for side in pixels.shape[:2])
    shrunk = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(shrunk, np.uint8)
