"""How a bundle's files lie on disk: in a folder, or in a ``.tar`` of it."""

from __future__ import annotations

import io
import stat
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from edge_fusion.errors import BundleError
from edge_fusion.files import writing

COPY_AGAIN = "copy the bundle again, or build it again"

Reader = Callable[[str, int], bytes]  # name, most bytes it may have


def reader(path: Path) -> Reader:
    """How to read one file of a bundle, by what the bundle is.

    Raises:
        BundleError: Nothing is there, or the system does not let us look.
    """
    try:
        if path.is_dir():
            return lambda name, most: _read_from_folder(path, name, most)
        if path.is_file():
            return lambda name, most: _read_from_tar(path, name, most)
    except OSError as err:
        raise BundleError(f"cannot read {path}", got=err.strerror or str(err)) from err
    raise BundleError(
        f"no bundle at {path}", cure="make one: edge-fusion build MODEL --calib SET -o BUNDLE"
    )


def _read_from_folder(path: Path, name: str, most: int) -> bytes:
    file = path / name
    try:
        if file.is_symlink() or not file.resolve().is_relative_to(path.resolve()):
            raise BundleError(f"'{name}' in bundle {path} is a link; bundles hold plain files only")
        status = file.stat()
        if not stat.S_ISREG(status.st_mode):
            raise BundleError(f"'{name}' in {path} is not a plain file")
        _check_size(path, name, status.st_size, most)
        return file.read_bytes()
    except OSError as err:
        raise BundleError(
            f"'{name}' is missing from {path}",
            got=err.strerror or str(err),
            cure=f"is this a bundle? {COPY_AGAIN}",
        ) from err


def _read_from_tar(path: Path, name: str, most: int) -> bytes:
    try:
        with tarfile.open(path, "r:") as archive:
            member = archive.getmember(name)
            file = archive.extractfile(member) if member.isreg() else None
            if file is None:
                raise BundleError(f"'{name}' in {path} is not a plain file")
            _check_size(path, name, member.size, most)
            return file.read()
    except KeyError as err:
        raise BundleError(f"'{name}' is missing from {path}; is this a bundle?") from err
    except (tarfile.TarError, OSError, ValueError) as err:
        raise BundleError(
            f"{path} is not a readable .tar", got=str(err), cure="copy the bundle again"
        ) from err


def _check_size(path: Path, name: str, size: int, most: int) -> None:
    """Before reading: a few bytes of a sparse file or archive member can claim any size."""
    if size > most:
        raise BundleError(
            f"'{name}' in bundle {path} is too large",
            expected=f"at most {most} bytes",
            got=f"{size} bytes",
            cure=COPY_AGAIN,
        )


def file_names(path: Path) -> list[str]:
    """Every file in a bundle, sorted, listed in its manifest or not."""
    return sorted(_names_in_folder(path) if path.is_dir() else _names_in_tar(path))


def pack_tar(contents: Mapping[str, bytes]) -> bytes:
    """An uncompressed archive with fixed owners and times, so that equal contents are equal."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in contents.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o644
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def _names_in_folder(path: Path) -> Iterator[str]:
    with writing("the bundle", path):
        for entry in path.rglob("*"):
            if entry.is_symlink() or not entry.is_dir():
                yield entry.relative_to(path).as_posix()


def _names_in_tar(path: Path) -> Iterator[str]:
    with tarfile.open(path, "r:") as archive:
        yield from (member.name for member in archive if not member.isdir())
