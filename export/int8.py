"""A float graph as INT8 in the form TensorRT reads, as often as the accuracy gate asks for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import onnx

from edge_fusion.calibration.calibration_set import CalibrationSet
from edge_fusion.files import sha256
from edge_fusion.spec import ModelSpec

from .legalise import legalise
from .precision import PrecisionPlan, keep_also
from .progress import Progress
from .quantize import QuantizeOptions, QuantizeResult, quantize


@dataclass(frozen=True, slots=True, eq=False)
class Attempt:
    """One quantization of a network.

    Attributes:
        result: What the quantizer did.
        model: Its graph, legalised.
    """

    result: QuantizeResult
    model: onnx.ModelProto


@dataclass(frozen=True, slots=True, eq=False)
class Int8Maker:
    """Everything that decides how a graph becomes INT8.

    Attributes:
        graph: The simplified float graph.
        spec: The model's input record.
        pairs: What ranges are taken from.
        settings: How.
        plan: What stays in floating point whatever the gate says.
        progress: Told each step.
    """

    graph: onnx.ModelProto
    spec: ModelSpec
    pairs: CalibrationSet
    settings: QuantizeOptions
    plan: PrecisionPlan
    progress: Progress

    def make(self, without: Sequence[str] = (), reason: str = "") -> Attempt:
        """Quantize and legalise.

        Args:
            without: Further nodes to keep in floating point.
            reason: Why, for the record.

        Raises:
            StepError: The quantizer or the legaliser failed.
        """
        samples, progress = self.pairs.samples, self.progress
        plan = keep_also(self.graph, self.plan, without, reason) if without else self.plan
        progress("calibrate", 0, len(samples))
        count = partial(progress, "calibrate")
        result = quantize(self.graph, samples, self.spec, self.settings, plan, count)
        told = f"{len(result.quantized)} nodes in INT8, {len(result.kept)} kept"
        progress("quantize", 1, 1, told)
        progress("legalise", 0, 0)
        legal = legalise(result.model)
        progress("legalise", 1, 1, f"{len(legal.changes)} changes")
        return Attempt(result, legal.model)

    def identity(self) -> dict[str, Any]:
        """What the result depends on, JSON-ready: a change of any of it changes this."""
        return {
            "graph": sha256(self.graph.SerializeToString(deterministic=True)),
            "spec": self.spec.model_dump(mode="json"),
            "calibration": self.pairs.record.sha256,
            "settings": asdict(self.settings),
            "kept": sorted(self.plan.kept),
        }
