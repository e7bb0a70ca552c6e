"""The running half of the fake ``tensorrt``: plans are computed by ONNX Runtime on real memory."""

from __future__ import annotations

import ctypes
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edge_fusion.runtime.ort import OrtSession
from tests.fakes.cudart import check_range, enqueue
from tests.fakes.tensorrt_api import Plan, VersionRow, unpack_plan

if TYPE_CHECKING:
    _Row = VersionRow


class _LoggerMeta(type):
    """Refuses a subclass whose ``__init__`` leaves its base out, as pybind does."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        made = super().__call__(*args, **kwargs)
        if not hasattr(made, "_ready"):
            raise TypeError("tensorrt.ILogger.__init__() must be called when overriding __init__")
        return made


class ILogger(metaclass=_LoggerMeta):
    """Severities are hung on below: they are an enumeration of the version."""

    __slots__ = ("_ready",)

    def __init__(self) -> None:
        self._ready = True

    def log(self, severity: Any, msg: str) -> None:
        raise RuntimeError('Tried to call pure virtual function "nvinfer1::ILogger::log"')


def _no_constructor(self: Any, *_: Any) -> None:
    raise TypeError(f"tensorrt.tensorrt.{type(self).__name__}: No constructor defined!")


def make(cls: type, **state: Any) -> Any:
    """An instance of a class that has no constructor in Python."""
    made = object.__new__(cls)
    for name, value in state.items():
        setattr(made, name, value)
    return made


class Runtime:
    __slots__ = ("DLA_core", "_host_code", "_logger", "max_threads")
    _row: _Row

    def __init__(self, logger: Any) -> None:
        check_logger(self._row, logger)
        check_gpu(self._row, logger)
        self._logger, self._host_code = logger, False
        self.DLA_core, self.max_threads = -1, 1

    @property
    def logger(self) -> Any:
        return self._logger

    @property
    def num_DLA_cores(self) -> int:
        return 0

    @property
    def engine_host_code_allowed(self) -> bool:
        return bool(self._host_code)

    @engine_host_code_allowed.setter
    def engine_host_code_allowed(self, allowed: bool) -> None:
        self._host_code = allowed

    def deserialize_cuda_engine(self, serialized_engine: Any) -> Any:
        row, logger = self._row, self._logger
        try:
            plan = unpack_plan(bytes(serialized_engine))
        except ValueError:
            return _refuse(
                row,
                logger,
                "IRuntime::deserializeCudaEngine: Error Code 1: Serialization (Serialization "
                "assertion plan->header.magicTag == rt::kPLAN_MAGIC_TAG failed.)",
            )
        problem = _misfit(row, plan, host_code=self._host_code)
        if problem:
            return _refuse(row, logger, f"IRuntime::deserializeCudaEngine: {problem}")
        session = OrtSession(plan.onnx, threads=1)
        return make(row.ICudaEngine, _plan=plan, _session=session, _logger=logger)


class ICudaEngine:
    __slots__ = ("_logger", "_plan", "_session")
    _row: _Row
    __init__ = _no_constructor

    @property
    def name(self) -> str:
        return "Unnamed Network 0"

    @property
    def num_layers(self) -> int:
        return len(self._plan.layers)

    @property
    def num_io_tensors(self) -> int:
        return len(_names(self))

    @property
    def num_optimization_profiles(self) -> int:
        return 1

    @property
    def profiling_verbosity(self) -> Any:
        return self._row.ProfilingVerbosity.LAYER_NAMES_ONLY

    @property
    def hardware_compatibility_level(self) -> Any:
        return self._row.HardwareCompatibilityLevel.NONE

    @property
    def device_memory_size(self) -> int:
        return 4 << 20

    @property
    def device_memory_size_v2(self) -> int:
        return 4 << 20

    @property
    def num_bindings(self) -> int:
        return len(_names(self))

    def get_binding_index(self, name: str) -> int:
        return _names(self).index(name) if name in _names(self) else -1

    def get_binding_shape(self, name: str) -> tuple[int, ...]:
        return _shape(self, name)

    def get_binding_dtype(self, name: str) -> Any:
        return self._row.DataType[self._plan.dtypes.get(name, "FLOAT")]

    def binding_is_input(self, name: str) -> bool:
        return name in [spec.name for spec in self._session.inputs]

    @property
    def weight_streaming_budget(self) -> int:
        return 0

    def get_tensor_name(self, index: int) -> str:
        return str(_names(self)[index])

    def get_tensor_mode(self, name: str) -> Any:
        modes = self._row.TensorIOMode
        if name not in _names(self):
            return modes.NONE
        inputs = [spec.name for spec in self._session.inputs]
        return modes.INPUT if name in inputs else modes.OUTPUT

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return _shape(self, name)

    def get_tensor_dtype(self, name: str) -> Any:
        return self._row.DataType[self._plan.dtypes.get(name, "FLOAT")]

    def get_tensor_location(self, name: str) -> Any:
        return self._row.TensorLocation.DEVICE

    def create_execution_context(self) -> Any:
        return make(self._row.IExecutionContext, _engine=self, _addresses={}, name="")

    def create_engine_inspector(self) -> Any:
        return make(self._row.EngineInspector, _engine=self, execution_context=None)


class IExecutionContext:
    __slots__ = ("_addresses", "_engine", "name")
    _row: _Row
    __init__ = _no_constructor

    @property
    def engine(self) -> Any:
        return self._engine

    def set_input_shape(self, name: str, shape: Sequence[int]) -> bool:
        if tuple(shape) == _shape(self._engine, name):
            return True
        complain(
            self._row,
            self._engine._logger,
            f"IExecutionContext::setInputShape: Error Code 3: API Usage Error (Static dimension "
            f"mismatch while setting input shape for {name}.)",
        )
        return False

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return _shape(self._engine, name)

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if name not in _names(self._engine):
            complain(
                self._row,
                self._engine._logger,
                f"IExecutionContext::setTensorAddress: given invalid tensor name: {name}.",
            )
            return False
        assert type(memory) is int, f"incompatible function arguments: {type(memory)}"
        self._addresses[name] = memory
        return True

    def get_tensor_address(self, name: str) -> int:
        return int(self._addresses.get(name, 0))

    def execute_async_v3(self, stream_handle: int) -> bool:
        for name in _names(self._engine):
            if not self._addresses.get(name):
                complain(
                    self._row,
                    self._engine._logger,
                    "IExecutionContext::enqueueV3: Error Code 3: API Usage Error (Parameter check "
                    f"failed, condition: mContext.profileObliviousBindings. Address is not set for "
                    f"tensor {name}.)",
                )
                return False
        engine, addresses = self._engine, dict(self._addresses)
        capturable = engine._plan.capturable
        if enqueue(stream_handle, lambda: _compute(engine, addresses), capturable=capturable):
            return True
        complain(
            self._row,
            engine._logger,
            "IExecutionContext::enqueueV3: Error Code 1: Cuda Runtime (operation not permitted "
            "when stream is capturing)",
        )
        return False

    def execute_async_v2(self, bindings: Sequence[int], stream_handle: int) -> bool:
        self._addresses = dict(zip(_names(self._engine), bindings, strict=True))
        return bool(type(self).execute_async_v3(self, stream_handle))


class EngineInspector:
    __slots__ = ("_engine", "execution_context")
    _row: _Row
    __init__ = _no_constructor

    def get_engine_information(self, format: Any) -> str:
        layers = self._engine._plan.layers
        if format is self._row.LayerInformationFormat.JSON:
            return json.dumps({"Layers": list(layers), "Bindings": _names(self._engine)})
        return "\n".join(map(str, layers))

    def get_layer_information(self, layer_index: int, format: Any) -> str:
        layer = self._engine._plan.layers[layer_index]
        is_json = format is self._row.LayerInformationFormat.JSON
        return json.dumps(layer) if is_json else str(layer)


def runtime_half(row: VersionRow) -> dict[str, object]:
    """The names of the running half, cut down to a version."""
    base: Any = row.trim(ILogger)
    severity: Any = row.enums["Severity"]
    base.Severity = severity
    for member in severity:
        setattr(base, member.name, member)

    class Logger(base):  # type: ignore[misc]
        def __init__(self, min_severity: Any = severity.WARNING) -> None:
            base.__init__(self)
            self.min_severity = min_severity

        def log(self, severity: Any, msg: str) -> None:
            if int(severity) <= int(self.min_severity):
                print(f"[TRT] [{severity.name[0]}] {msg}", file=sys.stderr)

    classes = (Runtime, ICudaEngine, IExecutionContext, EngineInspector)
    return {"ILogger": base, "Logger": Logger, **{c.__name__: row.trim(c) for c in classes}}


def check_logger(row: VersionRow, logger: Any) -> None:
    """Refuse what is no logger of this very module, as pybind's overload resolution does."""
    if not isinstance(logger, row.ILogger):
        raise TypeError("__init__(): incompatible constructor arguments: logger: tensorrt.ILogger")


def check_gpu(row: VersionRow, logger: Any) -> None:
    """Fail as a machine without a driver does."""
    if row.gpu is None:
        complain(row, logger, "CUDA initialization failure with error: 35")
        raise TypeError("pybind11::init(): factory function returned nullptr")


def complain(row: VersionRow, logger: Any, message: str) -> None:
    """One message at severity ERROR."""
    logger.log(row.enums["Severity"]["ERROR"], message)


def _refuse(row: VersionRow, logger: Any, message: str) -> None:
    complain(row, logger, message)


def _misfit(row: VersionRow, plan: Plan, *, host_code: bool) -> str:
    if plan.version != row.text:
        return (
            "Error Code 6: API Usage Error (The engine plan file is not compatible with this "
            f"version of TensorRT, expecting library version {row.text} got {plan.version}, "
            "please rebuild.)"
        )
    if row.gpu is None or plan.sm != row.gpu.sm:
        return (
            "Error Code 6: API Usage Error (The engine plan file is generated on an incompatible "
            f"device, expecting compute {row.gpu.sm if row.gpu else '?'} got compute {plan.sm}, "
            "please rebuild.)"
        )
    if plan.host_code and not host_code:
        return "Error Code 3: API Usage Error (Engine host code is not allowed by the runtime.)"
    return ""


def _names(engine: Any) -> list[str]:
    session = engine._session
    return [spec.name for spec in (*session.inputs, *session.outputs)]


def _shape(engine: Any, name: str) -> tuple[int, ...]:
    session = engine._session
    specs = {spec.name: spec.shape for spec in (*session.inputs, *session.outputs)}
    return tuple(specs.get(name, ()))


def _compute(engine: Any, addresses: dict[str, int]) -> None:
    session = engine._session
    inputs = {s.name: _at(addresses[s.name], s.shape).copy() for s in session.inputs}
    for name, value in session.run(inputs).items():
        rounded = value.astype(np.float16) if engine._plan.precision == "fp16" else value
        _at(addresses[name], value.shape)[...] = rounded


def _at(address: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Float32 memory at an address, which must be allocated: a GPU would fault, Python crash."""
    count = int(np.prod(shape))
    check_range(address, 4 * count)
    return np.ctypeslib.as_array((ctypes.c_float * count).from_address(address)).reshape(shape)
