"""Rewrite a quantized graph into the one Q/DQ form that TensorRT reads as it was meant.

A quantizer that targets CPUs stores what follows a ReLU or a softmax as uint8.  TensorRT has no
uint8 arithmetic: it refuses such a node or, worse, reads it as int8 *with the same scale*, which
clips everything above half of the range.  This pass rewrites

* uint8 activations with zero point 0 to int8 with ``scale * 255 / 127``: the same range, at half
  the resolution;
* a missing zero point to an explicit one (ONNX means uint8 where QuantizeLinear names none);
* several equal activation scales to one;
* negative axes to positive ones;
* identical Q/DQ of one tensor to a single one;
* nearly equal scales of a Concat's inputs to one (:mod:`.legalise_concat`);

and drops what that leaves behind.  What cannot be rewritten without changing the result is
refused, naming the nodes.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, MutableSequence, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edge_fusion.errors import StepError

from .graph import DEQUANTIZE, QUANTIZE, Array, GraphView, Quantizer, bodies, label_of
from .legalise_concat import share_concat_scales

_UINT8_TO_INT8 = 255 / 127  # the same largest value: 255 * scale = 127 * new scale
_SHOWN = 8  # nodes named in one error


@dataclass(frozen=True, slots=True)
class Change:
    """One thing the pass did: ``kind`` (a key of the summary), the node, and what happened."""

    kind: str
    node: str
    what: str


@dataclass(frozen=True, slots=True)
class LegaliseResult:
    """What :func:`legalise` returns.

    Attributes:
        model: The legal model, sharing nothing with the input.
        modified: Whether anything had to be changed.
        changes: Every change, in graph order.
    """

    model: onnx.ModelProto
    modified: bool
    changes: tuple[Change, ...]

    def summary(self) -> dict[str, int]:
        """How many changes of each kind there were."""
        return dict(Counter(change.kind for change in self.changes))


def legalise(model: onnx.ModelProto) -> LegaliseResult:
    """Rewrite every QuantizeLinear and DequantizeLinear into the form TensorRT reads rightly.

    Afterwards activations are int8 per tensor, weights int8 per tensor or channel, and every
    zero point is written out and zero.  Nodes that are not Q/DQ stay as they are.

    Args:
        model: A model with Q/DQ nodes and its weights inside; it is not changed.

    Raises:
        StepError: A node cannot be rewritten without changing the result: uint8 weights, a zero
            point that is not zero, different scales per activation channel, a scale that is not
            a constant, or a uint8 tensor that leaves the Q/DQ pair.

    Example:
        >>> from onnx import parser
        >>> model = parser.parse_model('''
        ...     <ir_version: 8, opset_import: ["": 17]>
        ...     g (float[1, 4] x) => (float[1, 4] y) <float s = {0.1}, uint8 z = {0}> {
        ...         q = QuantizeLinear (x, s, z)
        ...         y = DequantizeLinear (q, s, z)
        ...     }''')
        >>> legalise(model).summary()
        {'uint8 to int8': 2, 'dropped': 2}
    """
    legal = onnx.ModelProto()
    legal.CopyFrom(model)
    view = GraphView(legal)
    for refusal in REFUSALS:
        refusal.check(view)
    constants = _Constants(view)
    changes = [change for q in view.quantizers for change in _rewrite(q, constants)]
    rewritten = {change.node for change in changes}
    retyped = {q.node.outputs[0] for q in view.quantizers if q.node.label in rewritten}
    changes += _merge(legal.graph, constants)
    changes += [Change("shared scale", *change) for change in share_concat_scales(legal)]
    changes += _prune(legal.graph, retyped)
    return LegaliseResult(legal, bool(changes), tuple(changes))


# --- what is refused -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Refusal:
    """A form that has no equivalent TensorRT could read: what it is, and what to do instead."""

    what: str
    expected: str
    cure: str
    applies: Callable[[GraphView, Quantizer], bool]

    def check(self, view: GraphView) -> None:
        """Raise if any node has this form, naming the nodes."""
        found = [q.node.label for q in view.quantizers if self.applies(view, q)]
        if found:
            more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
            raise StepError(
                f"legalise: {self.what}",
                expected=self.expected,
                got=", ".join(found[:_SHOWN]) + more,
                cure=self.cure,
            )


def _not_constant(view: GraphView, q: Quantizer) -> bool:
    return q.scale is None or (bool(q.node.input(2)) and q.zero is None)


def _shifted(view: GraphView, q: Quantizer) -> bool:
    return q.zero is not None and bool(np.any(q.zero))


def _uint8_weight(view: GraphView, q: Quantizer) -> bool:
    return q.stored == TensorProto.UINT8 and not q.quantizes and q.constant and not q.paired


def _leaks(view: GraphView, q: Quantizer) -> bool:
    if q.stored != TensorProto.UINT8:
        return False
    if not q.quantizes:
        return not q.paired
    readers = view.readers(q.node.outputs[0])
    return any(reader is None or reader.op_type != DEQUANTIZE for reader in readers)


def _unequal_channels(view: GraphView, q: Quantizer) -> bool:
    if q.constant or q.scale is None or not q.per_channel:
        return False
    return bool(np.ptp(q.scale.astype(np.float64)) > 0)


REFUSALS = (
    Refusal(
        "a scale or zero point is not a constant",
        "constants",
        "run the simplifier first, or quantize with fixed scales",
        _not_constant,
    ),
    Refusal(
        "a zero point is not zero",
        "symmetric quantization",
        "quantize with QuantizationScheme.SYMMETRIC for activations and weights",
        _shifted,
    ),
    Refusal(
        "weights are stored as uint8",
        "int8 weights",
        "quantize weights with signedness_to_force=True",
        _uint8_weight,
    ),
    Refusal(
        "a uint8 tensor is used outside its QuantizeLinear and DequantizeLinear",
        "QuantizeLinear read by DequantizeLinear alone",
        "keep inputs and outputs of the graph, and every operator but Q/DQ, in floating point",
        _leaks,
    ),
    Refusal(
        "an activation has a different scale per channel",
        "one scale per activation",
        "quantize activations with per_channel=False",
        _unequal_channels,
    ),
)


# --- what is rewritten -----------------------------------------------------------------------


@dataclass(slots=True)
class _Constants:
    """Makes new scales and zero points, each once however many nodes share the old one."""

    view: GraphView
    arrays: dict[str, Array] = field(default_factory=dict)
    made: dict[tuple[object, ...], str] = field(default_factory=dict)

    def scale(self, q: Quantizer, *, rescale: bool, single: bool) -> str:
        """Name of the scale of ``q``, rescaled for int8 and cut to one value as asked."""
        old = q.node.input(1)
        if q.scale is None or not (rescale or single):
            return old
        value = q.scale.reshape(-1)[0] if single else q.scale
        if rescale:
            value = (value.astype(np.float64) * _UINT8_TO_INT8).astype(q.scale.dtype)
        return self._make((old, rescale, single), f"{old}_int8", np.asarray(value))

    def zero(self, shape: tuple[int, ...]) -> str:
        """Name of an int8 zero point of this shape."""
        suffix = "x".join(map(str, shape))
        name = f"zero_int8_{suffix}" if suffix else "zero_int8"
        return self._make(("zero", shape), name, np.zeros(shape, np.int8))

    def _make(self, key: tuple[object, ...], wish: str, value: Array) -> str:
        if key not in self.made:
            names = (f"{wish}_{count}" if count else wish for count in itertools.count())
            name = next(n for n in names if n not in self.arrays and not self.view.has(n))
            self.made[key], self.arrays[name] = name, value
            self.view.model.graph.initializer.append(numpy_helper.from_array(value, name))
        return self.made[key]

    def value_key(self, name: str) -> object:
        """Equal for constants of equal value, otherwise for the same tensor."""
        value = self.arrays.get(name)
        if value is None:
            value = self.view.constant(name) if name else None
        return name if value is None else (value.dtype.str, value.shape, value.tobytes())


def _rewrite(q: Quantizer, constants: _Constants) -> Iterator[Change]:
    """Bring one node into legal form."""
    if q.scale is None or q.stored not in (TensorProto.INT8, TensorProto.UINT8):
        return
    proto, label = q.node.proto, q.node.label
    rescale = q.stored == TensorProto.UINT8
    single = q.per_channel and not q.constant
    if q.per_channel and not single and q.axis < 0:
        axis = _positive_axis(q, constants.view)
        _drop_attributes(proto, {"axis"})
        proto.attribute.append(helper.make_attribute("axis", axis))
        yield Change("axis", label, f"counted from the front: {axis}")
    if not (rescale or single or q.zero is None):
        return
    zero = constants.zero(() if single else q.scale.shape)
    proto.input[1] = constants.scale(q, rescale=rescale, single=single)
    if len(proto.input) > 2:
        proto.input[2] = zero
    else:
        proto.input.append(zero)
    _drop_attributes(proto, {"output_dtype"} | ({"axis"} if single else set()))
    if rescale:
        yield Change("uint8 to int8", label, "scale * 255 / 127")
    elif q.zero is None:
        yield Change("zero point", label, "int8 zero point written out")
    if single:
        yield Change("one scale", label, f"{q.scale.size} equal scales became one")


def _positive_axis(q: Quantizer, view: GraphView) -> int:
    rank = view.rank(q.data)
    if rank is None:
        raise StepError(
            f"legalise: the axis of '{q.node.label}' is negative and its input has no known rank",
            expected="an axis counted from the front",
            got=f"axis {q.axis} of '{q.data}'",
            cure="run the simplifier first, which writes down shapes",
        )
    return q.axis + rank


def _drop_attributes(proto: onnx.NodeProto, names: set[str]) -> None:
    kept = [attribute for attribute in proto.attribute if attribute.name not in names]
    if len(kept) < len(proto.attribute):
        del proto.attribute[:]
        proto.attribute.extend(kept)


# --- what becomes superfluous ----------------------------------------------------------------


def _merge(graph: onnx.GraphProto, constants: _Constants) -> Iterator[Change]:
    """Make equal Q/DQ of one tensor one node.

    A quantizer gives every reader of a tensor its own Q/DQ; TensorRT would then quantize the
    tensor once for each.
    """
    outputs = {value.name for value in graph.output}
    first: dict[object, onnx.NodeProto] = {}
    renamed: dict[str, str] = {}
    doubles = []
    for index, proto in enumerate(graph.node):
        _rename(proto, renamed)
        if proto.op_type not in (QUANTIZE, DEQUANTIZE) or proto.output[0] in outputs:
            continue
        twin = first.setdefault(_merge_key(proto, constants), proto)
        if twin is not proto:
            renamed[proto.output[0]] = twin.output[0]
            doubles.append(index)
            yield Change("merged", label_of(index, proto), f"equal to '{twin.output[0]}'")
    _delete(graph.node, doubles)


def _merge_key(proto: onnx.NodeProto, constants: _Constants) -> object:
    attributes = sorted(attribute.SerializeToString() for attribute in proto.attribute)
    parameters = (constants.value_key(name) for name in proto.input[1:])
    return (proto.op_type, proto.domain, proto.input[0], *parameters, *attributes)


def _rename(proto: onnx.NodeProto, renamed: dict[str, str]) -> None:
    for index, name in enumerate(proto.input):
        if name in renamed:
            proto.input[index] = renamed[name]
    for body in bodies(proto):
        for inner in body.node:
            _rename(inner, renamed)


def _prune(graph: onnx.GraphProto, retyped: set[str]) -> Iterator[Change]:
    """Drop constants that nothing reads, and types of tensors that changed or went."""
    used = {value.name for value in graph.output} | set(_read(graph))
    nodes = [
        index
        for index, node in enumerate(graph.node)
        if node.op_type == "Constant" and node.output[0] not in used
    ]
    tensors = [i for i, tensor in enumerate(graph.initializer) if tensor.name not in used]
    unused = {graph.initializer[i].name for i in tensors}
    unused |= {graph.node[i].output[0] for i in nodes}
    _delete(graph.node, nodes)
    _delete(graph.initializer, tensors)
    _delete(graph.input, [i for i, value in enumerate(graph.input) if value.name in unused])
    alive = used.union(*(node.output for node in graph.node)) - retyped
    stale = [i for i, value in enumerate(graph.value_info) if value.name not in alive]
    names = [graph.value_info[i].name for i in stale]
    _delete(graph.value_info, stale)
    yield from (Change("dropped", name, "unused constant") for name in sorted(unused))
    yield from (Change("dropped", name, "stale type") for name in names if name not in unused)


def _read(graph: onnx.GraphProto) -> Iterator[str]:
    for node in graph.node:
        yield from node.input
        for body in bodies(node):
            yield from _read(body)


def _delete(items: MutableSequence[Any], indices: Sequence[int]) -> None:
    for index in reversed(indices):
        del items[index]
