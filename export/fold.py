"""Exact algebra on a network before it is traced: the same function, fewer operations.

Every fold returns a new module in evaluation mode and a record of what it changed, and leaves its
input alone.  The results differ from the originals by rounding only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from edge_fusion.errors import StepError

from .models.mutualformer import ComposedAttention, CrossDiffusion, CrossDiffusionAttention
from .models.reparam import CrossModalReparamLinear


@dataclass(frozen=True, slots=True)
class FoldRecord:
    """What one fold did.

    Attributes:
        name: Which fold, such as ``batch-norm``.
        summary: The algebra in words.
        modules: Paths of the modules it folded; empty where there was nothing to fold.
    """

    name: str
    summary: str
    modules: tuple[str, ...]

    @property
    def applied(self) -> bool:
        """Whether anything was folded."""
        return bool(self.modules)


@dataclass(frozen=True, slots=True)
class FoldResult:
    """A folded network.

    Attributes:
        module: A new network in evaluation mode.
        folds: The folds that changed something, in the order they were done.
    """

    module: nn.Module
    folds: tuple[FoldRecord, ...]


M = TypeVar("M", bound=nn.Module)
#: Folds a network in place; the root itself may be replaced, hence it is given back.
Fold = Callable[[nn.Module], tuple[nn.Module, FoldRecord]]


def fold(module: nn.Module) -> FoldResult:
    """Apply every fold of :data:`FOLDS` that finds something.

    A part that a hook watches is left as it is: a fold would silence the hook.

    Args:
        module: Any network; it is not changed.

    Raises:
        StepError: The network cannot be copied.

    Example:
        >>> from edge_fusion.export.models.registry import create_model
        >>> result = fold(create_model("mutualformer-mobilenetv2"))
        >>> [record.name for record in result.folds]
        ['batch-norm', 'output-projections']
    """
    records = []
    network = _copy(module)
    for step in FOLDS:
        network, record = step(network)
        if record.applied:
            records.append(record)
    return FoldResult(network, tuple(records))


def fold_batch_norms(module: nn.Module) -> tuple[nn.Module, FoldRecord]:
    """Fold batch norms into the convolutions before them.

    W' = W gamma / sqrt(var + eps),  b' = (b - mean) gamma / sqrt(var + eps) + beta.

    A pair is taken where the data flow is certain: neighbours in a plain ``nn.Sequential``, or the
    pairs that a module names in ``conv_norm_pairs``.  The batch norm becomes an identity.

    Args:
        module: Any network; it is not changed.

    Raises:
        StepError: The network cannot be copied.

    Example:
        >>> fold_batch_norms(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)))[1].modules
        ('0',)
    """
    return _batch_norms(_copy(module))


def fold_cross_diffusion(module: nn.Module) -> tuple[nn.Module, FoldRecord]:
    """Reorder published cross-diffusion so that no N x N x N product is left.

    The rows of a softmax sum to one, hence S_r I S_d^T = A_r^T A_d, and
    (A_r^T A_d) V_d = A_r^T (A_d V_d).

    Args:
        module: Any network; it is not changed.

    Raises:
        StepError: The network cannot be copied.

    Example:
        >>> from edge_fusion.export.models.mutualformer import MutualFormer
        >>> fold_cross_diffusion(MutualFormer(16, reference=True))[1].modules
        ('attn',)
    """
    return _cross_diffusion(_copy(module))


def fold_output_projections(module: nn.Module) -> tuple[nn.Module, FoldRecord]:
    """Compose the four output Linears of cross-diffusion attention, 7 C^2 to 5 C^2 MACs per token.

    With proj_rd = [W_1 W_2]:  W = [W_p, W_1 W_r, W_2 W_d],  b = b_p + b_rd + W_1 b_r + W_2 b_d.

    Args:
        module: Any network; it is not changed.

    Raises:
        StepError: The network cannot be copied.

    Example:
        >>> from edge_fusion.export.models.mutualformer import MutualFormer
        >>> fold_output_projections(MutualFormer(16))[0].attn.proj_out
        Linear(in_features=80, out_features=16, bias=True)
    """
    return _output_projections(_copy(module))


def fold_reparameterised_linears(module: nn.Module) -> tuple[nn.Module, FoldRecord]:
    """Replace W + lambda W_aux by one weight in a plain Linear.

    Args:
        module: Any network; it is not changed.

    Raises:
        StepError: The network cannot be copied.

    Example:
        >>> fold_reparameterised_linears(CrossModalReparamLinear(4, 8))[0]
        Linear(in_features=4, out_features=8, bias=True)
    """
    return _reparameterised_linears(_copy(module))


def _batch_norms(network: nn.Module) -> tuple[nn.Module, FoldRecord]:
    uses = Counter(id(m) for _, m in network.named_modules(remove_duplicate=False))
    done = []
    for owner_path, owner in network.named_modules():
        for conv_name, norm_name in _conv_norm_pairs(owner):
            conv, norm = getattr(owner, conv_name), getattr(owner, norm_name)
            # A shared layer has other callers that must keep seeing it unfolded.
            shared = uses[id(conv)] > 1 or uses[id(norm)] > 1
            if shared or not _foldable(conv, norm):
                continue
            setattr(owner, conv_name, fuse_conv_bn_eval(conv, norm))
            setattr(owner, norm_name, nn.Identity().eval())
            done.append(_join(owner_path, conv_name))
    return network, FoldRecord("batch-norm", "batch norms folded into convolutions", tuple(done))


def _cross_diffusion(network: nn.Module) -> tuple[nn.Module, FoldRecord]:
    done = []
    for path, attention in _of_type(network, CrossDiffusion):
        if attention.form == "published":
            attention.form = "folded"
            done.append(path)
    summary = "cross-diffusion reordered: no N x N x N product left"
    return network, FoldRecord("cross-diffusion", summary, tuple(done))


def _output_projections(network: nn.Module) -> tuple[nn.Module, FoldRecord]:
    done = []
    for path, attention in _of_type(network, CrossDiffusionAttention):
        gone = (attention.proj, attention.proj_r, attention.proj_d, attention.proj_rd)
        if not _hooked(attention, *gone):
            network = _replace(network, path, _compose_outputs(attention))
            done.append(path)
    summary = "four output Linears composed into one"
    return network, FoldRecord("output-projections", summary, tuple(done))


def _reparameterised_linears(network: nn.Module) -> tuple[nn.Module, FoldRecord]:
    done = []
    for path, linear in _of_type(network, CrossModalReparamLinear):
        if _hooked(linear):
            continue
        outputs, inputs = linear.weight.shape
        plain = nn.Linear(inputs, outputs, bias=linear.bias is not None).to(linear.weight)
        _assign(plain, linear.effective_weight(), linear.bias)
        network = _replace(network, path, plain.eval())
        done.append(path)
    summary = "auxiliary weights of another modality added to the own"
    return network, FoldRecord("reparameterisation", summary, tuple(done))


#: In the order they are done; each applies to what the ones before left.
FOLDS: tuple[Fold, ...] = (
    _batch_norms,
    _cross_diffusion,
    _output_projections,
    _reparameterised_linears,
)

#: The batch norm that normalises what a convolution of this kind puts out.
NORM_OF: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv1d: nn.BatchNorm1d,
    nn.Conv2d: nn.BatchNorm2d,
    nn.Conv3d: nn.BatchNorm3d,
}


def _conv_norm_pairs(owner: nn.Module) -> list[tuple[str, str]]:
    """Names of children of ``owner`` that may be a convolution and the batch norm after it."""
    if isinstance(owner, nn.Sequential) and type(owner).forward is nn.Sequential.forward:
        names = list(owner._modules)
        return list(pairwise(names))
    return list(getattr(owner, "conv_norm_pairs", ()))


def _foldable(conv: nn.Module, norm: nn.Module) -> bool:
    """A plain convolution and a batch norm that uses stored statistics.

    Exact types: a subclass, as parametrised and quantization-aware layers are, may compute
    something else.
    """
    wanted = NORM_OF.get(type(conv))
    return (
        wanted is not None
        and type(norm) is wanted
        and isinstance(norm.running_mean, Tensor)
        and not _hooked(conv, norm)
    )


def _hooked(*modules: nn.Module) -> bool:
    """Whether anything watches or changes what goes into or out of these modules."""
    return any(module._forward_hooks or module._forward_pre_hooks for module in modules)


def _compose_outputs(attention: CrossDiffusionAttention) -> ComposedAttention:
    """The attention with one Linear over [merged, r, rd, d, dr]."""
    first, second = attention.proj_rd.weight.chunk(2, dim=1)
    weight = torch.cat(
        (
            attention.proj.weight,
            first @ attention.proj_r.weight,
            second @ attention.proj_d.weight,
        ),
        dim=1,
    )
    bias = (
        attention.proj.bias
        + attention.proj_rd.bias
        + first @ attention.proj_r.bias
        + second @ attention.proj_d.bias
    )
    composed = ComposedAttention(attention.dim, attention.heads, attention.form)
    composed.qkv_r, composed.qkv_d, composed.qkv = attention.qkv_r, attention.qkv_d, attention.qkv
    _assign(composed.proj_out, weight, bias)
    return composed.eval()


def _assign(linear: nn.Linear, weight: Tensor, bias: Tensor | None) -> None:
    """Give a Linear new values, in their own precision and on their own device."""
    linear.weight = nn.Parameter(weight.detach().clone())
    linear.register_parameter("bias", None if bias is None else nn.Parameter(bias.detach().clone()))


def _copy(module: nn.Module) -> nn.Module:
    try:
        return deepcopy(module).eval()
    # A network may hold anything: an open file, a tensor of a recorded graph.
    except Exception as err:
        raise StepError(
            f"fold: cannot copy {type(module).__name__}",
            got=f"{type(err).__name__}: {err}",
            cure="keep what copy.deepcopy cannot copy out of the network",
        ) from err


def _of_type(root: nn.Module, kind: type[M]) -> list[tuple[str, M]]:
    """Every module of a kind and its path, under each of its paths if it is shared."""
    return [
        (path, module)
        for path, module in root.named_modules(remove_duplicate=False)
        if isinstance(module, kind)
    ]


def _replace(root: nn.Module, path: str, new: nn.Module) -> nn.Module:
    """Put ``new`` at ``path`` of ``root``; the empty path is the root itself."""
    if not path:
        return new
    parent, _, name = path.rpartition(".")
    setattr(root.get_submodule(parent), name, new)
    return root


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
