"""Encoders: torchvision's names, shapes and parameter totals, written down by hand."""

from __future__ import annotations

import pytest
import torch

from edge_fusion.export.models.mobilenetv2 import MobileNetV2
from edge_fusion.export.models.resnet50 import ResNet50

# torchvision's totals are 3,504,872 (mobilenet_v2) and 25,557,032 (resnet50).
MOBILENET_LAST_CONV = 320 * 1280 + 2 * 1280
MOBILENET_CLASSIFIER = 1280 * 1000 + 1000
RESNET_CLASSIFIER = 2048 * 1000 + 1000


@pytest.mark.parametrize(
    ("encoder", "parameters", "keys"),
    [
        # torchvision has 314 keys: 6 of features.18 and 2 of the classifier are not ours
        (MobileNetV2, 3_504_872 - MOBILENET_LAST_CONV - MOBILENET_CLASSIFIER, 306),
        # torchvision has 320 keys: 2 of fc are not ours
        (ResNet50, 25_557_032 - RESNET_CLASSIFIER, 318),
    ],
)
def test_size_is_that_of_torchvision(encoder, parameters, keys):
    with torch.device("meta"):
        network = encoder()
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert len(network.state_dict()) == keys


@pytest.mark.parametrize(
    ("encoder", "name", "shape"),
    [
        (MobileNetV2, "features.0.0.weight", (32, 3, 3, 3)),
        (MobileNetV2, "features.0.1.running_var", (32,)),
        (MobileNetV2, "features.1.conv.0.0.weight", (32, 1, 3, 3)),  # no expansion
        (MobileNetV2, "features.1.conv.1.weight", (16, 32, 1, 1)),
        (MobileNetV2, "features.1.conv.2.weight", (16,)),
        (MobileNetV2, "features.2.conv.0.0.weight", (96, 16, 1, 1)),
        (MobileNetV2, "features.14.conv.1.0.weight", (576, 1, 3, 3)),
        (MobileNetV2, "features.17.conv.2.weight", (320, 960, 1, 1)),
        (MobileNetV2, "features.17.conv.3.running_mean", (320,)),
        (ResNet50, "conv1.weight", (64, 3, 7, 7)),
        (ResNet50, "bn1.bias", (64,)),
        (ResNet50, "layer1.0.conv1.weight", (64, 64, 1, 1)),
        (ResNet50, "layer1.0.downsample.0.weight", (256, 64, 1, 1)),
        (ResNet50, "layer1.0.downsample.1.num_batches_tracked", ()),
        (ResNet50, "layer3.5.conv2.weight", (256, 256, 3, 3)),
        (ResNet50, "layer4.2.bn3.weight", (2048,)),
    ],
)
def test_keys_are_those_of_torchvision(encoder, name, shape):
    with torch.device("meta"):
        network = encoder()
    assert tuple(network.state_dict()[name].shape) == shape


@pytest.mark.parametrize("encoder", [MobileNetV2, ResNet50])
@pytest.mark.parametrize("channels_in", [1, 3])
def test_maps_have_strides_4_to_32(encoder, channels_in):
    network = encoder(channels_in).eval()
    with torch.no_grad():
        maps = network(torch.zeros(2, channels_in, 64, 96))
    assert [tuple(m.shape) for m in maps] == [
        (2, channels, 64 // stride, 96 // stride)
        for channels, stride in zip(network.channels, (4, 8, 16, 32), strict=True)
    ]


def test_resnet_downsamples_in_the_3x3():
    # torchvision's weights were trained with the stride here, not in the first 1x1
    block = ResNet50().layer2[0]
    assert (block.conv1.stride, block.conv2.stride) == ((1, 1), (2, 2))
