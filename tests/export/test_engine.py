"""Building engines, against a TensorRT of every version that refuses what the real one refuses."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from edge_fusion.board import BoardState
from edge_fusion.bundle import Bundle
from edge_fusion.engine import find_engine, list_engines
from edge_fusion.errors import (
    EngineError,
    InputError,
    MissingDependencyError,
    StepError,
)
from edge_fusion.export import engine as engine_module
from edge_fusion.export.engine import EngineBuild, build_engine
from edge_fusion.export.engine_graph import node_names
from edge_fusion.export.engine_network import parse_network
from edge_fusion.runtime.trt_api import MessageLog, TensorRT
from tests.export.engine_bundles import MODELS, bundle_with_flavours
from tests.export.engine_device import STRONG, WEAK, Device, Steps, below, here, make_device
from tests.fakes import tensorrt_build
from tests.fakes.tensorrt_api import VERSIONS

ROOT = Path(__file__).resolve().parents[2]
PRECISIONS = ("fp32", "fp16", "int8")


@pytest.fixture
def bundle(tiny_bundle: Bundle, tmp_path: Path) -> Bundle:
    return bundle_with_flavours(tiny_bundle, tmp_path / "bundle")


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch, fake_tensorrt: Any, fake_cuda: Any) -> Device:
    return make_device(monkeypatch, fake_tensorrt, fake_cuda)


# --- the road --------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_builds_every_precision(
    version: str, precision: str, bundle: Bundle, device: Device
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
    version: str, precision: str, fp16: int, bundle: Bundle, device: Device
) -> None:
    device(version)
    layers = build_engine(bundle, EngineBuild(precision)).record.summary.layers
    assert layers.get("fp16", 0) == fp16


def test_a_discrete_gpu_without_a_board_builds_too(bundle: Bundle, device: Device) -> None:
    device("10.13", board=BoardState(), integrated=False, sm=(8, 6), name="RTX 3090")
    record = build_engine(bundle, EngineBuild("int8")).record
    assert (record.device.sm, record.device.l4t, record.device.power_mode) == ("8.6", None, None)


def test_progress_tells_every_step(bundle: Bundle, device: Device) -> None:
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
    bundle: Bundle, device: Device, monkeypatch: pytest.MonkeyPatch
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
    changed: dict[str, Any], bundle: Bundle, device: Device
) -> None:
    device()
    first = build_engine(bundle, EngineBuild("int8"))
    device(**changed)
    second = build_engine(bundle, EngineBuild("int8"))
    assert first.record.key != second.record.key
    assert len(list_engines(bundle)) == 2


def test_options_that_decide_what_comes_out_are_in_the_key(bundle: Bundle, device: Device) -> None:
    device()
    built = [
        build_engine(bundle, EngineBuild("int8", optimization_level=level)) for level in (None, 1)
    ]
    assert len({engine.record.key for engine in built}) == 2


def test_a_damaged_engine_is_built_again_and_not_in_silence(bundle: Bundle, device: Device) -> None:
    device()
    engine = build_engine(bundle, EngineBuild("int8"))
    plan = engine.folder / "model.plan"
    plan.write_bytes(plan.read_bytes()[:-1] + b"?")
    steps = Steps()
    again = build_engine(bundle, EngineBuild("int8"), steps)
    assert "building again" in steps.of("cache")[0]
    assert "damaged or was changed" in steps.of("cache")[0]
    assert again.plan == engine.plan == plan.read_bytes()


# --- what is refused -------------------------------------------------------------------------


def test_a_tar_says_how_to_unpack_it(bundle: Bundle, device: Device) -> None:
    device()
    path = bundle.path.with_suffix(".tar")
    with tarfile.open(path, "w") as archive:
        for file in sorted(bundle.path.iterdir()):
            archive.add(file, file.name)
    with pytest.raises(EngineError, match=r"is a \.tar.*tar -xf .*bundle\.tar -C FOLDER"):
        build_engine(Bundle.read(path), EngineBuild("int8"))


def test_a_bundle_without_the_graph_says_which(tiny_bundle: Bundle, device: Device) -> None:
    device()
    with pytest.raises(EngineError, match="expected strong.int8, got none; build the bundle again"):
        build_engine(tiny_bundle, EngineBuild("int8"))


def test_no_tensorrt_is_said(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingDependencyError, match="building an engine needs TensorRT"):
        build_engine(bundle, EngineBuild("int8"))


def test_a_gpu_that_tensorrt_does_not_see_is_said(
    bundle: Bundle,
    device: Device,
    fake_tensorrt: Callable[..., ModuleType],
) -> None:
    device()
    fake_tensorrt(STRONG, None)
    with pytest.raises(StepError, match="does not start: got CUDA initialization failure.*visible"):
        build_engine(bundle, EngineBuild("int8"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "int4"}, "got precision: Input should be 'fp32', 'fp16' or 'int8'"),
        ({"precision": "int8", "optimization_level": 6}, "got optimization_level: .* equal to 5"),
        ({"precision": "int8", "optimization_level": -1}, "got optimization_level: .* equal to 0"),
    ],
)
def test_options_are_checked_when_they_are_made(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        EngineBuild(**options)


def test_an_optimisation_level_that_the_version_lacks_names_it(
    bundle: Bundle, device: Device
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
    device: Device,
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
    device: Device,
) -> None:
    device(WEAK)
    replaced = {flavour: (MODELS / file).read_bytes()}
    bundle = bundle_with_flavours(tiny_bundle, tmp_path / "other", replaced=replaced)
    with pytest.raises(StepError, match=reason):
        build_engine(bundle, EngineBuild("int8"))


@pytest.mark.parametrize("version", [WEAK, STRONG])
def test_a_build_that_fails_names_the_node_and_the_reason(
    version: str, bundle: Bundle, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    device(version)
    monkeypatch.setattr(tensorrt_build, "LEAST_WORKSPACE", 1 << 40)
    with pytest.raises(
        StepError, match=r"built no engine.*any implementation for node rgb/Conv.*--workspace"
    ):
        build_engine(bundle, EngineBuild("int8"))
    assert not list_engines(bundle)


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
    device: Device,
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
