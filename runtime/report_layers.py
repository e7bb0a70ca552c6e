"""What a page says of layers: what a diagnosis measured, else what a bundle's manifest knows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edge_fusion.diagnosis import MOST_DB, Diagnosis, LayerError
from edge_fusion.errors import InputError
from edge_fusion.manifest import Manifest

from .candidates import Candidate
from .plots import layer_errors
from .report_tables import Cell, Row

MOST_LAYERS = 40  # shown openly; the others are a click away
_DRAWN_DB = 60.0  # more than this is as good as equal
PRECISIONS = ("fp32", "fp16", "int8")
# What makes one reason of many that say the same of different tensors.
_ALIKE = re.compile(r"'[^']*'|\b\d[\d.]*e-\d+\b")
#: Places of the colours in the drawing, as its key names them.
SERIES = {"accumulated": 1, "isolated": 2}


@dataclass(frozen=True, slots=True)
class LayerTable:
    """The layers of a diagnosis, the costliest first.

    Attributes:
        headings: Of the columns behind the layer's name.
        worst: The costliest layers.
        others: All others.
        drawing: Signal to error along the network; empty where there is none to draw.
    """

    headings: tuple[str, ...]
    worst: tuple[Row, ...]
    others: tuple[Row, ...]
    drawing: str


def check_diagnosed(diagnosis: Diagnosis, candidates: Sequence[Candidate]) -> None:
    """Insist that a diagnosis is of something that is compared.

    Raises:
        InputError: It is of another model, or of another graph than any of these.
    """
    cure = "diagnose what is compared: edge-fusion diagnose BUNDLE --data SET --json FILE"
    models = dict.fromkeys(one.spec.name for one in candidates)
    if diagnosis.model not in models:
        raise InputError(
            "the diagnosis is of another model",
            expected=" or ".join(models),
            got=diagnosis.model,
            cure=cure,
        )
    if diagnosis.sha256 and diagnosis.sha256 not in {one.sha256 for one in candidates}:
        raise InputError(
            f"the diagnosis is of no graph that is compared, but of {diagnosis.variant} of another "
            f"bundle, then called '{diagnosis.bundle}'",
            cure=cure,
        )


def layer_table(diagnosis: Diagnosis) -> LayerTable:
    """The layers that were measured, by what each alone does to the saliency map.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    worst = diagnosis.worst()
    rest = [layer for layer in diagnosis.layers if layer not in set(worst)]
    largest = max((layer.saliency_error or 0.0 for layer in worst), default=0.0)
    rows = [_row(diagnosis, layer, largest) for layer in (*worst, *rest)]
    return LayerTable(
        headings=(
            "operator",
            "error it makes alone",
            "isolated, dB",
            "accumulated, dB",
            "cosine",
            "found",
        ),
        worst=tuple(rows[:MOST_LAYERS]),
        others=tuple(rows[MOST_LAYERS:]),
        drawing=_drawing(diagnosis),
    )


def _row(diagnosis: Diagnosis, layer: LayerError, largest: float) -> Row:
    error = layer.saliency_error
    share = 100 * error / largest if error and largest else None
    causes = ", ".join(dict.fromkeys(one.cause for one in diagnosis.findings_of(layer.name)))
    return Row(
        layer.name,
        (
            Cell(layer.kind if layer.int8 else f"{layer.kind}, not INT8"),
            Cell("" if error is None else f"{error:.5f}", share=share),
            Cell(_decibels(layer.isolated_sqnr_db)),
            Cell(_decibels(layer.accumulated_sqnr_db)),
            Cell("" if layer.accumulated_cosine is None else f"{layer.accumulated_cosine:.4f}"),
            Cell(causes),
        ),
    )


def _decibels(value: float | None) -> str:
    if value is None:
        return ""
    return "no error" if value >= MOST_DB else f"{value:.1f}"


def _drawing(diagnosis: Diagnosis) -> str:
    series = {}
    for kind, place in SERIES.items():
        name = f"{kind}_sqnr_db"
        known = [layer for layer in diagnosis.layers if getattr(layer, name) is not None]
        if known:
            series[place] = (
                np.array([float(layer.position) for layer in known]),
                np.array([getattr(layer, name) for layer in known], np.float64),
            )
    title = "Signal to error of every layer in decibels, along the network"
    return layer_errors(title, series, _DRAWN_DB) if series else ""


@dataclass(frozen=True, slots=True)
class Precisions:
    """What a manifest knows of the precision of the nodes.

    Attributes:
        bundle: Path of the bundle.
        graphs: Nodes of each flavour by precision, in the order of :data:`PRECISIONS`.
        kept: Nodes kept out of INT8, or out of FP16 in an engine's graph: what, why, and which.
        int8: Nodes that compute on 8-bit values.
    """

    bundle: str
    graphs: tuple[tuple[str, tuple[int, ...]], ...]
    kept: tuple[tuple[str, str, tuple[str, ...]], ...]
    int8: tuple[str, ...]


def precisions_of(manifests: Mapping[str, Manifest]) -> list[Precisions]:
    """Precision by layer of every bundle that was quantized."""
    return [
        _precisions(path, manifest)
        for path, manifest in manifests.items()
        if manifest.quantization is not None or manifest.flavours
    ]


def _precisions(path: str, manifest: Manifest) -> Precisions:
    record = manifest.quantization
    kept: dict[tuple[str, str], list[str]] = {}
    for node, reason in (record.kept_fp16 if record else {}).items():
        kept.setdefault(("out of INT8", reason), []).append(node)
    for (node, reason), names in _kept_fp32(manifest).items():
        alike = _ALIKE.sub("\N{HORIZONTAL ELLIPSIS}", reason)
        kept.setdefault((f"FP32 in {', '.join(names)}", alike), []).append(node)
    return Precisions(
        bundle=path,
        graphs=tuple(
            (name, tuple(flavour.precisions.get(one, 0) for one in PRECISIONS))
            for name, flavour in manifest.flavours.items()
        ),
        kept=tuple(
            (what, reason, tuple(nodes))
            for (what, reason), nodes in sorted(kept.items(), key=lambda one: -len(one[1]))
        ),
        int8=record.int8_nodes if record else (),
    )


def _kept_fp32(manifest: Manifest) -> dict[tuple[str, str], list[str]]:
    """Flavours by node and reason: two flavours of one result mostly keep the same nodes."""
    found: dict[tuple[str, str], list[str]] = {}
    for name, flavour in manifest.flavours.items():
        for one in flavour.kept_fp32.items():
            found.setdefault(one, []).append(name)
    return found
