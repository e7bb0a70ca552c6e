"""The pictures a web page may ask for: drawn when asked for, and once for all who ask."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_fusion.errors import OutputError
from edge_fusion.frame import RgbdFrame

from .base import SALIENT
from .overlay import Image, colour_depth, draw_overlay
from .pace import Pace

JPEG_QUALITY = 80  # 40 to 60 kB at 640x480; 90 doubles that for differences nobody sees live

_WIDEST_OVERLAY = 1280  # pixels; what a browser would shrink anyway costs time and air
_WIDEST_PLANE = 480  # depth and saliency are looked at small, and depth is dear to colour


@dataclass(eq=False)
class Moment:
    """One result, and the JPEGs that were made of it so far.

    Attributes:
        number: Counts from 1, one up with every result.
        frame: The frame.
        saliency: (H, W) float32 in 0..1.
    """

    number: int
    frame: RgbdFrame
    saliency: NDArray[np.float32]
    _jpegs: dict[str, bytes] = field(default_factory=dict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def jpeg(self, view: str) -> bytes:
        """One view as JPEG; whoever asks first draws it, the others wait and share.

        Args:
            view: A key of :data:`VIEWS`.
        """
        with self._lock:
            if view not in self._jpegs:
                self._jpegs[view] = _encode(VIEWS[view](self.frame, self.saliency))
            return self._jpegs[view]

    @property
    def drawn(self) -> Collection[str]:
        """The views that somebody asked for."""
        return tuple(self._jpegs)

    def salient_share(self) -> float:
        """Share of the pixels whose saliency is at least one half, 0..1."""
        return float(np.count_nonzero(self.saliency >= SALIENT)) / self.saliency.size


def _overlay(frame: RgbdFrame, saliency: NDArray[np.float32]) -> Image:
    size = _fit(frame, _WIDEST_OVERLAY)
    rgb = np.asarray(cv2.resize(frame.rgb, size, interpolation=cv2.INTER_AREA), np.uint8)
    alpha = np.asarray(cv2.resize(saliency, size, interpolation=cv2.INTER_AREA), np.float32)
    return draw_overlay(rgb, alpha)


def _depth(frame: RgbdFrame, saliency: NDArray[np.float32]) -> Image:
    return colour_depth(frame, _fit(frame, _WIDEST_PLANE), cv2.COLORMAP_TURBO)


def _saliency(frame: RgbdFrame, saliency: NDArray[np.float32]) -> Image:
    levels = cv2.convertScaleAbs(saliency, alpha=255)
    size = _fit(frame, _WIDEST_PLANE)
    return np.asarray(cv2.resize(levels, size, interpolation=cv2.INTER_AREA), np.uint8)


#: What can be looked at: (H, W, 3) uint8, blue first, or (H, W) uint8.
VIEWS: dict[str, Callable[[RgbdFrame, NDArray[np.float32]], Image]] = {
    "overlay": _overlay,
    "depth": _depth,
    "saliency": _saliency,
}


class Stage:
    """Where the newest result stands for everybody who looks; nobody who looks can hold it up.

    Args:
        rate: New results per second at most; further ones between them are not shown.
        seats: How many may look at a time.
    """

    def __init__(self, rate: float, seats: int) -> None:
        self._pace, self._seats = Pace(rate), seats
        self._changed = threading.Condition()
        self._newest: Moment | None = None
        self._numbered = 0
        self._taken = 0
        self._closed = False

    @property
    def watchers(self) -> int:
        """How many are looking."""
        return self._taken

    @property
    def newest(self) -> Moment | None:
        """What stands there; None before the first result."""
        return self._newest

    @property
    def closed(self) -> bool:
        """Whether the show is over."""
        return self._closed

    def show(self, frame: RgbdFrame, saliency: NDArray[np.float32]) -> None:
        """Put a result on the stage; costs a few microseconds, whoever is looking."""
        if not self._pace.due():
            return
        with self._changed:
            self._numbered += 1
            self._newest = Moment(self._numbered, frame, saliency)
            self._changed.notify_all()

    def after(self, number: int, timeout_s: float) -> Moment | None:
        """The newest result once it is newer than ``number``; None if none came in time."""

        def ready() -> bool:
            return self._closed or (self._newest is not None and self._newest.number > number)

        with self._changed:
            found = self._changed.wait_for(ready, timeout_s) and not self._closed
            return self._newest if found else None

    @contextmanager
    def watching(self) -> Iterator[bool]:
        """Take a seat for as long as the block lasts; gives False where none is free."""
        with self._changed:
            seated = self._taken < self._seats
            self._taken += seated
        try:
            yield seated
        finally:
            with self._changed:
                self._taken -= seated

    def close(self) -> None:
        """End the show: everybody who waits is woken."""
        with self._changed:
            self._closed = True
            self._newest = None
            self._changed.notify_all()


def _fit(frame: RgbdFrame, widest: int) -> tuple[int, int]:
    """Width and height of the frame, shrunk where it is wider than that."""
    height, width = frame.rgb.shape[:2]
    scale = min(1.0, widest / width)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _encode(picture: Image) -> bytes:
    done, jpeg = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not done:
        raise OutputError(f"OpenCV could not encode a picture of {picture.shape} as JPEG")
    return jpeg.tobytes()
