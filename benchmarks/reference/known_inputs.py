"""What inputs the reference model was trained on, as the record that lies beside its weights.

'calib check' holds a calibration set against it.

    python -m benchmarks.reference.known_inputs --data DATA --out FILE.inputs.json
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from benchmarks.command import run
from edge_fusion.calibration.measure import measure
from edge_fusion.files import write_bytes
from edge_fusion.input_statistics import InputStatistics, statistics_of
from edge_fusion.spec import ModelSpec

from .data import Photographs, read_backgrounds, split
from .scenes import SceneMaker

SIZE = 256


def known_inputs(data: Path, count: int, seed: int = 0) -> InputStatistics:
    """The record of ``count`` generated training samples."""
    photos = Photographs(data / "train-rgb")
    names, _ = split(photos.ids)
    maker = SceneMaker(photos.read, names, read_backgrounds(data), ModelSpec(name="statistics"))
    rng = np.random.default_rng(seed)
    drawn = rng.choice(names, size=count, replace=False)
    pairs = [measure(maker.make(rng, str(name), SIZE).frame) for name in drawn]
    source = f"{count} training samples of benchmarks/reference/scenes.py, seed {seed}"
    return statistics_of(pairs, source)


def main(
    data: Annotated[Path, typer.Option(help="The data folder.")],
    out: Annotated[Path, typer.Option(help="The record.")],
    count: Annotated[int, typer.Option(help="Training samples.")] = 600,
) -> None:
    """Write the record."""
    text = known_inputs(data, count).model_dump_json(indent=1) + "\n"
    write_bytes(out, text.encode(), "the record of inputs")


if __name__ == "__main__":
    run(main)
