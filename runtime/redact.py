"""Text that may be shown to anybody: no user, no host, and of every path only its last part."""

from __future__ import annotations

import getpass
import os
import re
import socket
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: What takes the place of a user's name, a host's name and a user's own folder.
USER, HOST, HOME = "user", "host", "~"

#: Users and hosts as images and containers name them: they identify nobody, and are words of facts.
_COMMON = {"admin", "docker", "localhost", "nvidia", "root", "tegra-ubuntu", "ubuntu"} | {
    *("jetson", "nano", "orin", "thor", "xavier"),
}
# A folder's name may hold blanks but does not begin or end with one; the last part of a path ends
# at the first, for nothing tells a blank of a name from one of a sentence.
_END = r"/\s'\",;:()?"
_FOLDER = rf"[^{_END}](?:[^/\n'\",;:()?]*[^{_END}])?"
# A slash that begins a path: not the second one of https://, but the third one of folder:///.
_PATH = re.compile(rf"(?:(?<=://)|(?<![\w./~]))({HOME}?/(?:{_FOLDER}/)*)([^{_END}]+)")
_ACCOUNT = re.compile(r"(?<=://)[^/\s@]+@[^/\s?:'\",;)]+")
_FOLDERS_OF_USERS = ("/home/", "/var/home/", "/Users/", "/media/", "/run/media/")
_BEFORE, _AFTER = r"(?<![\w.~-])", r"(?![\w.-])"
_NO_LETTER = r"(?<![^\W_])", r"(?![^\W_])"  # and no digit; an underscore may stand beside a name


@dataclass(frozen=True, slots=True)
class Private:
    """What must not be shown.

    Attributes:
        kept: Paths of which the last part, and what follows it, stays: a bundle.
        hidden: Folders of whose paths only the last part stays, whatever blanks they hold.
        homes: The user's own folder, of which nothing stays.
        names: Words and what takes their places.
    """

    kept: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()
    homes: tuple[str, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)


def private_here(kept: Iterable[Path], hidden: Iterable[Path]) -> Private:
    """These places, and the names and folders of this user and this host."""
    return Private(
        kept=_spellings(kept),
        hidden=_spellings((*hidden, Path.cwd())),
        homes=_spellings([Path.home()]),
        names=_names(),
    )


def redact(value: Any, private: Private) -> Any:
    """The same value with nothing private in any of its texts; keys stay as they are.

    Example:
        >>> redact({"why": "cannot read /srv/sets/a.png"}, Private())
        {'why': 'cannot read a.png'}
    """
    if isinstance(value, str):
        return _redact_text(value, private)
    if isinstance(value, Mapping):
        return {key: redact(one, private) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [redact(one, private) for one in value]
    return value


def _redact_text(text: str, private: Private) -> str:
    for path in private.kept:
        text = _swap(text, path, Path(path).name, _BEFORE, _AFTER)
    for folder in private.hidden:
        text = _swap(text, folder, HOME, _BEFORE, "(?=/)")
    for folder in private.homes:
        text = _swap(text, folder, HOME, _BEFORE, _AFTER)
    text = _ACCOUNT.sub(f"{USER}@{HOST}", _PATH.sub(_last_part, text))
    for name, substitute in private.names.items():
        text = _swap(text, name, substitute, *_NO_LETTER)
    return text


def _swap(text: str, old: str, new: str, before: str, after: str) -> str:
    return re.sub(f"{before}{re.escape(old)}{after}", lambda _: new, text, flags=re.IGNORECASE)


def _last_part(path: re.Match[str]) -> str:
    return HOME if path[1] in _FOLDERS_OF_USERS else path[2]


def _spellings(paths: Iterable[Path]) -> tuple[str, ...]:
    """Each path as it is written and as it may be written, longest first."""
    found = {one for path in paths for one in (path, path.absolute(), path.resolve())}
    return tuple(sorted((str(one) for one in found if len(one.parts) > 1), key=len, reverse=True))


def _names() -> dict[str, str]:
    """Names of this user and this host, by what takes their places; longest first."""
    host = socket.gethostname()
    users = {Path.home().name, os.environ.get("SUDO_USER", "")}
    with suppress(Exception):  # an id without an account: which error comes differs by version
        users.add(getpass.getuser())
    found = {**dict.fromkeys(users, USER), **dict.fromkeys((host, host.partition(".")[0]), HOST)}
    # A name of one letter is no name to search a text for.
    telling = [name for name in found if len(name) > 1 and name.lower() not in _COMMON]
    return {name: found[name] for name in sorted(telling, key=len, reverse=True)}
