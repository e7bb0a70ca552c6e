"""The rules for what INT8 costs or does not buy, each on a broken graph and its cured twin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edge_fusion.export.lint_speed import SPEED_RULES

ORIN, OLD, ORIN60, THOR = "orin-nano@6.2", "xavier-nx@5.1", "orin-nano@6.0", "thor-t5000@7.1"


def on(build: Callable[..., Any], *args: Any, **kwargs: Any) -> Callable[[Any], Any]:
    """``build`` with everything but its first argument, the Graph class."""
    return lambda graph: build(graph, *args, **kwargs)


def conv(G: Any, opset: int = 17, channels: int = 32, **act: Any) -> Any:
    g = G(opset)
    x = g.qdq(g.input(shape=(1, channels, 8, 8)), **act)
    return g.out(g.op("Conv", x, g.weight_dq(32, channels, 3, 3)))


def softmax(G: Any, op: str, before: bool) -> Any:
    g = G()
    x = g.input(shape=(1, 16, 32))
    x = g.op("Reshape", g.qdq(x), g.const([16, 32], dtype=np.int64)) if before else x
    rest = [g.const(np.ones(32))] if op == "LayerNormalization" else []
    y = g.op(op, x, *rest, name="soft")
    return g.out(y if before else g.qdq(y))


def attention(G: Any, tokens: int, quantized: bool = True, width: int = 64) -> Any:
    g = G()
    q, k = g.input("q", (1, tokens, width)), g.input("k", (1, width, tokens))
    q, k = (g.qdq(q), g.qdq(k)) if quantized else (q, k)
    return g.out(g.op("MatMul", q, k, name="scores"))


def residual(G: Any, both: bool, after_conv: bool = False) -> Any:
    g = G()
    x = g.input()
    y = g.op("Conv", x, g.weight(32, 32, 1, 1)) if after_conv else g.op("Relu", x)
    return g.out(g.op("Add", g.qdq(x), g.qdq(y) if both else y, name="sum"))


def plain_add(G: Any) -> Any:
    g = G()
    return g.out(g.op("Add", g.input(), g.op("Relu", "x"), name="sum"))


def depthwise(G: Any) -> Any:
    g = G()
    return g.out(g.op("Conv", g.qdq(g.input()), g.weight_dq(32, 1, 3, 3), group=32))


def concat(G: Any, second: float) -> Any:
    g = G()
    a, b = g.qdq(g.input("a"), 0.05), g.qdq(g.input("b"), second)
    return g.out(g.op("Concat", a, b, axis=1, name="cat"))


def product(G: Any, rows: int) -> Any:
    g = G()
    return g.out(g.op("MatMul", g.qdq(g.input(shape=(rows, 32))), g.weight_dq(32, 16, axis=1)))


# rule, target, broken graph, cured graph, node named, what was found, cure
CASES = [
    (
        "ACC001",
        ORIN,
        on(softmax, "Softmax", True),
        on(softmax, "Softmax", False),
        "soft",
        "Softmax reads",
        "ignored scope",
    ),
    (
        "ACC001",
        ORIN,
        on(softmax, "LayerNormalization", True),
        on(softmax, "LayerNormalization", False),
        "soft",
        "LayerNormalization reads",
        "ignored scope",
    ),
    ("ACC002", ORIN, on(attention, 513), on(attention, 512), "scores", "513 tokens", "FP16"),
    (
        "ACC002",
        ORIN,
        on(attention, 1600),
        on(attention, 1600, quantized=False),
        "scores",
        "1600 tokens",
        "FP16",
    ),
    # 768 channels in one head are not 768 tokens
    (
        "ACC002",
        ORIN,
        on(attention, 600, width=768),
        on(attention, 196, width=768),
        "scores",
        "600 tokens",
        "FP16",
    ),
    (
        "ACC003",
        ORIN,
        on(residual, both=True),
        plain_add,
        "sum",
        "both inputs in INT8",
        "TRANSFORMER",
    ),
    # Conv + Add with an INT8 residual is what TensorRT fuses
    (
        "ACC003",
        ORIN,
        on(residual, both=False),
        on(residual, both=False, after_conv=True),
        "sum",
        "'dequantizelinear",
        "TRANSFORMER",
    ),
    ("PRF001", ORIN, on(conv, channels=3), conv, "n_conv3", "from 3 to 32 channels", "FP16"),
    ("PRF001", ORIN, on(conv, channels=15), depthwise, "n_conv3", "from 15 to 32 channels", "FP16"),
    ("PRF002", ORIN, on(concat, 0.1), on(concat, 0.05), "cat", "0.05, 0.1", "one scale"),
    ("PRF003", ORIN, on(product, 1), on(product, 4), "n_matmul3", "[1, 16]", "FP16"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{case[5][:20]}")
def test_a_rule_fires_on_the_broken_graph_alone(case: tuple[Any, ...], judge: Any) -> None:
    judge(*case)


def test_every_rule_has_a_case() -> None:
    assert {case[0] for case in CASES} == {rule.id for rule in SPEED_RULES}
