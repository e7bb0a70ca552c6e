"""Linting what a user points at: files and bundles, whole and damaged."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import onnx
import pytest

from edge_fusion.bundle import Bundle
from edge_fusion.errors import BundleError, EngineError, ModelError, TargetError
from edge_fusion.export import check as module
from edge_fusion.export.check import check_path, finding_rows, witness_rows
from edge_fusion.export.witness import Verdict, WitnessReport


@pytest.fixture
def file(tmp_path: Path, traced: onnx.ModelProto) -> Path:
    onnx.save(traced, tmp_path / "own.onnx")
    return tmp_path / "own.onnx"


def test_a_file_is_judged_under_its_name(file: Path) -> None:
    reports = check_path(file, "orin-nano@6.2")
    assert list(reports) == ["own.onnx"]
    assert reports["own.onnx"].ok
    assert reports["own.onnx"].witness is None


def test_findings_come_as_cells(file: Path) -> None:
    report = check_path(file, "xavier-nx@5.1")["own.onnx"].lint
    rows = finding_rows(report)
    assert len(rows) == len(report.findings) > 0
    assert rows[0][:2] == (report.findings[0].rule_id, "error")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not a model", r"cannot read .*own\.onnx as an ONNX model.*is the file complete"),
        (b"", r"own\.onnx holds no graph.*complete"),
    ],
)
def test_damaged_files_are_named(file: Path, content: bytes, message: str) -> None:
    file.write_bytes(content)
    with pytest.raises(ModelError, match=message):
        check_path(file, "orin-nano")


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no model file .*none\.onnx"):
        check_path(tmp_path / "none.onnx", "orin-nano")
    with pytest.raises(BundleError, match="none"):
        check_path(tmp_path / "none", "orin-nano")


def test_an_unknown_target_is_named_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(TargetError):
        check_path(tmp_path / "none.onnx", "toaster")


class FakeBundle:
    """A bundle whose hashes are right and whose model is none."""

    path = Path("bundle")

    class manifest:
        precision = "int8"
        flavours: ClassVar[dict[str, object]] = {
            "strong.int8": SimpleNamespace(file="model.strong.int8.onnx")
        }

    def file(self, name: str) -> bytes:
        return b"not a model"


def test_a_model_in_a_bundle_that_is_none_is_named(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(Bundle, "read", lambda path: FakeBundle())
    with pytest.raises(ModelError, match=r"cannot read model\.strong\.int8\.onnx in .*bundle as"):
        check_path(tmp_path / "bundle", "orin-nano")


def test_a_bundle_without_a_graph_for_the_target_is_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(Bundle, "read", lambda path: FakeBundle())
    with pytest.raises(EngineError, match=r"no graph for an.* int8.* under TensorRT 8"):
        check_path(tmp_path / "bundle", "xavier-nx")


def verdicts(*outcomes: str) -> WitnessReport:
    return WitnessReport(
        "1.7", tuple(Verdict(f"8.{i}", o, "parse", reason="why") for i, o in enumerate(outcomes))
    )


def test_what_the_witness_alone_refuses_fails_the_check(file: Path, monkeypatch) -> None:
    heard = verdicts("ok", "refused")
    monkeypatch.setattr(module, "witness_all", lambda graphs: dict.fromkeys(graphs, heard))
    check = check_path(file, "orin-nano@6.2", witness=True)["own.onnx"]
    assert check.lint.ok
    assert not check.ok
    assert [row[0] for row in witness_rows(check)] == ["8.0", "8.1"]
    assert "lint accepts, witness refused: why" in witness_rows(check)[1][2]
    assert check.as_dict()["witness"]["ok"] is False


def test_a_witness_that_agrees_passes(file: Path, monkeypatch) -> None:
    heard = verdicts("ok", "ok")
    monkeypatch.setattr(module, "witness_all", lambda graphs: dict.fromkeys(graphs, heard))
    check = check_path(file, "orin-nano@6.2", witness=True)["own.onnx"]
    assert check.ok
    assert check.disagreements == ()
