"""The command line: each command parses, calls one public function and prints what it returned."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from edge_fusion import __version__
from edge_fusion.build_command import build
from edge_fusion.calib_command import calib
from edge_fusion.command_line import (
    Backend,
    BundlePath,
    Commands,
    Interrupt,
    JsonTo,
    TargetName,
    WithOptionalValues,
)
from edge_fusion.compare_command import compare
from edge_fusion.diagnose_command import diagnose
from edge_fusion.errors import GateError, InputError

# Heavy packages, and the wings that need them, are imported inside the command that uses them:
# `--help` answers at once, and `run` works where torch is not installed.


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit status: 0 done, 1 a gate was missed, 2 bad input, 70 a bug, 130 interrupted.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"edge-fusion {__version__}")
        raise typer.Exit


@app.callback()
def edge_fusion(
    debug: Annotated[bool, typer.Option(help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Put a two-stream RGB-D saliency network on a Jetson: build it, run it, compare it.

    calib    create SOURCE -o SET            pairs to calibrate on: checked, chosen, hashed

    build    MODEL --calib SET -o BUNDLE     fold, trace, quantize, legalise, verify

    build    BUNDLE                          on the device: compile, self-check, keep the engine

    run      BUNDLE SOURCE [SINK]            stream RGB-D pairs through it

    compare  BUNDLE --data SET               FP32 against INT8: accuracy and latency

    diagnose BUNDLE --data SET               which layers INT8 breaks, why, and the cure
    """


app.add_typer(calib, name="calib")
app.command()(build)


@app.command(cls=WithOptionalValues)
def run(
    bundle: BundlePath,
    source: Annotated[
        str, typer.Argument(help="A folder of RGB-D pairs or a source URI; see 'sources'.")
    ],
    sinks: Annotated[
        list[str] | None,
        typer.Argument(help="A video, a folder of masks, web://:8080 ...; see 'sinks'."),
    ] = None,
    variant: Annotated[
        str | None,
        typer.Option(help="fp32, int8, or fp16 as an engine; the bundle's INT8 where it has one."),
    ] = None,
    backend: Backend = "auto",
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after this many pairs.")] = None,
    mode: Annotated[
        Literal["auto", "every", "freshest"],
        typer.Option(help="every pair, or always the freshest; auto: the freshest of a camera."),
    ] = "auto",
    max_staleness: Annotated[
        float | None,
        typer.Option(metavar="MS", help="Drop pairs of a camera that are older than this."),
    ] = None,
    smooth: Annotated[
        float | None, typer.Option(help="Share of the past in each map, 0 up to 1; off.")
    ] = None,
    idle: Annotated[
        float, typer.Option(min=0, help="Seconds to measure power at rest first, where it can be.")
    ] = 2.0,
    watch_drift: Annotated[
        str | None,
        typer.Option(
            "--watch-drift",
            metavar="[=THRESHOLD]",
            help="Tell when frames leave what the bundle was calibrated on; THRESHOLD is a "
            "Jensen-Shannon divergence, 0 to 1, and follows from the calibration set if left out.",
        ),
    ] = None,
    fail_on_drift: Annotated[
        bool, typer.Option("--fail-on-drift", help="Watch, and end with exit status 1 if they do.")
    ] = False,
    print_unit: Annotated[
        bool,
        typer.Option(
            "--print-unit",
            help="Print a systemd unit that runs this, and stop. Passwords and tokens must be "
            "written as ${NAME}; the unit says in which file it reads them.",
        ),
    ] = False,
    json_to: JsonTo = None,
) -> None:
    """Stream RGB-D pairs through a bundle; Ctrl-C ends it and keeps what was written.

    ${NAME} in the source and the sinks is the value of that environment variable.
    """
    from edge_fusion.console import FrameLine, console_for, emit_json, facts_table, grid
    from edge_fusion.runtime import run as running
    from edge_fusion.runtime.drift_watch import drift_line, drift_text, parse_threshold
    from edge_fusion.runtime.source.credentials import with_variables
    from edge_fusion.runtime.stream import StreamOptions

    if print_unit:
        from edge_fusion.runtime.sink.open import check_outlives_restart

        check_outlives_restart(sinks or ())
        typer.echo(_unit_of_this_command(), nl=False)
        return
    how = StreamOptions(limit=limit, mode=mode, max_staleness_ms=max_staleness, smoothing=smooth)
    place, *places = (with_variables(one, os.environ) for one in (source, *(sinks or ())))
    options = running.RunOptions(
        bundle,
        place,
        tuple(places),
        variant,
        backend,
        how,
        idle,
        watch_drift=fail_on_drift or watch_drift is not None,
        drift_threshold=parse_threshold(watch_drift),
    )
    console = console_for(json_to)
    with FrameLine(console) as line:
        done = running.run_bundle(
            options,
            lambda one: line(one.number, one.fps, one.latency_ms, one.dropped),
            line.note,
            on_drift=lambda drift: setattr(line, "more", drift_line(drift)),
        )
    emit_json(json_to, done.as_dict())  # first: whoever reads the rest may be gone
    console.print(facts_table(running.run_facts(done)))
    console.print(grid(("ms", *running.STAGE_COLUMNS), running.stage_rows(done)))
    if fail_on_drift and done.drift is not None and done.drift.exceeded:
        raise GateError(f"input drift: {drift_text(done.drift)}")


def _unit_of_this_command() -> str:
    """A unit for whoever asks, in the folder where they ask."""
    from edge_fusion.runtime.service import ServiceOptions, unit_file

    program = Path(shutil.which(sys.argv[0]) or sys.argv[0]).absolute()
    arguments = [argument for argument in sys.argv[1:] if argument != "--print-unit"]
    here = ServiceOptions(user=getpass.getuser(), folder=Path.cwd(), writable=[Path.cwd()])
    return unit_file([str(program), *arguments], here)


app.command()(compare)
app.command()(diagnose)


@app.command()
def inspect(
    bundle: BundlePath,
    self_check: Annotated[
        bool,
        typer.Option(
            "--self-check",
            help="Run the golden inputs here: every variant, or on TensorRT every engine.",
        ),
    ] = False,
    backend: Backend = "auto",
    json_to: JsonTo = None,
) -> None:
    """Show what a bundle holds, after checking the hash of every file in it."""
    from edge_fusion.console import console_for, emit_json, facts_table
    from edge_fusion.runtime.inspect import bundle_facts, check_facts, inspect_bundle

    inspection = inspect_bundle(bundle, self_check=self_check, backend=backend)
    facts = bundle_facts(inspection.bundle) | check_facts(inspection.checks, inspection.backend)
    console_for(json_to).print(facts_table(facts))
    emit_json(json_to, inspection.as_dict())
    if not inspection.passed:
        raise GateError("the self-check failed: this machine does not give the golden outputs")


@app.command()
def check(
    path: Annotated[Path, typer.Argument(help="A bundle, or any ONNX file.")],
    target: TargetName = "orin-nano",
    witness: Annotated[
        bool,
        typer.Option("--witness", help="Have TensorRT-RTX build every graph, too; on the CPU."),
    ] = False,
    json_to: JsonTo = None,
) -> None:
    """Lint a bundle or an ONNX file for a target's TensorRT; errors make the exit status 1."""
    from edge_fusion.console import console_for, emit_json, grid
    from edge_fusion.export.check import FINDING_COLUMNS, check_path, finding_rows, witness_rows

    checks = check_path(path, target, witness=witness)
    console = console_for(json_to)
    for name, one in checks.items():
        judged = one.lint
        console.print(f"{name} for {judged.target}, TensorRT {judged.tensorrt}:", style="bold")
        rows = finding_rows(judged)
        console.print(grid(FINDING_COLUMNS, rows) if rows else "nothing to remark")
        if one.witness is not None:
            heard = f"TensorRT-RTX {one.witness.version}"
            console.print(grid(("SM", heard, "against the lint"), witness_rows(one)))
    emit_json(json_to, {name: one.as_dict() for name, one in checks.items()})
    failed = [f"{name}: {one.failure}" for name, one in checks.items() if not one.ok]
    if failed:
        raise GateError(f"check: {'; '.join(failed)}")


@app.command()
def doctor(
    bundle: Annotated[
        Path | None, typer.Argument(help="A bundle to look at, too: its graphs and engines.")
    ] = None,
    evidence: Annotated[
        Path | None,
        typer.Option(
            help="Build every engine of the bundle here, run all of it, and write what came out: "
            "one JSON file that tells nothing about whose machine it is."
        ),
    ] = None,
    data: Annotated[
        list[str] | None, typer.Option(help="Pairs for the evidence; invented scenes without.")
    ] = None,
    json_to: JsonTo = None,
) -> None:
    """Say what this machine is, what it lacks to build and run engines, and the cure."""
    from edge_fusion.console import Steps, console_for, emit_json, facts_table, grid
    from edge_fusion.runtime.doctor import REMARK_COLUMNS, examine

    console = console_for(json_to)
    if data and evidence is None:
        raise InputError("--data", cure="it belongs to --evidence FILE")
    if evidence is not None:
        from edge_fusion.export.field import write_field_evidence

        with Steps(console) as steps:
            write_field_evidence(bundle, evidence, data or (), steps.named)
        console.print(f"evidence: {evidence}", markup=False)
    diagnosis = examine(bundle)
    console.print(facts_table(diagnosis.facts()))
    rows = diagnosis.rows()
    console.print(grid(REMARK_COLUMNS, rows) if rows else "nothing to remark")
    emit_json(json_to, diagnosis.as_dict())
    if not diagnosis.ok:
        raise GateError("something stands in the way of engines here; see the errors above")


@app.command()
def models(
    name: Annotated[str | None, typer.Argument(help="One model, with its input record.")] = None,
    json_to: JsonTo = None,
) -> None:
    """List the models that come with edge-fusion: parameters and GMACs at their input size."""
    from edge_fusion.console import console_for, emit_json, grid
    from edge_fusion.export.models.catalogue import list_models

    rows = list_models(name)
    columns = ("model", "input", "M parameters", "GMACs", "summary")
    console_for(json_to).print(grid(columns, [row.cells() for row in rows]))
    emit_json(json_to, rows[0].as_dict() if name else [row.as_dict() for row in rows])


@app.command()
def targets(
    name: Annotated[
        str | None,
        typer.Argument(help="One board under every JetPack it runs, or with @ under one."),
    ] = None,
    json_to: JsonTo = None,
) -> None:
    """List boards with the TensorRT they bring; TOPS are dense INT8, ~ marks a weak source.

    Of one board its power modes are listed, too.
    """
    from edge_fusion.console import console_for, emit_json, grid
    from edge_fusion.target import COLUMNS, MODE_COLUMNS, list_targets, mode_rows

    chosen = list_targets(name)
    console = console_for(json_to)
    console.print(grid(COLUMNS, [one.cells() for one in chosen]))
    if name and (rows := mode_rows(chosen)):
        console.print(grid(MODE_COLUMNS, rows))
    emit_json(json_to, [one.model_dump(mode="json") for one in chosen])


@app.command()
def sources(json_to: JsonTo = None) -> None:
    """List the kinds of sources that run, compare and --calib take, with every option of each."""
    from edge_fusion.console import STANDARD_OUTPUT, emit_json
    from edge_fusion.runtime.source.schemes import SCHEMES
    from edge_fusion.runtime.source.uri import describe_schemes

    typer.echo(describe_schemes(), err=json_to == STANDARD_OUTPUT)
    options = {
        name: {key: {"form": k.form, "meaning": k.meaning} for key, k in scheme.keys.items()}
        for name, scheme in SCHEMES.items()
    }
    emit_json(json_to, options)


@app.command()
def sinks(json_to: JsonTo = None) -> None:
    """List the kinds of sinks that run writes to, with every option; name several at once."""
    from edge_fusion.console import STANDARD_OUTPUT, emit_json
    from edge_fusion.runtime.sink.open import MASKS, SCHEMES, SUFFIXES, describe_sinks

    typer.echo(describe_sinks(), err=json_to == STANDARD_OUTPUT)
    kinds = {
        name: {
            "form": kind.form,
            "meaning": kind.meaning,
            "needs": kind.extra,
            "options": {n: {"form": k.form, "meaning": k.meaning} for n, k in kind.keys.items()},
        }
        for name, kind in {**SUFFIXES, "/": MASKS, **SCHEMES}.items()
    }
    emit_json(json_to, kinds)


def main() -> None:
    """Run the command line; SIGTERM, and SIGHUP without nohup, clean up like Ctrl-C."""
    interrupt = Interrupt()
    signal.signal(signal.SIGTERM, interrupt)
    # A signal that whoever started us has it ignore stays ignored.
    for number, usual in (
        (signal.SIGINT, signal.default_int_handler),
        (signal.SIGHUP, signal.SIG_DFL),
    ):
        if signal.getsignal(number) is usual:
            signal.signal(number, interrupt)
    app(prog_name="edge-fusion")


if __name__ == "__main__":
    main()
