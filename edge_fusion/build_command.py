"""``edge-fusion build``: a model into a bundle on the workstation, a bundle into an engine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edge_fusion.build_jobs import (
    MODEL,
    ExporterName,
    Precision,
    ServerFormat,
    choose_device_job,
    means_a_bundle,
    refuse_others,
)
from edge_fusion.command_line import JsonTo
from edge_fusion.device_job import DeviceOptions, run_device_job
from edge_fusion.errors import InputError

_BUNDLES = "For a model: write a bundle"
_ENGINES = "For a bundle: build an engine of it"
DEFAULT_TARGET = "orin-nano"


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
        bool, typer.Option(help="Replace an older bundle, engine, record or export.")
    ] = False,
    json_to: JsonTo = None,
    calib: Annotated[
        list[str] | None,
        typer.Option(
            help="Pairs to take INT8 ranges from: a set made by 'calib', a folder or a source URI; "
            "may be repeated.",
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
        int | None,
        typer.Option(
            min=1,
            help="How many pairs to choose at random; a set made by 'calib' is taken whole, and 64 "
            "pairs of other sources, if left out.",
            rich_help_panel=_BUNDLES,
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of that choice.", rich_help_panel=_BUNDLES)
    ] = 0,
    estimator: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME|CLASS=NAME|auto",
            help="How INT8 ranges follow from the pairs: mean_minmax, minmax, mean_quantile ... "
            "for all tensors, or for a class of them (encoder=, fusion=, decoder=; may be "
            "repeated); auto chooses for each class by held-out pairs.",
            rich_help_panel=_BUNDLES,
        ),
    ] = None,
    keep_fp16: Annotated[
        list[str] | None,
        typer.Option(
            help="Node names (globs) to keep out of INT8; may be repeated.",
            rich_help_panel=_BUNDLES,
        ),
    ] = None,
    force_int8: Annotated[
        list[str] | None,
        typer.Option(
            help="Node names (globs) to quantize although the policy keeps them; may be repeated.",
            rich_help_panel=_BUNDLES,
        ),
    ] = None,
    max_drop: Annotated[
        list[str] | None,
        typer.Option(
            metavar="METRIC=VALUE",
            help="Send layers back to FP16 until INT8 is no worse than FP32 by more than this, "
            "such as mae=0.002; may be repeated.",
            rich_help_panel=_BUNDLES,
        ),
    ] = None,
    gate_data: Annotated[
        list[str] | None,
        typer.Option(
            help="With --max-drop: pairs with masks to judge it on, else those of --calib; may be "
            "repeated.",
            rich_help_panel=_BUNDLES,
        ),
    ] = None,
    min_int8: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="With --max-drop: share of the MACs that must stay in INT8 for it to pay.",
            rich_help_panel=_BUNDLES,
        ),
    ] = 0.5,
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
    if not means_a_bundle(context, model):
        refuse_others(context, MODEL, model)
        _build_bundle(context.params)
        return
    from edge_fusion.bundle import Bundle

    bundle = Bundle.read(model)
    job = choose_device_job(context)
    refuse_others(context, job, model)
    run_device_job(job, bundle, DeviceOptions.of(context.params))


def _build_bundle(given: dict[str, Any]) -> None:
    if given["output"] is None:
        raise InputError(
            f"no place for the bundle of {given['model']}",
            cure=f"build MODEL --calib SET -o BUNDLE; if {given['model']} is meant to be a bundle, "
            "there is none",
        )
    from edge_fusion.console import Steps, console_for, emit_json, facts_table
    from edge_fusion.export.options import BuildOptions
    from edge_fusion.export.pipeline import build as build_bundle
    from edge_fusion.runtime.inspect import bundle_facts

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
        estimator=tuple(given["estimator"] or ()),
        keep_fp16=tuple(given["keep_fp16"] or ()),
        force_int8=tuple(given["force_int8"] or ()),
        max_drop=tuple(given["max_drop"] or ()),
        gate_data=tuple(given["gate_data"] or ()),
        min_int8=given["min_int8"],
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
