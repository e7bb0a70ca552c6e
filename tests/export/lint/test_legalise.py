"""The legal graph computes what the quantized one did, and TensorRT can read it."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_fusion.errors import ModelError, StepError
from edge_fusion.export.graph import GraphView
from edge_fusion.export.legalise import legalise
from edge_fusion.export.lint import lint
from edge_fusion.target import parse_target

ORIN = parse_target("orin-nano@6.2")


def sqnr_db(reference: np.ndarray, other: np.ndarray) -> float:
    """Signal to quantization noise, decibels."""
    noise = float(np.square(reference - other).sum())
    return 10 * float(np.log10(np.square(reference).sum() / noise))


def two_convolutions(G: Any, kind: Any = np.uint8, opset: int = 17, shared: bool = False) -> Any:
    """Relu -> Q/DQ -> Conv -> Relu -> Q/DQ -> Conv, whose activations fill 0..255 steps."""
    g = G(opset)
    x = g.op("Relu", g.input(shape=(1, 16, 12, 12)))
    scale = g.const(3.2 / 255, "act_scale") if shared else 3.2 / 255
    y = g.op("Conv", g.qdq(x, scale, kind=kind), g.weight(16, 16, 3, 3), pads=[1] * 4)
    y = g.op("Relu", y)
    y = g.op("Conv", g.qdq(y, scale, kind=kind), g.weight(4, 16, 1, 1))
    return g.out(y).model()


def read_as_int8(model: onnx.ModelProto) -> onnx.ModelProto:
    """What TensorRT makes of uint8: int8 with the same scale."""
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    for tensor in copy.graph.initializer:
        if tensor.data_type == TensorProto.UINT8:
            zero = np.zeros(tuple(tensor.dims), np.int8)
            tensor.CopyFrom(numpy_helper.from_array(zero, tensor.name))
    return copy


def quantizers(model: onnx.ModelProto) -> list[Any]:
    return list(GraphView(model).quantizers)


def check(model: onnx.ModelProto) -> None:
    """Valid ONNX, types and shapes included; the builder leaves its outputs' shapes open."""
    onnx.checker.check_model(onnx.shape_inference.infer_shapes(model), full_check=True)


def initialisers(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


@pytest.mark.parametrize("opset", [13, 17, 20])
def test_the_legal_graph_keeps_the_signal_that_a_misread_one_loses(
    opset: int, new_graph: Any, run: Any
) -> None:
    model = two_convolutions(new_graph, opset=opset)
    result = legalise(model)
    check(result.model)
    x = {"x": np.random.default_rng(1).uniform(-3.2, 3.2, (1, 16, 12, 12)).astype(np.float32)}
    (untouched,), (legal,) = run(model, x), run(result.model, x)
    (misread,) = run(read_as_int8(model), x)
    assert sqnr_db(untouched, legal) > 35
    assert sqnr_db(untouched, misread) < 10
    assert result.summary()["uint8 to int8"] == 4
    assert lint(result.model, ORIN).ok


def test_a_scale_shared_by_several_nodes_is_rescaled_once(new_graph: Any) -> None:
    legal = legalise(two_convolutions(new_graph, shared=True)).model
    scales = {q.node.input(1): float(q.scale) for q in quantizers(legal)}
    assert scales == {"act_scale_int8": pytest.approx(3.2 / 127)}
    assert "act_scale" not in initialisers(legal)


def test_a_scale_shared_with_an_int8_node_stays_for_that_node(new_graph: Any) -> None:
    g = new_graph()
    x, scale = g.op("Relu", g.input()), g.const(0.02, "s")
    g.out(g.op("Add", g.qdq(x, scale, kind=np.uint8), g.qdq("x", scale)))
    scales = {q.node.input(1): float(q.scale) for q in quantizers(legalise(g.model()).model)}
    assert scales == {"s": pytest.approx(0.02), "s_int8": pytest.approx(0.02 * 255 / 127)}


def test_half_precision_scales_stay_half_precision(new_graph: Any) -> None:
    g = new_graph(19)
    x = g.input(kind=TensorProto.FLOAT16)
    g.out(g.qdq(x, np.float16(0.1), kind=np.uint8), TensorProto.FLOAT16)
    legal = legalise(g.model()).model
    assert {q.scale.dtype for q in quantizers(legal)} == {np.dtype(np.float16)}
    check(legal)


def test_a_missing_zero_point_means_uint8_and_is_rescaled(new_graph: Any, run: Any) -> None:
    model = two_convolutions(new_graph, kind=None)
    result = legalise(model)
    assert {q.zero.dtype for q in quantizers(result.model)} == {np.dtype(np.int8)}
    assert result.summary()["uint8 to int8"] == 4
    x = {"x": np.random.default_rng(1).uniform(-3.2, 3.2, (1, 16, 12, 12)).astype(np.float32)}
    assert sqnr_db(run(model, x)[0], run(result.model, x)[0]) > 35


def test_a_missing_zero_point_of_int8_weights_is_written_out(new_graph: Any, run: Any) -> None:
    g = new_graph()
    stored = g.const(np.arange(-64, 64).reshape(8, 16, 1, 1), dtype=np.int8)
    w = g.dq(stored, np.linspace(0.01, 0.02, 8, dtype=np.float32), kind=None, axis=0)
    model = g.out(g.op("Conv", g.input(shape=(1, 16, 4, 4)), w)).model()
    result = legalise(model)
    (node,) = quantizers(result.model)
    assert node.zero.dtype == np.int8
    assert node.zero.shape == (8,)
    assert result.summary() == {"zero point": 1}
    x = {"x": np.random.default_rng(1).standard_normal((1, 16, 4, 4)).astype(np.float32)}
    assert np.array_equal(run(model, x)[0], run(result.model, x)[0])


def test_an_output_dtype_of_int8_is_no_uint8(new_graph: Any) -> None:
    g = new_graph(21)
    scale = g.const(0.1)
    q = g.op("QuantizeLinear", g.input(), scale, output_dtype=TensorProto.INT8)
    result = legalise(g.out(g.op("DequantizeLinear", q, scale)).model())
    assert result.summary() == {"zero point": 2}
    assert all(float(node.scale) == pytest.approx(0.1) for node in quantizers(result.model))
    check(result.model)


@pytest.mark.parametrize(
    ("shape", "axis", "expected"),
    [((8, 16, 1, 1), -4, 0), ((16, 8), -1, 1), ((16, 8), -2, 0), ((8, 16), 0, 0)],
)
def test_negative_axes_are_counted_from_the_front(
    shape: tuple[int, ...], axis: int, expected: int, new_graph: Any
) -> None:
    g = new_graph()
    g.input()
    result = legalise(g.out(g.weight_dq(*shape, axis=axis)).model())
    assert [q.axis for q in quantizers(result.model)] == [expected]
    assert result.summary() == ({"axis": 1} if axis < 0 else {})


def test_equal_scales_of_an_activation_become_one(new_graph: Any, run: Any) -> None:
    g = new_graph()
    model = g.out(g.qdq(g.input(), np.full(32, 0.05, np.float32), axis=1)).model()
    result = legalise(model)
    check(result.model)
    assert all(q.scale.shape == q.zero.shape == () for q in quantizers(result.model))
    assert result.summary()["one scale"] == 2
    x = {"x": np.random.default_rng(1).standard_normal((1, 32, 8, 8)).astype(np.float32)}
    assert np.array_equal(run(model, x)[0], run(result.model, x)[0])
    assert lint(result.model, ORIN).ok


def test_equal_pairs_on_one_tensor_become_one_and_others_stay(new_graph: Any, run: Any) -> None:
    g = new_graph()
    x = g.input()
    same = [
        g.qdq(x, 0.05) for _ in range(3)
    ]  # each has scale and zero-point initialisers of its own
    other = g.qdq(x, 0.1)
    y = g.op("Sum", *same, other)
    g.out(y)
    model = g.out(same[2]).model()  # an output of the graph keeps its name
    result = legalise(model)
    check(result.model)
    assert result.summary()["merged"] == 3
    ops = [node.op_type for node in result.model.graph.node]
    assert ops.count("QuantizeLinear") == 2
    assert ops.count("DequantizeLinear") == 3
    inputs = {"x": np.random.default_rng(1).standard_normal((1, 32, 8, 8)).astype(np.float32)}
    for before, after in zip(run(model, inputs), run(result.model, inputs), strict=True):
        assert np.array_equal(before, after)


def test_what_is_left_behind_is_dropped(new_graph: Any) -> None:
    model = two_convolutions(new_graph)
    model = onnx.shape_inference.infer_shapes(model)
    model.graph.value_info.append(helper.make_tensor_value_info("gone", 1, [1]))
    model.graph.initializer.append(numpy_helper.from_array(np.ones(3, np.float32), "spare"))
    legal = legalise(model).model
    used = {name for node in legal.graph.node for name in node.input}
    assert set(initialisers(legal)) <= used
    kinds = {v.name: v.type.tensor_type.elem_type for v in legal.graph.value_info}
    assert "gone" not in kinds
    assert TensorProto.UINT8 not in kinds.values()
    assert "relu0" in kinds  # what still holds stays


def test_scales_in_constant_nodes_are_rewritten_too(new_graph: Any) -> None:
    g = new_graph()
    scale = g.op("Constant", value=numpy_helper.from_array(np.float32(0.05)))
    x = g.op("Relu", g.input())
    legal = legalise(g.out(g.qdq(x, scale, kind=np.uint8)).model()).model
    assert [node.op_type for node in legal.graph.node].count("Constant") == 0
    assert lint(legal, ORIN).ok


def test_a_uint8_tensor_that_is_moved_between_its_pair_is_followed(new_graph: Any) -> None:
    g = new_graph()
    q = g.q(g.op("Relu", g.input()), kind=np.uint8)
    flat = g.op("Reshape", q, g.const([1, -1], dtype=np.int64))
    legal = legalise(g.out(g.dq(flat, kind=np.uint8)).model()).model
    check(legal)
    assert {q.stored for q in quantizers(legal)} == {TensorProto.INT8}


def test_the_pass_changes_nothing_twice_and_never_its_input(new_graph: Any) -> None:
    model = two_convolutions(new_graph)
    before = model.SerializeToString()
    first = legalise(model)
    assert first.modified
    assert model.SerializeToString() == before
    second = legalise(first.model)
    assert not second.modified
    assert second.changes == ()
    assert second.model.SerializeToString() == first.model.SerializeToString()


def uint8_weight(g: Any) -> Any:
    return g.out(g.op("Conv", g.qdq(g.input()), g.weight_dq(32, 32, 1, 1, kind=np.uint8)))


def shifted(g: Any) -> Any:
    return g.out(g.qdq(g.input(), zero=5))


def unequal(g: Any) -> Any:
    return g.out(g.qdq(g.input(), np.linspace(0.1, 0.2, 32, dtype=np.float32), axis=1))


def moving(g: Any) -> Any:
    x, scale = g.input(), g.input("s", ())
    return g.out(g.qdq(x, scale))


def leaking(g: Any) -> Any:
    return g.out(g.q(g.input(), kind=np.uint8), TensorProto.UINT8)


def read_by_others(g: Any) -> Any:
    return g.out(g.op("Cast", g.q(g.input(), kind=np.uint8), to=1))


def uint8_image(g: Any) -> Any:
    return g.out(g.dq(g.input(kind=TensorProto.UINT8), kind=np.uint8))


@pytest.mark.parametrize(
    ("build", "node", "what", "cure"),
    [
        (uint8_weight, "n_dequantizelinear2", "weights are stored as uint8", "signedness_to_force"),
        (shifted, "n_quantizelinear0, n_dequantizelinear1", "not zero", "SYMMETRIC"),
        (unequal, "n_quantizelinear0", "different scale per channel", "per_channel=False"),
        (moving, "n_quantizelinear0", "not a constant", "simplifier"),
        (leaking, "n_quantizelinear0", "outside its QuantizeLinear", "floating point"),
        (read_by_others, "n_quantizelinear0", "outside its QuantizeLinear", "floating point"),
        (uint8_image, "n_dequantizelinear0", "outside its QuantizeLinear", "floating point"),
    ],
)
def test_what_has_no_equivalent_is_refused_by_name(
    build: Any, node: str, what: str, cure: str, new_graph: Any
) -> None:
    with pytest.raises(StepError) as caught:
        legalise(build(new_graph()).model())
    assert f"got {node}" in str(caught.value)
    assert what in str(caught.value)
    assert cure in str(caught.value)


def test_a_refusal_names_eight_nodes_and_counts_the_rest(new_graph: Any) -> None:
    g = new_graph()
    x = g.input()
    for _ in range(6):
        x = g.qdq(x, zero=1)
    with pytest.raises(StepError, match="and 4 more; quantize"):
        legalise(g.out(x).model())


def test_weights_that_were_not_loaded_are_named(new_graph: Any, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    model = two_convolutions(new_graph)
    onnx.save(model, path, save_as_external_data=True, size_threshold=0)
    with pytest.raises(ModelError, match="external file that is not loaded; read the model by"):
        legalise(onnx.load(path, load_external_data=False))
    assert legalise(onnx.load(path)).modified


@pytest.fixture(scope="module")
def nncf_model() -> onnx.ModelProto:
    """A small network as NNCF's ONNX backend really quantizes it."""
    os.environ["NNCF_CI"] = "1"  # before the import: no telemetry
    nncf = pytest.importorskip("nncf")
    from nncf.common.quantization.structs import QuantizationScheme
    from nncf.quantization.advanced_parameters import (
        AdvancedQuantizationParameters,
        OverflowFix,
        QuantizationParameters,
    )

    rng = np.random.default_rng(0)
    weights = {
        "w1": (32, 16, 3, 3),
        "w2": (32, 32, 3, 3),
        "w3": (32, 1, 3, 3),
        "w4": (16, 32, 1, 1),
    }
    tensors = [
        numpy_helper.from_array((rng.standard_normal(shape) * 0.1).astype(np.float32), name)
        for name, shape in weights.items()
    ]
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w1"], ["a"], "c1", pads=[1] * 4),
        node("Relu", ["a"], ["b"], "r1"),
        node("Conv", ["b", "w2"], ["c"], "c2", pads=[1] * 4),
        node("Relu", ["c"], ["d"], "r2"),
        node("Conv", ["d", "w3"], ["e"], "depthwise", pads=[1] * 4, group=32),
        node("Conv", ["e", "w4"], ["f"], "c4"),
        node("Sigmoid", ["f"], ["y"], "s"),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "g", [value("x", 1, [1, 16, 16, 16])], [value("y", 1, [1, 16, 16, 16])], tensors
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    items = [{"x": rng.standard_normal((1, 16, 16, 16)).astype(np.float32)} for _ in range(4)]
    parameters = AdvancedQuantizationParameters(
        overflow_fix=OverflowFix.DISABLE,
        disable_bias_correction=True,
        activations_quantization_params=QuantizationParameters(
            num_bits=8, mode=QuantizationScheme.SYMMETRIC, per_channel=False
        ),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of NNCF's own dependencies
        quantized = nncf.quantize(
            model,
            nncf.Dataset(items),
            subset_size=4,
            preset=nncf.QuantizationPreset.PERFORMANCE,
            advanced_parameters=parameters,
        )
    assert isinstance(quantized, onnx.ModelProto)
    return quantized


@pytest.mark.filterwarnings("ignore")
def test_what_nncf_writes_is_named_by_lint_and_made_clean(
    nncf_model: onnx.ModelProto, run: Any
) -> None:
    before = lint(nncf_model, ORIN)
    unsigned = {q.node.label for q in quantizers(nncf_model) if q.stored == TensorProto.UINT8}
    assert len(unsigned) >= 4
    assert {f.node for f in before.findings if f.rule_id == "QDQ001"} == unsigned
    result = legalise(nncf_model)
    assert result.summary()["uint8 to int8"] == len(unsigned)
    assert lint(result.model, ORIN).ok
    check(result.model)
    x = {"x": np.random.default_rng(9).standard_normal((1, 16, 16, 16)).astype(np.float32)}
    (untouched,), (legal,) = run(nncf_model, x), run(result.model, x)
    (misread,) = run(read_as_int8(nncf_model), x)
    assert sqnr_db(untouched, legal) > sqnr_db(untouched, misread) + 10


def joined(G: Any, *scales: float) -> onnx.ModelProto:
    """A Concat of quantized inputs; the first is read by a second Concat as well."""
    g = G()
    parts = [
        g.qdq(g.input(f"x{i}", shape=(1, 4, 8, 8)), s, kind=np.int8) for i, s in enumerate(scales)
    ]
    first = g.op("Concat", *parts, axis=1, name="join")
    second = g.op("Concat", parts[0], parts[0], axis=1, name="double")
    return g.out(g.op("Concat", first, second, axis=1, name="all")).model()


def test_nearly_equal_scales_of_a_concat_become_their_largest(new_graph: Any) -> None:
    model = joined(new_graph, 0.05, 0.04, 0.045)
    assert [f.rule_id for f in lint(model, ORIN).findings] == ["PRF002"]
    result = legalise(model)
    assert result.summary()["shared scale"] == 1
    used = {float(q.scale) for q in quantizers(result.model)}
    assert used == {np.float32(0.05)}
    assert lint(result.model, ORIN).findings == ()
    check(result.model)


@pytest.mark.parametrize("scales", [(0.05, 0.02), (0.05, 0.05)])
def test_scales_far_apart_or_equal_stay(new_graph: Any, scales: tuple[float, float]) -> None:
    result = legalise(joined(new_graph, *scales))
    assert "shared scale" not in result.summary()
    assert sorted({float(q.scale) for q in quantizers(result.model)}) == sorted(
        {float(np.float32(s)) for s in scales}
    )
