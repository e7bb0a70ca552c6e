"""A ``tensorrt`` module that has what one version has, and nothing else.

:data:`TABLE` says which name exists in which versions.  Classes are cut down to it, enumerations
hold the members of that version alone, and so reading or setting what a version lacks raises
AttributeError as the real binding does.  The numbers behind enumerations follow from a member's
place in its version and shift between majors: code that relies on one breaks here too.

:func:`make_tensorrt` puts a module together from the running half (``tensorrt_runtime.py``) and,
where that file is there, the building half (``tensorrt_build.py``), which offers
``builder_half(row) -> dict[str, object]`` and may bring a ``TABLE`` of its own.
"""

from __future__ import annotations

import enum
import importlib
import importlib.machinery
import importlib.util
import json
import struct
import types
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

Version = tuple[int, ...]

#: Full versions by the short name that tests use.
VERSIONS = {
    "8.5.3": "8.5.3.1",
    "8.6.1": "8.6.1.6",
    "10.3": "10.3.0.30",
    "10.7": "10.7.0.23",
    "10.13": "10.13.3.9",
    "10.16": "10.16.2.10",
    "11.1": "11.1.0.106",
}

#: ``Class.name  since-until``: from ``since`` on and before ``until``; a bare name is in all of
#: them.  Members of an enumeration stand in the order of their numbers.
TABLE = """
ILogger.log
ILogger.Severity
ILogger.INTERNAL_ERROR
ILogger.ERROR
ILogger.WARNING
ILogger.INFO
ILogger.VERBOSE
Logger.log
Logger.min_severity
Severity.INTERNAL_ERROR
Severity.ERROR
Severity.WARNING
Severity.INFO
Severity.VERBOSE

DataType.FLOAT
DataType.HALF
DataType.INT8
DataType.INT32
DataType.BOOL
DataType.UINT8
DataType.FP8                8.6-
DataType.BF16               10-
DataType.INT64              10-
DataType.INT4               10.3-
DataType.FP4                10.13-
TensorIOMode.NONE
TensorIOMode.INPUT
TensorIOMode.OUTPUT
TensorLocation.DEVICE
TensorLocation.HOST
LayerInformationFormat.ONELINE
LayerInformationFormat.JSON
ProfilingVerbosity.LAYER_NAMES_ONLY
ProfilingVerbosity.NONE
ProfilingVerbosity.DETAILED

Runtime.logger
Runtime.deserialize_cuda_engine
Runtime.max_threads
Runtime.DLA_core
Runtime.num_DLA_cores
Runtime.engine_host_code_allowed  8.6-

ICudaEngine.name
ICudaEngine.num_layers
ICudaEngine.num_io_tensors
ICudaEngine.num_optimization_profiles
ICudaEngine.get_tensor_name
ICudaEngine.get_tensor_mode
ICudaEngine.get_tensor_shape
ICudaEngine.get_tensor_dtype
ICudaEngine.get_tensor_location
ICudaEngine.create_execution_context
ICudaEngine.create_engine_inspector
ICudaEngine.profiling_verbosity
ICudaEngine.hardware_compatibility_level  8.6-
ICudaEngine.device_memory_size            -11
ICudaEngine.device_memory_size_v2         10-
ICudaEngine.weight_streaming_budget       10-11
ICudaEngine.num_bindings                  -10
ICudaEngine.get_binding_index             -10
ICudaEngine.get_binding_shape             -10
ICudaEngine.get_binding_dtype             -10
ICudaEngine.binding_is_input              -10

IExecutionContext.engine
IExecutionContext.name
IExecutionContext.set_input_shape
IExecutionContext.get_tensor_shape
IExecutionContext.set_tensor_address
IExecutionContext.get_tensor_address
IExecutionContext.execute_async_v3
IExecutionContext.execute_async_v2        -10

EngineInspector.get_engine_information
EngineInspector.get_layer_information
EngineInspector.execution_context

IHostMemory.nbytes
IHostMemory.dtype

Builder.create_network
Builder.create_builder_config
Builder.create_optimization_profile
Builder.build_serialized_network
Builder.num_DLA_cores
Builder.max_threads
Builder.logger
Builder.get_plugin_registry
Builder.is_network_supported
Builder.platform_has_tf32
Builder.platform_has_fast_fp16            -11
Builder.platform_has_fast_int8            -11
Builder.build_engine                      -10
Builder.max_batch_size                    -10

NetworkDefinitionCreationFlag.EXPLICIT_BATCH      -11
NetworkDefinitionCreationFlag.EXPLICIT_PRECISION  -10
NetworkDefinitionCreationFlag.STRONGLY_TYPED      10-
NetworkDefinitionCreationFlag.PREFER_AOT_PYTHON_PLUGINS  10.13-

BuilderFlag.FP16                          -11
BuilderFlag.INT8                          -11
BuilderFlag.DEBUG
BuilderFlag.GPU_FALLBACK
BuilderFlag.STRICT_TYPES                  -10
BuilderFlag.REFIT
BuilderFlag.DISABLE_TIMING_CACHE
BuilderFlag.TF32
BuilderFlag.SPARSE_WEIGHTS
BuilderFlag.SAFETY_SCOPE
BuilderFlag.OBEY_PRECISION_CONSTRAINTS    -11
BuilderFlag.PREFER_PRECISION_CONSTRAINTS  -11
BuilderFlag.DIRECT_IO
BuilderFlag.REJECT_EMPTY_ALGORITHMS       -11
BuilderFlag.ENABLE_TACTIC_HEURISTIC       -10
BuilderFlag.VERSION_COMPATIBLE            8.6-
BuilderFlag.EXCLUDE_LEAN_RUNTIME          8.6-
BuilderFlag.FP8                           8.6-11
BuilderFlag.ERROR_ON_TIMING_CACHE_MISS    10-
BuilderFlag.BF16                          10-11
BuilderFlag.DISABLE_COMPILATION_CACHE     10-
BuilderFlag.STRIP_PLAN                    10-
BuilderFlag.REFIT_IDENTICAL               10-
BuilderFlag.WEIGHT_STREAMING              10-
BuilderFlag.INT4                          10.3-11
BuilderFlag.STRICT_NANS                   10.3-

MemoryPoolType.WORKSPACE
MemoryPoolType.DLA_MANAGED_SRAM
MemoryPoolType.DLA_LOCAL_DRAM
MemoryPoolType.DLA_GLOBAL_DRAM
MemoryPoolType.TACTIC_DRAM                8.6-
MemoryPoolType.TACTIC_SHARED_MEMORY       10-

HardwareCompatibilityLevel.NONE           8.6-
HardwareCompatibilityLevel.AMPERE_PLUS    8.6-
HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY  10.16-
RuntimePlatform.SAME_AS_BUILD             10-
RuntimePlatform.WINDOWS_AMD64             10-
DeviceType.GPU
DeviceType.DLA
TacticSource.CUBLAS                       -11
TacticSource.CUBLAS_LT                    -11
TacticSource.CUDNN                        -11
TacticSource.EDGE_MASK_CONVOLUTIONS
TacticSource.JIT_CONVOLUTIONS

IBuilderConfig.set_flag
IBuilderConfig.get_flag
IBuilderConfig.clear_flag
IBuilderConfig.flags
IBuilderConfig.set_memory_pool_limit
IBuilderConfig.get_memory_pool_limit
IBuilderConfig.create_timing_cache
IBuilderConfig.set_timing_cache
IBuilderConfig.get_timing_cache
IBuilderConfig.profiling_verbosity
IBuilderConfig.avg_timing_iterations
IBuilderConfig.add_optimization_profile
IBuilderConfig.default_device_type
IBuilderConfig.set_tactic_sources
IBuilderConfig.get_tactic_sources
IBuilderConfig.max_workspace_size         -10
IBuilderConfig.builder_optimization_level 8.6-
IBuilderConfig.hardware_compatibility_level  8.6-
IBuilderConfig.max_aux_streams            8.6-
IBuilderConfig.progress_monitor           10-
IBuilderConfig.runtime_platform           10-
IBuilderConfig.int8_calibrator            -11
IBuilderConfig.set_calibration_profile    -11

ITimingCache.serialize
ITimingCache.combine
ITimingCache.reset

INetworkDefinition.name
INetworkDefinition.num_inputs
INetworkDefinition.num_outputs
INetworkDefinition.num_layers
INetworkDefinition.get_input
INetworkDefinition.get_output
INetworkDefinition.get_layer
INetworkDefinition.get_flag
INetworkDefinition.flags
INetworkDefinition.has_implicit_batch_dimension  -11
ITensor.name
ITensor.shape
ITensor.dtype
ITensor.is_network_input
ITensor.is_network_output
ITensor.dynamic_range                     -11
ITensor.set_dynamic_range                 -11
ILayer.name
ILayer.type
ILayer.num_inputs
ILayer.num_outputs
ILayer.precision                          -11
ILayer.set_output_type                    -11
IOptimizationProfile.set_shape
IOptimizationProfile.get_shape

OnnxParser.parse
OnnxParser.parse_from_file
OnnxParser.num_errors
OnnxParser.get_error
OnnxParser.clear_errors
OnnxParser.set_flag                       8.6-
OnnxParser.get_flag                       8.6-
OnnxParser.supports_model                 -11
OnnxParser.supports_model_v2              10-
OnnxParser.set_builder_config             10.16-
ParserError.code
ParserError.desc
ParserError.file
ParserError.line
ParserError.func
ParserError.node
ParserError.node_name                     10-
ParserError.node_operator                 10-
OnnxParserFlag.NATIVE_INSTANCENORM        8.6-
OnnxParserFlag.ENABLE_UINT8_AND_ASYMMETRIC_QUANTIZATION_DLA  10.13-
OnnxParserFlag.REPORT_CAPABILITY_DLA      10.16-
OnnxParserFlag.ADJUST_FOR_DLA             10.16-
"""

ENUMS = (
    "Severity",
    "DataType",
    "TensorIOMode",
    "TensorLocation",
    "LayerInformationFormat",
    "ProfilingVerbosity",
    "NetworkDefinitionCreationFlag",
    "BuilderFlag",
    "MemoryPoolType",
    "HardwareCompatibilityLevel",
    "RuntimePlatform",
    "DeviceType",
    "TacticSource",
    "OnnxParserFlag",
)

_MAGIC = b"FAKEPLAN"


@dataclass(frozen=True, slots=True)
class Gpu:
    """The device that the module believes to run on; None where there is no driver."""

    name: str = "Orin"
    sm: str = "8.7"


ORIN = Gpu()


def parse_version(text: str) -> Version:
    return tuple(int(part) for part in text.split("."))


def parse_table(text: str) -> dict[str, tuple[Version, Version]]:
    """``Class.name`` to the first version that has it and the first that no longer does."""
    spans = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        name, _, span = line.partition(" ")
        since, _, until = span.strip().partition("-")
        spans[name] = (parse_version(since or "0"), parse_version(until or "1000"))
    return spans


@dataclass(frozen=True)
class VersionRow:
    """One column of :data:`TABLE`: everything the two halves need to know of a version.

    Attributes:
        text: Full version, ``10.3.0.30``.
        gpu: The device, or None.
        names: Every ``Class.name`` that exists in it.
        enums: The enumerations of this version by name, with its members alone.
        module: The finished module: classes look each other up in it when they run.
    """

    text: str
    gpu: Gpu | None
    names: frozenset[str]
    enums: Mapping[str, type[enum.Enum]]
    module: types.ModuleType = field(compare=False)

    @property
    def version(self) -> Version:
        return parse_version(self.text)

    def has(self, name: str) -> bool:
        """Whether this version has ``Class.name``."""
        return name in self.names

    def trim(self, cls: type, name: str = "") -> type:
        """The class as this version has it: no public name that :data:`TABLE` leaves out.

        ``cls`` lists its private state in ``__slots__``; other attributes cannot be set, as in
        pybind.  The row is ``self._row``.
        """
        name = name or cls.__name__
        dropped = {"__dict__", "__weakref__", *getattr(cls, "__slots__", ())}
        kept = {
            key: value
            for key, value in vars(cls).items()
            if key not in dropped and (key.startswith("_") or self.has(f"{name}.{key}"))
        }
        return type(cls)(name, (), {**kept, "_row": self, "__module__": "tensorrt"})

    def __getattr__(self, name: str) -> Any:
        """An enumeration or class of the finished module, by name."""
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.module, name)


class _Pybind(enum.Enum):
    def __int__(self) -> int:
        return int(self.value)

    __index__ = __int__


def make_enum(name: str, members: Iterable[str]) -> type[enum.Enum]:
    """An enumeration as pybind makes them: no integer itself, but ``int(member)`` works."""
    numbered = [(member, place) for place, member in enumerate(members)]
    made: type[enum.Enum] = _Pybind(name, numbered, module="tensorrt")  # type: ignore[call-overload]
    return made


@dataclass(frozen=True, slots=True)
class Plan:
    """What the fake calls a plan: the graph itself and what it is tied to.

    Attributes:
        onnx: The ONNX file; the context computes it with ONNX Runtime.
        version: Full version of the TensorRT that built it.
        sm: What it was built for.
        precision: ``fp32``, ``fp16`` or ``int8``; FP16 rounds what comes out.
        host_code: Whether it carries code for the host, as version-compatible plans do.
        layers: What the inspector shows: a string each, or a dictionary if built in detail.
        dtypes: Tensors whose data type the engine is to show as something else than FLOAT.
        capturable: Whether its work can be recorded into a CUDA graph.
    """

    onnx: bytes
    version: str
    sm: str
    precision: str = "fp32"
    host_code: bool = False
    layers: tuple[Any, ...] = ()
    dtypes: Mapping[str, str] = field(default_factory=dict)
    capturable: bool = True


def pack_plan(plan: Plan) -> bytes:
    header = {key: value for key, value in asdict(plan).items() if key != "onnx"}
    encoded = json.dumps(header).encode()
    return _MAGIC + struct.pack("<II", len(encoded), len(plan.onnx)) + encoded + plan.onnx


def unpack_plan(data: bytes) -> Plan:
    """Raises ValueError where ``data`` is no whole plan."""
    start = len(_MAGIC) + 8
    if data[: len(_MAGIC)] != _MAGIC or len(data) < start:
        raise ValueError("magic tag does not match")
    header, model = struct.unpack("<II", data[len(_MAGIC) : start])
    if len(data) != start + header + model:
        raise ValueError("size does not match")
    fields = json.loads(data[start : start + header])
    fields["layers"] = tuple(fields["layers"])
    return Plan(onnx=data[start + header :], **fields)


def make_tensorrt(version: str = "10.3", gpu: Gpu | None = Gpu()) -> types.ModuleType:
    """A fresh ``tensorrt`` module of one version.

    Args:
        version: A key of :data:`VERSIONS`, or one of its full versions.
        gpu: What it runs on; None where there is no driver.
    """
    text = VERSIONS.get(version, version)
    if text not in VERSIONS.values():
        raise KeyError(f"no such version: {version}")
    from tests.fakes.tensorrt_runtime import runtime_half

    build = _builder_module()
    table = parse_table(TABLE + getattr(build, "TABLE", ""))
    names = [n for n, (since, until) in table.items() if since <= parse_version(text) < until]
    members: dict[str, list[str]] = {}
    for name in names:
        owner, _, member = name.partition(".")
        members.setdefault(owner, []).append(member)
    own_enums = (*ENUMS, *getattr(build, "ENUMS", ()))
    enums = {name: make_enum(name, members[name]) for name in own_enums if name in members}
    module = types.ModuleType("tensorrt", f"TensorRT {text} as tests see it.")
    module.__spec__ = importlib.machinery.ModuleSpec("tensorrt", None)  # else find_spec raises
    row = VersionRow(text, gpu, frozenset(names), enums, module)
    vars(module).update({name: kind for name, kind in enums.items() if name != "Severity"})
    vars(module).update(__version__=text, **runtime_half(row))
    if build is not None:
        vars(module).update(build.builder_half(row))
    return module


def _builder_module() -> Any:
    if importlib.util.find_spec("tests.fakes.tensorrt_build") is None:
        return None
    return importlib.import_module("tests.fakes.tensorrt_build")
