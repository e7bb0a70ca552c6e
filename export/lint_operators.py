"""Lint rules for operators: does TensorRT's parser import them, in this form and version?"""

from __future__ import annotations

from collections.abc import Iterator

from edge_fusion.target import Target, Version

from .graph import GraphView, Node
from .lint_rules import Hit, Rule, Versions

# --- operators -------------------------------------------------------------------------------

# Standard operators that TensorRT's parser imports from 8.5 on, after its published tables.
_SINCE_85 = frozenset(
    """
    Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization
    Cast Ceil Celu Clip Concat Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum
    DepthToSpace DequantizeLinear Div Dropout Einsum Elu Equal Erf Exp Expand EyeLike Flatten
    Floor GRU Gather GatherElements GatherND Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool
    Greater GreaterOrEqual GridSample HardSigmoid HardSwish Identity If InstanceNormalization
    IsNaN LRN LSTM LeakyRelu Less LessOrEqual Log LogSoftmax Loop LpNormalization LpPool MatMul
    Max MaxPool Mean MeanVarianceNormalization Min Mod Mul Neg NonMaxSuppression NonZero Not
    OneHot Or PRelu Pad Pow QuantizeLinear RNN RandomNormal RandomNormalLike RandomUniform
    RandomUniformLike Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax
    ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize
    ReverseSequence RoiAlign Round Scan Scatter ScatterElements ScatterND Selu Shape Shrink
    Sigmoid Sign Sin Sinh Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze
    Sub Sum Tan Tanh ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze Upsample Where Xor
    """.split()  # noqa: SIM905 (a list of 150 quoted names is harder to read and to compare)
)
# Later ones: first version, and what to do before it.
_LATER: dict[str, tuple[Version, str]] = {
    "LayerNormalization": (
        (8, 6),
        "choose JetPack 6.0 or newer, or write it by ReduceMean, Sub, Mul, Sqrt and Div",
    ),
    "GroupNormalization": ((8, 6), "decompose it: reshape, InstanceNormalization, reshape back"),
    "IsInf": ((8, 6), "compare the absolute value with a large constant"),
    "CastLike": ((8, 6), "write a Cast"),
    "Gelu": ((9,), "export at opset 17 to 19, which writes it by Erf"),
    "Hardmax": ((9, 2), "write it by ArgMax and OneHot"),
    "Mish": ((10,), "write it by Softplus, Tanh and Mul"),
    "DeformConv": ((10, 1), "sample with GridSample and convolve"),
    "BlackmanWindow": ((10, 4), "store the window as a constant"),
    "HammingWindow": ((10, 4), "store the window as a constant"),
    "HannWindow": ((10, 4), "store the window as a constant"),
    "STFT": ((10, 5), "write it as a convolution"),
    "Attention": ((10, 14), "export at opset 22 or below, which writes MatMul and Softmax"),
    "RMSNormalization": ((10, 15), "export at opset 22 or below, which decomposes it"),
    "RotaryEmbedding": ((10, 15), "export at opset 22 or below, which decomposes it"),
    "TensorScatter": ((10, 15), "write it by ScatterND"),
    "Swish": ((11,), "write it by Sigmoid and Mul"),
}
_QDQ_CURE = "write the model with QuantizeLinear and DequantizeLinear around float operators"
_NEVER = {
    "QLinearConv": _QDQ_CURE,
    "QLinearMatMul": _QDQ_CURE,
    "ConvInteger": _QDQ_CURE,
    "MatMulInteger": _QDQ_CURE,
    "DynamicQuantizeLinear": "calibrate fixed scales: quantize statically",
    "Col2Im": "replace fold by ConvTranspose with a one-hot kernel, or by PixelShuffle",
}
_DOMAIN_CURES = {
    "com.microsoft": "export without ONNX Runtime's optimiser: its fusions run nowhere else",
    "org.openvinotoolkit": "quantize the ONNX file instead: FakeQuantize is no ONNX operator",
}


def _importable(view: GraphView, target: Target) -> Iterator[Hit]:
    for node in view.nodes:
        if not node.domain and node.op_type not in _SINCE_85 and node.op_type not in _LATER:
            yield Hit(node.label, f"operator {node.op_type}", _NEVER.get(node.op_type, ""))


def _too_new(view: GraphView, target: Target) -> Iterator[Hit]:
    for node in view.nodes:
        since, cure = _LATER.get(node.op_type, ((), ""))
        if not node.domain and target.tensorrt < since:
            versions = f"from TensorRT {_text(since)} on, {target.name} has {target.tensorrt_text}"
            yield Hit(node.label, f"{node.op_type}: {versions}", cure)


def _foreign(view: GraphView, target: Target) -> Iterator[Hit]:
    functions = {(f.domain, f.name) for f in view.model.functions}
    known = functions if target.tensorrt >= (9,) else set()  # local functions came with 9.0
    for node in view.nodes:
        if node.domain and (node.domain, node.op_type) not in known:
            found = f"{node.op_type} of domain {node.domain}"
            yield Hit(node.label, found, _DOMAIN_CURES.get(node.domain, ""))


def _opset(view: GraphView, target: Target) -> Iterator[Hit]:
    if not 9 <= view.opset <= target.opset_max:
        found = f"opset {view.opset}; {target.name} documents 9 to {target.opset_max}"
        yield Hit("graph", found, f"export at opset {target.opset_max} or below")


def _einsum(view: GraphView, target: Target) -> Iterator[Hit]:
    for node in view.nodes:
        if node.op_type == "Einsum" and not node.domain:
            equation = node.attribute("equation", "")
            if "..." in equation or len(node.inputs) > 2:
                yield Hit(node.label, f"equation '{equation}' of {len(node.inputs)} inputs")


_OUTPUTS = {"MaxPool": 1, "LayerNormalization": 1, "BatchNormalization": 1}


def _extra_outputs(view: GraphView, target: Target) -> Iterator[Hit]:
    for node in view.nodes:
        for name in node.outputs[_OUTPUTS.get(node.op_type, len(node.outputs)) :]:
            if name:
                yield Hit(node.label, f"{node.op_type} names a further output '{name}'")


def _text(version: Version) -> str:
    return ".".join(map(str, version))


# --- Resize ----------------------------------------------------------------------------------

_COORDINATES = frozenset(
    {"half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn", "asymmetric", "align_corners"}
)


def _resizes(view: GraphView) -> Iterator[Node]:
    return (node for node in view.nodes if node.op_type == "Resize" and not node.domain)


def _resize_attributes(view: GraphView, target: Target) -> Iterator[Hit]:
    for node in _resizes(view):
        coordinates = node.attribute("coordinate_transformation_mode", "half_pixel")
        nearest = node.attribute("nearest_mode", "round_prefer_floor")
        policy = node.attribute("keep_aspect_ratio_policy", "stretch")
        if node.attribute("antialias", 0):
            yield Hit(node.label, "antialias=1", "resize with antialias=False")
        if coordinates not in _COORDINATES:
            yield Hit(node.label, f"coordinate_transformation_mode={coordinates}")
        if coordinates == "tf_half_pixel_for_nn" and nearest != "round_prefer_floor":
            yield Hit(node.label, f"{coordinates} with nearest_mode={nearest}")
        if policy != "stretch":
            yield Hit(node.label, f"keep_aspect_ratio_policy={policy}")


def _cubic(view: GraphView, target: Target) -> Iterator[Hit]:
    for node in _resizes(view):
        if node.attribute("mode", "nearest") == "cubic":
            yield Hit(node.label, "mode=cubic")
        if node.attribute("exclude_outside", 0):
            yield Hit(node.label, "exclude_outside=1")


def _dynamic_scales(view: GraphView, target: Target) -> Iterator[Hit]:
    for node in _resizes(view):
        name = node.input(2 if view.opset >= 11 else 1)
        if name and name not in view.constants:
            yield Hit(node.label, f"scales '{name}' are computed at run time")


OPERATOR_RULES = (
    Rule(
        "OPS001",
        "error",
        "operators are importable",
        "TensorRT's parser stops at an operator it does not know",
        "replace the operator before export by ones that TensorRT's parser imports",
        _importable,
    ),
    Rule(
        "OPS002",
        "error",
        "operators are of the standard domain",
        "TensorRT looks for a plugin of that name and stops when there is none",
        "export without vendor operators, and inline local functions",
        _foreign,
    ),
    Rule(
        "OPS003",
        "error",
        "operators are old enough for the target",
        "TensorRT's parser learnt this operator in a later version than the target has",
        "export at a lower opset, or target a newer JetPack",
        _too_new,
    ),
    Rule(
        "OPS004",
        "error",
        "the opset is one the target documents",
        "the parser goes by operator names and reads a newer form of an operator as the old one",
        "export at an opset the target documents",
        _opset,
    ),
    Rule(
        "OPS005",
        "error",
        "MaxPool and normalisations name their first output alone",
        "the parser refuses the node for a further output even if nothing reads it",
        "drop the output: run the simplifier, or compute what it held from the first one",
        _extra_outputs,
    ),
    Rule(
        "OPS006",
        "error",
        "Einsum has two inputs and names every axis",
        "the parser of TensorRT 8 knows neither the ellipsis nor more than two inputs",
        "write it by Transpose and MatMul",
        _einsum,
        Versions(before=(9,)),
    ),
    Rule(
        "RSZ001",
        "error",
        "Resize has attributes TensorRT knows",
        "TensorRT resizes without antialiasing, with five coordinate transformations, stretched",
        "resize with half_pixel, pytorch_half_pixel, asymmetric or align_corners",
        _resize_attributes,
    ),
    Rule(
        "RSZ002",
        "warning",
        "Resize is nearest or linear",
        "the published operator tables name these two modes alone; from 10 on cubic is accepted",
        "resize by linear interpolation",
        _cubic,
        Versions(before=(10,)),
    ),
    Rule(
        "RSZ003",
        "error",
        "Resize has constant scales",
        "the parser wants scales as weights",
        "export with fixed input sizes, so that scales or sizes become constants",
        _dynamic_scales,
    ),
)
