"""Checkpoints: what is accepted, how names are matched, and what is said about the rest."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from edge_fusion.errors import CheckpointError, OutputError
from edge_fusion.export.checkpoint import (
    CheckpointReport,
    load_checkpoint,
    save_checkpoint,
)
from edge_fusion.export.models.mutualformer import BLOCK_KEYS, MutualFormer
from edge_fusion.export.weights import read_weights


class Host(nn.Module):
    """Two blocks and a layer, named as in no other host."""

    def __init__(self, dim: int = 16) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.coarse = MutualFormer(dim)
        self.fine = nn.ModuleDict({"fusion": MutualFormer(dim)})


class OtherHost(nn.Module):
    def __init__(self, dim: int = 16, blocks: int = 2) -> None:
        super().__init__()
        self.layers = nn.ModuleList(MutualFormer(dim) for _ in range(blocks))
        self.head = nn.Linear(dim, 1)


def noisy(module: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in module.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return module


def assert_same_weights(left: nn.Module, right: nn.Module, **tolerance: float) -> None:
    theirs = right.state_dict()
    for name, tensor in left.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(tensor, theirs[name], **tolerance)


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    return noisy(Host())


# How a state dict may be stored: name, what is done to it, source, prefix.
LAYOUTS = [
    ("plain", lambda s: s, "", ""),
    ("ddp", lambda s: {f"module.{k}": v for k, v in s.items()}, "", "module."),
    (
        "compiled ddp",
        lambda s: {f"module._orig_mod.{k}": v for k, v in s.items()},
        "",
        "module._orig_mod.",
    ),
    ("state_dict", lambda s: {"state_dict": s, "epoch": 3}, "state_dict", ""),
    (
        "trainer",
        lambda s: {"model": {f"module.{k}": v for k, v in s.items()}, "optimizer": {"lr": 0.1}},
        "model",
        "module.",
    ),
    (
        "two levels",
        lambda s: {"model": {"state_dict": s}, "args": [1, 2]},
        "model.state_dict",
        "",
    ),
    (
        "averaged model",
        lambda s: {"n_averaged": torch.tensor(5), **{f"module.{k}": v for k, v in s.items()}},
        "",
        "module.",
    ),
    (
        "ema-pytorch",
        lambda s: {
            **{f"online_model.{k}": torch.zeros_like(v) for k, v in s.items()},
            **{f"ema_model.{k}": v for k, v in s.items()},
            "initted": torch.tensor(True),
            "step": torch.tensor(9),
        },
        "",
        "ema_model.",
    ),
    (
        "ema-pytorch inside a trainer's file",
        lambda s: {"step": 9, "ema": {f"ema_model.{k}": v for k, v in s.items()}},
        "ema",
        "ema_model.",
    ),
    ("ema_model", lambda s: {"ema_model": s, "model": {}}, "ema_model", ""),
    (
        "Lightning",
        lambda s: {"state_dict": {f"model.{k}": v for k, v in s.items()}, "epoch": 1},
        "state_dict",
        "model.",
    ),
    (
        "Lightning, compiled, with averaged weights",
        lambda s: {
            "state_dict": {
                **{f"model._orig_mod.{k}": torch.zeros_like(v) for k, v in s.items()},
                **{f"model_ema.module.{k}": v for k, v in s.items()},
                "model_ema.decay": torch.tensor(0.999),
                "model_ema.num_updates": torch.tensor(7),
            }
        },
        "state_dict",
        "model_ema.module.",
    ),
    (
        "averaged copy beside the weights",
        lambda s: {
            **{k: torch.zeros_like(v) for k, v in s.items()},
            **{f"ema.{k}": v for k, v in s.items()},
        },
        "",
        "ema.",
    ),
]


@pytest.mark.parametrize(
    ("layout", "source", "prefix"), [row[1:] for row in LAYOUTS], ids=[row[0] for row in LAYOUTS]
)
def test_layouts_of_a_state_dict(trained, tmp_path, layout, source, prefix):
    path = tmp_path / "weights.pth"
    torch.save(layout(trained.state_dict()), path)
    host = Host()
    report = load_checkpoint(host, path)
    assert_same_weights(host, trained)
    assert (report.source, report.prefix, report.missing, report.unexpected) == (
        source,
        prefix,
        (),
        (),
    )


@pytest.mark.parametrize("name", ["ema", "model_ema", "params_ema", "ema_state_dict"])
def test_averaged_weights_are_preferred_and_said(trained, tmp_path, name):
    path = tmp_path / "weights.pt"
    last = noisy(Host(), seed=1).state_dict()
    torch.save({"model": last, "state_dict": last, name: trained.state_dict()}, path)
    host = Host()
    report = load_checkpoint(host, path)
    assert_same_weights(host, trained)
    assert report.source == name
    assert f"from '{name}'" in report.summary


@pytest.mark.parametrize("half", [False, True])
def test_saved_weights_come_back(trained, tmp_path, half):
    path = tmp_path / "new folder" / "weights.safetensors"
    save_checkpoint(trained, path, half=half)
    host = Host()
    report = load_checkpoint(host, path)
    assert len(report.matched) == len([n for n in host.state_dict() if "num_batches" not in n])
    assert_same_weights(host, trained, **({"rtol": 1e-3, "atol": 0} if half else {}))
    assert {t.dtype for t in host.state_dict().values()} == {torch.float32, torch.int64}
    assert [p.name for p in path.parent.iterdir()] == [path.name]  # no temporary file stays


def test_half_keeps_what_float16_cannot_hold(tmp_path):
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2))
    with torch.no_grad():
        network[1].running_var.fill_(1e6)
        network[2].weight.fill_(1e6)
    path = tmp_path / "weights.safetensors"
    save_checkpoint(network, path, half=True)
    dtypes = {name: tensor.dtype for name, tensor in load_file(path).items()}
    assert dtypes["0.weight"] == torch.float16
    assert dtypes["1.running_var"] == torch.float32
    assert dtypes["2.weight"] == torch.float32


def test_shared_weights_can_be_saved(tmp_path):
    network = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
    network[1].weight = network[0].weight
    path = tmp_path / "weights.safetensors"
    save_checkpoint(network, path)
    assert len(load_file(path)) == 4


def test_weights_take_the_precision_of_the_network(trained, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_checkpoint(trained, path)
    host = Host().double()
    load_checkpoint(host, path)
    assert host.coarse.norm1.weight.dtype == torch.float64


def test_blocks_of_another_host_are_adopted_in_order(tmp_path):
    other = noisy(OtherHost())
    path = tmp_path / "weights.safetensors"
    save_checkpoint(other, path)
    host = Host()
    report = load_checkpoint(host, path, allow_partial=True)
    assert_same_weights(host.coarse, other.layers[0])
    assert_same_weights(host.fine["fusion"], other.layers[1])
    assert report.blocks == (("layers.0.", "coarse."), ("layers.1.", "fine.fusion."))
    assert len(report.matched) == 2 * len(BLOCK_KEYS)
    assert set(report.unexpected) == {"head.weight", "head.bias"}
    assert report.missing[0] == "stem.0.weight"
    assert "2 MutualFormer blocks from another host" in report.summary


def test_blocks_keep_the_order_of_their_numbers(tmp_path):
    other = noisy(OtherHost(dim=8, blocks=11))
    path = tmp_path / "weights.safetensors"
    save_checkpoint(other, path)
    tensors = {f"encoder.{name}": tensor for name, tensor in load_file(path).items()}
    save_file(tensors, path)
    host = OtherHost(dim=8, blocks=11)
    report = load_checkpoint(host, path, allow_partial=True)
    assert report.blocks[2] == ("encoder.layers.2.", "layers.2.")
    assert_same_weights(host.layers, other.layers)


def test_a_bare_block_fits_a_host_of_one_block(tmp_path):
    block = noisy(MutualFormer(16))
    path = tmp_path / "weights.safetensors"
    save_file(block.state_dict() | {"proj.weight": torch.zeros(3)}, path)
    host = OtherHost(blocks=1)
    report = load_checkpoint(host, path, allow_partial=True)
    assert report.unexpected == ("proj.weight",)
    assert_same_weights(host.layers[0], block)
    assert report.blocks == (("", "layers.0."),)


def test_blocks_that_match_by_name_stay_where_they_are(tmp_path):
    # the file holds our second block under our name and one more under another
    source = noisy(OtherHost())
    tensors = {f"fine.fusion.{k}": v for k, v in source.layers[0].state_dict().items()}
    tensors |= {f"extra.{k}": v for k, v in source.layers[1].state_dict().items()}
    path = tmp_path / "weights.safetensors"
    save_file(tensors, path)
    host = Host()
    report = load_checkpoint(host, path, allow_partial=True)
    assert_same_weights(host.fine["fusion"], source.layers[0])
    assert_same_weights(host.coarse, source.layers[1])
    assert report.blocks == (("extra.", "coarse."),)


def test_blocks_of_another_width_are_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_checkpoint(OtherHost(dim=32), path)
    host = noisy(Host(), seed=3)
    with pytest.raises(
        CheckpointError,
        match=r"42 tensors of other shapes; 'coarse.norm1.weight': "
        r"expected \(32,\), got \(64,\); it belongs to a network of other widths",
    ):
        load_checkpoint(host, path, allow_partial=True)
    assert_same_weights(host, noisy(Host(), seed=3))  # nothing was loaded


def test_block_with_biases_that_ours_lacks_is_refused(tmp_path):
    tensors = dict(OtherHost().state_dict())
    tensors["layers.0.attn.qkv_r.bias"] = torch.zeros(48)
    path = tmp_path / "weights.safetensors"
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match=r"got 'coarse.attn.qkv_r.bias' besides"):
        load_checkpoint(Host(), path, allow_partial=True)


def test_missing_tensors_are_an_error_unless_allowed(trained, tmp_path):
    tensors = {k: v for k, v in trained.state_dict().items() if not k.startswith("stem.0")}
    path = tmp_path / "weights.pth"
    torch.save({"model_ema": tensors | {"classifier.weight": torch.zeros(3)}}, path)
    with pytest.raises(
        CheckpointError, match=r"\(its 'model_ema'\) lacks 2 tensors .*'stem.0.weight' and others"
    ):
        load_checkpoint(Host(), path)
    report = load_checkpoint(Host(), path, allow_partial=True)
    assert report.missing == ("stem.0.weight", "stem.0.bias")
    assert report.unexpected == ("classifier.weight",)


def test_one_wrong_shape_is_an_error_even_when_partial(trained, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(trained.state_dict() | {"stem.0.weight": torch.zeros(4, 1, 1, 1)}, path)
    with pytest.raises(
        CheckpointError, match=r"'stem.0.weight': expected \(4, 3, 1, 1\), got \(4, 1, 1, 1\)"
    ):
        load_checkpoint(Host(), path, allow_partial=True)


def test_values_that_are_not_finite_are_refused(trained, tmp_path):
    state = {name: tensor.clone() for name, tensor in trained.state_dict().items()}
    state["stem.0.bias"][1] = float("nan")
    path = tmp_path / "weights.pth"
    torch.save(state, path)
    with pytest.raises(CheckpointError, match=r"'stem.0.bias': expected finite values"):
        load_checkpoint(Host(), path)


def test_checkpoint_of_another_network_is_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_checkpoint(nn.ModuleDict({"encoder": nn.Linear(2, 2)}), path)
    with pytest.raises(
        CheckpointError,
        match=r"no tensor of this network: expected names like 'stem.0.weight', "
        r"got names like 'encoder.bias'; name the model",
    ):
        load_checkpoint(Host(), path, allow_partial=True)


class Trap:
    """Unpickling this would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def _torch_bytes(tmp_path: Path) -> bytes:
    path = tmp_path / "whole.pth"
    torch.save({"a": torch.zeros(1000)}, path)
    return path.read_bytes()


def _safetensors_bytes(tmp_path: Path) -> bytes:
    path = tmp_path / "whole.safetensors"
    save_file({"a": torch.zeros(1000)}, path)
    return path.read_bytes()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        # what people really hand over, and what it should tell them
        ("w.pth", b"\x89PNG\r\n\x1a\n" + b"0" * 99, "a PNG image; download it again"),
        ("w.safetensors", b"\x89PNG\r\n\x1a\n", "a PNG image; download it again"),
        ("w.pth", b"\n<!DOCTYPE html><title>Sign in", "an HTML page; download it again"),
        ("w.pt", b"<html><body>Quota exceeded", "an HTML page; download it again"),
        ("w.pth", b"version https://git-lfs.github.com/spec/v1", "a Git LFS pointer"),
        ("w.pth", b"", "an empty file"),
        ("w.pth", b"\x00\x01\x02 not weights at all" * 9, "is damaged or truncated"),
        ("w.safetensors", b"\x10\x00\x00\x00\x00\x00\x00\x00{}", "is damaged or truncated"),
        ("w.onnx", b"\x08\x08", r"expected .safetensors or .pth or .pt, got .onnx; save it with"),
        ("w", b"\x08\x08", "got no suffix"),
    ],
)
def test_files_that_are_not_weights(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as raised:
        read_weights(path)
    assert name in str(raised.value)


@pytest.mark.parametrize(
    ("name", "whole"), [("w.pth", _torch_bytes), ("w.safetensors", _safetensors_bytes)]
)
@pytest.mark.parametrize("keep", [0.1, 0.5, 0.99])
def test_truncated_files(tmp_path, name, whole, keep):
    content = whole(tmp_path)
    path = tmp_path / name
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(CheckpointError, match=r"damaged or truncated.*; download or copy it again"):
        read_weights(path)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(CheckpointError, match=r"absent.pth.*No such file.*; check the path"):
        read_weights(tmp_path / "absent.pth")
    (tmp_path / "folder.pth").mkdir()
    with pytest.raises(CheckpointError, match=r"folder.pth.*Is a directory"):
        read_weights(tmp_path / "folder.pth")


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_pickled_objects_are_refused_and_not_run(tmp_path, legacy):
    path, trace = tmp_path / "weights.pth", tmp_path / "touched"
    torch.save({"model": Trap(trace)}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(
        CheckpointError, match=r"holds Python objects.*torch.save\(model.state_dict\(\)"
    ):
        read_weights(path)
    assert not trace.exists()


def test_whole_pickled_network_is_refused(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(nn.Linear(2, 2), path)
    with pytest.raises(CheckpointError, match="holds Python objects, not only tensors"):
        read_weights(path)


@pytest.mark.parametrize(
    ("content", "got"),
    [
        ({"epoch": 3, "lr": 0.1}, "got a dictionary of epoch, lr"),
        ([torch.zeros(1)], "got a list"),
        ({}, "got an empty dictionary"),
    ],
)
def test_files_without_named_tensors(tmp_path, content, got):
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=rf"holds no named tensors.*{got}; save it"):
        read_weights(path)


def test_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "weights.safetensors"
    save_checkpoint(nn.Linear(2, 2), path)
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("edge_fusion.files.os.fsync", full)
    with pytest.raises(OutputError, match=r"weights.safetensors.*No space left.*disk is full"):
        save_checkpoint(nn.Linear(2, 2), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


class NamedLikeAWrapper(nn.Module):
    """A network with parts that are called as wrappers call theirs, and a tensor ``step``."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Linear(2, 2)
        self.ema = nn.Linear(2, 2)
        self.register_buffer("step", torch.zeros(1))


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "ema_model."])
def test_parts_that_are_named_like_a_wrapper_keep_their_names(tmp_path, prefix):
    network = noisy(NamedLikeAWrapper())
    path = tmp_path / "weights.pth"
    torch.save({f"{prefix}{k}": v for k, v in network.state_dict().items()}, path)
    loaded = NamedLikeAWrapper()
    report = load_checkpoint(loaded, path)
    assert_same_weights(loaded, network)
    assert (report.prefix, len(report.matched)) == (prefix, 5)


def test_what_stands_beside_a_wrapped_network_is_said(trained, tmp_path):
    tensors = {f"model.{k}": v for k, v in trained.state_dict().items()}
    path = tmp_path / "weights.pth"
    torch.save({"state_dict": tensors | {"criterion.weight": torch.ones(2)}}, path)
    report = load_checkpoint(Host(), path)
    assert (report.prefix, report.unexpected) == ("model.", ("criterion.weight",))
    assert report.summary.endswith("0 missing, 1 unexpected ('criterion.weight')")


SUMMARIES = [
    (CheckpointReport(("a", "b"), (), ()), "2 tensors, 0 missing, 0 unexpected"),
    (
        CheckpointReport(("a", "b"), (), ("c",), prefix="module."),
        "2 tensors, prefix 'module.' stripped, 0 missing, 1 unexpected ('c')",
    ),
    (
        CheckpointReport(("a",), ("b", "c", "d", "e"), (), prefix="ema_model.", source="ema"),
        "1 tensors from 'ema', prefix 'ema_model.' stripped (averaged weights), "
        "4 missing ('b', 'c', 'd' ...), 0 unexpected",
    ),
]


@pytest.mark.parametrize(("report", "line"), SUMMARIES)
def test_a_summary_is_one_line_that_names_the_first(report, line):
    assert report.summary == line


def test_torchs_advice_to_switch_the_protection_off_is_not_passed_on(tmp_path, recwarn):
    path = tmp_path / "evil.pth"
    torch.save({"weights": nn.Linear(2, 2)}, path)  # a whole module: Python objects
    with pytest.raises(
        CheckpointError, match="holds Python objects.*nothing of it was run"
    ) as info:
        read_weights(path)
    assert "weights_only" not in str(info.value)
    assert not recwarn.list


def test_other_formats_under_torchs_suffix_are_named(tmp_path):
    save_checkpoint(nn.Linear(2, 2), tmp_path / "w.safetensors")
    (tmp_path / "w.safetensors").rename(tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"is a safetensors file.*rename it to \.safetensors"):
        read_weights(tmp_path / "w.pth")
