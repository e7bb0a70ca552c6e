"""Engines: what a device built from a bundle, on what, and whether it may be used here.

A plan is executable content, made for one device and one build of TensorRT::

    BUNDLE/engines/<key>/model.plan   the plan
                         build.json   EngineRecord: its hash, its key, the device that built it
                         layers.json  the inspector's report

Everything is compared *before* a byte of the plan is deserialised.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from edge_fusion.bundle import ENGINES, Bundle
from edge_fusion.errors import EngineError
from edge_fusion.files import partial_directory, sha256, write_synced
from edge_fusion.manifest import Sha256
from edge_fusion.spec import Record, first_problem
from edge_fusion.target import Flavour

PLAN_NAME, RECORD_NAME, LAYERS_NAME = "model.plan", "build.json", "layers.json"
LARGEST_RECORD = 1 << 20

EnginePrecision = Literal["fp32", "fp16", "int8"]


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


@dataclass(frozen=True, slots=True)
class Engine:
    """A plan that belongs to this device and is what its builder wrote.

    Attributes:
        record: Its ``build.json``.
        plan: Its bytes, held against their hash.
        folder: Where it lies.
    """

    record: EngineRecord
    plan: bytes
    folder: Path


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


def engine_source(bundle: Bundle, options: EngineOptions) -> str:
    """The name of the ONNX file that an engine is built from.

    Raises:
        EngineError: The bundle was built without it.
    """
    name = f"{options.flavour}.{options.precision}"
    if name not in bundle.manifest.flavours:
        raise EngineError(
            f"{bundle.path} has no graph for a {options.precision} engine under TensorRT "
            f"{'10 and later' if options.flavour == 'strong' else '8'}",
            expected=name,
            got=", ".join(bundle.manifest.flavours) or "none",
            cure="build the bundle again on the workstation with that --precision and --target",
        )
    return bundle.manifest.flavours[name].file


def engine_folder(bundle: Bundle, key: str) -> Path:
    """Where the engine ``key`` of a bundle lies, or would.

    Raises:
        EngineError: The bundle is a ``.tar``, into which nothing can be built.
    """
    if not bundle.path.is_dir():
        raise EngineError(
            f"{bundle.path} is a .tar, and engines live in a bundle's folder",
            cure=f"unpack it first: tar -xf {bundle.path} -C FOLDER",
        )
    return bundle.path / ENGINES / key


def list_engines(bundle: Bundle) -> list[EngineRecord]:
    """The records of every engine in a bundle, newest first; folders without one are left out.

    Raises:
        EngineError: A record is damaged.
    """
    records = [_read_record(folder) for folder in _folders(bundle)]
    return sorted(records, key=lambda record: record.created_utc, reverse=True)


def read_engine(bundle: Bundle, key: str) -> Engine | None:
    """The engine of one key, whole and unchanged; None where there is none.

    Raises:
        EngineError: Its record or plan is damaged or was changed.
    """
    folder = engine_folder(bundle, key)
    if not (folder / RECORD_NAME).is_file():
        return None
    record = _read_record(folder)
    return Engine(record, _read_plan(folder, record), folder)


def find_engine(bundle: Bundle, precision: EnginePrecision, device: EngineDevice) -> Engine:
    """The engine of one precision that was built on this device from this bundle's model.

    Args:
        bundle: The bundle.
        precision: Which.
        device: This device.

    Returns:
        The newest that fits; its plan was read and matches its hash.

    Raises:
        EngineError: There is none, or those there are belong to another device, TensorRT or
            model; the message names the first field that differs and what to run.
    """
    records = [r for r in list_engines(bundle) if r.options.precision == precision]
    build = f"edge-fusion build {bundle.path} --precision {precision}"
    if not bundle.path.is_dir():
        build = f"tar -xf {bundle.path} -C FOLDER, then edge-fusion build FOLDER"
    if not records:
        raise EngineError(f"{bundle.path} has no {precision} engine", cure=f"run: {build}")
    differences = [_difference(bundle, record, device) for record in records]
    for record, difference in zip(records, differences, strict=True):
        if difference is None:
            folder = engine_folder(bundle, record.key)
            return Engine(record, _read_plan(folder, record), folder)
    field, theirs, ours = next(d for d in differences if d is not None)
    raise EngineError(
        f"the {precision} engine in {bundle.path} does not belong here: {field}",
        expected=ours,
        got=theirs,
        cure=f"build one on this device: {build}",
    )


def write_engine(bundle: Bundle, record: EngineRecord, plan: bytes, layers: str) -> Engine:
    """Put an engine into its bundle as a whole or not at all; an older one of its key goes.

    Args:
        bundle: A bundle's folder.
        record: Its ``build.json``; key and hashes must be right.
        plan: The plan.
        layers: The inspector's report, JSON.

    Raises:
        EngineError: The bundle is a ``.tar``.
        OutputError: The disk refused.
    """
    folder = engine_folder(bundle, record.key)
    with partial_directory(folder, "the engine") as partial:
        write_synced(partial / PLAN_NAME, plan)
        write_synced(partial / LAYERS_NAME, layers.encode())
        write_synced(partial / RECORD_NAME, record.model_dump_json(indent=1).encode() + b"\n")
    return Engine(record, plan, folder)


def _folders(bundle: Bundle) -> Iterator[Path]:
    root = bundle.path / ENGINES
    if bundle.path.is_dir() and root.is_dir():
        # A hidden folder is one that was being written when its writer was killed.
        folders = (p for p in sorted(root.iterdir()) if not p.name.startswith("."))
        yield from (p for p in folders if (p / RECORD_NAME).is_file())


def _read_record(folder: Path) -> EngineRecord:
    path = folder / RECORD_NAME
    again = f"delete {folder} and build it again"
    try:
        if path.stat().st_size > LARGEST_RECORD:
            raise EngineError(f"{path} is too large for an engine's record", cure=again)
        record = EngineRecord.model_validate_json(path.read_bytes())
    except OSError as err:
        raise EngineError(f"cannot read {path}", got=err.strerror or str(err), cure=again) from err
    except ValidationError as err:
        raise EngineError(f"{path} is damaged", got=first_problem(err), cure=again) from err
    if record.key != engine_key(record.model_sha256, record.device, record.options):
        raise EngineError(f"{path} was changed: its key is not that of its fields", cure=again)
    if folder.name != record.key:
        raise EngineError(
            f"{path} is not of this folder", expected=folder.name, got=record.key, cure=again
        )
    return record


def _difference(
    bundle: Bundle, record: EngineRecord, device: EngineDevice
) -> tuple[str, str, str] | None:
    """The first field in which an engine does not fit: (field, the engine's value, ours)."""
    file = bundle.manifest.files.get(record.model_file)
    pairs = [("model", record.model_sha256[:12], file.sha256[:12] if file else "no such file")]
    theirs, ours = record.device.model_dump(), device.model_dump()
    pairs += [(name, str(theirs[name]), str(ours[name])) for name in ours]
    return next((pair for pair in pairs if pair[1] != pair[2]), None)


def _read_plan(folder: Path, record: EngineRecord) -> bytes:
    path = folder / PLAN_NAME
    again = f"delete {folder} and build it again"
    try:
        if path.is_symlink() or path.stat().st_size != record.plan_bytes:
            raise EngineError(
                f"{path} is not the plan that was built",
                expected=f"a file of {record.plan_bytes} bytes",
                got="a link" if path.is_symlink() else f"{path.stat().st_size} bytes",
                cure=again,
            )
        plan = path.read_bytes()
    except OSError as err:
        raise EngineError(f"cannot read {path}", got=err.strerror or str(err), cure=again) from err
    if sha256(plan) != record.plan_sha256:
        raise EngineError(
            f"{path} is damaged or was changed",
            expected=f"sha256 {record.plan_sha256[:12]}...",
            got=f"{sha256(plan)[:12]}...",
            cure=again,
        )
    return plan
