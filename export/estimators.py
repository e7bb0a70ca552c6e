"""Range estimators by class of tensor: which tensors a class holds, and scales that mix them.

NNCF takes one estimator for all activations of a graph.  Its scales are plain initialisers, and
which tensors it quantizes does not depend on the estimator: so a graph is quantized once with each
estimator that is wanted, and every tensor takes its scale from the one of its class.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from edge_fusion.errors import StepError

from .estimator_names import ByClass, Estimator, TensorClass
from .graph import DEQUANTIZE, MOVES, QUANTIZE, SELECTS, GraphView, Node

_TOKENS = frozenset({"MatMul", "Gemm", "Einsum"})
_SEEN_THROUGH = MOVES | SELECTS | {QUANTIZE, DEQUANTIZE}


def classify(quantized: onnx.ModelProto) -> dict[str, TensorClass]:
    """The class of every activation that a graph quantizes, by the node that computes with it.

    Tensors that meet in a Concat share one scale, and so one class: that of the first node in
    graph order that computes with any of them.

    Args:
        quantized: A graph with QuantizeLinear and DequantizeLinear, as NNCF gives it.

    Returns:
        ``{name of the QuantizeLinear's scale: class}``.
    """
    view = GraphView(quantized)
    streams = _streams(view)
    order = {id(node): index for index, node in enumerate(view.nodes)}
    groups = _groups(view)
    found: dict[str, TensorClass] = {}
    for scales, readers in groups:
        first = min(readers, key=lambda node: order[id(node)], default=None)
        found.update(dict.fromkeys(scales, _class_of(first, streams)))
    return found


def mix_scales(
    results: Mapping[Estimator, onnx.ModelProto], estimator: Estimator, by_class: ByClass
) -> onnx.ModelProto:
    """One quantized graph whose scales come from several.

    Args:
        results: The same float graph, quantized with each estimator that is asked for.
        estimator: Whose scales to take where ``by_class`` says nothing.
        by_class: Whose to take for tensors of a class.

    Raises:
        StepError: The quantizer wrote another graph for another estimator.
    """
    mixed = onnx.ModelProto()
    mixed.CopyFrom(results[estimator])
    wanted = {
        scale: by_class[group]
        for scale, group in classify(mixed).items()
        if by_class.get(group, estimator) != estimator
    }
    if not wanted:
        return mixed
    nodes = _quantizing(mixed)
    others = {name: _quantizing(results[name]) for name in set(wanted.values())}
    values = {name: _initializers(results[name]) for name in others}
    own = _initializers(mixed)
    for scale, name in wanted.items():
        if others[name].keys() != nodes.keys() or scale not in values[name]:
            raise StepError(
                f"the quantizer wrote another graph with the range estimator '{name}'",
                expected=f"the one of '{estimator}', with other scales",
                cure="use one estimator for all tensors, or report this network",
            )
        own[scale].CopyFrom(values[name][scale])
    retyped = set()
    for label, node in nodes.items():  # signedness follows from the smallest value that was seen
        if node.input[1] not in wanted:
            continue
        name = wanted[node.input[1]]
        zero, other = own[node.input[2]], values[name][others[name][label].input[2]]
        if zero.data_type != other.data_type:
            zero.MergeFrom(onnx.TensorProto(data_type=other.data_type))
            zero.raw_data = other.raw_data
            retyped.add(node.output[0])
    kept = [value for value in mixed.graph.value_info if value.name not in retyped]
    del mixed.graph.value_info[:]
    mixed.graph.value_info.extend(kept)
    return mixed


def _quantizing(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    return {node.name: node for node in model.graph.node if node.op_type == QUANTIZE}


def _initializers(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    return {tensor.name: tensor for tensor in model.graph.initializer}


def _class_of(reader: Node | None, streams: Mapping[str, frozenset[str]]) -> TensorClass:
    if reader is None:
        return "decoder"
    if len(frozenset().union(*(streams.get(name, frozenset()) for name in reader.inputs))) < 2:
        return "encoder"
    return "fusion" if reader.op_type in _TOKENS else "decoder"


def _streams(view: GraphView) -> dict[str, frozenset[str]]:
    """On which of the graph's inputs each tensor depends."""
    known = {one.name: frozenset({one.name}) for one in view.inputs}
    for node in view.nodes:
        read = frozenset().union(*(known.get(name, frozenset()) for name in node.inputs))
        known.update(dict.fromkeys(node.outputs, read))
    return known


def _groups(view: GraphView) -> list[tuple[set[str], list[Node]]]:
    """Scales that meet in Concats together, each group with the nodes that compute with it."""
    groups: list[tuple[set[str], set[int], list[Node]]] = []
    for quantizer in view.quantizers:
        if not quantizer.quantizes or quantizer.constant:
            continue
        met, readers = _followed(view, quantizer.node.outputs[0])
        scales = {quantizer.node.input(1)}
        for other in [one for one in groups if one[1] & met or one[0] & scales]:
            groups.remove(other)
            scales, met, readers = scales | other[0], met | other[1], other[2] + readers
        groups.append((scales, met, readers))
    return [(scales, readers) for scales, _, readers in groups]


def _followed(view: GraphView, name: str) -> tuple[set[int], list[Node]]:
    """The Concats a quantized tensor comes to, and the nodes that compute with it."""
    queue, seen = [name], {name}
    met: set[int] = set()
    readers: list[Node] = []
    while queue:
        for node in view.consumers.get(queue.pop(), ()):
            if node.op_type not in _SEEN_THROUGH:
                readers.append(node)
                continue
            if node.op_type == "Concat":
                met.add(id(node))
            queue.extend(out for out in node.outputs if out not in seen)
            seen.update(node.outputs)
    return met, readers
