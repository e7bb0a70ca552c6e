"""Give the inputs of a Concat one scale, where theirs are nearly the same.

TensorRT joins 8-bit tensors of one scale by writing them side by side; those of several it converts
first, in a kernel of its own.  A larger scale costs resolution, so inputs that are far apart, such
as those of unlike streams, keep their own.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection

import onnx
from onnx import numpy_helper

from .graph import DEQUANTIZE, QUANTIZE, GraphView

LARGEST_RATIO = 1.5  # of the largest to the smallest scale: 0.6 of a bit for the smallest


def share_concat_scales(model: onnx.ModelProto) -> list[tuple[str, str]]:
    """Change the scales of every Concat's inputs to the largest of them, in place.

    Args:
        model: A legalised graph: activations are int8 with one scale and zero point 0.

    Returns:
        The first Concat of each group that shares tensors, and what happened to its scales.

    Example:
        >>> share_concat_scales(model)  # doctest: +SKIP
        [('fusions.0/Concat', 'scales 0.0485, 0.0488 became 0.0488')]
    """
    view = GraphView(model)
    scales = {
        q.node.outputs[0]: q.scale
        for q in view.quantizers
        if q.quantizes and q.scale is not None and q.scale.size == 1
    }
    names = (f"shared_scale_{i}" for i in itertools.count())
    changes = []
    for label, tensors in _groups(view, scales.keys()):
        values = sorted({float(scales[name].reshape(())) for name in tensors})
        if 1 < values[-1] / values[0] <= LARGEST_RATIO:
            largest = max((scales[name] for name in tensors), key=lambda scale: float(scale.max()))
            name = next(name for name in names if not view.has(name))
            model.graph.initializer.append(numpy_helper.from_array(largest.reshape(()), name))
            _set_scale(model.graph, tensors, name)
            text = ", ".join(f"{value:.4g}" for value in values)
            changes.append((label, f"scales {text} became {values[-1]:.4g}"))
    return changes


def _groups(view: GraphView, quantized: Collection[str]) -> list[tuple[str, set[str]]]:
    """The 8-bit tensors that Concats join, those with a tensor in common as one group."""
    groups: list[tuple[str, set[str]]] = []
    for node in view.nodes:
        behind = [view.dequantized.get(name) for name in node.inputs]
        tensors = {q.data for q in behind if q is not None}
        if node.op_type != "Concat" or None in behind or not tensors <= set(quantized):
            continue
        common = [group for group in groups if group[1] & tensors]
        groups = [group for group in groups if group not in common]
        label = common[0][0] if common else node.label
        groups.append((label, tensors.union(*(group[1] for group in common))))
    return groups


def _set_scale(graph: onnx.GraphProto, tensors: set[str], scale: str) -> None:
    """Let every Q/DQ of these 8-bit tensors use one constant."""
    for proto in graph.node:
        stored = {QUANTIZE: proto.output, DEQUANTIZE: proto.input}.get(proto.op_type)
        if stored is not None and stored[0] in tensors:
            proto.input[1] = scale
