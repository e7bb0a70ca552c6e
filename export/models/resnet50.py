"""ResNet-50 as an encoder (He et al., "Deep Residual Learning", CVPR 2016), stride in the 3x3."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from .layers import Features, initialize

EXPANSION = 4
#: (blocks, bottleneck width, stride of the first block) of layer1 ... layer4.
LAYERS = ((3, 64, 1), (4, 128, 2), (6, 256, 2), (3, 512, 2))
STEM_CHANNELS = 64


class Bottleneck(nn.Module):
    """1x1 reduce, 3x3, 1x1 expand by four, and the residual."""

    #: Which batch norm follows which convolution: what a batch-norm fold needs to know.
    conv_norm_pairs: ClassVar = (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3"))

    def __init__(self, inputs: int, width: int, *, stride: int) -> None:
        super().__init__()
        outputs = width * EXPANSION
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()
        self.downsample: nn.Sequential | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, 4 * width, H / stride, W / stride)."""
        shortcut: Tensor = x if self.downsample is None else self.downsample(x)
        y: Tensor = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.relu(self.bn3(self.conv3(y)) + shortcut)
        return y


class ResNet50(nn.Module):
    """ResNet-50 without pooling and classifier.

    State-dict keys are torchvision's (``conv1.weight``, ``layer1.0.conv1.weight`` ...), so its
    ImageNet weights load; ``fc`` is then left over.

    Args:
        channels_in: Channels of the image: 3 for colour, 1 for depth.

    Example:
        >>> import torch
        >>> [tuple(f.shape) for f in ResNet50()(torch.zeros(1, 3, 64, 64))]
        [(1, 256, 16, 16), (1, 512, 8, 8), (1, 1024, 4, 4), (1, 2048, 2, 2)]
    """

    channels = (256, 512, 1024, 2048)
    conv_norm_pairs: ClassVar = (("conv1", "bn1"),)

    def __init__(self, channels_in: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, STEM_CHANNELS, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM_CHANNELS)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        inputs = STEM_CHANNELS
        layers = []
        for blocks, width, stride in LAYERS:
            first = Bottleneck(inputs, width, stride=stride)
            inputs = width * EXPANSION
            rest = (Bottleneck(inputs, width, stride=1) for _ in range(blocks - 1))
            layers.append(nn.Sequential(first, *rest))
        self.layer1, self.layer2, self.layer3, self.layer4 = layers
        initialize(self)

    def forward(self, image: Tensor) -> Features:
        """(B, channels_in, H, W), H and W divisible by 32 -> maps at strides 4, 8, 16, 32."""
        x: Tensor = self.maxpool(self.relu(self.bn1(self.conv1(image))))
        s4: Tensor = self.layer1(x)
        s8: Tensor = self.layer2(s4)
        s16: Tensor = self.layer3(s8)
        s32: Tensor = self.layer4(s16)
        return s4, s8, s16, s32
