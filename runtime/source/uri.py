"""The one door to every source: ``open_source("demo://?seed=3")``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from edge_fusion.errors import SourceError

from .base import Source, StoredSource
from .schemes import SCHEMES


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
