"""The registry, and models of one's own."""

from __future__ import annotations

import sys
from hashlib import sha256
from textwrap import dedent

import pytest
import torch

from edge_fusion.errors import CheckpointError, ModelError
from edge_fusion.export.checkpoint import save_checkpoint
from edge_fusion.export.models.hosts import Deployable
from edge_fusion.export.models.registry import MODELS, create_model, load_model
from edge_fusion.spec import DepthInput, ModelSpec, Output

OWN = """
import torch
from torch import nn

class Add(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
    def forward(self, colour, depth):
        return self.scale * (colour.mean(1, keepdim=True) + depth)

class RgbOnly(nn.Module):
    def forward(self, colour):
        return colour

def make(): return Add()
def rgb_only(): return RgbOnly()
def a_class(): return Add
def needs_arguments(width): return Add()
def broken(): raise RuntimeError("no such file: weights.bin")
"""


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    """A module in the current directory, importable only from there."""
    (tmp_path / "my_fusion_net.py").write_text(dedent(OWN))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", ".")])
    yield "my_fusion_net"
    sys.modules.pop("my_fusion_net", None)


def test_weights_that_an_own_network_has_no_place_for_are_said(own_module, tmp_path):
    path = tmp_path / "weights.pth"
    extra = {f"head.{index}": torch.ones(1) for index in range(5)}
    torch.save({"scale": torch.ones(1), **extra}, path)
    loaded = load_model(f"{own_module}:make", path)
    assert loaded.checkpoint_report is not None
    assert loaded.checkpoint_report.summary == (
        "1 tensors, 0 missing, 5 unexpected ('head.0', 'head.1', 'head.2' ...)"
    )


def test_entries_name_themselves():
    for name, entry in MODELS.items():
        assert entry.name == entry.spec.name == name
        assert entry.spec.depth.normalisation == "nearness"
        assert entry.summary


def test_unknown_model_lists_those_there_are():
    with pytest.raises(ModelError) as raised:
        create_model("mutualformer-vgg")
    assert "'mutualformer-vgg'" in str(raised.value)
    assert all(name in str(raised.value) for name in MODELS)
    assert "my_package.my_module:make_model" in str(raised.value)


def test_own_model_is_loaded_ready_to_trace(tmp_path):
    path = tmp_path / "weights.safetensors"
    torch.manual_seed(1)
    trained = create_model("add-mobilenetv2")
    save_checkpoint(trained, path)
    loaded = load_model("add-mobilenetv2", path)
    rgb, depth = torch.randn(1, 3, 32, 32), torch.rand(1, 1, 32, 32)
    with torch.no_grad():
        expected = trained.eval()(rgb, depth).sigmoid()
        torch.testing.assert_close(loaded.module(rgb, depth), expected)
    assert isinstance(loaded.module, Deployable)
    assert not loaded.module.training
    assert loaded.checkpoint_sha256 == sha256(path.read_bytes()).hexdigest()
    assert loaded.checkpoint_report.missing == ()


def test_without_a_checkpoint_there_is_no_report():
    loaded = load_model("add-mobilenetv2")
    assert (loaded.checkpoint_report, loaded.checkpoint_sha256) == (None, None)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            ModelSpec(name="small", height=250),
            r"small: expected height and width divisible by 32, got 250 x 256; round",
        ),
        (
            ModelSpec(name="three", depth=DepthInput(channels=3)),
            r"three: expected depth.channels 1 .* got 3 and none; leave both",
        ),
        (
            ModelSpec(name="logits", output=Output(activation="sigmoid")),
            r"logits: .* got 1 and sigmoid; leave both",
        ),
    ],
)
def test_spec_that_own_models_cannot_take_is_refused(spec, message):
    with pytest.raises(ModelError, match=message):
        load_model("add-mobilenetv2", spec=spec)


def test_factory_of_the_current_directory_is_found(own_module):
    before = list(sys.path)
    loaded = load_model(f"{own_module}:make", spec=ModelSpec(name="mine", height=48))
    assert sys.path == before
    assert type(loaded.module).__name__ == "Add"  # taken as it is: no sigmoid around it
    assert not loaded.module.training
    assert loaded.spec.height == 48
    assert load_model(f"{own_module}:make").spec == ModelSpec(name=f"{own_module}:make")


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("absent", r"cannot import 'absent' from module 'my_fusion_net': got AttributeError"),
        ("rgb_only", r"expected forward\(rgb, depth\), got forward\(colour\); wrap it"),
        ("a_class", r"expected a torch.nn.Module, got type; return the network itself"),
        ("needs_arguments", r"a factory that needs no arguments, got TypeError: .*; wrap it"),
        ("broken", r"my_fusion_net:broken failed .* no such file: weights.bin"),
    ],
)
def test_factory_that_cannot_serve_is_refused(own_module, factory, message):
    with pytest.raises(ModelError, match=message):
        load_model(f"{own_module}:{factory}")


def test_module_that_is_not_there_is_named():
    with pytest.raises(ModelError, match=r"'no_such_module_here'.*current directory or installed"):
        load_model("no_such_module_here:make")


def test_module_that_fails_on_import_is_named(own_module, tmp_path):
    (tmp_path / "my_broken_net.py").write_text("import my_missing_dependency\n")
    with pytest.raises(ModelError, match=r"'my_broken_net': got .*my_missing_dependency"):
        load_model("my_broken_net:make")


def test_checkpoint_of_another_model_is_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_checkpoint(torch.nn.Linear(2, 2), path)
    with pytest.raises(CheckpointError, match="no tensor of this network"):
        load_model("add-mobilenetv2", path)


def test_checkpoint_of_a_richer_model_is_refused(tmp_path):
    # every tensor of the plain baseline is in it, with the right shape
    path = tmp_path / "weights.safetensors"
    save_checkpoint(create_model("mutualformer-mobilenetv2"), path)
    with pytest.raises(
        CheckpointError, match=r"weights of add-mobilenetv2 alone, got \d+ tensors more.*; name the"
    ):
        load_model("add-mobilenetv2", path)
    loaded = load_model("add-mobilenetv2", path, allow_partial=True)
    assert loaded.checkpoint_report.unexpected[0].startswith("depth_gate.")
