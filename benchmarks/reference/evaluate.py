"""What a checkpoint is worth: on held-out photographs and on every real set with masks.

Each image is scored several times with the same colour and another depth, so that what depth adds,
and what a broken sensor costs, can be read off directly.  Blanked depth is an input of all zeros.

    python -m benchmarks.reference.evaluate CHECKPOINT --data DATA --json figures.json
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import torch
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.command import run
from edge_fusion.export.models.registry import LoadedModel, load_model
from edge_fusion.files import write_bytes
from edge_fusion.frame import RgbdFrame
from edge_fusion.metrics import ImageScores, pool, score
from edge_fusion.preprocess import Inputs, prepare, saliency_map
from edge_fusion.runtime.session import Session
from edge_fusion.spec import ModelSpec

from .data import POOLED_SETS, REAL_SETS, Photographs, read_backgrounds, read_set, split
from .scenes import RELATIVE, SceneMaker, SceneOptions

RESAMPLES = 10_000
VALIDATION_SEED = 20_260

#: Scores by case of depth, image by image in the same order.
CaseScores = dict[str, list[ImageScores]]


@dataclass(frozen=True, slots=True)
class Comparison:
    """A paired bootstrap of one case of depth against another over the same images.

    Attributes:
        n: Images.
        mae: Mean error of the first case, of the map as it is.
        mae_reference: That of the second.
        difference: First minus second: negative where the first is better.
        low: Lower end of the 95 % interval of the difference.
        high: Upper end.
        chance_better: Share of the resamples in which the first is better.
    """

    n: int
    mae: float
    mae_reference: float
    difference: float
    low: float
    high: float
    chance_better: float


def compare(first: Sequence[float], second: Sequence[float], seed: int = 0) -> Comparison:
    """Paired bootstrap over images of two lists of errors.

    Example:
        >>> compare([0.1, 0.1], [0.2, 0.2]).chance_better
        1.0
    """
    differences = np.asarray(first) - np.asarray(second)
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(differences), size=(RESAMPLES, len(differences)))
    means = differences[drawn].mean(axis=1)
    low, high = np.percentile(means, (2.5, 97.5))
    return Comparison(
        n=len(differences),
        mae=float(np.mean(first)),
        mae_reference=float(np.mean(second)),
        difference=float(differences.mean()),
        low=float(low),
        high=float(high),
        chance_better=float((means < 0).mean()),
    )


def opposite(frame: RgbdFrame) -> RgbdFrame:
    """The same depth written the other way round, and declared so.

    Metric depth becomes relative inverse depth; relative depth is turned upside down.
    """
    valid = frame.valid
    if frame.depth_spec.metric:
        near = 1 / np.where(valid, frame.depth, 1).astype(np.float32)
        turned, spec = np.where(valid, near, 0).astype(np.float32), RELATIVE["nearer"]
    else:
        other = {"nearer": "farther", "farther": "nearer"}[frame.depth_spec.larger_is]
        depth = frame.depth.astype(np.float32)
        top = float(depth[valid].max()) if valid.any() else 0.0
        # A hundredth keeps the farthest reading off 0 without costing the others their digits.
        turned = np.where(valid, 1.01 * top - depth, 0).astype(np.float32)
        spec = RELATIVE[other]
    return replace(frame, depth=turned, depth_spec=spec)


def with_depth_of(frame: RgbdFrame, other: RgbdFrame) -> RgbdFrame:
    """The colour of one frame with the depth of another."""
    size = (frame.rgb.shape[1], frame.rgb.shape[0])
    depth = cv2.resize(other.depth, size, interpolation=cv2.INTER_NEAREST)
    return replace(
        frame,
        depth=depth,  # type: ignore[arg-type]
        depth_spec=other.depth_spec,
    )


def blanked(inputs: Inputs, spec: ModelSpec) -> Inputs:
    """The same colour and a depth input of all zeros."""
    return {**inputs, spec.depth.name: np.zeros_like(inputs[spec.depth.name])}


@dataclass(frozen=True, slots=True)
class Predictor:
    """A network, whatever runs it.

    Attributes:
        spec: How it is fed.
        run: Inputs of n samples -> their outputs, (n, 1, h, w) float32.
    """

    spec: ModelSpec
    run: Callable[[Sequence[Inputs]], NDArray[np.float32]]


def torch_predictor(model: LoadedModel) -> Predictor:
    """A network run by torch, all samples at once."""

    @torch.no_grad()
    def run(inputs: Sequence[Inputs]) -> NDArray[np.float32]:
        rgb, depth = (
            torch.from_numpy(np.concatenate([one[name] for one in inputs]))
            for name in (model.spec.rgb.name, model.spec.depth.name)
        )
        return np.asarray(model.module(rgb, depth).numpy(), np.float32)

    return Predictor(model.spec, run)


def session_predictor(session: Session, spec: ModelSpec) -> Predictor:
    """A variant of a bundle, one sample after the other."""
    name = spec.output.name
    return Predictor(
        spec, lambda inputs: np.concatenate([session.run(one)[name] for one in inputs])
    )


def score_cases(
    model: Predictor, cases: Iterable[tuple[str, Inputs]], mask: NDArray[np.bool_]
) -> dict[str, ImageScores]:
    """Score one image with every case of depth, at the size of its mask."""
    names, inputs = zip(*cases, strict=True)
    return {
        name: score(saliency_map(output[None], model.spec, mask.shape), mask)
        for name, output in zip(names, model.run(inputs), strict=True)
    }


def evaluate_set(model: Predictor, frames: Sequence[RgbdFrame]) -> CaseScores:
    """Every frame with its own depth, without, and with that of the frame half a set away."""
    result: CaseScores = defaultdict(list)
    for index, frame in enumerate(frames):
        own = prepare(frame, model.spec)
        other = with_depth_of(frame, frames[(index + len(frames) // 2) % len(frames)])
        cases = (
            ("depth", own),
            ("blanked", blanked(own, model.spec)),
            ("another's", prepare(other, model.spec)),
        )
        for case, scores in score_cases(model, cases, _mask(frame)).items():
            result[case].append(scores)
    return dict(result)


def validation_samples(
    data: Path, spec: ModelSpec, count: int
) -> Iterator[tuple[RgbdFrame, str, NDArray[np.bool_]]]:
    """Held-out photographs with generated depth: frame, what its depth says, mask at full size.

    The same ones for every checkpoint; none was ever trained on.
    """
    photos = Photographs(data / "train-rgb")
    _, names = split(photos.ids)
    options = SceneOptions(blanked=0.0)
    maker = SceneMaker(photos.read, names, read_backgrounds(data), spec, options)
    rng = np.random.default_rng(VALIDATION_SEED)
    for name in names[:count]:
        sample = maker.make(rng, name, spec.height, augment=False)
        yield sample.frame, sample.contrast, photos.read(name).mask > 0


def evaluate_validation(model: Predictor, data: Path, count: int) -> CaseScores:
    """Held-out photographs with generated depth, without, and with the same depth inverted.

    Scores with generated depth are also listed by what that depth says of the objects.
    """
    result: CaseScores = defaultdict(list)
    for frame, contrast, mask in validation_samples(data, model.spec, count):
        if not frame.valid.any():
            continue
        own = prepare(frame, model.spec)
        cases = (
            ("depth", own),
            ("blanked", blanked(own, model.spec)),
            ("inverted, declared", prepare(opposite(frame), model.spec)),
        )
        scored = score_cases(model, cases, mask)
        for case, scores in scored.items():
            result[case].append(scores)
        result[f"depth: {contrast}"].append(scored["depth"])
    return dict(result)


def _mask(frame: RgbdFrame) -> NDArray[np.bool_]:
    assert frame.mask is not None
    return frame.mask


def depth_against(results: Mapping[str, CaseScores], case: str, reference: str) -> Comparison:
    """Paired bootstrap over :data:`POOLED_SETS`, every image alike."""
    errors = {
        name: [
            one.raw.mae for each in POOLED_SETS if each in results for one in results[each][name]
        ]
        for name in (case, reference)
    }
    return compare(errors[case], errors[reference])


def report(results: Mapping[str, CaseScores]) -> dict[str, Any]:
    """Everything as JSON."""
    figures: dict[str, Any] = {
        name: {case: pool(scores).as_dict() for case, scores in cases.items()}
        for name, cases in results.items()
    }
    if any(name in results for name in POOLED_SETS):
        figures["pooled"] = {
            "sets": list(POOLED_SETS),
            "depth against blanked": asdict(depth_against(results, "depth", "blanked")),
            "another's against blanked": asdict(depth_against(results, "another's", "blanked")),
        }
    return figures


def table(results: Mapping[str, CaseScores]) -> Table:
    """MAE and max F of maps as they are, and stretched to their own range."""
    result = Table("set", "depth", "n", "MAE", "max F", "stretched: MAE", "max F")
    for name, cases in results.items():
        for case, scores in cases.items():
            pooled = pool(scores)
            figures = [
                f"{value:.4f}"
                for one in (pooled.raw, pooled.normalised)
                for value in (one.mae, one.f_max)
            ]
            result.add_row(name, case, str(pooled.n), *figures)
    return result


def main(
    checkpoint: Path,
    data: Annotated[Path, typer.Option(help="The data folder.")],
    model: Annotated[str, typer.Option(help="Registry name.")] = "mutualformer-mobilenetv2",
    validation: Annotated[int, typer.Option(help="Held-out photographs, up to 1000.")] = 1000,
    json_out: Annotated[Path | None, typer.Option("--json", help="Write all figures.")] = None,
) -> None:
    """Evaluate a checkpoint and print a table."""
    loaded = torch_predictor(load_model(model, checkpoint))
    results: dict[str, CaseScores] = {}
    if validation:
        results["validation"] = evaluate_validation(loaded, data, validation)
    for name in REAL_SETS:
        results[name] = evaluate_set(loaded, read_set(data, name))
    console = Console()
    console.print(table(results))
    figures = report(results)
    for name in ("depth against blanked", "another's against blanked"):
        console.print(f"pooled, {name}: {figures['pooled'][name]}", markup=False)
    if json_out is not None:
        write_bytes(json_out, json.dumps(figures, indent=1).encode(), "the figures")


if __name__ == "__main__":
    run(main)
