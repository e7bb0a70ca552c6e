"""What ``build`` makes of a bundle, and what it refuses: each job as a user asks for it."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import pytest
from typer.testing import CliRunner, Result

from edge_fusion.__main__ import app
from edge_fusion.build_jobs import JOBS, Precision
from edge_fusion.bundle import Bundle
from edge_fusion.engine import EnginePrecision, list_engines
from edge_fusion.export import remote
from edge_fusion.export.remote import RemoteOptions, RemoteResult
from edge_fusion.manifest import MANIFEST_NAME
from edge_fusion.runtime import compare
from edge_fusion.runtime.cuda import Cuda
from tests.export.device_bundles import engine_record
from tests.export.engine_bundles import bundle_with_flavours

DEMO = "demo://?frames=3&size=64x48&seed=3"


@pytest.fixture
def bundle(tiny_bundle: Bundle, tmp_path: Path) -> Bundle:
    return bundle_with_flavours(tiny_bundle, tmp_path / "bundle")


@pytest.fixture
def device(
    monkeypatch: pytest.MonkeyPatch,
    fake_tensorrt: Callable[..., ModuleType],
    fake_cuda: Callable[..., Any],
) -> None:
    """This machine has a GPU and TensorRT 10.3."""
    fake_tensorrt("10.3")

    def load() -> Any:  # each command opens and closes one of its own
        opened = fake_cuda(integrated=False)
        monkeypatch.setattr(Cuda, "load", load)
        return opened

    load()


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def done(*arguments: object) -> str:
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    return result.output


def refused(*arguments: object) -> str:
    """One readable message."""
    result = invoke(*arguments)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return " ".join(result.output.split())


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


# --- on the device ---------------------------------------------------------------------------


@pytest.mark.usefixtures("device")
def test_build_here(bundle: Bundle, tmp_path: Path) -> None:
    told = tmp_path / "record.json"
    output = done("build", bundle.path, "--json", told)
    [record] = list_engines(bundle)
    assert read_json(told) == record.model_dump(mode="json")
    assert (record.options.precision, record.device.tensorrt) == ("int8", "10.3.0.30")
    assert re.search(r"self-check +mean difference \S+ of 0.01 allowed", output)
    assert re.search(r"INT8 share of MACs +100%", output)
    assert "unchanged since" in done("build", bundle.path), "the second finds it"
    assert "unchanged since" not in done("build", bundle.path, "--force")


@pytest.mark.usefixtures("device")
def test_every_option_of_building_here_arrives(bundle: Bundle) -> None:
    options = ("--optimization-level", 2, "--workspace", 64, "--no-timing-cache")
    done("build", bundle.path, "--precision", "fp16", *options)
    [record] = list_engines(bundle)
    assert (record.options.precision, record.options.optimization_level) == ("fp16", 2)
    assert not list(bundle.path.glob("engines/timing-*"))
    done("build", bundle.path)
    assert list(bundle.path.glob("engines/timing-*"))


@pytest.mark.usefixtures("device")
def test_what_was_built_here_runs_and_is_compared(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # it is measured in a process of its own, which has no GPU
    monkeypatch.setattr(compare, "peak_memory", lambda *arguments: None)
    for precision in ("fp32", "fp16", "int8"):
        done("build", bundle.path, "--precision", precision)
    told = tmp_path / "told.json"
    done("run", bundle.path, DEMO, "--json", told)
    assert read_json(told)["backend"] == "trt", "auto takes the engine"
    output = done(
        "compare", bundle.path, "--data", DEMO, "--variants", "fp32,fp16,int8", "--json", told
    )
    assert "fp16" in output.lower()
    compared = read_json(told)
    assert compared["variants"][0] == "fp32"
    assert set(compared["costs"]) == {"fp32", "fp16", "int8"}


@pytest.mark.usefixtures("device")
def test_without_an_engine_auto_says_what_to_run(bundle: Bundle) -> None:
    """A device that could have an engine never falls back to the CPU in silence."""
    assert f"run: edge-fusion build {bundle.path} --precision int8" in refused(
        "run", bundle.path, DEMO
    )


@pytest.mark.usefixtures("device")
def test_doctor_and_its_evidence(bundle: Bundle, tmp_path: Path) -> None:
    told, evidence = tmp_path / "told.json", tmp_path / "evidence.json"
    done("doctor", bundle.path, "--json", told)
    engines = read_json(told)["bundle"]["engines"]
    assert {name: state["built_utc"] for name, state in engines.items()} == dict.fromkeys(
        ("fp32", "fp16", "int8")
    )
    assert f"evidence: {evidence}" in done(
        "doctor", bundle.path, "--evidence", evidence, "--data", DEMO
    ).replace("\n", "")
    found = read_json(evidence)
    assert {e["options"]["precision"] for e in found["engines"]} == {"fp32", "fp16", "int8"}
    assert all(run["self_check"]["passed"] for run in found["runs"])
    assert {run["backend"] for run in found["runs"]} == {"ort", "trt"}
    assert found["problems"] == {}


def test_evidence_needs_a_bundle(tmp_path: Path) -> None:
    assert "needs a bundle" in refused("doctor", "--evidence", tmp_path / "e.json")


# --- for another device or server ------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), {"--onnx=model.strong.int8.onnx", "--stronglyTyped"}),  # the bundle's own target
        (("--target", "orin-nano@6.0"), {"--onnx=model.weak.int8.onnx", "--int8"}),
        (("--precision", "fp16"), {"--onnx=model.strong.fp16.onnx"}),
        (
            ("--workspace", 64, "--optimization-level", 1),
            {"--memPoolSize=workspace:64", "--builderOptimizationLevel=1"},
        ),
    ],
)
def test_print_trtexec(
    bundle: Bundle, tmp_path: Path, options: tuple[object, ...], words: set[str]
) -> None:
    told = tmp_path / "told.json"
    line = done("build", bundle.path, "--print-trtexec", *options, "--json", told)
    assert words <= set(shlex.split(line))
    assert read_json(told)["command"] == line.strip()


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize(
    ("form", "options", "written"),
    [
        ("triton", ("--name", "mine"), ["mine/1/model.plan", "mine/config.pbtxt"]),
        ("triton", (), ["tiny_int8/1/model.plan", "tiny_int8/config.pbtxt"]),
        ("triton-ort", (), ["tiny_int8/1/model.onnx", "tiny_int8/config.pbtxt"]),
        ("isaac-ros", (), [""]),
    ],
)
def test_export(
    bundle: Bundle, tmp_path: Path, form: str, options: tuple[str, ...], written: list[str]
) -> None:
    """Without --plan it is the engine of this device."""
    done("build", bundle.path)
    output = tmp_path / "out"
    done("build", bundle.path, "--export", form, "-o", output, *options)
    files = [path for path in (output, *output.rglob("*")) if path.is_file()]
    assert sorted(str(p.relative_to(output)).strip(".") for p in files) == written
    assert "--force" in refused("build", bundle.path, "--export", form, "-o", output, *options)
    done("build", bundle.path, "--export", form, "-o", output, "--force", *options)


def test_export_of_a_named_plan_and_without_a_place(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "my.plan").write_bytes(b"built elsewhere")
    export = ("build", bundle.path, "--export", "triton")
    done(*export, "--plan", tmp_path / "my.plan", "-o", tmp_path / "repository")
    plan = tmp_path / "repository" / "tiny_int8" / "1" / "model.plan"
    assert plan.read_bytes() == b"built elsewhere"
    assert "say where to: -o PATH" in refused(*export)


class FarAway:
    """Stands in for ``build_remote``: keeps what it was asked for, tells its steps."""

    def __init__(self) -> None:
        self.options: list[RemoteOptions] = []
        self.interrupted_at = ""

    def __call__(
        self, path: Path, options: RemoteOptions, progress: Callable[..., None], on_line: Any
    ) -> RemoteResult:
        self.options.append(options)
        for step in ("reach", "copy", "remote"):
            progress(step, 0, 0)
            if step == self.interrupted_at:
                raise KeyboardInterrupt
        on_line("step [1]")
        record = engine_record(Bundle.read(path), b"plan")
        return RemoteResult("ssh://orin", None, "/there/b", record, "", (), False, {})  # type: ignore[arg-type]


@pytest.fixture
def far_away(monkeypatch: pytest.MonkeyPatch) -> FarAway:
    stand_in = FarAway()
    monkeypatch.setattr(remote, "build_remote", stand_in)
    return stand_in


def test_build_there(bundle: Bundle, tmp_path: Path, far_away: FarAway) -> None:
    told = tmp_path / "told.json"
    options = {
        "--on": "ssh://u@orin:22",
        "--precision": "int8",
        "--output": tmp_path / "out",
        "--wheelhouse": tmp_path,
        "--directory": "~/engines",
        "--python": "python3.12",
        "--ssh-config": tmp_path / "config",
        "--workspace": 64,
        "--optimization-level": 2,
        "--json": told,
    }
    words = [word for pair in options.items() for word in pair]
    output = done("build", bundle.path, *words, "--force", "--no-timing-cache")
    assert "step [1]" in output, "what the device says is no markup"
    assert re.search(r"device +ssh://orin", output)
    assert read_json(told)["options"]["precision"] == "int8"
    builder = ("--workspace", "64", "--optimization-level", "2", "--force", "--no-timing-cache")
    assert far_away.options == [
        RemoteOptions(
            "ssh://u@orin:22",
            "int8",
            directory="~/engines",
            python="python3.12",
            wheelhouse=tmp_path,
            build_options=builder,
            ssh_config=tmp_path / "config",
            output=tmp_path / "out",
            replace=True,
        )
    ]
    done("build", bundle.path, "--on", "ssh://u@orin")
    assert far_away.options[1] == RemoteOptions("ssh://u@orin")


@pytest.mark.parametrize(("step", "goes_on"), [("reach", False), ("copy", False), ("remote", True)])
def test_only_what_was_started_there_goes_on(
    bundle: Bundle, far_away: FarAway, step: str, goes_on: bool
) -> None:
    far_away.interrupted_at = step
    result = invoke("build", bundle.path, "--on", "ssh://orin")
    assert result.exit_code == 130
    assert ("a build that was started there goes on" in result.output) is goes_on


# --- what is refused -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        # an unset variable in a script must not build here what was meant for elsewhere
        ("--on ''", "the device's address: expected ssh://user@host"),
        ("--target nonsense", "--target belongs to building a bundle from a model or "
         "--print-trtexec: got an engine for this device; an engine is for the device that"),
        ("--on ssh://orin --target orin-nano", "--target belongs to .*got an engine built with"),
        ("-o here", "--output belongs to .*kept in the bundle: leave it out"),
        ("--wheelhouse house", "--wheelhouse belongs to --on ssh://USER@HOST: got an engine for"),
        ("--directory d", "--directory belongs to --on"),
        ("--python p", "--python belongs to --on"),
        ("--ssh-config c", "--ssh-config belongs to --on"),
        ("--plan p", "--plan belongs to --export triton or --export isaac-ros"),
        ("--name n", "--name belongs to --export triton or --export triton-ort"),
        ("--on ssh://orin --export triton", "--on and --export ask for different things"),
        ("--on ssh://orin --print-trtexec", "--on and --print-trtexec ask for different"),
        ("--print-trtexec --export triton", "--print-trtexec and --export ask for different"),
        ("--on ssh://orin --print-trtexec --export triton", "--on, --print-trtexec and --export"),
        ("--print-trtexec -o line", "--output belongs to .*got a line for trtexec; the line goes"),
        ("--print-trtexec --force", "--force belongs to "),
        ("--print-trtexec --wheelhouse h", "--wheelhouse belongs to --on"),
        ("--print-trtexec --no-timing-cache", "--no-timing-cache belongs to .*always names a"),
        ("--export triton-ort -o r --plan X", "--plan belongs to .*reads the bundle's own graph"),
        ("--export isaac-ros -o r --name n", "--name belongs to --export triton"),
        ("--export triton -o r --workspace 64", "--workspace belongs to building an engine here"),
        ("--calib set", "--calib belongs to building a bundle from a model: got .*bundle already"),
        ("--seed 0", "--seed belongs to building a bundle"),  # given, though with its own default
    ],
)  # fmt: skip
def test_options_of_another_job_are_refused_by_name(
    bundle: Bundle, tmp_path: Path, options: str, complaint: str
) -> None:
    before = sorted(tmp_path.rglob("*"))
    assert re.search(complaint, refused("build", bundle.path, *shlex.split(options)))
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("option", ["--on ssh://orin", "--plan p", "--workspace 64", "--on ''"])
def test_options_of_a_bundle_are_refused_for_a_model(option: str) -> None:
    message = refused("build", "nothing-of-this-name", *shlex.split(option))
    flag = option.partition(" ")[0]
    assert f"{flag} belongs to a bundle: got nothing-of-this-name, which is not" in message


def test_a_mistyped_or_damaged_bundle_is_no_model(bundle: Bundle, tmp_path: Path) -> None:
    def said(name: str, *options: str) -> str:
        return refused("build", f"{tmp_path}/{name}", *options)

    assert "typo; make one" in said("typo/")
    assert "no bundle at" in said("typo.tar")
    assert "no bundle at" in said("typo/", "--on", "ssh://orin")
    (tmp_path / "empty").mkdir()
    assert "'manifest.json' is missing from" in said("empty")
    manifest = bundle.path / MANIFEST_NAME
    manifest.write_bytes(manifest.read_bytes()[:100])
    assert "is not a manifest" in said("bundle")
    assert "no place for the bundle of" in said("typo")
    assert "File name too long" in said("x" * 300)


def test_a_folder_of_a_models_name_does_not_hide_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine").mkdir()
    assert "no place for the bundle of mine" in refused("build", "mine", "--untrained")


def test_the_table_of_jobs_is_that_of_the_command() -> None:
    import typer

    known = {param.name for param in typer.main.get_command(app).commands["build"].params}  # type: ignore[attr-defined]
    listed = {name for job in JOBS for name in (*job.options, *job.instead)}
    assert known == listed | {"model", "precision", "json_to"}
    assert {one.value for one in Precision} == set(get_args(EnginePrecision))
