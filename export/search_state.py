"""What a search has measured so far, kept in a file so that an interrupted one goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from edge_fusion.errors import OutputError
from edge_fusion.files import sha256, write_bytes, writing
from edge_fusion.manifest import Sha256
from edge_fusion.spec import Record

from .gate import Reading

WHAT = "the search's state"


class ReadingRecord(Record):
    """One :class:`~.gate.Reading` without its limits, and the seconds that it took."""

    drops: dict[str, float]
    difference: float
    by_pair: dict[str, tuple[float, ...]] = Field(default_factory=dict)
    seconds: Annotated[float, Field(ge=0)]


class StateRecord(Record):
    """The contents of a state file.

    Attributes:
        kind: Tells it from any other JSON.
        key: Hash of everything that a reading depends on.
        readings: By the layers that were reverted and the pairs that were run.
    """

    schema_version: Literal[1] = 1
    kind: Literal["edge-fusion accuracy search"] = "edge-fusion accuracy search"
    key: Sha256
    readings: dict[str, ReadingRecord] = Field(default_factory=dict)


def state_path(output: Path) -> Path:
    """Where the state of the build of ``output`` lies: beside it.

    Example:
        >>> state_path(Path("out/bundle.tar")).name
        'bundle.tar.search.json'
    """
    return output.with_name(f"{output.name}.search.json")


def key_of(parts: Mapping[str, Any]) -> str:
    """A hash of everything that a reading depends on."""
    return sha256(json.dumps(parts, sort_keys=True, default=str).encode())


def digest_of(layers: Sequence[str], pairs: Sequence[int]) -> str:
    """A name for a set of layers judged on a set of pairs.

    Example:
        >>> digest_of(["b", "a"], [0]) == digest_of(["a", "b"], [0])
        True
    """
    text = json.dumps([sorted(layers), list(map(int, pairs))])
    return hashlib.sha256(text.encode()).hexdigest()[:24]


class Remembered:
    """Readings that are measured once, whatever interrupts the search.

    Args:
        path: The state file.
        key: As :func:`key_of` gives it; readings under another key are of no use.
        limits: The gate.

    Attributes:
        note: What became of an older file, in a sentence; empty if there was none.
        runs: How many different readings were asked for.
        seconds: What they took, in this run or in one that was interrupted.

    Raises:
        OutputError: Something that is no plain file lies at ``path``, or it cannot be read.
    """

    def __init__(self, path: Path, key: str, limits: Mapping[str, float]) -> None:
        self._path, self._limits = path, dict(limits)
        self._state, self.note = _read(path, key)
        self._asked: set[str] = set()
        self.seconds = 0.0

    @property
    def runs(self) -> int:
        """How many different readings were asked for."""
        return len(self._asked)

    def reading(self, digest: str, measure: Callable[[], tuple[Reading, float]]) -> Reading:
        """The reading of this name: remembered, or measured, with its seconds, and written down.

        Raises:
            OutputError: The state could not be written.
        """
        found = self._state.readings.get(digest)
        if found is None:
            reading, seconds = measure()
            found = ReadingRecord(
                drops=dict(reading.drops),
                difference=reading.difference,
                by_pair=dict(reading.by_pair),
                seconds=seconds,
            )
            self._state.readings[digest] = found
            write_bytes(self._path, self._state.model_dump_json().encode(), WHAT)
        if digest not in self._asked:
            self._asked.add(digest)
            self.seconds += found.seconds
        return Reading(found.drops, self._limits, found.difference, found.by_pair)


def forget(path: Path) -> None:
    """Remove a state file whose work is done.

    Raises:
        OutputError: It cannot be removed.
    """
    with writing(WHAT, path):
        path.unlink(missing_ok=True)


def _read(path: Path, key: str) -> tuple[StateRecord, str]:
    fresh = StateRecord(key=key)
    if not path.exists():
        return fresh, ""
    if not path.is_file():
        raise OutputError(f"cannot keep {WHAT} at {path}", got="it is no plain file")
    with writing(WHAT, path):
        data = path.read_bytes()
    try:
        state = StateRecord.model_validate_json(data)
    except ValidationError:
        return fresh, f"{path} is damaged or no search's state: its readings are discarded"
    if state.key != key:
        return fresh, (
            f"{path} is of another model, calibration set, gate set or version: its "
            f"{len(state.readings)} readings are discarded"
        )
    return state, f"going on from {path}: {len(state.readings)} readings are there already"
