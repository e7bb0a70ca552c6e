"""A bundle: one folder, or a ``.tar`` of it, that carries a verified model from desk to device."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from edge_fusion.bundle_files import COPY_AGAIN, file_names, pack_tar, reader
from edge_fusion.errors import BundleError, OutputError
from edge_fusion.files import partial_directory, sha256, write_bytes, write_synced, writing
from edge_fusion.manifest import MANIFEST_NAME, SCHEMA_VERSION, SEAL, FileRecord, Manifest, seal
from edge_fusion.spec import first_problem

GOLDEN_NAME = "golden.npz"
ENGINES = "engines/"  # what a device adds below it belongs to the bundle, unlisted as it is
_MAX_MANIFEST_BYTES = 64 << 20

# What zipfile and numpy raise over a damaged archive; RuntimeError is an encrypted member.
_ARCHIVE_ERRORS = (
    ValueError,
    OSError,
    KeyError,
    EOFError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)


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
            BundleError: No bundle is there, a file is missing or altered, the manifest leaves out
                the hash of a file or the tolerance of a variant, or the schema is newer.
        """
        path = Path(path)
        try:
            fields = _manifest_fields(path)
        except ValueError as err:
            raise _no_manifest(path, str(err)) from err
        manifest = _parse_manifest(path, fields)
        _check_complete(path, manifest)
        _check_seal(path, fields)
        bundle = cls(path, manifest)
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
        entry = self.manifest.files[name]
        data = reader(self.path)(name, entry.size_bytes)
        if len(data) != entry.size_bytes or sha256(data) != entry.sha256:
            raise BundleError(
                f"'{name}' in bundle {self.path} is damaged or was changed",
                expected=f"{entry.size_bytes} bytes with sha256 {entry.sha256[:12]}...",
                got=f"{len(data)} bytes with sha256 {sha256(data)[:12]}...",
                cure=COPY_AGAIN,
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

        Every input of the model and every variant is there, with the same number of samples, at
        least one.

        Raises:
            BundleError: The file is altered or not what it should be.
        """
        data = self.file(GOLDEN_NAME)
        try:
            arrays = _load_arrays(data)
        except _ARCHIVE_ERRORS as err:
            raise BundleError(
                f"{GOLDEN_NAME} in bundle {self.path} is not readable",
                got=str(err),
                cure=COPY_AGAIN,
            ) from err
        inputs = (f"input.{tensor.name}" for tensor in self.manifest.model.inputs)
        needed = (*inputs, *(f"output.{variant}" for variant in self.variants))
        counts = {name: len(arrays[name]) for name in needed if name in arrays}
        if len(counts) < len(needed) or len(set(counts.values())) > 1 or 0 in counts.values():
            raise BundleError(
                f"{GOLDEN_NAME} in bundle {self.path} is incomplete",
                expected=f"{', '.join(needed)} with the same number of samples, at least one",
                got=", ".join(f"{name} with {counts.get(name, 'none')}" for name in needed),
                cure=COPY_AGAIN,
            )
        return arrays


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
        BundleError: A variant has no file or no tolerance, or there are no golden outputs.
        OutputError: Something is at ``path`` already, or the disk refused.
    """
    check_destination(path, replace=replace)
    entries = {
        name: FileRecord(sha256=sha256(data), size_bytes=len(data)) for name, data in files.items()
    }
    complete = Manifest.model_validate({**manifest.model_dump(), "files": entries})
    _check_complete(path, complete)
    content = complete.model_dump(mode="json")
    content[SEAL] = seal(content)
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    contents = {MANIFEST_NAME: text.encode(), **files}
    if path.suffix == ".tar":
        write_bytes(path, pack_tar(contents), "the bundle")
    else:
        with partial_directory(path, "the bundle") as partial:
            for name, data in contents.items():
                (partial / name).parent.mkdir(parents=True, exist_ok=True)
                write_synced(partial / name, data)
    return Bundle.read(path)


def check_destination(path: Path, *, replace: bool) -> None:
    """Refuse a destination before any work is done: what is there must never be lost.

    Raises:
        OutputError: ``path`` is a file where a folder is to be written or the other way round,
            holds something that is not a bundle, a bundle that may not be replaced, or a bundle
            to which somebody added files of their own.
    """
    with writing("the bundle", path):
        there = path.exists()
        occupied = there and (not path.is_dir() or any(path.iterdir()))
    as_tar = path.suffix == ".tar"
    if there and path.is_dir() == as_tar:
        raise OutputError(
            f"{path} is a {'folder' if as_tar else 'file'}",
            expected="a .tar file or nothing" if as_tar else "a folder or nothing",
            cure="choose another place; a bundle whose name ends in .tar is a file, any other is "
            "a folder",
        )
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
    foreign = _foreign_file(path)
    if foreign is not None:
        raise OutputError(
            f"{path} holds a bundle and also '{foreign}', which does not belong to it",
            cure="move that file away, or choose another place; nothing there was touched",
        )


def is_bundle(path: Path) -> bool:
    """Whether ``path`` is a bundle, whatever its state: it has a manifest of our schema."""
    try:
        return "schema_version" in _manifest_fields(path)
    except (BundleError, ValueError):
        return False


def _foreign_file(path: Path) -> str | None:
    """The first file in a bundle that neither its manifest nor a device's build put there."""
    listed = _manifest_fields(path).get("files")
    own = {MANIFEST_NAME, *(listed if isinstance(listed, dict) else ())}
    return next((n for n in file_names(path) if n not in own and not n.startswith(ENGINES)), None)


def _manifest_fields(path: Path) -> dict[str, Any]:
    """The manifest's fields as they stand, unchecked.

    Raises:
        BundleError: There is no manifest.
        ValueError: It is not a JSON object.
    """
    return _json_object(reader(path)(MANIFEST_NAME, _MAX_MANIFEST_BYTES))


def _json_object(data: bytes) -> dict[str, Any]:
    try:
        content = json.loads(data)
    except RecursionError:
        raise ValueError("JSON nested far too deeply") from None
    if not isinstance(content, dict):
        raise ValueError(f"a JSON {type(content).__name__}, not an object")
    return content


def _no_manifest(path: Path, got: str) -> BundleError:
    return BundleError(f"{MANIFEST_NAME} of {path} is not a manifest", got=got, cure=COPY_AGAIN)


def _parse_manifest(path: Path, fields: Mapping[str, Any]) -> Manifest:
    if "schema_version" not in fields:
        raise _no_manifest(path, "no schema_version")
    version = fields["schema_version"]
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise BundleError(
            f"bundle {path} was written by a newer edge-fusion",
            expected=f"schema {SCHEMA_VERSION} or older",
            got=f"schema {version}",
            cure="upgrade edge-fusion on this machine",
        )
    try:
        return Manifest.model_validate({k: v for k, v in fields.items() if k != SEAL})
    except ValidationError as err:
        raise BundleError(
            f"{MANIFEST_NAME} of {path} is not valid", got=first_problem(err)
        ) from err


def _check_seal(path: Path, fields: Mapping[str, Any]) -> None:
    """Find a changed manifest: it holds the hashes of all else, and the input record."""
    if fields.get(SEAL) != seal(fields):
        raise BundleError(
            f"{MANIFEST_NAME} of {path} is damaged or was changed",
            cure=f"{COPY_AGAIN}; its fields are set by build, never by hand",
        )


def _check_complete(path: Path, manifest: Manifest) -> None:
    """Every file that will be read has a hash, every variant a bound to be judged by.

    What lies below ``engines`` was built by a device, and is no part of what was packed here.
    """
    graphs = (flavour.file for flavour in manifest.flavours.values())
    needed = dict.fromkeys((*manifest.variants.values(), *graphs, GOLDEN_NAME))
    bounded = manifest.golden.mean_abs_tolerance
    missing = [f"the hash of '{name}'" for name in needed if name not in manifest.files]
    missing += [f"the tolerance of '{name}'" for name in manifest.variants if name not in bounded]
    if missing:
        raise BundleError(
            f"{MANIFEST_NAME} of {path} is incomplete",
            expected="a hash of every file and a golden tolerance of every variant",
            got=f"one without {', '.join(missing)}",
            cure=COPY_AGAIN,
        )
    within = next((n for n in manifest.files if f"{n}/".startswith(ENGINES)), None)
    if within is not None:
        raise BundleError(
            f"{MANIFEST_NAME} of {path} lists '{within}'",
            expected=f"no file in {ENGINES}, where a device puts what it built",
            cure="get the bundle from somebody who built it, or build it again",
        )


def _load_arrays(data: bytes) -> dict[str, NDArray[np.float32]]:
    """Every array of an ``.npz``; raises one of ``_ARCHIVE_ERRORS``."""
    archive = np.load(io.BytesIO(data), allow_pickle=False)
    if isinstance(archive, np.ndarray):
        raise ValueError("a single array, not an archive of several")
    with archive:
        arrays = {name: archive[name] for name in archive.files}
    for name, array in arrays.items():
        # A member that is no array comes back as bytes.
        if not isinstance(array, np.ndarray) or array.dtype != np.float32 or not array.ndim:
            raise ValueError(f"'{name}' is no stack of float32 samples")
    return arrays
