"""The schema of ``calibration.json``: what a calibration set holds, measured pair by pair.

Everything here is independent of any model: a set is made once, checked, carried about, and built
with again and again.  The pairs themselves lie beside this file in the layout that every folder of
pairs has (``rgb/``, ``depth/``, ``meta.json``), so that a set is a source like any other folder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from edge_fusion.errors import CalibrationError
from edge_fusion.files import sha256, write_bytes
from edge_fusion.manifest import SEAL, Choice, Sha256, seal
from edge_fusion.spec import DepthSpec, Record, Triple, first_problem

SCHEMA_VERSION = 1  # also the literal in CalibrationFile
CALIBRATION_NAME = "calibration.json"
NEARNESS_BINS = 16
THUMB_SIDE = 16
EDGE_REACH = 4
EDGE_SIDE = 2 * EDGE_REACH + 1
EDGE_WIDTH = 128
#: The latest time a pair can have: the differences of any two fit 64 bits.
LATEST_NS = 2**62

_PLAIN_ID = re.compile(r"[\w-][\w.-]{0,127}")

DepthDtype = Literal["uint8", "uint16", "float32"]
Share = Annotated[float, Field(ge=0, le=1)]
Pixels = Annotated[int, Field(ge=1, le=2**20)]
Hash64 = Annotated[str, Field(pattern="^[0-9a-f]{16}$")]


class RgbStatistics(Record):
    """A colour image in figures.

    Attributes:
        mean: Per channel, red first, in 0..1.
        std: Per channel, in 0..1.
        black: Share of pixels darker than any exposed sensor gives.
        white: Share of pixels at the upper end in every channel.
        detail: Mean absolute Laplacian of the grey image at 256 pixels width, in 8-bit steps; a
            covered or hopelessly blurred lens gives less than 1.
        grey: Whether the three channels are equal everywhere.
    """

    mean: Triple
    std: Triple
    black: Share
    white: Share
    detail: Annotated[float, Field(ge=0)]
    grey: bool


class DepthStatistics(Record):
    """A depth image in figures: in metres where the set's depth is metric, else as stored.

    Attributes:
        low: The smallest reading; with the other five, None where there is no reading at all.
        near: The 1st percentile of the readings.
        median: Their median.
        far: Their 99th percentile.
        high: The largest reading.
        detail: As for colour, of the readings scaled to 8-bit steps between ``near`` and ``far``.
        invalid: Share of pixels without a reading.
        levels: How many different readings there are.
        topmost: Share of the readings that are the largest one.
        nearness: Shares of the readings in 16 equal steps of nearness, far to near.
        downwards: Correlation of nearness with the row, downwards: floors and tables are nearer at
            the bottom of a picture, so that a camera that looks ahead has it positive.
        like_grey: Correlation of depth with the grey of the colour image, as an absolute value;
            close to 1 they are the same picture.
    """

    low: float | None = None
    near: float | None = None
    median: float | None = None
    far: float | None = None
    high: float | None = None
    detail: float | None = None
    invalid: Share
    levels: int
    topmost: Share = 0.0
    nearness: tuple[float, ...] = ()
    downwards: float = 0.0
    like_grey: float = 0.0

    @field_validator("nearness")
    @classmethod
    def _has_every_bin(cls, nearness: tuple[float, ...]) -> tuple[float, ...]:
        if len(nearness) not in (0, NEARNESS_BINS):
            raise ValueError(f"nearness has {len(nearness)} shares, expected {NEARNESS_BINS}")
        return nearness


class PairRecord(Record):
    """One pair of a set.

    Attributes:
        id: Its name: the files are ``rgb/<id>.*`` and ``depth/<id>.*``.
        sha256: Hash of its raw pixels and of what its depth means.
        width: In pixels, of both streams.
        height: In pixels.
        rgb: Its colour in figures.
        depth: Its depth in figures.
        rgb_hash: Perceptual hash of colour, 64 bits in hexadecimal.
        depth_hash: The same of nearness.
        thumb: The grey image at 16x16 pixels, 8 bits each, in hexadecimal: tells a small thing that
            came or went, which a perceptual hash does not.
        edges: Correlation of the edges of depth with those of colour when depth is moved by -4 to
            4 columns (inner) and rows of a picture 128 pixels wide, in hexadecimal: two digits
            each, 80 for none and ff for 1; empty where there is no depth.
        timestamp_ns: The device's time in nanoseconds; 0 where it had none.
        source: Which of the set's sources it came from, counting from 0.
        source_id: What that source called it.
        number: Its number in that source.
    """

    id: str
    sha256: Sha256
    width: Pixels
    height: Pixels
    rgb: RgbStatistics
    depth: DepthStatistics
    rgb_hash: Hash64
    depth_hash: Hash64
    thumb: Annotated[str, Field(pattern=f"^[0-9a-f]{{{2 * THUMB_SIDE**2}}}$")]
    edges: Annotated[str, Field(pattern=f"^([0-9a-f]{{{2 * EDGE_SIDE**2}}})?$")] = ""
    timestamp_ns: Annotated[int, Field(ge=0, le=LATEST_NS)] = 0
    source: Annotated[int, Field(ge=0)] = 0
    source_id: str = ""
    number: int = 0

    @field_validator("id")
    @classmethod
    def _stays_inside(cls, name: str) -> str:
        if not is_plain_id(name):
            raise ValueError(f"{name!r} is no plain name: it would leave the set")
        return name


class CoverageRecord(Record):
    """How well the first so many chosen pairs stand for all that there were.

    Attributes:
        model: Name of the model whose activations were judged.
        model_sha256: Hash of its FP32 graph.
        tensors: How many tensors were judged.
        estimator: Whose ranges: those that ``mean_minmax`` or ``minmax`` takes from the pairs.
        error: For each number of pairs, the mean relative error of the ranges against those of all
            pairs.
        recommended: The smallest number from which on that error stays below one 8-bit step; None
            where no number reached it.
    """

    model: str
    model_sha256: Sha256
    tensors: int
    estimator: str
    error: Annotated[
        dict[Annotated[int, Field(ge=1, le=2**31)], Annotated[float, Field(ge=0)]],
        Field(min_length=1),
    ]
    recommended: int | None = None


class ChoiceRecord(Record):
    """How the pairs of a set were chosen.

    Attributes:
        method: ``all`` that there were, or some of them.
        seed: Seed of a ``random`` choice.
        available: How many pairs there were to choose from.
        coverage: What a choice by ``coverage`` reached.
    """

    method: Choice = "all"
    seed: int = 0
    available: Annotated[int, Field(ge=1)]
    coverage: CoverageRecord | None = None


class CalibrationFile(Record):
    """The contents of ``calibration.json``.

    Attributes:
        sources: Where the pairs came from, without credentials.
        depth: Unit, polarity and invalid value of every pair's depth.
        depth_dtype: Of every depth file.
        stored: ``copies`` of the pairs lie in the set, or ``links`` to the files of a folder.
        choice: How they were chosen.
        items: The pairs, in order.
        sha256: Hash over the hashes of all pairs, in order: what a build is tied to.
    """

    schema_version: Literal[1] = 1
    created_utc: str
    version: str
    sources: Annotated[tuple[str, ...], Field(min_length=1)]
    depth: DepthSpec
    depth_dtype: DepthDtype
    stored: Literal["copies", "links"] = "copies"
    choice: ChoiceRecord
    items: Annotated[tuple[PairRecord, ...], Field(min_length=1)]
    sha256: Sha256

    @model_validator(mode="after")
    def _is_consistent(self) -> CalibrationFile:
        names = [item.id.casefold() for item in self.items]
        if len(set(names)) < len(names):
            raise ValueError("two pairs have the same id")
        if any(item.source >= len(self.sources) for item in self.items):
            raise ValueError("a pair names a source that is not listed")
        if self.sha256 != digest_of(item.sha256 for item in self.items):
            raise ValueError("sha256 is not that of the listed pairs")
        return self


def is_plain_id(name: str) -> bool:
    """Whether a name can be a file's name in a set: no separators, not hidden, not too long.

    Example:
        >>> is_plain_id("demo-0-00001"), is_plain_id("../secret")
        (True, False)
    """
    return _PLAIN_ID.fullmatch(name) is not None


def digest_of(hashes: Iterable[str]) -> str:
    """The hash of a set from the hashes of its pairs, in order."""
    return sha256("".join(hashes).encode())


def read_calibration_file(folder: Path) -> CalibrationFile | None:
    """Read ``calibration.json`` of a folder.

    Returns:
        None where the folder holds no such file: it is a plain folder of pairs.

    Raises:
        CalibrationError: The file cannot be read, was edited, is of a newer schema, or holds
            something impossible.
    """
    path = folder / CALIBRATION_NAME
    try:
        fields = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as err:
        raise CalibrationError(f"cannot read {path}", got=str(err), cure=_MAKE_AGAIN) from err
    if not isinstance(fields, dict):
        raise CalibrationError(f"{path} is not a calibration set's", cure=_MAKE_AGAIN)
    found = fields.get("schema_version")
    if found != SCHEMA_VERSION:
        newer = isinstance(found, int) and found > SCHEMA_VERSION
        raise CalibrationError(
            f"the schema of {path}",
            expected=f"version {SCHEMA_VERSION}",
            got=repr(found),
            cure="update edge-fusion: a newer one made that set" if newer else _MAKE_AGAIN,
        )
    if fields.pop(SEAL, None) != seal(fields):
        raise CalibrationError(
            f"{path} was changed after the set was made",
            cure="take back the file as it was, or make the set again with 'edge-fusion calib'",
        )
    try:
        return CalibrationFile.model_validate(fields)
    except ValidationError as err:
        raise CalibrationError(
            f"{path} is not valid", got=first_problem(err), cure=_MAKE_AGAIN
        ) from err


def write_calibration_file(folder: Path, content: CalibrationFile) -> None:
    """Write ``calibration.json`` into a folder, sealed.

    Raises:
        OutputError: It could not be written.
    """
    fields = content.model_dump(mode="json")
    parts = {**fields, SEAL: seal(fields)}
    items = ",\n  ".join(json.dumps(item) for item in parts.pop("items"))
    lines = [f" {json.dumps(name)}: {json.dumps(value)}" for name, value in parts.items()]
    # A line for each pair: people look at it, and tools compare it line by line.
    lines.insert(-2, f' "items": [\n  {items}\n ]')
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    write_bytes(folder / CALIBRATION_NAME, text.encode(), "the calibration set's record")


_MAKE_AGAIN = "make the set again: edge-fusion calib create SOURCE -o SET"
