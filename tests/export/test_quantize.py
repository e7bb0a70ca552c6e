"""Quantizing: INT8 weights, a plan that is obeyed, the same bytes every time."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from pathlib import Path

import nncf
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_fusion.errors import CalibrationError, FrameError, ModelError, StepError
from edge_fusion.export.fold import fold
from edge_fusion.export.legalise import legalise
from edge_fusion.export.models.registry import load_model
from edge_fusion.export.parity import check_parity
from edge_fusion.export.precision import PrecisionPolicy, plan_precision
from edge_fusion.export.quantize import QuantizeOptions, QuantizeResult, quantize
from edge_fusion.export.simplify import simplify
from edge_fusion.export.trace import trace
from edge_fusion.runtime.ort import OrtSession
from edge_fusion.spec import ModelSpec


@pytest.fixture(scope="module")
def result(tiny, simplified) -> QuantizeResult:
    return quantize(simplified, tiny.samples(8), tiny.SPEC)


def arrays(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def test_it_answers_almost_like_the_float_model(tiny, simplified, result) -> None:
    with (
        OrtSession(simplified.SerializeToString(), threads=1) as before,
        OrtSession(result.model.SerializeToString(), threads=1) as after,
    ):
        report = check_parity("fp32-int8", before.run, after.run, tiny.samples(4, seed=9))
    assert 0 < report.difference.mean_abs < 0.002
    assert report.difference.sqnr_db > 40


def test_weights_are_int8_initialisers_per_channel(result) -> None:
    weights = arrays(result.model)
    stored = [
        node
        for node in result.model.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in weights
    ]
    assert len(stored) == result.int8_weights == len(result.quantized) == 11
    for node in stored:
        weight, scale, zero = (weights[name] for name in node.input)
        assert weight.dtype == zero.dtype == np.int8
        assert not zero.any()
        assert weight.min() >= -127  # narrow range: the zero point stays in the middle
        assert scale.size in weight.shape


def test_activations_are_symmetric_and_per_tensor(result) -> None:
    weights = arrays(result.model)
    kinds = set()
    for node in result.model.graph.node:
        if node.op_type == "QuantizeLinear":
            assert node.input[0] not in weights
            scale, zero = (weights[name] for name in node.input[1:])
            assert scale.ndim == zero.ndim == 0
            assert zero == 0
            kinds.add(zero.dtype)
    assert kinds == {np.dtype(np.int8), np.dtype(np.uint8)}  # which is why legalise comes next


def test_every_weighted_node_is_accounted_for(simplified, result) -> None:
    weighted = {n.name for n in simplified.graph.node if n.op_type in ("Conv", "MatMul")}
    assert set(result.quantized) | set(result.kept) >= weighted
    assert not set(result.quantized) & set(result.kept)
    assert result.kept == plan_precision(simplified).kept
    assert result.samples == 8


def test_no_kept_node_reads_a_quantized_value(result) -> None:
    dequantized = {
        name
        for node in result.model.graph.node
        if node.op_type == "DequantizeLinear"
        for name in node.output
    }
    for node in result.model.graph.node:
        if node.name in result.kept:
            assert dequantized.isdisjoint(node.input), node.name


def test_the_plan_can_be_changed(tiny, simplified) -> None:
    policy = PrecisionPolicy(
        attention="int8",
        keep_fp16=("rgb_encoder.features.0.0/Conv",),
        force_int8=("decoder.2/Conv",),
    )
    plan = plan_precision(simplified, policy)
    found = quantize(simplified, tiny.samples(2), tiny.SPEC, plan=plan)
    assert "fusion/MatMul" in found.quantized
    assert "decoder.2/Conv" in found.quantized
    assert "rgb_encoder.features.0.0/Conv" not in found.quantized
    # NNCF's own table for transformers leaves softmax @ V alone, and that is said
    assert found.kept["fusion/MatMul_1"] == "NNCF does not quantize this operation here"


def test_two_runs_give_the_same_bytes(tiny, simplified, result) -> None:
    again = quantize(simplified, tiny.samples(8), tiny.SPEC)
    assert again.model.SerializeToString() == result.model.SerializeToString()


def test_the_float_model_is_not_changed(tiny, simplified) -> None:
    before = simplified.SerializeToString()
    quantize(simplified, tiny.samples(1), tiny.SPEC)
    assert simplified.SerializeToString() == before


def test_estimators_differ(tiny, simplified, result) -> None:
    other = quantize(simplified, tiny.samples(8), tiny.SPEC, QuantizeOptions(estimator="minmax"))
    scale = "scale_fusion.norm1/LayerNormalization_1"
    assert arrays(other.model)[scale] > arrays(result.model)[scale]  # extremes exceed their mean


def test_progress_counts_to_the_end_and_nothing_is_printed(tiny, simplified, capfd) -> None:
    seen: list[tuple[int, int]] = []
    quantize(
        simplified,
        tiny.samples(3),
        tiny.SPEC,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(1, 3), (2, 3), (3, 3)]
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == ""


def test_a_quantized_model_is_refused(tiny, result) -> None:
    with pytest.raises(
        ModelError, match=r"quantized already.*QuantizeLinear_rgb_encoder.*float model"
    ):
        quantize(result.model, tiny.samples(1), tiny.SPEC)


def test_wrong_normalisation_never_reaches_nncf(tiny, simplified, monkeypatch) -> None:
    monkeypatch.setattr(nncf, "quantize", lambda *args, **kwargs: pytest.fail("was called"))
    samples = [sample | {"rgb": np.abs(sample["rgb"]) * 100} for sample in tiny.samples(2)]
    with pytest.raises(CalibrationError, match="'rgb' is not normalised"):
        quantize(simplified, samples, tiny.SPEC)


def test_no_samples_are_an_error(tiny, simplified) -> None:
    with pytest.raises(CalibrationError, match="the calibration set is empty"):
        quantize(simplified, [], tiny.SPEC)


def test_a_sample_that_cannot_be_read_keeps_its_own_error(tiny, simplified) -> None:
    class Breaks(list):
        def __getitem__(self, index):
            raise FrameError("the file vanished")

    with pytest.raises(FrameError, match="the file vanished"):
        quantize(simplified, Breaks(tiny.samples(2)), tiny.SPEC)


def test_failures_of_nncf_are_wrapped_once(tiny, simplified, monkeypatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise nncf.ValidationError("no such node")

    monkeypatch.setattr(nncf, "quantize", fail)
    with pytest.raises(StepError, match=r"NNCF could not quantize.*no such node") as caught:
        quantize(simplified, tiny.samples(1), tiny.SPEC)
    assert isinstance(caught.value.__cause__, nncf.ValidationError)


def test_keeping_everything_is_an_error(tiny, simplified) -> None:
    plan = plan_precision(simplified, PrecisionPolicy(keep_fp16=("*",)))
    with pytest.raises(StepError, match="no node was quantized"):
        quantize(simplified, tiny.samples(1), tiny.SPEC, plan=plan)


def test_weights_that_stay_float_are_an_error(tiny, simplified) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(simplified)
    weights = arrays(model)
    (index,) = (i for i, t in enumerate(model.graph.initializer) if t.name == "decoder.0.weight")
    del model.graph.initializer[index]
    model.graph.node.insert(
        0,
        helper.make_node(
            "Constant",
            [],
            ["decoder.0.weight"],
            name="hidden",
            value=numpy_helper.from_array(weights["decoder.0.weight"]),
        ),
    )
    with pytest.raises(StepError, match=r"stayed FP32.*simplify the model first"):
        quantize(model, tiny.samples(1), tiny.SPEC)


def test_the_file_shrinks_to_less_than_a_third(tiny) -> None:
    """On a network whose weights, and not its node names, make up the file."""
    weight = np.random.default_rng(0).normal(0, 0.05, (256, 256, 3, 3)).astype(np.float32)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("Concat", ["rgb", "depth"], ["rgbd"], name="Concat", axis=1),
            helper.make_node("Conv", ["rgbd", "stem"], ["a"], name="stem", strides=[8, 8]),
            helper.make_node("Conv", ["a", "weight"], ["b"], name="body", pads=[1] * 4),
            helper.make_node("ReduceMean", ["b"], ["c"], name="mean", axes=[1], keepdims=1),
            helper.make_node("Sigmoid", ["c"], ["saliency"], name="Sigmoid"),
        ],
        "wide",
        [
            value("rgb", TensorProto.FLOAT, (1, 3, 32, 32)),
            value("depth", TensorProto.FLOAT, (1, 1, 32, 32)),
        ],
        [value("saliency", TensorProto.FLOAT, (1, 1, 4, 4))],
        [
            numpy_helper.from_array(weight[:, :4, :1, :1].copy(), "stem"),
            numpy_helper.from_array(weight, "weight"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    plan = plan_precision(model, PrecisionPolicy(head=False))
    found = quantize(model, tiny.samples(2), tiny.SPEC, plan=plan)
    assert found.quantized == ("body",)
    assert found.model.ByteSize() <= 0.30 * model.ByteSize()


@pytest.mark.slow
def test_the_file_of_a_real_network_shrinks_to_less_than_a_third(tiny) -> None:
    name = "mutualformer-mobilenetv2"
    spec = ModelSpec(name=name, height=64, width=64)  # the weights do not depend on the size
    network = fold(load_model(name, spec=spec).module).module
    model = simplify(trace(network, spec)).model
    found = legalise(quantize(model, tiny.samples(2, spec), spec).model).model
    assert model.ByteSize() > 10_000_000
    assert found.ByteSize() <= 0.30 * model.ByteSize()


def test_options_are_checked() -> None:
    with pytest.raises(StepError, match=r"mean_minmax or .*got 'kl'"):
        QuantizeOptions(estimator="kl")


def test_no_usage_statistics_are_sent() -> None:
    code = "import os, edge_fusion.export.quantize; print(os.environ['NNCF_CI'])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "1"


# --- Why the reference session executes Q/DQ literally -------------------------------------------

EMULATOR = ("qemu-x86_64", "-cpu", "Haswell-noTSX")  # AVX2, no VNNI

RUN_BOTH = """
import sys
import numpy as np
from edge_fusion.runtime.ort import OrtSession

model = open(sys.argv[1], "rb").read()
for kernels in ("reference", "int8"):
    with OrtSession(model, threads=1, kernels=kernels) as session:
        x = np.ones(session.inputs[0].shape, np.float32)
        print(kernels, float(session.run({"x": x})["y"][0, 0, 4, 4]))
"""


def without_vnni() -> list[str]:
    """What to put before a command so that it runs on an x86 processor without VNNI."""
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("only x86 without VNNI saturates")
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        pytest.skip("the processor's flags are unknown without /proc/cpuinfo")
    flags = next(line for line in cpuinfo.read_text().splitlines() if line.startswith("flags"))
    if not {"avx512_vnni", "avx_vnni"} & set(flags.split()):
        return []
    if shutil.which(EMULATOR[0]) is None:
        pytest.skip("this processor has VNNI and does not saturate; install qemu-user to emulate")
    return list(EMULATOR)


def saturating_graph() -> onnx.ModelProto:
    """A 3x3 convolution of 255s with 127s: each pair of products exceeds 16 bits."""
    constants = {
        "w": np.full((8, 64, 3, 3), 127, np.int8),
        "w_scale": np.full(8, 1e-3, np.float32),
        "w_zero": np.zeros(8, np.int8),
        "x_scale": np.float32(1 / 255),
        "y_scale": np.float32(0.4),
        "zero": np.uint8(0),
    }
    node = helper.make_node
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            node("QuantizeLinear", ["x", "x_scale", "zero"], ["x_q"]),
            node("DequantizeLinear", ["x_q", "x_scale", "zero"], ["x_dq"]),
            node("DequantizeLinear", ["w", "w_scale", "w_zero"], ["w_dq"], axis=0),
            node("Conv", ["x_dq", "w_dq"], ["c"], pads=[1] * 4),
            node("QuantizeLinear", ["c", "y_scale", "zero"], ["c_q"]),
            node("DequantizeLinear", ["c_q", "y_scale", "zero"], ["y"]),
        ],
        "saturates",
        [value("x", TensorProto.FLOAT, (1, 64, 8, 8))],
        [value("y", TensorProto.FLOAT, (1, 8, 8, 8))],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def test_only_the_reference_session_is_right_without_vnni(tmp_path) -> None:
    path = tmp_path / "saturates.onnx"
    onnx.save(saturating_graph(), path)
    command = [*without_vnni(), sys.executable, "-c", RUN_BOTH, str(path)]
    found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    answers = {k: float(v) for k, v in (line.split() for line in found.stdout.splitlines())}
    exact = 64 * 9 * 127 * 1e-3  # inside the image all nine taps of 64 channels count
    assert answers["reference"] == pytest.approx(exact, abs=0.2)  # half a step of y_scale
    assert answers["int8"] < 0.7 * exact


def bright_network() -> onnx.ModelProto:
    """Averaging convolutions behind a clip that saturates: activations at 255, like weights."""
    rng = np.random.default_rng(0)

    def average(*shape: int) -> np.ndarray:
        return (rng.uniform(0.5, 1, shape) / np.prod(shape[1:])).astype(np.float32)

    tensors = {
        "w": rng.normal(0, 1, (32, 4, 3, 3)).astype(np.float32),
        "w1": average(32, 32, 3, 3),
        "w2": average(32, 32, 3, 3),
        "w3": average(1, 32, 3, 3),
        "low": np.float32(0),
        "high": np.float32(1),
    }
    node = helper.make_node
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            node("Concat", ["rgb", "depth"], ["x"], name="join", axis=1),
            node("Conv", ["x", "w"], ["a"], name="stem", pads=[1] * 4),
            node("Clip", ["a", "low", "high"], ["b"], name="clip"),
            node("Conv", ["b", "w1"], ["c"], name="first", pads=[1] * 4),
            node("Relu", ["c"], ["d"], name="relu"),
            node("Conv", ["d", "w2"], ["e"], name="second", pads=[1] * 4),
            node("Relu", ["e"], ["f"], name="relu2"),
            node("Conv", ["f", "w3"], ["saliency"], name="head", pads=[1] * 4),
        ],
        "bright",
        [
            value("rgb", TensorProto.FLOAT, (1, 3, 32, 32)),
            value("depth", TensorProto.FLOAT, (1, 1, 32, 32)),
        ],
        [value("saliency", TensorProto.FLOAT, (1, 1, 32, 32))],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return onnx.shape_inference.infer_shapes(model)


RUN_ALL = """
import sys
from pathlib import Path
import numpy as np
from edge_fusion.runtime.ort import OrtSession

inputs = dict(np.load(sys.argv[1]))
for path in map(Path, sys.argv[2:]):
    for kernels in ("reference", "int8"):
        with OrtSession(path.read_bytes(), threads=1, kernels=kernels) as session:
            np.save(f"{path}.{kernels}.npy", session.run(inputs)["saliency"])
"""


def test_nncf_graphs_are_wrong_in_int8_kernels_without_vnni(tiny, tmp_path) -> None:
    """Measured: mean difference to FP32 1e-5 by reference, 0.024 by the 8-bit kernels."""
    emulator = without_vnni()
    model = bright_network()
    found = quantize(model, tiny.samples(4), tiny.SPEC)
    assert found.quantized == ("first", "second")
    assert np.dtype(np.uint8) in {array.dtype for array in arrays(found.model).values()}
    files = {"float": model, "nncf": found.model, "legal": legalise(found.model).model}
    for name, graph in files.items():
        onnx.save(graph, tmp_path / f"{name}.onnx")
    np.savez(tmp_path / "inputs.npz", **tiny.samples(1, seed=9)[0])
    paths = [str(tmp_path / "inputs.npz"), *(str(tmp_path / f"{name}.onnx") for name in files)]
    command = [*emulator, sys.executable, "-c", RUN_ALL, *paths]
    subprocess.run(command, capture_output=True, check=True, timeout=300)

    def difference(name: str, kernels: str) -> float:
        exact = np.load(tmp_path / "float.onnx.reference.npy")
        answer = np.load(tmp_path / f"{name}.onnx.{kernels}.npy")
        return float(np.abs(answer - exact).mean())

    assert difference("nncf", "reference") < 1e-4
    assert difference("legal", "reference") < 1e-4
    assert difference("nncf", "int8") > 0.01
