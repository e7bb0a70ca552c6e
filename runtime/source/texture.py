"""Procedural surfaces: a bank of tileable grey patterns, coloured and laid out by the demo world.

The patterns are the same in every process (they have a seed of their own); what varies from scene
to scene is their choice, colour, size and what is pasted on top.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

TILE = 128  # side of a pattern in pixels
VARIANTS = 4  # of every pattern
_BANK_SEED = 20_240
_LEVELS = np.linspace(0, 1, 256, dtype=np.float32)[:, None]

Colour = tuple[float, float, float]  # red, green, blue, 0..255
Grey = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Surface:
    """What something is covered with.

    Attributes:
        pattern: A key of :data:`PATTERNS`.
        variant: Which of its :data:`VARIANTS`.
        dark: Colour where the pattern is 0.
        light: Colour where it is 255.
        repeat: Size of one tile: metres on a wall, half-widths on a solid.
    """

    pattern: str
    variant: int
    dark: Colour
    light: Colour
    repeat: float


def _tileable_noise(rng: np.random.Generator, cells: int) -> Grey:
    """Smooth noise that wraps around, about -1..1: a small random grid, enlarged."""
    grid = rng.standard_normal((cells, cells), np.float32)
    padded = np.pad(grid, 2, mode="wrap")
    step = TILE // cells
    large = cv2.resize(padded, None, fx=step, fy=step, interpolation=cv2.INTER_CUBIC)
    return np.asarray(large[2 * step : 2 * step + TILE, 2 * step : 2 * step + TILE], np.float32)


def _octaves(rng: np.random.Generator, first: int, last: int) -> Grey:
    """Fractal noise: octaves ``first``..``last`` (cells = 2**octave), each at 0.6 of the last."""
    total = np.zeros((TILE, TILE), np.float32)
    for index, octave in enumerate(range(first, last + 1)):
        total += np.float32(0.6**index) * _tileable_noise(rng, 2**octave)
    return total


def _ramp() -> tuple[Grey, Grey]:
    """Row and column coordinates of a tile, 0..1."""
    axis: Grey = np.arange(TILE, dtype=np.float32) * np.float32(1 / TILE)
    return axis[:, None], axis[None, :]


def _clouds(rng: np.random.Generator) -> Grey:
    return _octaves(rng, 1, 6)


def _grain(rng: np.random.Generator) -> Grey:
    return _octaves(rng, 4, 7)


def _plaster(rng: np.random.Generator) -> Grey:
    return np.tanh(_octaves(rng, 2, 7)) * np.float32(0.5)


def _wood(rng: np.random.Generator) -> Grey:
    rows, _ = _ramp()
    bend = _tileable_noise(rng, 4) * np.float32(0.06)
    rings = np.sin(2 * np.pi * (int(rng.integers(3, 7)) * rows + 3 * bend))
    streaks = cv2.blur(np.tile(_grain(rng), (1, 3)), (41, 1))[:, TILE : 2 * TILE]
    return np.asarray(rings * 0.5 + streaks, np.float32)


def _stripes(rng: np.random.Generator) -> Grey:
    rows, columns = _ramp()
    across, down = ((3, 0), (0, 4), (2, 2), (5, 1))[int(rng.integers(4))]
    wave = np.sin(2 * np.pi * (across * columns + down * rows))
    return np.asarray(np.tanh(6 * wave), np.float32)


def _checks(rng: np.random.Generator) -> Grey:
    rows, columns = _ramp()
    count = int(rng.integers(2, 5))
    wave = np.sin(2 * np.pi * count * columns) * np.sin(2 * np.pi * count * rows)
    return np.asarray(np.tanh(12 * wave), np.float32)


def _dots(rng: np.random.Generator) -> Grey:
    rows, columns = _ramp()
    count = int(rng.integers(2, 6))
    wave = np.cos(2 * np.pi * count * columns) + np.cos(2 * np.pi * count * rows)
    return np.asarray(np.tanh(8 * (wave - rng.uniform(0.4, 1.2))), np.float32)


def _bricks(rng: np.random.Generator) -> Grey:
    rows, columns = _ramp()
    courses, length = int(2 * rng.integers(2, 5)), int(rng.integers(2, 5))
    course = np.floor(rows * courses)
    along = columns * length + 0.5 * (course % 2)
    joint = np.minimum(rows * courses % 1, (along % 1) * courses / length)
    return np.asarray((joint > 0.12) * 1.5 + 0.25 * _octaves(rng, 3, 7), np.float32)


def _patches(rng: np.random.Generator) -> Grey:
    """Large blots with hard edges and some detail: a printed picture, seen from afar."""
    return np.asarray(np.tanh(4 * _octaves(rng, 1, 3)) + 0.3 * _octaves(rng, 3, 6), np.float32)


PATTERNS: dict[str, Callable[[np.random.Generator], Grey]] = {
    "bricks": _bricks,
    "checks": _checks,
    "clouds": _clouds,
    "dots": _dots,
    "grain": _grain,
    "patches": _patches,
    "plaster": _plaster,
    "stripes": _stripes,
    "wood": _wood,
}


@cache
def pattern(name: str, variant: int) -> NDArray[np.uint8]:
    """One pattern of the bank: (TILE, TILE) uint8, 0..255, wrapping around at its edges."""
    seed = np.random.SeedSequence((_BANK_SEED, sorted(PATTERNS).index(name), variant))
    grey = PATTERNS[name](np.random.default_rng(seed))
    low, high = np.percentile(grey, (1, 99))
    scaled = (grey - low) * np.float32(255 / max(high - low, 1e-6))
    tile: NDArray[np.uint8] = np.clip(scaled, 0, 255).astype(np.uint8)
    tile.setflags(write=False)  # shared by every caller
    return tile


def colour_tile(surface: Surface) -> NDArray[np.uint8]:
    """The surface as one tile: (TILE, TILE, 3) uint8, red first."""
    dark, light = np.array((surface.dark, surface.light), np.float32)
    table = np.clip(dark + (light - dark) * _LEVELS, 0, 255).astype(np.uint8)
    grey = _pattern_thrice(surface.pattern, surface.variant)
    return np.asarray(cv2.LUT(grey, table[None]), np.uint8)


@cache
def _pattern_thrice(name: str, variant: int) -> NDArray[np.uint8]:
    """A pattern in three channels: what a table lookup per channel wants."""
    return np.asarray(cv2.merge([pattern(name, variant)] * 3), np.uint8)


def wallpaper(surface: Surface, size_m: tuple[float, float], px_per_m: float) -> NDArray[np.uint8]:
    """A wall or floor covered with the repeated surface.

    Args:
        surface: What covers it; ``repeat`` is in metres.
        size_m: Width and height of the wall.
        px_per_m: Resolution of the result.

    Returns:
        (H, W, 3) uint8, red first.
    """
    width, height = (max(2, round(side * px_per_m)) for side in size_m)
    side = max(4, round(surface.repeat * px_per_m))
    shrink = cv2.INTER_AREA if side < TILE else cv2.INTER_LINEAR
    tile = cv2.resize(colour_tile(surface), (side, side), interpolation=shrink)
    covered = np.tile(tile, (-(-height // side), -(-width // side), 1))
    return np.ascontiguousarray(covered[:height, :width])


def paste(
    wall: NDArray[np.uint8],
    picture: NDArray[np.uint8],
    centre_px: tuple[float, float],
    half_px: tuple[float, float],
    angle: float,
) -> None:
    """Lay a picture on a wall, in place.

    Args:
        wall: (H, W, 3) uint8, changed.
        picture: (h, w, 3) uint8.
        centre_px: Where its centre goes, x and y.
        half_px: Half its width and height on the wall.
        angle: Radians, turning x towards y.
    """
    height, width = picture.shape[:2]
    cos, sin = float(np.cos(angle)), float(np.sin(angle))
    along, across = 2 * half_px[0] / width, 2 * half_px[1] / height
    turn = np.array([[cos * along, -sin * across], [sin * along, cos * across]])
    offset = np.asarray(centre_px) - turn @ ((width - 1) / 2, (height - 1) / 2)
    matrix = np.column_stack((turn, offset))
    cv2.warpAffine(
        picture,
        matrix,
        (wall.shape[1], wall.shape[0]),
        dst=wall,
        borderMode=cv2.BORDER_TRANSPARENT,
    )
