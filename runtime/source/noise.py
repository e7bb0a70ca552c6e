"""The one model of what depth sensors get wrong, shared by the demo, training and tests.

Formulas, with ``z`` in metres, ``f`` the focal length in pixels and ``b`` the baseline in metres:

* A triangulating sensor measures disparity ``d = f b / z``.  An error of ``e`` pixels in ``d`` is
  ``z^2 e / (f b)`` metres in ``z``, so noise and quantisation steps grow with the square of the
  distance.
* It sees a point from two places.  With ``p = x - d(x)`` the second view's column, a point is
  hidden there, and has no depth, where some point on its other side has a smaller ``p``: a shadow
  beside every near object, on the side of the second view, ``d_near - d_far`` pixels wide.
* Matching windows that straddle an edge take the nearer side: near objects grow ("fattening").
* A time-of-flight sensor's noise falls with the light that returns: ``a + c z^2`` metres, more on
  dark surfaces, none beyond its range.  A pixel that straddles an edge mixes both distances
  ("flying pixels").
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_fusion.errors import InputError

Metres = NDArray[np.float32]  # (H, W)
Flags = NDArray[np.bool_]  # (H, W)
Rng = np.random.Generator

NATIVE_WIDTH = 640  # pixel quantities of a SensorModel are meant at this image width
_POOL_SEED = 20_242


@dataclass(frozen=True, slots=True)
class SensorModel:
    """Parameters of a depth sensor.  Pixel quantities are meant at 640 pixels of width.

    Attributes:
        principle: How it measures; decides which of the steps below apply.
        near_m: Nothing closer is seen.
        far_m: Nothing further is seen.
        focal_baseline: ``f b``, pixel metres.
        disparity_step: Smallest change of disparity it reports, pixels; 0: continuous.
        disparity_noise: Standard deviation of the disparity, pixels.
        shadow_side: Where a near object casts its shadow: -1 left of it, +1 right of it.
        fattening: Half-size of the matching window, pixels.
        texture_floor: Grey-level contrast below which matching fails; 0: it brings its own light.
        noise_m: Standard deviation of a direct distance, metres, at any distance.
        noise_per_m2: What is added to it per square metre of distance.
        flying: Share of the pixels beside an edge that mix both sides.
        dark_limit: Grey level times ``(far_m / z)^2 / 4`` below which too little light returns.
        dropout: Share of the image lost in blots: gloss, dust, interference.
        misregistration: Largest shift against the colour image, pixels.
    """

    principle: Literal["none", "stereo", "structured", "tof"]
    near_m: float = 0.1
    far_m: float = 20.0
    focal_baseline: float = 30.0
    disparity_step: float = 0.0
    disparity_noise: float = 0.0
    shadow_side: Literal[-1, 1] = -1
    fattening: float = 0.0
    texture_floor: float = 0.0
    noise_m: float = 0.0
    noise_per_m2: float = 0.0
    flying: float = 0.0
    dark_limit: float = 0.0
    dropout: float = 0.0
    misregistration: float = 0.0


SENSORS: dict[str, SensorModel] = {
    # No sensor at all: exact depth, rounded to millimetres.
    "none": SensorModel("none", near_m=0.0, far_m=65.0),
    # An active stereo camera of 5 cm baseline, such as sit on robots.
    "stereo": SensorModel(
        "stereo",
        near_m=0.2,
        far_m=10.0,
        focal_baseline=31.0,
        disparity_step=1 / 16,
        disparity_noise=0.07,
        fattening=2.5,
        texture_floor=0.4,
        dropout=0.012,
        misregistration=2.0,
    ),
    # An infrared dot pattern seen from 7.5 cm beside its projector.
    "structured": SensorModel(
        "structured",
        near_m=0.3,
        far_m=6.0,
        focal_baseline=43.5,
        disparity_step=1 / 8,
        disparity_noise=0.05,
        shadow_side=1,
        fattening=1.0,
        dark_limit=6.0,
        dropout=0.01,
        misregistration=3.0,
    ),
    # Time of flight.
    "tof": SensorModel(
        "tof",
        near_m=0.15,
        far_m=5.5,
        noise_m=0.003,
        noise_per_m2=0.0015,
        flying=0.6,
        dark_limit=14.0,
        dropout=0.004,
        misregistration=3.0,
    ),
}


def apply_sensor(
    depth_m: Metres, sensor: SensorModel, rng: Rng, gray: NDArray[np.uint8] | None = None
) -> NDArray[np.uint16]:
    """What a sensor would report of a scene.

    Args:
        depth_m: (H, W) float32, true distance along the viewing axis in metres, positive.
        sensor: Its parameters; see :data:`SENSORS`.
        rng: Draws everything random; the same state gives the same result.
        gray: (H, W) uint8 brightness, for what depends on texture and darkness; None: neither.

    Returns:
        (H, W) uint16, millimetres, 0 where there is no reading.

    Raises:
        InputError: The arrays do not fit each other or hold no plain distances.

    Example:
        >>> import numpy as np
        >>> wall = np.full((48, 64), 2.0, np.float32)
        >>> seen = apply_sensor(wall, SENSORS["structured"], np.random.default_rng(0))
        >>> seen.dtype, bool(1900 < np.median(seen[seen > 0]) < 2100)
        (dtype('uint16'), True)
    """
    if depth_m.ndim != 2 or depth_m.dtype != np.float32:
        raise InputError(
            "true depth", expected="(H, W) float32", got=f"{depth_m.shape} {depth_m.dtype}"
        )
    if gray is not None and (gray.shape != depth_m.shape or gray.dtype != np.uint8):
        raise InputError(
            "brightness", expected=f"{depth_m.shape} uint8", got=f"{gray.shape} {gray.dtype}"
        )
    measured, lost = _PRINCIPLES[sensor.principle](depth_m, sensor, rng, gray)
    lost |= (depth_m < sensor.near_m) | (depth_m > sensor.far_m)
    if sensor.dropout:
        lost |= _blots(depth_m.shape, sensor.dropout, rng)
    millimetres = np.rint(measured * np.float32(1000)).clip(0, 65_535).astype(np.uint16)
    millimetres[lost] = 0
    return _misregister(millimetres, sensor, rng)


_Measured = tuple[Metres, Flags]  # distance, and where there is none


def _measure_exactly(
    depth_m: Metres, sensor: SensorModel, rng: Rng, gray: NDArray[np.uint8] | None
) -> _Measured:
    return depth_m, np.zeros(depth_m.shape, np.bool_)


def _triangulate(
    depth_m: Metres, sensor: SensorModel, rng: Rng, gray: NDArray[np.uint8] | None
) -> _Measured:
    """Stereo and structured light: everything happens in disparity."""
    scale = depth_m.shape[1] / NATIVE_WIDTH
    disparity = np.float32(sensor.focal_baseline) / depth_m
    lost = hidden_from_second_view(disparity * np.float32(scale), sensor.shadow_side)
    window = 2 * round(sensor.fattening * scale) + 1
    if window > 1:
        disparity = _fattened(disparity, window, rng)
    disparity += np.float32(sensor.disparity_noise) * _gaussian(depth_m.shape, rng)
    if sensor.disparity_step:
        step = np.float32(sensor.disparity_step)
        disparity = np.rint(disparity / step) * step
    lost |= disparity <= 0
    if gray is not None:
        if sensor.texture_floor:
            lost |= _textureless(gray, sensor.texture_floor, scale, rng)
        lost |= _too_dark(gray, depth_m, sensor, rng)
    measured = np.float32(sensor.focal_baseline) / np.maximum(disparity, np.float32(1e-3))
    return measured, lost


def _time_flight(
    depth_m: Metres, sensor: SensorModel, rng: Rng, gray: NDArray[np.uint8] | None
) -> _Measured:
    """Time of flight: noise by returned light, flying pixels at edges."""
    lost = np.zeros(depth_m.shape, np.bool_)
    kernel = np.ones((3, 3), np.uint8)
    nearest, furthest = cv2.erode(depth_m, kernel), cv2.dilate(depth_m, kernel)
    edge = furthest - nearest > np.float32(0.04) * depth_m
    draw = _gaussian(depth_m.shape, rng)
    measured = depth_m + draw * (
        np.float32(sensor.noise_m) + np.float32(sensor.noise_per_m2) * depth_m * depth_m
    )
    rows, columns = np.nonzero(edge)
    share = rng.random(rows.size, np.float32)
    mixes = rng.random(rows.size, np.float32) < sensor.flying
    near, far = nearest[rows, columns], furthest[rows, columns]
    measured[rows, columns] = np.where(mixes, near + share * (far - near), depth_m[rows, columns])
    # The sensor's own filter removes some of what it knows to be mixed.
    lost[rows, columns] = mixes & (np.abs(share - 0.5) < 0.2)
    if gray is not None:
        lost |= _too_dark(gray, depth_m, sensor, rng)
    return measured, lost


_PRINCIPLES: dict[
    str, Callable[[Metres, SensorModel, Rng, NDArray[np.uint8] | None], _Measured]
] = {
    "none": _measure_exactly,
    "stereo": _triangulate,
    "structured": _triangulate,
    "tof": _time_flight,
}


def hidden_from_second_view(disparity_px: NDArray[np.float32], side: Literal[-1, 1]) -> Flags:
    """Pixels that the second camera, or the projector, cannot see.

    Args:
        disparity_px: (H, W) float32, in pixels of this image.
        side: -1 where near objects hide what is left of them, +1 what is right.

    Returns:
        (H, W) bool.  Along a row, ``p = x - d(x)`` is where a point lands in the second view; it
        is hidden where a point further along has landed at or before the same place.

    Example:
        >>> import numpy as np
        >>> row = np.float32([[1, 1, 1, 1, 3, 3, 1, 1]])
        >>> hidden_from_second_view(row, -1).astype(int)
        array([[0, 0, 1, 1, 0, 0, 0, 0]])
    """
    facing = disparity_px if side < 0 else disparity_px[:, ::-1]
    landing = np.arange(facing.shape[1], dtype=np.float32) - facing
    first_after = np.minimum.accumulate(landing[:, ::-1], axis=1)[:, ::-1]
    hidden = np.zeros(facing.shape, np.bool_)
    # The margin makes equal places equal whatever the rounding.
    hidden[:, :-1] = landing[:, :-1] >= first_after[:, 1:] - np.float32(1e-3)
    return hidden if side < 0 else hidden[:, ::-1]


def _fattened(disparity: Metres, window: int, rng: Rng) -> Metres:
    """Near edges bleed outwards, here more and there less, by up to half the window."""
    grown = cv2.dilate(disparity, np.ones((window, window), np.uint8))
    where = _smooth_noise(disparity.shape, 12, rng) > np.float32(-0.3)
    return np.where(where, grown, disparity)


def _textureless(gray: NDArray[np.uint8], floor: float, scale: float, rng: Rng) -> Flags:
    """Where a matching window holds too little contrast to be found again."""
    side = 2 * max(1, round(5 * scale)) + 1
    contrast = cv2.blur(cv2.absdiff(gray, cv2.blur(gray, (3, 3))).astype(np.float32), (side, side))
    uneven = np.exp(np.float32(0.5) * _smooth_noise(gray.shape, 24, rng))
    return np.asarray(contrast * uneven < np.float32(floor))


def _too_dark(gray: NDArray[np.uint8], depth_m: Metres, sensor: SensorModel, rng: Rng) -> Flags:
    """Where too little light returns: it falls with darkness and with the square of distance."""
    if not sensor.dark_limit:
        return np.zeros(gray.shape, np.bool_)
    limit = np.float32(4 * sensor.dark_limit / sensor.far_m**2) * depth_m * depth_m
    speckle = 1 + np.float32(0.3) * _gaussian(gray.shape, rng)
    return gray.astype(np.float32) < limit * speckle


def _blots(shape: tuple[int, ...], share: float, rng: Rng) -> Flags:
    """Random blots that cover about ``share`` of the image."""
    field = _smooth_noise(shape, 40, rng)
    sample = field.ravel()[::17]  # a stride that does not fall into step with the grid
    rank = int((1 - share) * (sample.size - 1))
    return np.asarray(field > np.partition(sample, rank)[rank])


def _misregister(
    millimetres: NDArray[np.uint16], sensor: SensorModel, rng: Rng
) -> NDArray[np.uint16]:
    """Shift against the colour image by whole pixels; what moves in from outside is unknown."""
    reach = sensor.misregistration * millimetres.shape[1] / NATIVE_WIDTH
    across, down = (int(shift) for shift in np.rint(rng.uniform(-reach, reach, 2)))
    if not across and not down:
        return millimetres
    height, width = millimetres.shape
    shifted = np.zeros_like(millimetres)
    shifted[max(down, 0) : height + min(down, 0), max(across, 0) : width + min(across, 0)] = (
        millimetres[max(-down, 0) : height - max(down, 0), max(-across, 0) : width - max(across, 0)]
    )
    return shifted


@cache
def _pool() -> NDArray[np.float32]:
    pool = np.random.default_rng(np.random.SeedSequence(_POOL_SEED)).standard_normal(
        1 << 20, np.float32
    )
    pool.setflags(write=False)
    return pool


def _gaussian(shape: tuple[int, ...], rng: Rng) -> Metres:
    """Standard normal values from a random place of the pool, 10x quicker than drawing them."""
    pool, needed = _pool(), shape[0] * shape[1]
    if needed > pool.size // 2:
        return rng.standard_normal(shape, np.float32)
    start = int(rng.integers(pool.size - needed))
    return pool[start : start + needed].reshape(shape)


def _smooth_noise(shape: tuple[int, ...], cells: int, rng: Rng) -> Metres:
    """Smooth noise of about unit variance, ``cells`` bumps across."""
    height, width = shape
    rows = max(2, round(cells * height / width))
    grid = rng.standard_normal((rows, cells), np.float32)
    return np.asarray(cv2.resize(grid, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)
