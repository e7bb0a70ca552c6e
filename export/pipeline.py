"""The road from a network to a verified bundle, one step after the other."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx

from edge_fusion.bundle import GOLDEN_NAME, Bundle, check_destination, write_bundle
from edge_fusion.calibration.calibration_set import (
    CalibrationOptions,
    CalibrationSet,
    load_calibration_set,
)
from edge_fusion.errors import CheckpointError, ModelError, StepError
from edge_fusion.files import sha256_file
from edge_fusion.manifest import Golden, Manifest, Origin, ParityRecord, QuantizationRecord
from edge_fusion.preprocess import Inputs
from edge_fusion.runtime.ort import OrtSession
from edge_fusion.spec import ModelSpec, read_model_spec
from edge_fusion.target import Target, parse_target

from .cost import count_cost
from .fold import fold
from .legalise import legalise
from .lint import lint
from .load import convert_opset, load_onnx
from .models.registry import MODELS, load_model
from .parity import Runner, check_parity
from .precision import PrecisionPolicy, plan_precision
from .quantize import QuantizeOptions, quantize
from .samples import check_samples
from .simplify import simplify
from .trace import Exporter, TraceOptions, torch_runner, trace

GOLDEN_SAMPLES = 4
PARITY_SAMPLES = 4
LISTED_ERRORS = 5
FALLBACK_GOLDEN = "demo://?frames=64&seed=1"
#: How far another device may be from the golden outputs, mean absolute difference of saliency.
#: FP32 covers another order of summation and FP16 kernels; INT8 another choice of INT8 kernels.
GOLDEN_TOLERANCE = {"fp32": 0.005, "int8": 0.02}
RECORDED_PACKAGES = ("edge-fusion", "torch", "onnx", "onnxruntime", "onnxslim", "nncf", "numpy")


class Progress(Protocol):
    """Told how far each step is: ``total`` 0 means unknown, ``done == total`` finished."""

    def __call__(self, step: str, done: int, total: int, detail: str = "") -> None:
        """Report ``done`` of ``total`` parts of ``step``."""
        ...


def _quiet(step: str, done: int, total: int, detail: str = "") -> None:
    """Report nothing."""


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """What to build, from what, for what.

    Attributes:
        model: Registry name, ``module:factory`` or a two-input ``.onnx`` file.
        output: The bundle: a folder, or a file ending in ``.tar``.
        calib: Folders or source URIs of RGB-D pairs; needed for INT8.
        checkpoint: Weights; not for ONNX files.
        precision: ``int8`` builds FP32 and INT8, ``fp32`` FP32 alone.
        target: Board and JetPack.
        spec: JSON input record of a model that is not ours.
        size: ``WxH`` in pixels instead of the model's own.
        calib_count: How many pairs to calibrate on.
        seed: Seed of that choice.
        keep_fp16: Globs of node names to keep out of INT8.
        opset: ONNX opset.
        exporter: ``dynamo`` or ``legacy``.
        allow_partial: Accept a checkpoint that leaves some weights as they were made.
        untrained: Build a registry model with random weights.
        replace: Replace an older bundle at ``output``.
    """

    model: str
    output: Path
    calib: tuple[str, ...] = ()
    checkpoint: Path | None = None
    precision: str = "int8"
    target: str = "orin-nano"
    spec: Path | None = None
    size: str | None = None
    calib_count: int = 64
    seed: int = 0
    keep_fp16: tuple[str, ...] = ()
    opset: int = 18
    exporter: Exporter = "dynamo"
    allow_partial: bool = False
    untrained: bool = False
    replace: bool = False

    @property
    def is_onnx(self) -> bool:
        """Whether the model is a file that is already traced."""
        return self.model.endswith(".onnx")


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


def build(options: BuildOptions, progress: Progress = _quiet) -> Bundle:
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
        OutputError: ``output`` holds something else, or the disk refused.
    """
    check_destination(options.output, replace=options.replace)
    target = parse_target(options.target)
    spec = _model_spec(options)
    pairs = _load_pairs(options, spec, progress)
    traced = _load_onnx_file if options.is_onnx else _load_and_trace
    network = traced(options, spec, pairs.samples, progress)
    variants = {"fp32": network.graph}
    quantized = None
    if options.precision == "int8":
        quantized = _quantize(options, network.graph, spec, pairs.samples, progress)
        variants["int8"] = quantized.graph
    warnings = _lint_variants(variants, target, progress)
    models = {name: graph.SerializeToString() for name, graph in variants.items()}
    manifest = Manifest(
        created_utc=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        model=spec,
        origin=network.origin,
        precision="int8" if quantized else "fp32",
        target=target.name,
        opset=_opset(network.graph),
        variants={name: _file_name(name) for name in models},
        calibration=pairs.record if quantized else None,
        quantization=quantized.record if quantized else None,
        parity=network.parity + ((quantized.parity,) if quantized else ()),
        golden=Golden(
            source=", ".join(pairs.record.sources),
            samples=len(pairs.samples[:GOLDEN_SAMPLES]),
            mean_abs_tolerance={name: GOLDEN_TOLERANCE[name] for name in models},
        ),
        lint=warnings,
        versions=_versions(),
    )
    files = {_file_name(name): data for name, data in models.items()}
    files[GOLDEN_NAME] = _golden(models, pairs.samples[:GOLDEN_SAMPLES])
    with _step(progress, "bundle") as done:
        bundle = write_bundle(options.output, manifest, files, replace=options.replace)
        done(str(options.output))
    return bundle


def _model_spec(options: BuildOptions) -> ModelSpec:
    """The input record: the user's, the registry's, or the defaults under the model's name."""
    if options.spec is not None:
        spec = read_model_spec(options.spec)
    elif options.model in MODELS:
        spec = MODELS[options.model].spec
    else:
        spec = ModelSpec(name=Path(options.model).stem)
    if options.size is None:
        return spec
    width, cross, height = options.size.partition("x")
    if not (cross and width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise ModelError("input size", expected="WxH such as 320x256", got=repr(options.size))
    return spec.model_copy(update={"width": int(width), "height": int(height)})


def _load_pairs(options: BuildOptions, spec: ModelSpec, progress: Progress) -> CalibrationSet:
    """The pairs to calibrate on; without INT8 a few suffice, for parity and the self-check."""
    sources, count = options.calib, options.calib_count
    if options.precision != "int8":
        sources, count = sources or (FALLBACK_GOLDEN,), GOLDEN_SAMPLES
    pairs = load_calibration_set(
        CalibrationOptions(sources, count, options.seed),
        spec,
        lambda done, total: progress("pairs", done, total),
    )
    check_samples(pairs.samples, spec)
    return pairs


def _load_and_trace(
    options: BuildOptions, spec: ModelSpec, samples: Sequence[Inputs], progress: Progress
) -> Traced:
    """Load -> fold -> trace -> simplify, each held against the network itself."""
    if options.model in MODELS and not (options.checkpoint or options.untrained):
        raise CheckpointError(
            f"no weights for {options.model}",
            cure="give --checkpoint FILE, train one with 'python -m benchmarks.reference.train', "
            "or pass --untrained to try the road with random weights",
        )
    with _step(progress, "load") as done:
        loaded = load_model(
            options.model, options.checkpoint, spec, allow_partial=options.allow_partial
        )
        cost = count_cost(loaded.module, spec)
        done(f"{cost.parameters / 1e6:.2f} M parameters, {cost.macs / 1e9:.3f} GMACs")
    with _step(progress, "fold") as done:
        folded = fold(loaded.module)
        done("; ".join(record.summary for record in folded.folds) or "nothing to fold")
    with _step(progress, "trace") as done:
        graph = trace(folded.module, spec, TraceOptions(options.opset, options.exporter))
        done(f"{len(graph.graph.node)} nodes at opset {_opset(graph)}")
    with _running(graph) as traced:
        first = _parity("torch-onnx", torch_runner(loaded.module, spec), traced, samples, progress)
    graph, second = _simplify(graph, samples, progress)
    origin = Origin(
        model=options.model,
        weights=options.checkpoint.name if options.checkpoint else _unread_weights(options),
        weights_sha256=loaded.checkpoint_sha256,
        parameters=cost.parameters,
        macs=cost.macs,
        folds=tuple(record.summary for record in folded.folds),
    )
    return Traced(graph, origin, (first, second))


def _unread_weights(options: BuildOptions) -> str:
    return "random" if options.untrained else f"made by {options.model}"


def _load_onnx_file(
    options: BuildOptions, spec: ModelSpec, samples: Sequence[Inputs], progress: Progress
) -> Traced:
    """A user's own ONNX file joins the road after tracing."""
    if options.checkpoint is not None:
        raise CheckpointError(
            f"{options.model} carries its own weights", cure="leave --checkpoint out"
        )
    path = Path(options.model)
    with _step(progress, "load") as done:
        graph = convert_opset(load_onnx(path, spec), options.opset)
        done(f"{len(graph.graph.node)} nodes at opset {_opset(graph)}")
    simplified, parity = _simplify(graph, samples, progress)
    origin = Origin(model=path.name, weights=path.name, weights_sha256=sha256_file(path))
    return Traced(simplified, origin, (parity,))


def _simplify(
    graph: onnx.ModelProto, samples: Sequence[Inputs], progress: Progress
) -> tuple[onnx.ModelProto, ParityRecord]:
    with _step(progress, "simplify") as done:
        result = simplify(graph)
        done(f"{result.nodes_before} to {result.nodes_after} nodes")
    with _running(graph) as before, _running(result.model) as after:
        return result.model, _parity("onnx-simplified", before, after, samples, progress)


def _quantize(
    options: BuildOptions,
    graph: onnx.ModelProto,
    spec: ModelSpec,
    samples: Sequence[Inputs],
    progress: Progress,
) -> Quantized:
    """Quantize -> legalise -> parity."""
    policy = PrecisionPolicy(keep_fp16=options.keep_fp16)
    plan = plan_precision(graph, policy)
    settings = QuantizeOptions(subset_size=len(samples), seed=options.seed)
    progress("calibrate", 0, len(samples))
    result = quantize(graph, samples, spec, settings, plan, partial(progress, "calibrate"))
    progress("quantize", 1, 1, f"{len(result.quantized)} nodes in INT8, {len(result.kept)} kept")
    with _step(progress, "legalise") as done:
        legal = legalise(result.model)
        done(f"{len(legal.changes)} changes")
    with _running(graph) as before, _running(legal.model) as after:
        parity = _parity("fp32-int8", before, after, samples, progress)
    record = QuantizationRecord(
        options=_flat({**asdict(settings), "precision": asdict(policy)}),
        int8_nodes=result.quantized,
        kept_fp16=dict(result.kept),
    )
    return Quantized(legal.model, record, parity)


def _lint_variants(
    variants: dict[str, onnx.ModelProto], target: Target, progress: Progress
) -> tuple[str, ...]:
    """Lint every variant; errors stop the build, warnings are recorded."""
    warnings = []
    with _step(progress, "lint") as done:
        for name, graph in variants.items():
            report = lint(graph, target)
            if not report.ok:
                errors = report.of("error")
                listed = "; ".join(map(str, errors[:LISTED_ERRORS]))
                raise StepError(
                    f"lint: TensorRT on {target.name} would refuse or misread the {name} graph",
                    got=f"{len(errors)} errors: {listed}",
                    cure="see 'edge-fusion check FILE.onnx' for all of them, or choose a target "
                    "with a newer TensorRT",
                )
            warnings += [f"{name}: {finding}" for finding in report.findings]
        done(f"no errors, {len(warnings)} remarks for {target.name}")
    return tuple(warnings)


def _parity(
    name: str,
    reference: Runner,
    candidate: Runner,
    samples: Sequence[Inputs],
    progress: Progress,
) -> ParityRecord:
    with _step(progress, name) as done:
        report = check_parity(name, reference, candidate, samples[:PARITY_SAMPLES])
        found = report.difference
        done(f"mean {found.mean_abs:.1e}, max {found.max_abs:.1e}")
    bounds = (("mean", report.tolerance.mean_abs), ("max", report.tolerance.max_abs))
    return ParityRecord(
        name=name,
        mean_abs=found.mean_abs,
        max_abs=found.max_abs,
        tolerance=" and ".join(f"{label} <= {bound:g}" for label, bound in bounds if bound),
        samples=report.samples,
    )


@contextmanager
def _running(graph: onnx.ModelProto) -> Iterator[Runner]:
    with OrtSession(graph.SerializeToString()) as session:
        yield session.run


def _golden(models: dict[str, bytes], samples: Sequence[Inputs]) -> bytes:
    arrays = {f"input.{name}": np.concatenate([s[name] for s in samples]) for name in samples[0]}
    for variant, model in models.items():
        with OrtSession(model) as session:
            outputs = [next(iter(session.run(sample).values())) for sample in samples]
        arrays[f"output.{variant}"] = np.concatenate(outputs)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type] # names are not options
    return buffer.getvalue()


@contextmanager
def _step(progress: Progress, name: str) -> Iterator[Callable[[str], None]]:
    """Report a step of unknown length; call what is yielded with its outcome to finish it."""
    progress(name, 0, 0)
    yield lambda detail: progress(name, 1, 1, detail)


def _opset(graph: onnx.ModelProto) -> int:
    return next(int(item.version) for item in graph.opset_import if item.domain in ("", "ai.onnx"))


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
