"""The lint rules for operators and Resize, each on a graph that breaks it and on its cured twin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edge_fusion.export.lint_operators import OPERATOR_RULES

ORIN, OLD, ORIN60, THOR = "orin-nano@6.2", "xavier-nx@5.1", "orin-nano@6.0", "thor-t5000@7.1"


def on(build: Callable[..., Any], *args: Any, **kwargs: Any) -> Callable[[Any], Any]:
    """``build`` with everything but its first argument, the Graph class."""
    return lambda graph: build(graph, *args, **kwargs)


def single(G: Any, op: str, opset: int = 17, **kw: Any) -> Any:
    g = G(opset)
    return g.out(g.op(op, g.input(), **kw))


def norm(G: Any, op: str, opset: int = 17) -> Any:
    g = G(opset)
    return g.out(g.op(op, g.input(shape=(1, 16, 32)), g.const(np.ones(32)), g.const(np.zeros(32))))


def pool(G: Any, indices: bool) -> Any:
    g = G()
    y = g.op("MaxPool", g.input(), outputs=1 + indices, kernel_shape=[2, 2], name="pool")
    return g.out(y)


def einsum(G: Any, equation: str) -> Any:
    g = G()
    return g.out(
        g.op("Einsum", g.input("a", (2, 4, 8)), g.input("b", (2, 8, 4)), equation=equation)
    )


def resize(G: Any, opset: int = 18, dynamic: bool = False, **kw: Any) -> Any:
    g = G(opset)
    x = g.input()
    scales = g.input("s", (4,)) if dynamic else g.const([1, 1, 2, 2])
    return g.out(g.op("Resize", x, "", scales, name="up", **({"mode": "linear"} | kw)))


# rule, target, broken graph, cured graph, node named, what was found, cure
CASES = [
    (
        "OPS001",
        ORIN,
        on(single, "DynamicQuantizeLinear"),
        on(single, "Relu"),
        "n_dynamicquantizelinear0",
        "DynamicQuantizeLinear",
        "statically",
    ),
    (
        "OPS001",
        ORIN,
        on(single, "QLinearConv"),
        on(single, "Relu"),
        "n_qlinearconv0",
        "QLinearConv",
        "QuantizeLinear and DequantizeLinear",
    ),
    (
        "OPS001",
        ORIN,
        on(single, "QLinearMatMul"),
        on(single, "Relu"),
        "n_qlinearmatmul0",
        "QLinearMatMul",
        "QuantizeLinear and DequantizeLinear",
    ),
    (
        "OPS001",
        ORIN,
        on(single, "MatMulInteger"),
        on(single, "Relu"),
        "n_matmulinteger0",
        "MatMulInteger",
        "QuantizeLinear and DequantizeLinear",
    ),
    (
        "OPS001",
        ORIN,
        on(single, "ConvInteger"),
        on(single, "Relu"),
        "n_convinteger0",
        "ConvInteger",
        "QuantizeLinear and DequantizeLinear",
    ),
    (
        "OPS001",
        ORIN,
        on(single, "Col2Im", 18),
        on(single, "Relu", 18),
        "n_col2im0",
        "Col2Im",
        "fold",
    ),
    (
        "OPS001",
        ORIN,
        on(single, "Bernoulli"),
        on(single, "Relu"),
        "n_bernoulli0",
        "Bernoulli",
        "replace the operator",
    ),
    (
        "OPS002",
        ORIN,
        on(single, "FusedConv", domain="com.microsoft"),
        on(single, "Relu"),
        "n_fusedconv0",
        "FusedConv of domain com.microsoft",
        "optimiser",
    ),
    (
        "OPS002",
        ORIN,
        on(single, "FakeQuantize", domain="org.openvinotoolkit"),
        on(single, "Relu", domain="ai.onnx"),
        "n_fakequantize0",
        "FakeQuantize",
        "quantize the ONNX file",
    ),
    (
        "OPS003",
        OLD,
        on(norm, "LayerNormalization"),
        on(single, "Relu"),
        "n_layernormalization0",
        "from TensorRT 8.6 on, xavier-nx@5.1 has 8.5.2",
        "choose JetPack 6.0 or newer",
    ),
    (
        "OPS003",
        OLD,
        on(norm, "GroupNormalization", 18),
        on(single, "Relu"),
        "n_groupnormalization0",
        "8.6",
        "InstanceNormalization",
    ),
    (
        "OPS003",
        ORIN60,
        on(single, "Gelu", 20),
        on(norm, "LayerNormalization"),
        "n_gelu0",
        "from TensorRT 9 on",
        "Erf",
    ),
    (
        "OPS003",
        ORIN,
        on(single, "Attention", 23),
        on(single, "Gelu", 20),
        "n_attention0",
        "10.14",
        "opset 22",
    ),
    (
        "OPS003",
        THOR,
        on(single, "RMSNormalization", 23),
        on(single, "Gelu", 20),
        "n_rmsnormalization0",
        "10.15",
        "opset 22",
    ),
    (
        "OPS004",
        ORIN60,
        on(single, "Relu", 18),
        on(single, "Relu", 17),
        "graph",
        "opset 18; orin-nano@6.0 documents 9 to 17",
        "opset 17",
    ),
    (
        "OPS004",
        ORIN,
        on(single, "Relu", 21),
        on(single, "Relu", 20),
        "graph",
        "opset 21",
        "opset 20",
    ),
    ("OPS004", ORIN, on(single, "Relu", 8), on(single, "Relu", 9), "graph", "opset 8", "opset 20"),
    ("OPS005", ORIN, on(pool, True), on(pool, False), "pool", "maxpool0_1", "drop the output"),
    (
        "OPS006",
        OLD,
        on(einsum, "...ij,...jk->...ik"),
        on(einsum, "bij,bjk->bik"),
        "n_einsum0",
        "'...ij,...jk->...ik' of 2 inputs",
        "MatMul",
    ),
    ("RSZ001", ORIN, on(resize, antialias=1), resize, "up", "antialias=1", "antialias=False"),
    (
        "RSZ001",
        ORIN,
        on(resize, coordinate_transformation_mode="tf_crop_and_resize"),
        on(resize, coordinate_transformation_mode="align_corners"),
        "up",
        "tf_crop_and_resize",
        "half_pixel",
    ),
    (
        "RSZ002",
        OLD,
        on(resize, 17, mode="linear", exclude_outside=1),
        on(resize, 17),
        "up",
        "exclude_outside=1",
        "linear interpolation",
    ),
    (
        "RSZ001",
        ORIN,
        on(resize, keep_aspect_ratio_policy="not_larger"),
        resize,
        "up",
        "not_larger",
        "half_pixel",
    ),
    (
        "RSZ001",
        ORIN,
        on(
            resize,
            mode="nearest",
            coordinate_transformation_mode="tf_half_pixel_for_nn",
            nearest_mode="floor",
        ),
        on(resize, mode="nearest"),
        "up",
        "nearest_mode=floor",
        "half_pixel",
    ),
    ("RSZ002", OLD, on(resize, 17, mode="cubic"), on(resize, 17), "up", "mode=cubic", "linear"),
    ("RSZ003", ORIN, on(resize, dynamic=True), resize, "up", "scales 's'", "fixed input sizes"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{case[5][:20]}")
def test_a_rule_fires_on_the_broken_graph_alone(case: tuple[Any, ...], judge: Any) -> None:
    judge(*case)


def test_every_rule_has_a_case() -> None:
    assert {case[0] for case in CASES} == {rule.id for rule in OPERATOR_RULES}
