"""Two-stream saliency networks around the fusion blocks.

The published MutualFormer has a fusion block but no host; these hosts are our own
reconstructions::

    rgb ─── encoder ─ laterals ──────────────┐ strides 4, 8, 16, 32
    depth ─ encoder ─ laterals ─ depth gate ─┴─ fusion per level ─ decoder, coarse to fine ─ head

Everything is a convolution, ReLU, Add, Concat, a resize by two or a MutualFormer block: shapes are
static once the input size is, which is what an INT8 engine wants.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from .fusion import AddFusion, ConvBlock, ConvFusion, DepthGate, Laterals, MutualFusion
from .layers import ConvNormAct, Features, SeparableConv, initialize
from .mobilenetv2 import MobileNetV2
from .mutualformer import HEADS
from .resnet50 import ResNet50

#: Height and width of the inputs must be divisible by this.
STRIDE = 32
Encoder = MobileNetV2 | ResNet50


class Decoder(nn.Module):
    """Coarse to fine: resize by two, add the finer level, two convolution blocks."""

    def __init__(self, width: int, block: ConvBlock, levels: int = 4) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            nn.Sequential(block(width, width), block(width, width)) for _ in range(levels)
        )
        self.up = nn.Upsample(scale_factor=2.0, mode="bilinear", align_corners=False)

    def forward(self, fused: Sequence[Tensor]) -> list[Tensor]:
        """Fused maps, finest first -> decoded maps, finest first, same shapes."""
        *finer, coarsest = zip(self.stages, fused, strict=True)
        stage, feature = coarsest
        decoded = [stage(feature)]
        for stage, feature in reversed(finer):
            decoded.insert(0, stage(self.up(decoded[0]) + feature))
        return decoded


class FusionHost(nn.Module):
    """Two encoders, one fusion per level, one decoder, one head.

    One head reads every level, so that deep supervision costs the deployed network nothing.

    Args:
        rgb_encoder: Encoder of the 3-channel image.
        depth_encoder: Encoder of the 1-channel depth.
        fusions: For strides 4, 8, 16 and 32: a module (B, C, H, W), (B, C, H, W) -> (B, C, H, W).
        width: Channels C of the fused levels.
        block: Makes the convolution blocks of the decoder.
        gated: Whether a :class:`DepthGate` weighs the depth stream.
    """

    def __init__(
        self,
        rgb_encoder: Encoder,
        depth_encoder: Encoder,
        fusions: Sequence[nn.Module],
        *,
        width: int,
        block: ConvBlock,
        gated: bool,
    ) -> None:
        super().__init__()
        self.rgb_laterals = Laterals(rgb_encoder.channels, width)
        self.depth_laterals = Laterals(depth_encoder.channels, width)
        self.depth_gate = DepthGate(width) if gated else None
        self.decoder = Decoder(width, block)
        self.head = nn.Conv2d(width, 1, 3, padding=1)
        self.upsample = nn.Upsample(scale_factor=4.0, mode="bilinear", align_corners=False)
        self.fusions = nn.ModuleList(fusions)
        initialize(self)
        if self.depth_gate is not None:
            self.depth_gate.reset()
        self.rgb_encoder = rgb_encoder
        self.depth_encoder = depth_encoder

    def forward(self, rgb: Tensor, depth: Tensor) -> Tensor:
        """Saliency logits.

        Args:
            rgb: Normalised colour, (B, 3, H, W), H and W divisible by 32.
            depth: Nearness in 0..1, 0 where there is no reading, (B, 1, H, W).

        Returns:
            Logits (B, 1, H, W).
        """
        logits: Tensor = self.upsample(self.head(self._decode(rgb, depth)[0]))
        return logits

    def forward_with_sides(self, rgb: Tensor, depth: Tensor) -> list[Tensor]:
        """Logits of every level for deep supervision: training only, never traced.

        Returns:
            Four logits (B, 1, H, W), resized bilinearly from strides 4, 8, 16 and 32.  The first
            is what :meth:`forward` returns.
        """
        size = [rgb.shape[2], rgb.shape[3]]
        return [
            functional.interpolate(self.head(x), size=size, mode="bilinear", align_corners=False)
            for x in self._decode(rgb, depth)
        ]

    def _decode(self, rgb: Tensor, depth: Tensor) -> list[Tensor]:
        r: Features = self.rgb_laterals(self.rgb_encoder(rgb))
        d: Features = self.depth_laterals(self.depth_encoder(depth))
        if self.depth_gate is not None:
            d = self.depth_gate(r, d)
        fused = [fuse(*pair) for fuse, *pair in zip(self.fusions, r, d, strict=True)]
        decoded: list[Tensor] = self.decoder(fused)
        return decoded


class Deployable(nn.Module):
    """A host as it is deployed: the same network with its logits turned into saliency.

    Args:
        host: A network (rgb, depth) -> logits.
    """

    def __init__(self, host: nn.Module) -> None:
        super().__init__()
        self.host = host

    def forward(self, rgb: Tensor, depth: Tensor) -> Tensor:
        """As the host, but the result is saliency in 0..1."""
        saliency: Tensor = self.host(rgb, depth).sigmoid()
        return saliency


def dense_conv(inputs: int, outputs: int) -> nn.Module:
    """A full 3x3 convolution with batch norm and ReLU."""
    return ConvNormAct(inputs, outputs)


def mutualformer_mobilenetv2(*, reference: bool = False) -> FusionHost:
    """Two MobileNetV2, MutualFormer at strides 16 and 32, separable convolutions elsewhere.

    Args:
        reference: Use the published form of the attention instead of the folded one.
    """
    return _mutualformer(MobileNetV2, width=64, block=SeparableConv, reference=reference)


def mutualformer_resnet50(*, reference: bool = False) -> FusionHost:
    """Two ResNet-50, about the paper's 52 M parameters; dense convolutions.

    Args:
        reference: Use the published form of the attention instead of the folded one.
    """
    return _mutualformer(ResNet50, width=160, block=dense_conv, reference=reference)


def add_mobilenetv2() -> FusionHost:
    """Two MobileNetV2 added level by level: the plain baseline, and the canary for INT8."""
    return FusionHost(
        MobileNetV2(3),
        MobileNetV2(1),
        [AddFusion() for _ in range(4)],
        width=64,
        block=SeparableConv,
        gated=False,
    )


def _mutualformer(
    encoder: type[MobileNetV2] | type[ResNet50], *, width: int, block: ConvBlock, reference: bool
) -> FusionHost:
    fusions = [
        ConvFusion(width, block),
        ConvFusion(width, block),
        MutualFusion(width, heads=HEADS, reference=reference),
        MutualFusion(width, heads=HEADS, reference=reference),
    ]
    return FusionHost(encoder(3), encoder(1), fusions, width=width, block=block, gated=True)
