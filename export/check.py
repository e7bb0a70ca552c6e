"""Check whatever the user points at: a bundle's graphs for a target, or a single ONNX file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from edge_fusion.bundle import Bundle
from edge_fusion.engine import EngineOptions, engine_source
from edge_fusion.target import Target, parse_target

from .lint import LintReport, lint
from .load import parse_onnx, read_onnx
from .witness import Disagreement, WitnessReport, compare_with_lint, witness_all

FINDING_COLUMNS = ("rule", "severity", "node", "found", "cure")


@dataclass(frozen=True, slots=True)
class GraphCheck:
    """What is said of one graph.

    Attributes:
        lint: The verdict of our rules.
        witness: That of TensorRT-RTX, None where it was not asked.
        disagreements: Where the two part.
    """

    lint: LintReport
    witness: WitnessReport | None = None
    disagreements: tuple[Disagreement, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the lint found no error, and the witness refused nothing without known reason."""
        return not self.failure

    @property
    def failure(self) -> str:
        """What stands against the graph, in a few words; empty where it is fine."""
        errors = len(self.lint.of("error"))
        refusing = [one.sm for one in self.disagreements if one.lint_ok and not one.known]
        parts = [f"{errors} errors of the lint"] if errors else []
        parts += [f"TensorRT-RTX refuses it for SM {' and '.join(refusing)}"] if refusing else []
        return ", ".join(parts)

    def as_dict(self) -> dict[str, Any]:
        """The check for JSON: the lint's report and, where asked for, the witness's."""
        report = {**self.lint.as_dict(), "ok": self.ok}
        if self.witness is not None:
            report["witness"] = self.witness.as_dict()
            report["disagreements"] = [str(one) for one in self.disagreements]
        return report


def check_path(path: Path, target: str, *, witness: bool = False) -> dict[str, GraphCheck]:
    """Lint a bundle or an ONNX file, and have TensorRT-RTX build it where asked for.

    Of a bundle the graphs are judged that the target's TensorRT reads: the flavours of its kind.

    Args:
        path: A bundle's folder or ``.tar``, or an ``.onnx`` file.
        target: Board and JetPack.
        witness: Whether TensorRT-RTX parses and builds every graph, too.

    Returns:
        A check for every graph, by flavour or file name.

    Raises:
        TargetError: The board or JetPack is unknown.
        BundleError: The bundle is missing or damaged.
        EngineError: It carries no graph that the target's TensorRT reads.
        ModelError: The file, or a model in the bundle, is no ONNX graph.
        MissingDependencyError: The witness is asked for and not installed.

    Example:
        >>> check_path(Path("mine.onnx"), "orin-nano")["mine.onnx"].ok  # doctest: +SKIP
        True
    """
    judged = parse_target(target)
    graphs = _graphs(path, judged)
    reports = {name: lint(graph, judged) for name, graph in graphs.items()}
    if not witness:
        return {name: GraphCheck(report) for name, report in reports.items()}
    heard = witness_all(graphs)
    return {
        name: GraphCheck(report, heard[name], compare_with_lint(heard[name], report))
        for name, report in reports.items()
    }


def _graphs(path: Path, target: Target) -> dict[str, onnx.ModelProto]:
    """The graphs to judge; flavours that share a file stand under all their names."""
    if path.suffix.lower() == ".onnx":
        return {path.name: read_onnx(path)}
    bundle = Bundle.read(path)
    precision = bundle.manifest.precision
    engine_source(bundle, EngineOptions(precision=precision, flavour=target.flavour))  # or refused
    names: dict[str, list[str]] = {}
    for name, record in bundle.manifest.flavours.items():
        if name.startswith(f"{target.flavour}."):
            names.setdefault(record.file, []).append(name)
    return {
        ", ".join(listed): parse_onnx(bundle.file(file), f"{file} in {path}")
        for file, listed in names.items()
    }


def finding_rows(report: LintReport) -> list[tuple[str, str, str, str, str]]:
    """The findings as cells under :data:`FINDING_COLUMNS`.

    Example:
        >>> finding_rows(LintReport("orin-nano", "10.3", ()))
        []
    """
    return [
        (item.rule_id, item.severity, item.node, item.found, item.cure) for item in report.findings
    ]


def witness_rows(check: GraphCheck) -> list[tuple[str, str, str]]:
    """The witness's verdicts as cells: architecture, verdict, where it parts from the lint."""
    if check.witness is None:
        return []
    parts = {one.sm: str(one) for one in check.disagreements}
    return [
        (verdict.sm, str(verdict), parts.get(verdict.sm, "")) for verdict in check.witness.verdicts
    ]
