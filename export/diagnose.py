"""Which layers INT8 breaks, why, and what cures it.

One diagnosis runs the two graphs of a bundle side by side on a few pairs: every layer against
itself (:mod:`.layerwise`), every INT8 layer alone in the float network (:mod:`.ranking`), and what
passes every quantizer against its range (:mod:`.activity`).  From these a table of detectors
(:mod:`.causes`) names causes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path

import onnx

from edge_fusion.bundle import Bundle
from edge_fusion.calibration.choose import choose_random
from edge_fusion.diagnosis import Diagnosis, Finding, LayerError, Revert, worst_layers
from edge_fusion.errors import FrameError, InputError, ModelError
from edge_fusion.preprocess import prepare
from edge_fusion.runtime.feed import check_inputs
from edge_fusion.runtime.source.uri import open_stored
from edge_fusion.spec import ModelSpec

from .activity import activation_ranges, measure_activity, measure_weights
from .causes import find_causes
from .evidence import Evidence
from .flavour_ranges import record_ranges
from .input_causes import judge_inputs
from .kernels import judge_kernels
from .layerwise import layer_errors
from .probe import BUDGET_BYTES
from .progress import Progress, quiet
from .ranking import mean_difference, rank_layers, saliency_errors, saliency_planes
from .samples import Sample

REVERTED = (1, 3, 5, 10)
FEW_SAMPLES = 4
LAYER_COLUMNS = ("layer", "kind", "alone", "own dB", "dB in all", "cause", "cure")
SOUND = "fits"
_VERSIONS = ("edge-fusion", "onnx", "onnxruntime", "numpy")
_ABOUT_THIS_MACHINE = ("x86_saturation",)  # nothing is wrong with the graph or the inputs


@dataclass(frozen=True, slots=True)
class DiagnoseOptions:
    """How hard to look.

    Attributes:
        variant: The variant to hold against FP32.
        samples: How many pairs to run: layers differ by orders of magnitude, so few suffice.
        seed: Seed of their choice from the sets.
        budget: Bytes of intermediate tensors held at a time.
        threads: Threads of one run; None takes every core.
    """

    variant: str = "int8"
    samples: int = FEW_SAMPLES
    seed: int = 0
    budget: int = BUDGET_BYTES
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.variant == "fp32":
            raise InputError(
                "variant to diagnose", expected="an INT8 one", got="fp32, which is the reference"
            )
        if self.samples < 1:
            raise InputError("samples", expected="at least 1", got=str(self.samples))


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """What is diagnosed, and on what.

    Attributes:
        fp32: The float graph.
        int8: The same, quantized.
        spec: The model's record.
        samples: Prepared pairs of the set.
        golden: Prepared calibration pairs; at least one.
        bundle: The bundle's name, for the record.
        sha256: Of the INT8 graph's file, for the record.
        sources: Where the samples came from, for the record.
    """

    fp32: onnx.ModelProto
    int8: onnx.ModelProto
    spec: ModelSpec
    samples: Sequence[Sample]
    golden: Sequence[Sample]
    bundle: str = ""
    sha256: str = ""
    sources: tuple[str, ...] = ()


def diagnose_bundle(
    path: Path,
    data: Sequence[str],
    options: DiagnoseOptions | None = None,
    progress: Progress = quiet,
) -> Diagnosis:
    """Say which layers INT8 breaks in a bundle, why, and what cures it.

    Args:
        path: A bundle's folder or ``.tar``.
        data: Folders or URIs of stored RGB-D pairs; masks are not needed.
        options: How hard to look.
        progress: Told how far each step is.

    Raises:
        BundleError: The bundle is missing or damaged, or has no INT8 variant.
        SourceError: A set cannot be read.
        FrameError: A pair does not fit the model.
        ModelError: The two graphs are not the same network.
        StepError: The network gives NaN, or no saliency map.
        SessionError: ONNX Runtime refuses a graph.

    Example:
        >>> diagnose_bundle(Path("bundle"), ["pairs/"]).worst(1)  # doctest: +SKIP
        (LayerError(name='decoder.2/Conv', ...),)
    """
    options = options or DiagnoseOptions()
    bundle = Bundle.read(path)
    graphs = [_graph(bundle, variant) for variant in ("fp32", options.variant)]
    spec = bundle.manifest.model
    stored = bundle.golden()
    inputs = {tensor.name: stored[f"input.{tensor.name}"] for tensor in spec.inputs}
    count = len(inputs[spec.rgb.name])
    subject = Subject(
        fp32=graphs[0],
        int8=graphs[1],
        spec=spec,
        samples=load_samples(data, spec, options, progress),
        golden=[{name: a[i : i + 1] for name, a in inputs.items()} for i in range(count)],
        bundle=path.absolute().name,
        sha256=bundle.manifest.files[bundle.manifest.variants[options.variant]].sha256,
        sources=tuple(data),
    )
    return diagnose(subject, options, progress)


def diagnose(
    subject: Subject, options: DiagnoseOptions | None = None, progress: Progress = quiet
) -> Diagnosis:
    """The same for two graphs and prepared samples; see :func:`diagnose_bundle`."""
    options = options or DiagnoseOptions()
    fp32, int8, spec, samples = subject.fp32, subject.int8, subject.spec, subject.samples
    threads, budget = options.threads, options.budget
    for sample in (*samples, *subject.golden):
        check_inputs(sample, spec.inputs)
    exact = saliency_planes(fp32, samples, spec, threads=threads)
    literal = saliency_planes(int8, samples, spec, threads=threads)
    total = mean_difference(exact, literal)
    layers = layer_errors(fp32, int8, samples, progress, budget=budget, threads=threads)
    ranked = rank_layers(fp32, int8, samples, spec, progress, threads=threads)
    layers = _merged(layers, ranked)
    ranges = activation_ranges(int8)
    golden, data = (
        measure_activity(fp32, ranges, some, progress, step=step, budget=budget, threads=threads)
        for some, step in ((subject.golden, "golden"), (samples, "ranges"))
    )
    evidence = Evidence(
        layers={layer.name: layer for layer in layers if layer.int8},
        ranges=ranges,
        golden=golden,
        data=data,
        weights=measure_weights(fp32, int8),
        extremes=record_ranges(fp32, samples, threads=threads),
        saliency_error=total,
    )
    findings = (*judge_inputs(subject.golden, samples, spec), *find_causes(evidence))
    fast = judge_kernels(int8, samples, spec, literal, threads=threads)
    not_applicable = {}
    if isinstance(fast, Finding):
        findings = (*findings, fast)
    elif fast:
        not_applicable["x86_saturation"] = fast
    reverts = _reverts(subject, ranked, progress, threads)
    return Diagnosis(
        created_utc=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        bundle=subject.bundle,
        model=spec.name,
        variant=options.variant,
        sha256=subject.sha256,
        sources=subject.sources,
        samples=len(samples),
        seed=options.seed,
        saliency_error=total,
        layers=layers,
        findings=findings,
        reverts=reverts,
        not_applicable=not_applicable,
        conclusion=conclude(total, ranked, findings, reverts),
        versions=_versions(),
    )


def load_samples(
    data: Sequence[str], spec: ModelSpec, options: DiagnoseOptions, progress: Progress = quiet
) -> list[Sample]:
    """Choose pairs from all sets together and prepare them.

    Raises:
        InputError: No set is named.
        SourceError: A set cannot be read.
        FrameError: A pair does not fit the model; set and pair are named.
    """
    if not data:
        raise InputError("nothing to diagnose on", cure="name RGB-D pairs: --data SET")
    sources = [open_stored(uri, masks=False) for uri in data]
    lengths = [len(source) for source in sources]
    chosen = choose_random(lengths, options.samples, options.seed)
    samples: list[Sample] = []
    for done, (which, index) in enumerate(chosen, start=1):
        try:
            samples.append(prepare(sources[which][index], spec))
        except FrameError as err:
            raise FrameError(
                f"{sources[which].uri}, pair {index}: {err.what}",
                expected=err.expected,
                got=err.got,
                cure=err.cure,
            ) from err
        progress("pairs", done, len(chosen))
    return samples


def _graph(bundle: Bundle, variant: str) -> onnx.ModelProto:
    data = bundle.model_bytes(variant)
    try:
        return onnx.load_from_string(data)
    except Exception as err:  # protobuf's errors share no base with others
        raise ModelError(f"the {variant} graph of {bundle.path} cannot be read") from err


def _merged(layers: Sequence[LayerError], ranked: Sequence[LayerError]) -> tuple[LayerError, ...]:
    errors = {layer.name: layer.saliency_error for layer in ranked}
    return tuple(
        layer.model_copy(update={"saliency_error": errors.get(layer.name)}) for layer in layers
    )


def _reverts(
    subject: Subject, ranked: Sequence[LayerError], progress: Progress, threads: int | None
) -> tuple[Revert, ...]:
    """What keeping the worst few layers out of INT8 would leave of the error."""
    names = [layer.name for layer in ranked]
    counts = [count for count in REVERTED if count < len(names)]
    groups = {str(count): names[count:] for count in counts}

    def told(step: str, done: int, total: int, detail: str = "") -> None:
        progress("reverts", done, total, detail)

    errors = saliency_errors(
        subject.fp32, subject.int8, groups, subject.samples, subject.spec, told, threads=threads
    )
    return tuple(
        Revert(layers=tuple(names[:count]), saliency_error=errors[str(count)]) for count in counts
    )


def conclude(
    total: float,
    ranked: Sequence[LayerError],
    findings: Sequence[Finding],
    reverts: Sequence[Revert],
) -> str:
    """All of it in one sentence."""
    told = [finding for finding in findings if finding.cause not in _ABOUT_THIS_MACHINE]
    if not told:
        return (
            f"no fault was found in {len(ranked)} INT8 layers, which move saliency by {total:.4f}"
        )
    first, *others = told
    faults = [finding for finding in told if finding.cause != "sensitive"]
    text = f"INT8 moves saliency by {total:.4f}, "
    text += "first of all by " if faults else "and no fault was found; most comes from "
    text += _place(first)
    if reverts and reverts[0].layers == (first.layer,):
        text += f", without which {reverts[0].saliency_error:.4f} remains"
    if others:
        text += f"; then {' and '.join(_place(one) for one in others[:2])}"
    return f"{text}: {first.cure}"


def _place(finding: Finding) -> str:
    where = finding.layer or finding.tensor or "the network"
    if finding.cause == "sensitive":
        return f"the sensitive layer '{where}'"
    return f"{finding.cause.replace('_', ' ')} at '{where}'"


def layer_rows(diagnosis: Diagnosis, count: int = 10) -> list[tuple[str, ...]]:
    """The worst layers as the rows of a table under :data:`LAYER_COLUMNS`.

    Layers with a finding are shown whatever their place.
    """
    shown = worst_layers(diagnosis.layers)[:count]
    named = {finding.layer for finding in diagnosis.findings if finding.layer}
    extra = [x for x in worst_layers(diagnosis.layers) if x.name in named and x not in shown]
    rows: list[tuple[str, ...]] = []
    for layer in (*shown, *islice(extra, count)):
        found = diagnosis.findings_of(layer.name)
        rows.append(
            (
                layer.name,
                layer.kind,
                f"{layer.saliency_error or 0:.5f}",
                _decibels(layer.isolated_sqnr_db),
                _decibels(layer.accumulated_sqnr_db),
                ", ".join(dict.fromkeys(one.cause for one in found)) or SOUND,
                found[0].cure if found else "",
            )
        )
    return rows


def finding_lines(diagnosis: Diagnosis) -> list[str]:
    """Every finding in a line: cause, place, evidence, cure."""
    return [
        f"{finding.cause} at {finding.layer or finding.tensor or 'the network'}: "
        f"{finding.evidence}. {finding.cure}"
        for finding in diagnosis.findings
    ]


def revert_rows(diagnosis: Diagnosis) -> list[tuple[str, ...]]:
    """What keeping the worst layers in FP16 leaves: how many, what remains."""
    rows: list[tuple[str, ...]] = [("none", f"{diagnosis.saliency_error:.5f}")]
    rows += [(f"worst {len(r.layers)}", f"{r.saliency_error:.5f}") for r in diagnosis.reverts]
    return rows


def _decibels(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _versions() -> dict[str, str]:
    found = {}
    for package in _VERSIONS:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
