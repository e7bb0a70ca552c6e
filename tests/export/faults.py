"""Faults to plant into a sound pair of graphs or its inputs, one at a time."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from edge_fusion.export.isolate import quantizable

Sample = dict[str, NDArray[np.float32]]
UINT8_SCALE = 127 / 255  # a uint8 scale left in place where the graph says int8


def copied(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def maker(model: onnx.ModelProto, tensor: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if tensor in node.output)


def node_named(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.name == name)


def array(model: onnx.ModelProto, name: str) -> NDArray[np.generic]:
    return numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == name))


def overwrite(model: onnx.ModelProto, name: str, value: NDArray[np.generic]) -> None:
    tensor = next(t for t in model.graph.initializer if t.name == name)
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value), name))


def activation_quantizers(
    model: onnx.ModelProto, layer: str
) -> tuple[onnx.NodeProto, onnx.NodeProto]:
    """The Q and the DQ in front of a layer's first input, behind movers or not."""
    assert layer in quantizable(model), f"'{layer}' is not INT8: no fault can be planted there"
    node = node_named(model, layer)
    while node.op_type != "DequantizeLinear":
        node = maker(model, node.input[0])
    return maker(model, node.input[0]), node


def scale_times(model: onnx.ModelProto, layer: str, factor: float) -> onnx.ModelProto:
    """The scale of a layer's input multiplied, where it is quantized and where it is read."""
    planted = copied(model)
    pair = activation_quantizers(planted, layer)
    scale = np.asarray(array(planted, pair[0].input[1]) * factor, np.float32)
    planted.graph.initializer.append(numpy_helper.from_array(scale, "planted_scale"))
    for node in pair:
        node.input[1] = "planted_scale"
    return planted


def read_scale_times(model: onnx.ModelProto, layer: str, factor: float) -> onnx.ModelProto:
    """The same where it is read alone."""
    planted = scale_times(model, layer, factor)
    quantizer, _ = activation_quantizers(planted, layer)
    quantizer.input[1] = activation_quantizers(model, layer)[0].input[1]
    return planted


def weight_scale_times(model: onnx.ModelProto, layer: str, factor: float) -> onnx.ModelProto:
    """Every scale of a layer's INT8 weights multiplied."""
    planted = copied(model)
    dequantizer = maker(planted, node_named(planted, layer).input[1])
    scale = np.asarray(array(planted, dequantizer.input[1]) * factor, np.float32)
    planted.graph.initializer.append(numpy_helper.from_array(scale, "planted_scale"))
    dequantizer.input[1] = "planted_scale"
    return planted


def channel_times(
    model: onnx.ModelProto, layer: str, channel: int, factor: float
) -> onnx.ModelProto:
    """One channel between the convolution before ``layer`` and ``layer`` made larger.

    The float network computes what it did: ReLU passes the factor on, and ``layer`` takes it back.
    """
    planted = copied(model)
    reader = node_named(planted, layer)
    before = maker(planted, reader.input[0])
    while before.op_type != "Conv":
        assert before.op_type == "Relu", before.op_type
        before = maker(planted, before.input[0])
    for name in before.input[1:]:
        value = array(planted, name).copy()
        value[channel] *= factor
        overwrite(planted, name, value)
    weight = array(planted, reader.input[1]).copy()
    group = next((a.i for a in reader.attribute if a.name == "group"), 1)
    if group == 1:
        weight[:, channel] /= factor
    else:
        weight[channel] /= factor
    overwrite(planted, reader.input[1], weight)
    return planted


def swapped(samples: list[Sample]) -> list[Sample]:
    """Depth where colour belongs, and colour's grey where depth does."""
    mean, std = np.float32(0.449), np.float32(0.226)
    return [
        {
            "rgb": np.repeat(sample["depth"], 3, axis=1),
            "depth": np.clip(sample["rgb"].mean(1, keepdims=True) * std + mean, 0, 1),
        }
        for sample in samples
    ]


def renormalised(
    samples: list[Sample], old: tuple[NDArray, NDArray], new: tuple[NDArray, NDArray]
) -> list[Sample]:
    """Colour by another mean and deviation."""
    shape = (1, 3, 1, 1)
    (mean, std), (other, spread) = (
        tuple(np.reshape(v, shape) for v in pair) for pair in (old, new)
    )
    return [
        {**s, "rgb": (((s["rgb"] * std + mean) - other) / spread).astype(np.float32)}
        for s in samples
    ]
