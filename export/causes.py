"""Why a layer's INT8 result is bad: a table of detectors, each with its evidence and its cure.

A detector that looks at ranges holds what passes a quantizer against the range it was given.  The
golden pairs are calibration pairs, so that in a sound graph their largest values lie near the end
of the range (measured: 0.8 to 1.23 of it); far off either way, the scale is wrong whatever set is
diagnosed.  Causes that a sound network may carry without harm, such as one large channel, are
looked for in layers alone whose result is bad.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from edge_fusion.diagnosis import Finding

from .activity import Activity, Range
from .evidence import (
    TOO_NARROW,
    TOO_WIDE,
    Evidence,
    farthest_reach,
    finding_at,
    keep,
    reach,
)

FP16_MOST = 65504.0
_HALF = (1.8, 2.25)  # 255 / 127 = 2.008: int8 read with the scale of uint8
_CLIPS = 1e-3  # share of energy lost: estimators that cut off outliers on purpose lose less
_DOMINANT = 25.0  # largest channel over the median one: 5 levels are left to that
_STARVED, _STARVED_NOISE = 0.4, 0.0316  # share of channels below 15 dB; 0.15 in a sound graph
_UNLIKE = 8.0  # largest stream over the smallest that shares its scale: 4 bits are lost
_TAILED = 6.0  # largest value over the 99.9th percentile
_LOST = 0.01  # share of energy that clipping takes: 20 dB
_GAIN_SLACK = 0.05
_SEEN_CHANNEL = 1e-2  # of the largest channel's magnitude: smaller ones may round to nothing
_WEIGHT_NOISE = 0.01  # 20 dB
_EXTINCT = 0.25  # share of live channels that vanish
_COSTLY, _COST_COUNTS = 0.25, 1e-3  # of the network's whole error; and in saliency


@dataclass(frozen=True, slots=True)
class Detector:
    """One cause: its id, what is measured, what helps, and the judge."""

    cause: str
    measures: str
    cure: str
    judge: Callable[[Evidence], Iterator[Finding]]


def _uint8(evidence: Evidence) -> Iterator[Finding]:
    cure = "legalise the graph: build the bundle again from the float model"
    for range_, golden, _ in evidence.passed():
        over = reach(range_, golden)
        if range_.uint8:
            text = f"'{range_.tensor}' is stored as uint8, which TensorRT reads as int8"
            yield finding_at("uint8_as_int8", range_, text, cure, over=over)
        elif _looks_halved(range_, golden):
            text = (
                f"'{range_.tensor}' is never negative and reaches {over:.2f} times the end of its "
                f"range, as where a uint8 scale (255 levels) is read as int8 (127)"
            )
            yield finding_at("uint8_as_int8", range_, text, cure, over=over)


def _looks_halved(range_: Range, golden: Activity) -> bool:
    halved = _HALF[0] <= reach(range_, golden) <= _HALF[1]
    return golden.smallest >= 0 and halved and golden.clipped > _CLIPS * golden.energy


def _clipping(evidence: Evidence) -> Iterator[Finding]:
    for range_, golden, _ in evidence.passed():
        over, lost = reach(range_, golden), golden.clipped / golden.energy
        known = range_.uint8 or _looks_halved(range_, golden)
        if over > TOO_NARROW and lost > _CLIPS and not known:
            share = golden.beyond / golden.count
            text = (
                f"the calibration pairs themselves reach {over:.1f} times the end of the range of "
                f"'{range_.tensor}': {share:.1%} of the values lie beyond it, {lost:.0%} of the "
                "energy is lost"
            )
            cure = f"build again with --estimator minmax, or {keep(range_.layers)}"
            yield finding_at("clipping", range_, text, cure, over=over, beyond=share, lost=lost)


def _unseen(evidence: Evidence) -> Iterator[Finding]:
    for range_, _, data in evidence.fitting_bad():
        lost = data.clipped / data.energy if data.energy else 0.0
        if lost > _LOST and data.clipped > data.rounded:
            share = data.beyond / data.count
            text = (
                f"{share:.1%} of the values of '{range_.tensor}' lie beyond the range that "
                f"calibration saw, {lost:.1%} of the energy is lost"
            )
            cure = "add frames of this kind to --calib and build again"
            yield finding_at("unseen_values", range_, text, cure, beyond=share, lost=lost)


def _wide(evidence: Evidence) -> Iterator[Finding]:
    for range_, golden, data in evidence.passed():
        fill = farthest_reach(range_, golden, data)
        if 0 < fill < TOO_WIDE and not _shares(evidence, range_):
            vanished = data.vanished / max(data.alive, 1)
            text = (
                f"the range of '{range_.tensor}' is {1 / fill:.1f} times what any sample reaches: "
                f"{math.log2(1 / fill):.1f} of 8 bits are never used, {vanished:.0%} of the values "
                "become 0"
            )
            cure = f"build again with other frames in --calib, or {keep(range_.layers)}"
            yield finding_at("wide_range", range_, text, cure, fill=fill, vanished=vanished)


def _siblings(evidence: Evidence, range_: Range) -> list[tuple[Range, float]]:
    """Ranges of one scale that one Concat joins, with how far their values reach in them."""
    if not range_.joined_by:
        return []
    return [
        (other, farthest_reach(other, golden, data))
        for other, golden, data in evidence.passed()
        if other.joined_by == range_.joined_by and math.isclose(other.scale, range_.scale)
    ]


def _shares(evidence: Evidence, range_: Range) -> bool:
    """Whether the range is as wide as it is for the sake of another stream."""
    return any(fill >= TOO_WIDE for _, fill in _siblings(evidence, range_))


def _shared(evidence: Evidence) -> Iterator[Finding]:
    seen: set[str] = set()
    for range_, _, _ in evidence.passed():
        siblings = _siblings(evidence, range_)
        if range_.joined_by in seen or len(siblings) < 2:
            continue
        seen.add(range_.joined_by)
        small, large = min(siblings, key=_second), max(siblings, key=_second)
        if small[1] > 0 and large[1] / small[1] > _UNLIKE and evidence.bad(range_.layers[0]):
            text = (
                f"'{range_.joined_by}' gives its inputs one scale, but '{large[0].tensor}' reaches "
                f"{large[1] / small[1]:.0f} times as far as '{small[0].tensor}', which is left "
                f"{127 * small[1]:.0f} levels"
            )
            cure = keep(range_.layers)
            yield finding_at("shared_scale", small[0], text, cure, ratio=large[1] / small[1])


def _second(pair: tuple[Range, float]) -> float:
    return pair[1]


def _dominant(evidence: Evidence) -> Iterator[Finding]:
    for range_, _, data in evidence.fitting():
        ratio, channel = _dominance(data)
        starved = data.starved(_STARVED_NOISE)
        harmful = starved >= _STARVED or any(map(evidence.bad, range_.layers))
        if ratio >= _DOMINANT and harmful:
            text = (
                f"channel {channel} of '{range_.tensor}' reaches {ratio:.0f} times as far as the "
                f"median channel, which is left {127 / ratio:.1f} of 127 levels; {starved:.0%} of "
                "the channels carry more error than 15 dB allow"
            )
            cure = f"{keep(range_.layers)}; training with smaller weights there cures it for good"
            yield finding_at(
                "dominant_channel", range_, text, cure, ratio=ratio, channel=channel, share=starved
            )


def _dominance(activity: Activity) -> tuple[float, int]:
    peaks = activity.channel_peaks
    if peaks is None or peaks.size < 3:
        return 1.0, 0
    alive = peaks[peaks > 0]
    median = float(np.median(alive)) if alive.size else 0.0
    return (float(peaks.max()) / median if median else 1.0), int(peaks.argmax())


def _outliers(evidence: Evidence) -> Iterator[Finding]:
    for range_, _, data in evidence.fitting_bad():
        ratio = data.peak / data.tail if data.tail else 1.0
        vanished = data.vanished / max(data.alive, 1)
        if ratio >= _TAILED and data.rounded > data.clipped and _dominance(data)[0] < _DOMINANT:
            text = (
                f"few outliers set the range of '{range_.tensor}': 99.9 % of its values stay below "
                f"1/{ratio:.0f} of it, {vanished:.0%} become 0"
            )
            cure = f"build again with --estimator mean_quantile, or {keep(range_.layers)}"
            yield finding_at("outliers", range_, text, cure, ratio=ratio, vanished=vanished)


def _extinct(evidence: Evidence) -> Iterator[Finding]:
    for range_, _, data in evidence.fitting_bad():
        peaks = data.channel_peaks
        if peaks is None or _dominance(data)[0] >= _DOMINANT:
            continue
        alive = peaks > 0
        gone = alive & (peaks < range_.scale / 2)
        share = float(gone.sum() / max(alive.sum(), 1))
        if share >= _EXTINCT:
            text = (
                f"{gone.sum()} of {alive.sum()} channels of '{range_.tensor}' that carry values "
                "are always 0 in INT8"
            )
            yield finding_at("dead_channels", range_, text, keep(range_.layers), share=share)


def _mismatch(evidence: Evidence) -> Iterator[Finding]:
    for range_, _, _ in evidence.passed():
        if not math.isclose(range_.scale, range_.read_scale, rel_tol=1e-3):
            gain = range_.read_scale / range_.scale
            text = f"'{range_.tensor}' is read back with {gain:.3g} times the scale it was given"
            cure = "build the bundle again from the float model"
            yield finding_at("scale_mismatch", range_, text, cure, gain=gain)


def _weight_scale(evidence: Evidence) -> Iterator[Finding]:
    for use in evidence.weights:
        seen = use.peaks >= _SEEN_CHANNEL * use.peaks.max(initial=0)
        wrong = seen & (np.abs(use.gains - 1) > _GAIN_SLACK)
        if wrong.any():
            gain = float(np.median(use.gains[wrong]))
            which = np.flatnonzero(wrong)
            where = f"channel {which[0]}" if which.size == 1 else f"{which.size} channels"
            yield Finding(
                cause="weight_scale",
                layer=use.layer,
                tensor=use.tensor,
                evidence=f"{where} of {use.gains.size} of the INT8 weights '{use.tensor}' are "
                f"{gain:.3g} times the FP32 weights",
                figures={"gain": gain, "channels": float(which.size)},
                cure=f"build the bundle again from the float model; meanwhile {keep([use.layer])}",
            )


def _weight_noise(evidence: Evidence) -> Iterator[Finding]:
    for use in evidence.weights:
        if evidence.bad(use.layer) and use.noise_share > _WEIGHT_NOISE:
            yield Finding(
                cause="coarse_weights",
                layer=use.layer,
                tensor=use.tensor,
                evidence=f"rounding takes {use.noise_share:.1%} of the energy of the weights "
                f"'{use.tensor}': few of them set the scale",
                figures={"noise": use.noise_share},
                cure=keep([use.layer]),
            )


def _fp16(evidence: Evidence) -> Iterator[Finding]:
    for tensor, (low, high) in evidence.extremes.items():
        most = max((abs(v) for v in (low, high) if math.isfinite(v)), default=0.0)
        if most > FP16_MOST:
            yield Finding(
                cause="fp16_overflow",
                tensor=tensor,
                evidence=f"'{tensor}' reaches {most:.3g}, FP16 ends at {FP16_MOST:.0f}",
                figures={"most": most},
                cure="leave this tensor in FP32: the strong flavour does so by itself where "
                "calibration saw it, so add such frames to --calib and build again",
            )


def _sensitive(evidence: Evidence) -> Iterator[Finding]:
    """Layers that cost most of the error though nothing is wrong with them."""
    if evidence.saliency_error < _COST_COUNTS:
        return
    for name, error in evidence.layers.items():
        own = error.saliency_error or 0.0
        if own >= _COSTLY * evidence.saliency_error and own >= _COST_COUNTS:
            share = own / evidence.saliency_error
            yield Finding(
                cause="sensitive",
                layer=name,
                evidence=f"its ranges fit ({error.isolated_sqnr_db or 0:.0f} dB), but the network "
                f"amplifies its rounding: alone it moves saliency by {own:.4f}, all INT8 layers "
                f"together by {evidence.saliency_error:.4f}",
                figures={"saliency_error": own, "share": share},
                cure=keep([name]),
            )


#: Looked at in this order; the first that explains a layer is its cause, others are listed too.
DETECTORS: tuple[Detector, ...] = (
    Detector(
        "uint8_as_int8",
        "never negative and twice the range, or stored as uint8",
        "legalise the graph",
        _uint8,
    ),
    Detector("scale_mismatch", "scale of Q against scale of DQ", "build again", _mismatch),
    Detector("weight_scale", "INT8 weights over FP32 weights", "build again", _weight_scale),
    Detector("clipping", "calibration pairs beyond the range", "--estimator minmax", _clipping),
    Detector("wide_range", "range over the largest value", "other frames in --calib", _wide),
    Detector("shared_scale", "reach of streams that share a scale", "--keep-fp16", _shared),
    Detector("dominant_channel", "largest channel over the median", "--keep-fp16", _dominant),
    Detector("unseen_values", "the set beyond the range", "more frames in --calib", _unseen),
    Detector("outliers", "largest over 99.9th percentile", "--estimator mean_quantile", _outliers),
    Detector("dead_channels", "live channels that round to 0", "--keep-fp16", _extinct),
    Detector("coarse_weights", "rounding error of weights", "--keep-fp16", _weight_noise),
    Detector("fp16_overflow", "largest value against 65504", "FP32 for that tensor", _fp16),
    Detector("sensitive", "share of the network's error", "--keep-fp16", _sensitive),
)


def find_causes(evidence: Evidence) -> tuple[Finding, ...]:
    """Ask every detector; the costliest layers first, and at one layer in the table's order.

    Being sensitive explains a layer alone that nothing else explains, and a bad layer that no
    detector explains is said to be unexplained rather than left out.
    """
    found: list[Finding] = []
    for detector in DETECTORS:
        known = {one.layer for one in found}
        found += [
            one
            for one in detector.judge(evidence)
            if one.cause != "sensitive" or one.layer not in known
        ]
    found += _unexplained(evidence, {one.layer for one in found})

    def cost(one: Finding) -> float:
        error = evidence.layers.get(one.layer)
        return -(error.saliency_error or 0.0) if error else 0.0

    return tuple(sorted(found, key=cost))  # a stable sort


def _unexplained(evidence: Evidence, known: set[str]) -> Iterator[Finding]:
    covered = {
        layer for one in evidence.ranges if known.intersection(one.layers) for layer in one.layers
    }
    for name, error in evidence.layers.items():
        if evidence.bad(name) and name not in known | covered:
            yield Finding(
                cause="unexplained",
                layer=name,
                evidence=f"its result is bad ({error.isolated_sqnr_db or 0:.0f} dB) and no "
                "detector explains it",
                cure=keep([name]),
            )
