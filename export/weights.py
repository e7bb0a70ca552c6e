"""Weights files: read without running what may be in them, refused in words where unreadable."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from edge_fusion.errors import CheckpointError
from edge_fusion.files import natural_key

Tensors = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Weights:
    """The tensors of a file.

    Attributes:
        tensors: By name, as stored.
        source: Keys that led to them inside a nested file, such as ``model_ema``; empty where the
            file holds the tensors directly.
    """

    tensors: Tensors
    source: str


#: Where nested files keep their tensors, in order of preference: averaged weights first.
CONTAINERS = (
    *("ema", "model_ema", "ema_model", "params_ema", "ema_state_dict", "state_dict_ema"),
    *("state_dict", "model_state_dict", "model", "params", "module", "shadow"),
)
#: First bytes of files that are often taken for weights.
FOREIGN_FILES: dict[bytes, str] = {
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"<!DOCTYPE": "an HTML page",
    b"<!doctype": "an HTML page",
    b"<html": "an HTML page",
    b"version https://git-lfs": "a Git LFS pointer",
    b"\x1f\x8b": "a gzip archive",
}


def read_weights(path: Path) -> Weights:
    """Read the tensors of a weights file without running any code that it may contain.

    Args:
        path: ``.safetensors``, ``.pth`` or ``.pt``; nested dictionaries are searched, averaged
            (EMA) weights first.

    Raises:
        CheckpointError: The file is missing, damaged, of another type, or holds no tensors.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise CheckpointError(
            f"checkpoint {path}",
            expected=" or ".join(READERS),
            got=path.suffix or "no suffix",
            cure="save it with torch.save(model.state_dict(), 'weights.pth')",
        )
    _refuse_foreign_file(path)
    return _find_tensors(path, reader(path))


def _read_safetensors(path: Path) -> object:
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as err:
        raise CheckpointError(
            f"checkpoint {path} is damaged or truncated",
            expected="a safetensors file",
            got=str(err),
            cure="download or copy it again, and compare its size",
        ) from err
    # The format keeps no order; blocks are matched in order, so layers.2 must precede layers.10.
    return {name: tensors[name] for name in sorted(tensors, key=natural_key)}


def _read_torch(path: Path) -> object:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # says what the errors below say better
            return torch.load(path, map_location="cpu", weights_only=True)
    # torch's readers raise whatever the damaged bytes lead them to, and their messages advise to
    # switch the protection off, so none of their text is passed on.
    except Exception as err:
        what, cure = _diagnose(path, err)
        raise CheckpointError(
            f"checkpoint {path} {what}", expected="tensors saved by torch.save", cure=cure
        ) from err


#: In torch's message where a file wants more run than the making of tensors.
_OBJECT_WORDS = ("global", "GLOBAL", "unrecognized function", "reduce")


def _diagnose(path: Path, error: Exception) -> tuple[str, str]:
    """What a file is that torch could not read as plain tensors, and what to do about it."""
    with path.open("rb") as file:
        start = file.read(9)
    if start[8:] == b"{":
        return "is a safetensors file under another name", "rename it to .safetensors"
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any("/code/" in name for name in archive.namelist()):
                return (
                    "is a TorchScript program, not weights",
                    "save weights alone: torch.save(torch.jit.load(FILE).state_dict(), 'w.pth')",
                )
    text = str(error)
    if isinstance(error, pickle.UnpicklingError) and any(word in text for word in _OBJECT_WORDS):
        return (
            "holds Python objects, not only tensors; nothing of it was run",
            "where you trust its author, save its tensors alone: "
            "torch.save(model.state_dict(), 'weights.pth')",
        )
    return "is damaged or truncated", "download or copy it again, and compare its size"


READERS: dict[str, Callable[[Path], object]] = {
    ".safetensors": _read_safetensors,
    ".pth": _read_torch,
    ".pt": _read_torch,
}


def _refuse_foreign_file(path: Path) -> None:
    try:
        with path.open("rb") as file:
            start = file.read(64).lstrip()
    except OSError as err:
        raise CheckpointError(
            f"cannot read checkpoint {path}",
            expected="a weights file",
            got=err.strerror or str(err),
            cure="check the path and its permissions",
        ) from err
    found = next((what for magic, what in FOREIGN_FILES.items() if start.startswith(magic)), None)
    if found or not start:
        raise CheckpointError(
            f"checkpoint {path} does not hold weights",
            expected="a safetensors file or tensors saved by torch.save",
            got=found or "an empty file",
            cure="download it again; a link to a web page or an interrupted copy gives this",
        )


def _find_tensors(path: Path, content: object) -> Weights:
    """Descend into nested dictionaries until one holds tensors."""
    trail: list[str] = []
    while isinstance(content, Mapping):
        container = next((c for c in CONTAINERS if isinstance(content.get(c), Mapping)), None)
        if container is None:
            tensors = {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
            if tensors:
                return Weights(tensors, ".".join(trail))
            break
        trail.append(container)
        content = content[container]
    raise CheckpointError(
        f"checkpoint {path} holds no named tensors",
        expected=f"a state dict, or one under {', '.join(CONTAINERS)}",
        got=_describe(content),
        cure="save it with torch.save(model.state_dict(), 'weights.pth')",
    )


def _describe(content: object) -> str:
    """What a file holds, in a few words."""
    if not isinstance(content, Mapping):
        return f"a {type(content).__name__}"
    names = ", ".join(str(key) for key in list(content)[:5])
    return f"a dictionary of {names}" if names else "an empty dictionary"
