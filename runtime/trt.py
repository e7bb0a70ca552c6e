"""An engine on TensorRT, 8.5 to 11: only what all of them have is used.

One stream, page-locked buffers, and one CUDA graph for a whole frame where TensorRT's work can be
recorded.  On an integrated GPU the engine reads and writes those buffers in place; on a discrete
one they are copied over and back within the graph.
"""

from __future__ import annotations

import ctypes
import threading
import warnings
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_fusion.errors import SessionError
from edge_fusion.spec import ModelSpec, TensorSpec

from .cuda import Cuda, DeviceMemory, HostMemory
from .feed import check_inputs
from .session import Execution, Tensors
from .trt_api import TensorRT

_BYTES = 4  # of a float32
_LAST_FRAME_S = 2.0


@dataclass(frozen=True, slots=True)
class _Buffer:
    """One tensor of the engine: its memory on either side; None where the device needs none."""

    spec: TensorSpec
    is_input: bool
    host: HostMemory
    device: DeviceMemory | None
    view: NDArray[np.float32]

    @property
    def address(self) -> int | None:
        """Where the engine finds it."""
        return self.device.address if self.device else self.host.device_address


class TrtSession:
    """An engine ready to run, float32 in and out.

    The plan is executable content.  It is deserialised as it is: whoever opens a session has
    checked before that it was built on this device and is what its builder wrote
    (:func:`edge_fusion.engine.find_engine` does).  Plans that carry code for the host stay
    forbidden in any case.

    Args:
        plan: A serialised engine.
        spec: What the model takes and returns; the engine is held against it.
        cuda: The CUDA runtime; everything that is taken from it is given back by :meth:`close`.
        api: TensorRT.

    Raises:
        SessionError: TensorRT refuses the plan, its tensors are not those of ``spec``, or CUDA
            failed; nothing is left behind.

    Example:
        >>> with TrtSession(plan, spec, Cuda.load(), load_tensorrt()) as session:  # doctest: +SKIP
        ...     saliency = session.run(inputs)["saliency"]
    """

    def __init__(self, plan: bytes, spec: ModelSpec, cuda: Cuda, api: TensorRT) -> None:
        self._api, self._cuda = api, cuda
        self._inputs = spec.inputs
        device = cuda.device()
        # TensorRT's objects use those they were made by: all three live as long as the session.
        self._runtime = _runtime(api)
        self._engine = _deserialize(plan, self._runtime, api)
        specs = _tensor_specs(self._engine, spec)
        self._lock, self._failed = threading.Lock(), False
        self._resources = resources = ExitStack()
        try:
            resources.callback(self._forget)
            self._context = _context(self._engine, api)
            self._stream = cuda.stream()
            resources.callback(cuda.destroy_stream, self._stream)
            self._buffers = tuple(
                _allocate(one, one.name in _names(spec), cuda, device.integrated, resources)
                for one in specs
            )
            resources.callback(self._settle)
            self._set_addresses()
            self._graph, reason = self._prepare(resources)
        except BaseException:
            self._failed = True
            self.close()
            raise
        self._execution = Execution(
            launch="enqueue" if self._graph is None else "graph",
            memory="unified" if device.integrated else "copied",
            reason=reason,
            tensorrt=api.version_text,
            device=device.name,
            plan_bytes=len(plan),
        )

    @property
    def execution(self) -> Execution:
        """How it runs: by a CUDA graph or not, and in whose memory."""
        return self._execution

    def run(self, inputs: Mapping[str, NDArray[np.float32]]) -> Tensors:
        """Run the engine once.

        Args:
            inputs: Every input by name, float32, in the model's shape.

        Returns:
            Every output by name, float32, in arrays of their own.

        Raises:
            SessionError: The session is closed; an input is missing, unknown or of another shape
                or dtype; or TensorRT or CUDA failed.
        """
        with self._lock:
            if self._context is None:
                raise SessionError("the session is closed", cure="open another one")
            check_inputs(inputs, self._inputs)
            try:
                return self._run(inputs)
            except SessionError:
                self._failed = True
                raise

    def _run(self, inputs: Mapping[str, NDArray[np.float32]]) -> Tensors:
        for buffer in self._buffers:
            if buffer.is_input:
                np.copyto(buffer.view, inputs[buffer.spec.name])
        if self._graph is None:
            self._enqueue()
        else:
            self._cuda.launch(self._graph, self._stream)
        self._cuda.synchronize(self._stream)
        return {b.spec.name: b.view.copy() for b in self._buffers if not b.is_input}

    def inspect(self) -> str:
        """What TensorRT's inspector says of the engine's layers, JSON.

        Raises:
            SessionError: The session is closed, or TensorRT failed.
        """
        if self._engine is None:
            raise SessionError("the session is closed", cure="open another one")
        mark = self._api.log.mark()
        inspector = self._engine.create_engine_inspector()
        if inspector is None:
            raise SessionError(
                "TensorRT could not inspect the engine", got=self._api.log.errors(mark)
            )
        form = self._api.module.LayerInformationFormat.JSON
        return str(inspector.get_engine_information(form))

    def close(self) -> None:
        """Free the engine and every buffer; a closed session refuses to run.

        A frame that is under way in another thread is waited for.  One that does not end keeps its
        memory, with a ``ResourceWarning``: freeing what the device still writes to would be worse.

        Raises:
            SessionError: CUDA failed, and had not failed before.
        """
        if not self._lock.acquire(timeout=_LAST_FRAME_S):
            warnings.warn(
                f"the engine is still at a frame after {_LAST_FRAME_S:g} s: its memory stays taken",
                ResourceWarning,
                stacklevel=2,
            )
            return
        try:
            self._resources.close()
        except SessionError:
            if not self._failed:  # else the first failure is the one to tell
                raise
        finally:
            self._lock.release()

    def __enter__(self) -> TrtSession:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _forget(self) -> None:
        """Let go of views on memory that is freed, and of TensorRT's objects."""
        self._graph, self._buffers = None, ()
        self._context = self._engine = self._runtime = None

    def _settle(self) -> None:
        """Nothing may be under way in memory that is about to be freed."""
        with suppress(SessionError):  # what failed before fails here again and is known
            self._cuda.synchronize(self._stream)

    def _set_addresses(self) -> None:
        for buffer in self._buffers:
            mark = self._api.log.mark()
            if not self._context.set_tensor_address(buffer.spec.name, buffer.address):
                raise SessionError(
                    f"TensorRT refused the memory of '{buffer.spec.name}'",
                    got=self._api.log.errors(mark),
                )

    def _enqueue(self) -> None:
        """One frame's work: inputs over, the engine, outputs back."""
        for buffer in self._buffers:
            if buffer.is_input and buffer.device:
                self._cuda.copy_in(buffer.device, buffer.host, self._stream)
        mark = self._api.log.mark()
        if not self._context.execute_async_v3(self._stream):
            raise SessionError("TensorRT refused to run the engine", got=self._api.log.errors(mark))
        for buffer in self._buffers:
            if not buffer.is_input and buffer.device:
                self._cuda.copy_out(buffer.host, buffer.device, self._stream)

    def _prepare(self, resources: ExitStack) -> tuple[int | None, str]:
        """Warm up, then record a frame's work: the graph, or why there is none."""
        for buffer in self._buffers:
            buffer.view.fill(0)
        # The first run also finishes what TensorRT puts off, which cannot be recorded.
        self._enqueue()
        self._cuda.synchronize(self._stream)
        try:
            graph = self._record()
        except SessionError as err:
            return None, str(err)
        resources.callback(self._cuda.destroy_graph, graph)
        self._cuda.launch(graph, self._stream)
        self._cuda.synchronize(self._stream)
        return graph, ""

    def _record(self) -> int:
        self._cuda.begin_capture(self._stream)
        try:
            self._enqueue()
        except SessionError:
            # A capture must be ended before its stream is of use again; what that says of the
            # failure is less than TensorRT said.
            with suppress(SessionError):
                self._cuda.destroy_graph(self._cuda.end_capture(self._stream))
            raise
        return self._cuda.end_capture(self._stream)


def _runtime(api: TensorRT) -> Any:
    """Code for the host stays forbidden: it is, wherever a version knows it, until allowed."""
    mark = api.log.mark()
    try:
        return api.module.Runtime(api.logger)
    except TypeError as err:  # pybind's way of passing on a null pointer
        raise SessionError(
            "TensorRT does not start on this machine",
            got=api.log.errors(mark),
            cure="see what 'edge-fusion doctor' says of its driver",
        ) from err


def _deserialize(plan: bytes, runtime: Any, api: TensorRT) -> Any:
    mark = api.log.mark()
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise SessionError(
            "TensorRT refused the plan",
            got=api.log.errors(mark),
            cure="build the engine again on this device",
        )
    return engine


def _context(engine: Any, api: TensorRT) -> Any:
    mark = api.log.mark()
    context = engine.create_execution_context()
    if context is None:
        raise SessionError(
            "TensorRT could not prepare the engine",
            got=api.log.errors(mark),
            cure="is there enough free memory? close other programs",
        )
    return context


def _tensor_specs(engine: Any, spec: ModelSpec) -> tuple[TensorSpec, ...]:
    """Every tensor of the engine, held against what the model takes and returns."""
    found = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    inputs = [name for name in found if engine.get_tensor_mode(name).name == "INPUT"]
    outputs = [name for name in found if name not in inputs]
    if sorted(inputs) != sorted(_names(spec)) or spec.output.name not in outputs:
        raise SessionError(
            "the engine is of another model",
            expected=f"inputs {', '.join(_names(spec))} and output {spec.output.name}",
            got=f"inputs {', '.join(inputs)} and outputs {', '.join(outputs)}",
        )
    takes = {one.name: one.shape for one in spec.inputs}
    specs = []
    for name in found:
        shape, dtype = tuple(engine.get_tensor_shape(name)), engine.get_tensor_dtype(name).name
        plane = name == spec.output.name
        fits = shape == takes.get(name, shape) and not (plane and shape[:-2] != (1, 1))
        if dtype != "FLOAT" or not fits or min(shape, default=1) < 1:
            wanted = takes.get(name, "(1, 1, height, width)" if plane else "a fixed shape,")
            raise SessionError(
                f"the engine's tensor '{name}'",
                expected=f"{wanted} FLOAT",
                got=f"{shape} {dtype}",
                cure="build it from this bundle",
            )
        specs.append(TensorSpec(name=name, shape=shape))
    return tuple(specs)


def _names(spec: ModelSpec) -> list[str]:
    return [one.name for one in spec.inputs]


def _allocate(
    spec: TensorSpec, is_input: bool, cuda: Cuda, integrated: bool, resources: ExitStack
) -> _Buffer:
    count = int(np.prod(spec.shape))
    host = cuda.host_alloc(count * _BYTES, mapped=integrated)
    resources.callback(cuda.host_free, host)
    device = None
    if not integrated:
        device = cuda.malloc(count * _BYTES)
        resources.callback(cuda.free, device)
    memory = (ctypes.c_float * count).from_address(host.address)
    return _Buffer(spec, is_input, host, device, np.ctypeslib.as_array(memory).reshape(spec.shape))
