"""Write the tiny two-stream models that the runtime's tests run; needs onnx, unlike those tests.

    python tests/models/make_models.py

``tiny.fp32.onnx`` is a 3x3 box blur of depth plus a 1x1 convolution of colour, then a sigmoid:
near things are salient.  ``tiny.int8.onnx`` is the same with int8, zero-point 0, Q/DQ around the
convolutions.  Both take rgb (1, 3, 32, 32) and depth (1, 1, 32, 32).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

HERE = Path(__file__).parent
SIZE = 32


def model(*, quantized: bool) -> onnx.ModelProto:
    weights = {
        "rgb.weight": np.full((1, 3, 1, 1), 0.05, np.float32),
        "depth.weight": np.full((1, 1, 3, 3), 1.0, np.float32),
        "bias": np.full((1,), -4.0, np.float32),
    }
    nodes: list[onnx.NodeProto] = []
    constants: dict[str, NDArray[np.generic]] = {"bias": weights["bias"]}
    operands = {}
    for name, tensor, scale in (
        ("rgb", "rgb.weight", 2.7 / 127),
        ("depth", "depth.weight", 1 / 127),
    ):
        activation, weight = name, tensor
        constants[tensor] = weights[tensor]
        if quantized:
            constants |= {f"{name}.scale": np.float32(scale), f"{name}.zero": np.int8(0)}
            step = np.abs(weights[tensor]).max() / 127
            constants |= {
                tensor: np.round(weights[tensor] / step).astype(np.int8),
                f"{tensor}.scale": np.array([step], np.float32),
                f"{tensor}.zero": np.zeros(1, np.int8),
            }
            activation, weight = f"{name}.dq", f"{tensor}.dq"
            quantizer = [f"{name}.scale", f"{name}.zero"]
            nodes += [
                helper.make_node("QuantizeLinear", [name, *quantizer], [f"{name}.q"], f"{name}/Q"),
                helper.make_node(
                    "DequantizeLinear", [f"{name}.q", *quantizer], [activation], f"{name}/DQ"
                ),
                helper.make_node(
                    "DequantizeLinear",
                    [tensor, f"{tensor}.scale", f"{tensor}.zero"],
                    [weight],
                    f"{tensor}/DQ",
                    axis=0,
                ),
            ]
        operands[name] = (activation, weight)
    nodes += [
        helper.make_node("Conv", [*operands["rgb"], "bias"], ["from_rgb"], "rgb/Conv"),
        helper.make_node(
            "Conv", operands["depth"], ["from_depth"], "depth/Conv", pads=[1, 1, 1, 1]
        ),
        helper.make_node("Add", ["from_rgb", "from_depth"], ["logits"], "fuse/Add"),
        helper.make_node("Sigmoid", ["logits"], ["saliency"], "head/Sigmoid"),
    ]
    plane = [1, 1, SIZE, SIZE]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [
            helper.make_tensor_value_info("rgb", TensorProto.FLOAT, [1, 3, SIZE, SIZE]),
            helper.make_tensor_value_info("depth", TensorProto.FLOAT, plane),
        ],
        [helper.make_tensor_value_info("saliency", TensorProto.FLOAT, plane)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(made, full_check=True)
    return made


if __name__ == "__main__":
    for variant, quantized in (("fp32", False), ("int8", True)):
        onnx.save(model(quantized=quantized), HERE / f"tiny.{variant}.onnx")
