"""Lint whatever the user points at: a bundle, with all its variants, or a single ONNX file."""

from __future__ import annotations

from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from edge_fusion.bundle import Bundle
from edge_fusion.errors import ModelError
from edge_fusion.target import parse_target

from .lint import LintReport, lint


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
        ModelError: The file is no ONNX graph.
    """
    judged = parse_target(target)
    if path.suffix == ".onnx":
        return {path.name: lint(_read(path), judged)}
    bundle = Bundle.read(path)
    return {
        variant: lint(onnx.load_model_from_string(bundle.model_bytes(variant)), judged)
        for variant in bundle.variants
    }


def finding_rows(report: LintReport) -> list[tuple[str, str, str, str, str]]:
    """The findings as cells: rule, severity, node, what was found, cure."""
    return [
        (item.rule_id, item.severity, item.node, item.found, item.cure) for item in report.findings
    ]


def _read(path: Path) -> onnx.ModelProto:
    try:
        model = onnx.load(path)
    except (OSError, DecodeError, onnx.checker.ValidationError) as err:
        raise ModelError(
            f"cannot read {path}", expected="an ONNX file", got=str(err).split("\n")[0]
        ) from err
    if not model.graph.node:
        raise ModelError(f"{path} holds no graph", expected="an ONNX file", cure="is it truncated?")
    return model
