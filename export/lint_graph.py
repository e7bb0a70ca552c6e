"""Lint rules for the graph: fixed shapes, types, one file, and what overflows in FP16."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from onnx import TensorProto

from edge_fusion.target import Target

from .graph import GraphView, Node
from .lint_rules import VIT_ON_ORIN, Hit, Rule, Versions

#: Operators whose inputs must all have one element type.
_ONE_TYPE = frozenset(
    {"Add", "Concat", "Conv", "ConvTranspose", "Div", "Gemm", "MatMul", "Max", "Min", "Mul", "Sub"}
)
_FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16})

# --- shapes, types, files --------------------------------------------------------------------


def _fixed_shapes(view: GraphView, target: Target) -> Iterator[Hit]:
    for value in view.inputs:
        shape = view.shape(value.name)
        if shape is None:
            yield Hit(f"input '{value.name}'", "no shape at all")
            continue
        for axis, size in enumerate(shape):
            if not isinstance(size, int) or size < 1:
                yield Hit(f"input '{value.name}'", f"axis {axis} is {size or 'unknown'}")


def _known_shapes(view: GraphView, target: Target) -> Iterator[Hit]:
    for node in view.unranked():
        yield Hit(node.label, f"the shape of '{node.outputs[0]}' cannot be inferred")
    if view.inference_error:
        yield Hit("graph", view.inference_error)


def _double(view: GraphView, target: Target) -> Iterator[Hit]:
    yield from _inputs_of(view, TensorProto.DOUBLE, "double")
    for name, tensor in view.initializers.items():
        if tensor.data_type == TensorProto.DOUBLE:
            yield Hit(f"initialiser '{name}'", "double")


def _int64_input(view: GraphView, target: Target) -> Iterator[Hit]:
    yield from _inputs_of(view, TensorProto.INT64, "int64")


def _inputs_of(view: GraphView, kind: int, name: str) -> Iterator[Hit]:
    for value in view.inputs:
        if value.type.tensor_type.elem_type == kind:
            yield Hit(f"input '{value.name}'", name)


def _mixed_operands(view: GraphView, target: Target) -> Iterator[Hit]:
    for node in view.nodes:
        if node.op_type not in _ONE_TYPE:
            continue
        kinds = [view.element_type(name) for name in node.inputs if name]
        known = list(dict.fromkeys(kind for kind in kinds if kind))
        if len(known) > 1 and _FLOATS.intersection(known):
            names = " and ".join(TensorProto.DataType.Name(kind).lower() for kind in known)
            yield Hit(node.label, f"{node.op_type} of {names}")


def _external(view: GraphView, target: Target) -> Iterator[Hit]:
    for name, tensor in view.initializers.items():
        if tensor.data_location == TensorProto.EXTERNAL:
            location = next((e.value for e in tensor.external_data if e.key == "location"), "?")
            yield Hit(f"initialiser '{name}'", f"its data is in '{location}'")


# --- FP16 ------------------------------------------------------------------------------------

_FP16_MAX = 65504.0
_SCANNED = 4096  # larger constants are weights, which training keeps small


def _variance(view: GraphView, target: Target) -> Iterator[Hit]:
    """Square, mean, add epsilon, root: a normalisation written out, in half precision."""
    names = (*view.producers, *view.initializers, *(value.name for value in view.inputs))
    half = any(view.element_type(name) == TensorProto.FLOAT16 for name in names)
    for square in view.nodes:
        if not _is_square(view, square):
            continue
        kept = half and view.element_type(square.input(0)) == TensorProto.FLOAT
        if kept and target.flavour == "strong":
            continue  # a half-precision graph that computes this one in FP32 on purpose
        if root := _root_of_mean(view, square):
            yield Hit(square.label, f"{square.op_type} to '{root.label}'")


def _is_square(view: GraphView, node: Node) -> bool:
    if node.op_type == "Mul":
        return len(node.inputs) == 2 and node.inputs[0] == node.inputs[1]
    if node.op_type != "Pow":
        return False
    exponent = view.constant(node.input(1))
    return exponent is not None and exponent.size == 1 and exponent.reshape(-1)[0] == 2


def _root_of_mean(view: GraphView, square: Node) -> Node | None:
    for mean in view.consumers.get(square.outputs[0], ()):
        if mean.op_type != "ReduceMean":
            continue
        for add in view.consumers.get(mean.outputs[0], ()):
            if add.op_type == "Add" and any(name in view.constants for name in add.inputs):
                for root in view.consumers.get(add.outputs[0], ()):
                    if root.op_type == "Sqrt" or _is_root(view, root):
                        return root
    return None


def _is_root(view: GraphView, node: Node) -> bool:
    exponent = view.constant(node.input(1)) if node.op_type == "Pow" else None
    return exponent is not None and exponent.size == 1 and abs(exponent.reshape(-1)[0]) == 0.5


def _too_large(view: GraphView, target: Target) -> Iterator[Hit]:
    names = [
        name
        for name, tensor in view.initializers.items()
        if tensor.data_type == TensorProto.FLOAT and math.prod(tensor.dims) <= _SCANNED
    ]
    names += [node.outputs[0] for node in view.nodes if node.op_type == "Constant"]
    for name in names:
        value = view.constant(name)
        if value is None or value.dtype != np.float32 or value.size > _SCANNED:
            continue
        largest = np.abs(value[np.isfinite(value)]).max(initial=0)
        if largest > _FP16_MAX:
            yield Hit(f"constant '{name}'", f"magnitude {largest:g}")


GRAPH_RULES = (
    Rule(
        "SHP001",
        "error",
        "inputs have fixed shapes",
        "an axis without a size needs an optimization profile, and its kernels are less specific",
        "export with the size that will be deployed: a fixed batch, height and width",
        _fixed_shapes,
    ),
    Rule(
        "SHP002",
        "warning",
        "shapes can be inferred",
        "rules that need ranks or token counts cannot judge what follows",
        "repair the graph: onnx.checker.check_model names the fault",
        _known_shapes,
    ),
    Rule(
        "TYP001",
        "warning",
        "nothing is double",
        "TensorRT has no FP64: it narrows to FP32 and clamps",
        "cast to float32 before export",
        _double,
    ),
    Rule(
        "TYP002",
        "warning",
        "inputs are not int64",
        "TensorRT 8 binds such an input as int32",
        "take the input as float32 or int32",
        _int64_input,
        Versions(before=(9,)),
    ),
    Rule(
        "TYP003",
        "error",
        "operands have one type",
        "TensorRT refuses operands of two types, and ONNX does not allow them: ONNX Runtime's own "
        "fusions may hide it",
        "cast one of them, or give its constant the other's type",
        _mixed_operands,
    ),
    Rule(
        "EXT001",
        "error",
        "weights are inside the file",
        "data beside the file gets lost when the file travels; no other rule was judged",
        "load the data (onnx.load) and save one file, or export with external_data=False",
        _external,
    ),
    Rule(
        "FP16001",
        "warning",
        "normalisations are one operator",
        "the square overflows in FP16 above 255: a ViT fell from 85 % to 19 % on Orin Nano "
        f"({VIT_ON_ORIN})",
        "keep LayerNormalization as one operator: export at opset 17 or later",
        _variance,
        Versions(since=(8, 6)),
    ),
    Rule(
        "FP16002",
        "warning",
        "normalisations stay in FP32",
        "the square overflows in FP16 above 255, and TensorRT 8.5 has no LayerNormalization",
        "build with these layers in FP32, by layer precision, from the square to the root",
        _variance,
        Versions(before=(8, 6)),
    ),
    Rule(
        "FP16003",
        "warning",
        "constants fit into FP16",
        "a larger constant becomes infinite in FP16, and infinity times zero is not a number",
        "use a smaller one: -10000 masks a softmax as well as -1e9",
        _too_large,
    ),
)
