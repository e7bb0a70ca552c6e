"""Destinations of the form ``SCHEME://PLACE?key=value``, for sinks that are not plain files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import unquote

from edge_fusion.errors import OutputError

from ..source.keys import Key

_PLACE = re.compile(r"(?P<host>\[[0-9A-Za-z:.%]+\]|[^][:/?#@\s]*)(?::(?P<port>\d{1,5}))?/?")


class Destination(NamedTuple):
    """A destination taken apart: ``place`` stands between ``//`` and ``?``."""

    place: str
    values: dict[str, Any]


def read_destination(text: str, scheme: str, keys: Mapping[str, Key]) -> Destination:
    """Take a destination apart and parse the values of its keys.

    Args:
        text: What the user wrote.
        scheme: The scheme it has to begin with.
        keys: Every key it may have.

    Raises:
        OutputError: It has another scheme, an unknown key, a key twice, or a value that the key
            does not take.  No value is ever shown: it may be a token.

    Example:
        >>> read_destination("web://:80?fps=5", "web", {"fps": Key(float, "RATE", "pictures/s")})
        Destination(place=':80', values={'fps': 5.0})
    """
    head, _, query = text.partition("?")
    if not head.lower().startswith(f"{scheme}://"):
        raise OutputError(f"destination '{head}'", expected=f"{scheme}://...")
    values: dict[str, Any] = {}
    for part in filter(None, query.split("&")):
        name, _, value = part.partition("=")
        if name not in keys or name in values:
            problem = "given twice" if name in values else "unknown"
            raise OutputError(
                f"destination '{head}': key '{name}' is {problem}", cure=_known(scheme, keys)
            )
        try:
            values[name] = keys[name].parse(unquote(value))
        except ValueError as err:
            raise OutputError(
                f"destination '{head}': {name}",
                expected=f"{keys[name].form}, {keys[name].meaning}",
                cure=_known(scheme, keys),
            ) from err
    return Destination(unquote(head[len(scheme) + 3 :]), values)


def read_address(place: str, host: str, port: int, form: str) -> tuple[str, int]:
    """``[HOST][:PORT]`` as both, an IPv6 address without its brackets.

    Args:
        place: What stands between ``//`` and ``?``.
        host: The host where none is named.
        port: The port where none is named.
        form: What the whole destination looks like, for the message.

    Raises:
        OutputError: It is no such address, or the port is above 65535.

    Example:
        >>> read_address("[::1]:90", "127.0.0.1", 80, ""), read_address("", "127.0.0.1", 80, "")
        (('::1', 90), ('127.0.0.1', 80))
    """
    match = _PLACE.fullmatch(place)
    if match and match["host"].isdigit() and not match["port"]:
        raise OutputError(
            f"'{place}' is no address to listen on",
            expected=form,
            cure=f"a port stands behind a colon: {form.partition(':')[0]}://:{match['host']}",
        )
    if match is None or int(match["port"] or 0) > 65535:
        raise OutputError(
            f"'{place}' is no address to listen on",
            expected=form,
            cure="an IPv6 address needs brackets, and ports end at 65535",
        )
    return match["host"].strip("[]") or host, int(match["port"] or port)


def bracketed(host: str) -> str:
    """A host as it stands in an address: an IPv6 one in brackets."""
    return f"[{host}]" if ":" in host else host


def _known(scheme: str, keys: Mapping[str, Key]) -> str:
    listed = ", ".join(f"{name}={key.form}" for name, key in keys.items())
    return f"{scheme}:// takes {listed or 'no keys'}"
