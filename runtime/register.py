"""Registration: a depth image as the colour camera would have seen it.

Every depth pixel is a small square on a surface.  It is moved into the colour camera, projected,
and painted over the colour pixels whose centres it covers; where several cover one, the nearest
surface stays (a z-buffer).  On a surface that faces the camera the squares tile without gap or
overlap, so a colour image of more pixels gets no holes between them, and what lies behind does not
shine through.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge_fusion.errors import FrameError, SourceError
from edge_fusion.frame import Intrinsics

Plane = NDArray[np.float32]  # (h, w)
Rays = NDArray[np.float32]  # (3, h, w)
Depth = TypeVar("Depth", NDArray[np.uint16], NDArray[np.float32])
Number = TypeVar("Number", np.float32, np.float64)

_MODELS = (0, 4, 5, 8)  # coefficients that a distortion may have
_FARTHEST_BASELINE_M = 2.0
_SLANT = 1.05  # how much wider a square is than it is on a surface that faces the camera
_WIDEST = 8  # colour pixels across one depth pixel; beyond that gaps stay open
_MARGIN = _WIDEST + 1  # around the canvas, for what lies outside the image
_NO_UINT16 = 65535
_CACHED = 32_768  # readings worked on at once: what a processor's cache holds

_STEPS = 50  # of the iteration that undoes a distortion
_STRAY_PX = 0.05  # how well it has to succeed
_STEEPEST = 5.0  # tangent of the widest angle that a lens model is asked about


@dataclass(frozen=True, slots=True)
class Camera:
    """A pinhole camera with lens distortion.

    Attributes:
        width: Image width in pixels.
        height: Image height in pixels.
        fx: Focal length in pixels, horizontally.
        fy: Focal length in pixels, vertically.
        cx: Principal point, column.
        cy: Principal point, row.
        distortion: Brown-Conrady coefficients ``k1, k2, p1, p2``, then ``k3``, then ``k4, k5, k6``
            of the rational model, as in OpenCV; empty: none.

    Raises:
        SourceError: No camera has such values, or they belong to another resolution.

    Example:
        >>> Camera(640, 480, fx=600, fy=600, cx=319.5, cy=239.5).intrinsics
        Intrinsics(fx=600, fy=600, cx=319.5, cy=239.5)
    """

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    distortion: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        coefficients = tuple(float(value) for value in self.distortion)
        object.__setattr__(self, "distortion", coefficients if any(coefficients) else ())
        numbers = (self.fx, self.fy, self.cx, self.cy, *coefficients)
        problems = {
            "an image of at least one pixel": self.width >= 1 and self.height >= 1,
            "finite numbers": all(math.isfinite(number) for number in numbers),
            "focal lengths above 0": self.fx > 0 and self.fy > 0,
            "a principal point inside the image": 0 <= self.cx <= self.width - 1
            and 0 <= self.cy <= self.height - 1,
            f"{', '.join(map(str, _MODELS))} distortion coefficients": len(coefficients) in _MODELS,
        }
        for expected, fulfilled in problems.items():
            if not fulfilled:
                raise SourceError(
                    "this calibration of a camera is impossible",
                    expected=expected,
                    got=str(self),
                    cure="does it belong to another resolution, or are its numbers in another "
                    "order? read it from the camera again",
                )

    @property
    def intrinsics(self) -> Intrinsics:
        """The camera without its size and distortion."""
        return Intrinsics(self.fx, self.fy, self.cx, self.cy)


@dataclass(frozen=True, slots=True, eq=False, init=False)
class Rigid:
    """A rigid motion ``p' = rotation @ p + translation_m``; equal ones compare equal.

    Attributes:
        rotation: (3, 3) float64, read-only; made of nine numbers, row by row.
        translation_m: (3,) float64, read-only, metres.

    Raises:
        SourceError: No rotation, or a translation that is not in metres.

    Example:
        >>> Rigid(np.eye(3), (0.015, 0, 0)).translation_m
        array([0.015, 0.   , 0.   ])
    """

    rotation: NDArray[np.float64]
    translation_m: NDArray[np.float64]

    def __init__(self, rotation: ArrayLike, translation_m: ArrayLike) -> None:
        for name, given, shape in (
            ("rotation", rotation, (3, 3)),
            ("translation_m", translation_m, (3,)),
        ):
            numbers = np.array(given, np.float64)
            if numbers.size != math.prod(shape):
                raise SourceError(f"{name} of a camera", expected=str(shape), got=f"{numbers}")
            numbers = numbers.reshape(shape)
            numbers.setflags(write=False)  # it is hashed
            object.__setattr__(self, name, numbers)
        self._check()

    def _check(self) -> None:
        rotation, translation = self.rotation, self.translation_m
        if not (
            np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-3) and np.linalg.det(rotation) > 0
        ):
            raise SourceError(
                "rotation from the depth to the colour camera",
                expected="an orthonormal matrix of determinant 1",
                got=str(rotation.tolist()),
                cure="is it written column by column? then transpose it",
            )
        if not np.linalg.norm(translation) <= _FARTHEST_BASELINE_M:
            raise SourceError(
                "translation from the depth to the colour camera",
                expected=f"at most {_FARTHEST_BASELINE_M:g} m",
                got=str(translation.tolist()),
                cure="is it in millimetres? divide it by 1000",
            )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rigid) and self._bytes() == other._bytes()

    def __hash__(self) -> int:
        return hash(self._bytes())

    @property
    def moves_nothing(self) -> bool:
        """Whether this is the identity."""
        return bool(np.all(self.rotation == np.eye(3)) and not self.translation_m.any())

    def _bytes(self) -> bytes:
        return self.rotation.tobytes() + self.translation_m.tobytes()


def register_depth(
    depth_raw: Depth,
    scale_to_m: float,
    depth_camera: Camera,
    color_camera: Camera,
    depth_to_color: Rigid,
) -> Depth:
    """Depth as the colour camera sees it.

    Equal cameras at one place cost nothing: the depth itself comes back.

    Args:
        depth_raw: (h, w) uint16 or float32; 0, NaN and infinity say "no reading".
        scale_to_m: Metres per unit of ``depth_raw``.
        depth_camera: The camera of ``depth_raw``.
        color_camera: The camera of the colour image.
        depth_to_color: From a point in the depth camera to the same point in the colour camera.

    Returns:
        (H, W) of the colour camera, dtype and unit of ``depth_raw``, 0 = no reading: distances
        along the colour camera's optical axis.

    Raises:
        FrameError: The depth has another size than its camera, or another dtype.

    Example:
        >>> depth_camera = Camera(64, 48, 60, 60, 31.5, 23.5)
        >>> color_camera = Camera(128, 96, 140, 140, 63.5, 47.5)
        >>> depth = np.full((48, 64), 2000, np.uint16)
        >>> moved = register_depth(
        ...     depth, 0.001, depth_camera, color_camera, Rigid(np.eye(3), (0.01, 0, 0))
        ... )
        >>> moved.shape, int(moved.min()), int(moved.max())
        ((96, 128), 2000, 2000)
    """
    expected = (depth_camera.height, depth_camera.width)
    if depth_raw.shape != expected or depth_raw.dtype not in (np.uint16, np.float32):
        raise FrameError(
            "depth to be registered",
            expected=f"{expected} uint16 or float32, as its camera's calibration says",
            got=f"{depth_raw.shape} {depth_raw.dtype}",
            cure="is the calibration of another resolution?",
        )
    if not (math.isfinite(scale_to_m) and scale_to_m > 0):
        raise FrameError("scale of depth", expected="metres per unit, above 0", got=f"{scale_to_m}")
    if depth_camera == color_camera and depth_to_color.moves_nothing:
        return _finite(depth_raw)
    return _warp(depth_camera, color_camera, depth_to_color).paint(depth_raw, scale_to_m)


@lru_cache(maxsize=8)
def _warp(depth_camera: Camera, color_camera: Camera, depth_to_color: Rigid) -> _Warp:
    return _Warp(depth_camera, color_camera, depth_to_color)


class _Warp:
    """What registration needs of two cameras, worked out once.

    A reading ``z`` on the ray ``r`` of its pixel lies at ``z (R r) + t`` in the colour camera;
    ``R r`` is stored.  Without distortion the colour camera's matrix is multiplied in.
    """

    def __init__(self, depth_camera: Camera, color_camera: Camera, depth_to_color: Rigid) -> None:
        self._camera = color_camera
        matrix = np.eye(3) if color_camera.distortion else _matrix(color_camera)
        rays = _rays(depth_camera) @ (matrix @ depth_to_color.rotation).T
        self._rays: Rays = np.ascontiguousarray(np.moveaxis(rays, -1, 0), np.float32)
        self._shift_m = matrix @ depth_to_color.translation_m
        self._fold = np.float32(_fold(color_camera.distortion) ** 2)
        self._spans = self._measure_spans()

    def paint(self, depth_raw: Depth, scale_to_m: float) -> Depth:
        """The depth, registered."""
        stride = self._camera.width + 2 * _MARGIN
        nothing = depth_raw.dtype.type(np.inf if depth_raw.dtype == np.float32 else _NO_UINT16)
        canvas = np.full((self._camera.height + 2 * _MARGIN) * stride, nothing, depth_raw.dtype)
        shift = (self._shift_m / scale_to_m).astype(np.float32)
        rows_at_once = max(1, _CACHED // depth_raw.shape[1])
        for begin in range(0, depth_raw.shape[0], rows_at_once):
            some = slice(begin, begin + rows_at_once)
            z = depth_raw[some].astype(np.float32)
            columns, rows, distance = self._project(self._rays[:, some], z, shift)
            self._paint_squares(canvas.reshape(-1, stride), columns, rows, distance)
        image = canvas.reshape(-1, stride)[_MARGIN:-_MARGIN, _MARGIN:-_MARGIN]
        return np.where(image == nothing, depth_raw.dtype.type(0), image)

    def _project(self, rays: Rays, z: Plane, shift: Plane) -> tuple[Plane, Plane, Plane]:
        """Columns, rows and distances in the colour camera; NaN for what it cannot see."""
        x, y, distance = (ray * z for ray in rays)
        x += shift[0]
        y += shift[1]
        distance += shift[2]
        with np.errstate(all="ignore"):  # no reading, infinite ones, and what lies behind
            distance[~((z > 0) & (distance > 0))] = np.nan
            inverse = np.reciprocal(distance)
            x *= inverse
            y *= inverse
            if self._camera.distortion:
                x[x * x + y * y >= self._fold] = np.nan
                x, y = _distorted(x, y, self._camera.distortion)
                x = x * np.float32(self._camera.fx) + np.float32(self._camera.cx)
                y = y * np.float32(self._camera.fy) + np.float32(self._camera.cy)
        return x, y, distance

    def _paint_squares(
        self, canvas: NDArray[Any], columns: Plane, rows: Plane, distance: Plane
    ) -> None:
        wide, high = (np.float32(span) for span in self._spans)
        left, top = columns - wide / 2, rows - high / 2
        farthest = np.inf
        if canvas.dtype == np.uint16:
            distance += np.float32(0.5)  # to round
            farthest = _NO_UINT16
        inside = (left >= -wide) & (left <= self._camera.width - 1) & (distance < farthest)
        inside &= (top >= -high) & (top <= self._camera.height - 1)
        chosen = np.flatnonzero(inside)
        value = distance.ravel()[chosen].astype(canvas.dtype)
        first_column, more_columns = _covered(left.ravel()[chosen], wide)
        first_row, more_rows = _covered(top.ravel()[chosen], high)
        first = first_row * canvas.shape[1] + first_column
        flat = canvas.reshape(-1)
        np.minimum.at(flat, first, value)
        # The further rows and columns of the squares, one at a time.
        for down in range(math.floor(high) + 1):
            for right in range(math.floor(wide) + 1):
                if down or right:
                    also = np.flatnonzero((more_rows >= down) & (more_columns >= right))
                    further = first[also] + (down * canvas.shape[1] + right)
                    np.minimum.at(flat, further, value[also])

    def _measure_spans(self) -> tuple[float, float]:
        """Colour columns and rows across one depth pixel, where surfaces are far away."""
        far = np.ones(self._rays.shape[1:], np.float32)
        columns, rows, _ = self._project(self._rays, far, np.zeros(3, np.float32))
        with np.errstate(invalid="ignore"):
            inside = (columns >= 0) & (columns < self._camera.width)
            inside &= (rows >= 0) & (rows < self._camera.height)
        beside, below = inside[:, 1:] & inside[:, :-1], inside[1:] & inside[:-1]

        def span(at: Plane) -> float:
            steps = (np.diff(at, axis=1)[beside], np.diff(at, axis=0)[below])
            widest = [float(np.percentile(np.abs(step), 99)) for step in steps if step.size]
            return min(max(1.0, *widest) * _SLANT, _WIDEST) if widest else 1.0

        return span(columns), span(rows)


def _finite(depth: Depth) -> Depth:
    if depth.dtype == np.uint16:
        return depth
    return np.where(np.isfinite(depth), depth, depth.dtype.type(0))


def _covered(begin: Plane, span: np.float32) -> tuple[NDArray[np.intp], NDArray[np.int8]]:
    """The first pixel whose centre a square covers, counted in the margin, and how many more."""
    first = np.ceil(begin)
    more = (np.floor(begin + span) - first).astype(np.int8)
    return (first + np.float32(_MARGIN)).astype(np.intp), more


def _matrix(camera: Camera) -> NDArray[np.float64]:
    return np.array(((camera.fx, 0, camera.cx), (0, camera.fy, camera.cy), (0, 0, 1)))


def _rays(camera: Camera) -> NDArray[np.float64]:
    """(h, w, 3): where each pixel looks, forward component 1; backward where the lens shows none.

    A distortion is undone by ``x <- (x_seen - tangential(x)) / radial(x)``.
    """
    columns = np.arange(camera.width, dtype=np.float64)[None, :]
    rows = np.arange(camera.height, dtype=np.float64)[:, None]
    seen_x, seen_y = np.broadcast_arrays(
        (columns - camera.cx) / camera.fx, (rows - camera.cy) / camera.fy
    )
    x, y, forward = seen_x, seen_y, np.ones_like(seen_x)
    if camera.distortion:
        with np.errstate(all="ignore"):  # where the lens shows nothing it diverges
            for _ in range(_STEPS):
                radial, shift_x, shift_y = _lens(x, y, camera.distortion)
                x, y = (seen_x - shift_x) / radial, (seen_y - shift_y) / radial
            back_x, back_y = _distorted(x, y, camera.distortion)
            stray = np.hypot((back_x - seen_x) * camera.fx, (back_y - seen_y) * camera.fy)
            found = (stray < _STRAY_PX) & (np.hypot(x, y) < _fold(camera.distortion))
        x, y, forward = np.where(found, x, 0), np.where(found, y, 0), np.where(found, 1.0, -1.0)
    return np.stack((x, y, forward), axis=-1)


def _lens(
    x: NDArray[Number], y: NDArray[Number], distortion: tuple[float, ...]
) -> tuple[NDArray[Number], NDArray[Number], NDArray[Number]]:
    """Brown-Conrady: the factor on ``x, y`` (on the plane z = 1), and the tangential shifts.

    ``radial = (1 + k1 r^2 + k2 r^4 + k3 r^6) / (1 + k4 r^2 + k5 r^4 + k6 r^6)``,
    ``shift_x = 2 p1 x y + p2 (r^2 + 2 x^2)``, ``shift_y = p1 (r^2 + 2 y^2) + 2 p2 x y``.
    """
    as_ours = x.dtype.type  # float32 stays float32
    k1, k2, p1, p2, k3, k4, k5, k6 = map(as_ours, (*distortion, *(0.0,) * (8 - len(distortion))))
    xx, yy, xy = x * x, y * y, x * y
    square = xx + yy
    radial = 1 + square * (k1 + square * (k2 + square * k3))
    if k4 or k5 or k6:
        radial /= 1 + square * (k4 + square * (k5 + square * k6))
    return (
        radial,
        2 * p1 * xy + p2 * (square + 2 * xx),
        p1 * (square + 2 * yy) + 2 * p2 * xy,
    )


def _distorted(
    x: NDArray[Number], y: NDArray[Number], distortion: tuple[float, ...]
) -> tuple[NDArray[Number], NDArray[Number]]:
    radial, shift_x, shift_y = _lens(x, y, distortion)
    return x * radial + shift_x, y * radial + shift_y


def _fold(distortion: tuple[float, ...]) -> float:
    """The radius at which the lens model turns back: what lies beyond would be seen twice."""
    if not distortion:
        return math.inf
    radius = np.linspace(0, _STEEPEST, 5001)
    radial, _, _ = _lens(radius, np.zeros_like(radius), distortion)
    turns = np.flatnonzero(np.diff(radius * radial) <= 0)
    return float(radius[turns[0]]) if turns.size else math.inf
