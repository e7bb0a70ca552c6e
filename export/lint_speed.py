"""Lint rules with published evidence that INT8 here costs accuracy, or buys no speed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edge_fusion.target import Target

from .graph import GraphView, Node, Quantizer
from .lint_rules import VIT_ON_ORIN, Hit, Rule

_NORMALISERS = frozenset(
    {"Softmax", "LogSoftmax", "LayerNormalization", "RMSNormalization"}
    | {"GroupNormalization", "InstanceNormalization"}
)
_MAX_TOKENS = 512
_MIN_CHANNELS = 16


def _int8(view: GraphView, name: str) -> Quantizer | None:
    """The DequantizeLinear of an activation that is read as INT8, else None."""
    quantizer = view.dequantized.get(name)
    return quantizer if quantizer is not None and not quantizer.constant else None


def _normalised_in_int8(view: GraphView, target: Target) -> Iterator[Hit]:
    for node in view.nodes:
        if node.op_type in _NORMALISERS and _int8(view, node.input(0)):
            yield Hit(node.label, f"{node.op_type} reads '{node.input(0)}' in INT8")


def _long_attention(view: GraphView, target: Target) -> Iterator[Hit]:
    for node in _products(view):
        tokens = view.tokens(node)
        if tokens is not None and tokens > _MAX_TOKENS:
            yield Hit(node.label, f"a product of two INT8 activations over {tokens} tokens")


def _products(view: GraphView) -> Iterator[Node]:
    """MatMuls whose two operands are activations, at least one of them in INT8."""
    for node in view.nodes:
        both = node.op_type == "MatMul" and len(view.computed(node)) == 2
        if both and any(_int8(view, name) for name in node.inputs):
            yield node


def _residual(view: GraphView, target: Target) -> Iterator[Hit]:
    for node in view.nodes:
        names = view.computed(node)
        if node.op_type != "Add" or len(names) != 2:
            continue
        quantized = [name for name in names if _int8(view, name)]
        if len(quantized) == 1 and _is_convolution(view, *(set(names) - set(quantized))):
            continue  # TensorRT fuses Conv + Add with an INT8 residual
        if quantized:
            count = "both inputs" if len(quantized) == 2 else f"'{quantized[0]}'"
            yield Hit(node.label, f"Add reads {count} in INT8")


def _is_convolution(view: GraphView, name: str) -> bool:
    producer = view.producers.get(name)
    return producer is not None and producer.op_type in ("Conv", "ConvTranspose")


def _narrow_convolution(view: GraphView, target: Target) -> Iterator[Hit]:
    for node in view.nodes:
        shape = view.shape(node.input(1)) if node.op_type == "Conv" else None
        if not shape or len(shape) < 2 or not _int8(view, node.input(0)):
            continue
        produced, taken = shape[0], shape[1]
        if isinstance(produced, int) and isinstance(taken, int):
            taken *= node.attribute("group", 1)
            if min(produced, taken) < _MIN_CHANNELS:
                yield Hit(node.label, f"INT8 convolution from {taken} to {produced} channels")


def _vector_product(view: GraphView, target: Target) -> Iterator[Hit]:
    for node in view.nodes:
        if node.op_type not in ("MatMul", "Gemm") or not _int8(view, node.input(0)):
            continue
        shape = view.shape(node.outputs[0])
        if shape and len(shape) >= 2 and 1 in shape[-2:]:
            yield Hit(node.label, f"INT8 {node.op_type} with output {list(shape)}")


def _concat_scales(view: GraphView, target: Target) -> Iterator[Hit]:
    for node in view.nodes:
        if node.op_type != "Concat":
            continue
        found = [_int8(view, name) for name in node.inputs]
        scales = [q.scale for q in found if q is not None and q.scale is not None]
        values = sorted({float(np.max(scale)) for scale in scales})
        if len(values) > 1:
            yield Hit(node.label, "scales " + ", ".join(f"{value:.4g}" for value in values[:4]))


SPEED_RULES = (
    Rule(
        "ACC001",
        "warning",
        "softmax and normalisations read floating point",
        "a ViT kept its accuracy with INT8 in its Linears alone: 84.5 of 85.2 % on Orin Nano "
        f"({VIT_ON_ORIN})",
        "leave the input in floating point: name the node in the ignored scope",
        _normalised_in_int8,
    ),
    Rule(
        "ACC002",
        "warning",
        "attention over more than 512 tokens is not INT8",
        "a softmax over many tokens has entries below half an 8-bit step, which become zero, and "
        "ModelOpt leaves such products out",
        "leave the attention's products in FP16: the default precision policy does",
        _long_attention,
    ),
    Rule(
        "ACC003",
        "warning",
        "residual additions are not INT8",
        f"INT8 additions took a ViT from 85 % to below 5 % on Orin Nano ({VIT_ON_ORIN})",
        "leave Add in floating point (NNCF: model_type=TRANSFORMER)",
        _residual,
    ),
    Rule(
        "PRF001",
        "warning",
        "INT8 convolutions have 16 channels or more",
        "ModelOpt leaves narrower ones out: INT8 kernels pad the channels",
        "leave this convolution in FP16",
        _narrow_convolution,
    ),
    Rule(
        "PRF002",
        "warning",
        "joined tensors share one scale",
        "with one scale TensorRT lets the parts write in place; with several it requantizes them",
        "quantize the inputs of Concat with one scale",
        _concat_scales,
    ),
    Rule(
        "PRF003",
        "warning",
        "INT8 products have more than one row and column",
        "ModelOpt leaves products with a vector out: they are bound by memory",
        "leave this product in FP16",
        _vector_product,
    ),
)
