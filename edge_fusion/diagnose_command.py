"""``edge-fusion diagnose``: which layers INT8 breaks, why, and what cures it."""

from __future__ import annotations

from typing import Annotated

import typer

from edge_fusion.command_line import BundlePath, JsonTo


def diagnose(
    bundle: BundlePath,
    data: Annotated[
        list[str], typer.Option(help="RGB-D pairs; masks are not needed; may be repeated.")
    ],
    samples: Annotated[
        int, typer.Option(min=1, help="How many pairs to run; few suffice to rank layers.")
    ] = 4,
    seed: Annotated[int, typer.Option(min=0, help="Seed of their choice.")] = 0,
    variant: Annotated[str, typer.Option(help="What to hold against FP32.")] = "int8",
    worst: Annotated[int, typer.Option(min=1, help="How many layers to show.")] = 10,
    json_to: JsonTo = None,
) -> None:
    """Say which layers INT8 breaks, why, and the cure; a report, whose exit status is 0."""
    from edge_fusion.console import Steps, console_for, emit_json, grid
    from edge_fusion.export.diagnose import (
        LAYER_COLUMNS,
        DiagnoseOptions,
        diagnose_bundle,
        finding_lines,
        layer_rows,
        revert_rows,
    )

    options = DiagnoseOptions(variant=variant, samples=samples, seed=seed)
    console = console_for(json_to)
    with Steps(console) as steps:
        found = diagnose_bundle(bundle, data, options, steps)
    console.print(grid(LAYER_COLUMNS, layer_rows(found, worst)))
    if found.reverts:
        console.print(grid(("kept in FP16", "saliency off by"), revert_rows(found)))
    for line in finding_lines(found):
        console.print(line, markup=False)
    for cause, reason in found.not_applicable.items():
        console.print(f"{cause} not judged: {reason}", markup=False)
    console.print(found.conclusion, style="bold", markup=False)
    emit_json(json_to, found.model_dump(mode="json"))
