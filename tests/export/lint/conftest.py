"""A builder of small quantized graphs, and ONNX Runtime as it must be used to judge them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from edge_fusion.export.lint import RULES, Finding, lint
from edge_fusion.target import parse_target


class Graph:
    """Adds nodes by name and hands back the name of their output."""

    def __init__(self, opset: int = 17) -> None:
        self.opset = opset
        self.rng = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self.domains: dict[str, int] = {}

    def input(self, name: str = "x", shape: Any = (1, 32, 8, 8), kind: int = 1) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def const(self, value: Any, name: str = "", dtype: Any = np.float32) -> str:
        name = name or f"c{len(self.tensors)}"
        self.tensors.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def weight(self, *shape: int) -> str:
        return self.const(self.rng.standard_normal(shape) * 0.1)

    def op(
        self, kind: str, *inputs: str, name: str | None = None, outputs: int = 1, **kw: Any
    ) -> str:
        index = len(self.nodes)
        names = [f"{kind.lower()}{index}" + (f"_{i}" if i else "") for i in range(outputs)]
        label = f"n_{names[0]}" if name is None else name
        domain = kw.pop("domain", "")
        if domain:
            self.domains[domain] = 1
        self.nodes.append(helper.make_node(kind, inputs, names, name=label, domain=domain, **kw))
        return names[0]

    def q(self, x: str, scale: Any = 0.05, zero: Any = 0, kind: Any = np.int8, **kw: Any) -> str:
        """QuantizeLinear; ``kind`` None leaves the zero point out."""
        return self._quantize("QuantizeLinear", x, scale, zero, kind, **kw)

    def dq(self, x: str, scale: Any = 0.05, zero: Any = 0, kind: Any = np.int8, **kw: Any) -> str:
        return self._quantize("DequantizeLinear", x, scale, zero, kind, **kw)

    def _quantize(self, op: str, x: str, scale: Any, zero: Any, kind: Any, **kw: Any) -> str:
        scale = scale if isinstance(scale, str) else self.const(scale, dtype=_dtype(scale))
        shape = next((tuple(t.dims) for t in self.tensors if t.name == scale), ())
        rest = [] if kind is None else [self.const(np.full(shape, zero), dtype=kind)]
        return self.op(op, x, scale, *rest, **kw)

    def qdq(self, x: str, scale: Any = 0.05, zero: Any = 0, kind: Any = np.int8, **kw: Any) -> str:
        return self.dq(self.q(x, scale, zero, kind, **kw), scale, zero, kind, **kw)

    def weight_dq(self, *shape: int, axis: int = 0, kind: Any = np.int8, half: bool = False) -> str:
        """Weights stored as integers, one scale per channel along ``axis``."""
        stored = self.const(self.rng.integers(0, 127, shape), dtype=kind)
        dtype = np.float16 if half else np.float32
        scale = self.const(np.full(shape[axis], 0.01), dtype=dtype)
        zero = self.const(np.zeros(shape[axis]), dtype=kind)
        return self.op("DequantizeLinear", stored, scale, zero, axis=axis)

    def out(self, name: str, kind: int = 1) -> Graph:
        self.outputs.append(helper.make_tensor_value_info(name, kind, None))
        return self

    def model(self) -> onnx.ModelProto:
        graph = helper.make_graph(self.nodes, "g", self.inputs, self.outputs, self.tensors)
        opsets = [helper.make_opsetid(d, v) for d, v in {"": self.opset, **self.domains}.items()]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)


OTHERS = ("x86-gpu@8.5", "x86-gpu@8.6", "x86-gpu@10.3", "x86-gpu@11.4")


@pytest.fixture
def judge() -> Callable[..., None]:
    """Check one case: fires as described, is silent on the twin and outside its versions."""

    def judge(*case: Any) -> None:
        rule, target, bad, good, node, found, cure = case
        broken = bad(Graph).model()
        first = next(iter(_findings(broken, target, rule)), None)
        assert first is not None, "silent on the broken graph"
        assert first.node == node
        assert found in first.found
        assert cure in first.cure
        assert _findings(good(Graph).model(), target, rule) == []
        versions = next(row.versions for row in RULES if row.id == rule)
        for other in OTHERS:
            if parse_target(other).tensorrt not in versions:
                assert _findings(broken, other, rule) == []

    return judge


def _findings(model: onnx.ModelProto, target: str, rule: str) -> list[Finding]:
    return [f for f in lint(model, parse_target(target)).findings if f.rule_id == rule]


def _dtype(scale: Any) -> Any:
    return scale.dtype if isinstance(scale, np.ndarray | np.generic) else np.float32


@pytest.fixture
def new_graph() -> Callable[..., Graph]:
    return Graph


@pytest.fixture
def run() -> Callable[[onnx.ModelProto, Mapping[str, Any]], list[np.ndarray]]:
    """Run a graph with its Q/DQ computed literally, as no fused integer kernel would."""

    def run(model: onnx.ModelProto, inputs: Mapping[str, Any]) -> list[np.ndarray]:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        session = ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        return session.run(None, dict(inputs))

    return run
