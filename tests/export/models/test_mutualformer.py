"""The MutualFormer block against its equations, written out in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edge_fusion.errors import ModelError
from edge_fusion.export.models.mutualformer import (
    BLOCK_KEYS,
    DIFFUSIONS,
    CrossDiffusionAttention,
    MutualFormer,
)

SHAPES_AT_64 = {
    "norm1.weight": (128,),
    "norm1_rd.bias": (64,),
    "attn.qkv_r.weight": (192, 64),
    "attn.qkv_d.weight": (192, 64),
    "attn.qkv.weight": (192, 64),
    "attn.proj_rd.weight": (64, 128),
    "attn.proj_r.weight": (64, 128),
    "attn.proj_d.weight": (64, 128),
    "attn.proj.weight": (64, 64),
    "attn.proj.bias": (64,),
    "norm2.weight": (64,),
    "mlp.fc1.weight": (256, 64),
    "mlp.fc2.weight": (64, 256),
}


def randomised(module: torch.nn.Module, seed: int = 0, gain: float = 1.0) -> torch.nn.Module:
    """Every parameter random, so that no term of the block vanishes by its initial value."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * gain)
    return module.double().eval()


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def block_by_the_paper(w, x, xrd, heads):
    """One sample through the equations, one head at a time, with every matrix written out."""

    def norm(name, t):
        scaled = (t - t.mean(-1, keepdims=True)) / np.sqrt(t.var(-1, keepdims=True) + 1e-5)
        return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(name, t):
        return t @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0)

    def qkv(name, t, head):
        size = t.shape[1] // heads
        return [p.reshape(-1, heads, size)[:, head] for p in np.split(linear(name, t), 3, axis=1)]

    def symmetric_norm(a):
        d = np.diag(a.sum(1) ** -0.5)
        return d @ a.T @ d

    x_r, x_d = np.split(norm("norm1", x), 2, axis=1)
    m = norm("norm1_rd", xrd)
    branches = {name: [] for name in ("o", "r", "rd", "d", "dr")}
    for head in range(heads):
        (q_r, k_r, v_r), (q_d, k_d, v_d), (q, k, v) = (
            qkv(f"attn.{name}", t, head) for name, t in (("qkv_r", x_r), ("qkv_d", x_d), ("qkv", m))
        )
        scale = q.shape[1] ** -0.5
        a_r, a_d = softmax(q_r @ k_r.T * scale), softmax(q_d @ k_d.T * scale)
        s_r, s_d, y = symmetric_norm(a_r), symmetric_norm(a_d), a_r + a_d
        branches["o"].append(softmax(q @ k.T * scale) @ v)
        branches["r"].append(a_r @ v_r)
        branches["d"].append(a_d @ v_d)
        branches["rd"].append((0.6 * s_r @ s_d.T + 0.4 * y) @ v_d)
        branches["dr"].append((0.6 * s_d @ s_r.T + 0.4 * y) @ v_r)
    o, r, rd, d, dr = (np.concatenate(parts, 1) for parts in branches.values())
    u = np.concatenate(
        [
            linear("attn.proj_r", np.concatenate([r, rd], 1)),
            linear("attn.proj_d", np.concatenate([d, dr], 1)),
        ],
        1,
    )
    y = xrd + linear("attn.proj", o) + linear("attn.proj_rd", u)
    hidden = torch.from_numpy(linear("mlp.fc1", norm("norm2", y)))
    return y + linear("mlp.fc2", torch.nn.functional.gelu(hidden).numpy())


def test_block_has_the_published_tensors():
    state = MutualFormer(64).state_dict()
    assert tuple(state) == BLOCK_KEYS
    assert len(BLOCK_KEYS) == 21
    assert {name: tuple(state[name].shape) for name in SHAPES_AT_64} == SHAPES_AT_64


@pytest.mark.parametrize(("dim", "parameters"), [(64, 99_392), (128, 395_392), (256, 1_577_216)])
def test_block_has_the_published_size(dim, parameters):
    assert sum(p.numel() for p in MutualFormer(dim).parameters()) == parameters
    assert parameters == 24 * dim**2 + 17 * dim


@pytest.mark.parametrize("reference", [True, False])
def test_block_computes_the_equations(reference):
    block = randomised(MutualFormer(16, heads=4, reference=reference), gain=0.5)
    rng = np.random.default_rng(1)
    x, xrd = rng.normal(size=(12, 32)), rng.normal(size=(12, 16))
    weights = {name: t.numpy() for name, t in block.state_dict().items()}
    with torch.no_grad():
        got = block(torch.from_numpy(x)[None], torch.from_numpy(xrd)[None])[0].numpy()
    np.testing.assert_allclose(got, block_by_the_paper(weights, x, xrd, 4), rtol=0, atol=1e-11)


@pytest.mark.parametrize(
    ("dim", "tokens", "gain"),
    [
        (64, 64, 0.05),  # as after initialisation: nearly uniform attention
        (64, 100, 0.3),
        (32, 25, 1.0),  # attention as peaked as it gets
    ],
)
def test_folded_form_equals_the_published_one(dim, tokens, gain):
    published = randomised(CrossDiffusionAttention(dim, form="published"), gain=gain)
    folded = CrossDiffusionAttention(dim, form="folded").double()
    folded.load_state_dict(published.state_dict())
    x = torch.randn(2, tokens, 2 * dim, dtype=torch.float64)
    xrd = torch.randn(2, tokens, dim, dtype=torch.float64)
    with torch.no_grad():
        expected = published(x, xrd)
        error = (expected - folded(x, xrd)).abs().max() / expected.abs().max()
    assert error <= 1e-13


def test_fold_rests_on_rows_that_sum_to_one():
    # without softmax the two forms differ: the equality above is not one of bilinear algebra alone
    a_r, a_d = torch.rand(2, 1, 1, 6, 6, dtype=torch.float64)
    v = torch.randn(1, 1, 6, 4, dtype=torch.float64)
    published, folded = (DIFFUSIONS[form](a_r, a_d, v, v) for form in ("published", "folded"))
    assert (published.rd - folded.rd).abs().max() > 0.1
    torch.testing.assert_close(published.r, folded.r)


@pytest.mark.parametrize("reference", [True, False])
def test_forward_makes_no_parameter_and_depends_on_no_batch_size(reference):
    block = randomised(MutualFormer(16, reference=reference))
    x, xrd = torch.randn(3, 10, 32).double(), torch.randn(3, 10, 16).double()
    with torch.no_grad():
        whole = block(x, xrd)
        one = block(x[1:2], xrd[1:2])
    assert tuple(block.state_dict()) == BLOCK_KEYS
    torch.testing.assert_close(whole[1:2], one)


def test_modalities_are_not_interchangeable():
    block = randomised(MutualFormer(16))
    r, d, xrd = torch.randn(3, 1, 10, 16).double()
    with torch.no_grad():
        there = block(torch.cat((r, d), -1), xrd)
        back = block(torch.cat((d, r), -1), xrd)
    assert (there - back).abs().max() > 1e-3


def test_width_that_the_heads_do_not_divide_is_refused():
    with pytest.raises(ModelError, match=r"divisible by its 8 heads, got 60 channels; choose"):
        MutualFormer(60)
