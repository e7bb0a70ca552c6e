"""Pictures of a :class:`Scene`: exact depth and masks, textured and shaded colour.

The room costs a few passes over the image, each body a few over its bounding box; how rays meet
walls and bodies is in ``cast.py``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from .cast import CASTERS, FACINGS, Body, Matrix, Plane, Points, Pose, View, linear, plane_form
from .scene import FLOOR, Decal, Room, Scene, Solid, Thing
from .texture import TILE, Surface, colour_tile, paste, wallpaper

Image = NDArray[np.uint8]  # (H, W, 3), red first

_AT_HOME: Pose = (np.zeros(3), 0.0)  # furniture does not move
_NOISE_SEED = 20_241
_POOL_MARGIN = 1 << 20  # any start leaves at least as many values as a 640x480 image needs
_NOISE_STEPS = 16  # values per standard deviation in the noise pool
_LEVELS = np.linspace(0, 1, 256)[:, None]
_GLOSS_LIMIT = np.float32(0.8)  # cosine at which a highlight begins


@dataclass(frozen=True, slots=True, eq=False)
class Rendered:
    """What a perfect RGB-D camera would see.

    Attributes:
        rgb: (H, W, 3) uint8, red first.
        depth_m: (H, W) float32, metres along the viewing axis, everywhere positive.
        background_m: (H, W) float32, the same without the foreground things.
        mask: (H, W) bool, where a foreground thing is what is seen.
        focal_px: Focal length in pixels; the principal point is the image's centre.
    """

    rgb: Image
    depth_m: Plane
    background_m: Plane
    mask: NDArray[np.bool_]
    focal_px: float


@dataclass(frozen=True, slots=True, eq=False)
class _Wall:
    """One side of the room: the plane ``normal . p = offset`` and its picture's axes."""

    normal: Matrix
    offset: float
    corner: Matrix  # where the picture's first pixel hangs
    along: Matrix
    down: Matrix
    size_m: tuple[float, float]


def _walls(room: Room) -> tuple[_Wall, ...]:
    """Floor, back, left, right, ceiling: the order of the scene's indices."""
    width, depth, height = room.right - room.left, room.back - room.front, room.top
    x, y, z = np.eye(3)
    back_left, front_left, front_right = (
        np.array(corner)
        for corner in (
            (room.left, room.top, room.back),
            (room.left, room.top, room.front),
            (room.right, room.top, room.back),
        )
    )
    return (
        _Wall(-y, 0.0, back_left * (1, 0, 1), x, -z, (width, depth)),
        _Wall(z, room.back, back_left, x, -y, (width, height)),
        _Wall(-x, -room.left, front_left, z, -y, (depth, height)),
        _Wall(x, room.right, front_right, -z, -y, (depth, height)),
        _Wall(y, room.top, front_left, x, z, (width, depth)),
    )


class Renderer:
    """Renders one scene at one size; surfaces are painted once, when first seen.

    Args:
        scene: What to render.
        width: Image width in pixels.
        height: Image height in pixels.

    Example:
        >>> from edge_fusion.runtime.source.invent import random_scene
        >>> seen = Renderer(random_scene(1), 160, 120).at(0.0)
        >>> seen.rgb.shape, bool((seen.depth_m[seen.mask] < seen.background_m[seen.mask]).all())
        ((120, 160, 3), True)
    """

    def __init__(self, scene: Scene, width: int, height: int) -> None:
        self._scene = scene
        self._size = (width, height)
        self._walls = _walls(scene.room)
        self._px_per_m = 1.6 * width / max(max(wall.size_m) for wall in self._walls)
        self._papers: dict[int, Image] = {}
        self._tiles: dict[Surface, Image] = {}

    def at(self, time_s: float, rng: np.random.Generator | None = None) -> Rendered:
        """The scene at a time.

        Args:
            time_s: Seconds since its start.
            rng: Draws the image noise; None renders without noise.
        """
        width, height = self._size
        view = self._view(time_s)
        rgb = np.empty((height, width, 3), np.uint8)
        inverse = self._draw_room(view, rgb, time_s)
        for solid in self._scene.furniture:
            self._draw(view, solid, _AT_HOME, rgb, inverse)
        background = inverse.copy()
        mask = np.zeros((height, width), np.bool_)
        for thing in self._scene.things:
            pose = _pose(thing, time_s)
            for solid in thing.solids:
                self._draw(view, solid, pose, rgb, inverse, mask)
        return Rendered(
            rgb=self._expose(rgb, time_s, rng),
            depth_m=np.float32(1) / inverse,
            background_m=np.float32(1) / background,
            mask=mask,
            focal_px=view.focal_px,
        )

    def _view(self, time_s: float) -> View:
        camera = self._scene.camera
        width, height = self._size
        turn, climb, recede = camera.sway.at(time_s)
        azimuth, elevation = camera.azimuth + turn, camera.elevation + climb
        forward = np.array(
            [
                math.sin(azimuth) * math.cos(elevation),
                -math.sin(elevation),
                math.cos(azimuth) * math.cos(elevation),
            ]
        )
        right = np.array([forward[2], 0.0, -forward[0]]) / math.cos(elevation)
        down = -np.cross(forward, right)
        cos, sin = math.cos(camera.roll), math.sin(camera.roll)
        focal = camera.focal * width
        return View(
            origin=np.asarray(camera.look_at) - camera.distance * (1 + recede) * forward,
            axes=np.column_stack((cos * right + sin * down, cos * down - sin * right, forward)),
            focal_px=focal,
            xn=((np.arange(width, dtype=np.float32) - (width - 1) / 2) / focal)[None, :],
            yn=((np.arange(height, dtype=np.float32) - (height - 1) / 2) / focal)[:, None],
        )

    def _draw_room(self, view: View, rgb: Image, time_s: float) -> Plane:
        """Fill ``rgb`` with the walls and return their inverse depth."""
        forms = [plane_form(view, wall.normal, wall.offset) for wall in self._walls]
        first, *others = _visible(view, forms)
        inverse = linear(forms[first], view.xn, view.yn)
        owner = np.full(inverse.shape, first, np.uint8)
        for index in others:
            plane = linear(forms[index], view.xn, view.yn)
            owner[plane > inverse] = index
            np.maximum(inverse, plane, out=inverse)
        for index in (first, *others):
            paper = self._paper(index)
            if index == FLOOR:
                paper = self._shadowed(paper, time_s)
            self._hang(view, index, paper, (owner == index).view(np.uint8), rgb)
        return inverse

    def _hang(self, view: View, index: int, paper: Image, owned: Image, rgb: Image) -> None:
        """Warp a wall's picture into the pixels it owns."""
        x, y, width, height = cv2.boundingRect(owned)
        if not width:  # it owns points of the coarse grid but no pixel
            return
        window = np.s_[y : y + height, x : x + width]
        shift = np.array([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]])
        part = cv2.warpPerspective(
            paper,
            self._paper_from_pixel(view, index) @ shift,
            (width, height),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
        cv2.copyTo(part, owned[window], rgb[window])

    def _paper_from_pixel(self, view: View, index: int) -> Matrix:
        """Homography from image pixels to the pixels of a wall's picture.

        With ``p = o + d (k - n.o) / (n.d)``, the coordinate ``(p - corner) . e`` times ``n.d`` is
        ``(o - corner).e (n.d) + (k - n.o) (d.e)``: linear in the pixel, as is the divisor.
        """
        wall = self._walls[index]
        divisor = view.axes.T @ wall.normal
        gap = wall.offset - float(wall.normal @ view.origin)
        offset = view.origin - wall.corner
        rows = [
            self._px_per_m * (float(offset @ axis) * divisor + gap * (view.axes.T @ axis))
            for axis in (wall.along, wall.down)
        ]
        width, height = self._size
        normalise = np.array(
            [[1.0, 0.0, (1 - width) / 2], [0.0, 1.0, (1 - height) / 2], [0.0, 0.0, view.focal_px]]
        )
        return np.asarray(np.array([*rows, divisor]) @ normalise)

    def _paper(self, index: int) -> Image:
        """The picture of a wall: cover, decals, light."""
        if index not in self._papers:
            room = self._scene.room
            paper = wallpaper(room.covers[index], self._walls[index].size_m, self._px_per_m)
            for decal in room.decals:
                if decal.wall == index:
                    self._paste(paper, decal)
            self._papers[index] = self._lit(paper, index)
        return self._papers[index]

    def _paste(self, paper: Image, decal: Decal) -> None:
        picture = colour_tile(decal.surface)
        cv2.rectangle(picture, (0, 0), (TILE - 1, TILE - 1), decal.frame, TILE // 16)
        height, width = paper.shape[:2]
        centre = (decal.centre[0] * width, decal.centre[1] * height)
        half = (decal.half[0] * self._px_per_m, decal.half[1] * self._px_per_m)
        paste(paper, picture, centre, half, decal.angle)

    def _lit(self, paper: Image, index: int) -> Image:
        """Light on a wall: by its angle to the lamp, and darker towards its edges."""
        light = self._scene.light
        facing = -float(self._walls[index].normal @ light.towards)
        level = 255 * (light.ambient + (1 - light.ambient) * max(facing, 0.0))
        rows, columns = (_fading(side) for side in paper.shape[:2])
        lit = _dim(paper, ((level * rows)[:, None] * columns[None, :]).astype(np.uint8))
        if index == FLOOR:
            self._shadow_furniture(lit)
        return lit

    def _shadow_furniture(self, floor: Image) -> None:
        """Darken the floor around the feet of what does not move, in place."""
        room, scale = self._scene.room, self._px_per_m
        for solid in self._scene.furniture:
            column, row = (
                (solid.centre[0] - room.left) * scale,
                (room.back - solid.centre[2]) * scale,
            )
            half = 1.1 * solid.half[0] * scale, 1.1 * solid.half[2] * scale
            self._shadow(floor, (column, row), half)

    def _shadowed(self, floor: Image, time_s: float) -> Image:
        """The floor with a soft shadow of every thing, drawn in the floor's own plane."""
        room, light, scale = self._scene.room, self._scene.light, self._px_per_m
        floor = floor.copy()
        slope_x, slope_z = (light.towards[k] / max(light.towards[1], 0.4) for k in (0, 2))
        for thing in self._scene.things:
            (x, y, z), _ = _pose(thing, time_s)
            cast = y + 0.4 * thing.radius  # the higher it is, the further from the lamp it falls
            column = (x - slope_x * cast - room.left) * scale
            row = (room.back - z + slope_z * cast) * scale
            self._shadow(floor, (column, row), (thing.radius * scale, thing.radius * scale))
        return floor

    def _shadow(self, floor: Image, centre: tuple[float, float], half: tuple[float, float]) -> None:
        """Darken a soft ellipse of the floor, in place."""
        height, width = floor.shape[:2]
        soft = 0.05 * self._scene.camera.distance * self._px_per_m + 1
        left, right = (
            min(max(round(centre[0] + side * (half[0] + soft)), 0), width) for side in (-1, 1)
        )
        top, bottom = (
            min(max(round(centre[1] + side * (half[1] + soft)), 0), height) for side in (-1, 1)
        )
        if left >= right or top >= bottom:
            return
        x = (np.arange(left, right, dtype=np.float32) - np.float32(centre[0])) / np.float32(
            half[0] + soft
        )
        y = (np.arange(top, bottom, dtype=np.float32) - np.float32(centre[1])) / np.float32(
            half[1] + soft
        )
        light = x * x + (y * y)[:, None]  # 0 in the middle, 1 at the rim
        level = np.float32(255 * 0.8 * self._scene.light.ambient)
        shade = level + (255 - level) * np.clip(light * np.float32(1.6) - np.float32(0.6), 0, 1)
        window = np.s_[top:bottom, left:right]
        floor[window] = _dim(floor[window], shade.astype(np.uint8))

    def _draw(
        self,
        view: View,
        solid: Solid,
        pose: Pose,
        rgb: Image,
        inverse: Plane,
        mask: NDArray[np.bool_] | None = None,
    ) -> None:
        """Draw one body where it is nearer than what is there; foreground sets ``mask``."""
        body = Body(view, solid, pose)
        box = body.bounding_box(view)
        if box is None:
            return
        xn, yn = view.xn[:, box[1]], view.yn[box[0]]
        found = CASTERS[solid.shape](body, xn, yn)
        if found is None:
            return
        entry, hit = found
        hit &= entry > inverse[box]
        points = body.points(np.where(hit, entry, np.float32(1)), xn, yn)
        colour = self._shade(self._cover(solid, points), solid, body, points, view)
        cv2.copyTo(colour, hit.view(np.uint8), rgb[box])
        np.copyto(inverse[box], entry, where=hit)
        if mask is not None:
            mask[box] |= hit

    def _cover(self, solid: Solid, points: Points) -> Image:
        """Texture by an oblique projection of the body's own axes: no seams, no poles."""
        surface = solid.surface
        if surface not in self._tiles:
            self._tiles[surface] = colour_tile(surface)
        x, y, z = points
        scale = np.float32(TILE / 2 / surface.repeat)
        slant = np.float32(0.7) * z
        across, down = (x + slant) * scale, (y + slant) * scale
        tile = self._tiles[surface]
        covered = cv2.remap(tile, across, down, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
        return np.asarray(covered, np.uint8)

    def _shade(self, colour: Image, solid: Solid, body: Body, points: Points, view: View) -> Image:
        """Lambert's law with ambient light, and Blinn's highlight on glossy bodies."""
        light = self._scene.light
        facing_of = FACINGS[solid.shape]
        towards = np.asarray(light.towards)
        direct = np.float32(255 * (1 - light.ambient))
        level = np.maximum(facing_of(body, points, towards), 0) * direct
        shaded = _dim(colour, (level + np.float32(255 * light.ambient)).astype(np.uint8))
        if not solid.gloss:
            return shaded
        halfway = towards - view.axes[:, 2]
        glint = facing_of(body, points, halfway / np.linalg.norm(halfway))
        peak = np.float32(255 * solid.gloss / (1 - _GLOSS_LIMIT) ** 2)
        glint = np.square(np.maximum(glint - _GLOSS_LIMIT, 0)) * peak
        white = cv2.merge([glint.clip(0, 255).astype(np.uint8)] * 3)
        return np.asarray(cv2.add(shaded, white), np.uint8)

    def _expose(self, rgb: Image, time_s: float, rng: np.random.Generator | None) -> Image:
        """The camera: optical blur, white balance, tone curve, noise."""
        light = self._scene.light
        sharp = cv2.GaussianBlur(rgb, (3, 3), 0.35 + 0.35 * min(self._size[0] / 640, 1))
        gain = (1 + light.flicker * math.sin(1.7 * time_s)) * np.asarray(light.balance)
        levels = np.minimum(_LEVELS * gain, 1) ** light.gamma
        table = np.rint(255 * levels).astype(np.uint8)[None]
        exposed = np.asarray(cv2.LUT(sharp, table), np.uint8)
        if rng is None:
            return exposed
        pool = _noise_pool()
        start = int(rng.integers(pool.size - _POOL_MARGIN))
        part = pool[start : start + exposed.size]
        noise = np.resize(part, exposed.shape)  # repeats where the pool ends before the image
        strength = light.noise / _NOISE_STEPS
        noisy = cv2.addWeighted(exposed, 1.0, noise, strength, -128 * strength)
        return np.asarray(noisy, np.uint8)


@cache
def _noise_pool() -> NDArray[np.uint8]:
    """Gaussian noise around 128; frames take it from a random place, which is far quicker."""
    rng = np.random.default_rng(np.random.SeedSequence(_NOISE_SEED))
    pool = rng.standard_normal(1 << 21, np.float32) * np.float32(_NOISE_STEPS) + np.float32(128)
    return np.asarray(np.rint(pool).clip(0, 255), np.uint8)


def _dim(colour: Image, shade: NDArray[np.uint8]) -> Image:
    """(H, W, 3) times (H, W) / 255."""
    thrice = cv2.merge([shade, shade, shade])
    return np.asarray(cv2.multiply(colour, thrice, scale=1 / 255), np.uint8)


def _fading(count: int) -> NDArray[np.float32]:
    """Brightness across a wall: 1 in its middle, 0.6 at its edges."""
    place = np.arange(count, dtype=np.float32) * np.float32(2 / max(count - 1, 1)) - 1
    return np.asarray(1 - np.float32(0.4) * np.square(np.square(place)), np.float32)


def _pose(thing: Thing, time_s: float) -> Pose:
    return np.asarray(thing.place) + thing.sway.at(time_s), thing.spin * time_s


def _visible(view: View, forms: list[Matrix]) -> list[int]:
    """Walls that own a point of a coarse grid; slivers smaller than its cells are left out."""
    xn = np.concatenate((view.xn[:, ::16], view.xn[:, -1:]), 1)
    yn = np.concatenate((view.yn[::16], view.yn[-1:]), 0)
    owners = np.stack([linear(form, xn, yn) for form in forms]).argmax(0)
    return [int(index) for index in np.flatnonzero(np.bincount(owners.ravel()))]
