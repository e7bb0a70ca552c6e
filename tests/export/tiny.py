"""Tiny two-stream networks and graphs: every kind of layer the road must carry, in milliseconds."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from edge_fusion.spec import ModelSpec

SIZE = 32
SPEC = ModelSpec(name="tiny", height=SIZE, width=SIZE)

Sample = dict[str, NDArray[np.float32]]


def conv_bn(inputs: int, outputs: int, stride: int, groups: int = 1) -> nn.Sequential:
    """Convolution, batch norm with running statistics that matter, ReLU."""
    norm = nn.BatchNorm2d(outputs)
    with torch.no_grad():
        norm.running_mean.copy_(torch.linspace(-0.1, 0.1, outputs))
        norm.running_var.copy_(torch.linspace(0.5, 1.5, outputs))
        norm.weight.copy_(torch.linspace(0.8, 1.2, outputs))
    conv = nn.Conv2d(inputs, outputs, 3, stride, 1, groups=groups, bias=False)
    return nn.Sequential(conv, norm, nn.ReLU())


class Encoder(nn.Module):
    """(B, C, H, W) -> (B, 16, H/8, W/8): strided, depthwise, strided, strided."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            conv_bn(channels, 8, 2),
            conv_bn(8, 8, 1, groups=8),
            conv_bn(8, 16, 2),
            conv_bn(16, 16, 2),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.features(x)


class Attention(nn.Module):
    """Pre-norm self-attention and MLP, each with its residual, on (B, N, 16) tokens."""

    def __init__(self, dim: int = 16, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        batch, count, dim = tokens.shape
        split = self.qkv(self.norm1(tokens)).reshape(batch, count, 3, self.heads, dim // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4).unbind(0)
        weights = (query @ key.transpose(-2, -1) * (dim // self.heads) ** -0.5).softmax(-1)
        tokens = tokens + self.proj((weights @ value).transpose(1, 2).reshape(batch, count, dim))
        return tokens + self.mlp(self.norm2(tokens))


class TwoStream(nn.Module):
    """rgb (B, 3, H, W), depth (B, 1, H, W) -> saliency (B, 1, H, W) in 0..1."""

    def __init__(self) -> None:
        super().__init__()
        self.rgb_encoder, self.depth_encoder = Encoder(3), Encoder(1)
        self.fusion = Attention()
        self.decoder = nn.Sequential(
            nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 1, 1)
        )

    def forward(self, rgb: torch.Tensor, depth: torch.Tensor) -> torch.Tensor:
        fused = self.rgb_encoder(rgb) + self.depth_encoder(depth)
        batch, dim, height, width = fused.shape
        tokens = self.fusion(fused.flatten(2).transpose(1, 2))
        grid = tokens.transpose(1, 2).reshape(batch, dim, height, width)
        return torch.sigmoid(
            F.interpolate(
                self.decoder(grid), scale_factor=8.0, mode="bilinear", align_corners=False
            )
        )


def two_stream(seed: int = 0) -> TwoStream:
    """The network with repeatable weights, in inference mode."""
    torch.manual_seed(seed)
    return TwoStream().eval()


def samples(count: int, spec: ModelSpec = SPEC, seed: int = 0) -> list[Sample]:
    """Noise pictures, normalised as ``spec`` says."""
    rng = np.random.default_rng(seed)
    mean, std = (np.reshape(values, (3, 1, 1)) for values in (spec.rgb.mean, spec.rgb.std))
    size = (spec.height, spec.width)
    return [
        {
            spec.rgb.name: ((rng.random((1, 3, *size)) - mean) / std).astype(np.float32),
            spec.depth.name: (
                (rng.random((1, spec.depth.channels, *size)) - spec.depth.mean) / spec.depth.std
            ).astype(np.float32),
        }
        for _ in range(count)
    ]
