"""A read-only view of an ONNX graph: who makes and who reads each tensor, constants and shapes.

Everything is indexed once, so that a rule which looks at every node stays linear.  Bodies of
If, Loop and Scan are part of the same flat list of nodes: ONNX forbids a body to reuse a name of
the graph around it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar, cast

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edge_fusion.errors import ModelError

from .shapes import infer_types

Array = NDArray[np.generic]
Dim = int | str | None
Shape = tuple[Dim, ...]
Value = TypeVar("Value")

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"

# Operators that multiply by a weight, where one factor is constant.
WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})

# Operators that hand on the values of their first input unchanged, so that a quantization of
# that input is a quantization of the output too.
MOVES = frozenset(
    {"DepthToSpace", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "SpaceToDepth"}
    | {"Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"}
)
# Operators that compute nothing either, but join or choose values: behind them there are 8-bit
# values still, and no longer the quantization of one input, so that no scale is followed through.
SELECTS = frozenset({"Concat", "MaxPool"})
# What may stand between a softmax and the product that reads it, without changing what it is.
_SEEN_THROUGH = MOVES | {QUANTIZE, DEQUANTIZE, "Cast", "Dropout"}
_RANDOM = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike"}
    | {"RandomUniform", "RandomUniformLike"}
)


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """One operator, with its names as tuples; compared by identity."""

    proto: onnx.NodeProto
    label: str
    op_type: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def attribute(self, name: str, default: Value) -> Value:
        """The attribute ``name``, of the type of ``default``; text is decoded."""
        for attribute in self.proto.attribute:
            if attribute.name == name:
                value: Any = helper.get_attribute_value(attribute)
                return cast(Value, value.decode() if isinstance(value, bytes) else value)
        return default

    @property
    def name(self) -> str:
        """The operator's own name, which may be empty; ``label`` never is."""
        return self.proto.name

    def input(self, index: int) -> str:
        """Name of an input, empty where the optional input is left out."""
        return self.inputs[index] if index < len(self.inputs) else ""


@dataclass(frozen=True, slots=True, eq=False)
class Quantizer:
    """One QuantizeLinear or DequantizeLinear.

    Attributes:
        node: The operator.
        data: Name of the tensor it quantizes or dequantizes.
        scale: Its scale, None where it is not a constant.
        zero: Its zero point; None where it is left out or not a constant.
        stored: The integer's element type (``TensorProto.INT8`` ...), 0 where unknown.  ONNX
            means uint8 where a QuantizeLinear names no zero point.
        constant: Whether ``data`` is computed from constants alone: a weight.
        paired: For a DequantizeLinear, whether a QuantizeLinear of this graph wrote ``data``.
    """

    node: Node
    data: str
    scale: Array | None
    zero: Array | None
    stored: int
    constant: bool
    paired: bool

    @property
    def quantizes(self) -> bool:
        """True for QuantizeLinear, False for DequantizeLinear."""
        return self.node.op_type == QUANTIZE

    @property
    def per_channel(self) -> bool:
        """Whether there is more than one scale."""
        return self.scale is not None and self.scale.size > 1

    @property
    def axis(self) -> int:
        """The axis of the scales, as written; it means nothing for a single scale."""
        return self.node.attribute("axis", 1)

    @property
    def stored_name(self) -> str:
        """The stored integer's type in words: ``uint8``."""
        return TensorProto.DataType.Name(self.stored).lower() if self.stored else "unknown"


class GraphView:
    """An index of a model; the model must not change while the view is in use.

    Args:
        model: An ONNX model with its weights inside.

    Attributes:
        nodes: Every node, bodies of control flow included, in graph order.
        opset: Version of the default operator set.
        inputs: The graph's true inputs (initialisers that are listed among them left out).
        outputs: Names of the graph's outputs.
        initializers: Every initialiser by name.
        producers: The node that makes each tensor.
        consumers: The nodes that read each tensor, once per reading node.
        inference_error: Why shapes could not be inferred, empty if they could.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.opset = opset_of(model)
        self.initializers: dict[str, TensorProto] = {}
        protos = list(self._walk(model.graph))
        self.nodes = tuple(_node(index, proto) for index, proto in enumerate(protos))
        self.inputs = tuple(v for v in model.graph.input if v.name not in self.initializers)
        self.outputs = tuple(value.name for value in model.graph.output)
        self.producers = {name: node for node in self.nodes for name in node.outputs if name}
        self.consumers: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(filter(None, node.inputs)):
                self.consumers.setdefault(name, []).append(node)
        self.inference_error = ""
        self._constants: dict[str, Array | None] = {}

    def has(self, name: str) -> bool:
        """Whether any tensor has this name."""
        known = (self.initializers, self.producers, self.consumers)
        return any(name in names for names in known) or any(v.name == name for v in self.inputs)

    def _walk(self, graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
        self.initializers.update((tensor.name, tensor) for tensor in graph.initializer)
        for proto in graph.node:
            yield proto
            for body in bodies(proto):
                yield from self._walk(body)

    def constant(self, name: str) -> Array | None:
        """The value of a constant tensor (initialiser, Constant or a copy of one), else None.

        Raises:
            ModelError: The value lies in an external file that was not loaded.
        """
        if name not in self._constants:
            self._constants[name] = self._read_constant(self._behind(name, frozenset({"Identity"})))
        return self._constants[name]

    def _read_constant(self, name: str) -> Array | None:
        tensor = self.initializers.get(name)
        producer = self.producers.get(name)
        if tensor is None and producer is not None and producer.op_type == "Constant":
            tensor = _constant_tensor(producer)
        if tensor is None:
            return None
        if tensor.data_location == TensorProto.EXTERNAL:
            raise ModelError(
                f"the value of '{name}' lies in an external file that is not loaded",
                cure="read the model by onnx.load(path), which loads it",
            )
        return numpy_helper.to_array(tensor)

    def _behind(self, name: str, seen_through: frozenset[str]) -> str:
        """The tensor that ``name`` comes from, seen through operators of these types."""
        passed: set[str] = set()  # a file may hold a cycle, which nothing has checked yet
        while name not in passed and name not in self.initializers:
            passed.add(name)
            producer = self.producers.get(name)
            if producer is None or producer.op_type not in seen_through:
                break
            name = producer.input(0)
        return name

    @cached_property
    def constants(self) -> frozenset[str]:
        """Names of all tensors computed from constants alone."""
        known = set(self.initializers)
        for node in self.nodes:
            read = [name for name in node.inputs if name]
            if node.op_type == "Constant" or (
                read and node.op_type not in _RANDOM and all(name in known for name in read)
            ):
                known.update(node.outputs)
        return frozenset(known)

    def computed(self, node: Node) -> list[str]:
        """The inputs of a node that depend on the model's inputs."""
        return [name for name in node.inputs if name and name not in self.constants]

    def weighted(self, node: Node) -> bool:
        """Whether a node multiplies one activation by one constant weight."""
        return node.op_type in WEIGHTED and any(n in self.constants for n in node.inputs[:2])

    def tokens(self, node: Node) -> int | None:
        """Over how many tokens a product of two activations attends; None where that is unknown.

        Q·Kᵀ is (M, d)·(d, N), and A·V is (M, N)·(N, d) with A behind a softmax: the tokens are M
        and N, and the channels d do not count however wide a head is.
        """
        left, right = self.shape(node.input(0)), self.shape(node.input(1))
        if not left or not right or len(left) < 2 or len(right) < 2:
            return None
        producer = self.producers.get(self._behind(node.input(0), _SEEN_THROUGH))
        weighs = producer is not None and producer.op_type == "Softmax"
        rows, columns = left[-2], (left if weighs else right)[-1]
        if isinstance(rows, int) and isinstance(columns, int):
            return max(rows, columns)
        return None

    @cached_property
    def quantizers(self) -> tuple[Quantizer, ...]:
        """Every QuantizeLinear and DequantizeLinear, in graph order."""
        stored: dict[str, int] = {}
        found = []
        for node in self.nodes:
            if node.op_type in (QUANTIZE, DEQUANTIZE) and not node.domain:
                quantizer = self._quantizer(node, stored)
                found.append(quantizer)
                if quantizer.quantizes:
                    stored[node.outputs[0]] = quantizer.stored
            elif node.op_type in MOVES and node.input(0) in stored:
                stored.update(dict.fromkeys(node.outputs, stored[node.input(0)]))
        return tuple(found)

    def _quantizer(self, node: Node, stored: dict[str, int]) -> Quantizer:
        data, zero_name = node.input(0), node.input(2)
        zero = self.constant(zero_name) if zero_name else None
        if zero is not None:
            kind = int(helper.np_dtype_to_tensor_dtype(zero.dtype))
        elif zero_name:
            kind = self.element_type(zero_name)
        elif node.op_type == QUANTIZE:
            kind = node.attribute("output_dtype", 0) or TensorProto.UINT8
        else:
            kind = stored.get(data) or self.element_type(data)
        constant = data in self.constants
        scale = self.constant(node.input(1))
        return Quantizer(node, data, scale, zero, kind, constant, data in stored)

    @cached_property
    def dequantized(self) -> dict[str, Quantizer]:
        """The DequantizeLinear behind each tensor that is quantized as it is read.

        Looks through operators that only move values, such as Transpose.
        """
        by_node = {id(q.node): q for q in self.quantizers if not q.quantizes}
        found: dict[str, Quantizer] = {}
        for node in self.nodes:
            source = by_node.get(id(node))
            if source is None and node.op_type in MOVES:
                source = found.get(node.input(0))
            if source is not None:
                found.update(dict.fromkeys(node.outputs, source))
        return found

    def readers(self, name: str) -> Iterator[Node | None]:
        """The nodes that use a tensor's values, seen through moves; None for a graph output."""
        queue, seen = deque([name]), {name}
        while queue:
            current = queue.popleft()
            if current in self.outputs:
                yield None
            for node in self.consumers.get(current, ()):
                if node.op_type in MOVES and node.input(0) == current:
                    queue.extend(out for out in node.outputs if out not in seen)
                    seen.update(node.outputs)
                else:
                    yield node

    @cached_property
    def _types(self) -> dict[str, onnx.TypeProto]:
        types, self.inference_error = infer_types(self.model)
        return types

    def shape(self, name: str) -> Shape | None:
        """The shape of a tensor: symbolic axes by name, unknown ones None; None if unranked."""
        if name in self.initializers:
            return tuple(self.initializers[name].dims)
        kind = self._types.get(name)
        if kind is None or not kind.tensor_type.HasField("shape"):
            return None
        return tuple(_dim(dim) for dim in kind.tensor_type.shape.dim)

    def rank(self, name: str) -> int | None:
        """Number of axes, None if unknown."""
        shape = self.shape(name)
        return None if shape is None else len(shape)

    def unranked(self) -> Iterator[Node]:
        """Nodes at which shape inference gives up: ranks are known before and not behind them."""
        top = {name for proto in self.model.graph.node for name in proto.output}
        for node in self.nodes:
            outputs = [name for name in node.outputs[:1] if name in top]
            lost = any(self.rank(name) is None for name in outputs)
            if lost and all(self.rank(name) is not None for name in node.inputs if name):
                yield node

    def element_type(self, name: str) -> int:
        """The ``TensorProto`` element type of a tensor, 0 if unknown."""
        if name in self.initializers:
            return self.initializers[name].data_type
        kind = self._types.get(name)
        return kind.tensor_type.elem_type if kind is not None else 0


def opset_of(model: onnx.ModelProto) -> int:
    """Version of a model's default operator set, 0 where it names none.

    Example:
        >>> opset_of(onnx.ModelProto(opset_import=[helper.make_opsetid("", 18)]))
        18
    """
    versions = (item.version for item in model.opset_import if item.domain in ("", "ai.onnx"))
    return int(next(versions, 0))


def bodies(proto: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs inside a node: the branches of If, the bodies of Loop and Scan."""
    for attribute in proto.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == onnx.AttributeProto.GRAPHS:
            yield from attribute.graphs


def label_of(index: int, proto: onnx.NodeProto) -> str:
    """What a node is called in messages: its name, or ``#12 Conv -> y`` where it has none."""
    return proto.name or f"#{index} {proto.op_type} -> {', '.join(proto.output[:1])}"


def _node(index: int, proto: onnx.NodeProto) -> Node:
    domain = "" if proto.domain == "ai.onnx" else proto.domain
    names = tuple(proto.input), tuple(proto.output)
    return Node(proto, label_of(index, proto), proto.op_type, domain, *names)


def _constant_tensor(node: Node) -> TensorProto | None:
    for attribute in node.proto.attribute:
        if attribute.name == "value":
            return cast(TensorProto, attribute.t)
        if attribute.name in ("value_float", "value_floats", "value_int", "value_ints"):
            kind = np.float32 if "float" in attribute.name else np.int64
            return numpy_helper.from_array(np.asarray(helper.get_attribute_value(attribute), kind))
    return None


def _dim(dim: onnx.TensorShapeProto.Dimension) -> Dim:
    if dim.HasField("dim_value"):
        return dim.dim_value
    return dim.dim_param or None
