from __future__ import annotations

import math
from typing import get_args

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_fusion.runtime.source.cast import CASTERS, FACINGS, Body, View
from edge_fusion.runtime.source.scene import Shape, Solid
from edge_fusion.runtime.source.texture import Surface

SHAPES: tuple[Shape, ...] = get_args(Shape)
PLAIN = Surface("grain", 0, (0, 0, 0), (255, 255, 255), 1.0)
WIDTH, HEIGHT, FOCAL = 40, 30, 36.0


def view_along_z() -> View:
    return View(
        origin=np.array([0.1, -0.2, -3.0]),
        axes=np.eye(3),
        focal_px=FOCAL,
        xn=((np.arange(WIDTH, dtype=np.float32) - (WIDTH - 1) / 2) / FOCAL)[None, :],
        yn=((np.arange(HEIGHT, dtype=np.float32) - (HEIGHT - 1) / 2) / FOCAL)[:, None],
    )


def random_solid(shape: Shape, seed: int) -> Solid:
    rng = np.random.default_rng(seed)
    x, y, z = rng.uniform(-0.6, 0.6, 3).tolist()
    half = tuple(rng.uniform(0.2, 0.8, 3).tolist())
    turn = tuple(rng.uniform(-math.pi, math.pi, 3).tolist())
    return Solid(shape, (x, y, z), half, turn, PLAIN)


def inside(shape: Shape, points: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether own-axes points (..., 3) lie in the body, straight from its definition."""
    x, y, z = np.moveaxis(points, -1, 0)
    if shape == "box":
        return np.asarray(np.max(np.abs(points), -1) <= 1)
    if shape == "cylinder":
        return np.asarray((x * x + z * z <= 1) & (np.abs(y) <= 1))
    return np.asarray(x * x + y * y + z * z <= 1)


def march(body: Body, shape: Shape, view: View) -> NDArray[np.float64]:
    """Depth of the first sample inside the body along every ray; infinite where there is none."""
    depths = np.linspace(0.5, 6, 2201)
    rays = (
        np.stack(np.broadcast_arrays(view.xn, view.yn, np.float32(1)), -1).astype(np.float64)
        @ body.rays.T
    )
    first = np.full((HEIGHT, WIDTH), np.inf)
    for depth in depths[::-1]:
        first[inside(shape, body.origin + depth * rays)] = depth
    return first


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", range(4))
def test_cast_agrees_with_marching_along_the_rays(shape: Shape, seed: int) -> None:
    view = view_along_z()
    body = Body(view, random_solid(shape, seed), (np.array([0.1, 0.1, 0.1]), 0.4))
    found = CASTERS[shape](body, view.xn, view.yn)
    assert found is not None
    entry, hit = found
    expected = march(body, shape, view)
    # Marching in steps of 2.5 mm may miss a grazing ray and stops up to one step late.
    assert not (np.isfinite(expected) & ~hit).any()
    assert np.count_nonzero(hit & ~np.isfinite(expected)) <= 6
    both = hit & np.isfinite(expected)
    assert np.count_nonzero(both) > 30
    late = expected[both] - 1 / entry[both].astype(np.float64)
    assert late.min() > -2e-3
    assert late.max() < 4.5e-3


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", range(4))
def test_body_lies_in_its_bounding_box(shape: Shape, seed: int) -> None:
    view = view_along_z()
    body = Body(view, random_solid(shape, seed), (np.zeros(3), 0.0))
    found = CASTERS[shape](body, view.xn, view.yn)
    box = body.bounding_box(view)
    assert found is not None
    assert box is not None
    outside = found[1].copy()
    outside[box] = False
    assert not outside.any()


@pytest.mark.parametrize("shape", SHAPES)
def test_surface_points_and_normals(shape: Shape) -> None:
    """The hit lies on the surface, and its normal is that of the depth map."""
    view = view_along_z()
    body = Body(view, random_solid(shape, 1), (np.zeros(3), 0.0))
    found = CASTERS[shape](body, view.xn, view.yn)
    assert found is not None
    entry, hit = found
    points = body.points(np.where(hit, entry, np.float32(1)), view.xn, view.yn)
    own = np.stack([axis[hit] for axis in points], -1).astype(np.float64)
    assert inside(shape, own * 0.999).all()
    assert not inside(shape, own * 1.002).any()
    normal = np.stack([FACINGS[shape](body, points, axis) for axis in np.eye(3)], -1)
    np.testing.assert_allclose(np.linalg.norm(normal[hit], axis=-1), 1, atol=1e-4)
    rays = np.stack(np.broadcast_arrays(view.xn, view.yn, np.float32(1)), -1)
    assert (np.sum(normal * rays, -1)[hit] <= 1e-4).all()  # what is seen faces the camera


@pytest.mark.parametrize("shape", SHAPES)
def test_camera_inside_or_before_a_body_sees_nothing(shape: Shape) -> None:
    view = view_along_z()
    around = Solid(shape, (0.1, -0.2, -3.0), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), PLAIN)
    behind = Solid(shape, (0.0, 0.0, -6.0), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), PLAIN)
    for solid in (around, behind):
        found = CASTERS[shape](Body(view, solid, (np.zeros(3), 0.0)), view.xn, view.yn)
        assert found is None or not found[1].any()
    assert Body(view, behind, (np.zeros(3), 0.0)).bounding_box(view) is None
