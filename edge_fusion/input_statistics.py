"""What inputs a model knows: a small record of its training pairs, and how far a set is from it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, ValidationError

from edge_fusion.calibration_file import NEARNESS_BINS, PairRecord
from edge_fusion.errors import CalibrationError
from edge_fusion.spec import Record, first_problem

Span = tuple[float, float]

_PERCENTILES = (1.0, 99.0)
_APART = (
    0.5  # of two distributions' mass; sets of one camera and another room are 0.1 to 0.35 apart
)
_PERCENT = 100.0


def _brightness(pair: PairRecord) -> float:
    return float(np.mean(pair.rgb.mean))


def _contrast(pair: PairRecord) -> float:
    return float(np.mean(pair.rgb.std))


def _invalid(pair: PairRecord) -> float:
    return pair.depth.invalid


def _mean_nearness(pair: PairRecord) -> float:
    middles = (np.arange(NEARNESS_BINS) + 0.5) / NEARNESS_BINS
    return float(np.dot(pair.depth.nearness, middles)) if pair.depth.nearness else 0.0


#: What a pair is judged by, in 0..1 each, and what to call it.
FIGURES: dict[str, tuple[str, Callable[[PairRecord], float]]] = {
    "brightness": ("mean brightness of colour", _brightness),
    "contrast": ("contrast of colour", _contrast),
    "invalid": ("share of depth without a reading", _invalid),
    "mean_nearness": ("mean nearness", _mean_nearness),
}


class InputStatistics(Record):
    """The inputs a model was trained on, in figures.

    Attributes:
        source: What they were taken from.
        pairs: From how many.
        spans: The 1st and the 99th percentile over those pairs of each of :data:`FIGURES`.
        nearness: Mean shares in 16 equal steps of nearness, far to near.
    """

    schema_version: Literal[1] = 1
    source: str
    pairs: Annotated[int, Field(ge=1)]
    spans: dict[str, Span]
    nearness: Annotated[
        tuple[float, ...], Field(min_length=NEARNESS_BINS, max_length=NEARNESS_BINS)
    ]


def statistics_of(pairs: Sequence[PairRecord], source: str) -> InputStatistics:
    """The record of pairs that a model was trained on.

    Args:
        pairs: A few hundred of them, measured.
        source: What they are.
    """
    spans = {}
    for name, (_, figure) in FIGURES.items():
        low, high = np.percentile([figure(pair) for pair in pairs], _PERCENTILES)
        spans[name] = (round(float(low), 4), round(float(high), 4))
    return InputStatistics(
        source=source, pairs=len(pairs), spans=spans, nearness=mean_nearness(pairs)
    )


def mean_nearness(pairs: Sequence[PairRecord]) -> tuple[float, ...]:
    """The mean histogram of nearness over the pairs that have one."""
    known = [pair.depth.nearness for pair in pairs if pair.depth.nearness]
    if not known:
        return (0.0,) * NEARNESS_BINS
    shares = np.asarray(known, np.float64).mean(axis=0)
    return tuple(round(float(share), 4) for share in shares)


def compare_inputs(pairs: Sequence[PairRecord], known: InputStatistics) -> list[str]:
    """In what a set is unlike the pairs a model was trained on.

    A set is unlike where its typical pair is: the median of a figure lies outside of what 98 % of
    the training pairs have, or its histogram of nearness has half its mass elsewhere (total
    variation distance).  That is coarse on purpose: a robot's own room is no photograph.

    Returns:
        One sentence for each; none where it is like them.
    """
    found: list[str] = []
    if not pairs:
        return found
    for name, (meaning, figure) in FIGURES.items():
        if name in known.spans:
            low, high = known.spans[name]
            middle = float(np.median([figure(pair) for pair in pairs]))
            if not low <= middle <= high:
                found.append(
                    f"{meaning}: a median of {middle:.3f}, where 98 % of the pairs the model was "
                    f"trained on have {low:.3f} to {high:.3f}"
                )
    apart = float(np.abs(np.subtract(mean_nearness(pairs), known.nearness)).sum() / 2)
    if apart > _APART:
        found.append(
            f"nearness is distributed otherwise than in training: {apart * _PERCENT:.0f} % of it "
            "lies elsewhere"
        )
    return found


def read_statistics(path: Path) -> InputStatistics:
    """Read a record of training inputs.

    Raises:
        CalibrationError: The file cannot be read, or is no such record.
    """
    try:
        return InputStatistics.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except ValidationError as err:
        raise CalibrationError(
            f"{path} is no record of a model's inputs", got=first_problem(err)
        ) from err
    except (OSError, ValueError, RecursionError) as err:
        raise CalibrationError(f"cannot read {path}", got=str(err)) from err


def shipped_statistics(model: str) -> InputStatistics | None:
    """The record that comes with the weights of a model of ours; None where there is none.

    Example:
        >>> shipped_statistics("mutualformer-mobilenetv2").pairs >= 100
        True
        >>> shipped_statistics("somebody's own") is None
        True
    """
    path = Path(str(files("edge_fusion") / "weights" / f"{model}.inputs.json"))
    return read_statistics(path) if path.is_file() else None
