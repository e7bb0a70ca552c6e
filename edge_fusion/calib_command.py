"""``edge-fusion calib``: calibration sets that are checked, well chosen and tied to pixels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from edge_fusion.command_line import JsonTo
from edge_fusion.drift_command import drift, report
from edge_fusion.errors import GateError, InputError

if TYPE_CHECKING:
    from rich.console import Console

    from edge_fusion.calibration.checks import Finding
    from edge_fusion.calibration.choose import Measured
    from edge_fusion.calibration.create import Created
    from edge_fusion.calibration.pool import Pool
    from edge_fusion.calibration_file import CoverageRecord
    from edge_fusion.console import Steps

calib = typer.Typer(
    no_args_is_help=True,
    help="Make, check and choose the pairs that INT8 ranges are taken from.",
    context_settings={"help_option_names": ["-h", "--help"]},
)

Output = Annotated[Path, typer.Option("--output", "-o", help="The new set's folder.")]
Force = Annotated[bool, typer.Option(help="Replace an older set.")]
Reference = Annotated[
    bool, typer.Option("--reference", help="Link to the files of folders instead of copying.")
]


@calib.command()
def create(
    sources: Annotated[
        list[str], typer.Argument(help="Folders or source URIs, as run takes them; see 'sources'.")
    ],
    output: Output,
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after this many pairs.")] = None,
    every: Annotated[int, typer.Option(min=1, help="Take every so-manieth pair.")] = 1,
    seconds: Annotated[
        float | None,
        typer.Option(help="Stop each source after this long; of a recording by its timestamps."),
    ] = None,
    reference: Reference = False,
    skip_damaged: Annotated[
        bool, typer.Option("--skip-damaged", help="Leave out pairs that cannot be read.")
    ] = False,
    force: Force = False,
    json_to: JsonTo = None,
) -> None:
    """Make a checked set of folders, recordings or a live camera: a folder of pairs, with hashes.

    ${NAME} in a source is the value of that environment variable.  A run that is interrupted leaves
    no set; the same command goes on where it stopped, unless a camera was read.
    """
    import os

    from edge_fusion.calibration.create import CreateOptions, create_set
    from edge_fusion.calibration.write_set import kept_of
    from edge_fusion.console import Steps, console_for
    from edge_fusion.runtime.source.credentials import with_variables

    options = CreateOptions(
        sources=tuple(with_variables(one, os.environ) for one in sources),
        output=output,
        limit=limit,
        every=every,
        seconds=seconds,
        reference=reference,
        skip_damaged=skip_damaged,
        replace=force,
    )
    console = console_for(json_to)
    with Steps(console) as steps:
        try:
            made = create_set(options, steps)
        except KeyboardInterrupt:
            if kept_of(output):
                console.print(f"{kept_of(output)} pairs are kept: the same command goes on there")
            raise
    _show(console, made, json_to)


@calib.command()
def check(
    source: Annotated[
        str | None, typer.Argument(help="A set, a folder of pairs or a source URI.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Hold the set against the training inputs of a bundle, a name of 'models', or a "
            "JSON record."
        ),
    ] = None,
    checks: Annotated[bool, typer.Option("--list", help="List every check, and stop.")] = False,
    json_to: JsonTo = None,
) -> None:
    """Find what is wrong with the pairs of a set; errors make the exit status 1."""
    from edge_fusion.calibration.check_set import check_source, statistics_for
    from edge_fusion.calibration.checks import CHECKS
    from edge_fusion.console import Steps, console_for, emit_json, grid

    console = console_for(json_to)
    if checks:
        rows = [(one.id, one.severity, one.what, one.cure) for one in CHECKS]
        console.print(grid(("check", "severity", "what", "cure"), rows))
        return
    if source is None:
        raise InputError("calib check: nothing to check", cure="name a set, or give --list")
    known = statistics_for(model)
    with Steps(console) as steps:
        report = check_source(source, known, steps)
    _show_findings(console, report.findings)
    emit_json(json_to, report.model_dump(mode="json"))
    if report.failed:
        count = sum(finding.severity == "error" for finding in report.findings)
        raise GateError(f"calib check {report.source}: {count} error{'s' * (count > 1)}")


@calib.command()
def select(
    sources: Annotated[list[str], typer.Argument(help="Sets, folders or URIs of stored pairs.")],
    output: Output,
    count: Annotated[
        int | None,
        typer.Option("--count", "-n", min=1, help="How many; coverage can recommend a number."),
    ] = None,
    choice: Annotated[
        Literal["random", "uniform", "coverage"],
        typer.Option(
            help="at random, evenly in time, or such that few pairs give the ranges of all."
        ),
    ] = "random",
    model: Annotated[
        Path | None, typer.Option(help="With --choice coverage: the bundle whose ranges count.")
    ] = None,
    estimator: Annotated[
        Literal["mean_minmax", "minmax"],
        typer.Option(help="With --choice coverage: how the quantizer makes a range of many pairs."),
    ] = "mean_minmax",
    seed: Annotated[int, typer.Option(min=0, help="Seed of a random choice.")] = 0,
    reference: Reference = False,
    force: Force = False,
    json_to: JsonTo = None,
) -> None:
    """Choose pairs, and write them as a set of their own.

    Coverage runs the bundle's FP32 graph on every pair and needs the export extra.
    """
    from edge_fusion.calibration.pool import Pool
    from edge_fusion.calibration.select import SelectOptions, select_set
    from edge_fusion.calibration.write_set import check_place
    from edge_fusion.console import Steps, console_for

    if (choice == "coverage") != (model is not None):
        raise InputError("--model and --choice coverage belong together", cure="give both")
    options = SelectOptions(output, count, choice, seed, estimator, reference, force)
    check_place(output, replace=force)
    pool = Pool(sources)
    console = console_for(json_to)
    with Steps(console) as steps:
        measured = _measure(pool, model, steps) if model is not None else None
        made = select_set(pool, options, measured, steps)
    _show(console, made, json_to)


def _measure(pool: Pool, model: Path, steps: Steps) -> Measured:
    """What a bundle's FP32 graph makes of every pair; the wing above is asked, not imported."""
    from edge_fusion.bundle import Bundle
    from edge_fusion.calibration.choose import Measured
    from edge_fusion.errors import FrameError
    from edge_fusion.export.reach import measure_bundle
    from edge_fusion.preprocess import prepare

    bundle = Bundle.read(model)

    def samples() -> Any:
        for done, frame in enumerate(pool.frames(), start=1):
            try:
                yield prepare(frame, bundle.manifest.model)
            except FrameError as err:
                raise InputError(
                    f"pair {done - 1}: {err.what}",
                    expected=err.expected,
                    got=err.got,
                    cure=f"{err.cure}; 'edge-fusion calib check' names every such pair",
                ) from err
            steps("reach", done, len(pool))

    reach = measure_bundle(bundle, samples())
    return Measured(reach.values, bundle.manifest.model.name, reach.model_sha256)


def _show(console: Console, made: Created, json_to: str | None) -> None:
    """What was made: facts, a curve where there is one, warnings."""
    from edge_fusion.console import emit_json, facts_table

    record = made.source.record
    facts = {
        "set": str(made.source.folder),
        "pairs": f"{len(record.items)} of {record.choice.available}, {record.stored}",
        "choice": record.choice.method,
        "depth": f"{record.depth_dtype}{_STORED_AS.get(record.depth_dtype, ', PNG')}",
        "hash": record.sha256,
    }
    if made.resumed:
        facts["taken up"] = f"{made.resumed} pairs were there from an interrupted run"
    for number, reason in made.skipped:
        facts[f"left out {number}"] = reason
    for what, count in made.losses.items():
        facts[what] = str(count)
    console.print(facts_table(facts))
    if record.choice.coverage is not None:
        _show_coverage(console, record.choice.coverage)
    _show_findings(console, made.findings)
    findings = [one.model_dump(mode="json") for one in made.findings]
    emit_json(json_to, {**record.model_dump(mode="json"), "findings": findings})


_STORED_AS = {"float32": ", .npy because no 16-bit PNG holds every float without loss"}


def _show_coverage(console: Console, coverage: CoverageRecord) -> None:
    from edge_fusion.console import grid

    console.print(
        f"mean error of {coverage.tensors} ranges against those of all pairs "
        f"({coverage.estimator}):",
        markup=False,
    )
    rows = [(count, f"{error:.2%}") for count, error in coverage.error.items()]
    console.print(grid(("pairs", "error"), rows))
    console.print(
        f"{coverage.recommended} pairs are enough: below one step of 8 bits (0.79%)"
        if coverage.recommended
        else "no number of pairs comes below one step of 8 bits (0.79%)",
        markup=False,
    )


def _show_findings(console: Console, findings: tuple[Finding, ...]) -> None:
    colours = {"error": "red", "warning": "yellow"}
    for one in findings:
        text = f"{one.severity} {one.check}: {one}"
        console.print(text, style=colours[one.severity], markup=False, soft_wrap=True)
    if not findings:
        console.print("nothing to remark")


calib.command()(drift)
calib.command()(report)
