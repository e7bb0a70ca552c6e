"""What a comparison found, as records for tables, gates, reports and JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from edge_fusion.metrics import ImageScores, Scores

from .latency import Latency
from .machine import Machine
from .memory_probe import Memory
from .panels import Panel


@dataclass(frozen=True, slots=True)
class Difference:
    """How far a variant's maps are from the reference's, without any truth.

    Attributes:
        mean_abs: Mean absolute difference, 0..1; over many images, their mean.
        max_abs: Largest difference of one pixel.  Large at object edges even for good models.
    """

    mean_abs: float
    max_abs: float


@dataclass(frozen=True, slots=True)
class ImageResult:
    """One pair: scores by variant (empty without a mask), differences by variant."""

    set: str
    id: str
    scores: dict[str, ImageScores]
    differences: dict[str, Difference]

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
            "scores": {variant: one.as_dict() for variant, one in self.scores.items()},
            "differences": {variant: asdict(one) for variant, one in self.differences.items()},
        }


@dataclass(frozen=True, slots=True)
class SetResult:
    """A set, or all of them pooled: every image weighs the same.

    Attributes:
        name: The source's URI.
        pairs: How many pairs were run.
        scores: Scores of those with a mask by variant; empty where none has one.
        differences: Differences of all pairs, of every variant but the reference.
    """

    name: str
    pairs: int
    scores: dict[str, Scores]
    differences: dict[str, Difference]

    def as_dict(self) -> dict[str, object]:
        """Everything by name, for JSON."""
        return {
            "name": self.name,
            "pairs": self.pairs,
            "scores": {variant: one.as_dict() for variant, one in self.scores.items()},
            "differences": {variant: asdict(one) for variant, one in self.differences.items()},
        }


@dataclass(frozen=True, slots=True)
class VariantCost:
    """What a variant costs besides time: its file, and memory where it was measured."""

    file_bytes: int
    memory: Memory | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Everything :func:`edge_fusion.runtime.compare.compare` found.

    Attributes:
        created_utc: When, in ISO 8601.
        bundle: Path of the bundle.
        model: Name of the model.
        backend: Where the variants ran.
        variants: The reference first.
        sets: One result for each source.
        pooled: All pairs together.
        images: One result for each pair.
        costs: File size and memory by variant.
        latency: None if it was left out.
        machine: What it ran on.
        panels: Pictures of a few pairs; not part of :meth:`as_dict`.
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

    @property
    def reference(self) -> str:
        """The variant that all others are held against."""
        return self.variants[0]

    @property
    def candidates(self) -> tuple[str, ...]:
        """All variants but the reference."""
        return self.variants[1:]

    def as_dict(self) -> dict[str, object]:
        """Everything but the pictures, for JSON."""
        return {
            "schema_version": 1,
            "created_utc": self.created_utc,
            "bundle": self.bundle,
            "model": self.model,
            "backend": self.backend,
            "variants": list(self.variants),
            "pooled": self.pooled.as_dict(),
            "sets": [one.as_dict() for one in self.sets],
            "latency": self.latency.as_dict() if self.latency else None,
            "costs": {
                variant: {
                    "file_bytes": cost.file_bytes,
                    "memory": cost.memory.as_dict() if cost.memory else None,
                }
                for variant, cost in self.costs.items()
            },
            "machine": self.machine.as_dict(),
            "images": [one.as_dict() for one in self.images],
        }
