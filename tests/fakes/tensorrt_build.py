"""The building half of the fake ``tensorrt``: network, parser, configuration, builder.

It refuses what the real one refuses, with messages of the same form: ONNX without explicit batch
on 8.x, Q/DQ in a weak network without the INT8 flag, precision flags on a strong one, INT8
initialisers and FP16 scales before 10, LayerNormalization before 8.6, garbage, foreign operators,
scratch memory that is too small.  The plan it makes holds the ONNX file that it parsed, and the
running half computes it.

What was observed on TensorRT-RTX 1.7.1: parsing garbage gives one error without a node; a garbled
timing cache becomes an empty one and a warning; an optimisation level above 5 becomes 5, one below
0 is logged and ignored; phases of the progress monitor are nested in ``Building engine``; a monitor
that returns False ends in ``BuildCanceled`` and no plan.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.fakes.onnx_graph import (
    FLOAT16,
    INT8,
    UINT8,
    Graph,
    Node,
    infer_shapes,
    read_graph,
)
from tests.fakes.tensorrt_api import Plan, VersionRow, pack_plan
from tests.fakes.tensorrt_runtime import _no_constructor, check_gpu, check_logger, complain, make

if TYPE_CHECKING:
    _Row = VersionRow

#: What this half adds to the table of the other.
TABLE = """
IProgressMonitor.phase_start              10-
IProgressMonitor.phase_finish             10-
IProgressMonitor.step_complete            10-
LayerType.CONVOLUTION
LayerType.FULLY_CONNECTED                 -10
LayerType.CAST                            8.6-
LayerType.ACTIVATION
LayerType.DECONVOLUTION
LayerType.ELEMENTWISE
LayerType.SOFTMAX
LayerType.MATRIX_MULTIPLY
LayerType.IDENTITY
LayerType.QUANTIZE
LayerType.DEQUANTIZE
LayerType.NORMALIZATION                   8.6-
ErrorCode.SUCCESS
ErrorCode.INTERNAL_ERROR
ErrorCode.MODEL_DESERIALIZE_FAILED
ErrorCode.INVALID_VALUE
ErrorCode.INVALID_GRAPH
ErrorCode.INVALID_NODE
ErrorCode.UNSUPPORTED_NODE
ILayer.metadata                           8.6-
ILayer.get_input
ILayer.get_output
IConvolutionLayer.name
IConvolutionLayer.type
IConvolutionLayer.num_inputs
IConvolutionLayer.num_outputs
IConvolutionLayer.get_input
IConvolutionLayer.get_output
IConvolutionLayer.kernel
IConvolutionLayer.precision               -11
IConvolutionLayer.set_output_type         -11
"""
ENUMS = ("LayerType", "ErrorCode")

#: Scratch memory without which no kernel is found; tests raise it.
LEAST_WORKSPACE = 1 << 20

_TYPES = {
    "Conv": "CONVOLUTION",
    "ConvTranspose": "DECONVOLUTION",
    "MatMul": "MATRIX_MULTIPLY",
    "Gemm": "MATRIX_MULTIPLY",
    "QuantizeLinear": "QUANTIZE",
    "DequantizeLinear": "DEQUANTIZE",
    "Softmax": "SOFTMAX",
    "Sigmoid": "ACTIVATION",
    "Relu": "ACTIVATION",
    "LayerNormalization": "NORMALIZATION",
    "Cast": "CAST",
}
_HEAVY = ("Conv", "ConvTranspose", "MatMul", "Gemm")
_ABSENT = ("QLinearConv", "QLinearMatMul", "ConvInteger", "DynamicQuantizeLinear")

#: How a type is called in the inspector of 8.x and from 10 on, and in the name of a kernel.
_WORDS = {
    "int8": ("Thirty-two wide channel vectorized row major Int8 format", "Int8", "i8i8_i8i32_f32"),
    "fp16": ("Channel major FP16 format where channel % 8 == 0", "Half", "f16f16_f16f16_f16"),
    "fp32": ("Row major linear FP32", "Float", "f32f32_tf32f32_f32"),
}


def compiled_model(model: bytes) -> bytes:
    """The graph that a plan computes; tests put a wrong one in its place."""
    return model


@dataclass
class _State:
    """What a network holds; the parser fills it."""

    flags: int
    model: bytes = b""
    graph: Graph | None = None
    layers: tuple[Any, ...] = ()
    shapes: Mapping[str, tuple[int, ...]] | None = None


# --- network -------------------------------------------------------------------------------------


class ITensor:
    __slots__ = ("_dtype", "_name", "_shape")
    _row: _Row
    __init__ = _no_constructor

    @property
    def name(self) -> str:
        return str(self._name)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self._shape)

    @property
    def dtype(self) -> Any:
        return self._row.DataType[self._dtype]


class ILayer:
    __slots__ = ("_held", "_inputs", "_kernel", "_node", "_outputs")
    _row: _Row
    __init__ = _no_constructor

    @property
    def name(self) -> str:
        return str(self._node.name)

    @property
    def type(self) -> Any:
        kinds = self._row.LayerType
        wanted = _TYPES.get(self._node.op, "ELEMENTWISE")
        return kinds[wanted] if wanted in kinds.__members__ else kinds["IDENTITY"]

    @property
    def metadata(self) -> str:
        return f"[ONNX Layer: {self._node.name}]"

    @property
    def num_inputs(self) -> int:
        return len(self._inputs)

    @property
    def num_outputs(self) -> int:
        return len(self._outputs)

    def get_input(self, index: int) -> Any:
        return self._inputs[index] if index < len(self._inputs) else None

    def get_output(self, index: int) -> Any:
        return self._outputs[index] if index < len(self._outputs) else None

    @property
    def precision(self) -> Any:
        return self._held.get("precision", self._row.DataType["FLOAT"])

    @precision.setter
    def precision(self, dtype: Any) -> None:
        self._held["precision"] = dtype

    def set_output_type(self, index: int, dtype: Any) -> None:
        self._held[f"output {index}"] = dtype


class INetworkDefinition:
    __slots__ = ("_state", "name")
    _row: _Row
    __init__ = _no_constructor

    @property
    def num_inputs(self) -> int:
        return len(self._state.graph.inputs) if self._state.graph else 0

    @property
    def num_outputs(self) -> int:
        return len(self._state.graph.outputs) if self._state.graph else 0

    @property
    def num_layers(self) -> int:
        return len(self._state.layers)

    @property
    def flags(self) -> int:
        return int(self._state.flags)

    @property
    def has_implicit_batch_dimension(self) -> bool:
        return False

    def get_flag(self, flag: Any) -> bool:
        return bool(self._state.flags >> int(flag) & 1)

    def get_layer(self, index: int) -> Any:
        return self._state.layers[index]

    def get_input(self, index: int) -> Any:
        return _tensor(self._row, self._state, self._state.graph.inputs[index])

    def get_output(self, index: int) -> Any:
        return _tensor(self._row, self._state, self._state.graph.outputs[index])


def _tensor(row: VersionRow, state: _State, name: str) -> Any:
    graph, shapes = state.graph, state.shapes
    assert graph is not None
    assert shapes is not None
    held = graph.initializers.get(name)
    shape = held.shape if held else shapes.get(name, ())
    quantized = any(n.op == "QuantizeLinear" and name in n.outputs for n in graph.nodes)
    dtype = "INT8" if quantized or (held and held.dtype == INT8) else "FLOAT"
    if _halves(graph).get(name):
        dtype = "HALF"
    return make(row.ITensor, _name=name, _shape=shape, _dtype=dtype)


def _halves(graph: Graph) -> dict[str, bool]:
    """Which tensors are FP16: casts and FP16 initialisers begin them, other nodes pass them on."""
    half = {name: tensor.dtype == FLOAT16 for name, tensor in graph.initializers.items()}
    for node in graph.nodes:
        if node.op == "Cast":
            is_half = node.attributes.get("to") == FLOAT16
        elif node.op in ("QuantizeLinear", "DequantizeLinear"):
            is_half = node.op == "DequantizeLinear" and half.get(node.inputs[1], False)
        else:
            is_half = any(half.get(name, False) for name in node.inputs)
        half.update(dict.fromkeys(node.outputs, is_half))
    return half


# --- parser --------------------------------------------------------------------------------------


class ParserError:
    __slots__ = ("_code", "_desc", "_index", "_node")
    _row: _Row
    __init__ = _no_constructor

    def code(self) -> Any:
        return self._row.ErrorCode[self._code]

    def desc(self) -> str:
        return str(self._desc)

    def file(self) -> str:
        return "ModelImporter.cpp"

    def line(self) -> int:
        return 773

    def func(self) -> str:
        return "parseGraph"

    def node(self) -> int:
        return int(self._index)

    def node_name(self) -> str:
        return self._node.name if self._node else ""

    def node_operator(self) -> str:
        return self._node.op if self._node else ""


class OnnxParser:
    __slots__ = ("_errors", "_logger", "_state")
    _row: _Row

    def __init__(self, network: Any, logger: Any) -> None:
        check_logger(self._row, logger)
        if not isinstance(network, self._row.INetworkDefinition):
            raise TypeError("__init__(): incompatible constructor arguments: network")
        self._state, self._logger, self._errors = network._state, logger, []

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> Any:
        return self._errors[index]

    def clear_errors(self) -> None:
        self._errors.clear()

    def parse(self, model: Any, path: str | None = None) -> bool:
        if isinstance(model, str):
            raise TypeError("parse(): incompatible function arguments")
        data = bytes(model)
        for found in _problems(self._row, self._state, data):
            self._errors.append(make(self._row.ParserError, **found))
            complain(self._row, self._logger, f"ModelImporter.cpp:773: {found['_desc']}")
        if self._errors:
            return False
        state = self._state
        state.model, state.graph = data, read_graph(data)
        state.shapes = infer_shapes(data, state.graph)
        state.layers = tuple(_layer(self._row, state, node) for node in state.graph.nodes)
        return True


def _layer(row: VersionRow, state: _State, node: Node) -> Any:
    """Weights that nothing computes lie in the layer, all others come in as tensors."""
    assert state.graph is not None
    held = state.graph.initializers
    kernel = held.get(node.inputs[1]) if node.op in ("Conv", "ConvTranspose") else None
    inputs = [n for n in node.inputs if n and not (kernel and n in held)]
    return make(
        row.ILayer,
        _node=node,
        _held={},
        _kernel=None if kernel is None else np.zeros(math.prod(kernel.shape), np.float32),
        _inputs=[_tensor(row, state, name) for name in inputs],
        _outputs=[_tensor(row, state, name) for name in node.outputs],
    )


def _problems(row: VersionRow, state: _State, model: bytes) -> Iterator[dict[str, Any]]:
    if row.version < (10,) and not state.flags & 1:
        yield _problem(
            "INVALID_VALUE",
            "This version of the ONNX parser only supports TensorRT INetworkDefinitions with an "
            "explicit batch dimension. Please ensure the network was created using the "
            "EXPLICIT_BATCH NetworkDefinitionCreationFlag.",
        )
        return
    try:
        graph = read_graph(model)
    except (ValueError, IndexError, KeyError):
        yield _problem(
            "MODEL_DESERIALIZE_FAILED",
            "Assertion failed: model->ParseFromCodedStream(&codedInput): Failed to parse the ONNX "
            "model.",
        )
        return
    for index, node in enumerate(graph.nodes):
        reason = _objection(row, graph, node)
        if reason:
            yield _problem("UNSUPPORTED_NODE", reason, index, node)
            return  # the parser stops at the first


def _problem(code: str, desc: str, index: int = -1, node: Node | None = None) -> dict[str, Any]:
    return {"_code": code, "_desc": desc, "_index": index, "_node": node}


def _objection(row: VersionRow, graph: Graph, node: Node) -> str:
    if (
        node.domain
        or node.op in _ABSENT
        or (node.op == "LayerNormalization" and row.version < (8, 6))
    ):
        return (
            f"No importer registered for op: {node.op}. Attempting to import as plugin. Plugin not "
            "found, are the plugin name, version, and namespace correct?"
        )
    if node.op not in ("QuantizeLinear", "DequantizeLinear"):
        return ""
    held = graph.initializers
    stored = [held[name].dtype for name in (node.inputs[0], *node.inputs[2:]) if name in held]
    if UINT8 in stored:
        return "Assertion failed: notInvalidType(inputs.at(2), {UINT8}): UINT8 is not supported"
    if row.version >= (10,):
        return ""
    if len(node.inputs) < 3:
        return f"Assertion failed: inputs.size() == 3: {node.op} needs a zero point"
    if held[node.inputs[1]].dtype == FLOAT16:
        return "Assertion failed: scale.isFloat32(): only float scales are supported"
    if node.op == "DequantizeLinear" and held.get(node.inputs[0]) is not None:
        return "Assertion failed: inputs.at(0).is_tensor(): INT8 weights are not supported"
    return ""


# --- configuration -------------------------------------------------------------------------------


class ITimingCache:
    __slots__ = ("_entries", "_owner")
    _row: _Row
    __init__ = _no_constructor

    def serialize(self) -> Any:
        data = json.dumps({"owner": self._owner, "entries": sorted(self._entries)}).encode()
        return make(self._row.IHostMemory, _data=b"FAKETIMING" + data)

    def combine(self, input_cache: Any, ignore_mismatch: bool) -> bool:
        if input_cache._owner != self._owner and not ignore_mismatch:
            return False
        self._entries |= input_cache._entries
        return True

    def reset(self) -> bool:
        self._entries.clear()
        return True


class IHostMemory:
    __slots__ = ("_data",)
    _row: _Row
    __init__ = _no_constructor

    @property
    def nbytes(self) -> int:
        return len(self._data)

    def __bytes__(self) -> bytes:
        return bytes(self._data)


class IBuilderConfig:
    __slots__ = (
        "_cache",
        "_flags",
        "_level",
        "_logger",
        "_monitor",
        "_pools",
        "profiling_verbosity",
    )
    _row: _Row
    __init__ = _no_constructor

    def set_flag(self, flag: Any) -> None:
        self._flags |= 1 << int(_member(self._row.BuilderFlag, flag))

    def clear_flag(self, flag: Any) -> None:
        self._flags &= ~(1 << int(_member(self._row.BuilderFlag, flag)))

    def get_flag(self, flag: Any) -> bool:
        return bool(self._flags >> int(_member(self._row.BuilderFlag, flag)) & 1)

    @property
    def flags(self) -> int:
        return int(self._flags)

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        if type(pool_size) is not int or pool_size < 0:
            raise TypeError("set_memory_pool_limit(): incompatible function arguments")
        self._pools[_member(self._row.MemoryPoolType, pool).name] = pool_size

    def get_memory_pool_limit(self, pool: Any) -> int:
        return int(self._pools.get(pool.name, 1 << 36))

    @property
    def builder_optimization_level(self) -> int:
        return int(self._level)

    @builder_optimization_level.setter
    def builder_optimization_level(self, level: int) -> None:
        if level < 0:
            complain(self._row, self._logger, "Parameter check failed, condition: level >= 0.")
            return
        self._level = min(level, 5)

    @property
    def progress_monitor(self) -> Any:
        return self._monitor

    @progress_monitor.setter
    def progress_monitor(self, monitor: Any) -> None:
        if not isinstance(monitor, self._row.IProgressMonitor):
            raise TypeError("(): incompatible function arguments: arg0: tensorrt.IProgressMonitor")
        self._monitor = monitor

    def create_timing_cache(self, serialized_timing_cache: bytes) -> Any:
        owner, entries = f"{self._row.text} on {self._row.gpu}", set()
        if serialized_timing_cache:
            try:
                stored = json.loads(serialized_timing_cache.removeprefix(b"FAKETIMING"))
                owner, entries = stored["owner"], set(stored["entries"])
            except (ValueError, KeyError):
                return _no_cache(self._row, self._logger, owner)
        return make(self._row.ITimingCache, _entries=entries, _owner=owner)

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        if cache is None:
            raise TypeError("set_timing_cache(): incompatible function arguments")
        if cache._owner != f"{self._row.text} on {self._row.gpu}" and not ignore_mismatch:
            return False
        self._cache = cache
        return True

    def get_timing_cache(self) -> Any:
        return self._cache


def _member(kind: Any, value: Any) -> Any:
    """The member itself: pybind takes no number, nor a member of another version."""
    if not isinstance(value, kind):
        raise TypeError(f"incompatible function arguments: {kind.__name__}, not {value!r}")
    return value


def _no_cache(row: VersionRow, logger: Any, owner: str) -> Any:
    """Nothing from 8.x; later an empty cache and a warning."""
    warning = row.enums["Severity"]["WARNING"]
    logger.log(warning, "Failed to deserialize timing cache. Returning an empty timing cache.")
    if row.version < (10,):
        return None
    return make(row.ITimingCache, _entries=set(), _owner=owner)


class IProgressMonitor:
    __slots__ = ("_ready",)
    _row: _Row

    def __init__(self) -> None:
        self._ready = True

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        raise RuntimeError("Tried to call pure virtual function")

    def step_complete(self, phase_name: str, step: int) -> bool:
        raise RuntimeError("Tried to call pure virtual function")

    def phase_finish(self, phase_name: str) -> None:
        raise RuntimeError("Tried to call pure virtual function")


# --- builder -------------------------------------------------------------------------------------


class Builder:
    __slots__ = ("_logger",)
    _row: _Row

    def __init__(self, logger: Any) -> None:
        check_logger(self._row, logger)
        check_gpu(self._row, logger)
        self._logger = logger

    @property
    def logger(self) -> Any:
        return self._logger

    @property
    def num_DLA_cores(self) -> int:
        return 0

    @property
    def platform_has_tf32(self) -> bool:
        return True

    @property
    def platform_has_fast_fp16(self) -> bool:
        return True

    @property
    def platform_has_fast_int8(self) -> bool:
        return True

    def create_network(self, flags: int = 0) -> Any:
        known = len(self._row.NetworkDefinitionCreationFlag.__members__)
        if flags >= 1 << known:
            complain(self._row, self._logger, "IBuilder::createNetworkV2: Error Code 3")
            return None
        return make(self._row.INetworkDefinition, _state=_State(flags), name="Unnamed Network 0")

    def create_builder_config(self) -> Any:
        return make(
            self._row.IBuilderConfig,
            _cache=None,
            _flags=1 << int(self._row.BuilderFlag["TF32"]),
            _level=3,
            _logger=self._logger,
            _monitor=None,
            _pools={},
            profiling_verbosity=self._row.ProfilingVerbosity.LAYER_NAMES_ONLY,
        )

    def build_serialized_network(self, network: Any, config: Any) -> Any:
        row, state = self._row, network._state
        problem = _refusal(row, state, config)
        if problem:
            complain(row, self._logger, f"IBuilder::buildSerializedNetwork: {problem}")
            return None
        if not _announce(row, state, config, self._logger):
            complain(row, self._logger, "Error Code 7: BuildCanceled (Build canceled by user)")
            return None
        plan = Plan(
            onnx=compiled_model(state.model),
            version=row.text,
            sm=row.gpu.sm if row.gpu else "",
            precision=_lowest(row, state, config),
            layers=tuple(_inspected(row, state, config)),
        )
        return make(row.IHostMemory, _data=pack_plan(plan))


def _is_strong(row: VersionRow, state: _State) -> bool:
    if row.version >= (11,):
        return True
    names = row.NetworkDefinitionCreationFlag.__members__
    return "STRONGLY_TYPED" in names and bool(state.flags >> int(names["STRONGLY_TYPED"]) & 1)


def _flagged(row: VersionRow, config: Any, name: str) -> bool:
    return name in row.BuilderFlag.__members__ and config.get_flag(row.BuilderFlag[name])


def _refusal(row: VersionRow, state: _State, config: Any) -> str:
    if state.graph is None:
        return "Error Code 4: API Usage Error (Network must have at least one output.)"
    set_flags = [name for name in ("FP16", "INT8") if _flagged(row, config, name)]
    if _is_strong(row, state) and set_flags:
        return (
            "Error Code 4: API Usage Error (Strongly typed networks do not allow the builder flag "
            f"k{set_flags[0]}.)"
        )
    has_qdq = any(node.op == "QuantizeLinear" for node in state.graph.nodes)
    if has_qdq and not _is_strong(row, state) and "INT8" not in set_flags:
        return (
            "Error Code 4: API Usage Error (Int8 precision has been set for a layer or layer "
            "output, but int8 is not configured in the builder.)"
        )
    heavy = next((node.name for node in state.graph.nodes if node.op in _HEAVY), None)
    limit = config.get_memory_pool_limit(row.MemoryPoolType.WORKSPACE)
    if heavy and limit < LEAST_WORKSPACE:
        return (
            "Error Code 10: Internal Error (Could not find any implementation for node "
            f"{heavy} due to insufficient workspace. See verbose log for requested sizes.)"
        )
    return ""


def _announce(row: VersionRow, state: _State, config: Any, logger: Any) -> bool:
    """Time every layer that the cache does not know, telling the monitor; False if it says stop."""
    monitor = config._monitor
    known = config._cache._entries if config._cache is not None else set()
    assert state.graph is not None
    if monitor is not None:
        monitor.phase_start("Building engine", None, 2)
        monitor.phase_start("Timing tactics", "Building engine", len(state.graph.nodes))
    for step, node in enumerate(state.graph.nodes):
        if node.name not in known:
            logger.log(row.enums["Severity"]["INFO"], f"timing {node.name}")
            known.add(node.name)
        if monitor is not None and not monitor.step_complete("Timing tactics", step):
            return False
    if monitor is not None:
        monitor.phase_finish("Timing tactics")
        for step in range(2):
            if not monitor.step_complete("Building engine", step):
                return False
        monitor.phase_finish("Building engine")
    return True


# --- what the inspector shows --------------------------------------------------------------------


def _lowest(row: VersionRow, state: _State, config: Any) -> str:
    found = {_precision(row, state, config, layer) for layer in state.layers}
    return next(name for name in ("int8", "fp16", "fp32") if name in found)


def _precision(row: VersionRow, state: _State, config: Any, layer: Any) -> str:
    """What a layer computes in: the graph's types, or in a weak network what the flags permit."""
    graph, node = state.graph, layer._node
    assert graph is not None
    if node.op in ("QuantizeLinear", "DequantizeLinear"):
        return "fp32"
    from_8_bit = {
        n for other in graph.nodes if other.op == "DequantizeLinear" for n in other.outputs
    }
    if node.op in _HEAVY and set(node.inputs[:2]) <= from_8_bit:
        return "int8"
    if _is_strong(row, state):
        half = _halves(graph)
        return "fp16" if node.op != "Cast" and any(map(half.get, node.outputs)) else "fp32"
    pinned = _flagged(row, config, "OBEY_PRECISION_CONSTRAINTS") and "precision" in layer._held
    return "fp16" if _flagged(row, config, "FP16") and not pinned else "fp32"


def _inspected(row: VersionRow, state: _State, config: Any) -> Iterator[Any]:
    assert state.graph is not None
    detailed = config.profiling_verbosity is row.ProfilingVerbosity.DETAILED
    form = _layer_of_8 if row.version < (10,) else _layer_of_10
    for name in state.graph.inputs:
        copied = f"Reformatting CopyNode for Input Tensor 0 to {name}"
        yield {"Name": copied, "LayerType": "Reformat"} if detailed else copied
    for layer in state.layers:
        node = layer._node
        if node.op in ("QuantizeLinear", "DequantizeLinear", "Cast", "Constant"):
            continue
        precision = _precision(row, state, config, layer)
        yield form(state, node, precision) if detailed else node.name


def _layer_of_8(state: _State, node: Node, precision: str) -> dict[str, Any]:
    """8.x: sizes of the weights, and the type within the format."""
    assert state.shapes is not None
    words, _, kernel = _WORDS[precision]
    shown: dict[str, Any] = {
        "Name": f"{node.inputs[-1]} + {node.name}" if node.op == "Conv" else f"PWN({node.name})",
        "LayerType": "CaskConvolution" if node.op in _HEAVY else "PointWiseV2",
        "Inputs": _tensors(state, node.inputs[:1], words),
        "Outputs": _tensors(state, node.outputs, words),
        "ParameterType": "Convolution" if node.op in _HEAVY else "PointWise",
    }
    if node.op in _HEAVY:
        shown["TacticName"] = f"sm80_xmma_fprop_implicit_gemm_{kernel}_nhwckrsc_nhwc_tilesize64"
    return shown


def _layer_of_10(state: _State, node: Node, precision: str) -> dict[str, Any]:
    """10 and later: the type by itself, and the ONNX nodes apart from the name."""
    _, word, kernel = _WORDS[precision]
    heavy = node.op in _HEAVY
    return {
        "Name": f"__myl_{node.op}_myl0_0",
        "LayerType": "gemm" if heavy else "kgen",
        "Inputs": _tensors(state, node.inputs[:1], word),
        "Outputs": _tensors(state, node.outputs, word),
        "TacticName": f"sm80_xmma_fprop_{kernel}_tn_n" if heavy else "__myl_0x1f",
        "StreamId": 0,
        "Metadata": f"[ONNX Layer: {node.inputs[0]}/copy]\x1f[ONNX Layer: {node.name}]",
    }


def _tensors(state: _State, names: tuple[str, ...], words: str) -> list[dict[str, Any]]:
    assert state.shapes is not None
    return [
        {"Name": n, "Dimensions": list(state.shapes.get(n, ())), "Format/Datatype": words}
        for n in names
    ]


def builder_half(row: VersionRow) -> dict[str, object]:
    """The names of the building half, cut down to a version."""
    classes: list[type] = [Builder, IBuilderConfig, INetworkDefinition, ITensor, ILayer]
    classes += [OnnxParser, ParserError, ITimingCache, IHostMemory]
    if row.has("IProgressMonitor.phase_start"):
        classes.append(IProgressMonitor)
    made: dict[str, object] = {cls.__name__: row.trim(cls) for cls in classes}
    made["IConvolutionLayer"] = _convolution_class(row)
    return made


def _convolution_class(row: VersionRow) -> type:
    """An ILayer that also shows its kernel; equal slots let an object change its class."""

    def kernel(self: Any) -> Any:
        return self._kernel

    body = {key: value for key, value in vars(ILayer).items() if key not in ILayer.__slots__}
    whole = type("IConvolutionLayer", (), {**body, "kernel": property(kernel)})
    return row.trim(whole)
