"""Registration against a scene that is ray-cast from both cameras."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edge_fusion.errors import FrameError, SourceError
from edge_fusion.frame import Intrinsics
from edge_fusion.runtime.register import Camera, Rigid, register_depth

Array = NDArray[np.float64]

BOX = (np.array([-0.15, -0.2, 0.9]), np.array([0.25, 0.1, 1.1]))  # nearest and farthest corner
WALL = np.array([0.15, -0.1, 1.0]), 2.0  # normal . p = offset


def rotation(yaw: float, pitch: float = 0.0) -> Array:
    return np.asarray(cv2.Rodrigues(np.array([pitch, yaw, 0.0]))[0])


def opencv(camera: Camera) -> tuple[Array, Array]:
    matrix = np.array([[camera.fx, 0, camera.cx], [0, camera.fy, camera.cy], [0, 0, 1]])
    return matrix, np.array(camera.distortion or (0.0,) * 4)


def rays_of(camera: Camera) -> Array:
    """(h, w, 3) directions with z = 1, through OpenCV's own inverse of the distortion."""
    grid = np.indices((camera.height, camera.width))[::-1].reshape(2, -1).T.astype(np.float64)
    precise = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 100, 1e-12)
    points = cv2.undistortPointsIter(grid[:, None], *opencv(camera), np.eye(3), np.eye(3), precise)
    flat = points.reshape(camera.height, camera.width, 2)
    return np.concatenate((flat, np.ones((*flat.shape[:2], 1))), axis=-1)


def cast(origin: Array, rays: Array) -> tuple[Array, NDArray[np.bool_]]:
    """Distance along each ray in units of the ray, and whether it is the box that is hit."""
    normal, offset = WALL
    wall = (offset - normal @ origin) / (rays @ normal)
    with np.errstate(divide="ignore"):
        one, two = (BOX[0] - origin) / rays, (BOX[1] - origin) / rays
    enter, leave = np.minimum(one, two).max(-1), np.maximum(one, two).min(-1)
    hit = (enter <= leave) & (enter > 0) & (enter < wall)
    return np.where(hit, enter, wall), hit


def in_image(points: Array, camera: Camera) -> NDArray[np.bool_]:
    """Whether points lie inside the image of a camera at the origin, a pixel from its border."""
    still = np.zeros(3)
    at = cv2.projectPoints(points.reshape(-1, 3), still, still, *opencv(camera))[0]
    column, row = at.reshape(*points.shape[:2], 2).transpose(2, 0, 1)
    inside = (column > 1) & (column < camera.width - 2)
    return np.asarray(inside & (row > 1) & (row < camera.height - 2))


def seen_by_depth(points: Array) -> NDArray[np.bool_]:
    """Whether nothing stands between points and a depth camera at the origin."""
    distance, _ = cast(np.zeros(3), points / points[..., 2:])
    return np.asarray(np.abs(distance - points[..., 2]) < 1e-6)


DEPTH = Camera(320, 240, 200, 200, 160.3, 119.1)
LENS = (0.12, -0.25, 0.001, -0.0015, 0.08)
RIGHT = Rigid(np.eye(3), (-0.05, 0.0, 0.0))
FAR = Rigid(rotation(0.05), (-0.2, 0.0, 0.0))
TURNED = Rigid(rotation(0.02, -0.01), (-0.05, 0.004, 0.01))

CASES = {
    "the same lens beside it": (DEPTH, DEPTH, RIGHT),
    "narrower and finer": (DEPTH, Camera(640, 480, 610, 605, 322.4, 238), TURNED),
    "three times finer": (DEPTH, Camera(960, 720, 600, 600, 480, 360), RIGHT),
    "coarser": (DEPTH, Camera(160, 120, 110, 110, 80, 60), FAR),
    "distorted colour": (DEPTH, Camera(640, 480, 480, 480, 320, 240, LENS), TURNED),
    "rational lens": (
        DEPTH,
        Camera(320, 240, 240, 240, 160, 120, (0.4, 0.1, 1e-3, 1e-3, 0.02, 0.3, 0.2, 0.01)),
        RIGHT,
    ),
    "distorted depth": (
        replace(DEPTH, distortion=(-0.1, 0.05, 0.001, 0.0)),
        Camera(320, 240, 230, 230, 160, 120),
        TURNED,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_ray_cast_scene(case: str) -> None:
    depth_camera, color_camera, motion = CASES[case]
    measured, _ = cast(np.zeros(3), rays_of(depth_camera))
    origin = -motion.rotation.T @ motion.translation_m
    rays = rays_of(color_camera) @ motion.rotation
    truth, on_box = cast(origin, rays)
    points = origin + truth[..., None] * rays

    raw = np.round(measured * 10_000).astype(np.uint16)
    registered = register_depth(raw, 1e-4, depth_camera, color_camera, motion)
    assert registered.shape == truth.shape
    assert registered.dtype == np.uint16
    got = registered * 1e-4

    # Away from the edges of the box and of the depth camera's view every pixel is known.
    in_view = in_image(points, depth_camera)
    around = np.ones((9, 9), np.uint8)
    visible = seen_by_depth(points)
    inner = cv2.erode((in_view & visible & on_box).astype(np.uint8), around) > 0
    outer = cv2.erode((in_view & visible & ~on_box).astype(np.uint8), around) > 0
    shadow = cv2.erode((in_view & ~visible).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    assert inner.sum() > 200
    assert outer.sum() > 2000
    # Half a pixel on the slanted wall is some millimetres of distance.
    for surface, tolerance in ((inner, 0.004), (outer, 0.012)):
        assert np.abs(got - truth)[surface].max() < tolerance
    # What only the colour camera sees has no reading: neither the wall nor the box is smeared.
    assert shadow.sum() > 20
    assert (registered[shadow] == 0).mean() > 0.97
    # Nothing is nearer than what is there, but for the pixels that the edge of the box grazes.
    assert (got[got > 0] < truth[got > 0] - 0.02).mean() < 0.02


def test_pixels_outside_the_depth_cameras_view_are_empty() -> None:
    narrow = Camera(64, 48, 100, 100, 31.5, 23.5)
    wide = Camera(64, 48, 50, 50, 31.5, 23.5)
    out = register_depth(np.full((48, 64), 1000, np.uint16), 0.001, narrow, wide, RIGHT)
    filled = np.argwhere(out)
    assert out[filled[:, 0], filled[:, 1]].tolist() == [1000] * len(filled)
    # 64 x 48 pixels at half the focal length, moved by 50 * -0.05 m / 1 m = -2.5 pixels
    assert np.ptp(filled, axis=0).tolist() == pytest.approx([24, 32], abs=1)
    assert filled.mean(axis=0).tolist() == pytest.approx([23.5, 31.5 - 2.5], abs=0.5)


def test_a_nearer_surface_hides_a_farther_one() -> None:
    camera = Camera(40, 8, 40, 40, 19.5, 3.5)
    depth = np.full((8, 40), 4000, np.uint16)
    depth[:, 10:20] = 1000
    out = register_depth(depth, 0.001, camera, camera, Rigid(np.eye(3), (0.1, 0, 0)))
    # near moves by 40 * 0.1 / 1 = 4 pixels, far by 1
    row = out[4].tolist()
    assert row == [0] + [4000] * 10 + [0] * 3 + [1000] * 10 + [4000] * 16


def test_equal_cameras_at_one_place_cost_nothing() -> None:
    depth = np.arange(320 * 240, dtype=np.uint16).reshape(240, 320)
    still = Rigid(np.eye(3), (0, 0, 0))
    assert register_depth(depth, 0.001, DEPTH, replace(DEPTH), still) is depth


def test_uint16_and_float32_agree_and_invalid_readings_stay_invalid() -> None:
    rng = np.random.default_rng(0)
    raw = rng.integers(500, 5000, (240, 320)).astype(np.uint16)
    raw[rng.random(raw.shape) < 0.2] = 0
    metres = np.where(raw, raw * np.float32(0.001), np.float32(np.nan)).astype(np.float32)
    metres[0, :5] = np.inf
    raw[0, :5] = 0
    color = Camera(400, 300, 260, 260, 200, 150, LENS)
    whole = register_depth(raw, 0.001, DEPTH, color, TURNED)
    fine = register_depth(metres, 1.0, DEPTH, color, TURNED)
    assert fine.dtype == np.float32
    assert np.isfinite(fine).all()
    assert ((whole > 0) == (fine > 0)).mean() > 0.999
    both = (whole > 0) & (fine > 0)
    assert np.mean(np.abs(whole[both] * 0.001 - fine[both]) < 6e-4) > 0.999
    still = Rigid(np.eye(3), (0, 0, 0))
    assert np.isfinite(register_depth(metres, 1.0, DEPTH, DEPTH, still)).all()


def test_distances_beyond_16_bits_are_no_reading() -> None:
    camera = Camera(8, 8, 8, 8, 3.5, 3.5)
    depth = np.full((8, 8), 65000, np.uint16)
    out = register_depth(depth, 1e-4, camera, camera, Rigid(np.eye(3), (0, 0, 0.1)))
    assert not out.any()
    out = register_depth(depth, 1e-4, camera, camera, Rigid(np.eye(3), (0, 0, -0.1)))
    assert set(out[1:-1, 1:-1].ravel()) == {64000}


def test_what_lies_behind_the_colour_camera_is_not_seen() -> None:
    camera = Camera(8, 8, 8, 8, 3.5, 3.5)
    depth = np.full((8, 8), 300, np.uint16)
    out = register_depth(depth, 0.001, camera, camera, Rigid(np.eye(3), (0, 0, -0.5)))
    assert not out.any()
    assert not register_depth(np.zeros_like(depth), 0.001, camera, camera, RIGHT).any()


def test_a_lens_model_that_turns_back_paints_nothing_twice() -> None:
    # k1 = -0.35 turns back at r = 0.976: a point far outside would land inside again.
    wide = Camera(400, 40, 60, 60, 199.5, 19.5)
    folding = Camera(100, 40, 60, 60, 49.5, 19.5, (-0.35, 0, 0, 0))
    depth = np.zeros((40, 400), np.uint16)
    depth[:, :100] = 1000  # all at x/z < -1.65
    still = Rigid(np.eye(3), (0, 0, 0))
    assert not register_depth(depth, 0.001, wide, folding, still).any()


def test_equal_calibrations_are_one() -> None:
    assert Rigid(np.eye(3), (0, 0, 0.1)) == Rigid(np.eye(3).tolist(), np.array([0, 0, 0.1]))
    assert hash(Rigid(np.eye(3), (0, 0, 0))) == hash(Rigid(np.eye(3).ravel(), (0, 0, 0)))
    assert RIGHT != TURNED
    assert replace(DEPTH, distortion=(0, 0, 0, 0, 0)) == DEPTH
    assert DEPTH.intrinsics == Intrinsics(200, 200, 160.3, 119.1)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"fx": 0.0}, "focal lengths above 0"),
        ({"fy": -200.0}, "focal lengths above 0"),
        ({"cx": 640.0}, "a principal point inside the image"),  # of twice the resolution
        ({"cy": -1.0}, "a principal point inside the image"),
        ({"fx": float("nan")}, "finite numbers"),
        ({"width": 0}, "at least one pixel"),
        ({"distortion": (0.1, 0.2)}, "0, 4, 5, 8 distortion coefficients"),
        ({"distortion": (0.1, 0.2, float("inf"), 0)}, "finite numbers"),
    ],
)
def test_impossible_cameras(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(SourceError, match=expected) as caught:
        replace(DEPTH, **changes)
    assert "another resolution" in str(caught.value)


@pytest.mark.parametrize(
    ("turn", "move", "cure"),
    [
        (np.eye(3), (14.9, 0.1, 0.3), "is it in millimetres"),
        (np.eye(3), (float("nan"), 0, 0), "at most 2 m"),
        (np.eye(3) * 2, (0, 0, 0), "orthonormal"),
        (np.diag([1.0, 1.0, -1.0]), (0, 0, 0), "determinant 1"),
        (np.full((3, 3), np.nan), (0, 0, 0), "orthonormal"),
        (np.eye(4), (0, 0, 0), "rotation of a camera"),
    ],
)
def test_impossible_motions(turn: Array, move: tuple[float, ...], cure: str) -> None:
    with pytest.raises(SourceError, match=cure):
        Rigid(turn, move)


@pytest.mark.parametrize(
    ("depth", "scale", "message"),
    [
        (np.zeros((120, 160), np.uint16), 0.001, "another resolution"),
        (np.zeros((240, 320), np.uint8), 0.001, "uint16 or float32"),
        (np.zeros((240, 320), np.uint16), 0.0, "above 0"),
    ],
)
def test_unusable_depth(depth: NDArray[np.uint16], scale: float, message: str) -> None:
    with pytest.raises(FrameError, match=message):
        register_depth(depth, scale, DEPTH, DEPTH, RIGHT)


def test_it_keeps_up_with_a_camera() -> None:
    camera = Camera(640, 480, 600, 600, 320, 240)
    depth = np.full((480, 640), 1500, np.uint16)
    register_depth(depth, 0.001, camera, camera, RIGHT)
    spent = []
    for _ in range(5):
        began = time.thread_time()
        register_depth(depth, 0.001, camera, camera, RIGHT)
        spent.append(time.thread_time() - began)
    assert min(spent) < 0.033
