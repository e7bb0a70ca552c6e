"""From an ONNX file to TensorRT's network: one path for 8.5 to 11, by names that all of them know.

Enumerations are used by name, never by number: the numbers move between majors.  What a version
lacks is found by its absence, not by comparing versions.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from edge_fusion.errors import StepError
from edge_fusion.runtime.trt_api import TensorRT
from edge_fusion.target import Flavour

from .engine_graph import node_names

SHOWN_ERRORS = 5

_MARKS = re.compile(r"(?<=.)[._]")  # after a node's name in that of one of its layers

#: What each flavour asks of ``create_network``.  8.x takes ONNX in explicit batch alone; 10 must be
#: told to keep the graph's types; 11 does so always and may have neither name.
_NETWORK_FLAG: dict[Flavour, str] = {"strong": "STRONGLY_TYPED", "weak": "EXPLICIT_BATCH"}


@dataclass(frozen=True, slots=True)
class ParsedNetwork:
    """A network ready to be built.

    Attributes:
        builder: What makes its plan.
        network: The network.
        parser: Never used again, but the network's weights lie in its memory.
        nodes: Names of the nodes it was parsed from.
        macs: Multiply-accumulates of each layer that has any; None where its form does not tell.
    """

    builder: Any
    network: Any
    parser: Any
    nodes: Collection[str]
    macs: Mapping[str, int | None]


def parse_network(api: TensorRT, flavour: Flavour, model: bytes, file: str) -> ParsedNetwork:
    """Parse an ONNX file into a network.

    Args:
        api: TensorRT.
        flavour: Which kind of graph this is.
        model: The file's contents.
        file: Its name, for messages.

    Raises:
        StepError: TensorRT does not start, or refuses the file; every error is named with its
            node and reason.
    """
    trt, mark = api.module, api.log.mark()
    builder = _builder(api)
    network = builder.create_network(_network_flags(trt, flavour))
    if network is None:
        raise StepError("TensorRT did not create a network", got=api.log.errors(mark))
    parser = trt.OnnxParser(network, api.logger)
    if not parser.parse(model):
        raise _refused(api, parser, model, file, mark)
    free = [
        f"'{tensor.name}' {tuple(tensor.shape)}"
        for tensor in (network.get_input(index) for index in range(network.num_inputs))
        if any(size < 0 for size in tensor.shape)
    ]
    if free:
        raise StepError(
            f"the inputs of {file}",
            expected="fixed sizes",
            got=", ".join(free),
            cure="build the bundle again on the workstation, which fixes free axes",
        )
    nodes = frozenset(node.name for node in node_names(model))
    return ParsedNetwork(builder, network, parser, nodes, count_macs(trt, network))


def pin_to_fp32(trt: Any, parsed: ParsedNetwork, names: Collection[str]) -> int:
    """Keep layers of a weakly typed network out of FP16.

    A layer that reads 8-bit values computes in INT8 whatever its outputs are, and stays free.

    Args:
        trt: The ``tensorrt`` module, below 11.
        parsed: The network.
        names: Nodes that FP16 would break.

    Returns:
        How many layers were pinned.

    Raises:
        StepError: A node has no layer of its name, so that nothing would hold it.
    """
    network = parsed.network
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    eight_bit = {layer.get_output(0).name for layer in layers if layer.type.name == "DEQUANTIZE"}
    found: set[str] = set()
    pinned = 0
    for layer in layers:
        node = _kept_node(layer.name, names, parsed.nodes)
        if node is None:
            continue
        found.add(node)
        inputs = (layer.get_input(index) for index in range(layer.num_inputs))
        if not any(tensor is not None and tensor.name in eight_bit for tensor in inputs):
            pinned += _pin(trt, layer)
    lost = sorted(set(names) - found)
    if lost:
        raise StepError(
            f"TensorRT {trt.__version__} has no layer for {', '.join(lost[:SHOWN_ERRORS])}",
            expected="a layer to keep in FP32, because FP16 would break it",
            cure="build with --precision fp32",
        )
    return pinned


def count_macs(trt: Any, network: Any) -> dict[str, int | None]:
    """Multiply-accumulates of each layer of a network that has any, by name.

    Args:
        trt: The ``tensorrt`` module.
        network: The network, of fixed sizes.

    Returns:
        None for a layer whose form does not tell, such as an Einsum.
    """
    layers = (network.get_layer(index) for index in range(network.num_layers))
    return {
        layer.name: _COUNTERS[layer.type.name](trt, layer)
        for layer in layers
        if layer.type.name in _COUNTERS
    }


def owner(layer: str, nodes: Collection[str]) -> str | None:
    """The node that a layer of TensorRT's network was made from.

    A layer has its node's name.  The parser numbers the further ones, ``name_0``, which may look
    like another node, so that of all nodes the longest counts.

    Args:
        layer: The layer's name.
        nodes: Names of all nodes of the file.

    Returns:
        None for a layer of no node, such as what the parser adds on its own.

    Example:
        >>> owner("head/Mul_1_0", {"head/Mul", "head/Mul_1"})
        'head/Mul_1'
    """
    ends = [len(layer), *(mark.start() for mark in reversed([*_MARKS.finditer(layer)]))]
    return next((layer[:end] for end in ends if layer[:end] in nodes), None)


# --- layers ----------------------------------------------------------------------------------


def _convolution(trt: Any, layer: Any) -> int | None:
    return _weights(trt, layer, "IConvolutionLayer", layer.get_output(0))


def _deconvolution(trt: Any, layer: Any) -> int | None:
    return _weights(trt, layer, "IDeconvolutionLayer", layer.get_input(0))


def _fully_connected(trt: Any, layer: Any) -> int | None:
    return _weights(trt, layer, "IFullyConnectedLayer", layer.get_output(0))


def _weights(trt: Any, layer: Any, kind: str, positions: Any) -> int | None:
    """Every weight once at each position of the tensor whose channels the kernel runs over."""
    kernel = layer.get_input(1) if layer.num_inputs > 1 else None
    if kernel is not None:
        count = math.prod(kernel.shape)
    else:
        # A network hands its layers out as ILayer, which has no kernel; this is the binding's cast.
        layer.__class__ = getattr(trt, kind)
        count = int(layer.kernel.size)
    shape: tuple[int, ...] = tuple(positions.shape)
    return count * math.prod(shape) // shape[1] if len(shape) > 1 and shape[1] > 0 else None


def _matrix_multiply(trt: Any, layer: Any) -> int | None:
    """Each result takes as many as the left matrix has elements a row, transposed or not."""
    left: tuple[int, ...] = tuple(layer.get_input(0).shape)
    result: tuple[int, ...] = tuple(layer.get_output(0).shape)
    if len(left) < 2 or len(result) < 2 or result[-2] < 1:
        return None
    return math.prod(result) * math.prod(left[-2:]) // result[-2]


def _unknown(trt: Any, layer: Any) -> int | None:
    return None


_COUNTERS: dict[str, Callable[[Any, Any], int | None]] = {
    "CONVOLUTION": _convolution,
    "DECONVOLUTION": _deconvolution,
    "FULLY_CONNECTED": _fully_connected,
    "MATRIX_MULTIPLY": _matrix_multiply,
    "EINSUM": _unknown,
    "PLUGIN_V2": _unknown,
    "PLUGIN_V3": _unknown,
    "ATTENTION": _unknown,
    "ATTENTION_INPUT": _unknown,
}


def _kept_node(layer: str, names: Collection[str], nodes: Collection[str]) -> str | None:
    """Which of the nodes ``names`` a layer was made from; what we wrote out is ``name.part``."""
    node = owner(layer, nodes)
    return None if node is None else whole_of(node, names)


def whole_of(node: str, names: Collection[str]) -> str | None:
    """Which of ``names`` a node is, or was written out as a part of: ``name.part``."""
    wholes = (name for name in names if node == name or node.startswith(f"{name}."))
    return max(wholes, key=len, default=None)


def _pin(trt: Any, layer: Any) -> int:
    floats = [
        index
        for index in range(layer.num_outputs)
        if layer.get_output(index).dtype == trt.DataType.FLOAT
    ]
    if not floats:
        return 0
    layer.precision = trt.DataType.FLOAT
    for index in floats:
        layer.set_output_type(index, trt.DataType.FLOAT)
    return 1


# --- the builder and its parser ----------------------------------------------------------------


def _builder(api: TensorRT) -> Any:
    mark = api.log.mark()
    try:
        return api.module.Builder(api.logger)
    except TypeError as err:  # what pybind makes of a null pointer
        raise StepError(
            f"TensorRT {api.version_text} does not start",
            got=api.log.errors(mark),
            cure="engines are built on the device they run on: is its GPU visible here?",
        ) from err


def _network_flags(trt: Any, flavour: Flavour) -> int:
    flag = getattr(trt.NetworkDefinitionCreationFlag, _NETWORK_FLAG[flavour], None)
    return 0 if flag is None else 1 << int(flag)


def _refused(api: TensorRT, parser: Any, model: bytes, file: str, mark: int) -> StepError:
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    said = list(dict.fromkeys(_parser_error(error, model) for error in errors))
    if len(said) > SHOWN_ERRORS:
        said[SHOWN_ERRORS:] = [f"and {len(said) - SHOWN_ERRORS} more"]
    return StepError(
        f"TensorRT {api.version_text} refuses {file}",
        got="; ".join(said) or api.log.errors(mark),
        cure="see what is wrong, and how to cure it: edge-fusion check BUNDLE --target TARGET",
    )


def _parser_error(error: Any, model: bytes) -> str:
    """``node 'name' (operator): reason``; 8.x knows a node by its number alone."""
    reason = " ".join(str(error.desc()).split())
    name = operator = ""
    if hasattr(error, "node_name"):
        name, operator = error.node_name(), error.node_operator()
    elif error.node() >= 0:
        nodes = node_names(model)
        if error.node() < len(nodes):
            name, operator = nodes[error.node()]
    return f"node '{name}' ({operator}): {reason}" if name or operator else reason
