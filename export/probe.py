"""Read what a network computes on its way, in chunks that fit into memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from edge_fusion.errors import StepError
from edge_fusion.runtime.ort import OrtSession

from .graph import GraphView
from .samples import Sample

Tensors = dict[str, NDArray[np.float32]]

BUDGET_BYTES = 256 << 20  # of tensors held at a time: half of what a small laptop can spare
_FLOAT_BYTES = 4


def read_tensors(
    model: onnx.ModelProto,
    chunks: Sequence[Sequence[str]],
    samples: Sequence[Sample],
    *,
    threads: int | None = None,
    advance: Callable[[], None] = lambda: None,
) -> Iterator[tuple[int, Tensors]]:
    """Run a network on every sample once for each chunk of its tensors, and hand those out.

    Args:
        model: A graph; it is not changed.
        chunks: Names of tensors, out of :func:`chunked`; inputs of the graph count as tensors.
        samples: Inputs by name.
        threads: Threads of one run; None takes every core.
        advance: Called after each run.

    Yields:
        Sample number and that chunk's tensors, chunk by chunk.

    Raises:
        SessionError: A sample does not fit the graph.
    """
    inputs = {value.name for value in model.graph.input}
    for chunk in chunks:
        computed = [name for name in chunk if name not in inputs]
        with ExitStack() as stack:
            run = _nothing
            if computed:
                graph = with_outputs(model, computed)
                run = stack.enter_context(OrtSession(graph, threads=threads)).run
            for index, sample in enumerate(samples):
                outputs = run(sample)
                seen = {name: sample[name] if name in inputs else outputs[name] for name in chunk}
                advance()
                yield index, seen
                del outputs, seen


def _nothing(inputs: Sample) -> Mapping[str, NDArray[np.float32]]:
    """What a graph computes of which only the inputs are asked for."""
    return {}


def chunked(sizes: Mapping[str, int], budget: int = BUDGET_BYTES) -> list[tuple[str, ...]]:
    """Divide tensors, in their order, into chunks of at most ``budget`` bytes.

    A tensor larger than that is a chunk of its own.

    Example:
        >>> chunked({"a": 4, "b": 4, "c": 9, "d": 1}, budget=8)
        [('a', 'b'), ('c',), ('d',)]
    """
    if budget < 1:
        raise StepError(
            "memory for intermediate tensors", expected="1 byte or more", got=str(budget)
        )
    chunks: list[list[str]] = []
    free = 0
    for name, size in sizes.items():
        if not chunks or size > free:
            chunks.append([])
            free = budget
        chunks[-1].append(name)
        free -= size
    return [tuple(chunk) for chunk in chunks]


def tensor_bytes(view: GraphView, names: Iterable[str]) -> dict[str, int]:
    """The size of each tensor in float32; 0 where the graph does not say its shape."""
    return {name: _bytes(view, name) for name in names}


def _bytes(view: GraphView, name: str) -> int:
    shape = view.shape(name) or ()
    known = [dim for dim in shape if isinstance(dim, int)]
    return _FLOAT_BYTES * math.prod(known) if len(known) == len(shape) else 0


def with_outputs(model: onnx.ModelProto, names: Sequence[str]) -> bytes:
    """The same graph with these tensors, and no others, as its outputs."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    wanted = set(names)
    kept = []
    for node in reversed(model.graph.node):  # what nothing asks for is not computed
        if wanted.intersection(node.output):
            wanted.update(_reads(node))
            kept.append(node)
    del probe.graph.node[:]
    probe.graph.node.extend(reversed(kept))
    del probe.graph.output[:]
    probe.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names
    )
    unread = [i for i, t in enumerate(probe.graph.initializer) if t.name not in wanted]
    for index in reversed(unread):
        del probe.graph.initializer[index]
    data: bytes = probe.SerializeToString()
    return data


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    yield from node.input
    for attribute in node.attribute:
        for body in (attribute.g, *attribute.graphs):
            for inner in body.node:
                yield from _reads(inner)
