"""Lint rules for QuantizeLinear and DequantizeLinear: does TensorRT read the integers as meant?"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from onnx import TensorProto

from edge_fusion.target import Target

from .graph import DEQUANTIZE, GraphView, Node, Quantizer
from .lint_rules import Hit, Rule, Versions

# What a GPU must compute in to use each stored type; types not named here exist nowhere.
_NEEDS = {"int8": "int8", "int4": "int4", "float8e4m3fn": "fp8", "float4e2m1": "fp4"}
_SHORT = {"float32": "FP32", "float16": "FP16", "bfloat16": "BF16", "float64": "FP64"}
_JUDGED_ELSEWHERE = (0, TensorProto.UINT8, TensorProto.INT32)  # QDQ001, QDQ008, QDQ007


def _each(judge: Callable[[Quantizer], str]) -> Callable[[GraphView, Target], Iterator[Hit]]:
    """A check that asks ``judge`` about every Q/DQ node: what is wrong, or nothing."""

    def check(view: GraphView, target: Target) -> Iterator[Hit]:
        for quantizer in view.quantizers:
            if found := judge(quantizer):
                yield Hit(quantizer.node.label, found)

    return check


def _uint8_activation(q: Quantizer) -> str:
    if q.stored != TensorProto.UINT8 or _stored_weight(q):
        return ""
    if q.node.input(2):
        return f"'{q.data}' is quantized to uint8"
    return f"'{q.data}' has no zero point, by which ONNX means uint8"


def _uint8_weight(q: Quantizer) -> str:
    if q.stored != TensorProto.UINT8 or not _stored_weight(q):
        return ""
    return f"weights '{q.data}' are stored as uint8"


def _stored_weight(q: Quantizer) -> bool:
    return not q.quantizes and q.constant and not q.paired


def _zero_point(q: Quantizer) -> str:
    if q.stored == TensorProto.INT32 or q.zero is None or not np.any(q.zero):
        return ""
    values = np.unique(q.zero[q.zero != 0])[:3].tolist()
    return f"zero point {', '.join(map(str, values))} for '{q.data}' ({q.stored_name})"


def _per_channel(q: Quantizer) -> str:
    if q.constant or q.scale is None or q.scale.size == 1:
        return ""
    return f"{q.scale.size} scales along axis {q.axis} of activation '{q.data}'"


def _bad_scale(q: Quantizer) -> str:
    if q.scale is None:
        return ""
    values = q.scale.astype(np.float64).reshape(-1)
    bad = values[~(np.isfinite(values) & (values > 0))]
    return f"scale {bad[0]:g} ({bad.size} of {values.size}) for '{q.data}'" if bad.size else ""


def _moving_scale(q: Quantizer) -> str:
    if q.scale is None:
        return f"scale '{q.node.input(1)}' is not a constant"
    if q.zero is None and q.node.input(2):
        return f"zero point '{q.node.input(2)}' is not a constant"
    return ""


def _int32(q: Quantizer) -> str:
    if q.stored != TensorProto.INT32:
        return ""
    return f"'{q.data}' is int32" + (", a quantized bias" if q.constant else "")


def _missing_zero(q: Quantizer) -> str:
    return "" if q.node.input(2) else f"{len(q.node.inputs)} inputs, no zero point"


def _not_fp32(q: Quantizer) -> str:
    return f"scale '{q.node.input(1)}' is {_scale_type(q)}" if _scale_type(q) != "FP32" else ""


def _scale_type(q: Quantizer) -> str:
    """The scale's type; FP32 where it is not a constant, which is another rule's matter."""
    return "FP32" if q.scale is None else _SHORT.get(q.scale.dtype.name, q.scale.dtype.name)


def _int8_weight(q: Quantizer) -> str:
    if q.stored != TensorProto.INT8 or not _stored_weight(q):
        return ""
    return f"int8 weights '{q.data}' directly under DequantizeLinear"


def _half_scale(view: GraphView, target: Target) -> Iterator[Hit]:
    if view.opset >= 19:
        return
    for q in view.quantizers:
        if (kind := _scale_type(q)) != "FP32":
            yield Hit(q.node.label, f"{kind} scale '{q.node.input(1)}' at opset {view.opset}")


def _stored_type(view: GraphView, target: Target) -> Iterator[Hit]:
    for q in view.quantizers:
        if q.stored in _JUDGED_ELSEWHERE:
            continue
        if _NEEDS.get(q.stored_name) not in target.precisions:
            yield Hit(q.node.label, f"'{q.data}' is stored as {q.stored_name}")


def _shapes(view: GraphView, target: Target) -> Iterator[Hit]:
    for q in view.quantizers:
        if q.scale is None:
            continue
        shape = view.shape(q.data)
        if q.zero is not None and q.zero.size != q.scale.size:
            yield Hit(q.node.label, f"{q.scale.size} scales but {q.zero.size} zero points")
        elif q.scale.ndim > 1:
            yield Hit(q.node.label, f"scales of shape {q.scale.shape}: quantized by blocks")
        elif q.per_channel and shape is not None:
            size = shape[q.axis] if -len(shape) <= q.axis < len(shape) else None
            if size is None or (isinstance(size, int) and size != q.scale.size):
                found = f"{q.scale.size} scales on axis {q.axis} of '{q.data}' {list(shape)}"
                yield Hit(q.node.label, found)


def _dangling(view: GraphView, target: Target) -> Iterator[Hit]:
    for q in view.quantizers:
        if not q.quantizes or q.constant:
            continue
        readers = list(view.readers(q.node.outputs[0]))
        others = {r.label for r in readers if r is not None and r.op_type != DEQUANTIZE}
        if not readers:
            yield Hit(q.node.label, "nothing reads it")
        elif None in readers:
            yield Hit(q.node.label, "its integers are an output of the graph")
        elif others:
            yield Hit(q.node.label, f"read as integers by {', '.join(sorted(others)[:3])}")


# The axis of the output channels in weights of a given rank, by operator and input index.
_OUTPUT_AXIS: dict[tuple[str, int], Callable[[Node, int], int]] = {
    ("Conv", 1): lambda node, rank: 0,
    ("ConvTranspose", 1): lambda node, rank: 1,
    ("MatMul", 0): lambda node, rank: rank - 2,
    ("MatMul", 1): lambda node, rank: rank - 1,
    ("Gemm", 0): lambda node, rank: 1 if node.attribute("transA", 0) else 0,
    ("Gemm", 1): lambda node, rank: 0 if node.attribute("transB", 0) else 1,
}


def _weight_axis(view: GraphView, target: Target) -> Iterator[Hit]:
    for q in view.quantizers:
        rank = view.rank(q.data)
        if q.quantizes or not q.constant or not q.per_channel or not rank:
            continue
        for node, index, axis in _uses(view, q.node.outputs[0], q.axis % rank, set()):
            expected = _OUTPUT_AXIS.get((node.op_type, index))
            if expected and expected(node, rank) != axis:
                found = f"scales along axis {axis} of the weights of {node.op_type} '{node.label}'"
                cure = f"quantize along axis {expected(node, rank)}, the output channels"
                yield Hit(q.node.label, found, cure)


def _uses(view: GraphView, name: str, axis: int, seen: set[str]) -> Iterator[tuple[Node, int, int]]:
    """Who reads weights as which input, and where ``axis`` has moved to by then."""
    if name in seen:
        return  # a file may hold a cycle, which nothing has checked yet
    seen.add(name)
    for node in view.consumers.get(name, ()):
        if node.op_type == "Transpose":
            order: list[int] = list(node.attribute("perm", ()))
            if axis in order:
                yield from _uses(view, node.outputs[0], order.index(axis), seen)
        elif node.op_type == "Identity":
            yield from _uses(view, node.outputs[0], axis, seen)
        else:
            yield node, node.inputs.index(name), axis


QDQ_RULES = (
    Rule(
        "QDQ001",
        "error",
        "activations are int8",
        "TensorRT has no uint8: it refuses the node or reads it as int8 with the same scale, "
        "which clips everything above half of the range: more than 35 dB fall below 10 dB "
        "(measured: tests/export/lint/test_legalise.py)",
        "run legalise, which rescales uint8 to int8",
        _each(_uint8_activation),
    ),
    Rule(
        "QDQ002",
        "error",
        "zero points are zero",
        "TensorRT quantizes symmetrically and refuses any other zero point",
        "quantize again with a symmetric scheme (NNCF: QuantizationPreset.PERFORMANCE)",
        _each(_zero_point),
    ),
    Rule(
        "QDQ003",
        "error",
        "activations have one scale",
        "TensorRT takes several scales for weights only",
        "quantize activations with per_channel=False; legalise joins scales that are equal",
        _each(_per_channel),
    ),
    Rule(
        "QDQ004",
        "error",
        "weights are quantized along their output channels",
        "an INT8 kernel applies the scales to its output channels and to nothing else",
        "quantize along the output channels: Conv 0, ConvTranspose 1, MatMul -1",
        _weight_axis,
    ),
    Rule(
        "QDQ005",
        "error",
        "scales are positive and finite",
        "TensorRT refuses any other scale; a zero comes from a tensor that was constant in "
        "calibration",
        "calibrate with images that exercise this tensor, or leave it in floating point",
        _each(_bad_scale),
    ),
    Rule(
        "QDQ006",
        "error",
        "scales and zero points are constants",
        "TensorRT needs them when it builds; on a scale that is a graph input its parser can crash",
        "make them initialisers: run the simplifier, or quantize with fixed scales",
        _each(_moving_scale),
    ),
    Rule(
        "QDQ007",
        "error",
        "biases are not quantized",
        "TensorRT's DequantizeLinear does not take int32",
        "keep the bias in floating point (ONNX Runtime's quantizer: QuantizeBias=False)",
        _each(_int32),
    ),
    Rule(
        "QDQ008",
        "error",
        "weights are int8",
        "TensorRT's parser does not take uint8 weights",
        "quantize weights as signed (NNCF: signedness_to_force=True)",
        _each(_uint8_weight),
    ),
    Rule(
        "QDQ009",
        "warning",
        "every QuantizeLinear is read by DequantizeLinear alone",
        "TensorRT derives INT8 layers from Q/DQ pairs; a lone one adds work, and an output of the "
        "graph would be bound as int8",
        "put a DequantizeLinear behind it, and leave outputs of the graph in floating point",
        _dangling,
    ),
    Rule(
        "QDQ010",
        "error",
        "as many zero points as scales, one or one per channel",
        "TensorRT's parser compares the counts with each other and with the axis",
        "quantize again: one scale, or one per output channel, with as many zero points",
        _shapes,
    ),
    Rule(
        "QDQ011",
        "error",
        "Q/DQ name their zero point",
        "the parser of TensorRT 8 requires all three inputs",
        "run legalise, which writes the zero point out",
        _each(_missing_zero),
        Versions(before=(9,)),
    ),
    Rule(
        "QDQ012",
        "error",
        "scales are FP32",
        "the parser of TensorRT 8 reads the bytes of every scale as FP32",
        "keep the graph in FP32, its scales with it, or choose JetPack 6.1 or newer",
        _each(_not_fp32),
        Versions(before=(9,)),
    ),
    Rule(
        "QDQ013",
        "error",
        "weights are FP32 under QuantizeLinear and DequantizeLinear",
        "TensorRT 8 wants to quantize weights itself and does not take int8 initialisers",
        "store weights as FP32 + QuantizeLinear + DequantizeLinear, as the weak flavour of a "
        "bundle does, or choose JetPack 6.1 or newer",
        _each(_int8_weight),
        Versions(before=(10,)),
    ),
    Rule(
        "QDQ014",
        "error",
        "half-precision scales need opset 19",
        "below opset 19 ONNX allows FP32 scales only, and a half-precision graph gets casts",
        "export at opset 19 or later, or keep scales in FP32",
        _half_scale,
    ),
    Rule(
        "QDQ015",
        "error",
        "the GPU computes in the stored type",
        "an engine with a type the chip lacks cannot be built: FP8 and FP4 need Thor, not Orin",
        "quantize to int8",
        _stored_type,
    ),
)
