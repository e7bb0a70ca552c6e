"""Simplifying: fewer nodes, the same answers, and weights that are weights."""

from __future__ import annotations

import numpy as np
import onnx
import onnxslim
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_fusion.errors import ModelError, StepError
from edge_fusion.export.parity import check_parity
from edge_fusion.export.simplify import simplify
from edge_fusion.export.trace import TraceOptions, trace
from edge_fusion.runtime.ort import OrtSession


@pytest.fixture(scope="module")
def legacy(tiny) -> onnx.ModelProto:
    """The tiny network as the legacy exporter leaves it: shape arithmetic and Identity weights."""
    return trace(tiny.two_stream(), tiny.SPEC, TraceOptions(exporter="legacy"))


def test_the_graph_answers_as_before(tiny, legacy) -> None:
    result = simplify(legacy)
    with (
        OrtSession(legacy.SerializeToString(), threads=1) as before,
        OrtSession(result.model.SerializeToString(), threads=1) as after,
    ):
        report = check_parity("onnx-simplified", before.run, after.run, tiny.samples(3))
    assert report.difference.max_abs <= 1e-6


def test_shape_arithmetic_and_identities_are_gone(legacy) -> None:
    result = simplify(legacy)
    before = {node.op_type for node in legacy.graph.node}
    after = {node.op_type for node in result.model.graph.node}
    assert {"Identity", "Constant", "Shape"} <= before
    assert not {"Identity", "Constant", "Shape"} & after
    assert result.nodes_before == len(legacy.graph.node)
    assert result.nodes_after == len(result.model.graph.node) < result.nodes_before
    assert result.modified


def test_every_weight_is_an_initialiser(legacy) -> None:
    model = simplify(legacy).model
    weights = {tensor.name for tensor in model.graph.initializer}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    assert len(convolutions) == 10
    assert all(set(node.input[1:]) <= weights for node in convolutions)


def test_linear_layers_stay_matmul(legacy) -> None:
    types = [node.op_type for node in simplify(legacy).model.graph.node]
    assert types.count("MatMul") == 6
    assert "Gemm" not in types


def test_names_are_kept(simplified, traced) -> None:
    before = {node.name for node in traced.graph.node}
    after = [node.name for node in simplified.graph.node]
    assert set(after) <= before
    assert len(set(after)) == len(after)
    assert "rgb_encoder.features.0.0/Conv" in after


def test_the_input_is_not_changed(legacy) -> None:
    before = legacy.SerializeToString()
    simplify(legacy)
    assert legacy.SerializeToString() == before


def test_a_simple_graph_is_left_as_it_is(simplified) -> None:
    again = simplify(simplified)
    assert not again.modified
    assert again.nodes_after == again.nodes_before


def test_it_is_deterministic(legacy) -> None:
    first, second = simplify(legacy), simplify(legacy)
    assert first.model.SerializeToString() == second.model.SerializeToString()


def test_nothing_is_printed(legacy, capfd) -> None:
    simplify(legacy)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == ""


def test_shapes_are_known_afterwards(legacy) -> None:
    model = simplify(legacy).model
    known = {value.name for value in (*model.graph.value_info, *model.graph.output)}
    assert {name for node in model.graph.node for name in node.output} <= known


def small() -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "one"], ["y"], name="Add")],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 2))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 2))],
        [numpy_helper.from_array(np.ones(2, np.float32), "one")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_a_failure_is_an_error_and_never_a_detour(monkeypatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise Exception("no pattern fits\nsecond line")

    monkeypatch.setattr(onnxslim, "slim", fail)
    with pytest.raises(StepError, match="the simplifier failed: got no pattern fits$") as caught:
        simplify(small())
    assert caught.value.__cause__ is not None


def test_an_invalid_result_is_refused(monkeypatch) -> None:
    broken = small()
    broken.graph.node[0].input[0] = "nowhere"
    monkeypatch.setattr(onnxslim, "slim", lambda *args, **kwargs: broken)
    with pytest.raises(StepError, match="left an invalid graph"):
        simplify(small())


def test_a_lost_input_is_refused(monkeypatch) -> None:
    other = small()
    other.graph.input[0].name = other.graph.node[0].input[0] = "renamed"
    monkeypatch.setattr(onnxslim, "slim", lambda *args, **kwargs: other)
    with pytest.raises(StepError, match=r"changed the graph's face.*'x'.*'renamed'"):
        simplify(small())


def test_a_network_that_ignores_depth_is_named_as_such() -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 18]> g (float[1,3,4,4] rgb, float[1,1,4,4] depth) => '
        "(float[1,3,4,4] y) { y = Relu (rgb) }"
    )
    with pytest.raises(ModelError, match="does not use its input 'depth'"):
        simplify(model)
