"""What passes each quantizer: how the values of real inputs lie in the range they were given.

Measured on the FP32 network's tensors, so that a quantizer is judged by what it ought to carry and
not by what the layers before it made of that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from .graph import GraphView, Node, Quantizer
from .probe import BUDGET_BYTES, chunked, read_tensors, tensor_bytes
from .progress import Progress, quiet
from .samples import Sample

_LEVELS: dict[int, tuple[int, int]] = {
    TensorProto.INT8: (-128, 127),
    TensorProto.UINT8: (0, 255),
}
_CONVOLUTIONS = ("Conv", "ConvTranspose")
_TAIL = 99.9  # percentile that outliers lie beyond
Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Range:
    """One activation's quantizer and who reads through it.

    Attributes:
        tensor: What is quantized.
        layers: Names of the layers that read it in INT8, in graph order.
        scale: Of its QuantizeLinear.
        read_scale: Of the DequantizeLinear behind it: the same in a sound graph.
        low: Smallest value it can hold.
        high: Largest value it can hold.
        uint8: Whether it is stored as uint8, which TensorRT reads as int8.
        axis: The axis of channels; None where the readers have no common one.
        joined_by: The Concat that joins it with others before they are read; empty without one.
    """

    tensor: str
    layers: tuple[str, ...]
    scale: float
    read_scale: float
    low: float
    high: float
    uint8: bool
    axis: int | None
    joined_by: str = ""


@dataclass(slots=True)
class Activity:
    """Sums over all samples of what passed one quantizer.

    Attributes:
        peaks: Largest magnitude in each sample.
        tails: The 99.9th percentile of magnitudes in each sample.
        smallest: Smallest value of all.
        count: How many values.
        alive: How many of them are not 0.
        vanished: How many of those round to 0.
        beyond: How many values lie beyond the range.
        energy: Sum of squares.
        clipped: Squared error by clipping.
        rounded: Squared error by rounding.
        channel_peaks: Largest magnitude in each channel; None without channels.
        channel_energy: Sum of squares in each channel.
        channel_noise: Squared error in each channel.
    """

    peaks: list[float] = field(default_factory=list)
    tails: list[float] = field(default_factory=list)
    smallest: float = 0.0
    count: int = 0
    alive: int = 0
    vanished: int = 0
    beyond: int = 0
    energy: float = 0.0
    clipped: float = 0.0
    rounded: float = 0.0
    channel_peaks: Values | None = None
    channel_energy: Values | None = None
    channel_noise: Values | None = None

    def add(self, value: NDArray[np.float32], range_: Range) -> None:
        """Take in one sample's tensor."""
        wide = np.nan_to_num(value.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)  # masks
        size = np.abs(wide)
        kept = np.clip(wide, range_.low, range_.high)
        outside = kept != wide
        error = np.square(np.rint(kept / range_.scale) * range_.scale - wide)
        self.peaks.append(float(size.max(initial=0)))
        self.tails.append(float(np.percentile(size, _TAIL)) if size.size else 0.0)
        self.smallest = min(self.smallest, float(wide.min(initial=0)))
        self.count += wide.size
        self.alive += int(np.count_nonzero(wide))
        self.vanished += int(np.count_nonzero((size < range_.scale / 2) & (size > 0)))
        # Half a step beyond the last level is rounding still.
        far = (wide > range_.high + range_.scale / 2) | (wide < range_.low - range_.scale / 2)
        self.beyond += int(np.count_nonzero(far))
        self.energy += float(np.square(wide).sum())
        self.clipped += float(error[outside].sum())
        self.rounded += float(error[~outside].sum())
        if range_.axis is not None:
            axes = tuple(i for i in range(size.ndim) if i != range_.axis % size.ndim)
            self._add_channels(
                size.max(axes, initial=0), np.square(size).sum(axes), error.sum(axes)
            )

    def _add_channels(self, peaks: Values, energy: Values, noise: Values) -> None:
        if self.channel_peaks is None or self.channel_energy is None or self.channel_noise is None:
            self.channel_peaks, self.channel_energy, self.channel_noise = peaks, energy, noise
            return
        self.channel_peaks = np.maximum(self.channel_peaks, peaks)
        self.channel_energy = self.channel_energy + energy
        self.channel_noise = self.channel_noise + noise

    def starved(self, noise_share: float) -> float:
        """Share of channels in use whose error is more than this share of their energy."""
        if self.channel_energy is None or self.channel_noise is None:
            return 0.0
        used = self.channel_energy > 0
        poor = self.channel_noise[used] > noise_share * self.channel_energy[used]
        return float(poor.mean()) if poor.size else 0.0

    @property
    def peak(self) -> float:
        """Mean over the samples of the largest magnitude: what a range is estimated from."""
        return float(np.mean(self.peaks)) if self.peaks else 0.0

    @property
    def tail(self) -> float:
        """Mean over the samples of the 99.9th percentile of magnitudes."""
        return float(np.mean(self.tails)) if self.tails else 0.0


def activation_ranges(int8_model: onnx.ModelProto) -> tuple[Range, ...]:
    """Every activation that is quantized, in graph order, with the layers that read it.

    Quantizers whose scale is not a single positive constant are left out: the lint names them.
    """
    view = GraphView(int8_model)
    readers_of = {q.data: q for q in view.quantizers if not q.quantizes}
    found = []
    for q in view.quantizers:
        if not q.quantizes or q.constant or q.scale is None or q.scale.size != 1:
            continue
        scale = float(q.scale.reshape(-1)[0])
        if q.stored not in _LEVELS or not 0 < scale < np.inf:
            continue
        found.append(_range(view, q, readers_of.get(q.node.outputs[0])))
    return tuple(found)


def _range(view: GraphView, q: Quantizer, behind: Quantizer | None) -> Range:
    scale = float(np.asarray(q.scale).reshape(-1)[0])
    zero = 0 if q.zero is None else int(q.zero.reshape(-1)[0])
    low, high = ((level - zero) * scale for level in _LEVELS[q.stored])
    read_scale = scale
    layers: list[Node] = []
    joins: list[Node] = []
    direct: list[Node] = []
    if behind is not None:
        if behind.scale is not None and behind.scale.size == 1:
            read_scale = float(behind.scale.reshape(-1)[0])
        output = behind.node.outputs[0]
        direct = list(view.consumers.get(output, ()))
        layers, joins = _readers(view, output)
    return Range(
        tensor=q.data,
        layers=tuple(dict.fromkeys(node.label for node in layers)),
        scale=scale,
        read_scale=read_scale,
        low=low,
        high=high,
        uint8=q.stored == TensorProto.UINT8,
        axis=_channel_axis(view, q.data, direct),
        joined_by=joins[0].label if joins else "",
    )


def _readers(view: GraphView, tensor: str) -> tuple[list[Node], list[Node]]:
    """The layers that read a tensor, seen through movers and joins, and those joins."""
    layers: list[Node] = []
    joins: list[Node] = []
    waiting, seen = [tensor], {tensor}
    while waiting:
        for node in view.readers(waiting.pop()):
            if node is None:
                continue
            if node.op_type == "Concat":
                joins.append(node)
            if node.op_type in ("Concat", "MaxPool"):
                waiting.extend(name for name in node.outputs if name not in seen)
                seen.update(node.outputs)
            else:
                layers.append(node)
    return layers, joins


def _channel_axis(view: GraphView, tensor: str, readers: Sequence[Node]) -> int | None:
    """Axis 1 before convolutions and joins of maps, the last before a product with a weight."""
    rank = view.rank(tensor)
    if rank is None or not readers:
        return None
    if all(node.op_type in (*_CONVOLUTIONS, "Concat") for node in readers) and rank == 4:
        return 1
    weighted = all(n.op_type in ("MatMul", "Gemm") and n.input(0) != n.input(1) for n in readers)
    behind_weights = all(_reads_weight(view, node) for node in readers)
    return rank - 1 if weighted and behind_weights else None


def _reads_weight(view: GraphView, node: Node) -> bool:
    return any(name in view.constants for name in node.inputs[:2])


def measure_activity(
    fp32_model: onnx.ModelProto,
    ranges: Sequence[Range],
    samples: Sequence[Sample],
    progress: Progress = quiet,
    *,
    step: str = "ranges",
    budget: int = BUDGET_BYTES,
    threads: int | None = None,
) -> tuple[Activity, ...]:
    """Run the float network and see how its tensors lie in the ranges that INT8 gives them.

    Args:
        fp32_model: The float graph.
        ranges: Out of :func:`activation_ranges`.
        samples: Inputs by name.
        progress: Told how many runs are done.
        step: What to call that.
        budget: Bytes of tensors held at a time.
        threads: Threads of one run; None takes every core.

    Returns:
        One record for each range.

    Raises:
        SessionError: A sample does not fit the graph.
    """
    by_tensor: dict[str, list[int]] = {}
    for index, one in enumerate(ranges):
        by_tensor.setdefault(one.tensor, []).append(index)
    found = tuple(Activity() for _ in ranges)
    chunks = chunked(tensor_bytes(GraphView(fp32_model), by_tensor), budget)
    runs = len(chunks) * len(samples)
    read = read_tensors(fp32_model, chunks, samples, threads=threads)
    for done, (_, tensors) in enumerate(read, start=1):
        for tensor, value in tensors.items():
            for index in by_tensor[tensor]:
                found[index].add(value, ranges[index])
        progress(step, done, runs)
    return found


@dataclass(frozen=True, slots=True, eq=False)
class WeightUse:
    """One INT8 weight against the FP32 weight it was made from.

    Attributes:
        layer: Who multiplies by it.
        tensor: The FP32 weight's name.
        gains: By which factor each output channel came out, 1 where it is right; one value for
            a single scale.  Channels that are all 0 count as right.
        noise_share: Energy of the error over energy of the weight, each channel's gain taken out.
        peaks: Largest magnitude of each channel.
    """

    layer: str
    tensor: str
    gains: Values
    noise_share: float
    peaks: Values


def measure_weights(
    fp32_model: onnx.ModelProto, int8_model: onnx.ModelProto
) -> tuple[WeightUse, ...]:
    """Hold every INT8 weight against its FP32 original, in graph order."""
    plain = GraphView(fp32_model)
    originals = {node.outputs[0]: node for node in plain.nodes}
    view = GraphView(int8_model)
    weights = {q.node.outputs[0]: q for q in view.quantizers if not q.quantizes and q.constant}
    found = []
    for node in view.nodes:
        for position, name in enumerate(node.inputs):
            q = weights.get(name)
            original = originals.get(node.outputs[0]) if q is not None else None
            if q is None or original is None:
                continue
            exact = plain.constant(original.input(position))
            stored = _dequantized(view, q)
            if exact is not None and stored is not None and exact.shape == stored.shape:
                found.append(_weight_use(node.label, original.input(position), exact, stored, q))
    return tuple(found)


def _dequantized(view: GraphView, q: Quantizer) -> Values | None:
    producer = view.producers.get(q.data)
    if producer is not None and producer.op_type == "QuantizeLinear":  # FP32 weights and Q + DQ
        exact = view.constant(producer.input(0))
        if exact is None or q.scale is None:
            return None
        scale = _along(q.scale, exact.ndim, q.axis)
        return np.clip(np.rint(exact.astype(np.float64) / scale), -128, 127) * scale
    stored = view.constant(q.data)
    if stored is None or q.scale is None:
        return None
    zero = np.zeros(()) if q.zero is None else q.zero.astype(np.float64)
    shift = _along(zero, stored.ndim, q.axis)
    return (stored.astype(np.float64) - shift) * _along(q.scale, stored.ndim, q.axis)


def _along(values: NDArray[np.generic], rank: int, axis: int) -> Values:
    """Per-channel values shaped to be multiplied with a weight."""
    wide: Values = np.asarray(values, np.float64)
    if wide.size == 1:
        return wide.reshape(())
    shape = [1] * rank
    shape[axis] = wide.size
    return wide.reshape(shape)


def _weight_use(
    layer: str, tensor: str, exact: NDArray[np.generic], stored: Values, q: Quantizer
) -> WeightUse:
    wide: Values = exact.astype(np.float64)
    axes = tuple(i for i in range(wide.ndim) if not q.per_channel or i != q.axis % wide.ndim)
    power = np.square(wide).sum(axes)
    product = (wide * stored).sum(axes)
    gains = np.where(power > 0, product / np.where(power > 0, power, 1), 1.0)
    gained = np.expand_dims(gains, axes) * wide
    total = float(power.sum()) or 1.0
    return WeightUse(
        layer=layer,
        tensor=tensor,
        gains=np.atleast_1d(gains),
        noise_share=float(np.square(stored - gained).sum()) / total,
        peaks=np.atleast_1d(np.abs(wide).max(axes, initial=0)),
    )
