"""Scale a network's logits so that its maps err least: what it can decide, it decides.

Training leaves maps softer than their mean absolute error wants them, and an average of networks
more so.  One factor on the last convolution costs nothing on the device and changes no order of
pixels: every threshold-free figure stays.  It is fitted on photographs of the training split (as a
temperature is: Guo et al., ICML 2017, section 4.2, there for the likelihood).

``python -m benchmarks.reference.sharpen CHECKPOINT --data DATA --out SHARPER`` does it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from benchmarks.command import run
from edge_fusion.errors import GateError
from edge_fusion.export.checkpoint import load_checkpoint, save_checkpoint
from edge_fusion.export.models.hosts import FusionHost
from edge_fusion.export.models.registry import create_model

from .feeds import open_feed
from .train import PHOTOGRAPHS, spec_of

FACTORS = tuple(float(factor) for factor in np.arange(1, 4.01, 0.25))
NEAR_BEST = 1.01  # the softest map within a percent of the least error is taken
BATCH = 16


def best_factor(errors: NDArray[np.float64]) -> float:
    """The least of :data:`FACTORS` whose error is within a percent of the least one.

    Example:
        >>> best_factor(np.linspace(1, 0.5, len(FACTORS))) == FACTORS[-1]
        True
    """
    enough = errors <= NEAR_BEST * errors.min()
    return FACTORS[int(np.argmax(enough))]


@torch.no_grad()
def measure(network: FusionHost, data: Path, samples: int, seed: int) -> NDArray[np.float64]:
    """MAE of every factor over samples as the network was trained on."""
    options = PHOTOGRAPHS
    feed = open_feed(data, spec_of(options), seed, workers=0)
    size, errors = options.sizes[-1], np.zeros(len(FACTORS))
    count = max(1, samples // BATCH)
    for _ in track(range(count), description="samples"):
        rgb, depth, mask = (torch.from_numpy(plane) for plane in feed.batch(size, BATCH))
        logits = network(rgb, depth)
        errors += [float(((k * logits).sigmoid() - mask).abs().mean()) for k in FACTORS]
    return errors / count


def main(
    checkpoint: Path,
    data: Annotated[Path, typer.Option(help="The data folder.")],
    out: Annotated[Path, typer.Option(help="Checkpoint to write (.safetensors).")],
    model: Annotated[str, typer.Option(help="Registry name.")] = "mutualformer-mobilenetv2",
    samples: Annotated[int, typer.Option(min=BATCH, help="Samples to fit on.")] = 320,
    seed: Annotated[int, typer.Option(help="Seed of the samples.")] = 11,
) -> None:
    """Fit one factor on the training split, put it into the last convolution, save in FP16."""
    console = Console(highlight=False)
    network = create_model(model)
    load_checkpoint(network, checkpoint)
    errors = measure(network.eval(), data, samples, seed)
    factor = best_factor(errors)
    console.print(", ".join(f"{k:g}: {e:.4f}" for k, e in zip(FACTORS, errors, strict=True)))
    if factor == FACTORS[0]:
        raise GateError("the maps are as sharp as they should be", cure="keep the checkpoint")
    with torch.no_grad():
        for parameter in network.head.parameters():
            parameter *= factor
    save_checkpoint(network, out, half=True)
    console.print(f"factor {factor:g}: {out}")


if __name__ == "__main__":
    run(main)
