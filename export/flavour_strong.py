"""The strong flavour, for TensorRT 10 and later: precision lives in the graph.

A strongly typed engine computes each layer in the type its tensors have.  So everything that is
not INT8 becomes FP16 in the graph itself, but for the nodes that FP16 would break, which casts
keep in FP32.  Inputs and outputs stay FP32.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edge_fusion.errors import StepError
from edge_fusion.runtime.ort import first_line

from .flavour_fp16 import (
    FP16_MAX,
    FP16_SMALLEST_NORMAL,
    HalfPolicy,
    find_hazards,
    ports,
    refuse_half,
)
from .flavour_ranges import Range, top_level
from .flavour_result import FlavourResult, precision_map
from .graph import DEQUANTIZE, QUANTIZE, Array, GraphView, Node, Quantizer, bodies, opset_of
from .load import convert_opset

STRONG_OPSET = 19  # the first at which ONNX allows FP16 scales
_STRONG_IR = 9
_FP16, _FP32 = int(TensorProto.FLOAT16), int(TensorProto.FLOAT)
_SUFFIX = {_FP16: ".fp16", _FP32: ".fp32"}
# They read any type, and what they answer does not depend on it.
_TYPE_BLIND = frozenset({"Cast", "IsInf", "IsNaN", "Shape", "Size"})


def make_strong(
    model: onnx.ModelProto,
    fp32_ranges: Mapping[str, Range],
    policy: HalfPolicy | None = None,
) -> FlavourResult:
    """Write mixed precision into a graph, for a strongly typed engine.

    Args:
        model: The legalised INT8 graph, or the FP32 graph for an FP16 engine; not changed.
        fp32_ranges: From :func:`record_ranges` on the FP32 graph.
        policy: When FP16 is not safe; None takes the defaults.

    Returns:
        The graph at opset 19 or later: weights INT8 under DequantizeLinear, or FP16; scales of
        the type around them; each Q/DQ pair of one type throughout.

    Raises:
        StepError: The graph is in half precision already, its Q/DQ are not legal, its types
            cannot be inferred, or the ranges are of another graph.

    Example:
        >>> result = make_strong(int8, record_ranges(fp32, samples))  # doctest: +SKIP
        >>> result.counts()  # doctest: +SKIP
        {'fp16': 210, 'int8': 149}
    """
    refuse_half(model)
    raised = convert_opset(model, max(STRONG_OPSET, opset_of(model)))
    view = GraphView(raised)
    _check_legal(view)
    hazards = find_hazards(view, fp32_ranges, policy)
    writer = _Writer(view, hazards)
    for node in top_level(view):
        writer.write(node)
    writer.finish()
    strong = writer.model()
    try:
        onnx.checker.check_model(strong, full_check=True)
    except Exception as err:  # the C++ checker raises its own classes and bare RuntimeError
        raise StepError("the strong flavour is not valid ONNX", got=first_line(err)) from err
    return FlavourResult(
        "strong", strong, precision_map(view, hazards), hazards, tuple(writer.changes)
    )


def _check_legal(view: GraphView) -> None:
    if view.inference_error:
        raise StepError("the graph's types cannot be inferred", got=view.inference_error)
    for q in view.quantizers:
        zero_ok = q.zero is not None and not np.any(q.zero)
        if q.scale is None or not zero_ok or q.stored != TensorProto.INT8:
            raise StepError(
                f"'{q.node.label}' is not in the form the flavours are made from",
                expected="int8, a constant scale and an explicit zero point of zero",
                got=f"{q.stored_name}, scale {'constant' if q.scale is not None else 'computed'}, "
                f"zero point {'zero' if zero_ok else 'missing or not zero'}",
                cure="run legalise first",
            )


@dataclass(slots=True)
class _Writer:
    """Writes the graph node by node; casts, pairs and constants come as they are first read.

    ``read(name, kind)`` is the heart: it hands back the tensor in the wanted type, adding what is
    missing.  What a DequantizeLinear made is not cast: the pair is written again with scales of
    that type, so that TensorRT still sees a quantized operand.
    """

    view: GraphView
    hazards: Mapping[str, str]
    changes: list[str] = field(default_factory=list)
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, onnx.TensorProto] = field(default_factory=dict)
    made: dict[tuple[str, int], str] = field(default_factory=dict)
    kinds: dict[str, int] = field(default_factory=dict)
    origins: dict[str, tuple[str, int]] = field(default_factory=dict)
    pairs: dict[str, Quantizer] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.pairs.update((q.node.outputs[0], q) for q in self.view.quantizers)
        for value in self.view.inputs:
            if self.is_float(value.name):
                self.kinds[value.name] = _FP32
                self.made[value.name, _FP32] = value.name

    def is_float(self, name: str) -> bool:
        return self.view.element_type(name) == _FP32

    # --- nodes ---

    def write(self, node: Node) -> None:
        """Write one node in its precision; Q/DQ and float constants wait until they are read."""
        if node.op_type in (QUANTIZE, DEQUANTIZE):
            return
        if node.op_type == "Constant" and self.is_float(node.outputs[0]):
            return
        proto = onnx.NodeProto()
        proto.CopyFrom(node.proto)
        kind = _FP32 if node.label in self.hazards else _FP16
        fixed, follows = frozenset[int](), frozenset[int]()
        if kind == _FP16:
            found = ports(node, self.view.opset, self.is_float)
            fixed, follows = found.fixed, found.follows
        blind = node.op_type in _TYPE_BLIND and not follows
        for index, name in enumerate(node.inputs):
            wanted = self.kinds.get(name, _FP32) if blind else _FP32 if index in fixed else kind
            proto.input[index] = self.read(name, wanted)
        for body in bodies(proto):
            self._rename_captured(body, set())
        for index, name in enumerate(node.outputs):
            if name and self.is_float(name):
                proto.output[index] = self._define(name, kind if index in follows else _FP32)
        self.nodes.append(proto)

    def finish(self) -> None:
        """Bring every float output of the graph back to FP32, under its own name."""
        for name in self.view.outputs:
            made = self.read(name, _FP32 if self.is_float(name) else _FP16)
            if made != name:
                self.nodes.append(helper.make_node("Identity", [made], [name], name=f"{name}/copy"))

    def _define(self, name: str, kind: int) -> str:
        self.kinds[name] = kind
        return self._label(name, kind, primary=True)

    def _label(self, name: str, kind: int, *, primary: bool = False) -> str:
        """The name of a tensor in one type; outputs of the graph keep theirs for FP32."""
        if (name, kind) not in self.made:
            output = name in self.view.outputs
            plain = kind == _FP32 if output else primary
            wish: str = name if plain else name + _SUFFIX[kind]
            taken = set(self.made.values())
            free = (wish + "_" * extra for extra in itertools.count())
            label = next(n for n in free if n == name or not (self.view.has(n) or n in taken))
            self.made[name, kind], self.origins[label] = label, (name, kind)
        return self.made[name, kind]

    def _rename_captured(self, body: onnx.GraphProto, inner: set[str]) -> None:
        """Bodies of control flow stay FP32: what they read of the graph around them too."""
        inner = inner | {v.name for v in body.input} | {t.name for t in body.initializer}
        for proto in body.node:
            for index, name in enumerate(proto.input):
                if name and name not in inner:
                    proto.input[index] = self.read(name, _FP32)
            for nested in bodies(proto):
                self._rename_captured(nested, inner)
            inner |= set(proto.output)

    # --- tensors ---

    def read(self, name: str, kind: int) -> str:
        """A tensor in the wanted type; integers and booleans come as they are."""
        if not name:
            return ""
        if name in self.pairs:
            return self._quantized(self.pairs[name], kind)
        if not self.is_float(name):
            self._keep_constant(name)
            return name
        value = self.view.constant(name)
        if value is not None:
            return self._constant(name, value, kind)
        if (name, kind) in self.made:
            return self.made[name, kind]
        source = self.made[name, self.kinds[name]]
        cast = self._label(name, kind)
        self.nodes.append(
            helper.make_node("Cast", [source], [cast], name=f"{name}/to{_SUFFIX[kind]}", to=kind)
        )
        self.changes.append(f"cast '{name}' to {_SUFFIX[kind][1:]}")
        return cast

    def _keep_constant(self, name: str) -> None:
        tensor = self.view.initializers.get(name)
        if tensor is not None:
            self.constants.setdefault(name, tensor)

    def _constant(self, name: str, value: Array, kind: int) -> str:
        label = self._label(name, kind, primary=kind == _FP32)
        if label not in self.constants:
            kept = value if kind == _FP32 else _to_half(value)
            self.constants[label] = numpy_helper.from_array(kept, label)
        return label

    # --- quantized pairs ---

    def _quantized(self, q: Quantizer, kind: int) -> str:
        """One Q or DQ whose float side has the wanted type."""
        assert q.scale is not None  # _check_legal
        name = q.node.outputs[0]
        if (name, kind) in self.made:
            return self.made[name, kind]
        proto = onnx.NodeProto()
        proto.CopyFrom(q.node.proto)
        if q.quantizes and q.constant:
            return self._stored_weight(q, kind)
        proto.input[0] = self.read(q.data, kind)
        proto.input[1] = self._scale(q, kind)
        self._keep_constant(proto.input[2])
        if kind == _FP32:
            proto.name += _SUFFIX[kind]
        proto.output[0] = self._label(name, kind, primary=kind == _FP16)
        self.nodes.append(proto)
        return str(proto.output[0])

    def _scale(self, q: Quantizer, kind: int) -> str:
        name = q.node.input(1)
        value = self.view.constant(name)
        assert value is not None  # _check_legal
        if kind == _FP16 and float(value.min()) < FP16_SMALLEST_NORMAL:
            raise StepError(
                f"scale '{name}' of '{q.node.label}' does not fit FP16",
                expected=f"{FP16_SMALLEST_NORMAL:g} or more",
                got=f"{float(value.min()):g}",
                cure="name its reader in keep_fp32",
            )
        return self._constant(name, value, kind)

    def _stored_weight(self, q: Quantizer, kind: int) -> str:
        """A QuantizeLinear on a constant becomes the integers it would give."""
        weight, scale = self.view.constant(q.data), q.scale
        if weight is None or scale is None:
            raise StepError(
                f"the weights of '{q.node.label}' are computed by other nodes",
                expected="weights that are constants",
                cure="run the simplifier first, which folds constants",
            )
        shape = [1] * weight.ndim
        if q.per_channel:
            shape[q.axis] = -1
        levels = np.rint(weight.astype(np.float32) / scale.astype(np.float32).reshape(shape))
        name = q.node.outputs[0]
        self.made[name, _FP16] = self.made[name, _FP32] = name
        self.constants[name] = numpy_helper.from_array(
            np.clip(levels, -128, 127).astype(np.int8), name
        )
        self.changes.append(f"stored the weights of '{q.node.label}' as int8")
        return name

    # --- the model ---

    def model(self) -> onnx.ModelProto:
        """The written graph, with the types of its tensors."""
        source = self.view.model
        graph = helper.make_graph(
            self.nodes,
            source.graph.name,
            [value for value in source.graph.input if value.name not in self.view.initializers],
            list(source.graph.output),
            list(self.constants.values()),
            value_info=self._types(),
        )
        written = helper.make_model(
            graph,
            opset_imports=list(source.opset_import),
            ir_version=max(source.ir_version, _STRONG_IR),
            functions=list(source.functions),
        )
        written.metadata_props.extend(source.metadata_props)
        return written

    def _types(self) -> list[onnx.ValueInfoProto]:
        """Shapes as they were, types as they are."""
        ends = {v.name for v in (*self.view.model.graph.input, *self.view.model.graph.output)}
        written = [name for node in self.nodes for name in node.output if name not in ends]
        found = []
        for label in dict.fromkeys(written):
            name, kind = self.origins.get(label, (label, 0))
            if name in self.pairs and self.pairs[name].quantizes:
                kind = self.pairs[name].stored
            kind, shape = kind or self.view.element_type(label), self.view.shape(name)
            if kind and shape is not None:
                found.append(helper.make_tensor_value_info(label, kind, _dims(shape)))
        return found


def _dims(shape: Sequence[int | str | None]) -> list[int | str | None]:
    return list(shape)


def _to_half(value: Array) -> Array:
    """FP16, saturating: only the bounds of Clip may reach further, and mean the same."""
    wide = value.astype(np.float32)
    finite = np.isfinite(wide)
    return np.where(finite, np.clip(wide, -FP16_MAX, FP16_MAX), wide).astype(np.float16)
