"""Both flavours of one quantization result, each held against it and linted for its TensorRT."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import onnx

from edge_fusion.errors import StepError
from edge_fusion.runtime.ort import OrtSession
from edge_fusion.target import Flavour, Target, parse_target

from .flavour import (
    FlavourParity,
    FlavourResult,
    HalfPolicy,
    Range,
    check_flavour,
    make_flavour,
    record_ranges,
    round_as_half,
)
from .lint import LintReport, lint
from .parity import Arrays, Runner

#: Whom the flavour is made for that the target does not read: the oldest to read it.
_STAND_IN: dict[Flavour, str] = {"strong": "x86-gpu@10.3", "weak": "x86-gpu@8.6"}
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class BuiltFlavour:
    """One flavour, how it agrees with the graph it was made from, and what the lint remarked."""

    result: FlavourResult
    target: Target
    parity: FlavourParity
    lint: LintReport


@dataclass(frozen=True, slots=True)
class BuiltFlavours:
    """The flavours that could be made.

    Attributes:
        flavours: The target's own, and the other one where there is one.
        missing: Why the other one could not be made; empty if it was.
        ranges: What FP16 safety was judged by.
    """

    flavours: Mapping[Flavour, BuiltFlavour]
    missing: str
    ranges: Mapping[str, Range]


def build_flavours(
    model: onnx.ModelProto,
    fp32: onnx.ModelProto,
    target: Target,
    samples: Sequence[Arrays],
    *,
    policy: HalfPolicy | None = None,
    parity_samples: int = 4,
    judged_as: Callable[[Runner], Runner] = lambda runner: runner,
) -> BuiltFlavours:
    """Make both flavours, check each on real inputs and lint it.

    Args:
        model: The legalised INT8 graph, or the FP32 graph for engines without INT8.
        fp32: The float graph it came from.
        target: Whom the bundle is for: its flavour must succeed, the other may be missing.
        samples: Calibration samples: ranges are recorded on all of them.
        policy: When FP16 is not safe; None takes the defaults.
        parity_samples: How many of the samples parity is judged on.
        judged_as: What parity compares, such as saliency instead of logits.

    Raises:
        StepError: The target's flavour cannot be made, does not answer like its source, or breaks
            a rule of the target's TensorRT.

    Example:
        >>> built = build_flavours(int8, fp32, target, samples)  # doctest: +SKIP
        >>> built.flavours["strong"].result.counts()  # doctest: +SKIP
        {'fp32': 2, 'fp16': 209, 'int8': 144}
    """
    ranges = record_ranges(fp32, samples)
    flavours: dict[Flavour, BuiltFlavour] = {}
    missing = ""
    for flavour in _STAND_IN:
        own = flavour == target.flavour
        judge = target if own else parse_target(_STAND_IN[flavour])
        try:
            result = make_flavour(model, judge, ranges, policy)
            report = _linted(result, judge)
            parity = _parity(result, model, fp32, samples[:parity_samples], judged_as)
        except StepError as err:
            if own:
                raise
            missing = f"no {flavour} flavour: {err}"
            continue
        flavours[flavour] = BuiltFlavour(result, judge, parity, report)
    return BuiltFlavours(flavours, missing, ranges)


def _linted(result: FlavourResult, target: Target) -> LintReport:
    report = lint(result.model, target)
    errors = report.of("error")
    if errors:
        raise StepError(
            f"lint: TensorRT on {target.name} would refuse or misread the {result.flavour} flavour",
            got=f"{len(errors)} errors: {'; '.join(map(str, errors[:_SHOWN]))}",
            cure="choose a target with a newer TensorRT, or trace at another opset",
        )
    return report


def _parity(
    result: FlavourResult,
    model: onnx.ModelProto,
    fp32: onnx.ModelProto,
    samples: Sequence[Arrays],
    judged_as: Callable[[Runner], Runner],
) -> FlavourParity:
    shown = round_as_half(result.model) if result.flavour == "strong" else result.model
    with ExitStack() as stack:
        runs = [
            judged_as(stack.enter_context(OrtSession(graph.SerializeToString())).run)
            for graph in (shown, model, fp32)
        ]
        return check_flavour(result.flavour, runs[0], runs[1], runs[2], samples)
