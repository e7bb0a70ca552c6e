"""What a lint rule is: a row of a table with its reason, its cure and the versions it holds for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from edge_fusion.target import Target, Version

from .graph import GraphView

Severity = Literal["error", "warning", "info"]

#: Where the accuracies of a ViT-B/16 on an Orin Nano are published that several rules rest on.
VIT_ON_ORIN = "published: github.com/onnxsim/onnxsim, scripts/nvidia/README.md, TensorRT 10.3"


class Hit(NamedTuple):
    """One place where a rule is broken.

    Attributes:
        node: Name of the node, input or initialiser.
        found: What is there, naming tensors, types and values.
        cure: What to do in this case, where the rule's own cure is too general.
    """

    node: str
    found: str
    cure: str = ""


@dataclass(frozen=True, slots=True)
class Versions:
    """A range of TensorRT versions: from ``since`` up to but not including ``before``.

    Example:
        >>> (8, 6, 2) in Versions(before=(9,)), str(Versions(since=(10,)))
        (True, 'TensorRT >= 10')
    """

    since: Version = ()
    before: Version = ()

    def __contains__(self, version: Version) -> bool:
        return version >= self.since and not (self.before and version >= self.before)

    def __str__(self) -> str:
        bounds = ((">=", self.since), ("<", self.before))
        parts = [f"{sign} {'.'.join(map(str, bound))}" for sign, bound in bounds if bound]
        return "TensorRT " + ", ".join(parts) if parts else "all"


ALL = Versions()


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of the lint table.

    Attributes:
        id: Stable name; a retired rule's id is not given to another.
        severity: ``error``: TensorRT refuses the graph or reads it wrongly; ``warning``: slower
            or less accurate; ``info``: worth knowing.
        title: The rule in a few words.
        why: What happens otherwise, and the evidence where it is not obvious.
        cure: What to do.
        check: Yields every place where the rule is broken.
        versions: The TensorRT versions it holds for.
    """

    id: str
    severity: Severity
    title: str
    why: str
    cure: str
    check: Callable[[GraphView, Target], Iterator[Hit]]
    versions: Versions = ALL
