"""Fold constants and remove what does nothing, so that weights are weights."""

from __future__ import annotations

import contextlib
import io
import warnings
from dataclasses import dataclass

import onnx
import onnxslim
from onnx import shape_inference

from edge_fusion.errors import ModelError, StepError
from edge_fusion.runtime.ort import first_line

from .naming import name_nodes

# On static shapes these turn every 3-D MatMul + Add into Reshape + Gemm + Reshape: 54 nodes more in
# a small transformer, and a weight axis that TensorRT's quantization rules do not cover.
_SKIPPED = ["FusionGemm", "FusionGemmAdd", "FusionGemmMul"]


@dataclass(frozen=True, slots=True, eq=False)
class PassResult:
    """What a pass over a graph gave.

    Attributes:
        model: The new model; the one passed in is never changed.
        modified: Whether the two differ.
        nodes_before: Number of nodes passed in.
        nodes_after: Number of nodes left.
    """

    model: onnx.ModelProto
    modified: bool
    nodes_before: int
    nodes_after: int


def simplify(model: onnx.ModelProto) -> PassResult:
    """Simplify a float graph without changing what it computes.

    Constants are folded into initialisers, duplicates shared, no-ops removed.  Quantization needs
    it: weights behind Identity or Constant nodes would be quantized as activations, or stay float.

    Args:
        model: A checked model of fixed shapes.

    Returns:
        The simplified, checked model; names of the nodes that stay are kept.

    Raises:
        StepError: The simplifier failed, or what it gave is not valid or has other inputs or
            outputs.

    Example:
        >>> simplify(model).nodes_after  # doctest: +SKIP
        339
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)  # the simplifier edits what it is given
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore", DeprecationWarning)
            slimmed = onnxslim.slim(copy, skip_fusion_patterns=_SKIPPED)
    except Exception as err:  # it raises bare Exception
        raise StepError("the simplifier failed", got=first_line(err)) from err
    try:
        slimmed = shape_inference.infer_shapes(
            name_nodes(slimmed), check_type=True, strict_mode=True, data_prop=True
        )
        onnx.checker.check_model(slimmed, full_check=True)
    except (onnx.checker.ValidationError, shape_inference.InferenceError) as err:
        raise StepError("the simplifier left an invalid graph", got=first_line(err)) from err
    before, after = _face(model), _face(slimmed)
    unused = {name for name, _ in before} - {name for name, _ in after}
    if unused and len(after) < len(before):
        raise ModelError(
            f"the network does not use its input {', '.join(map(repr, sorted(unused)))}",
            expected="a network that fuses both streams",
        )
    if before != after:
        raise StepError(
            "the simplifier changed the graph's face", expected=str(before), got=str(after)
        )
    return PassResult(
        model=slimmed,
        modified=_content(slimmed) != _content(model),
        nodes_before=len(model.graph.node),
        nodes_after=len(slimmed.graph.node),
    )


def _content(model: onnx.ModelProto) -> tuple[list[bytes], set[str]]:
    """What a graph computes: its nodes in order and the names of its weights."""
    nodes = [node.SerializeToString(deterministic=True) for node in model.graph.node]
    return nodes, {tensor.name for tensor in model.graph.initializer}


def _face(model: onnx.ModelProto) -> list[tuple[str, tuple[int, ...]]]:
    """Name and shape of every input and output."""
    return [
        (value.name, tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim))
        for value in (*model.graph.input, *model.graph.output)
    ]
