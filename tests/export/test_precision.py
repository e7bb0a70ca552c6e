"""The precision policy, judged by structure: what stays FP16 and why."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_fusion.errors import StepError
from edge_fusion.export.precision import PrecisionPolicy, plan_precision

STEMS = {"rgb_encoder.features.0.0/Conv", "depth_encoder.features.0.0/Conv"}
DEFAULT_KEPT = {
    "rgb_encoder.features.0.0/Conv": "first layer to read an input",
    "depth_encoder.features.0.0/Conv": "first layer to read an input",
    "Add": "residual",  # the two streams meet
    "fusion.norm1/LayerNormalization": "variance",
    "fusion/MatMul": "attention",
    "fusion/Softmax": "become 0",
    "fusion/MatMul_1": "attention",
    "fusion/Add": "residual",
    "fusion.norm2/LayerNormalization": "variance",
    "fusion/Add_1": "residual",
    "decoder.2/Conv": "head",
    "Resize": "interpolation",
    "Sigmoid": "slope",
}


def test_the_default_plan_of_a_two_stream_network(simplified) -> None:
    plan = plan_precision(simplified)
    order = [node.name for node in simplified.graph.node if node.name in DEFAULT_KEPT]
    assert list(plan.kept) == order
    assert set(order) == set(DEFAULT_KEPT)
    for name, word in DEFAULT_KEPT.items():
        assert word in plan.kept[name]
    assert plan.forced == ()


def test_backbone_layers_and_biases_are_not_kept(simplified) -> None:
    kept = plan_precision(simplified).kept
    for node in simplified.graph.node:
        if node.op_type == "Conv" and node.name not in STEMS | {"decoder.2/Conv"}:
            assert node.name not in kept
    assert "fusion.qkv/MatMul" not in kept
    assert "fusion.qkv/Add" not in kept  # one side is a bias


OVERRIDES = [
    # policy, no longer kept, kept in addition
    (PrecisionPolicy(residual_adds=False), {"Add", "fusion/Add", "fusion/Add_1"}, set()),
    (PrecisionPolicy(attention="int8"), {"fusion/MatMul", "fusion/MatMul_1"}, set()),
    (PrecisionPolicy(attention="int8", max_int8_tokens=15), set(), set()),  # 16 tokens here
    (
        PrecisionPolicy(attention="int8", max_int8_tokens=16),
        {"fusion/MatMul", "fusion/MatMul_1"},
        set(),
    ),
    (PrecisionPolicy(head=False), {"decoder.2/Conv"}, set()),
    (PrecisionPolicy(stem=False), STEMS, set()),
    (
        PrecisionPolicy(types=("Softmax",)),
        {"fusion.norm1/LayerNormalization", "fusion.norm2/LayerNormalization", "Resize", "Sigmoid"},
        set(),
    ),
    (
        PrecisionPolicy(types=("Softmax", "LayerNormalization", "Resize", "Sigmoid", "Relu")),
        set(),
        {"decoder.1/Relu"},
    ),
    (PrecisionPolicy(keep_fp16=("decoder*",)), set(), {"decoder.0/Conv", "decoder.1/Relu"}),
    (PrecisionPolicy(keep_fp16=("fusion.qkv/MatMul",)), set(), {"fusion.qkv/MatMul"}),
    (PrecisionPolicy(force_int8=("fusion/MatMul*",)), {"fusion/MatMul", "fusion/MatMul_1"}, set()),
    (PrecisionPolicy(force_int8=("*Add*",)), {"Add", "fusion/Add", "fusion/Add_1"}, set()),
    (PrecisionPolicy(advised=("decoder.0/*",)), set(), {"decoder.0/Conv"}),
    (PrecisionPolicy(advised=("decoder.[02]/*",), force_int8=("decoder.0/*",)), set(), set()),
]


@pytest.mark.parametrize(("policy", "dropped", "added"), OVERRIDES)
def test_the_policy_can_be_changed(simplified, policy, dropped, added) -> None:
    kept = set(plan_precision(simplified, policy).kept)
    assert dropped.isdisjoint(kept)
    assert added <= kept
    assert set(DEFAULT_KEPT) - kept == dropped


def test_a_pattern_is_the_reason(simplified) -> None:
    plan = plan_precision(simplified, PrecisionPolicy(keep_fp16=("decoder.0*",)))
    assert plan.kept["decoder.0/Conv"] == "named by keep_fp16: decoder.0*"


def test_a_model_s_own_advice_is_the_reason_and_gives_way(simplified) -> None:
    advised = PrecisionPolicy(advised=("decoder.0/*",))
    assert plan_precision(simplified, advised).kept["decoder.0/Conv"].startswith("advised for this")
    overruled = PrecisionPolicy(advised=("decoder.0/*",), force_int8=("decoder.0/Conv",))
    assert "decoder.0/Conv" not in plan_precision(simplified, overruled).kept


def test_long_attention_says_how_long(simplified) -> None:
    policy = PrecisionPolicy(attention="int8", max_int8_tokens=8)
    assert "over 16 tokens, more than 8" in plan_precision(simplified, policy).kept["fusion/MatMul"]


REFUSED = [
    (PrecisionPolicy(keep_fp16=("encoder.9*",)), r"keep_fp16: no node is called 'encoder\.9\*'"),
    (PrecisionPolicy(force_int8=("nothing",)), r"expected a name such as 'rgb_encoder"),
    (PrecisionPolicy(advised=("encoder.9*",)), r"advised: no node is called 'encoder\.9\*'"),
    (
        PrecisionPolicy(keep_fp16=("decoder*",), force_int8=("*Conv",)),
        r"'decoder\.0/Conv' is named in both keep_fp16 \(decoder\*\) and force_int8 \(\*Conv\)",
    ),
]


@pytest.mark.parametrize(("policy", "message"), REFUSED)
def test_patterns_must_mean_something(simplified, policy, message) -> None:
    with pytest.raises(StepError, match=message):
        plan_precision(simplified, policy)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"attention": "fp8"}, "fp16 or int8, got 'fp8'"), ({"max_int8_tokens": 0}, "at least 1")],
)
def test_policies_are_checked(options, message) -> None:
    with pytest.raises(StepError, match=message):
        PrecisionPolicy(**options)


def graph_of(*nodes: onnx.NodeProto, output: str = "y") -> onnx.ModelProto:
    """A graph over x (1, 4, 8, 8) with a 1x1 weight ``w`` and a matrix ``m``."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 4, 8, 8))],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        [
            numpy_helper.from_array(np.ones((4, 4, 1, 1), np.float32), "w"),
            numpy_helper.from_array(np.ones((8, 8), np.float32), "m"),
            numpy_helper.from_array(np.full((1, 4, 1, 1), 0.5, np.float32), "mean"),
            numpy_helper.from_array(np.full((1, 4, 1, 1), 0.2, np.float32), "std"),
            *(
                numpy_helper.from_array(np.array([value]), name)
                for name, value in {"from": 0, "to": 2, "one": 1}.items()
            ),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def node(op_type: str, inputs: str, output: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(op_type, inputs.split(), [output], name=output, **attributes)


STRUCTURES = [
    # a weight computed from constants is still a weight
    (
        (
            node("Transpose", "m", "mt"),
            node("MatMul", "x mt", "a"),
            node("Relu", "a", "b"),
            node("MatMul", "b m", "y"),
        ),
        {"y"},
    ),
    # the weight may stand first
    ((node("MatMul", "m x", "a"), node("MatMul", "m a", "y")), {"y"}),
    # a tensor against itself is a product of two activations; its shape is unknown to this graph
    ((node("MatMul", "x x", "a"), node("Conv", "a w", "y")), {"a", "y"}),
    # two branches joined behind the last layers: both are the head
    ((node("Conv", "x w", "a"), node("Conv", "x w", "b"), node("Mul", "a b", "y")), {"a", "b"}),
    # doubling a tensor is no bias
    ((node("Conv", "x w", "a"), node("Add", "a a", "b"), node("Conv", "b w", "y")), {"b", "y"}),
    # constants alone need no precision
    ((node("Sigmoid", "m", "ms"), node("MatMul", "x ms", "a"), node("MatMul", "a m", "y")), {"y"}),
    # no weighted layer at all
    ((node("Relu", "x", "y"),), set()),
]


@pytest.mark.parametrize(("nodes", "kept"), STRUCTURES)
def test_structure_decides_and_not_names(nodes, kept) -> None:
    assert set(plan_precision(graph_of(*nodes), PrecisionPolicy(stem=False)).kept) == kept


def test_layers_that_read_an_input_are_kept() -> None:
    model = graph_of(node("Conv", "x w", "a"), node("Conv", "a w", "b"), node("Conv", "b w", "y"))
    assert list(plan_precision(model).kept) == ["a", "y"]


CONV = (node("Conv", "n w", "a"), node("Conv", "a w", "b"), node("Conv", "b w", "y"))
NORMALISING = {
    "Sub": (node("Sub", "x mean", "n"),),
    "Mul": (node("Mul", "x std", "n"),),
    "Transpose": (node("Transpose", "x", "n", perm=[0, 1, 3, 2]),),
    "Cast": (node("Cast", "x", "n", to=TensorProto.FLOAT),),
    "Concat": (node("Slice", "x from to one", "n1"), node("Concat", "n1 x", "n", axis=1)),
    "Sub, Div, Transpose": (
        node("Sub", "x mean", "n1"),
        node("Div", "n1 std", "n2"),
        node("Transpose", "n2", "n", perm=[0, 1, 3, 2]),
    ),
}


@pytest.mark.parametrize("before", NORMALISING.values(), ids=NORMALISING)
def test_the_first_layers_are_found_behind_a_normalisation_in_the_graph(before) -> None:
    assert list(plan_precision(graph_of(*before, *CONV)).kept) == ["a", "y"]
    without = PrecisionPolicy(stem=False)
    assert list(plan_precision(graph_of(*before, *CONV), without).kept) == ["y"]


def test_every_way_from_an_input_has_its_first_layer() -> None:
    model = graph_of(
        node("Sub", "x mean", "n"),
        node("Conv", "n w", "left"),
        node("MaxPool", "n", "pooled", kernel_shape=[1, 1]),
        node("Conv", "pooled w", "right"),
        node("Concat", "left right", "c", axis=0),
        node("Conv", "c w", "body"),
        node("Conv", "body w", "y"),
    )
    assert list(plan_precision(model).kept) == ["left", "right", "y"]


def test_the_size_of_an_input_is_not_its_values() -> None:
    model = graph_of(
        node("Conv", "x w", "a"),
        node("Shape", "x", "size"),
        node("Reshape", "a size", "r"),
        node("Conv", "r w", "b"),
        node("Conv", "b w", "y"),
    )
    assert list(plan_precision(model).kept) == ["a", "y"]


def test_attention_of_unknown_length_is_kept() -> None:
    model = graph_of(
        node("Mystery", "x", "a"), node("MatMul", "a a", "b"), node("Conv", "b w", "y")
    )
    kept = plan_precision(model, PrecisionPolicy(attention="int8")).kept
    assert "an unknown number of tokens" in kept["b"]
