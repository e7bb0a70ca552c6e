"""A bundle: one folder, or a ``.tar`` of it, that carries a verified model from desk to device."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from edge_fusion.errors import BundleError, OutputError
from edge_fusion.files import partial_directory, sha256, write_bytes, writing
from edge_fusion.manifest import MANIFEST_NAME, SCHEMA_VERSION, FileRecord, Manifest
from edge_fusion.spec import first_problem

GOLDEN_NAME = "golden.npz"
_MAX_MANIFEST_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle whose every file was found and matched its hash.

    Attributes:
        path: The folder or ``.tar`` it was read from.
        manifest: Its contents.
    """

    path: Path
    manifest: Manifest

    @classmethod
    def read(cls, path: Path | str) -> Bundle:
        """Read a bundle and check the hash of every file in it.

        Args:
            path: A bundle's folder or ``.tar``.

        Raises:
            BundleError: No bundle is there, a file is missing or altered, or the schema is newer.
        """
        path = Path(path)
        read = _reader(path)
        bundle = cls(path, _parse_manifest(path, read(MANIFEST_NAME)))
        for name in bundle.manifest.files:
            bundle.file(name)
        return bundle

    @property
    def variants(self) -> tuple[str, ...]:
        """The variants it carries: ``fp32`` and, unless built without, ``int8``."""
        return tuple(self.manifest.variants)

    def file(self, name: str) -> bytes:
        """One file's contents, held against its hash before anything is made of it.

        Raises:
            BundleError: The bundle does not list the file, or it is missing or altered.
        """
        if name not in self.manifest.files:
            raise BundleError(
                f"bundle {self.path} has no file '{name}'",
                expected=" or ".join(self.manifest.files),
            )
        data = _reader(self.path)(name)
        entry = self.manifest.files[name]
        if sha256(data) != entry.sha256:
            raise BundleError(
                f"'{name}' in bundle {self.path} is damaged or was changed",
                expected=f"{entry.size_bytes} bytes with sha256 {entry.sha256[:12]}...",
                got=f"{len(data)} bytes with sha256 {sha256(data)[:12]}...",
                cure="copy the bundle again, or build it again",
            )
        return data

    def model_bytes(self, variant: str) -> bytes:
        """The ONNX file of one variant.

        Raises:
            BundleError: The bundle has no such variant, or its file is altered.
        """
        if variant not in self.manifest.variants:
            raise BundleError(
                f"bundle {self.path} has no variant '{variant}'",
                expected=" or ".join(self.variants),
                cure="build it with --precision int8",
            )
        return self.file(self.manifest.variants[variant])

    def golden(self) -> dict[str, NDArray[np.float32]]:
        """The stored inputs and outputs: ``input.<name>`` and ``output.<variant>``, batch stacked.

        Raises:
            BundleError: The file is altered or not what it should be.
        """
        try:
            with np.load(io.BytesIO(self.file(GOLDEN_NAME)), allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}
        except (ValueError, OSError, KeyError) as err:
            raise BundleError(f"{GOLDEN_NAME} in bundle {self.path}", got=str(err)) from err


def write_bundle(
    path: Path, manifest: Manifest, files: Mapping[str, bytes], *, replace: bool = False
) -> Bundle:
    """Write a bundle as a whole or not at all.

    Args:
        path: A folder, or a ``.tar`` by its suffix.
        manifest: The manifest; its ``files`` are filled in here.
        files: Contents by name.
        replace: Whether an older bundle at ``path`` may be replaced. Anything else never is.

    Returns:
        The bundle, read back from disk.

    Raises:
        OutputError: Something is at ``path`` already, or the disk refused.
    """
    check_destination(path, replace=replace)
    entries = {
        name: FileRecord(sha256=sha256(data), size_bytes=len(data)) for name, data in files.items()
    }
    complete = Manifest.model_validate({**manifest.model_dump(), "files": entries})
    text = json.dumps(complete.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"
    contents = {MANIFEST_NAME: text.encode(), **files}
    if path.suffix == ".tar":
        write_bytes(path, _tar(contents), "the bundle")
    else:
        with partial_directory(path, "the bundle") as partial:
            for name, data in contents.items():
                (partial / name).parent.mkdir(parents=True, exist_ok=True)
                (partial / name).write_bytes(data)
    return Bundle.read(path)


def check_destination(path: Path, *, replace: bool) -> None:
    """Refuse a destination before any work is done: what is there must never be lost.

    Raises:
        OutputError: ``path`` holds something that is not a bundle, or a bundle that may not be
            replaced.
    """
    with writing("the bundle", path):
        occupied = path.exists() and (path.is_file() or any(path.iterdir()))
    if not occupied:
        return
    if not is_bundle(path):
        raise OutputError(
            f"{path} holds something that is not a bundle",
            cure="choose another place; nothing there was touched",
        )
    if not replace:
        raise OutputError(
            f"{path} already holds a bundle", cure="choose another place, or replace it: --force"
        )


def is_bundle(path: Path) -> bool:
    """Whether ``path`` is a bundle, whatever its state: it has a manifest of our schema."""
    try:
        return "schema_version" in json.loads(_reader(path)(MANIFEST_NAME))
    except (BundleError, ValueError):
        return False


def _parse_manifest(path: Path, data: bytes) -> Manifest:
    try:
        version = json.loads(data)["schema_version"]
    except (ValueError, KeyError, TypeError) as err:
        raise BundleError(
            f"{MANIFEST_NAME} of {path} is not a manifest",
            got=str(err),
            cure="copy the bundle again, or build it again",
        ) from err
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise BundleError(
            f"bundle {path} was written by a newer edge-fusion",
            expected=f"schema {SCHEMA_VERSION} or older",
            got=f"schema {version}",
            cure="upgrade edge-fusion on this machine",
        )
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as err:
        raise BundleError(
            f"{MANIFEST_NAME} of {path} is not valid", got=first_problem(err)
        ) from err


def _reader(path: Path) -> Callable[[str], bytes]:
    """How to read one file of a bundle, by what the bundle is."""
    if path.is_dir():
        return lambda name: _read_from_folder(path, name)
    if path.is_file():
        return lambda name: _read_from_tar(path, name)
    raise BundleError(
        f"no bundle at {path}", cure="make one: edge-fusion build MODEL --calib SET -o BUNDLE"
    )


def _read_from_folder(path: Path, name: str) -> bytes:
    file = path / name
    try:
        if file.is_symlink() or not file.resolve().is_relative_to(path.resolve()):
            raise BundleError(f"'{name}' in bundle {path} is a link; bundles hold plain files only")
        return file.read_bytes()
    except OSError as err:
        raise BundleError(
            f"'{name}' is missing from {path}",
            got=err.strerror or str(err),
            cure="is this a bundle? copy it again, or build it again",
        ) from err


def _read_from_tar(path: Path, name: str) -> bytes:
    try:
        with tarfile.open(path, "r:") as archive:
            member = archive.getmember(name)
            file = archive.extractfile(member) if member.isreg() else None
            if file is None:
                raise BundleError(f"'{name}' in {path} is not a plain file")
            if name == MANIFEST_NAME and member.size > _MAX_MANIFEST_BYTES:
                raise BundleError(f"{MANIFEST_NAME} in {path} is unreasonably large")
            return file.read()
    except KeyError as err:
        raise BundleError(f"'{name}' is missing from {path}; is this a bundle?") from err
    except (tarfile.TarError, OSError) as err:
        raise BundleError(
            f"{path} is not a readable .tar", got=str(err), cure="copy the bundle again"
        ) from err


def _tar(contents: Mapping[str, bytes]) -> bytes:
    """An uncompressed archive with fixed owners and times, so that equal contents are equal."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in contents.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o644
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()
