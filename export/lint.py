"""Judge an ONNX graph by the rules of a target's TensorRT, without TensorRT and without a GPU.

The rules are a table (``RULES``); each has a stable id, a severity, a reason, a cure and the
versions it holds for.  :func:`lint` walks the table, :func:`rules_table` prints it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import onnx

from edge_fusion.target import Target

from .graph import GraphView
from .lint_graph import GRAPH_RULES
from .lint_operators import OPERATOR_RULES
from .lint_qdq import QDQ_RULES
from .lint_rules import Rule, Severity
from .lint_speed import SPEED_RULES

RULES: tuple[Rule, ...] = (*QDQ_RULES, *OPERATOR_RULES, *GRAPH_RULES, *SPEED_RULES)

_STOPS = "EXT001"  # without the weights' values no other rule can be judged


@dataclass(frozen=True, slots=True)
class Finding:
    """One broken rule at one place: what was found there and what to do about it."""

    rule_id: str
    severity: Severity
    node: str
    found: str
    cure: str

    def __str__(self) -> str:
        return f"{self.rule_id} {self.severity} at {self.node}: {self.found}; {self.cure}"


@dataclass(frozen=True, slots=True)
class LintReport:
    """Every finding about one graph for one target, in the order of the rules."""

    target: str
    tensorrt: str
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether TensorRT takes the graph and reads it rightly: there is no error."""
        return not self.of("error")

    def of(self, severity: Severity) -> tuple[Finding, ...]:
        """The findings of one severity."""
        return tuple(finding for finding in self.findings if finding.severity == severity)

    def as_dict(self) -> dict[str, Any]:
        """The report for JSON: target, ok, counts by severity, findings."""
        return {
            "target": self.target,
            "tensorrt": self.tensorrt,
            "ok": self.ok,
            "counts": dict(Counter(finding.severity for finding in self.findings)),
            "findings": [asdict(finding) for finding in self.findings],
        }


def lint(model: onnx.ModelProto, target: Target) -> LintReport:
    """Judge a graph by every rule that holds for the target.

    Args:
        model: An ONNX model with its weights inside; it is not changed.
        target: A board and its software, from :func:`edge_fusion.target.parse_target`.

    Returns:
        The findings; ``report.ok`` is False if TensorRT would refuse the graph or misread it.

    Example:
        >>> from onnx import parser
        >>> from edge_fusion.target import parse_target
        >>> model = parser.parse_model('''
        ...     <ir_version: 8, opset_import: ["": 17]>
        ...     g (float[N, 4] x) => (float[N, 4] y) { y = Relu (x) }''')
        >>> report = lint(model, parse_target("orin-nano@6.2"))
        >>> report.ok, [str(finding) for finding in report.findings]  # doctest: +ELLIPSIS
        (False, ["SHP001 error at input 'x': axis 0 is N; export with the size ..."])
    """
    view = GraphView(model)
    rules = [rule for rule in RULES if target.tensorrt in rule.versions]
    first = [rule for rule in rules if rule.id == _STOPS]
    findings = _findings(first, view, target)
    if not findings:
        findings = _findings(rules, view, target)
    return LintReport(target.name, target.tensorrt_text, findings)


def _findings(rules: list[Rule], view: GraphView, target: Target) -> tuple[Finding, ...]:
    return tuple(
        Finding(rule.id, rule.severity, hit.node, hit.found, hit.cure or rule.cure)
        for rule in rules
        for hit in rule.check(view, target)
    )


def rules_table() -> list[dict[str, str]]:
    """The rules as text, for documentation and JSON.

    Example:
        >>> rules_table()[0]["id"], rules_table()[0]["severity"], rules_table()[0]["versions"]
        ('QDQ001', 'error', 'all')
    """
    return [
        {
            "id": rule.id,
            "severity": rule.severity,
            "title": rule.title,
            "why": rule.why,
            "cure": rule.cure,
            "versions": str(rule.versions),
        }
        for rule in RULES
    ]
