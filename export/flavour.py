"""One quantization result, two flavours: the graph each family of TensorRT versions reads."""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from edge_fusion.target import Target

from .flavour_fp16 import HalfPolicy, find_hazards
from .flavour_parity import FLAVOUR_TOLERANCE, FlavourParity, check_flavour
from .flavour_ranges import Range, record_ranges
from .flavour_result import FlavourResult, NodePrecision
from .flavour_rounded import round_as_half
from .flavour_strong import make_strong
from .flavour_weak import make_weak

__all__ = [
    "FLAVOUR_TOLERANCE",
    "FlavourParity",
    "FlavourResult",
    "HalfPolicy",
    "NodePrecision",
    "Range",
    "check_flavour",
    "find_hazards",
    "make_flavour",
    "make_strong",
    "make_weak",
    "record_ranges",
    "round_as_half",
]


def make_flavour(
    model: onnx.ModelProto,
    target: Target,
    fp32_ranges: Mapping[str, Range],
    policy: HalfPolicy | None = None,
) -> FlavourResult:
    """The flavour that a target's TensorRT reads.

    Args:
        model: The legalised INT8 graph, or the FP32 graph for an engine without INT8.
        target: A board and its software.
        fp32_ranges: From :func:`record_ranges` on the FP32 graph.
        policy: When FP16 is not safe; None takes the defaults.

    Raises:
        StepError: The graph cannot be written in that flavour.

    Example:
        >>> make_flavour(int8, parse_target("orin-nano@6.2"), ranges).flavour  # doctest: +SKIP
        'strong'
    """
    if target.flavour == "strong":
        return make_strong(model, fp32_ranges, policy)
    return make_weak(model, target.tensorrt, fp32_ranges, policy)
