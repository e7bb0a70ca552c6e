"""Post-training INT8 quantization by NNCF on the ONNX graph, with what TensorRT can use of it."""

from __future__ import annotations

import contextlib
import io
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edge_fusion.errors import EdgeFusionError, ModelError, StepError
from edge_fusion.runtime.ort import first_line
from edge_fusion.spec import ModelSpec

from .estimator_names import CLASSES, DEFAULT_ESTIMATOR, ESTIMATORS, ByClass, Estimator
from .estimators import mix_scales
from .graph import MOVES, SELECTS, WEIGHTED, GraphView
from .precision import PrecisionPlan, plan_precision
from .samples import Sample, check_samples

os.environ["NNCF_CI"] = "1"  # read when nncf is imported: sends no usage statistics

import nncf
from nncf.common.quantization.structs import QuantizationScheme
from nncf.quantization.advanced_parameters import (
    AdvancedQuantizationParameters,
    AdvancedSmoothQuantParameters,
    OverflowFix,
    QuantizationParameters,
)
from nncf.quantization.range_estimator import RangeEstimatorParametersSet

Progress = Callable[[int, int], None]

_QDQ = ("QuantizeLinear", "DequantizeLinear")
# These do not compute, so that what they give is 8-bit still and they are no INT8 nodes.
_STAYS_8_BIT = MOVES | SELECTS


@dataclass(frozen=True, slots=True)
class QuantizeOptions:
    """How to quantize.  What TensorRT dictates (symmetric, per-channel weights) is not an option.

    Attributes:
        estimator: How a range follows from the samples, by NNCF's names.  The default averages
            each sample's extremes; ``minmax`` takes the extremes of all.
        by_class: Another estimator for tensors of a class; see :mod:`.estimators`.  Each further
            one costs another pass over the samples.
    """

    estimator: Estimator = DEFAULT_ESTIMATOR
    by_class: ByClass = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in (self.estimator, *self.by_class.values()):
            if name not in ESTIMATORS:
                raise StepError(
                    "quantize: estimator", expected=" or ".join(ESTIMATORS), got=repr(name)
                )
        unknown = [name for name in self.by_class if name not in CLASSES]
        if unknown:
            raise StepError(
                "quantize: class of tensors", expected=" or ".join(CLASSES), got=repr(unknown[0])
            )

    @property
    def estimators(self) -> tuple[Estimator, ...]:
        """Every estimator that is needed, the one of most tensors first."""
        return tuple(dict.fromkeys((self.estimator, *self.by_class.values())))


@dataclass(frozen=True, slots=True, eq=False)
class QuantizeResult:
    """A quantized graph and what became of its nodes.

    Attributes:
        model: With QuantizeLinear and DequantizeLinear; activations may be uint8 with zero point
            0, which TensorRT reads wrongly: legalise it next.
        quantized: Nodes that compute on 8-bit values, in graph order.
        kept: Nodes that do not although they might, each with its reason.
        int8_weights: How many weight tensors are stored as INT8.
        samples: How many samples gave the ranges.
    """

    model: onnx.ModelProto
    quantized: tuple[str, ...]
    kept: Mapping[str, str]
    int8_weights: int
    samples: int


def quantize(
    model: onnx.ModelProto,
    samples: Sequence[Sample],
    spec: ModelSpec,
    options: QuantizeOptions | None = None,
    plan: PrecisionPlan | None = None,
    progress: Progress | None = None,
) -> QuantizeResult:
    """Quantize a float graph with calibration samples.

    Args:
        model: A simplified float graph.
        samples: Inputs by name, prepared exactly as the deployed model will get them.  All are
            used, each read twice: to be judged, and to be measured.
        spec: The input record that the samples are held against.
        options: How ranges are estimated.
        plan: What must not be INT8; None plans by the default policy.
        progress: Called with samples done and samples in all.

    Returns:
        The quantized graph: weights stored as INT8, symmetric, per output channel; activations
        per tensor.  The same input always gives the same bytes.

    Raises:
        ModelError: The model is quantized already.
        CalibrationError: No samples, or they are not what ``spec`` says.
        StepError: NNCF failed, or quantized something it was told to keep.

    Example:
        >>> result = quantize(model, samples, ModelSpec(name="mine"))  # doctest: +SKIP
        >>> result.kept["Sigmoid"]  # doctest: +SKIP
        'its slope is steepest where 8 bits step widest'
    """
    options = options or QuantizeOptions()
    _refuse_quantized(model)
    plan = plan or plan_precision(model)
    # Wrong normalisation passes without a message everywhere else; this costs milliseconds.
    count = check_samples(samples, spec)
    quantized = _estimate(model, samples, plan, options, progress)
    int8_weights = _count_weights(quantized)
    done = _quantized_nodes(model, quantized)
    missed = [name for name in plan.kept if name in done]
    if missed:
        raise StepError(
            f"NNCF quantized '{missed[0]}'",
            expected=f"it kept: {plan.kept[missed[0]]}",
            cure=f"allow it with force_int8={missed[0]!r}, or report this network",
        )
    if not done:
        reasons = [f"'{name}' ({reason})" for name, reason in plan.kept.items()]
        raise StepError(
            "no node was quantized",
            got=f"{len(reasons)} nodes kept, such as {', '.join(reasons[:3])}" if reasons else "",
            cure="a network this small gains nothing from INT8: build it with --precision fp32",
        )
    return QuantizeResult(
        model=quantized,
        quantized=tuple(node.name for node in model.graph.node if node.name in done),
        kept=dict(plan.kept) | _left_alone(model, plan, done),
        int8_weights=int8_weights,
        samples=count,
    )


def _estimate(
    model: onnx.ModelProto,
    samples: Sequence[Sample],
    plan: PrecisionPlan,
    options: QuantizeOptions,
    progress: Progress | None,
) -> onnx.ModelProto:
    """Quantize with every estimator that is needed, and give each class of tensors its own."""
    results = {
        name: _run_nncf(model, samples, plan, QuantizeOptions(estimator=name), progress)
        for name in options.estimators
    }
    if len(results) == 1:
        return results[options.estimator]
    mixed = mix_scales(results, options.estimator, options.by_class)
    onnx.checker.check_model(mixed, full_check=True)
    return mixed


def _run_nncf(
    model: onnx.ModelProto,
    samples: Sequence[Sample],
    plan: PrecisionPlan,
    options: QuantizeOptions,
    progress: Progress | None,
) -> onnx.ModelProto:
    def feed(index: int) -> dict[str, NDArray[np.float32]]:
        sample = dict(samples[index])
        if progress:
            progress(index + 1, len(samples))
        return sample

    try:
        with _quiet():
            quantized = nncf.quantize(
                model,
                nncf.Dataset(range(len(samples)), feed),
                advanced_parameters=nncf_parameters(options),
                **nncf_arguments(plan, len(samples)),
            )
        onnx.checker.check_model(quantized, full_check=True)
    except EdgeFusionError:
        raise  # from reading a sample
    except Exception as err:  # nncf's sixteen errors share no base
        raise StepError("NNCF could not quantize the model", got=first_line(err)) from err
    result: onnx.ModelProto = quantized
    return result


def nncf_arguments(plan: PrecisionPlan, samples: int) -> dict[str, Any]:
    """What we ask of NNCF, besides the graph, its samples and the advanced parameters."""
    return {
        "subset_size": samples,
        "preset": nncf.QuantizationPreset.PERFORMANCE,
        "target_device": nncf.TargetDevice.ANY,
        "model_type": nncf.ModelType.TRANSFORMER,
        "ignored_scope": nncf.IgnoredScope(names=list(plan.kept)),
    }


def nncf_parameters(options: QuantizeOptions) -> AdvancedQuantizationParameters:
    """What makes NNCF's ONNX backend write a graph that TensorRT can use."""
    symmetric = QuantizationScheme.SYMMETRIC
    return AdvancedQuantizationParameters(
        # The fix halves the range of weights for x86 without VNNI.  Jetsons do not saturate.
        overflow_fix=OverflowFix.DISABLE,
        # It made tokens worse (relative error .135 -> .174) and costs a minute.
        disable_bias_correction=True,
        # Left to NNCF, signedness is uint8 after ReLU and softmax; forcing it is refused by its
        # own hardware table, so that legalisation makes it int8 afterwards.
        activations_quantization_params=QuantizationParameters(
            num_bits=8, mode=symmetric, per_channel=False
        ),
        weights_quantization_params=QuantizationParameters(
            num_bits=8,
            mode=symmetric,
            signedness_to_force=True,
            per_channel=True,
            narrow_range=True,
        ),
        # SmoothQuant adds a Mul in front of every Linear, which TensorRT does not fold away.
        smooth_quant_alphas=AdvancedSmoothQuantParameters(convolution=-1, matmul=-1),
        activations_range_estimator_params=getattr(
            RangeEstimatorParametersSet, options.estimator.upper()
        ),
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep NNCF's progress bars and log lines off stdout; ``progress`` reports instead."""
    logger = logging.getLogger("nncf")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)


def _refuse_quantized(model: onnx.ModelProto) -> None:
    found = [node for node in model.graph.node if node.op_type in _QDQ]
    if found:
        raise ModelError(
            "the model is quantized already",
            expected="a float graph",
            got=f"{len(found)} quantization nodes, such as {found[0].op_type} '{found[0].name}'",
            cure="quantizing twice nests the rounding: start from the float model",
        )


def _count_weights(model: onnx.ModelProto) -> int:
    """How many weights are INT8 initialisers; none may be FP32 behind a QuantizeLinear."""
    graph = GraphView(model)
    unfolded = [
        node.name
        for node in graph.nodes
        if node.op_type == "QuantizeLinear" and node.input(0) in graph.constants
    ]
    if unfolded:
        raise StepError(
            f"{len(unfolded)} weights stayed FP32, such as that of '{unfolded[0]}'",
            expected="INT8 initialisers",
            cure="simplify the model first, and use nncf 2.19 or newer",
        )
    stored = {node.input(0) for node in graph.nodes if node.op_type == "DequantizeLinear"}
    return sum(
        tensor.name in stored and tensor.data_type == onnx.TensorProto.INT8
        for tensor in model.graph.initializer
    )


def _quantized_nodes(model: onnx.ModelProto, quantized: onnx.ModelProto) -> set[str]:
    """Nodes of the float model that compute on values from a DequantizeLinear."""
    graph = GraphView(quantized)
    eight_bit: set[str] = set()
    done: set[str] = set()
    for node in graph.nodes:
        if node.op_type == "DequantizeLinear":
            eight_bit.update(node.outputs)
        elif node.op_type in _QDQ or not any(name in eight_bit for name in node.inputs):
            continue
        elif node.op_type in _STAYS_8_BIT:
            eight_bit.update(node.outputs)
        else:
            done.add(node.name)
    return done & {node.name for node in model.graph.node}


def _left_alone(model: onnx.ModelProto, plan: PrecisionPlan, done: set[str]) -> dict[str, str]:
    """Nodes that nobody asked to keep, and that NNCF kept all the same."""
    graph = GraphView(model)
    return {
        node.name: "NNCF does not quantize this operation here"
        for node in graph.nodes
        if (node.name in plan.forced or node.op_type in WEIGHTED)
        and graph.computed(node)
        and node.name not in done
        and node.name not in plan.kept
    }
