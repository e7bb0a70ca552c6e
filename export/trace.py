"""From a PyTorch network to one checked ONNX graph: fixed shapes, float32, readable names."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from edge_fusion.errors import StepError
from edge_fusion.runtime.ort import check_inputs, first_line
from edge_fusion.runtime.session import Tensors
from edge_fusion.spec import ModelSpec

from .load import NATIVE_OPSET, check_input_names, convert_opset, finish, keep_output
from .naming import rename
from .parity import Runner

Exporter = Literal["dynamo", "legacy"]

OPSETS = range(17, 21)  # 17 is the last that TensorRT 8 reads; 20 keeps GELU as one operator
_NOISY = ("torch.onnx", "torch.fx.experimental.symbolic_shapes", "onnxscript", "onnx_ir")


@dataclass(frozen=True, slots=True)
class TraceOptions:
    """How to trace.  Shapes are those of the input record, batch 1.

    Attributes:
        opset: ONNX opset, 17 to 20.
        exporter: ``dynamo`` is the one PyTorch maintains; ``legacy`` follows one run of the code.
    """

    opset: int = NATIVE_OPSET
    exporter: Exporter = "dynamo"

    def __post_init__(self) -> None:
        if self.opset not in OPSETS:
            raise StepError(
                "trace: opset", expected=f"{OPSETS[0]} to {OPSETS[-1]}", got=str(self.opset)
            )
        if self.exporter not in _EXPORTERS:
            raise StepError(
                "trace: exporter", expected=" or ".join(_EXPORTERS), got=repr(self.exporter)
            )


def trace(
    module: torch.nn.Module, spec: ModelSpec, options: TraceOptions | None = None
) -> onnx.ModelProto:
    """Trace a network into ONNX.

    Args:
        module: In inference mode, float32; ``forward(rgb, depth)`` returns saliency alone.
        spec: The input record: names and shapes of inputs and output.
        options: Opset and exporter.

    Returns:
        A checked model: two float32 inputs and one output of fixed shape, every shape inferred.
        Nodes are called after their module (``decoder.0/Conv``), values after their node, weights
        after their parameter.  The same module always gives the same bytes.

    Raises:
        StepError: The module is in training mode or not float32, or the exporter failed.
        ModelError: The graph does not have the two inputs and the one output of ``spec``.

    Example:
        >>> model = trace(network.eval(), ModelSpec(name="mine"))  # doctest: +SKIP
    """
    options = options or TraceOptions()
    _check_module(module)
    try:
        with torch.no_grad(), _quiet():
            exported = _EXPORTERS[options.exporter](module, spec, options.opset)
    except Exception as err:  # exporters raise whatever their insides raise
        raise StepError(
            f"the {options.exporter} exporter cannot trace {type(module).__name__}",
            got=first_line(_first_cause(err)),
            cure=_CURES[options.exporter],
        ) from err
    model = rename(exported, {name for name, _ in _tensors(module)})
    model.graph.name = spec.name
    model = convert_opset(model, options.opset)
    check_input_names(model, spec)
    keep_output(model, spec, alone=True)
    return finish(model, spec)


def torch_runner(module: torch.nn.Module, spec: ModelSpec) -> Runner:
    """A network as a function from named arrays to named arrays, for parity.

    Example:
        >>> torch_runner(network, spec)(inputs)["saliency"].shape  # doctest: +SKIP
        (1, 1, 256, 256)
    """

    def run(inputs: Mapping[str, NDArray[np.float32]]) -> Tensors:
        check_inputs(inputs, spec.inputs)
        with torch.inference_mode():
            output = module(*(torch.from_numpy(inputs[tensor.name]) for tensor in spec.inputs))
        return {spec.output.name: output.numpy()}

    return run


def _export_dynamo(module: torch.nn.Module, spec: ModelSpec, opset: int) -> onnx.ModelProto:
    # Where it fails it prints whole graphs to stderr; the error says what is needed.
    with contextlib.redirect_stderr(io.StringIO()):
        program = torch.onnx.export(
            module,
            _example(spec),
            dynamo=True,
            # Below 18 it would write 18 and convert without checking; trace converts and checks.
            opset_version=max(opset, NATIVE_OPSET),
            input_names=[tensor.name for tensor in spec.inputs],
            output_names=[spec.output.name],
            external_data=False,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("the exporter returned nothing")
    return program.model_proto


def _export_legacy(module: torch.nn.Module, spec: ModelSpec, opset: int) -> onnx.ModelProto:
    written: Any = io.BytesIO()  # taken by the legacy exporter, though its type says path
    torch.onnx.export(
        module,
        _example(spec),
        written,
        dynamo=False,
        opset_version=opset,
        input_names=[tensor.name for tensor in spec.inputs],
        output_names=[spec.output.name],
        verbose=False,
    )
    return onnx.load_from_string(written.getvalue())


_EXPORTERS: dict[str, Callable[[torch.nn.Module, ModelSpec, int], onnx.ModelProto]] = {
    "dynamo": _export_dynamo,
    "legacy": _export_legacy,
}


_CURES = {
    "dynamo": "forward must take (rgb, depth) and hold no control flow that depends on values; "
    "where it must, the legacy exporter (--exporter legacy) follows one run of it",
    "legacy": "forward must take (rgb, depth) and use operators that ONNX has",
}


def _first_cause(error: BaseException) -> BaseException:
    """What an error was raised from at the very first: the exporters wrap theirs in advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _example(spec: ModelSpec) -> tuple[torch.Tensor, ...]:
    return tuple(torch.zeros(tensor.shape) for tensor in spec.inputs)


def _tensors(module: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def _check_module(module: torch.nn.Module) -> None:
    training = [name or "the network" for name, part in module.named_modules() if part.training]
    if training:
        raise StepError(
            f"{type(module).__name__} is in training mode",
            got=f"{training[0]} and {len(training) - 1} more",
            cure="call .eval() before tracing",
        )
    for name, tensor in _tensors(module):
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            raise StepError(
                f"parameter '{name}'",
                expected="float32",
                got=str(tensor.dtype).removeprefix("torch."),
                cure="call .float() before tracing; precision is chosen later",
            )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporters' progress off stdout, and their own deprecations to themselves."""
    loggers = [logging.getLogger(name) for name in _NOISY]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        for category in (DeprecationWarning, FutureWarning):
            warnings.simplefilter("ignore", category)
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
