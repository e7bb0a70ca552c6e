"""How depth relates to masks, in generated samples and in real sets, as one table.

A generator whose depth follows the mask too well teaches a network to trust depth where a real
sensor lies; these are the figures in which it shows.

    python -m benchmarks.reference.statistics --data DATA
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.command import run
from edge_fusion.preprocess import prepare
from edge_fusion.spec import ModelSpec

from .data import POOLED_SETS, Photographs, read_backgrounds, read_set, split
from .scenes import CONTRASTS, SceneMaker

SIZE = 256
EDGE_REACH = 2  # pixels either side of a mask's edge


@dataclass(frozen=True, slots=True)
class DepthStatistics:
    """How one sample's depth relates to its mask.

    Attributes:
        edge_ratio: Mean gradient of nearness within 2 pixels of the mask's edge, over that
            elsewhere, where there are readings; NaN where either has none.
        nearness_auc: Chance that a pixel of the object is nearer than one outside; NaN where there
            is no object or nothing else.
        invalid: Share of the pixels without a reading.
    """

    edge_ratio: float
    nearness_auc: float
    invalid: float


def depth_statistics(
    nearness: NDArray[np.float32], mask: NDArray[np.bool_], valid: NDArray[np.bool_]
) -> DepthStatistics:
    """The figures of one sample.

    Args:
        nearness: (H, W) float32, 0..1.
        mask: (H, W) bool, the salient objects.
        valid: (H, W) bool, where there is a reading.

    Example:
        >>> mask = np.zeros((32, 32), bool)
        >>> mask[8:24, 8:24] = True
        >>> depth_statistics(mask.astype(np.float32), mask, np.ones_like(mask)).nearness_auc
        1.0
    """
    across, down = (cv2.Sobel(nearness, cv2.CV_32F, *order) for order in ((1, 0), (0, 1)))
    gradient = np.hypot(across, down)
    inside = cv2.erode(valid.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    window = np.ones((2 * EDGE_REACH + 1,) * 2, np.uint8)
    edge = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_GRADIENT, window) > 0
    at_edge, elsewhere = gradient[edge & inside], gradient[~edge & inside]
    known = at_edge.size and elsewhere.size and float(elsewhere.mean()) > 0
    return DepthStatistics(
        edge_ratio=float(at_edge.mean() / elsewhere.mean()) if known else float("nan"),
        nearness_auc=_auc(nearness[mask & valid], nearness[~mask & valid]),
        invalid=1 - float(valid.mean()),
    )


def _auc(inside: NDArray[np.float32], outside: NDArray[np.float32]) -> float:
    """Area under the ROC curve by ranks; ties count half."""
    if not inside.size or not outside.size:
        return float("nan")
    ordered = np.sort(outside)
    below = np.searchsorted(ordered, inside, "left") + np.searchsorted(ordered, inside, "right")
    return float(below.mean() / (2 * outside.size))


def real_statistics(data: Path, name: str) -> list[DepthStatistics]:
    """The figures of every frame of a real set with masks."""
    spec = ModelSpec(name="statistics", height=SIZE, width=SIZE)
    result = []
    for frame in read_set(data, name):
        mask, valid = (
            cv2.resize(plane.astype(np.uint8), (SIZE, SIZE), interpolation=cv2.INTER_NEAREST) > 0
            for plane in (np.asarray(frame.mask), frame.valid)
        )
        result.append(depth_statistics(prepare(frame, spec)["depth"][0, 0], mask, valid))
    return result


def generated_statistics(data: Path, count: int, seed: int = 0) -> dict[str, list[DepthStatistics]]:
    """The figures of ``count`` generated training samples, by what their depth says."""
    photos = Photographs(data / "train-rgb")
    names, _ = split(photos.ids)
    spec = ModelSpec(name="statistics")
    maker = SceneMaker(photos.read, names, read_backgrounds(data), spec)
    rng = np.random.default_rng(seed)
    result: dict[str, list[DepthStatistics]] = {contrast: [] for contrast in CONTRASTS}
    for name in rng.choice(names, size=count, replace=False):
        sample = maker.make(rng, str(name), SIZE)
        if sample.contrast in result:  # not where depth is blanked
            nearness = sample.inputs[spec.depth.name][0, 0]
            figures = depth_statistics(nearness, sample.mask > 0.5, sample.frame.valid)
            result[sample.contrast].append(figures)
    return result


def table(rows: dict[str, list[DepthStatistics]]) -> Table:
    """Median figures and ranges, one row per set."""
    result = Table("set", "n", "edge ratio: mean", "AUC: 5 %", "median", "95 %", "invalid: median")
    for name, figures in rows.items():
        ratio, auc, invalid = np.array(
            [(f.edge_ratio, f.nearness_auc, f.invalid) for f in figures]
        ).T
        low, middle, high = np.nanpercentile(auc, (5, 50, 95))
        values = (np.nanmean(ratio), low, middle, high, np.median(invalid))
        result.add_row(name, str(len(figures)), *(f"{value:.2f}" for value in values))
    return result


def _pooled(rows: Iterable[list[DepthStatistics]]) -> list[DepthStatistics]:
    return [figures for row in rows for figures in row]


def main(
    data: Annotated[Path, typer.Option(help="The data folder.")],
    count: Annotated[int, typer.Option(help="Generated samples.")] = 600,
) -> None:
    """Print the table."""
    real = {name: real_statistics(data, name) for name in POOLED_SETS}
    generated = generated_statistics(data, count)
    rows = {**real, "real, pooled": _pooled(real.values())}
    rows |= {f"generated: {name}": figures for name, figures in generated.items() if figures}
    rows["generated, pooled"] = _pooled(generated.values())
    Console().print(table(rows))


if __name__ == "__main__":
    run(main)
