"""Train the reference model for a bounded time, on photographs or on procedural scenes.

Every sample goes through the package's own preprocessing, so that what the network sees in
training is what it sees on the device.

    python -m benchmarks.reference.train --minutes 4 --out demo.safetensors --min-iou 0.6
    python -m benchmarks.reference.train --data DATA --minutes 45 --out reference.safetensors

With ``--data`` both encoders start from ImageNet weights and the scenes are photographs with
masks; see ``data.py`` for what the folder holds.  The averaged weights are written every few
minutes; ``--resume`` goes on from them, with the optimizer restarted warm.

On a CPU that others use too, set ``OMP_WAIT_POLICY=PASSIVE GOMP_SPINCOUNT=0``: threads that spin
while they wait for one that does not get its core made a step five times slower.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, replace
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

from benchmarks.command import run
from edge_fusion.errors import GateError
from edge_fusion.export.checkpoint import load_checkpoint, save_checkpoint
from edge_fusion.export.models.hosts import FusionHost
from edge_fusion.export.models.registry import MODELS, create_model
from edge_fusion.spec import ModelSpec

from .feeds import UNSEEN, Batch, Feed, demo_samples, open_feed
from .pretrained import load_encoders

SETTLING_BATCHES = 12
SETTLING_SAMPLES = 24
MEASURING_BATCHES = 4  # for the batch norms of pretrained encoders
SIDE_WEIGHTS = (1.0, 0.5, 0.25, 0.125)  # strides 4, 8, 16, 32
LARGEST_GRADIENT = 5.0
STEP_OF_SIZE = 32


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """How long and how to train.

    Attributes:
        model: Registry name.
        minutes: Wall-clock bound of the optimisation.
        batch: Samples per step at the smallest size; fewer at larger ones, at equal cost.
        sizes: Input sizes in pixels, used one after the other for ``shares`` of the time.
        shares: Share of the time at each size; adds up to 1.
        mixed: Whether the size of each step varies by 32 pixels around that, except at the last.
        learning_rate: Peak rate of AdamW; one warm-up, one cosine decay, both in time.
        encoder_rate: What the encoders' rate is multiplied by.
        weight_decay: Decoupled weight decay.
        ema: Decay of the averaged weights, which are the ones that are kept.
        data: Folder of photographs and encoder weights; None: procedural scenes, from scratch.
        workers: Processes that make samples from photographs; 0: between the steps.
        device: Where to train: ``cpu`` or ``cuda``.
        half: Compute in bfloat16 where that is safe; ``main`` does so only where it is fast.
        save_minutes: How often the averaged weights are written on the way; 0: only at the end.
        seed: Seed of weights and scenes.
    """

    model: str = "mutualformer-mobilenetv2"
    minutes: float = 4.0
    batch: int = 24
    sizes: tuple[int, ...] = (96, 128, 192)
    shares: tuple[float, ...] = (0.4, 0.35, 0.25)
    mixed: bool = False
    learning_rate: float = 2e-3
    encoder_rate: float = 1.0
    weight_decay: float = 0.01
    ema: float = 0.98
    data: Path | None = None
    workers: int = 0
    device: str = "cpu"
    half: bool = False
    save_minutes: float = 0.0
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


#: What differs when training on photographs.
PHOTOGRAPHS = replace(
    TrainOptions(),
    minutes=45.0,
    batch=24,
    sizes=(128, 160, 256),
    shares=(0.45, 0.30, 0.25),
    mixed=True,
    learning_rate=1.5e-3,
    encoder_rate=0.3,
    ema=0.995,
    half=True,
    save_minutes=6.0,
)
#: What differs when going on from a checkpoint: near the final size, in smaller steps.
RESUMED = replace(
    PHOTOGRAPHS, batch=16, sizes=(192, 224, 256), shares=(0.40, 0.25, 0.35), learning_rate=1e-3
)


def edge_weight(mask: Tensor) -> Tensor:
    """Weight of each pixel: 1 far from the mask's edge, up to 6 on it.

    Source: F3Net (Wei et al., AAAI 2020), equation 8.  The square window's mean is taken along
    rows, then along columns: the same number at a tenth of the cost.

    Args:
        mask: (B, 1, H, W) in 0..1.

    Returns:
        (B, 1, H, W), 1..6.
    """
    window = max(3, mask.shape[-1] // 8 | 1)
    half = window // 2
    near = functional.avg_pool2d(mask, (1, window), 1, (0, half), count_include_pad=False)
    near = functional.avg_pool2d(near, (window, 1), 1, (half, 0), count_include_pad=False)
    return 1 + 5 * (near - mask).abs()


def structure_loss(logits: Tensor, mask: Tensor, weight: Tensor) -> Tensor:
    """Weighted BCE plus weighted IoU plus the mean absolute error.

    Source: F3Net (Wei et al., AAAI 2020), equations 7 to 9, for the first two.  The third is ours:
    without it the network stays undecided where it could decide, and its MAE is a fifth higher.

    Args:
        logits: (B, 1, H, W).
        mask: (B, 1, H, W) in 0..1.
        weight: (B, 1, H, W), of :func:`edge_weight`.
    """
    bce = functional.binary_cross_entropy_with_logits(logits, mask, reduction="none")
    bce = (weight * bce).sum((2, 3)) / weight.sum((2, 3))
    saliency = logits.sigmoid()
    both = (saliency * mask * weight).sum((2, 3))
    either = ((saliency + mask) * weight).sum((2, 3)) - both
    error = (saliency - mask).abs().mean((2, 3))
    return (bce + 1 - (both + 1) / (either + 1) + error).mean()


def batches(options: TrainOptions, feed: Feed) -> Iterator[tuple[float, list[Tensor]]]:
    """Endless (progress, [rgb, depth, mask]) until the time is up."""
    rng = np.random.default_rng(options.seed)
    start = time.monotonic()
    while (progress := (time.monotonic() - start) / (60 * options.minutes)) < 1:
        size = options.size_at(progress)
        if options.mixed and size != options.sizes[-1]:
            size += STEP_OF_SIZE * int(rng.integers(-1, 2))
        yield progress, _tensors(feed.batch(size, options.batch_at(size)), options)


def _tensors(batch: Batch, options: TrainOptions) -> list[Tensor]:
    rgb, depth, mask = (torch.from_numpy(plane).to(options.device) for plane in batch)
    return [rgb.contiguous(memory_format=torch.channels_last), depth, mask]


def train(
    options: TrainOptions, start_from: Path | None, console: Console, out: Path | None = None
) -> nn.Module:
    """Train for ``options.minutes`` and return the averaged network, in evaluation mode.

    Args:
        options: How.
        start_from: Checkpoint to go on from, or None.
        console: Where progress is shown.
        out: Where the averaged weights are written every ``options.save_minutes``.
    """
    torch.manual_seed(options.seed)
    with closing(open_feed(options.data, spec_of(options), options.seed, options.workers)) as feed:
        model = _start(options, start_from, feed)
        average = AveragedModel(model, multi_avg_fn=_averager(options), use_buffers=True)
        optimizer = torch.optim.AdamW(_groups(model, options), weight_decay=options.weight_decay)
        saved = time.monotonic()
        with _bar(console) as bar:
            task = bar.add_task("training", total=1.0, detail="")
            for step, (progress, batch) in enumerate(batches(options, feed)):
                loss = _step(model, optimizer, batch, options, progress)
                average.update_parameters(model)
                if step % 10 == 0:
                    detail = f"step {step}  size {batch[0].shape[-1]}  loss {float(loss):.3f}"
                    bar.update(task, completed=progress, detail=detail)
                if not console.is_terminal and step % 50 == 0:
                    console.print(f"{100 * progress:3.0f} %  {detail}", markup=False)
                if out and 0 < 60 * options.save_minutes < time.monotonic() - saved:
                    save_checkpoint(_settled(average.module, options, feed), out, half=True)
                    saved = time.monotonic()
        return _settled(average.module, options, feed)


def _start(options: TrainOptions, start_from: Path | None, feed: Feed) -> FusionHost:
    """The network at the start: from a checkpoint, from ImageNet, or random."""
    model = create_model(options.model)
    if start_from is not None:
        load_checkpoint(model, start_from)
    elif options.data is not None:
        drawn = (feed.batch(options.sizes[0], SETTLING_SAMPLES) for _ in range(MEASURING_BATCHES))
        pairs = [(torch.from_numpy(rgb), torch.from_numpy(depth)) for rgb, depth, _ in drawn]
        load_encoders(model, options.data, pairs)
    model.train().to(options.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model


def _groups(model: FusionHost, options: TrainOptions) -> list[dict[str, object]]:
    """Two groups of parameters: the encoders, which know something already, and the rest."""
    encoders = [*model.rgb_encoder.parameters(), *model.depth_encoder.parameters()]
    known = {id(parameter) for parameter in encoders}
    rest = [parameter for parameter in model.parameters() if id(parameter) not in known]
    return [{"params": encoders, "factor": options.encoder_rate}, {"params": rest, "factor": 1.0}]


def _step(
    model: FusionHost,
    optimizer: torch.optim.Optimizer,
    batch: list[Tensor],
    options: TrainOptions,
    progress: float,
) -> Tensor:
    """One step of the optimizer; returns the loss of the finest output."""
    rgb, depth, mask = batch
    for group in optimizer.param_groups:
        group["lr"] = group["factor"] * options.rate_at(progress)
    with torch.autocast(options.device, torch.bfloat16, enabled=options.half):
        sides = model.forward_with_sides(rgb, depth)
    weight = edge_weight(mask)
    losses = [
        share * structure_loss(side.float(), mask, weight)
        for share, side in zip(SIDE_WEIGHTS, sides, strict=True)
    ]
    optimizer.zero_grad()
    torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(model.parameters(), LARGEST_GRADIENT)
    optimizer.step()
    return losses[0].detach()


def _settled(network: nn.Module, options: TrainOptions, feed: Feed) -> nn.Module:
    """A copy with settled batch norms, in evaluation mode."""
    settled = copy.deepcopy(network)
    settle_batch_norms(settled, options, feed)
    return settled.eval()


@torch.no_grad()
def settle_batch_norms(network: nn.Module, options: TrainOptions, feed: Feed) -> None:
    """Measure the batch statistics of the averaged weights afresh, at the last size.

    The running statistics were taken along the way from weights that the average never had; with
    them a network of IoU 0.9 finds nothing at all.

    Source: stochastic weight averaging (Izmailov et al., UAI 2018), section 3.2.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over all batches
    network.train()
    size, settled = options.sizes[-1], 0
    while settled < SETTLING_BATCHES:
        rgb, depth, _ = _tensors(feed.batch(size, SETTLING_SAMPLES), options)
        if rgb.shape[-1] == size:  # a feed that works ahead has batches of earlier sizes left
            network(rgb, depth)
            settled += 1


@torch.no_grad()
def evaluate(model: nn.Module, spec: ModelSpec, count: int) -> dict[str, float]:
    """Mean IoU at 0.5 and MAE over unseen procedural scenes at the model's own size."""
    iou, mae = [], []
    for index in range(count):
        (planes,) = demo_samples(UNSEEN + index, 1, spec.height, spec)
        rgb, depth, mask = (torch.from_numpy(np.ascontiguousarray(plane)) for plane in planes)
        saliency = model(rgb[None], depth[None]).sigmoid()[0]
        found, truth = saliency > 0.5, mask > 0.5
        iou.append(float((found & truth).sum() / (found | truth).sum().clamp(min=1)))
        mae.append(float((saliency - mask).abs().mean()))
    return {"scenes": count, "iou": float(np.mean(iou)), "mae": float(np.mean(mae))}


def computes_bfloat16(device: str) -> bool:
    """Whether bfloat16 is faster than float32 there.

    oneDNN has fast bfloat16 kernels from AVX-512 on; with AVX2 alone a step took twelve times as
    long as in float32.
    """
    return device != "cpu" or torch.backends.cpu.get_cpu_capability() == "AVX512"


def _averager(options: TrainOptions) -> Callable[..., None]:
    averager: Callable[..., None] = get_ema_multi_avg_fn(options.ema)  # type: ignore[no-untyped-call]
    return averager


def spec_of(options: TrainOptions) -> ModelSpec:
    """How the network that is trained is fed."""
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
    data: Annotated[
        Path | None, typer.Option(help="Folder of photographs; without it: procedural scenes.")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Wall-clock bound; 4, with data 45.")
    ] = None,
    batch: Annotated[int | None, typer.Option(min=4, help="Samples per step at first.")] = None,
    seed: int = 0,
    workers: Annotated[int, typer.Option(min=0, help="Processes that make samples.")] = 1,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    resume: Annotated[
        Path | None, typer.Option(help="Checkpoint to go on from; the optimizer restarts warm.")
    ] = None,
    scenes: Annotated[int, typer.Option(help="Unseen procedural scenes to evaluate on.")] = 100,
    min_iou: Annotated[float, typer.Option(help="Fail below this IoU on unseen scenes.")] = 0.0,
) -> None:
    """Train, evaluate on unseen procedural scenes and save the averaged weights in FP16."""
    console = Console(highlight=False)
    base = (RESUMED if resume else PHOTOGRAPHS) if data else TrainOptions()
    options = replace(
        base,
        model=model,
        minutes=base.minutes if minutes is None else minutes,
        batch=base.batch if batch is None else batch,
        data=data,
        workers=workers if data else 0,
        device=device,
        half=base.half and computes_bfloat16(device),
        seed=seed,
    )
    network = train(options, resume, console, out).to("cpu")
    save_checkpoint(network, out, half=True)
    figures = evaluate(network, spec_of(options), scenes)
    report = {"options": asdict(options), "unseen": figures}
    console.print(json.dumps(report, default=str), markup=False)
    if figures["iou"] < min_iou:
        raise GateError(
            "IoU on unseen scenes", expected=f"at least {min_iou}", got=f"{figures['iou']:.3f}"
        )


if __name__ == "__main__":
    run(main)
