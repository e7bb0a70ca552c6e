"""The MutualFormer block: cross-diffusion attention between two modalities.

From the equations of Wang et al., "MutualFormer: Multi-Modality Representation Learning via
Cross-Diffusion Attention" (IJCV 2024, arXiv 2112.01177), with the parameter names and shapes of
the published block, so that weights of such blocks load unchanged.

The attention comes in two forms that compute the same function:

``published``
    Builds the N x N diffusion matrices: eight N x N x N products per head.
``folded``
    Never builds them.  The softmax rows of A sum to one, so the symmetric normalisation
    S = D^-1/2 A^T D^-1/2 is A^T, and A_r^T A_d V_d = A_r^T (A_d V_d) by associativity, where
    A_d V_d is computed for the self-attention anyway.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from edge_fusion.errors import ModelError

Form = Literal["published", "folded"]

HEADS = 8
#: Weight of the diffused affinity against the plain sum of affinities: 0.6, fixed, not learned.
DIFFUSION = 0.6

#: The tensors of one block, by name below the block, in the order of its state dict.
BLOCK_KEYS = (
    *("norm1.weight", "norm1.bias", "norm1_rd.weight", "norm1_rd.bias"),
    *("attn.qkv_r.weight", "attn.qkv_d.weight", "attn.qkv.weight"),
    *("attn.proj_rd.weight", "attn.proj_rd.bias", "attn.proj_r.weight", "attn.proj_r.bias"),
    *("attn.proj_d.weight", "attn.proj_d.bias", "attn.proj.weight", "attn.proj.bias"),
    *("norm2.weight", "norm2.bias"),
    *("mlp.fc1.weight", "mlp.fc1.bias", "mlp.fc2.weight", "mlp.fc2.bias"),
)


class Attended(NamedTuple):
    """What one round of attention yields, each (B, heads, N, C / heads)."""

    r: Tensor
    """A_r V_r: self-attention of the colour stream."""
    rd: Tensor
    """A_rd V_d: depth values read through the colour-to-depth diffusion."""
    d: Tensor
    """A_d V_d: self-attention of the depth stream."""
    dr: Tensor
    """A_dr V_r: colour values read through the depth-to-colour diffusion."""


def published_diffusion(a_r: Tensor, a_d: Tensor, v_r: Tensor, v_d: Tensor) -> Attended:
    """Cross-diffusion with its N x N matrices written out.

    Args:
        a_r: Row-stochastic affinity of the colour stream, (B, heads, N, N).
        a_d: The same of the depth stream.
        v_r: Values of the colour stream, (B, heads, N, C / heads).
        v_d: The same of the depth stream.
    """
    s_r, s_d = _normalised_transpose(a_r), _normalised_transpose(a_d)
    identity = torch.eye(a_r.shape[-1], dtype=a_r.dtype, device=a_r.device).expand_as(a_r)
    affinity = a_r + a_d
    # A_rd = alpha S_r I S_d^T + (1 - alpha) (A_r + A_d), A_dr with r and d exchanged.
    # The diffusion starts from I and takes one step.
    a_rd = DIFFUSION * (s_r @ identity @ s_d.transpose(-2, -1)) + (1 - DIFFUSION) * affinity
    a_dr = DIFFUSION * (s_d @ identity @ s_r.transpose(-2, -1)) + (1 - DIFFUSION) * affinity
    return Attended(r=a_r @ v_r, rd=a_rd @ v_d, d=a_d @ v_d, dr=a_dr @ v_r)


def folded_diffusion(a_r: Tensor, a_d: Tensor, v_r: Tensor, v_d: Tensor) -> Attended:
    """Cross-diffusion reordered by associativity; takes and gives what the published form does."""
    values = torch.cat((v_r, v_d), dim=-1)
    r, r_on_d = (a_r @ values).chunk(2, dim=-1)
    d_on_r, d = (a_d @ values).chunk(2, dim=-1)
    # A_rd V_d = alpha A_r^T (A_d V_d) + (1 - alpha) (A_r V_d + A_d V_d)
    rd = DIFFUSION * (a_r.transpose(-2, -1) @ d) + (1 - DIFFUSION) * (r_on_d + d)
    dr = DIFFUSION * (a_d.transpose(-2, -1) @ r) + (1 - DIFFUSION) * (d_on_r + r)
    return Attended(r=r, rd=rd, d=d, dr=dr)


DIFFUSIONS: dict[Form, Callable[[Tensor, Tensor, Tensor, Tensor], Attended]] = {
    "published": published_diffusion,
    "folded": folded_diffusion,
}


def _normalised_transpose(affinity: Tensor) -> Tensor:
    """S = D^-1/2 A^T D^-1/2 with D the diagonal matrix of the row sums of A."""
    scale = torch.diag_embed(affinity.sum(dim=-1).pow(-0.5))
    return (affinity @ scale).transpose(-2, -1) @ scale


class CrossDiffusion(nn.Module):
    """The attention without its output projection: three queries-keys-values, five branches.

    Args:
        dim: Channels C per stream, divisible by ``heads``.
        heads: Attention heads.
        form: Which of :data:`DIFFUSIONS` computes the cross terms.
    """

    def __init__(self, dim: int, heads: int = HEADS, form: Form = "folded") -> None:
        super().__init__()
        if dim % heads:
            raise ModelError(
                "cross-diffusion attention",
                expected=f"channels divisible by its {heads} heads",
                got=f"{dim} channels",
                cure="choose another width or number of heads",
            )
        self.dim, self.heads, self.form = dim, heads, form
        self.scale = (dim // heads) ** -0.5
        self.qkv_r = nn.Linear(dim, 3 * dim, bias=False)
        self.qkv_d = nn.Linear(dim, 3 * dim, bias=False)
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)

    def branches(self, x: Tensor, xrd: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """The merged stream's self-attention, then r, rd, d, dr of :class:`Attended`.

        Args:
            x: Normalised colour and depth tokens side by side, (B, N, 2C).
            xrd: Normalised merged tokens, (B, N, C).

        Returns:
            Five tensors (B, N, C).
        """
        x_r, x_d = torch.split(x, self.dim, dim=-1)
        a_r, v_r = self._attend(self.qkv_r(x_r))
        a_d, v_d = self._attend(self.qkv_d(x_d))
        a, v = self._attend(self.qkv(xrd))
        cross = DIFFUSIONS[self.form](a_r, a_d, v_r, v_d)
        merge = self._merge_heads
        return merge(a @ v), merge(cross.r), merge(cross.rd), merge(cross.d), merge(cross.dr)

    def _attend(self, qkv: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N, 3C) -> affinity softmax(q k^T / sqrt(C / heads)) and values, split by head."""
        batch, tokens, _ = qkv.shape
        shape = (batch, tokens, self.heads, self.dim // self.heads)
        q, k, v = (
            part.reshape(shape).transpose(1, 2) for part in torch.split(qkv, self.dim, dim=-1)
        )
        return ((q * self.scale) @ k.transpose(-2, -1)).softmax(dim=-1), v

    @staticmethod
    def _merge_heads(x: Tensor) -> Tensor:
        """(B, heads, N, C / heads) -> (B, N, C)."""
        return x.transpose(1, 2).flatten(2)

    def extra_repr(self) -> str:
        """Shown by ``print``."""
        return f"dim={self.dim}, heads={self.heads}, form={self.form}"


class CrossDiffusionAttention(CrossDiffusion):
    """Cross-diffusion attention with the four output Linears of the paper."""

    def __init__(self, dim: int, heads: int = HEADS, form: Form = "folded") -> None:
        super().__init__(dim, heads, form)
        self.proj_rd = nn.Linear(2 * dim, dim)
        self.proj_r = nn.Linear(2 * dim, dim)
        self.proj_d = nn.Linear(2 * dim, dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, xrd: Tensor) -> Tensor:
        """(B, N, 2C) and (B, N, C) -> (B, N, C)."""
        merged, r, rd, d, dr = self.branches(x, xrd)
        u_r = self.proj_r(torch.cat((r, rd), dim=-1))
        u_d = self.proj_d(torch.cat((d, dr), dim=-1))
        out: Tensor = self.proj(merged) + self.proj_rd(torch.cat((u_r, u_d), dim=-1))
        return out


class ComposedAttention(CrossDiffusion):
    """Cross-diffusion attention whose output Linears are composed into one, (5C -> C).

    Made by :func:`edge_fusion.export.fold.fold_output_projections`; never trained.
    """

    def __init__(self, dim: int, heads: int = HEADS, form: Form = "folded") -> None:
        super().__init__(dim, heads, form)
        self.proj_out = nn.Linear(5 * dim, dim)

    def forward(self, x: Tensor, xrd: Tensor) -> Tensor:
        """(B, N, 2C) and (B, N, C) -> (B, N, C)."""
        out: Tensor = self.proj_out(torch.cat(self.branches(x, xrd), dim=-1))
        return out


class FeedForward(nn.Module):
    """The transformer's two-layer perceptron: C -> 4C, GELU, 4C -> C."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        out: Tensor = self.fc2(self.act(self.fc1(x)))
        return out


class MutualFormer(nn.Module):
    """One MutualFormer block.

    A merged stream is refined by two modalities; stack blocks by feeding the same ``x`` with the
    new ``xrd``.  There is no position embedding and no drop path.

    Args:
        dim: Channels C per stream, divisible by ``heads``.
        heads: Attention heads.
        mlp_ratio: Width of the feed-forward network over C.
        reference: Use the published form of the attention instead of the folded one.

    Example:
        >>> import torch
        >>> MutualFormer(64)(torch.zeros(2, 100, 128), torch.zeros(2, 100, 64)).shape
        torch.Size([2, 100, 64])
    """

    def __init__(
        self, dim: int, heads: int = HEADS, mlp_ratio: int = 4, *, reference: bool = False
    ) -> None:
        super().__init__()
        # One joint norm over the 2C channels, as in the published code.
        self.norm1 = nn.LayerNorm(2 * dim)
        self.norm1_rd = nn.LayerNorm(dim)
        self.attn: CrossDiffusion = CrossDiffusionAttention(
            dim, heads, "published" if reference else "folded"
        )
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = FeedForward(dim, mlp_ratio * dim)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor, xrd: Tensor) -> Tensor:
        """Refine the merged tokens.

        Args:
            x: Colour and depth tokens side by side on the channels, (B, N, 2C).
            xrd: Merged tokens, (B, N, C).

        Returns:
            The new merged tokens, (B, N, C).
        """
        y: Tensor = xrd + self.attn(self.norm1(x), self.norm1_rd(xrd))
        y = y + self.mlp(self.norm2(y))
        return y
