"""What is known of an engine, as it lies beside its plan: ``build.json``, sealed by its builder.

Hashes say that a plan is what its record claims; only the seal, made with a key that no bundle
carries, says who wrote the record.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, Field, ValidationError

from edge_fusion import device_key
from edge_fusion.errors import EngineError
from edge_fusion.files import sha256
from edge_fusion.manifest import Sha256
from edge_fusion.spec import Record, first_problem
from edge_fusion.target import Flavour

PLAN_NAME, RECORD_NAME, LAYERS_NAME = "model.plan", "build.json", "layers.json"
LARGEST_RECORD = 1 << 20
SCHEMA_VERSION = 1  # also the literal in EngineRecord

_SEALED = "engine"  # what the seal of a record is for

EnginePrecision = Literal["fp32", "fp16", "int8"]
ENGINE_PRECISIONS: tuple[EnginePrecision, ...] = get_args(EnginePrecision)


class EngineDevice(Record):
    """What a plan is tied to; a plan is used where every field is equal.

    Attributes:
        name: The GPU's name as CUDA gives it, such as ``Orin``.
        sm: Compute capability, such as ``8.7``.
        sm_count: Streaming multiprocessors that are on: power modes switch some off.
        tensorrt: Full build version, such as ``10.3.0.30``.
        l4t: L4T release, such as ``36.4.3``; None where there is no Jetson.
        power_mode: As ``nvpmodel`` names it, such as ``MAXN_SUPER``; None where there is none.
    """

    name: str
    sm: str
    sm_count: int
    tensorrt: str
    l4t: str | None = None
    power_mode: str | None = None


class EngineOptions(Record):
    """How an engine is built; every field decides what comes out.

    Attributes:
        precision: ``fp32``, ``fp16`` or ``int8``.
        flavour: Which graph was read: ``strong`` from TensorRT 10 on, ``weak`` before.
        optimization_level: TensorRT's builder optimisation level, 0..5; None keeps its default.
    """

    precision: EnginePrecision
    flavour: Flavour
    optimization_level: Annotated[int, Field(ge=0, le=5)] | None = None


class LayerSummary(Record):
    """What the inspector says was really built.

    Attributes:
        layers: Number of layers by the precision they compute in, such as ``{"int8": 64}``.
        int8_mac_share: Share of the network's multiply-accumulates that run in INT8, 0..1; None
            where the inspector does not tell.
    """

    layers: dict[str, int]
    int8_mac_share: float | None = None


class EngineRecord(Record):
    """The contents of an engine's ``build.json``.

    Attributes:
        key: :func:`engine_key` of the three fields that follow.
        model_sha256: Hash of the ONNX file it was built from.
        device: What built it.
        options: How.
        model_file: Name of that ONNX file in the bundle.
        plan_sha256: Hash of the plan.
        plan_bytes: Its size.
        created_utc: When it was built, ISO 8601.
        build_seconds: How long the builder took.
        golden_mean_abs: Mean absolute difference of saliency to the golden outputs.
        golden_tolerance: What was allowed.
        summary: What the inspector says.
        versions: Versions that matter, by package.
    """

    schema_version: Literal[1] = 1
    key: str
    model_sha256: Sha256
    device: EngineDevice
    options: EngineOptions
    model_file: str
    plan_sha256: Sha256
    plan_bytes: Annotated[int, Field(ge=1)]
    created_utc: str
    build_seconds: float
    golden_mean_abs: float
    golden_tolerance: float
    summary: LayerSummary
    versions: dict[str, str] = Field(default_factory=dict)


def engine_key(model_sha256: str, device: EngineDevice, options: EngineOptions) -> str:
    """A name that changes with everything that decides what comes out: 16 hexadecimal digits.

    Example:
        >>> device = EngineDevice(name="Orin", sm="8.7", sm_count=8, tensorrt="10.3.0.30")
        >>> options = EngineOptions(precision="int8", flavour="strong")
        >>> one, two = (engine_key(64 * digit, device, options) for digit in "ab")
        >>> len(one), one == two
        (16, False)
    """
    parts = {
        "model_sha256": model_sha256,
        "device": device.model_dump(),
        "options": options.model_dump(),
    }
    return sha256(json.dumps(parts, sort_keys=True).encode())[:16]


# --- on disk -------------------------------------------------------------------------------------


class _Header(BaseModel):
    """What a record of any schema has."""

    schema_version: int = SCHEMA_VERSION


class _SealedRecord(EngineRecord):
    """A record as it is stored."""

    seal: Sha256 | None = None


@dataclass(frozen=True, slots=True)
class StoredRecord:
    """A record that was read, and what it takes to know who wrote it.

    Attributes:
        record: The record; its key is that of its fields.
        folder: Where it lies.
        content: The bytes that were sealed.
        seal: The seal it carries; empty without one.
    """

    record: EngineRecord
    folder: Path
    content: bytes
    seal: bytes

    def check_seal(self) -> None:
        """Refuse a record that this user did not write on this device.

        Raises:
            EngineError: It has no seal or another, or this device's key cannot be read.
        """
        if not device_key.is_sealed(_SEALED, self.content, self.seal):
            raise EngineError(
                f"the engine in {self.folder} was not built by this user on this device",
                got="a seal of another key" if self.seal else "no seal",
                cure=f"build it here: edge-fusion build {self.folder.parent.parent}; or let both "
                f"users share one {device_key.STATE_VARIABLE}",
            )


def sealed_json(record: EngineRecord) -> bytes:
    """The contents of ``build.json``: a record and this device's seal over it.

    Raises:
        EngineError: This device's key cannot be read.
        OutputError: There was none, and it could not be written.
    """
    stored = _SealedRecord.model_validate(record.model_dump())  # every field of it is set
    seal = device_key.seal(_SEALED, _canonical(stored)).hex()
    return stored.model_copy(update={"seal": seal}).model_dump_json(indent=1).encode() + b"\n"


def read_record(folder: Path, *, sealed: bool = True) -> EngineRecord:
    """The record beside a plan, held against itself.

    Args:
        folder: Where the plan lies.
        sealed: Whether this user must have built it on this device, as it has to be before the
            plan is deserialised; False for a plan that is only passed on.

    Raises:
        EngineError: It is missing, damaged, too large, of a newer schema or of another seal.
    """
    if not sealed:
        return read_stored(folder, "copy the plan and its record from its device again").record
    stored = read_stored(folder)
    stored.check_seal()
    return stored.record


def read_stored(folder: Path, cure: str = "") -> StoredRecord:
    """The record in a folder, whoever sealed it.

    Args:
        folder: Where it lies.
        cure: What to do about a bad one; unless given, to build it again.

    Raises:
        EngineError: It is missing, damaged, too large, or of a newer schema.
    """
    path = folder / RECORD_NAME
    cure = cure or build_again(folder)
    refuse_link(path)
    with reading(path, cure):
        size = path.stat().st_size
        data = path.read_bytes() if path.is_file() and size <= LARGEST_RECORD else None
    if data is None:
        raise EngineError(
            f"{path} is too large for an engine's record", got=f"{size} bytes", cure=cure
        )
    try:
        _check_schema(path, _Header.model_validate_json(data).schema_version)
        sealed = _SealedRecord.model_validate_json(data)
    except ValidationError as err:
        raise EngineError(f"{path} is damaged", got=first_problem(err), cure=cure) from err
    record = EngineRecord.model_validate(sealed.model_dump(exclude={"seal"}))
    if record.key != engine_key(record.model_sha256, record.device, record.options):
        raise EngineError(
            f"{path} was changed", got="a key that is not that of its fields", cure=cure
        )
    return StoredRecord(record, folder, _canonical(sealed), bytes.fromhex(sealed.seal or ""))


def refuse_link(path: Path) -> None:
    """What a link in a bundle leads to lies anywhere: it is neither read nor written.

    Raises:
        EngineError: ``path`` is a link.
    """
    with reading(path, "fix its permissions"):
        is_link = path.is_symlink()
    if is_link:
        raise EngineError(
            f"{path} is not what was built", got="a link", cure=f"delete the link: rm {path}"
        )


def build_again(folder: Path) -> str:
    """The cure for an engine that is not what its builder left."""
    return f"delete {folder} and build it again"


@contextmanager
def reading(path: Path, cure: str) -> Iterator[None]:
    """Turn any failure to read ``path`` into an :class:`EngineError` with its cure."""
    try:
        yield
    except OSError as err:
        raise EngineError(f"cannot read {path}", got=err.strerror or str(err), cure=cure) from err


def _canonical(record: EngineRecord) -> bytes:
    """What is sealed: the fields that stand in the file; a later version may add others."""
    fields = record.model_dump(mode="json", exclude={"seal"}, exclude_unset=True)
    return json.dumps(fields, sort_keys=True).encode()


def _check_schema(path: Path, version: int) -> None:
    if version > SCHEMA_VERSION:
        raise EngineError(
            f"{path} was written by a newer edge-fusion",
            got=f"schema {version}, and this one knows up to {SCHEMA_VERSION}",
            cure="upgrade edge-fusion on this machine",
        )
