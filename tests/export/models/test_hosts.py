"""Hosts: sizes, shapes, deep supervision, bad depth, learning and both ONNX exporters."""

from __future__ import annotations

import warnings
from copy import deepcopy

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn
from torch.nn import functional

from edge_fusion.export.cost import count_cost
from edge_fusion.export.models.hosts import Deployable, FusionHost
from edge_fusion.export.models.mutualformer import MutualFormer
from edge_fusion.export.models.registry import MODELS, create_model

NAMES = tuple(MODELS)


SLOW = {"mutualformer-resnet50"}


@pytest.fixture(
    scope="module",
    params=[pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in NAMES],
)
def host(request) -> FusionHost:
    torch.manual_seed(0)
    return create_model(request.param).eval()


def inputs(height: int = 64, width: int = 96, batch: int = 1):
    generator = torch.Generator().manual_seed(7)
    return (
        torch.randn(batch, 3, height, width, generator=generator),
        torch.rand(batch, 1, height, width, generator=generator),
    )


@pytest.mark.parametrize(
    ("name", "parameters_m", "gmacs"),
    [
        ("mutualformer-mobilenetv2", (3.5, 4.5), (0.5, 1.0)),
        ("mutualformer-resnet50", (51.0, 53.0), (10.0, 20.0)),  # the paper's table says 52.05 M
        ("add-mobilenetv2", (3.5, 4.0), (0.5, 0.85)),
    ],
)
def test_size_and_work_at_256(name, parameters_m, gmacs):
    cost = count_cost(create_model(name), MODELS[name].spec)
    assert parameters_m[0] <= cost.parameters / 1e6 <= parameters_m[1]
    assert gmacs[0] <= cost.macs / 1e9 <= gmacs[1]


@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 96)])
def test_logits_have_the_size_of_the_input(host, height, width):
    with torch.no_grad():
        assert host(*inputs(height, width, batch=2)).shape == (2, 1, height, width)


def test_sides_are_full_size_and_begin_with_the_deployed_output(host):
    with torch.no_grad():
        sides = host.forward_with_sides(*inputs())
        final = host(*inputs())
    assert [tuple(s.shape) for s in sides] == [(1, 1, 64, 96)] * 4
    torch.testing.assert_close(sides[0], final)
    assert (sides[0] - sides[3]).abs().max() > 0


def test_every_parameter_learns(host):
    host.train()
    try:
        sum(side.square().mean() for side in host.forward_with_sides(*inputs(batch=2))).backward()
        without = [name for name, p in host.named_parameters() if p.grad is None]
    finally:
        host.zero_grad(set_to_none=True)
        host.eval()
    assert without == []


def test_deployable_gives_probabilities_and_leaves_the_host_alone(host):
    keys = tuple(host.state_dict())
    with torch.no_grad():
        saliency, logits = Deployable(host)(*inputs()), host(*inputs())
    torch.testing.assert_close(saliency, logits.sigmoid())
    assert tuple(host.state_dict()) == keys


@pytest.mark.parametrize(
    "depth",
    [
        torch.zeros(1, 1, 64, 96),  # no reading anywhere
        torch.ones(1, 1, 64, 96),  # everything equally near
        (torch.rand(1, 1, 64, 96) > 0.5).float(),  # noise
    ],
    ids=["empty", "flat", "noise"],
)
def test_bad_depth_gives_finite_logits(host, depth):
    with torch.no_grad():
        assert host(inputs()[0], depth).isfinite().all()


def test_closed_gate_removes_depth():
    host = create_model("mutualformer-mobilenetv2").eval()
    rgb, depth = inputs()
    with torch.no_grad():
        assert (host(rgb, depth) - host(rgb, 1 - depth)).abs().max() > 0
        host.depth_gate.excite.bias.fill_(-1e4)
        torch.testing.assert_close(host(rgb, depth), host(rgb, 1 - depth), rtol=0, atol=0)


def test_gates_start_mostly_open():
    host = create_model("mutualformer-mobilenetv2")
    ones = tuple(torch.ones(1, 64, 64 // s, 64 // s) for s in (4, 8, 16, 32))
    assert all(g.min() > 0.85 and g.max() < 0.9 for g in host.depth_gate(ones, ones))


def test_reference_differs_in_form_alone():
    forms = {
        reference: {
            m.attn.form
            for m in create(reference=reference).modules()
            if isinstance(m, MutualFormer)
        }
        for create in (MODELS["mutualformer-mobilenetv2"].factory,)
        for reference in (True, False)
    }
    assert forms == {True: {"published"}, False: {"folded"}}


def test_baseline_has_no_attention_and_no_gate():
    kinds = {type(m).__name__ for m in create_model("add-mobilenetv2").modules()}
    assert not kinds & {"MutualFormer", "LayerNorm", "Linear", "DepthGate", "Sigmoid"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mutualformer-mobilenetv2", "add-mobilenetv2"])
def test_learns_a_near_blob_from_scratch(name):
    torch.manual_seed(0)
    host = create_model(name)
    optimiser = torch.optim.AdamW(host.parameters(), lr=2e-3)
    losses = []
    for step in range(40):
        rgb, depth, mask = blobs(seed=step)
        loss = sum(
            functional.binary_cross_entropy_with_logits(side, mask)
            for side in host.forward_with_sides(rgb, depth)
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:3])


def blobs(seed: int, batch: int = 4, size: int = 64):
    """Discs that are nearer than their background and of another colour."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    centre = rng.uniform(0.25, 0.75, (batch, 2, 1, 1)) * size
    mask = (y - centre[:, 0]) ** 2 + (x - centre[:, 1]) ** 2 < (size / 5) ** 2
    colours = rng.normal(size=(batch, 2, 3, 1, 1))
    rgb = np.where(mask[:, None], colours[:, 0], colours[:, 1])
    depth = np.where(mask[:, None], 0.8, 0.2) + rng.normal(0, 0.05, (batch, 1, size, size))
    return (torch.from_numpy(a).float() for a in (rgb, depth, mask[:, None]))


def with_batch_statistics(host: nn.Module) -> nn.Module:
    """Batch norms that have seen data, as a trained network's have."""
    for norm in host.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = 1.0
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, std=0.1)
    with torch.no_grad():
        host.train()(*inputs(batch=4))
    return host


@pytest.mark.slow
@pytest.mark.parametrize("dynamo", [True, False], ids=["dynamo", "legacy"])
def test_both_exporters_give_the_same_function(host, dynamo, tmp_path):
    deployed = Deployable(with_batch_statistics(host)).eval()
    example = inputs()
    path = tmp_path / "model.onnx"
    extra = {"external_data": False, "verbose": False} if dynamo else {}
    with warnings.catch_warnings():
        # torch's exporters warn about themselves: deprecated internals, the legacy exporter's end
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        torch.onnx.export(
            deployed,
            example,
            path,
            dynamo=dynamo,
            opset_version=18,
            input_names=["rgb", "depth"],
            output_names=["saliency"],
            **extra,
        )
    graph = onnx.load(path).graph
    dynamic = [d for i in graph.input for d in i.type.tensor_type.shape.dim if d.dim_param]
    assert not dynamic
    norms = sum(node.op_type == "LayerNormalization" for node in graph.node)
    assert norms == 3 * sum(isinstance(m, MutualFormer) for m in host.modules())
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    rgb, depth = (tensor.numpy() for tensor in example)
    (got,) = session.run(["saliency"], {"rgb": rgb, "depth": depth})
    with torch.no_grad():
        expected = deployed(*example).numpy()
        exact = deepcopy(deployed).double()(*(t.double() for t in example)).numpy()
    assert np.ptp(exact) > 0.05  # not a saturated map, which would match by itself
    # An untrained network amplifies rounding: ONNX Runtime may err as much as torch does.
    assert abs(got - exact).max() <= 5 * abs(expected - exact).max()
