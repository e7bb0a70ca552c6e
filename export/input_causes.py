"""Are these inputs what the network was calibrated on?  Judged against the golden pairs.

The golden pairs of a bundle are calibration pairs, prepared: what the ranges were taken from.
Scenes may differ; normalisation, streams and polarity may not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_fusion.diagnosis import Finding
from edge_fusion.spec import ModelSpec

from .samples import Sample

Values = NDArray[np.float64]

_SLACK = 0.02  # of the 0..1 range before mean and std
_GREY = 0.004  # mean difference of colour channels, of 0..1: one 8-bit level
_COLOURED = 0.01
_STEP_SLACK = 0.005  # ImageNet's closest two deviations are 1.8 % apart
_FAR_FROM_UNIT = -0.5  # a record whose smallest value is below this does not take plain 0..1
_UPRIGHT = 0.3  # mean correlation of nearness with the row: floors and tables grow nearer
_SATURATED = 0.5  # share of depth at an end of its range that tells nothing any more
_LEVELS = 256


@dataclass(frozen=True, slots=True, eq=False)
class StreamLook:
    """What one input looks like over a set.

    Attributes:
        low: Smallest value of each channel.
        high: Largest value of each channel.
        steps: Distance of neighbouring 8-bit levels in each channel of colour; 0 where there are
            none, and for depth, whose levels each frame or the unit of its source sets apart.
        texture: Median difference of horizontal neighbours over the standard deviation.
        spread: Mean difference between channels, after undoing mean and deviation.
        raw_spread: The same without undoing them.
        uprightness: Mean correlation of values with their row, invalid ones (0) left out.
        saturated: Share of values at one end of the range.
    """

    low: Values
    high: Values
    steps: Values
    texture: float
    spread: float
    raw_spread: float
    uprightness: float
    saturated: float


def look_at(
    samples: Sequence[Sample], name: str, mean: Values, std: Values, *, colour: bool
) -> StreamLook:
    """Measure one input over all samples; ``mean`` and ``std`` are the record's, per channel."""
    stack = np.concatenate([sample[name] for sample in samples]).astype(np.float64)
    axes = (0, 2, 3)
    low, high = stack.min(axes), stack.max(axes)
    undone = stack * std[:, None, None] + mean[:, None, None]
    flat = stack.std() or 1.0
    ends = (low.reshape(-1, 1, 1), high.reshape(-1, 1, 1))
    return StreamLook(
        low=low,
        high=high,
        steps=np.array(
            [_step(plane) if colour else 0.0 for plane in samples[0][name][0]], np.float64
        ),
        texture=float(np.median(np.abs(np.diff(stack, axis=3))) / flat),
        spread=_spread(undone),
        raw_spread=_spread(stack),
        uprightness=float(np.mean([_uprightness(plane) for plane in undone[:, 0]])),
        saturated=float(max(np.mean(stack == end) for end in ends)),
    )


def _step(plane: NDArray[np.float32]) -> float:
    """The distance of neighbouring levels of an 8-bit picture; 0 where it is none."""
    levels = np.unique(plane).astype(np.float64)
    if not 8 <= levels.size <= _LEVELS:
        return 0.0
    gaps = np.diff(levels)
    step = float(np.median(gaps[gaps < 1.5 * gaps.min()]))
    multiples = (levels - levels[0]) / step
    regular = np.abs(multiples - np.rint(multiples)).max() < 0.1
    return step if regular else 0.0


def _spread(stack: Values) -> float:
    if stack.shape[1] < 2:
        return 0.0
    return float(np.abs(np.diff(stack, axis=1)).mean())


def _uprightness(plane: Values) -> float:
    valid = np.abs(plane) > 1e-6
    rows = np.broadcast_to(np.arange(plane.shape[0])[:, None], plane.shape)[valid]
    values = plane[valid]
    if values.size < 2 or values.std() == 0 or rows.std() == 0:
        return 0.0
    return float(np.corrcoef(rows, values)[0, 1])


def judge_inputs(
    golden: Sequence[Sample], samples: Sequence[Sample], spec: ModelSpec
) -> Iterator[Finding]:
    """Findings about inputs that are unlike those the ranges were taken from.

    Args:
        golden: Prepared calibration pairs.
        samples: Prepared pairs of the set that is diagnosed.
        spec: The model's record.
    """
    colour = np.asarray(spec.rgb.mean), np.asarray(spec.rgb.std)
    channels = spec.depth.channels
    plain = np.full(channels, spec.depth.mean), np.full(channels, spec.depth.std)
    streams = {spec.rgb.name: colour, spec.depth.name: plain}
    before, now = (
        {n: look_at(some, n, *record, colour=n == spec.rgb.name) for n, record in streams.items()}
        for some in (golden, samples)
    )
    swapped = _swapped(before, now, spec)
    if swapped is not None:
        yield swapped  # every other difference follows from it
        return
    wrong = [f for n, r in streams.items() if (f := _normalisation(n, before[n], now[n], *r))]
    yield from wrong
    if not wrong:
        yield from _depth(spec, before[spec.depth.name], now[spec.depth.name])


def _swapped(
    before: dict[str, StreamLook], now: dict[str, StreamLook], spec: ModelSpec
) -> Finding | None:
    """Colour that is grey and smoother than depth: depth is where colour should be."""
    rgb, depth = spec.rgb.name, spec.depth.name
    grey = min(now[rgb].spread, now[rgb].raw_spread) < _GREY
    was_coloured = min(before[rgb].spread, before[rgb].raw_spread) > _COLOURED
    turned = before[rgb].texture > before[depth].texture and now[rgb].texture < now[depth].texture
    if not (grey and was_coloured and turned):
        return None
    return Finding(
        cause="swapped_streams",
        tensor=rgb,
        evidence=f"'{rgb}' has no colour and less texture than '{depth}' "
        f"({now[rgb].texture:.3f} against {now[depth].texture:.3f}); in calibration it had colour "
        f"and more ({before[rgb].texture:.3f} against {before[depth].texture:.3f})",
        figures={"rgb_texture": now[rgb].texture, "depth_texture": now[depth].texture},
        cure=f"exchange the two streams: '{rgb}' is colour, '{depth}' is depth",
    )


def _normalisation(
    name: str, before: StreamLook, now: StreamLook, mean: Values, std: Values
) -> Finding | None:
    lowest, highest = (0 - mean) / std, (1 - mean) / std
    slack = _SLACK / std
    beyond = bool(np.any(now.low < lowest - slack) or np.any(now.high > highest + slack))
    plain = (
        now.low.min() >= -_SLACK and now.high.max() <= 1 + _SLACK and lowest.min() < _FAR_FROM_UNIT
    )
    known = (before.steps > 0) & (now.steps > 0)
    ratio = now.steps[known] / before.steps[known]
    stepped = bool(np.any(np.abs(ratio - 1) > _STEP_SLACK))
    if not (beyond or plain or stepped):
        return None
    was = f"{before.low.min():.4g} to {before.high.max():.4g}"
    found = f"values of {now.low.min():.4g} to {now.high.max():.4g}, {was} in calibration"
    if stepped:
        per_level = ", ".join(f"{step:.4g}" for step in now.steps)
        found += f"; one 8-bit level is {per_level} and was "
        found += ", ".join(f"{step:.4g}" for step in before.steps)
    return Finding(
        cause="wrong_normalisation",
        tensor=name,
        evidence=f"'{name}' has {found}{_guess(now, plain)}",
        figures={"low": float(now.low.min()), "high": float(now.high.max())},
        cure=_record_cure(name, before),
    )


def _guess(now: StreamLook, plain: bool) -> str:
    if plain:
        return ": plain 0..1, mean and std were not applied"
    if now.low.min() >= 0 and 2 < now.high.max() <= _LEVELS - 1:
        return ": raw 8-bit values"
    if now.low.min() >= 0 and now.high.max() > _LEVELS:
        return ": raw depth or 16-bit values"
    return ""


def _record_cure(name: str, before: StreamLook) -> str:
    """The record that the calibration pairs obey, where their 8-bit levels tell it."""
    if not before.steps.all():
        return f"prepare '{name}' with edge_fusion.preprocess.prepare and the bundle's own record"
    stds = ", ".join(f"{1 / (255 * step):.3f}" for step in before.steps)
    return (
        f"prepare '{name}' as in calibration, whose pairs were divided by std [{stds}]: use "
        "edge_fusion.preprocess.prepare with the bundle's own record, or correct mean and std in "
        "the --spec record and build again"
    )


def _depth(spec: ModelSpec, before: StreamLook, now: StreamLook) -> Iterator[Finding]:
    name = spec.depth.name
    if before.uprightness > _UPRIGHT and now.uprightness < -_UPRIGHT:
        yield Finding(
            cause="depth_polarity",
            tensor=name,
            evidence=f"values of '{name}' fall towards the lower edge of the pictures (correlation "
            f"{now.uprightness:+.2f}), where they grew in calibration ({before.uprightness:+.2f}): "
            "near and far look exchanged, or the camera hangs upside down",
            figures={"row_correlation": now.uprightness, "calibration": before.uprightness},
            cure='correct "larger_is" in meta.json of the set, or larger_is= in its URI',
        )
    if now.saturated > _SATURATED > 2 * before.saturated:
        yield Finding(
            cause="depth_unit",
            tensor=name,
            evidence=f"{now.saturated:.0%} of '{name}' lie at one end of its range, "
            f"{before.saturated:.0%} in calibration",
            figures={"saturated": now.saturated, "calibration": before.saturated},
            cure='correct "scale_to_m" in meta.json of the set (unit= in its URI), or near_m and '
            "far_m in the --spec record",
        )
