"""Which layers ``trtexec`` must keep out of FP16, by the names of the file's own nodes.

``trtexec`` matches exact names alone, and says nothing about one that no layer has: what is to be
kept must be spelled out node by node, as :func:`pin_to_fp32` finds it layer by layer.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from edge_fusion.errors import EngineError

from .engine_graph import fields, node_names
from .engine_network import SHOWN_ERRORS, whole_of

_GRAPH_IN_MODEL, _NODE_IN_GRAPH = 7, 1
_INPUT_IN_NODE, _OUTPUT_IN_NODE = 1, 2
_DEQUANTIZE = "DequantizeLinear"
_SEPARATORS = ",:"  # of a list of layers on trtexec's command line


def nodes_to_pin(model: bytes, kept: Collection[str]) -> list[str]:
    """The nodes of a weak graph that trtexec has to pin to FP32, in the file's order.

    A node that reads 8-bit values computes in INT8 whatever its outputs are, and stays free.

    Args:
        model: The ONNX file.
        kept: Nodes that FP16 would break, as the bundle names them: one that was written out since
            stands in the file as its parts alone.

    Raises:
        EngineError: A node is not in the file, not even as parts, so that nothing would hold it;
            or its name is none that trtexec takes.
    """
    if not kept:
        return []
    names = [node.name for node in node_names(model)]
    eight_bit = _made_by(model, _DEQUANTIZE)
    found: set[str] = set()
    pinned = []
    for name, inputs in zip(names, _tensors(model, _INPUT_IN_NODE), strict=True):
        whole = whole_of(name, kept)
        if whole is None:
            continue
        found.add(whole)
        if eight_bit.isdisjoint(inputs):
            pinned.append(name)
    _refuse_lost(sorted(set(kept) - found))
    _refuse_unspeakable(pinned)
    return pinned


def _refuse_lost(lost: list[str]) -> None:
    if lost:
        raise EngineError(
            f"the graph has no node {', '.join(lost[:SHOWN_ERRORS])}",
            expected="a node to keep in FP32, because FP16 would break it",
            cure="build with --precision fp32, or build the bundle again",
        )


def _refuse_unspeakable(names: list[str]) -> None:
    for name in names:
        if set(name) & set(_SEPARATORS):
            raise EngineError(
                f"trtexec cannot keep node {name!r} in FP32",
                expected="a name without ',' and ':'",
                cure="build the engine with --precision fp32, or rename the node",
            )


def _made_by(model: bytes, operator: str) -> set[str]:
    """The tensors that nodes of one operator make."""
    outputs = _tensors(model, _OUTPUT_IN_NODE)
    pairs = zip(node_names(model), outputs, strict=True)
    return {tensor for node, made in pairs if node.operator == operator for tensor in made}


def _tensors(model: bytes, number: int) -> Iterator[tuple[str, ...]]:
    """What each node reads or makes, in the order of :func:`node_names`."""
    for graph in _messages(model, _GRAPH_IN_MODEL):
        for node in _messages(graph, _NODE_IN_GRAPH):
            yield tuple(tensor.decode() for tensor in _messages(node, number))


def _messages(message: bytes, number: int) -> list[bytes]:
    return [value for n, value in fields(message) if n == number and isinstance(value, bytes)]
