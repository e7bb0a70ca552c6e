"""Names a person can read: nodes after their module, values after their node."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterable

import onnx

from .graph import bodies

# What PyTorch's exporter notes on every node: the modules around it, outermost first, and last the
# operation itself; and which rewrite rules touched it.
_SCOPES = "pkg.torch.onnx.name_scopes"
_RULES = "pkg.onnxscript.rewriter.rule_name"

_ROLES = {
    ("Conv", 1): "weight",
    ("Conv", 2): "bias",
    ("ConvTranspose", 1): "weight",
    ("ConvTranspose", 2): "bias",
    ("Gemm", 1): "weight",
    ("Gemm", 2): "bias",
    ("LayerNormalization", 1): "weight",
    ("LayerNormalization", 2): "bias",
    ("MatMul", 1): "weight",
    ("Reshape", 1): "shape",
    ("Resize", 2): "scales",
    ("Resize", 3): "sizes",
}


def rename(model: onnx.ModelProto, parameters: Collection[str]) -> onnx.ModelProto:
    """Call every node after the module that made it, and every value after its node.

    Args:
        model: As PyTorch's exporter wrote it, with its metadata.
        parameters: Names of the module's parameters and buffers; initialisers of these names
            keep them.

    Returns:
        The same graph: nodes ``decoder.0/Conv``, ``decoder.0/Conv_1`` ..., values the same (with
        ``.1`` and so on for further outputs), other initialisers ``fusion.qkv/MatMul.weight``.
        Metadata is gone: it holds source paths of the machine that traced it.

    Example:
        >>> rename(model, network.state_dict()).graph.node[0].name  # doctest: +SKIP
        'rgb_encoder.features.0.0/Conv'
    """
    named = onnx.ModelProto()
    named.CopyFrom(model)
    graph = named.graph
    kept = {value.name for value in (*graph.input, *graph.output)}
    kept |= {tensor.name for tensor in graph.initializer if tensor.name in parameters}
    nodes = _Unique(())
    for node in graph.node:
        path = _module_path(node)
        node.name = nodes.name(f"{path}/{node.op_type}" if path else node.op_type)
    _rename_values(graph, kept)
    _strip(named)
    return named


def name_nodes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Give nameless and duplicate nodes a unique name; all others keep theirs.

    Example:
        >>> name_nodes(model).graph.node[0].name  # doctest: +SKIP
        'Conv'
    """
    named = onnx.ModelProto()
    named.CopyFrom(model)
    given = [node.name for node in named.graph.node]
    unique = _Unique(name for name in given if name)
    seen: set[str] = set()
    for node in named.graph.node:
        if not node.name or node.name in seen:
            node.name = unique.name(node.name or node.op_type)
        seen.add(node.name)
    return named


class _Unique:
    """Names never given before: ``x``, ``x_1``, ``x_2``."""

    def __init__(self, taken: Iterable[str]) -> None:
        self._taken = set(taken)

    def name(self, wanted: str) -> str:
        name, count = wanted, 0
        while name in self._taken:
            count += 1
            name = f"{wanted}_{count}"
        self._taken.add(name)
        return name


def _module_path(node: onnx.NodeProto) -> str:
    """Dotted path of the module that made a node; empty for the root."""
    notes = {prop.key: prop.value for prop in node.metadata_props}
    if _SCOPES not in notes:
        return _legacy_path(node.name)
    if "BatchNorm" in notes.get(_RULES, ""):
        # A batch norm folded by the exporter leaves its own name on the convolution.
        return str(node.input[1]).rpartition(".")[0]
    scopes = ast.literal_eval(notes[_SCOPES])
    return str(scopes[-2]) if len(scopes) > 1 else ""


def _legacy_path(name: str) -> str:
    """``/encoder/features/features.0/Conv`` -> ``encoder.features.0``."""
    path: list[str] = []
    for segment in name.split("/")[1:-1]:
        if path and segment.startswith(f"{path[-1]}."):
            path[-1] = segment  # children of a Sequential repeat their parent's name
        else:
            path.append(segment)
    return ".".join(path)


def _rename_values(graph: onnx.GraphProto, kept: Collection[str]) -> None:
    values = _Unique(kept)
    renamed: dict[str, str] = {"": ""} | {name: name for name in kept}
    for node in graph.node:
        for index, output in enumerate(node.output):
            if output not in renamed:
                renamed[output] = values.name(f"{node.name}.{index}" if index else node.name)
    consumers = {
        name: f"{node.name}.{_ROLES.get((node.op_type, index), f'input{index}')}"
        for node in reversed(graph.node)
        for index, name in enumerate(node.input)
    }
    for tensor in graph.initializer:
        if tensor.name not in renamed:
            renamed[tensor.name] = values.name(consumers.get(tensor.name, tensor.name))
        tensor.name = renamed[tensor.name]
    for node in graph.node:
        node.output[:] = [renamed[name] for name in node.output]
    _rename_inputs(graph, renamed)
    del graph.value_info[:]


def _rename_inputs(graph: onnx.GraphProto, renamed: dict[str, str]) -> None:
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        for body in bodies(node):  # a loop's body reads the values around it
            _rename_inputs(body, renamed)


def _strip(model: onnx.ModelProto) -> None:
    graph = model.graph
    for item in (model, graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        item.ClearField("metadata_props")
        item.ClearField("doc_string")
