from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_fusion.bundle import GOLDEN_NAME, Bundle, is_bundle, write_bundle
from edge_fusion.errors import BundleError, OutputError
from edge_fusion.manifest import MANIFEST_NAME, Golden, Manifest, Origin
from edge_fusion.spec import ModelSpec


def manifest(**changes: Any) -> Manifest:
    fields: dict[str, Any] = {
        "created_utc": "2026-01-01T00:00:00Z",
        "model": ModelSpec(name="tiny"),
        "origin": Origin(model="tiny", weights="made up"),
        "precision": "fp32",
        "target": "orin-nano@6.2",
        "opset": 18,
        "variants": {"fp32": "model.fp32.onnx"},
        "golden": Golden(source="demo://", samples=1, mean_abs_tolerance={"fp32": 1e-4}),
        "versions": {"numpy": "2"},
    }
    return Manifest(**{**fields, **changes})


def contents() -> dict[str, bytes]:
    buffer = io.BytesIO()
    np.savez(buffer, **{"input.rgb": np.ones((1, 3, 2, 2), np.float32)})
    return {"model.fp32.onnx": b"the model", GOLDEN_NAME: buffer.getvalue()}


@pytest.fixture(params=["bundle", "bundle.tar"])
def written(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / request.param
    write_bundle(path, manifest(), contents())
    return path


def test_a_bundle_survives_its_file(written: Path) -> None:
    bundle = Bundle.read(written)
    assert bundle.variants == ("fp32",)
    assert bundle.model_bytes("fp32") == b"the model"
    assert bundle.golden()["input.rgb"].shape == (1, 3, 2, 2)
    assert bundle.manifest.files["model.fp32.onnx"].size_bytes == 9


def test_one_flipped_bit_anywhere_is_found(written: Path) -> None:
    target = written / "model.fp32.onnx" if written.is_dir() else written
    data = bytearray(target.read_bytes())
    position = data.index(b"the model")
    data[position] ^= 1
    target.write_bytes(data)
    with pytest.raises(BundleError, match=r"'model.fp32.onnx' .* damaged .*sha256.*build it again"):
        Bundle.read(written)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    write_bundle(tmp_path / "b", manifest(), contents())
    (tmp_path / "b" / GOLDEN_NAME).unlink()
    with pytest.raises(BundleError, match="'golden.npz' is missing"):
        Bundle.read(tmp_path / "b")


def test_a_truncated_tar_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "b.tar"
    write_bundle(path, manifest(), contents())
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(BundleError):
        Bundle.read(path)


def test_no_bundle_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no bundle at .* edge-fusion build"):
        Bundle.read(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"schema_version": 2}, "newer edge-fusion.*upgrade"),
        ({"precision": "int4"}, "precision"),
        ({"surprise": 1}, "surprise"),
        (
            {"files": {"../../etc/passwd": {"sha256": "0" * 64, "size_bytes": 1}}},
            "leave the bundle",
        ),
        ({"files": {"/etc/passwd": {"sha256": "0" * 64, "size_bytes": 1}}}, "leave the bundle"),
        ({"files": {"a/../../b": {"sha256": "0" * 64, "size_bytes": 1}}}, "leave the bundle"),
    ],
)
def test_a_hostile_or_newer_manifest_is_refused(
    tmp_path: Path, change: dict[str, object], complaint: str
) -> None:
    write_bundle(tmp_path / "b", manifest(), contents())
    file = tmp_path / "b" / MANIFEST_NAME
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(BundleError, match=complaint):
        Bundle.read(tmp_path / "b")


@pytest.mark.parametrize("text", ["", "not json", "[]", "{}"])
def test_a_broken_manifest_is_refused(tmp_path: Path, text: str) -> None:
    write_bundle(tmp_path / "b", manifest(), contents())
    (tmp_path / "b" / MANIFEST_NAME).write_text(text)
    with pytest.raises(BundleError, match="not a manifest"):
        Bundle.read(tmp_path / "b")


def test_links_are_not_followed(tmp_path: Path) -> None:
    write_bundle(tmp_path / "b", manifest(), contents())
    model = tmp_path / "b" / "model.fp32.onnx"
    model.rename(tmp_path / "elsewhere")
    model.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match="link"):
        Bundle.read(tmp_path / "b")
    archive = tmp_path / "b.tar"
    with tarfile.open(archive, "w") as tar:
        info = tarfile.TarInfo(MANIFEST_NAME)
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(info)
    with pytest.raises(BundleError, match="not a plain file"):
        Bundle.read(archive)


def test_nothing_foreign_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.tex").write_text("years of work")
    for replace in (False, True):
        with pytest.raises(OutputError, match="not a bundle.*nothing there was touched"):
            write_bundle(tmp_path / "b", manifest(), contents(), replace=replace)
    assert (tmp_path / "b" / "thesis.tex").read_text() == "years of work"


def test_an_older_bundle_is_replaced_only_on_request(written: Path) -> None:
    with pytest.raises(OutputError, match="already holds a bundle.*--force"):
        write_bundle(written, manifest(), contents())
    newer = write_bundle(written, manifest(target="agx-orin-64gb@6.2"), contents(), replace=True)
    assert newer.manifest.target == "agx-orin-64gb@6.2"
    assert is_bundle(written)
    assert [path.name for path in written.parent.iterdir()] == [written.name]


def test_an_unknown_variant_is_named_with_the_cure(written: Path) -> None:
    with pytest.raises(BundleError, match="no variant 'int8'.*--precision int8"):
        Bundle.read(written).model_bytes("int8")
