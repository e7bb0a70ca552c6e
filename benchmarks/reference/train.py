"""Train the reference model on procedural RGB-D scenes for a bounded time.

The scenes are those of the demo source, and every pair goes through the package's own
preprocessing, so that what the network sees in training is what it sees on the device.

    python -m benchmarks.reference.train --minutes 4 --out demo.safetensors --min-iou 0.6
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from edge_fusion.errors import GateError
from edge_fusion.export.checkpoint import load_checkpoint, save_checkpoint
from edge_fusion.export.models.hosts import FusionHost
from edge_fusion.export.models.registry import MODELS, create_model
from edge_fusion.preprocess import prepare
from edge_fusion.runtime.source.demo import DemoSource
from edge_fusion.spec import ModelSpec

UNSEEN = 1 << 30  # seeds from here on are never trained on
MOMENTS = 300  # frames of one world to choose from: ten seconds
PER_WORLD = 4  # samples drawn from one world per batch
SETTLING_BATCHES = 12
SIDE_WEIGHTS = (1.0, 0.5, 0.25, 0.125)  # strides 4, 8, 16, 32

Planes = tuple[Tensor, Tensor, Tensor]  # rgb, depth, mask of one sample


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """How long and how to train.

    Attributes:
        model: Registry name.
        minutes: Wall-clock bound of the optimisation.
        batch: Samples per step at the smallest size; fewer at larger ones, at equal cost.
        sizes: Input sizes in pixels, used one after the other for ``shares`` of the time.
        shares: Share of the time at each size; adds up to 1.
        learning_rate: Peak rate of AdamW; one warm-up, one cosine decay, both in time.
        weight_decay: Decoupled weight decay.
        ema: Decay of the averaged weights, which are the ones that are kept.
        seed: Seed of weights and scenes.
    """

    model: str = "mutualformer-mobilenetv2"
    minutes: float = 4.0
    batch: int = 24
    sizes: tuple[int, ...] = (96, 128, 224)
    shares: tuple[float, ...] = (0.4, 0.35, 0.25)
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    ema: float = 0.98
    seed: int = 0

    def size_at(self, progress: float) -> int:
        """The input size at ``progress`` in 0..1."""
        edges = np.cumsum(self.shares)
        return self.sizes[min(int(np.searchsorted(edges, progress)), len(self.sizes) - 1)]

    def batch_at(self, size: int) -> int:
        """How many samples of ``size`` cost as much as a batch of the smallest; at least 4."""
        return max(4, round(self.batch * (self.sizes[0] / size) ** 2))

    def rate_at(self, progress: float) -> float:
        """The learning rate at ``progress`` in 0..1: 3 % warm-up, then a cosine to 1 %."""
        warm_up = min(1.0, progress / 0.03)
        decay = 0.01 + 0.99 * 0.5 * (1 + np.cos(np.pi * min(progress, 1.0)))
        return float(self.learning_rate * warm_up * decay)


def structure_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """Weighted BCE plus weighted IoU; pixels near the mask's edge weigh up to six times more.

    Source: F3Net (Wei et al., AAAI 2020), equations 7 to 9.

    Args:
        logits: (B, 1, H, W).
        mask: (B, 1, H, W) in 0..1.
    """
    window = max(3, mask.shape[-1] // 8 | 1)
    near = functional.avg_pool2d(mask, window, 1, window // 2, count_include_pad=False)
    weight = 1 + 5 * (near - mask).abs()
    bce = functional.binary_cross_entropy_with_logits(logits, mask, reduction="none")
    bce = (weight * bce).sum((2, 3)) / weight.sum((2, 3))
    saliency = logits.sigmoid()
    both = (saliency * mask * weight).sum((2, 3))
    either = ((saliency + mask) * weight).sum((2, 3)) - both
    return (bce + 1 - (both + 1) / (either + 1)).mean()


def samples(scene: int, count: int, size: int, spec: ModelSpec) -> Iterator[Planes]:
    """``count`` moments of one random world, half of them mirrored.

    Several moments share a world because making its textures costs more than drawing it.

    Yields:
        rgb (3, s, s), depth (1, s, s) and mask (1, s, s), float32, as the model takes them.
    """
    rng = np.random.default_rng(scene)
    world = DemoSource(MOMENTS, scene, width=size * 4 // 3, height=size, noise="mixed")
    at_size = spec.model_copy(update={"height": size, "width": size})
    for moment in rng.choice(MOMENTS, size=count, replace=False):
        frame = world[int(moment)]
        inputs = prepare(frame, at_size)
        mask = torch.from_numpy(np.asarray(frame.mask, np.float32))[None, None]
        planes = (
            torch.from_numpy(inputs[spec.rgb.name][0]),
            torch.from_numpy(inputs[spec.depth.name][0]),
            functional.interpolate(mask, size=(size, size), mode="area")[0],
        )
        mirrored = rng.random() < 0.5
        rgb, depth, truth = (plane.flip(2) if mirrored else plane for plane in planes)
        yield rgb, depth, truth


def batches(options: TrainOptions, spec: ModelSpec) -> Iterator[tuple[float, list[Tensor]]]:
    """Endless (progress, [rgb, depth, mask]) until the time is up."""
    start, scene = time.monotonic(), options.seed * 1_000_003 % UNSEEN
    while (progress := (time.monotonic() - start) / (60 * options.minutes)) < 1:
        size = options.size_at(progress)
        count = options.batch_at(size)
        yield progress, _stack(_draw(scene, count, size, spec))
        scene = (scene + count) % UNSEEN


def _draw(scene: int, count: int, size: int, spec: ModelSpec) -> Iterator[Planes]:
    """``count`` samples, a few from each of the worlds from ``scene`` on."""
    for first in range(0, count, PER_WORLD):
        yield from samples(scene + first, min(PER_WORLD, count - first), size, spec)


def _stack(drawn: Iterable[Planes]) -> list[Tensor]:
    return [torch.stack(plane) for plane in zip(*drawn, strict=True)]


def train(options: TrainOptions, start_from: Path | None, console: Console) -> nn.Module:
    """Train for ``options.minutes`` and return the averaged network, in eval mode."""
    torch.manual_seed(options.seed)
    model = create_model(options.model)
    assert isinstance(model, FusionHost)
    if start_from is not None:
        load_checkpoint(model, start_from)
    model.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(options.ema), use_buffers=True)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay
    )
    with _bar(console) as bar:
        task = bar.add_task("training", total=1.0, detail="")
        for step, (progress, (rgb, depth, mask)) in enumerate(batches(options, _spec(options))):
            for group in optimizer.param_groups:
                group["lr"] = options.rate_at(progress)
            sides = model.forward_with_sides(
                rgb.contiguous(memory_format=torch.channels_last), depth
            )
            losses = [w * structure_loss(x, mask) for w, x in zip(SIDE_WEIGHTS, sides, strict=True)]
            loss = torch.stack(losses).sum()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            average.update_parameters(model)
            detail = f"step {step}  size {rgb.shape[-1]}  loss {losses[0].item():.3f}"
            bar.update(task, completed=progress, detail=detail)
            if not console.is_terminal and step % 50 == 0:
                console.print(f"{100 * progress:3.0f} %  {detail}", markup=False)
    network = average.module
    settle_batch_norms(network, options, _spec(options))
    return network.eval()


@torch.no_grad()
def settle_batch_norms(network: nn.Module, options: TrainOptions, spec: ModelSpec) -> None:
    """Measure the batch statistics of the averaged weights afresh.

    The running statistics were taken along the way from weights that the average never had; with
    them a network of IoU 0.9 finds nothing at all.

    Source: stochastic weight averaging (Izmailov et al., UAI 2018), section 3.2.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over all batches
    network.train()
    size = options.sizes[-1]
    for batch in range(SETTLING_BATCHES):
        scene = UNSEEN - (batch + 1) * options.batch
        rgb, depth, _ = _stack(_draw(scene, options.batch, size, spec))
        network(rgb, depth)


@torch.no_grad()
def evaluate(model: nn.Module, spec: ModelSpec, count: int) -> dict[str, float]:
    """Mean IoU at 0.5 and MAE over unseen scenes at the model's own size."""
    iou, mae = [], []
    for index in range(count):
        ((rgb, depth, mask),) = samples(UNSEEN + index, 1, spec.height, spec)
        saliency = model(rgb[None], depth[None]).sigmoid()[0]
        found, truth = saliency > 0.5, mask > 0.5
        iou.append(float((found & truth).sum() / (found | truth).sum().clamp(min=1)))
        mae.append(float((saliency - mask).abs().mean()))
    return {"scenes": count, "iou": float(np.mean(iou)), "mae": float(np.mean(mae))}


def _spec(options: TrainOptions) -> ModelSpec:
    return MODELS[options.model].spec


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[detail]}"),
        console=console,
        disable=not console.is_terminal,
    )


def main(
    out: Annotated[Path, typer.Option(help="Checkpoint to write (.safetensors).")],
    model: Annotated[str, typer.Option(help="Registry name.")] = "mutualformer-mobilenetv2",
    minutes: Annotated[float, typer.Option(help="Wall-clock bound.")] = 4.0,
    batch: Annotated[int, typer.Option(min=4)] = 24,
    seed: int = 0,
    resume: Annotated[
        Path | None, typer.Option(help="Checkpoint to go on from; the optimizer restarts warm.")
    ] = None,
    scenes: Annotated[int, typer.Option(help="Unseen scenes to evaluate on.")] = 100,
    min_iou: Annotated[float, typer.Option(help="Fail below this IoU on unseen scenes.")] = 0.0,
) -> None:
    """Train, evaluate on unseen scenes and save the averaged weights in FP16."""
    console = Console(highlight=False)
    options = TrainOptions(model=model, minutes=minutes, batch=batch, seed=seed)
    network = train(options, resume, console)
    figures = evaluate(network, _spec(options), scenes)
    save_checkpoint(network, out, half=True)
    console.print(json.dumps({"options": asdict(options), "unseen": figures}), markup=False)
    if figures["iou"] < min_iou:
        raise GateError(
            "IoU on unseen scenes", expected=f"at least {min_iou}", got=f"{figures['iou']:.3f}"
        )


if __name__ == "__main__":
    typer.run(main)
