"""Types and shapes of a model's tensors, inferred by ONNX without copying its weights about."""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper, shape_inference

from edge_fusion.runtime.ort import first_line

Types = dict[str, onnx.TypeProto]

_SMALL = 4096  # bytes; larger initialisers never are a shape, an axis list or a scale


def infer_types(model: onnx.ModelProto) -> tuple[Types, str]:
    """The types of every tensor whose type is known, initialisers left out.

    Args:
        model: Any model; it is not changed.

    Returns:
        The types by name: inferred, else as declared; and why inference failed, empty if it did
        not.

    Example:
        >>> from onnx import parser
        >>> model = parser.parse_model('''
        ...     <ir_version: 8, opset_import: ["": 17]>
        ...     g (float[2, 4] x) => (float y) { a = Relu (x)  y = ReduceSum <keepdims=0> (a) }''')
        >>> [dim.dim_value for dim in infer_types(model)[0]["a"].tensor_type.shape.dim]
        [2, 4]
    """
    types = {value.name: value.type for value in model.graph.value_info}
    error = ""
    try:
        inferred = shape_inference.infer_shapes(_without_weights(model), data_prop=True)
    except Exception as err:  # the C++ checker raises bare RuntimeError and its own classes
        error = first_line(err)
    else:
        types.update((value.name, value.type) for value in inferred.graph.value_info)
        types.update((value.name, value.type) for value in inferred.graph.output)
    types.update((value.name, value.type) for value in model.graph.input)
    return types, error


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with large initialisers as typed inputs: all that shape inference needs.

    Inference copies what it is given several times over; without the weights a model of 200 MB
    takes milliseconds.
    """
    slim = onnx.ModelProto(ir_version=max(4, model.ir_version))
    slim.opset_import.extend(model.opset_import)
    slim.functions.extend(model.functions)
    graph = slim.graph
    graph.name = model.graph.name
    graph.node.extend(model.graph.node)
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    listed = {value.name for value in graph.input}
    for tensor in model.graph.initializer:
        external = tensor.data_location == TensorProto.EXTERNAL
        if not external and tensor.ByteSize() <= _SMALL:
            graph.initializer.append(tensor)
        elif tensor.name not in listed:
            graph.input.append(
                helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
    return slim
