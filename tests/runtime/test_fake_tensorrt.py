"""The fakes themselves: a fake that accepts everything would prove nothing."""

from __future__ import annotations

import ctypes
import enum
from types import ModuleType

import numpy as np
import pytest

from edge_fusion.errors import SessionError
from tests.fakes.cudart import FakeCuda
from tests.fakes.tensorrt_api import (
    TABLE,
    VERSIONS,
    Gpu,
    Plan,
    make_tensorrt,
    pack_plan,
    parse_table,
    parse_version,
    unpack_plan,
)

# What is in which version, as the headers and bindings of those releases show it: a letter each
# for 8.5.3, 8.6.1, 10.3, 10.7, 10.13, 10.16 and 11.1.
PRESENCE = [
    ("IExecutionContext.execute_async_v3", "yyyyyyy"),
    ("IExecutionContext.set_tensor_address", "yyyyyyy"),
    ("ICudaEngine.num_io_tensors", "yyyyyyy"),
    ("ICudaEngine.create_engine_inspector", "yyyyyyy"),
    ("IExecutionContext.execute_async_v2", "yy-----"),
    ("ICudaEngine.get_binding_index", "yy-----"),
    ("ICudaEngine.device_memory_size", "yyyyyy-"),
    ("ICudaEngine.device_memory_size_v2", "--yyyyy"),
    ("Runtime.engine_host_code_allowed", "-yyyyyy"),
    ("BuilderFlag.FP16", "yyyyyy-"),
    ("BuilderFlag.INT8", "yyyyyy-"),
    ("BuilderFlag.VERSION_COMPATIBLE", "-yyyyyy"),
    ("BuilderFlag.STRIP_PLAN", "--yyyyy"),
    ("NetworkDefinitionCreationFlag.EXPLICIT_BATCH", "yyyyyy-"),
    ("NetworkDefinitionCreationFlag.STRONGLY_TYPED", "--yyyyy"),
]

RUNNING_HALF = ("ILogger", "Runtime", "ICudaEngine", "IExecutionContext", "EngineInspector")


@pytest.mark.parametrize(("name", "row"), PRESENCE, ids=[name for name, _ in PRESENCE])
def test_each_version_has_what_it_has(name: str, row: str) -> None:
    owner, _, attribute = name.partition(".")
    for version, mark in zip(VERSIONS, row, strict=True):
        module = make_tensorrt(version)
        assert hasattr(getattr(module, owner), attribute) == (mark == "y"), version


@pytest.mark.parametrize("version", VERSIONS)
def test_what_the_table_promises_is_there(version: str) -> None:
    module = make_tensorrt(version)
    text = parse_version(VERSIONS[version])
    for name, (since, until) in parse_table(TABLE).items():
        owner, _, attribute = name.partition(".")
        if owner in RUNNING_HALF and since <= text < until:
            assert hasattr(getattr(module, owner), attribute), name


def test_a_whole_enumeration_can_be_missing() -> None:
    assert not hasattr(make_tensorrt("8.5.3"), "HardwareCompatibilityLevel")
    assert hasattr(make_tensorrt("8.6.1"), "HardwareCompatibilityLevel")


def test_numbers_shift_between_majors() -> None:
    numbers = {int(make_tensorrt(v).BuilderFlag["TF32"]) for v in ("8.5.3", "10.3", "11.1")}
    assert len(numbers) == 3
    flag = make_tensorrt("10.3").BuilderFlag.TF32
    assert isinstance(flag, enum.Enum)
    assert flag != int(flag)


def logger_of(module: ModuleType) -> tuple[object, list[str]]:
    heard: list[str] = []

    class Logger(module.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            module.ILogger.__init__(self)

        def log(self, severity: enum.Enum, msg: str) -> None:
            heard.append(f"{severity.name}: {msg}")

    return Logger(), heard


def plan_for(model: bytes, **changes: object) -> bytes:
    fields = {"version": "10.3.0.30", "sm": "8.7", **changes}
    return pack_plan(Plan(onnx=model, **fields))  # type: ignore[arg-type]


def test_plans_are_whole_or_refused(tiny_models) -> None:
    data = plan_for(tiny_models["fp32"], precision="int8")
    assert unpack_plan(data).onnx == tiny_models["fp32"]
    assert unpack_plan(data).precision == "int8"
    for damaged in (b"", data[:10], data[:-1], data + b"x", b"x" + data[1:]):
        with pytest.raises(ValueError, match="magic tag|size"):
            unpack_plan(damaged)


REFUSED = [
    ({"version": "10.7.0.23"}, "expecting library version 10.3.0.30 got 10.7.0.23"),
    ({"sm": "9.0"}, "expecting compute 8.7 got compute 9.0"),
    ({"host_code": True}, "host code is not allowed"),
]


@pytest.mark.parametrize(("changes", "says"), REFUSED)
def test_a_plan_that_does_not_fit_is_refused_in_the_log(tiny_models, changes, says) -> None:
    module = make_tensorrt("10.3")
    logger, heard = logger_of(module)
    runtime = module.Runtime(logger)
    assert runtime.deserialize_cuda_engine(plan_for(tiny_models["fp32"], **changes)) is None
    assert says in heard[0]


def test_what_is_unknown_cannot_be_set_and_what_is_made_inside_cannot_be_made() -> None:
    module = make_tensorrt("8.5.3")
    runtime = module.Runtime(logger_of(module)[0])
    with pytest.raises(AttributeError):
        runtime.engine_host_code_allowed = True
    with pytest.raises(TypeError, match="No constructor defined"):
        module.ICudaEngine()
    with pytest.raises(TypeError, match="incompatible constructor arguments"):
        module.Runtime(None)


def test_a_logger_must_start_its_base() -> None:
    module = make_tensorrt("10.3")

    class Silent(module.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            pass

    with pytest.raises(TypeError, match="must be called when overriding __init__"):
        Silent()


def test_without_a_driver_nothing_starts() -> None:
    module = make_tensorrt("10.3", gpu=None)
    logger, heard = logger_of(module)
    with pytest.raises(TypeError, match="factory function returned nullptr"):
        module.Runtime(logger)
    assert "CUDA initialization failure" in heard[0]


def test_a_context_computes_only_with_every_address_set_and_only_when_waited_for(
    tiny_models,
) -> None:
    module = make_tensorrt("10.3")
    logger, heard = logger_of(module)
    engine = module.Runtime(logger).deserialize_cuda_engine(plan_for(tiny_models["fp32"]))
    context = engine.create_execution_context()
    with FakeCuda() as cuda:
        stream = cuda.stream()
        assert not context.execute_async_v3(stream)
        assert "Address is not set for tensor rgb" in heard[0]
        sizes = {"rgb": 3 * 4096, "depth": 4096, "saliency": 4096}
        memory = {name: cuda.host_alloc(size, mapped=True) for name, size in sizes.items()}
        for name, block in memory.items():
            ctypes.memset(block.address, 0, block.nbytes)
            assert context.set_tensor_address(name, block.device_address)
        assert not context.set_tensor_address("thermal", 1)
        assert context.execute_async_v3(stream)
        first = (ctypes.c_float * 1).from_address(memory["saliency"].address)
        assert first[0] == 0.0
        cuda.synchronize(stream)
        np.testing.assert_allclose(first[0], 1 / (1 + np.exp(4.0)), rtol=1e-5)
        for block in memory.values():
            cuda.host_free(block)
        assert context.execute_async_v3(stream)
        with pytest.raises(AssertionError, match="illegal access: nothing holds"):
            cuda.synchronize(stream)
        cuda.destroy_stream(stream)


def misuse_twice(cuda: FakeCuda) -> None:
    memory = cuda.malloc(8)
    cuda.free(memory)
    cuda.free(memory)


def misuse_size(cuda: FakeCuda) -> None:
    cuda.copy_in(cuda.malloc(4), cuda.host_alloc(8), cuda.stream())


def misuse_freed(cuda: FakeCuda) -> None:
    host, device, stream = cuda.host_alloc(8), cuda.malloc(8), cuda.stream()
    cuda.copy_in(device, host, stream)
    cuda.free(device)
    cuda.synchronize(stream)


def misuse_stream(cuda: FakeCuda) -> None:
    stream = cuda.stream()
    cuda.destroy_stream(stream)
    cuda.synchronize(stream)


MISUSES = [
    (misuse_twice, "freed twice"),
    (misuse_size, "beyond the end"),
    (misuse_freed, "illegal access"),
    (misuse_stream, "the stream was destroyed"),
    (lambda cuda: cuda.malloc(8), "1 things were still held"),
    (lambda cuda: (cuda.close(), cuda.memory()), "memory after close"),
]


@pytest.mark.parametrize(("misuse", "says"), MISUSES)
def test_misuse_of_the_fake_runtime_is_an_assertion(misuse, says) -> None:
    cuda = FakeCuda(integrated=False)
    with pytest.raises(AssertionError, match=says):
        misuse(cuda)
        cuda.close()


def test_the_fake_runtime_refuses_to_wait_while_it_records() -> None:
    cuda = FakeCuda()
    stream = cuda.stream()
    cuda.begin_capture(stream)
    with pytest.raises(SessionError, match="when stream is capturing"):
        cuda.synchronize(stream)
    with pytest.raises(SessionError, match="failed to end a capture"):
        cuda.end_capture(stream)
    cuda.destroy_stream(stream)
    cuda.close()


def test_versions_are_full_ones() -> None:
    assert all(len(parse_version(text)) == 4 for text in VERSIONS.values())
    assert make_tensorrt("10.3.0.30", Gpu(sm="9.0")).__version__ == "10.3.0.30"
    with pytest.raises(KeyError):
        make_tensorrt("9.9")
