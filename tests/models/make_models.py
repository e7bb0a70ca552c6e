"""Write the tiny two-stream models that the runtime's tests run; needs onnx, unlike those tests.

    python tests/models/make_models.py

``tiny.fp32.onnx`` is a 3x3 box blur of depth plus a 1x1 convolution of colour, then a sigmoid:
near things are salient.  ``tiny.int8.onnx`` is the same with int8, zero-point 0, Q/DQ around the
convolutions, and ``tiny.weak.int8.onnx`` that again with FP32 weights behind a quantizer of their
own, as TensorRT 8 wants them.  ``tiny.fp16.onnx`` computes in half precision.  All take rgb
(1, 3, 32, 32) and depth (1, 1, 32, 32), FP32.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

HERE = Path(__file__).parent
SIZE = 32


def model(*, quantized: bool, weak: bool = False) -> onnx.ModelProto:
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
            levels = np.round(weights[tensor] / step).astype(np.int8)
            constants |= {
                tensor: levels * np.float32(step) if weak else levels,
                f"{tensor}.scale": np.array([step], np.float32),
                f"{tensor}.zero": np.zeros(1, np.int8),
            }
            activation, weight = f"{name}.dq", f"{tensor}.dq"
            quantizer = [f"{name}.scale", f"{name}.zero"]
            held = [f"{tensor}.scale", f"{tensor}.zero"]
            stored = f"{tensor}.q" if weak else tensor
            if weak:
                nodes.append(
                    helper.make_node(
                        "QuantizeLinear", [tensor, *held], [stored], f"{tensor}/Q", axis=0
                    )
                )
            nodes += [
                helper.make_node("QuantizeLinear", [name, *quantizer], [f"{name}.q"], f"{name}/Q"),
                helper.make_node(
                    "DequantizeLinear", [f"{name}.q", *quantizer], [activation], f"{name}/DQ"
                ),
                helper.make_node(
                    "DequantizeLinear",
                    [stored, *held],
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


def half() -> onnx.ModelProto:
    """The FP32 model with its insides in half precision."""
    made = model(quantized=False)
    graph = made.graph
    for held in graph.initializer:
        held.CopyFrom(
            numpy_helper.from_array(numpy_helper.to_array(held).astype(np.float16), held.name)
        )
    for node in graph.node:
        node.input[:] = [f"{n}.half" if n in ("rgb", "depth") else n for n in node.input]
        node.output[:] = [f"{n}.half" if n == "saliency" else n for n in node.output]
    body = list(graph.node)
    del graph.node[:]
    graph.node.extend(
        helper.make_node("Cast", [n], [f"{n}.half"], f"{n}/Cast", to=TensorProto.FLOAT16)
        for n in ("rgb", "depth")
    )
    graph.node.extend(body)
    graph.node.append(
        helper.make_node(
            "Cast", ["saliency.half"], ["saliency"], "saliency/Cast", to=TensorProto.FLOAT
        )
    )
    onnx.checker.check_model(made, full_check=True)
    return made


if __name__ == "__main__":
    made = {
        "fp32": model(quantized=False),
        "int8": model(quantized=True),
        "weak.int8": model(quantized=True, weak=True),
        "fp16": half(),
    }
    for variant, graph in made.items():
        onnx.save(graph, HERE / f"tiny.{variant}.onnx")
