"""A table with a wall, a room or nothing behind it: somewhere for cut-outs to stand.

Photographs show one large subject.  Robots look at several small things on a plain surface, with
clutter beyond its edge and parts of themselves in the corners.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_fusion.frame import RgbdFrame

from .depth import Plane, Rng, smooth_noise

Image = NDArray[np.float32]  # (s, s, 3), 0..255


def draw_table(
    rng: Rng, size: int, rooms: Sequence[RgbdFrame]
) -> tuple[NDArray[np.uint8], Plane, bool]:
    """An empty table.

    Args:
        rng: Draws everything.
        size: Side in pixels.
        rooms: Real frames whose colour may be seen beyond the table's edge.

    Returns:
        (s, s, 3) uint8 colour, (s, s) float32 nearness in 1 / metres, and whether it is seen from
        straight above.
    """
    flat = bool(rng.random() < 0.4)
    across = np.linspace(-0.5, 0.5, size, dtype=np.float32)[None, :]
    down = np.linspace(0, 1, size, dtype=np.float32)[:, None]
    nearest = np.float32(1 / np.exp(rng.uniform(np.log(0.4), np.log(1.1))))
    if flat:
        near = nearest * (1 + np.float32(rng.normal(0, 0.15)) * down + np.float32(0.05) * across)
    else:
        horizon = np.float32(rng.uniform(-2.2, -0.1))
        near = nearest * (down - horizon) / (1 - horizon)
    near = np.ascontiguousarray(np.broadcast_to(near, (size, size)), np.float32)
    colour = _surface(rng, size)
    beyond = _beyond(rng, size, flat)
    room = _room(rng, size, rooms)
    drop = np.float32(rng.uniform(0.25, 0.9))
    colour = np.where(beyond[..., None], room, colour)
    near = np.where(beyond, near * drop * (1 + 0.15 * smooth_noise(rng, size, 4)), near)
    for _ in range(int(rng.choice([0, 1, 2], p=[0.55, 0.25, 0.2]))):
        _intrude(rng, colour, near)
    light = 1 + np.float32(0.15) * smooth_noise(rng, size, 3)
    return (colour * light[..., None]).clip(0, 255).astype(np.uint8), near, flat


def _surface(rng: Rng, size: int) -> Image:
    """One colour with grain, grey more often than bright."""
    hue, value = int(rng.integers(180)), int(rng.uniform(35, 250))
    saturation = int(255 * rng.beta(1.0, 2.5))
    pixel = cv2.cvtColor(np.array([[[hue, saturation, value]]], np.uint8), cv2.COLOR_HSV2RGB)
    grain = rng.standard_normal((size, max(2, size // int(rng.integers(1, 24)))), np.float32)
    if rng.random() < 0.5:
        grain = grain.T
    stretched = cv2.resize(
        np.ascontiguousarray(grain), (size, size), interpolation=cv2.INTER_LINEAR
    )
    texture = np.asarray(stretched, np.float32) * np.float32(rng.uniform(0, 0.09))
    texture += smooth_noise(rng, size, int(rng.integers(3, 40))) * np.float32(rng.uniform(0, 0.08))
    return np.asarray(pixel, np.float32) * (1 + texture)[..., None]


def _beyond(rng: Rng, size: int, flat: bool) -> NDArray[np.bool_]:
    """Where the table ends: behind a slanting far edge, and beyond up to two sides."""
    down, across = np.mgrid[0 : 1 : size * 1j, -0.5 : 0.5 : size * 1j].astype(np.float32)
    edge = rng.uniform(-0.3, 0.4) + rng.normal(0, 0.15) * across
    out = down < edge
    for sign in (-1, 1):
        if rng.random() < (0.4 if flat else 0.25):
            out |= sign * across > rng.uniform(0.3, 0.5) + rng.normal(0, 0.15) * (down - 0.5)
    if not flat and rng.random() < 0.2:  # a round table
        out |= (across / 0.65) ** 2 + ((down - 0.75) / 0.65) ** 2 > 1
    return np.asarray(out)


def _room(rng: Rng, size: int, rooms: Sequence[RgbdFrame]) -> Image:
    if not rooms or rng.random() < 0.3:
        return _surface(rng, size)
    rgb = rooms[int(rng.integers(len(rooms)))].rgb
    return np.asarray(cv2.resize(rgb, (size, size), interpolation=cv2.INTER_AREA), np.float32)


def _intrude(rng: Rng, colour: Image, near: Plane) -> None:
    """Something of the robot's own in a corner: near and not salient; in place."""
    size = near.shape[0]
    shape = np.zeros((size, size), np.uint8)
    centre = (int(rng.choice([0.1, 0.9]) * size + rng.normal(0, 0.1) * size), size)
    axes = (int(rng.uniform(0.06, 0.2) * size), int(rng.uniform(0.1, 0.35) * size))
    cv2.ellipse(shape, centre, axes, float(rng.uniform(-30, 30)), 0, 360, 1, -1)
    where = shape > 0
    np.copyto(near, near.max() * np.float32(rng.uniform(1.1, 2.0)), where=where)
    np.copyto(colour, _surface(rng, size), where=where[..., None])
