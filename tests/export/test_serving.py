from __future__ import annotations

import ast
import json
import os
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from edge_fusion.bundle import Bundle
from edge_fusion.engine import (
    LARGEST_RECORD,
    RECORD_NAME,
    EngineRecord,
    engine_key,
    write_engine,
)
from edge_fusion.errors import BundleError, EngineError, InputError, OutputError
from edge_fusion.export.serving import export_isaac_ros, export_triton, preprocessing
from edge_fusion.files import sha256
from edge_fusion.spec import DepthInput, ModelSpec, Output
from tests.export.device_bundles import engine_record, with_flavours

PLAN = b"a plan of TensorRT"


@pytest.fixture
def bundle(tiny_bundle: Bundle, tmp_path: Path) -> Bundle:
    return with_flavours(tiny_bundle, tmp_path / "flavoured")


@pytest.fixture
def plan(bundle: Bundle, tmp_path: Path) -> Path:
    """An engine as ``edge-fusion build`` leaves it: the plan and its record."""
    folder = tmp_path / "engine"
    folder.mkdir()
    (folder / RECORD_NAME).write_text(engine_record(bundle, PLAN).model_dump_json())
    (folder / "model.plan").write_bytes(PLAN)
    return folder / "model.plan"


@cache
def model_config() -> Any:
    """Triton's ``ModelConfig`` as far as we write it: names, numbers and types of its schema."""
    proto = pytest.importorskip("google.protobuf.descriptor_pb2")
    from google.protobuf import descriptor_pool, message_factory

    field, pool = proto.FieldDescriptorProto, descriptor_pool.DescriptorPool()
    file = proto.FileDescriptorProto(name="triton.proto", package="triton", syntax="proto3")
    for name, values in {
        "DataType": {"TYPE_INVALID": 0, "TYPE_FP16": 10, "TYPE_FP32": 11},
        "Kind": {"KIND_AUTO": 0, "KIND_GPU": 1, "KIND_CPU": 2},
    }.items():
        enum = file.enum_type.add(name=name)
        for key, number in values.items():
            enum.value.add(name=key, number=number)
    messages = {
        "ModelInput": {"name": (1, "string"), "data_type": (2, "DataType"), "dims": (4, "int64*")},
        "ModelOutput": {"name": (1, "string"), "data_type": (2, "DataType"), "dims": (3, "int64*")},
        "Group": {"count": (2, "int32"), "kind": (4, "Kind")},
        "ModelConfig": {
            "name": (1, "string"),
            "platform": (2, "string"),
            "max_batch_size": (4, "int32"),
            "input": (5, "ModelInput*"),
            "output": (6, "ModelOutput*"),
            "instance_group": (7, "Group*"),
        },
    }
    plain = {"string": field.TYPE_STRING, "int32": field.TYPE_INT32, "int64": field.TYPE_INT64}
    for name, fields in messages.items():
        message = file.message_type.add(name=name)
        for key, (number, kind) in fields.items():
            label = field.LABEL_REPEATED if kind.endswith("*") else field.LABEL_OPTIONAL
            kind = kind.rstrip("*")
            added = message.field.add(name=key, number=number, label=label)
            if kind in plain:
                added.type = plain[kind]
            else:
                enum_type = kind in ("DataType", "Kind")
                added.type = field.TYPE_ENUM if enum_type else field.TYPE_MESSAGE
                added.type_name = f".triton.{kind}"
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("triton.ModelConfig"))


def parsed(folder: Path) -> Any:
    text_format = pytest.importorskip("google.protobuf.text_format")
    return text_format.Parse((folder / "config.pbtxt").read_text(), model_config()())


def test_a_plan_becomes_a_triton_model(bundle: Bundle, plan: Path, tmp_path: Path) -> None:
    folder = export_triton(bundle, "int8", tmp_path / "repository", plan)
    assert folder == tmp_path / "repository" / "tiny_int8"
    config = parsed(folder)
    assert (config.name, config.platform, config.max_batch_size) == (
        "tiny_int8",
        "tensorrt_plan",
        0,
    )
    tensors = [(t.name, t.data_type, tuple(t.dims)) for t in (*config.input, *config.output)]
    assert tensors == [
        ("rgb", 11, (1, 3, 32, 32)),
        ("depth", 11, (1, 1, 32, 32)),
        ("saliency", 11, (1, 1, 32, 32)),
    ]
    assert [(group.count, group.kind) for group in config.instance_group] == [(1, 1)]
    assert (folder / "1" / "model.plan").read_bytes() == PLAN
    assert {p.name for p in folder.parent.iterdir()} == {"tiny_int8"}, "nothing half-written stays"
    assert "built on Orin, TensorRT 10.3.0.30" in (folder / "config.pbtxt").read_text()


def test_onnx_runtime_is_a_choice_not_a_fallback(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="platform tensorrt_plan: expected a plan.*build one on"):
        export_triton(bundle, "int8", tmp_path / "repository")
    assert not (tmp_path / "repository").exists()
    folder = export_triton(bundle, "int8", tmp_path / "repository", platform="onnxruntime_onnx")
    assert parsed(folder).platform == "onnxruntime_onnx"
    assert not parsed(folder).instance_group
    assert (folder / "1" / "model.onnx").read_bytes() == bundle.model_bytes("int8")


def test_platform_and_plan_must_agree(bundle: Bundle, plan: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="serves an ONNX file"):
        export_triton(bundle, "int8", tmp_path / "r", plan, platform="onnxruntime_onnx")
    with pytest.raises(BundleError, match="no variant 'fp16' for ONNX Runtime: expected fp32 or"):
        export_triton(bundle, "fp16", tmp_path / "r", platform="onnxruntime_onnx")


@pytest.mark.parametrize("name", ["../up", "a/b", ".hidden", "a b", 'a"b', "-a", "x" * 129])
def test_a_models_name_is_one_folder(bundle: Bundle, plan: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="the model's name in Triton: .*--name"):
        export_triton(bundle, "int8", tmp_path / "r", plan, name=name)


def test_only_an_older_export_is_replaced(bundle: Bundle, plan: Path, tmp_path: Path) -> None:
    folder = export_triton(bundle, "int8", tmp_path / "r", plan)
    with pytest.raises(OutputError, match="older export.*--force"):
        export_triton(bundle, "int8", tmp_path / "r", plan)
    export_triton(bundle, "int8", tmp_path / "r", platform="onnxruntime_onnx", replace=True)
    assert [p.name for p in (folder / "1").iterdir()] == ["model.onnx"]
    (folder / "labels.txt").write_text("mine")
    with pytest.raises(OutputError, match="no export of ours"):
        export_triton(bundle, "int8", tmp_path / "r", plan, replace=True)
    assert (folder / "labels.txt").read_text() == "mine"


def test_a_foreign_model_or_a_link_is_never_replaced(
    bundle: Bundle, plan: Path, tmp_path: Path
) -> None:
    foreign = tmp_path / "r" / "tiny_int8"
    foreign.mkdir(parents=True)
    (foreign / "config.pbtxt").write_text('name: "tiny_int8"\n')
    with pytest.raises(OutputError, match="no export of ours"):
        export_triton(bundle, "int8", tmp_path / "r", plan, replace=True)
    export_triton(bundle, "int8", tmp_path / "elsewhere", plan)
    (tmp_path / "r" / "linked").symlink_to(tmp_path / "elsewhere" / "tiny_int8")
    with pytest.raises(OutputError, match="no export of ours"):
        export_triton(bundle, "int8", tmp_path / "r", plan, name="linked", replace=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"plan_sha256": "0" * 64}, "hash: expected 000000000000"),
        # more of the hash than anybody reads
        ({"plan_sha256": f"{sha256(PLAN)[:63]}{int(sha256(PLAN)[63] == '0')}"}, "hash: expected"),
        ({"model_sha256": "0" * 64}, "model: expected .*, got 000000000000"),
        ({"options": {"precision": "fp16", "flavour": "strong"}}, "precision: expected int8, got"),
    ],
)
def test_a_plan_of_something_else_is_refused(
    bundle: Bundle, plan: Path, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    path = plan.with_name(RECORD_NAME)
    fields = {**json.loads(path.read_text()), **change}
    made = EngineRecord.model_validate(fields)
    key = engine_key(made.model_sha256, made.device, made.options)
    path.write_text(made.model_copy(update={"key": key}).model_dump_json())
    with pytest.raises(EngineError, match=message):
        export_triton(bundle, "int8", tmp_path / "r", plan)
    with pytest.raises(EngineError, match=message):
        export_isaac_ros(bundle, "int8", tmp_path / "p.yaml", plan)


def test_a_plan_from_trtexec_has_no_record_and_the_config_says_so(
    bundle: Bundle, tmp_path: Path
) -> None:
    (tmp_path / "model.plan").write_bytes(PLAN)
    folder = export_triton(bundle, "int8", tmp_path / "r", tmp_path / "model.plan")
    assert "without a record of what it was built from" in (folder / "config.pbtxt").read_text()


def test_a_missing_plan_is_said(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="cannot read the plan.*edge-fusion build"):
        export_triton(bundle, "int8", tmp_path / "r", tmp_path / "none.plan")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "build.json is damaged: got key: .*; copy the plan and its record from its device"),
        (" " * (LARGEST_RECORD + 1), "too large for an engine's record"),
        ('{"schema_version": 2}', "newer edge-fusion.*upgrade edge-fusion"),
        (None, "build.json is not what was built: got a link"),
    ],
    ids=["damaged", "oversized", "newer", "link"],
)
def test_a_record_that_cannot_be_used_is_never_taken_for_none(
    bundle: Bundle, plan: Path, tmp_path: Path, content: str | None, message: str
) -> None:
    record = plan.with_name(RECORD_NAME)
    if content is None:
        record.unlink()
        record.symlink_to(tmp_path / "nowhere")
    else:
        record.write_text(content)
    with pytest.raises(EngineError, match=message):
        export_triton(bundle, "int8", tmp_path / "r", plan)
    with pytest.raises(EngineError, match=message):
        export_isaac_ros(bundle, "int8", tmp_path / "p.yaml", plan)


def test_a_record_whose_key_is_not_its_own_is_refused(
    bundle: Bundle, plan: Path, tmp_path: Path
) -> None:
    path = plan.with_name(RECORD_NAME)
    path.write_text(path.read_text().replace("Orin", "Xavier"))
    with pytest.raises(EngineError, match="was changed: got a key that is not that of its fields"):
        export_triton(bundle, "int8", tmp_path / "r", plan)


def test_a_plan_that_was_built_elsewhere_may_be_passed_on(bundle: Bundle, tmp_path: Path) -> None:
    record = engine_record(bundle, PLAN)
    with pytest.MonkeyPatch.context() as elsewhere:
        elsewhere.setenv("EDGE_FUSION_STATE", str(tmp_path / "their state"))
        folder = write_engine(bundle, record, PLAN, "{}").folder
    made = export_triton(bundle, "int8", tmp_path / "r", folder / "model.plan")
    assert f"engine {record.key} from" in (made / "config.pbtxt").read_text()


def test_isaac_ros_gets_a_plan_it_must_not_rebuild(
    bundle: Bundle, plan: Path, tmp_path: Path
) -> None:
    path = export_isaac_ros(bundle, "int8", tmp_path / "saliency.yaml", plan)
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    assert lines[:2] == ["/**:", "  ros__parameters:"]
    rows = (line.strip().split(": ", 1) for line in lines[2:])
    parameters = {key: json.loads(value) for key, value in rows}
    assert parameters["engine_file_path"] == str(plan.resolve())
    assert parameters["force_engine_update"] is False
    assert parameters["input_tensor_names"] == parameters["input_binding_names"] == ["rgb", "depth"]
    assert parameters["output_tensor_names"] == parameters["output_binding_names"] == ["saliency"]
    with pytest.raises(OutputError, match="older export"):
        export_isaac_ros(bundle, "int8", path, plan)
    assert export_isaac_ros(bundle, "int8", path, plan, replace=True) == path
    path.write_text("mine: true\n")
    with pytest.raises(OutputError, match="no export of ours"):
        export_isaac_ros(bundle, "int8", path, plan, replace=True)
    assert path.read_text() == "mine: true\n"


def test_names_cannot_break_out_of_a_config(bundle: Bundle, plan: Path, tmp_path: Path) -> None:
    spec = ModelSpec(name='x"\nname: "y', height=32, width=32, output=Output(name='a"]\n}'))
    manifest = bundle.manifest.model_copy(update={"model": spec})
    hostile = Bundle(bundle.path, manifest)
    config = parsed(export_triton(hostile, "int8", tmp_path / "r", plan, name="safe"))
    assert config.name == "safe"
    assert [output.name for output in config.output] == ['a"]\n}']


@pytest.mark.parametrize(
    "char",
    ["\u2028", "\u2029", "\x85", "\x7f", "\r", "\ufeff", "\U0001f600", "\u00e9"],
    ids=lambda char: f"U+{ord(char):04X}",
)
def test_no_character_ends_a_line_or_changes_a_name(
    bundle: Bundle, plan: Path, tmp_path: Path, char: str
) -> None:
    name = f"a{char}injected: true"
    spec = ModelSpec(name=name, height=32, width=32, output=Output(name=name))
    hostile = Bundle(bundle.path, bundle.manifest.model_copy(update={"model": spec}))
    folder = export_triton(hostile, "int8", tmp_path / "r", plan, name="safe")
    assert [output.name for output in parsed(folder).output] == [name]
    path = export_isaac_ros(hostile, "int8", tmp_path / "p.yaml", plan)
    assert yaml_parameters(path)["output_tensor_names"] == [name]
    for text in ((folder / "config.pbtxt").read_text(), path.read_text()):
        assert text.isascii()
        assert all(line.isprintable() for line in text.split("\n"))


def yaml_parameters(path: Path) -> dict[str, Any]:
    """The parameters as YAML 1.1 reads them: its line ends, its comments, its escapes."""
    text = path.read_bytes().decode()
    lines = (line.partition("#")[0].rstrip() for line in re.split("[\n\r\x85\u2028\u2029]", text))
    head, section, *rows = (line for line in lines if line)
    assert (head, section) == ("/**:", "  ros__parameters:")
    pairs = [re.fullmatch(r"    (\w+): (.*)", row) for row in rows]
    assert all(pairs), rows
    # Python reads these quoted strings and their \U as YAML does.
    plain = {"true": True, "false": False}
    return {
        pair[1]: plain[pair[2]] if pair[2] in plain else ast.literal_eval(pair[2])
        for pair in pairs
        if pair
    }


def test_a_path_that_yaml_cannot_hold_is_refused(
    bundle: Bundle, plan: Path, tmp_path: Path
) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    moved = plan.rename(folder / "model.plan")
    with pytest.raises(InputError, match="the plan's path: expected UTF-8, got .*udce9"):
        export_isaac_ros(bundle, "int8", tmp_path / "p.yaml", moved)


def test_a_place_that_the_system_refuses_is_said(
    bundle: Bundle, plan: Path, tmp_path: Path
) -> None:
    place = tmp_path / ("x" * 300)
    with pytest.raises(OutputError, match="cannot write the Triton model .*File name too long"):
        export_triton(bundle, "int8", place, plan)
    with pytest.raises(OutputError, match="cannot write the parameters .*File name too long"):
        export_isaac_ros(bundle, "int8", place, plan)


def test_the_comments_say_what_a_client_must_do() -> None:
    depth = DepthInput(normalisation="linear", near_m=0.3, far_m=5, larger_is="farther", channels=3)
    spec = ModelSpec(name="m", width=320, height=240, depth=depth, output=Output(activation="none"))
    text = "\n".join(preprocessing(spec))
    for part in (
        "resize to 320x240 bilinearly; RGB order",
        "mean [0.485, 0.456, 0.406]",
        "metres between 0.3 and 5",
        "larger is farther; 0 where there is no reading",
        "3 equal channel(s)",
        "saliency, 0..1",
    ):
        assert part in text
    assert "1 / (1 + exp(-x))" in "\n".join(
        preprocessing(ModelSpec(name="m", output=Output(activation="sigmoid")))
    )
