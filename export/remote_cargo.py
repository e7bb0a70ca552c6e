"""What goes to a device, as files: the bundle, our wheel, and wheels where pip has no network."""

from __future__ import annotations

import re
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edge_fusion.bundle import Bundle
from edge_fusion.errors import InputError
from edge_fusion.files import sha256
from edge_fusion.manifest import MANIFEST_NAME

from .remote_wheel import pack_wheel

_SAFE_WHEEL = re.compile(r"[A-Za-z0-9][\w.+!-]*\.whl", re.ASCII)


@dataclass(frozen=True, slots=True)
class Cargo:
    """What goes to the device, laid out as it shall lie there.

    Attributes:
        bundle: The bundle, as a folder here.
        name: Its folder's name there, which changes with its contents.
        stage: ``bundles/NAME/...`` and ``wheels/...``, as links to where the files are here.
        names: All files in it.
        wheel: The name of our wheel; empty where nothing is installed.
    """

    bundle: Bundle
    name: str
    stage: Path
    names: tuple[str, ...]
    wheel: str

    @property
    def size(self) -> int:
        """Bytes in all."""
        return sum((self.stage / name).stat().st_size for name in self.names)

    @property
    def wheels(self) -> tuple[str, ...]:
        """Those of the files that are wheels."""
        return tuple(name for name in self.names if name.startswith("wheels/"))


@contextmanager
def load_cargo(path: Path, wheelhouse: Path | None, *, package: bool) -> Iterator[Cargo]:
    """Everything that goes to the device; a ``.tar`` is unpacked for the time being.

    Args:
        path: A bundle's folder or ``.tar``.
        wheelhouse: A folder of wheels, or None.
        package: Whether our own wheel goes too.

    Raises:
        BundleError: The bundle is missing or damaged.
        InputError: The wheelhouse holds no wheel.
    """
    bundle = Bundle.read(path)
    with tempfile.TemporaryDirectory(prefix="edge-fusion-") as scratch:
        folder = path if path.is_dir() else _unpacked(bundle, Path(scratch) / "bundle")
        stem = re.sub(r"[^A-Za-z0-9._-]", "_", path.resolve().name).strip("._-") or "bundle"
        name = f"{stem}-{sha256((folder / MANIFEST_NAME).read_bytes())[:12]}"
        files = {
            f"bundles/{name}/{file}": folder / file
            for file in (*bundle.manifest.files, MANIFEST_NAME)
        }
        files |= {f"wheels/{file}": path for file, path in _wheels(wheelhouse).items()}
        wheel = ""
        if package:
            wheel, data = pack_wheel()
            files[f"wheels/{wheel}"] = Path(scratch) / wheel
            files[f"wheels/{wheel}"].write_bytes(data)
        stage = Path(scratch) / "stage"
        for file, source in files.items():
            (stage / file).parent.mkdir(parents=True, exist_ok=True)
            (stage / file).symlink_to(source.resolve())
        yield Cargo(bundle, name, stage, tuple(files), wheel)


def _unpacked(bundle: Bundle, folder: Path) -> Path:
    """A ``.tar``'s files by the names its manifest lists, each held against its hash."""
    contents = {name: bundle.file(name) for name in bundle.manifest.files}
    with tarfile.open(bundle.path, "r:") as archive:
        manifest = archive.extractfile(MANIFEST_NAME)
        contents[MANIFEST_NAME] = manifest.read() if manifest else b""
    for name, data in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    Bundle.read(folder)
    return folder


def _wheels(folder: Path | None) -> dict[str, Path]:
    if folder is None:
        return {}
    found = {p.name: p for p in sorted(folder.glob("*.whl")) if _SAFE_WHEEL.fullmatch(p.name)}
    if not found:
        raise InputError(
            f"the wheelhouse {folder} holds no wheel",
            cure="fill it: pip download --only-binary=:all: --platform manylinux_2_28_aarch64 "
            f"--python-version 3.10 -d {folder} 'numpy<2' pydantic rich typer; where "
            "the device has no OpenCV, opencv-python-headless too",
        )
    return found
