"""The strong flavour with its rounding made visible to ONNX Runtime's CPU.

That runtime computes half precision in FP32 and rounds only where a graph ends, so that it answers
as if FP16 cost nothing and never overflowed.  Here every FP16 tensor becomes an FP32 tensor that
was cast to FP16 and back: the same values a GPU would store, infinities included.
"""

from __future__ import annotations

import itertools

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from .graph import GraphView

_FP16, _FP32 = TensorProto.FLOAT16, TensorProto.FLOAT


def round_as_half(strong: onnx.ModelProto) -> onnx.ModelProto:
    """An FP32 graph that answers like a half-precision one.

    Each operator computes in FP32, as FP16 kernels accumulate, and its result is rounded.

    Args:
        strong: A graph with FP16 tensors and FP32 inputs; not changed.

    Returns:
        A graph for parity alone: no engine should be built from it.

    Example:
        >>> round_as_half(make_strong(int8, ranges).model)  # doctest: +SKIP
    """
    view = GraphView(strong)
    rounded = onnx.ModelProto()
    rounded.CopyFrom(strong)
    graph = rounded.graph
    del graph.node[:], graph.value_info[:], graph.initializer[:]
    for tensor in strong.graph.initializer:
        half = tensor.data_type == _FP16
        value = numpy_helper.to_array(tensor)
        kept = numpy_helper.from_array(value.astype(np.float32), tensor.name) if half else tensor
        graph.initializer.append(kept)
    numbers = itertools.count()
    for proto in strong.graph.node:
        copy = graph.node.add()
        copy.CopyFrom(proto)
        for index, name in enumerate(proto.output):
            if not name or view.element_type(name) != _FP16:
                continue
            if proto.op_type == "Cast":
                _set_type(copy, _FP32)
            raw, low = (f"rounded.{next(numbers)}" for _ in range(2))
            copy.output[index] = raw
            graph.node.append(helper.make_node("Cast", [raw], [low], to=_FP16))
            graph.node.append(helper.make_node("Cast", [low], [name], to=_FP32))
    return rounded


def _set_type(proto: onnx.NodeProto, kind: int) -> None:
    for attribute in proto.attribute:
        if attribute.name == "to":
            attribute.i = kind
