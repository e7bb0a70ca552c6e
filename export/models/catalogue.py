"""The models we carry, with what each costs: the table behind ``edge-fusion models``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edge_fusion.errors import ModelError
from edge_fusion.spec import ModelSpec

from ..cost import Cost, count_cost
from .hosts import Deployable
from .registry import MODELS, create_model


@dataclass(frozen=True, slots=True)
class CatalogueRow:
    """One model: its input record, its cost at that input, and when to choose it."""

    spec: ModelSpec
    cost: Cost
    summary: str

    def cells(self) -> tuple[str, str, str, str, str]:
        """Name, input size, millions of parameters, GMACs and summary, as text."""
        return (
            self.spec.name,
            f"{self.spec.width}x{self.spec.height}",
            f"{self.cost.parameters / 1e6:.2f}",
            f"{self.cost.macs / 1e9:.3f}",
            self.summary,
        )

    def as_dict(self) -> dict[str, Any]:
        """The row as JSON-ready values, with the whole input record."""
        return {
            "name": self.spec.name,
            "parameters": self.cost.parameters,
            "macs": self.cost.macs,
            "summary": self.summary,
            "spec": self.spec.model_dump(mode="json"),
        }


def list_models(name: str | None = None) -> list[CatalogueRow]:
    """Every model of the registry, or one of them, with its cost at the default input.

    Args:
        name: A key of the registry; None takes all.

    Raises:
        ModelError: No such model.

    Example:
        >>> [row.cells()[:3] for row in list_models("add-mobilenetv2")]
        [('add-mobilenetv2', '256x256', '3.72')]
    """
    if name is not None and name not in MODELS:
        raise ModelError("unknown model", expected=" or ".join(MODELS), got=repr(name))
    entries = MODELS.values() if name is None else [MODELS[name]]
    return [
        CatalogueRow(
            entry.spec, count_cost(Deployable(create_model(entry.name)), entry.spec), entry.summary
        )
        for entry in entries
    ]
