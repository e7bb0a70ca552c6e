"""The one door to every source: ``open_source("demo://?seed=3")``."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from edge_fusion.dependencies import naming_missing_packages
from edge_fusion.errors import SourceError

from .base import Source, StoredSource
from .credentials import HIDDEN, without_credentials
from .keys import CAMERA_KEYS, REPLAY_KEYS, describe_keys
from .place import is_there, local_path
from .reconnect import Reconnecting, ReconnectOptions
from .replay import ReplayOptions, replayed
from .schemes import SCHEMES

Note = Callable[[str], None]

# What is no path that somebody mistyped, but an address: it may hold a password.
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:|.*:.*@", re.DOTALL)


def open_source(uri: str, *, masks: bool = True, note: Note = lambda text: None) -> Source:
    """Open a source of RGB-D pairs.

    Args:
        uri: ``SCHEME://...`` (see :func:`describe_schemes`), or the path of a folder.
        masks: Whether to read stored masks; False where nobody needs them, so that none can fail.
        note: Told in a sentence when a camera is lost or found again, from the thread that reads.

    Raises:
        SourceError: The scheme or a query key is unknown, a value is ill-typed, or the source
            cannot be opened.
        MissingDependencyError: It needs a package that is not installed.

    Example:
        >>> len(open_source("demo://?frames=5&size=160x120"))
        5
    """
    name, path, values = _parse(uri)
    scheme = SCHEMES[name]
    replay = {key: values.pop(key) for key in REPLAY_KEYS if key in values and scheme.stored}
    camera = {key: values.pop(key) for key in CAMERA_KEYS if key in values and scheme.live}
    opening = partial(_open, name, path, values, masks)
    source = opening()
    if not source.live:
        _refuse(source, camera, "a recording")
        return replayed(source, ReplayOptions(**replay))
    _refuse(source, replay, "a camera")
    if isinstance(source, StoredSource):  # a demo that plays a camera: it cannot be lost
        return source
    first = iter([source])
    return Reconnecting(
        lambda: next(first, None) or opening(),
        ReconnectOptions(patience_s=camera.get("reconnect")),
        note,
    )


def _open(name: str, path: str, values: Mapping[str, Any], masks: bool) -> Source:
    with naming_missing_packages(f"{name}://"):
        return SCHEMES[name].open(path, values, masks)


def _refuse(source: Source, values: Mapping[str, Any], kind: str) -> None:
    if values:
        raise SourceError(
            f"source '{source.uri}' is {kind}",
            got=", ".join(values),
            cure=f"leave that out: it means nothing for {kind}",
        )


def files_of(uri: str) -> tuple[Path, ...]:
    """The files and folders that a source reads, which nothing may be written over.

    Raises:
        SourceError: As :func:`open_source`, as far as that can be told without opening it.

    Example:
        >>> files_of("demo://?seed=3")
        ()
    """
    name, path, values = _parse(uri)
    if not SCHEMES[name].stored:
        return ()
    if name == "folder":
        return tuple(local_path(path) / part for part in ("rgb", "depth"))
    named = (path, values.get("depth", ""))
    return tuple(local_path(each) for each in named if each and is_there(each))


def open_stored(uri: str, *, masks: bool = True) -> StoredSource:
    """Open a source whose pairs can be counted and read in any order.

    Args:
        uri: As for :func:`open_source`.
        masks: As for :func:`open_source`.

    Raises:
        SourceError: As :func:`open_source`; or the source is live, or can only be read in order.
    """
    source = open_source(uri, masks=masks)
    if source.live or not isinstance(source, StoredSource):
        raise SourceError(
            f"source '{source.uri}' cannot be counted",
            expected="stored pairs that can be counted and read in any order",
            got="a camera, or a recording that is read from its start or without end",
            cure="use folder://, or demo:// without live=1; leave out loop and pace",
        )
    return source


def describe_schemes() -> str:
    """Every scheme with its query keys, as text for ``--help`` and the README."""
    lines: list[str] = []
    for scheme in SCHEMES.values():
        lines.append(f"{scheme.form}  {scheme.meaning}")
        lines.extend(describe_keys(scheme.keys))
    for kind, keys in (("recording", REPLAY_KEYS), ("camera", CAMERA_KEYS)):
        fitting = [name for name, one in SCHEMES.items() if keys.items() <= one.all_keys.items()]
        lines.append(f"every {kind}: {', '.join(f'{name}://' for name in fitting)}")
        lines.extend(describe_keys(keys))
    return "\n".join(lines)


def _parse(uri: str) -> tuple[str, str, dict[str, Any]]:
    """Scheme, path and the values of the query.

    Raises:
        SourceError: The scheme or a query key is unknown, or a value is ill-typed.
    """
    name, path, query = _split(uri)
    if name not in SCHEMES:
        raise SourceError(
            f"source '{without_credentials(uri)}': unknown scheme '{name}'",
            expected=", ".join(f"{known}://" for known in SCHEMES) + " or the path of a folder",
        )
    values = _parse_query(uri, name, query)
    _refuse_address(uri, name, path, values)
    return name, path, values


def _refuse_address(uri: str, name: str, path: str, values: Mapping[str, Any]) -> None:
    """Refuse an address where a file is meant: the message of the file would tell its password."""
    if not SCHEMES[name].stored:
        return
    for place in (path, values.get("depth", "") if name == "video" else ""):
        if _ADDRESS.match(place) and not is_there(place):
            raise SourceError(
                f"source '{without_credentials(uri)}' is not on this machine",
                expected=SCHEMES[name].form,
                got="an address, or a file or folder that does not exist",
                cure=f"{name}:// reads what this machine holds; cameras in a network are rtsp://",
            )


def _split(uri: str) -> tuple[str, str, str]:
    """Scheme, path and query.  urllib would take the ``..`` of ``folder://../x`` for a host."""
    match = re.fullmatch(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", uri, re.DOTALL)
    if match is None:
        if is_there(uri):  # a plain path may itself contain a question mark
            return "folder", uri, ""
        path, _, query = uri.partition("?")
        if _ADDRESS.match(uri) and not is_there(path):
            shown = without_credentials(re.sub(r".*@", f"{HIDDEN}@", uri, flags=re.DOTALL))
            raise SourceError(
                f"source '{shown}' is neither a folder nor an address",
                expected="SCHEME://..., or the path of a folder",
                cure="mind the :// after the scheme; see 'edge-fusion sources'",
            )
        return "folder", path, query
    path, _, query = match[2].partition("?")
    name = match[1].lower()
    encoded = name in SCHEMES and SCHEMES[name].encoded
    return name, path if encoded else unquote(path), query


def _parse_query(uri: str, name: str, query: str) -> dict[str, Any]:
    keys, shown = SCHEMES[name].all_keys, without_credentials(uri)
    values: dict[str, Any] = {}
    for part in filter(None, query.split("&")):
        key, _, text = part.partition("=")
        if key not in keys or key in values:
            problem = "given twice" if key in values else "unknown"
            told = _told(key, rf"[?&]{re.escape(key)}(?:[=&]|$)", shown)
            raise SourceError(f"source '{shown}': key '{told}' is {problem}", cure=_known(name))
        try:
            values[key] = keys[key].parse(text if keys[key].encoded else unquote(text))
        except ValueError:
            told = _told(text, rf"[?&]{re.escape(part)}(?:&|$)", shown)
            raise SourceError(
                f"source '{shown}': {key}",
                expected=keys[key].form,
                got=f"'{told}'",
                cure=_known(name),
            ) from None  # its message quotes the value
    return values


def _told(text: str, pattern: str, shown: str) -> str:
    """A key or value, if it is no piece of a password that was cut at its ? or &.

    A piece of one is not there any more in the URI as it is shown, or runs on to a host.
    """
    return text if re.search(pattern, shown) and not re.search("[@/:]", text) else HIDDEN


def _known(name: str) -> str:
    listed = ", ".join(f"{key}={known.form}" for key, known in SCHEMES[name].all_keys.items())
    return f"{name}:// takes {listed}"
