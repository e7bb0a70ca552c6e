"""What is known about a quantized network before causes are named, and what counts as bad."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from edge_fusion.diagnosis import Finding, LayerError

from .activity import Activity, Range, WeightUse

#: A layer alone in INT8 is bad below this; every layer of a sound graph was above 23 dB.
BAD_DB = 20.0
#: ... or where it alone moves the saliency map by this much: a third of what parity allows in all.
BAD_SALIENCY = 0.0133
TOO_NARROW = 1.6  # largest golden value over the end of the range
TOO_WIDE = 0.3


@dataclass(frozen=True, slots=True)
class Evidence:
    """What detectors judge.

    Attributes:
        layers: Every INT8 layer's errors, by name.
        ranges: Every activation's quantizer.
        golden: What passed them on the golden pairs, in the same order.
        data: What passed them on the set that is diagnosed.
        weights: INT8 weights against their originals.
        extremes: Smallest and largest value of every FP32 tensor.
        saliency_error: Of the whole INT8 network.
    """

    layers: Mapping[str, LayerError]
    ranges: Sequence[Range]
    golden: Sequence[Activity]
    data: Sequence[Activity]
    weights: Sequence[WeightUse]
    extremes: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    saliency_error: float = 0.0

    def bad(self, layer: str) -> bool:
        """Whether a layer alone in INT8 is worse than any of a sound graph."""
        error = self.layers.get(layer)
        if error is None:
            return False
        quiet = error.isolated_sqnr_db is None or error.isolated_sqnr_db >= BAD_DB
        return not quiet or (error.saliency_error or 0.0) >= BAD_SALIENCY

    def passed(self) -> Iterator[tuple[Range, Activity, Activity]]:
        """Each range that INT8 layers read, with its golden and its present activity."""
        for one in zip(self.ranges, self.golden, self.data, strict=True):
            if one[0].layers and one[1].energy:
                yield one

    def fitting(self) -> Iterator[tuple[Range, Activity, Activity]]:
        """The same, where the range is not plainly wrong."""
        for range_, golden, data in self.passed():
            wide = farthest_reach(range_, golden, data) < TOO_WIDE
            if not wide and reach(range_, golden) <= TOO_NARROW:
                yield range_, golden, data

    def fitting_bad(self) -> Iterator[tuple[Range, Activity, Activity]]:
        """The same, where a reader is bad."""
        for one in self.fitting():
            if any(self.bad(layer) for layer in one[0].layers):
                yield one


def keep(layers: Sequence[str]) -> str:
    """The options that keep these layers out of INT8."""
    return " ".join(f"--keep-fp16 '{layer}'" for layer in layers)


def reach(range_: Range, activity: Activity) -> float:
    """Largest value over the end of the range; near 1 on calibration pairs of a sound graph."""
    return activity.peak / max(range_.high, -range_.low if activity.smallest < 0 else 0.0)


def farthest_reach(range_: Range, golden: Activity, data: Activity) -> float:
    """The same on whichever pairs reach farther."""
    return max(reach(range_, golden), reach(range_, data))


def finding_at(cause: str, range_: Range, evidence: str, cure: str, **figures: float) -> Finding:
    """A finding at the first reader of a range."""
    others = f" (also read by {len(range_.layers) - 1} more)" if len(range_.layers) > 1 else ""
    return Finding(
        cause=cause,
        layer=range_.layers[0],
        tensor=range_.tensor,
        evidence=evidence + others,
        figures={name: float(value) for name, value in figures.items()},
        cure=cure,
    )
