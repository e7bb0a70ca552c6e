"""How far every tensor of a float graph reaches on real inputs: what FP16 safety is judged by.

ONNX Runtime's CPU computes FP16 in FP32, so that running a half-precision graph there proves
nothing about overflow.  The ranges of the FP32 graph do.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import onnx
from onnx import TensorProto, helper

from edge_fusion.errors import StepError
from edge_fusion.runtime.ort import OrtSession

from .graph import GraphView, Node, bodies
from .samples import Sample

Range = tuple[float, float]

REDUCTIONS = ("ReduceMin", "ReduceMax")


def record_ranges(
    fp32_model: onnx.ModelProto, samples: Iterable[Sample], *, threads: int | None = None
) -> dict[str, Range]:
    """The smallest and largest value of every float tensor over all samples.

    The extremes are computed inside the graph, so that a tensor never leaves ONNX Runtime and
    memory stays that of one ordinary run, however many samples there are.

    Args:
        fp32_model: A float graph; it is not changed.
        samples: Inputs by name, at least one.
        threads: Threads of one run; None takes every core.

    Returns:
        ``{tensor: (smallest, largest)}`` for the graph's inputs and what its nodes compute.

    Raises:
        StepError: No sample, or a tensor is NaN throughout a sample in FP32 already.
        SessionError: A sample does not fit the graph.

    Example:
        >>> import numpy as np
        >>> from onnx import parser
        >>> model = parser.parse_model('''
        ...     <ir_version: 8, opset_import: ["": 17]>
        ...     g (float[1, 2] x) => (float[1, 2] y) { y = Exp (x) }''')
        >>> record_ranges(model, [{"x": np.zeros((1, 2), np.float32)}])
        {'x': (0.0, 0.0), 'y': (1.0, 1.0)}
    """
    names = _float_tensors(fp32_model)
    found: dict[str, Range] = {}
    with OrtSession(with_extremes(fp32_model, names), threads=threads) as session:
        for index, sample in enumerate(samples):
            outputs = session.run(sample)
            seen = {name: (float(sample[name].min()), float(sample[name].max())) for name in sample}
            for position, name in enumerate(names):
                low, high = (float(outputs[f"{op}.{position}"]) for op in REDUCTIONS)
                seen[name] = (low, high)
            _check_numbers(seen, index)
            found = _union(found, seen)
    if not found:
        raise StepError("ranges cannot be recorded", expected="at least one sample", got="none")
    return found


def top_level(view: GraphView) -> list[Node]:
    """The nodes of the graph itself, without those inside If, Loop and Scan."""
    kept, skip = [], 0
    for node in view.nodes:
        if skip:
            skip -= 1
            continue
        kept.append(node)
        skip = _inner_count(node.proto)
    return kept


def _inner_count(proto: onnx.NodeProto) -> int:
    inner = [node for body in bodies(proto) for node in body.node]
    return len(inner) + sum(_inner_count(node) for node in inner)


def _float_tensors(model: onnx.ModelProto) -> list[str]:
    view = GraphView(model)
    return [
        name
        for node in top_level(view)
        if node.op_type != "Constant"
        for name in node.outputs
        if name and view.element_type(name) == TensorProto.FLOAT and 0 not in _sizes(view, name)
    ]


def _sizes(view: GraphView, name: str) -> tuple[object, ...]:
    return view.shape(name) or ()


def with_extremes(model: onnx.ModelProto, names: list[str]) -> bytes:
    """The same graph, whose outputs are two scalars for each tensor."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    graph = probe.graph
    del graph.output[:]
    for position, name in enumerate(names):
        for op in REDUCTIONS:
            output = f"{op}.{position}"
            graph.node.append(helper.make_node(op, [name], [output], keepdims=0))
            graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, ()))
    data: bytes = probe.SerializeToString()
    return data


def _check_numbers(seen: Mapping[str, Range], index: int) -> None:
    """Refuse what no precision can hold; infinities may be masks and are recorded."""
    for name, (low, high) in seen.items():
        if math.isnan(low) or math.isnan(high):
            raise StepError(
                f"'{name}' is not a number in FP32",
                expected="numbers on every calibration sample",
                got=f"{low:g} to {high:g} on sample {index}",
                cure="repair the network: no precision below FP32 can hold it",
            )


def _union(one: Mapping[str, Range], two: Mapping[str, Range]) -> dict[str, Range]:
    return {
        name: (min(low, one[name][0]), max(high, one[name][1])) if name in one else (low, high)
        for name, (low, high) in two.items()
    }
