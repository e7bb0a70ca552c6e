"""What a comparison found, in words that claim no more than was measured.

INT8 is judged by FP16 where that ran beside it: half precision costs nothing to make, so INT8 pays
only if it is measurably faster than that.  And nothing is said in favour of a variant that keeps
the accuracy of a reference which finds nothing itself.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

from edge_fusion.metrics import METRICS, PROTOCOLS, Scores

from .comparison import Comparison, shown
from .latency import Speedup

# Within these drops, under both protocols, a variant "keeps the accuracy" of the reference.
KEEPS_ACCURACY = {"mae": 0.002, "s": 0.005, "f_max": 0.005}
FEW_IMAGES = 50
#: A reference whose best F-measure is not this much above that of calling every pixel object finds
#: nothing: whatever it marks, it marks no better than by chance.
FINDS = 0.05

Accuracy = Literal["kept", "lost", "nothing to keep", "no masks"]
Pace = Literal["faster", "slower", "alike", "unknown"]


@dataclass(frozen=True, slots=True)
class Judgement:
    """What is said of one variant.

    Attributes:
        variant: Its label.
        against: The label of what it is judged by: FP16 beside INT8, else the reference.
        accuracy: Whether it keeps that one's accuracy within :data:`KEEPS_ACCURACY`.
        lost: Names of the metrics that dropped by more.
        speed: Whether it is measurably faster; ``unknown`` where its time says nothing.
        speedup: Against ``against``; None where latency was left out.
        recommended: The label of what to use of the two; empty where that is not clear.
        text: All of it in one sentence.
    """

    variant: str
    against: str
    accuracy: Accuracy
    lost: tuple[str, ...]
    speed: Pace
    speedup: Speedup | None
    recommended: str
    text: str

    def as_dict(self) -> dict[str, object]:
        """Everything by name, for JSON."""
        return {**asdict(self), "lost": list(self.lost)}


def verdict(comparison: Comparison) -> str:
    """What was found, in one sentence for each variant but the reference.

    Speed is only claimed where the arithmetic that ran is the variant's own.

    Example:
        >>> verdict(comparison)  # doctest: +SKIP
        'INT8 keeps the accuracy of FP32 on 300 images (MAE 0.0312 to 0.0313, ...); its file ...'
    """
    return " ".join(one.text for one in judgements(comparison))


def judgements(comparison: Comparison) -> tuple[Judgement, ...]:
    """What was found, of each variant but the reference."""
    return tuple(_judge(comparison, variant) for variant in comparison.candidates)


def _judge(comparison: Comparison, variant: str) -> Judgement:
    against = _half_precision(comparison, variant) or comparison.reference
    accuracy, lost = _accuracy(comparison, against, variant)
    speed, speedup = _speed(comparison, against, variant)
    recommended = _recommended(comparison, variant, against, accuracy, speed)
    parts = [
        _accuracy_clause(comparison, against, variant, lost),
        _size_clause(comparison, against, variant),
    ]
    if comparison.latency is not None:
        parts.append(_speed_clause(comparison, against, variant, speed, speedup))
    text = "; ".join(parts) + _advice(comparison, variant, against, speed, accuracy, recommended)
    return Judgement(variant, against, accuracy, lost, speed, speedup, recommended, f"{text}.")


def _half_precision(comparison: Comparison, variant: str) -> str:
    """FP16 of the same model on the same backend, beside INT8, if it finds what FP32 finds."""
    about = comparison.about
    if variant not in about or about[variant].precision != "int8":
        return ""
    alike = [
        label
        for label, one in about.items()
        if one.precision == "fp16"
        and (one.path, one.backend) == (about[variant].path, about[variant].backend)
    ]
    scores = comparison.pooled.scores
    sound = [label for label in alike if not scores or finds_something(scores[label])]
    return sound[0] if sound else ""


def finds_something(scores: Scores) -> bool:
    """Whether maps tell objects from the rest better than calling every pixel object does.

    Example:
        >>> import numpy as np
        >>> from edge_fusion.metrics import pool, score
        >>> blank = np.zeros((4, 4), np.float32)
        >>> finds_something(pool([score(blank, np.eye(4, dtype=bool))]))
        False
    """
    return scores.normalised.f_max > _everything(scores) + FINDS


def _everything(scores: Scores) -> float:
    """The F-measure at the lowest threshold, which every pixel reaches."""
    return float(scores.normalised.f_curve[-1])


def _accuracy(
    comparison: Comparison, against: str, variant: str
) -> tuple[Accuracy, tuple[str, ...]]:
    scores = comparison.pooled.scores
    if not scores:
        return "no masks", ()
    if not finds_something(scores[against]):
        return "nothing to keep", ()
    lost = tuple(
        name
        for name in KEEPS_ACCURACY
        if any(_drop(scores, against, variant, protocol, name) for protocol in PROTOCOLS)
    )
    return ("lost" if lost else "kept"), lost


def _drop(scores: dict[str, Scores], against: str, variant: str, protocol: str, name: str) -> bool:
    """Whether a metric dropped by more than a variant may lose."""
    before, after = (getattr(scores[one], protocol) for one in (against, variant))
    return METRICS[name].drop(before, after) > KEEPS_ACCURACY[name]


def _speed(comparison: Comparison, against: str, variant: str) -> tuple[Pace, Speedup | None]:
    latency = comparison.latency
    if latency is None:
        return "unknown", None
    stored = latency.speedups[variant] if against == comparison.reference else None
    speedup = stored or latency.speedup(against, variant)
    if not speedup.known or any(map(comparison.speed_means_nothing, (against, variant))):
        return "unknown", speedup
    return "faster" if speedup.faster else "slower" if speedup.slower else "alike", speedup


def _recommended(
    comparison: Comparison, variant: str, against: str, accuracy: Accuracy, speed: Pace
) -> str:
    """INT8 or FP16, where they stand side by side; nothing is recommended otherwise."""
    if _half_precision(comparison, variant) != against or speed == "unknown":
        return ""
    if accuracy == "nothing to keep":
        return ""
    if speed == "faster":
        return variant if accuracy == "kept" else ""
    fallen, _ = _accuracy(comparison, comparison.reference, against)
    return "" if fallen in ("lost", "nothing to keep") else against


def _accuracy_clause(
    comparison: Comparison, against: str, variant: str, lost: tuple[str, ...]
) -> str:
    name, other = shown(variant), shown(against)
    pooled = comparison.pooled
    if not pooled.scores:
        return _difference_clause(comparison, variant)
    before, after = pooled.scores[against], pooled.scores[variant]
    images = count(before.n, "image")
    if not finds_something(before):
        return (
            f"{other} itself finds nothing on {images} (F max {before.normalised.f_max:.4f}, where "
            f"calling every pixel object gives {_everything(before):.4f}), so nothing can be said "
            f"of the accuracy of {name}"
        )
    protocol = next(
        (p for p in PROTOCOLS for n in lost if _drop(pooled.scores, against, variant, p, n)),
        "normalised",
    )
    here = [METRICS[n].label for n in lost if _drop(pooled.scores, against, variant, protocol, n)]
    outcome = (
        f"is less accurate than {other} in {' and '.join(here)}"
        if lost
        else f"keeps the accuracy of {other}"
    )
    return (
        f"{name} {outcome} on {images} ({_figures(before, after, protocol)})"
        f"{_caution(comparison, against, variant, lost)}"
    )


def _difference_clause(comparison: Comparison, variant: str) -> str:
    pooled = comparison.pooled
    why = (
        "whose masks hold no object to judge accuracy by"
        if pooled.empty_masks
        else "which have no masks to judge accuracy by"
    )
    return (
        f"{shown(variant)} differs from {shown(comparison.reference)} by "
        f"{pooled.differences[variant].mean_abs:.4f} per pixel on average over "
        f"{count(pooled.pairs, 'image')}, {why}"
    )


def _caution(comparison: Comparison, against: str, variant: str, lost: tuple[str, ...]) -> str:
    """What a finding of no loss may still hide."""
    if comparison.pooled.scores[against].n < FEW_IMAGES:
        return ", too few for more than gross failures"
    if lost or against != comparison.reference:
        return ""
    for protocol in PROTOCOLS:
        for name, limit in KEEPS_ACCURACY.items():
            metric, change = METRICS[name], comparison.pooled.changes[variant][protocol][name]
            if change.interval is None:
                continue
            worst = -change.interval.low if metric.higher_is_better else change.interval.high
            if worst > limit:
                return f", though {metric.label} of {protocol} maps may be {worst:.4f} worse"
    return ""


def _figures(before: Scores, after: Scores, protocol: str) -> str:
    figures = (getattr(before, protocol), getattr(after, protocol))
    changes = ", ".join(
        f"{METRICS[name].label} {' to '.join(f'{METRICS[name].of(one):.4f}' for one in figures)}"
        for name in KEEPS_ACCURACY
    )
    return f"{protocol} maps: {changes}"


def _size_clause(comparison: Comparison, against: str, variant: str) -> str:
    costs = comparison.costs[against], comparison.costs[variant]
    what = "engine" if all(cost.plan_bytes for cost in costs) else "file"
    before, after = (cost.file_bytes for cost in costs)
    if after < before:
        return f"its {what} is {before / after:.1f} times smaller"
    return f"its {what} is no smaller"


def _speed_clause(
    comparison: Comparison, against: str, variant: str, speed: Pace, speedup: Speedup | None
) -> str:
    literal = [v for v in (variant, against) if comparison.speed_means_nothing(v)]
    if literal:
        text = comparison.about[literal[0]].arithmetic.text
        return (
            f"it was timed with {text}, which says nothing about the speed of "
            f"{shown(literal[0])} on the target"
        )
    if speedup is None or speed == "unknown":
        return "too few rounds were timed to say which is faster"
    than = f" than {shown(against)}" if against != comparison.reference else ""
    if speed == "alike":
        return f"it is not measurably faster or slower{than} ({speedup.text})"
    return f"it is {speed}{than} ({speedup.text}) with {_arithmetic(comparison, variant)}"


def _arithmetic(comparison: Comparison, variant: str) -> str:
    if variant in comparison.about:
        return comparison.about[variant].arithmetic.text
    return comparison.latency.arithmetic.text if comparison.latency else ""


def _advice(
    comparison: Comparison,
    variant: str,
    against: str,
    speed: Pace,
    accuracy: Accuracy,
    recommended: str,
) -> str:
    name, other = shown(variant), shown(against)
    if recommended == variant:
        return f": {name} is recommended"
    if recommended == against:
        return f": {name} does not pay, {other} is recommended"
    if against != comparison.reference and speed == "faster" and accuracy == "lost":
        return ": whether the time is worth the accuracy is yours to judge"
    return ""


def count(number: int, what: str) -> str:
    """A number and what is counted, in the singular or the plural."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
