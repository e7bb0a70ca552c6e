"""``edge-fusion calib drift`` and ``calib report``: look at a source, and at a set."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from edge_fusion.command_line import HtmlTo, JsonTo
from edge_fusion.errors import GateError, InputError

_SHOWN = 20  # layers in the table; JSON has all


def drift(
    reference: Annotated[str, typer.Argument(metavar="SET|BUNDLE", help="What was calibrated on.")],
    source: Annotated[str, typer.Argument(help="What the camera gives now; see 'sources'.")],
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Frames to look at; all, or 300 of a camera, if left out."),
    ] = None,
    every: Annotated[int, typer.Option(min=1, help="Look at every so-manieth frame.")] = 1,
    threshold: Annotated[
        float | None,
        typer.Option(
            help="Largest Jensen-Shannon divergence of an input, 0 to 1; follows from the set if "
            "left out."
        ),
    ] = None,
    layers: Annotated[
        bool,
        typer.Option(
            "--layers",
            help="With a bundle: run its FP32 graph, and list the layers that INT8 would clip.",
        ),
    ] = False,
    fail: Annotated[
        bool, typer.Option("--fail", help="End with exit status 1 where inputs have drifted.")
    ] = False,
    json_to: JsonTo = None,
) -> None:
    """Tell whether a source still looks like the pairs that INT8 ranges were taken from."""
    from edge_fusion.bundle import is_bundle
    from edge_fusion.calibration.drift import DriftOptions, measure_drift
    from edge_fusion.console import console_for, emit_json, grid
    from edge_fusion.runtime.drift_watch import DRIFT_COLUMNS, drift_rows, judgement_of
    from edge_fusion.runtime.source.credentials import with_variables

    if layers and not is_bundle(Path(reference)):
        raise InputError(f"--layers needs a bundle, {reference} is none")
    options = DriftOptions(reference, with_variables(source, os.environ), limit, every, threshold)
    console = console_for(json_to)
    report = measure_drift(options)
    told = report.summary.overall
    console.print(f"{told.frames} frames, {report.unusable} unusable")
    console.print(grid(DRIFT_COLUMNS, drift_rows(told)))
    console.print(f"inputs: {judgement_of(told)}", markup=False)
    content = report.as_dict()
    if layers:
        from edge_fusion.bundle import Bundle
        from edge_fusion.calibration.drift import frames_of
        from edge_fusion.export.layer_drift import LAYER_COLUMNS, layer_drift

        found = layer_drift(Bundle.read(reference), frames_of(options))
        console.print(grid(LAYER_COLUMNS, [one.cells() for one in found[:_SHOWN]]))
        content["layers"] = [one.as_dict() for one in found]
    emit_json(json_to, content)
    if fail and report.exceeded:
        raise GateError(f"input drift: {judgement_of(told)}")


def report(
    source: Annotated[str, typer.Argument(metavar="SET", help="A set, or a folder of pairs.")],
    html: HtmlTo = None,
    model: Annotated[
        str | None,
        typer.Option(help="Hold it against the training inputs of a bundle or a name of 'models'."),
    ] = None,
    json_to: JsonTo = None,
) -> None:
    """Show a calibration set on one page: pictures, distributions, coverage, findings."""
    import shlex
    import sys

    from edge_fusion.calibration.report import make_report, page_template, write_page
    from edge_fusion.console import Steps, console_for, emit_json

    if html is None and json_to is None:
        raise InputError("calib report: nothing to write", cure="give --html FILE or --json FILE")
    if html is not None:
        page_template()  # a missing package is said before the reading, not after
    console = console_for(json_to)
    with Steps(console) as steps:
        made = make_report(source, model, steps)
    if html is not None:
        write_page(made, html, command=shlex.join(["edge-fusion", *sys.argv[1:]]))
        console.print(f"report: {html}", markup=False)
    emit_json(json_to, made.as_dict())
