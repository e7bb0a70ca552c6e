"""Building engines, against a TensorRT of every version that refuses what the real one refuses."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from edge_fusion.board import BoardState
from edge_fusion.bundle import Bundle
from edge_fusion.engine import Engine, EngineDevice, find_engine, list_engines, read_engine
from edge_fusion.errors import (
    EngineError,
    InputError,
    MissingDependencyError,
    OutputError,
    SessionError,
    StepError,
)
from edge_fusion.export import engine as engine_module
from edge_fusion.export import engine_config
from edge_fusion.export.engine import EngineBuild, build_engine
from edge_fusion.export.engine_config import BASE_BYTES, MIB, ConfigRequest, workspace_for
from edge_fusion.export.engine_graph import node_names
from edge_fusion.export.engine_network import _owner, parse_network
from edge_fusion.runtime.cuda import Cuda
from edge_fusion.runtime.trt import TrtSession
from edge_fusion.runtime.trt_api import MessageLog, TensorRT, load_tensorrt
from tests.export.engine_bundles import MODELS, bundle_with_flavours
from tests.fakes import tensorrt_build
from tests.fakes.tensorrt_api import VERSIONS, Gpu

ROOT = Path(__file__).resolve().parents[2]
BOARD = BoardState(l4t="36.4.3", power_mode="MAXN_SUPER", available_bytes=4 << 30)
PRECISIONS = ("fp32", "fp16", "int8")
STRONG, WEAK = "10.3", "8.5.3"


@pytest.fixture
def bundle(tiny_bundle: Bundle, tmp_path: Path) -> Bundle:
    return bundle_with_flavours(tiny_bundle, tmp_path / "bundle")


@pytest.fixture
def device(
    monkeypatch: pytest.MonkeyPatch,
    fake_tensorrt: Callable[..., ModuleType],
    fake_cuda: Callable[..., Any],
) -> Callable[..., None]:
    """``device(version)`` makes this machine an Orin with that TensorRT."""

    def install(version: str = STRONG, *, board: BoardState = BOARD, **cuda: Any) -> None:
        sm = cuda.get("sm", (8, 7))
        fake_tensorrt(version, Gpu(name=cuda.get("name", "Orin"), sm=f"{sm[0]}.{sm[1]}"))
        monkeypatch.setattr(engine_module, "probe_board", lambda: board)

        def load() -> Any:  # each build opens and closes one of its own
            opened = fake_cuda(**cuda)
            monkeypatch.setattr(Cuda, "load", load)
            return opened

        load()

    return install


class Steps:
    """Progress that remembers, and may be told to stop at a step as Ctrl-C would."""

    def __init__(self, stop_at: str = "") -> None:
        self.said: list[tuple[str, str]] = []
        self.stop_at = stop_at

    def __call__(self, step: str, done: int, total: int, detail: str = "") -> None:
        self.said.append((step, detail))
        if step == self.stop_at:
            raise KeyboardInterrupt

    def of(self, step: str) -> list[str]:
        return [detail for name, detail in self.said if name == step]


def below(bundle: Bundle) -> list[str]:
    """Every file below the bundle's engines, hidden ones too."""
    return sorted(
        str(p.relative_to(bundle.path / "engines")) for p in bundle.path.glob("engines/**/*")
    )


def here(precision: str = "int8", **changed: Any) -> EngineDevice:
    fields = {
        "name": "Orin",
        "sm": "8.7",
        "sm_count": 8,
        "tensorrt": VERSIONS[STRONG],
        "l4t": "36.4.3",
        "power_mode": "MAXN_SUPER",
    }
    return EngineDevice(**{**fields, **changed})


# --- the road --------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_builds_every_precision(
    version: str, precision: str, bundle: Bundle, device: Callable[..., None]
) -> None:
    device(version)
    engine = build_engine(bundle, EngineBuild(precision))
    record = engine.record
    assert record.options.flavour == ("weak" if version.startswith("8") else "strong")
    assert record.device == here(tensorrt=VERSIONS[version])
    assert record.golden_mean_abs <= record.golden_tolerance
    assert record.model_file == f"model.{record.options.flavour}.{precision}.onnx"
    # two copies of inputs, two convolutions, an addition, a sigmoid
    assert sum(record.summary.layers.values()) == 6
    assert record.summary.layers.get("int8", 0) == (2 if precision == "int8" else 0)
    assert record.summary.int8_mac_share == (1.0 if precision == "int8" else 0.0)
    assert find_engine(bundle, precision, record.device) == engine
    assert json.loads((engine.folder / "layers.json").read_text())["Layers"]


@pytest.mark.parametrize(
    ("version", "precision", "fp16"),
    [
        # an FP16 engine computes everything in it, an INT8 one what is not quantized
        (WEAK, "fp16", 4),
        (WEAK, "int8", 2),
        (WEAK, "fp32", 0),
        # strong graphs say so themselves: this INT8 graph has FP32 around it
        (STRONG, "fp16", 4),
        (STRONG, "int8", 0),
    ],
)
def test_precision_comes_from_flags_or_from_the_graph(
    version: str, precision: str, fp16: int, bundle: Bundle, device: Callable[..., None]
) -> None:
    device(version)
    layers = build_engine(bundle, EngineBuild(precision)).record.summary.layers
    assert layers.get("fp16", 0) == fp16


def test_a_discrete_gpu_without_a_board_builds_too(
    bundle: Bundle, device: Callable[..., None]
) -> None:
    device("10.13", board=BoardState(), integrated=False, sm=(8, 6), name="RTX 3090")
    record = build_engine(bundle, EngineBuild("int8")).record
    assert (record.device.sm, record.device.l4t, record.device.power_mode) == ("8.6", None, None)


def test_progress_tells_every_step(bundle: Bundle, device: Callable[..., None]) -> None:
    device()
    steps = Steps()
    engine = build_engine(bundle, EngineBuild("int8"), steps)
    assert list(dict.fromkeys(name for name, _ in steps.said)) == [
        "parse",
        "build",
        "self-check",
        "engine",
    ]
    assert str(engine.folder) in steps.of("engine")[0]


# --- the cache -------------------------------------------------------------------------------


def count_builds(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    made: list[str] = []
    real = engine_module.run_builder

    def counted(*args: Any, **kwargs: Any) -> bytes:
        made.append("built")
        return real(*args, **kwargs)

    monkeypatch.setattr(engine_module, "run_builder", counted)
    return made


def test_an_engine_that_is_there_is_returned_at_once(
    bundle: Bundle, device: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    device()
    made, steps = count_builds(monkeypatch), Steps()
    first = build_engine(bundle, EngineBuild("int8"))
    assert build_engine(bundle, EngineBuild("int8"), steps) == first
    assert len(made) == 1
    assert "unchanged since" in steps.of("cache")[0]
    build_engine(bundle, EngineBuild("int8", rebuild=True))
    assert len(made) == 2


@pytest.mark.parametrize(
    "changed",
    [
        {"board": BoardState(l4t="36.4.7", power_mode="MAXN_SUPER", available_bytes=4 << 30)},
        {"board": BoardState(l4t="36.4.3", power_mode="15W", available_bytes=4 << 30)},
        {"version": "10.7"},
        {"sm_count": 4},
        {"name": "Orin Nano"},
    ],
    ids=["l4t", "power mode", "tensorrt", "sm count", "name"],
)
def test_another_device_is_another_engine(
    changed: dict[str, Any], bundle: Bundle, device: Callable[..., None]
) -> None:
    device()
    first = build_engine(bundle, EngineBuild("int8"))
    device(**changed)
    second = build_engine(bundle, EngineBuild("int8"))
    assert first.record.key != second.record.key
    assert len(list_engines(bundle)) == 2


def test_options_that_decide_what_comes_out_are_in_the_key(
    bundle: Bundle, device: Callable[..., None]
) -> None:
    device()
    built = [
        build_engine(bundle, EngineBuild("int8", optimization_level=level)) for level in (None, 1)
    ]
    assert len({engine.record.key for engine in built}) == 2


def test_a_damaged_engine_is_built_again_and_not_in_silence(
    bundle: Bundle, device: Callable[..., None]
) -> None:
    device()
    engine = build_engine(bundle, EngineBuild("int8"))
    plan = engine.folder / "model.plan"
    plan.write_bytes(plan.read_bytes()[:-1] + b"?")
    steps = Steps()
    again = build_engine(bundle, EngineBuild("int8"), steps)
    assert "building again" in steps.of("cache")[0]
    assert "damaged or was changed" in steps.of("cache")[0]
    assert again.plan == engine.plan == plan.read_bytes()


# --- the timing cache ------------------------------------------------------------------------


def timed(api: TensorRT, mark: int) -> list[str]:
    return [said for said in api.log.since(mark, "INFO") if said.startswith("timing ")]


@pytest.mark.parametrize("version", [WEAK, STRONG, "11.1"])
def test_timings_are_kept_and_used_again(
    version: str, bundle: Bundle, device: Callable[..., None]
) -> None:
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


def test_without_it_none_is_written(bundle: Bundle, device: Callable[..., None]) -> None:
    device()
    build_engine(bundle, EngineBuild("fp32", timing_cache=False))
    assert not [name for name in below(bundle) if name.startswith("timing")]


@pytest.mark.parametrize("version", [WEAK, STRONG])
@pytest.mark.parametrize(
    "content",
    [b"garbage", b'FAKETIMING{"owner": "another", "entries": []}'],
    ids=["garbled", "foreign"],
)
def test_a_timing_cache_that_is_refused_is_set_aside_with_a_note(
    content: bytes, version: str, bundle: Bundle, device: Callable[..., None]
) -> None:
    device(version)
    build_engine(bundle, EngineBuild("fp32"))
    [cache] = bundle.path.glob("engines/timing-*.cache")
    cache.write_bytes(content)
    steps = Steps()
    build_engine(bundle, EngineBuild("fp32", rebuild=True), steps)
    assert steps.of("timing") == [f"timing cache {cache.name} is not of this TensorRT: timing anew"]
    assert b"rgb/Conv" in cache.read_bytes()


def test_a_timing_cache_that_is_a_link_is_not_read(
    bundle: Bundle, device: Callable[..., None], tmp_path: Path
) -> None:
    device()
    build_engine(bundle, EngineBuild("fp32"))
    [cache] = bundle.path.glob("engines/timing-*.cache")
    elsewhere = cache.rename(tmp_path / "elsewhere")
    cache.symlink_to(elsewhere)
    steps = Steps()
    build_engine(bundle, EngineBuild("fp32", rebuild=True), steps)
    assert "is a link" in steps.of("timing")[0]


# --- what is refused -------------------------------------------------------------------------


def test_a_tar_says_how_to_unpack_it(bundle: Bundle, device: Callable[..., None]) -> None:
    device()
    path = bundle.path.with_suffix(".tar")
    with tarfile.open(path, "w") as archive:
        for file in sorted(bundle.path.iterdir()):
            archive.add(file, file.name)
    with pytest.raises(EngineError, match=r"is a \.tar.*tar -xf .*bundle\.tar -C FOLDER"):
        build_engine(Bundle.read(path), EngineBuild("int8"))


def test_a_bundle_without_the_graph_says_which(
    tiny_bundle: Bundle, device: Callable[..., None]
) -> None:
    device()
    with pytest.raises(EngineError, match="expected strong.int8, got none; build the bundle again"):
        build_engine(tiny_bundle, EngineBuild("int8"))


def test_no_tensorrt_is_said(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises((MissingDependencyError, SessionError), match="TensorRT"):
        build_engine(bundle, EngineBuild("int8"))


def test_a_gpu_that_tensorrt_does_not_see_is_said(
    bundle: Bundle,
    device: Callable[..., None],
    fake_tensorrt: Callable[..., ModuleType],
) -> None:
    device()
    fake_tensorrt(STRONG, None)
    with pytest.raises(StepError, match="does not start: got CUDA initialization failure.*visible"):
        build_engine(bundle, EngineBuild("int8"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "int4"}, "expected fp32 or fp16 or int8, got 'int4'"),
        ({"precision": "int8", "optimization_level": 6}, "expected 0 to 5, got 6"),
        ({"precision": "int8", "optimization_level": -1}, "expected 0 to 5, got -1"),
    ],
)
def test_options_are_checked_when_they_are_made(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        EngineBuild(**options)


def test_an_optimisation_level_that_the_version_lacks_names_it(
    bundle: Bundle, device: Callable[..., None]
) -> None:
    device(WEAK)
    with pytest.raises(StepError, match=r"8\.5\.3\.1 has no .* level: expected TensorRT 8\.6"):
        build_engine(bundle, EngineBuild("fp32", optimization_level=3))


@pytest.mark.parametrize("version", [WEAK, STRONG])
@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        # the node's type misspelt: a name as long keeps the file whole
        (("Sigmoid", "Sigmoif"), r"node 'head/Sigmoif' \(Sigmoif\): No importer registered"),
        (None, "Failed to parse the ONNX model"),
    ],
    ids=["operator", "garbage"],
)
def test_parser_errors_name_node_and_reason(
    broken: tuple[str, str] | None,
    reason: str,
    version: str,
    tiny_bundle: Bundle,
    tmp_path: Path,
    device: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    device(version)
    model = (MODELS / "tiny.fp32.onnx").read_bytes()
    model = model.replace(broken[0].encode(), broken[1].encode()) if broken else b"no onnx at all"
    if broken:
        monkeypatch.setattr(tensorrt_build, "_ABSENT", ("Sigmoif",))
    replaced = {"strong.fp32": model, "weak.fp32": model}
    bundle = bundle_with_flavours(tiny_bundle, tmp_path / "broken", replaced=replaced)
    with pytest.raises(StepError, match=f"{VERSIONS[version]} refuses model.*{reason}.*check"):
        build_engine(bundle, EngineBuild("fp32"))
    assert below(bundle) == []


@pytest.mark.parametrize(
    ("flavour", "file", "reason"),
    [
        ("weak.int8", "tiny.int8.onnx", r"node 'rgb.weight/DQ' \(DequantizeLinear\).*INT8 weights"),
    ],
)
def test_a_graph_of_the_other_flavour_is_refused(
    flavour: str,
    file: str,
    reason: str,
    tiny_bundle: Bundle,
    tmp_path: Path,
    device: Callable[..., None],
) -> None:
    device(WEAK)
    replaced = {flavour: (MODELS / file).read_bytes()}
    bundle = bundle_with_flavours(tiny_bundle, tmp_path / "other", replaced=replaced)
    with pytest.raises(StepError, match=reason):
        build_engine(bundle, EngineBuild("int8"))


@pytest.mark.parametrize("version", [WEAK, STRONG])
def test_a_build_that_fails_names_the_node_and_the_reason(
    version: str, bundle: Bundle, device: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    device(version)
    monkeypatch.setattr(tensorrt_build, "LEAST_WORKSPACE", 1 << 40)
    with pytest.raises(
        StepError, match=r"built no engine.*any implementation for node rgb/Conv.*--workspace"
    ):
        build_engine(bundle, EngineBuild("int8"))
    assert not list_engines(bundle)


# --- memory ----------------------------------------------------------------------------------


def test_too_little_memory_is_said_before_anything_starts(
    bundle: Bundle, device: Callable[..., None]
) -> None:
    device(board=BoardState(available_bytes=500 * MIB))
    steps = Steps()
    with pytest.raises(
        StepError, match=r"too little memory to build in: expected \d+ MiB free, got 500 MiB; close"
    ):
        build_engine(bundle, EngineBuild("int8"), steps)
    assert steps.said == []


def test_a_jetson_counts_what_the_kernel_would_give_up(
    bundle: Bundle, device: Callable[..., None]
) -> None:
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
    assert BASE_BYTES == 600 * MIB
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


def test_the_builder_gets_that_limit_and_shows_its_layers(
    bundle: Bundle, device: Callable[..., None], monkeypatch: pytest.MonkeyPatch
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
    tiny_bundle: Bundle, tmp_path: Path, device: Callable[..., None]
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
    tiny_bundle: Bundle, tmp_path: Path, device: Callable[..., None]
) -> None:
    device(WEAK)
    bundle = bundle_with_flavours(tiny_bundle, tmp_path / "kept", kept_fp32={"gone/Softmax": "x"})
    with pytest.raises(StepError, match="no layer for gone/Softmax.*--precision fp32"):
        build_engine(bundle, EngineBuild("fp16"))
    build_engine(bundle, EngineBuild("fp32"))  # which needs no such promise


@pytest.mark.parametrize(
    ("layer", "owner"),
    [
        ("head/Mul", "head/Mul"),
        ("head/Mul_0", "head/Mul"),  # the parser's second layer of one node
        ("head/Mul_1", None),  # a node of its own
        ("head/Mul.mean", "head/Mul"),  # a part that was written out
        ("head/Multiply", None),
        ("(Unnamed Layer* 3) [Shuffle]", None),
    ],
)
def test_layers_are_traced_to_the_node_they_were_made_from(layer: str, owner: str | None) -> None:
    nodes = {"head/Mul", "head/Mul_1", "head/Mul.mean"}
    assert _owner(layer, {"head/Mul"}, nodes) == owner


# --- stopping --------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [WEAK, STRONG])
@pytest.mark.parametrize("step", ["parse", "build", "self-check"])
def test_ctrl_c_leaves_no_engine_and_the_repeat_works(
    step: str, version: str, bundle: Bundle, device: Callable[..., None]
) -> None:
    device(version)
    with pytest.raises(KeyboardInterrupt):
        build_engine(bundle, EngineBuild("int8"), Steps(stop_at=step))
    assert all(name.startswith("timing-") for name in below(bundle))
    engine = build_engine(bundle, EngineBuild("int8"))
    assert find_engine(bundle, "int8", engine.record.device) == engine


def test_ctrl_c_stops_the_builder_and_keeps_what_it_timed(
    bundle: Bundle, device: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    device()
    api = load_tensorrt()
    real = tensorrt_build._announce

    def slow(row: Any, state: Any, config: Any, logger: Any) -> bool:
        for step in range(1000):  # far longer than the test may take, unless it is stopped
            config._cache._entries.add("rgb/Conv")
            if not config.progress_monitor.step_complete("Timing tactics", step):
                return False
            time.sleep(0.01)
        return bool(real(row, state, config, logger))

    monkeypatch.setattr(tensorrt_build, "_announce", slow)
    mark = api.log.mark()
    with pytest.raises(KeyboardInterrupt):
        build_engine(bundle, EngineBuild("int8"), Steps(stop_at="build"))
    assert "BuildCanceled" in api.log.errors(mark)
    assert [name[:7] for name in below(bundle)] == ["timing-"]
    [cache] = bundle.path.glob("engines/timing-*.cache")
    assert b"rgb/Conv" in cache.read_bytes()


KILLED = """
import os, sys
import pytest
from edge_fusion import engine as ground
from edge_fusion.bundle import Bundle
from edge_fusion.engine import RECORD_NAME
from edge_fusion.export import engine
from edge_fusion.export.engine import EngineBuild, build_engine
from edge_fusion.runtime import cuda
from tests.export.test_engine import BOARD
from tests.fakes.cudart import FakeCuda
from tests.fakes.tensorrt_api import Gpu, make_tensorrt
sys.modules["tensorrt"] = make_tensorrt("10.3", Gpu())
cuda.Cuda.load = lambda: FakeCuda()
engine.probe_board = lambda: BOARD
real = ground.write_synced
def written(path, data):
    real(path, data)
    if path.name == RECORD_NAME:
        os._exit(9)  # no handler runs, as after kill -9 or a power cut
ground.write_synced = written
build_engine(Bundle.read(sys.argv[1]), EngineBuild("int8"))
"""


def test_a_kill_while_writing_leaves_nothing_that_counts(
    bundle: Bundle, device: Callable[..., None]
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(bundle.path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 9, done.stderr
    assert [name for name in below(bundle) if name.endswith("build.json")], "nothing was killed"
    assert list_engines(bundle) == []
    with pytest.raises(EngineError, match="has no int8 engine"):
        find_engine(bundle, "int8", here())
    device()
    engine = build_engine(bundle, EngineBuild("int8"))
    assert {name.split("/")[0] for name in below(bundle)} == {
        engine.record.key,
        *(name for name in below(bundle) if name.startswith("timing-")),
    }


def test_a_full_disk_leaves_nothing(
    bundle: Bundle, device: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    device()

    def full(path: Path, data: bytes) -> None:
        path.write_bytes(data[:1])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("edge_fusion.engine.write_synced", full)
    monkeypatch.setattr("edge_fusion.files.write_synced", full)
    steps = Steps()
    with pytest.raises(OutputError, match="cannot write the engine.*the disk is full"):
        build_engine(bundle, EngineBuild("int8"), steps)
    assert "timing cache not kept" in steps.of("timing")[0]
    assert below(bundle) == []


def test_a_bundle_that_may_not_be_written_to_is_said_before_building(
    bundle: Bundle, device: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    device()

    def read_only(dir: Path) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("edge_fusion.export.engine.tempfile.TemporaryFile", read_only)
    steps = Steps()
    with pytest.raises(OutputError, match="that file system is read-only: write elsewhere"):
        build_engine(bundle, EngineBuild("int8"), steps)
    assert steps.said == []


# --- the self-check --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("precision", "wrong", "cure"),
    [
        ("int8", b"edges", "--precision fp16"),
        ("fp16", b"edges", "--precision fp32"),
        ("fp32", b"edges", "inspect .* --self-check$"),
    ],
)
def test_a_plan_that_misses_the_golden_outputs_is_refused(
    precision: str,
    wrong: bytes,
    cure: str,
    bundle: Bundle,
    device: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    device()
    monkeypatch.setattr(tensorrt_build, "compiled_model", miscompiled)
    with pytest.raises(StepError) as caught:
        build_engine(bundle, EngineBuild(precision))
    said = str(caught.value)
    assert "'saliency': expected a mean absolute difference of at most" in said
    assert re.search(r"got 0\.\d+ over 2 samples", said)
    assert re.search(cure, said)
    assert not list_engines(bundle)
    assert all(name.startswith("timing-") for name in below(bundle))


def miscompiled(model: bytes) -> bytes:
    """The same network as if a kernel forgot the bias: the ``-4`` in it becomes ``+4``."""
    for minus, plus in ((b"\x00\x00\x80\xc0", b"\x00\x00\x80\x40"), (b"\x00\xc4", b"\x00\x44")):
        if minus in model:
            return model.replace(minus, plus, 1)
    raise AssertionError("no bias to change")


# --- whose engine it is ----------------------------------------------------------------------


@pytest.fixture
def built(bundle: Bundle, device: Callable[..., None]) -> Engine:
    device()
    return build_engine(bundle, EngineBuild("int8"))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"sm": "8.6"}, "does not belong here: sm: expected 8.6, got 8.7"),
        ({"tensorrt": "10.3.0.26"}, r"tensorrt: expected 10\.3\.0\.26, got 10\.3\.0\.30"),
        ({"power_mode": "15W"}, "power_mode: expected 15W, got MAXN_SUPER"),
        ({"power_mode": None}, "power_mode: expected None, got MAXN_SUPER"),
        ({"sm_count": 4}, "sm_count: expected 4, got 8"),
        ({"l4t": "36.4.7"}, r"l4t: expected 36\.4\.7, got 36\.4\.3"),
        ({"name": "Xavier"}, "name: expected Xavier, got Orin"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_an_engine_of_another_device_is_refused_with_the_field(
    changed: dict[str, Any], message: str, bundle: Bundle, built: Engine
) -> None:
    with pytest.raises(EngineError, match=f"{message}.*edge-fusion build .*--precision int8"):
        find_engine(bundle, "int8", here(**changed))
    assert find_engine(bundle, "int8", here()) == built


def flip(plan: Path) -> None:
    data = bytearray(plan.read_bytes())
    data[len(data) // 2] ^= 1
    plan.write_bytes(data)


def truncate(plan: Path) -> None:
    plan.write_bytes(plan.read_bytes()[:-1])


def link(plan: Path) -> None:
    plan.rename(plan.with_name("elsewhere"))
    plan.symlink_to("elsewhere")


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (flip, "is damaged or was changed: expected sha256"),
        (truncate, r"is not the plan that was built: expected a file of \d+ bytes, got \d+ bytes"),
        (link, "got a link"),
        (Path.unlink, "cannot read .*No such file"),
    ],
)
def test_a_plan_that_is_not_what_was_built_is_never_read(
    harm: Callable[[Path], None], message: str, bundle: Bundle, built: Engine
) -> None:
    harm(built.folder / "model.plan")
    with pytest.raises(EngineError, match=f"{message}.*build it again"):
        find_engine(bundle, "int8", here())


def forge(folder: Path, **fields: Any) -> None:
    record = json.loads((folder / "build.json").read_text())
    for name, value in fields.items():
        owner = record["device"] if name in record["device"] else record
        owner[name] = value
    (folder / "build.json").write_text(json.dumps(record))


def test_a_record_that_claims_another_device_is_refused(
    bundle: Bundle, device: Callable[..., None]
) -> None:
    # built on an Orin NX, its record says it was built here
    device(name="Orin NX")
    engine = build_engine(bundle, EngineBuild("int8"))
    forge(engine.folder, name="Orin")
    with pytest.raises(EngineError, match="was changed: its key is not that of its fields"):
        find_engine(bundle, "int8", here())


def test_a_record_that_lies_in_another_folder_is_refused(bundle: Bundle, built: Engine) -> None:
    moved = built.folder.rename(built.folder.with_name("0123456789abcdef"))
    with pytest.raises(EngineError, match=f"expected {moved.name}, got {built.record.key}"):
        find_engine(bundle, "int8", here())


def test_a_plan_put_in_place_of_ours_is_refused(bundle: Bundle, built: Engine) -> None:
    other = bytearray(built.plan)
    other[-1] ^= 1
    (built.folder / "model.plan").write_bytes(other)
    with pytest.raises(EngineError, match="damaged or was changed"):
        read_engine(bundle, built.record.key)


def test_an_engine_of_an_older_model_is_refused(
    bundle: Bundle, built: Engine, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    other = (MODELS / "tiny.fp16.onnx").read_bytes()
    newer = bundle_with_flavours(tiny_bundle, tmp_path / "newer", replaced={"strong.int8": other})
    shutil.copytree(built.folder, newer.path / "engines" / built.record.key)
    with pytest.raises(EngineError, match="does not belong here: model: expected"):
        find_engine(newer, "int8", here())


def test_an_engine_is_no_reason_to_refuse_its_bundle(bundle: Bundle, built: Engine) -> None:
    assert Bundle.read(bundle.path).manifest == bundle.manifest


# --- parts -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["fp32", "int8", "weak.int8", "fp16"])
def test_node_names_are_those_of_the_file(name: str) -> None:
    names = node_names((MODELS / f"tiny.{name}.onnx").read_bytes())
    assert ("rgb/Conv", "Conv") in names
    assert all(node.name and node.operator for node in names)


@pytest.mark.parametrize("data", [b"", b"\xff" * 20, b"\x3a\xff\xff\x03", b"no onnx at all"])
def test_what_is_no_onnx_has_no_nodes(data: bytes) -> None:
    assert node_names(data) == []


def test_none_of_the_workstation_is_imported() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import sys, edge_fusion.export.engine; print(*sys.modules)"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    heavy = {"torch", "onnx", "nncf", "onnxruntime", "onnxslim", "tensorrt"}
    assert not heavy & set(done.stdout.split())


def test_networks_with_free_sizes_are_refused() -> None:
    tensor = SimpleNamespace(name="rgb", shape=(-1, 3, 32, 32))
    network = SimpleNamespace(num_inputs=1, get_input=lambda index: tensor)
    parser = SimpleNamespace(parse=lambda model: True)
    trt = SimpleNamespace(
        Builder=lambda logger: SimpleNamespace(create_network=lambda flags: network),
        OnnxParser=lambda network, logger: parser,
        NetworkDefinitionCreationFlag=SimpleNamespace(),
    )
    api = TensorRT(trt, (11, 1), "11.1", None, MessageLog())
    with pytest.raises(StepError, match=r"expected fixed sizes, got 'rgb' \(-1, 3, 32, 32\)"):
        parse_network(api, "strong", b"", "model.onnx")


def test_the_session_refuses_a_plan_of_another_tensorrt(
    bundle: Bundle, built: Engine, device: Callable[..., None], fake_cuda: Callable[..., Any]
) -> None:
    """The last line of defence: TensorRT's own check, should a record be forged throughout."""
    device("10.7")
    with pytest.raises(SessionError, match="not compatible with this version"):
        TrtSession(built.plan, bundle.manifest.model, fake_cuda(), load_tensorrt())


def test_memory_constants_leave_room_on_the_smallest_board() -> None:
    # an Orin Nano 4 GB with a desktop closed has about 2.5 GiB left; models weigh up to 180 MB
    assert workspace_for(2560 * MIB, 180_000_000, None) > 128 * MIB
    assert engine_config.WORKSPACE_SHARE < 1
