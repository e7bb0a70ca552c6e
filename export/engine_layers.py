"""What TensorRT really built, read from its inspector.

The inspector writes JSON that no document pins down; two forms were met.  8.5 and 8.6 name a
tensor's type within its format, ``Row major linear FP32`` or ``Thirty-two wide channel vectorized
row major Int8 format``, and what their graph compiler took over is one opaque layer,
``{ForeignNode[first...last]}``.  10 and 11 say ``Half``, list what that compiler made kernel by
kernel, and give the ONNX nodes of each in ``Metadata``.

What can be known: the precision of a layer whose tactic or tensors tell it, and its share of the
work where its name or metadata lead to layers of the network that was parsed, or where it carries
its own sizes.  What cannot: what happens inside an opaque layer.  The share is then None and not a
guess.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from edge_fusion.engine import LayerSummary

UNKNOWN, COPY = "unknown", "copy"

#: How much of the network's work may be unaccounted for before its INT8 share is not given.
UNACCOUNTED = 0.01

#: Layers that only move data, by the inspector's type.
_COPIES = frozenset({"Reformat", "NoOp", "Constant", "Shuffle", "Memcpy", "Slice", "Concat"})

#: Layers whose work is multiply-accumulates, by what their types contain.
_HEAVY = re.compile(r"conv|gemm|matmul|matrix|fullyconnected|fc$|einsum|attention|mha", re.I)

#: What a kernel's name says, surest first: an INT8 kernel that writes FP32 names both, and so does
#: an FP16 one that sums in FP32.
_TACTICS = (
    ("int8", re.compile(r"int8|imma|(?:^|_)[isu]8(?=[a-z_])", re.I)),
    ("fp8", re.compile(r"(?:^|_)(?:fp8|e4m3)", re.I)),
    ("bf16", re.compile(r"bf16", re.I)),
    ("fp16", re.compile(r"(?:^|_)(?:f16|fp16|hmma|half|h16816|h1688|h884)", re.I)),
    ("fp32", re.compile(r"(?:^|_)(?:tf32|f32|fp32|sgemm|scudnn|ffma)", re.I)),
)

#: What a tensor's type is called, most particular first.
_TYPES = (
    ("int8", re.compile(r"\bu?int8\b", re.I)),
    ("fp8", re.compile(r"\bfp8|e4m3", re.I)),
    ("bf16", re.compile(r"\bbf(?:loat)?16\b", re.I)),
    ("fp16", re.compile(r"\b(?:fp16|half|float16)\b", re.I)),
    ("fp32", re.compile(r"\b(?:fp32|float|float32)\b", re.I)),
    ("integer", re.compile(r"\b(?:int32|int64|bool)\b", re.I)),
)
_NARROW_FIRST = ("int8", "fp8", "fp16", "bf16", "fp32", "integer")

_ONNX_LAYER = re.compile(r"\[ONNX Layer: ([^\]]+)\]")
_JOINTS = re.compile(r" \+ | \|\| ")

Layer = Mapping[str, Any]


def summarise(report: str, macs: Mapping[str, int | None]) -> LayerSummary:
    """Layers by precision, and the share of the work that runs in INT8.

    Args:
        report: What the inspector said of the engine, JSON; of any form.
        macs: Multiply-accumulates of the network's layers by name, from
            :func:`edge_fusion.export.engine_network.count_macs`.

    Returns:
        ``layers`` counts ``int8``, ``fp16``, ``bf16``, ``fp32``, ``integer``, ``copy`` for what
        only moves data, and ``unknown``.

    Example:
        >>> layer = {"Name": "c", "LayerType": "CaskConvolution", "TacticName": "sm80_i8i8_i8i32"}
        >>> summarise(json.dumps({"Layers": [layer]}), {"c": 100})
        LayerSummary(layers={'int8': 1}, int8_mac_share=1.0)
    """
    layers = inspected_layers(report)
    precisions = [precision_of(layer) for layer in layers]
    return LayerSummary(
        layers=dict(Counter(precisions)),
        int8_mac_share=_int8_share(layers, precisions, macs),
    )


def inspected_layers(report: str) -> list[Layer]:
    """The layers in an inspector's report; a layer that is a bare name becomes ``{"Name": ...}``.

    A report of another form holds none.
    """
    try:
        content = json.loads(report)
    except (ValueError, RecursionError):
        return []
    entries = content.get("Layers") if isinstance(content, dict) else content
    if not isinstance(entries, list):
        return []
    return [
        entry if isinstance(entry, dict) else {"Name": str(entry)}
        for entry in entries
        if isinstance(entry, dict | str)
    ]


def precision_of(layer: Layer) -> str:
    """What one layer computes in; ``copy`` where it computes nothing, ``unknown`` where untold.

    Example:
        >>> precision_of({"LayerType": "gemm", "Inputs": [{"Format/Datatype": "Half"}]})
        'fp16'
    """
    if layer.get("LayerType") in _COPIES:
        return COPY
    tactic = str(layer.get("TacticName") or "")
    for name, pattern in _TACTICS:
        if pattern.search(tactic):
            return name
    if _opaque(layer):
        return UNKNOWN
    inputs, outputs = _types(layer.get("Inputs")), _types(layer.get("Outputs"))
    if _heavy(layer):
        # The activations that go in decide; what comes out may be rescaled already.
        return _first(_NARROW_FIRST, inputs or outputs)
    floats = [name for name in (*inputs, *outputs) if name != "integer"]
    return _first(_NARROW_FIRST[::-1], floats or (*inputs, *outputs))


def _first(order: Iterable[str], present: Iterable[str]) -> str:
    held = set(present)
    return next((name for name in order if name in held), UNKNOWN)


def _opaque(layer: Layer) -> bool:
    """Whether a layer is a region of the graph compiler of 8.x, of which only the ends are told."""
    return "ForeignNode[" in str(layer.get("Name")) or layer.get("LayerType") == "Myelin"


def _heavy(layer: Layer) -> bool:
    kinds = (layer.get("LayerType"), layer.get("ParameterType"))
    return any(_HEAVY.search(str(kind)) for kind in kinds if kind)


def _types(tensors: object) -> tuple[str, ...]:
    texts = [
        str(tensor.get("Format/Datatype") or tensor.get("Datatype") or "")
        for tensor in (tensors if isinstance(tensors, list) else ())
        if isinstance(tensor, dict)
    ]
    named = (next((n for n, p in _TYPES if p.search(text)), None) for text in texts)
    return tuple(name for name in named if name is not None)


# --- the share of the work -----------------------------------------------------------------------


def _int8_share(
    layers: list[Layer], precisions: list[str], macs: Mapping[str, int | None]
) -> float | None:
    """INT8's part of all multiply-accumulates; None where too much of them is unaccounted for."""
    total = _known_total(macs)
    if total is None:
        return None
    left = dict(macs)
    accounted = eight_bit = 0
    for layer, precision in zip(layers, precisions, strict=True):
        if precision in (COPY, UNKNOWN):
            continue
        named = [left.pop(node) for node in _nodes(layer) if node in left]
        work = sum(count or 0 for count in named) if named else _own_macs(layer) or 0
        accounted += work
        eight_bit += work if precision == "int8" else 0
    if abs(accounted - total) > UNACCOUNTED * total:
        return None
    return min(1.0, eight_bit / accounted)


def _known_total(macs: Mapping[str, int | None]) -> int | None:
    counts = [count for count in macs.values() if count is not None]
    return sum(counts) if len(counts) == len(macs) and sum(counts) > 0 else None


def _nodes(layer: Layer) -> list[str]:
    """The layers of the network that were fused into this one."""
    named = _JOINTS.split(str(layer.get("Name") or ""))
    return list(dict.fromkeys((*_ONNX_LAYER.findall(str(layer.get("Metadata") or "")), *named)))


def _own_macs(layer: Layer) -> int | None:
    """What a layer's own sizes say: its weights' count, or the shapes of a matrix product."""
    if not _heavy(layer):
        return None
    left, result = _shape(layer.get("Inputs")), _shape(layer.get("Outputs"))
    if left is None or result is None or len(left) < 2 or len(result) < 2:
        return None
    weights = layer.get("Weights")
    count = weights.get("Count") if isinstance(weights, dict) else None
    if isinstance(count, int):
        back = "Deconv" in f"{layer.get('ParameterType')}{layer.get('LayerType')}"
        over = left if back else result
        return count * math.prod(over) // over[1]
    if len(layer["Inputs"]) < 2:
        return None
    return math.prod(result) * math.prod(left[-2:]) // result[-2]


def _shape(tensors: object) -> tuple[int, ...] | None:
    """The sizes of the first tensor of a list; None where they are not all known."""
    if not isinstance(tensors, list) or not tensors or not isinstance(tensors[0], dict):
        return None
    sizes = tensors[0].get("Dimensions")
    if not isinstance(sizes, list) or not all(isinstance(s, int) and s > 0 for s in sizes):
        return None
    return tuple(sizes)
