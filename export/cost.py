"""What a network costs: parameters and multiply-accumulates."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from edge_fusion.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class Cost:
    """Size and work of one network at batch 1.

    Attributes:
        parameters: Learned numbers; buffers such as batch-norm statistics do not count.
        macs: Multiply-accumulates of convolutions and matrix products of one forward pass, half
            the FLOPs.
    """

    parameters: int
    macs: int


def count_cost(module: nn.Module, spec: ModelSpec) -> Cost:
    """Count parameters and multiply-accumulates at the input size of ``spec``.

    Nothing is computed: shapes alone are followed, so that a large network counts at once.

    Args:
        module: A network (rgb, depth) -> anything.
        spec: Its inputs; batch 1.

    Example:
        >>> from edge_fusion.export.models.registry import MODELS, create_model
        >>> entry = MODELS["add-mobilenetv2"]
        >>> count_cost(create_model(entry.name), entry.spec).parameters < 4_500_000
        True
    """
    return count_call(module, *(tensor.shape for tensor in spec.inputs))


def count_call(module: nn.Module, *shapes: tuple[int, ...]) -> Cost:
    """As :func:`count_cost`, for a module with inputs of any ``shapes``."""
    parameters = list(module.parameters())
    dtype = parameters[0].dtype if parameters else torch.float32
    training = module.training
    module.eval()
    try:
        # Fake tensors carry shapes alone, so that nothing is computed.
        with (
            FakeTensorMode(allow_non_fake_inputs=True),
            torch.no_grad(),
            FlopCounterMode(display=False) as counter,
        ):
            module(*(torch.zeros(shape, dtype=dtype) for shape in shapes))
    finally:
        module.train(training)
    return Cost(sum(p.numel() for p in parameters), counter.get_total_flops() // 2)
