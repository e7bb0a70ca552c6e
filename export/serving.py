"""A bundle for other people's servers: a Triton model repository, parameters for Isaac ROS.

Neither preprocesses: what the tensors must hold stands in the comments of what is written.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edge_fusion.bundle import Bundle
from edge_fusion.engine import (
    RECORD_NAME,
    EnginePrecision,
    EngineRecord,
    model_difference,
    read_record,
)
from edge_fusion.errors import BundleError, EngineError, InputError, OutputError
from edge_fusion.files import partial_directory, sha256, write_bytes, write_synced, writing
from edge_fusion.spec import ModelSpec

TritonPlatform = Literal["tensorrt_plan", "onnxruntime_onnx"]

MARK = "# written by edge-fusion"
CONFIG_NAME = "config.pbtxt"
_VERSION = "1"  # Triton serves the highest number among a model's folders
_MODEL_FILES: dict[TritonPlatform, str] = {
    "tensorrt_plan": "model.plan",
    "onnxruntime_onnx": "model.onnx",
}
_NOT_ASCII = re.compile(r"[^ -~]")
_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")

_NORMALISATIONS = {
    "nearness": "inverse depth between the frame's percentiles {low:g} and {high:g}, nearer larger",
    "minmax": "depth between the frame's percentiles {low:g} and {high:g}",
    "linear": "metres between {near:g} and {far:g}, farther larger",
}
_HOLES = {"zero": "0 where there is no reading", "nearest": "holes take the closest reading"}
_ACTIVATIONS = {
    "none": "saliency, 0..1",
    "sigmoid": "logits: saliency is 1 / (1 + exp(-x))",
}


@dataclass(frozen=True, slots=True)
class _Plan:
    """A plan's bytes and what is known of where they come from, in one line."""

    data: bytes
    provenance: str


def export_triton(
    bundle: Bundle,
    precision: EnginePrecision,
    output: Path,
    plan: Path | None = None,
    *,
    platform: TritonPlatform = "tensorrt_plan",
    name: str | None = None,
    replace: bool = False,
) -> Path:
    """Put a bundle into a Triton model repository, as a model of its own.

    Args:
        bundle: The bundle.
        precision: ``fp32``, ``fp16`` or ``int8``; ONNX Runtime has the bundle's variants alone.
        output: The repository, whatever else it holds; made where it is missing.
        plan: The engine, built on the device that will serve it; for ``tensorrt_plan`` alone.
        platform: ``tensorrt_plan`` serves ``plan``, ``onnxruntime_onnx`` the bundle's own variant.
        name: The model's name in Triton; None takes the model's and the precision.
        replace: Whether an older export of that name may go; nothing else ever does.

    Returns:
        The model's folder: ``config.pbtxt`` and ``1/model.plan`` or ``1/model.onnx``.

    Raises:
        InputError: The name is none Triton takes, or platform and plan contradict each other.
        EngineError: The plan is damaged or was built from another model or precision.
        BundleError: The bundle has no such variant for ONNX Runtime.
        OutputError: Something is there already, or the disk refused.
    """
    name = name or f"{bundle.manifest.model.name}_{precision}"
    if not _MODEL_NAME.fullmatch(name):
        raise InputError(
            "the model's name in Triton",
            expected="letters, digits, '_', '.' and '-'",
            got=repr(name),
            cure="choose one with --name",
        )
    model = _triton_model(bundle, precision, plan, platform)
    config = _triton_config(bundle, name, precision, platform, model.provenance)
    folder = output / name
    _check_model_folder(folder, replace=replace)
    with partial_directory(folder, "the Triton model") as partial, writing("the model", folder):
        (partial / _VERSION).mkdir()
        write_synced(partial / _VERSION / _MODEL_FILES[platform], model.data)
        write_synced(partial / CONFIG_NAME, config.encode())
    return folder


def export_isaac_ros(
    bundle: Bundle,
    precision: EnginePrecision,
    output: Path,
    plan: Path,
    *,
    replace: bool = False,
) -> Path:
    """Write the parameters under which Isaac ROS's ``TensorRTNode`` runs a plan.

    The node's own builder sets no INT8 and no strong typing, so it must never build: it gets a
    plan and ``force_engine_update: false``.  Run this on the device that built the plan.

    Args:
        bundle: The bundle.
        precision: What the plan computes in.
        output: The file to write, such as ``saliency.yaml``.
        plan: The engine, as ``edge-fusion build`` or ``trtexec`` wrote it on this device.
        replace: Whether an older export may go; nothing else ever does.

    Returns:
        The file.

    Raises:
        EngineError: The plan is missing, damaged, or of another model or precision.
        InputError: The plan's path cannot be written down.
        OutputError: Something is there already, or the disk refused.
    """
    checked = _read_plan(bundle, precision, plan)
    _check_parameter_file(output, replace=replace)
    text = _isaac_ros_parameters(bundle, precision, plan.resolve(), checked.provenance)
    write_bytes(output, text.encode(), "the parameters")
    return output


def preprocessing(spec: ModelSpec) -> list[str]:
    """What a client has to do, one line per tensor; every name is quoted.

    Example:
        >>> lines = preprocessing(ModelSpec(name="tiny"))
        >>> lines[0]
        'input "rgb": resize to 256x256 bilinearly; RGB order; (value / 255 - mean) / std'
    """
    rgb, depth = spec.rgb, spec.depth
    low, high = depth.percentiles
    how = _NORMALISATIONS[depth.normalisation].format(
        low=low, high=high, near=depth.near_m, far=depth.far_m
    )
    size = f"{spec.width}x{spec.height}"
    return [
        f"input {_quoted(rgb.name)}: resize to {size} bilinearly; {rgb.order.upper()} order; "
        "(value / 255 - mean) / std",
        f"  mean {list(rgb.mean)}, std {list(rgb.std)}",
        f"input {_quoted(depth.name)}: resize to {size} by nearest; to 0..1 as {how}",
        f"  turned so that larger is {depth.larger_is}; {_HOLES[depth.holes]}; "
        f"(x - {depth.mean:g}) / {depth.std:g}; {depth.channels} equal channel(s)",
        f"output {_quoted(spec.output.name)}: {_ACTIVATIONS[spec.output.activation]}; "
        "resize to the frame bilinearly",
    ]


def _triton_model(
    bundle: Bundle, precision: EnginePrecision, plan: Path | None, platform: TritonPlatform
) -> _Plan:
    if platform == "tensorrt_plan":
        if plan is None:
            raise InputError(
                "platform tensorrt_plan",
                expected="a plan",
                got="none",
                cure="build one on the device that will serve it and give it, or choose the "
                "platform onnxruntime_onnx",
            )
        return _read_plan(bundle, precision, plan)
    if plan is not None:
        raise InputError(f"platform {platform} serves an ONNX file", got=f"the plan {plan}")
    if precision not in bundle.variants:
        raise BundleError(
            f"bundle {bundle.path} has no variant '{precision}' for ONNX Runtime",
            expected=" or ".join(bundle.variants),
            cure="choose one of these, or the platform tensorrt_plan",
        )
    return _Plan(bundle.model_bytes(precision), bundle.manifest.variants[precision])


def _read_plan(bundle: Bundle, precision: EnginePrecision, path: Path) -> _Plan:
    """A plan's bytes, held against the record beside it where there is one."""
    try:
        data = path.read_bytes()
        recorded = _is_there(path.with_name(RECORD_NAME))
    except OSError as err:
        raise EngineError(
            f"cannot read the plan {path}",
            got=err.strerror or str(err),
            cure=f"build one on the device: edge-fusion build BUNDLE --precision {precision}",
        ) from err
    if not recorded:
        return _Plan(data, f"plan {sha256(data)[:12]}, without a record of what it was built from")
    record = read_record(path.parent, sealed=False)  # it may have been built on another device
    _check_plan(bundle, precision, data, record, path)
    device = f"{record.device.name}, TensorRT {record.device.tensorrt}"
    return _Plan(data, f"engine {record.key} from {record.model_file}, built on {device}")


def _is_there(path: Path) -> bool:
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    return True


def _check_plan(
    bundle: Bundle, precision: EnginePrecision, data: bytes, record: EngineRecord, path: Path
) -> None:
    pairs = (
        ("hash", record.plan_sha256, sha256(data)),
        ("precision", precision, record.options.precision),
        ("model", *(model_difference(bundle, record) or ("", ""))),
    )
    for what, expected, got in pairs:
        if expected != got:
            raise EngineError(
                f"the plan {path} does not belong to {bundle.path}: {what}",
                expected=expected,
                got=got,
                cure="build it on the device from this bundle",
            )


def _triton_config(
    bundle: Bundle,
    name: str,
    precision: EnginePrecision,
    platform: TritonPlatform,
    provenance: str,
) -> str:
    spec = bundle.manifest.model
    inputs = ",\n".join(_triton_tensor(tensor.name, tensor.shape) for tensor in spec.inputs)
    output = _triton_tensor(spec.output.name, _output_shape(bundle))
    comments = _comments(bundle, precision, provenance)
    # A plan runs on a GPU alone; for ONNX Runtime the server's operator decides.
    group = "instance_group [\n  { count: 1, kind: KIND_GPU }\n]\n"
    return (
        f"{comments}\n"
        f"name: {_quoted(name)}\n"
        f"platform: {_quoted(platform)}\n"
        "# the batch is part of the shapes: one frame at a time\n"
        "max_batch_size: 0\n"
        f"input [\n{inputs}\n]\n"
        f"output [\n{output}\n]\n"
    ) + (group if platform == "tensorrt_plan" else "")


def _triton_tensor(name: str, shape: tuple[int, ...]) -> str:
    dims = ", ".join(map(str, shape))
    return f"  {{ name: {_quoted(name)}, data_type: TYPE_FP32, dims: [ {dims} ] }}"


def _isaac_ros_parameters(
    bundle: Bundle, precision: EnginePrecision, plan: Path, provenance: str
) -> str:
    spec = bundle.manifest.model
    inputs, outputs = [spec.rgb.name, spec.depth.name], [spec.output.name]
    planar = ["nitros_tensor_list_nchw_rgb_f32"]
    parameters = {
        "engine_file_path": _text_of(plan),
        "force_engine_update": False,  # its own builder knows no INT8 and no strong typing
        "input_tensor_names": inputs,
        "input_binding_names": inputs,
        "input_tensor_formats": planar,
        "output_tensor_names": outputs,
        "output_binding_names": outputs,
        "output_tensor_formats": planar,
        "max_batch_size": 1,
    }
    rows = [f"    {key}: {_quoted(value)}" for key, value in parameters.items()]
    comments = _comments(bundle, precision, provenance)
    both = "# both inputs arrive in one TensorList message, named as below"
    return "\n".join((comments, both, "/**:", "  ros__parameters:", *rows)) + "\n"


def _text_of(path: Path) -> str:
    try:
        return path.as_posix().encode().decode()
    except UnicodeEncodeError as err:  # a file system takes any bytes
        raise InputError(
            "the plan's path", expected="UTF-8", got=ascii(str(path)), cure="rename its folder"
        ) from err


def _comments(bundle: Bundle, precision: EnginePrecision, provenance: str) -> str:
    spec = bundle.manifest.model
    origin = " ".join(provenance.split())  # a line break would end the comment
    lines = (f"model {_quoted(spec.name)}, {precision}: {_ascii(origin)}", *preprocessing(spec))
    return "\n".join((MARK, *(f"# {line}" for line in lines)))


def _output_shape(bundle: Bundle) -> tuple[int, ...]:
    """The output's shape, which the golden outputs alone know: it need not be the input's."""
    return (1, *bundle.golden()["output.fp32"].shape[1:])


def _quoted(value: object) -> str:
    """A value as JSON, YAML and protocol buffers' text all read it, in ASCII."""
    return _ascii(json.dumps(value, ensure_ascii=False))


def _ascii(text: str) -> str:
    """Everything else by its number: in YAML more than a line feed ends a line or a comment."""
    return _NOT_ASCII.sub(lambda found: f"\\U{ord(found[0]):08x}", text)


def _check_model_folder(folder: Path, *, replace: bool) -> None:
    """Refuse a place that holds anything but an older export."""
    own = {CONFIG_NAME, _VERSION, *(f"{_VERSION}/{file}" for file in _MODEL_FILES.values())}
    with writing("the Triton model", folder):
        if not folder.exists() and not folder.is_symlink():
            return
        entries = {entry.relative_to(folder).as_posix() for entry in folder.rglob("*")}
        ours = not folder.is_symlink() and _is_marked(folder / CONFIG_NAME) and entries <= own
    _refuse(folder, ours=ours, replace=replace)


def _check_parameter_file(path: Path, *, replace: bool) -> None:
    with writing("the parameters", path):
        if not path.exists() and not path.is_symlink():
            return
        ours = not path.is_symlink() and _is_marked(path)
    _refuse(path, ours=ours, replace=replace)


def _is_marked(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(MARK)) == MARK.encode()
    except OSError:
        return False


def _refuse(path: Path, *, ours: bool, replace: bool) -> None:
    if not ours:
        raise OutputError(
            f"{path} holds something that is no export of ours",
            cure="choose another place or name; nothing there was touched",
        )
    if not replace:
        raise OutputError(
            f"{path} holds an older export", cure="choose another place, or replace it: --force"
        )
