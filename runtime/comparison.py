"""What a comparison found, as records for tables, gates, reports and JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Literal

from edge_fusion.metrics import PROTOCOLS, ImageScores, Scores

from .energy import Energy
from .intervals import Interval
from .latency import Arithmetic, Latency
from .machine import Machine, Moment
from .memory_probe import Memory
from .panels import Panel

#: Of :meth:`Comparison.as_dict`; ``comparison.schema.json`` beside this file describes it.
SCHEMA_VERSION = 2

Precision = Literal["fp32", "fp16", "int8"]
_PRECISIONS = ("fp32", "fp16", "int8")


def shown(label: str) -> str:
    """A variant's label as tables and sentences show it: precisions in capitals.

    Example:
        >>> shown("int8"), shown("trt:fp16"), shown("mine")
        ('INT8', 'trt:FP16', 'mine')
    """
    before, colon, name = label.rpartition(":")
    return f"{before}{colon}{name.upper() if name in _PRECISIONS else name}"


@dataclass(frozen=True, slots=True)
class VariantInfo:
    """What stands behind a label.

    Attributes:
        label: The key of this variant in every record of the comparison.
        text: How it was asked for, such as ``trt:other/bundle:int8``.
        kind: ``bundle``: a variant of a bundle; ``file``: a plain ONNX file.
        path: Of the bundle or the file.
        model: Name of the model: what its bundle says, or the file's name.
        variant: Its name in the bundle; empty for a file.
        precision: What it is written in: the variant's name, or what a file's nodes say.
        backend: Where it ran: ``ort`` or ``trt``.
        arithmetic: What it was computed with.
        sha256: Of the ONNX file; empty where an engine alone was there.
    """

    label: str
    text: str
    kind: Literal["bundle", "file"]
    path: str
    model: str
    variant: str
    precision: Precision
    backend: str
    arithmetic: Arithmetic
    sha256: str = ""

    @property
    def speed_means_nothing(self) -> bool:
        """Whether it is INT8 that ran without 8-bit arithmetic, so that its speed says nothing."""
        return self.precision == "int8" and not self.arithmetic.integer

    def as_dict(self) -> dict[str, object]:
        """Everything by name, for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Difference:
    """How far a variant's maps are from the reference's, without any truth.

    Attributes:
        mean_abs: Mean absolute difference, 0..1; over many images, their mean.
        max_abs: Largest difference of one pixel.  Large at object edges even for good models.
        interval: Of ``mean_abs`` over many images; None for one image.
    """

    mean_abs: float
    max_abs: float
    interval: Interval | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """How a pooled metric differs between a variant and the reference.

    Attributes:
        value: The variant's less the reference's, whichever direction is better.
        interval: 95 % interval, by resampling images in pairs; None for one image.
    """

    value: float
    interval: Interval | None


@dataclass(frozen=True, slots=True)
class ImageResult:
    """One pair.

    Attributes:
        set: The source's URI.
        id: The pair's name in it.
        scores: By variant; empty without a mask.
        differences: By variant, without the reference.
        empty_mask: Whether the mask has no object: such a pair has scores but is not pooled,
            since F-measures are 0 there whatever a model does.
    """

    set: str
    id: str
    scores: dict[str, ImageScores]
    differences: dict[str, Difference]
    empty_mask: bool = False

    @property
    def degradation(self) -> float:
        """By how much the last variant is worse than the first, 0..1.

        The growth of the un-normalised MAE where there is a mask, else the mean difference.
        """
        last = list(self.differences)[-1]
        if not self.scores:
            return self.differences[last].mean_abs
        first = next(iter(self.scores))
        return self.scores[last].raw.mae - self.scores[first].raw.mae

    def as_dict(self) -> dict[str, object]:
        """Everything by name, for JSON."""
        return {
            "set": self.set,
            "id": self.id,
            "degradation": self.degradation,
            "empty_mask": self.empty_mask,
            "scores": {variant: one.as_dict() for variant, one in self.scores.items()},
            "differences": {variant: asdict(one) for variant, one in self.differences.items()},
        }


Changes = dict[str, dict[str, dict[str, Change]]]


@dataclass(frozen=True, slots=True)
class SetResult:
    """A set, or all of them pooled: every image weighs the same.

    Attributes:
        name: The source's URI.
        pairs: How many pairs were run.
        scores: Scores of those whose mask has an object, by variant; empty where none has one.
            Their curves (F, E, precision and recall at 256 thresholds) are averages over images.
        differences: Differences of all pairs, of every variant but the reference.
        changes: Of every metric against the reference, by variant, protocol and metric; empty
            where ``scores`` is.
        empty_masks: Pairs whose mask has no object.
    """

    name: str
    pairs: int
    scores: dict[str, Scores]
    differences: dict[str, Difference]
    changes: Changes = field(default_factory=dict)
    empty_masks: int = 0

    def as_dict(self) -> dict[str, object]:
        """Everything but the curves by name, for JSON."""
        return {
            "name": self.name,
            "pairs": self.pairs,
            "empty_masks": self.empty_masks,
            "scores": {variant: one.as_dict() for variant, one in self.scores.items()},
            "differences": {variant: asdict(one) for variant, one in self.differences.items()},
            "changes": {
                variant: {
                    protocol: {name: asdict(one) for name, one in changes.items()}
                    for protocol, changes in by_protocol.items()
                }
                for variant, by_protocol in self.changes.items()
            },
        }


@dataclass(frozen=True, slots=True)
class VariantCost:
    """What a variant costs besides time.

    Attributes:
        file_bytes: Size of what runs: the ONNX file, or the engine's plan.
        memory: Peak memory; None where it was not measured.
        plan_bytes: Size of the engine's plan; None on ONNX Runtime.
        onnx_bytes: Size of its ONNX file; None where an engine alone was there.
        energy: Of frames that ran without a pause; None where power cannot be read.
    """

    file_bytes: int
    memory: Memory | None
    plan_bytes: int | None = None
    onnx_bytes: int | None = None
    energy: Energy | None = None

    def as_dict(self) -> dict[str, object]:
        """Everything by name, for JSON."""
        return {
            "file_bytes": self.file_bytes,
            "plan_bytes": self.plan_bytes,
            "onnx_bytes": self.onnx_bytes,
            "memory": self.memory.as_dict() if self.memory else None,
            "energy": self.energy.as_dict() if self.energy else None,
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """Everything :func:`edge_fusion.runtime.compare.compare` found.

    Attributes:
        created_utc: When, in ISO 8601.
        bundle: Path of the bundle that was named first.
        model: Name of its model.
        backend: Where the variants ran; several are joined by commas.
        variants: Their labels, the reference first.
        sets: One result for each source.
        pooled: All pairs together.
        images: One result for each pair.
        costs: Size, memory and energy by variant.
        latency: None if it was left out.
        machine: What it ran on.
        panels: Pictures of a few pairs; not part of :meth:`as_dict`.
        about: What stands behind each label.
        notes: What a reader must know about the figures, in sentences.
        before: How the machine was before the measuring.
        after: How it was afterwards; its ``throttled_by`` tells of the time in between.
    """

    created_utc: str
    bundle: str
    model: str
    backend: str
    variants: tuple[str, ...]
    sets: tuple[SetResult, ...]
    pooled: SetResult
    images: tuple[ImageResult, ...]
    costs: dict[str, VariantCost]
    latency: Latency | None
    machine: Machine
    panels: tuple[Panel, ...] = field(default=(), repr=False)
    about: dict[str, VariantInfo] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    before: Moment | None = None
    after: Moment | None = None

    @property
    def reference(self) -> str:
        """The variant that all others are held against."""
        return self.variants[0]

    @property
    def candidates(self) -> tuple[str, ...]:
        """All variants but the reference."""
        return self.variants[1:]

    def speed_means_nothing(self, variant: str) -> bool:
        """Whether a variant is INT8 that ran without 8-bit arithmetic."""
        return variant in self.about and self.about[variant].speed_means_nothing

    def with_notes(self, notes: tuple[str, ...]) -> Comparison:
        """The same with other notes."""
        return replace(self, notes=notes)

    def as_dict(self) -> dict[str, object]:
        """Everything but the pictures, for JSON; ``comparison.schema.json`` describes it."""
        from .verdict import judgements  # which stands on this module

        return {
            "schema_version": SCHEMA_VERSION,
            "created_utc": self.created_utc,
            "bundle": self.bundle,
            "model": self.model,
            "backend": self.backend,
            "variants": list(self.variants),
            "about": {label: one.as_dict() for label, one in self.about.items()},
            "notes": list(self.notes),
            "verdict": [one.as_dict() for one in judgements(self)],
            "pooled": self.pooled.as_dict(),
            "curves": {
                label: {name: getattr(one, name).curves() for name in PROTOCOLS}
                for label, one in self.pooled.scores.items()
            },
            "sets": [one.as_dict() for one in self.sets],
            "latency": self.latency.as_dict() if self.latency else None,
            "costs": {variant: cost.as_dict() for variant, cost in self.costs.items()},
            "machine": {
                **self.machine.as_dict(),
                "before": self.before.as_dict() if self.before else None,
                "after": self.after.as_dict() if self.after else None,
            },
            "images": [one.as_dict() for one in self.images],
        }
