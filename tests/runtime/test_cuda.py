"""The CUDA runtime by ctypes, against a libcudart in C that checks its arguments.

The tests at the end ask the real libcudart, where this machine has one.
"""

from __future__ import annotations

import ctypes
import inspect
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import pytest

from edge_fusion.errors import SessionError
from edge_fusion.runtime import cuda, cuda_library
from edge_fusion.runtime.cuda import Cuda, CudaDevice, missing_gpu
from tests.fakes.cudart import FakeCuda

SOURCE = Path(__file__).resolve().parents[1] / "fakes" / "cudart_stub.c"


def compile_library(folder: Path, source: str, name: str) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler here to make a libcudart with")
    file, library = folder / f"{name}.c", folder / f"{name}.so"
    file.write_text(source)
    command = [compiler, "-shared", "-fPIC", "-Wall", "-Werror", "-o", str(library), str(file)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return library


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    folder = tmp_path_factory.mktemp("cudart")
    return ctypes.CDLL(str(compile_library(folder, SOURCE.read_text(), "libcudart")))


@pytest.fixture
def stub(library: ctypes.CDLL) -> Iterator[ctypes.CDLL]:
    library.stub_fail(b"", 0)
    library.stub_machine(12060, 1, 1)
    yield library
    library.stub_fail(b"", 0)
    assert library.stub_live() == 0, "something was not freed"


def test_the_device_is_described(stub) -> None:
    with Cuda(stub) as api:
        assert api.device() == CudaDevice("Orin", (8, 7), 8, 8 << 30, True)
        assert api.memory() == (5 << 30, 8 << 30)
        assert api.runtime_version == (12, 6)
    stub.stub_machine(12060, 1, 0)
    with Cuda(stub) as api:
        assert not api.device().integrated


ABSENCES = [
    # without libcuda, libcudart says that the driver is too old; its version is then 0
    (0, 0, "no CUDA driver on this machine"),
    (12060, 0, "the CUDA driver finds no device"),
]


@pytest.mark.parametrize(("driver", "count", "says"), ABSENCES)
def test_no_driver_and_no_device_are_told_apart(stub, driver, count, says) -> None:
    stub.stub_machine(driver, count, 1)
    with Cuda(stub) as api:
        assert api.absence() == says
        with pytest.raises(SessionError, match=f"{says}; in a container, start it with the NVIDIA"):
            api.device()
    assert stub.stub_last_error() == 0


def test_a_driver_that_is_too_old_is_no_absence(stub) -> None:
    stub.stub_machine(11040, 1, 1)
    stub.stub_fail(b"cudaGetDevice", 35)
    with Cuda(stub) as api:
        assert api.absence() == ""
        with pytest.raises(SessionError, match=r"is insufficient.*\(error 35\); install a driver"):
            api.device()


def write(memory: cuda.HostMemory, data: bytes) -> None:
    ctypes.memmove(memory.address, data, len(data))


def read(memory: cuda.HostMemory) -> bytes:
    return ctypes.string_at(memory.address, memory.nbytes)


def test_bytes_go_to_the_device_and_back(stub) -> None:
    with Cuda(stub) as api:
        there, back, device, stream = (
            api.host_alloc(5),
            api.host_alloc(5),
            api.malloc(5),
            api.stream(),
        )
        assert there.device_address is None
        write(there, b"hello")
        api.copy_in(device, there, stream)
        api.copy_out(back, device, stream)
        api.synchronize(stream)
        assert read(back) == b"hello"


def test_a_graph_does_again_what_was_recorded(stub) -> None:
    with Cuda(stub) as api:
        there, back, device, stream = (
            api.host_alloc(3),
            api.host_alloc(3),
            api.malloc(3),
            api.stream(),
        )
        write(back, b"---")
        api.begin_capture(stream)
        api.copy_in(device, there, stream)
        api.copy_out(back, device, stream)
        graph = api.end_capture(stream)
        assert read(back) == b"---"  # recorded, not done
        for data in (b"one", b"two"):
            write(there, data)
            api.launch(graph, stream)
            api.synchronize(stream)
            assert read(back) == data


def test_mapped_memory_has_an_address_for_the_device(stub) -> None:
    with Cuda(stub) as api:
        memory = api.host_alloc(64, mapped=True)
        assert memory.device_address == memory.address
        stub.stub_fail(b"cudaHostGetDevicePointer", 1)
        live = stub.stub_live()
        with pytest.raises(SessionError, match="CUDA failed to map host memory"):
            api.host_alloc(64, mapped=True)
        assert stub.stub_live() == live


def test_everything_can_be_given_back_by_hand(stub) -> None:
    api = Cuda(stub)
    stream = api.stream()
    api.begin_capture(stream)
    graph = api.end_capture(stream)
    host, device = api.host_alloc(8), api.malloc(8)
    assert stub.stub_live() == 4
    api.destroy_graph(graph)
    api.host_free(host)
    api.free(device)
    api.destroy_stream(stream)
    assert stub.stub_live() == 0
    with pytest.raises(SessionError, match="cudaFree of 0x.*, which is not held"):
        api.free(device)
    api.close()


FAILURES = [
    ("cudaMalloc", 2, lambda api, s: api.malloc(8), "allocate 8 bytes on the device: got out of m"),
    ("cudaHostAlloc", 2, lambda api, s: api.host_alloc(8), "allocate 8 page-locked bytes"),
    ("cudaStreamCreateWithFlags", 1, lambda api, s: api.stream(), "create a stream"),
    ("cudaStreamSynchronize", 700, lambda api, s: api.synchronize(s), r"\(error 700\); the device"),
    ("cudaStreamBeginCapture", 1, lambda api, s: api.begin_capture(s), "begin a capture"),
    ("cudaMemGetInfo", 46, lambda api, s: api.memory(), "another process holds the GPU"),
    ("cudaRuntimeGetVersion", 1, lambda api, s: api.runtime_version, "ask for a version"),
]


@pytest.mark.parametrize(("name", "code", "act", "says"), FAILURES, ids=[f[0] for f in FAILURES])
def test_every_status_is_checked_and_said(stub, name, code, act, says) -> None:
    with Cuda(stub) as api:
        stream = api.stream()
        stub.stub_fail(name.encode(), code)
        with pytest.raises(SessionError, match=says):
            act(api, stream)
        # whoever asks next for the last error must not find this one
        assert stub.stub_last_error() == 0


def test_a_failed_capture_leaves_the_stream_usable(stub) -> None:
    with Cuda(stub) as api:
        stream = api.stream()
        for name, code in ((b"cudaStreamEndCapture", 901), (b"cudaGraphInstantiateWithFlags", 1)):
            api.begin_capture(stream)
            stub.stub_fail(name, code)
            with pytest.raises(SessionError, match="end a capture|instantiate a graph"):
                api.end_capture(stream)
            stub.stub_fail(b"", 0)
            api.synchronize(stream)


def test_a_copy_beyond_its_buffer_is_refused(stub) -> None:
    with Cuda(stub) as api:
        with pytest.raises(SessionError, match="expected at most 4 bytes, got 8 bytes"):
            api.copy_in(api.malloc(4), api.host_alloc(8), api.stream())
        with pytest.raises(SessionError, match="expected at most 4 bytes, got 8 bytes"):
            api.copy_out(api.host_alloc(4), api.malloc(8), api.stream())


def test_closing_frees_everything_also_after_an_error(stub) -> None:
    with pytest.raises(ZeroDivisionError), Cuda(stub) as api:
        api.malloc(8), api.host_alloc(8), api.stream()
        raise ZeroDivisionError
    assert stub.stub_live() == 0
    with pytest.raises(SessionError, match="the CUDA runtime is closed"):
        api.malloc(8)
    api.close()  # closing twice is harmless


def test_a_failure_to_free_is_said_but_hides_no_other(stub) -> None:
    api = Cuda(stub)
    api.malloc(8)
    stub.stub_fail(b"cudaFree", 700)
    with pytest.raises(SessionError, match=r"free what it held.*\(error 700\)"):
        api.close()
    with pytest.raises(ZeroDivisionError), Cuda(stub) as other:
        other.malloc(8)
        raise ZeroDivisionError
    stub.stub_fail(b"", 0)
    stub.stub_only.restype = ctypes.c_void_p
    while stub.stub_live():
        stub.cudaFree(stub.stub_only())


def test_too_large_an_allocation_says_what_to_close(stub) -> None:
    with Cuda(stub) as api, pytest.raises(SessionError, match="out of memory.*CPU and GPU share"):
        api.malloc(2 << 30)


def test_a_library_before_11_4_is_refused(tmp_path) -> None:
    old = SOURCE.read_text().replace("cudaGraphInstantiateWithFlags", "cudaGraphInstantiate")
    library = compile_library(tmp_path, old, "libold")
    with pytest.raises(SessionError, match="no cudaGraphInstantiateWithFlags: expected CUDA 11.4"):
        Cuda(ctypes.CDLL(str(library)))


def test_no_library_is_said_with_its_cure(monkeypatch) -> None:
    monkeypatch.setattr(cuda_library, "_candidates", lambda: iter(["libno-such-cudart.so"]))
    with pytest.raises(SessionError, match="no CUDA runtime on this machine.*apt install nvidia-"):
        Cuda.load()
    assert missing_gpu() == "no CUDA runtime on this machine"


def test_the_library_of_a_wheel_is_found(stub, tmp_path, monkeypatch) -> None:
    folder = tmp_path / "nvidia" / "cuda_runtime" / "lib"
    folder.mkdir(parents=True)
    shutil.copy(stub._name, folder / "libcudart.so.12")
    monkeypatch.setattr(cuda_library, "NAMES", ())
    monkeypatch.setattr(cuda_library.sys, "path", [str(tmp_path)])
    with Cuda.load() as api:
        assert api.device().name == "Orin"
    assert missing_gpu() == ""


def plant(root: Path, names: Iterable[str]) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


@pytest.mark.parametrize(
    ("folder", "newest_first"),
    [
        (  # pip's: the file says
            "nvidia/*/lib",
            ["nvidia/cu13/lib/libcudart.so.13", "nvidia/cuda_runtime/lib/libcudart.so.12"],
        ),
        (  # the toolkit's: else its folder does, and 13 is more than 9
            "cuda*/lib64",
            [
                "cuda-13.0/lib64/libcudart.so",
                "cuda-12.10/lib64/libcudart.so.12.10.1",
                "cuda-12.9/lib64/libcudart.so.12.9.100",
                "cuda-9/lib64/libcudart.so",
            ],
        ),
    ],
)
def test_the_newest_library_is_tried_first(tmp_path, folder, newest_first) -> None:
    plant(tmp_path, sorted(newest_first))
    found = cuda_library._newest_first(tmp_path, folder)
    assert found == [str(tmp_path / name) for name in newest_first]


def test_links_to_one_library_are_one(tmp_path) -> None:
    plant(tmp_path, ["cuda-12.6/lib64/libcudart.so.12.6.68"])
    for name in ("libcudart.so.12", "libcudart.so"):
        (tmp_path / "cuda-12.6/lib64" / name).symlink_to("libcudart.so.12.6.68")
    (tmp_path / "cuda").symlink_to("cuda-12.6")
    (one,) = cuda_library._newest_first(tmp_path, "cuda*/lib64")
    assert one.endswith("libcudart.so.12.6.68")


def test_a_library_too_new_for_the_driver_is_passed_over(tmp_path, monkeypatch) -> None:
    too_new = SOURCE.read_text().replace("driver = 12060", "driver = 11040")
    new, old = (
        str(compile_library(tmp_path, source, name))
        for source, name in ((too_new, "libnew"), (SOURCE.read_text(), "libold"))
    )
    chosen = []
    for candidates in ([new, old], [old, new], [new]):
        monkeypatch.setattr(cuda_library, "_candidates", partial(iter, candidates))
        library = cuda_library.find_library()
        assert library is not None
        assert library.stub_last_error() == 0
        chosen.append(library._name)
    assert chosen == [old, old, new]  # alone it is taken, and says why it does not work


def test_the_fake_offers_what_the_real_one_does() -> None:
    def offers(cls: type) -> dict[str, list[str]]:
        return {
            name: list(inspect.signature(value).parameters)
            for name, value in vars(cls).items()
            if inspect.isfunction(value) and not name.startswith("_")
        }

    real, fake = offers(Cuda), offers(FakeCuda)
    assert {name: real[name] for name in fake} == fake
    assert set(real) - set(fake) == {"absence"}  # the fake stands for a machine with a device


@pytest.fixture
def real() -> Iterator[Cuda]:
    if cuda_library.find_library() is None:
        pytest.skip("no libcudart on this machine")
    with Cuda.load() as api:
        yield api


@pytest.fixture
def real_device(real: Cuda) -> Cuda:
    if real.absence():
        pytest.skip(real.absence())
    return real


def test_the_real_library_has_every_function(real) -> None:
    assert real.runtime_version >= (11, 4)


def test_the_real_library_says_why_there_is_no_device(real) -> None:
    if not real.absence():
        pytest.skip("there is a device")
    with pytest.raises(SessionError, match="no CUDA driver|finds no device"):
        real.device()


def test_the_real_library_describes_its_device(real_device) -> None:
    device = real_device.device()
    assert device.name
    assert device.sm >= (5, 3)
    assert 0 < real_device.memory()[0] <= device.total_bytes


def test_the_real_library_copies_and_records(real_device) -> None:
    there, back = real_device.host_alloc(4), real_device.host_alloc(4)
    device, stream = real_device.malloc(4), real_device.stream()
    real_device.begin_capture(stream)
    real_device.copy_in(device, there, stream)
    real_device.copy_out(back, device, stream)
    graph = real_device.end_capture(stream)
    write(there, b"real")
    real_device.launch(graph, stream)
    real_device.synchronize(stream)
    assert read(back) == b"real"
