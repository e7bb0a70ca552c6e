"""Two flavours of one quantization result: what they look like, and that they answer alike."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from edge_fusion.errors import StepError
from edge_fusion.export.flavour import (
    HalfPolicy,
    check_flavour,
    find_hazards,
    make_flavour,
    make_strong,
    make_weak,
    record_ranges,
    round_as_half,
)
from edge_fusion.export.flavour_build import build_flavours
from edge_fusion.export.flavour_opset import lower_opset
from edge_fusion.export.graph import GraphView
from edge_fusion.export.legalise import legalise
from edge_fusion.export.lint import lint
from edge_fusion.export.quantize import QuantizeResult, quantize
from edge_fusion.runtime.ort import OrtSession
from edge_fusion.target import parse_target

pytestmark = pytest.mark.export

STRONG = ("orin-nano@6.2", "agx-orin-64gb@7.2", "agx-orin-64gb@7.2.2", "thor-t5000@7.1")
WEAK = ("xavier-nx@5.1", "orin-nano@6.0")
FP16, FP32, INT8 = TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.INT8


def graph(body: str, opset: int = 18, size: str = "2,8", **constants: object) -> onnx.ModelProto:
    """x -> y of one shape, with named float constants."""
    model = parser.parse_model(
        f'<ir_version: 8, opset_import: ["": {opset}]> g (float[{size}] x) => (float[{size}] y) '
        f"{{ {body} }}"
    )
    for node in model.graph.node:
        node.name = f"n_{node.output[0]}"
    for name, value in constants.items():
        array = (
            np.asarray(value)
            if isinstance(value, np.ndarray | np.generic)
            else np.asarray(value, np.float32)
        )
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return model


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    with OrtSession(model.SerializeToString(), threads=1) as session:
        return session.run({"x": x.astype(np.float32)})["y"]


def ramp(top: float, size: tuple[int, ...] = (2, 8)) -> np.ndarray:
    return np.linspace(-top, top, int(np.prod(size)), dtype=np.float32).reshape(size)


def arrays(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


@pytest.fixture(scope="module")
def quantized(tiny, simplified) -> QuantizeResult:
    return quantize(simplified, tiny.samples(8), tiny.SPEC)


@pytest.fixture(scope="module")
def int8(quantized) -> onnx.ModelProto:
    return legalise(quantized.model).model


@pytest.fixture(scope="module")
def ranges(tiny, simplified) -> dict[str, tuple[float, float]]:
    return record_ranges(simplified, tiny.samples(8), threads=1)


# --- ranges ----------------------------------------------------------------------------------


def test_ranges_are_the_extremes_over_all_samples() -> None:
    model = graph("a = Mul (x, c)  y = Relu (a)", c=2.0)
    samples = [{"x": ramp(1) + shift} for shift in (0, 3)]
    assert record_ranges(model, samples, threads=1) == {
        "x": (-1.0, 4.0),
        "a": (-2.0, 8.0),
        "y": (0.0, 8.0),
    }


def test_ranges_cover_every_float_tensor_and_change_nothing(simplified, ranges) -> None:
    view = GraphView(simplified)
    made = {n for node in view.nodes for n in node.outputs if view.element_type(n) == FP32}
    assert set(ranges) == made | {"rgb", "depth"}
    assert len(simplified.graph.output) == 1


def test_ranges_need_a_sample_and_numbers() -> None:
    with pytest.raises(StepError, match="at least one sample"):
        record_ranges(graph("y = Relu (x)"), [])
    with pytest.raises(
        StepError, match="'y' is not a number in FP32.*sample 0.*repair the network"
    ):
        record_ranges(graph("y = Sqrt (x)"), [{"x": -np.ones((2, 8), np.float32)}], threads=1)


# --- what FP16 would break -------------------------------------------------------------------

ONES = np.ones(8, np.float32)
LN = "y = LayerNormalization <axis=-1, epsilon={}> (x, w)"
NORM = """s = Mul (x, x)  m = ReduceMean <axes=[-1]> (s)  a = Add (m, e)  r = Sqrt (a)
          y = Div (x, r)"""
PAIR = "q = QuantizeLinear (x, s, z)  d = DequantizeLinear (q, s, z)  y = Relu (d)"
ZERO = np.int8(0)

# graph, reach of the input, policy, node that is kept, reason; no node: nothing is kept
HAZARDS = [
    (graph("y = Add (x, c)", c=-1e9), 1, {}, "n_y", "'c' reaches 1e+09"),
    (graph("y = Add (x, c)", c=-1e4), 1, {}, "", ""),
    (graph("y = Add (x, c)", c=1e-12), 1, {}, "n_y", "'c' of 1e-12 is 0 in FP16"),
    (graph("y = Add (x, c)", c=1e-7), 1, {}, "n_y", "is 1.19e-07 in FP16"),
    (graph("y = Add (x, c)", c=1e-5), 1, {}, "", ""),
    # a mask is no constant too large, but what it makes of the tensor is beyond FP16 all the same
    (graph("y = Add (x, c)", c=-np.inf), 1, {}, "n_y", "'y' reaches inf"),
    # a bound that nothing reaches
    (graph("y = Clip (x, l, h)", l=0.0, h=3.4e38), 1, {}, "", ""),
    (graph(LN.format("1e-12"), w=ONES), 1, {}, "n_y", "epsilon 1e-12 is 0 in FP16"),
    (graph(LN.format("0.00001"), w=ONES), 1, {}, "", ""),
    (graph("y = Mul (x, c)", c=2.0), 35000, {}, "n_y", "'x' reaches 35000 in calibration"),
    # within FP16, but half as far again on a frame that calibration has not seen
    (graph("y = Relu (x)"), 40000, {}, "n_y", "reaches 40000"),
    (graph("y = Relu (x)"), 40000, {"headroom": 1.0}, "", ""),
    (graph("y = Relu (x)"), 1, {"keep_fp32": ("n_*",)}, "n_y", "named by keep_fp32: n_*"),
    (graph("y = LpNormalization (x)"), 300, {}, "n_y", "squares 'x', which reaches 300"),
    (graph("y = LpNormalization (x)"), 3, {}, "", ""),
    (graph("y = RandomNormalLike (x)"), 1, {}, "n_y", "an attribute's matter"),
    (graph(NORM, 17, e=1e-5), 1, {}, "n_s", "written out"),
    (graph(NORM, 17, e=1e-5), 1, {}, "n_y", "written out"),
    (graph(PAIR, 13, s=1e-6, z=ZERO), 1e-4, {}, "n_y", "scale 1e-06 of activation 'q'"),
    (graph(PAIR, 13, s=600.0, z=ZERO), 1, {}, "n_y", "reaches 76200"),
    (graph(PAIR, 13, s=0.1, z=ZERO), 1, {}, "", ""),
    (graph("y = MatMul (x, w)", w=np.eye(8, dtype=np.float32)), 1, {}, "n_y", "reads an input"),
    (graph("y = MatMul (x, w)", w=np.eye(8, dtype=np.float32)), 1, {"stem": False}, "", ""),
]


@pytest.mark.parametrize(("model", "top", "options", "node", "reason"), HAZARDS)
def test_hazards_are_named_with_their_reason(model, top, options, node, reason) -> None:
    onnx.checker.check_model(model)
    ranges = record_ranges(model, [{"x": ramp(top)}], threads=1)
    found = find_hazards(GraphView(model), ranges, HalfPolicy(**options))
    assert reason in found.get(node, "missing") if node else found == {}
    # and the strong flavour obeys: what it keeps computes on FP32, all else on FP16
    strong = GraphView(make_strong(model, ranges, HalfPolicy(**options)).model)
    for one in strong.nodes:
        if one.op_type not in ("Cast", "Constant", "QuantizeLinear", "DequantizeLinear"):
            wanted = FP32 if one.label in found else FP16
            assert strong.element_type(one.outputs[0]) == wanted or one.outputs[0] == "y"


def test_a_pattern_that_names_nothing_is_an_error() -> None:
    model = graph("y = Relu (x)")
    ranges = record_ranges(model, [{"x": ramp(1)}], threads=1)
    with pytest.raises(StepError, match="keep_fp32: no node is called 'nope'.*'n_y'"):
        find_hazards(GraphView(model), ranges, HalfPolicy(keep_fp32=("nope",)))
    with pytest.raises(StepError, match="headroom: expected at least 1, got 0.5"):
        HalfPolicy(headroom=0.5)


def test_ranges_of_another_graph_are_refused() -> None:
    with pytest.raises(StepError, match="no range was recorded for 'y'.*was quantized"):
        make_strong(graph("y = Relu (x)"), {"x": (0, 1)})


# --- strong ----------------------------------------------------------------------------------


def test_strong_is_mixed_precision_in_the_graph(int8, ranges, quantized) -> None:
    before = int8.SerializeToString()
    result = make_strong(int8, ranges)
    view = GraphView(result.model)
    assert int8.SerializeToString() == before
    assert view.opset == 19
    assert {v.type.tensor_type.elem_type for v in (*view.inputs, *result.model.graph.output)} == {
        FP32
    }
    assert {k for k, v in result.precisions.items() if v == "int8"} == set(quantized.quantized)
    kept = {label for label, kind in result.precisions.items() if kind == "fp32"}
    assert kept == set(result.kept_fp32) == {n for n in quantized.kept if "features.0.0" in n}
    ends = {"saliency", *(name for name in ("rgb", "depth"))}
    for node in view.nodes:
        for name in node.outputs:
            if name in ends or view.element_type(name) == INT8 or node.label in kept:
                continue
            assert view.element_type(name) in (FP16, TensorProto.INT64), node.label
    assert Counter(n.op_type for n in view.nodes)["LayerNormalization"] == 2


def test_strong_pairs_are_of_one_type_and_weights_are_int8(int8, ranges) -> None:
    view = GraphView(make_strong(int8, ranges).model)
    weights = 0
    for q in view.quantizers:
        assert q.scale is not None
        assert q.scale.dtype == np.float16
        end = q.data if q.quantizes else q.node.outputs[0]
        assert view.element_type(end) == FP16
        assert not (q.quantizes and q.constant)
        weights += q.constant
    assert weights == sum(q.constant for q in GraphView(int8).quantizers) > 0


def test_strong_is_the_same_every_time(int8, ranges) -> None:
    first, second = (make_strong(int8, ranges).model.SerializeToString() for _ in range(2))
    assert first == second


@pytest.mark.parametrize("target", [*STRONG, *WEAK])
def test_flavours_are_lint_clean_for_their_targets(int8, simplified, ranges, target) -> None:
    judged = parse_target(target)
    for model in (int8, simplified):
        result = make_flavour(model, judged, ranges)
        assert result.flavour == judged.flavour
        report = lint(result.model, judged)
        allowed = {"PRF001"}  # the tiny network has eight channels
        assert {f.rule_id for f in report.findings} <= allowed, [str(f) for f in report.findings]


def test_the_flavours_of_other_targets_are_not(int8, ranges) -> None:
    weak = make_weak(int8, (8, 6, 2), ranges).model
    strong = make_strong(int8, ranges).model
    assert {f.rule_id for f in lint(weak, parse_target("xavier-nx@5.1")).of("error")} == {"OPS003"}
    refused = {f.rule_id for f in lint(strong, parse_target("orin-nano@6.0")).of("error")}
    assert {"QDQ012", "QDQ013", "OPS004"} <= refused


def test_flavours_answer_like_the_reference(tiny, int8, simplified, ranges) -> None:
    models = {
        "fp32": simplified,
        "int8": int8,
        "strong": make_strong(int8, ranges).model,
        "rounded": round_as_half(make_strong(int8, ranges).model),
        "half": round_as_half(make_strong(simplified, ranges).model),
        "weak": make_weak(int8, (8, 5, 2), ranges).model,
    }
    with_run = {k: OrtSession(m.SerializeToString(), threads=1).run for k, m in models.items()}
    for name, reference in (("strong", "int8"), ("rounded", "int8"), ("half", "fp32")):
        parity = check_flavour(
            name, with_run[name], with_run[reference], with_run["fp32"], tiny.samples(4, seed=9)
        )
        assert 0 < parity.to_reference.mean_abs < 0.002
    weak = check_flavour(
        "weak", with_run["weak"], with_run["int8"], with_run["fp32"], tiny.samples(2)
    )
    assert weak.to_reference.mean_abs < 1e-5


def test_a_flavour_that_answers_otherwise_is_refused() -> None:
    def shifted(by: float):  # type: ignore[no-untyped-def]
        return lambda inputs: {"y": inputs["x"] + np.float32(by)}

    samples = [{"x": np.zeros(4, np.float32)}]
    with pytest.raises(StepError, match="the weak flavour does not answer like.*keep_fp32"):
        check_flavour("weak", shifted(0.03), shifted(0.01), shifted(0), samples)
    # further from its reference than allowed, but not from FP32
    parity = check_flavour("weak", shifted(-0.01), shifted(0.01), shifted(0), samples)
    assert parity.to_reference.mean_abs == pytest.approx(0.02)
    assert parity.excess == pytest.approx(0, abs=1e-6)


def test_a_pair_is_repeated_in_fp32_for_a_reader_that_needs_it() -> None:
    body = """q = QuantizeLinear (x, s, z)  d = DequantizeLinear (q, s, z)
              a = Relu (d)  b = Sigmoid (d)  y = Add (a, b)"""
    model = graph(body, s=0.01, z=ZERO)
    ranges = record_ranges(model, [{"x": ramp(1)}], threads=1)
    strong = make_strong(model, ranges, HalfPolicy(keep_fp32=("n_b",))).model
    view = GraphView(strong)
    kinds = [(q.node.op_type, str(q.scale.dtype)) for q in view.quantizers if q.scale is not None]
    assert Counter(kinds) == Counter(
        (op, kind)
        for op in ("QuantizeLinear", "DequantizeLinear")
        for kind in ("float16", "float32")
    )
    for q in view.quantizers:
        end = q.data if q.quantizes else q.node.outputs[0]
        assert view.element_type(end) == (FP16 if q.scale.dtype == np.float16 else FP32)
    assert np.abs(run(strong, ramp(1)) - run(model, ramp(1))).max() < 2e-3


def test_kept_nodes_save_what_fp16_would_lose() -> None:
    model = graph("a = Mul (x, c)  y = Div (a, c)", c=500.0)
    x = ramp(200)
    ranges = record_ranges(model, [{"x": x}], threads=1)
    careless = round_as_half(make_strong(model, dict.fromkeys(ranges, (0.0, 1.0))).model)
    careful = make_strong(model, ranges)
    assert np.isinf(run(careless, x)).any()
    assert set(careful.kept_fp32) == {"n_a", "n_y"}
    assert np.allclose(run(round_as_half(careful.model), x), x, rtol=1e-3)


def test_rounding_shows_what_onnx_runtime_hides() -> None:
    model = graph("y = Mul (x, x)")
    strong = make_strong(model, {"x": (0, 1), "y": (0, 1)}).model
    assert np.isinf(run(round_as_half(strong), ramp(300))).any()
    small = run(round_as_half(strong), ramp(1))
    assert (small == small.astype(np.float16)).all()


def test_strong_keeps_float_inputs_that_no_operator_takes_in_half() -> None:
    model = graph(
        'e = Concat <axis=0> (x, x)  y = Resize <mode="nearest"> (e, , k)',
        size="2,8",
        k=np.array([0.5, 1], np.float32),
    )
    ranges = record_ranges(model, [{"x": ramp(1)}], threads=1)
    strong = make_strong(model, ranges).model
    assert arrays(strong)["k"].dtype == np.float32
    assert np.allclose(run(strong, ramp(1)), run(model, ramp(1)), atol=1e-3)


def test_strong_stores_weights_that_came_with_their_quantizer() -> None:
    model = graph(
        """q = QuantizeLinear (x, s, z)  d = DequantizeLinear (q, s, z)
           p = QuantizeLinear <axis=1> (w, t, v)  e = DequantizeLinear <axis=1> (p, t, v)
           y = MatMul (d, e)""",
        s=0.01,
        z=ZERO,
        w=np.linspace(-1, 1, 64, dtype=np.float32).reshape(8, 8),
        t=np.full(8, 1 / 127, np.float32),
        v=np.zeros(8, np.int8),
    )
    ranges = record_ranges(model, [{"x": ramp(1)}], threads=1)
    result = make_strong(model, ranges)
    assert arrays(result.model)["p"].dtype == np.int8
    assert result.changes[-2:] != ()
    assert "w" not in arrays(result.model)
    assert np.abs(run(result.model, ramp(1)) - run(model, ramp(1))).max() < 5e-3


@pytest.mark.parametrize("make", [make_strong, lambda m, r: make_weak(m, (8, 6), r)])
def test_graphs_in_half_precision_are_refused(make) -> None:
    model = graph("y = Relu (x)")
    model.graph.input[0].type.tensor_type.elem_type = FP16
    with pytest.raises(StepError, match="half precision already.*FP16 'x'"):
        make(model, {"x": (0, 1), "y": (0, 1)})


def test_what_legalise_has_not_seen_is_refused() -> None:
    model = graph(PAIR, 13, s=0.1, z=np.uint8(0))
    with pytest.raises(StepError, match="'n_q' is not in the form.*uint8.*run legalise first"):
        make_strong(model, record_ranges(model, [{"x": ramp(1)}], threads=1))


def test_control_flow_stays_fp32_with_what_it_captures() -> None:
    branch = helper.make_graph(
        [helper.make_node("Exp", ["a"], ["inner"], name="n_exp")],
        "branch",
        [],
        [helper.make_tensor_value_info("inner", FP32, [2, 8])],
    )
    model = graph("a = Relu (x)  y = Relu (i)", t=np.array(True))
    model.graph.node.insert(
        1,
        helper.make_node("If", ["t"], ["i"], name="n_if", then_branch=branch, else_branch=branch),
    )
    ranges = record_ranges(model, [{"x": ramp(1)}], threads=1)
    result = make_strong(model, ranges)
    assert result.kept_fp32 == {"n_if": "control flow: its body stays FP32"}
    assert np.allclose(run(result.model, ramp(1)), run(model, ramp(1)), rtol=2e-3)


# --- weak ------------------------------------------------------------------------------------


def test_weak_weights_are_fp32_behind_their_own_pair(int8, ranges) -> None:
    before = int8.SerializeToString()
    result = make_weak(int8, (8, 6, 2), ranges)
    view = GraphView(result.model)
    assert int8.SerializeToString() == before
    assert (view.opset, result.model.ir_version) == (17, 8)
    kinds = {tensor.data_type for tensor in result.model.graph.initializer if tensor.dims}
    assert FP16 not in kinds
    levels = {q.node.outputs[0]: q for q in GraphView(int8).quantizers if q.constant}
    pairs = [q for q in view.quantizers if q.quantizes and q.constant]
    assert len(pairs) == len(levels)
    for q in view.quantizers:
        assert len(q.node.inputs) == 3
        assert q.stored == INT8
        assert q.paired or q.quantizes  # no DequantizeLinear on stored integers
    assert "LayerNormalization" in {node.op_type for node in view.nodes}
    assert (
        result.model.SerializeToString()
        == make_weak(int8, (8, 6, 2), ranges).model.SerializeToString()
    )


def test_weak_weights_give_the_very_levels(tiny, int8, ranges) -> None:
    weak = make_weak(int8, (8, 6, 2), ranges).model
    sample = tiny.samples(1, seed=3)[0]
    with (
        OrtSession(int8.SerializeToString(), threads=1) as before,
        OrtSession(weak.SerializeToString(), threads=1) as after,
    ):
        assert np.array_equal(before.run(sample)["saliency"], after.run(sample)["saliency"])


LN_BODIES = [
    # last axis with bias, two axes counted from the front, and without bias
    ("y = LayerNormalization <axis=-1, epsilon=0.001> (x, w, b)", "2,8", (8,)),
    ("y = LayerNormalization <axis=1> (x, w, b)", "2,4,8", (4, 8)),
    ("y = LayerNormalization (x, w)", "3,5,8", (8,)),
]


@pytest.mark.parametrize(("body", "size", "shape"), LN_BODIES)
@pytest.mark.parametrize("reach", [1e-4, 1.0, 3000.0])
def test_written_out_norms_are_exact_and_do_not_overflow(body, size, shape, reach) -> None:
    rng = np.random.default_rng(0)
    w, b = (rng.standard_normal(shape).astype(np.float32) for _ in range(2))
    model = graph(body, 17, size, w=w, **({"b": b} if ", b" in body else {}))
    x = (reach * rng.standard_normal([int(n) for n in size.split(",")])).astype(np.float32)
    calm = {"x": (-1.0, 1.0), "y": (-1.0, 1.0)}
    weak = make_weak(model, (8, 5, 2), calm)
    assert "LayerNormalization" not in {n.op_type for n in weak.model.graph.node}
    expected = run(model, x)
    assert np.allclose(run(weak.model, x), expected, atol=1e-5)
    if reach < 1e-3:
        return  # there the input itself is below FP16's normal numbers
    # the same in half precision throughout: the range alone must not make it infinite
    names = {n: (-1.0, 1.0) for node in weak.model.graph.node for n in node.output} | calm
    half = round_as_half(make_strong(weak.model, names).model)
    assert np.abs(run(half, x) - expected).max() < 0.02


def test_the_usual_way_to_write_it_out_does_overflow() -> None:
    model = graph(NORM, 17, e=1e-5)
    calm = dict.fromkeys("xsmary", (-1.0, 1.0))
    view = GraphView(model)
    assert len(find_hazards(view, calm)) == 5  # which is why they are kept
    halved = [n.name for n in model.graph.node]
    assert set(find_hazards(view, calm)) == set(halved)
    x = ramp(3000).astype(np.float16)
    with np.errstate(over="ignore"):
        assert np.isinf(x * x).any()


# body at opset 18 to 20, and what else it needs; all have an equivalent at 17
LOWERED = [
    ("a, b = Split <axis=1, num_outputs=2> (x)  y = Concat <axis=1> (b, a)", 18, {}),
    ("a, b, c = Split <axis=1, num_outputs=3> (x)  y = Concat <axis=1> (c, a, b)", 18, {}),
    ("a = ReduceMean (x, k)  y = Sub (x, a)", 18, {"k": np.array([1], np.int64)}),
    ("a = ReduceMax <keepdims=1> (x)  y = Sub (x, a)", 20, {}),
    ("a = Cast <to=6, saturate=1> (x)  y = Cast <to=1> (a)", 19, {}),
    ("y = Pad (x, k)", 19, {"k": np.zeros(4, np.int64)}),
    ('y = Resize <mode="nearest", antialias=0> (x, , k)', 18, {"k": np.ones(2, np.float32)}),
    ("a = Shape (x)  y = Reshape (x, a)", 19, {}),
]


@pytest.mark.parametrize(("body", "opset", "constants"), LOWERED)
def test_lowered_graphs_answer_alike(body, opset, constants) -> None:
    model = graph(body, opset, **constants)
    before = model.SerializeToString()
    lowered = lower_opset(model)
    onnx.checker.check_model(lowered, full_check=True)
    assert lowered.opset_import[0].version == 17
    assert np.array_equal(run(lowered, ramp(3)), run(model, ramp(3)))
    assert model.SerializeToString() == before


REFUSED = [
    ("y = Gelu (x)", 20, {}, "Gelu: the operator does not exist there"),
    ('y = Resize <mode="linear", antialias=1> (x, , k)', 18, {"k": np.ones(2, np.float32)}, "anti"),
    ('y = Pad <mode="wrap"> (x, k)', 19, {"k": np.zeros(4, np.int64)}, "mode=wrap"),
    ("a = ReduceMean <noop_with_empty_axes=1> (x)  y = Sub (x, a)", 18, {}, "it does nothing"),
]


@pytest.mark.parametrize(("body", "opset", "constants", "found"), REFUSED)
def test_what_has_no_equivalent_is_refused_by_name(body, opset, constants, found) -> None:
    with pytest.raises(
        StepError,
        match=f"'n_[ay]' cannot be carried from opset.*{found}.*JetPack|"
        f"'n_[ay]' cannot be carried from opset.*{found}.*TensorRT 10",
    ):
        lower_opset(graph(body, opset, **constants))


def test_a_newer_opset_is_refused() -> None:
    with pytest.raises(StepError, match="cannot be made from opset 21.*trace at opset 18"):
        lower_opset(graph("y = Relu (x)", 21))


# --- both, as a build makes them -------------------------------------------------------------


@pytest.mark.parametrize("target", ["orin-nano@6.2", "xavier-nx@5.1"])
def test_a_build_gets_both_flavours(tiny, int8, simplified, target) -> None:
    judged = parse_target(target)
    variants = {"fp32": simplified, "int8": int8}
    built = build_flavours(variants, "int8", judged, tiny.samples(4))
    engines = ("fp32", "fp16", "int8")
    assert set(built.flavours) == {f"{kind}.{e}" for kind in ("strong", "weak") for e in engines}
    assert built.missing == ()
    assert built.flavours[f"{judged.flavour}.int8"].target == judged
    for name, one in built.flavours.items():
        assert one.lint.ok
        assert one.parity.to_reference.mean_abs < 0.002
        record = one.record("f.onnx")
        assert record.samples == 4
        assert ("int8" in record.precisions) == name.endswith("int8")
        assert ("fp16" in record.precisions) != name.endswith("fp32")
    both = [built.flavours[f"{kind}.int8"].result.precisions for kind in ("strong", "weak")]
    assert both[0] == both[1]  # one precision map


def test_engines_above_the_precision_asked_for_are_not_prepared(tiny, simplified) -> None:
    variants, target = {"fp32": simplified}, parse_target("orin-nano@6.2")
    assert set(build_flavours(variants, "fp32", target, tiny.samples(2)).flavours) == {
        "strong.fp32",
        "weak.fp32",
    }


def test_the_other_flavour_may_be_missing_and_says_why() -> None:
    variants = {"fp32": graph("y = Gelu (x)", 20)}
    built = build_flavours(variants, "fp32", parse_target("orin-nano@6.2"), [{"x": ramp(1)}])
    assert set(built.flavours) == {"strong.fp32"}
    (why,) = built.missing
    assert "no weak.fp32 flavour: 'n_y' cannot be carried from opset 20 to 17" in why
    with pytest.raises(StepError, match="'n_y' cannot be carried"):
        build_flavours(variants, "fp32", parse_target("xavier-nx@5.1"), [{"x": ramp(1)}])


def test_a_flavour_that_breaks_a_rule_of_its_target_is_refused() -> None:
    model = graph("y = Bernoulli (x)", 18)
    with pytest.raises(StepError, match="lint: TensorRT on orin-nano@6.2 would refuse.*OPS001"):
        target = parse_target("orin-nano@6.2")
        build_flavours({"fp32": model}, "fp16", target, [{"x": ramp(0) + 0.5}])
