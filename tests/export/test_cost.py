"""Counted costs against counts by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edge_fusion.errors import ModelError
from edge_fusion.export.cost import Cost, count_call, count_cost
from edge_fusion.export.models.mobilenetv2 import MobileNetV2
from edge_fusion.export.models.mutualformer import CrossDiffusionAttention
from edge_fusion.export.models.resnet50 import ResNet50
from edge_fusion.spec import ModelSpec


class TwoStreams(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rgb = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.depth = nn.Conv2d(1, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, rgb, depth):
        return self.norm(self.rgb(rgb) + self.depth(depth))


def test_two_streams_by_hand():
    cost = count_cost(TwoStreams(), ModelSpec(name="two", height=10, width=20))
    assert cost == Cost(parameters=8 * 27 + 8 * 9 + 8 + 16, macs=10 * 20 * 8 * 9 * (3 + 1))


@pytest.mark.parametrize(
    ("module", "shape", "macs"),
    [
        (nn.Linear(5, 7), (3, 5), 3 * 5 * 7),
        (nn.Linear(5, 7), (2, 3, 5), 2 * 3 * 5 * 7),
        (nn.Conv2d(4, 8, 3, stride=2, groups=4), (1, 4, 9, 9), 4 * 4 * 8 * 9),
        (nn.ReLU(), (1, 4), 0),
    ],
)
def test_layers_by_hand(module, shape, macs):
    assert count_call(module, shape).macs == macs


@pytest.mark.parametrize(
    ("encoder", "gmacs"),
    [
        (ResNet50, 4.09),  # 4.09 with the classifier's 0.002, as widely published at 224
        (MobileNetV2, 0.280),  # 0.301 with the last convolution's 0.020 and the classifier's 0.001
    ],
)
def test_encoders_at_224(encoder, gmacs):
    with torch.device("meta"):
        network = encoder()
    assert count_call(network.to_empty(device="cpu"), (1, 3, 224, 224)).macs / 1e9 == pytest.approx(
        gmacs, abs=0.005
    )


def test_attention_by_hand():
    n, c = 50, 64
    linears = 3 * 3 * c * c + 7 * c * c
    # per stream: q k^T, A [v_r v_d], A^T o; and the merged stream's two products
    products = 2 * (1 + 2 + 1) + 2
    cost = count_call(CrossDiffusionAttention(c), (1, n, 2 * c), (1, n, c))
    assert cost.macs == n * linears + products * n * n * c


def test_counting_computes_nothing_and_changes_nothing():
    network = TwoStreams().train()
    before = network.norm.running_mean.clone()
    # 2.5 TMACs: minutes if it ran
    cost = count_cost(network, ModelSpec(name="huge", height=4096, width=4096))
    assert cost.macs == 4096**2 * 8 * 9 * 4
    assert network.training
    torch.testing.assert_close(network.norm.running_mean, before)
    assert network.norm.num_batches_tracked == 0


def test_every_part_keeps_its_own_mode():
    network = TwoStreams().train()
    network.norm.eval()  # frozen, as in fine-tuning
    count_cost(network, ModelSpec(name="two", height=8, width=8))
    assert network.training
    assert network.rgb.training
    assert not network.norm.training


class FlowFromValues(TwoStreams):
    def forward(self, rgb, depth):
        return super().forward(rgb, depth) if rgb.sum() >= 0 else depth


class SizeFromValues(TwoStreams):
    def forward(self, rgb, depth):
        return super().forward(rgb, depth)[:, :, : int(rgb.max().item()) + 1]


class CountFromValues(TwoStreams):
    def forward(self, rgb, depth):
        return super().forward(rgb, depth), depth.nonzero()


@pytest.mark.parametrize("network", [FlowFromValues, SizeFromValues, CountFromValues])
def test_what_depends_on_values_is_counted_by_running_once(network):
    spec = ModelSpec(name="two", height=10, width=20)
    assert count_cost(network(), spec) == count_cost(TwoStreams(), spec)


class FourChannels(TwoStreams):
    def __init__(self):
        super().__init__()
        self.depth = nn.Conv2d(4, 8, 3, padding=1)


class OneInput(nn.Module):
    def forward(self, rgbd):
        return rgbd


class OtherType(nn.Module):
    def forward(self, rgb, depth):
        return nn.functional.embedding(depth, rgb[0, 0])


@pytest.mark.parametrize(
    ("network", "got"),
    [
        (FourChannels, "RuntimeError: Given groups=1, weight of size"),
        (OneInput, "TypeError: .*takes 2 positional arguments but 3 were given"),
        (OtherType, "RuntimeError: Expected tensor for argument #1 'indices'"),
    ],
)
def test_a_network_that_does_not_take_its_inputs_is_named(network, got):
    call = r"forward\(rgb \(1, 3, 8, 16\), depth \(1, 1, 8, 16\)\)"
    with pytest.raises(ModelError, match=rf"{network.__name__}.*expected {call}, got {got}") as err:
        count_cost(network(), ModelSpec(name="two", height=8, width=16))
    assert err.value.__cause__ is not None
    assert "\n" not in str(err.value)
