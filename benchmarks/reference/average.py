"""Average checkpoints of one run of training, weight by weight.

A network trained on from another one is often more robust halfway between the two, most of all on
images unlike those it was trained on (model soups, Wortsman et al., ICML 2022).
Batch statistics are those of neither and are measured anew.

``python -m benchmarks.reference.average FIRST SECOND --data DATA --out AVERAGE`` does it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import nn

from benchmarks.command import run
from edge_fusion.errors import InputError
from edge_fusion.export.checkpoint import load_checkpoint, save_checkpoint
from edge_fusion.export.models.registry import create_model

from .feeds import open_feed
from .train import PHOTOGRAPHS, settle_batch_norms, spec_of


@torch.no_grad()
def average(networks: list[nn.Module]) -> nn.Module:
    """The first of the networks with every weight the mean of all, in place.

    Example:
        >>> one, two = nn.Linear(1, 1), nn.Linear(1, 1)
        >>> wanted = float(one.weight + two.weight) / 2
        >>> abs(float(average([one, two]).weight) - wanted) < 1e-6
        True
    """
    first, *others = networks
    for name, weight in first.named_parameters():
        rest = [dict(other.named_parameters())[name] for other in others]
        weight.copy_(torch.stack([weight, *rest]).mean(0))
    return first


def main(
    checkpoints: list[Path],
    data: Annotated[Path, typer.Option(help="The data folder.")],
    out: Annotated[Path, typer.Option(help="Checkpoint to write (.safetensors).")],
    model: Annotated[str, typer.Option(help="Registry name.")] = "mutualformer-mobilenetv2",
    seed: Annotated[int, typer.Option(help="Seed of the samples that are measured on.")] = 7,
) -> None:
    """Average checkpoints, measure batch statistics and save in FP16."""
    if len(checkpoints) < 2:
        raise InputError("checkpoints to average", expected="two or more", got="one")
    networks: list[nn.Module] = []
    for checkpoint in checkpoints:
        network = create_model(model)
        load_checkpoint(network, checkpoint)
        networks.append(network)
    options = replace(PHOTOGRAPHS, model=model, data=data, seed=seed)
    averaged = average(networks)
    settle_batch_norms(averaged, options, open_feed(data, spec_of(options), seed, workers=0))
    save_checkpoint(averaged.eval(), out, half=True)


if __name__ == "__main__":
    run(main)
