"""What may stand in a source's URI: keys, how their text becomes a value, and what to write."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .base import Source
from .declared import UNITS


@dataclass(frozen=True, slots=True)
class Key:
    """One query key: how its text becomes a value, and what to write."""

    parse: Callable[[str], Any]
    form: str
    meaning: str


@dataclass(frozen=True, slots=True)
class Scheme:
    """One kind of source: ``open`` gets the path, the parsed query, and whether to read masks."""

    open: Callable[[str, Mapping[str, Any], bool], Source]
    keys: Mapping[str, Key]
    form: str
    meaning: str


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
