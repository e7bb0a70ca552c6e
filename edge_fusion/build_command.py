"""``edge-fusion build``: a model into a bundle on the workstation, a bundle into an engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edge_fusion.command_line import JsonTo
from edge_fusion.errors import InputError

if TYPE_CHECKING:
    from edge_fusion.bundle import Bundle
    from edge_fusion.engine import EnginePrecision, EngineRecord

_BUNDLES = "For a model: write a bundle"
_ENGINES = "For a bundle: build an engine of it"
DEFAULT_TARGET = "orin-nano"
#: Options that one kind of build alone takes, as the command line names them.
_OF_MODELS = (
    "calib", "checkpoint", "spec", "size", "calib_count", "seed", "keep_fp16", "opset", "exporter",
    "allow_partial", "untrained",
)  # fmt: skip
_OF_BUNDLES = (
    "optimization_level", "workspace", "timing_cache", "on", "wheelhouse", "directory", "python",
    "ssh_config", "print_trtexec", "export", "plan", "name",
)  # fmt: skip


class Precision(str, Enum):
    """The precisions a bundle and an engine can be built for."""

    fp32 = "fp32"
    fp16 = "fp16"
    int8 = "int8"


class ExporterName(str, Enum):
    """torch's two ONNX exporters."""

    dynamo = "dynamo"
    legacy = "legacy"


class ServerFormat(str, Enum):
    """What serves a bundle instead of this package."""

    triton = "triton"
    triton_ort = "triton-ort"
    isaac_ros = "isaac-ros"


def build(
    context: typer.Context,
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL|BUNDLE",
            help="A name from 'models', module:factory, or a two-input .onnx file; or a bundle, "
            "whose engine is built on this machine.",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="The bundle: a folder, or a file ending in .tar.  With --on: where the device's "
            "record goes; with --export: what is written.",
        ),
    ] = None,
    precision: Annotated[
        Precision | None,
        typer.Option(help="The lowest precision of the engines; int8, or what the bundle has."),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(help="Board and JetPack, such as orin-nano@6.2; see 'targets'."),
    ] = None,
    force: Annotated[
        bool, typer.Option(help="Replace an older bundle, engine or export of the same name.")
    ] = False,
    json_to: JsonTo = None,
    calib: Annotated[
        list[str] | None,
        typer.Option(
            help="Pairs to take INT8 ranges from: a folder or a source URI; may be repeated.",
            rich_help_panel=_BUNDLES,
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="Weights: .safetensors, or .pth read without pickles; else those that come with "
            "the model.",
            rich_help_panel=_BUNDLES,
        ),
    ] = None,
    spec: Annotated[
        Path | None,
        typer.Option(
            help="JSON input record of your own model; 'models NAME --json -' shows one.",
            rich_help_panel=_BUNDLES,
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            metavar="WxH",
            help="Input size, instead of the model's own.",
            rich_help_panel=_BUNDLES,
        ),
    ] = None,
    calib_count: Annotated[
        int, typer.Option(min=1, help="How many pairs to choose.", rich_help_panel=_BUNDLES)
    ] = 64,
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of that choice.", rich_help_panel=_BUNDLES)
    ] = 0,
    keep_fp16: Annotated[
        list[str] | None,
        typer.Option(
            help="Node names (globs) to keep out of INT8; may be repeated.",
            rich_help_panel=_BUNDLES,
        ),
    ] = None,
    opset: Annotated[
        int | None,
        typer.Option(
            min=13,
            max=20,
            help="ONNX opset; 18, or older where the target needs it.",
            rich_help_panel=_BUNDLES,
        ),
    ] = None,
    exporter: Annotated[
        ExporterName,
        typer.Option(
            help="torch's exporter; legacy takes what dynamo cannot.", rich_help_panel=_BUNDLES
        ),
    ] = ExporterName.dynamo,
    allow_partial: Annotated[
        bool,
        typer.Option(
            help="Accept a checkpoint that leaves some weights untouched.",
            rich_help_panel=_BUNDLES,
        ),
    ] = False,
    untrained: Annotated[
        bool,
        typer.Option(
            help="Build with random weights, to try the road or measure latency.",
            rich_help_panel=_BUNDLES,
        ),
    ] = False,
    optimization_level: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=5,
            help="TensorRT's builder level: higher builds longer; its own default if left out.",
            rich_help_panel=_ENGINES,
        ),
    ] = None,
    workspace: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="MIB",
            help="Scratch memory for the builder; a share of what is free if left out.",
            rich_help_panel=_ENGINES,
        ),
    ] = None,
    timing_cache: Annotated[
        bool,
        typer.Option(help="Keep kernel timings and use them again.", rich_help_panel=_ENGINES),
    ] = True,
    on: Annotated[
        str | None,
        typer.Option(
            metavar="ssh://USER@HOST",
            help="Build on that device: copy bundle and package there, bring the record back.",
            rich_help_panel=_ENGINES,
        ),
    ] = None,
    wheelhouse: Annotated[
        Path | None,
        typer.Option(
            help="With --on: a folder of wheels, for a device without a network.",
            rich_help_panel=_ENGINES,
        ),
    ] = None,
    directory: Annotated[
        str,
        typer.Option(
            help="With --on: our folder on the device, absolute or below its home.",
            rich_help_panel=_ENGINES,
        ),
    ] = "edge-fusion",
    python: Annotated[
        str,
        typer.Option(
            help="With --on: the device's Python that TensorRT is installed for.",
            rich_help_panel=_ENGINES,
        ),
    ] = "python3",
    ssh_config: Annotated[
        Path | None,
        typer.Option(
            help="With --on: an ssh configuration instead of ~/.ssh/config.",
            rich_help_panel=_ENGINES,
        ),
    ] = None,
    print_trtexec: Annotated[
        bool,
        typer.Option(
            "--print-trtexec",
            help="Print the trtexec line that builds the same engine, for the target.",
            rich_help_panel=_ENGINES,
        ),
    ] = False,
    export: Annotated[
        ServerFormat | None,
        typer.Option(
            help="Write a model for Triton (its engine, or ONNX Runtime) or the parameters of "
            "Isaac ROS's TensorRT node.",
            rich_help_panel=_ENGINES,
        ),
    ] = None,
    plan: Annotated[
        Path | None,
        typer.Option(
            help="With --export: the plan; this device's own engine if left out.",
            rich_help_panel=_ENGINES,
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            help="With --export triton: the model's name; its own and the precision if left out.",
            rich_help_panel=_ENGINES,
        ),
    ] = None,
) -> None:
    """Build a verified bundle of a model, calibrated on your own pairs; or a bundle's engine here.

    On the workstation:  build MODEL --calib SET -o BUNDLE

    On the device:       build BUNDLE   (or from here, build BUNDLE --on ssh://user@device)
    """
    from edge_fusion.bundle import Bundle, is_bundle

    given = context.params
    if not is_bundle(Path(model)):
        _refuse_others(context, _OF_BUNDLES, f"{model} is not a bundle")
        _build_bundle(given)
        return
    _refuse_others(context, _OF_MODELS, f"{model} is a bundle already")
    job = DeviceJob(Bundle.read(model), given)
    kinds: tuple[tuple[object, Callable[[], None]], ...] = (
        (print_trtexec, job.print_trtexec),
        (export, job.export),
        (on, job.build_there),
        (True, job.build_here),
    )
    next(do for wanted, do in kinds if wanted)()


def _refuse_others(context: typer.Context, names: tuple[str, ...], why: str) -> None:
    """Refuse options that the other kind of build takes."""
    for name in names:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            option = name.replace("_", "-")
            raise InputError(f"--{option}", got=why, cure="see 'edge-fusion build --help'")


def _build_bundle(given: dict[str, Any]) -> None:
    from edge_fusion.console import Steps, console_for, emit_json, facts_table
    from edge_fusion.export.options import BuildOptions
    from edge_fusion.export.pipeline import build as build_bundle
    from edge_fusion.runtime.inspect import bundle_facts

    if given["output"] is None:
        raise InputError("no place for the bundle", cure="build MODEL --calib SET -o BUNDLE")
    precision = given["precision"] or Precision.int8
    options = BuildOptions(
        model=given["model"],
        output=given["output"],
        calib=tuple(given["calib"] or ()),
        checkpoint=given["checkpoint"],
        precision=precision.value,
        target=given["target"] or DEFAULT_TARGET,
        spec=given["spec"],
        size=given["size"],
        calib_count=given["calib_count"],
        seed=given["seed"],
        keep_fp16=tuple(given["keep_fp16"] or ()),
        opset=given["opset"],
        exporter=given["exporter"].value,
        allow_partial=given["allow_partial"],
        untrained=given["untrained"],
        replace=given["force"],
    )
    console = console_for(given["json_to"])
    with Steps(console) as steps:
        bundle = build_bundle(options, steps)
    console.print(facts_table(bundle_facts(bundle)))
    emit_json(given["json_to"], bundle.manifest.model_dump(mode="json"))


@dataclass(frozen=True, slots=True)
class DeviceJob:
    """What to make of a bundle for a device: the options of the command by name."""

    bundle: Bundle
    given: dict[str, Any]

    @property
    def precision(self) -> EnginePrecision:
        """What was asked for, or the lowest that the bundle was built for."""
        wanted: Precision | None = self.given["precision"]
        return wanted.value if wanted else self.bundle.manifest.precision

    def build_here(self) -> None:
        """Build the engine on this machine."""
        from edge_fusion.console import Steps, console_for
        from edge_fusion.export.engine import EngineBuild, build_engine

        if self.given["output"] is not None:
            raise InputError("--output", got="a bundle", cure="its engine is kept in the bundle")
        options = EngineBuild(
            self.precision,
            self.given["optimization_level"],
            self.given["workspace"],
            self.given["timing_cache"],
            rebuild=self.given["force"],
        )
        with Steps(console_for(self.given["json_to"])) as steps:
            engine = build_engine(self.bundle, options, steps)
        self._show(engine.record, {"engine": str(engine.folder)})

    def build_there(self) -> None:
        """Build the engine on another machine."""
        from edge_fusion.console import Steps, console_for
        from edge_fusion.export.remote import RemoteOptions, build_remote

        names = ("workspace", "optimization_level")
        values = {f"--{n.replace('_', '-')}": self.given[n] for n in names}
        passed = [text for n, v in values.items() if v is not None for text in (n, str(v))]
        flags = {
            "--force": self.given["force"],
            "--no-timing-cache": not self.given["timing_cache"],
        }
        options = RemoteOptions(
            self.given["on"],
            self.precision,
            directory=self.given["directory"],
            python=self.given["python"],
            wheelhouse=self.given["wheelhouse"],
            build_options=(*passed, *(flag for flag, wanted in flags.items() if wanted)),
            ssh_config=self.given["ssh_config"],
            output=self.given["output"],
        )
        console = console_for(self.given["json_to"])
        try:
            with Steps(console) as steps:
                result = build_remote(
                    self.bundle.path, options, steps, lambda line: console.print(line, markup=False)
                )
        except KeyboardInterrupt:
            console.print("a build that was started there goes on; the same command finds it again")
            raise
        self._show(result.record, {"device": result.host, "bundle there": result.bundle})

    def _show(self, record: EngineRecord, where: dict[str, str]) -> None:
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
        console_for(self.given["json_to"]).print(facts_table(facts))
        emit_json(self.given["json_to"], record.model_dump(mode="json"))

    def print_trtexec(self) -> None:
        """Print the line for the target."""
        from edge_fusion.console import STANDARD_OUTPUT, emit_json
        from edge_fusion.export.trtexec import trtexec_command
        from edge_fusion.target import parse_target

        target = parse_target(self.given["target"] or self.bundle.manifest.target)
        line = trtexec_command(
            self.bundle,
            target,
            self.precision,
            workspace_mib=self.given["workspace"],
            optimization_level=self.given["optimization_level"],
        )
        typer.echo(line, err=self.given["json_to"] == STANDARD_OUTPUT)
        emit_json(self.given["json_to"], {"target": target.name, "command": line})

    def export(self) -> None:
        """Write what another server needs."""
        from edge_fusion.console import console_for, emit_json
        from edge_fusion.export.serving import export_isaac_ros, export_triton

        form, output, replace = (self.given[key] for key in ("export", "output", "force"))
        if output is None:
            raise InputError(f"--export {form.value}", cure="say where to: -o PATH")
        bundle, precision, name = self.bundle, self.precision, self.given["name"]
        if form is ServerFormat.triton_ort:
            made = export_triton(
                bundle, precision, output, platform="onnxruntime_onnx", name=name, replace=replace
            )
        elif form is ServerFormat.triton:
            made = export_triton(
                bundle, precision, output, self._plan(), name=name, replace=replace
            )
        else:
            made = export_isaac_ros(bundle, precision, output, self._plan(), replace=replace)
        console_for(self.given["json_to"]).print(f"written: {made}", markup=False)
        emit_json(self.given["json_to"], {"written": str(made)})

    def _plan(self) -> Path:
        """The plan that was named, or that of the engine that was built on this device."""
        from edge_fusion.board import probe_board
        from edge_fusion.engine import PLAN_NAME, find_engine
        from edge_fusion.runtime.cuda import Cuda
        from edge_fusion.runtime.trt_api import load_tensorrt, this_device

        named: Path | None = self.given["plan"]
        if named is not None:
            return named
        api = load_tensorrt("finding this device's engine")
        with Cuda.load() as cuda:
            device = this_device(api, cuda, probe_board())
        return find_engine(self.bundle, self.precision, device).folder / PLAN_NAME
