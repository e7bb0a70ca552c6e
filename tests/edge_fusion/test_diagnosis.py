"""The record of a diagnosis goes through JSON unharmed, and refuses what it is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_fusion.diagnosis import MOST_DB, Diagnosis, Finding, LayerError, Revert, read_diagnosis
from edge_fusion.errors import InputError


def layer(name: str, error: float | None) -> LayerError:
    return LayerError(
        name=name,
        kind="Conv",
        position=3,
        int8=error is not None,
        accumulated_sqnr_db=MOST_DB,
        saliency_error=error,
    )


def diagnosis() -> Diagnosis:
    finding = Finding(
        cause="clipping",
        layer="late",
        tensor="x",
        evidence="3 % of the values lie beyond the range",
        figures={"beyond": 0.03},
        cure="--keep-fp16 'late'",
    )
    return Diagnosis(
        created_utc="2026-01-01T00:00:00+00:00",
        bundle="b",
        model="m",
        sources=("folder://pairs",),
        samples=4,
        saliency_error=0.02,
        layers=(layer("early", 0.001), layer("softmax", None), layer("late", 0.02)),
        findings=(finding,),
        reverts=(Revert(layers=("late",), saliency_error=0.001),),
        conclusion="'late' clips",
    )


def test_a_diagnosis_survives_json(tmp_path: Path) -> None:
    written = diagnosis()
    path = tmp_path / "diagnosis.json"
    path.write_text(written.model_dump_json(), encoding="utf-8")
    assert read_diagnosis(path) == written


def test_the_worst_come_first_and_float_layers_are_no_candidates() -> None:
    assert [one.name for one in diagnosis().worst()] == ["late", "early"]
    assert [one.name for one in diagnosis().worst(1)] == ["late"]


def test_findings_are_looked_up_by_layer() -> None:
    assert [found.cause for found in diagnosis().findings_of("late")] == ["clipping"]
    assert not diagnosis().findings_of("early")


@pytest.mark.parametrize("text", ["", "[]", '{"schema_version": 1}', '{"schema_version": 2}'])
def test_what_is_no_diagnosis_is_refused_with_the_command_that_writes_one(
    tmp_path: Path, text: str
) -> None:
    path = tmp_path / "other.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="edge-fusion diagnose"):
        read_diagnosis(path)


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.json"):
        read_diagnosis(tmp_path / "none.json")
