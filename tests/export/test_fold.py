"""Folds: the same function in float64, less work, and the input left alone."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn

from edge_fusion.errors import StepError
from edge_fusion.export.cost import count_call
from edge_fusion.export.fold import (
    FoldRecord,
    fold,
    fold_batch_norms,
    fold_cross_diffusion,
    fold_output_projections,
    fold_reparameterised_linears,
)
from edge_fusion.export.models.hosts import add_mobilenetv2, mutualformer_mobilenetv2
from edge_fusion.export.models.layers import ConvNormAct
from edge_fusion.export.models.mutualformer import CrossDiffusionAttention, MutualFormer
from edge_fusion.export.models.reparam import CrossModalReparamLinear
from edge_fusion.export.models.resnet50 import Bottleneck, ResNet50

TOLERANCE = 1e-10
HOST_SHAPES = ((1, 3, 64, 64), (1, 1, 64, 64))
BLOCK_SHAPES = ((2, 49, 128), (2, 49, 64))


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def as_trained(module: nn.Module, seed: int = 0) -> nn.Module:
    """In float64, with batch norms that normalise and biases and scales that are not neutral."""
    torch.manual_seed(seed)
    for child in module.modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm) and child.track_running_stats:
            nn.init.normal_(child.running_mean, std=0.3)
            nn.init.uniform_(child.running_var, 0.3, 2.0)
        if (
            isinstance(child, nn.modules.batchnorm._BatchNorm | nn.LayerNorm)
            and child.weight is not None
        ):
            nn.init.uniform_(child.weight, 0.5, 1.5)
            nn.init.normal_(child.bias, std=0.2)
        if isinstance(child, nn.Linear):
            nn.init.normal_(child.weight, std=0.3)
            if child.bias is not None:
                nn.init.normal_(child.bias)
    return module.double().eval()


def call(module: nn.Module, shapes: tuple[tuple[int, ...], ...]) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    inputs = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
    with torch.no_grad():
        out = module(*inputs)
    return out if isinstance(out, torch.Tensor) else out[-1]


def assert_same_function(left: nn.Module, right: nn.Module, shapes) -> None:
    expected = call(left, shapes)
    assert expected.std() > 1e-3
    assert (expected - call(right, shapes)).abs().max() <= TOLERANCE


class OwnOrder(nn.Sequential):
    """Children in the order of a conv and its norm, called in another."""

    def forward(self, x):
        return self[0](self[1](x))


class QuantAwareConv(nn.Conv2d):
    """Does something of its own to its weight."""

    def forward(self, x):
        return nn.functional.conv2d(x, self.weight.round(decimals=2), self.bias, padding=1)


class SharedConv(nn.Module):
    """One convolution under two norms."""

    def __init__(self) -> None:
        super().__init__()
        conv = nn.Conv2d(4, 4, 3, padding=1)
        self.left = nn.Sequential(conv, nn.BatchNorm2d(4))
        self.right = nn.Sequential(conv, nn.BatchNorm2d(4))

    def forward(self, x):
        return self.left(x) + self.right(x)


class SharedNorm(nn.Module):
    """One norm over two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        norm = nn.BatchNorm2d(4)
        self.left = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), norm)
        self.right = nn.Sequential(nn.Conv2d(4, 4, 1), norm)

    def forward(self, x):
        return self.left(x) + self.right(x)


IMAGE = ((2, 4, 9, 9),)
CONV = {"kernel_size": 3, "padding": 1}


@pytest.mark.parametrize(
    ("make", "shapes", "folded"),
    [
        # a bias, groups, a stride, other dimensions
        (lambda: nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6)), IMAGE, ["0"]),
        (lambda: nn.Sequential(nn.Conv2d(4, 8, 3, groups=2), nn.BatchNorm2d(8)), IMAGE, ["0"]),
        (lambda: nn.Sequential(nn.Conv1d(4, 6, 3), nn.BatchNorm1d(6)), ((2, 4, 9),), ["0"]),
        (lambda: nn.Sequential(nn.Conv3d(4, 6, 3), nn.BatchNorm3d(6)), ((2, 4, 5, 5, 5),), ["0"]),
        (lambda: nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6, affine=False)), IMAGE, ["0"]),
        (lambda: nn.Sequential(ConvNormAct(4, 8), ConvNormAct(8, 8)), IMAGE, ["0.0", "1.0"]),
        (
            lambda: Bottleneck(4, 4, stride=2),
            IMAGE,
            ["conv1", "conv2", "conv3", "downsample.0"],
        ),
        # not a convolution and the norm of its output: left as they are
        (lambda: nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3)), IMAGE, []),
        (lambda: nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU(), nn.BatchNorm2d(4)), IMAGE, []),
        (lambda: OwnOrder(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)), IMAGE, []),
        (lambda: nn.Sequential(QuantAwareConv(4, 4, **CONV), nn.BatchNorm2d(4)), IMAGE, []),
        (
            lambda: nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)),
            IMAGE,
            [],
        ),
        (SharedConv, IMAGE, []),
        (SharedNorm, IMAGE, []),
    ],
)
def test_batch_norm_fold(make, shapes, folded):
    module = as_trained(make())
    result, record = fold_batch_norms(module)
    assert list(record.modules) == folded
    assert record.applied == bool(folded)
    assert_same_function(module, result, shapes)


def test_batch_norm_fold_of_resnet_leaves_none():
    folded, record = fold_batch_norms(ResNet50())
    assert len(record.modules) == 53
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())


def test_cross_diffusion_fold():
    published = as_trained(MutualFormer(64, reference=True))
    folded, record = fold_cross_diffusion(published)
    assert record.modules == ("attn",)
    assert_same_function(published, folded, BLOCK_SHAPES)
    assert not fold_cross_diffusion(folded)[1].applied


@pytest.mark.parametrize("reference", [False, True], ids=["folded", "published"])
def test_output_projection_fold(reference):
    block = as_trained(MutualFormer(64, reference=reference))
    folded, record = fold_output_projections(block)
    assert record.modules == ("attn",)
    assert_same_function(block, folded, BLOCK_SHAPES)
    # 7 C^2 -> 5 C^2 MACs per token, and as many weights
    before, after = count_call(block, *BLOCK_SHAPES), count_call(folded, *BLOCK_SHAPES)
    tokens = 2 * 49
    assert before.macs - after.macs == 2 * 64**2 * tokens
    assert before.parameters - after.parameters == 2 * 64**2 + 3 * 64


def test_output_projection_fold_of_a_bare_attention():
    attention = as_trained(CrossDiffusionAttention(64))
    folded, record = fold_output_projections(attention)
    assert record.modules == ("",)
    assert_same_function(attention, folded, BLOCK_SHAPES)


@pytest.mark.parametrize("bias", [True, False])
def test_reparameterisation_fold(bias):
    linear = CrossModalReparamLinear(12, 8, bias=bias)
    nn.init.normal_(linear.weight_aux)
    nn.init.constant_(linear.scale, 0.7)
    network = as_trained(nn.Sequential(linear, nn.GELU(), nn.Linear(8, 4)))
    folded, record = fold_reparameterised_linears(network)
    assert record.modules == ("0",)
    assert type(folded[0]) is nn.Linear
    assert (folded[0].bias is not None) == bias
    assert_same_function(network, folded, ((3, 12),))
    plain = count_call(nn.Sequential(nn.Linear(12, 8, bias=bias), nn.Linear(8, 4)), (3, 12))
    assert count_call(folded, (3, 12)) == plain


def test_reparameterisation_starts_from_the_own_weight():
    linear = CrossModalReparamLinear(12, 8)
    nn.init.normal_(linear.weight_aux)
    x = torch.randn(3, 12)
    torch.testing.assert_close(linear(x), nn.functional.linear(x, linear.weight, linear.bias))
    linear(x).sum().backward()
    assert linear.scale.grad.abs() > 0  # and can leave it


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (
            lambda: mutualformer_mobilenetv2(reference=True),
            ["batch-norm", "cross-diffusion", "output-projections"],
        ),
        (mutualformer_mobilenetv2, ["batch-norm", "output-projections"]),
        (add_mobilenetv2, ["batch-norm"]),
    ],
    ids=["published", "folded", "add"],
)
def test_whole_host(make, expected):
    host = as_trained(make())
    host.train()  # a caller may forget
    result = fold(host)
    assert [record.name for record in result.folds] == expected
    assert host.training
    assert not result.module.training
    assert not any(isinstance(m, nn.BatchNorm2d) for m in result.module.modules())
    assert_same_function(host.eval(), result.module, HOST_SHAPES)
    before, after = count_call(host, *HOST_SHAPES), count_call(result.module, *HOST_SHAPES)
    assert after.parameters < before.parameters
    assert (after.macs < before.macs) == (len(expected) > 1)


@pytest.mark.parametrize(
    ("tokens", "published_mmacs", "folded_mmacs"),
    [(100, 76, 13), (484, 7408, 182), (1600, 263_560, 1743)],
)
def test_cost_of_the_attention(tokens, published_mmacs, folded_mmacs):
    shapes = ((1, tokens, 128), (1, tokens, 64))
    published = CrossDiffusionAttention(64, form="published")
    folded, _ = fold_cross_diffusion(published)
    assert round(count_call(published, *shapes).macs / 1e6) == published_mmacs
    assert round(count_call(folded, *shapes).macs / 1e6) == folded_mmacs


@pytest.mark.parametrize(
    "step",
    [
        fold_batch_norms,
        fold_cross_diffusion,
        fold_output_projections,
        fold_reparameterised_linears,
        lambda module: (fold(module).module, None),
    ],
)
def test_input_is_left_alone(step):
    linear = CrossModalReparamLinear(64, 64)
    module = nn.ModuleList([ConvNormAct(3, 4), MutualFormer(64, reference=True), linear])
    state, shape = deepcopy(module.state_dict()), repr(module)
    folded, _ = step(module)
    assert not any(m.training for m in folded.modules())
    with torch.no_grad():
        for parameter in folded.parameters():
            parameter.fill_(7.0)
    assert repr(module) == shape
    assert module.training
    for name, tensor in module.state_dict().items():
        torch.testing.assert_close(tensor, state[name], rtol=0, atol=0)


def test_network_that_cannot_be_copied_is_an_error():
    network = nn.Linear(2, 2)
    network.recorded = network(torch.zeros(1, 2))  # a tensor inside a recorded graph
    with pytest.raises(StepError, match=r"cannot copy Linear: got RuntimeError: .*; keep what"):
        fold(network)


HOOKED = [
    # what is hooked, which fold would silence the hook
    (lambda: nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)), "0", fold_batch_norms),
    (lambda: nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)), "1", fold_batch_norms),
    (lambda: MutualFormer(16), "attn", fold_output_projections),
    (lambda: MutualFormer(16), "attn.proj_r", fold_output_projections),
    (lambda: nn.Sequential(CrossModalReparamLinear(4, 4)), "0", fold_reparameterised_linears),
]


@pytest.mark.parametrize("register", ["register_forward_hook", "register_forward_pre_hook"])
@pytest.mark.parametrize(("make", "path", "step"), HOOKED)
def test_hooks_are_not_silenced(make, path, step, register):
    module = make().eval()
    assert step(module)[1].applied
    getattr(module.get_submodule(path), register)(lambda *_: None)
    assert not step(module)[1].applied


def test_a_hook_that_changes_the_result_still_does():
    module = as_trained(nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6)))
    module[1].register_forward_hook(lambda norm, args, out: out * 3)
    assert_same_function(module, fold(module).module, IMAGE)


def test_the_whole_fold_copies_the_network_once():
    class Counted(nn.Module):
        copies = 0

        def __deepcopy__(self, memo):
            Counted.copies += 1
            return Counted()

    fold(nn.Sequential(Counted(), MutualFormer(16)))
    assert Counted.copies == 1


def test_record_says_whether_it_applied():
    assert not FoldRecord("batch-norm", "none here", ()).applied
