"""ONNX Runtime sessions: what they take, what they refuse and how they say so."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_fusion.errors import SessionError
from edge_fusion.runtime.ort import OrtSession
from edge_fusion.runtime.session import Session

onnx = pytest.importorskip("onnx", reason="these tests make their graphs with onnx")
from onnx import TensorProto, helper  # noqa: E402


def model_bytes(
    rgb_shape: tuple[int | str, ...] = (1, 3, 4, 6), dtype: int = TensorProto.FLOAT
) -> bytes:
    """mean(rgb, channels) + depth."""
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["rgb"], ["grey"], axes=[1], keepdims=1),
            helper.make_node("Add", ["grey", "depth"], ["saliency"]),
        ],
        "mean",
        [
            helper.make_tensor_value_info("rgb", dtype, rgb_shape),
            helper.make_tensor_value_info("depth", dtype, (1, 1, 4, 6)),
        ],
        [helper.make_tensor_value_info("saliency", dtype, (1, 1, 4, 6))],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model.SerializeToString()


@pytest.fixture
def inputs() -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(0)
    return {
        "rgb": rng.random((1, 3, 4, 6), np.float32),
        "depth": rng.random((1, 1, 4, 6), np.float32),
    }


@pytest.mark.parametrize("kernels", ["reference", "int8"])
def test_runs_the_model(inputs, kernels) -> None:
    with OrtSession(model_bytes(), threads=1, kernels=kernels) as session:
        outputs = session.run(inputs)
    expected = inputs["rgb"].mean(1, keepdims=True) + inputs["depth"]
    np.testing.assert_allclose(outputs["saliency"], expected, rtol=1e-6)
    assert outputs["saliency"].dtype == np.float32


def test_fits_the_port() -> None:
    session: Session = OrtSession(model_bytes(), threads=1)
    session.close()


def test_says_what_the_model_takes_and_returns() -> None:
    with OrtSession(model_bytes(), threads=1) as session:
        assert [(spec.name, spec.shape) for spec in session.inputs] == [
            ("rgb", (1, 3, 4, 6)),
            ("depth", (1, 1, 4, 6)),
        ]
        assert [(spec.name, spec.shape) for spec in session.outputs] == [("saliency", (1, 1, 4, 6))]


def test_a_closed_session_refuses_to_run(inputs) -> None:
    session = OrtSession(model_bytes(), threads=1)
    session.close()
    session.close()  # closing twice is harmless
    with pytest.raises(SessionError, match="the session is closed"):
        session.run(inputs)


WRONG_INPUTS = [
    # one plane of depth without its channel axis
    ("depth", np.zeros((1, 4, 6), np.float32), "add a channel axis: value[:, None]"),
    # one image without its batch axis
    ("rgb", np.zeros((3, 4, 6), np.float32), "add a batch axis in front: value[None]"),
    # a bare plane
    ("depth", np.zeros((4, 6), np.float32), "prepare frames with"),
    # channels last
    ("rgb", np.zeros((1, 4, 6, 3), np.float32), "value.transpose(0, 3, 1, 2)"),
    # numpy's default dtype
    ("rgb", np.zeros((1, 3, 4, 6), np.float64), "convert it with .astype('float32')"),
    # height and width exchanged
    ("rgb", np.zeros((1, 3, 6, 4), np.float32), "prepare frames with"),
    # another batch
    ("rgb", np.zeros((2, 3, 4, 6), np.float32), "prepare frames with"),
]


@pytest.mark.parametrize(("name", "value", "cure"), WRONG_INPUTS)
def test_a_wrong_input_is_named_with_its_cure(inputs, name, value, cure) -> None:
    with (
        OrtSession(model_bytes(), threads=1) as session,
        pytest.raises(SessionError) as caught,
    ):
        session.run(inputs | {name: value})
    message = str(caught.value)
    assert f"input '{name}': expected {inputs[name].shape} float32, got {value.shape}" in message
    assert cure in message


def test_missing_and_unknown_inputs_are_named(inputs) -> None:
    with OrtSession(model_bytes(), threads=1) as session:
        with pytest.raises(SessionError, match=r"input 'depth' is missing.*got only 'rgb'"):
            session.run({"rgb": inputs["rgb"]})
        with pytest.raises(SessionError, match=r"no input 'thermal'.*expected 'rgb', 'depth'"):
            session.run(inputs | {"thermal": inputs["depth"]})


def test_a_list_is_no_array(inputs) -> None:
    with (
        OrtSession(model_bytes(), threads=1) as session,
        pytest.raises(SessionError, match=r"got list; pass a numpy array"),
    ):
        session.run(inputs | {"depth": inputs["depth"].tolist()})


@pytest.mark.parametrize("content", [b"", b"not a model", model_bytes()[:40]])
def test_damaged_models_are_refused(content) -> None:
    with pytest.raises(SessionError, match="ONNX Runtime refused the model") as caught:
        OrtSession(content, threads=1)
    assert caught.value.__cause__ is not None


def test_free_axes_are_refused_with_the_cure() -> None:
    with pytest.raises(SessionError, match=r"input 'rgb'.*of fixed shape.*build FILE.onnx'"):
        OrtSession(model_bytes(rgb_shape=("N", 3, 4, 6)), threads=1)


def test_half_precision_inputs_are_refused() -> None:
    with pytest.raises(SessionError, match=r"expected tensor\(float\).*got tensor\(float16\)"):
        OrtSession(model_bytes(dtype=TensorProto.FLOAT16), threads=1)


def test_failures_while_running_are_wrapped() -> None:
    graph = helper.make_graph(
        [
            helper.make_node("NonZero", ["x"], ["where"]),
            helper.make_node("Cast", ["where"], ["real"], to=TensorProto.FLOAT),
            helper.make_node("Reshape", ["real", "shape"], ["y"]),
        ],
        "fails_on_zeros",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (4,))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (4,))],
        [helper.make_tensor("shape", TensorProto.INT64, (1,), [4])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    with OrtSession(model.SerializeToString(), threads=1) as session:
        assert session.run({"x": np.ones(4, np.float32)})["y"].shape == (4,)
        with pytest.raises(SessionError, match="failed to run the model") as caught:
            session.run({"x": np.zeros(4, np.float32)})
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize(
    ("options", "named"), [({"threads": 0}, "threads"), ({"kernels": "x"}, "kernels")]
)
def test_options_are_checked(options, named) -> None:
    with pytest.raises(SessionError, match=named):
        OrtSession(model_bytes(), **options)
