"""The whole road on a network of milliseconds, as a user with a model of his own walks it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from edge_fusion.bundle import Bundle
from edge_fusion.calibration.create import CreateOptions, create_set
from edge_fusion.errors import (
    CalibrationError,
    CheckpointError,
    EdgeFusionError,
    InputError,
    ModelError,
    OutputError,
    StepError,
    TargetError,
)
from edge_fusion.export.options import BuildOptions
from edge_fusion.export.pipeline import build
from edge_fusion.runtime.inspect import bundle_facts, inspect_bundle

pytestmark = pytest.mark.export

ROOT = Path(__file__).resolve().parents[2]
CALIB = ("demo://?frames=6&size=64x48&cut=1",)
FACTORY = "tests.export.tiny:two_stream"


class Logits(nn.Module):
    """A network that returns logits, far outside 0..1."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(4, 8, 3, padding=1)
        self.middle = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Conv2d(8, 1, 1)

    def forward(self, rgb: torch.Tensor, depth: torch.Tensor) -> torch.Tensor:
        features = self.stem(torch.cat((rgb, depth), 1)).relu()
        logits: torch.Tensor = 40 * self.head(self.middle(features).relu())
        return logits


def logits() -> nn.Module:
    torch.manual_seed(0)
    return Logits()


def wants_four() -> nn.Module:
    """A network whose first layer takes four channels where it is given three."""
    network = Logits()
    network.stem = nn.Conv2d(5, 8, 3, padding=1)
    return network


def options(tmp_path: Path, **changes: Any) -> BuildOptions:
    fields: dict[str, Any] = {
        "model": FACTORY,
        "output": tmp_path / "bundle",
        "calib": CALIB,
        "size": "32x32",
        "calib_count": 4,
    }
    return BuildOptions(**{**fields, **changes})


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return build(options(tmp_path_factory.mktemp("built")))


@pytest.fixture
def own_onnx(tmp_path: Path, traced: onnx.ModelProto) -> Path:
    """A two-input file that is not ours: its own input names, logits, another opset."""
    model = onnx.ModelProto()
    model.CopyFrom(traced)
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [{"rgb": "image", "depth": "range"}.get(name, name) for name in names]
    for value, name in zip(model.graph.input, ("image", "range"), strict=True):
        value.name = name
    onnx.save(model, tmp_path / "own.onnx")
    return tmp_path / "own.onnx"


def test_the_bundle_tells_its_whole_story(built: Bundle) -> None:
    manifest = built.manifest
    assert built.variants == ("fp32", "int8")
    assert [record.name for record in manifest.parity] == [
        "torch-onnx",
        "onnx-simplified",
        "fp32-int8",
    ]
    assert manifest.parity[0].max_abs <= 1e-4
    assert manifest.calibration is not None
    assert len(manifest.calibration.items) == 4
    assert manifest.calibration.available == 6
    assert manifest.quantization is not None
    assert manifest.quantization.int8_nodes
    assert manifest.quantization.kept_fp16
    assert manifest.origin.parameters
    assert manifest.versions["nncf"]
    assert inspect_bundle(built.path, self_check=True).passed


def test_the_int8_graph_is_legal(built: Bundle) -> None:
    model = onnx.load_model_from_string(built.model_bytes("int8"))
    types = {onnx.TensorProto.DataType.Name(item.data_type) for item in model.graph.initializer}
    assert "UINT8" not in types
    assert "INT8" in types


def test_the_same_input_gives_the_same_models(built: Bundle, tmp_path: Path) -> None:
    again = build(options(tmp_path))
    for name in built.manifest.variants.values():
        assert again.manifest.files[name] == built.manifest.files[name]


def test_another_seed_chooses_other_pairs(built: Bundle, tmp_path: Path) -> None:
    other = build(options(tmp_path, seed=3)).manifest.calibration
    assert other is not None
    assert built.manifest.calibration is not None
    assert other.sha256 != built.manifest.calibration.sha256


def test_fp32_alone_needs_no_calibration_set(tmp_path: Path) -> None:
    bundle = build(options(tmp_path, precision="fp32", calib=(), output=tmp_path / "b.tar"))
    assert bundle.variants == ("fp32",)
    assert bundle.manifest.calibration is None
    assert "demo://" in bundle.manifest.golden.source
    assert bundle.path.is_file()


def test_what_a_checkpoint_did_stands_in_the_manifest(tmp_path: Path) -> None:
    from tests.export import tiny

    whole = tiny.two_stream().state_dict()
    some = {f"module.{name}": tensor for name, tensor in list(whole.items())[:-2]}
    torch.save({"state_dict": {**some, "module.stranger": torch.zeros(3)}}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="w.pth"):
        build(options(tmp_path, checkpoint=tmp_path / "w.pth"))
    bundle = build(options(tmp_path, checkpoint=tmp_path / "w.pth", allow_partial=True))
    origin = bundle.manifest.origin
    assert origin.partial
    assert "2 missing" in origin.checkpoint_report
    assert "1 unexpected" in origin.checkpoint_report
    assert origin.checkpoint_report in bundle_facts(bundle)["checkpoint"]


def test_several_sets_are_pooled(tmp_path: Path, pairs: Path) -> None:
    record = build(
        options(tmp_path, calib=(*CALIB, str(pairs)), calib_count=99)
    ).manifest.calibration
    assert record is not None
    assert len({item.source for item in record.items}) == 2
    assert len(record.items) == 9


def silent() -> nn.Module:
    """A network that finds nothing anywhere."""
    network = logits()
    for parameter in network.parameters():
        nn.init.zeros_(parameter)
    return network


@pytest.mark.parametrize(("factory", "flat"), [("silent", True), ("logits", False)])
def test_a_network_that_says_nothing_is_remarked(tmp_path: Path, factory: str, flat: bool) -> None:
    spec = tmp_path / "logits.json"
    spec.write_text('{"name": "logits", "output": {"activation": "sigmoid"}}')
    model = f"tests.export.test_pipeline:{factory}"
    bundle = build(options(tmp_path, model=model, spec=spec, precision="fp32"))
    assert any("are the weights trained" in remark for remark in bundle.manifest.lint) == flat


def test_logits_must_be_declared(tmp_path: Path) -> None:
    factory = "tests.export.test_pipeline:logits"
    with pytest.raises(ModelError, match=r"expected 0\.\.1, got .*if these are logits"):
        build(options(tmp_path, model=factory))
    spec = tmp_path / "logits.json"
    spec.write_text('{"name": "logits", "output": {"activation": "sigmoid"}}')
    bundle = build(options(tmp_path, model=factory, spec=spec))
    assert inspect_bundle(bundle.path, self_check=True).passed
    # judged as saliency: the difference of logits is far larger
    assert bundle.manifest.parity[-1].max_abs <= 1


def test_fp32_for_tensorrt_8_is_traced_at_the_opset_it_reads(tmp_path: Path) -> None:
    bundle = build(options(tmp_path, precision="fp32", target="orin-nano@6.0"))
    assert bundle.manifest.opset == 17


def test_a_foreign_onnx_file_takes_the_same_road(own_onnx: Path, tmp_path: Path) -> None:
    spec = tmp_path / "own.json"
    spec.write_text('{"name": "own", "rgb": {"name": "image"}, "depth": {"name": "range"}}')
    bundle = build(options(tmp_path, model=str(own_onnx), spec=spec))
    assert [tensor.name for tensor in bundle.manifest.model.inputs] == ["image", "range"]
    assert bundle.manifest.origin.weights_sha256
    assert inspect_bundle(bundle.path, self_check=True).passed


def test_undeclared_input_names_are_listed_with_the_cure(own_onnx: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"image.*range"):
        build(options(tmp_path, model=str(own_onnx)))


def test_an_onnx_file_with_one_input_is_refused(tmp_path: Path) -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 18]> g (float[1,3,32,32] x) => (float[1,3,32,32] y)'
        "{ y = Relu (x) }"
    )
    onnx.save(model, tmp_path / "one.onnx")
    with pytest.raises(ModelError, match=r"two-stream model takes colour and depth.*got 'x'"):
        build(options(tmp_path, model=str(tmp_path / "one.onnx")))


@pytest.mark.parametrize(
    ("changes", "error", "complaint"),
    [
        ({"calib": ()}, CalibrationError, "INT8 and FP16 need a calibration set.*--calib"),
        ({"calib": ("nowhere",)}, CalibrationError, "calibration set nowhere"),
        ({"calib": CALIB * 2}, CalibrationError, "given twice"),
        ({"model": "add-mobilenetv2", "size": None}, CheckpointError, "--untrained"),
        ({"model": "nosuch"}, ModelError, "unknown model 'nosuch'"),
        ({"model": "nosuch:factory"}, ModelError, "nosuch"),
        ({"model": "gone.onnx"}, ModelError, "gone.onnx"),
        ({"checkpoint": Path("gone.safetensors")}, CheckpointError, "gone.safetensors"),
        ({"target": "orin-nona"}, TargetError, "did you mean orin-nano"),
        ({"size": "32"}, ModelError, "WxH"),
        ({"spec": Path("gone.json")}, ModelError, "gone.json"),
        ({"keep_fp16": ("nosuch/*",)}, StepError, "nosuch"),
        ({"opset": 12}, StepError, "opset"),
        (
            {"opset": 20, "target": "xavier-nx", "precision": "fp32"},
            StepError,
            "at most 17.*leave --opset out",
        ),
        ({"size": "99968x32"}, ModelError, "at most 4096 pixels"),
        ({"precision": "INT8"}, InputError, "expected fp32 or fp16 or int8, got 'INT8'"),
        ({"untrained": True}, InputError, "--untrained is for models of"),
        ({"allow_partial": True}, InputError, "--allow-partial needs a --checkpoint"),
        ({"model": "m.onnx", "exporter": "legacy"}, InputError, "no --exporter"),
        ({"model": "m.onnx", "checkpoint": Path("w.pth")}, InputError, "no --checkpoint"),
        ({"model": "tests.export.test_pipeline:wants_four"}, ModelError, "forward"),
    ],
)
def test_bad_input_is_named_and_leaves_nothing(
    tmp_path: Path, changes: dict[str, Any], error: type[EdgeFusionError], complaint: str
) -> None:
    with pytest.raises(error, match=complaint):
        build(options(tmp_path, **changes))
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_holds_something_else_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="not a bundle"):
        build(options(tmp_path, calib=("nowhere",), replace=True))
    assert (tmp_path / "bundle" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("damage", ["truncated", "picture", "empty"])
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, damage: str) -> None:
    from edge_fusion.export.checkpoint import save_checkpoint
    from tests.export import tiny

    file = tmp_path / "w.safetensors"
    save_checkpoint(tiny.two_stream(), file, half=False)
    whole = file.read_bytes()
    file.write_bytes(
        {"truncated": whole[:200], "picture": b"\x89PNG\r\n" * 99, "empty": b""}[damage]
    )
    with pytest.raises(CheckpointError, match="w.safetensors"):
        build(options(tmp_path, checkpoint=file))
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]


def test_a_set_with_one_blind_frame_names_it(pairs: Path, tmp_path: Path) -> None:
    import cv2

    cv2.imwrite(str(pairs / "depth" / "1.png"), np.zeros((48, 64), np.uint16))
    with pytest.raises(CalibrationError, match="'1'.*no valid reading"):
        build(options(tmp_path, calib=(str(pairs),)))


@pytest.mark.parametrize("step", ["load", "trace", "calibrate", "bundle"])
def test_ctrl_c_at_any_step_leaves_nothing(tmp_path: Path, step: str) -> None:
    def interrupt(at: str, done: int, total: int, detail: str = "") -> None:
        if at == step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(options(tmp_path), interrupt)
    assert list(tmp_path.iterdir()) == []


def start_build(tmp_path: Path, *before: str) -> subprocess.Popen[str]:
    command = [
        *before,
        *(sys.executable, "-m", "edge_fusion", "build", FACTORY, "-o", str(tmp_path / "b")),
        *("--calib", CALIB[0], "--size", "32x32"),
    ]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )


def test_a_signal_ends_a_build_with_one_line(tmp_path: Path) -> None:
    running = start_build(tmp_path)
    assert running.stdout is not None
    assert "load" in running.stdout.readline()
    time.sleep(0.2)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=60)
    # Interrupted inside an exec, as imports use it, Python ends itself by the signal: a shell shows
    # 130 for both.
    assert running.returncode in (130, -signal.SIGINT), err
    assert "nothing half-written" in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_ends_a_build_with_its_cure(tmp_path: Path) -> None:
    # a limit on file size stands in for the full disk: 20 blocks of 512 or 1024 bytes
    script = 'trap "" XFSZ; ulimit -f 20; exec "$@"'
    running = start_build(tmp_path, "sh", "-c", script, "sh")
    out, err = running.communicate(timeout=120)
    assert running.returncode == 2, out + err
    assert "cannot write the bundle" in err
    assert "ulimit -f" in err
    assert list(tmp_path.iterdir()) == []


def test_a_set_and_a_seed_give_the_same_int8_model_to_the_bit(tmp_path: Path) -> None:
    create_set(CreateOptions(sources=CALIB, output=tmp_path / "set"))
    chosen = {"calib": (str(tmp_path / "set"),), "calib_count": 3, "seed": 5}
    by_class = {"estimator": ("minmax", "decoder=mean_quantile")}
    first, second = (
        build(options(tmp_path, output=tmp_path / name, **chosen, **by_class)) for name in "ab"
    )
    assert first.model_bytes("int8") == second.model_bytes("int8")
    assert first.manifest.input_ranges == second.manifest.input_ranges
    other = build(options(tmp_path, output=tmp_path / "c", **chosen))
    assert other.model_bytes("int8") != first.model_bytes("int8")
    record = first.manifest.quantization
    assert record is not None
    assert record.options["estimator"] == "minmax"
    assert record.options["by_class.decoder"] == "mean_quantile"


def test_a_bundle_says_what_its_pairs_looked_like(built: Bundle) -> None:
    ranges = built.manifest.input_ranges
    assert ranges is not None
    assert ranges.pairs == 4
    assert set(ranges.inputs) == {"red", "green", "blue", "depth", "distance", "invalid"}


def test_an_unknown_estimator_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--estimator kl"):
        options(tmp_path, estimator=("kl",))
