"""``demo://``: an endless supply of RGB-D pairs with exact masks, drawn by our own code."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache, partial
from typing import Literal, get_args

import cv2
import numpy as np

from edge_fusion.errors import SourceError
from edge_fusion.frame import Intrinsics, RgbdFrame
from edge_fusion.spec import DepthSpec

from .base import Arrival, Arrivals, decoded
from .invent import random_scene
from .noise import SENSORS, SensorModel, apply_sensor
from .render import Renderer

Noise = Literal["stereo", "tof", "structured", "none", "mixed"]
NOISES: tuple[str, ...] = get_args(Noise)

DEPTH = DepthSpec(scale_to_m=0.001, larger_is="farther", invalid=0)
SCENE_FPS = 30.0  # frame i shows the world at i / 30 s, whatever the pace of delivery
_GLANCE_S = 0.5  # how often the stream may be ended while no frame is due
SMALLEST_SIDE, LARGEST_SIDE = 32, 4096

_MIXED = ("stereo", "structured", "tof")
_SENSOR_STREAM, _FRAME_STREAM = 1, 2  # of a seed's random streams; 0 is the scene itself


def scene_frame(
    seed: int, width: int = 320, height: int = 240, noise: Noise = "mixed", index: int = 0
) -> RgbdFrame:
    """One frame of the world of a seed; every seed is an independent scene.

    Args:
        seed: At least 0.
        width: Image width in pixels, 32..4096.
        height: Image height in pixels, 32..4096.
        noise: The depth sensor; ``mixed`` gives each seed one of the three.
        index: Which frame of the seed's video.

    Returns:
        Colour, depth in millimetres (0: no reading), an exact mask and intrinsics.

    Raises:
        SourceError: An argument is out of range.

    Example:
        >>> frame = scene_frame(3, 160, 120)
        >>> frame.rgb.shape, frame.depth.dtype, frame.mask.dtype
        ((120, 160, 3), dtype('uint16'), dtype('bool'))
    """
    return DemoSource(index + 1, seed, width, height, noise=noise)[index]


class DemoSource:
    """A video of moving things in a room; frame ``i`` depends only on the seed and ``i``.

    Args:
        frames: How many frames there are.
        seed: Which world; at least 0.
        cut: Go on to the world of the next seed after so many frames; 0 stays in one world.  With
            1 every frame is another world, which makes a varied set rather than a video.
        width: Image width in pixels, 32..4096.
        height: Image height in pixels, 32..4096.
        fps: Frames per second, for timestamps and the pace of a live source.
        live: Deliver at that pace and skip what comes too late, as a camera does.
        noise: The depth sensor: a key of :data:`.noise.SENSORS`, or ``mixed``: the seed chooses.

    Raises:
        SourceError: An argument is out of range.

    Example:
        >>> source = DemoSource(frames=3, width=160, height=120)
        >>> [frame.id for frame in source.frames()]
        ['demo-0-00000', 'demo-0-00001', 'demo-0-00002']
    """

    def __init__(
        self,
        frames: int = 300,
        seed: int = 0,
        width: int = 640,
        height: int = 480,
        fps: float = 30.0,
        live: bool = False,
        noise: Noise = "stereo",
        cut: int = 0,
    ) -> None:
        _check("frames", frames, 1, 10**9)
        _check("cut", cut, 0, 10**9)
        _check("seed", seed, 0, 2**63)
        _check("width", width, SMALLEST_SIDE, LARGEST_SIDE)
        _check("height", height, SMALLEST_SIDE, LARGEST_SIDE)
        _check("fps", fps, 0.1, 1000)
        if noise not in NOISES:
            raise SourceError("demo: noise", expected=f"one of {', '.join(NOISES)}", got=noise)
        self._frames, self._seed, self._fps, self._live = frames, seed, fps, live
        self._size, self._noise, self._cut = (width, height), noise, cut
        self._world = lru_cache(maxsize=1)(self._make_world)  # frames mostly come in order

    def _make_world(self, seed: int) -> tuple[Renderer, SensorModel]:
        chosen = _stream(seed, _SENSOR_STREAM).integers(len(_MIXED))
        sensor = SENSORS[_MIXED[int(chosen)] if self._noise == "mixed" else self._noise]
        return Renderer(random_scene(seed), *self._size), sensor

    @property
    def uri(self) -> str:
        """The URI that opens an equal source."""
        width, height = self._size
        return (
            f"demo://?frames={self._frames}&seed={self._seed}&size={width}x{height}"
            f"&fps={self._fps:g}&live={self._live:d}&noise={self._noise}&cut={self._cut}"
        )

    @property
    def live(self) -> bool:
        """Whether frames come at their own pace."""
        return self._live

    def __len__(self) -> int:
        """How many frames there are."""
        return self._frames

    def __getitem__(self, index: int) -> RgbdFrame:
        """Frame ``index``, 0 up to the length."""
        if not 0 <= index < self._frames:
            raise IndexError(f"demo frame {index} of {self._frames}")
        worlds, moment = divmod(index, self._cut) if self._cut else (0, index)
        seed = self._seed + worlds
        renderer, sensor = self._world(seed)
        rng = _stream(seed, _FRAME_STREAM, moment)
        seen = renderer.at(moment / SCENE_FPS, rng)
        gray = cv2.cvtColor(seen.rgb, cv2.COLOR_RGB2GRAY)
        width, height = self._size
        return RgbdFrame(
            rgb=seen.rgb,
            depth=apply_sensor(seen.depth_m, sensor, rng, np.asarray(gray, np.uint8)),
            depth_spec=DEPTH,
            id=f"demo-{seed}-{moment:05d}",
            number=index,
            timestamp_ns=round(index * 1e9 / self._fps),
            mask=seen.mask,
            intrinsics=Intrinsics(seen.focal_px, seen.focal_px, (width - 1) / 2, (height - 1) / 2),
        )

    def frames(self) -> Iterator[RgbdFrame]:
        """Every frame in order; a live source keeps its pace and skips what it is late for."""
        if self._live:
            return decoded(self.arrivals())
        return (self[index] for index in range(self._frames))

    def arrivals(self) -> Arrivals:
        """Every frame of a live source as it is due, drawn only when it is decoded."""
        start, index = time.monotonic(), 0
        while index < self._frames:
            due = start + index / self._fps
            while (left_s := due - time.monotonic()) > 0:
                time.sleep(min(left_s, _GLANCE_S))
                if left_s > _GLANCE_S:
                    yield None
            at_ns = time.monotonic_ns()
            stamp_ns = round(index * 1e9 / self._fps)
            draw = partial(self._drawn, index, at_ns)
            yield Arrival(f"demo frame {index}", index, stamp_ns, at_ns, draw)
            index = max(index + 1, int((time.monotonic() - start) * self._fps))

    def _drawn(self, index: int, arrival_ns: int) -> RgbdFrame:
        return replace(self[index], arrival_ns=arrival_ns)


def _stream(*key: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(key))


def _check(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise SourceError(f"demo: {name}", expected=f"{low:g} to {high:g}", got=f"{value:g}")
