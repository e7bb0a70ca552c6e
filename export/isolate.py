"""A network of which only some layers compute in INT8: what each one costs is seen on its own.

The float graph and the INT8 graph made from it hold the same nodes under the same names and with
the same outputs; quantization only stands between them, as QuantizeLinear and DequantizeLinear in
front of the inputs of the nodes that compute on 8-bit values.  So a mixed network is the float
one in which the chosen nodes read what their INT8 selves read.  One quantized tensor may have
several readers, chosen and not: each reader decides for itself.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import onnx
from onnx import TensorProto

from edge_fusion.errors import ModelError

from .graph import DEQUANTIZE, MOVES, QUANTIZE, SELECTS, bodies

_QDQ = (QUANTIZE, DEQUANTIZE)
# These do not compute: quantization passes through them to whoever reads their output.
_PASSES = MOVES | SELECTS
_SHOWN = 3  # nodes named in one error


def quantizable(int8_model: onnx.ModelProto) -> tuple[str, ...]:
    """The nodes of a quantized graph that compute on 8-bit values.

    Operators that only move or choose values, such as Transpose and Concat, are no layers of their
    own: they belong to whoever reads them, except where they are the graph's output.

    Args:
        int8_model: A graph with QuantizeLinear and DequantizeLinear.

    Returns:
        Names in graph order; none for a float graph.
    """
    return tuple(_name(node) for node in _int8_nodes(int8_model))


def with_int8(
    fp32_model: onnx.ModelProto, int8_model: onnx.ModelProto, names: Iterable[str]
) -> onnx.ModelProto:
    """The float network in which the named nodes alone compute in INT8.

    Args:
        fp32_model: The float graph.
        int8_model: The same graph quantized: the source of every scale and 8-bit weight.
        names: Nodes out of :func:`quantizable`; none gives the float network, all of them the
            quantized one.

    Returns:
        A graph of its own; neither argument is changed.

    Raises:
        ModelError: The graphs are not the same network, or a name is none of a layer that
            computes in INT8.

    Example:
        >>> alone = with_int8(fp32, int8, ["decoder.conv/Conv"])  # doctest: +SKIP
    """
    int8_nodes = check_pair(fp32_model, int8_model)
    chosen = set(names)
    unknown = sorted(chosen - set(int8_nodes))
    if unknown:
        raise ModelError(
            f"node '{unknown[0]}' does not compute in INT8",
            expected=f"one of {len(int8_nodes)} such as {_quoted(int8_nodes)}",
            cure="quantizable(int8_model) lists them",
        )
    return _Mixture(fp32_model, int8_model).build(chosen)


def check_pair(fp32_model: onnx.ModelProto, int8_model: onnx.ModelProto) -> tuple[str, ...]:
    """Insist that one graph is the other one quantized; return its layers that are INT8.

    Raises:
        ModelError: A node of either has no counterpart, inputs or outputs differ, or nothing is
            quantized.
    """
    plain = {_signature(node) for node in fp32_model.graph.node}
    rest = {_signature(node) for node in int8_model.graph.node if node.op_type not in _QDQ}
    lonely = sorted(plain ^ rest)
    if lonely:
        name, kind, _ = lonely[0]
        side = "FP32" if lonely[0] in plain else "INT8"
        raise ModelError(
            f"the FP32 and the INT8 graph are not the same network: {kind} '{name}' is only in "
            f"the {side} graph",
            expected="the same nodes and tensors apart from QuantizeLinear and DequantizeLinear",
            cure="take both from one bundle",
        )
    if _opsets(fp32_model) != _opsets(int8_model):
        raise ModelError(
            "the FP32 and the INT8 graph are of different operator sets",
            expected=str(_opsets(fp32_model)),
            got=str(_opsets(int8_model)),
            cure="take both from one bundle",
        )
    found = quantizable(int8_model)
    if not found:
        raise ModelError(
            "the INT8 graph holds no node that computes on 8-bit values",
            cure="build the bundle with --precision int8",
        )
    return found


@dataclass(slots=True)
class _Mixture:
    """Builds a mixed graph: what the chosen nodes read is copied over from the INT8 graph."""

    fp32: onnx.ModelProto
    int8: onnx.ModelProto
    makers: dict[str, onnx.NodeProto] = field(init=False)
    int8_constants: dict[str, TensorProto] = field(init=False)
    eight_bit: set[str] = field(init=False)
    taken: dict[str, TensorProto] = field(init=False)
    needed: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.makers = {out: node for node in self.int8.graph.node for out in node.output if out}
        self.int8_constants = {tensor.name: tensor for tensor in self.int8.graph.initializer}
        self.eight_bit = _eight_bit(self.int8)
        self.taken = {tensor.name: tensor for tensor in self.fp32.graph.initializer}

    def build(self, chosen: Collection[str]) -> onnx.ModelProto:
        plain = {node.output[0]: node for node in self.fp32.graph.node}
        for node in self.int8.graph.node:
            if node.op_type not in _QDQ and _name(node) in chosen:
                self._need(node.input)
        nodes = []
        for node in self.int8.graph.node:  # its order holds for all that is copied from it, too
            if node.op_type in _QDQ:
                if node.output[0] in self.needed:
                    nodes.append(self._copied(node))
                continue
            nodes.append(self._chosen(node) if _name(node) in chosen else plain[node.output[0]])
            if self.needed.intersection(node.output):
                nodes.append(self._copied(node))
        mixed = onnx.ModelProto()
        mixed.CopyFrom(_without_graph(self.fp32))
        mixed.graph.name = self.fp32.graph.name
        mixed.graph.node.extend(nodes)
        mixed.graph.input.extend(self.fp32.graph.input)
        mixed.graph.output.extend(self.fp32.graph.output)
        mixed.graph.value_info.extend(self.fp32.graph.value_info)
        read = {name for node in _all_nodes(mixed.graph) for name in node.input}
        mixed.graph.initializer.extend(t for name, t in self.taken.items() if name in read)
        return mixed

    def _need(self, names: Iterable[str]) -> None:
        """Mark the quantizers and movers that make these tensors, back to float ones."""
        waiting = [name for name in names if name in self.eight_bit]
        while waiting:
            name = waiting.pop()
            if name in self.needed:
                continue
            self.needed.add(name)
            behind = self.makers[name].input
            waiting += [one for one in behind if one in self.eight_bit or self._integer(one)]

    def _integer(self, name: str) -> bool:
        maker = self.makers.get(name)
        return maker is not None and maker.op_type == QUANTIZE

    def _chosen(self, node: onnx.NodeProto) -> onnx.NodeProto:
        """A layer as the INT8 graph has it."""
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.input[:] = [self._tensor(name) for name in node.input]
        return copy

    def _copied(self, node: onnx.NodeProto) -> onnx.NodeProto:
        """A quantizer, or the twin of a mover that passes quantized values on."""
        copy = self._chosen(node)
        if node.op_type not in _QDQ:
            copy.name = _twin(node.name)
            copy.output[:] = [_twin(name) for name in node.output]
        return copy

    def _tensor(self, name: str) -> str:
        """What an input of a node copied from the INT8 graph is called in the mixed one."""
        maker = self.makers.get(name)
        if name in self.int8_constants:
            return self._constant(self.int8_constants[name])
        if name in self.needed and maker is not None and maker.op_type not in _QDQ:
            return _twin(name)
        return name

    def _constant(self, tensor: TensorProto) -> str:
        """Take a constant over, under another name where the float graph means another by it."""
        name = tensor.name
        known = self.taken.get(name)
        if known is not None and known.SerializeToString() != tensor.SerializeToString():
            name = _twin(name)
            renamed = TensorProto()
            renamed.CopyFrom(tensor)
            renamed.name = name
            tensor = renamed
        self.taken[name] = tensor
        return name


def _int8_nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    eight_bit = _eight_bit(model)
    outputs = {value.name for value in model.graph.output}
    for node in model.graph.node:
        if node.op_type in _QDQ or not eight_bit.intersection(node.input):
            continue
        if node.op_type not in _PASSES or outputs.intersection(node.output):
            yield node


def _eight_bit(model: onnx.ModelProto) -> set[str]:
    """Tensors that come from a DequantizeLinear, movers in between or not."""
    found: set[str] = set()
    for node in model.graph.node:
        passes = node.op_type in _PASSES and found.intersection(node.input)
        if node.op_type == DEQUANTIZE or passes:
            found.update(node.output)
    return found


def _without_graph(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model's opsets, version and notes; its weights are megabytes that are not copied."""
    shell = onnx.ModelProto(ir_version=model.ir_version, producer_name=model.producer_name)
    shell.opset_import.extend(model.opset_import)
    shell.functions.extend(model.functions)
    shell.metadata_props.extend(model.metadata_props)
    return shell


def _all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for body in bodies(node):
            yield from _all_nodes(body)


def _signature(node: onnx.NodeProto) -> tuple[str, str, tuple[str, ...]]:
    return _name(node), node.op_type, tuple(node.output)


def _name(node: onnx.NodeProto) -> str:
    return node.name or node.output[0]


def _opsets(model: onnx.ModelProto) -> Mapping[str, int]:
    return {item.domain: item.version for item in model.opset_import}


def _twin(name: str) -> str:
    return f"{name}/int8"


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in list(names)[:_SHOWN])
