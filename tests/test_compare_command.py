"""``compare`` as a user meets it: variants of any origin, gates, notes, JSON and bad input."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from edge_fusion.bundle import Bundle
from edge_fusion.runtime import compare
from edge_fusion.runtime.comparison_schema import ComparisonDocument
from tests.conftest import MODELS
from tests.test_cli import invoke

DEMO = "demo://?frames=3&size=64x48&seed=3"
QUICK = ("--data", DEMO, "--repeats", "10")


@pytest.fixture
def no_children(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory takes a process for each variant; it has tests of its own."""
    monkeypatch.setattr(compare, "peak_memory", lambda *arguments: None)


def test_bundles_and_files_mix_and_the_json_meets_its_schema(
    tiny_bundle: Bundle, tmp_path: Path
) -> None:
    other, told = tmp_path / "other", tmp_path / "c.json"
    shutil.copytree(tiny_bundle.path, other)
    variants = f"fp32,{other}:int8,half={MODELS / 'tiny.fp16.onnx'}"
    result = invoke(
        "compare", tiny_bundle.path, *QUICK, "--variants", variants, "--json", told, "--html",
        tmp_path / "r.html",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    found = ComparisonDocument.model_validate_json(told.read_text())
    assert found.variants == ["fp32", "other:int8", "half"]
    assert all(cost.memory is not None for cost in found.costs.values())
    assert "other:INT8" in result.output
    assert "ran without 8-bit arithmetic" in " ".join(result.output.split())
    assert "half" in (tmp_path / "r.html").read_text()


@pytest.mark.parametrize(
    ("options", "code", "complaint"),
    [
        (("--min-speedup", "1.1"), 2, "cannot be judged for int8.*--speed-as-it-ran"),
        (("--min-speedup", "int8=0.001", "--speed-as-it-ran"), 0, ""),
        (("--min-speedup", "999", "--speed-as-it-ran"), 1, "speedup 999 is missed by int8"),
        (("--min-speedup", "999", "--require", "iou=1"), 1, "iou=1 is missed.*cannot be judged"),
        (("--min-speedup", "int9=1.1"), 2, "expected int8, got 'int9'"),
        (("--repeats", "0", "--min-speedup", "1.1"), 2, "26 timed runs or more.*got 0"),
    ],
)
def test_gates_on_speed(
    tiny_bundle: Bundle, no_children: None, options: tuple[str, ...], code: int, complaint: str
) -> None:
    result = invoke("compare", tiny_bundle.path, *QUICK, "--repeats", "30", *options)
    assert result.exit_code == code, result.output
    assert re.search(complaint, " ".join(result.output.split()))
    assert "Traceback" not in result.output


def test_the_help_says_which_end_of_the_interval_counts() -> None:
    text = " ".join(re.sub(r"[^\w%.,]+", " ", invoke("compare", "--help").output).split())
    assert "even the lower end of the 95 % interval must reach it" in text


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--data", DEMO), "is there twice"),
        (("--variants", "fp32"), "two or more different ones"),
        (("--variants", "fp32,,int8"), "an empty name"),
        (("--variants", "fp32,in8"), "has no variant in8"),
        (("--variants", "fp32,trt:"), "expected .*LABEL=.*BACKEND:.*VARIANT"),
        (("--variants", "fp32,nowhere.onnx"), "cannot read ONNX file 'nowhere.onnx'"),
        (("--variants", "fp32,nowhere/b:int8"), "no bundle 'nowhere/b'"),
        (("--variants", f"fp32,trt:{MODELS / 'tiny.fp16.onnx'}"), "cannot run on TensorRT"),
        (("--max-drop", "mae"), "METRIC=VALUE"),
    ],
)
def test_bad_input_is_one_readable_message_before_any_measuring(
    tiny_bundle: Bundle, tmp_path: Path, options: tuple[str, ...], complaint: str
) -> None:
    told = tmp_path / "c.json"
    result = invoke("compare", tiny_bundle.path, *QUICK, "--json", told, *options)
    assert result.exit_code == 2, result.output
    assert re.search(complaint, " ".join(result.output.split()))
    assert "Traceback" not in result.output
    assert "of 3" not in result.output
    assert not told.exists()


def test_one_pair_says_that_no_interval_can_be_given(
    tiny_bundle: Bundle, no_children: None
) -> None:
    result = invoke("compare", tiny_bundle.path, *QUICK, "--limit", "1", "--json", "-")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["pooled"]["changes"]["int8"]["raw"]["mae"]["interval"] is None
    assert "95 % intervals need at least two" in result.stderr
