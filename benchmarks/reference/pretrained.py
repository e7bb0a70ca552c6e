"""ImageNet MobileNetV2 weights for both encoders of the reference model.

The public file holds 53 convolutions with their batch norms folded in, made for colour as
``x / 127.5 - 1`` and for padding that adds a row below and a column on the right at stride 2.
Our encoder has separate batch norms, other colour statistics and padding on all sides:

* Colour: with our ``x' = (x / 255 - mean) / std``, ``x / 127.5 - 1 = 2 std x' + (2 mean - 1)``: the
  first convolution takes a factor per channel and a bias.
* Batch norms: weights and biases alone would be destroyed by the first step in training mode,
  which normalises by the batch.  :func:`spread_into_norms` measures what every batch norm receives
  and moves scale and shift from the convolution into it; the function stays the same.
* Padding: a stride-2 convolution then reads around the even rows instead of the odd ones.  The
  same features come out, sampled one input pixel earlier; the classifier says how much that costs
  (see :class:`Classifier`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from edge_fusion.errors import CheckpointError
from edge_fusion.export.models.hosts import FusionHost
from edge_fusion.export.models.mobilenetv2 import MobileNetV2
from edge_fusion.spec import IMAGENET_MEAN, IMAGENET_STD

NAME = "weights/mobilenet_v2_1.0_imagenet_dequant"
ENCODER_CONVOLUTIONS = 51  # then the 320 -> 1280 convolution and the classifier
_DEAD = 1e-2  # a channel that varies less is not rescaled

Layer = tuple[Tensor, Tensor]  # weight, bias


def read_layers(data: Path) -> list[Layer]:
    """The folded convolutions in execution order, the classifier last.

    Args:
        data: The folder that holds ``weights/``.

    Raises:
        CheckpointError: The file is missing, or does not hold what its list says.
    """
    path = data / f"{NAME}.npz"
    try:
        shapes = [
            row["shape"] for row in json.loads(path.with_suffix(".json").read_text())["layers"]
        ]
        with np.load(path) as arrays:
            layers = _in_order(arrays)
    except (OSError, ValueError, KeyError) as err:
        raise CheckpointError(f"cannot read the encoder weights {path}", got=str(err)) from err
    got = [list(weight.shape) for weight, _ in layers]
    if got != shapes:
        raise CheckpointError(
            f"encoder weights {path}", expected=f"{len(shapes)} listed shapes", got=f"{len(got)}"
        )
    return layers


def load_encoder(encoder: MobileNetV2, layers: list[Layer]) -> None:
    """Put folded convolutions into an encoder, in place; its batch norms become plain biases.

    Args:
        encoder: For colour (3 channels) or depth (1 channel); depth in 0..1 is taken as a grey
            image of that brightness.
        layers: What :func:`read_layers` gave; the last two are left out.

    Raises:
        CheckpointError: The layers are not those of this encoder.
    """
    convolutions = [m for m in encoder.modules() if isinstance(m, nn.Conv2d)]
    norms = [m for m in encoder.modules() if isinstance(m, nn.BatchNorm2d)]
    stem = _for_colour if convolutions[0].in_channels == 3 else _for_depth
    folded = [stem(*layers[0]), *layers[1:ENCODER_CONVOLUTIONS]]
    expected = [tuple(c.weight.shape) for c in convolutions]
    got = [tuple(weight.shape) for weight, _ in folded]
    if expected != got:
        first = next((pair for pair in zip(expected, got, strict=False) if pair[0] != pair[1]), "")
        raise CheckpointError(
            "the encoder weights are of another network",
            expected=f"{len(expected)} convolutions",
            got=f"{len(got)}, first difference {first}",
        )
    with torch.no_grad():
        for convolution, norm, (weight, bias) in zip(convolutions, norms, folded, strict=True):
            convolution.weight.copy_(weight)
            norm.running_mean.zero_()  # type: ignore[union-attr]
            norm.running_var.fill_(1 - norm.eps)  # type: ignore[union-attr]
            norm.weight.fill_(1)
            norm.bias.copy_(bias)


def load_encoders(
    network: FusionHost, data: Path, batches: Iterable[tuple[Tensor, Tensor]]
) -> None:
    """Start both encoders of ``network`` from ImageNet, ready to be trained on.

    Args:
        network: Its encoders are MobileNetV2.
        data: The folder that holds ``weights/``.
        batches: (rgb, depth) as the network takes them, a few dozen samples, to measure what the
            batch norms receive.
    """
    layers = read_layers(data)
    rgb_encoder, depth_encoder = network.rgb_encoder, network.depth_encoder
    assert isinstance(rgb_encoder, MobileNetV2)
    assert isinstance(depth_encoder, MobileNetV2)
    drawn = list(batches)
    for encoder, inputs in (
        (rgb_encoder, [rgb for rgb, _ in drawn]),
        (depth_encoder, [depth for _, depth in drawn]),
    ):
        load_encoder(encoder, layers)
        spread_into_norms(encoder, inputs)


@torch.no_grad()
def spread_into_norms(encoder: nn.Module, inputs: Iterable[Tensor]) -> None:
    """Give every batch norm the statistics of its input, without changing the function.

    Afterwards each convolution's output has about unit variance, and scale and shift are
    parameters of the norm that follows: what training from scratch arrives at.

    Args:
        encoder: Every convolution is followed by its batch norm; put into evaluation mode.
        inputs: Batches to measure on.
    """
    encoder.eval()
    sums: dict[nn.BatchNorm2d, list[Tensor]] = {}

    def measure(norm: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        assert isinstance(norm, nn.BatchNorm2d)
        x = arguments[0].double()
        parts = [x.new_tensor(x.numel() / x.shape[1]), x.sum((0, 2, 3)), x.square().sum((0, 2, 3))]
        before = sums.get(norm)
        sums[norm] = (
            parts if before is None else [a + b for a, b in zip(before, parts, strict=True)]
        )

    pairs = list(zip(*(_kind(encoder, k) for k in (nn.Conv2d, nn.BatchNorm2d)), strict=True))
    hooks = [norm.register_forward_pre_hook(measure) for _, norm in pairs]
    for batch in inputs:
        encoder(batch)
    for hook in hooks:
        hook.remove()
    for convolution, norm in pairs:
        assert isinstance(norm, nn.BatchNorm2d)
        _spread(convolution, norm, *sums[norm])


def _kind(module: nn.Module, kind: type[nn.Module]) -> list[nn.Module]:
    return [child for child in module.modules() if isinstance(child, kind)]


def _spread(
    convolution: nn.Module, norm: nn.BatchNorm2d, n: Tensor, total: Tensor, squares: Tensor
) -> None:
    mean = total / n
    variance = (squares / n - mean.square()).clamp(min=0)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    old_gain = norm.weight / (norm.running_var + norm.eps).sqrt()
    old_shift = norm.bias - norm.running_mean * old_gain
    unit = variance.sqrt().clamp(min=_DEAD)
    new_variance = variance / unit.square()
    # old_gain * y + old_shift = gain * (y / unit - mean / unit) / sqrt(new_variance + eps) + shift
    gain = old_gain * unit * (new_variance + norm.eps).sqrt()
    convolution.weight.div_(unit.to(torch.float32)[:, None, None, None])  # type: ignore[operator]
    norm.running_mean.copy_(mean / unit)
    norm.running_var.copy_(new_variance)
    norm.weight.copy_(gain)
    norm.bias.copy_(old_shift + mean * old_gain)


class Classifier(nn.Module):
    """The whole ImageNet network around our encoder: proof that the weights sit where they should.

    Args:
        layers: What :func:`read_layers` gave.
        same_padding: Pad as the weights were trained, below and on the right at stride 2, instead
            of as our encoder does.
    """

    def __init__(self, layers: list[Layer], *, same_padding: bool = False) -> None:
        super().__init__()
        self.encoder = MobileNetV2(3)
        load_encoder(self.encoder, layers)
        self.tail = layers[ENCODER_CONVOLUTIONS:]
        for module in _kind(self.encoder, nn.Conv2d):
            assert isinstance(module, nn.Conv2d)
            if same_padding and module.stride == (2, 2):
                module.padding = (0, 0)
                module.register_forward_pre_hook(_pad_below_and_right)

    def forward(self, rgb: Tensor) -> Tensor:
        """Colour as our model takes it, (B, 3, h, w) -> (B, 1001) logits; class 0: background."""
        (weight, bias), (last_weight, last_bias) = self.tail
        x = functional.conv2d(self.encoder(rgb)[-1], weight, bias).clamp(0, 6)
        return functional.conv2d(x.mean((2, 3), keepdim=True), last_weight, last_bias).flatten(1)


def _pad_below_and_right(_: nn.Module, arguments: tuple[Tensor, ...]) -> Tensor:
    return functional.pad(arguments[0], (0, 1, 0, 1))


def _in_order(arrays: np.lib.npyio.NpzFile) -> list[Layer]:
    return [
        (
            torch.from_numpy(arrays[f"{index:02d}.w"].astype(np.float32)),
            torch.from_numpy(arrays[f"{index:02d}.b"].astype(np.float32)),
        )
        for index in range(len(arrays.files) // 2)
    ]


def _for_colour(weight: Tensor, bias: Tensor) -> Layer:
    mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    shift = (weight * (2 * mean - 1)[:, None, None]).sum((1, 2, 3))
    return weight * (2 * std)[:, None, None], bias + shift


def _for_depth(weight: Tensor, bias: Tensor) -> Layer:
    return 2 * weight.sum(1, keepdim=True), bias - weight.sum((1, 2, 3))
