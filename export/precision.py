"""Which nodes must not be INT8, and why.  Judged by structure, so it holds for any network."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import onnx

from edge_fusion.errors import StepError

from .graph import GraphView, Node

_TYPE_REASONS = {
    "Softmax": "its weights spread over decades: the small ones of a row become 0 in 8 bits",
    "LayerNormalization": "its variance needs more than 8 bits",
    "GroupNormalization": "its variance needs more than 8 bits",
    "InstanceNormalization": "its variance needs more than 8 bits",
    "Resize": "8-bit interpolation adds error and saves nothing",
    "Sigmoid": "its slope is steepest where 8 bits step widest",
}
_RESIDUAL_REASON = "residual stream: its outliers would take the whole 8-bit range"
_ATTENTION_REASON = "attention product: both factors are activations"
_STEM_REASON = (
    "first layer to read an input: 8 bits leave 127 levels of depth, whose steps look like edges"
)
_HEAD_REASON = "last layer of the decoder head: its error is the saliency map's"
# They read a tensor's size and not its values.
_SIZES = frozenset({"Shape", "Size"})


@dataclass(frozen=True, slots=True)
class PrecisionPolicy:
    """What stays FP16 in an INT8 model.

    Attributes:
        residual_adds: Keep additions of two computed tensors.
        attention: ``fp16`` keeps every product of two activations; ``int8`` keeps only those over
            more tokens than ``max_int8_tokens``.
        max_int8_tokens: Longest attention that may be INT8 at all.
        stem: Keep the first weighted layers behind each input, normalisation in the graph or
            not.  Measured on real frames with a network trained on others: mean difference to
            FP32 0.092 with them in INT8, 0.016 without.
        head: Keep the last weighted layer before each output.
        types: Operators that are kept wherever they stand.
        advised: Further nodes to keep, as the model's own record advises: names, with ``*`` and
            ``?``.
        keep_fp16: Further nodes to keep: names, with ``*`` and ``?``.
        force_int8: Nodes to take out of everything above but ``keep_fp16``: names, with ``*`` and
            ``?``.
    """

    residual_adds: bool = True
    attention: Literal["fp16", "int8"] = "fp16"
    max_int8_tokens: int = 512
    stem: bool = True
    head: bool = True
    types: tuple[str, ...] = tuple(_TYPE_REASONS)
    advised: tuple[str, ...] = ()
    keep_fp16: tuple[str, ...] = ()
    force_int8: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.attention not in ("fp16", "int8"):
            raise StepError(
                "precision policy: attention", expected="fp16 or int8", got=repr(self.attention)
            )
        if self.max_int8_tokens < 1:
            raise StepError(
                "precision policy: max_int8_tokens",
                expected="at least 1",
                got=str(self.max_int8_tokens),
            )


@dataclass(frozen=True, slots=True)
class PrecisionPlan:
    """A policy applied to one graph.

    Attributes:
        kept: Nodes that must not be INT8, by name in graph order, each with its reason.
        forced: Nodes that would have been kept, or were named to be INT8.
    """

    kept: Mapping[str, str] = field(default_factory=dict)
    forced: tuple[str, ...] = ()


def plan_precision(model: onnx.ModelProto, policy: PrecisionPolicy | None = None) -> PrecisionPlan:
    """Find the nodes of a float graph that must not be INT8.

    Args:
        model: A simplified float graph with unique node names and inferred shapes.
        policy: What to keep; None is the default policy.

    Returns:
        Node names with reasons.

    Raises:
        StepError: A pattern matches no node, or one node is both kept and forced by name.

    Example:
        >>> plan_precision(model).kept["Sigmoid"]  # doctest: +SKIP
        'its slope is steepest where 8 bits step widest'
    """
    policy = policy or PrecisionPolicy()
    graph = GraphView(model)
    forced = _matches(graph, policy.force_int8, "force_int8")
    named = _matches(graph, policy.keep_fp16, "keep_fp16")
    both = [name for name in named if name in forced]
    if both:
        raise StepError(
            f"node '{both[0]}' is named in both keep_fp16 ({named[both[0]]}) "
            f"and force_int8 ({forced[both[0]]})",
            cure="narrow one of the patterns",
        )
    advised = _matches(graph, policy.advised, "advised")
    special = {name: f"advised for this model: {pattern}" for name, pattern in advised.items()}
    special |= dict.fromkeys(_stem(graph), _STEM_REASON) if policy.stem else {}
    special |= dict.fromkeys(_head(graph), _HEAD_REASON) if policy.head else {}
    kept: dict[str, str] = {}
    for node in graph.nodes:
        reason = _reason(graph, node, policy, special)
        if node.name in named:
            reason = f"named by keep_fp16: {named[node.name]}"
        if reason and node.name not in forced:
            kept[node.name] = reason
    return PrecisionPlan(kept=kept, forced=tuple(forced))


def keep_also(
    model: onnx.ModelProto, plan: PrecisionPlan, names: Collection[str], reason: str
) -> PrecisionPlan:
    """A plan that keeps further nodes, for a reason of their own.

    Example:
        >>> keep_also(model, plan, ["stem/Conv"], "its error").kept["stem/Conv"]  # doctest: +SKIP
        'its error'
    """
    kept = {
        node.name: reason if node.name in names else plan.kept[node.name]
        for node in GraphView(model).nodes
        if node.name in names or node.name in plan.kept
    }
    return PrecisionPlan(kept, tuple(name for name in plan.forced if name not in names))


def _matches(graph: GraphView, patterns: tuple[str, ...], option: str) -> dict[str, str]:
    """Node name -> the pattern that named it."""
    found: dict[str, str] = {}
    for pattern in patterns:
        names = [node.name for node in graph.nodes if fnmatch.fnmatchcase(node.name, pattern)]
        if not names:
            weighted = [node.name for node in graph.nodes if graph.weighted(node)]
            raise StepError(
                f"{option}: no node is called '{pattern}'",
                expected=f"a name such as {', '.join(map(repr, weighted[:3]))}",
                cure="the wildcards * and ? are allowed",
            )
        found |= dict.fromkeys(names, pattern)
    return found


def _reason(
    graph: GraphView, node: Node, policy: PrecisionPolicy, special: Mapping[str, str]
) -> str | None:
    """Why a node must stay FP16; None where it need not, or where it is constant."""
    computed = graph.computed(node)
    if not computed:
        return None
    if node.op_type in policy.types:
        return _TYPE_REASONS.get(node.op_type, "operator named by the policy")
    if node.name in special:
        return special[node.name]
    if node.op_type == "Add" and len(computed) == 2 and policy.residual_adds:
        return _RESIDUAL_REASON
    if node.op_type in ("MatMul", "Gemm") and not graph.weighted(node):
        tokens = graph.tokens(node)
        if policy.attention == "fp16":
            return _ATTENTION_REASON
        if tokens is None or tokens > policy.max_int8_tokens:
            count = "an unknown number of" if tokens is None else str(tokens)
            return f"attention over {count} tokens, more than {policy.max_int8_tokens}"
    return None


def _stem(graph: GraphView) -> set[str]:
    """The weighted layers that are met first on each path from the inputs.

    A graph may normalise its input itself: Sub, Div, Transpose, Cast, Concat stand before them.
    """

    def readers(name: str) -> Iterable[Node]:
        return (node for node in graph.consumers.get(name, ()) if node.op_type not in _SIZES)

    return _first_weighted(
        graph,
        [node for value in graph.inputs for node in readers(value.name)],
        lambda node: (reader for name in node.outputs for reader in readers(name)),
    )


def _head(graph: GraphView) -> set[str]:
    """The weighted layers that are met first on the way back from the outputs."""

    def makers(names: Iterable[str]) -> Iterable[Node]:
        return (graph.producers[name] for name in names if name in graph.producers)

    return _first_weighted(graph, makers(graph.outputs), lambda node: makers(graph.computed(node)))


def _first_weighted(
    graph: GraphView, start: Iterable[Node], following: Callable[[Node], Iterable[Node]]
) -> set[str]:
    """Names of the first weighted layers on every way from ``start``."""
    found: set[str] = set()
    seen: set[str] = set()
    waiting = list(start)
    while waiting:
        node = waiting.pop()
        if node.name in seen:
            continue
        seen.add(node.name)
        if graph.weighted(node):
            found.add(node.name)
        else:
            waiting.extend(following(node))
    return found
