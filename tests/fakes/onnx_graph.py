"""Enough of an ONNX file for the fake parser, read without the onnx package."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnxruntime as ort

from edge_fusion.export.engine_graph import fields

FLOAT, UINT8, INT8, FLOAT16 = 1, 2, 3, 10


@dataclass(frozen=True)
class Node:
    name: str
    op: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, int]


@dataclass(frozen=True)
class Tensor:
    dtype: int
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Graph:
    opset: int
    nodes: tuple[Node, ...]
    initializers: Mapping[str, Tensor]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def read_graph(model: bytes) -> Graph:
    """Raises ValueError, IndexError or KeyError where this is no ONNX file."""
    graph = _all(model, 7)[0]
    opset = max(_numbers(entry, 2)[0] for entry in _all(model, 8))
    initializers = {_text(t, 8): _tensor(t) for t in _all(graph, 5)}
    return Graph(
        opset,
        tuple(_node(node) for node in _all(graph, 1)),
        initializers,
        tuple(n for n in (_text(value, 1) for value in _all(graph, 11)) if n not in initializers),
        tuple(_text(value, 1) for value in _all(graph, 12)),
    )


def infer_shapes(model: bytes, graph: Graph) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor that a node makes or the graph takes, by ONNX Runtime.

    Messages of one field merge when they are written after each other, so that a second graph of
    outputs alone adds outputs to the first.
    """
    named = dict.fromkeys(name for node in graph.nodes for name in node.outputs if name)
    added = b"".join(_field(12, _field(1, n.encode())) for n in named if n not in graph.outputs)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(
        model + _field(7, added), options, providers=["CPUExecutionProvider"]
    )
    found = {arg.name: arg.shape for arg in (*session.get_inputs(), *session.get_outputs())}
    return {
        name: tuple(size if isinstance(size, int) else -1 for size in shape)
        for name, shape in found.items()
    }


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out) + bytes([value])


def _all(message: bytes, wanted: int) -> list[bytes]:
    return [v for number, v in fields(message) if number == wanted and isinstance(v, bytes)]


def _numbers(message: bytes, wanted: int) -> list[int]:
    """Integers, each in a field of its own or packed into one."""
    found: list[int] = []
    for number, value in fields(message):
        if number == wanted and isinstance(value, int):
            found.append(value)
        elif number == wanted and isinstance(value, bytes):
            shift = current = 0
            for byte in value:
                current |= (byte & 0x7F) << shift
                shift += 7
                if not byte & 0x80:
                    found.append(current)
                    shift = current = 0
    return found


def _text(message: bytes, wanted: int) -> str:
    found = _all(message, wanted)
    return found[0].decode() if found else ""


def _tensor(message: bytes) -> Tensor:
    return Tensor(_numbers(message, 2)[0], tuple(_numbers(message, 1)))


def _node(message: bytes) -> Node:
    attributes: dict[str, Any] = {}
    for attribute in _all(message, 5):
        values = _numbers(attribute, 3)
        if values:
            attributes[_text(attribute, 1)] = values[0]
    return Node(
        _text(message, 3),
        _text(message, 4),
        _text(message, 7),
        tuple(text.decode() for text in _all(message, 1)),
        tuple(text.decode() for text in _all(message, 2)),
        attributes,
    )


__all__ = ["FLOAT", "FLOAT16", "INT8", "UINT8", "Graph", "Node", "infer_shapes", "read_graph"]
