"""The record of a diagnosis: how far INT8 is from FP32 layer by layer, why, and what to do.

Written by ``edge-fusion diagnose``, read by reports; neither needs onnx.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from edge_fusion.errors import InputError
from edge_fusion.spec import Record, first_problem

SCHEMA_VERSION = 1  # also the literal in Diagnosis
MOST_DB = 200.0  # stands for "no difference at all", which JSON cannot say as infinity

Decibel = Annotated[float, Field(ge=-MOST_DB, le=MOST_DB)]
Cosine = Annotated[float, Field(ge=-1, le=1)]
Share = Annotated[float, Field(ge=0)]


class LayerError(Record):
    """How far one layer's INT8 result is from its FP32 result, over all samples.

    Two errors are told apart.  *Accumulated*: the layer in the INT8 network against the layer in
    the FP32 network, everything before it included.  *Isolated*: the layer alone in INT8 in an
    otherwise FP32 network; only this one says where to act.

    Attributes:
        name: The node's name in the graph, as ``--keep-fp16`` takes it.
        kind: Its operator, such as ``Conv``.
        position: Its place in topological order, counting from 0.
        int8: Whether it computes on 8-bit values.
        accumulated_sqnr_db: Power of the FP32 output over the power of the difference, in
            decibels; ``MOST_DB`` where there is none.
        accumulated_cosine: Cosine between the two outputs.
        isolated_sqnr_db: The same at the layer's own output with this layer alone in INT8; None
            for layers that are not INT8.
        isolated_cosine: Cosine of the same.
        saliency_error: Mean absolute difference of the saliency map (0..1) that this layer alone
            in INT8 makes; None for layers that are not INT8.
    """

    name: str
    kind: str
    position: Annotated[int, Field(ge=0)]
    int8: bool
    accumulated_sqnr_db: Decibel | None = None
    accumulated_cosine: Cosine | None = None
    isolated_sqnr_db: Decibel | None = None
    isolated_cosine: Cosine | None = None
    saliency_error: Share | None = None


class Finding(Record):
    """One cause of error that was found, with its evidence and its cure.

    Attributes:
        cause: The detector's id, such as ``clipping``.
        layer: The node it was found at; empty where it concerns an input or the whole network.
        tensor: The tensor that was measured; empty where there is none.
        evidence: What was measured, in one sentence.
        figures: The same as numbers, by name.
        cure: What to do: an option to paste, or a sentence.
    """

    cause: str
    layer: str = ""
    tensor: str = ""
    evidence: str
    figures: dict[str, float] = Field(default_factory=dict)
    cure: str


class Revert(Record):
    """What keeping the worst layers out of INT8 gives, measured on the same samples.

    Attributes:
        layers: The layers computed in floating point.
        saliency_error: Mean absolute difference of saliency to FP32 that remains, 0..1.
    """

    layers: tuple[str, ...]
    saliency_error: Share


class Diagnosis(Record):
    """Everything ``edge-fusion diagnose`` found out about one bundle on one set.

    Attributes:
        created_utc: When.
        bundle: The bundle's name.
        model: The network's name.
        variant: The variant held against FP32.
        sha256: Of that variant's ONNX file; empty where it is not known.
        sources: The sets the samples came from.
        samples: How many samples were run.
        seed: The seed of their choice.
        saliency_error: Mean absolute difference of saliency between the variant and FP32, 0..1.
        layers: Every layer both graphs compute, in topological order.
        findings: What was found, the costliest first.
        reverts: What keeping the worst 1, 3, 5 and 10 layers in FP16 would give.
        not_applicable: Detectors that could not judge here, each with the reason.
        conclusion: All of it in one sentence.
        versions: Of the packages that computed it.
    """

    schema_version: Literal[1] = 1
    created_utc: str
    bundle: str
    model: str
    variant: str = "int8"
    sha256: str = ""
    sources: tuple[str, ...]
    samples: Annotated[int, Field(ge=1)]
    seed: int = 0
    saliency_error: Share
    layers: tuple[LayerError, ...]
    findings: tuple[Finding, ...] = ()
    reverts: tuple[Revert, ...] = ()
    not_applicable: dict[str, str] = Field(default_factory=dict)
    conclusion: str
    versions: dict[str, str] = Field(default_factory=dict)

    def worst(self, count: int | None = None) -> tuple[LayerError, ...]:
        """The INT8 layers by what each alone does to the saliency map, the worst first."""
        return worst_layers(self.layers)[:count]

    def findings_of(self, layer: str) -> tuple[Finding, ...]:
        """What was found at one layer."""
        return tuple(finding for finding in self.findings if finding.layer == layer)


def worst_layers(layers: tuple[LayerError, ...]) -> tuple[LayerError, ...]:
    """The layers whose isolated error was measured, by their error at the saliency map.

    Example:
        >>> quiet, loud = (
        ...     LayerError(name=n, kind="Conv", position=0, int8=True, saliency_error=error)
        ...     for n, error in (("quiet", 0.001), ("loud", 0.1)))
        >>> [layer.name for layer in worst_layers((quiet, loud))]
        ['loud', 'quiet']
    """
    measured = [layer for layer in layers if layer.saliency_error is not None]
    return tuple(sorted(measured, key=lambda layer: -(layer.saliency_error or 0.0)))


def read_diagnosis(path: Path) -> Diagnosis:
    """Read what ``edge-fusion diagnose --json`` wrote.

    Raises:
        InputError: The file cannot be read, or is no diagnosis of a schema known here.
    """
    cure = "write one: edge-fusion diagnose BUNDLE --data SET --json FILE"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Diagnosis.model_validate(content)
    except ValidationError as err:
        raise InputError(f"{path} is not a diagnosis", got=first_problem(err), cure=cure) from err
    except (OSError, ValueError, RecursionError) as err:
        raise InputError(f"cannot read the diagnosis {path}", got=str(err), cure=cure) from err
