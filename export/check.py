"""Lint whatever the user points at: a bundle, with all its variants, or a single ONNX file."""

from __future__ import annotations

from pathlib import Path

from edge_fusion.bundle import Bundle
from edge_fusion.target import parse_target

from .lint import LintReport, lint
from .load import parse_onnx, read_onnx


def check_path(path: Path, target: str) -> dict[str, LintReport]:
    """Lint a bundle or an ONNX file.

    Args:
        path: A bundle's folder or ``.tar``, or an ``.onnx`` file.
        target: Board and JetPack.

    Returns:
        A report for every graph, by variant or file name.

    Raises:
        TargetError: The board or JetPack is unknown.
        BundleError: The bundle is missing or damaged.
        ModelError: The file, or a model in the bundle, is no ONNX graph.

    Example:
        >>> check_path(Path("mine.onnx"), "orin-nano")["mine.onnx"].ok  # doctest: +SKIP
        True
    """
    judged = parse_target(target)
    if path.suffix == ".onnx":
        return {path.name: lint(read_onnx(path), judged)}
    bundle = Bundle.read(path)
    return {
        variant: lint(parse_onnx(bundle.model_bytes(variant), f"{variant} in {path}"), judged)
        for variant in bundle.variants
    }


def finding_rows(report: LintReport) -> list[tuple[str, str, str, str, str]]:
    """The findings as cells: rule, severity, node, what was found, cure.

    Example:
        >>> finding_rows(LintReport("orin-nano", "10.3", ()))
        []
    """
    return [
        (item.rule_id, item.severity, item.node, item.found, item.cure) for item in report.findings
    ]
