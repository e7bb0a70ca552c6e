"""How far each tensor that is quantized reaches on each pair: what pairs are chosen by.

A symmetric INT8 scale follows from the largest absolute value of its tensor on each calibration
pair and from nothing else: ``mean_minmax`` averages these over the pairs, ``minmax`` takes the
largest of them.  So these figures say exactly what a choice of pairs does to every scale.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from edge_fusion.bundle import Bundle
from edge_fusion.errors import StepError
from edge_fusion.files import sha256
from edge_fusion.runtime.ort import OrtSession

from .flavour_ranges import REDUCTIONS, with_extremes
from .graph import WEIGHTED, GraphView
from .samples import Sample


@dataclass(frozen=True, slots=True, eq=False)
class Reach:
    """The largest absolute values.

    Attributes:
        tensors: Names of the d tensors, in graph order.
        values: (n, d) float32, one row per pair.
        model_sha256: Hash of the FP32 graph.
    """

    tensors: tuple[str, ...]
    values: NDArray[np.float32]
    model_sha256: str


def measure_bundle(bundle: Bundle, samples: Iterable[Sample]) -> Reach:
    """The same of a bundle's FP32 graph.

    Raises:
        BundleError: The bundle is damaged.
        StepError: As :func:`measure_reach`.
    """
    data = bundle.model_bytes("fp32")
    reach = measure_reach(onnx.load_from_string(data), samples)
    return replace(reach, model_sha256=sha256(data))


def quantizable_tensors(fp32_model: onnx.ModelProto) -> tuple[str, ...]:
    """The activations that convolutions and products read: those whose scales calibration sets."""
    view = GraphView(fp32_model)
    names = dict.fromkeys(
        name
        for node in view.nodes
        if node.op_type in WEIGHTED
        for name in view.computed(node)
        if view.element_type(name) == TensorProto.FLOAT
    )
    top = {name for node in fp32_model.graph.node for name in node.output}
    top |= {tensor.name for tensor in fp32_model.graph.input}
    return tuple(name for name in names if name in top)


def measure_reach(
    fp32_model: onnx.ModelProto, samples: Iterable[Sample], *, threads: int | None = None
) -> Reach:
    """Run the FP32 graph on every sample and keep one figure per quantized tensor.

    The extremes are computed inside the graph, and samples are taken one at a time: memory stays
    that of one run.

    Args:
        fp32_model: A float graph; it is not changed.
        samples: Inputs by name, at least one.
        threads: Threads of one run; None takes every core.

    Raises:
        StepError: No sample, or a figure that is not finite.
        SessionError: A sample does not fit the graph.

    Example:
        >>> from onnx import parser
        >>> model = parser.parse_model('''
        ...     <ir_version: 8, opset_import: ["": 17]>
        ...     g (float[1, 2] x) => (float[1, 2] y)
        ...     <float[2, 2] w = {1, 0, 0, 1}> { y = MatMul (x, w) }''')
        >>> measure_reach(model, [{"x": np.array([[1, -3]], np.float32)}]).values
        array([[3.]], dtype=float32)
    """
    tensors = quantizable_tensors(fp32_model)
    rows = []
    with OrtSession(with_extremes(fp32_model, list(tensors)), threads=threads) as session:
        for sample in samples:
            outputs = session.run(sample)
            ends = [
                [float(outputs[f"{op}.{position}"]) for op in REDUCTIONS]
                for position in range(len(tensors))
            ]
            rows.append(np.abs(np.asarray(ends, np.float32)).max(axis=1))
            _check_finite(tensors, rows[-1], len(rows) - 1)
    if not rows or not tensors:
        raise StepError(
            "the reach of activations", expected="samples, and a graph with weights", got="none"
        )
    return Reach(tensors, np.stack(rows), sha256(fp32_model.SerializeToString(deterministic=True)))


def _check_finite(tensors: tuple[str, ...], row: NDArray[np.float32], index: int) -> None:
    bad = np.nonzero(~np.isfinite(row))[0]
    if bad.size:
        raise StepError(
            f"'{tensors[int(bad[0])]}' is not finite in FP32",
            expected="numbers on every pair",
            got=f"{row[bad[0]]:g} on pair {index}",
            cure="repair the network: no precision below FP32 can hold it",
        )
