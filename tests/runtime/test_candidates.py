"""Variants of any origin in one run, on the tiny models."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from edge_fusion.bundle import Bundle
from edge_fusion.errors import BundleError, FrameError, InputError, SessionError
from edge_fusion.manifest import MANIFEST_NAME
from edge_fusion.runtime.compare import CompareOptions, compare
from edge_fusion.runtime.memory_probe import peak_memory
from edge_fusion.runtime.session import open_session
from edge_fusion.runtime.source.demo import DemoSource
from tests.conftest import MODELS

QUICK = CompareOptions(repeats=10, warmup=1, memory=False, latency_inputs=1)
FP16_FILE = MODELS / "tiny.fp16.onnx"


@pytest.fixture
def source() -> DemoSource:
    return DemoSource(frames=3, width=64, height=48)


def run(bundle, source, *variants, **options):
    return compare(bundle, [source], replace(QUICK, variants=variants, **options))


def test_bundles_and_files_mix(tiny_bundle, source, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(tiny_bundle.path, other)
    found = run(tiny_bundle, source, "fp32", "ort:int8", f"{other}:int8", f"half={FP16_FILE}")
    assert found.variants == ("fp32", "ort:int8", "other:int8", "half")
    assert found.backend == "ort"
    assert {label: one.kind for label, one in found.about.items()} == {
        "fp32": "bundle",
        "ort:int8": "bundle",
        "other:int8": "bundle",
        "half": "file",
    }
    assert [found.about[v].precision for v in found.variants] == ["fp32", "int8", "int8", "fp32"]
    assert found.about["ort:int8"].sha256 == found.about["other:int8"].sha256
    assert found.about["other:int8"].path == str(other)
    # The same file by two ways: the same maps, to the bit.
    for image in found.images:
        assert image.scores["ort:int8"].as_dict() == image.scores["other:int8"].as_dict()
    assert 0 < found.pooled.differences["half"].mean_abs < 0.01
    assert found.costs["half"].file_bytes == FP16_FILE.stat().st_size
    assert set(found.latency.stages) == set(found.variants)


def test_quantization_is_seen_in_a_plain_file(tiny_bundle, source):
    found = run(tiny_bundle, source, "fp32", str(MODELS / "tiny.int8.onnx"))
    assert found.about["tiny.int8"].precision == "int8"
    assert found.speed_means_nothing("tiny.int8")
    assert not found.speed_means_nothing("fp32")


def test_a_bundle_of_another_input_size_is_fed_by_its_own_record(
    tiny_bundle, make_bundle, source, opener
):
    other = make_bundle()  # 24 by 32, where the tiny one is 32 by 32
    fakes = opener()

    def opening(bundle, variant, backend):  # ONNX Runtime would refuse another size
        fits = bundle.path == tiny_bundle.path
        return open_session(bundle, variant, backend) if fits else fakes(bundle, variant, backend)

    options = replace(QUICK, variants=("fp32", f"{other.path}:int8"))
    found = compare(tiny_bundle, [source], options, open_session=opening)
    assert fakes.opened["int8"].shapes == {(1, 3, 24, 32)}
    assert found.pooled.differences["bundle:int8"].mean_abs > 0.01


def test_the_same_variant_twice_is_the_same_to_the_bit(tiny_bundle, source):
    """And neither is called faster: the interval holds 1 but for what a busy machine adds."""
    found = run(tiny_bundle, source, "int8", "again=int8", repeats=200)
    for result in (found.pooled, *found.sets):
        changes = [c for by in result.changes["again"].values() for c in by.values()]
        assert len(changes) == 22
        assert {(c.value, c.interval.low, c.interval.high) for c in changes} == {(0, 0, 0)}
        difference = result.differences["again"]
        assert (difference.mean_abs, difference.max_abs) == (0, 0)
        assert (difference.interval.low, difference.interval.high) == (0, 0)
    for image in found.images:
        assert image.scores["int8"].as_dict() == image.scores["again"].as_dict()
    speedup = found.latency.speedups["again"]
    assert speedup.low <= 1.15
    assert speedup.high >= 0.87


def renamed(content: bytes, old: bytes, new: bytes) -> bytes:
    assert len(old) == len(new)
    assert old in content
    return content.replace(old, new)


class TestRefusals:
    def test_a_file_with_other_inputs(self, tiny_bundle, tiny_models, source, tmp_path):
        path = tmp_path / "other.onnx"
        path.write_bytes(renamed(tiny_models["fp32"], b"depth", b"thick"))
        with pytest.raises(
            InputError, match=r"expected inputs .*'depth' \(1, 1, 32, 32\).*got .*'thick'.*build it"
        ):
            run(tiny_bundle, source, "fp32", str(path))

    def test_a_file_with_another_output(self, tiny_bundle, tiny_models, source, tmp_path):
        path = tmp_path / "other.onnx"
        path.write_bytes(renamed(tiny_models["fp32"], b"saliency", b"salience"))
        with pytest.raises(InputError, match="output 'saliency', got .*output 'salience'"):
            run(tiny_bundle, source, "fp32", str(path))

    def test_a_file_that_is_no_model(self, tiny_bundle, source, tmp_path):
        (tmp_path / "no.onnx").write_bytes(b"no model")
        with pytest.raises(SessionError, match=r"ONNX file '.*no\.onnx': ONNX Runtime refused"):
            run(tiny_bundle, source, "fp32", str(tmp_path / "no.onnx"))

    def test_a_file_that_is_not_there(self, tiny_bundle, source):
        with pytest.raises(InputError, match=r"cannot read ONNX file 'nowhere\.onnx'.*No such"):
            run(tiny_bundle, source, "fp32", "nowhere.onnx")

    def test_a_file_has_no_engine(self, tiny_bundle, source):
        with pytest.raises(InputError, match=r"cannot run on TensorRT.*as ort:"):
            run(tiny_bundle, source, "fp32", f"trt:{FP16_FILE}")

    def test_a_bundle_that_is_not_there(self, tiny_bundle, source):
        with pytest.raises(InputError, match=r"no bundle 'cuda'.*or a backend: ort or trt"):
            run(tiny_bundle, source, "fp32", "cuda:int8")

    def test_a_bundle_of_a_newer_schema(self, tiny_bundle, source, tmp_path):
        newer = tmp_path / "newer"
        shutil.copytree(tiny_bundle.path, newer)
        manifest = json.loads((newer / MANIFEST_NAME).read_text())
        (newer / MANIFEST_NAME).write_text(json.dumps({**manifest, "schema_version": 9}))
        with pytest.raises(BundleError, match=r"newer edge-fusion.*got schema 9; upgrade"):
            run(tiny_bundle, source, "fp32", f"{newer}:int8")

    def test_half_precision_on_onnx_runtime(self, tiny_bundle, source):
        with pytest.raises(BundleError, match="can only run as a TensorRT engine"):
            run(tiny_bundle, source, "fp32", "ort:fp16")

    def test_a_word_that_is_no_variant(self, tiny_bundle, source):
        with pytest.raises(InputError, match=r"no variant in8.*got fp32 and int8"):
            run(tiny_bundle, source, "fp32", "in8")

    def test_nan_names_the_variant_and_the_pair(self, tiny_bundle, tiny_models, source, tmp_path):
        path = tmp_path / "nan.onnx"
        bias, nan = (np.float32(value).tobytes() for value in (-4, np.nan))
        path.write_bytes(renamed(tiny_models["fp32"], bias, nan))
        with pytest.raises(
            FrameError, match=r"variant 'nan' on pair 'demo-0-00000': .* NaN or infinity"
        ):
            run(tiny_bundle, source, "fp32", str(path))


def test_memory_of_a_plain_file_is_measured(tiny_bundle):
    found = peak_memory(FP16_FILE, "", "ort")
    assert found.peak_bytes > found.before_bytes > 0


def test_an_old_bundle_without_newer_fields_still_compares(tiny_bundle, source):
    """As :func:`Bundle.read` finds it: calibration and quantization are not in it."""
    assert Bundle.read(tiny_bundle.path).manifest.calibration is None
    assert run(tiny_bundle, source, "fp32", "int8").pooled.pairs == 3
