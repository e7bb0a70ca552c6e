"""Inventing scenes: everything random about the demo world, from one seed.

Colours, patterns and sizes are drawn so that neither colour nor nearness alone gives the
foreground away: pictures and rugs are as bright as things, furniture stands out in depth, the
floor in front is nearer than what stands on it, and some things are as dull as the wall.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from .scene import (
    BACK,
    FLOOR,
    LEFT,
    RIGHT,
    Camera,
    Decal,
    Light,
    Room,
    Scene,
    Shape,
    Solid,
    Sway,
    Thing,
    Vector,
)
from .texture import VARIANTS, Colour, Surface

Rng = np.random.Generator

_TRIES = 12  # to find a free place


def random_scene(seed: int) -> Scene:
    """The scene of a seed.

    Example:
        >>> random_scene(7) == random_scene(7)
        True
    """
    rng = np.random.default_rng(np.random.SeedSequence((seed, 0)))
    distance = math.exp(rng.uniform(math.log(0.6), math.log(2.6)))
    camera = _camera(rng, distance)
    palette = _Palette(rng)
    room = _room(rng, camera, palette)
    return Scene(
        seed=seed,
        room=room,
        furniture=_furniture(rng, room, distance, palette),
        things=_things(rng, distance, palette),
        camera=camera,
        light=_light(rng),
    )


def _pick(rng: Rng, *choices: str) -> str:
    return choices[int(rng.integers(len(choices)))]


def _hsv(hue: float, saturation: float, value: float) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1, min(saturation, 1), min(value, 1))
    return 255 * red, 255 * green, 255 * blue


class _Palette:
    """Colours of one scene: a few hues that room, pictures and things share.

    Sharing them is what keeps colour alone from giving the answer: a thing may be as dull as the
    wall behind it, and a picture on that wall as bright as any thing.
    """

    def __init__(self, rng: Rng) -> None:
        self._rng = rng
        self._hues = rng.uniform(0, 1, 3)

    def dull(self, pattern: str, repeat: float) -> Surface:
        """A surface of a wall, a floor or furniture: weak colour and contrast."""
        rng = self._rng
        hue, saturation = rng.choice(self._hues), rng.uniform(0.02, 0.5)
        value, contrast = rng.uniform(0.35, 1), rng.uniform(0.08, 0.4)
        dark = _hsv(hue, saturation, value * (1 - contrast))
        light = _hsv(hue + rng.normal(0, 0.02), saturation * rng.uniform(0.6, 1), value)
        return Surface(pattern, int(rng.integers(VARIANTS)), dark, light, repeat)

    def vivid(self, pattern: str, repeat: float) -> Surface:
        """A surface of a picture or a thing: two colours that may differ much."""
        rng = self._rng
        first = rng.choice(self._hues) + rng.normal(0, 0.08) if rng.random() < 0.4 else rng.random()
        second = first + rng.normal(0, 0.2)
        dark = _hsv(first, rng.uniform(0.2, 1), rng.uniform(0.1, 0.7))
        light = _hsv(second, rng.uniform(0.1, 0.9), rng.uniform(0.4, 1))
        return Surface(pattern, int(rng.integers(VARIANTS)), dark, light, repeat)


def _camera(rng: Rng, distance: float) -> Camera:
    elevation = math.radians(8 + 57 * rng.beta(1.4, 2.2))
    look_at = distance * rng.uniform((-0.1, 0.04, -0.08), (0.1, 0.2, 0.1))
    amplitude = rng.uniform((0.02, 0.01, 0.01), (0.12, 0.04, 0.06))
    return Camera(
        distance=distance,
        azimuth=math.radians(rng.uniform(-28, 28)),
        elevation=elevation,
        roll=math.radians(rng.normal(0, 1.5)),
        look_at=_vector(look_at),
        focal=rng.uniform(0.75, 1.05),
        sway=Sway(
            _vector(amplitude),
            _vector(rng.uniform(6, 14, 3)),
            _vector(rng.uniform(0, 2 * math.pi, 3)),
        ),
    )


def _vector(values: NDArray[np.float64]) -> Vector:
    x, y, z = values.tolist()
    return x, y, z


def _room(rng: Rng, camera: Camera, palette: _Palette) -> Room:
    unit = camera.distance
    reach = unit * (1 + camera.sway.amplitude[2])  # as far from the origin as the camera gets
    aside = 0.3 * unit + reach * math.sin(abs(camera.azimuth) + camera.sway.amplitude[0])
    height = reach * math.sin(camera.elevation + camera.sway.amplitude[1])
    room = {
        "left": -max(aside, unit * rng.uniform(0.7, 1.9)),
        "right": max(aside, unit * rng.uniform(0.7, 1.9)),
        "back": unit * rng.uniform(0.55, 1.9),
        "top": max(height + 0.5 * unit, unit * rng.uniform(1.0, 1.8)),
        "front": -1.3 * reach,
    }
    wall = palette.dull(_pick(rng, "plaster", "plaster", "grain", "bricks", "clouds"), unit * 0.5)
    other = palette.dull(_pick(rng, "plaster", "grain", "stripes", "wood"), unit * 0.4)
    covers = (
        palette.dull(
            _pick(rng, "wood", "checks", "grain", "clouds", "plaster", "bricks"),
            unit * rng.uniform(0.25, 0.6),
        ),
        wall,
        other if rng.random() < 0.4 else wall,
        other if rng.random() < 0.4 else wall,
        palette.dull("plaster", unit),
    )
    decals = tuple(_decal(rng, palette, unit) for _ in range(int(rng.integers(1, 7))))
    return Room(**room, covers=covers, decals=decals)


def _decal(rng: Rng, palette: _Palette, unit: float) -> Decal:
    wall = (FLOOR, FLOOR, BACK, BACK, LEFT, RIGHT)[int(rng.integers(6))]
    on_floor = wall == FLOOR
    pattern = _pick(rng, "patches", "stripes", "checks", "dots", "clouds", "bricks")
    half = rng.uniform(0.08, 0.45 if on_floor else 0.3, 2)
    # A rug may lie anywhere in view; a picture hangs between knee and head, 0 being the top.
    low, high = ((0.2, 0.35), (0.8, 0.95)) if on_floor else ((0.1, 0.45), (0.9, 0.85))
    centre = rng.uniform(low, high)
    return Decal(
        wall=wall,
        centre=(float(centre[0]), float(centre[1])),
        half=(float(unit * half[0]), float(unit * half[1])),
        angle=float(rng.uniform(-math.pi, math.pi) if on_floor else rng.normal(0, 0.03)),
        surface=palette.vivid(pattern, 1.0),
        frame=_hsv(rng.random(), rng.uniform(0, 0.6), rng.uniform(0.1, 1)),
    )


def _furniture(rng: Rng, room: Room, unit: float, palette: _Palette) -> tuple[Solid, ...]:
    return tuple(_cupboard(rng, room, unit, palette) for _ in range(int(rng.integers(0, 5))))


def _cupboard(rng: Rng, room: Room, unit: float, palette: _Palette) -> Solid:
    """A box against the back or a side wall: depth contrast without being salient."""
    half_x, half_y, half_z = (unit * rng.uniform((0.1, 0.08, 0.06), (0.4, 0.5, 0.18))).tolist()
    side = int(rng.integers(3))
    if side == 0:
        centre = (
            float(rng.uniform(room.left + half_x, room.right - half_x)),
            half_y,
            room.back - half_z,
        )
        half = (half_x, half_y, half_z)
    else:
        half = (half_z, half_y, half_x)
        x = room.left + half_z if side == 1 else room.right - half_z
        centre = (x, half_y, float(rng.uniform(0.1 * room.back, room.back - half_x)))
    pattern = _pick(rng, "wood", "plaster", "grain", "plaster")
    return Solid("box", centre, half, (0.0, 0.0, 0.0), palette.dull(pattern, rng.uniform(0.5, 2)))


def _things(rng: Rng, unit: float, palette: _Palette) -> tuple[Thing, ...]:
    things: list[Thing] = []
    for _ in range(1 + int(rng.choice(3, p=(0.4, 0.35, 0.25)))):
        size = unit * math.exp(rng.uniform(math.log(0.06), math.log(0.19)))
        thing = _thing(rng, unit, size, palette, things)
        if thing is not None:
            things.append(thing)
    return tuple(things)


def _thing(
    rng: Rng, unit: float, size: float, palette: _Palette, others: list[Thing]
) -> Thing | None:
    """A thing that stands clear of the others, or None where there is no room left."""
    hovers = rng.random() < 0.25
    solids = _MAKERS[int(rng.integers(len(_MAKERS)))](rng, size, palette, hovers)
    radius = max(math.hypot(s.centre[0], s.centre[2]) + max(s.half) for s in solids)
    for _ in range(_TRIES):
        x, z = (unit * rng.uniform((-0.3, -0.22), (0.3, 0.34))).tolist()
        if all(
            math.hypot(x - o.place[0], z - o.place[2]) > 0.8 * (radius + o.radius) for o in others
        ):
            break
    else:
        return None
    hover = unit * rng.uniform(0.03, 0.25) if hovers else 0.0
    reach = rng.uniform(0, 0.07, 3) * unit
    lift = min(reach[1], hover) if hovers else 0.0  # never sinks into the floor
    return Thing(
        solids=solids,
        place=(x, float(hover), z),
        sway=Sway(
            (float(reach[0]), float(lift), float(reach[2])),
            _vector(rng.uniform(2, 7, 3)),
            _vector(rng.uniform(0, 2 * math.pi, 3)),
        ),
        spin=float(rng.normal(0, 0.5)),
        radius=radius,
    )


def _cover(rng: Rng, palette: _Palette) -> Surface:
    pattern = _pick(
        rng, "patches", "stripes", "checks", "dots", "clouds", "grain", "wood", "plaster"
    )
    paint = palette.dull if rng.random() < 0.4 else palette.vivid
    return paint(pattern, float(rng.uniform(1, 3)))


def _proportions(rng: Rng, size: float) -> Vector:
    return _vector(size * np.exp(rng.normal(0, 0.32, 3)))


def _single(rng: Rng, size: float, palette: _Palette, hovers: bool) -> tuple[Solid, ...]:
    """One body; a standing one rests on its underside."""
    shapes: tuple[Shape, ...] = ("box", "cylinder", "ellipsoid")
    shape = shapes[int(rng.integers(3))]
    half_x, half_y, half_z = _proportions(rng, size)
    if shape == "cylinder":
        half_z = half_x
    if shape == "ellipsoid" and rng.random() < 0.5:
        half_x = half_y = half_z = size
    tilt = rng.uniform(-0.7, 0.7, 2) if hovers else np.zeros(2)
    turn = (float(rng.uniform(0, 2 * math.pi)), float(tilt[0]), float(tilt[1]))
    lift = half_y if not hovers else math.hypot(half_x, half_y, half_z)
    gloss = float(rng.uniform(0, 0.9)) if rng.random() < 0.5 else 0.0
    half = (half_x, half_y, half_z)
    return (Solid(shape, (0.0, lift, 0.0), half, turn, _cover(rng, palette), gloss),)


def _stack(rng: Rng, size: float, palette: _Palette, hovers: bool) -> tuple[Solid, ...]:
    """Two or three bodies on top of each other: bottles, lamps, figures."""
    shapes: tuple[Shape, ...] = ("cylinder", "box", "ellipsoid")
    solids: list[Solid] = []
    foot, width = 0.0, size
    for level in range(int(rng.integers(2, 4))):
        half_y = size * float(rng.uniform(0.25, 0.8))
        shape = shapes[int(rng.integers(2 if level == 0 else 3))]
        half = (width, half_y, width * float(rng.uniform(0.7, 1)) if shape == "box" else width)
        turn = (float(rng.uniform(0, 2 * math.pi)), 0.0, 0.0)
        sink = 0.15 * half_y if shape == "ellipsoid" else 0.0  # a ball sits in what carries it
        centre = (0.0, foot + half_y - sink, 0.0)
        solids.append(Solid(shape, centre, half, turn, _cover(rng, palette)))
        foot += 2 * half_y - 2 * sink
        width *= float(rng.uniform(0.35, 0.95))
    return tuple(solids)


def _cluster(rng: Rng, size: float, palette: _Palette, hovers: bool) -> tuple[Solid, ...]:
    """A body with smaller ones grown onto it, of one cover: toys, plants, tools."""
    cover = _cover(rng, palette)
    body = Solid(
        "ellipsoid",
        (0.0, 0.8 * size, 0.0),
        (0.8 * size, 0.8 * size, 0.8 * size),
        (0.0, 0.0, 0.0),
        cover,
    )
    solids = [body]
    for _ in range(int(rng.integers(2, 5))):
        angle, height = rng.uniform(0, 2 * math.pi), rng.uniform(0.4, 1.7) * size
        reach = size * rng.uniform(0.5, 0.9)
        shapes: tuple[Shape, ...] = ("box", "ellipsoid", "cylinder")
        half_x, half_y, half_z = (size * rng.uniform(0.18, 0.5, 3)).tolist()
        solids.append(
            Solid(
                shapes[int(rng.integers(3))],
                (reach * math.cos(angle), max(height, half_y), reach * math.sin(angle)),
                (half_x, half_y, half_x if rng.random() < 0.5 else half_z),
                (float(angle), 0.0, 0.0),
                cover if rng.random() < 0.6 else _cover(rng, palette),
            )
        )
    return tuple(solids)


_MAKERS: tuple[Callable[[Rng, float, _Palette, bool], tuple[Solid, ...]], ...] = (
    _single,
    _single,
    _stack,
    _cluster,
)


def _light(rng: Rng) -> Light:
    azimuth, height = rng.uniform(0, 2 * math.pi), math.radians(rng.uniform(25, 80))
    warmth = rng.normal(0, 0.09)
    gain = math.exp(rng.normal(0.2, 0.2))
    return Light(
        towards=(
            math.cos(height) * math.cos(azimuth),
            math.sin(height),
            -abs(math.cos(height) * math.sin(azimuth)),
        ),
        ambient=float(rng.uniform(0.4, 0.75)),
        balance=(gain * (1 + warmth), gain, gain * (1 - warmth)),
        gamma=float(math.exp(rng.normal(0, 0.15))),
        noise=float(rng.uniform(0.5, 6)),
        flicker=float(rng.uniform(0, 0.06)),
    )
