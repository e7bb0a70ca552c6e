"""How good a saliency map is: MAE, S-, F-, E- and weighted F-measure, IoU and boundary F.

The customary protocol brings a map to 256 levels, stretches every image to its own minimum and
maximum, and takes the maximum or mean over thresholds of the *image-averaged* curve.  Stretching
hides a map that quantization has dimmed or lifted as a whole, so every figure is also given for
the map as it is (:data:`PROTOCOLS`).

A map of 256 levels against a binary mask is fully described by histograms: one pass over the
pixels counts levels by mask and by quadrant, and both protocols are computed from those counts
(:mod:`edge_fusion.level_measures`).  Only what asks where an error lies looks at pixels again
(:mod:`edge_fusion.contour_measures`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_fusion.contour_measures import Contour, contour_of
from edge_fusion.errors import FrameError, InputError
from edge_fusion.level_measures import e_measure, f_measure, precision_recall, s_measure

Curve = NDArray[np.float64]

PROTOCOLS: Mapping[str, str] = {
    "normalised": "each map stretched to its own range, as papers report",
    "raw": "each map as the model gives it",
}

_LEVELS = np.arange(256)


@dataclass(frozen=True, slots=True, eq=False)
class Figures:
    """The figures of one map, or of many averaged, under one protocol.

    Attributes:
        mae: Mean absolute error, 0..1, smaller is better.
        s_measure: Structure measure with alpha 0.5.
        iou: Intersection over union at threshold 0.5; 1 where map and mask are both empty.
        f_adaptive: F-measure at twice the map's mean.
        e_adaptive: E-measure at twice the map's mean.
        f_weighted: Weighted F-measure, Margolin et al., CVPR 2014.
        f_boundary: F-measure of the outline at threshold 0.5, within 0.8 % of the diagonal.
        f_curve: (256,) float64, F-measure at thresholds 255 down to 0.
        e_curve: (256,) float64, E-measure at thresholds 255 down to 0.
        precision_curve: (256,) float64, precision at thresholds 255 down to 0.
        recall_curve: (256,) float64, recall at thresholds 255 down to 0.
    """

    mae: float
    s_measure: float
    iou: float
    f_adaptive: float
    e_adaptive: float
    f_weighted: float
    f_boundary: float
    f_curve: Curve
    e_curve: Curve
    precision_curve: Curve
    recall_curve: Curve

    @property
    def f_max(self) -> float:
        """The largest F-measure over all thresholds."""
        return float(self.f_curve.max())

    @property
    def f_mean(self) -> float:
        """The mean F-measure over all thresholds."""
        return float(self.f_curve.mean())

    @property
    def e_max(self) -> float:
        """The largest E-measure over all thresholds."""
        return float(self.e_curve.max())

    @property
    def e_mean(self) -> float:
        """The mean E-measure over all thresholds."""
        return float(self.e_curve.mean())

    def as_dict(self) -> dict[str, float]:
        """Every metric of :data:`METRICS` by name, for JSON; curves are left out."""
        return {name: metric.of(self) for name, metric in METRICS.items()}

    def curves(self) -> dict[str, list[float]]:
        """Values at thresholds 255 down to 0 by curve, for JSON."""
        return {name: getattr(self, f"{name}_curve").tolist() for name in CURVES}


#: The curves of :class:`Figures`, without ``_curve``.
CURVES = ("f", "e", "precision", "recall")


@dataclass(frozen=True, slots=True)
class Metric:
    """One figure that can be printed, compared and gated.

    Attributes:
        name: What commands and JSON call it.
        label: What tables call it.
        higher_is_better: Its direction.
        of: Reads it from :class:`Figures`.
        curve: The curve whose maximum it is; empty where an average over images is the average.
    """

    name: str
    label: str
    higher_is_better: bool
    of: Callable[[Figures], float]
    curve: str = ""

    def drop(self, reference: Figures, other: Figures) -> float:
        """By how much ``other`` is worse than ``reference``; negative where it is better."""
        return worsening(self.of(reference), self.of(other), self.higher_is_better)


def worsening(reference: float, other: float, higher_is_better: bool) -> float:
    """By how much ``other`` is worse than ``reference``; negative where it is better."""
    return reference - other if higher_is_better else other - reference


METRICS: dict[str, Metric] = {
    name: Metric(name, label, higher, attrgetter(attribute), curve)
    for name, label, higher, attribute, curve in (
        ("mae", "MAE", False, "mae", ""),
        ("s", "S", True, "s_measure", ""),
        ("f_max", "F max", True, "f_max", "f_curve"),
        ("f_mean", "F mean", True, "f_mean", ""),
        ("f_adaptive", "F adaptive", True, "f_adaptive", ""),
        ("e_max", "E max", True, "e_max", "e_curve"),
        ("e_mean", "E mean", True, "e_mean", ""),
        ("e_adaptive", "E adaptive", True, "e_adaptive", ""),
        ("f_weighted", "F weighted", True, "f_weighted", ""),
        ("iou", "IoU", True, "iou", ""),
        ("f_boundary", "F boundary", True, "f_boundary", ""),
    )
}


@dataclass(frozen=True, slots=True)
class ImageScores:
    """One map against its mask under both protocols."""

    normalised: Figures
    raw: Figures

    def as_dict(self) -> dict[str, dict[str, float]]:
        """Figures by protocol and metric, for JSON."""
        return {protocol: getattr(self, protocol).as_dict() for protocol in PROTOCOLS}


@dataclass(frozen=True, slots=True)
class Scores:
    """The figures of a set of ``n`` images: curves are averaged before their maximum is taken."""

    n: int
    normalised: Figures
    raw: Figures

    def as_dict(self) -> dict[str, object]:
        """The number of images and figures by protocol and metric, for JSON."""
        figures = {protocol: getattr(self, protocol).as_dict() for protocol in PROTOCOLS}
        return {"n": self.n, **figures}


def score(
    saliency: NDArray[np.floating], mask: NDArray[np.bool_], contour: Contour | None = None
) -> ImageScores:
    """Score one saliency map against its ground truth under both protocols.

    Args:
        saliency: (H, W) float in 0..1, of the mask's size; it is cut to 256 levels by
            ``floor(255 * value)``, as writing it to an 8-bit file would.
        mask: (H, W) bool, True where the object is.
        contour: The mask's, where several maps are scored against it; else it is made here.

    Returns:
        Figures equal to those of PySODMetrics to rounding.  Two details are decided exactly here
        where floating-point noise decides there: a level that lies on the adaptive threshold
        counts as object, and a quadrant of one level has no variance.  A quadrant without any
        pixel has no weight.

    Raises:
        FrameError: Sizes or dtypes do not fit, fewer than two pixels, NaN, or values outside 0..1.

    Example:
        >>> truth = np.zeros((8, 8), bool)
        >>> truth[2:6, 2:6] = True
        >>> round(score(truth.astype(np.float32), truth).raw.s_measure, 6)
        1.0
    """
    _check(saliency, mask)
    levels = (saliency * 255).astype(np.uint8)
    counts, weights = _count(levels, mask)
    seen = _Seen(levels, contour or contour_of(mask), counts, weights)
    occupied = np.flatnonzero(counts.sum(axis=(0, 1)))
    low, high = int(occupied[0]), int(occupied[-1])
    raw = _figures(seen, 0, 255)
    if low == high or (low, high) == (0, 255):  # the protocol leaves a constant map as it is
        return ImageScores(normalised=raw, raw=raw)
    return ImageScores(normalised=_figures(seen, low, high), raw=raw)


def pool(scores: Sequence[ImageScores]) -> Scores:
    """Average the scores of many images; every image weighs the same.

    Raises:
        InputError: There is nothing to average.

    Example:
        >>> one = score(np.eye(4, dtype=np.float32), np.eye(4, dtype=bool))
        >>> pool([one, one]).n
        2
    """
    if not scores:
        raise InputError("no scores to average", cure="score at least one image with a mask")
    return Scores(
        n=len(scores),
        normalised=_average([one.normalised for one in scores]),
        raw=_average([one.raw for one in scores]),
    )


def mean_absolute_difference(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """How far two maps are apart on average, 0..1, without any truth.

    Args:
        a: (H, W) float, 0..1.
        b: (H, W) float, 0..1.

    Raises:
        FrameError: The maps differ in size or hold NaN or infinity.

    Example:
        >>> mean_absolute_difference(np.zeros((2, 2)), np.full((2, 2), 0.25))
        0.25
    """
    if a.shape != b.shape:
        raise FrameError(
            "two saliency maps of different size", expected=str(a.shape), got=str(b.shape)
        )
    mean = float(np.mean(np.abs(a - b), dtype=np.float64))
    if not np.isfinite(mean):
        raise FrameError("a saliency map holds NaN or infinity", cure="check the model's output")
    return mean


def _check(saliency: NDArray[np.floating], mask: NDArray[np.bool_]) -> None:
    if saliency.ndim != 2 or saliency.dtype.kind != "f":
        raise FrameError(
            "a saliency map", expected="(H, W) float", got=f"{saliency.shape} {saliency.dtype}"
        )
    if mask.dtype != np.bool_:
        raise FrameError(
            "a mask", expected="bool", got=str(mask.dtype), cure="compare it first: mask > 128"
        )
    if saliency.shape != mask.shape:
        raise FrameError(
            "a saliency map does not fit its mask",
            expected=f"{mask.shape} like the mask",
            got=str(saliency.shape),
            cure="resize the map to the mask's size, never the mask to the map's",
        )
    if mask.size < 2:
        raise FrameError("a saliency map", expected="two pixels or more", got=str(mask.size))
    low, high = float(saliency.min()), float(saliency.max())
    if not (low >= 0 and high <= 1):  # NaN fails both comparisons
        raise FrameError(
            "a saliency map has values outside 0..1",
            expected="0..1 without NaN",
            got=f"{low:g}..{high:g}",
            cure="are these logits? declare the output's activation as sigmoid",
        )


def _count(levels: NDArray[np.uint8], mask: NDArray[np.bool_]) -> tuple[Curve, Curve]:
    """Pixels by quadrant, truth and level, (4, 2, 256), and the quadrants' shares of the area."""
    height, width = mask.shape
    rows, columns = mask.sum(axis=1), mask.sum(axis=0)
    total = max(int(rows.sum()), 1)
    # The quadrants meet at the object's rounded centre, which belongs to the upper left one.
    y = int(np.round((np.arange(height) @ rows) / total)) + 1
    x = int(np.round((np.arange(width) @ columns) / total)) + 1
    cell = levels.astype(np.uint16)
    cell[mask] += 256
    cell[:y, x:] += 512
    cell[y:, :x] += 1024
    cell[y:, x:] += 1536
    counts = np.bincount(cell.ravel(), minlength=2048).reshape(4, 2, 256).astype(np.float64)
    area = np.array([y * x, y * (width - x), (height - y) * x, (height - y) * (width - x)])
    return counts, area / mask.size


class _Seen(NamedTuple):
    """A map and its mask, counted."""

    levels: NDArray[np.uint8]
    contour: Contour
    counts: Curve
    weights: Curve


def _figures(seen: _Seen, low: int, high: int) -> Figures:
    levels, contour, counts, weights = seen
    values = _LEVELS / 255
    values = np.clip((values - values[low]) / (values[high] - values[low]), 0, 1)
    background, foreground = counts.sum(axis=0)
    n, n_true = float(counts.sum()), float(foreground.sum())

    # Ascending thresholds 0..255 of the protocol, met by "level >= threshold", in reverse order.
    bins = (values * 255).astype(np.uint8)
    hits = np.bincount(bins, foreground, 256)[::-1].cumsum()
    alarms = np.bincount(bins, background, 256)[::-1].cumsum()
    chosen = _above_twice_the_mean(background + foreground, low, high)
    hit, alarm = (np.array([side[chosen].sum()]) for side in (foreground, background))
    precision, recall = precision_recall(hits, alarms, n_true)
    half = values >= 0.5
    met, found = float(foreground[half].sum()), float(background[half].sum())
    return Figures(
        mae=float(foreground @ (1 - values) + background @ values) / n,
        s_measure=s_measure(counts, weights, values),
        iou=met / (n_true + found) if n_true + found else 1.0,
        f_adaptive=float(f_measure(*precision_recall(hit, alarm, n_true))[0]),
        e_adaptive=float(e_measure(hit, alarm, n_true, n)[0]),
        f_weighted=contour.weighted_f(levels, values),
        f_boundary=contour.boundary_f(half[levels]),
        f_curve=f_measure(precision, recall),
        e_curve=e_measure(hits, alarms, n_true, n),
        precision_curve=precision,
        recall_curve=recall,
    )


def _above_twice_the_mean(counts: Curve, low: int, high: int) -> NDArray[np.bool_]:
    """Levels that reach the adaptive threshold min(2 * mean, 1), compared in whole numbers."""
    n = int(counts.sum())
    above_low = int(_LEVELS @ counts) - low * n
    reached: NDArray[np.bool_] = (_LEVELS - low) * n >= min(2 * above_low, (high - low) * n)
    return reached


def _average(figures: Sequence[Figures]) -> Figures:
    def mean(name: str) -> float:
        return float(np.mean([getattr(one, name) for one in figures]))

    def mean_curve(name: str) -> Curve:
        curve: Curve = np.mean([getattr(one, name) for one in figures], axis=0)
        return curve

    return Figures(
        mae=mean("mae"),
        s_measure=mean("s_measure"),
        iou=mean("iou"),
        f_adaptive=mean("f_adaptive"),
        e_adaptive=mean("e_adaptive"),
        f_weighted=mean("f_weighted"),
        f_boundary=mean("f_boundary"),
        f_curve=mean_curve("f_curve"),
        e_curve=mean_curve("e_curve"),
        precision_curve=mean_curve("precision_curve"),
        recall_curve=mean_curve("recall_curve"),
    )
