"""A wheel of the package that is running, so that a device gets the very code we have.

It is packed from the imported files: that works for a checkout and for an installed package alike,
needs neither pip nor a network, and the same code always gives the same bytes.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import zipfile
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import edge_fusion
from edge_fusion.errors import MissingDependencyError

NAME = "edge-fusion"
_PACKAGE = "edge_fusion"
_LEFT_OUT = {"__pycache__"}
_EPOCH = (1980, 1, 1, 0, 0, 0)  # zip's first day: times must not change the bytes
#: By their names in a wheel; a checkout's own ``.egg-info`` has other ones for the first.
_COPIED = {
    "METADATA": ("METADATA", "PKG-INFO"),
    "entry_points.txt": ("entry_points.txt",),
    "licenses/LICENSE": ("licenses/LICENSE",),
}


def pack_wheel() -> tuple[str, bytes]:
    """Pack the running package.

    Requirements and version are those it was installed with.

    Returns:
        The wheel's file name and its bytes.

    Raises:
        MissingDependencyError: The package is not installed, not even as an editable checkout.

    Example:
        >>> name, data = pack_wheel()
        >>> name.startswith("edge_fusion-"), data == pack_wheel()[1]
        (True, True)
    """
    installed = _distribution()
    stem = f"{_PACKAGE}-{installed.version}"
    contents = dict(_package_files())
    for name, sources in _COPIED.items():
        texts = (installed.read_text(source) for source in sources)
        if text := next(filter(None, texts), None):
            contents[f"{stem}.dist-info/{name}"] = text.encode()
    contents[f"{stem}.dist-info/WHEEL"] = (
        f"Wheel-Version: 1.0\nGenerator: {NAME}\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    ).encode()
    record = f"{stem}.dist-info/RECORD"
    contents[record] = _record(contents, record).encode()
    return f"{stem}-py3-none-any.whl", _zip(contents)


def _distribution() -> Distribution:
    try:
        return distribution(NAME)
    except PackageNotFoundError as err:
        raise MissingDependencyError(
            NAME,
            needed_for="packing itself for a device",
            cure="install it, in its checkout: pip install -e .",
        ) from err


def _package_files() -> Iterator[tuple[str, bytes]]:
    """Every file of the package by its name in the wheel, in order.

    A checkout reaches its wings through links, which a walk has to follow.
    """
    root = Path(edge_fusion.__path__[0])
    for folder, folders, files in os.walk(root, followlinks=True):
        folders[:] = sorted(name for name in folders if _wanted(name))
        for name in sorted(filter(_wanted, files)):
            path = Path(folder) / name
            yield f"{_PACKAGE}/{path.relative_to(root).as_posix()}", path.read_bytes()


def _wanted(name: str) -> bool:
    return name not in _LEFT_OUT and not name.startswith(".") and not name.endswith(".pyc")


def _record(contents: dict[str, bytes], itself: str) -> str:
    """The wheel's own list: name, hash, size; its own line has neither."""
    rows = []
    for name, data in contents.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        rows.append(f"{name},sha256={digest},{len(data)}\n")
    return "".join((*rows, f"{itself},,\n"))


def _zip(contents: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in contents.items():
            info = zipfile.ZipInfo(name, _EPOCH)
            info.external_attr = 0o644 << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, data)
    return buffer.getvalue()
