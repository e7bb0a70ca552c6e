"""What a bundle may list, what it must, and paths that are none."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from edge_fusion.bundle import Bundle, is_bundle, write_bundle
from edge_fusion.errors import BundleError
from edge_fusion.manifest import MANIFEST_NAME
from tests.export.engine_bundles import bundle_with_flavours


def files_of(bundle: Bundle) -> dict[str, bytes]:
    return {name: bundle.file(name) for name in bundle.manifest.files}


def test_every_flavour_has_its_file(tiny_bundle: Bundle, tmp_path: Path) -> None:
    bundle = bundle_with_flavours(tiny_bundle, tmp_path / "bundle")
    files = files_of(bundle)
    del files["model.weak.fp16.onnx"]
    message = "is incomplete.*got one without the hash of 'model.weak.fp16.onnx'; copy .* again"
    with pytest.raises(BundleError, match=message):
        write_bundle(tmp_path / "b", bundle.manifest, files)
    path = bundle.path / MANIFEST_NAME
    stored = json.loads(path.read_text())
    del stored["files"]["model.weak.fp16.onnx"]
    path.write_text(json.dumps(stored))
    with pytest.raises(BundleError, match=message):
        Bundle.read(bundle.path)


@pytest.mark.parametrize("name", ["engines/0123456789abcdef/model.plan", "engines/a", "engines"])
def test_no_bundle_brings_its_own_engines(name: str, tiny_bundle: Bundle, tmp_path: Path) -> None:
    files = files_of(tiny_bundle)
    with pytest.raises(BundleError, match=f"lists '{name}': expected no file in engines/"):
        write_bundle(tmp_path / "b", tiny_bundle.manifest, {**files, name: b"a plan"})
    write_bundle(tmp_path / "b", tiny_bundle.manifest, {**files, "engines.txt": b"a note"})


@pytest.mark.parametrize("refusal", [errno.EACCES, errno.ENAMETOOLONG])
def test_a_path_that_the_system_refuses_is_no_bundle(
    refusal: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / ("x" * 300)
    if refusal == errno.EACCES:

        def refused(self: Path) -> bool:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

        monkeypatch.setattr(Path, "is_dir", refused)
    assert not is_bundle(path)
    with pytest.raises(BundleError, match=f"cannot read .*got {os.strerror(refusal)}"):
        Bundle.read(path)
