"""What a comparison found, in words that claim no more than was measured."""

from __future__ import annotations

from edge_fusion.metrics import METRICS, PROTOCOLS, Scores

from .comparison import Comparison
from .latency import Latency

# Within these drops, under both protocols, a variant "keeps the accuracy" of the reference.
KEEPS_ACCURACY = {"mae": 0.002, "s": 0.005, "f_max": 0.005}
FEW_IMAGES = 50


def verdict(comparison: Comparison) -> str:
    """What was found, in one sentence for each variant held against the reference.

    Speed is only claimed where 8-bit arithmetic ran.

    Example:
        >>> verdict(comparison)  # doctest: +SKIP
        'INT8 keeps the accuracy of FP32 on 300 images (MAE 0.0312 to 0.0313, ...); its file ...'
    """
    return " ".join(_sentence(comparison, variant) for variant in comparison.candidates)


def _sentence(comparison: Comparison, variant: str) -> str:
    parts = [_accuracy_clause(comparison, variant), _size_clause(comparison, variant)]
    if comparison.latency is not None:
        parts.append(_speed_clause(comparison.latency, variant))
    return f"{'; '.join(parts)}."


def _accuracy_clause(comparison: Comparison, variant: str) -> str:
    name, reference = variant.upper(), comparison.reference.upper()
    pooled = comparison.pooled
    if not pooled.scores:
        mean = pooled.differences[variant].mean_abs
        return (
            f"{name} differs from {reference} by {mean:.4f} per pixel on average over "
            f"{count(pooled.pairs, 'image')}, which have no masks to judge accuracy by"
        )
    before, after = pooled.scores[comparison.reference], pooled.scores[variant]
    for protocol in PROTOCOLS:
        lost = _lost(before, after, protocol)
        if lost:
            break
    else:
        protocol = "normalised"
    outcome = f"is less accurate than {reference} in {' and '.join(lost)}"
    caution = ", too few for more than gross failures" if before.n < FEW_IMAGES else ""
    return (
        f"{name} {outcome if lost else f'keeps the accuracy of {reference}'} on "
        f"{count(before.n, 'image')} ({_figures(before, after, protocol)}){caution}"
    )


def _lost(before: Scores, after: Scores, protocol: str) -> list[str]:
    """The metrics that dropped by more than a variant may lose."""
    return [
        METRICS[name].label
        for name, limit in KEEPS_ACCURACY.items()
        if METRICS[name].drop(getattr(before, protocol), getattr(after, protocol)) > limit
    ]


def _figures(before: Scores, after: Scores, protocol: str) -> str:
    figures = (getattr(before, protocol), getattr(after, protocol))
    changes = ", ".join(
        f"{METRICS[name].label} {' to '.join(f'{METRICS[name].of(one):.4f}' for one in figures)}"
        for name in KEEPS_ACCURACY
    )
    return f"{protocol} maps: {changes}"


def _size_clause(comparison: Comparison, variant: str) -> str:
    before = comparison.costs[comparison.reference].file_bytes
    after = comparison.costs[variant].file_bytes
    if after < before:
        return f"its file is {before / after:.1f} times smaller"
    return "its file is no smaller"


def _speed_clause(latency: Latency, variant: str) -> str:
    if not latency.arithmetic.integer:
        return (
            f"it was timed with {latency.arithmetic.text}, which says nothing about the speed of "
            f"{variant.upper()} on the target"
        )
    speedup = latency.speedups[variant]
    interval = f"{speedup.ratio:.2f} times as fast, {speedup.low:.2f} to {speedup.high:.2f}"
    if speedup.low <= 1 <= speedup.high:
        return f"it is not measurably faster or slower ({interval})"
    direction = "faster" if speedup.low > 1 else "slower"
    return f"it is {direction} ({interval}) with {latency.arithmetic.text}"


def count(number: int, what: str) -> str:
    """A number and what is counted, in the singular or the plural."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
