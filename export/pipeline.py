"""The road from a network to a verified bundle, one step after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from torch import nn

from edge_fusion.bundle import GOLDEN_NAME, Bundle, check_destination, write_bundle
from edge_fusion.calibration.calibration_set import (
    USUAL_COUNT,
    CalibrationSet,
    load_calibration_set,
)
from edge_fusion.files import sha256_file
from edge_fusion.manifest import Golden, Manifest, Origin, ParityRecord, QuantizationRecord
from edge_fusion.preprocess import Inputs
from edge_fusion.spec import ModelSpec
from edge_fusion.target import Target

from .accuracy import HoldOptions, hold_gate
from .choose_estimators import settings_for
from .cost import count_cost
from .flavour_build import BuiltFlavours, build_flavours, flavour_files, lint_remarks
from .fold import fold
from .gate import MOST_PAIRS, Gate, GatePairs, load_gate_pairs
from .golden import make_golden
from .graph import opset_of
from .int8 import Int8Maker
from .load import convert_opset, load_onnx
from .models.registry import load_model
from .options import (
    BuildOptions,
    advised_fp16,
    calibration_options,
    check_model,
    known_inputs,
    model_spec,
    opset_for,
    target_of,
    weights_of,
)
from .precision import PrecisionPolicy, plan_precision
from .progress import Progress, quiet, step
from .saliency_parity import PARITY_SAMPLES, as_saliency, parity_record, running
from .samples import check_samples
from .search_state import forget, state_path
from .simplify import simplify
from .trace import TraceOptions, torch_runner, trace

GOLDEN_SAMPLES = 4
FLAT_SPREAD = 1e-3  # trained networks have 0.1 to 0.4
FALLBACK_GOLDEN = "demo://?frames=64&seed=1"
#: How far another device may be from the golden outputs, mean absolute difference of saliency.
#: FP32 covers another order of summation and TF32, INT8 another choice of INT8 kernels; FP16 is
#: held against the FP32 outputs.
GOLDEN_TOLERANCE = {"fp32": 0.005, "fp16": 0.01, "int8": 0.02}
RECORDED_PACKAGES = ("edge-fusion", "torch", "onnx", "onnxruntime", "onnxslim", "nncf", "numpy")


@dataclass(frozen=True, slots=True)
class Network:
    """What the user named, loaded: a torch network still to trace, or a graph that is traced."""

    origin: Origin
    source: nn.Module | onnx.ModelProto


@dataclass(frozen=True, slots=True)
class Traced:
    """A network as a float graph, where it came from, and how it agrees with its source."""

    graph: onnx.ModelProto
    origin: Origin
    parity: tuple[ParityRecord, ...]


@dataclass(frozen=True, slots=True)
class Quantized:
    """The INT8 graph and how it was made."""

    graph: onnx.ModelProto
    record: QuantizationRecord
    parity: ParityRecord


def build(options: BuildOptions, progress: Progress = quiet) -> Bundle:
    """Take a network down the whole road and write a bundle, or nothing.

    Args:
        options: What to build.
        progress: Told how far each step is.

    Returns:
        The bundle, read back from disk with every hash checked.

    Raises:
        ModelError: The model is unknown, has the wrong inputs or is already quantized.
        CheckpointError: The weights are missing, damaged or of another network.
        CalibrationError: No calibration set, or one that does not fit the model.
        TargetError: The board or JetPack is unknown.
        StepError: A step failed, or its result does not agree with the step before.
        GateError: INT8 cannot hold ``max_drop`` and pay.
        OutputError: ``output`` holds something else, or the disk refused.
    """
    check_destination(options.output, replace=options.replace)
    check_model(options)
    target, spec = target_of(options), model_spec(options)
    chosen = calibration_options(options, few=GOLDEN_SAMPLES, fallback=FALLBACK_GOLDEN)
    network = _load(options, spec, progress)
    pairs = load_calibration_set(chosen, spec, partial(progress, "pairs"), known_inputs(options))
    # FP32 takes a few pairs to be compared on, and no range of them.
    for finding in pairs.findings if options.precision != "fp32" else ():
        progress(f"warning: {finding.check}", 1, 1, str(finding))
    check_samples(pairs.samples, spec)
    gate_pairs = _gate_pairs(options, spec, progress)
    traced = _trace(network, spec, options, pairs.samples, progress)
    variants = {"fp32": traced.graph}
    quantized = None
    if options.precision == "int8":
        quantized = _quantize(options, traced.graph, spec, pairs, gate_pairs, progress)
        variants["int8"] = quantized.graph
    built = _flavours(options, variants, target, spec, pairs.samples, progress)
    remarks = _flat_output(traced.graph, spec, pairs.samples) + lint_remarks(built)
    models = {name: graph.SerializeToString() for name, graph in variants.items()}
    files, flavours = flavour_files(
        built, {_file_name(n): data for n, data in models.items()}, _file_name
    )
    samples = pairs.samples[:GOLDEN_SAMPLES]
    manifest = Manifest(
        created_utc=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        model=spec,
        origin=traced.origin,
        precision=options.precision,
        target=target.name,
        opset=opset_of(traced.graph),
        variants={name: _file_name(name) for name in models},
        flavours=flavours,
        calibration=None if options.precision == "fp32" else pairs.record,
        input_ranges=None if options.precision == "fp32" else pairs.ranges,
        quantization=quantized.record if quantized else None,
        parity=traced.parity + ((quantized.parity,) if quantized else ()),
        golden=Golden(
            source=", ".join(pairs.record.sources),
            samples=len(samples),
            mean_abs_tolerance=GOLDEN_TOLERANCE,
        ),
        lint=remarks,
        versions=_versions(),
    )
    files[GOLDEN_NAME] = make_golden(models, samples, spec)
    with step(progress, "bundle") as done:
        bundle = write_bundle(options.output, manifest, files, replace=options.replace)
        done(str(options.output))
    if gate_pairs is not None:
        forget(state_path(options.output))
    return bundle


def _gate_pairs(options: BuildOptions, spec: ModelSpec, progress: Progress) -> GatePairs | None:
    """What the accuracy gate is judged on, if there is one: read before any hard work."""
    if not options.gates:
        return None
    pairs = load_gate_pairs(
        options.gate_data or options.calib,
        spec,
        options.gates,
        most=MOST_PAIRS if options.gate_data else options.calib_count or USUAL_COUNT,
        progress=partial(progress, "gate pairs"),
    )
    used = len(pairs.pairs)
    progress("gate pairs", used, used, f"{used} of {pairs.available}, {pairs.masks} with a mask")
    return pairs


def _load(options: BuildOptions, spec: ModelSpec, progress: Progress) -> Network:
    """The network with its weights, from whichever place the user named."""
    with step(progress, "load") as done:
        if options.is_onnx:
            path = Path(options.model)
            graph = load_onnx(path, spec)
            done(f"{len(graph.graph.node)} nodes at opset {opset_of(graph)}")
            digest = sha256_file(path)
            return Network(Origin(model=path.name, weights=path.name, weights_sha256=digest), graph)
        weights = weights_of(options)
        loaded = load_model(options.model, weights, spec, allow_partial=options.allow_partial)
        cost = count_cost(loaded.module, spec)
        report = loaded.checkpoint_report.summary if loaded.checkpoint_report else ""
        made = "random" if options.untrained else f"made by {options.model}"
        origin = Origin(
            model=options.model,
            weights=weights.name if weights else made,
            weights_sha256=loaded.checkpoint_sha256,
            checkpoint_report=report,
            partial=options.allow_partial,
            parameters=cost.parameters,
            macs=cost.macs,
        )
        size = f"{cost.parameters / 1e6:.2f} M parameters, {cost.macs / 1e9:.3f} GMACs"
        done("; ".join(filter(None, (size, report))))
        return Network(origin, loaded.module)


def _trace(
    network: Network,
    spec: ModelSpec,
    options: BuildOptions,
    samples: Sequence[Inputs],
    progress: Progress,
) -> Traced:
    """Fold, trace and simplify, each held against the network itself."""
    target = target_of(options)
    if isinstance(network.source, onnx.ModelProto):
        wanted = options.opset or min(opset_of(network.source), target.opset_max)
        graph = convert_opset(network.source, wanted)
        simplified, parity = _simplify(graph, spec, samples, progress)
        return Traced(simplified, network.origin, (parity,))
    with step(progress, "fold") as done:
        folded = fold(network.source)
        folds = tuple(record.summary for record in folded.folds)
        done("; ".join(folds) or "nothing to fold")
    with step(progress, "trace") as done:
        graph = trace(
            folded.module, spec, TraceOptions(opset_for(options, target), options.exporter)
        )
        done(f"{len(graph.graph.node)} nodes at opset {opset_of(graph)}")
    with running(graph) as traced:
        torch = torch_runner(network.source, spec)
        first = parity_record("torch-onnx", torch, traced, spec, samples, progress)
    graph, second = _simplify(graph, spec, samples, progress)
    origin = network.origin.model_copy(update={"folds": folds})
    return Traced(graph, origin, (first, second))


def _simplify(
    graph: onnx.ModelProto, spec: ModelSpec, samples: Sequence[Inputs], progress: Progress
) -> tuple[onnx.ModelProto, ParityRecord]:
    with step(progress, "simplify") as done:
        result = simplify(graph)
        done(f"{result.nodes_before} to {result.nodes_after} nodes")
    with running(graph) as before, running(result.model) as after:
        return result.model, parity_record(
            "onnx-simplified", before, after, spec, samples, progress
        )


def _quantize(
    options: BuildOptions,
    graph: onnx.ModelProto,
    spec: ModelSpec,
    pairs: CalibrationSet,
    gate_pairs: GatePairs | None,
    progress: Progress,
) -> Quantized:
    """Quantize -> legalise -> hold the gate, if there is one -> parity."""
    policy = PrecisionPolicy(
        advised=advised_fp16(options), keep_fp16=options.keep_fp16, force_int8=options.force_int8
    )
    plan, samples = plan_precision(graph, policy), pairs.samples
    settings, estimators = settings_for(options.estimator, graph, samples, spec, plan, progress)
    maker = Int8Maker(graph, spec, pairs, settings, plan, progress)
    attempt, gate = maker.make(), None
    if gate_pairs is not None:
        judge = Gate(gate_pairs, graph, spec, options.gates, partial(progress, "gate fp32"))
        held = hold_gate(maker, attempt, judge, HoldOptions(options.output, options.min_int8))
        attempt, gate = held.attempt, held.record
    with running(graph) as before, running(attempt.model) as after:
        parity = parity_record("fp32-int8", before, after, spec, samples, progress)
    record = QuantizationRecord(
        options=_flat({**asdict(settings), "precision": asdict(policy)}),
        int8_nodes=attempt.result.quantized,
        kept_fp16=dict(attempt.result.kept),
        gate=gate,
        estimators=estimators,
    )
    return Quantized(attempt.model, record, parity)


def _flavours(
    options: BuildOptions,
    variants: Mapping[str, onnx.ModelProto],
    target: Target,
    spec: ModelSpec,
    samples: Sequence[Inputs],
    progress: Progress,
) -> BuiltFlavours:
    """The graphs that TensorRT reads: linted for it, and held against the ones they come from."""
    with step(progress, "flavours") as done:
        built = build_flavours(
            variants,
            options.precision,
            target,
            samples,
            judged_as=lambda runner: as_saliency(runner, spec),
        )
        name = f"{target.flavour}.{options.precision}"
        found = built.flavours[name].parity.to_reference
        remarks = len(lint_remarks(built))
        done(
            f"{len(built.flavours)} graphs, {remarks} remarks; {name} differs from its source by "
            f"mean {found.mean_abs:.1e}"
        )
    return built


def _flat_output(
    graph: onnx.ModelProto, spec: ModelSpec, samples: Sequence[Inputs]
) -> tuple[str, ...]:
    """A remark where the network says the same of every pixel: then agreement proves nothing."""
    with running(graph) as run:
        outputs = [as_saliency(run, spec)(sample) for sample in samples[:PARITY_SAMPLES]]
    spread = float(np.std([output[spec.output.name] for output in outputs]))
    if spread >= FLAT_SPREAD:
        return ()
    return (
        f"fp32: saliency hardly varies over {len(outputs)} pairs (standard deviation "
        f"{spread:.1e}), so the agreement of its forms proves little; are the weights trained, "
        "and for these inputs?",
    )


def _file_name(variant: str) -> str:
    return f"model.{variant}.onnx"


def _versions() -> dict[str, str]:
    found = {}
    for package in RECORDED_PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _flat(options: Mapping[str, Any], prefix: str = "") -> dict[str, str | int | float | bool]:
    """Nested options as the manifest stores them: dotted names, sequences as text."""
    flat: dict[str, str | int | float | bool] = {}
    for key, value in options.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            scalar = isinstance(value, (str, int, float, bool))
            flat[prefix + key] = value if scalar else ", ".join(map(str, value))
    return flat
