from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable
from itertools import product
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from edge_fusion.bundle import Bundle
from edge_fusion.errors import EngineError, InputError, TargetError
from edge_fusion.export.engine_network import parse_network, pin_to_fp32
from edge_fusion.export.trtexec import trtexec_command
from edge_fusion.runtime.trt_api import load_tensorrt
from edge_fusion.target import Target, all_targets, parse_target
from tests.export.device_bundles import encode_graph, with_flavours
from tests.export.engine_bundles import MODELS, bundle_with_flavours

#: What trtexec of each family lists under --help, of the options that concern us; 11 refuses what
#: it removed.  Written down from there, not from the table under test.
COMMON = {
    "--onnx", "--saveEngine", "--memPoolSize", "--timingCacheFile", "--profilingVerbosity",
    "--exportLayerInfo",
}  # fmt: skip
TYPED_BY_FLAGS = {
    "--fp16", "--int8", "--precisionConstraints", "--layerPrecisions", "--layerOutputTypes",
}  # fmt: skip
KNOWN = {
    (8, 5): COMMON | TYPED_BY_FLAGS | {"--useCudaGraph"},
    (8, 6): COMMON | TYPED_BY_FLAGS | {"--useCudaGraph", "--builderOptimizationLevel"},
    (10,): COMMON | TYPED_BY_FLAGS | {"--useCudaGraph", "--builderOptimizationLevel",
                                     "--stronglyTyped"},
    (11,): COMMON | {"--builderOptimizationLevel"},
}  # fmt: skip


@pytest.fixture
def bundle(tiny_bundle: Bundle, tmp_path: Path) -> Bundle:
    return with_flavours(tiny_bundle, tmp_path / "flavoured")


def flags(command: str) -> dict[str, str]:
    _, *words = shlex.split(command)
    return dict(word.partition("=")[::2] for word in words)


@pytest.mark.parametrize(
    ("target", "precision", "model", "typing"),
    [
        # TensorRT 8: precision by builder flags, over a graph that names none
        ("agx-xavier@5.1", "int8", "model.weak.int8.onnx", {"--int8", "--fp16"}),
        ("agx-xavier@5.1", "fp16", "model.weak.fp16.onnx", {"--fp16"}),
        ("agx-xavier@5.1", "fp32", "model.weak.fp32.onnx", set()),
        ("orin-nano@6.0", "int8", "model.weak.int8.onnx", {"--int8", "--fp16"}),
        # TensorRT 10: precision lives in the graph, and the builder must be told so
        ("orin-nano@6.2", "int8", "model.strong.int8.onnx", {"--stronglyTyped"}),
        ("orin-nano@6.2", "fp16", "model.strong.fp16.onnx", {"--stronglyTyped"}),
        ("thor-t5000@7.1", "fp32", "model.strong.fp32.onnx", {"--stronglyTyped"}),
        # TensorRT 11: there is no other way
        ("agx-orin-64gb@7.2.2", "int8", "model.strong.int8.onnx", set()),
    ],
)
def test_precision_is_asked_for_as_that_version_wants_it(
    bundle: Bundle, target: str, precision: str, model: str, typing: set[str]
) -> None:
    found = flags(trtexec_command(bundle, parse_target(target), precision))
    assert found["--onnx"] == model
    assert set(found) & (TYPED_BY_FLAGS | {"--stronglyTyped"}) == typing


def known_to(target: Target) -> set[str]:
    return KNOWN[max(version for version in KNOWN if version <= target.tensorrt)]


@pytest.mark.parametrize("target", all_targets(), ids=lambda target: target.name)
def test_no_target_gets_a_flag_its_trtexec_refuses(bundle: Bundle, target: Target) -> None:
    levels = (None, 3) if target.tensorrt >= (8, 6) else (None,)
    for precision, level in product(("fp32", "fp16", "int8"), levels):
        command = trtexec_command(bundle, target, precision, optimization_level=level)
        found = flags(command)
        assert not set(found) - known_to(target)
        assert (COMMON - {"--memPoolSize"}) <= set(found)
        assert found["--profilingVerbosity"] == "detailed"
        assert ("--builderOptimizationLevel" in found) is (level is not None)
        # where it is not the only way, a graph that names its precisions must be asked for
        assert ("--stronglyTyped" in found) is ((10,) <= target.tensorrt < (11,))


def test_the_whole_line_for_jetpack_5(bundle: Bundle) -> None:
    command = trtexec_command(bundle, parse_target("xavier-nx"), "int8")
    assert command == (
        "/usr/src/tensorrt/bin/trtexec --onnx=model.weak.int8.onnx --saveEngine=model.plan "
        "--fp16 --int8 --memPoolSize=workspace:2048 --timingCacheFile=model.cache "
        "--profilingVerbosity=detailed --exportLayerInfo=model.layers.json --useCudaGraph"
    )


def test_a_host_of_unknown_memory_gets_no_limit_unless_asked(bundle: Bundle) -> None:
    target = parse_target("x86-gpu@10.3")
    command = trtexec_command(bundle, target, "int8")
    assert command.startswith("trtexec ")
    assert "--memPoolSize" not in flags(command)
    limited = flags(trtexec_command(bundle, target, "int8", workspace_mib=512))
    assert limited["--memPoolSize"] == "workspace:512"


def test_the_optimisation_level_came_with_8_6(bundle: Bundle) -> None:
    level = {"optimization_level": 4}
    found = flags(trtexec_command(bundle, parse_target("orin-nano@6.0"), "int8", **level))
    assert found["--builderOptimizationLevel"] == "4"
    with pytest.raises(TargetError, match="8.5.2 of xavier-nx@5.1 has no --builderOptimi.* 8.6"):
        trtexec_command(bundle, parse_target("xavier-nx"), "int8", **level)


def test_a_bundle_without_the_weak_graphs_says_how_to_get_them(
    tiny_bundle: Bundle, tmp_path: Path
) -> None:
    strong = with_flavours(tiny_bundle, tmp_path / "strong", ("strong.int8",))
    with pytest.raises(EngineError, match="TensorRT 8: expected weak.int8.*build the bundle again"):
        trtexec_command(strong, parse_target("xavier-nx"), "int8")


@pytest.mark.parametrize(
    "numbers", [{"workspace_mib": 0}, {"optimization_level": 6}, {"optimization_level": -1}]
)
def test_numbers_out_of_range_are_refused(bundle: Bundle, numbers: dict[str, int]) -> None:
    with pytest.raises(InputError, match="the builder's"):
        trtexec_command(bundle, parse_target("orin-nano"), "int8", **numbers)


def test_a_hostile_file_name_stays_one_word(tiny_bundle: Bundle, tmp_path: Path) -> None:
    bundle = with_flavours(tiny_bundle, tmp_path / "named")
    record = bundle.manifest.flavours["strong.int8"].model_copy(update={"file": "a b;id.onnx"})
    manifest = bundle.manifest.model_copy(update={"flavours": {"strong.int8": record}})
    command = trtexec_command(Bundle(bundle.path, manifest), parse_target("orin-nano"), "int8")
    assert flags(command)["--onnx"] == "a b;id.onnx"


# --- what stays in FP32 ------------------------------------------------------------------------

#: A normalisation whose parts stand in the file, a node of nearly its name, and a Conv on INT8.
WRITTEN_OUT = encode_graph(
    ("norm.ReduceMean_0", "ReduceMean", ("x",), ("mean",)),
    ("norm.Sub_1", "Sub", ("x", "mean"), ("centred",)),
    ("norm_1", "Relu", ("centred",), ("a",)),
    ("q", "QuantizeLinear", ("a",), ("a8",)),
    ("dq", "DequantizeLinear", ("a8",), ("b",)),
    ("conv", "Conv", ("b",), ("c",)),
    ("", "Relu", ("c",), ("unnamed",)),
    ("a:0", "Relu", ("unnamed",), ("y",)),
)


def pinned(bundle: Bundle, folder: Path, kept: Iterable[str], precision: str = "fp16") -> str:
    """What trtexec is told to keep in FP32 of the graph above."""
    replaced = {f"weak.{one}": WRITTEN_OUT for one in ("fp32", "fp16", "int8")}
    made = bundle_with_flavours(
        bundle, folder, replaced=replaced, kept_fp32=dict.fromkeys(kept, "overflows")
    )
    found = flags(trtexec_command(made, parse_target("xavier-nx"), precision))
    assert found.get("--layerPrecisions") == found.get("--layerOutputTypes")
    assert found.get("--precisionConstraints") == ("obey" if "--layerPrecisions" in found else None)
    return found.get("--layerPrecisions", "")


@pytest.mark.parametrize(
    ("kept", "expected"),
    [
        # the node itself is gone from the file: trtexec would not say that it holds nothing
        (["norm"], "norm.ReduceMean_0:fp32,norm.Sub_1:fp32"),
        (["norm_1"], "norm_1:fp32"),
        (["norm.Sub_1"], "norm.Sub_1:fp32"),
        (["unnamed"], "unnamed:fp32"),  # a node without a name is known by its first output
        (["conv"], ""),  # what computes in INT8 is out of FP16's reach
        (["conv", "norm_1"], "norm_1:fp32"),
        ([], ""),
    ],
)
def test_what_fp16_would_break_is_pinned_by_the_names_in_the_file(
    tiny_bundle: Bundle, tmp_path: Path, kept: list[str], expected: str
) -> None:
    assert pinned(tiny_bundle, tmp_path / "fp16", kept) == expected
    assert pinned(tiny_bundle, tmp_path / "int8", kept, "int8") == expected
    assert pinned(tiny_bundle, tmp_path / "fp32", kept, "fp32") == ""


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        (["norm", "lost"], "the graph has no node lost: .*to keep in FP32.*--precision fp32"),
        (["nor"], "has no node nor"),
        (["a:0"], "cannot keep node 'a:0' in FP32.*without ',' and ':'.*--precision fp32"),
    ],
)
def test_a_node_that_cannot_be_pinned_is_an_error(
    tiny_bundle: Bundle, tmp_path: Path, kept: list[str], message: str
) -> None:
    with pytest.raises(EngineError, match=message):
        pinned(tiny_bundle, tmp_path / "made", kept)


def test_a_strong_graph_pins_nothing(tiny_bundle: Bundle, tmp_path: Path) -> None:
    made = bundle_with_flavours(tiny_bundle, tmp_path / "made", kept_fp32={"lost": "overflows"})
    assert "--layerPrecisions" not in flags(
        trtexec_command(made, parse_target("orin-nano"), "int8")
    )


@pytest.mark.parametrize("file", ["tiny.weak.int8.onnx", "tiny.fp32.onnx"])
def test_it_pins_what_our_own_builder_pins(
    tiny_bundle: Bundle,
    tmp_path: Path,
    fake_tensorrt: Callable[..., ModuleType],
    file: str,
) -> None:
    model = (MODELS / file).read_bytes()
    kept = ("rgb/Conv", "fuse/Add", "head/Sigmoid")
    made = bundle_with_flavours(
        tiny_bundle,
        tmp_path / "made",
        replaced={"weak.int8": model},
        kept_fp32=dict.fromkeys(kept, "overflows"),
    )
    line = flags(trtexec_command(made, parse_target("xavier-nx"), "int8"))["--layerPrecisions"]
    fake_tensorrt("8.5.3")
    api = load_tensorrt()
    parsed = parse_network(api, "weak", model, file)
    pin_to_fp32(api.module, parsed, kept)
    layers = [parsed.network.get_layer(index) for index in range(parsed.network.num_layers)]
    ours = [layer.name for layer in layers if "precision" in layer._held]
    assert [name.removesuffix(":fp32") for name in line.split(",")] == ours


@pytest.mark.export
def test_a_normalisation_that_the_flavour_writes_out(tiny_bundle: Bundle, tmp_path: Path) -> None:
    """The whole way: the flavour names the node, the file has its parts alone."""
    onnx_parser = pytest.importorskip("onnx.parser")
    from edge_fusion.export.flavour import make_weak, record_ranges

    model = onnx_parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[2,8] x) => (float[2,8] y) '
        "<float[8] w = {1, 1, 1, 1, 1, 1, 1, 1}> { y = LayerNormalization (x, w) }"
    )
    model.graph.node[0].name = "norm"
    large = np.linspace(-1e5, 1e5, 16, dtype=np.float32).reshape(2, 8)
    weak = make_weak(model, (8, 5, 2), record_ranges(model, [{"x": large}]))
    assert set(weak.kept_fp32) == {"norm"}
    made = bundle_with_flavours(
        tiny_bundle,
        tmp_path / "made",
        replaced={"weak.fp16": weak.model.SerializeToString()},
        kept_fp32=weak.kept_fp32,
    )
    line = flags(trtexec_command(made, parse_target("xavier-nx"), "fp16"))["--layerPrecisions"]
    assert line.split(",") == [f"{node.name}:fp32" for node in weak.model.graph.node]
    assert len(weak.model.graph.node) > 5
