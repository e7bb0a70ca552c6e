"""The fake TensorRT refuses what the real one refuses, without which its tests prove nothing."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from tests.export.engine_bundles import MODELS
from tests.fakes.tensorrt_api import VERSIONS, make_tensorrt, parse_version

WEAK, STRONG, NEWEST = "8.5.3", "10.3", "11.1"


class Bench:
    """A builder of one version with what it said."""

    def __init__(self, version: str, flags: str = "") -> None:
        self.trt: Any = make_tensorrt(version)
        self.said: list[str] = []
        said = self.said

        class Log(self.trt.ILogger):  # type: ignore[misc,name-defined]
            def log(self, severity: Any, msg: str) -> None:
                said.append(msg)

        self.log = Log()
        self.builder = self.trt.Builder(self.log)
        wanted = getattr(self.trt.NetworkDefinitionCreationFlag, flags) if flags else None
        self.network = self.builder.create_network(0 if wanted is None else 1 << int(wanted))
        self.parser = self.trt.OnnxParser(self.network, self.log)
        self.config = self.builder.create_builder_config()

    def parse(self, name: str) -> bool:
        return bool(self.parser.parse((MODELS / f"tiny.{name}.onnx").read_bytes()))

    def build(self, *flags: str) -> Any:
        for name in flags:
            self.config.set_flag(getattr(self.trt.BuilderFlag, name))
        return self.builder.build_serialized_network(self.network, self.config)


def test_version_8_takes_onnx_in_explicit_batch_alone() -> None:
    bench = Bench(WEAK)
    assert not bench.parse("fp32")
    assert "EXPLICIT_BATCH" in bench.parser.get_error(0).desc()
    assert Bench(WEAK, "EXPLICIT_BATCH").parse("fp32")


def test_version_10_is_weak_unless_told_otherwise() -> None:
    bench = Bench(STRONG)
    assert bench.parse("int8")
    assert bench.build() is None
    assert "int8 is not configured in the builder" in bench.said[-1]
    strong = Bench(STRONG, "STRONGLY_TYPED")
    assert strong.parse("int8")
    assert bytes(strong.build()).startswith(b"FAKEPLAN")


@pytest.mark.parametrize("flag", ["FP16", "INT8"])
def test_a_strong_network_takes_no_precision_flag(flag: str) -> None:
    bench = Bench(STRONG, "STRONGLY_TYPED")
    assert bench.parse("fp32")
    assert bench.build(flag) is None
    assert f"Strongly typed networks do not allow the builder flag k{flag}" in bench.said[-1]


def test_a_weak_network_with_quantizers_wants_the_flag() -> None:
    bench = Bench(WEAK, "EXPLICIT_BATCH")
    assert bench.parse("weak.int8")
    assert bench.build("FP16") is None
    assert bench.build("INT8") is not None


@pytest.mark.parametrize(
    ("name", "reason"),
    [("int8", "INT8 weights are not supported"), ("fp16", "")],
)
def test_version_8_takes_no_int8_weights(name: str, reason: str) -> None:
    bench = Bench(WEAK, "EXPLICIT_BATCH")
    assert bench.parse(name) == (not reason)
    if reason:
        assert reason in bench.parser.get_error(0).desc()


@pytest.mark.parametrize(
    ("version", "reach"),
    [
        (WEAK, lambda trt: trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED),
        (WEAK, lambda trt: trt.IProgressMonitor),
        (NEWEST, lambda trt: trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH),
        (NEWEST, lambda trt: trt.BuilderFlag.FP16),
        (NEWEST, lambda trt: trt.BuilderFlag.INT8),
        (NEWEST, lambda trt: trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS),
        (NEWEST, lambda trt: trt.LayerType.FULLY_CONNECTED),
        (STRONG, lambda trt: trt.BuilderFlag.STRICT_TYPES),
        (NEWEST, lambda trt: trt.ILayer.precision),
        (STRONG, lambda trt: trt.Builder.build_engine),
        (STRONG, lambda trt: trt.IBuilderConfig.max_workspace_size),
        (WEAK, lambda trt: trt.ParserError.node_name),
    ],
)
def test_what_a_version_lacks_is_not_there(
    version: str, reach: Callable[[ModuleType], Any]
) -> None:
    with pytest.raises(AttributeError):
        reach(make_tensorrt(version))


@pytest.mark.parametrize(
    ("version", "name"),
    [
        (WEAK, "builder_optimization_level"),
        (WEAK, "progress_monitor"),
        (STRONG, "max_workspace_size"),
    ],
)
def test_what_a_version_lacks_cannot_be_set(version: str, name: str) -> None:
    with pytest.raises(AttributeError):
        setattr(Bench(version).config, name, 1)


def test_numbers_are_no_flags_and_move_between_versions() -> None:
    bench = Bench(STRONG)
    with pytest.raises(TypeError):
        bench.config.set_flag(1)
    with pytest.raises(TypeError):
        bench.config.set_memory_pool_limit(0, 1 << 20)
    numbers = {int(make_tensorrt(v).BuilderFlag.VERSION_COMPATIBLE) for v in ("8.6.1", "11.1")}
    assert len(numbers) == 2


def test_too_little_scratch_memory_builds_nothing() -> None:
    bench = Bench(STRONG, "STRONGLY_TYPED")
    assert bench.parse("fp32")
    bench.config.set_memory_pool_limit(bench.trt.MemoryPoolType.WORKSPACE, 1024)
    assert bench.build() is None
    assert "Could not find any implementation for node rgb/Conv" in bench.said[-1]


def test_an_empty_network_builds_nothing() -> None:
    bench = Bench(STRONG)
    assert bench.build() is None
    assert "at least one output" in bench.said[-1]


def test_the_parser_takes_bytes_alone() -> None:
    with pytest.raises(TypeError):
        Bench(STRONG).parser.parse("model.onnx")


def test_a_monitor_must_be_one_and_may_stop_the_build() -> None:
    bench = Bench(STRONG, "STRONGLY_TYPED")
    with pytest.raises(TypeError):
        bench.config.progress_monitor = object()

    class Stop(bench.trt.IProgressMonitor):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            bench.trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            pass

        def step_complete(self, phase_name: str, step: int) -> bool:
            return False

    assert bench.parse("fp32")
    bench.config.progress_monitor = Stop()
    assert bench.build() is None
    assert "BuildCanceled" in bench.said[-1]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_has_what_the_code_relies_on(version: str) -> None:
    trt = make_tensorrt(version)
    for name in ("Builder", "OnnxParser", "Runtime", "ILogger", "MemoryPoolType", "LayerType"):
        assert hasattr(trt, name)
    assert hasattr(trt, "IProgressMonitor") == (parse_version(VERSIONS[version]) >= (10,))
