"""``calib select``: the pairs to calibrate on, out of many, as a set of their own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from edge_fusion.calibration_file import ChoiceRecord
from edge_fusion.errors import CalibrationError
from edge_fusion.runtime.source.base import StoredSource
from edge_fusion.runtime.source.credentials import without_credentials

from .checks import check_pairs, refuse_errors
from .choose import Measured, choose_coverage, choose_random, choose_uniform
from .create import Created, Progress, link_of, quiet
from .pool import Pool
from .set_folder import SetSource
from .write_set import check_place, writing_set

Method = Literal["random", "uniform", "coverage"]
METHODS: tuple[str, ...] = get_args(Method)


@dataclass(frozen=True, slots=True)
class SelectOptions:
    """Which pairs to choose.

    Attributes:
        output: The new set's folder.
        count: How many; None takes what ``coverage`` recommends.
        method: How.
        seed: Seed of a random choice.
        estimator: Of the quantizer that will use them; matters to ``coverage`` alone.
        reference: Link to the files of folders instead of copying pairs.
        replace: Replace an older set.

    Raises:
        CalibrationError: An option is out of range, or a number is missing.
    """

    output: Path
    count: int | None = None
    method: Method = "random"
    seed: int = 0
    estimator: str = "mean_minmax"
    reference: bool = False
    replace: bool = False

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise CalibrationError(
                "choice of pairs", expected=" or ".join(METHODS), got=repr(self.method)
            )
        if self.count is None and self.method != "coverage":
            raise CalibrationError(
                f"how many pairs to choose by '{self.method}' is not said",
                cure="say it with -n; --choice coverage can recommend a number",
            )
        if self.count is not None and self.count < 1:
            raise CalibrationError("pairs to choose", expected="at least 1", got=str(self.count))


def select_set(
    pool: Pool,
    options: SelectOptions,
    measured: Measured | None = None,
    progress: Progress = quiet,
) -> Created:
    """Choose pairs of a pool and write them as a set.

    Args:
        pool: All pairs.
        options: How many of them, and how.
        measured: What a model makes of every pair of the pool, in order; for ``coverage``.
        progress: Told how many are written.

    Raises:
        CalibrationError: There are fewer pairs than wanted, one cannot be read, or a check found
            an error in those that were chosen.
        OutputError: The set cannot be written; nothing is left behind.
    """
    check_place(options.output, replace=options.replace)
    if options.count is not None and options.count > len(pool):
        raise CalibrationError(
            f"{options.count} pairs are to be chosen",
            got=f"{len(pool)} in all",
            cure="choose fewer",
        )
    chosen, choice = _choose(pool, options, measured)
    shown = tuple(without_credentials(source.uri) for source in pool.sources)
    with writing_set(options.output, None, replace=options.replace) as writer:
        for done, (which, index) in enumerate(chosen, start=1):
            links = link_of(pool.sources[which], index) if options.reference else None
            writer.add(pool.read(which, index), source=which, number=index, links=links)
            progress("pairs", done, len(chosen), f"{done} of {len(pool)}")
        # That pairs were left out is the point: no gap in time is a loss.
        findings = check_pairs(writer.judged(whole=False))
        refuse_errors(", ".join(shown), findings)
        writer.finish(shown, choice, linked=options.reference)
    return Created(SetSource(options.output), findings)


def _choose(
    pool: Pool, options: SelectOptions, measured: Measured | None
) -> tuple[list[tuple[int, int]], ChoiceRecord]:
    record = ChoiceRecord(method=options.method, available=len(pool))
    count = options.count or len(pool)
    if options.method == "random":
        lengths = [len(source) for source in pool.sources]
        chosen = choose_random(lengths, count, options.seed)
        return chosen, record.model_copy(update={"seed": options.seed})
    if options.method == "uniform":
        positions = choose_uniform(_times(pool), count)
        return [pool.places[position] for position in positions], record
    if measured is None or len(measured.values) != len(pool):
        raise CalibrationError(
            "a choice by coverage needs what a model makes of every pair",
            cure="name a bundle: --choice coverage --model BUNDLE",
        )
    positions, coverage = choose_coverage(measured, options.count, options.estimator)
    chosen = [pool.places[position] for position in positions]
    return chosen, record.model_copy(update={"coverage": coverage})


def _times(pool: Pool) -> list[int]:
    """Times of all pairs; zeros where a source does not tell them without decoding its pairs."""
    times: list[int] = []
    for source in pool.sources:
        times += _times_of(source)
    return times


def _times_of(source: StoredSource) -> list[int]:
    if isinstance(source, SetSource):
        return [item.timestamp_ns for item in source.items]
    return [0] * len(source)
