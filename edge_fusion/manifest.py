"""The schema of a bundle's ``manifest.json``: everything needed to trust and to run a bundle."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from edge_fusion.files import sha256
from edge_fusion.input_ranges import InputRanges
from edge_fusion.spec import ModelSpec, Record

SCHEMA_VERSION = 1  # also the literal in Manifest
MANIFEST_NAME = "manifest.json"
SEAL = "seal"  # against damage and edits, not against an attacker, who would renew it

_PLAIN_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)*")
_HEX64 = r"^[0-9a-f]{64}$"

Sha256 = Annotated[str, Field(pattern=_HEX64)]
#: How pairs are chosen from those there are: every one; at random; evenly in time; or such that
#: few of them give the ranges that all of them give.
Choice = Literal["all", "random", "uniform", "coverage"]


class FileRecord(Record):
    """One file of the bundle."""

    sha256: Sha256
    size_bytes: Annotated[int, Field(ge=0)]


class Origin(Record):
    """Where the network came from.

    Attributes:
        model: The model argument: a registry name, ``module:factory`` or a file name.
        weights: The checkpoint's file name, or where else the weights came from.
        weights_sha256: Hash of the checkpoint or ONNX file; None for weights made in memory.
        checkpoint_report: What of the checkpoint was used and what was not; empty without one.
        partial: Whether weights that the checkpoint lacks were allowed to stay as they were made.
        parameters: Number of weights; None for a foreign ONNX file.
        macs: Multiply-accumulates for one frame; None for a foreign ONNX file.
        folds: What was folded before tracing, in order.
    """

    model: str
    weights: str
    weights_sha256: Sha256 | None = None
    checkpoint_report: str = ""
    partial: bool = False
    parameters: int | None = None
    macs: int | None = None
    folds: tuple[str, ...] = ()


class CalibrationItemRecord(Record):
    """One pair that was calibrated on: its source, its id and the hash of its raw pixels."""

    source: str
    id: str
    sha256: Sha256


class CalibrationRecord(Record):
    """What INT8 ranges were taken from: the choice can be repeated and is tied to the pixels.

    Attributes:
        sources: The sets, pooled.
        available: How many pairs there were to choose from.
        choice: How they were chosen; ``mixed`` where several sets were chosen differently.
        seed: Seed of a random choice.
        items: The pairs, in order.
        sha256: Hash over the hashes of all pairs, in order.
        warnings: What the checks of the set warned of.
    """

    sources: tuple[str, ...]
    available: int
    choice: Choice | Literal["mixed"]
    seed: int
    items: tuple[CalibrationItemRecord, ...]
    sha256: Sha256
    warnings: tuple[str, ...] = ()


class GateStepRecord(Record):
    """One step of the search for the layers that an accuracy gate sends back to FP16.

    Attributes:
        step: What was done: ``plain``, ``rank``, ``prefix``, ``shrink``, ``grow``, ``confirm``,
            ``pays`` or ``final``.
        detail: On what: an order, a layer.
        reverted: How many layers were in FP16 that plain INT8 quantizes.
        drops: By how much INT8 was worse than FP32, by metric; the worse of both protocols.
        held: Whether every gate held.
        frames: On how many pairs that was judged.
        evaluations: How many graphs had been run by then.
        seconds: Time spent running them by then, over all attempts if it was interrupted.
    """

    step: str
    detail: str = ""
    reverted: int
    drops: dict[str, float]
    held: bool
    frames: int
    evaluations: int
    seconds: float


class AccuracyGateRecord(Record):
    """The accuracy gate that decided which layers compute in INT8.

    Attributes:
        max_drop: The largest drop allowed, by metric.
        sources: Where the pairs came from that it was judged on.
        frames: How many there were, and ``masks`` how many of them had one.
        sha256: Hash of those pairs and their masks.
        layers: How many layers plain INT8 quantizes.
        reverted: Those that were sent back to FP16, in graph order.
        int8_mac_share: The share of the multiply-accumulates that still runs in INT8; None where
            the graph does not tell its shapes.
        plain_drops: The drops of the graph with every allowed layer in INT8.
        drops: Those of the graph in the bundle.
        evaluations: How many graphs were run.
        steps: How it was found, in order.
    """

    max_drop: dict[str, float]
    sources: tuple[str, ...]
    frames: int
    masks: int
    sha256: Sha256
    layers: int
    reverted: tuple[str, ...]
    int8_mac_share: float | None
    plain_drops: dict[str, float]
    drops: dict[str, float]
    evaluations: int
    steps: tuple[GateStepRecord, ...]

    def summary(self) -> str:
        """What the gate cost and gave, in a line."""
        drops = ", ".join(
            f"{name} drops by {drop:.3g} of {self.max_drop[name]:g} allowed, "
            f"{self.plain_drops[name]:.3g} before"
            for name, drop in self.drops.items()
        )
        share = "" if self.int8_mac_share is None else f", {self.int8_mac_share:.0%} of the MACs"
        gone, left = len(self.reverted), self.layers - len(self.reverted)
        return (
            f"{gone} of {self.layers} layers back to FP16, {left}{share} in INT8; {drops}; "
            f"on {self.frames} pairs, {self.masks} with a mask"
        )


class EstimatorRecord(Record):
    """Range estimators that were chosen by data, and what the choice was made by.

    Attributes:
        chosen: The estimator of each class of tensors.
        figures: Mean absolute difference of saliency to FP32 on the held-out pairs, by what was
            tried: the default for all classes, then ``class=estimator``, the classes before it as
            they were chosen.
        ranged: How many pairs gave the ranges of that trial.
        held_out: How many others judged them.
    """

    chosen: dict[str, str]
    figures: dict[str, float]
    ranged: int
    held_out: int


class QuantizationRecord(Record):
    """How the graph was quantized: the precision map.

    Attributes:
        options: The quantizer's options as they were used, by dotted name.
        int8_nodes: Nodes that compute on 8-bit values, in graph order.
        kept_fp16: Nodes that might but do not, with the reason.
        gate: The accuracy gate that was asked for; None without one.
        estimators: How the range estimators were chosen; None where they were given.
    """

    options: dict[str, str | int | float | bool]
    int8_nodes: tuple[str, ...]
    kept_fp16: dict[str, str]
    gate: AccuracyGateRecord | None = None
    estimators: EstimatorRecord | None = None


class ParityRecord(Record):
    """The difference between two neighbouring steps of the road on real inputs."""

    name: str
    mean_abs: float
    max_abs: float
    tolerance: str
    samples: int


class FlavourRecord(Record):
    """One graph as a family of TensorRT versions reads it.

    Attributes:
        file: Its file in the bundle.
        target: The target it was linted for.
        precisions: Number of nodes by the precision they are written in.
        kept_fp32: Nodes that FP16 would break, with the reason.
        to_reference: Mean absolute difference of saliency to the graph it was made from.
        to_fp32: The same, to the FP32 graph.
        reference_to_fp32: The difference of those two.
        samples: On how many pairs.
    """

    file: str
    target: str
    precisions: dict[str, int]
    kept_fp32: dict[str, str] = Field(default_factory=dict)
    to_reference: float
    to_fp32: float
    reference_to_fp32: float
    samples: int


class Golden(Record):
    """The pairs in ``golden.npz`` and how far a device's outputs may be from them.

    Attributes:
        source: Where the pairs came from.
        samples: How many there are.
        mean_abs_tolerance: Largest mean absolute difference of saliency, by variant.
    """

    source: str
    samples: int
    mean_abs_tolerance: dict[str, float]


class Manifest(Record):
    """The contents of ``manifest.json``; written once, never changed.

    ``flavours`` are named by their kind and the precision of the engine that is built from them,
    such as ``strong.int8``; two may share a file.  ``input_ranges`` says what the calibration pairs
    looked like, so that drift of what a camera delivers can be told; None in older bundles and
    where nothing was calibrated.
    """

    schema_version: Literal[1] = 1
    created_utc: str
    model: ModelSpec
    origin: Origin
    precision: Literal["fp32", "fp16", "int8"]
    target: str
    opset: int
    variants: dict[str, str]
    flavours: dict[str, FlavourRecord] = Field(default_factory=dict)
    calibration: CalibrationRecord | None = None
    input_ranges: InputRanges | None = None
    quantization: QuantizationRecord | None = None
    parity: tuple[ParityRecord, ...] = ()
    golden: Golden
    lint: tuple[str, ...] = ()
    versions: dict[str, str]
    files: dict[str, FileRecord] = Field(default_factory=dict)

    @field_validator("files")
    @classmethod
    def _names_stay_inside(cls, files: dict[str, FileRecord]) -> dict[str, FileRecord]:
        for name in files:
            if not _PLAIN_NAME.fullmatch(name):
                raise ValueError(f"file name {name!r} would leave the bundle")
        return files


def seal(content: Mapping[str, Any]) -> str:
    """A hash of a manifest's contents, whatever their order and spacing, its seal left out."""
    kept = {key: value for key, value in content.items() if key != SEAL}
    return sha256(json.dumps(kept, sort_keys=True).encode())
