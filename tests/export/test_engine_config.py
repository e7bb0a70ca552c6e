"""What the builder is told: memory, optimisation level, FP32 islands, timings of kernels."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_fusion.board import BoardState
from edge_fusion.bundle import Bundle
from edge_fusion.device_key import seal
from edge_fusion.errors import StepError
from edge_fusion.export import engine as engine_module
from edge_fusion.export.engine import EngineBuild, build_engine
from edge_fusion.export.engine_config import (
    LARGEST_CACHE,
    MIB,
    WEIGHT_COPIES,
    ConfigRequest,
    TimingCache,
    workspace_for,
)
from edge_fusion.export.engine_network import _kept_node, owner
from edge_fusion.runtime.trt_api import TensorRT, load_tensorrt
from tests.export.engine_bundles import bundle_with_flavours
from tests.export.engine_device import STRONG, WEAK, Device, Steps, below, make_device


@pytest.fixture
def bundle(tiny_bundle: Bundle, tmp_path: Path) -> Bundle:
    return bundle_with_flavours(tiny_bundle, tmp_path / "bundle")


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch, fake_tensorrt: Any, fake_cuda: Any) -> Device:
    return make_device(monkeypatch, fake_tensorrt, fake_cuda)


# --- memory ----------------------------------------------------------------------------------


def test_too_little_memory_is_said_before_anything_starts(bundle: Bundle, device: Device) -> None:
    device(board=BoardState(available_bytes=500 * MIB))
    steps = Steps()
    with pytest.raises(
        StepError, match=r"too little memory to build in: expected \d+ MiB free, got 500 MiB; close"
    ):
        build_engine(bundle, EngineBuild("int8"), steps)
    assert steps.said == []


def test_a_jetson_counts_what_the_kernel_would_give_up(bundle: Bundle, device: Device) -> None:
    # CUDA calls all 256 MiB free; the kernel knows of more, and on a discrete GPU does not count
    device(memory=256 * MIB)
    build_engine(bundle, EngineBuild("fp32"))
    device(memory=256 * MIB, integrated=False)
    with pytest.raises(StepError, match="too little memory"):
        build_engine(bundle, EngineBuild("fp32", rebuild=True))


@pytest.mark.parametrize(
    ("free_mib", "wanted", "workspace_mib"),
    [
        (600 + 40 + 1000, None, 500),  # half of what is left
        (600 + 40 + 1000, 1000, 1000),  # all of it, if asked
        (600 + 40 + 64, None, 32),  # the least
    ],
)
def test_workspace(free_mib: int, wanted: int | None, workspace_mib: int) -> None:
    assert workspace_for(free_mib * MIB, 10 * MIB, wanted) == workspace_mib * MIB


@pytest.mark.parametrize(
    ("free_mib", "wanted", "message"),
    [
        (600 + 40 + 63, None, "expected 704 MiB free, got 703 MiB; close other programs"),
        (1000, 500, "expected 1140 MiB free, got 1000 MiB; .* or give a smaller --workspace"),
        (4000, 1, "expected at least 32 MiB, got 1 MiB"),
        (4000, -1, "expected at least 32 MiB, got -1 MiB"),
        (0, None, "got 0 MiB"),
    ],
)
def test_workspace_that_does_not_fit(free_mib: int, wanted: int | None, message: str) -> None:
    with pytest.raises(StepError, match=message):
        workspace_for(free_mib * MIB, 10 * MIB, wanted)


def test_an_orin_nano_of_4_gb_has_room_for_the_largest_model() -> None:
    # with its desktop closed it has about 2.5 GiB left; models weigh up to 180 MB
    free, model = 2560 * MIB, 180_000_000
    workspace = workspace_for(free, model, None)
    assert workspace > 128 * MIB
    # what is timed takes memory beside its scratch space, and so does every copy of the weights
    assert free - workspace > workspace + WEIGHT_COPIES * model


def test_the_builder_gets_that_limit_and_shows_its_layers(
    bundle: Bundle, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    device()
    seen: list[Any] = []
    real = engine_module.make_config

    def spied(api: TensorRT, parsed: Any, request: ConfigRequest) -> Any:
        seen.append((config := real(api, parsed, request), api.module))
        return config

    monkeypatch.setattr(engine_module, "make_config", spied)
    build_engine(bundle, EngineBuild("int8", workspace_mb=128, optimization_level=4))
    config, trt = seen[0]
    assert config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE) == 128 * MIB
    assert config.builder_optimization_level == 4
    assert config.profiling_verbosity is trt.ProfilingVerbosity.DETAILED


# --- FP32 islands in a weak network ----------------------------------------------------------


def test_nodes_that_fp16_would_break_stay_fp32(
    tiny_bundle: Bundle, tmp_path: Path, device: Device
) -> None:
    device(WEAK)
    kept = {"head/Sigmoid": "said so", "rgb/Conv": "said so"}
    bundle = bundle_with_flavours(tiny_bundle, tmp_path / "kept", kept_fp32=kept)
    layers = build_engine(bundle, EngineBuild("fp16")).record.summary.layers
    assert (layers["fp32"], layers["fp16"]) == (2, 2)
    # a node that reads 8-bit values computes in INT8 whatever its neighbours do
    layers = build_engine(bundle, EngineBuild("int8")).record.summary.layers
    assert (layers["int8"], layers["fp32"], layers["fp16"]) == (2, 1, 1)


def test_a_node_that_nothing_would_hold_in_fp32_is_an_error(
    tiny_bundle: Bundle, tmp_path: Path, device: Device
) -> None:
    device(WEAK)
    bundle = bundle_with_flavours(tiny_bundle, tmp_path / "kept", kept_fp32={"gone/Softmax": "x"})
    with pytest.raises(StepError, match="no layer for gone/Softmax.*--precision fp32"):
        build_engine(bundle, EngineBuild("fp16"))
    build_engine(bundle, EngineBuild("fp32"))  # which needs no such promise


@pytest.mark.parametrize(
    ("layer", "node", "kept"),
    [
        ("head/Mul", "head/Mul", "head/Mul"),
        ("head/Mul_0", "head/Mul", "head/Mul"),  # the parser's second layer of one node
        ("head/Mul_1", "head/Mul_1", None),  # a node of its own
        ("head/Mul_1_0", "head/Mul_1", None),  # the second layer of that
        ("head/Mul.mean", "head/Mul.mean", "head/Mul"),  # a part that was written out
        ("head/Mul.mean_0", "head/Mul.mean", "head/Mul"),
        ("head/Mul.sum", "head/Mul", "head/Mul"),
        ("head/Multiply", None, None),
        ("_0", None, None),
        ("(Unnamed Layer* 3) [Shuffle]", None, None),
    ],
)
def test_layers_are_traced_to_the_node_they_were_made_from(
    layer: str, node: str | None, kept: str | None
) -> None:
    nodes = {"head/Mul", "head/Mul_1", "head/Mul.mean", ""}
    assert owner(layer, nodes) == node
    assert _kept_node(layer, {"head/Mul"}, nodes) == kept


# --- the timing cache ------------------------------------------------------------------------


def timed(api: TensorRT, mark: int) -> list[str]:
    return [said for said in api.log.since(mark, "INFO") if said.startswith("timing ")]


@pytest.mark.parametrize("version", [WEAK, STRONG, "11.1"])
def test_timings_are_kept_and_used_again(version: str, bundle: Bundle, device: Device) -> None:
    device(version)
    api = load_tensorrt()
    build_engine(bundle, EngineBuild("fp32"))
    [cache] = bundle.path.glob("engines/timing-*.cache")
    mark = api.log.mark()
    build_engine(bundle, EngineBuild("fp32", rebuild=True))
    assert not timed(api, mark)
    build_engine(bundle, EngineBuild("fp32", rebuild=True, timing_cache=False))
    assert timed(api, mark)
    assert cache.is_file()


def test_without_it_none_is_written(bundle: Bundle, device: Device) -> None:
    device()
    build_engine(bundle, EngineBuild("fp32", timing_cache=False))
    assert not [name for name in below(bundle) if name.startswith("timing")]


@pytest.mark.parametrize("version", [WEAK, STRONG])
@pytest.mark.parametrize(
    "content",
    [b"garbage", b'FAKETIMING{"owner": "another", "entries": []}'],
    ids=["garbled", "foreign"],
)
def test_a_timing_cache_that_tensorrt_refuses_is_set_aside_with_a_note(
    content: bytes, version: str, bundle: Bundle, device: Device
) -> None:
    device(version)
    build_engine(bundle, EngineBuild("fp32"))
    [cache] = bundle.path.glob("engines/timing-*.cache")
    purpose = f"timings {cache.stem.removeprefix('timing-')}"
    cache.write_bytes(seal(purpose, content) + content)
    steps = Steps()
    build_engine(bundle, EngineBuild("fp32", rebuild=True), steps)
    assert steps.of("timing") == [f"timing cache {cache.name} is not of this TensorRT: timing anew"]
    assert b"rgb/Conv" in cache.read_bytes()


def flip(cache: Path, tmp_path: Path) -> None:
    data = bytearray(cache.read_bytes())
    data[-1] ^= 1
    cache.write_bytes(data)


def grow(cache: Path, tmp_path: Path) -> None:
    os.truncate(cache, LARGEST_CACHE + 1)  # a hole, which takes no room


def link(cache: Path, tmp_path: Path) -> None:
    cache.rename(tmp_path / "elsewhere")
    cache.symlink_to(tmp_path / "elsewhere")


@pytest.mark.parametrize(
    ("harm", "problem"),
    [
        (flip, "was not written by this user on this device"),
        (lambda cache, _: cache.write_bytes(b"short"), "was not written by this user"),
        (grow, "is no file of at most 256 MiB"),
        (link, "is a link"),
    ],
    ids=["changed", "unsealed", "oversized", "link"],
)
def test_a_timing_cache_that_is_not_ours_never_reaches_tensorrt(
    harm: Callable[[Path, Path], None],
    problem: str,
    bundle: Bundle,
    device: Device,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    device()
    build_engine(bundle, EngineBuild("fp32"))
    [cache] = bundle.path.glob("engines/timing-*.cache")
    harm(cache, tmp_path)
    there = (tmp_path / "elsewhere").read_bytes() if cache.is_symlink() else None
    read: list[bytes] = []
    monkeypatch.setattr(TimingCache, "_set", lambda self, config, stored: read.append(stored))
    steps = Steps()
    build_engine(bundle, EngineBuild("fp32", rebuild=True), steps)
    [note] = steps.of("timing")
    assert note.startswith(f"timing cache {cache.name} {problem}")
    assert note.endswith(": timing anew")
    assert read == [b""]
    if there is not None:  # what the link leads to stays as it was
        assert (tmp_path / "elsewhere").read_bytes() == there


def test_a_link_in_its_place_is_replaced_and_not_written_through(
    bundle: Bundle, device: Device, tmp_path: Path
) -> None:
    device()
    build_engine(bundle, EngineBuild("fp32"))
    [cache] = bundle.path.glob("engines/timing-*.cache")
    precious = tmp_path / "precious"
    precious.write_text("mine")
    cache.unlink()
    cache.symlink_to(precious)
    build_engine(bundle, EngineBuild("fp32", rebuild=True))
    assert precious.read_text() == "mine"
    assert not cache.is_symlink()
    assert b"rgb/Conv" in cache.read_bytes()
