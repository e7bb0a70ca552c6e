"""The one door to every source: ``open_source("demo://?seed=3")``."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from edge_fusion.errors import SourceError

from .base import Source, StoredSource
from .declared import UNITS, depth_fields
from .demo import NOISES, DemoSource
from .folder import FolderSource


@dataclass(frozen=True, slots=True)
class _Key:
    """One query key: how its text becomes a value, and what to write."""

    parse: Callable[[str], Any]
    form: str
    meaning: str


@dataclass(frozen=True, slots=True)
class _Scheme:
    """One kind of source: ``open`` gets the path, the parsed query, and whether to read masks."""

    open: Callable[[str, Mapping[str, Any], bool], Source]
    keys: Mapping[str, _Key]
    form: str
    meaning: str


def open_source(uri: str, *, masks: bool = True) -> Source:
    """Open a source of RGB-D pairs.

    Args:
        uri: ``SCHEME://...`` (see :func:`describe_schemes`), or the path of a folder.
        masks: Whether to read stored masks; False where nobody needs them, so that none can fail.

    Raises:
        SourceError: The scheme or a query key is unknown, a value is ill-typed, or the source
            cannot be opened.

    Example:
        >>> len(open_source("demo://?frames=5&size=160x120"))
        5
    """
    name, path, query = _split(uri)
    scheme = SCHEMES.get(name)
    if scheme is None:
        raise SourceError(
            f"source '{uri}': unknown scheme '{name}'",
            expected=", ".join(f"{known}://" for known in SCHEMES) + " or the path of a folder",
        )
    return scheme.open(path, _parse_query(uri, name, query), masks)


def open_stored(uri: str, *, masks: bool = True) -> StoredSource:
    """Open a source whose pairs can be counted and read in any order.

    Args:
        uri: As for :func:`open_source`.
        masks: As for :func:`open_source`.

    Raises:
        SourceError: As :func:`open_source`; or the source is live.
    """
    source = open_source(uri, masks=masks)
    if source.live or not isinstance(source, StoredSource):
        raise SourceError(
            f"source '{uri}' is live",
            expected="stored pairs that can be counted and read again",
            cure="use a folder:// or demo:// source without live=1, or record one first",
        )
    return source


def describe_schemes() -> str:
    """Every scheme with its query keys, as text for ``--help`` and the README."""
    lines: list[str] = []
    for scheme in SCHEMES.values():
        lines.append(f"{scheme.form}  {scheme.meaning}")
        width = max(len(f"{name}={key.form}") for name, key in scheme.keys.items())
        for name, key in scheme.keys.items():
            form = f"{name}={key.form}"
            lines.append(f"    {form:<{width}}  {key.meaning}")
    return "\n".join(lines)


def _split(uri: str) -> tuple[str, str, str]:
    """Scheme, path and query.  urllib would take the ``..`` of ``folder://../x`` for a host."""
    match = re.fullmatch(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", uri, re.DOTALL)
    if match is None:
        if Path(uri).expanduser().exists():  # a plain path may itself contain a question mark
            return "folder", uri, ""
        path, _, query = uri.partition("?")
        return "folder", path, query
    path, _, query = match[2].partition("?")
    return match[1].lower(), unquote(path), query


def _parse_query(uri: str, name: str, query: str) -> dict[str, Any]:
    keys = SCHEMES[name].keys
    values: dict[str, Any] = {}
    for part in filter(None, query.split("&")):
        key, _, text = part.partition("=")
        if key not in keys or key in values:
            problem = "given twice" if key in values else "unknown"
            raise SourceError(f"source '{uri}': key '{key}' is {problem}", cure=_known(name))
        try:
            values[key] = keys[key].parse(unquote(text))
        except ValueError as err:
            raise SourceError(
                f"source '{uri}': {key}",
                expected=keys[key].form,
                got=f"'{unquote(text)}'",
                cure=_known(name),
            ) from err
    return values


def _known(name: str) -> str:
    listed = ", ".join(f"{key}={known.form}" for key, known in SCHEMES[name].keys.items())
    return f"{name}:// takes {listed}"


def _flag(text: str) -> bool:
    if text.lower() not in ("0", "1", "false", "true"):
        raise ValueError(text)
    return text.lower() in ("1", "true")


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if match is None:
        raise ValueError(text)
    return int(match[1]), int(match[2])


def _filled(text: str) -> str:
    if not text:
        raise ValueError(text)
    return text


def _number_or_none(text: str) -> float | None:
    return None if text == "none" else float(text)


def _one_of(table: Mapping[str, Any]) -> Callable[[str], Any]:
    """A parser that accepts the keys of a table and gives their values."""

    def parse(text: str) -> Any:
        if text not in table:
            raise ValueError(text)
        return table[text]

    return parse


def _open_folder(path: str, query: Mapping[str, Any], masks: bool) -> Source:
    if not path:
        raise SourceError("source 'folder://' names no folder", expected="folder://PATH")
    globs = {key: query.get(key) for key in ("rgb", "depth", "mask")}
    declared = {key: value for key, value in query.items() if key not in globs}
    return FolderSource(path, **globs, depth_spec=depth_fields(path, **declared), masks=masks)


def _open_demo(path: str, query: Mapping[str, Any], masks: bool) -> Source:
    # Its masks are drawn along with the pictures: nothing is read that could be left unread.
    if path:
        raise SourceError(f"source 'demo://{path}'", expected="demo:// or demo://?key=value")
    options = dict(query)
    if "size" in options:
        options["width"], options["height"] = options.pop("size")
    return DemoSource(**options)


_POLARITIES = {"farther": "farther", "nearer": "nearer"}

SCHEMES: dict[str, _Scheme] = {
    "folder": _Scheme(
        _open_folder,
        {
            "rgb": _Key(_filled, "GLOB", "colour images, if they are not in rgb/"),
            "depth": _Key(_filled, "GLOB", "depth images, if they are not in depth/"),
            "mask": _Key(_filled, "GLOB", "masks, if they are not in gt/"),
            "unit": _Key(_one_of({u: u for u in UNITS}), "|".join(UNITS), "unit of depth"),
            "scale_to_m": _Key(float, "METRES", "metres per unit, for any other unit"),
            "larger_is": _Key(
                _one_of(_POLARITIES), "|".join(_POLARITIES), "what a larger relative value means"
            ),
            "invalid": _Key(
                _number_or_none, "NUMBER|none", "value that means no reading (default 0)"
            ),
        },
        "folder://PATH",
        "stored pairs: rgb/ID.*, depth/ID.*, optional gt/ID.* and meta.json",
    ),
    "demo": _Scheme(
        _open_demo,
        {
            "frames": _Key(int, "COUNT", "length (default 300)"),
            "seed": _Key(int, "NUMBER", "which world (default 0)"),
            "cut": _Key(int, "COUNT", "a new world every so many frames (default 0: never)"),
            "size": _Key(_size, "WIDTHxHEIGHT", "image size (default 640x480)"),
            "fps": _Key(float, "RATE", "frames per second (default 30)"),
            "live": _Key(_flag, "0|1", "deliver at that pace and skip late frames, as a camera"),
            "noise": _Key(
                _one_of({n: n for n in NOISES}), "|".join(NOISES), "depth sensor (default stereo)"
            ),
        },
        "demo://",
        "a drawn little world with exact masks, without any hardware",
    ),
}
