"""Writing so that a reader never sees half a result, and hashing what was read."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edge_fusion.errors import OutputError

_CURES = {
    errno.ENOSPC: "the disk is full: free some space or write elsewhere",
    errno.EDQUOT: "the disk quota is used up: free some space or write elsewhere",
    errno.EFBIG: "the file would exceed the allowed size: raise the limit (ulimit -f)",
    errno.EACCES: "you may not write there: choose another place or fix the permissions",
    errno.EPERM: "you may not write there: choose another place or fix the permissions",
    errno.EROFS: "that file system is read-only: write elsewhere",
    errno.EEXIST: "a part of that path is a file, not a folder",
    errno.ENOENT: "create its folder first",
    errno.ENOTDIR: "a part of that path is a file, not a folder",
    errno.EISDIR: "that path is a folder, a file was expected",
}


@contextmanager
def writing(what: str, path: Path) -> Iterator[None]:
    """Turn any failure to write ``path`` into an :class:`OutputError` with its cure."""
    try:
        yield
    except OSError as err:
        cure = _CURES.get(err.errno or 0, "")
        raise OutputError(
            f"cannot write {what} {path}", got=err.strerror or str(err), cure=cure
        ) from err


def partial_name(path: Path) -> Path:
    """Where ``path`` grows until it is whole: a hidden sibling of this process alone.

    Example:
        >>> grows = partial_name(Path("videos/out.mp4"))
        >>> grows.parent.name, grows.name.startswith(".out.partial-"), grows.suffix
        ('videos', True, '.mp4')
    """
    return path.with_name(f".{path.stem}.partial-{os.getpid()}{path.suffix}")


@contextmanager
def partial_path(path: Path, what: str = "the file") -> Iterator[Path]:
    """A hidden sibling of ``path`` to write to; it takes the final name only on success.

    Args:
        path: Where the finished file shall be; its folder is created.
        what: What is being written, for messages.

    Yields:
        A path with the same suffix in the same folder. It is removed if the block fails.

    Raises:
        OutputError: The file could not be written; nothing is left behind.

    Example:
        >>> folder = Path(tempfile.mkdtemp())
        >>> with partial_path(folder / "a.txt") as partial:
        ...     _ = partial.write_text("whole")
        >>> [p.name for p in folder.iterdir()]
        ['a.txt']
    """
    final = path.resolve()  # a link keeps pointing at what is replaced
    partial = partial_name(final)
    with writing(what, path):
        if final.exists() and not final.is_file():
            raise OutputError(f"cannot write {what} {path}", got="it exists and is no plain file")
        final.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield partial
            partial.replace(final)
        finally:
            partial.unlink(missing_ok=True)


def check_writable(path: Path, what: str = "the file") -> None:
    """Find out before long work that its result can be written; nothing is left behind.

    Args:
        path: Where a file shall be, in a folder that exists.
        what: What is to be written, for messages.

    Raises:
        OutputError: No file can be made there.
    """
    if path.is_fifo() or path.is_char_device():
        return
    trial = partial_name(path.resolve())
    with writing(what, path):
        try:
            trial.touch(exist_ok=False)
        finally:
            trial.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes, what: str = "the file") -> None:
    """Write a whole file or nothing; into a pipe or a device, straight.

    Raises:
        OutputError: The file could not be written; an older one is untouched.
    """
    if path.is_fifo() or path.is_char_device():
        with writing(what, path), path.open("wb") as stream:
            stream.write(data)
        return
    with partial_path(path, what) as partial:
        write_synced(partial, data)


def write_synced(path: Path, data: bytes) -> None:
    """Write a file and wait until the disk has it, so that no power cut leaves a name without it.

    Raises:
        OSError: The file could not be written.
    """
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def partial_directory(path: Path, what: str = "the folder") -> Iterator[Path]:
    """A hidden sibling folder to fill; it replaces ``path`` as a whole on success.

    Yields:
        An empty folder beside ``path``. It is removed if the block fails, and ``path`` is then as
        it was before.

    Raises:
        OutputError: The folder could not be written; nothing is left behind.
    """
    with writing(what, path):
        path = path.resolve()  # a link keeps pointing at what is replaced
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{path.name}.partial-", dir=path.parent))
        retired = partial.with_name(f"{partial.name}-replaced")
        try:
            yield partial
            partial.chmod(0o755)
            if path.exists():
                path.rename(retired)
            partial.rename(path)
        except BaseException:
            if retired.exists() and not path.exists():
                retired.rename(path)
            raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
            shutil.rmtree(retired, ignore_errors=True)


def sha256(data: bytes) -> str:
    """The SHA-256 of ``data`` in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """The SHA-256 of a file in hexadecimal, read in chunks.

    Raises:
        OSError: The file cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def natural_key(name: str) -> list[tuple[bool, int, str]]:
    """Sort key under which numbers in a name count as numbers: ``a2`` before ``a10``.

    Example:
        >>> sorted(["a10", "b", "a2", "a"], key=natural_key)
        ['a', 'a2', 'a10', 'b']
    """
    return [
        (not part.isdecimal(), int(part) if part.isdecimal() else 0, part)
        for part in re.split(r"([0-9]+)", name)
        if part
    ]
