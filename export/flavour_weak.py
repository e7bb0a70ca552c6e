"""The weak flavour, for TensorRT 8.5 and 8.6: an FP32 graph whose builder chooses by flags.

Such an engine takes FP16 and INT8 as permissions.  The graph stays FP32 at opset 17, and weights
stay FP32 behind their own QuantizeLinear and DequantizeLinear, because that parser takes no int8
initialisers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edge_fusion.errors import StepError
from edge_fusion.runtime.ort import first_line
from edge_fusion.target import Version

from .flavour_fp16 import HalfPolicy, find_hazards, refuse_half
from .flavour_opset import lower_opset
from .flavour_ranges import Range
from .flavour_result import FlavourResult, precision_map
from .graph import DEQUANTIZE, Array, GraphView, Node, Quantizer

_FIRST_WITH_LAYER_NORM: Version = (8, 6)


def make_weak(
    model: onnx.ModelProto,
    tensorrt: Version,
    fp32_ranges: Mapping[str, Range],
    policy: HalfPolicy | None = None,
) -> FlavourResult:
    """Write a graph as TensorRT 8 reads it.

    Args:
        model: The legalised INT8 graph, or the FP32 graph; not changed.
        tensorrt: The version it is for: below 8.6 LayerNormalization is written out.
        fp32_ranges: From :func:`record_ranges` on the FP32 graph.
        policy: When FP16 is not safe; None takes the defaults.

    Returns:
        The graph at opset 17.  ``kept_fp32`` is what its builder must pin to FP32 where the FP16
        flag is set.

    Raises:
        StepError: The graph is in half precision already, a node has no counterpart at opset 17,
            its Q/DQ are not legal, or the ranges are of another graph.

    Example:
        >>> make_weak(int8, (8, 5, 2), record_ranges(fp32, samples))  # doctest: +SKIP
    """
    refuse_half(model)
    source = GraphView(model)
    hazards = find_hazards(source, fp32_ranges, policy)
    weak = lower_opset(model)
    view = GraphView(weak)
    changes = _spell_out_weights(view)
    if tensorrt < _FIRST_WITH_LAYER_NORM:
        changes += _write_out_norms(view)
    try:
        onnx.checker.check_model(weak, full_check=True)
    except Exception as err:  # the C++ checker raises its own classes and bare RuntimeError
        raise StepError("the weak flavour is not valid ONNX", got=first_line(err)) from err
    return FlavourResult("weak", weak, precision_map(source, hazards), hazards, tuple(changes))


# --- weights ---------------------------------------------------------------------------------


def _spell_out_weights(view: GraphView) -> list[str]:
    """Turn every int8 weight into FP32 behind a QuantizeLinear of the same scale.

    ``round(level * scale / scale)`` is the level again, so that nothing changes.
    """
    graph = view.model.graph
    made: dict[tuple[str, ...], str] = {}
    nodes: list[onnx.NodeProto] = []
    changes = []
    quantizers = {q.node.outputs[0]: q for q in view.quantizers}
    for proto in graph.node:
        q = quantizers.get(proto.output[0]) if proto.op_type == DEQUANTIZE else None
        if q is not None and q.constant and not q.paired:
            key = (*q.node.inputs, str(q.axis))
            if key not in made:
                nodes.append(_quantize_weight(view, q))
                made[key] = nodes[-1].output[0]
                changes.append(f"weights '{q.data}' as FP32 behind QuantizeLinear")
            proto.input[0] = made[key]
        nodes.append(proto)
    _replace_nodes(graph, nodes)
    _drop_unread(graph)
    return changes


def _quantize_weight(view: GraphView, q: Quantizer) -> onnx.NodeProto:
    levels = view.constant(q.data)
    if levels is None or q.scale is None or q.zero is None or q.stored != TensorProto.INT8:
        raise StepError(
            f"'{q.node.label}' is not in the form the flavours are made from",
            expected="int8 weights with a constant scale and an explicit zero point",
            got=f"{len(q.node.inputs)} inputs, {q.stored_name}",
            cure="run legalise first",
        )
    shape = [1] * levels.ndim
    if q.per_channel:
        shape[q.axis] = -1
    weight = levels.astype(np.float32) * q.scale.astype(np.float32).reshape(shape)
    wish = f"{q.node.outputs[0]}.float"
    view.model.graph.initializer.append(numpy_helper.from_array(weight, wish))
    attributes: dict[str, Any] = {"axis": q.axis} if q.per_channel else {}
    return helper.make_node(
        "QuantizeLinear",
        [wish, *q.node.inputs[1:]],
        [f"{q.node.outputs[0]}.levels"],
        name=f"{q.node.label}.quantize",
        **attributes,
    )


# --- LayerNormalization ----------------------------------------------------------------------


def _write_out_norms(view: GraphView) -> list[str]:
    """Write every LayerNormalization out in a way that cannot overflow in half precision.

    With ``d = x - mean(x)`` and ``c = max(max|d|, sqrt(eps))``::

        d / sqrt(mean(d^2) + eps)  =  (d/c) / sqrt(mean((d/c)^2) + (sqrt(eps)/c)^2)

    which is exact for every c.  On the right nothing that is squared exceeds 1 and the root lies
    between 1/sqrt(n) and sqrt(2), whereas ``d^2`` leaves FP16 as soon as d passes 255.
    """
    graph = view.model.graph
    nodes: list[onnx.NodeProto] = []
    changes = []
    by_output = {n.outputs[0]: n for n in view.nodes if n.op_type == "LayerNormalization"}
    for proto in graph.node:
        node = by_output.get(proto.output[0]) if proto.output else None
        if node is None:
            nodes.append(proto)
            continue
        nodes += _Norm(view, node).written_out()
        changes.append(f"LayerNormalization '{node.label}' written out")
    _replace_nodes(graph, nodes)
    return changes


class _Norm:
    """One LayerNormalization as elementary operators of opset 17."""

    def __init__(self, view: GraphView, node: Node) -> None:
        if any(node.outputs[1:]):
            raise StepError(
                f"'{node.label}' hands out its mean or deviation",
                expected="a LayerNormalization with one output",
                cure="choose a target with TensorRT 8.6 or later",
            )
        self.view, self.node, self.nodes = view, node, list[onnx.NodeProto]()
        self.axes = self._axes()

    def _axes(self) -> list[int]:
        axis = self.node.attribute("axis", -1)
        rank = 0 if axis < 0 else self.view.rank(self.node.input(0))
        if rank is None:
            raise StepError(
                f"'{self.node.label}' cannot be written out",
                expected="an input of known rank",
                cure="run the simplifier first, which writes down shapes",
            )
        return list(range(axis - rank, 0))

    def op(self, kind: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        part = f"{kind}_{len(self.nodes)}"
        made = output or f"{self.node.outputs[0]}.{part}"
        name = f"{self.node.label}.{part}"
        self.nodes.append(helper.make_node(kind, list(inputs), [made], name=name, **attributes))
        return made

    def mean(self, name: str) -> str:
        return self.op("ReduceMean", name, axes=self.axes, keepdims=1)

    def written_out(self) -> list[onnx.NodeProto]:
        node = self.node
        epsilon = math.sqrt(max(node.attribute("epsilon", 1e-5), 0.0))
        floor = f"{node.outputs[0]}.sqrt_epsilon"
        value: Array = np.asarray(epsilon, np.float32)
        self.view.model.graph.initializer.append(numpy_helper.from_array(value, floor))
        centred = self.op("Sub", node.input(0), self.mean(node.input(0)))
        largest = self.op("ReduceMax", self.op("Abs", centred), axes=self.axes, keepdims=1)
        unit = self.op("Max", largest, floor)
        scaled = self.op("Div", centred, unit)
        small = self.op("Div", floor, unit)
        variance = self.mean(self.op("Mul", scaled, scaled))
        root = self.op("Sqrt", self.op("Add", variance, self.op("Mul", small, small)))
        steps = [("Div", root), ("Mul", node.input(1)), ("Add", node.input(2))]
        steps = [(kind, other) for kind, other in steps if other]
        last = scaled
        for index, (kind, other) in enumerate(steps):
            output = node.outputs[0] if index == len(steps) - 1 else ""
            last = self.op(kind, last, other, output=output)
        return self.nodes


# --- the graph -------------------------------------------------------------------------------


def _replace_nodes(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    copies = []
    for proto in nodes:
        copy = onnx.NodeProto()
        copy.CopyFrom(proto)
        copies.append(copy)
    del graph.node[:]
    graph.node.extend(copies)


def _drop_unread(graph: onnx.GraphProto) -> None:
    """Remove initialisers that nothing reads any more; bodies read what they capture by name."""
    view = GraphView(onnx.ModelProto(graph=graph))
    read = set(view.consumers) | {value.name for value in graph.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    copies = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in kept]
    del graph.initializer[:]
    graph.initializer.extend(copies)
