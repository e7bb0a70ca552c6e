"""What variants' maps are worth: scores against masks, differences, and how sure both are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from edge_fusion.contour_measures import contour_of
from edge_fusion.errors import FrameError
from edge_fusion.frame import RgbdFrame
from edge_fusion.metrics import (
    METRICS,
    PROTOCOLS,
    ImageScores,
    Scores,
    mean_absolute_difference,
    pool,
    score,
)

from .comparison import Change, Difference, ImageResult, SetResult
from .intervals import Interval, mean_intervals, peak_change_interval

Maps = Mapping[str, NDArray[np.float32]]


def judge(set_name: str, frame: RgbdFrame, maps: Maps) -> ImageResult:
    """Score the variants' maps of one pair and hold them against the reference's.

    Args:
        set_name: The source's URI.
        frame: The pair.
        maps: (H, W) float32 0..1 by variant, the reference first.

    Raises:
        FrameError: The mask is smaller than two pixels.
    """
    reference, *others = maps
    scores: dict[str, ImageScores] = {}
    if frame.mask is not None:
        contour = contour_of(frame.mask)
        scores = {variant: score(one, frame.mask, contour) for variant, one in maps.items()}
    return ImageResult(
        set=set_name,
        id=frame.id,
        scores=scores,
        differences={
            variant: Difference(
                mean_absolute_difference(maps[reference], maps[variant]),
                float(np.abs(maps[reference] - maps[variant]).max()),
            )
            for variant in others
        },
        empty_mask=frame.mask is not None and not frame.mask.any(),
    )


def summarise(name: str, images: Sequence[ImageResult], variants: Sequence[str]) -> SetResult:
    """Average over images; pairs whose mask has no object are counted, but not averaged.

    Args:
        name: What the images are.
        images: At least one.
        variants: The reference first.
    """
    scored = [image for image in images if image.scores and not image.empty_mask]
    by_variant = {v: [image.scores[v] for image in scored] for v in variants if scored}
    scores = {variant: pool(some) for variant, some in by_variant.items()}
    return SetResult(
        name=name,
        pairs=len(images),
        scores=scores,
        differences={
            variant: _pooled_difference([image.differences[variant] for image in images])
            for variant in variants[1:]
        },
        changes={
            variant: {
                protocol: _changes(protocol, by_variant, scores, variants[0], variant)
                for protocol in PROTOCOLS
            }
            for variant in (variants[1:] if scored else ())
        },
        empty_masks=sum(image.empty_mask for image in images),
    )


def no_map(err: FrameError, variant: str, frame: RgbdFrame) -> FrameError:
    """The same error, naming who answered to what."""
    return FrameError(
        f"variant '{variant}' on pair '{frame.id}': {err.what}",
        expected=err.expected,
        got=err.got,
        cure=err.cure,
    )


def _pooled_difference(differences: Sequence[Difference]) -> Difference:
    means = np.array([[one.mean_abs] for one in differences])
    (interval,) = mean_intervals(means)
    return Difference(float(means.mean()), max(one.max_abs for one in differences), interval)


def _changes(
    protocol: str,
    by_variant: Mapping[str, Sequence[ImageScores]],
    scores: Mapping[str, Scores],
    reference: str,
    variant: str,
) -> dict[str, Change]:
    """The change of every metric under one protocol, and how sure it is."""
    before, after = (
        [getattr(one, protocol) for one in by_variant[name]] for name in (reference, variant)
    )
    averages = [metric for metric in METRICS.values() if not metric.curve]
    single = np.array(
        [
            [metric.of(b) - metric.of(a) for metric in averages]
            for a, b in zip(before, after, strict=True)
        ]
    )
    names = (metric.name for metric in averages)
    intervals: dict[str, Interval | None] = dict(zip(names, mean_intervals(single), strict=True))
    for metric in METRICS.values():
        if metric.curve:
            curves = [
                np.stack([getattr(one, metric.curve) for one in side]) for side in (before, after)
            ]
            intervals[metric.name] = peak_change_interval(*curves)
    pooled = [getattr(scores[name], protocol) for name in (reference, variant)]
    return {
        name: Change(metric.of(pooled[1]) - metric.of(pooled[0]), intervals[name])
        for name, metric in METRICS.items()
    }
