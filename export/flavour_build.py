"""Every flavour a bundle carries, each held against the graph it was made from, and linted.

::

    fp32 graph ─┬─ strong.fp32 (itself)   weak.fp32, weak.fp16 (one file; the builder rounds)
                └─ strong.fp16
    int8 graph ─── strong.int8            weak.int8
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

import onnx

from edge_fusion.engine import EnginePrecision
from edge_fusion.errors import StepError
from edge_fusion.manifest import FlavourRecord
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
from .flavour_result import precision_map
from .graph import GraphView
from .lint import LintReport, lint
from .parity import Arrays, Runner

#: Whom the flavour is made for that the target does not read: the oldest to read it.
_STAND_IN: dict[Flavour, str] = {"strong": "x86-gpu@10.3", "weak": "x86-gpu@8.5"}
#: The engines that can be built from a bundle of each precision.
_ENGINES: dict[EnginePrecision, tuple[EnginePrecision, ...]] = {
    "fp32": ("fp32",),
    "fp16": ("fp32", "fp16"),
    "int8": ("fp32", "fp16", "int8"),
}
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class BuiltFlavour:
    """One flavour, how it agrees with the graph it was made from, and what the lint remarked."""

    result: FlavourResult
    target: Target
    parity: FlavourParity
    lint: LintReport

    def record(self, file: str) -> FlavourRecord:
        """What the manifest says of it, its graph being in ``file``."""
        return FlavourRecord(
            file=file,
            target=self.target.name,
            precisions=self.result.counts(),
            kept_fp32=dict(self.result.kept_fp32),
            to_reference=self.parity.to_reference.mean_abs,
            to_fp32=self.parity.to_fp32.mean_abs,
            reference_to_fp32=self.parity.reference_to_fp32.mean_abs,
            samples=self.parity.samples,
        )


@dataclass(frozen=True, slots=True)
class BuiltFlavours:
    """The flavours that could be made.

    Attributes:
        flavours: The target's own, and the other kind where it can be made, by names such as
            ``strong.int8``.
        missing: Why one of the other kind could not be made, for each.
    """

    flavours: Mapping[str, BuiltFlavour]
    missing: tuple[str, ...]


def build_flavours(
    variants: Mapping[str, onnx.ModelProto],
    precision: EnginePrecision,
    target: Target,
    samples: Sequence[Arrays],
    *,
    policy: HalfPolicy | None = None,
    parity_samples: int = 4,
    judged_as: Callable[[Runner], Runner] = lambda runner: runner,
) -> BuiltFlavours:
    """Make every flavour, check each on real inputs and lint it.

    Args:
        variants: ``fp32``: the float graph; for INT8 engines also ``int8``: the legalised one.
        precision: The lowest precision of the engines to be built.
        target: Whom the bundle is for: its flavours must succeed, the others may be missing.
        samples: Calibration samples: ranges are recorded on all of them.
        policy: When FP16 is not safe; None takes the defaults.
        parity_samples: How many of the samples parity is judged on.
        judged_as: What parity compares, such as saliency instead of logits.

    Raises:
        StepError: A flavour of the target cannot be made, does not answer like its source, or
            breaks a rule of the target's TensorRT.

    Example:
        >>> variants = {"fp32": fp32, "int8": int8}  # doctest: +SKIP
        >>> built = build_flavours(variants, "int8", target, samples)  # doctest: +SKIP
        >>> built.flavours["strong.int8"].result.counts()  # doctest: +SKIP
        {'fp32': 2, 'fp16': 209, 'int8': 144}
    """
    ranges = record_ranges(variants["fp32"], samples)
    flavours: dict[str, BuiltFlavour] = {}
    missing: dict[str, None] = {}
    for flavour in _STAND_IN:
        own = flavour == target.flavour
        judge = target if own else parse_target(_STAND_IN[flavour])
        for engine in _ENGINES[precision]:
            source = variants["int8" if engine == "int8" else "fp32"]
            try:
                result = _make(engine, source, judge, ranges, policy)
                report = _linted(result, judge)
                parity = _parity(result, source, variants, samples[:parity_samples], judged_as)
            except StepError as err:
                if own:
                    raise
                missing[f"no {flavour}.{engine} flavour: {err}"] = None
                continue
            flavours[f"{flavour}.{engine}"] = BuiltFlavour(result, judge, parity, report)
    return BuiltFlavours(flavours, tuple(missing))


def _make(
    engine: EnginePrecision,
    source: onnx.ModelProto,
    judge: Target,
    ranges: Mapping[str, Range],
    policy: HalfPolicy | None,
) -> FlavourResult:
    if engine != "fp32":
        return make_flavour(source, judge, ranges, policy)
    if judge.flavour == "strong":
        whole = FlavourResult("strong", source, precision_map(GraphView(source), {}), {}, ())
    else:
        whole = make_flavour(source, judge, ranges, policy)
    return replace(whole, precisions=dict.fromkeys(whole.precisions, "fp32"), kept_fp32={})


def _linted(result: FlavourResult, target: Target) -> LintReport:
    report = lint(result.model, target)
    errors = report.of("error")
    if errors:
        raise StepError(
            f"lint: TensorRT on {target.name} would refuse or misread the {result.flavour} flavour",
            got=f"{len(errors)} errors: {'; '.join(map(str, errors[:_SHOWN]))}",
            cure="see 'edge-fusion check FILE.onnx' for all of them, choose a target with a newer "
            "TensorRT, or trace at another opset",
        )
    return report


def _parity(
    result: FlavourResult,
    source: onnx.ModelProto,
    variants: Mapping[str, onnx.ModelProto],
    samples: Sequence[Arrays],
    judged_as: Callable[[Runner], Runner],
) -> FlavourParity:
    halved = result.flavour == "strong" and "fp16" in result.precisions.values()
    shown = round_as_half(result.model) if halved else result.model
    with ExitStack() as stack:
        runs = [
            judged_as(stack.enter_context(OrtSession(graph.SerializeToString())).run)
            for graph in (shown, source, variants["fp32"])
        ]
        return check_flavour(result.flavour, runs[0], runs[1], runs[2], samples)
