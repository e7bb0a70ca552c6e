"""Counted costs against counts by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

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
    cost = count_cost(network, ModelSpec(name="huge", height=100_000, width=100_000))
    assert cost.macs == 10**10 * 8 * 9 * 4
    assert network.training
    torch.testing.assert_close(network.norm.running_mean, before)
    assert network.norm.num_batches_tracked == 0
