"""The lint table, its report and what it walks through; the rules have files of their own."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edge_fusion.export.lint import RULES, Finding, LintReport, lint, rules_table
from edge_fusion.export.lint_page import lint_page
from edge_fusion.target import parse_target

ORIN, ORIN60 = "orin-nano@6.2", "orin-nano@6.0"


def conv(G: Any, opset: int = 17, channels: int = 32, **act: Any) -> Any:
    g = G(opset)
    x = g.qdq(g.input(shape=(1, channels, 8, 8)), **act)
    return g.out(g.op("Conv", x, g.weight_dq(32, channels, 3, 3)))


def concat(G: Any, second: float) -> Any:
    g = G()
    a, b = g.qdq(g.input("a"), 0.05), g.qdq(g.input("b"), second)
    return g.out(g.op("Concat", a, b, axis=1, name="cat"))


def find(report: LintReport, rule: str) -> list[Finding]:
    return [finding for finding in report.findings if finding.rule_id == rule]


def test_rule_ids_are_unique_and_the_table_is_plain_text() -> None:
    table = rules_table()
    assert len({row["id"] for row in table}) == len(table) == len(RULES)
    assert all(value and isinstance(value, str) for row in table for value in row.values())
    versions = {row["id"]: row["versions"] for row in table}
    assert versions["QDQ013"] == "TensorRT < 10"
    assert versions["FP16001"] == "TensorRT >= 8.6"


def test_a_clean_int8_graph_has_no_findings_at_all(new_graph: Any) -> None:
    report = lint(conv(new_graph).model(), parse_target(ORIN))
    assert report.ok
    assert report.findings == ()


def test_warnings_leave_a_report_ok(new_graph: Any) -> None:
    report = lint(concat(new_graph, 0.1).model(), parse_target(ORIN))
    assert report.ok
    assert [finding.rule_id for finding in report.of("warning")] == ["PRF002"]


def test_a_report_goes_through_json_and_its_findings_read_as_sentences(new_graph: Any) -> None:
    report = lint(conv(new_graph, kind=np.uint8).model(), parse_target(ORIN))
    data = json.loads(json.dumps(report.as_dict()))
    assert data["target"] == "orin-nano@6.2"
    assert data["ok"] is False
    assert data["counts"] == {"error": 2}
    assert data["findings"][0]["rule_id"] == "QDQ001"
    assert str(report.findings[0]) == (
        "QDQ001 error at n_quantizelinear0: 'x' is quantized to uint8; "
        "run legalise, which rescales uint8 to int8"
    )


def test_a_node_without_a_name_is_called_by_its_place_and_output(new_graph: Any) -> None:
    g = new_graph()
    g.input()
    g.op("Relu", "x", name="")
    finding = lint(g.out(g.op("Bernoulli", "relu0", name="")).model(), parse_target(ORIN)).findings[
        0
    ]
    assert finding.node == "#1 Bernoulli -> bernoulli1"


def test_bodies_of_control_flow_are_judged_too(new_graph: Any) -> None:
    body = helper.make_graph(
        [helper.make_node("Bernoulli", ["x"], ["inner"], name="hidden")],
        "body",
        [],
        [helper.make_tensor_value_info("inner", 1, None)],
    )
    g = new_graph()
    g.input()
    flag = g.const(True, dtype=bool)
    other = onnx.GraphProto.FromString(body.SerializeToString())
    other.node[0].output[0] = other.output[0].name = "inner2"
    other.node[0].name = "hidden2"
    model = g.out(g.op("If", flag, then_branch=body, else_branch=other)).model()
    found = find(lint(model, parse_target(ORIN)), "OPS001")
    assert {finding.node for finding in found} == {"hidden", "hidden2"}


def test_local_functions_are_read_from_tensorrt_9_on(new_graph: Any) -> None:
    g = new_graph()
    model = g.out(g.op("Twice", g.input(), domain="local")).model()
    node = helper.make_node("Add", ["a", "a"], ["b"])
    model.functions.append(
        helper.make_function("local", "Twice", ["a"], ["b"], [node], [helper.make_opsetid("", 17)])
    )
    assert find(lint(model, parse_target(ORIN)), "OPS002") == []
    assert find(lint(model, parse_target(ORIN60)), "OPS002")[0].node == "n_twice0"


def test_lint_does_not_change_the_model(new_graph: Any) -> None:
    model = conv(new_graph, kind=np.uint8).model()
    before = model.SerializeToString()
    lint(model, parse_target(ORIN))
    assert model.SerializeToString() == before


def test_a_large_model_is_judged_in_about_a_second(new_graph: Any) -> None:
    g = new_graph()
    x = g.input(shape=(1, 64, 8, 8))
    weight = np.zeros((64, 64, 3, 3), np.float32)
    for _ in range(500):  # 2000 nodes, 74 MB
        x = g.op("Relu", g.op("Conv", g.qdq(x), g.const(weight), pads=[1] * 4))
    model = g.out(x).model()
    start = time.perf_counter()
    assert lint(model, parse_target(ORIN)).ok
    assert time.perf_counter() - start < 5  # about 0.2 s alone; the margin is for a busy machine


def test_constant_nodes_count_as_constants(new_graph: Any) -> None:
    g = new_graph()
    g.input()
    value = numpy_helper.from_array(np.float32(0.05))
    scale = g.op("Constant", value=value)
    model = g.out(g.qdq("x", g.op("Identity", scale))).model()
    assert lint(model, parse_target(ORIN)).findings == ()


def test_the_page_of_documentation_is_written_from_the_table() -> None:
    page = Path(__file__).resolve().parents[3] / "export" / "LINT.md"
    assert page.read_text() == lint_page(), "write it anew: python -m edge_fusion.export.lint_page"
    assert all(f"**{rule.id}** ({rule.severity}" in lint_page() for rule in RULES)
