"""What may stand in a source's URI: keys, how their text becomes a value, and what to write."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .base import Source
from .declared import UNITS


@dataclass(frozen=True, slots=True)
class Key:
    """One query key: how its text becomes a value, and what to write.

    Attributes:
        parse: From its text to its value; ValueError where it is none.
        form: What to write.
        meaning: What it does.
        encoded: Whether its text is an address of its own, whose %-signs are left to it.
    """

    parse: Callable[[str], Any]
    form: str
    meaning: str
    encoded: bool = False


@dataclass(frozen=True, slots=True)
class Scheme:
    """One kind of source.

    Attributes:
        open: Opens it, given the path, the parsed query, and whether to read masks.
        keys: What its query may hold.
        form: What to write.
        meaning: What it is.
        stored: Whether it can be a recording, which takes :data:`REPLAY_KEYS`, too.
        live: Whether it can be a camera, which takes :data:`CAMERA_KEYS`, too.
        encoded: Whether its path is an address of its own, whose %-signs are left to it.
    """

    open: Callable[[str, Mapping[str, Any], bool], Source]
    keys: Mapping[str, Key]
    form: str
    meaning: str
    stored: bool = True
    live: bool = False
    encoded: bool = False

    @property
    def all_keys(self) -> dict[str, Key]:
        """Its own keys and those of its kind."""
        replay = REPLAY_KEYS if self.stored else {}
        camera = CAMERA_KEYS if self.live else {}
        return {**self.keys, **replay, **camera}


def flag(text: str) -> bool:
    """A yes or no."""
    if text.lower() not in ("0", "1", "false", "true"):
        raise ValueError(text)
    return text.lower() in ("1", "true")


def size(text: str) -> tuple[int, int]:
    """``640x480`` as (width, height)."""
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if match is None:
        raise ValueError(text)
    return int(match[1]), int(match[2])


def filled(text: str) -> str:
    """Any text but none at all."""
    if not text:
        raise ValueError(text)
    return text


def number_or_none(text: str) -> float | None:
    """A number, or the word none."""
    return None if text == "none" else float(text)


def one_of(table: Mapping[str, Any]) -> Callable[[str], Any]:
    """A parser that accepts the keys of a table and gives their values."""

    def parse(text: str) -> Any:
        if text not in table:
            raise ValueError(text)
        return table[text]

    return parse


def pace(text: str) -> str | float:
    """``fast``, ``real``, or pairs a second."""
    return text if text in ("fast", "real") else float(text)


def patience(text: str) -> float | None:
    """Seconds, or ``forever``."""
    if text == "forever":
        return None
    seconds = float(text)
    if not seconds >= 0:
        raise ValueError(text)
    return seconds


_POLARITIES = {"farther": "farther", "nearer": "nearer"}

#: What depth means, for sources that cannot know it.
DEPTH_KEYS: dict[str, Key] = {
    "unit": Key(one_of({u: u for u in UNITS}), "|".join(UNITS), "unit of depth"),
    "scale_to_m": Key(float, "METRES", "metres per unit, for any other unit"),
    "larger_is": Key(
        one_of(_POLARITIES), "|".join(_POLARITIES), "what a larger relative value means"
    ),
    "invalid": Key(number_or_none, "NUMBER|none", "value that means no reading (default 0)"),
}

#: How a recording is played.
REPLAY_KEYS: dict[str, Key] = {
    "start": Key(int, "COUNT", "pairs to leave out at the beginning"),
    "stride": Key(int, "COUNT", "take every so-manieth pair"),
    "loop": Key(flag, "0|1", "begin again at the end"),
    "pace": Key(pace, "fast|real|RATE", "as fast as possible, or live as a camera (RATE per s)"),
}

#: What becomes of a camera that is lost.
CAMERA_KEYS: dict[str, Key] = {
    "reconnect": Key(
        patience, "SECONDS|forever", "how long to look for it when it is lost (default forever)"
    ),
}


def describe_keys(keys: Mapping[str, Key]) -> Iterator[str]:
    """A line for each key: what to write, and what it does."""
    forms = [f"{name}={key.form}" for name, key in keys.items()]
    width = max(map(len, forms), default=0)
    for form, key in zip(forms, keys.values(), strict=True):
        yield f"    {form:<{width}}  {key.meaning}"
