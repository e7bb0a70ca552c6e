"""FP32 against INT8 at every layer: how far apart their results are, alone and in company."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from edge_fusion.diagnosis import MOST_DB, LayerError
from edge_fusion.errors import StepError

from .graph import MOVES, SELECTS, GraphView, Node
from .isolate import beside_int8, check_pair, twin_of
from .probe import BUDGET_BYTES, chunked, read_tensors, tensor_bytes
from .progress import Progress, quiet
from .samples import Sample

_NO_LAYERS = MOVES | SELECTS | {"Cast", "Constant", "ConstantOfShape", "Range", "Shape", "Size"}

_HUGE = 1e30  # stands for what is not finite; its square is still a number
Values = NDArray[np.float64]


@dataclass(slots=True)
class Deviation:
    """Sums from which signal-to-noise ratio and cosine follow, over all samples."""

    signal: float = 0.0
    other: float = 0.0
    noise: float = 0.0
    product: float = 0.0

    def add(self, reference: NDArray[np.float32], candidate: NDArray[np.float32]) -> None:
        """Take in one pair of tensors of equal shape."""
        one = reference.astype(np.float64).ravel()
        two = candidate.astype(np.float64).ravel()
        if not (np.isfinite(one).all() and np.isfinite(two).all()):
            one, two = self._finite(one, two)
        self.signal += float(one @ one)
        self.other += float(two @ two)
        self.product += float(one @ two)
        gap = two - one
        self.noise += float(gap @ gap)

    def _finite(self, one: Values, two: Values) -> tuple[Values, Values]:
        """Only where the reference is finite: a mask of -inf is no signal.

        What is infinite or NaN in the candidate alone is the worst there can be.
        """
        kept = np.isfinite(one)
        return one[kept], np.nan_to_num(two[kept], nan=_HUGE, posinf=_HUGE, neginf=-_HUGE)

    @property
    def sqnr_db(self) -> float:
        """Power of the reference over power of the difference, decibels, within +-MOST_DB."""
        if not self.noise:
            return MOST_DB
        if not self.signal:
            return -MOST_DB
        decibels = 10 * math.log10(self.signal / self.noise)
        return max(-MOST_DB, min(MOST_DB, decibels))

    @property
    def cosine(self) -> float:
        """Cosine of the angle between the two; 1 where both are nothing, 0 where one is."""
        if not self.noise:
            return 1.0
        length = math.sqrt(self.signal * self.other)
        return max(-1.0, min(1.0, self.product / length)) if length else 0.0


def layer_errors(
    fp32_model: onnx.ModelProto,
    int8_model: onnx.ModelProto,
    samples: Sequence[Sample],
    progress: Progress = quiet,
    *,
    budget: int = BUDGET_BYTES,
    threads: int | None = None,
) -> tuple[LayerError, ...]:
    """Signal-to-noise ratio and cosine of every layer, accumulated and isolated.

    Accumulated is the INT8 network's tensor against the FP32 network's.  Isolated is the same
    layer computed in INT8 from FP32 inputs, which a twin beside each layer does; the saliency map
    is :func:`edge_fusion.export.ranking.rank_layers`'s business.

    Args:
        fp32_model: The float graph.
        int8_model: The same, quantized.
        samples: Inputs by name.
        progress: Told how many runs are done, as the step ``layers``.
        budget: Bytes of intermediate tensors that may be held at a time; less means more runs.
        threads: Threads of one run; None takes every core.

    Returns:
        Every layer of the float graph that computes on the inputs, in topological order.

    Raises:
        ModelError: The graphs are not the same network, or nothing in it is INT8.
        StepError: No samples, or a tensor of the FP32 network is not a number.
        SessionError: A sample does not fit the graph.
    """
    if not samples:
        raise StepError("layers cannot be compared", expected="at least one sample", got="none")
    int8 = set(check_pair(fp32_model, int8_model))
    view = GraphView(fp32_model)
    nodes = {node.outputs[0]: node for node in layer_nodes(view)}
    twins = {tensor for tensor, node in nodes.items() if _name(node) in int8}
    sizes = {
        tensor: size * (3 if tensor in twins else 2)
        for tensor, size in tensor_bytes(view, nodes).items()
    }
    chunks = chunked(sizes, budget)
    beside = [(*c, *(twin_of(tensor) for tensor in c if tensor in twins)) for c in chunks]
    runs = len(chunks) * len(samples)
    accumulated = {tensor: Deviation() for tensor in nodes}
    isolated = {tensor: Deviation() for tensor in twins}
    exact = read_tensors(beside_int8(fp32_model, int8_model), beside, samples, threads=threads)
    rough = read_tensors(int8_model, chunks, samples, threads=threads)
    for done, ((_, ours), (_, theirs)) in enumerate(zip(exact, rough, strict=True), start=1):
        for tensor, value in theirs.items():
            _check_numbers(nodes[tensor], ours[tensor])
            accumulated[tensor].add(ours[tensor], value)
            if tensor in twins:
                isolated[tensor].add(ours[tensor], ours[twin_of(tensor)])
        progress("layers", done, runs)
    order = {node.output[0]: index for index, node in enumerate(fp32_model.graph.node)}
    return tuple(
        _record(node, order[tensor], accumulated[tensor], isolated.get(tensor))
        for tensor, node in nodes.items()
    )


def layer_nodes(view: GraphView) -> list[Node]:
    """The nodes that compute float values from the network's inputs, in graph order."""
    top = {proto.output[0] for proto in view.model.graph.node}
    return [
        node
        for node in view.nodes
        if node.outputs[0] in top
        and node.op_type not in _NO_LAYERS
        and view.computed(node)
        and view.element_type(node.outputs[0]) == TensorProto.FLOAT
    ]


def _name(node: Node) -> str:
    return node.name or node.outputs[0]


def _check_numbers(node: Node, value: NDArray[np.float32]) -> None:
    if np.isnan(value).any():
        raise StepError(
            f"{node.op_type} '{_name(node)}' gives NaN in FP32 already",
            expected="numbers on every sample",
            cure="repair the network or its inputs first: INT8 cannot be better than FP32",
        )


def _record(node: Node, position: int, company: Deviation, alone: Deviation | None) -> LayerError:
    return LayerError(
        name=_name(node),
        kind=node.op_type,
        position=position,
        int8=alone is not None,
        accumulated_sqnr_db=company.sqnr_db,
        accumulated_cosine=company.cosine,
        isolated_sqnr_db=alone.sqnr_db if alone else None,
        isolated_cosine=alone.cosine if alone else None,
    )
