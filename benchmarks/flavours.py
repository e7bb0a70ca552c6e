"""How far both TensorRT flavours are from the graphs they were made from, on real frames.

Strong flavours are rounded to FP16 as TensorRT does; ONNX Runtime's CPU would compute in FP32.

    python -m benchmarks.flavours BUNDLE --data DATA --json figures.json
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import onnx
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.command import run
from benchmarks.reference.data import POOLED_SETS, read_set
from benchmarks.reference.evaluate import Predictor, session_predictor
from edge_fusion.bundle import Bundle
from edge_fusion.errors import BundleError, GateError
from edge_fusion.export.flavour import round_as_half
from edge_fusion.files import write_bytes
from edge_fusion.frame import RgbdFrame
from edge_fusion.metrics import score
from edge_fusion.preprocess import prepare, saliency_map
from edge_fusion.runtime.ort import OrtSession

#: What each flavour is held against: the variant it was made from.
SOURCES = {
    "strong.fp16": "fp32",
    "weak.fp32": "fp32",
    "strong.int8": "int8",
    "weak.int8": "int8",
}


@dataclass(frozen=True, slots=True)
class Distance:
    """A flavour against the variant it was made from, over every frame.

    Attributes:
        flavour: Such as ``strong.int8``.
        n: Frames.
        mean_abs: Mean absolute difference of saliency, the mean over the frames.
        worst: That of the worst frame.
        mae_change: Change of the mean absolute error against the masks.
    """

    flavour: str
    n: int
    mean_abs: float
    worst: float
    mae_change: float


def measure(bundle: Bundle, frames: list[RgbdFrame]) -> list[Distance]:
    """Run every frame through every variant and flavour."""
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    with ExitStack() as stack:
        predictors = dict(_predictors(bundle, stack))
        for frame in track(frames, "frames"):
            inputs, mask = [prepare(frame, bundle.manifest.model)], frame.mask
            assert mask is not None
            maps = {
                name: saliency_map(one.run(inputs), one.spec, mask.shape)
                for name, one in predictors.items()
            }
            errors = {name: score(each, mask).raw.mae for name, each in maps.items()}
            for flavour, source in SOURCES.items():
                difference = float(np.abs(maps[flavour] - maps[source]).mean())
                found[flavour].append((difference, errors[flavour] - errors[source]))
    return [_summary(flavour, np.array(pairs)) for flavour, pairs in found.items()]


def _summary(flavour: str, pairs: np.ndarray) -> Distance:
    differences, changes = pairs.T
    return Distance(
        flavour,
        len(pairs),
        float(differences.mean()),
        float(differences.max()),
        float(changes.mean()),
    )


def _predictors(bundle: Bundle, stack: ExitStack) -> Iterator[tuple[str, Predictor]]:
    files = dict(bundle.manifest.variants)
    files |= {name: bundle.manifest.flavours[name].file for name in SOURCES}
    for name, file in files.items():
        data = bundle.file(file)
        if name.startswith("strong"):
            data = round_as_half(onnx.load_model_from_string(data)).SerializeToString()
        session = stack.enter_context(OrtSession(data))
        yield name, session_predictor(session, bundle.manifest.model)


def main(
    bundle: Path,
    data: Annotated[Path, typer.Option(help="The data folder.")],
    json_out: Annotated[Path | None, typer.Option("--json", help="Write all figures.")] = None,
    max_mean: Annotated[float, typer.Option(help="Fail above this mean difference.")] = 0.002,
    max_mae: Annotated[float, typer.Option(help="Fail above this change of MAE.")] = 0.0005,
) -> None:
    """Measure, print a table, and fail where a flavour differs by more than is allowed."""
    opened = Bundle.read(bundle)
    missing = [name for name in SOURCES if name not in opened.manifest.flavours]
    if missing:
        raise BundleError(
            f"{bundle} lacks {', '.join(missing)}", cure="build it with --precision int8"
        )
    frames = [frame for name in POOLED_SETS for frame in read_set(data, name)]
    distances = measure(opened, frames)
    table = Table("flavour", "n", "mean difference", "worst frame", "change of MAE")
    for one in distances:
        values = (f"{value:.1e}" for value in (one.mean_abs, one.worst, one.mae_change))
        table.add_row(one.flavour, str(one.n), *values)
    Console().print(table)
    if json_out is not None:
        text = json.dumps([asdict(one) for one in distances], indent=1)
        write_bytes(json_out, text.encode(), "the figures")
    far = [d.flavour for d in distances if d.mean_abs > max_mean or abs(d.mae_change) > max_mae]
    if far:
        raise GateError(f"too far from its source: {', '.join(far)}")


if __name__ == "__main__":
    run(main)
