"""Engines: what a device built from a bundle, on what, and whether it may be used here.

A plan is executable content, made for one device and one build of TensorRT::

    BUNDLE/engines/<key>/model.plan   the plan
                         build.json   EngineRecord: its hash, its key, the device that built it;
                                      and the seal of that device's user over it
                         layers.json  the inspector's report

Everything is compared *before* a byte of the plan is deserialised.  Hashes say that a plan is what
its record claims; only the seal, made with a key that no bundle carries, says who wrote the record.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edge_fusion.bundle import ENGINES, Bundle
from edge_fusion.engine_record import (
    ENGINE_PRECISIONS,
    LARGEST_RECORD,
    LAYERS_NAME,
    PLAN_NAME,
    RECORD_NAME,
    EngineDevice,
    EngineOptions,
    EnginePrecision,
    EngineRecord,
    LayerSummary,
    StoredRecord,
    build_again,
    engine_key,
    read_record,
    read_stored,
    reading,
    refuse_link,
    sealed_json,
)
from edge_fusion.errors import EngineError, EngineMismatchError, EngineMissingError
from edge_fusion.files import partial_directory, sha256, write_synced

__all__ = [
    "ENGINE_PRECISIONS",
    "LARGEST_RECORD",
    "LAYERS_NAME",
    "PLAN_NAME",
    "RECORD_NAME",
    "Engine",
    "EngineDevice",
    "EngineOptions",
    "EnginePrecision",
    "EngineRecord",
    "LayerSummary",
    "engine_folder",
    "engine_key",
    "engine_source",
    "find_engine",
    "list_engines",
    "model_difference",
    "read_engine",
    "read_record",
    "write_engine",
]


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


def engine_source(bundle: Bundle, options: EngineOptions) -> str:
    """The name of the ONNX file that an engine is built from.

    Raises:
        EngineError: The bundle was built without it.
    """
    name = f"{options.flavour}.{options.precision}"
    if name not in bundle.manifest.flavours:
        raise EngineError(
            f"{bundle.path} has no graph for an engine in {options.precision} under TensorRT "
            f"{'10 and later' if options.flavour == 'strong' else '8'}",
            expected=name,
            got=", ".join(bundle.manifest.flavours) or "none",
            cure="build the bundle again on the workstation with that --precision and --target",
        )
    return bundle.manifest.flavours[name].file


def engine_folder(bundle: Bundle, key: str) -> Path:
    """Where the engine ``key`` of a bundle lies, or would.

    Raises:
        EngineError: The bundle is a ``.tar``, into which nothing can be built, or a link stands
            in the way.
    """
    if not bundle.path.is_dir():
        raise EngineError(
            f"{bundle.path} is a .tar, and engines live in a bundle's folder",
            cure=f"unpack it first: tar -xf {bundle.path} -C FOLDER",
        )
    folder = bundle.path / ENGINES / key
    for path in (folder.parent, folder):
        refuse_link(path)
    return folder


def list_engines(bundle: Bundle) -> list[EngineRecord]:
    """The records of every engine in a bundle, newest first; folders without one are left out.

    They say what was built by whomever; :func:`find_engine` says what may be used here.

    Raises:
        EngineError: A record is damaged.
    """
    found, problems = _scan(bundle)
    if problems:
        raise problems[0]
    return [one.record for one in found]


def read_engine(bundle: Bundle, key: str) -> Engine | None:
    """The engine of one key, whole and unchanged; None where there is none.

    Raises:
        EngineError: Its record or plan is damaged, was changed, or was not built here.
    """
    folder = engine_folder(bundle, key)
    with reading(folder, "fix its permissions"):
        if not (folder / RECORD_NAME).is_file():
            return None
    record = read_record(folder)
    _check_name(folder, record)
    return Engine(record, _read_plan(folder, record), folder)


def find_engine(bundle: Bundle, precision: EnginePrecision, device: EngineDevice) -> Engine:
    """The engine of one precision that was built on this device from this bundle's model.

    Args:
        bundle: The bundle.
        precision: Which.
        device: This device.

    Returns:
        The newest that fits, whatever else lies in the bundle; its seal is this user's, and its
        plan was read and matches its hash.

    Raises:
        EngineError: There is none, or those there are belong to another device, TensorRT, model
            or user, or cannot be read; the message names what differs and what to run.
    """
    found, problems = _scan(bundle)
    build = f"edge-fusion build {bundle.path} --precision {precision}"
    if not bundle.path.is_dir():
        build = f"tar -xf {bundle.path} -C FOLDER, then edge-fusion build FOLDER"
    for one in (o for o in found if o.record.options.precision == precision):
        try:
            _check_fit(bundle, one, device, build)
        except EngineError as err:
            problems.append(err)
        else:
            return Engine(one.record, _read_plan(one.folder, one.record), one.folder)
    if not problems:
        raise EngineMissingError(f"{bundle.path} has no {precision} engine", cure=f"run: {build}")
    # An engine that is of this device, were it not for a flaw, has to be said before any other.
    raise min(problems, key=lambda err: isinstance(err, EngineMismatchError))


def model_difference(bundle: Bundle, record: EngineRecord) -> tuple[str, str] | None:
    """Whether an engine was built from a bundle's model: None if so, else (expected, got)."""
    file = bundle.manifest.files.get(record.model_file)
    expected = file.sha256 if file else f"a file of {bundle.path}"
    return None if expected == record.model_sha256 else (expected, record.model_sha256)


def write_engine(bundle: Bundle, record: EngineRecord, plan: bytes, layers: str) -> Engine:
    """Put an engine into its bundle as a whole or not at all; an older one of its key goes.

    Args:
        bundle: A bundle's folder.
        record: Its ``build.json``; key and hashes must be right.  It is sealed here.
        plan: The plan.
        layers: The inspector's report, JSON.

    Raises:
        EngineError: The bundle is a ``.tar``, a link stands in the way, or this device's key
            cannot be read.
        OutputError: The disk refused.
    """
    folder = engine_folder(bundle, record.key)
    sealed = sealed_json(record)
    with partial_directory(folder, "the engine") as partial:
        write_synced(partial / PLAN_NAME, plan)
        write_synced(partial / LAYERS_NAME, layers.encode())
        write_synced(partial / RECORD_NAME, sealed)
    return Engine(record, plan, folder)


def _scan(bundle: Bundle) -> tuple[list[StoredRecord], list[EngineError]]:
    """Every record that can be read, newest first, and what is wrong with the others."""
    found: list[StoredRecord] = []
    problems: list[EngineError] = []
    for folder in _folders(bundle):
        try:
            refuse_link(folder)
            stored = read_stored(folder)
            _check_name(folder, stored.record)
        except EngineError as err:
            problems.append(err)
        else:
            found.append(stored)
    return sorted(found, key=lambda one: one.record.created_utc, reverse=True), problems


def _folders(bundle: Bundle) -> Iterator[Path]:
    root = bundle.path / ENGINES
    if not bundle.path.is_dir():
        return
    refuse_link(root)
    with reading(root, "fix its permissions"):
        # A hidden folder is one that was being written when its writer was killed.
        folders = sorted(p for p in root.iterdir() if p.name[0] != ".") if root.is_dir() else []
        yield from [p for p in folders if (p / RECORD_NAME).is_file() or p.is_symlink()]


def _check_name(folder: Path, record: EngineRecord) -> None:
    if folder.name != record.key:
        raise EngineError(
            f"{folder / RECORD_NAME} is not of this folder",
            expected=folder.name,
            got=record.key,
            cure=build_again(folder),
        )


def _check_fit(bundle: Bundle, stored: StoredRecord, device: EngineDevice, build: str) -> None:
    """Refuse an engine of another model or device, with the first field that differs."""
    record = stored.record
    theirs, ours = record.device.model_dump(), device.model_dump()
    model = model_difference(bundle, record)
    differences = [("model", *model)] if model else []
    differences += [(n, str(ours[n]), str(theirs[n])) for n in ours if ours[n] != theirs[n]]
    if differences:
        field, here, there = differences[0]
        raise EngineMismatchError(
            f"the {record.options.precision} engine in {bundle.path} does not belong here",
            field=field,
            theirs=there,
            ours=here,
            cure=f"build one on this device: {build}",
        )
    stored.check_seal()


def _read_plan(folder: Path, record: EngineRecord) -> bytes:
    path = folder / PLAN_NAME
    cure = build_again(folder)
    refuse_link(path)
    with reading(path, cure):
        size = path.stat().st_size
        plan = path.read_bytes() if size == record.plan_bytes else None
    if plan is None:
        raise EngineError(
            f"{path} is not the plan that was built",
            expected=f"a file of {record.plan_bytes} bytes",
            got=f"{size} bytes",
            cure=cure,
        )
    if sha256(plan) != record.plan_sha256:
        raise EngineError(
            f"{path} is damaged or was changed",
            expected=f"sha256 {record.plan_sha256[:12]}...",
            got=f"{sha256(plan)[:12]}...",
            cure=cure,
        )
    return plan
