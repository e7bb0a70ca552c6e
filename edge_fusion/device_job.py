"""What ``edge-fusion build BUNDLE`` makes of a bundle: an engine here or elsewhere, a line, a file.

Wings are imported by the job that needs them: a device has none of the workstation's packages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from edge_fusion.build_jobs import EXPORTS, HERE, ON, TRTEXEC, Job, Precision, ServerFormat
from edge_fusion.errors import InputError

if TYPE_CHECKING:
    from edge_fusion.bundle import Bundle
    from edge_fusion.engine import EnginePrecision, EngineRecord
    from edge_fusion.export.remote import RemoteOptions

REMOTE_STEP = "remote"  # from which on something runs on the other device


@dataclass(frozen=True, slots=True)
class DeviceOptions:
    """The options of the command that a bundle takes, by their names there."""

    output: Path | None
    precision: Precision | None
    target: str | None
    force: bool
    json_to: str | None
    optimization_level: int | None
    workspace: int | None
    timing_cache: bool
    on: str | None
    wheelhouse: Path | None
    directory: str
    python: str
    ssh_config: Path | None
    export: ServerFormat | None
    plan: Path | None
    name: str | None

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> DeviceOptions:
        """Those of the command's parameters that are ours."""
        return cls(**{field.name: params[field.name] for field in fields(cls)})

    def precision_for(self, bundle: Bundle) -> EnginePrecision:
        """What was asked for, or the lowest that the bundle was built for."""
        return self.precision.value if self.precision else bundle.manifest.precision


def run_device_job(job: Job, bundle: Bundle, options: DeviceOptions) -> None:
    """Do one job and show what came of it."""
    _DO[job](bundle, options)


def _build_here(bundle: Bundle, options: DeviceOptions) -> None:
    from edge_fusion.console import Steps, console_for
    from edge_fusion.export.engine import EngineBuild, build_engine

    wanted = EngineBuild(
        options.precision_for(bundle),
        options.optimization_level,
        options.workspace,
        options.timing_cache,
        rebuild=options.force,
    )
    with Steps(console_for(options.json_to)) as steps:
        engine = build_engine(bundle, wanted, steps)
    _show(options, engine.record, {"engine": str(engine.folder)})


def _build_there(bundle: Bundle, options: DeviceOptions) -> None:
    from edge_fusion.console import Steps, console_for
    from edge_fusion.export.remote import build_remote

    wanted = _remote_options(bundle, options)
    console = console_for(options.json_to)
    begun: set[str] = set()
    try:
        with Steps(console) as steps:

            def report(step: str, done: int, total: int, detail: str = "") -> None:
                begun.add(step)
                steps(step, done, total, detail)

            result = build_remote(
                bundle.path, wanted, report, lambda line: console.print(line, markup=False)
            )
    except KeyboardInterrupt:
        if REMOTE_STEP in begun:
            console.print("a build that was started there goes on; the same command finds it again")
        raise
    _show(options, result.record, {"device": result.host, "bundle there": result.bundle})


def _remote_options(bundle: Bundle, options: DeviceOptions) -> RemoteOptions:
    from edge_fusion.export.remote import RemoteOptions

    values = {
        "--workspace": options.workspace,
        "--optimization-level": options.optimization_level,
    }
    passed = [text for n, v in values.items() if v is not None for text in (n, str(v))]
    flags = {"--force": options.force, "--no-timing-cache": not options.timing_cache}
    return RemoteOptions(
        options.on or "",
        options.precision_for(bundle),
        directory=options.directory,
        python=options.python,
        wheelhouse=options.wheelhouse,
        build_options=(*passed, *(flag for flag, wanted in flags.items() if wanted)),
        ssh_config=options.ssh_config,
        output=options.output,
        replace=options.force,
    )


def _show(options: DeviceOptions, record: EngineRecord, where: dict[str, str]) -> None:
    from edge_fusion.console import console_for, emit_json, facts_table

    share = record.summary.int8_mac_share
    layers = ", ".join(f"{count} {kind}" for kind, count in record.summary.layers.items())
    allowed = f"{record.golden_mean_abs:.2g} of {record.golden_tolerance:g} allowed"
    facts = {
        **where,
        "precision": f"{record.options.precision}, {record.plan_bytes / 1e6:.2f} MB",
        "built on": f"{record.device.name}, TensorRT {record.device.tensorrt}",
        "layers": layers or "not told",
        "INT8 share of MACs": "not told" if share is None else f"{share:.0%}",
        "self-check": f"mean difference {allowed}",
    }
    console_for(options.json_to).print(facts_table(facts))
    emit_json(options.json_to, record.model_dump(mode="json"))


def _print_trtexec(bundle: Bundle, options: DeviceOptions) -> None:
    from edge_fusion.console import STANDARD_OUTPUT, emit_json
    from edge_fusion.export.trtexec import trtexec_command
    from edge_fusion.target import parse_target

    target = parse_target(options.target or bundle.manifest.target)
    line = trtexec_command(
        bundle,
        target,
        options.precision_for(bundle),
        workspace_mib=options.workspace,
        optimization_level=options.optimization_level,
    )
    typer.echo(line, err=options.json_to == STANDARD_OUTPUT)
    emit_json(options.json_to, {"target": target.name, "command": line})


def _export(bundle: Bundle, options: DeviceOptions) -> None:
    from edge_fusion.console import console_for, emit_json
    from edge_fusion.export.serving import export_isaac_ros, export_triton

    form, output, replace = options.export, options.output, options.force
    precision, name = options.precision_for(bundle), options.name
    if output is None:
        raise InputError(f"--export {form.value if form else ''}", cure="say where to: -o PATH")
    if form is ServerFormat.triton_ort:
        made = export_triton(
            bundle, precision, output, platform="onnxruntime_onnx", name=name, replace=replace
        )
    elif form is ServerFormat.triton:
        plan = _plan(bundle, options)
        made = export_triton(bundle, precision, output, plan, name=name, replace=replace)
    else:
        made = export_isaac_ros(bundle, precision, output, _plan(bundle, options), replace=replace)
    console_for(options.json_to).print(f"written: {made}", markup=False)
    emit_json(options.json_to, {"written": str(made)})


def _plan(bundle: Bundle, options: DeviceOptions) -> Path:
    """The plan that was named, or that of the engine that was built on this device."""
    from edge_fusion.board import probe_board
    from edge_fusion.engine import PLAN_NAME, find_engine
    from edge_fusion.runtime.cuda import Cuda
    from edge_fusion.runtime.trt_api import load_tensorrt, this_device

    if options.plan is not None:
        return options.plan
    api = load_tensorrt("finding this device's engine")
    with Cuda.load() as cuda:
        device = this_device(api, cuda, probe_board())
    return find_engine(bundle, options.precision_for(bundle), device).folder / PLAN_NAME


_DO: dict[Job, Callable[[Bundle, DeviceOptions], None]] = {
    HERE: _build_here,
    ON: _build_there,
    TRTEXEC: _print_trtexec,
    **dict.fromkeys(EXPORTS.values(), _export),
}
