"""What INT8 costs a bundle of the reference model: the same images through both of its variants.

Held-out photographs with generated depth, and every real set with masks, with depth and without.

    edge-fusion build mutualformer-mobilenetv2 --calib DATA/streams/... -o BUNDLE
    python -m benchmarks.reference.int8 BUNDLE --data DATA --json figures.json
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.command import run
from edge_fusion.bundle import Bundle
from edge_fusion.errors import GateError
from edge_fusion.files import write_bytes
from edge_fusion.metrics import ImageScores, pool
from edge_fusion.preprocess import Inputs, prepare
from edge_fusion.runtime.session import open_session
from edge_fusion.spec import ModelSpec

from .data import REAL_SETS, read_set
from .evaluate import Predictor, blanked, score_cases, session_predictor, validation_samples

VARIANTS = ("fp32", "int8")
Item = tuple[Inputs, NDArray[np.bool_]]  # inputs with depth, mask


@dataclass(frozen=True, slots=True)
class Cost:
    """What INT8 changes on one set, of maps as they are; a positive MAE change is a loss.

    Attributes:
        set: Its name.
        depth: ``depth`` or ``blanked``.
        n: Images.
        mae: Mean absolute error in FP32.
        mae_change: INT8 minus FP32.
        f_max: Maximum F-measure in FP32.
        f_max_change: INT8 minus FP32.
    """

    set: str
    depth: str
    n: int
    mae: float
    mae_change: float
    f_max: float
    f_max_change: float


def images(data: Path, spec: ModelSpec, name: str, count: int) -> Iterator[Item]:
    """The images of one set, or of the held-out photographs."""
    if name == "validation":
        for frame, _, mask in validation_samples(data, spec, count):
            if frame.valid.any():
                yield prepare(frame, spec), mask
        return
    for frame in read_set(data, name):
        assert frame.mask is not None
        yield prepare(frame, spec), frame.mask


def cost_of(name: str, predictors: Sequence[Predictor], items: Iterator[Item]) -> list[Cost]:
    """Score every image of a set with both variants, with depth and without."""
    scores: dict[tuple[int, str], list[ImageScores]] = {}
    for own, mask in items:
        for index, predictor in enumerate(predictors):
            cases = (("depth", own), ("blanked", blanked(own, predictor.spec)))
            for case, one in score_cases(predictor, cases, mask).items():
                scores.setdefault((index, case), []).append(one)
    costs = []
    for case in ("depth", "blanked"):
        fp32, int8 = (pool(scores[index, case]).raw for index in range(2))
        changes = (int8.mae - fp32.mae, int8.f_max - fp32.f_max)
        n = len(scores[0, case])
        costs.append(Cost(name, case, n, fp32.mae, changes[0], fp32.f_max, changes[1]))
    return costs


def table(costs: Sequence[Cost]) -> Table:
    """One row per set and case."""
    result = Table("set", "depth", "n", "MAE", "change", "max F", "change")
    for one in costs:
        figures = ((one.mae, one.mae_change), (one.f_max, one.f_max_change))
        values = [text for value, change in figures for text in (f"{value:.4f}", f"{change:+.4f}")]
        result.add_row(one.set, one.depth, str(one.n), *values)
    return result


def main(
    bundle: Path,
    data: Annotated[Path, typer.Option(help="The data folder.")],
    validation: Annotated[int, typer.Option(help="Held-out photographs, up to 1000.")] = 1000,
    json_out: Annotated[Path | None, typer.Option("--json", help="Write all figures.")] = None,
    max_mae: Annotated[float, typer.Option(help="Fail where MAE rises by more.")] = float("inf"),
    max_f: Annotated[float, typer.Option(help="Fail where max F falls by more.")] = float("inf"),
) -> None:
    """Compare both variants of a bundle and print a table."""
    opened = Bundle.read(bundle)
    spec = opened.manifest.model
    sets = (*(["validation"] if validation else []), *REAL_SETS)
    costs: list[Cost] = []
    with ExitStack() as stack:
        sessions = [
            stack.enter_context(closing(open_session(opened, variant, "ort")))
            for variant in VARIANTS
        ]
        predictors = [session_predictor(session, spec) for session in sessions]
        for name in track(sets, "comparing"):
            costs += cost_of(name, predictors, images(data, spec, name, validation))
    console = Console()
    console.print(table(costs))
    if json_out is not None:
        text = json.dumps([asdict(one) for one in costs], indent=1)
        write_bytes(json_out, text.encode(), "the figures")
    worse = [c for c in costs if c.mae_change > max_mae or -c.f_max_change > max_f]
    if worse:
        named = ", ".join(f"{c.set} ({c.depth})" for c in worse)
        raise GateError(f"INT8 costs more than allowed on {named}")


if __name__ == "__main__":
    run(main)
