"""Pictures for a report: small, and kept only for the few images that may be shown."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_fusion.frame import RgbdFrame

from .sink.overlay import colour_depth

LONG_SIDE = 240
DIFFERENCE = "difference"  # begins the label of a picture of one
DIFFERENCE_GAIN = 4  # differences that matter are small; 25 % already shows as the brightest
_RESERVOIR = 24

Kind = Literal["worst", "typical"]
Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """One small image: (h, w, 3) uint8 red first, or (h, w) uint8."""

    label: str
    pixels: Pixels


@dataclass(frozen=True, slots=True, eq=False)
class Panel:
    """One pair and what the variants made of it.

    Attributes:
        kind: Why it is shown.
        image: Its index in the comparison's per-image results.
        degradation: By how much it got worse; see ``ImageResult.degradation``.
        pictures: Colour, depth, truth if there is one, every variant's map, and how far each
            but the first is from the first.
    """

    kind: Kind
    image: int
    degradation: float
    pictures: tuple[Picture, ...]


class PanelPicker:
    """Keeps pictures of the worst images and of a few typical ones, out of any number.

    Args:
        worst: How many of the most degraded images to keep.
        typical: How many to keep whose degradation is nearest the median.
        seed: Of the random sample that typical ones are taken from.
    """

    def __init__(self, worst: int, typical: int, seed: int = 0) -> None:
        self._worst_wanted, self._typical_wanted = worst, typical
        self._worst: list[tuple[float, int, Panel]] = []
        self._sample: list[Panel] = []
        self._sample_size = max(_RESERVOIR, 2 * typical) if typical else 0
        self._random = random.Random(seed)
        self._degradations: list[float] = []
        self._ties = itertools.count()

    def offer(self, degradation: float, draw: Callable[[], tuple[Picture, ...]]) -> None:
        """Consider the next image; ``draw`` is only called if it may be shown."""
        index = len(self._degradations)
        self._degradations.append(degradation)
        among_worst = self._worst_wanted > 0 and (
            len(self._worst) < self._worst_wanted or degradation > self._worst[0][0]
        )
        # A uniform sample of unknown length: image i replaces one of k with probability k / i.
        place = index if index < self._sample_size else self._random.randint(0, index)
        sampled = place < self._sample_size
        if not (among_worst or sampled):
            return
        panel = Panel("typical", index, degradation, draw())
        if sampled:
            self._sample[place : place + 1] = [panel]
        if among_worst:
            heapq.heappush(self._worst, (degradation, -next(self._ties), panel))
            if len(self._worst) > self._worst_wanted:
                heapq.heappop(self._worst)

    def panels(self) -> tuple[Panel, ...]:
        """The worst first, then the typical ones in the order they came."""
        worst = [
            panel for _, _, panel in sorted(self._worst, key=lambda one: one[:2], reverse=True)
        ]
        taken = {panel.image for panel in worst}
        median = float(np.median(self._degradations)) if self._degradations else 0.0
        rest = [panel for panel in self._sample if panel.image not in taken]
        rest.sort(key=lambda panel: abs(panel.degradation - median))
        typical = sorted(rest[: self._typical_wanted], key=lambda panel: panel.image)
        return (*(replace(panel, kind="worst") for panel in worst), *typical)


def draw_pictures(frame: RgbdFrame, maps: Mapping[str, NDArray[np.float32]]) -> tuple[Picture, ...]:
    """Small pictures of one pair and of the variants' maps.

    Args:
        frame: The pair.
        maps: (H, W) float32 0..1 by variant; all are held against the first.

    Returns:
        Pictures of at most :data:`LONG_SIDE` pixels: those of :class:`Panel`.
    """
    height, width = frame.rgb.shape[:2]
    scale = min(1.0, LONG_SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    reference, *others = maps
    truth = [] if frame.mask is None else [Picture("truth", _shrink(_grey(frame.mask), size))]
    return (
        Picture("colour", _shrink(frame.rgb, size)),
        Picture("depth", _red_first(colour_depth(frame, size, cv2.COLORMAP_TURBO))),
        *truth,
        *(Picture(name, _shrink(_grey(one), size)) for name, one in maps.items()),
        *(_difference(name, maps[name] - maps[reference], size) for name in others),
    )


def _difference(name: str, difference: NDArray[np.float32], size: tuple[int, int]) -> Picture:
    strong = _grey(DIFFERENCE_GAIN * np.abs(difference))
    return Picture(f"{DIFFERENCE} {name}", _heat(_shrink(strong, size)))


def _shrink(image: Pixels, size: tuple[int, int]) -> Pixels:
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def _grey(plane: NDArray[np.float32] | NDArray[np.bool_]) -> Pixels:
    return (np.clip(plane, 0, 1) * 255).astype(np.uint8)


def _heat(grey: Pixels) -> Pixels:
    return _red_first(np.asarray(cv2.applyColorMap(grey, cv2.COLORMAP_INFERNO), np.uint8))


def _red_first(bgr: Pixels) -> Pixels:
    return np.ascontiguousarray(bgr[..., ::-1])
