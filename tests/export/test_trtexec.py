from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from edge_fusion.bundle import Bundle
from edge_fusion.errors import EngineError, InputError, TargetError
from edge_fusion.export.trtexec import FLAGS, trtexec_command
from edge_fusion.manifest import QuantizationRecord
from edge_fusion.target import Target, all_targets, parse_target
from tests.export.device_bundles import with_flavours

#: What trtexec 11 refuses, from the list of options it removed.
REMOVED_IN_11 = {"--fp16", "--int8", "--bf16", "--fp8", "--int4", "--best", "--calib"}
DEFAULT_IN_11 = {"--stronglyTyped", "--useCudaGraph"}


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
    assert set(found) & (REMOVED_IN_11 | {"--stronglyTyped"}) == typing


@pytest.mark.parametrize("target", all_targets(), ids=lambda target: target.name)
def test_no_target_gets_a_flag_its_trtexec_refuses(bundle: Bundle, target: Target) -> None:
    table = {flag.name: flag for flag in FLAGS}
    for precision in ("fp32", "fp16", "int8"):
        found = flags(trtexec_command(bundle, target, precision))
        assert all(table[name].known_to(target.tensorrt) for name in found)
        assert {"--onnx", "--saveEngine", "--timingCacheFile", "--exportLayerInfo"} <= set(found)
        assert found["--profilingVerbosity"] == "detailed"
        if target.tensorrt >= (11,):
            assert not set(found) & (REMOVED_IN_11 | DEFAULT_IN_11)


def test_the_whole_line_for_jetpack_5(bundle: Bundle) -> None:
    command = trtexec_command(bundle, parse_target("xavier-nx"), "int8", plan="saliency.plan")
    assert command == (
        "/usr/src/tensorrt/bin/trtexec --onnx=model.weak.int8.onnx --saveEngine=saliency.plan "
        "--fp16 --int8 --memPoolSize=workspace:2048 --timingCacheFile=saliency.cache "
        "--profilingVerbosity=detailed --exportLayerInfo=saliency.layers.json --useCudaGraph"
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


@pytest.mark.parametrize("plan", ["", "-o", "a b.plan", "../up.plan", "$(id).plan", "a\nb"])
def test_a_plan_is_a_plain_file_name(bundle: Bundle, plan: str) -> None:
    with pytest.raises(InputError, match="a plain file name"):
        trtexec_command(bundle, parse_target("xavier-nx"), "int8", plan=plan)


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


def test_nodes_that_fp16_would_break_are_pinned_by_name(bundle: Bundle) -> None:
    record = bundle.manifest.flavours["weak.int8"]
    kept = {"norm/a": "overflows", "conv/b": "overflows"}
    named = {f"weak.{p}": record.model_copy(update={"kept_fp32": kept}) for p in ("int8", "fp16")}
    quantization = QuantizationRecord(options={}, int8_nodes=("conv/b",), kept_fp16={})
    changes = {
        "flavours": {**bundle.manifest.flavours, **named},
        "quantization": quantization,
    }
    pinned = Bundle(bundle.path, bundle.manifest.model_copy(update=changes))
    xavier = parse_target("xavier-nx")
    found = flags(trtexec_command(pinned, xavier, "int8"))
    assert found["--precisionConstraints"] == "obey"
    # what computes in INT8 is out of FP16's reach
    assert found["--layerPrecisions"] == found["--layerOutputTypes"] == "norm/a:fp32"
    found = flags(trtexec_command(pinned, xavier, "fp16"))
    assert found["--layerPrecisions"] == "norm/a:fp32,conv/b:fp32"
    assert "--layerPrecisions" not in flags(trtexec_command(pinned, xavier, "fp32"))
    strong = flags(trtexec_command(pinned, parse_target("orin-nano"), "int8"))
    assert "--layerPrecisions" not in strong


def test_a_node_that_trtexec_cannot_name_is_an_error(bundle: Bundle) -> None:
    record = bundle.manifest.flavours["weak.fp16"].model_copy(update={"kept_fp32": {"a:0": "big"}})
    flavours = {**bundle.manifest.flavours, "weak.fp16": record}
    named = Bundle(bundle.path, bundle.manifest.model_copy(update={"flavours": flavours}))
    with pytest.raises(EngineError, match="cannot keep node 'a:0' in FP32.*--precision fp32"):
        trtexec_command(named, parse_target("xavier-nx"), "fp16")
