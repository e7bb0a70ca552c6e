"""The two convolution layers everything here is built from."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn


class ConvNormAct(nn.Sequential):
    """Convolution without bias, batch norm, activation; keeps the size at stride 1.

    Children are ``0``, ``1`` and ``2``, the names that torchvision's checkpoints use for this
    triple.

    Args:
        inputs: Input channels.
        outputs: Output channels.
        kernel: Odd kernel size.
        stride: Stride in both directions.
        groups: Convolution groups; ``groups == inputs == outputs`` is a depthwise convolution.
        activation: Makes the activation.

    Example:
        >>> import torch
        >>> ConvNormAct(3, 16, stride=2)(torch.zeros(1, 3, 8, 8)).shape
        torch.Size([1, 16, 4, 4])
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        kernel: int = 3,
        stride: int = 1,
        groups: int = 1,
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(outputs),
            activation(),
        )


class SeparableConv(nn.Sequential):
    """Depthwise 3x3, then pointwise 1x1, each with batch norm and ReLU.

    Costs ``9 * inputs + inputs * outputs`` MACs per position instead of ``9 * inputs * outputs``.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(
            ConvNormAct(inputs, inputs, groups=inputs),
            ConvNormAct(inputs, outputs, kernel=1),
        )


def initialize(module: nn.Module) -> None:
    """He initialisation of every convolution below ``module``; batch norms start as identity."""
    for child in module.modules():
        if isinstance(child, nn.Conv2d):
            nn.init.kaiming_normal_(child.weight, mode="fan_out", nonlinearity="relu")
            if child.bias is not None:
                nn.init.zeros_(child.bias)


Features = tuple[Tensor, Tensor, Tensor, Tensor]
"""Feature maps at strides 4, 8, 16 and 32, finest first."""
