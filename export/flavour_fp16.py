"""Which nodes of a graph FP16 would break, and why.

They are found by the graph's constants, by the ranges that calibration recorded, and by structure.
FP16 holds magnitudes from 6.1e-5 (6e-8 with fewer bits) to 65504.  Beyond that it is infinite,
below that zero: a mask of -1e9, an epsilon of 1e-12, an activation of 70000.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, defs

from edge_fusion.errors import StepError

from .flavour_ranges import Range, top_level
from .graph import DEQUANTIZE, QUANTIZE, GraphView, Node, bodies

FP16_MAX = 65504.0
FP16_SMALLEST_NORMAL = 2.0**-14

_ROUNDING = 0.05  # relative error at which a constant no longer means what it meant
_INT8_MAX = 127
_STEM_REASON = "reads an input: rounding it to 11 bits is seen by everything behind"
# Constant inputs whose overflow or underflow changes nothing that FP16 could show: the bounds of
# Clip saturate, and what is added to a product is lost below the product's own resolution.
_HARMLESS = {
    "Clip": frozenset({1, 2}),
    "Conv": frozenset({2}),
    "ConvTranspose": frozenset({2}),
    "Gemm": frozenset({2}),
    "LayerNormalization": frozenset({2}),
}
# Operators that square inside, by where the square shows: of their input, or of their output.
_SQUARES_INPUT = frozenset(
    {"LpNormalization", "InstanceNormalization", "GroupNormalization", "LRN"}
)
_SQUARES_OUTPUT = frozenset({"ReduceL2"})
# Their output has the type of their input only where no attribute says otherwise.
_TYPED_BY_ATTRIBUTE = frozenset({"Bernoulli", "EyeLike", "RandomNormalLike", "RandomUniformLike"})
_AFTER_ROOT = frozenset({"Div", "Mul", "Reciprocal"})


@dataclass(frozen=True, slots=True)
class HalfPolicy:
    """How FP16 safety is judged.

    Attributes:
        headroom: How much further than in calibration a tensor may reach on frames that
            calibration has not seen; at 2 everything beyond 32752 stays FP32.
        stem: Keep the weighted layers that read an input in FP32.  Measured on real frames: mean
            difference of an FP16 model to FP32 0.0037 with them in FP16, 0.0007 without.
        keep_fp32: Further nodes to keep in FP32: names, with ``*`` and ``?``.
    """

    headroom: float = 2.0
    stem: bool = True
    keep_fp32: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.headroom < FP16_MAX:
            raise StepError(
                "FP16 policy: headroom", expected="at least 1", got=f"{self.headroom:g}"
            )

    @property
    def limit(self) -> float:
        """The largest magnitude in calibration that FP16 is trusted with."""
        return FP16_MAX / self.headroom


@dataclass(frozen=True, slots=True)
class Ports:
    """How an operator's types hang together.

    Attributes:
        half: Whether it exists in FP16 at all.
        fixed: Indices of inputs that are float32 in every form, such as the scales of Resize.
        follows: Indices of outputs that have the type of the free inputs.
    """

    half: bool
    fixed: frozenset[int]
    follows: frozenset[int]


def find_hazards(
    view: GraphView, ranges: Mapping[str, Range], policy: HalfPolicy | None = None
) -> dict[str, str]:
    """Nodes that must not compute in FP16, with the reason.

    Args:
        view: A float or Q/DQ graph.
        ranges: From :func:`edge_fusion.export.flavour_ranges.record_ranges` on the float graph.
        policy: Headroom and nodes to keep; None takes the defaults.

    Returns:
        ``{node: reason}`` in graph order.

    Raises:
        StepError: A pattern matches no node, or the ranges are of another graph.
    """
    policy = policy or HalfPolicy()
    nodes = [n for n in top_level(view) if n.op_type not in (QUANTIZE, DEQUANTIZE, "Constant")]
    _check_ranges(view, nodes, ranges)
    named = _named(nodes, policy.keep_fp32)
    written_out = _written_out(view)
    judge = _Judge(view, ranges, policy)
    found = {}
    for node in nodes:
        reason = named.get(node.label) or written_out.get(node.label) or judge(node)
        if reason:
            found[node.label] = reason
    return found


def ports(node: Node, opset: int, floats: Callable[[str], bool]) -> Ports:
    """How the float inputs and outputs of a node hang together, by the operator's own schema.

    Args:
        node: A node of the standard domain.
        opset: The graph's opset.
        floats: Whether a tensor is float32.
    """
    try:
        schema = defs.get_schema(node.op_type, opset, node.domain)
    except defs.SchemaError:
        return Ports(False, frozenset(), frozenset())
    allowed = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}
    free, fixed, half = set(), set(), True
    for index, name in enumerate(node.inputs):
        if not name or not floats(name):
            continue
        kind = schema.inputs[min(index, len(schema.inputs) - 1)].type_str
        if kind in allowed:
            free.add(kind)
            half = half and "tensor(float16)" in allowed[kind]
        else:
            fixed.add(index)
    follows = {
        index
        for index in range(len(node.outputs))
        if schema.outputs[min(index, len(schema.outputs) - 1)].type_str in free
    }
    return Ports(half, frozenset(fixed), frozenset(follows))


@dataclass(frozen=True, slots=True)
class _Judge:
    view: GraphView
    ranges: Mapping[str, Range]
    policy: HalfPolicy

    def __call__(self, node: Node) -> str:
        checks = (self._form, self._epsilon, self._constants, self._scales, self._reach, self._stem)
        return next((reason for check in checks if (reason := check(node))), "")

    def _stem(self, node: Node) -> str:
        inputs = {value.name for value in self.view.inputs} if self.policy.stem else set()
        reads = any(name in inputs for name in node.inputs)
        return _STEM_REASON if reads and self.view.weighted(node) else ""

    def _form(self, node: Node) -> str:
        if node.domain:
            return f"operator of domain {node.domain}: its types are unknown"
        if any(True for _ in bodies(node.proto)):
            return "control flow: its body stays FP32"
        if node.op_type in _TYPED_BY_ATTRIBUTE:
            return f"the type {node.op_type} gives is an attribute's matter"
        if not ports(node, self.view.opset, self._is_float).half:
            return f"{node.op_type} does not exist in FP16"
        return ""

    def _is_float(self, name: str) -> bool:
        return self.view.element_type(name) == TensorProto.FLOAT

    def _epsilon(self, node: Node) -> str:
        epsilon = node.attribute("epsilon", 1.0)
        return f"its epsilon {epsilon:g} {_vanishes(epsilon)}" if _vanishes(epsilon) else ""

    def _constants(self, node: Node) -> str:
        harmless = _HARMLESS.get(node.op_type, frozenset())
        fixed = ports(node, self.view.opset, self._is_float).fixed
        for index, name in enumerate(node.inputs):
            value = self.view.constant(name) if name else None
            if value is None or value.dtype != np.float32 or index in harmless or index in fixed:
                continue
            top = float(np.abs(value[np.isfinite(value)]).max(initial=0))
            if top > FP16_MAX:
                return f"constant '{name}' reaches {top:g}, beyond FP16's {FP16_MAX:g}"
            if _vanishes(top):
                return f"constant '{name}' of {top:g} {_vanishes(top)}"
        return ""

    def _scales(self, node: Node) -> str:
        for name in node.inputs:
            quantizer = self.view.dequantized.get(name)
            if quantizer is None or quantizer.scale is None:
                continue
            low, high = float(quantizer.scale.min()), float(quantizer.scale.max())
            what = "weights" if quantizer.constant else "activation"
            if low < FP16_SMALLEST_NORMAL:
                return f"scale {low:g} of {what} '{quantizer.data}' is too small for FP16"
            if high * _INT8_MAX > self.policy.limit:
                return f"{what} '{quantizer.data}' reach{'' if quantizer.constant else 'es'} " + (
                    f"{high * _INT8_MAX:g}, beyond FP16's {FP16_MAX:g}"
                )
        return ""

    def _reach(self, node: Node) -> str:
        limit = self.policy.limit
        for name in (*node.inputs, *node.outputs):
            if (top := self._top(name)) > limit:
                return f"'{name}' reaches {top:g} in calibration; FP16 ends at {FP16_MAX:g}"
        squared = [node.input(0)] if node.op_type in _SQUARES_INPUT else []
        squared += node.outputs[:1] if node.op_type in _SQUARES_OUTPUT else ()
        for name in squared:
            if (top := self._top(name)) ** 2 > limit:
                return f"it squares '{name}', which reaches {top:g} in calibration"
        return ""

    def _top(self, name: str) -> float:
        return max(map(abs, self.ranges.get(name, (0.0, 0.0))))


def _vanishes(value: float) -> str:
    """What FP16 makes of a small number, where that is something else; else nothing."""
    half = float(np.float16(min(abs(value), FP16_MAX)))
    if not value or abs(half - abs(value)) <= _ROUNDING * abs(value) or abs(value) > FP16_MAX:
        return ""
    return f"is {half:.3g} in FP16"


def _check_ranges(view: GraphView, nodes: list[Node], ranges: Mapping[str, Range]) -> None:
    known = set(view.dequantized) | view.constants
    for node in nodes:
        for name in node.outputs:
            missing = name and name not in ranges and name not in known
            if (
                missing
                and view.element_type(name) == TensorProto.FLOAT
                and 0 not in (view.shape(name) or ())
            ):
                raise StepError(
                    f"no range was recorded for '{name}'",
                    expected=f"the range of every float tensor; {len(ranges)} were given",
                    cure="record the ranges on the float graph that was quantized",
                )


def _named(nodes: list[Node], patterns: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for pattern in patterns:
        names = [node.label for node in nodes if fnmatch.fnmatchcase(node.label, pattern)]
        if not names:
            raise StepError(
                f"keep_fp32: no node is called '{pattern}'",
                expected=f"a name such as {', '.join(repr(node.label) for node in nodes[:3])}",
                cure="the wildcards * and ? are allowed",
            )
        found |= dict.fromkeys(names, f"named by keep_fp32: {pattern}")
    return found


def _written_out(view: GraphView) -> dict[str, str]:
    """Every node of a normalisation that is written out: square, mean, epsilon, root, quotient."""
    found: dict[str, str] = {}
    for square in view.nodes:
        for chain in _chains(view, square):
            found |= dict.fromkeys(
                (node.label for node in chain),
                "a normalisation written out: its square overflows FP16 above 255",
            )
    return found


def _chains(view: GraphView, square: Node) -> Iterator[list[Node]]:
    if not _is_power(view, square, 2) and not (
        square.op_type == "Mul" and len(set(square.inputs)) == 1
    ):
        return
    for mean in _readers(view, square, lambda n: n.op_type == "ReduceMean"):
        for add in _readers(view, mean, lambda n: n.op_type == "Add"):
            for root in _readers(
                view, add, lambda n: n.op_type == "Sqrt" or _is_power(view, n, 0.5, -0.5)
            ):
                after = _readers(view, root, lambda n: n.op_type in _AFTER_ROOT)
                yield [square, mean, add, root, *after]


def _readers(view: GraphView, node: Node, wanted: Callable[[Node], bool]) -> list[Node]:
    return [reader for reader in view.consumers.get(node.outputs[0], ()) if wanted(reader)]


def _is_power(view: GraphView, node: Node, *exponents: float) -> bool:
    value = view.constant(node.input(1)) if node.op_type == "Pow" else None
    return value is not None and value.size == 1 and float(value.reshape(-1)[0]) in exponents


def refuse_half(model: onnx.ModelProto) -> None:
    """Raise if a graph is in half precision already.

    Raises:
        StepError: It is; the flavours are made from the FP32 or INT8 graph.
    """
    halves = [t.name for t in model.graph.initializer if t.data_type == TensorProto.FLOAT16]
    halves += [
        v.name
        for v in (*model.graph.input, *model.graph.output)
        if v.type.tensor_type.elem_type == TensorProto.FLOAT16
    ]
    if halves:
        raise StepError(
            "the graph is in half precision already",
            expected="FP32, or FP32 with Q/DQ",
            got=f"FP16 '{halves[0]}'",
            cure="make the flavours from the quantized FP32 graph",
        )
