"""``edge-fusion diagnose`` as a user meets it: a table, a sentence, JSON, and readable refusals."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from edge_fusion.__main__ import app
from edge_fusion.bundle import GOLDEN_NAME, Bundle, write_bundle
from edge_fusion.diagnosis import read_diagnosis

pytest.importorskip("onnx")

DEMO = "demo://?frames=6&size=64x48&seed=3"


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def rewritten(bundle: Bundle, path: Path, **changed: object) -> Bundle:
    """The same bundle with fields of its manifest replaced."""
    files = {name: bundle.file(name) for name in bundle.manifest.files}
    return write_bundle(path, bundle.manifest.model_copy(update=changed), files)


def test_it_prints_the_layers_and_a_conclusion_and_writes_the_record(
    tiny_bundle: Bundle, tmp_path: Path
) -> None:
    place = tmp_path / "diagnosis.json"
    result = invoke("diagnose", tiny_bundle.path, "--data", DEMO, "--samples", 2, "--json", place)
    assert result.exit_code == 0, result.output
    assert "depth/Conv" in result.output
    record = read_diagnosis(place)
    assert {layer.name for layer in record.worst()} == {"rgb/Conv", "depth/Conv"}
    assert record.samples == 2
    assert record.bundle == "tiny"
    assert record.sources == (DEMO,)
    assert record.conclusion in result.output.replace("\n", " ")


def test_json_on_standard_output_is_json_alone(tiny_bundle: Bundle) -> None:
    result = invoke("diagnose", tiny_bundle.path, "--data", DEMO, "--samples", 1, "--json", "-")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["variant"] == "int8"


def test_findings_are_no_failure(tiny_bundle: Bundle, tmp_path: Path) -> None:
    spec = tiny_bundle.manifest.model
    depth = spec.depth.model_copy(update={"mean": 0.5, "std": 0.25})
    other = rewritten(
        tiny_bundle, tmp_path / "other", model=spec.model_copy(update={"depth": depth})
    )
    result = invoke("diagnose", other.path, "--data", DEMO, "--samples", 2)
    assert result.exit_code == 0, result.output
    assert "clipping" in result.output or "unseen_values" in result.output


def test_a_bundle_without_int8_is_refused(tiny_bundle: Bundle, tmp_path: Path) -> None:
    plain = rewritten(
        tiny_bundle, tmp_path / "plain", variants={"fp32": "model.fp32.onnx"}, precision="fp32"
    )
    result = invoke("diagnose", plain.path, "--data", DEMO)
    assert result.exit_code == 2
    assert "no variant 'int8'" in result.output
    assert "--precision int8" in result.output


@pytest.mark.parametrize("data", ["/nowhere", "realsense://"])
def test_a_set_that_cannot_be_read_is_refused(tiny_bundle: Bundle, data: str) -> None:
    result = invoke("diagnose", tiny_bundle.path, "--data", data)
    assert result.exit_code == 2
    assert result.output.startswith("error: ")


def test_a_set_that_does_not_fit_the_model_is_refused_by_pair(
    tiny_bundle: Bundle, tmp_path: Path, pairs: Path
) -> None:
    depth = {"scale_to_m": None, "larger_is": "nearer", "dtype": "uint16", "unit": "relative"}
    (pairs / "meta.json").write_text(json.dumps({"depth": depth}))
    spec = tiny_bundle.manifest.model
    metric = spec.depth.model_copy(update={"normalisation": "linear"})
    other = rewritten(
        tiny_bundle, tmp_path / "other", model=spec.model_copy(update={"depth": metric})
    )
    result = invoke("diagnose", other.path, "--data", pairs)
    assert result.exit_code == 2
    assert "pair 0" in result.output or "depth" in result.output


def test_a_network_that_gives_nan_is_refused(tiny_bundle: Bundle, tmp_path: Path) -> None:
    import onnx
    from onnx import numpy_helper

    files = {name: tiny_bundle.file(name) for name in tiny_bundle.manifest.files}
    graph = onnx.load_from_string(files["model.fp32.onnx"])
    bias = next(tensor for tensor in graph.graph.initializer if tensor.name == "bias")
    bias.CopyFrom(numpy_helper.from_array(np.full(1, np.nan, np.float32), "bias"))
    files["model.fp32.onnx"] = graph.SerializeToString()
    broken = write_bundle(tmp_path / "nan", tiny_bundle.manifest, files)
    result = invoke("diagnose", broken.path, "--data", DEMO)
    assert result.exit_code == 2
    assert "NaN" in result.output


def test_golden_pairs_of_another_shape_are_refused(tiny_bundle: Bundle, tmp_path: Path) -> None:
    files = {name: tiny_bundle.file(name) for name in tiny_bundle.manifest.files}
    stored = {
        name: value[..., :16] if name.startswith("input") else value
        for name, value in tiny_bundle.golden().items()
    }
    buffer = io.BytesIO()
    np.savez(buffer, **stored)
    files[GOLDEN_NAME] = buffer.getvalue()
    cut = write_bundle(tmp_path / "cut", tiny_bundle.manifest, files)
    result = invoke("diagnose", cut.path, "--data", DEMO, "--samples", 1)
    assert result.exit_code == 2
    assert "input 'rgb'" in result.output
