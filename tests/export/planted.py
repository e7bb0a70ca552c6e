"""The tiny network with one layer that INT8 ruins: the answer to a search is known."""

from __future__ import annotations

import torch
from torch import nn

from .tiny import TwoStream, two_stream

SENSITIVE = "rgb_encoder.features.2.0/Conv"
_OUTLIER = 3000.0


def planted() -> TwoStream:
    """The tiny network with one channel that takes the whole 8-bit range of a layer's input.

    The channel is made large where it is written and small again where it is read, which changes
    nothing in floating point: ReLU hands a positive factor through.
    """
    network = two_stream()
    writer, reader = network.rgb_encoder.features[1], network.rgb_encoder.features[2]
    norm, conv = writer[1], reader[0]
    assert isinstance(norm, nn.BatchNorm2d)
    assert isinstance(conv, nn.Conv2d)
    with torch.no_grad():
        norm.weight[0] *= _OUTLIER
        norm.bias[0] *= _OUTLIER
        conv.weight[:, 0] /= _OUTLIER
    return network
