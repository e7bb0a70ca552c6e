"""A user's own ONNX file, and the checks every graph on the road must pass.  Needs no torch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import TensorProto, inliner, shape_inference, version_converter

from edge_fusion.errors import ModelError, StepError
from edge_fusion.runtime.ort import OrtSession, first_line
from edge_fusion.spec import ModelSpec

from .graph import opset_of
from .naming import name_nodes

NATIVE_OPSET = 18  # what the road speaks; the flavours are converted from it
_OLDEST_OPSET = 13  # per-channel QuantizeLinear
_MODERN_IR = 8  # initialisers need not be listed as inputs
_STANDARD = ("", "ai.onnx")


def load_onnx(path: Path, spec: ModelSpec) -> onnx.ModelProto:
    """Read a user's own ONNX file and make it fit for the road.

    Args:
        path: The file; external data beside it is read with it.
        spec: The input record that declares its inputs and its output.

    Returns:
        The model with every weight inside, free axes fixed to ``spec``, opset 13 or newer, unique
        node names, and the declared output alone (side outputs of training are not deployed).

    Raises:
        ModelError: The file is missing, damaged, or not what ``spec`` declares.

    Example:
        >>> model = load_onnx(Path("mine.onnx"), ModelSpec(name="mine"))  # doctest: +SKIP
    """
    model = _modernise(read_onnx(path), path)
    foreign = [node for node in model.graph.node if node.domain not in _STANDARD]
    if foreign:
        raise ModelError(
            f"{path} holds operators outside the ONNX standard",
            got=", ".join(f"{node.domain}.{node.op_type} '{node.name}'" for node in foreign[:5]),
            cure="export it without a runtime's own optimisations and custom operators",
        )
    if opset_of(model) < _OLDEST_OPSET:
        try:
            model = convert_opset(model, NATIVE_OPSET)
        except StepError as err:
            raise ModelError(
                f"{path} is of opset {opset_of(model)} and cannot be converted",
                expected=f"{_OLDEST_OPSET} or newer",
                got=err.what,
                cure="export it again",
            ) from err
    check_input_names(model, spec)
    _fix_axes(model, spec)
    keep_output(model, spec, alone=False)
    return finish(name_nodes(model), spec)


def convert_opset(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """Carry a model to another opset; names of nodes and values stay.

    Raises:
        StepError: An operator has no counterpart there.

    Example:
        >>> convert_opset(model, 19).opset_import[0].version  # doctest: +SKIP
        19
    """
    if opset_of(model) == opset:
        return model
    try:
        converted = version_converter.convert_version(model, opset)
    except Exception as err:  # C++ errors arrive as RuntimeError, but not only
        raise StepError(
            f"cannot carry the model from opset {opset_of(model)} to {opset}", got=first_line(err)
        ) from err
    if opset_of(converted) != opset:
        raise StepError(
            "the opset converter stopped half-way",
            expected=f"opset {opset}",
            got=f"opset {opset_of(converted)}",
        )
    return converted


def infer_spec_names(model: onnx.ModelProto, spec: ModelSpec) -> ModelSpec:
    """``spec`` with the input and output names of a model, told apart by their channels.

    Raises:
        ModelError: Not two inputs, or both or neither have three channels.

    Example:
        >>> infer_spec_names(model, ModelSpec(name="mine")).rgb.name  # doctest: +SKIP
        'image'
    """
    inputs = _inputs(model)
    colour = [value for value in inputs if _dims(value)[1:2] == (3,)]
    if len(inputs) != 2 or len(colour) != 1:
        raise ModelError(
            "the model's inputs cannot be told apart",
            expected="one with 3 channels (colour) and one other (depth)",
            got=_listed(inputs),
            cure="name them in the input record",
        )
    depth = next(value for value in inputs if value.name != colour[0].name)
    names = {"rgb": colour[0].name, "depth": depth.name}
    if len(model.graph.output) == 1:
        names["output"] = model.graph.output[0].name
    return spec.model_copy(
        update={
            part: getattr(spec, part).model_copy(update={"name": name})
            for part, name in names.items()
        }
    )


def read_onnx(path: Path) -> onnx.ModelProto:
    """Read an ONNX file as it is, with its external data.

    Raises:
        ModelError: The file is missing, damaged, lacks its external data or holds no graph.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "mine.onnx"
        ...     _ = path.write_bytes(b"no model")
        ...     read_onnx(path)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        edge_fusion.errors.ModelError: cannot read ...mine.onnx as an ONNX model: got ...
    """
    if not path.is_file():
        raise ModelError(f"no model file {path}")
    return _checked_read(lambda: onnx.load(str(path), format="protobuf"), str(path))


def parse_onnx(content: bytes, name: str) -> onnx.ModelProto:
    """As :func:`read_onnx`, from bytes that ``name`` describes in messages.

    Raises:
        ModelError: The bytes are no ONNX model, or hold no graph.

    Example:
        >>> parse_onnx(model.SerializeToString(), "mine").graph.node[0].name  # doctest: +SKIP
        'Conv'
    """
    return _checked_read(lambda: onnx.load_model_from_string(content), name)


def _checked_read(read: Callable[[], onnx.ModelProto], name: str) -> onnx.ModelProto:
    try:
        model = read()
    except (DecodeError, OSError, ValueError, onnx.checker.ValidationError) as err:
        raise ModelError(
            f"cannot read {name} as an ONNX model",
            got=first_line(err),
            cure="is the file complete, and its external data beside it?",
        ) from err
    if not model.graph.node:
        raise ModelError(f"{name} holds no graph", cure="is it an ONNX file, and complete?")
    return model


def _modernise(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """Inline local functions, and list the true inputs alone."""
    try:
        model = inliner.inline_local_functions(model)
    except (DecodeError, ValueError, RuntimeError, onnx.checker.ValidationError) as err:
        raise ModelError(
            f"cannot inline the local functions of {path}",
            got=first_line(err),
            cure="export it again without local functions",
        ) from err
    inputs = _inputs(model)
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    model.ir_version = max(model.ir_version, _MODERN_IR)
    return model


def _inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    weights = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in weights]


def _dims(value: onnx.ValueInfoProto) -> tuple[int | str, ...]:
    """Sizes of a value; a free axis is its name or ``?``."""
    return tuple(
        dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?"
        for dim in value.type.tensor_type.shape.dim
    )


def _dtype(value: onnx.ValueInfoProto) -> str:
    """Element type, in numpy's words where it is a float."""
    kind = value.type.tensor_type.elem_type
    return "float32" if kind == TensorProto.FLOAT else TensorProto.DataType.Name(kind).lower()


def _listed(values: list[onnx.ValueInfoProto]) -> str:
    return ", ".join(f"'{value.name}' {_dims(value)}" for value in values) or "none"


def check_input_names(model: onnx.ModelProto, spec: ModelSpec) -> None:
    """Insist on exactly the two inputs that ``spec`` names."""
    inputs = _inputs(model)
    expected = ", ".join(f"'{tensor.name}' {tensor.shape}" for tensor in spec.inputs)
    if len(inputs) != 2:
        raise ModelError(
            "a two-stream model takes colour and depth", expected=expected, got=_listed(inputs)
        )
    if {value.name for value in inputs} != {tensor.name for tensor in spec.inputs}:
        raise ModelError(
            "the model's inputs have other names than its input record says",
            expected=expected,
            got=_listed(inputs),
            cure=f"declare them in the input record: {_declaration(model, spec)}",
        )


def _declaration(model: onnx.ModelProto, spec: ModelSpec) -> str:
    try:
        named = infer_spec_names(model, spec)
        names = {"rgb": named.rgb.name, "depth": named.depth.name}
    except ModelError:
        names = {"rgb": "COLOUR", "depth": "DEPTH"}
    return json.dumps({part: {"name": name} for part, name in names.items()})


def _fix_axes(model: onnx.ModelProto, spec: ModelSpec) -> None:
    """Give every input the record's shape, and forget the shapes that followed from free axes."""
    shapes = {tensor.name: tensor.shape for tensor in spec.inputs}
    for value in _inputs(model):
        wanted, found = shapes[value.name], _dims(value)
        fits = len(found) == len(wanted) and all(
            dim == size for dim, size in zip(found, wanted, strict=True) if isinstance(dim, int)
        )
        if _dtype(value) != "float32" or not fits:
            raise ModelError(
                f"input '{value.name}' of the model",
                expected=f"{wanted} float32",
                got=f"{found} {_dtype(value)}",
                cure="set height, width and channels in the input record, or export it again",
            )
        for dim, size in zip(value.type.tensor_type.shape.dim, wanted, strict=True):
            dim.dim_value = size
    del model.graph.value_info[:]
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")


def keep_output(model: onnx.ModelProto, spec: ModelSpec, *, alone: bool) -> None:
    """Leave only the declared output; ``alone`` insists that there was no other."""
    outputs = list(model.graph.output)
    wanted = [value for value in outputs if value.name == spec.output.name]
    if not wanted or (alone and len(outputs) > 1):
        raise ModelError(
            "the model's outputs",
            expected=f"'{spec.output.name}'" + (" alone" if alone else ""),
            got=", ".join(f"'{value.name}'" for value in outputs),
            cure="wrap the network so that forward returns saliency alone"
            if alone
            else f"declare it in the input record: {json.dumps({'output': {'name': 'NAME'}})}",
        )
    del model.graph.output[:]
    model.graph.output.extend(wanted)


def finish(model: onnx.ModelProto, spec: ModelSpec) -> onnx.ModelProto:
    """Infer every shape, check the whole graph, and hold its output against the record."""
    opset = onnx.helper.make_opsetid("", opset_of(model))  # NNCF reads the first entry only
    del model.opset_import[:]
    for node in model.graph.node:
        node.domain = ""
    model.opset_import.append(opset)
    try:
        model = shape_inference.infer_shapes(
            model, check_type=True, strict_mode=True, data_prop=True
        )
        output = model.graph.output[0]
        if not all(isinstance(dim, int) for dim in _dims(output)) or not _dims(output):
            _measure_output(model, spec)
        onnx.checker.check_model(model, full_check=True)
    except (shape_inference.InferenceError, onnx.checker.ValidationError) as err:
        raise ModelError("the graph is not valid ONNX", got=first_line(err)) from err
    output = model.graph.output[0]
    shape = _dims(output)
    if len(shape) != 4 or shape[:2] != (1, 1):
        raise ModelError(
            f"output '{output.name}' of the model",
            expected="(1, 1, h, w): one saliency channel",
            got=str(shape),
        )
    return model


def _measure_output(model: onnx.ModelProto, spec: ModelSpec) -> None:
    """Run the model for the output's shape, where shape arithmetic defeats inference."""
    output = model.graph.output[0]
    with OrtSession(model.SerializeToString()) as session:
        shapes = [
            session.run({tensor.name: _ramp(tensor.shape, top) for tensor in spec.inputs})[
                output.name
            ].shape
            for top in (0, 1)
        ]
    if shapes[0] != shapes[1]:
        raise ModelError(
            f"output '{output.name}' of the model",
            expected="a shape that does not depend on the input's values",
            got=f"{shapes[0]} and {shapes[1]} for two inputs",
        )
    output.CopyFrom(onnx.helper.make_tensor_value_info(output.name, TensorProto.FLOAT, shapes[0]))


def _ramp(shape: tuple[int, ...], top: float) -> NDArray[np.float32]:
    """Values from 0 to ``top``."""
    return np.linspace(0, top, int(np.prod(shape)), dtype=np.float32).reshape(shape)
