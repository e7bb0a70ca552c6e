"""What a reader must know about a comparison's figures, in sentences: nothing is glossed over."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from edge_fusion.bundle import Bundle

from .comparison import Comparison, shown

_ENOUGH_FOR_P999 = 1000
_TAIL = 2  # of a path's parts: a data set's folder and what it lies in


def notes_of(
    comparison: Comparison, bundles: Iterable[Bundle], greys: Sequence[float]
) -> tuple[str, ...]:
    """What to say about a comparison.

    Args:
        comparison: What was found.
        bundles: Every bundle that took part.
        greys: Of every stored mask, the share of its pixels that were neither 0 nor 255.
    """
    return (
        *_masks(comparison, greys),
        *_calibrated_on(comparison, bundles),
        *_runs(comparison),
        *_machine(comparison),
    )


def _masks(comparison: Comparison, greys: Sequence[float]) -> Iterator[str]:
    pooled = comparison.pooled
    if pooled.pairs == 1:
        yield "one pair: 95 % intervals need at least two, so none is given"
    if pooled.empty_masks:
        yield (
            f"{pooled.empty_masks} of {len(greys)} masks hold no object; their pairs are left out "
            "of accuracy, where F-measures would be 0 whatever a variant does, but not of the "
            "differences"
        )
    grey = [share for share in greys if share > 0]
    if grey:
        yield (
            f"{len(grey)} of {len(greys)} masks hold grey, up to {max(grey):.1%} of their pixels; "
            "what is brighter than half counts as object"
        )


def _calibrated_on(comparison: Comparison, bundles: Iterable[Bundle]) -> Iterator[str]:
    """Pairs that ranges were taken from flatter whoever was calibrated on them."""
    seen = {(_place(image.set), image.id) for image in comparison.images}
    for bundle in {str(bundle.path): bundle for bundle in bundles}.values():
        record = bundle.manifest.calibration
        items = {(_place(item.source), item.id) for item in record.items} if record else set()
        if items & seen:
            yield (
                f"{len(items & seen)} of the pairs bear the place and name of ones that "
                f"{bundle.path} was calibrated on: INT8 may look better here than on new ones"
            )


def _place(uri: str) -> str:
    """A set's place without what differs between machines: the end of a folder's path."""
    path, _, query = uri.removeprefix("folder://").partition("?")
    return uri if "://" in path else "/".join(Path(path).parts[-_TAIL:]) + query


def _runs(comparison: Comparison) -> Iterator[str]:
    if len({one.backend for one in comparison.about.values()}) > 1:
        places = (f"{shown(label)} on {one.backend}" for label, one in comparison.about.items())
        yield f"the variants ran on different backends: {', '.join(places)}"
    latency = comparison.latency
    if latency is None:
        return
    literal = [shown(v) for v, one in comparison.about.items() if one.speed_means_nothing]
    if literal:
        yield (
            f"{' and '.join(literal)} ran without 8-bit arithmetic: the times say nothing about "
            "INT8 on a device that has it"
        )
    least = min(len(samples) for samples in latency.samples_ms.values())
    if least < _ENOUGH_FOR_P999:
        yield f"p99.9 of {least} runs is hardly more than their maximum"


def _machine(comparison: Comparison) -> Iterator[str]:
    before, after = comparison.before, comparison.after
    if before is None or after is None:
        return
    if after.throttled_by:
        yield f"something held the machine back: {', '.join(after.throttled_by)}"
    if before.load_1min is not None and before.load_1min > comparison.machine.usable_cores:
        yield (
            f"the machine was busy before the measuring (load {before.load_1min:.1f} on "
            f"{comparison.machine.usable_cores} cores): times are longer than they need be"
        )
