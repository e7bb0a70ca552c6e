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
from typing import get_args

from pydantic import ValidationError

from edge_fusion.bundle import Bundle
from edge_fusion.engine import (
    LAYERS_NAME,
    RECORD_NAME,
    EnginePrecision,
    EngineRecord,
    engine_key,
)
from edge_fusion.errors import InputError, OutputError, RemoteError
from edge_fusion.files import partial_directory, sha256, sha256_file, write_synced, writing
from edge_fusion.spec import first_problem

from .progress import Progress, quiet
from .remote_cargo import Cargo, load_cargo
from .remote_files import Device, upload
from .remote_job import Install, Job, Line, discard, forget, run_job
from .remote_link import Link, Patience, parse_host, plain
from .remote_probe import DeviceFacts, Wish, check_fit, check_room, probe

PATIENCE_S = 300.0
SUMMARY_NAME = "remote.json"

#: No quotes, no patterns, no line breaks: every program on the way takes it as one word.
_SAFE_PATH = re.compile(r"[\w./ +@%=,-]{1,1000}")


@dataclass(frozen=True, slots=True)
class RemoteOptions:
    """Which device, what to build there, and how to get there.

    Attributes:
        host: ``ssh://user@host`` or ``ssh://user@host:port``.
        precision: ``fp32``, ``fp16`` or ``int8``.
        directory: Where everything of ours goes there: absolute, or below the home folder, with
            ``~/`` before it or without.
        python: The device's Python that TensorRT's binding is made for.
        wheelhouse: A folder of wheels for the device, where pip has no network there.
        build_options: Further options of ``edge-fusion build`` there.
        remote_command: What builds there instead of the package we would install, for a device
            whose TensorRT lives in a container: ``("docker", "exec", "trt", "edge-fusion")``.  It
            is called as ``edge-fusion`` would be, with ``build BUNDLE --precision P --json FILE``,
            sees our folder there under the same path, and nothing is installed or asked of the
            device's Python but copying.
        ssh_config: A configuration file for ssh instead of ``~/.ssh/config``.
        patience_s: Seconds for which a broken link is tried again.
        output: Folder for the record, the layers' report and a summary; None returns them only.
        replace: Whether an older such folder at ``output`` may be replaced; nothing else ever is.

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
    replace: bool = False

    def __post_init__(self) -> None:
        parse_host(self.host)
        known = get_args(EnginePrecision)
        root = _without_home(self.directory)
        problems = (
            (self.precision in known, "precision", " or ".join(known), self.precision),
            (_is_safe(root), "folder on the device", "a plain path", self.directory),
            (_is_safe(self.python), "Python on the device", "a name or a path", self.python),
            (self.remote_command != (), "remote command", "a program", "nothing"),
            (self.patience_s >= 0, "patience", "0 s or more", self.patience_s),
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


def build_remote(
    bundle: Path,
    options: RemoteOptions,
    progress: Progress = quiet,
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
    _check_output(options)
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
    try:
        record = _record(job, outcome.record, cargo.bundle, options.precision)
    except RemoteError:
        discard(job, patience)  # or every further run would be told the same
        raise
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
        _write(options.output, result)
    try:
        forget(job)
    except RemoteError as err:  # the engine is built, and its record is here
        on_line(f"{err}; nothing is lost: the next build there cleans up")
    return result


@contextmanager
def _timed(seconds: dict[str, float], step: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[step] = time.perf_counter() - start


def _without_home(directory: str) -> str:
    """A folder below the home folder, without the ``~/`` that only a shell would understand."""
    return directory[2:].lstrip("/") if directory.startswith("~/") else directory


def _is_safe(text: str) -> bool:
    return bool(_SAFE_PATH.fullmatch(text)) and not text.startswith("-") and ".." not in text


# --- the steps ---------------------------------------------------------------------------------


def _reach(link: Link, options: RemoteOptions, cargo: Cargo, progress: Progress) -> Device:
    progress("reach", 0, 0, str(link.host))
    facts = probe(link, options.python, _without_home(options.directory))
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
            environment=device.path(device.facts.environment),
            wheel=device.path("wheels", cargo.wheel),
            extras=device.facts.extras,
            requirements=device.facts.requirements,
            wheelhouse=device.path("wheels") if options.wheelhouse else None,
        )
        program = (f"{install.environment}/bin/edge-fusion",)
    bundle = device.path("bundles", cargo.name)
    command = (*program, "build", bundle, "--precision", options.precision, *options.build_options)
    facts = device.facts
    # What decides which engine comes out: an old outcome is not today's after an upgrade there.
    software = (facts.release, facts.tensorrt, facts.power_mode)
    identity = repr((command, install.marker if install else "", software))
    return Job(device, sha256(identity.encode())[:16], bundle, command, install)


def _marker(cargo: Cargo, facts: DeviceFacts) -> str:
    hashes = [(name, sha256_file(cargo.stage / name)) for name in cargo.wheels]
    return sha256(repr((hashes, facts.extras, facts.requirements, facts.python)).encode())[:16]


# --- what comes home ---------------------------------------------------------------------------


def _record(job: Job, text: str, bundle: Bundle, precision: EnginePrecision) -> EngineRecord:
    """The record its command wrote, held against the bundle and itself."""
    host, cure = job.device.link.host, f"the same command builds it anew; {job.log_hint}"
    try:
        record = EngineRecord.model_validate_json(text or "null")
    except ValidationError as err:
        raise RemoteError(
            f"the build on {host} left no engine's record", got=first_problem(err), cure=cure
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
                f"the engine on {host} is not the one that was asked for: {what}",
                expected=expected,
                got=plain(got),
                cure=cure,
            )
    return record


def _check_output(options: RemoteOptions) -> None:
    """Refuse a place that holds anything but an older result, before any work is done."""
    output = options.output
    if output is None:
        return
    own = {RECORD_NAME, LAYERS_NAME, SUMMARY_NAME}
    with writing("the engine's record", output):
        folder, there = output.is_dir(), output.exists()
        names = {entry.name for entry in output.iterdir()} if folder else set()
    if not there or (folder and not names):
        return
    # An engine's own folder has a record, too, and its plan must not be lost: the summary tells.
    if SUMMARY_NAME not in names or names - own:
        raise OutputError(
            f"{output} holds something that is no record of a build on a device",
            cure="choose another place; nothing there was touched",
        )
    if not options.replace:
        raise OutputError(
            f"{output} holds the record of an earlier build",
            cure="choose another place, or replace it: --force",
        )


def _write(output: Path, result: RemoteResult) -> None:
    with partial_directory(output, "the engine's record") as partial_folder:
        record = result.record.model_dump_json(indent=1)
        summary = result.as_dict()
        write_synced(partial_folder / RECORD_NAME, f"{record}\n".encode())
        write_synced(partial_folder / LAYERS_NAME, result.layers.encode())
        write_synced(partial_folder / SUMMARY_NAME, f"{json.dumps(summary, indent=1)}\n".encode())
