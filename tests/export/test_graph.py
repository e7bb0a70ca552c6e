"""The view of a graph: constants, tokens, subgraphs, on files that nothing has checked yet."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_fusion.export.graph import GraphView, bodies, opset_of
from edge_fusion.export.lint import lint
from edge_fusion.export.naming import rename
from edge_fusion.target import parse_target

VALUE = helper.make_tensor_value_info
NODE = helper.make_node


def model_of(
    *nodes: onnx.NodeProto, shapes: dict[str, tuple[int | str, ...]], weights: tuple[str, ...] = ()
) -> onnx.ModelProto:
    """A graph of inputs ``shapes`` whose output is what the last node gives."""
    graph = helper.make_graph(
        nodes,
        "g",
        [VALUE(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()],
        [VALUE(nodes[-1].output[0], TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.ones((4, 4), np.float32), name) for name in weights],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_a_constant_is_seen_through_copies() -> None:
    copies = NODE("Identity", ["w"], ["a"]), NODE("Identity", ["a"], ["b"])
    view = GraphView(model_of(*copies, shapes={"x": (4, 4)}, weights=("w",)))
    assert np.array_equal(view.constant("b"), np.ones((4, 4)))
    assert view.constant("x") is None


CYCLES = [
    (NODE("Identity", ["a"], ["a"]),),
    (NODE("Identity", ["a"], ["b"]), NODE("Identity", ["b"], ["a"])),
    (NODE("Transpose", ["a"], ["b"], perm=[1, 0]), NODE("Identity", ["b"], ["a"])),
]


@pytest.mark.parametrize("cycle", CYCLES)
def test_cycles_end(cycle) -> None:
    view = GraphView(model_of(*cycle, NODE("Relu", ["a"], ["y"]), shapes={"x": (4, 4)}))
    assert view.constant("a") is None
    assert list(view.readers("a"))


def test_linting_a_cycle_ends() -> None:
    model = model_of(
        NODE("DequantizeLinear", ["w8", "s", "z"], ["a"], axis=0, name="dq"),
        NODE("Identity", ["a"], ["b"]),
        NODE("Identity", ["b"], ["a"]),  # a second maker of 'a' closes the circle
        NODE("Identity", ["s"], ["t"]),
        NODE("QuantizeLinear", ["x", "t"], ["q"]),
        NODE("MatMul", ["x", "b"], ["y"]),
        shapes={"x": (4, 4)},
    )
    arrays = {"w8": np.ones((4, 4), np.int8), "s": np.ones(4, np.float32), "z": np.zeros(4, "i1")}
    model.graph.initializer.extend(numpy_helper.from_array(a, name) for name, a in arrays.items())
    report = lint(model, parse_target("orin-nano@6.2"))
    assert {"QDQ004", "QDQ001"} <= {finding.rule_id for finding in report.findings}


def attention(tokens: tuple[int, int], width: int, *between: str) -> onnx.ModelProto:
    """softmax(q k) v over ``tokens`` (queries, keys); ``between`` stands behind the softmax."""
    rows, columns = tokens
    nodes = [NODE("MatMul", ["q", "k"], ["s"], "scores"), NODE("Softmax", ["s"], ["p"])]
    for index, op_type in enumerate(between):
        nodes.append(NODE(op_type, [nodes[-1].output[0]], [f"p{index}"]))
    nodes.append(NODE("MatMul", [nodes[-1].output[0], "v"], ["y"], "values"))
    shapes = {"q": (1, rows, width), "k": (1, width, columns), "v": (1, columns, width)}
    return model_of(*nodes, shapes=shapes)


TOKENS = [
    # 768 channels in one head are not 768 tokens, in either product
    (attention((196, 196), 768), {"scores": 196, "values": 196}),
    (attention((600, 600), 8), {"scores": 600, "values": 600}),
    # a few queries over many tokens are a long attention
    (attention((10, 2000), 64), {"scores": 2000, "values": 2000}),
    (attention((2000, 10), 64), {"scores": 2000, "values": 2000}),
    # the softmax is seen through what does not change it
    (attention((10, 2000), 64, "Identity", "Dropout"), {"scores": 2000, "values": 2000}),
]


@pytest.mark.parametrize(("model", "expected"), TOKENS)
def test_tokens_of_an_attention(model, expected) -> None:
    view = GraphView(model)
    found = {node.name: view.tokens(node) for node in view.nodes if node.op_type == "MatMul"}
    assert found == expected


def test_tokens_behind_a_transposed_softmax() -> None:
    """As in cross-diffusion: A^T (A V)."""
    model = model_of(
        NODE("Softmax", ["s"], ["p"]),
        NODE("Transpose", ["p"], ["t"], perm=[0, 2, 1]),
        NODE("MatMul", ["t", "v"], ["y"], "values"),
        shapes={"s": (1, 10, 900), "v": (1, 10, 64)},
    )
    view = GraphView(model)
    assert view.tokens(view.producers["y"]) == 900


def test_unknown_tokens_are_none() -> None:
    model = model_of(NODE("MatMul", ["q", "k"], ["y"]), shapes={"q": (1, "N", 8), "k": (1, 8, 4)})
    view = GraphView(model)
    assert view.tokens(view.producers["y"]) is None


@pytest.mark.parametrize(
    ("opsets", "expected"),
    [([("", 17)], 17), ([("ai.onnx.ml", 3), ("ai.onnx", 18)], 18), ([("ai.onnx.ml", 3)], 0)],
)
def test_opset_of(opsets, expected) -> None:
    imports = [helper.make_opsetid(*opset) for opset in opsets]
    assert opset_of(onnx.ModelProto(opset_import=imports)) == expected


def body(name: str, reads: str) -> onnx.GraphProto:
    value = VALUE(name, TensorProto.FLOAT, None)
    return helper.make_graph([NODE("Relu", [reads], [name])], name, [], [value])


def test_every_body_of_a_node_is_walked_and_renamed() -> None:
    """A branch as one graph, and a list of graphs as some operators have them."""
    node = NODE("Many", ["x"], ["y"], domain="mine", one=body("c", "a"))
    node.attribute.append(helper.make_attribute("more", [body("d", "a"), body("e", "x")]))
    model = model_of(NODE("Neg", ["x"], ["a"]), node, shapes={"x": (1,)})
    assert [graph.name for graph in bodies(node)] == ["c", "d", "e"]
    view = GraphView(model)
    assert [node.op_type for node in view.nodes] == ["Neg", "Many", "Relu", "Relu", "Relu"]
    renamed = rename(model, ()).graph.node[1]
    assert [graph.node[0].input[0] for graph in bodies(renamed)] == ["Neg", "Neg", "x"]
