"""What to build, from what, for what: checked once, before any work is done."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edge_fusion.calibration.calibration_set import CalibrationOptions
from edge_fusion.engine import ENGINE_PRECISIONS, EnginePrecision
from edge_fusion.errors import CheckpointError, InputError, ModelError, StepError
from edge_fusion.input_statistics import InputStatistics, shipped_statistics
from edge_fusion.runtime.gates import parse_gates
from edge_fusion.spec import LARGEST_SIDE, ModelSpec, read_model_spec
from edge_fusion.target import Target, parse_target

from .estimator_names import check_estimators
from .models.registry import MODELS, create_model, shipped_weights

DEFAULT_OPSET = 18


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """What to build, from what, for what.

    Attributes:
        model: Registry name, ``module:factory`` or a two-input ``.onnx`` file.
        output: The bundle: a folder, or a file ending in ``.tar``.
        calib: Folders or source URIs of RGB-D pairs; needed for INT8 and FP16.
        checkpoint: Weights; None takes those that come with a model of ours. Not for ONNX files.
        precision: The lowest precision of the engines: ``int8`` prepares FP32, FP16 and INT8,
            ``fp16`` the first two, ``fp32`` itself alone.
        target: Board and JetPack.
        spec: JSON input record of a model that is not ours.
        size: ``WxH`` in pixels instead of the model's own.
        calib_count: How many pairs to calibrate on; None: a set made by ``calib`` whole, 64 of
            others.
        seed: Seed of that choice.
        estimator: How ranges follow from the pairs: a name, names by class of tensors, or ``auto``.
        keep_fp16: Globs of node names to keep out of INT8.
        force_int8: Globs of node names to quantize although the policy, or the model's own record,
            would keep them.
        max_drop: ``METRIC=VALUE`` each: layers go back to FP16 until INT8 is no worse than that.
        gate_data: Sets to judge that on; those of ``calib`` if there are none.
        min_int8: Least share of the multiply-accumulates that must stay in INT8 then, 0..1.
        opset: ONNX opset; None takes 18, or the newest the target reads where that is older.
        exporter: ``dynamo`` or ``legacy``.
        allow_partial: Accept a checkpoint that leaves some weights as they were made.
        untrained: Build a registry model with random weights.
        replace: Replace an older bundle at ``output``.

    Raises:
        InputError: Two options contradict each other, or one has no such value.
    """

    model: str
    output: Path
    calib: tuple[str, ...] = ()
    checkpoint: Path | None = None
    precision: EnginePrecision = "int8"
    target: str = "orin-nano"
    spec: Path | None = None
    size: str | None = None
    calib_count: int | None = None
    seed: int = 0
    estimator: tuple[str, ...] = ()
    keep_fp16: tuple[str, ...] = ()
    force_int8: tuple[str, ...] = ()
    max_drop: tuple[str, ...] = ()
    gate_data: tuple[str, ...] = ()
    min_int8: float = 0.5
    opset: int | None = None
    exporter: Literal["dynamo", "legacy"] = "dynamo"
    allow_partial: bool = False
    untrained: bool = False
    replace: bool = False

    def __post_init__(self) -> None:
        if self.precision not in ENGINE_PRECISIONS:
            raise InputError(
                "precision", expected=" or ".join(ENGINE_PRECISIONS), got=repr(self.precision)
            )
        if not 0 <= self.min_int8 <= 1:
            raise InputError("min-int8", expected="a share, 0 to 1", got=f"{self.min_int8:g}")
        gated = bool(self.gates)
        contradictions = (
            (gated and self.precision != "int8", "--max-drop is for --precision int8"),
            (self.gate_data and not gated, "--gate-data needs a --max-drop to judge"),
            (self.untrained and self.checkpoint, "--untrained and --checkpoint: choose one"),
            (self.untrained and not self.is_ours, "--untrained is for models of 'models' alone"),
            (self.allow_partial and not self.checkpoint, "--allow-partial needs a --checkpoint"),
            (self.is_onnx and self.checkpoint, "the file carries its weights: no --checkpoint"),
            (self.estimator and self.precision != "int8", "--estimator is for --precision int8"),
            (self.is_onnx and self.exporter != "dynamo", "the file is traced: no --exporter"),
        )
        for contradicts, message in contradictions:
            if contradicts:
                raise InputError(f"build {self.model}: {message}")
        check_estimators(self.estimator)

    @property
    def gates(self) -> dict[str, float]:
        """The largest drop allowed, by metric; empty without a gate.

        Raises:
            InputError: Bad syntax, an unknown metric, a metric given twice, a negative drop.
        """
        return parse_gates(self.max_drop).max_drop

    @property
    def is_onnx(self) -> bool:
        """Whether the model is a file that is already traced."""
        return self.model.lower().endswith(".onnx")

    @property
    def is_ours(self) -> bool:
        """Whether the model is one of the registry."""
        return self.model in MODELS


def target_of(options: BuildOptions) -> Target:
    """The target, if this version can build for it.

    Raises:
        TargetError: The board or JetPack is unknown.
        StepError: The opset is newer than the target's parser reads.
    """
    target = parse_target(options.target)
    if options.opset is not None and options.opset > target.opset_max:
        raise StepError(
            f"opset {options.opset} for {target.name}",
            expected=f"at most {target.opset_max}, which TensorRT {target.tensorrt_text} reads",
            cure="leave --opset out",
        )
    return target


def opset_for(options: BuildOptions, target: Target) -> int:
    """The opset to trace at."""
    return options.opset or min(DEFAULT_OPSET, target.opset_max)


def model_spec(options: BuildOptions) -> ModelSpec:
    """The input record: the user's, the registry's, or the defaults under the model's name.

    Raises:
        ModelError: The record's file or the size is not valid.
    """
    if options.spec is not None:
        spec = read_model_spec(options.spec)
    elif options.is_ours:
        spec = MODELS[options.model].spec
    else:
        spec = ModelSpec(name=Path(options.model).stem)
    if options.size is None:
        return spec
    width, cross, height = options.size.partition("x")
    if not (cross and width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise ModelError("input size", expected="WxH such as 320x256", got=repr(options.size))
    if max(int(width), int(height)) > LARGEST_SIDE:
        raise ModelError("input size", expected=f"at most {LARGEST_SIDE} pixels", got=options.size)
    return spec.model_copy(update={"width": int(width), "height": int(height)})


def check_model(options: BuildOptions) -> None:
    """Refuse what can be refused by name, before anything is loaded.

    Raises:
        ModelError: No such model.
        CheckpointError: The weights' file is missing, or a model of ours has none.
    """
    if not (options.is_ours or options.is_onnx or ":" in options.model):
        create_model(options.model)  # which says what there is
    if options.checkpoint is not None and not options.checkpoint.exists():
        raise CheckpointError(f"no such checkpoint: {options.checkpoint}")
    if options.is_ours and not (weights_of(options) or options.untrained):
        raise CheckpointError(
            f"no weights come with {options.model}",
            cure="give --checkpoint FILE, train one with 'python -m benchmarks.reference.train', "
            "or pass --untrained to try the road with random weights",
        )


def weights_of(options: BuildOptions) -> Path | None:
    """The checkpoint to load: the user's, or the one that comes with a model of ours."""
    if options.checkpoint or options.untrained or not options.is_ours:
        return options.checkpoint
    return shipped_weights(options.model)


def advised_fp16(options: BuildOptions) -> tuple[str, ...]:
    """Globs of nodes that the record of a model of ours keeps out of INT8."""
    return MODELS[options.model].keep_fp16 if options.is_ours else ()


def known_inputs(options: BuildOptions) -> InputStatistics | None:
    """What the model was trained on, where its weights are ours."""
    own = options.checkpoint or options.untrained or not options.is_ours
    return None if own else shipped_statistics(options.model)


def calibration_options(options: BuildOptions, *, few: int, fallback: str) -> CalibrationOptions:
    """Which pairs to load: the user's; for FP32 ``few``, from ``fallback`` if none are given.

    Raises:
        CalibrationError: INT8 or FP16 without a calibration set.
    """
    if options.precision != "fp32":
        return CalibrationOptions(options.calib, options.calib_count, options.seed)
    return CalibrationOptions(options.calib or (fallback,), few, options.seed)
