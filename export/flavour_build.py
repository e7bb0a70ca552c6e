"""Every flavour a bundle carries, each held against the graph it was made from, and linted.

::

    fp32 graph ─┬─ strong.fp32 (itself)   weak.fp32, weak.fp16 (one file; the builder rounds)
                └─ strong.fp16
    int8 graph ─── strong.int8            weak.int8
"""

from __future__ import annotations

import itertools
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
    with ExitStack() as stack:
        references = {
            name: _remembered(graph, stack, judged_as) for name, graph in variants.items()
        }
        parity = _Parity(references, samples[:parity_samples], judged_as)
        for flavour, engine in itertools.product(_STAND_IN, _ENGINES[precision]):
            own = flavour == target.flavour
            judge = target if own else parse_target(_STAND_IN[flavour])
            source = "int8" if engine == "int8" else "fp32"
            try:
                result = _make(engine, variants[source], judge, ranges, policy)
                report = _linted(result, judge)
                built = BuiltFlavour(result, judge, parity.check(result, source), report)
            except StepError as err:
                if own:
                    raise
                missing[f"no {flavour}.{engine} flavour: {err}"] = None
                continue
            flavours[f"{flavour}.{engine}"] = built
    return BuiltFlavours(flavours, tuple(missing))


def _remembered(
    graph: onnx.ModelProto, stack: ExitStack, judged_as: Callable[[Runner], Runner]
) -> Runner:
    """A graph that is run once for every sample, however often it is asked."""
    run = judged_as(stack.enter_context(OrtSession(graph.SerializeToString())).run)
    outputs: dict[int, Arrays] = {}

    def remembered(inputs: Arrays) -> Arrays:
        key = id(inputs)  # the samples outlive this
        if key not in outputs:
            outputs[key] = run(inputs)
        return outputs[key]

    return remembered


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


@dataclass(frozen=True, slots=True)
class _Parity:
    """The variants' answers to a few samples, to hold flavours against."""

    references: Mapping[str, Runner]
    samples: Sequence[Arrays]
    judged_as: Callable[[Runner], Runner]

    def check(self, result: FlavourResult, source: str) -> FlavourParity:
        """Hold a flavour against the variant it was made from, and both against FP32."""
        halved = result.flavour == "strong" and "fp16" in result.precisions.values()
        shown = round_as_half(result.model) if halved else result.model
        own, fp32 = self.references[source], self.references["fp32"]
        with OrtSession(shown.SerializeToString()) as session:
            run = self.judged_as(session.run)
            return check_flavour(result.flavour, run, own, fp32, self.samples)


def lint_remarks(built: BuiltFlavours) -> tuple[str, ...]:
    """What the lint remarks of any flavour, once where it says the same of several."""
    found: dict[str, list[str]] = {}
    for name, flavour in built.flavours.items():
        for finding in flavour.lint.findings:
            found.setdefault(str(finding), []).append(name)
    return (*(f"{', '.join(names)}: {text}" for text, names in found.items()), *built.missing)


def flavour_files(
    built: BuiltFlavours, files: Mapping[str, bytes], name_of: Callable[[str], str]
) -> tuple[dict[str, bytes], dict[str, FlavourRecord]]:
    """All files of a bundle and a record per flavour; graphs that are equal share a file.

    Args:
        built: The flavours.
        files: The variants' files, by name.
        name_of: The file name of a flavour.
    """
    all_files, records = dict(files), {}
    by_content = {data: name for name, data in files.items()}
    for name, flavour in built.flavours.items():
        data = flavour.result.model.SerializeToString()
        file = by_content.setdefault(data, name_of(name))
        all_files[file] = data
        records[name] = flavour.record(file)
    return all_files, records
