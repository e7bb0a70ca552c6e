"""The lint rules for shapes, types, files and FP16, each on a broken graph and its cured twin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

from edge_fusion.export.lint_graph import GRAPH_RULES

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


def shaped(G: Any, shape: Any, kind: int = 1) -> Any:
    g = G()
    return g.out(g.op("Identity", g.input(shape=shape, kind=kind)), kind)


def external(G: Any) -> Any:
    g = single(G, "Relu")
    g.op("Add", "x", g.const(np.ones(4), "w"))
    g.tensors[-1].data_location = TensorProto.EXTERNAL
    g.tensors[-1].external_data.add(key="location", value="model.onnx.data")
    g.tensors[-1].ClearField("raw_data")
    return g


def decomposed(
    G: Any, square: str, root: str = "Sqrt", kind: Any = np.float32, cast: bool = False
) -> Any:
    g = G()
    x = g.input(shape=(1, 16, 32), kind=10 if kind is np.float16 else 1)
    if cast:
        x = g.op("Cast", x, to=1)
        kind = np.float32
    s = g.op("Mul", x, x, name="square")
    if square == "Pow":
        g.nodes.pop()
        s = g.op("Pow", x, g.const(2, dtype=kind), name="square")
    elif square == "Mul other":
        g.nodes.pop()
        s = g.op("Mul", x, g.const(3, dtype=kind), name="square")
    mean = g.op("ReduceMean", s, axes=[-1])
    add = g.op("Add", mean, g.const(1e-5, dtype=kind))
    y = g.op("Sqrt", add) if root == "Sqrt" else g.op("Pow", add, g.const(-0.5, dtype=kind))
    return g.out(y, 10 if kind is np.float16 else 1)


def masked(G: Any, value: float) -> Any:
    g = G()
    return g.out(g.op("Add", g.input(), g.const(value, "mask")))


def mixed(G: Any, kind: Any) -> Any:
    g = G()
    x = g.input(shape=(1, 8, 8, 8))
    return g.out(g.op("Mul", x, g.const(np.ones(8), dtype=kind), name="scaled"))


# rule, target, broken graph, cured graph, node named, what was found, cure
CASES = [
    (
        "SHP001",
        ORIN,
        on(shaped, ("N", 3)),
        on(shaped, (1, 3)),
        "input 'x'",
        "axis 0 is N",
        "fixed batch",
    ),
    (
        "SHP001",
        ORIN,
        on(shaped, (1, None)),
        on(shaped, (1, 3)),
        "input 'x'",
        "axis 1 is unknown",
        "fixed batch",
    ),
    (
        "SHP001",
        ORIN,
        on(shaped, None),
        on(shaped, (1, 3)),
        "input 'x'",
        "no shape at all",
        "fixed batch",
    ),
    (
        "SHP002",
        ORIN,
        on(single, "Nonsense"),
        on(single, "Relu"),
        "n_nonsense0",
        "the shape of 'nonsense0' cannot",
        "check_model",
    ),
    (
        "TYP001",
        ORIN,
        on(shaped, (1, 3), TensorProto.DOUBLE),
        on(shaped, (1, 3)),
        "input 'x'",
        "double",
        "float32",
    ),
    (
        "TYP002",
        OLD,
        on(shaped, (1, 3), TensorProto.INT64),
        on(shaped, (1, 3)),
        "input 'x'",
        "int64",
        "int32",
    ),
    (
        "TYP003",
        ORIN,
        on(mixed, np.float16),
        on(mixed, np.float32),
        "scaled",
        "Mul of float and float16",
        "cast",
    ),
    (
        "EXT001",
        ORIN,
        external,
        on(single, "Relu"),
        "initialiser 'w'",
        "model.onnx.data",
        "external_data=False",
    ),
    (
        "FP16001",
        ORIN,
        on(decomposed, "Pow"),
        on(norm, "LayerNormalization"),
        "square",
        "Pow to 'n_sqrt",
        "opset 17",
    ),
    (
        "FP16001",
        ORIN,
        on(decomposed, "Mul"),
        on(decomposed, "Mul other"),
        "square",
        "Mul to 'n_sqrt",
        "opset 17",
    ),
    (
        "FP16001",
        ORIN,
        on(decomposed, "Mul", "Pow"),
        on(decomposed, "Mul other"),
        "square",
        "Mul to 'n_pow",
        "opset 17",
    ),
    # kept in FP32 by casts in a half-precision graph: safe where precision lives in the graph
    (
        "FP16001",
        ORIN,
        on(decomposed, "Pow", kind=np.float16),
        on(decomposed, "Pow", kind=np.float16, cast=True),
        "square",
        "Pow",
        "opset 17",
    ),
    ("FP16002", OLD, on(decomposed, "Pow"), on(single, "Relu"), "square", "Pow", "layer precision"),
    ("FP16003", ORIN, on(masked, -1e9), on(masked, -1e4), "constant 'mask'", "1e+09", "-10000"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{case[5][:20]}")
def test_a_rule_fires_on_the_broken_graph_alone(case: tuple[Any, ...], judge: Any) -> None:
    judge(*case)


def test_every_rule_has_a_case() -> None:
    assert {case[0] for case in CASES} == {rule.id for rule in GRAPH_RULES}
