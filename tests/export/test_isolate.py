"""Some layers in INT8, the rest in float: all is the INT8 network, none the float one."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import parser

from edge_fusion.errors import ModelError
from edge_fusion.export.isolate import quantizable, with_int8
from edge_fusion.export.legalise import legalise
from edge_fusion.export.quantize import quantize
from edge_fusion.runtime.ort import OrtSession


@pytest.fixture(scope="module")
def int8(tiny: ModuleType, simplified: onnx.ModelProto) -> onnx.ModelProto:
    return legalise(quantize(simplified, tiny.samples(4), tiny.SPEC).model).model


def run(model: onnx.ModelProto, inputs: dict[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    onnx.checker.check_model(model, full_check=True)
    with OrtSession(model.SerializeToString(), threads=1) as session:
        (output,) = session.run(inputs).values()
    return output


def test_all_layers_are_the_int8_network(tiny, simplified, int8) -> None:
    mixed = with_int8(simplified, int8, quantizable(int8))
    sample = tiny.samples(1, seed=5)[0]
    assert np.array_equal(run(mixed, sample), run(int8, sample))


def test_no_layer_is_the_float_network(tiny, simplified, int8) -> None:
    mixed = with_int8(simplified, int8, ())
    sample = tiny.samples(1, seed=5)[0]
    assert np.array_equal(run(mixed, sample), run(simplified, sample))
    assert not any(node.op_type.endswith("Linear") for node in mixed.graph.node)


def test_one_layer_differs_from_both(tiny, simplified, int8) -> None:
    sample = tiny.samples(1, seed=5)[0]
    for name in quantizable(int8):
        output = run(with_int8(simplified, int8, [name]), sample)
        assert not np.array_equal(output, run(simplified, sample)), name
        assert not np.array_equal(output, run(int8, sample)), name


def test_the_layers_are_those_the_quantizer_counted(tiny, simplified, int8) -> None:
    assert quantizable(int8) == quantize(simplified, tiny.samples(4), tiny.SPEC).quantized
    assert quantizable(simplified) == ()


def test_neither_model_is_changed(simplified, int8) -> None:
    before = simplified.SerializeToString(), int8.SerializeToString()
    with_int8(simplified, int8, quantizable(int8)[:3])
    assert (simplified.SerializeToString(), int8.SerializeToString()) == before


FLOAT = parser.parse_model("""
    <ir_version: 9, opset_import: ["": 18]>
    g (float[1, 2, 4] rgb, float[1, 2, 4] depth) => (float[1, 4, 4] saliency, float[1, 4, 4] moved)
    <float[4, 4] left = {1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3, 4, 5, 6, 7},
     float[4, 4] right = {7, 6, 5, 4, 3, 2, 1, 9, 8, 7, 6, 5, 4, 3, 2, 1}> {
        [both] joined = Concat <axis = 1> (rgb, depth)
        [turn] turned = Transpose <perm = [0, 2, 1]> (joined)
        [one] a = MatMul (turned, left)
        [two] b = MatMul (turned, right)
        [sum] saliency = Add (a, b)
        [keep] moved = Transpose <perm = [0, 2, 1]> (turned)
    }""")
# The quantized tensor is read by three, through movers; a weight's name means other bytes here.
QUANTIZED = parser.parse_model("""
    <ir_version: 9, opset_import: ["": 18]>
    g (float[1, 2, 4] rgb, float[1, 2, 4] depth) => (float[1, 4, 4] saliency, float[1, 4, 4] moved)
    <float s = {0.1}, int8 z = {0}, float w = {0.09},
     int8[4, 4] left = {11, 22, 33, 44, 55, 66, 77, 88, 99, 11, 22, 33, 44, 55, 66, 77},
     int8[4, 4] right = {77, 66, 55, 44, 33, 22, 11, 99, 88, 77, 66, 55, 44, 33, 22, 11}> {
        rgb_q = QuantizeLinear (rgb, s, z)
        rgb_dq = DequantizeLinear (rgb_q, s, z)
        depth_q = QuantizeLinear (depth, s, z)
        depth_dq = DequantizeLinear (depth_q, s, z)
        [both] joined = Concat <axis = 1> (rgb_dq, depth_dq)
        [turn] turned = Transpose <perm = [0, 2, 1]> (joined)
        left_dq = DequantizeLinear (left, w, z)
        [one] a = MatMul (turned, left_dq)
        right_dq = DequantizeLinear (right, w, z)
        [two] b = MatMul (turned, right_dq)
        [sum] saliency = Add (a, b)
        [keep] moved = Transpose <perm = [0, 2, 1]> (turned)
    }""")


def outputs(model: onnx.ModelProto) -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(1)
    feed = {n: rng.normal(size=(1, 2, 4)).astype(np.float32) for n in ("rgb", "depth")}
    onnx.checker.check_model(model, full_check=True)
    with OrtSession(model.SerializeToString(), threads=1) as session:
        return dict(session.run(feed))


def test_a_quantized_tensor_is_split_by_reader_behind_movers() -> None:
    exact, rounded = outputs(FLOAT), outputs(QUANTIZED)
    assert quantizable(QUANTIZED) == ("one", "two", "keep")
    first = outputs(with_int8(FLOAT, QUANTIZED, ["one"]))
    second = outputs(with_int8(FLOAT, QUANTIZED, ["two"]))
    # the two readers share one tensor and add up: each error is its own reader's alone
    errors = [one["saliency"] - exact["saliency"] for one in (first, second, rounded)]
    np.testing.assert_allclose(errors[0] + errors[1], errors[2], atol=1e-5)
    assert all(np.abs(error).max() > 0.01 for error in errors)
    assert np.array_equal(first["moved"], exact["moved"])


def test_a_moved_output_is_a_layer_of_its_own() -> None:
    exact, rounded = outputs(FLOAT), outputs(QUANTIZED)
    moved = outputs(with_int8(FLOAT, QUANTIZED, ["keep"]))
    assert np.array_equal(moved["moved"], rounded["moved"])
    assert np.array_equal(moved["saliency"], exact["saliency"])


def test_all_layers_behind_movers_are_the_int8_network() -> None:
    mixed = outputs(with_int8(FLOAT, QUANTIZED, quantizable(QUANTIZED)))
    for name, value in outputs(QUANTIZED).items():
        assert np.array_equal(mixed[name], value), name


def test_a_layer_that_is_not_int8_is_refused_with_some_that_are() -> None:
    with pytest.raises(ModelError, match=r"'sum' does not compute in INT8.*'one', 'two'"):
        with_int8(FLOAT, QUANTIZED, ["sum"])


def test_another_network_is_refused(simplified) -> None:
    with pytest.raises(ModelError, match="not the same network"):
        with_int8(simplified, QUANTIZED, ())


def test_a_graph_without_int8_is_refused() -> None:
    with pytest.raises(ModelError, match="no node that computes on 8-bit values"):
        with_int8(FLOAT, FLOAT, ())
