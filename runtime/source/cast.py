"""Analytic ray casting of convex bodies, in inverse depth.

With ``s = 1 / z`` along the ray ``d = [right, down, forward] x`` through the pixel
``x = (xn, yn, 1)``, and the camera at ``o``:

* a plane ``n . p = k`` is linear in the pixel: ``s = (n . d) / (k - n . o)``;
* inside a convex room the wall that is seen is the one with the *largest* ``s``;
* a convex body is entered at the *smallest* ``s`` over the planes that face the camera and left at
  the *largest* over the others; it is hit where it is entered before it is left;
* on the unit sphere ``|o + d / s| = 1``, so ``c s^2 + 2 b s + a = 0`` with ``a = d . d``,
  ``b = o . d``, ``c = o . o - 1``, hence ``s = (-b + sqrt(b^2 - a c)) / c``, and ``b^2 - a c`` is
  one quadratic form of ``x``.  A cylinder is the same without its own y axis, cut by a slab.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .scene import Shape, Solid

Plane = NDArray[np.float32]  # (H, W)
Points = tuple[Plane, Plane, Plane]  # a body's own x, y, z of every pixel
Matrix = NDArray[np.float64]
Pose = tuple[Matrix, float]  # (3,) metres, and radians about the vertical axis
Box = tuple[slice, slice]

_NEAREST_M = 0.02  # bodies with a corner closer than this are cast over the whole image
_EPSILON = 1e-9


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """A pinhole camera at one moment, with pixel coordinates on the plane z = 1.

    Attributes:
        origin: (3,) metres in the world.
        axes: (3, 3), columns right, down, forward.
        focal_px: Focal length in pixels.
        xn: (1, W) float32, ``(column - cx) / focal_px``.
        yn: (H, 1) float32, ``(row - cy) / focal_px``.
    """

    origin: Matrix
    axes: Matrix
    focal_px: float
    xn: Plane
    yn: Plane

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.xn.shape[1], self.yn.shape[0]


def linear(form: Matrix, xn: Plane, yn: Plane) -> Plane:
    """``form . (xn, yn, 1)`` for every pixel: (H, W) float32."""
    a, b, c = form.astype(np.float32)
    return np.asarray((a * xn + c) + b * yn, np.float32)


def quadratic(form: Matrix, xn: Plane, yn: Plane) -> Plane:
    """``x^T form x`` for every pixel, ``form`` symmetric: (H, W) float32."""
    q = form.astype(np.float32)
    two = np.float32(2)
    across = (q[0, 0] * xn + two * q[0, 2]) * xn + q[2, 2]
    down = (q[1, 1] * yn + two * q[1, 2]) * yn
    total = (two * q[0, 1]) * yn * xn
    total += across
    total += down
    return np.asarray(total, np.float32)


def plane_form(view: View, normal: Matrix, offset: float) -> Matrix:
    """The linear form of the inverse depth of the plane ``normal . p = offset``."""
    gap = offset - float(normal @ view.origin)
    return (view.axes.T @ normal) / gap


class Body:
    """A solid at one moment, seen in its own axes, where it fills the cube -1..1.

    Args:
        view: The camera.
        solid: What it is.
        pose: Where its thing is.
    """

    def __init__(self, view: View, solid: Solid, pose: Pose) -> None:
        place, yaw = pose
        heading = _about_y(yaw)
        self.rotation = heading @ _turned(*solid.turn)  # world from own axes
        self.half = np.asarray(solid.half)
        self.centre = place + heading @ np.asarray(solid.centre)
        own_from_world = self.rotation.T / self.half[:, None]
        self.origin = own_from_world @ (view.origin - self.centre)
        self.rays = own_from_world @ view.axes

    def bounding_box(self, view: View) -> Box | None:
        """Rows and columns that may show the body; None where it is out of view."""
        corners = self.centre + (_CUBE * self.half) @ self.rotation.T
        x, y, z = ((corners - view.origin) @ view.axes).T
        width, height = view.size
        if z.max() < _NEAREST_M:
            return None
        if z.min() < _NEAREST_M:
            return np.s_[0:height, 0:width]
        column = view.focal_px * x / z + (width - 1) / 2
        row = view.focal_px * y / z + (height - 1) / 2
        left, right = max(math.floor(column.min()), 0), min(math.ceil(column.max()) + 1, width)
        top, bottom = max(math.floor(row.min()), 0), min(math.ceil(row.max()) + 1, height)
        return np.s_[top:bottom, left:right] if left < right and top < bottom else None

    def points(self, inverse: Plane, xn: Plane, yn: Plane) -> Points:
        """The body's own coordinates of what is seen at an inverse depth: ``o + d / s``."""
        depth = np.float32(1) / inverse
        x, y, z = (
            linear(ray, xn, yn) * depth + np.float32(start)
            for ray, start in zip(self.rays, self.origin, strict=True)
        )
        return x, y, z

    def slab(self, axis: int, xn: Plane, yn: Plane) -> tuple[list[Plane], list[Plane]]:
        """Inverse depths at which ``|own axis| <= 1`` begins and ends to hold along a ray."""
        entries: list[Plane] = []
        exits: list[Plane] = []
        for sign in (1.0, -1.0):
            gap = 1 - sign * self.origin[axis]
            if abs(gap) > _EPSILON:
                side = exits if gap > 0 else entries
                side.append(linear(sign * self.rays[axis] / gap, xn, yn))
        return entries, exits


_CUBE = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float64)


def _about_y(angle: float) -> Matrix:
    cos, sin = math.cos(angle), math.sin(angle)
    return np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])


def _turned(yaw: float, tilt_x: float, tilt_z: float) -> Matrix:
    if not tilt_x and not tilt_z:
        return _about_y(yaw)
    cos, sin = math.cos(tilt_x), math.sin(tilt_x)
    about_x = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    cos, sin = math.cos(tilt_z), math.sin(tilt_z)
    about_z = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    return np.asarray(_about_y(yaw) @ about_x @ about_z)


Hit = tuple[Plane, NDArray[np.bool_]]  # inverse depth where entered, and where it is hit


def _cast_between(entries: list[Plane], exits: list[Plane]) -> Hit | None:
    """The hit of a convex body from its entering and leaving inverse depths."""
    if not entries:
        return None  # the camera is inside
    entry = entries[0]
    for other in entries[1:]:
        entry = np.minimum(entry, other)
    hit = entry > 0
    for other in exits:
        hit &= entry >= other
    return entry, hit


def _cast_box(body: Body, xn: Plane, yn: Plane) -> Hit | None:
    entries: list[Plane] = []
    exits: list[Plane] = []
    for axis in range(3):
        begins, ends = body.slab(axis, xn, yn)
        entries += begins
        exits += ends
    return _cast_between(entries, exits)


def _cast_ellipsoid(body: Body, xn: Plane, yn: Plane) -> Hit | None:
    b_form, c = body.rays.T @ body.origin, float(body.origin @ body.origin) - 1
    if c <= _EPSILON:
        return None
    root = quadratic(np.outer(b_form, b_form) - c * (body.rays.T @ body.rays), xn, yn)
    hit = root > 0
    entry = (np.sqrt(np.maximum(root, 0)) - linear(b_form, xn, yn)) / np.float32(c)
    hit &= entry > 0
    return entry, hit


def _cast_cylinder(body: Body, xn: Plane, yn: Plane) -> Hit | None:
    origin, rays = body.origin[[0, 2]], body.rays[[0, 2]]
    b_form, c = rays.T @ origin, float(origin @ origin) - 1
    if abs(c) <= _EPSILON:
        return None
    root = quadratic(np.outer(b_form, b_form) - c * (rays.T @ rays), xn, yn)
    inside = root > 0
    spread = np.sqrt(np.maximum(root, 0))
    middle = linear(b_form, xn, yn)
    entries, exits = body.slab(1, xn, yn)
    if c > 0:
        entries.append((spread - middle) / np.float32(c))
    exits.append((-spread - middle) / np.float32(c))  # for c < 0 this root is the positive one
    found = _cast_between(entries, exits)
    return None if found is None else (found[0], found[1] & inside)


CASTERS: dict[Shape, Callable[[Body, Plane, Plane], Hit | None]] = {
    "box": _cast_box,
    "cylinder": _cast_cylinder,
    "ellipsoid": _cast_ellipsoid,
}


def _facing_box(body: Body, points: Points, towards: Matrix) -> Plane:
    own = (body.rotation.T @ towards).astype(np.float32)
    x, y, z = (np.abs(axis) for axis in points)
    flat = np.sign(points[2]) * own[2]
    flat = np.where(x > z, np.sign(points[0]) * own[0], flat)
    return np.where(y > np.maximum(x, z), np.sign(points[1]) * own[1], flat)


def _facing_round(body: Body, points: Points, towards: Matrix, axes: tuple[int, ...]) -> Plane:
    """``n . towards / |n|`` with the outward normal ``n = rotation (p / half)``."""
    own = (body.rotation.T @ towards) / body.half
    along = sum((points[k] * np.float32(own[k]) for k in axes), start=np.float32(0))
    square = sum(((points[k] * np.float32(1 / body.half[k])) ** 2 for k in axes), np.float32(0))
    return np.asarray(along / np.sqrt(np.maximum(square, np.float32(_EPSILON))), np.float32)


def _facing_ellipsoid(body: Body, points: Points, towards: Matrix) -> Plane:
    return _facing_round(body, points, towards, (0, 1, 2))


def _facing_cylinder(body: Body, points: Points, towards: Matrix) -> Plane:
    x, y, z = points
    cap = np.sign(y) * np.float32((body.rotation.T @ towards)[1])
    on_cap = np.abs(y) > np.sqrt(x * x + z * z)
    return np.where(on_cap, cap, _facing_round(body, points, towards, (0, 2)))


FACINGS: dict[Shape, Callable[[Body, Points, Matrix], Plane]] = {
    "box": _facing_box,
    "cylinder": _facing_cylinder,
    "ellipsoid": _facing_ellipsoid,
}
