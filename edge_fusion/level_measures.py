"""F-, E- and S-measure of maps of 256 levels, computed from histograms alone.

References: F-measure, Achanta et al., CVPR 2009, with beta squared 0.3; E-measure, Fan et al.,
IJCAI 2018; S-measure, Fan et al., ICCV 2017.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Curve = NDArray[np.float64]

_ALPHA = 0.5  # weight of the object part of the S-measure
_BETA2 = 0.3
_EPS = float(np.spacing(1.0))


def precision_recall(hits: Curve, alarms: Curve, n_true: float) -> tuple[Curve, Curve]:
    """Share of what was found that is right, and share of the object that was found."""
    return hits / np.maximum(hits + alarms, 1), hits / max(n_true, 1)


def f_measure(precision: Curve, recall: Curve) -> Curve:
    """F-measure; 0 where nothing was hit."""
    weighted = np.where(recall == 0, 1, _BETA2 * precision + recall)
    curve: Curve = (1 + _BETA2) * precision * recall / weighted
    return curve


def e_measure(hits: Curve, alarms: Curve, n_true: float, n: float) -> Curve:
    """E-measure of counts of object and other pixels that reach a threshold."""
    found = hits + alarms
    if n_true == 0:
        aligned = n - found
    elif n_true == n:
        aligned = found
    else:
        map_mean, true_mean = found / n, n_true / n
        misses = n_true - hits
        cells = ((hits, 1, 1), (alarms, 1, 0), (misses, 0, 1), (n - found - misses, 0, 0))
        aligned = np.zeros_like(hits)
        for number, of_map, of_truth in cells:
            aligned += number * _alignment(of_map - map_mean, of_truth - true_mean)
    return aligned / (n - 1 + _EPS)


def _alignment(of_map: Curve, of_truth: float) -> Curve:
    """Enhanced alignment of two mean-free values: 0 opposed, 1 alike."""
    return (2 * of_map * of_truth / (of_map**2 + of_truth**2 + _EPS) + 1) ** 2 / 4


def s_measure(counts: Curve, weights: Curve, values: Curve) -> float:
    """S-measure of counts (4, 2, 256) by quadrant, truth and level.

    Args:
        counts: Pixels.
        weights: (4,) share of the area by quadrant.
        values: (256,) what a level counts.
    """
    background, foreground = counts.sum(axis=0)
    n, n_true = float(counts.sum()), float(foreground.sum())
    share = n_true / n
    if n_true == 0:
        return 1 - float(background @ values) / n
    if n_true == n:
        return float(foreground @ values) / n
    of_object = share * _likeness(foreground, values)
    of_object += (1 - share) * _likeness(background, 1 - values)
    of_region = sum(
        weight * _similarity(quadrant, values)
        for weight, quadrant in zip(weights, counts, strict=True)
        if weight
    )
    return max(0.0, float(_ALPHA * of_object + (1 - _ALPHA) * of_region))


def _likeness(counts: Curve, values: Curve) -> float:
    """How near 1 and how even the values of one side of the mask are."""
    n = float(counts.sum())
    mean = float(counts @ values) / n
    spread = float(counts @ (values - mean) ** 2)
    deviation = float(np.sqrt(spread / (n - 1))) if n > 1 else 0.0
    return 2 * mean / (mean**2 + 1 + deviation + _EPS)


def _similarity(counts: Curve, values: Curve) -> float:
    """Structural similarity of map and mask in one quadrant; ``counts`` is (2, 256)."""
    by_level = counts.sum(axis=0)
    occupied = by_level > 0
    n, n_true = float(by_level.sum()), float(counts[1].sum())
    constant = np.count_nonzero(occupied) == 1
    map_mean = float(values[occupied][0]) if constant else float(by_level @ values) / n
    true_mean = n_true / n
    map_spread = float(by_level @ (values - map_mean) ** 2)
    true_spread = n_true * (1 - true_mean) ** 2 + (n - n_true) * true_mean**2
    joint = float((counts[1] * (1 - true_mean) - counts[0] * true_mean) @ (values - map_mean))
    freedom = n - 1 + _EPS
    above = 4 * map_mean * true_mean * joint / freedom
    below = (map_mean**2 + true_mean**2) * (map_spread + true_spread) / freedom
    if above != 0:
        return above / (below + _EPS)
    return 1.0 if below == 0 else 0.0
