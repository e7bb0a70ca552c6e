"""What the number and the choice of calibration pairs are worth, on real frames.

For every number of pairs: random choices of several seeds, even ones and choices by coverage, the
latter two of several random parts of the pool, since each of them has but one answer for a pool.
Judged on frames that no choice may take: against masks, and against FP32.

    nice python -m benchmarks.calibration BUNDLE --data DATA --json results.json

Every finished row is written at once; what the file holds already is not measured again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnx
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.calibration_scales import (
    Extremes,
    Template,
    check_against_nncf,
    every_tensor,
    make_template,
    mean_limits,
    measure_extremes,
)
from benchmarks.command import run
from benchmarks.reference.data import POOLED_SETS, read_set
from edge_fusion.bundle import Bundle
from edge_fusion.calibration.choose import (
    Measured,
    choose_coverage,
    choose_uniform,
    mean_of,
    range_error,
)
from edge_fusion.errors import GateError
from edge_fusion.export.legalise import legalise
from edge_fusion.export.quantize import quantize
from edge_fusion.export.reach import quantizable_tensors
from edge_fusion.files import write_bytes
from edge_fusion.metrics import mean_absolute_difference
from edge_fusion.preprocess import Inputs, prepare, saliency_map
from edge_fusion.runtime.ort import OrtSession
from edge_fusion.spec import ModelSpec

COUNTS = (8, 16, 32, 64, 128)
SEEDS = 10
RESAMPLES, SIGNIFICANT = 10_000, 0.05
PART = 0.8  # of the pool, for the spread of choices that have but one answer
MASKED = (*POOLED_SETS, "gqcnn_phoxi_bin")
STREAMS = ("streams/hololens_office", "streams/d435_robot_lab")
OTHERS = ("pothole_d2", "backgrounds")
#: Every so many frames of a set are kept for judging.
JUDGED = dict.fromkeys(MASKED, 2) | dict.fromkeys(STREAMS, 8)
TEMPLATE_PAIRS = tuple(range(0, 48, 3))

#: The ranges of the whole pool, and those a little off at random: what chance alone makes of them.
JITTER, JITTERS, OFF = "jitter", 6, 0.006  # as far off as those of 128 random pairs

Map = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Row:
    """One choice of pairs.

    Attributes:
        choice: ``random``, ``uniform``, ``coverage``, or ``jitter`` for the ranges of all pairs,
            each of which is off by 0.6 % at random where there is a seed.
        pairs: How many.
        seed: Of the choice, or of the part of the pool it was made of; -1: the whole pool.
        mean_abs: Mean absolute difference of saliency to FP32, the mean over the frames.
        worst_frame: That of the worst frame.
        max_abs: The largest difference of any pixel.
        mae_change: INT8 minus FP32, of the mean absolute error over the frames with masks.
    """

    choice: str
    pairs: int
    seed: int
    mean_abs: float
    worst_frame: float
    max_abs: float
    mae_change: float


@dataclass(frozen=True, slots=True, eq=False)
class Judge:
    """The frames that choices are judged on, with what FP32 says of them."""

    spec: ModelSpec
    inputs: tuple[Inputs, ...]
    masks: tuple[NDArray[np.bool_] | None, ...]
    expected: tuple[Map, ...]

    def of(self, model: onnx.ModelProto) -> dict[str, float]:
        """The figures of an INT8 graph."""
        apart, changes, largest = [], [], 0.0
        maps = _maps(model, self.inputs, self.masks, self.spec)
        for found, wanted, mask in zip(maps, self.expected, self.masks, strict=True):
            difference = np.abs(found - wanted)
            apart.append(float(difference.mean()))
            largest = max(largest, float(difference.max()))
            if mask is not None:
                truth = mask.astype(np.float32)
                changes.append(
                    mean_absolute_difference(found, truth) - mean_absolute_difference(wanted, truth)
                )
        return {
            "mean_abs": float(np.mean(apart)),
            "worst_frame": max(apart),
            "max_abs": largest,
            "mae_change": float(np.mean(changes)),
        }


def _maps(
    model: onnx.ModelProto,
    inputs: Sequence[Inputs],
    masks: Sequence[NDArray[np.bool_] | None],
    spec: ModelSpec,
) -> Iterator[Map]:
    with OrtSession(model.SerializeToString(), threads=1) as session:
        for sample, mask in zip(inputs, masks, strict=True):
            size = (spec.height, spec.width) if mask is None else (mask.shape[0], mask.shape[1])
            yield saliency_map(session.run(sample)[spec.output.name], spec, size)


@dataclass(frozen=True, slots=True, eq=False)
class Bench:
    """What every row is made of."""

    extremes: Extremes
    judged_by: tuple[str, ...]
    template: Template
    judge: Judge
    model: str
    model_sha256: str

    def row(self, choice: str, pairs: int, seed: int) -> Row:
        """Choose, write the scales, judge."""
        limits = mean_limits(self.extremes, self.choose(choice, pairs, seed))
        if choice == JITTER and seed >= 0:
            rng = np.random.default_rng(seed)
            limits = {name: limit * (1 + rng.normal(0, OFF)) for name, limit in limits.items()}
        made = self.template.with_limits(limits)
        return Row(choice, pairs, seed, **self.judge.of(made))

    def choose(self, choice: str, pairs: int, seed: int) -> list[int]:
        """Which pairs of the pool."""
        pool = np.arange(len(self.extremes.low))
        rng = np.random.default_rng(seed if seed >= 0 else 0)
        if choice == JITTER:
            return pool.tolist()
        if choice == "random":
            return sorted(rng.choice(pool, pairs, replace=False).tolist())
        if seed >= 0:
            pool = np.sort(rng.choice(pool, round(PART * len(pool)), replace=False))
        if choice == "uniform":
            return pool[choose_uniform([0] * len(pool), pairs)].tolist()
        values = self.extremes.reach(self.judged_by)[pool]
        taken, _ = choose_coverage(Measured(values, self.model, self.model_sha256), pairs)
        return pool[taken].tolist()

    def ranges(self) -> dict[str, dict[int, list[float]]]:
        """By choice and number: the mean relative error of all ranges, of every seed.

        Against the ranges of the whole pool; arithmetic alone, so that every row has its own.
        """
        values = self.extremes.reach(self.judged_by).astype(np.float64)
        found: dict[str, dict[int, list[float]]] = {}
        for choice in ("random", "uniform", "coverage"):
            found[choice] = {
                pairs: [
                    round(range_error(values, self.choose(choice, pairs, seed), mean_of), 6)
                    for seed in range(SEEDS)
                ]
                for pairs in COUNTS
            }
        return found


def _read(
    data: Path, spec: ModelSpec
) -> tuple[list[Inputs], list[Inputs], list[NDArray[np.bool_] | None]]:
    """The pool, and the frames to judge on with their masks."""
    pool: list[Inputs] = []
    judged: list[Inputs] = []
    masks: list[NDArray[np.bool_] | None] = []
    for name in (*STREAMS, *MASKED, *OTHERS):
        for index, frame in enumerate(read_set(data, name)):
            if name in JUDGED and index % JUDGED[name] == 0:
                judged.append(prepare(frame, spec))
                masks.append(frame.mask)
            else:
                pool.append(prepare(frame, spec))
    return pool, judged, masks


def _measured(
    fp32: onnx.ModelProto, tensors: tuple[str, ...], pool: Sequence[Inputs], kept: Path | None
) -> Extremes:
    """Measure the pool, or take what an earlier run kept of it."""
    if kept is not None and kept.exists():
        with np.load(kept) as file:
            found = Extremes(tuple(file["tensors"].tolist()), file["low"], file["high"])
        if found.tensors == tensors and len(found.low) == len(pool):
            return found
    found = measure_extremes(fp32, tensors, pool, threads=1)
    if kept is not None:
        np.savez(kept, tensors=np.asarray(tensors), low=found.low, high=found.high)
    return found


def _against_nncf(bench: Bench, fp32: onnx.ModelProto, pool: Sequence[Inputs], seed: int) -> float:
    """The largest relative difference of a scale to those of the quantizer itself."""
    chosen = bench.choose("random", 12, seed)
    made = bench.template.with_limits(mean_limits(bench.extremes, chosen))
    return check_against_nncf(fp32, [pool[index] for index in chosen], bench.judge.spec, made)


def open_bench(
    opened: Bundle, data: Path, kept: Path | None, known: dict[str, Any], say: Console
) -> tuple[Bench, dict[str, Any]]:
    """Read, measure the pool once, and prove the arithmetic on two choices."""
    spec = opened.manifest.model
    fp32 = onnx.load_model_from_string(opened.file(opened.manifest.variants["fp32"]))
    pool, judged, masks = _read(data, spec)
    say.print(f"{len(pool)} pairs to choose from, {len(judged)} to judge on")
    first = [pool[index] for index in TEMPLATE_PAIRS]
    int8 = legalise(quantize(fp32, first, spec).model).model
    began = time.perf_counter()
    extremes = _measured(fp32, every_tensor(fp32, int8), pool, kept)
    say.print(f"measured in {time.perf_counter() - began:.0f} s")
    template = make_template(int8, extremes, TEMPLATE_PAIRS)
    expected = tuple(_maps(fp32, judged, masks, spec))
    judge = Judge(spec, tuple(judged), tuple(masks), expected)
    digest = opened.manifest.files[opened.manifest.variants["fp32"]].sha256
    bench = Bench(extremes, quantizable_tensors(fp32), template, judge, spec.name, digest)
    apart = known.get("scales_from_nncf") if known.get("model_sha256") == digest else None
    if apart is None:
        apart = max(_against_nncf(bench, fp32, pool, seed) for seed in (0, 1))
    say.print(f"scales differ from NNCF's by at most {apart:.1e}")
    about = {
        "pool": len(pool),
        "judged": len(judged),
        "masks": sum(mask is not None for mask in masks),
        "estimator": "mean_minmax",
        "model": spec.name,
        "model_sha256": digest,
        "scales_from_nncf": apart,
    }
    return bench, about


def _plan() -> list[tuple[str, int, int]]:
    """What decides first, so that an interrupted run says something."""
    decisive, others = (32, 128), tuple(n for n in COUNTS if n not in (32, 128))
    plan = [(choice, n, -1) for choice in ("coverage", "uniform") for n in (*decisive, *others)]
    plan += [(JITTER, 0, seed) for seed in range(-1, JITTERS)]
    for counts in (decisive, others):
        plan += [
            (choice, n, seed)
            for seed in range(SEEDS)
            for n in counts
            for choice in ("random", "coverage")
        ]
    return plan + [("uniform", n, seed) for seed in range(SEEDS) for n in COUNTS]


def _table(rows: Sequence[Row]) -> Table:
    table = Table(
        "choice", "pairs", "n", "mean |difference|", "spread", "worst frame", "MAE change"
    )
    for choice in ("random", "uniform", "coverage", JITTER):
        for pairs in COUNTS if choice != JITTER else (0,):
            found = [row for row in rows if (row.choice, row.pairs) == (choice, pairs)]
            if found:
                mean = np.asarray([row.mean_abs for row in found])
                table.add_row(
                    choice,
                    str(pairs),
                    str(len(found)),
                    f"{np.median(mean):.6f}",
                    f"{mean.min():.6f} to {mean.max():.6f}",
                    f"{np.median([row.worst_frame for row in found]):.5f}",
                    f"{np.median([row.mae_change for row in found]):+.6f}",
                )
    return table


def verdict(rows: Sequence[Row], ranges: dict[str, dict[int, list[float]]]) -> str:
    """Whether 32 pairs by coverage are as good as 128 random ones.

    A choice decides ranges, and these are held against those of the whole pool; its median must not
    be larger and its spread smaller.  Saliency must not be worse by more than chance: INT8 rounding
    alone moves it by a few percent whatever the ranges.

    Raises:
        GateError: They are not.
    """

    def of(choice: str, pairs: int) -> NDArray[np.float64]:
        found = [r.mean_abs for r in rows if (r.choice, r.pairs) == (choice, pairs)]
        return np.asarray(found)

    few, many = (np.asarray(ranges[choice][n]) for choice, n in (("coverage", 32), ("random", 128)))
    ours, theirs = of("coverage", 32), of("random", 128)
    chance = _chance_of_worse(ours, theirs)
    said = (
        f"ranges: coverage at 32 is {np.median(few):.2%} off ({np.ptp(few):.2%} between seeds), "
        f"random at 128 {np.median(many):.2%} ({np.ptp(many):.2%}); saliency: "
        f"{np.median(ours):.6f} and {np.median(theirs):.6f}, standard deviations {ours.std():.1e} "
        f"and {theirs.std():.1e}; a difference as large comes by chance in {chance:.0%}"
    )
    if np.median(few) > np.median(many) or np.ptp(few) >= np.ptp(many) or chance < SIGNIFICANT:
        raise GateError(f"a choice by coverage does not pay: {said}")
    return said


def _chance_of_worse(one: NDArray[np.float64], two: NDArray[np.float64]) -> float:
    """A permutation test: how often shuffled rows are as much worse in the median."""
    rng = np.random.default_rng(0)
    apart = np.median(one) - np.median(two)
    both = np.concatenate((one, two))
    shuffled = rng.permuted(np.tile(both, (RESAMPLES, 1)), axis=1)
    medians = (np.median(part, axis=1) for part in np.split(shuffled, [len(one)], axis=1))
    return float((next(medians) - next(medians) >= apart).mean())


def _keep(path: Path, about: dict[str, Any], rows: Sequence[Row]) -> None:
    """After every row: an interrupted run keeps what it measured."""
    text = json.dumps({**about, "rows": [asdict(row) for row in rows]}, indent=1)
    write_bytes(path, text.encode(), "the figures")


def main(
    bundle: Path,
    data: Annotated[Path, typer.Option(help="The data folder.")],
    json_out: Annotated[Path, typer.Option("--json", help="The figures; taken up again.")],
    kept: Annotated[
        Path | None, typer.Option("--measured", help="Keep the pool's figures here (.npz).")
    ] = None,
    minutes: Annotated[float, typer.Option(help="Stop after so many, keeping what there is.")] = 25,
) -> None:
    """Measure, print a table, and fail where coverage does not pay."""
    ends = time.monotonic() + 60 * minutes
    say = Console()
    known = json.loads(json_out.read_text()) if json_out.exists() else {}
    rows = [Row(**row) for row in known.get("rows", ())]
    bench, about = open_bench(Bundle.read(bundle), data, kept, known, say)
    done = {(row.choice, row.pairs, row.seed) for row in rows}
    for choice, pairs, seed in _plan():
        if (choice, pairs, seed) in done:
            continue
        if time.monotonic() > ends:
            say.print("out of time; run it again to go on")
            break
        rows.append(bench.row(choice, pairs, seed))
        _keep(json_out, about, rows)
    ranges = bench.ranges()
    _keep(json_out, {**about, "range_error": ranges}, rows)
    say.print(_table(rows))
    say.print(verdict(rows, ranges))


if __name__ == "__main__":
    run(main)
