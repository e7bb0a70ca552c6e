"""Cross-modal re-parameterisation (Zhang et al., "Multimodal Pathway", CVPR 2024).

A Linear of one modality borrows the same Linear of another modality's network during training and
costs nothing once folded.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class CrossModalReparamLinear(nn.Module):
    """A Linear with an auxiliary weight: ``y = x (W + lambda W_aux)^T + b``.

    Fold it (:func:`edge_fusion.export.fold.fold_reparameterised_linears`) before calibration: what
    runs, and is quantized, is the sum.

    Args:
        inputs: Input features.
        outputs: Output features.
        bias: Whether there is a bias; the auxiliary network's bias is not used.

    Attributes:
        weight: W, (outputs, inputs).
        weight_aux: W_aux of the other modality, the same shape.
        scale: lambda, (1,); zero at the start, so that training begins from W alone.

    Example:
        >>> CrossModalReparamLinear(4, 8)(torch.zeros(2, 4)).shape
        torch.Size([2, 8])
    """

    def __init__(self, inputs: int, outputs: int, *, bias: bool = True) -> None:
        super().__init__()
        own = nn.Linear(inputs, outputs, bias=bias)
        self.weight = own.weight
        self.bias = own.bias
        self.weight_aux = nn.Parameter(torch.zeros(outputs, inputs))
        self.scale = nn.Parameter(torch.zeros(1))

    def effective_weight(self) -> Tensor:
        """W + lambda W_aux, (outputs, inputs)."""
        return self.weight + self.scale * self.weight_aux

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs)."""
        return functional.linear(x, self.effective_weight(), self.bias)
