"""The CUDA runtime by ctypes: memory, streams and graphs, without torch or pycuda."""

from __future__ import annotations

import ctypes
from ctypes import c_int, c_size_t, c_void_p
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from edge_fusion.errors import SessionError

from .cuda_library import DRIVER_TOO_OLD, NAMES, bind, find_library

# cudaDeviceAttr; these numbers never changed.
_SM_COUNT, _INTEGRATED, _SM_MAJOR, _SM_MINOR = 16, 18, 75, 76
_HOST_TO_DEVICE, _DEVICE_TO_HOST = 1, 2
_MAPPED = 2  # cudaHostAllocMapped
_NON_BLOCKING = 1  # a stream that does not wait for the default one
_THREAD_LOCAL = 1  # other threads may go on calling CUDA while this one captures
# The name fills the first 256 bytes of cudaDeviceProp in every version; the rest, which is not
# read, has grown to about one kilobyte.
_NAME_BYTES, _PROPERTIES_BYTES = 256, 16384

_OUT_OF_MEMORY, _NO_DEVICE = 2, 100
_CURES = {
    _OUT_OF_MEMORY: "close other programs; on a Jetson, CPU and GPU share one memory (free -h)",
    DRIVER_TOO_OLD: "install a driver for this CUDA, or a CUDA runtime for this driver",
    46: "another process holds the GPU exclusively: close it",
    700: "the device is in an undefined state: start the program again",
    803: "driver and driver library differ in version: restart the machine after an update",
}


@dataclass(frozen=True, slots=True)
class CudaDevice:
    """The GPU in use.

    Attributes:
        name: As CUDA gives it, such as ``Orin``.
        sm: Compute capability, such as ``(8, 7)``.
        sm_count: Streaming multiprocessors that are on now.
        total_bytes: Its memory; on an integrated GPU the whole machine's.
        integrated: Whether it shares the host's memory, as on a Jetson.
    """

    name: str
    sm: tuple[int, int]
    sm_count: int
    total_bytes: int
    integrated: bool


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """Memory of the device: its address there and its size."""

    address: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class HostMemory:
    """Page-locked memory of the host.

    Attributes:
        address: For the host.
        nbytes: Its size.
        device_address: For the device, if it was allocated mapped.
    """

    address: int
    nbytes: int
    device_address: int | None


class Cuda:
    """The CUDA runtime on its current device; frees what is left when it closes.

    Args:
        library: A loaded libcudart.

    Raises:
        SessionError: The library is older than CUDA 11.4.

    Example:
        >>> with Cuda.load() as cuda:  # doctest: +SKIP
        ...     cuda.device().name
        'Orin'
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._functions = bind(library)
        self._held: dict[tuple[str, int], None] = {}  # what frees it and its handle, in order
        self._closed = False

    @classmethod
    def load(cls) -> Cuda:
        """Find libcudart: the loader's own, else pip's, else that below ``/usr/local``.

        Raises:
            SessionError: There is none, or it is older than CUDA 11.4.
        """
        library = find_library()
        if library is None:
            raise SessionError(
                "no CUDA runtime on this machine",
                expected=f"one of {', '.join(NAMES)}",
                cure="on a Jetson: sudo apt install nvidia-jetpack; elsewhere: pip install "
                "nvidia-cuda-runtime",
            )
        return cls(library)

    @property
    def runtime_version(self) -> tuple[int, int]:
        """Version of the library, such as ``(12, 6)``."""
        return self._version("cudaRuntimeGetVersion")

    def absence(self) -> str:
        """Why there is nothing to run on: no driver or no device; empty where there is one."""
        count = c_int()
        status = self._functions["cudaGetDeviceCount"](ctypes.byref(count))
        self._functions["cudaGetLastError"]()
        if status in (_NO_DEVICE, DRIVER_TOO_OLD) and self._driver_version() == (0, 0):
            return "no CUDA driver on this machine"
        if status == _NO_DEVICE or (status == 0 and count.value == 0):
            return "the CUDA driver finds no device"
        return ""

    def device(self) -> CudaDevice:
        """What the current device is.

        Raises:
            SessionError: There is no driver, no device, or the driver is too old.
        """
        absent = self.absence()
        if absent:
            raise SessionError(
                absent,
                cure="in a container, start it with the NVIDIA runtime (docker run --runtime "
                "nvidia); otherwise see what nvidia-smi or tegrastats says",
            )
        index = c_int()
        self._call("find the device", "cudaGetDevice", ctypes.byref(index))
        properties = ctypes.create_string_buffer(_PROPERTIES_BYTES)
        self._call("name the device", "cudaGetDeviceProperties", properties, index)
        return CudaDevice(
            name=properties.raw[:_NAME_BYTES].split(b"\0")[0].decode(errors="replace"),
            sm=(self._attribute(_SM_MAJOR, index), self._attribute(_SM_MINOR, index)),
            sm_count=self._attribute(_SM_COUNT, index),
            total_bytes=self.memory()[1],
            integrated=bool(self._attribute(_INTEGRATED, index)),
        )

    def memory(self) -> tuple[int, int]:
        """Free and total bytes of the device."""
        free, total = c_size_t(), c_size_t()
        self._call("ask for memory", "cudaMemGetInfo", ctypes.byref(free), ctypes.byref(total))
        return free.value, total.value

    def malloc(self, nbytes: int) -> DeviceMemory:
        """Memory of the device, of any content.

        Raises:
            SessionError: The device has too little.
        """
        doing = f"allocate {nbytes} bytes on the device"
        return DeviceMemory(self._make(doing, "cudaMalloc", "cudaFree", nbytes), nbytes)

    def free(self, memory: DeviceMemory) -> None:
        """Give device memory back."""
        self._release("cudaFree", memory.address)

    def host_alloc(self, nbytes: int, *, mapped: bool = False) -> HostMemory:
        """Page-locked memory of the host, of any content.

        Args:
            nbytes: How much.
            mapped: Whether the device may use it in place.  On an integrated GPU that is the same
                memory and needs no copy, but a GPU may not cache it: which of the two is faster
                was not measured.  On a discrete one each access crosses the bus.

        Raises:
            SessionError: There is too little, or it cannot be mapped.
        """
        doing = f"allocate {nbytes} page-locked bytes"
        flags = _MAPPED if mapped else 0
        address = self._make(doing, "cudaHostAlloc", "cudaFreeHost", nbytes, flags)
        if not mapped:
            return HostMemory(address, nbytes, None)
        pointer = c_void_p()
        try:
            self._call(
                "map host memory", "cudaHostGetDevicePointer", ctypes.byref(pointer), address, 0
            )
        except SessionError:
            self._release("cudaFreeHost", address)
            raise
        return HostMemory(address, nbytes, pointer.value)

    def host_free(self, memory: HostMemory) -> None:
        """Give page-locked memory back."""
        self._release("cudaFreeHost", memory.address)

    def stream(self) -> int:
        """A new stream, as the number that TensorRT takes."""
        name, free = "cudaStreamCreateWithFlags", "cudaStreamDestroy"
        return self._make("create a stream", name, free, _NON_BLOCKING)

    def destroy_stream(self, stream: int) -> None:
        """Give a stream back."""
        self._release("cudaStreamDestroy", stream)

    def synchronize(self, stream: int) -> None:
        """Wait until everything on a stream is done.

        Raises:
            SessionError: Something on it failed.
        """
        self._call("wait for a stream", "cudaStreamSynchronize", stream)

    def copy_in(self, device: DeviceMemory, host: HostMemory, stream: int) -> None:
        """Enqueue a copy of all of ``host`` to the start of ``device``."""
        self._copy(device, host, _HOST_TO_DEVICE, stream)

    def copy_out(self, host: HostMemory, device: DeviceMemory, stream: int) -> None:
        """Enqueue a copy of all of ``device`` to the start of ``host``."""
        self._copy(host, device, _DEVICE_TO_HOST, stream)

    def begin_capture(self, stream: int) -> None:
        """From now on record what is enqueued on a stream instead of doing it."""
        self._call("begin a capture", "cudaStreamBeginCapture", stream, _THREAD_LOCAL)

    def end_capture(self, stream: int) -> int:
        """Make a launchable graph of what was recorded.

        Raises:
            SessionError: Something that was enqueued cannot be recorded; the stream is usable
                again.
        """
        graph = c_void_p()
        self._call("end a capture", "cudaStreamEndCapture", stream, ctypes.byref(graph))
        name, free = "cudaGraphInstantiateWithFlags", "cudaGraphExecDestroy"
        try:
            return self._make("instantiate a graph", name, free, graph, 0)
        finally:
            self._functions["cudaGraphDestroy"](graph)

    def launch(self, graph: int, stream: int) -> None:
        """Enqueue a recorded graph."""
        self._call("launch a graph", "cudaGraphLaunch", graph, stream)

    def destroy_graph(self, graph: int) -> None:
        """Give a graph back."""
        self._release("cudaGraphExecDestroy", graph)

    def close(self) -> None:
        """Free what is still held, newest first; a closed runtime refuses every call.

        Raises:
            SessionError: Something could not be freed; everything else was.
        """
        self._closed = True
        failures = [
            self._error("free what it held", status)
            for function, handle in reversed(self._held)
            if (status := self._functions[function](handle))
        ]
        self._held.clear()
        if failures:
            raise failures[0]

    def __enter__(self) -> Cuda:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except SessionError:
            if error is None:  # after a failure, freeing fails too and says nothing new
                raise

    def _call(self, doing: str, function: str, *arguments: Any) -> None:
        if self._closed:
            raise SessionError("the CUDA runtime is closed", cure="load another one")
        status = self._functions[function](*arguments)
        if status:
            raise self._error(doing, status)

    def _error(self, doing: str, status: int) -> SessionError:
        # Else the next library that asks for the last error, TensorRT among them, finds this one.
        self._functions["cudaGetLastError"]()
        text = self._functions["cudaGetErrorString"](status).decode(errors="replace")
        return SessionError(
            f"CUDA failed to {doing}", got=f"{text} (error {status})", cure=_CURES.get(status, "")
        )

    def _make(self, doing: str, function: str, free: str, *arguments: Any) -> int:
        """Call what hands out a pointer, and remember what frees it."""
        pointer = c_void_p()
        self._call(doing, function, ctypes.byref(pointer), *arguments)
        handle = pointer.value or 0
        self._held[free, handle] = None
        return handle

    def _release(self, free: str, handle: int) -> None:
        if (free, handle) not in self._held:
            raise SessionError(f"{free} of {handle:#x}, which is not held")
        del self._held[free, handle]
        self._call("free what it held", free, handle)

    def _copy(
        self, to: DeviceMemory | HostMemory, of: DeviceMemory | HostMemory, kind: int, stream: int
    ) -> None:
        if of.nbytes > to.nbytes:
            raise SessionError(
                "a copy would end beyond its buffer",
                expected=f"at most {to.nbytes} bytes",
                got=f"{of.nbytes} bytes",
            )
        arguments = (to.address, of.address, of.nbytes, kind, stream)
        self._call("enqueue a copy", "cudaMemcpyAsync", *arguments)

    def _attribute(self, attribute: int, index: c_int) -> int:
        value = c_int()
        doing = f"read device attribute {attribute}"
        self._call(doing, "cudaDeviceGetAttribute", ctypes.byref(value), attribute, index)
        return value.value

    def _driver_version(self) -> tuple[int, int]:
        return self._version("cudaDriverGetVersion")

    def _version(self, function: str) -> tuple[int, int]:
        number = c_int()
        self._call("ask for a version", function, ctypes.byref(number))
        return number.value // 1000, number.value % 1000 // 10


def missing_gpu() -> str:
    """Why no GPU can be used here: no CUDA runtime, driver or device; empty where one can.

    Raises:
        SessionError: There is something, but it does not work.
    """
    library = find_library()
    return "no CUDA runtime on this machine" if library is None else Cuda(library).absence()
