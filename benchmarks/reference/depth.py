"""Inventing depth for a photograph: a scene of planes, bystanders and objects that stand in it.

All shapes are drawn in *nearness*, 1 / metres, because a plane is an affine function of the pixel
coordinates there, whatever its slope: ``n = n0 (v - horizon) / (1 - horizon)`` is a floor or table
whose nearest row has nearness ``n0``.  An upright object has one nearness, that of the floor where
it stands: it shares its depth with the floor along its contact line and stands out above it.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.float32]  # (s, s)
Mask = NDArray[np.uint8]  # (s, s), 0 or 255
Rng = np.random.Generator

NEAREST_M, FURTHEST_M = 0.3, 14.0
MOST_OBJECTS = 4  # connected parts that get a depth of their own


def _log_uniform(rng: Rng, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def smooth_noise(rng: Rng, size: int, cells: int) -> Plane:
    """(s, s) smooth noise of about unit variance, ``cells`` bumps across."""
    grid = rng.standard_normal((cells, cells), np.float32)
    return np.asarray(cv2.resize(grid, (size, size), interpolation=cv2.INTER_LINEAR), np.float32)


def _axes(size: int) -> tuple[Plane, Plane]:
    """(1, s) and (s, 1) coordinates in 0..1: across and down."""
    steps = np.linspace(0, 1, size, dtype=np.float32)
    return steps[None, :], steps[:, None]


def _standing(rng: Rng, size: int) -> Plane:
    """A table or floor that runs up to a wall."""
    across, down = _axes(size)
    horizon, nearest = rng.uniform(-1.5, 0.4), 1 / _log_uniform(rng, 0.4, 2.0)
    floor = nearest * (down - horizon) / (1 - horizon)
    wall = nearest * rng.uniform(0.2, 0.75) * (1 + rng.normal(0, 0.15) * (across - 0.5))
    return np.asarray(np.maximum(floor, wall), np.float32)


def _open(rng: Rng, size: int) -> Plane:
    """Ground that runs into the distance."""
    across, down = _axes(size)
    horizon, nearest = rng.uniform(0.0, 0.6), 1 / _log_uniform(rng, 0.6, 3.0)
    ground = nearest * (down - horizon) / (1 - horizon)
    return np.asarray(np.maximum(ground, nearest * rng.uniform(0.05, 0.3) + 0 * across), np.float32)


def _above(rng: Rng, size: int) -> Plane:
    """A surface seen from above, or a wall seen from the front."""
    across, down = _axes(size)
    slope_x, slope_y = rng.normal(0, 0.06), rng.normal(0, 0.2)
    plane = 1 + slope_x * (across - 0.5) + slope_y * (down - 0.5)
    return (plane / _log_uniform(rng, 0.5, 2.0)).astype(np.float32)


_VIEWS: tuple[Callable[[Rng, int], Plane], ...] = (_standing, _open, _above)
_VIEW_SHARES = (0.55, 0.15, 0.30)


def surroundings(rng: Rng, gray: Mask, shapes: list[Mask]) -> tuple[Plane, bool]:
    """Nearness of everything that is not salient.

    Args:
        rng: Draws everything.
        gray: (s, s) uint8, the photograph: some steps in depth follow its edges.
        shapes: (s, s) uint8 masks of other photographs: outlines for bystanders.

    Returns:
        (s, s) float32 nearness, 1 / metres, and whether objects lie flat below the camera rather
        than stand upright.
    """
    size = gray.shape[0]
    index = int(rng.choice(len(_VIEWS), p=_VIEW_SHARES))
    near = _VIEWS[index](rng, size)
    flat = _VIEWS[index] is _above
    near *= 1 + np.float32(abs(rng.normal(0, 0.04))) * smooth_noise(rng, size, 5)
    if rng.random() < 0.7:
        near *= 1 + _relief(rng, gray)
    for _ in range(int(rng.integers(0, 6))):
        _add_bystander(rng, near, shapes, flat)
    return near, flat


def _relief(rng: Rng, gray: Mask) -> Plane:
    """Steps that follow the photograph's own regions of light and dark."""
    side = max(3, gray.shape[0] // 14) | 1
    soft = cv2.blur(gray, (side, side))
    level = rng.uniform(np.float32(soft.min()), np.float32(soft.max()))
    band = np.where(soft > level, np.float32(1), np.float32(0))
    amount = np.float32(rng.normal(0, 0.09))
    return np.asarray(amount * cv2.blur(band, (3, 3)), np.float32)


def _add_bystander(rng: Rng, near: Plane, shapes: list[Mask], flat: bool) -> None:
    """Something that stands in the scene and is not salient; in place."""
    size = near.shape[0]
    width, height = (max(4, int(rng.uniform(0.06, 0.5) * size)) for _ in range(2))
    if shapes and rng.random() < 0.6:
        other = shapes[int(rng.integers(len(shapes)))]
        shape = cv2.resize(other, (width, height), interpolation=cv2.INTER_NEAREST) > 0
    else:
        drawn = np.zeros((height, width), np.uint8)
        if rng.random() < 0.5:
            centre, axes = (width // 2, height // 2), (width // 2, height // 2)
            cv2.ellipse(drawn, centre, axes, 0, 0, 360, 1, -1)
        else:
            drawn[:] = 1
        shape = drawn > 0
    left = int(rng.integers(-width // 2, size - width // 2))
    base = int(rng.uniform(0.15, 1.4) * size)
    top = base - height
    rows = slice(max(top, 0), min(base, size))
    columns = slice(max(left, 0), min(left + width, size))
    region = near[rows, columns]
    part = shape[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    if not region.size:
        return
    floor = near[min(base, size) - 1, (columns.start + columns.stop - 1) // 2]
    value = region * np.float32(1 + rng.uniform(0.02, 0.2)) if flat else np.float32(floor)
    np.copyto(region, np.maximum(region, value), where=part)


def stand_objects(rng: Rng, near: Plane, mask: Mask, *, flat: bool, strength: float) -> Plane:
    """Put the salient objects into a scene.

    Args:
        rng: Draws everything.
        near: (s, s) float32 nearness of the surroundings; not changed.
        mask: (s, s) uint8, where the objects are.
        flat: Whether they lie below the camera.
        strength: 1: as the geometry has it; 0: they have the depth of what is behind them.
    """
    out = near.copy()
    count, labels, stats, _ = cv2.connectedComponentsWithStats(
        mask, connectivity=8, ltype=cv2.CV_16U
    )
    order = 1 + np.argsort(-stats[1:count, cv2.CC_STAT_AREA])[:MOST_OBJECTS]
    for label in order:
        x, y, w, h, _ = (int(v) for v in stats[label])
        box = np.s_[y : y + h, x : x + w]
        part = labels[box] == label
        behind = near[box]
        solid = _solid(rng, near, part, (x, y, w, h), flat)
        np.copyto(out[box], behind + np.float32(strength) * (solid - behind), where=part)
    return out


def _solid(
    rng: Rng, near: Plane, part: NDArray[np.bool_], box: tuple[int, int, int, int], flat: bool
) -> Plane:
    """Nearness over one object's box as if it filled it."""
    x, y, w, h = box
    behind = near[y : y + h, x : x + w]
    bulge = roundness(part) * np.float32(rng.uniform(0, 0.1))
    if flat:
        return np.asarray(behind * (1 + np.float32(rng.uniform(0.01, 0.18)) + bulge), np.float32)
    if rng.random() < 0.08:  # it hovers: a bird, a lamp, something held
        return np.asarray(behind.max() * (np.float32(rng.uniform(1, 1.6)) + bulge), np.float32)
    foot = part[-max(1, h // 12) :].any(axis=0)
    contact = float(near[y + h - 1, x : x + w][foot].mean())
    lean = np.float32(rng.normal(0, 0.08)) * np.linspace(1, 0, h, dtype=np.float32)[:, None]
    return np.asarray(np.maximum(behind, np.float32(contact) * (1 + lean + bulge)), np.float32)


def roundness(part: NDArray[np.bool_]) -> Plane:
    """How far an object bulges towards the camera: 0 at its outline, 1 where it is thickest."""
    framed = np.pad(part.astype(np.uint8), 1)  # its box is part of its outline
    inwards = np.asarray(cv2.distanceTransform(framed, cv2.DIST_L2, 3), np.float32)[1:-1, 1:-1]
    return np.asarray(np.sqrt(inwards / max(float(inwards.max()), 1.0)), np.float32)


def loosen(rng: Rng, near: Plane) -> Plane:
    """Draw depth edges away from the photograph's: wander, and blend here and there.

    Masks are exact to a pixel and depth never is: its edges wander by a few pixels, and along
    part of every contact line they are blended away altogether.
    """
    size = near.shape[0]
    reach = np.float32(abs(rng.normal(0, 0.014)) * size)
    columns, rows = np.meshgrid(*(np.arange(size, dtype=np.float32),) * 2)
    columns += reach * smooth_noise(rng, size, 9)
    rows += reach * smooth_noise(rng, size, 9)
    moved = cv2.remap(near, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    side = 2 * int(rng.integers(1, max(2, size // 20))) + 1
    blended = cv2.blur(moved, (side, side))
    share = np.clip(smooth_noise(rng, size, 7) + np.float32(rng.uniform(-1.2, 0.6)), 0, 1)
    return np.asarray(moved + share * (blended - moved), np.float32)


def to_metres(near: Plane) -> Plane:
    """Nearness, 1 / metres -> metres within what a sensor can be asked for."""
    return np.reciprocal(np.clip(near, np.float32(1 / FURTHEST_M), np.float32(1 / NEAREST_M)))
