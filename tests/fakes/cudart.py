"""A CUDA runtime on host memory, with the methods of :class:`edge_fusion.runtime.cuda.Cuda`.

It is stricter than the real one.  Work on a stream waits in a queue until somebody synchronises,
so that whoever reads too early reads what was there before; and every misuse that would corrupt
memory or leak on a device is an AssertionError here: a copy beyond a buffer, a buffer or stream
used after it was freed or freed twice, an address that nothing owns, something still held when
the runtime closes.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType

from edge_fusion.errors import SessionError
from edge_fusion.runtime.cuda import CudaDevice, DeviceMemory, HostMemory

Work = Callable[[], None]


@dataclass
class _Stream:
    queue: list[Work] = field(default_factory=list)
    capture: list[Work] | None = None
    broken: str = ""


#: Every open stream and every live range of every fake runtime: the fake TensorRT, which is handed
#: bare numbers, finds them here.
STREAMS: dict[int, _Stream] = {}
RANGES: dict[int, int] = {}
_HANDLES = itertools.count(0x51000, 0x10)


def enqueue(stream: int, work: Work, *, capturable: bool = True) -> bool:
    """Put work on a stream, or into the graph that it records; False where that is refused."""
    assert stream in STREAMS, f"stream {stream:#x} is not open"
    state = STREAMS[stream]
    if state.capture is None:
        state.queue.append(work)
    elif capturable:
        state.capture.append(work)
    else:
        state.broken = "operation not permitted when stream is capturing"
        return False
    return True


def check_range(address: int, nbytes: int) -> None:
    """Hold an address against what is allocated now."""
    owned = any(
        start <= address and address + nbytes <= start + size for start, size in RANGES.items()
    )
    assert owned, f"illegal access: nothing holds {nbytes} bytes at {address:#x}"


class FakeCuda:
    """A CUDA runtime that needs no GPU.

    Args:
        integrated: Whether host and device share one memory, as on a Jetson.
        sm: Compute capability.
        memory: Total bytes of the device.
        name: Of the device.
        sm_count: Multiprocessors that are on.
    """

    runtime_version = (12, 6)

    def __init__(
        self,
        *,
        integrated: bool = True,
        sm: tuple[int, int] = (8, 7),
        memory: int = 8 << 30,
        name: str = "Orin",
        sm_count: int = 8,
    ) -> None:
        self._device = CudaDevice(name, sm, sm_count, memory, integrated)
        self._blocks: dict[int, ctypes.Array[ctypes.c_char]] = {}
        self._device_blocks: dict[int, int] = {}
        self._host_blocks: dict[int, int] = {}
        self._streams: set[int] = set()
        self._graphs: dict[int, list[Work]] = {}
        self.calls: list[str] = []
        self.closed = False

    def device(self) -> CudaDevice:
        self._note("device")
        return self._device

    def memory(self) -> tuple[int, int]:
        self._note("memory")
        held = sum(len(block) for block in self._blocks.values())
        return self._device.total_bytes - held, self._device.total_bytes

    def malloc(self, nbytes: int) -> DeviceMemory:
        self._note("malloc")
        address = self._allocate(nbytes)
        self._device_blocks[address] = nbytes
        return DeviceMemory(address, nbytes)

    def free(self, memory: DeviceMemory) -> None:
        self._note("free")
        assert self._device_blocks.pop(memory.address, None) == memory.nbytes, "freed twice"
        self._release(memory.address)

    def host_alloc(self, nbytes: int, *, mapped: bool = False) -> HostMemory:
        self._note("host_alloc")
        assert self._device.integrated or not mapped, "mapped memory on a discrete GPU is slow"
        address = self._allocate(nbytes)
        self._host_blocks[address] = nbytes
        return HostMemory(address, nbytes, address if mapped else None)

    def host_free(self, memory: HostMemory) -> None:
        self._note("host_free")
        assert self._host_blocks.pop(memory.address, None) == memory.nbytes, "freed twice"
        self._release(memory.address)

    def stream(self) -> int:
        self._note("stream")
        handle = next(_HANDLES)
        STREAMS[handle] = _Stream()
        self._streams.add(handle)
        return handle

    def destroy_stream(self, stream: int) -> None:
        self._note("destroy_stream")
        assert stream in self._streams, "a stream was destroyed twice, or is another runtime's"
        assert not STREAMS[stream].queue, "a stream with waiting work was destroyed"
        self._streams.remove(stream)
        del STREAMS[stream]

    def synchronize(self, stream: int) -> None:
        self._note("synchronize")
        state = self._open(stream)
        if state.capture is not None:
            state.broken = "operation not permitted when stream is capturing"
            raise SessionError("CUDA failed to wait for a stream", got=state.broken)
        queue, state.queue = state.queue, []
        for work in queue:
            work()

    def copy_in(self, device: DeviceMemory, host: HostMemory, stream: int) -> None:
        self._note("copy_in")
        self._copy(device, host, stream)

    def copy_out(self, host: HostMemory, device: DeviceMemory, stream: int) -> None:
        self._note("copy_out")
        self._copy(host, device, stream)

    def begin_capture(self, stream: int) -> None:
        self._note("begin_capture")
        state = self._open(stream)
        assert state.capture is None, "the stream is capturing already"
        state.capture, state.broken = [], ""

    def end_capture(self, stream: int) -> int:
        self._note("end_capture")
        state = self._open(stream)
        assert state.capture is not None, "the stream is not capturing"
        work, state.capture = state.capture, None
        if state.broken:
            raise SessionError("CUDA failed to end a capture", got=state.broken)
        handle = next(_HANDLES)
        self._graphs[handle] = work
        return handle

    def launch(self, graph: int, stream: int) -> None:
        self._note("launch")
        assert graph in self._graphs, "the graph was destroyed"
        for work in self._graphs[graph]:
            enqueue(stream, work)

    def destroy_graph(self, graph: int) -> None:
        self._note("destroy_graph")
        assert self._graphs.pop(graph, None) is not None, "a graph was destroyed twice"

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        held = [*self._device_blocks, *self._host_blocks, *self._streams, *self._graphs]
        for address in list(self._blocks):
            self._release(address)
        for stream in self._streams:
            del STREAMS[stream]
        assert not held, f"{len(held)} things were still held when the runtime closed"

    def __enter__(self) -> FakeCuda:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _note(self, call: str) -> None:
        assert not self.closed, f"{call} after close"
        self.calls.append(call)

    def _open(self, stream: int) -> _Stream:
        assert stream in self._streams, "the stream was destroyed, or is another runtime's"
        return STREAMS[stream]

    def _allocate(self, nbytes: int) -> int:
        if nbytes > self.memory()[0]:
            raise SessionError("CUDA failed to allocate", got="out of memory")
        block = ctypes.create_string_buffer(b"\xa5" * nbytes, nbytes)
        address = ctypes.addressof(block)
        self._blocks[address] = block
        RANGES[address] = nbytes
        return address

    def _release(self, address: int) -> None:
        block = self._blocks.pop(address)
        ctypes.memset(address, 0x5A, len(block))
        del RANGES[address]

    def _copy(
        self, target: DeviceMemory | HostMemory, source: DeviceMemory | HostMemory, stream: int
    ) -> None:
        self._open(stream)
        assert source.nbytes <= target.nbytes, "a copy beyond the end of a buffer"

        def work() -> None:
            check_range(source.address, source.nbytes)
            check_range(target.address, source.nbytes)
            ctypes.memmove(target.address, source.address, source.nbytes)

        enqueue(stream, work)
