"""The lint rules for Q/DQ, each on a graph that breaks it and on its cured twin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto

from edge_fusion.export.lint_qdq import QDQ_RULES

ORIN, OLD, ORIN60, THOR = "orin-nano@6.2", "xavier-nx@5.1", "orin-nano@6.0", "thor-t5000@7.1"


def on(build: Callable[..., Any], *args: Any, **kwargs: Any) -> Callable[[Any], Any]:
    """``build`` with everything but its first argument, the Graph class."""
    return lambda graph: build(graph, *args, **kwargs)


def conv(G: Any, opset: int = 17, channels: int = 32, **act: Any) -> Any:
    g = G(opset)
    x = g.qdq(g.input(shape=(1, channels, 8, 8)), **act)
    return g.out(g.op("Conv", x, g.weight_dq(32, channels, 3, 3)))


def weights(G: Any, op: str, shape: tuple[int, ...], axis: int, x: Any = None, **kw: Any) -> Any:
    g = G()
    data = g.qdq(g.input(shape=x or (1, 32, 8, 8)))
    return g.out(g.op(op, data, g.weight_dq(*shape, axis=axis), **kw))


def transposed_weights(G: Any, axis: int) -> Any:
    g = G()
    w = g.op("Transpose", g.weight_dq(24, 32, axis=axis), perm=[1, 0])
    return g.out(g.op("MatMul", g.qdq(g.input(shape=(4, 32))), w))


def scaled(G: Any, scale: Any) -> Any:
    g = G()
    return g.out(g.qdq(g.input(), scale))


def scale_input(G: Any) -> Any:
    g = G()
    x, scale = g.input(), g.input("s", ())
    return g.out(g.qdq(x, scale))


def bias(G: Any, quantized: bool) -> Any:
    g = G()
    x, w, b = g.qdq(g.input()), g.weight_dq(32, 32, 1, 1), g.weight(32)
    if quantized:
        stored = g.const(np.arange(32), dtype=np.int32)
        b = g.op("DequantizeLinear", stored, g.const(np.full(32, 1e-4)), name="bias_dq", axis=0)
    return g.out(g.op("Conv", x, w, b))


def weight_kind(G: Any, kind: Any) -> Any:
    g = G()
    return g.out(g.op("Conv", g.qdq(g.input()), g.weight_dq(32, 32, 1, 1, kind=kind)))


def dangling(G: Any, end: str) -> Any:
    g = G()
    q = g.q(g.input())
    if end == "output":
        return g.out(q, TensorProto.INT8)
    if end == "reader":
        return g.out(g.op("Cast", g.op("Reshape", q, g.const([1, -1], dtype=np.int64)), to=1))
    if end == "moved":
        return g.out(g.dq(g.op("Reshape", q, g.const([1, -1], dtype=np.int64))))
    return g.out(g.op("Relu", "x"))


def counts(G: Any, zeros: int) -> Any:
    g = G()
    stored = g.const(np.ones((32, 32, 1, 1)), dtype=np.int8)
    scale, zero = g.const(np.full(32, 0.1)), g.const(np.zeros(zeros), dtype=np.int8)
    w = g.op("DequantizeLinear", stored, scale, zero, name="w_dq", axis=0)
    return g.out(g.op("Conv", g.qdq(g.input()), w))


def half_scale(G: Any, opset: int, half: bool = True) -> Any:
    g = G(opset)
    kind = np.float16 if half else np.float32
    return g.out(g.qdq(g.input(kind=10 if half else 1), kind(0.05)), 10 if half else 1)


def stored_kind(G: Any, kind: Any) -> Any:
    g = G(19)
    return g.out(g.qdq(g.input(), kind=kind))


def float_weight(G: Any) -> Any:
    g = G()
    w = g.qdq(g.weight(32, 32, 1, 1), np.full(32, 0.01, np.float32), axis=0)
    return g.out(g.op("Conv", g.qdq(g.input()), w))


U8, F8 = np.uint8, ml_dtypes.float8_e4m3fn
CH = np.full(32, 0.05, np.float32)

# rule, target, broken graph, cured graph, node named, what was found, cure
CASES = [
    ("QDQ001", ORIN, on(conv, kind=U8), conv, "n_quantizelinear0", "uint8", "legalise"),
    # ONNX means uint8 where QuantizeLinear has no zero point; TensorRT assumes int8
    ("QDQ001", ORIN, on(conv, kind=None), conv, "n_quantizelinear0", "no zero point", "legalise"),
    ("QDQ002", ORIN, on(conv, zero=5), conv, "n_quantizelinear0", "zero point 5", "symmetric"),
    (
        "QDQ002",
        ORIN,
        on(conv, zero=128, kind=U8),
        conv,
        "n_quantizelinear0",
        "zero point 128",
        "symmetric",
    ),
    (
        "QDQ003",
        ORIN,
        on(conv, scale=CH, axis=1),
        conv,
        "n_quantizelinear0",
        "32 scales along axis 1 of activation 'x'",
        "per_channel=False",
    ),
    # output channels: Conv 0, ConvTranspose 1, MatMul the last, Gemm by transB; through Transpose
    (
        "QDQ004",
        ORIN,
        on(weights, "Conv", (32, 32, 1, 1), 1),
        on(weights, "Conv", (32, 32, 1, 1), 0),
        "n_dequantizelinear2",
        "axis 1 of the weights of Conv",
        "axis 0",
    ),
    (
        "QDQ004",
        ORIN,
        on(weights, "ConvTranspose", (32, 16, 1, 1), 0),
        on(weights, "ConvTranspose", (32, 16, 1, 1), 1),
        "n_dequantizelinear2",
        "ConvTranspose",
        "axis 1",
    ),
    (
        "QDQ004",
        ORIN,
        on(weights, "MatMul", (32, 16), 0, (4, 32)),
        on(weights, "MatMul", (32, 16), -1, (4, 32)),
        "n_dequantizelinear2",
        "MatMul",
        "axis 1",
    ),
    (
        "QDQ004",
        ORIN,
        on(weights, "Gemm", (32, 16), 0, (4, 32)),
        on(weights, "Gemm", (32, 16), 1, (4, 32)),
        "n_dequantizelinear2",
        "Gemm",
        "axis 1",
    ),
    (
        "QDQ004",
        ORIN,
        on(weights, "Gemm", (16, 32), 1, (4, 32), transB=1),
        on(weights, "Gemm", (16, 32), -2, (4, 32), transB=1),
        "n_dequantizelinear2",
        "Gemm",
        "axis 0",
    ),
    (
        "QDQ004",
        ORIN,
        on(transposed_weights, 1),
        on(transposed_weights, 0),
        "n_dequantizelinear0",
        "MatMul",
        "axis 1",
    ),
    (
        "QDQ005",
        ORIN,
        on(scaled, 0.0),
        on(scaled, 1e-6),
        "n_quantizelinear0",
        "scale 0 (1 of 1)",
        "calibrate",
    ),
    (
        "QDQ005",
        ORIN,
        on(scaled, -0.5),
        on(scaled, 0.5),
        "n_quantizelinear0",
        "scale -0.5",
        "calibrate",
    ),
    (
        "QDQ005",
        ORIN,
        on(scaled, np.nan),
        on(scaled, 0.5),
        "n_quantizelinear0",
        "scale nan",
        "calibrate",
    ),
    (
        "QDQ005",
        ORIN,
        on(scaled, np.inf),
        on(scaled, 0.5),
        "n_quantizelinear0",
        "scale inf",
        "calibrate",
    ),
    (
        "QDQ006",
        ORIN,
        scale_input,
        on(scaled, 0.5),
        "n_quantizelinear0",
        "scale 's'",
        "initialisers",
    ),
    (
        "QDQ007",
        ORIN,
        on(bias, True),
        on(bias, False),
        "bias_dq",
        "int32, a quantized bias",
        "QuantizeBias=False",
    ),
    (
        "QDQ008",
        ORIN,
        on(weight_kind, U8),
        on(weight_kind, np.int8),
        "n_dequantizelinear2",
        "stored as uint8",
        "signed",
    ),
    (
        "QDQ009",
        ORIN,
        on(dangling, "output"),
        on(dangling, "moved"),
        "n_quantizelinear0",
        "output of the graph",
        "DequantizeLinear behind it",
    ),
    (
        "QDQ009",
        ORIN,
        on(dangling, "reader"),
        on(dangling, "moved"),
        "n_quantizelinear0",
        "n_cast2",
        "DequantizeLinear behind it",
    ),
    (
        "QDQ009",
        ORIN,
        on(dangling, "nobody"),
        on(dangling, "moved"),
        "n_quantizelinear0",
        "nothing reads it",
        "DequantizeLinear behind it",
    ),
    (
        "QDQ010",
        ORIN,
        on(counts, 1),
        on(counts, 32),
        "w_dq",
        "32 scales but 1 zero points",
        "as many zero points",
    ),
    (
        "QDQ010",
        ORIN,
        on(scaled, np.full((32, 2), 0.1, np.float32)),
        on(scaled, 0.1),
        "n_quantizelinear0",
        "quantized by blocks",
        "one scale",
    ),
    (
        "QDQ010",
        ORIN,
        on(conv, scale=CH, axis=2),
        on(conv, scale=CH, axis=1),
        "n_quantizelinear0",
        "on axis 2 of 'x' [1, 32, 8, 8]",
        "one scale",
    ),
    (
        "QDQ011",
        OLD,
        on(conv, kind=None),
        conv,
        "n_quantizelinear0",
        "2 inputs, no zero point",
        "legalise",
    ),
    ("QDQ011", ORIN60, on(conv, kind=None), conv, "n_quantizelinear0", "2 inputs", "legalise"),
    (
        "QDQ012",
        OLD,
        on(half_scale, 19),
        on(half_scale, 17, False),
        "n_quantizelinear0",
        "is FP16",
        "keep the graph in FP32",
    ),
    (
        "QDQ013",
        OLD,
        conv,
        float_weight,
        "n_dequantizelinear2",
        "int8 weights",
        "or choose JetPack 6.1 or newer",
    ),
    (
        "QDQ014",
        ORIN,
        on(half_scale, 18),
        on(half_scale, 19),
        "n_quantizelinear0",
        "FP16 scale 'c0' at opset 18",
        "opset 19",
    ),
    (
        "QDQ015",
        ORIN,
        on(stored_kind, F8),
        on(stored_kind, np.int8),
        "n_quantizelinear0",
        "float8e4m3fn",
        "int8",
    ),
    (
        "QDQ015",
        THOR,
        on(stored_kind, np.int16),
        on(stored_kind, F8),
        "n_quantizelinear0",
        "int16",
        "int8",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{case[5][:20]}")
def test_a_rule_fires_on_the_broken_graph_alone(case: tuple[Any, ...], judge: Any) -> None:
    judge(*case)


def test_every_rule_has_a_case() -> None:
    assert {case[0] for case in CASES} == {rule.id for rule in QDQ_RULES}
