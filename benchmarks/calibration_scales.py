"""INT8 graphs for any choice of pairs, without quantizing again for each.

A symmetric scale follows from the smallest and the largest value of its tensor on every pair and
from nothing else.  So these are measured once over a whole pool, one graph is quantized, and the
scales of any choice are written into it.  :func:`check_against_nncf` holds that arithmetic against
the quantizer itself.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from edge_fusion.errors import GateError, StepError
from edge_fusion.export.flavour_ranges import REDUCTIONS, with_extremes
from edge_fusion.export.graph import GraphView
from edge_fusion.export.legalise import legalise
from edge_fusion.export.legalise_concat import share_concat_scales
from edge_fusion.export.quantize import QuantizeOptions, quantize
from edge_fusion.export.reach import quantizable_tensors
from edge_fusion.preprocess import Inputs
from edge_fusion.runtime.ort import OrtSession
from edge_fusion.spec import ModelSpec

LEVELS = 127
SAME = 1e-4  # relative: the quantizer computes in float32


@dataclass(frozen=True, slots=True, eq=False)
class Extremes:
    """The smallest and the largest value of every tensor on every pair.

    Attributes:
        tensors: Names of the d tensors.
        low: (n, d) float32.
        high: (n, d) float32.
    """

    tensors: tuple[str, ...]
    low: NDArray[np.float32]
    high: NDArray[np.float32]

    def reach(self, names: Sequence[str]) -> NDArray[np.float32]:
        """(n, len(names)): the largest absolute value."""
        columns = [self.tensors.index(name) for name in names]
        reach: NDArray[np.float32] = np.maximum(-self.low[:, columns], self.high[:, columns])
        return reach


@dataclass(frozen=True, slots=True, eq=False)
class Template:
    """A legalised INT8 graph whose activations each have a scale of their own.

    Attributes:
        model: The graph.
        scales: The initialiser of each quantized tensor's scale, by the tensor.
        groups: Tensors that the quantizer gives one scale.
    """

    model: onnx.ModelProto
    scales: dict[str, str]
    groups: tuple[tuple[str, ...], ...]

    def with_limits(self, limits: dict[str, float]) -> onnx.ModelProto:
        """The INT8 graph whose tensors reach as far as ``limits`` say."""
        for group in self.groups:
            limits = limits | dict.fromkeys(group, max(limits[name] for name in group))
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        found = {tensor.name: tensor for tensor in model.graph.initializer}
        for name, scale in self.scales.items():
            value = np.asarray(limits[name] / LEVELS, np.float32)
            found[scale].CopyFrom(numpy_helper.from_array(value, scale))
        share_concat_scales(model)
        return model


def measure_extremes(
    fp32_model: onnx.ModelProto, tensors: Sequence[str], samples: Iterable[Inputs], threads: int
) -> Extremes:
    """Run the FP32 graph on every sample; two figures per tensor and sample are kept."""
    names = list(tensors)
    rows = []
    with OrtSession(with_extremes(fp32_model, names), threads=threads) as session:
        for sample in samples:
            outputs = session.run(sample)
            rows.append(
                [
                    [float(outputs[f"{op}.{place}"]) for place in range(len(names))]
                    for op in REDUCTIONS
                ]
            )
    both = np.asarray(rows, np.float32)
    return Extremes(tuple(names), both[:, 0], both[:, 1])


def quantized_tensors(int8_model: onnx.ModelProto) -> tuple[str, ...]:
    """The activations that a graph quantizes."""
    quantizers = GraphView(int8_model).quantizers
    return tuple(q.data for q in quantizers if q.quantizes and not q.constant)


def every_tensor(fp32_model: onnx.ModelProto, int8_model: onnx.ModelProto) -> tuple[str, ...]:
    """What has to be measured: what is quantized, and what a choice by coverage judges by."""
    names = quantizable_tensors(fp32_model) + quantized_tensors(int8_model)
    return tuple(dict.fromkeys(names))


def mean_limits(extremes: Extremes, chosen: Sequence[int]) -> dict[str, float]:
    """How far each tensor reaches by ``mean_minmax`` over the chosen pairs."""
    # For symmetric ranges NNCF takes the largest absolute value of each pair, and averages those.
    reach = extremes.reach(extremes.tensors)[list(chosen)].mean(axis=0, dtype=np.float64)
    return dict(zip(extremes.tensors, reach.tolist(), strict=True))


def make_template(
    int8_model: onnx.ModelProto, extremes: Extremes, made_of: Sequence[int]
) -> Template:
    """Give every tensor its own scale, and find which ones the quantizer keeps together.

    Args:
        int8_model: A legalised graph.
        extremes: What was measured of the pool.
        made_of: On which pairs of it that graph was calibrated.
    """
    model = onnx.ModelProto()
    model.CopyFrom(int8_model)
    scales: dict[str, str] = {}
    stored: dict[str, str] = {}
    written: dict[str, float] = {}
    constants = GraphView(model).constants
    values = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear" and node.input[0] not in constants:
            name = f"own_scale_{len(scales)}"
            written[node.input[0]] = float(values[node.input[1]].reshape(())) * LEVELS
            scales[node.input[0]] = stored[node.output[0]] = name
            model.graph.initializer.append(numpy_helper.from_array(np.float32(1), name))
            node.input[1] = name
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in stored:
            node.input[1] = stored[node.input[0]]
    own = mean_limits(extremes, made_of)
    together = defaultdict(list)
    for name, limit in written.items():
        together[limit].append(name)
    groups = tuple(
        tuple(names)
        for limit, names in together.items()
        if len(names) > 1 and any(abs(own[name] / limit - 1) > SAME for name in names)
    )
    joined = _joined_by_concat(int8_model)
    return Template(model, scales, tuple(g for g in groups if not set(g) <= joined))


def _joined_by_concat(int8_model: onnx.ModelProto) -> set[str]:
    """Tensors whose common scale is our own doing, and is found anew for each choice."""
    view = GraphView(int8_model)
    return {q.data for q in view.quantizers if q.node.input(1).startswith("shared_scale_")}


def check_against_nncf(
    fp32_model: onnx.ModelProto,
    samples: Sequence[Inputs],
    spec: ModelSpec,
    made: onnx.ModelProto,
) -> float:
    """Quantize with the chosen samples for real; the largest relative difference of a scale.

    Raises:
        GateError: A scale is another than arithmetic says.
    """
    real = legalise(quantize(fp32_model, samples, spec, QuantizeOptions()).model).model
    theirs, ours = _scales(real), _scales(made)
    if theirs.keys() != ours.keys():
        raise StepError("the quantizer quantized other tensors for another choice of pairs")
    apart = {name: abs(ours[name] / theirs[name] - 1) for name in theirs}
    worst = max(apart, key=lambda name: apart[name])
    if apart[worst] > SAME:
        raise GateError(
            f"the scale of '{worst}'", expected=f"{theirs[worst]:.6g}", got=f"{ours[worst]:.6g}"
        )
    return apart[worst]


def _scales(model: onnx.ModelProto) -> dict[str, float]:
    return {
        q.data: float(q.scale.reshape(()))
        for q in GraphView(model).quantizers
        if q.quantizes and not q.constant and q.scale is not None
    }
