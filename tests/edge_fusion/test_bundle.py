from __future__ import annotations

import io
import json
import os
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_fusion.bundle import GOLDEN_NAME, Bundle, check_destination, is_bundle, write_bundle
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


def golden(compressed: bool = False, **counts: int) -> bytes:
    """A golden file of so many samples of each array, one where nothing is said."""
    samples = {"input_rgb": 1, "input_depth": 1, "output_fp32": 1, **counts}
    arrays = {
        name.replace("_", "."): np.random.default_rng(0).random((n, 1, 20, 20), np.float32)
        for name, n in samples.items()
        if n >= 0
    }
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def contents(golden_file: bytes | None = None) -> dict[str, bytes]:
    stored = golden() if golden_file is None else golden_file
    return {"model.fp32.onnx": b"the model", GOLDEN_NAME: stored}


def everything_below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@pytest.fixture(params=["bundle", "bundle.tar"])
def written(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / request.param
    write_bundle(path, manifest(), contents())
    return path


def test_a_bundle_survives_its_file(written: Path) -> None:
    bundle = Bundle.read(written)
    assert bundle.variants == ("fp32",)
    assert bundle.model_bytes("fp32") == b"the model"
    assert bundle.golden()["input.rgb"].shape == (1, 1, 20, 20)
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


NO_MANIFESTS = {
    "empty": "",
    "text": "not json",
    "list": '["schema_version"]',
    "object": "{}",
    "number": "5",
    "null": "null",
    "string": '"schema_version"',
    "deep": "[" * 200_000,
}


@pytest.mark.parametrize("text", NO_MANIFESTS.values(), ids=NO_MANIFESTS)
def test_a_broken_manifest_is_refused(tmp_path: Path, text: str) -> None:
    write_bundle(tmp_path / "b", manifest(), contents())
    (tmp_path / "b" / MANIFEST_NAME).write_text(text)
    with pytest.raises(BundleError, match="not a manifest"):
        Bundle.read(tmp_path / "b")
    assert not is_bundle(tmp_path / "b")
    with pytest.raises(OutputError, match="not a bundle.*nothing there was touched"):
        check_destination(tmp_path / "b", replace=True)


RECORD = {"sha256": "0" * 64, "size_bytes": 1}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"files": {}}, "one without the hash of 'model.fp32.onnx', the hash of 'golden.npz'"),
        ({"files": {"model.fp32.onnx": RECORD}}, "without the hash of 'golden.npz'"),
        ({"files": {GOLDEN_NAME: RECORD}}, "without the hash of 'model.fp32.onnx'"),
        (
            {"golden": {"source": "demo://", "samples": 1, "mean_abs_tolerance": {"int8": 1}}},
            "without the tolerance of 'fp32'",
        ),
    ],
)
def test_a_manifest_must_vouch_for_everything(
    tmp_path: Path, change: dict[str, object], complaint: str
) -> None:
    write_bundle(tmp_path / "b", manifest(), contents())
    file = tmp_path / "b" / MANIFEST_NAME
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(BundleError, match=f"is incomplete: .*{complaint}.*build it again"):
        Bundle.read(tmp_path / "b")


@pytest.mark.parametrize("name", ["b", "b.tar"])
def test_a_bundle_that_could_not_be_read_is_not_written(tmp_path: Path, name: str) -> None:
    files = contents()
    del files[GOLDEN_NAME]
    with pytest.raises(BundleError, match="without the hash of 'golden.npz'"):
        write_bundle(tmp_path / name, manifest(), files)
    assert everything_below(tmp_path) == []


def archive_of_text() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("input.rgb", "not an array")
    return buffer.getvalue()


def single_array() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ones((1, 3, 2, 2), np.float32))
    return buffer.getvalue()


def damaged_stream() -> bytes:
    whole = bytearray(golden(compressed=True))
    whole[200:260] = bytes(range(190, 250))
    return bytes(whole)


BAD_GOLDEN = {
    "zip without an end": (golden()[:-40], "not readable"),
    "damaged stream": (damaged_stream(), "not readable"),
    "nothing": (b"", "not readable"),
    "text": (b"words", "not readable"),
    "one array": (single_array(), "not readable: got a single array"),
    "no array": (archive_of_text(), "not readable: got 'input.rgb' is no stack of float32"),
    "an input missing": (golden(input_depth=-1), "incomplete.*input.depth with none"),
    "a variant missing": (golden(output_fp32=-1), "incomplete.*output.fp32 with none"),
    "no samples": (golden(input_rgb=0, input_depth=0, output_fp32=0), "incomplete.*with 0"),
    "uneven": (golden(output_fp32=3), "incomplete.*input.depth with 1, output.fp32 with 3"),
}


@pytest.mark.parametrize(("data", "complaint"), BAD_GOLDEN.values(), ids=BAD_GOLDEN)
def test_golden_outputs_that_are_none_are_told(tmp_path: Path, data: bytes, complaint: str) -> None:
    bundle = write_bundle(tmp_path / "b", manifest(), contents(data))
    with pytest.raises(BundleError, match=f"golden.npz in bundle .* is {complaint}"):
        bundle.golden()


MIB = 1 << 20


@pytest.mark.parametrize(
    ("name", "limit"), [("model.fp32.onnx", 9), (MANIFEST_NAME, 64 * MIB)], ids=["file", "manifest"]
)
def test_a_file_that_claims_more_than_it_may_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, limit: int
) -> None:
    write_bundle(tmp_path / "b", manifest(), contents())
    stored = {file: (tmp_path / "b" / file).read_bytes() for file in (MANIFEST_NAME, *contents())}
    os.truncate(tmp_path / "b" / name, 100 * MIB)  # a hole: it takes no room on the disk
    with tarfile.open(tmp_path / "b.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for file, data in stored.items():
            info = tarfile.TarInfo(file)
            info.size = len(data)
            if file == name:
                info.pax_headers = {
                    "GNU.sparse.map": f"0,{len(data)}",
                    "GNU.sparse.size": str(100 * MIB),
                }
            tar.addfile(info, io.BytesIO(data))
    for path in (tmp_path / "b", tmp_path / "b.tar"):
        with pytest.raises(
            BundleError,
            match=f"'{name}' in bundle .* too large: expected at most {limit} bytes, "
            f"got {100 * MIB} bytes",
        ):
            Bundle.read(path)


def test_a_folder_or_pipe_in_the_place_of_a_file_is_refused(tmp_path: Path) -> None:
    write_bundle(tmp_path / "b", manifest(), contents())
    model = tmp_path / "b" / "model.fp32.onnx"
    model.unlink()
    os.mkfifo(model)  # reading it would wait for ever
    with pytest.raises(BundleError, match="'model.fp32.onnx' in .* is not a plain file"):
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


@pytest.mark.parametrize(
    "added", ["notes.txt", "deep/er/notes.txt", "engines.txt", "golden.npz.bak", ".hidden"]
)
def test_a_bundle_with_a_users_file_in_it_is_not_replaced(tmp_path: Path, added: str) -> None:
    write_bundle(tmp_path / "b", manifest(), contents())
    file = tmp_path / "b" / added
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("mine")
    before = everything_below(tmp_path)
    with pytest.raises(OutputError, match=f"also '{added}', .* move that file away"):
        write_bundle(tmp_path / "b", manifest(), contents(), replace=True)
    assert everything_below(tmp_path) == before
    assert file.read_text() == "mine"


def test_a_users_link_in_a_bundle_is_foreign_too(tmp_path: Path) -> None:
    write_bundle(tmp_path / "b", manifest(), contents())
    (tmp_path / "photos").mkdir()
    (tmp_path / "b" / "photos").symlink_to(tmp_path / "photos")
    with pytest.raises(OutputError, match="also 'photos'"):
        check_destination(tmp_path / "b", replace=True)


def test_an_archive_with_a_users_file_in_it_is_not_replaced(tmp_path: Path) -> None:
    write_bundle(tmp_path / "b.tar", manifest(), contents())
    (tmp_path / "notes.txt").write_text("mine")
    with tarfile.open(tmp_path / "b.tar", "a") as tar:
        tar.add(tmp_path / "notes.txt", "notes.txt")
    with pytest.raises(OutputError, match="also 'notes.txt'"):
        check_destination(tmp_path / "b.tar", replace=True)


def test_what_a_device_built_goes_with_its_bundle(tmp_path: Path) -> None:
    write_bundle(tmp_path / "b", manifest(), contents())
    plan = tmp_path / "b" / "engines" / "orin" / "model.plan"
    plan.parent.mkdir(parents=True)
    plan.write_bytes(b"plan")
    write_bundle(tmp_path / "b", manifest(), contents(), replace=True)
    assert not plan.exists()


def test_a_damaged_or_newer_bundle_can_be_replaced(tmp_path: Path) -> None:
    for change in ({"schema_version": 2}, {"files": {**dict.fromkeys(contents(), 1)}}):
        path = tmp_path / "b"
        write_bundle(path, manifest(), contents(), replace=True)
        file = path / MANIFEST_NAME
        file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
        write_bundle(path, manifest(), contents(), replace=True)
        assert Bundle.read(path).variants == ("fp32",)


@pytest.mark.parametrize("replace", [False, True])
def test_a_file_is_not_replaced_by_a_folder_nor_a_folder_by_a_file(
    tmp_path: Path, replace: bool
) -> None:
    write_bundle(tmp_path / "b.tar", manifest(), contents())
    (tmp_path / "b.tar").rename(tmp_path / "b")  # a readable bundle, but not under this name
    (tmp_path / "c.tar").mkdir()
    with pytest.raises(OutputError, match="b is a file: expected a folder or nothing"):
        check_destination(tmp_path / "b", replace=replace)
    with pytest.raises(OutputError, match="c.tar is a folder: expected a .tar file or nothing"):
        check_destination(tmp_path / "c.tar", replace=replace)


@pytest.mark.parametrize("name", ["b", "b.tar"])
def test_a_bundle_is_on_the_disk_before_it_takes_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def watched(descriptor: int) -> None:
        assert not (tmp_path / name).exists()
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().suffix)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    write_bundle(tmp_path / name, manifest(), contents())
    expected = [".tar"] if name == "b.tar" else [".json", ".npz", ".onnx"]
    assert sorted(synced) == expected


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


@pytest.mark.parametrize(
    ("before", "after"), [('"height": 256', '"height": 257'), ("demo", "dexo")]
)
def test_an_edited_manifest_is_found(written: Path, before: str, after: str) -> None:
    target = written / MANIFEST_NAME if written.is_dir() else written
    data = target.read_bytes()
    assert before.encode() in data
    target.write_bytes(data.replace(before.encode(), after.encode(), 1))
    with pytest.raises(BundleError, match=r"manifest\.json of .* is damaged or was changed"):
        Bundle.read(written)
