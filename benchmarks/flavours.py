"""How far both TensorRT flavours are from the graphs they were made from, on real frames.

Strong flavours are rounded to FP16 as TensorRT does; ONNX Runtime's CPU would compute in FP32.

    python -m benchmarks.flavours BUNDLE --data DATA --json figures.json
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
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
from benchmarks.reference.data import REAL_SETS, read_set
from benchmarks.reference.evaluate import Predictor, session_predictor
from edge_fusion.bundle import Bundle
from edge_fusion.errors import BundleError, GateError
from edge_fusion.export.flavour import round_as_half
from edge_fusion.files import write_bytes
from edge_fusion.frame import RgbdFrame
from edge_fusion.metrics import score
from edge_fusion.preprocess import Inputs, prepare, saliency_map
from edge_fusion.runtime.ort import OrtSession

#: What each flavour is held against: the variant it was made from.
SOURCES = {
    "strong.fp16": "fp32",
    "weak.fp32": "fp32",
    "strong.int8": "int8",
    "weak.int8": "int8",
}


#: Sequences without masks.
STREAMS = ("streams/hololens_office", "streams/d435_robot_lab")
POOLED = "all"


@dataclass(frozen=True, slots=True)
class Distance:
    """A flavour against the variant it was made from, over the frames of one set.

    Attributes:
        flavour: Such as ``strong.int8``.
        set: Its name, or ``all``.
        n: Frames.
        mean_abs: Mean absolute difference of saliency, the mean over the frames.
        worst: That of the worst frame.
        mae_change: Change of the mean absolute error against the masks; NaN without masks.
    """

    flavour: str
    set: str
    n: int
    mean_abs: float
    worst: float
    mae_change: float


def measure(bundle: Bundle, sets: Mapping[str, Sequence[RgbdFrame]]) -> list[Distance]:
    """Run every frame through every variant and flavour."""
    found: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    with ExitStack() as stack:
        predictors = dict(_predictors(bundle, stack))
        for name, frames in sets.items():
            for frame in track(frames, name):
                inputs = prepare(frame, bundle.manifest.model)
                for flavour, figures in _distances(predictors, frame, inputs).items():
                    found[flavour, name].append(figures)
                    found[flavour, POOLED].append(figures)
    return [
        Distance(
            flavour,
            name,
            len(pairs),
            float(np.mean([difference for difference, _ in pairs])),
            float(np.max([difference for difference, _ in pairs])),
            float(np.mean([c for _, c in pairs if not np.isnan(c)] or [np.nan])),
        )
        for (flavour, name), pairs in found.items()
    ]


def _distances(
    predictors: Mapping[str, Predictor], frame: RgbdFrame, inputs: Inputs
) -> dict[str, tuple[float, float]]:
    """For each flavour: difference to its source, and change of the error where there is a mask."""
    size = (frame.rgb.shape[0], frame.rgb.shape[1])
    maps = {
        name: saliency_map(one.run([inputs]), one.spec, size) for name, one in predictors.items()
    }
    errors = dict.fromkeys(maps, np.nan)
    if frame.mask is not None:
        errors = {name: score(each, frame.mask).raw.mae for name, each in maps.items()}
    return {
        flavour: (
            float(np.abs(maps[flavour] - maps[source]).mean()),
            errors[flavour] - errors[source],
        )
        for flavour, source in SOURCES.items()
    }


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
    sets = {name: read_set(data, name) for name in REAL_SETS}
    sets |= {name: read_set(data, name) for name in STREAMS}
    distances = measure(opened, sets)
    table = Table("flavour", "set", "n", "mean difference", "worst frame", "change of MAE")
    for one in sorted(distances, key=lambda d: list(SOURCES).index(d.flavour)):
        values = (f"{value:.1e}" for value in (one.mean_abs, one.worst, one.mae_change))
        table.add_row(one.flavour, one.set, str(one.n), *values)
    Console().print(table)
    if json_out is not None:
        known = [{k: None if v != v else v for k, v in asdict(one).items()} for one in distances]
        text = json.dumps(known, indent=1, allow_nan=False)
        write_bytes(json_out, text.encode(), "the figures")
    pooled = [one for one in distances if one.set == POOLED]
    far = [d.flavour for d in pooled if d.mean_abs > max_mean or abs(d.mae_change) > max_mae]
    if far:
        raise GateError(f"too far from its source over all sets: {', '.join(far)}")


if __name__ == "__main__":
    run(main)
