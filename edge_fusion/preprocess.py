"""From a frame to a model's inputs and from its output to a saliency map: the one implementation.

Training, calibration, evaluation and streaming all come through here, because a resize or a depth
normalisation that differs between them ruins a quantized model without any message.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from math import isfinite
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_fusion.errors import FrameError
from edge_fusion.frame import RgbdFrame, valid_depth
from edge_fusion.spec import DepthInput, DepthSpec, ModelSpec, RgbInput

Inputs = dict[str, NDArray[np.float32]]
T = TypeVar("T", bound=np.generic)

_ENOUGH = 1000  # readings that give a 1st percentile worth the name
_PLAUSIBLE_M = (0.08, 200.0)  # from the closest depth cameras to long stereo baselines
_ROUNDING = 1e-3  # how far arithmetic in 8 or 16 bits may carry a probability beyond 0..1
_MIN_SPREAD = 1e-6  # a frame flatter than this has no nearness


def prepare(frame: RgbdFrame, spec: ModelSpec) -> Inputs:
    """The inputs of ``spec`` for one frame.

    Args:
        frame: A colour image and its registered depth.
        spec: The model's input record.

    Returns:
        ``{rgb.name: (1, 3, h, w) float32, depth.name: (1, c, h, w) float32}``, C-contiguous.

    Raises:
        FrameError: The frame has no valid depth at all, or its depth cannot be brought to what
            the model takes (relative depth for a model that takes metres).

    Example:
        >>> from edge_fusion.runtime.source.demo import DemoSource
        >>> inputs = prepare(DemoSource(frames=1)[0], ModelSpec(name="mine"))
        >>> inputs["rgb"].shape, inputs["depth"].shape
        ((1, 3, 256, 256), (1, 1, 256, 256))
    """
    size = (spec.width, spec.height)
    try:
        depth = normalise_depth(resize_depth(frame.depth, size), frame.depth_spec, spec.depth)
    except FrameError as err:
        raise FrameError(
            f"depth of '{frame.id}': {err.what}",
            expected=err.expected,
            got=err.got,
            cure=err.cure,
        ) from err
    rgb_hwc = np.asarray(cv2.resize(frame.rgb, size, interpolation=cv2.INTER_LINEAR), np.uint8)
    return {
        spec.rgb.name: normalise_rgb(rgb_hwc, spec.rgb)[None],
        spec.depth.name: (
            depth[None, None]
            if spec.depth.channels == 1
            else np.repeat(depth[None, None], spec.depth.channels, axis=1)
        ),
    }


def resize_depth(depth: NDArray[T], size: tuple[int, int]) -> NDArray[T]:
    """(H, W) depth -> (h, w), each pixel the nearest one, ``size`` being (w, h).

    The pixels that ``cv2.resize`` takes with ``INTER_NEAREST``, at half its cost.
    """
    rows, columns = _nearest(depth.shape[0], size[1]), _nearest(depth.shape[1], size[0])
    return depth.take(rows, axis=0).take(columns, axis=1)


@lru_cache(maxsize=16)
def _nearest(length: int, wanted: int) -> NDArray[np.intp]:
    """Which of ``length`` pixels stand for ``wanted`` ones, by OpenCV's own rule."""
    line = np.arange(length, dtype=np.int32)[None]
    places = cv2.resize(line, (wanted, 1), interpolation=cv2.INTER_NEAREST)[0]
    return np.asarray(places, np.intp)


def normalise_rgb(rgb_hwc: NDArray[np.uint8], rgb: RgbInput) -> NDArray[np.float32]:
    """(H, W, 3) uint8 red first -> (3, H, W) float32, normalised, in the model's channel order.

    Planes of one channel each, since OpenCV and NumPy compute on those several pixels at a time;
    a table of 256 entries, or all channels at once, costs half as much again.
    """
    out = np.empty((3, *rgb_hwc.shape[:2]), np.float32)
    channels = cv2.split(rgb_hwc)
    if rgb.order == "bgr":
        channels = channels[::-1]
    for plane, channel, mean, std in zip(out, channels, rgb.mean, rgb.std, strict=True):
        plane[...] = channel
        plane *= np.float32(1 / (255 * std))
        plane -= np.float32(mean / std)
    return out


def normalise_depth(
    depth: NDArray[np.generic], source: DepthSpec, model: DepthInput
) -> NDArray[np.float32]:
    """(H, W) depth in the source's unit -> (H, W) float32 as the model takes it.

    Args:
        depth: uint8, uint16 or float32, already at the model's size; left as it is.
        source: Unit, polarity and invalid value of ``depth``.
        model: What the model takes.

    Raises:
        FrameError: No valid reading at all, metric depth at a distance that no camera sees, or a
            model in metres fed with relative depth.
    """
    valid = valid_depth(depth, source)
    if not valid.any():
        raise FrameError(
            "no valid reading in the whole frame",
            cure="is the depth sensor covered, the invalid value wrong, or the file empty?",
        )
    if source.scale_to_m is not None:
        _check_distance(depth, valid, source.scale_to_m)
    unit, direction = _NORMALISERS[model.normalisation](depth, valid, source, model)
    if direction != model.larger_is:
        unit = np.float32(1) - unit
    filled = _HOLE_FILLERS[model.holes](unit, valid)
    if (model.mean, model.std) == (0, 1):
        return filled
    filled -= np.float32(model.mean)
    filled /= np.float32(model.std)
    return filled


def _check_distance(depth: NDArray[Any], valid: NDArray[np.bool_], scale_to_m: float) -> None:
    """Refuse metric depth at a distance no depth camera sees: the unit is declared wrongly."""
    sparse = depth[::8, ::8][valid[::8, ::8]]
    readings = sparse if sparse.size else depth[valid]
    middle = _ranked(readings, [(readings.size - 1) // 2, readings.size // 2])
    middle_m = float(middle.mean()) * scale_to_m
    nearest_m, farthest_m = _PLAUSIBLE_M
    if not nearest_m <= middle_m <= farthest_m:
        raise FrameError(
            "implausible distance",
            expected=f"a median of {nearest_m:g} to {farthest_m:g} m",
            got=f"{middle_m:.3g} m",
            cure="is the unit of depth declared rightly (mm, not m or 0.1mm)?",
        )


_Normalised = tuple[NDArray[np.float32], str]  # 0..1, and what a larger value means


def _spread(values: NDArray[np.float32], low: float, high: float) -> NDArray[np.float32]:
    """What lies between ``low`` and ``high`` to 0..1, in place."""
    if high - low <= _MIN_SPREAD * max(abs(high), _MIN_SPREAD):
        values.fill(0)
        return values
    # In place: what is allocated and thrown away costs more than the arithmetic.
    np.subtract(values, np.float32(low), out=values)
    np.multiply(values, np.float32(1 / (high - low)), out=values)
    return np.clip(values, 0, 1, out=values)


def _limits(
    depth: NDArray[Any],
    valid: NDArray[np.bool_],
    percentiles: Sequence[float],
    value: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    falling: bool,
) -> list[float]:
    """Percentiles of ``value(depth)`` over the readings; ``falling``: farther has less of it.

    Depth itself is ranked, not its values, which come in the same order or the reverse.
    """
    # Every second row and column gives the same percentiles at a fifth of the cost, which was most
    # of what preprocessing cost; a frame with very few readings is taken whole.
    sparse = depth[::2, ::2][valid[::2, ::2]]
    readings = sparse if sparse.size >= _ENOUGH else depth[valid]
    last = readings.size - 1
    places = [last * percent / 100 for percent in percentiles]
    below = [int(place) for place in places]
    ranks = np.array([below, [min(index + 1, last) for index in below]])
    ranked = _ranked(readings, (last - ranks if falling else ranks).ravel())
    ends = value(ranked.astype(np.float32)).reshape(2, -1).astype(np.float64)
    shares = np.array(places) - below
    return list(ends[0] + (ends[1] - ends[0]) * shares)


def _ranked(readings: NDArray[Any], ranks: Sequence[int] | NDArray[np.intp]) -> NDArray[Any]:
    """The readings of those ranks, counting from 0 for the smallest."""
    if readings.dtype.kind == "u":  # at most 16 bits: counting them is faster than ordering them
        return np.bincount(readings).cumsum().searchsorted(ranks, side="right")
    return np.partition(readings, np.unique(ranks))[ranks]


def _as_float(depth: NDArray[Any], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
    """A copy that is finite everywhere, with anything where there is no reading."""
    if depth.dtype.kind == "f":
        depth = np.where(valid, depth, 1)
    return depth.astype(np.float32)


def _itself(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return values


def _inverse(values: NDArray[np.float32]) -> NDArray[np.float32]:
    # A hole that is 0 becomes infinity here, 1 when it is clipped, and is filled at last.
    with np.errstate(divide="ignore"):
        return np.reciprocal(values, out=values)  # its unit cancels between the percentiles


def _opposite(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.negative(values, out=values)


def _nearness(
    depth: NDArray[Any], valid: NDArray[np.bool_], source: DepthSpec, model: DepthInput
) -> _Normalised:
    value = _itself
    if source.larger_is == "farther":
        value = _inverse if source.metric else _opposite
    limits = _limits(depth, valid, model.percentiles, value, falling=value is not _itself)
    return _spread(value(_as_float(depth, valid)), *limits), "nearer"


def _minmax(
    depth: NDArray[Any], valid: NDArray[np.bool_], source: DepthSpec, model: DepthInput
) -> _Normalised:
    limits = _limits(depth, valid, model.percentiles, _itself, falling=False)
    return _spread(_as_float(depth, valid), *limits), source.larger_is


def _linear(
    depth: NDArray[np.generic], valid: NDArray[np.bool_], source: DepthSpec, model: DepthInput
) -> _Normalised:
    if source.scale_to_m is None:
        raise FrameError(
            "the model takes depth in metres, this source's depth is relative",
            cure="declare the source's unit (unit=mm) if it is metric after all",
        )
    values = _as_float(depth, valid)
    values *= np.float32(source.scale_to_m)
    values -= np.float32(model.near_m)
    values /= np.float32(model.far_m - model.near_m)
    return np.clip(values, 0, 1, out=values), "farther"


_NORMALISERS: dict[
    str,
    Callable[[NDArray[np.generic], NDArray[np.bool_], DepthSpec, DepthInput], _Normalised],
] = {"nearness": _nearness, "minmax": _minmax, "linear": _linear}


def _zero_holes(unit: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
    return np.multiply(unit, valid, out=unit)


def _nearest_holes(unit: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
    if valid.all():
        return unit
    _, labels = cv2.distanceTransformWithLabels(
        (~valid).view(np.uint8), cv2.DIST_L2, 3, labelType=cv2.DIST_LABEL_PIXEL
    )
    # Readings are labelled 1, 2, ... row by row, which is the order in which this takes them.
    holes = np.flatnonzero(~valid)
    closest = np.asarray(labels, np.int32).ravel().take(holes) - 1
    unit.ravel()[holes] = unit[valid].take(closest)
    return unit


_HOLE_FILLERS: dict[
    str, Callable[[NDArray[np.float32], NDArray[np.bool_]], NDArray[np.float32]]
] = {"zero": _zero_holes, "nearest": _nearest_holes}


def saliency_map(
    output: NDArray[np.float32], spec: ModelSpec, size: tuple[int, int]
) -> NDArray[np.float32]:
    """A model's output as a saliency map of the frame's size.

    Args:
        output: (1, 1, h, w) float32: probabilities, or logits if ``spec.output`` says sigmoid.
        spec: The model's record.
        size: Height and width of the frame.

    Returns:
        (H, W) float32 in 0..1.

    Raises:
        FrameError: The output holds NaN, has another shape, or is no probability though the
            record says so.
    """
    return resize_saliency(saliency_plane(output, spec), size)


def saliency_plane(output: NDArray[np.float32], spec: ModelSpec) -> NDArray[np.float32]:
    """A model's output as (h, w) float32 at the model's own size, in 0..1 but for rounding.

    Raises:
        FrameError: As :func:`saliency_map`.
    """
    if output.ndim != 4 or output.shape[:2] != (1, 1):
        raise FrameError("the model's output", expected="(1, 1, h, w)", got=str(output.shape))
    plane: NDArray[np.float32] = activate(output, spec)[0, 0]
    return plane


def resize_saliency(plane: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """(h, w) saliency -> (H, W) float32 in 0..1, ``size`` being (H, W)."""
    resized = cv2.resize(plane, size[::-1], interpolation=cv2.INTER_LINEAR)
    saliency = np.asarray(resized, np.float32)
    return np.clip(saliency, 0, 1, out=saliency)


def activate(output: NDArray[np.float32], spec: ModelSpec) -> NDArray[np.float32]:
    """A model's output as probabilities, whatever the graph ends in.

    Args:
        output: Float32 of any shape: probabilities, or logits if ``spec.output`` says sigmoid.
        spec: The model's record.

    Returns:
        The same shape, in 0..1 but for rounding.

    Raises:
        FrameError: A value is NaN or infinite, or outside 0..1 though the record promises
            probabilities.

    Example:
        >>> activate(np.zeros(1, np.float32), ModelSpec(name="m", output={"activation": "sigmoid"}))
        array([0.5], dtype=float32)
    """
    low, high = float(output.min()), float(output.max())  # either is NaN where any value is
    if not (isfinite(low) and isfinite(high)):
        raise FrameError(
            "the model's output holds NaN or infinity",
            cure="run 'edge-fusion inspect BUNDLE --self-check'; is a layer overflowing FP16?",
        )
    if spec.output.activation == "sigmoid":
        return np.asarray(0.5 + 0.5 * np.tanh(0.5 * output), np.float32)
    if low < -_ROUNDING or high > 1 + _ROUNDING:
        raise FrameError(
            "the model's output is no saliency",
            expected="0..1",
            got=f"{low:.3g}..{high:.3g}",
            cure='if these are logits, say so in the input record: "output": {"activation": '
            '"sigmoid"}',
        )
    return output
