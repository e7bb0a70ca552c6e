"""What a flavour is: a graph for one family of TensorRT versions, with its precision map."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import onnx

from edge_fusion.target import Flavour

from .flavour_ranges import top_level
from .graph import DEQUANTIZE, MOVES, QUANTIZE, SELECTS, GraphView

NodePrecision = Literal["int8", "fp16", "fp32"]

_STAYS_8_BIT = MOVES | SELECTS


@dataclass(frozen=True, slots=True)
class FlavourResult:
    """One flavour of a model.

    Attributes:
        flavour: ``strong`` or ``weak``.
        model: The graph, sharing nothing with its source; its inputs and outputs stay FP32.
        precisions: What every computing node is meant to run in, by name in graph order.  The
            strong graph says so itself; a builder of the weak one takes it as permission.
        kept_fp32: Nodes that FP16 would break, each with the reason.  A builder of the weak
            flavour must pin them to FP32.
        changes: What was done to the graph: a few words each, in graph order.
    """

    flavour: Flavour
    model: onnx.ModelProto
    precisions: Mapping[str, NodePrecision]
    kept_fp32: Mapping[str, str]
    changes: tuple[str, ...]

    def counts(self) -> dict[str, int]:
        """How many nodes run in each precision."""
        return dict(Counter(self.precisions.values()))


def precision_map(view: GraphView, kept_fp32: Mapping[str, str]) -> dict[str, NodePrecision]:
    """The precision of every computing node of a Q/DQ graph: INT8, FP16, or FP32 where kept.

    Nodes computed from constants are left out, and those that only move or choose 8-bit values:
    they follow their neighbours.  A node that reads 8-bit values is INT8 even if its scales stay
    FP32.

    Args:
        view: A graph with Q/DQ, or without.
        kept_fp32: Nodes that must not be FP16, from :func:`find_hazards`.
    """
    eight_bit: set[str] = set()
    found: dict[str, NodePrecision] = {}
    for node in top_level(view):
        reads_8_bit = any(name in eight_bit for name in node.inputs)
        if node.op_type == DEQUANTIZE or (reads_8_bit and node.op_type in _STAYS_8_BIT):
            eight_bit.update(node.outputs)
        elif node.op_type == QUANTIZE or not view.computed(node) or node.op_type in MOVES:
            continue
        elif reads_8_bit:
            found[node.label] = "int8"
        else:
            found[node.label] = "fp32" if node.label in kept_fp32 else "fp16"
    return found
