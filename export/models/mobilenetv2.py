"""MobileNetV2 as an encoder (Sandler et al., "MobileNetV2: Inverted Residuals", CVPR 2018)."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from .layers import ConvNormAct, Features, initialize


class Stage(NamedTuple):
    """One row of the paper's table 2."""

    expansion: int
    channels: int
    blocks: int
    stride: int


STAGES = (
    Stage(1, 16, 1, 1),
    Stage(6, 24, 2, 2),
    Stage(6, 32, 3, 2),
    Stage(6, 64, 4, 2),
    Stage(6, 96, 3, 1),
    Stage(6, 160, 3, 2),
    Stage(6, 320, 1, 1),
)
STEM_CHANNELS = 32


class InvertedResidual(nn.Module):
    """Expand 1x1, depthwise 3x3, project 1x1 without activation; a skip where shapes allow."""

    def __init__(self, inputs: int, outputs: int, *, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        expand = [ConvNormAct(inputs, hidden, kernel=1, activation=nn.ReLU6)]
        self.conv = nn.Sequential(
            *(expand if expansion > 1 else []),
            ConvNormAct(hidden, hidden, stride=stride, groups=hidden, activation=nn.ReLU6),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.skip = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        y: Tensor = self.conv(x)
        return x + y if self.skip else y


class MobileNetV2(nn.Module):
    """MobileNetV2 without its last 320 -> 1280 convolution and classifier.

    State-dict keys are torchvision's (``features.0.0.weight`` ... ``features.17.conv.3.bias``), so
    its ImageNet weights load; ``features.18`` and ``classifier`` are then left over.

    Args:
        channels_in: Channels of the image: 3 for colour, 1 for depth.

    Example:
        >>> import torch
        >>> [tuple(f.shape) for f in MobileNetV2()(torch.zeros(1, 3, 64, 64))]
        [(1, 24, 16, 16), (1, 32, 8, 8), (1, 96, 4, 4), (1, 320, 2, 2)]
    """

    channels = (24, 32, 96, 320)
    #: The last block of each stride: 4, 8, 16, 32.
    taps = (3, 6, 13, 17)

    def __init__(self, channels_in: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            ConvNormAct(channels_in, STEM_CHANNELS, stride=2, activation=nn.ReLU6)
        ]
        width = STEM_CHANNELS
        for stage in STAGES:
            for index in range(stage.blocks):
                stride = stage.stride if index == 0 else 1
                layers.append(
                    InvertedResidual(
                        width, stage.channels, stride=stride, expansion=stage.expansion
                    )
                )
                width = stage.channels
        self.features = nn.Sequential(*layers)
        initialize(self)

    def forward(self, image: Tensor) -> Features:
        """(B, channels_in, H, W), H and W divisible by 32 -> maps at strides 4, 8, 16, 32."""
        maps = []
        x = image
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self.taps:
                maps.append(x)
        s4, s8, s16, s32 = maps
        return s4, s8, s16, s32
