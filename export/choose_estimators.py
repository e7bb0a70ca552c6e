"""Choose a range estimator for each class of tensors by what it does to held-out samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import onnx
from numpy.typing import NDArray

from edge_fusion.errors import CalibrationError
from edge_fusion.manifest import EstimatorRecord
from edge_fusion.preprocess import activate
from edge_fusion.runtime.ort import OrtSession
from edge_fusion.spec import ModelSpec

from .estimator_names import (
    AUTO,
    CLASSES,
    DEFAULT_ESTIMATOR,
    ByClass,
    Estimator,
    TensorClass,
    parse_estimators,
)
from .estimators import classify, mix_scales
from .legalise import legalise
from .precision import PrecisionPlan
from .progress import Progress
from .quantize import QuantizeOptions, quantize
from .samples import Sample

#: What is tried.  The mean without outliers is the mean to within a hundredth here.
CANDIDATES: tuple[Estimator, ...] = (
    "mean_minmax",
    "minmax",
    "median_minmax",
    "mean_quantile",
    "histogram",
)
#: The classes in the order in which they are decided: heavy tails are likeliest among tokens.
ORDER: tuple[TensorClass, ...] = ("fusion", "decoder", "encoder")
FEWEST = 8  # samples: six that give ranges and two that judge them
HELD_OUT_EVERY = 4
MOST_RANGES, MOST_HELD_OUT = 48, 16
WORTH = 0.02  # of the difference; what an estimator must gain to be taken instead of the default

Maps = list[NDArray[np.float32]]


@dataclass(slots=True)
class _Search:
    """Graphs by estimator, and what was found so far."""

    results: dict[Estimator, onnx.ModelProto]
    spec: ModelSpec
    held_out: Sequence[Sample]
    expected: Maps
    figures: dict[str, float] = field(default_factory=dict)

    def judge(self, label: str, by_class: ByClass) -> float:
        """The mean absolute difference of saliency to FP32 with these estimators."""
        mixed = legalise(mix_scales(self.results, DEFAULT_ESTIMATOR, by_class)).model
        found = _run(mixed, self.spec, self.held_out)
        apart = [
            float(np.abs(one - wanted).mean())
            for one, wanted in zip(found, self.expected, strict=True)
        ]
        self.figures[label] = float(np.mean(apart))
        return self.figures[label]


def settings_for(
    given: Sequence[str],
    model: onnx.ModelProto,
    samples: Sequence[Sample],
    spec: ModelSpec,
    plan: PrecisionPlan,
    progress: Progress,
) -> tuple[QuantizeOptions, EstimatorRecord | None]:
    """The quantizer's options for what ``--estimator`` was given.

    Args:
        given: As :func:`~.estimator_names.parse_estimators` takes them, or ``auto`` alone.
        model: A simplified float graph.
        samples: All calibration samples.
        spec: The model's input record.
        plan: What must not be INT8.
        progress: Told each estimator that is tried.

    Returns:
        The options, and how they were chosen; None where they were given.

    Raises:
        InputError: No such estimator or class.
        CalibrationError: Too few samples to choose by.
    """
    if AUTO in given:
        return choose_estimators(model, samples, spec, plan, progress)
    estimator, by_class = parse_estimators(given)
    return QuantizeOptions(estimator=estimator, by_class=by_class), None


def choose_estimators(
    model: onnx.ModelProto,
    samples: Sequence[Sample],
    spec: ModelSpec,
    plan: PrecisionPlan,
    progress: Progress,
) -> tuple[QuantizeOptions, EstimatorRecord]:
    """Try every candidate for one class after the other, on samples that gave no range.

    Every fourth sample is held out.  The network is quantized once with each candidate; then each
    class in turn takes the one with the smallest mean absolute difference of saliency to FP32, if
    it gains 2 % at least, the classes before it as they were decided.  So the work is bounded by
    counts alone, and the same samples always give the same choice.

    Raises:
        CalibrationError: There are fewer than eight samples.
        StepError: The quantizer failed.
    """
    if len(samples) < FEWEST:
        raise CalibrationError(
            f"{len(samples)} pairs are too few to choose range estimators by",
            expected=f"at least {FEWEST}, of which a quarter judges",
            cure="give more pairs, or name the estimator: --estimator mean_minmax",
        )
    held_out = samples[::HELD_OUT_EVERY][:MOST_HELD_OUT]
    ranging = [one for i, one in enumerate(samples) if i % HELD_OUT_EVERY][:MOST_RANGES]
    results: dict[Estimator, onnx.ModelProto] = {}
    for name in CANDIDATES:
        told = partial(progress, f"try {name}")
        results[name] = quantize(
            model, ranging, spec, QuantizeOptions(estimator=name), plan, told
        ).model
    search = _Search(results, spec, held_out, _run(model, spec, held_out))
    chosen = _greedy(search, progress)
    settings = QuantizeOptions(
        estimator=DEFAULT_ESTIMATOR,
        by_class={name: one for name, one in chosen.items() if one != DEFAULT_ESTIMATOR},
    )
    record = EstimatorRecord(
        chosen={name: chosen.get(name, DEFAULT_ESTIMATOR) for name in CLASSES},
        figures=search.figures,
        ranged=len(ranging),
        held_out=len(held_out),
    )
    return settings, record


def _greedy(search: _Search, progress: Progress) -> ByClass:
    present = set(classify(search.results[DEFAULT_ESTIMATOR]).values())
    best = search.judge(DEFAULT_ESTIMATOR, {})
    chosen: ByClass = {}
    for done, group in enumerate(ORDER, start=1):
        tried = [name for name in CANDIDATES if name != DEFAULT_ESTIMATOR and group in present]
        found = {name: search.judge(f"{group}={name}", {**chosen, group: name}) for name in tried}
        name = min(found, key=lambda one: found[one], default=DEFAULT_ESTIMATOR)
        if name in found and found[name] < best * (1 - WORTH):
            chosen[group], best = name, found[name]
        said = ", ".join(f"{one}={chosen.get(one, DEFAULT_ESTIMATOR)}" for one in ORDER[:done])
        progress("estimators", done, len(ORDER), f"{said}: mean {best:.1e}")
    return chosen


def _run(model: onnx.ModelProto, spec: ModelSpec, samples: Sequence[Sample]) -> Maps:
    name = spec.output.name
    with OrtSession(model.SerializeToString()) as session:
        return [activate(session.run(sample)[name], spec) for sample in samples]
