"""A user's own ONNX file: made fit for the road, or refused with what to do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_fusion.errors import ModelError, StepError
from edge_fusion.export.load import convert_opset, infer_spec_names, load_onnx
from edge_fusion.runtime.ort import OrtSession

FREE = ("N", 3, "H", "W")


def two_stream_file(
    path: Path,
    *,
    rgb: tuple[int | str, ...] = FREE,
    depth: tuple[int | str, ...] = ("N", 1, "H", "W"),
    names: tuple[str, str, str] = ("rgb", "depth", "saliency"),
    dtype: int = TensorProto.FLOAT,
    opset: int = 17,
    domain: str = "",
    external: bool = False,
) -> Path:
    """Conv(rgb) + depth, reshaped through its own shape as exporters do; two outputs."""
    colour, near, saliency = names
    weight = np.linspace(-1, 1, 27, dtype=np.float32).reshape(1, 3, 3, 3)
    nodes = [
        helper.make_node("Conv", [colour, "weight"], ["grey"], pads=[1] * 4, name="same"),
        helper.make_node("Add", ["grey", near], ["sum"], name="same"),
        helper.make_node("Shape", ["sum"], ["size"]),
        helper.make_node("Reshape", ["sum", "size"], ["flat"]),
        helper.make_node("Sigmoid", ["flat"], [saliency], domain=domain),
        helper.make_node("Relu", ["grey"], ["side"]),
    ]
    graph = helper.make_graph(
        nodes,
        "user",
        [
            helper.make_tensor_value_info(colour, dtype, rgb),
            helper.make_tensor_value_info(near, dtype, depth),
        ],
        [
            helper.make_tensor_value_info(saliency, dtype, ("N", 1, "H", "W")),
            helper.make_tensor_value_info("side", dtype, ("N", 1, "H", "W")),
        ],
        [numpy_helper.from_array(weight, "weight")],
    )
    opsets = [helper.make_opsetid("ai.onnx.ml", 3), helper.make_opsetid("", opset)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=7)
    onnx.save(model, path, save_as_external_data=external, size_threshold=0, location="w.data")
    return path


def test_a_free_shape_is_fixed_and_the_graph_still_answers(tiny, tmp_path) -> None:
    model = load_onnx(two_stream_file(tmp_path / "m.onnx"), tiny.SPEC)
    sample = tiny.samples(1)[0]
    with OrtSession(model.SerializeToString(), threads=1) as session:
        assert [spec.shape for spec in session.inputs] == [(1, 3, 32, 32), (1, 1, 32, 32)]
        assert [(spec.name, spec.shape) for spec in session.outputs] == [
            ("saliency", (1, 1, 32, 32))
        ]
        found = session.run(sample)["saliency"]
    padded = np.pad(sample["rgb"][0], ((0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    weight = np.linspace(-1, 1, 27).reshape(3, 3, 3)
    expected = np.einsum("chwij,cij->hw", windows, weight) + sample["depth"][0, 0]
    np.testing.assert_allclose(found[0, 0], 1 / (1 + np.exp(-expected)), atol=1e-5)


def test_it_comes_out_tidy(tiny, tmp_path) -> None:
    model = load_onnx(two_stream_file(tmp_path / "m.onnx"), tiny.SPEC)
    assert [(item.domain, item.version) for item in model.opset_import] == [("", 17)]
    assert [value.name for value in model.graph.output] == ["saliency"]  # the side output is gone
    names = [node.name for node in model.graph.node]
    assert names[:2] == ["same", "same_1"]
    assert all(names)
    assert len(set(names)) == len(names)


def test_the_file_is_not_changed(tiny, tmp_path) -> None:
    path = two_stream_file(tmp_path / "m.onnx")
    before = path.read_bytes()
    load_onnx(path, tiny.SPEC)
    assert path.read_bytes() == before


def test_external_weights_are_taken_in(tiny, tmp_path) -> None:
    path = two_stream_file(tmp_path / "m.onnx", external=True)
    weights = tmp_path / "w.data"
    inside = load_onnx(path, tiny.SPEC)
    assert len(numpy_helper.to_array(inside.graph.initializer[0]).ravel()) == 27
    assert not inside.graph.initializer[0].external_data
    weights.unlink()
    with pytest.raises(ModelError, match=r"cannot read .*m\.onnx.*external data beside it"):
        load_onnx(path, tiny.SPEC)


def test_cut_external_weights_are_refused(tiny, tmp_path) -> None:
    path = two_stream_file(tmp_path / "m.onnx", external=True)
    weights = tmp_path / "w.data"
    weights.write_bytes(weights.read_bytes()[:50])
    with pytest.raises(ModelError):
        load_onnx(path, tiny.SPEC)


@pytest.mark.parametrize("content", [b"", b"\x00" * 64, b"PK\x03\x04 a zip", b"{}"])
def test_files_that_are_no_model_are_refused(tiny, tmp_path, content) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"m\.onnx.*complete"):
        load_onnx(path, tiny.SPEC)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_cut_files_are_refused(tiny, tmp_path, share) -> None:
    path = two_stream_file(tmp_path / "m.onnx")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ModelError):
        load_onnx(path, tiny.SPEC)


def test_a_missing_file_is_named(tiny, tmp_path) -> None:
    with pytest.raises(ModelError, match=r"no model file .*nowhere\.onnx"):
        load_onnx(tmp_path / "nowhere.onnx", tiny.SPEC)


REFUSED = [
    # fixed to another size
    (
        {"rgb": (1, 3, 64, 64), "depth": (1, 1, 64, 64)},
        r"input 'rgb' of the model: expected \(1, 3, 32, 32\) float32, got \(1, 3, 64, 64\) "
        r"float32; set height, width",
    ),
    # fixed to a batch of four
    ({"rgb": (4, 3, "H", "W")}, r"input 'rgb'.*got \(4, 3, 'H', 'W'\)"),
    # depth copied to three channels, while the record says one
    ({"depth": (1, 3, "H", "W")}, r"input 'depth'.*expected \(1, 1, 32, 32\)"),
    # no batch axis
    ({"rgb": (3, "H", "W")}, r"input 'rgb'.*got \(3, 'H', 'W'\)"),
    # half precision
    ({"dtype": TensorProto.FLOAT16}, r"input 'rgb'.*float32, got .* float16"),
    # other names: the cure is the record to write
    (
        {"names": ("image", "d", "saliency")},
        r"got 'image' .*; declare them in the input record: "
        r'{"rgb": {"name": "image"}, "depth": {"name": "d"}}',
    ),
    ({"names": ("rgb", "depth", "out")}, r"outputs: expected 'saliency', got 'out', 'side'"),
    # a runtime's own operator
    ({"domain": "ai.onnx.ml"}, r"outside the ONNX standard: got ai\.onnx\.ml\.Sigmoid"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_models_that_do_not_fit_are_refused(tiny, tmp_path, changes, message) -> None:
    with pytest.raises(ModelError, match=message):
        load_onnx(two_stream_file(tmp_path / "m.onnx", **changes), tiny.SPEC)


def test_one_input_is_not_enough(tiny, tmp_path) -> None:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Relu", ["rgbd"], ["saliency"])],
        "one",
        [value("rgbd", TensorProto.FLOAT, (1, 4, 32, 32))],
        [value("saliency", TensorProto.FLOAT, (1, 4, 32, 32))],
    )
    onnx.save(helper.make_model(graph), tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=r"takes colour and depth.*got 'rgbd' \(1, 4, 32, 32\)"):
        load_onnx(tmp_path / "m.onnx", tiny.SPEC)


def test_old_files_list_weights_as_inputs(tiny, tmp_path) -> None:
    path = two_stream_file(tmp_path / "m.onnx")
    model = onnx.load(path)
    model.ir_version = 3
    model.graph.input.append(
        helper.make_tensor_value_info("weight", TensorProto.FLOAT, (1, 3, 3, 3))
    )
    onnx.save(model, path)
    assert [value.name for value in load_onnx(path, tiny.SPEC).graph.input] == ["rgb", "depth"]


def test_an_old_opset_is_converted(tiny, tmp_path) -> None:
    model = load_onnx(two_stream_file(tmp_path / "m.onnx", opset=11), tiny.SPEC)
    assert [(item.domain, item.version) for item in model.opset_import] == [("", 18)]


def test_local_functions_are_inlined(tiny, tmp_path) -> None:
    path = two_stream_file(tmp_path / "m.onnx")
    model = onnx.load(path)
    halve = helper.make_function(
        "mine",
        "Halve",
        ["x"],
        ["y"],
        [
            helper.make_node("Constant", [], ["half"], value_float=0.5),
            helper.make_node("Mul", ["x", "half"], ["y"]),
        ],
        [helper.make_opsetid("", 17)],
    )
    model.functions.append(halve)
    model.opset_import.append(helper.make_opsetid("mine", 1))
    model.graph.node[4].CopyFrom(helper.make_node("Halve", ["flat"], ["saliency"], domain="mine"))
    model.ir_version = 8
    onnx.save(model, path)
    loaded = load_onnx(path, tiny.SPEC)
    assert not loaded.functions
    assert "Mul" in {node.op_type for node in loaded.graph.node}


def test_names_are_inferred_from_the_channels(tiny, tmp_path) -> None:
    path = two_stream_file(tmp_path / "m.onnx", names=("image", "d", "out"))
    model = onnx.load(path)
    del model.graph.output[1]
    spec = infer_spec_names(model, tiny.SPEC)
    assert (spec.rgb.name, spec.depth.name, spec.output.name) == ("image", "d", "out")
    assert spec.height == tiny.SPEC.height
    onnx.save(model, path)
    assert load_onnx(path, spec).graph.output[0].name == "out"


def test_names_that_cannot_be_told_apart_are_not_guessed(tiny, tmp_path) -> None:
    path = two_stream_file(tmp_path / "m.onnx", depth=FREE)
    with pytest.raises(ModelError, match="cannot be told apart"):
        infer_spec_names(onnx.load(path), tiny.SPEC)


def test_opsets_without_the_operator_are_refused() -> None:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Gelu", ["x"], ["y"])],
        "gelu",
        [value("x", TensorProto.FLOAT, (1,))],
        [value("y", TensorProto.FLOAT, (1,))],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    assert convert_opset(model, 20) is model
    with pytest.raises(StepError, match=r"from opset 20 to 17.*Gelu"):
        convert_opset(model, 17)
