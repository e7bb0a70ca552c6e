"""Range estimators by class of tensor: names, classes, mixed scales, and the choice by data."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import numpy_helper, parser

from edge_fusion.errors import CalibrationError, InputError, StepError
from edge_fusion.export.choose_estimators import choose_estimators
from edge_fusion.export.estimator_names import (
    CLASSES,
    ESTIMATORS,
    check_estimators,
    parse_estimators,
)
from edge_fusion.export.estimators import classify, mix_scales
from edge_fusion.export.options import BuildOptions
from edge_fusion.export.precision import plan_precision
from edge_fusion.export.progress import quiet
from edge_fusion.export.quantize import QuantizeOptions, quantize


def scales(model: onnx.ModelProto) -> dict[str, float]:
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return {
        node.input[1]: float(values[node.input[1]].reshape(()))
        for node in model.graph.node
        if node.op_type == "QuantizeLinear"
    }


@pytest.fixture(scope="module")
def by_estimator(tiny, simplified) -> dict[str, onnx.ModelProto]:
    return {
        name: quantize(
            simplified, tiny.samples(8), tiny.SPEC, QuantizeOptions(estimator=name)
        ).model
        for name in ("mean_minmax", "minmax")
    }


@pytest.mark.parametrize("given", [["kl"], ["head=minmax"], ["fusion=kl"], ["fusion="]])
def test_unknown_names_are_refused_with_those_there_are(given: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        parse_estimators(given)
    assert given[0] in str(caught.value)
    assert any(name in str(caught.value) for name in (*ESTIMATORS, *CLASSES))


@pytest.mark.parametrize(
    "given", [["minmax", "histogram"], ["fusion=minmax", "fusion=minmax"], ["auto", "minmax"]]
)
def test_contradictions_are_refused(given: list[str]) -> None:
    with pytest.raises(InputError):
        check_estimators(given)


def test_an_estimator_needs_int8(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--estimator is for --precision int8"):
        BuildOptions("mutualformer-mobilenetv2", tmp_path, precision="fp32", estimator=("minmax",))


def test_classes_follow_the_streams(by_estimator) -> None:
    found = classify(by_estimator["mean_minmax"])
    assert set(found) == set(scales(by_estimator["mean_minmax"]))
    assert set(found.values()) == set(CLASSES)
    for scale, group in found.items():
        if "LayerNormalization" in scale:
            assert group == "fusion"
        if "decoder" in scale:
            assert group == "decoder"


def test_what_meets_in_a_concat_is_of_one_class() -> None:
    model = parser.parse_model("""
        <ir_version: 8, opset_import: ["": 17]>
        g (float[1, 4] a, float[1, 4] b) => (float[1, 2] y, float[1, 2] z)
        <float sa = {0.1}, float sb = {0.2}, int8 zero = {0}, float[8, 2] w, float[4, 2] v>
        {
            qa = QuantizeLinear (a, sa, zero)
            da = DequantizeLinear (qa, sa, zero)
            qb = QuantizeLinear (b, sb, zero)
            db = DequantizeLinear (qb, sb, zero)
            y1 = MatMul (da, v)
            both = Concat <axis = 1> (da, db)
            y2 = MatMul (both, w)
            y = Identity (y1)
            z = Identity (y2)
        }""")
    assert classify(model) == {"sa": "encoder", "sb": "encoder"}


def test_a_class_takes_the_scales_of_its_estimator_and_no_other(tiny, simplified, by_estimator):
    options = QuantizeOptions(by_class={"fusion": "minmax"})
    mixed = quantize(simplified, tiny.samples(8), tiny.SPEC, options).model
    classes = classify(mixed)
    found, plain, wide = (
        scales(one) for one in (mixed, by_estimator["mean_minmax"], by_estimator["minmax"])
    )
    expected = {name: (wide if classes[name] == "fusion" else plain)[name] for name in found}
    assert found == expected
    assert found != plain


def test_mixing_never_changes_what_it_mixes(by_estimator) -> None:
    before = {name: model.SerializeToString() for name, model in by_estimator.items()}
    mix_scales(by_estimator, "mean_minmax", {"decoder": "minmax"})
    assert {name: model.SerializeToString() for name, model in by_estimator.items()} == before


def test_graphs_that_differ_are_not_mixed(by_estimator) -> None:
    other = onnx.ModelProto()
    other.CopyFrom(by_estimator["minmax"])
    node = next(node for node in other.graph.node if node.op_type == "QuantizeLinear")
    node.name = "elsewhere"
    with pytest.raises(StepError, match="another graph"):
        mix_scales(by_estimator | {"minmax": other}, "mean_minmax", {"decoder": "minmax"})


def test_an_unknown_class_is_refused() -> None:
    with pytest.raises(StepError, match="class of tensors"):
        QuantizeOptions(by_class={"head": "minmax"})  # type: ignore[dict-item]


def test_too_few_pairs_cannot_choose(tiny, simplified) -> None:
    plan = plan_precision(simplified)
    with pytest.raises(CalibrationError, match="too few"):
        choose_estimators(simplified, tiny.samples(7), tiny.SPEC, plan, quiet)


@pytest.mark.slow
def test_the_choice_is_the_best_of_what_was_tried_and_repeats(
    tiny, simplified, monkeypatch
) -> None:
    monkeypatch.setattr(
        "edge_fusion.export.choose_estimators.CANDIDATES", ("mean_minmax", "minmax", "histogram")
    )
    plan = plan_precision(simplified)
    settings, record = choose_estimators(simplified, tiny.samples(8), tiny.SPEC, plan, quiet)
    assert (record.ranged, record.held_out) == (6, 2)
    again = choose_estimators(simplified, tiny.samples(8), tiny.SPEC, plan, quiet)
    assert again == (settings, record)
    best = record.figures["mean_minmax"]
    for group in ("fusion", "decoder", "encoder"):
        tried = {k: v for k, v in record.figures.items() if k.startswith(f"{group}=")}
        assert len(tried) == 2
        name = f"{group}={record.chosen[group]}"
        if name in tried:
            assert tried[name] == min(tried.values()) < best
            best = tried[name]
        else:
            assert min(tried.values()) >= best * 0.98
