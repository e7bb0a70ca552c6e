"""What a network costs: parameters and multiply-accumulates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from edge_fusion.errors import ModelError
from edge_fusion.runtime.ort import first_line
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

    Shapes alone are followed, so that a large network counts at once.  Where they do not
    suffice, as for control flow that depends on values, the network runs once, on zeros: what is
    counted is the way that zeros take.

    Args:
        module: A network (rgb, depth) -> anything; it is not changed.
        spec: Its inputs; batch 1.

    Raises:
        ModelError: The network does not take these inputs.

    Example:
        >>> from edge_fusion.export.models.registry import MODELS, create_model
        >>> entry = MODELS["add-mobilenetv2"]
        >>> count_cost(create_model(entry.name), entry.spec).parameters < 4_500_000
        True
    """
    inputs = {tensor.name: tensor.shape for tensor in spec.inputs}
    call = ", ".join(f"{name} {shape}" for name, shape in inputs.items())
    return _count(module, list(inputs.values()), f"forward({call})")


def count_call(module: nn.Module, *shapes: tuple[int, ...]) -> Cost:
    """As :func:`count_cost`, for a module with inputs of any ``shapes``.

    Raises:
        ModelError: The module does not take inputs of these shapes.

    Example:
        >>> count_call(nn.Linear(5, 7), (3, 5))
        Cost(parameters=42, macs=105)
    """
    return _count(module, shapes, f"forward({', '.join(map(str, shapes))})")


def _count(module: nn.Module, shapes: Sequence[tuple[int, ...]], call: str) -> Cost:
    try:
        macs = _macs(module, shapes, FakeTensorMode(allow_non_fake_inputs=True))
    except Exception:  # a branch or a size that depends on values, an operator without shapes ...
        macs = _macs_by_running(module, shapes, call)
    return Cost(sum(p.numel() for p in module.parameters()), macs)


def _macs_by_running(module: nn.Module, shapes: Sequence[tuple[int, ...]], call: str) -> int:
    """What shapes alone could not follow, or the network's own failure in words."""
    try:
        return _macs(module, shapes, nullcontext())
    except Exception as err:  # a user's network raises whatever its code raises
        raise ModelError(
            f"{type(module).__name__} fails on the inputs of its record",
            expected=call,
            got=f"{type(err).__name__}: {first_line(err)}",
            cure="correct size, channels or names in the input record, or the network's forward",
        ) from err


def _macs(
    module: nn.Module, shapes: Sequence[tuple[int, ...]], mode: AbstractContextManager[object]
) -> int:
    """Multiply-accumulates of one pass over zeros, real ones or those that ``mode`` makes."""
    dtype = next((p.dtype for p in module.parameters()), torch.float32)
    with _evaluating(module), mode, torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(*(torch.zeros(shape, dtype=dtype) for shape in shapes))
    return int(counter.get_total_flops()) // 2


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode; afterwards every submodule is in its own mode again.

    ``module.train()`` would wake the parts that fine-tuning keeps frozen.
    """
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training
