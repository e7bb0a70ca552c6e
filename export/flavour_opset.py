"""Carry a graph from opset 18, 19 or 20 down to 17, the newest that TensorRT 8 reads.

ONNX's own converter has no way down for Split and stops at the first one.  Between 17 and 20
operators gained element types, a few attributes and the axes of reductions as an input: all of
which has an equivalent in 17, or is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import defs, helper, numpy_helper

from edge_fusion.errors import StepError

from .graph import GraphView, Node, bodies

WEAK_OPSET = 17
_NEWEST = 20
_WEAK_IR = 8  # what ONNX 1.12 wrote, the release of opset 17

Rewrite = Callable[[GraphView, Node], str]

# What an attribute that opset 17 lacks must be for the operator to mean the same without it.
_NEW_ATTRIBUTES: dict[str, dict[str, object]] = {
    "AveragePool": {"dilations": None},
    "Cast": {"saturate": 1},
    "CastLike": {"saturate": 1},
    "LpPool": {"ceil_mode": 0, "dilations": None},
    "QuantizeLinear": {"saturate": 1},
    "Resize": {"antialias": 0, "axes": None, "keep_aspect_ratio_policy": "stretch"},
}
# Operators whose newer forms differ in element types alone.
_SAME = frozenset(
    {"Constant", "ConstantOfShape", "DequantizeLinear", "Equal", "Identity", "If", "IsInf"}
    | {"IsNaN", "Loop", "Reshape", "Scan", "ScatterElements", "ScatterND", "Shape", "Size"}
)


def lower_opset(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph at opset 17; names of nodes and tensors stay.

    Args:
        model: A graph of opset 20 or below; it is not changed.  One of opset 17 or below comes
            back as it is.

    Raises:
        StepError: The opset is newer than 20, or a node has no counterpart at opset 17.

    Example:
        >>> lower_opset(model).opset_import[0].version  # doctest: +SKIP
        17
    """
    lowered = onnx.ModelProto()
    lowered.CopyFrom(model)
    view = GraphView(lowered)
    lowered.ir_version = min(lowered.ir_version, _WEAK_IR)
    if view.opset <= WEAK_OPSET:
        return lowered
    if view.opset > _NEWEST:
        raise StepError(
            f"the weak flavour cannot be made from opset {view.opset}",
            expected=f"opset {_NEWEST} or below",
            cure="trace at opset 18",
        )
    for node in view.nodes:
        if node.domain or not _changed(node, view.opset):
            continue
        rewrite = _REWRITES.get(node.op_type)
        problem = rewrite(view, node) if rewrite else "the operator does not exist there"
        if problem:
            raise StepError(
                f"'{node.label}' cannot be carried from opset {view.opset} to {WEAK_OPSET}",
                got=f"{node.op_type}: {problem}",
                cure="trace at opset 17 or 18, or choose a target with TensorRT 10",
            )
    del lowered.opset_import[:]
    lowered.opset_import.append(helper.make_opsetid("", WEAK_OPSET))
    return lowered


def _changed(node: Node, opset: int) -> bool:
    """Whether the operator is not, at this opset, the one of opset 17."""
    try:
        new = defs.get_schema(node.op_type, opset).since_version
    except defs.SchemaError:
        return False  # unknown to ONNX altogether: the checker and the lint say so
    return bool(new > WEAK_OPSET)


def _keep(view: GraphView, node: Node) -> str:
    if any(True for _ in bodies(node.proto)):
        return ""  # nodes of the bodies are in the view's list themselves
    return _drop(node, _NEW_ATTRIBUTES.get(node.op_type, {}))


def _drop(node: Node, defaults: dict[str, object]) -> str:
    """Remove attributes that say nothing but their default."""
    kept = []
    for attribute in node.proto.attribute:
        if attribute.name not in defaults:
            kept.append(attribute)
            continue
        value = helper.get_attribute_value(attribute)
        value = value.decode() if isinstance(value, bytes) else value
        default = defaults[attribute.name]
        plain = set(value) <= {1} if default is None and attribute.name == "dilations" else False
        if value != default and not plain:
            return f"{attribute.name}={value}"
    del node.proto.attribute[:]
    node.proto.attribute.extend(kept)
    return ""


def _split(view: GraphView, node: Node) -> str:
    """``num_outputs`` becomes the sizes themselves, the last one taking what is left."""
    parts = node.attribute("num_outputs", 0)
    if not parts:
        return ""
    shape, axis = view.shape(node.input(0)), node.attribute("axis", 0)
    size = shape[axis] if shape is not None else None
    if not isinstance(size, int):
        return "the size along its axis is unknown"
    chunk = -(-size // parts)
    sizes = [chunk] * (parts - 1)
    name = f"{node.outputs[0]}.split"
    value = np.array([*sizes, size - sum(sizes)], np.int64)
    view.model.graph.initializer.append(numpy_helper.from_array(value, name))
    del node.proto.input[1:]
    node.proto.input.append(name)
    return _drop(node, {"num_outputs": parts})


def _reduce(view: GraphView, node: Node) -> str:
    """The axes move from an input into an attribute."""
    name = node.input(1)
    axes = view.constant(name) if name else None
    if name and axes is None:
        return f"axes '{name}' are not a constant"
    if node.attribute("noop_with_empty_axes", 0) and (axes is None or not axes.size):
        return "it does nothing: noop_with_empty_axes without axes"
    _drop(node, {"noop_with_empty_axes": node.attribute("noop_with_empty_axes", 0)})
    del node.proto.input[1:]
    if axes is not None and axes.size:
        node.proto.attribute.append(helper.make_attribute("axes", axes.tolist()))
    return ""


def _pad(view: GraphView, node: Node) -> str:
    if node.input(3):
        return "axes as an input"
    mode = node.attribute("mode", "constant")
    return f"mode={mode}" if mode == "wrap" else ""


def _grid_sample(view: GraphView, node: Node) -> str:
    """Opset 20 renamed the modes."""
    names = {"linear": "bilinear", "cubic": "bicubic", "nearest": "nearest"}
    shape = view.shape(node.input(0))
    mode = node.attribute("mode", "linear")
    if shape is None or len(shape) != 4:
        return "not an image of four axes"
    _drop(node, {"mode": mode})
    node.proto.attribute.append(helper.make_attribute("mode", names.get(mode, mode)))
    return ""


_REWRITES: dict[str, Rewrite] = {
    **dict.fromkeys(_SAME | set(_NEW_ATTRIBUTES), _keep),
    **dict.fromkeys(
        {"ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean"}
        | {"ReduceMin", "ReduceProd", "ReduceSumSquare"},
        _reduce,
    ),
    "GridSample": _grid_sample,
    "Pad": _pad,
    "Split": _split,
}
