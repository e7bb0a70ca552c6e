"""Tracing: the same answers, fixed shapes, readable names, the same bytes every time."""

from __future__ import annotations

import collections

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from edge_fusion.errors import ModelError, SessionError, StepError
from edge_fusion.export.cost import count_cost
from edge_fusion.export.parity import check_parity
from edge_fusion.export.trace import TraceOptions, torch_runner, trace
from edge_fusion.runtime.ort import OrtSession


def shape(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    return tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)


def op_types(model: onnx.ModelProto) -> collections.Counter[str]:
    return collections.Counter(node.op_type for node in model.graph.node)


def way(opset: int, exporter: str, *marks: pytest.MarkDecorator) -> object:
    return pytest.param(TraceOptions(opset, exporter), id=f"{exporter}-{opset}", marks=marks)


EVERY_WAY = [
    way(17, "dynamo"),  # converted down from 18: TensorRT 8
    way(18, "dynamo"),
    way(19, "dynamo", pytest.mark.slow),  # FP16 scales are legal from here on
    way(20, "dynamo", pytest.mark.slow),  # GELU is one operator
    way(17, "legacy"),
    way(18, "legacy"),
]


@pytest.mark.parametrize("options", EVERY_WAY)
def test_the_graph_answers_like_the_network(tiny, options) -> None:
    network = tiny.two_stream()
    model = trace(network, tiny.SPEC, options)
    assert [(item.domain, item.version) for item in model.opset_import] == [("", options.opset)]
    assert [(value.name, shape(value)) for value in model.graph.input] == [
        ("rgb", (1, 3, 32, 32)),
        ("depth", (1, 1, 32, 32)),
    ]
    assert [(value.name, shape(value)) for value in model.graph.output] == [
        ("saliency", (1, 1, 32, 32))
    ]
    with OrtSession(model.SerializeToString(), threads=1) as session:
        report = check_parity(
            "torch-onnx", torch_runner(network, tiny.SPEC), session.run, tiny.samples(3)
        )
    assert report.difference.max_abs < 1e-5


def test_the_same_network_gives_the_same_bytes(tiny, traced) -> None:
    again = trace(tiny.two_stream(), tiny.SPEC)
    assert again.SerializeToString() == traced.SerializeToString()


def test_tracing_leaves_the_network_alone(tiny) -> None:
    network = tiny.two_stream()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    trace(network, tiny.SPEC, TraceOptions(exporter="legacy"))
    assert not network.training
    assert before.keys() == network.state_dict().keys()
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_nothing_is_printed(tiny, capfd) -> None:
    trace(IgnoresDepth().eval(), tiny.SPEC)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == ""


def test_composite_operators_stay_whole(traced) -> None:
    assert op_types(traced)["LayerNormalization"] == 2
    assert op_types(traced)["BatchNormalization"] == 0


@pytest.mark.slow
def test_gelu_is_one_operator_at_opset_20(tiny) -> None:
    newer = op_types(trace(tiny.two_stream(), tiny.SPEC, TraceOptions(opset=20)))
    assert newer["Gelu"] == 1
    assert newer["Erf"] == 0


NAMES = [
    "rgb_encoder.features.0.0/Conv",  # a batch norm folded into it leaves no trace of its name
    "depth_encoder.features.1.0/Conv",
    "fusion.norm1/LayerNormalization",
    "fusion.qkv/MatMul",
    "fusion/Softmax",
    "fusion/MatMul",
    "fusion/MatMul_1",  # the second of its kind in the same module
    "fusion/Add_1",
    "decoder.2/Conv",
    "Sigmoid",  # in the network's own forward
]


@pytest.mark.parametrize("exporter", ["dynamo", "legacy"])
def test_nodes_are_named_after_their_module(tiny, traced, exporter) -> None:
    legacy = exporter == "legacy"
    options = TraceOptions(exporter="legacy")
    model = trace(tiny.two_stream(), tiny.SPEC, options) if legacy else traced
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)
    for name in NAMES:
        assert name in names
        assert name.rpartition("/")[2].startswith(model.graph.node[names.index(name)].op_type)


def test_values_are_named_after_their_node(traced) -> None:
    for node in traced.graph.node[:-1]:
        assert list(node.output) == [node.name]
    assert list(traced.graph.node[-1].output) == ["saliency"]


def test_weights_keep_the_names_of_their_parameters(tiny, traced) -> None:
    weights = {tensor.name for tensor in traced.graph.initializer}
    parameters = set(tiny.two_stream().state_dict())
    assert {"decoder.0.weight", "decoder.0.bias", "fusion.qkv.bias"} <= weights & parameters
    assert "fusion.qkv/MatMul.weight" in weights  # transposed, so no longer the parameter
    assert "Resize.scales" in weights


def test_nothing_of_the_machine_that_traced_stays(traced) -> None:
    content = traced.SerializeToString()
    assert b".py" not in content
    assert b"pkg.torch" not in content


def test_every_shape_is_known(traced) -> None:
    known = {value.name for value in (*traced.graph.value_info, *traced.graph.output)}
    assert {name for node in traced.graph.node for name in node.output} <= known
    assert all(0 not in shape(value) for value in traced.graph.value_info)


class Branching(nn.Module):
    """One weight for both streams, two outputs of one node, and a loop over modules."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Conv2d(1, 4, 3, padding=1)

    def forward(self, rgb: torch.Tensor, depth: torch.Tensor) -> torch.Tensor:
        colour, near = self.shared(rgb.mean(1, keepdim=True)), self.shared(depth)
        first, second = torch.topk(colour + near, 2, dim=1).values.split(1, dim=1)
        return first - second


def test_shared_weights_and_several_outputs_are_told_apart(tiny) -> None:
    network = Branching().eval()
    model = trace(network, tiny.SPEC)
    names = {node.name for node in model.graph.node}
    assert {"shared/Conv", "shared/Conv_1"} <= names
    assert [t.name for t in model.graph.initializer].count("shared.weight") == 1
    with OrtSession(model.SerializeToString(), threads=1) as session:
        check_parity("torch-onnx", torch_runner(network, tiny.SPEC), session.run, tiny.samples(1))


def test_a_network_in_training_mode_is_refused(tiny) -> None:
    network = tiny.two_stream()
    network.fusion.train()
    with pytest.raises(StepError, match=r"in training mode.*got fusion.*call \.eval\(\)"):
        trace(network, tiny.SPEC)


def test_half_precision_parameters_are_refused(tiny) -> None:
    network = tiny.two_stream()
    network.decoder.double()
    with pytest.raises(StepError, match=r"'decoder.0.weight': expected float32, got float64"):
        trace(network, tiny.SPEC)


class TwoOutputs(nn.Module):
    def forward(self, rgb: torch.Tensor, depth: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return rgb.mean(1, keepdim=True), depth * 2


class IgnoresDepth(nn.Module):
    def forward(self, rgb: torch.Tensor, depth: torch.Tensor) -> torch.Tensor:
        return rgb.mean(1, keepdim=True)


class ThreeChannels(nn.Module):
    def forward(self, rgb: torch.Tensor, depth: torch.Tensor) -> torch.Tensor:
        return rgb * depth


class OneInput(nn.Module):
    def forward(self, rgbd: torch.Tensor) -> torch.Tensor:
        return rgbd


class SizeFromValues(nn.Module):
    def forward(self, rgb: torch.Tensor, depth: torch.Tensor) -> torch.Tensor:
        return depth[:, :, : int(rgb.sum().item())]


class FlowFromValues(nn.Module):
    def forward(self, rgb: torch.Tensor, depth: torch.Tensor) -> torch.Tensor:
        return depth if rgb.sum() > 0 else -depth


class SignFromValues(nn.Module):
    def forward(self, rgb: torch.Tensor, depth: torch.Tensor) -> torch.Tensor:
        return rgb[:, :1] + depth if rgb.sum() > 0 else rgb[:, :1] - depth


REFUSED = [
    (TwoOutputs, ModelError, r"outputs: expected 'saliency' alone.*forward returns saliency alone"),
    (ThreeChannels, ModelError, r"output 'saliency'.*one saliency channel, got \(1, 3, 32, 32\)"),
    (OneInput, StepError, r"cannot trace OneInput.*forward must take \(rgb, depth\)"),
    (SizeFromValues, ModelError, r"does not depend on the input's values, got \(1, 1, 0, 32\)"),
    (FlowFromValues, StepError, r"cannot trace FlowFromValues.*depends on values"),
]


def test_the_legacy_exporter_follows_one_run_of_flow_that_depends_on_values(tiny) -> None:
    network = SignFromValues().eval()
    with pytest.raises(StepError, match=r"dynamo exporter cannot.*legacy exporter \(--exporter"):
        trace(network, tiny.SPEC)
    assert count_cost(network, tiny.SPEC).parameters == 0  # which the road asks for before
    with pytest.warns(torch.jit.TracerWarning, match="might cause the trace to be incorrect"):
        model = trace(network, tiny.SPEC, TraceOptions(exporter="legacy"))
    sample = tiny.samples(1)[0]
    with OrtSession(model.SerializeToString(), threads=1) as session:
        # the way that the zeros of tracing take, whatever the sum of this picture is
        expected = sample["rgb"][:, :1] - sample["depth"]
        np.testing.assert_array_equal(session.run(sample)["saliency"], expected)


def test_a_failed_export_says_why_and_prints_nothing(tiny, capfd) -> None:
    with pytest.raises(StepError, match=r"got Could not guard on data-dependent expression"):
        trace(SignFromValues().eval(), tiny.SPEC)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == ""


@pytest.mark.parametrize(("network", "error", "message"), REFUSED)
def test_networks_that_do_not_fit_are_refused(tiny, network, error, message) -> None:
    with pytest.raises(error, match=message):
        trace(network().eval(), tiny.SPEC)


def test_an_unused_stream_stays_an_input(tiny) -> None:
    model = trace(IgnoresDepth().eval(), tiny.SPEC)
    assert [value.name for value in model.graph.input] == ["rgb", "depth"]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"opset": 16}, "opset: expected 17 to 20, got 16"), ({"exporter": "x"}, "dynamo or legacy")],
)
def test_options_are_checked(options, message) -> None:
    with pytest.raises(StepError, match=message):
        TraceOptions(**options)


def test_the_torch_runner_checks_its_inputs(tiny) -> None:
    run = torch_runner(tiny.two_stream(), tiny.SPEC)
    with pytest.raises(SessionError, match="input 'depth' is missing"):
        run({"rgb": np.zeros((1, 3, 32, 32), np.float32)})
