"""The names in an ONNX file, read without the onnx package, which no device has.

TensorRT 8's parser names the node it stops at by its number alone.  This reads just enough of the
protocol-buffer encoding to turn that number into a name.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

_GRAPH_IN_MODEL, _NODE_IN_GRAPH = 7, 1
_OUTPUT_IN_NODE, _NAME_IN_NODE, _OPERATOR_IN_NODE = 2, 3, 4
_VARINT, _EIGHT_BYTES, _LENGTH_FIRST, _FOUR_BYTES = 0, 1, 2, 5
_FIXED = {_EIGHT_BYTES: 8, _FOUR_BYTES: 4}


class NodeName(NamedTuple):
    """One node: its name, or its first output where it has none, and its operator."""

    name: str
    operator: str

    def __str__(self) -> str:
        return f"'{self.name}' ({self.operator})"


def node_names(model: bytes) -> list[NodeName]:
    """The nodes of a serialised ONNX model, in the order the parser numbers them.

    Args:
        model: The file; bodies of control flow are not entered.

    Returns:
        One entry a node; empty where ``model`` is no ONNX file.
    """
    try:
        return [
            _named(node)
            for graph in _messages(model, _GRAPH_IN_MODEL)
            for node in _messages(graph, _NODE_IN_GRAPH)
        ]
    except (ValueError, IndexError):
        return []


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Every field of one encoded message: its number, and an integer or the bytes it holds.

    Raises:
        ValueError: This is no such message.
        IndexError: It ends too early.
    """
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            value, at = _varint(message, at)
            yield number, value
            continue
        if kind == _LENGTH_FIRST:
            size, at = _varint(message, at)
        elif kind in _FIXED:
            size = _FIXED[kind]
        else:
            raise ValueError(f"no encoding has wire type {kind}")
        if at + size > len(message):
            raise IndexError("the message is cut off")
        yield number, message[at : at + size]
        at += size


def _messages(message: bytes, wanted: int) -> list[bytes]:
    return [
        value for number, value in fields(message) if number == wanted and isinstance(value, bytes)
    ]


def _named(node: bytes) -> NodeName:
    texts: dict[int, str] = {}
    for number, value in fields(node):
        if isinstance(value, bytes) and number in (
            _OUTPUT_IN_NODE,
            _NAME_IN_NODE,
            _OPERATOR_IN_NODE,
        ):
            texts.setdefault(number, value.decode())
    name = texts.get(_NAME_IN_NODE) or texts.get(_OUTPUT_IN_NODE, "")
    return NodeName(name, texts.get(_OPERATOR_IN_NODE, ""))


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not byte & 0x80:
            return value, at
        if shift > 63:
            raise ValueError("an integer of more than 64 bits")
