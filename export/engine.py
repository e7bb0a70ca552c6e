"""Build an engine on the device it will run on, hold it against the bundle, and keep it there.

It needs numpy and TensorRT, none of the workstation's packages::

    key -> (there already?) -> parse -> build -> open -> inspect, self-check -> write

Nothing is written before the self-check but the timing cache, so that a build that was stopped or
refused leaves no engine and is quick to repeat.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from edge_fusion.board import BoardState, probe_board
from edge_fusion.bundle import Bundle
from edge_fusion.engine import (
    Engine,
    EngineDevice,
    EngineOptions,
    EnginePrecision,
    EngineRecord,
    engine_folder,
    engine_key,
    engine_source,
    read_engine,
    write_engine,
)
from edge_fusion.errors import EngineError, InputError, StepError
from edge_fusion.files import sha256
from edge_fusion.runtime.cuda import Cuda
from edge_fusion.runtime.golden import GoldenCheck, check_golden
from edge_fusion.runtime.trt import TrtSession
from edge_fusion.runtime.trt_api import TensorRT, load_tensorrt, this_device
from edge_fusion.spec import first_problem
from edge_fusion.target import Flavour

from .engine_config import ConfigRequest, TimingCache, free_memory, make_config, workspace_for
from .engine_layers import summarise
from .engine_network import ParsedNetwork, parse_network
from .engine_place import claimed
from .engine_watch import STEP, Watch, make_monitor, run_watched
from .progress import Progress, quiet

_SHOWN_MESSAGES = 3


@dataclass(frozen=True, slots=True)
class EngineBuild:
    """How to build an engine.

    Attributes:
        precision: ``fp32``, ``fp16`` or ``int8``.
        optimization_level: TensorRT's builder optimisation level, 0..5: higher takes longer and
            may find faster kernels.  None keeps TensorRT's default; 8.5 has none.
        workspace_mb: Scratch memory for the builder, MiB; None takes a share of what is free.
        timing_cache: Whether kernel timings are kept in the bundle and used again.
        rebuild: Whether to build though an engine of this key is there.

    Raises:
        InputError: A value is none of these.
    """

    precision: EnginePrecision
    optimization_level: int | None = None
    workspace_mb: int | None = None
    timing_cache: bool = True
    rebuild: bool = False

    def __post_init__(self) -> None:
        try:
            self.options("strong")
        except ValidationError as err:
            raise InputError("how to build the engine", got=first_problem(err)) from err

    def options(self, flavour: Flavour) -> EngineOptions:
        """What of this decides which engine comes out, read from a graph of that flavour."""
        return EngineOptions(
            precision=self.precision, flavour=flavour, optimization_level=self.optimization_level
        )


@dataclass(frozen=True, slots=True)
class _Host:
    """The device an engine is built on."""

    api: TensorRT
    cuda: Cuda
    board: BoardState
    device: EngineDevice


@dataclass(frozen=True, slots=True)
class _Job:
    """One engine to build: what from, as what, where to."""

    bundle: Bundle
    build: EngineBuild
    options: EngineOptions
    file: str
    model: bytes
    folder: Path


@dataclass(frozen=True, slots=True)
class _Built:
    """What came out of the builder."""

    plan: bytes
    macs: dict[str, int | None]
    seconds: float


@dataclass(frozen=True, slots=True)
class _Tried:
    """What a session on the plan showed."""

    check: GoldenCheck
    layers: str


def build_engine(bundle: Bundle, build: EngineBuild, progress: Progress = quiet) -> Engine:
    """Build one engine from a bundle on this device, or return the one that is there already.

    Args:
        bundle: A bundle's folder.
        build: What to build and how.
        progress: Told how far each step is: ``cache``, ``wait``, ``parse``, ``build``,
            ``self-check``, ``engine``.

    Returns:
        The engine, written to ``engines/<key>``; its plan gave the golden outputs on this device.

    Raises:
        EngineError: The bundle is a ``.tar``, has no graph for this TensorRT and precision, or
            has a link where the engine would lie.
        MissingDependencyError: There is no TensorRT.
        SessionError: There is no GPU, its driver fails, or TensorRT cannot run what it built.
        StepError: TensorRT refuses the graph or an option, memory is short, the build failed, or
            the plan misses the golden outputs.
        OutputError: The disk refused.

    Example:
        >>> build_engine(Bundle.read("BUNDLE"), EngineBuild("int8"))  # doctest: +SKIP
    """
    api = load_tensorrt("building an engine")
    with Cuda.load() as cuda:
        board = probe_board()
        host = _Host(api, cuda, board, this_device(api, cuda, board))
        job = _plan_job(bundle, build, host)
        engine = _engine_there(job, progress)
        if engine is not None:
            return engine
        with claimed(job.folder, progress) as waited:
            engine = _engine_there(job, progress) if waited else None
            return engine if engine is not None else _build_and_try(job, host, progress)


def _build_and_try(job: _Job, host: _Host, progress: Progress) -> Engine:
    built = _build(job, host, progress)
    tried = _try(job, host, built.plan, progress)
    engine = write_engine(job.bundle, _record(job, host, built, tried), built.plan, tried.layers)
    progress("engine", 1, 1, f"{engine.folder} ({len(engine.plan) / 1e6:.1f} MB)")
    return engine


def _plan_job(bundle: Bundle, build: EngineBuild, host: _Host) -> _Job:
    options = build.options(host.api.flavour)
    file = engine_source(bundle, options)
    key = engine_key(bundle.manifest.files[file].sha256, host.device, options)
    return _Job(bundle, build, options, file, bundle.file(file), engine_folder(bundle, key))


def _engine_there(job: _Job, progress: Progress) -> Engine | None:
    """The engine of this very key; a damaged one is built again, and not in silence."""
    if job.build.rebuild:
        return None
    try:
        engine = read_engine(job.bundle, job.folder.name)
    except EngineError as err:
        progress("cache", 1, 1, f"building again: {err}")
        return None
    if engine is not None:
        progress("cache", 1, 1, f"built {engine.record.created_utc}, unchanged since")
    return engine


# --- building ------------------------------------------------------------------------------------


def _build(job: _Job, host: _Host, progress: Progress) -> _Built:
    """Parse and build; whatever TensorRT held is free again afterwards."""
    api, build = host.api, job.build
    workspace = workspace_for(
        free_memory(host.cuda, host.board), len(job.model), build.workspace_mb
    )
    parsed = parse_network(api, job.options.flavour, job.model, job.file)
    progress("parse", 1, 1, f"{parsed.network.num_layers} layers of {job.file}")
    flavour = job.bundle.manifest.flavours[f"{job.options.flavour}.{build.precision}"]
    config = make_config(api, parsed, ConfigRequest(job.options, workspace, flavour.kept_fp32))
    cache = None
    if build.timing_cache:
        cache = TimingCache(
            api, job.folder.parent, host.device, lambda said: progress("timing", 1, 1, said)
        )
        cache.attach(config)
    started = time.monotonic()
    plan = run_builder(api, parsed, config, progress, cache)
    seconds = time.monotonic() - started
    progress(STEP, 1, 1, f"{seconds:.1f} s, {len(plan) / 1e6:.1f} MB")
    return _Built(plan, dict(parsed.macs), seconds)


def run_builder(
    api: TensorRT,
    parsed: ParsedNetwork,
    config: Any,
    progress: Progress,
    cache: TimingCache | None = None,
) -> bytes:
    """Build a plan; what was timed is kept whether the build succeeds, fails or is stopped.

    Raises:
        StepError: TensorRT built nothing, with what it said.
        KeyboardInterrupt: From Ctrl-C.
    """
    watch = Watch()
    monitor = make_monitor(api.module, watch)
    if monitor is not None:
        config.progress_monitor = monitor
    mark = api.log.mark()
    try:
        plan = run_watched(
            lambda: parsed.builder.build_serialized_network(parsed.network, config),
            watch,
            progress,
            stoppable=monitor is not None,
        )
    finally:
        # After Ctrl-C the builder may still be at work on its cache.
        if cache is not None and watch.ended:
            cache.save(config)
    if plan is None:
        raise _not_built(api, mark)
    return bytes(plan)


def _not_built(api: TensorRT, mark: int) -> StepError:
    logged = api.log.since(mark, "INTERNAL_ERROR", "ERROR")
    said = list(dict.fromkeys(" ".join(text.split()) for text in logged))
    return StepError(
        f"TensorRT {api.version_text} built no engine",
        got="; ".join(said[-_SHOWN_MESSAGES:]) or "no reason",
        cure="a node without an implementation often wants more --workspace or another "
        "precision: --precision fp16",
    )


# --- afterwards ----------------------------------------------------------------------------------


def _try(job: _Job, host: _Host, plan: bytes, progress: Progress) -> _Tried:
    """Open the plan as ``run`` will, look into it, and hold it against the golden outputs."""
    with TrtSession(plan, job.bundle.manifest.model, host.cuda, host.api) as session:
        layers = session.inspect()
        check = check_golden(job.bundle, session, job.build.precision)
    if not check.passed:
        raise StepError(
            f"the {job.build.precision} engine does not give the golden outputs and was not kept: "
            f"'{job.bundle.manifest.model.output.name}'",
            expected=f"a mean absolute difference of at most {check.tolerance:g}",
            got=f"{check.mean_abs:.4g} over {check.samples} samples",
            cure=_self_check_cure(job),
        )
    progress("self-check", 1, 1, f"{check.mean_abs:.2g} of {check.tolerance:g} allowed")
    return _Tried(check, layers)


def _self_check_cure(job: _Job) -> str:
    """What would tell whose fault it is: the bundle's, the precision's or TensorRT's."""
    steadier = {"int8": "fp16", "fp16": "fp32"}.get(job.build.precision)
    check = f"does the bundle hold on the CPU? edge-fusion inspect {job.bundle.path} --self-check"
    return f"{check}; until then build with --precision {steadier}" if steadier else check


def _record(job: _Job, host: _Host, built: _Built, tried: _Tried) -> EngineRecord:
    return EngineRecord(
        key=job.folder.name,
        model_sha256=job.bundle.manifest.files[job.file].sha256,
        device=host.device,
        options=job.options,
        model_file=job.file,
        plan_sha256=sha256(built.plan),
        plan_bytes=len(built.plan),
        created_utc=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        build_seconds=round(built.seconds, 3),
        golden_mean_abs=tried.check.mean_abs,
        golden_tolerance=tried.check.tolerance,
        summary=summarise(tried.layers, built.macs),
        versions=_versions(host.api),
    )


def _versions(api: TensorRT) -> dict[str, str]:
    try:
        own = version("edge-fusion")
    except PackageNotFoundError:  # run from a checkout that is not installed
        own = "unknown"
    return {"edge-fusion": own, "tensorrt": api.version_text, "numpy": np.__version__}
