"""What each node of a graph costs in multiply-accumulates, from its shapes alone."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from math import prod

import onnx

from .graph import GraphView, Node

_Sizes = tuple[int, ...]


def count_node_macs(model: onnx.ModelProto) -> dict[str, int | None]:
    """Multiply-accumulates of every convolution and matrix product, for one run.

    Args:
        model: A graph with named nodes.

    Returns:
        By node name in graph order; None where a shape is not known.

    Example:
        >>> from onnx import parser
        >>> model = parser.parse_model('''
        ...     <ir_version: 8, opset_import: ["": 17]>
        ...     g (float[2, 3] x, float[3, 5] w) => (float[2, 5] y) { [a] y = MatMul (x, w) }''')
        >>> count_node_macs(model)
        {'a': 30}
    """
    graph = GraphView(model)
    return {
        node.name: _COUNTED[node.op_type](graph, node)
        for node in graph.nodes
        if node.op_type in _COUNTED and graph.computed(node)
    }


def mac_share(macs: Mapping[str, int | None], names: Collection[str]) -> float | None:
    """The share of a graph's multiply-accumulates that the named nodes do, 0..1.

    None where a shape is not known, or nothing multiplies.

    Args:
        macs: As :func:`count_node_macs` gives them.
        names: Some nodes.

    Example:
        >>> mac_share({"a": 30, "b": 10}, ["a"])
        0.75
    """
    known = {name: count for name, count in macs.items() if count is not None}
    total = sum(known.values())
    if len(known) < len(macs) or not total:
        return None
    return sum(count for name, count in known.items() if name in names) / total


def _sizes(graph: GraphView, name: str) -> _Sizes | None:
    shape = graph.shape(name)
    if shape is None:
        return None
    sizes = tuple(size for size in shape if isinstance(size, int))
    return sizes if len(sizes) == len(shape) else None


def _conv(graph: GraphView, node: Node) -> int | None:
    """Each output value sums over one group's channels and the kernel."""
    out, weight = _sizes(graph, node.outputs[0]), _sizes(graph, node.input(1))
    return None if out is None or weight is None else prod(out) * prod(weight[1:])


def _transposed_conv(graph: GraphView, node: Node) -> int | None:
    """Each input value is spread over one group's output channels and the kernel."""
    data, weight = _sizes(graph, node.input(0)), _sizes(graph, node.input(1))
    return None if data is None or weight is None else prod(data) * prod(weight[1:])


def _product(graph: GraphView, node: Node) -> int | None:
    """Each output value sums over the last axis of the left factor, or its first if turned."""
    out, left = _sizes(graph, node.outputs[0]), _sizes(graph, node.input(0))
    if out is None or not left:
        return None
    turned = node.op_type == "Gemm" and node.attribute("transA", 0)
    return prod(out) * (left[0] if turned else left[-1])


_COUNTED: dict[str, Callable[[GraphView, Node], int | None]] = {
    "Conv": _conv,
    "ConvTranspose": _transposed_conv,
    "Gemm": _product,
    "MatMul": _product,
}
