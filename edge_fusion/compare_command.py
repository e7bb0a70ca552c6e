"""``edge-fusion compare``: what INT8 cost, what it bought, and the gates it has to pass."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from edge_fusion.command_line import Backend, BundlePath, HtmlTo, JsonTo


def compare(
    bundle: BundlePath,
    data: Annotated[
        list[str], typer.Option(help="RGB-D pairs, with masks or without; may be repeated.")
    ],
    html: HtmlTo = None,
    diagnosis: Annotated[
        Path | None,
        typer.Option(help="Show this in the report: what 'diagnose --json FILE' wrote."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Pairs per set at most.")] = None,
    max_drop: Annotated[
        list[str] | None,
        typer.Option(metavar="METRIC=VALUE", help="Fail if a variant is worse by more: mae=0.002."),
    ] = None,
    require: Annotated[
        list[str] | None,
        typer.Option(metavar="METRIC=VALUE", help="Fail if a variant misses this, as iou=0.6."),
    ] = None,
    min_speedup: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[LABEL=]VALUE",
            help="Fail if a variant is not this many times as fast as the reference, as 1.15: even "
            "the lower end of the 95 % interval must reach it. Not judged where INT8 ran without "
            "8-bit arithmetic, as ONNX Runtime runs it.",
        ),
    ] = None,
    speed_as_it_ran: Annotated[
        bool,
        typer.Option("--speed-as-it-ran", help="Judge --min-speedup there, too."),
    ] = False,
    variants: Annotated[
        str,
        typer.Option(
            help="What to compare, the reference first, with commas between: fp32, trt:fp16, "
            "ort:int8, other/bundle:int8, file.onnx; LABEL=... gives any of them a name."
        ),
    ] = "fp32,int8",
    backend: Backend = "auto",
    repeats: Annotated[
        int, typer.Option(min=0, help="Timed runs of each variant; 0 leaves latency out.")
    ] = 100,
    json_to: JsonTo = None,
) -> None:
    """Compare FP32, FP16 and INT8, or whatever else: accuracy, agreement, latency, size, energy."""
    from edge_fusion.console import Steps, console_for, emit_json
    from edge_fusion.runtime.compare import CompareOptions, candidates_of, compare_bundle
    from edge_fusion.runtime.comparison_table import notes_table, terminal_table
    from edge_fusion.runtime.gates import check_gates, check_judgeable, parse_gates
    from edge_fusion.runtime.report import check_page, manifests_of, write_html
    from edge_fusion.runtime.report_layers import check_diagnosed
    from edge_fusion.runtime.verdict import verdict

    layers = check_page(html, diagnosis)  # what is amiss is said before the measuring, not after
    chosen = tuple(variant.strip() for variant in variants.split(","))
    options = CompareOptions(chosen, backend, limit, repeats=repeats)
    gates = parse_gates(
        max_drop or (),
        require or (),
        min_speedup or (),
        speed_as_it_ran=speed_as_it_ran,
        labels=options.labels,
    )
    check_judgeable(gates, options.repeats)
    if layers is not None:
        check_diagnosed(layers, candidates_of(bundle, options))
    console = console_for(json_to)
    with Steps(console) as steps:
        comparison = compare_bundle(bundle, data, options, steps.named)
    console.print(terminal_table(comparison), notes_table(comparison))
    console.print(verdict(comparison), markup=False)
    emit_json(json_to, comparison.as_dict())
    if html is not None:
        command = shlex.join(["edge-fusion", *sys.argv[1:]])
        write_html(comparison, html, command, layers, manifests_of(comparison))
        console.print(f"report: {html}", markup=False)
    check_gates(comparison, gates)
