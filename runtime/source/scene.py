"""The demo's little world as data: a room, things standing in it, a camera and a light.

A :class:`Scene` is made from one seed (``invent.py``) and never changes; time enters only when it
is rendered.  World axes: x right, y up, z away from the camera; the floor is y = 0, the camera
looks towards the origin.  Lengths are metres; the world is laid out in units of the viewing
distance, so a table top and a living room differ by scale alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from .texture import Colour, Surface

Vector = tuple[float, float, float]
Shape = Literal["box", "cylinder", "ellipsoid"]

FLOOR, BACK, LEFT, RIGHT, CEILING = range(5)


@dataclass(frozen=True, slots=True)
class Solid:
    """One convex body.

    Attributes:
        shape: Which body; each fills the cube -1..1 of its own axes.
        centre: Metres, relative to its thing (furniture: in the world).
        half: Half its size along its own axes, metres.
        turn: Rotation about the vertical axis, then tilt about its own x and z axes, radians.
        surface: Its cover.
        gloss: Strength of the highlight, 0..1.
    """

    shape: Shape
    centre: Vector
    half: Vector
    turn: Vector
    surface: Surface
    gloss: float = 0.0


@dataclass(frozen=True, slots=True)
class Sway:
    """A smooth movement: ``amplitude * sin(2 pi t / period_s + phase)`` per axis."""

    amplitude: Vector
    period_s: Vector
    phase: Vector

    def at(self, time_s: float) -> Vector:
        """The displacement at a time."""
        x, y, z = (
            amplitude * math.sin(2 * math.pi * time_s / period + phase)
            for amplitude, period, phase in zip(
                self.amplitude, self.period_s, self.phase, strict=True
            )
        )
        return x, y, z


@dataclass(frozen=True, slots=True)
class Thing:
    """A foreground object: the salient truth.  One or more solids that move together.

    Attributes:
        solids: Its parts.
        place: Where its foot is, metres in the world; y is the height it hovers at.
        sway: How it moves about its place.
        spin: Turn about the vertical axis, radians per second.
        radius: Of its footprint, metres.
    """

    solids: tuple[Solid, ...]
    place: Vector
    sway: Sway
    spin: float
    radius: float


@dataclass(frozen=True, slots=True)
class Decal:
    """A flat picture on a wall or a rug on the floor: colour without any depth of its own.

    Attributes:
        wall: Index of the wall.
        centre: Where on it, 0..1 of its width and height.
        half: Half its width and height, metres.
        angle: Radians in the wall's plane.
        surface: What it shows.
        frame: Colour of its border.
    """

    wall: int
    centre: tuple[float, float]
    half: tuple[float, float]
    angle: float
    surface: Surface
    frame: Colour


@dataclass(frozen=True, slots=True)
class Camera:
    """A pinhole camera that circles the origin.

    Attributes:
        distance: To the point it looks at, metres.
        azimuth: Radians to the side.
        elevation: Radians above the floor.
        roll: Radians about the viewing axis.
        look_at: The point it looks at.
        focal: Focal length as a share of the image width.
        sway: Its slow drift: azimuth, elevation and distance (as a share).
    """

    distance: float
    azimuth: float
    elevation: float
    roll: float
    look_at: Vector
    focal: float
    sway: Sway


@dataclass(frozen=True, slots=True)
class Light:
    """The light and how the camera sees it.

    Attributes:
        towards: Unit vector towards the lamp.
        ambient: Share of the light that comes from everywhere, 0..1.
        balance: Gain per colour channel.
        gamma: Exponent of the camera's tone curve.
        noise: Standard deviation of the image noise, grey levels.
        flicker: Slow change of the brightness, a share.
    """

    towards: Vector
    ambient: float
    balance: Vector
    gamma: float
    noise: float
    flicker: float


@dataclass(frozen=True, slots=True)
class Room:
    """Walls at ``x = left``, ``x = right``, ``z = back`` and the ceiling at ``y = top``, metres.

    ``front`` is where floor, side walls and ceiling begin, behind the camera.
    """

    left: float
    right: float
    back: float
    top: float
    front: float
    covers: tuple[Surface, ...]  # floor, back, left, right, ceiling
    decals: tuple[Decal, ...]


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything there is to render; one scene is one video."""

    seed: int
    room: Room
    furniture: tuple[Solid, ...]
    things: tuple[Thing, ...]
    camera: Camera
    light: Light
