"""Build an engine on a device from here: copy, install, build there, bring its record home.

::

    reach -> copy -> remote (install, build) -> record

Everything goes through OpenSSH's own client, with keys and known host keys alone.  Each step looks
first at what is there, so that a second run copies and installs nothing; and the build runs by
itself on the device, so that a lost link does not stop it: the same command finds it again.
The plan stays where it was built: no other device may use it.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from pydantic import ValidationError

from edge_fusion.bundle import Bundle
from edge_fusion.engine import (
    LAYERS_NAME,
    PLAN_NAME,
    RECORD_NAME,
    EnginePrecision,
    EngineRecord,
    engine_key,
)
from edge_fusion.errors import InputError, OutputError, RemoteError
from edge_fusion.files import partial_directory, sha256, sha256_file, write_synced
from edge_fusion.spec import first_problem

from .remote_cargo import Cargo, load_cargo
from .remote_files import Device, download, upload
from .remote_job import Install, Job, Line, forget, run_job
from .remote_link import Link, Patience, parse_host, plain
from .remote_probe import DeviceFacts, Wish, check_fit, check_room, probe

PATIENCE_S = 300.0
SUMMARY_NAME = "remote.json"

_PRECISIONS = ("fp32", "fp16", "int8")
#: No quotes, no patterns, no line breaks: every program on the way takes it as one word.
_SAFE_PATH = re.compile(r"[\w./ +@%=,-]{1,1000}")


class Progress(Protocol):
    """Told how far each step is: ``total`` 0 means unknown, ``done == total`` finished."""

    def __call__(self, step: str, done: int, total: int, detail: str = "") -> None:
        """Report ``done`` of ``total`` parts of ``step``."""
        ...


@dataclass(frozen=True, slots=True)
class RemoteOptions:
    """Which device, what to build there, and how to get there.

    Attributes:
        host: ``ssh://user@host`` or ``ssh://user@host:port``.
        precision: ``fp32``, ``fp16`` or ``int8``.
        directory: Where everything of ours goes there: absolute, or below the home folder.
        python: The device's Python that TensorRT's binding is made for.
        wheelhouse: A folder of wheels for the device, where pip has no network there.
        build_options: Further options of ``edge-fusion build`` there.
        remote_command: What builds there instead of the package we would install, such as
            ``("docker", "exec", "trt", "edge-fusion")``; it is called as ``edge-fusion`` would be,
            with ``build BUNDLE --precision P --json FILE``, sees our folder there under the same
            path, and nothing is installed or asked of the device's Python but copying.
        ssh_config: A configuration file for ssh instead of ``~/.ssh/config``.
        patience_s: Seconds for which a broken link is tried again.
        output: Folder for the record, the layers' report and a summary; None returns them only.
        fetch_plan: Whether the plan is brought into ``output`` too, to be kept, not to be used.

    Raises:
        InputError: A value cannot be used, or two contradict each other.
    """

    host: str
    precision: EnginePrecision = "int8"
    directory: str = "edge-fusion"
    python: str = "python3"
    wheelhouse: Path | None = None
    build_options: tuple[str, ...] = ()
    remote_command: tuple[str, ...] | None = None
    ssh_config: Path | None = None
    patience_s: float = PATIENCE_S
    output: Path | None = None
    fetch_plan: bool = False

    def __post_init__(self) -> None:
        parse_host(self.host)
        problems = (
            (self.precision in _PRECISIONS, "precision", " or ".join(_PRECISIONS), self.precision),
            (_is_safe(self.directory), "folder on the device", "a plain path", self.directory),
            (_is_safe(self.python), "Python on the device", "a name or a path", self.python),
            (self.remote_command != (), "remote command", "a program", "nothing"),
            (self.patience_s >= 0, "patience", "0 s or more", self.patience_s),
            (
                self.output is not None or not self.fetch_plan,
                "fetching the plan",
                "a folder to put it into",
                "none",
            ),
        )
        for holds, what, expected, got in problems:
            if not holds:
                raise InputError(f"the {what}", expected=expected, got=repr(got))


@dataclass(frozen=True, slots=True)
class RemoteResult:
    """What was built, and where it lies.

    Attributes:
        host: The device's address.
        facts: What it says of itself.
        bundle: The bundle's folder there.
        record: The engine's ``build.json``.
        layers: The inspector's report, JSON; empty where the device wrote none.
        copied: Names of the files that had to be copied.
        attached: Whether the build had been started before, by a run whose link was lost.
        seconds: How long each step took: ``reach``, ``copy``, ``remote``.
    """

    host: str
    facts: DeviceFacts
    bundle: str
    record: EngineRecord
    layers: str
    copied: tuple[str, ...]
    attached: bool
    seconds: dict[str, float]

    @property
    def engine(self) -> str:
        """The engine's folder there."""
        return f"{self.bundle}/engines/{self.record.key}"

    def as_dict(self) -> dict[str, object]:
        """Everything but the layers by name, for JSON."""
        return {
            "host": self.host,
            "device": self.facts.model_dump(),
            "bundle": self.bundle,
            "engine": self.engine,
            "record": self.record.model_dump(mode="json"),
            "copied": list(self.copied),
            "attached": self.attached,
            "seconds": self.seconds,
        }


def _quiet(step: str, done: int, total: int, detail: str = "") -> None:
    """Report nothing."""


def build_remote(
    bundle: Path,
    options: RemoteOptions,
    progress: Progress = _quiet,
    on_line: Line = lambda line: None,
) -> RemoteResult:
    """Build an engine on a device, and bring home the record of what was built.

    Can be repeated at any time: what is there is not copied or installed again, a build that still
    runs is followed, and an engine that is there already is what ``edge-fusion build`` finds.

    Args:
        bundle: A bundle's folder or ``.tar``.
        options: The device, and what to build.
        progress: Told how far each step is: ``reach``, ``copy``, ``remote``.
        on_line: Told every line the device prints while it installs and builds.

    Returns:
        The record, the layers' report, and where both lie on the device.

    Raises:
        BundleError: The bundle is missing or damaged.
        EngineError: It has no graph for the device's TensorRT.
        LinkLostError: The link broke for longer than ``patience_s``; the build goes on.
        RemoteError: The device refuses us, cannot build engines, or failed to.
        OutputError: ``output`` holds something else, or a disk refused.

    Example:
        >>> options = RemoteOptions("ssh://ubuntu@orin.local")
        >>> build_remote(Path("BUNDLE"), options).record.build_seconds  # doctest: +SKIP
        94.2
    """
    link = Link(parse_host(options.host), options.ssh_config)
    patience = Patience(options.patience_s, on_line)
    seconds: dict[str, float] = {}
    package = options.remote_command is None
    _check_output(options.output)
    with load_cargo(bundle, options.wheelhouse, package=package) as cargo:
        with _timed(seconds, "reach"):
            device = _reach(link, options, cargo, progress)
        with _timed(seconds, "copy"):
            report = partial(progress, "copy")
            copied = upload(device, cargo.stage, cargo.names, patience, report)
            report(1, 1, f"{len(copied)} of {len(cargo.names)} files")
        job = _job(device, cargo, options)
    progress("remote", 0, 0, "building there")
    with _timed(seconds, "remote"):
        outcome, attached = run_job(job, patience, on_line)
    record = _record(link, outcome.record, cargo.bundle, options.precision)
    progress("remote", 1, 1, f"engine {record.key}, built in {record.build_seconds:.0f} s")
    result = RemoteResult(
        host=str(link.host),
        facts=device.facts,
        bundle=job.bundle,
        record=record,
        layers=outcome.layers,
        copied=copied,
        attached=attached,
        seconds=seconds,
    )
    if options.output is not None:
        _write(options.output, result, device if options.fetch_plan else None)
    forget(job)
    return result


@contextmanager
def _timed(seconds: dict[str, float], step: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[step] = time.perf_counter() - start


def _is_safe(text: str) -> bool:
    return bool(_SAFE_PATH.fullmatch(text)) and not text.startswith("-") and ".." not in text


# --- the steps ---------------------------------------------------------------------------------


def _reach(link: Link, options: RemoteOptions, cargo: Cargo, progress: Progress) -> Device:
    progress("reach", 0, 0, str(link.host))
    directory = options.directory.removeprefix("~/")
    facts = probe(link, options.python, directory)
    if not _is_safe(facts.root):
        raise RemoteError(
            f"our folder on {link.host}",
            expected="a plain path",
            got=repr(facts.root),
            cure="choose another one with --directory",
        )
    package = options.remote_command is None
    wish = Wish(cargo.bundle, options.precision, cargo.size, package)
    check_room(link, facts, wish)
    if package:
        check_fit(link, facts, wish)
    progress("reach", 1, 1, facts.describe())
    return Device(link, facts, options.python)


def _job(device: Device, cargo: Cargo, options: RemoteOptions) -> Job:
    install = None
    program = options.remote_command
    if program is None:
        install = Install(
            marker=_marker(cargo, device.facts),
            wheel=device.path("wheels", cargo.wheel),
            extras=device.facts.extras,
            requirements=device.facts.requirements,
            wheelhouse=device.path("wheels") if options.wheelhouse else None,
        )
        program = (device.path("venv", "bin", "edge-fusion"),)
    bundle = device.path("bundles", cargo.name)
    command = (*program, "build", bundle, "--precision", options.precision, *options.build_options)
    identity = repr((command, install.marker if install else ""))
    return Job(device, sha256(identity.encode())[:16], bundle, command, install)


def _marker(cargo: Cargo, facts: DeviceFacts) -> str:
    hashes = [(name, sha256_file(cargo.stage / name)) for name in cargo.wheels]
    return sha256(repr((hashes, facts.extras, facts.requirements, facts.python)).encode())[:16]


# --- what comes home ---------------------------------------------------------------------------


def _record(link: Link, text: str, bundle: Bundle, precision: EnginePrecision) -> EngineRecord:
    """The record its command wrote, held against the bundle and itself."""
    try:
        record = EngineRecord.model_validate_json(text or "null")
    except ValidationError as err:
        raise RemoteError(
            f"the build on {link.host} left no engine's record", got=first_problem(err)
        ) from err
    file = bundle.manifest.files.get(record.model_file)
    pairs = (
        ("key", engine_key(record.model_sha256, record.device, record.options), record.key),
        ("precision", precision, record.options.precision),
        ("model", file.sha256 if file else "a file of the bundle", record.model_sha256),
    )
    for what, expected, got in pairs:
        if expected != got:
            raise RemoteError(
                f"the engine on {link.host} is not the one that was asked for: {what}",
                expected=expected,
                got=plain(got),
            )
    return record


def _check_output(output: Path | None) -> None:
    """Refuse a folder that holds anything but an older result, before any work is done."""
    own = {RECORD_NAME, LAYERS_NAME, SUMMARY_NAME, PLAN_NAME}
    if output is None or not output.exists():
        return
    if not output.is_dir() or {entry.name for entry in output.iterdir()} - own:
        raise OutputError(
            f"{output} holds something that is no engine's record",
            cure="choose another place; nothing there was touched",
        )


def _write(output: Path, result: RemoteResult, device: Device | None) -> None:
    with partial_directory(output, "the engine's record") as partial_folder:
        record = result.record.model_dump_json(indent=1)
        summary = result.as_dict()
        write_synced(partial_folder / RECORD_NAME, f"{record}\n".encode())
        write_synced(partial_folder / LAYERS_NAME, result.layers.encode())
        write_synced(partial_folder / SUMMARY_NAME, f"{json.dumps(summary, indent=1)}\n".encode())
        if device is not None:
            plan = partial_folder / PLAN_NAME
            download(device, f"{result.engine}/{PLAN_NAME}", plan)
            if sha256_file(plan) != result.record.plan_sha256:
                raise RemoteError(
                    f"the plan from {result.host} is not the one that was built",
                    cure="run the same command again",
                )
