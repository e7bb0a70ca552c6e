"""RGB-D training samples from photographs: invented or composited depth, sensors, encodings.

::

    photograph + mask ─┬─ crop, flip ─ depth invented for it ─┐
                       ├─ cut out, set into a real frame ─────┼─ sensor ─ encoding ─ light
                       └─ cut out, stood on a drawn table ────┘
                                                             ─ the package's own prepare() ─ sample

Depth must help where it is right without being trusted where it is wrong, so a fixed share of all
samples has depth that shows the objects weakly, not at all or wrongly, or no depth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_fusion.errors import FrameError
from edge_fusion.frame import RgbdFrame
from edge_fusion.preprocess import Inputs, prepare
from edge_fusion.runtime.source.noise import SENSORS, SensorModel, apply_sensor
from edge_fusion.spec import DepthSpec, ModelSpec

from .data import Photo
from .depth import Mask, Plane, Rng, loosen, roundness, stand_objects, surroundings, to_metres
from .tabletop import draw_table

MILLIMETRES = DepthSpec(scale_to_m=0.001)
RELATIVE = {
    "nearer": DepthSpec(scale_to_m=None, larger_is="nearer"),
    "farther": DepthSpec(scale_to_m=None, larger_is="farther"),
}
#: What depth says about the objects, and how often.
CONTRASTS: dict[str, float] = {"right": 0.60, "weak": 0.13, "none": 0.12, "wrong": 0.15}
#: Which sensor, and how often.
SENSOR_SHARES: dict[str, float] = {"stereo": 0.42, "structured": 0.33, "tof": 0.17, "none": 0.08}
_MEMORY = 8  # depth images of earlier scenes that serve as wrong ones
_CUT_OUTS = 32  # photographs kept decoded as company for the next ones


@dataclass(frozen=True, slots=True)
class SceneOptions:
    """How samples are made.

    Attributes:
        composites: Share of the samples that are cut-outs in real RGB-D frames.
        tables: Share of the samples that are cut-outs on a drawn table.
        blanked: Share of the samples whose depth input is all zero.
        relative: Share of the samples with 8-bit relative depth instead of millimetres.
    """

    composites: float = 0.13
    tables: float = 0.14
    blanked: float = 0.22
    relative: float = 0.3


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One training sample.

    Attributes:
        frame: The pair as a sensor would deliver it, with its mask.
        inputs: What :func:`edge_fusion.preprocess.prepare` makes of it.
        mask: (s, s) float32, 0..1, soft at edges.
        contrast: A key of :data:`CONTRASTS`, or ``blanked``.
    """

    frame: RgbdFrame
    inputs: Inputs
    mask: NDArray[np.float32]
    contrast: str


#: As a source delivers it.
Depth = NDArray[np.uint8] | NDArray[np.uint16]
#: Colour, mask, metres, and where a real frame has no reading.
_Scene = tuple[NDArray[np.uint8], NDArray[np.uint8], Plane, "NDArray[np.bool_] | None"]


class SceneMaker:
    """Makes samples; one per process, as it keeps a few earlier scenes for wrong depth.

    Args:
        read: Decodes a photograph by name.
        names: The photographs to draw from.
        backgrounds: Real RGB-D frames in millimetres for composites; empty: none are made.
        spec: The model's input record; its size is replaced.
        options: Shares of the kinds.

    Example:
        >>> maker = SceneMaker(photos.read, photos.ids, [], spec)        # doctest: +SKIP
        >>> maker.make(np.random.default_rng(0), photos.ids[0], 160).inputs["depth"].shape
        (1, 1, 160, 160)                                                 # doctest: +SKIP
    """

    def __init__(
        self,
        read: Callable[[str], Photo],
        names: Sequence[str],
        backgrounds: Sequence[RgbdFrame],
        spec: ModelSpec,
        options: SceneOptions | None = None,
    ) -> None:
        self._read, self._names, self._spec = read, names, spec
        self._backgrounds = backgrounds
        self._options = options or SceneOptions()
        self._depths: list[tuple[Depth, DepthSpec]] = []
        self._shapes: list[Mask] = []
        self._photos: list[Photo] = []

    def make(self, rng: Rng, name: str, size: int, *, augment: bool = True) -> Sample:
        """One sample of ``size`` x ``size`` pixels around the photograph ``name``.

        Args:
            rng: Draws everything.
            name: The photograph.
            size: Side of the model's input in pixels.
            augment: Crop, flip, change the light and composite; else the photograph as it is.
        """
        photo = self._read(name)
        contrast = str(rng.choice(list(CONTRASTS), p=list(CONTRASTS.values())))
        rgb, mask, metres, holes = self._scene(rng, photo, size, contrast, augment)
        hard = np.asarray((mask > 127) * np.uint8(255), np.uint8)
        depth, spec = self._sense(rng, rgb, metres, holes)
        if contrast == "wrong" and not self._depths:
            contrast = "none"
        if contrast == "wrong":
            depth, spec = self._depths[int(rng.integers(len(self._depths)))]
            depth = _at_size(depth, (size, size))
        else:
            self._remember(depth, spec, hard)
        rgb = _light(rng, rgb) if augment else rgb
        frame = RgbdFrame(rgb=rgb, depth=depth, depth_spec=spec, id=name, mask=hard > 0)
        blank = augment and rng.random() < self._options.blanked
        inputs, blank = _prepared(frame, self._spec, size, blank)
        truth = mask.astype(np.float32) / np.float32(255)
        return Sample(frame, inputs, truth, "blanked" if blank else contrast)

    def _scene(self, rng: Rng, photo: Photo, size: int, contrast: str, augment: bool) -> _Scene:
        self._photos = [*self._photos[1 - _CUT_OUTS :], photo]
        strength = {"weak": float(rng.uniform(0.03, 0.25)), "none": 0.0}.get(contrast, 1.0)
        kind = rng.random()
        if not augment or kind >= self._options.composites + self._options.tables:
            rgb, mask = _view(rng, photo, size) if augment else _whole(photo, size)
            return rgb, mask, self._invent(rng, rgb, mask, strength), None
        if kind < self._options.composites and self._backgrounds:
            rgb, metres, holes = _real_view(rng, self._backgrounds, size)
            count, largest = int(rng.choice([1, 2, 3, 4], p=[0.45, 0.25, 0.2, 0.1])), 0.75
        else:
            rgb, near, _ = draw_table(rng, size, self._backgrounds)
            metres, holes = to_metres(near), np.zeros((size, size), np.bool_)
            count, largest = int(rng.integers(1, 9)), float(rng.uniform(0.15, 0.5))
        mask = np.zeros((size, size), np.uint8)
        others = rng.integers(len(self._photos), size=count - 1)
        for each in [photo, *(self._photos[int(index)] for index in others)]:
            _paste(rng, each, rgb, mask, metres, holes, strength, largest)
        return rgb, mask, to_metres(loosen(rng, np.reciprocal(metres))), holes

    def _invent(
        self, rng: Rng, rgb: NDArray[np.uint8], mask: NDArray[np.uint8], strength: float
    ) -> Plane:
        gray = np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), np.uint8)
        near, flat = surroundings(rng, gray, self._shapes)
        if strength:
            hard = np.asarray((mask > 127).astype(np.uint8), np.uint8)
            near = stand_objects(rng, near, hard, flat=flat, strength=strength)
        return to_metres(loosen(rng, near))

    def _sense(
        self, rng: Rng, rgb: NDArray[np.uint8], metres: Plane, holes: NDArray[np.bool_] | None
    ) -> tuple[Depth, DepthSpec]:
        gray = np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), np.uint8)
        millimetres = apply_sensor(metres, _some_sensor(rng), rng, gray)
        if holes is not None:
            millimetres[holes] = 0
        if rng.random() < 0.35:
            _narrow_view(rng, millimetres)
        if rng.random() >= self._options.relative:
            return millimetres, MILLIMETRES
        return _as_relative(rng, millimetres)

    def _remember(self, depth: Depth, spec: DepthSpec, mask: Mask) -> None:
        self._depths = [*self._depths[1 - _MEMORY :], (depth, spec)]
        self._shapes = [*self._shapes[1 - _MEMORY :], mask]


def _at_size(depth: Depth, size: tuple[int, int]) -> Depth:
    resized: Depth = cv2.resize(depth, size, interpolation=cv2.INTER_NEAREST)  # type: ignore[assignment]
    return resized


def _prepared(frame: RgbdFrame, spec: ModelSpec, size: int, blank: bool) -> tuple[Inputs, bool]:
    """The model's inputs; depth is all zero where asked for or where nothing was measured."""
    at_size = spec.model_copy(update={"height": size, "width": size})
    try:
        inputs = prepare(frame, at_size)
    except FrameError:  # a scene out of the sensor's range; a real camera would deliver it too
        valid = replace(frame, depth=np.ones_like(frame.depth))
        inputs, blank = prepare(valid, at_size), True
    if blank:
        inputs[spec.depth.name] = np.zeros_like(inputs[spec.depth.name])
    return inputs, blank


def _some_sensor(rng: Rng) -> SensorModel:
    """One of the shared sensors, better or worse than usual in every respect."""
    kind = str(rng.choice(list(SENSOR_SHARES), p=list(SENSOR_SHARES.values())))
    sensor = SENSORS[kind]

    def factor(low: float, high: float) -> float:
        return float(np.exp(rng.uniform(np.log(low), np.log(high))))

    return replace(
        sensor,
        focal_baseline=sensor.focal_baseline * factor(0.6, 2.5),
        disparity_noise=sensor.disparity_noise * factor(0.5, 2.5),
        fattening=sensor.fattening * factor(0.5, 3.0),
        texture_floor=sensor.texture_floor * factor(0.5, 4.0),
        noise_m=sensor.noise_m * factor(0.5, 2.5),
        noise_per_m2=sensor.noise_per_m2 * factor(0.5, 2.0),
        dark_limit=sensor.dark_limit * factor(0.3, 2.0),
        dropout=sensor.dropout * factor(0.2, 2.5),
        misregistration=sensor.misregistration * factor(0.5, 3.0),
        shadow_side=-1 if rng.random() < 0.5 else 1,
    )


def _narrow_view(rng: Rng, millimetres: NDArray[np.uint16]) -> None:
    """Lose up to two margins, which the depth camera does not see; in place."""
    size = millimetres.shape[0]
    for margin in rng.integers(4, size=2):
        lost = int(rng.uniform(0, 0.09) * size)
        np.rot90(millimetres, margin)[:lost] = 0


def _as_relative(rng: Rng, millimetres: NDArray[np.uint16]) -> tuple[Depth, DepthSpec]:
    """8-bit relative depth, 0 where there is no reading, of either polarity."""
    valid = millimetres > 0
    if not valid.any():
        return millimetres, MILLIMETRES
    near = np.float32(1000) / np.maximum(millimetres, 1).astype(np.float32)
    low, high = float(near[valid].min()), float(near[valid].max())
    unit = (near - np.float32(low)) / np.float32(max(high - low, 1e-6))
    polarity = "nearer" if rng.random() < 0.5 else "farther"
    if polarity == "farther":
        unit = 1 - unit
    levels = np.where(valid, 1 + np.rint(254 * np.clip(unit, 0, 1)), 0).astype(np.uint8)
    return levels, RELATIVE[polarity]


def _whole(photo: Photo, size: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    rgb = cv2.resize(photo.rgb, (size, size), interpolation=cv2.INTER_LINEAR)
    mask = cv2.resize(photo.mask, (size, size), interpolation=cv2.INTER_LINEAR)
    return np.asarray(rgb, np.uint8), np.asarray(mask, np.uint8)


def _view(rng: Rng, photo: Photo, size: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A random part of the photograph, half of the time mirrored."""
    height, width = photo.mask.shape
    cuts = rng.uniform(0, 0.22, 4) * (rng.random() < 0.75)
    rows = slice(int(cuts[0] * height), height - int(cuts[1] * height))
    columns = slice(int(cuts[2] * width), width - int(cuts[3] * width))
    part = Photo(photo.id, photo.rgb[rows, columns], photo.mask[rows, columns])
    if 2 * np.count_nonzero(part.mask) < np.count_nonzero(photo.mask):
        part = photo
    if rng.random() < 0.5:
        part = Photo(part.id, part.rgb[:, ::-1], part.mask[:, ::-1])
    return _whole(part, size)


def _light(rng: Rng, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Other exposure, contrast, colour and sharpness."""
    ramp = np.arange(256, dtype=np.float32) / 255
    gain, gamma = float(np.exp(rng.normal(0, 0.15))), float(np.exp(rng.normal(0, 0.2)))
    tints = np.exp(rng.normal(0, 0.06, 3))
    tables = np.stack([ramp**gamma * (gain * tint) for tint in tints], axis=-1)
    lut = (255 * tables).clip(0, 255).astype(np.uint8)
    out = np.asarray(cv2.LUT(np.ascontiguousarray(rgb), lut[None]), np.uint8)
    kind = rng.random()
    if kind < 0.12:
        gray = cv2.cvtColor(cv2.cvtColor(out, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        share = float(rng.uniform(0.3, 1))
        out = np.asarray(cv2.addWeighted(out, 1 - share, gray, share, 0), np.uint8)
    elif kind < 0.4:  # sharper: colour cameras are resampled from many more pixels
        soft = cv2.GaussianBlur(out, (0, 0), 1.0)
        amount = float(rng.uniform(0.3, 1.2))
        out = np.asarray(cv2.addWeighted(out, 1 + amount, soft, -amount, 0), np.uint8)
    elif kind < 0.52:
        out = np.asarray(cv2.GaussianBlur(out, (0, 0), float(rng.uniform(0.4, 1.1))), np.uint8)
    return out


def _real_view(
    rng: Rng, backgrounds: Sequence[RgbdFrame], size: int
) -> tuple[NDArray[np.uint8], Plane, NDArray[np.bool_]]:
    """A part of a real frame: colour, metres with holes filled by what lies behind, holes."""
    frame = backgrounds[int(rng.integers(len(backgrounds)))]
    height, width = frame.depth.shape
    share = float(rng.uniform(0.55, 1))
    h, w = int(share * height), int(share * width)
    top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
    part = np.s_[top : top + h, left : left + w]
    step = -1 if rng.random() < 0.5 else 1
    rgb = cv2.resize(frame.rgb[part][:, ::step], (size, size), interpolation=cv2.INTER_LINEAR)
    depth = cv2.resize(frame.depth[part][:, ::step], (size, size), interpolation=cv2.INTER_NEAREST)
    holes = depth == 0
    metres = depth.astype(np.float32) / np.float32(1000)
    known = metres[~holes]
    metres[holes] = np.percentile(known[::7], 80) if known.size > 7 else np.float32(2)
    return np.asarray(rgb, np.uint8), metres.clip(0.15, 14), np.asarray(holes)


def _paste(
    rng: Rng,
    photo: Photo,
    rgb: NDArray[np.uint8],
    mask: NDArray[np.uint8],
    metres: Plane,
    holes: NDArray[np.bool_],
    strength: float,
    largest: float,
) -> None:
    """Set one cut-out into a scene, in place: colour with a soft edge, depth on its own support."""
    size = mask.shape[0]
    cut = _cut_out(rng, photo, size, largest)
    if cut is None:
        return
    colour, alpha = cut
    h, w = alpha.shape
    left = int(rng.integers(0, size - w + 1))
    base = int(rng.uniform(max(0.3 * size, h), max(size, h) + 1))
    box = np.s_[base - h : base, left : left + w]
    part = alpha > 127
    if not part.any():
        return
    behind = metres[box].copy()
    foot = metres[base - 1, left : left + w]
    front = min(float(np.median(foot)), float(np.percentile(behind[part][::5], 25)))
    bulge = roundness(part) * np.float32(rng.uniform(0, 0.1))
    solid = np.minimum(np.float32(front * rng.uniform(0.9, 1)) * (1 - bulge), behind)
    soft = cv2.GaussianBlur(alpha, (0, 0), 0.7).astype(np.float32)[..., None] / np.float32(255)
    scene = rgb[box].astype(np.float32)
    shift = (scene.mean((0, 1)) - colour[part].mean(0)) * np.float32(rng.uniform(0, 0.35))
    blend = scene + soft * (colour.astype(np.float32) + shift.astype(np.float32) - scene)
    rgb[box] = blend.clip(0, 255).astype(np.uint8)
    mask[box] = np.maximum(mask[box], alpha)
    np.copyto(metres[box], behind + np.float32(strength) * (solid - behind), where=part)
    if strength and rng.random() < 0.7:  # else the real holes stay: a shiny or black object
        holes[box] &= ~part


def _cut_out(
    rng: Rng, photo: Photo, size: int, largest: float
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]] | None:
    """The salient object alone, scaled to a random share of the scene: colour and alpha."""
    x, y, w, h = cv2.boundingRect(photo.mask)
    if w < 8 or h < 8:
        return None
    share = float(np.exp(rng.uniform(np.log(min(0.08, largest / 2)), np.log(largest))))
    scale = share * size / max(w, h)
    shape = (max(4, round(w * scale)), max(4, round(h * scale)))
    step = -1 if rng.random() < 0.5 else 1
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    colour = cv2.resize(photo.rgb[y : y + h, x : x + w][:, ::step], shape, interpolation=method)
    alpha = cv2.resize(photo.mask[y : y + h, x : x + w][:, ::step], shape, interpolation=method)
    return np.asarray(colour, np.uint8), np.asarray(alpha, np.uint8)
