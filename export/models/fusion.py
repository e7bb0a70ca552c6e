"""How two streams become one at each level of a host."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .layers import ConvNormAct, Features
from .mutualformer import MutualFormer

ConvBlock = Callable[[int, int], nn.Module]
"""Makes a layer from input and output channels that keeps the size."""

#: The gates start mostly open: sigmoid(2) = 0.88.
OPEN_GATE_BIAS = 2.0


class AddFusion(nn.Module):
    """Element-wise sum: no parameters, nothing that quantizes badly."""

    def forward(self, r: Tensor, d: Tensor) -> Tensor:
        """Two (B, C, H, W) -> (B, C, H, W)."""
        return r + d


class ConvFusion(nn.Module):
    """A convolution block on the concatenated streams: local, for the fine levels."""

    def __init__(self, width: int, block: ConvBlock) -> None:
        super().__init__()
        self.block = block(2 * width, width)

    def forward(self, r: Tensor, d: Tensor) -> Tensor:
        """Two (B, C, H, W) -> (B, C, H, W)."""
        out: Tensor = self.block(torch.cat((r, d), dim=1))
        return out


class MutualFusion(nn.Module):
    """A MutualFormer block over all positions: global, for the coarse levels.

    The merged stream that enters the block is a Linear of both streams.
    """

    def __init__(self, width: int, *, heads: int, reference: bool = False) -> None:
        super().__init__()
        self.merge = nn.Linear(2 * width, width)
        self.block = MutualFormer(width, heads, reference=reference)

    def forward(self, r: Tensor, d: Tensor) -> Tensor:
        """Two (B, C, H, W) -> (B, C, H, W); the tokens are the H * W positions."""
        x = torch.cat((r, d), dim=1).flatten(2).transpose(1, 2)
        tokens: Tensor = self.block(x, self.merge(x))
        return tokens.transpose(1, 2).reshape(r.shape)


class DepthGate(nn.Module):
    """Turns the depth stream down where, by the look of the whole frame, depth cannot be trusted.

    Both streams at stride 32 are pooled over the frame; a two-layer network sets one factor in
    0..1 per level and channel.  Depth with large holes, glare or no contrast then costs accuracy
    no further than the colour stream alone would.
    """

    def __init__(self, width: int, levels: int = 4, hidden: int = 32) -> None:
        super().__init__()
        self.width = width
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.squeeze = nn.Conv2d(2 * width, hidden, 1)
        self.act = nn.ReLU()
        self.excite = nn.Conv2d(hidden, levels * width, 1)

    def reset(self) -> None:
        """Open all gates: the usual start of training."""
        nn.init.zeros_(self.excite.weight)
        assert self.excite.bias is not None
        nn.init.constant_(self.excite.bias, OPEN_GATE_BIAS)

    def forward(self, r: Features, d: Features) -> Features:
        """Colour and depth features of equal shapes -> the depth features, weighted."""
        pooled = self.pool(torch.cat((r[-1], d[-1]), dim=1))
        gates: Tensor = self.excite(self.act(self.squeeze(pooled))).sigmoid()
        s4, s8, s16, s32 = (
            feature * gate
            for feature, gate in zip(d, torch.split(gates, self.width, dim=1), strict=True)
        )
        return s4, s8, s16, s32


class Laterals(nn.Module):
    """1x1 convolutions that bring the four levels of an encoder to one width."""

    def __init__(self, channels: tuple[int, int, int, int], width: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList(ConvNormAct(c, width, kernel=1) for c in channels)

    def forward(self, features: Features) -> Features:
        """Maps of the encoder's channels -> maps of ``width`` channels, sizes unchanged."""
        s4, s8, s16, s32 = (
            level(feature) for level, feature in zip(self.levels, features, strict=True)
        )
        return s4, s8, s16, s32
