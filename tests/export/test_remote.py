from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import pytest

from edge_fusion.bundle import Bundle, write_bundle
from edge_fusion.device_key import STATE_VARIABLE
from edge_fusion.engine import list_engines
from edge_fusion.errors import InputError, LinkLostError, OutputError, RemoteError
from edge_fusion.export import remote
from edge_fusion.export.remote import RemoteOptions, RemoteResult, build_remote
from edge_fusion.export.remote_job import Job
from edge_fusion.export.remote_wheel import pack_wheel
from tests.export.device_bundles import device_facts, engine_record, with_flavours
from tests.export.engine_bundles import bundle_with_flavours
from tests.export.far_side import ROOT, FarSide, far_side, ssh_children
from tests.export.stand_in import PLAN

Build = Callable[..., RemoteResult]

without_tensorrt = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt") is not None, reason="TensorRT is installed here"
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FarSide]:
    with far_side(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def bundle(tiny_bundle: Bundle, tmp_path: Path) -> Bundle:
    return with_flavours(tiny_bundle, tmp_path / "it's a bundle")


@pytest.fixture
def device(tmp_path: Path) -> Path:
    """Where everything goes on the far side; a blank in its name finds what is not quoted."""
    return tmp_path / "far side" / "edge fusion"


def far_python(*arguments: str, **settings: object) -> tuple[str, ...]:
    """This Python on the far side, where a login knows nothing of our environment."""
    # The key must be that of the tests, never the user's own.  Rows of tables are made before there
    # is one; they end before anything is sealed.
    ours = {"PYTHONPATH": ROOT, STATE_VARIABLE: os.environ.get(STATE_VARIABLE, "")}
    pairs = (f"{name}={value}" for name, value in (ours | settings).items())
    return ("env", *pairs, sys.executable, *arguments)


def stand_in(**behaviour: object) -> tuple[str, ...]:
    script = str(ROOT / "tests" / "export" / "stand_in.py")
    settings = {f"STAND_IN_{name.upper()}": value for name, value in behaviour.items()}
    return far_python(script, **settings)


@pytest.fixture
def build(server: FarSide, bundle: Bundle, device: Path, tmp_path: Path) -> Build:
    """Builds on the far side, by default with the stand-in."""

    def run(
        path: Path = bundle.path,
        on_line: Callable[[str], None] = lambda line: None,
        progress: Callable[..., None] = lambda *_: None,
        **changes: object,
    ) -> RemoteResult:
        options: dict[str, object] = {
            "python": sys.executable,
            "directory": str(device),
            "remote_command": stand_in(),
            "patience_s": 20.0,
        }
        if "ssh_config" not in changes:
            options["ssh_config"] = server.config(tmp_path)
        return build_remote(path, RemoteOptions(server.url, **options | changes), progress, on_line)

    return run


@pytest.fixture(params=["rsync", "sftp"])
def copier(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each way of copying: without rsync on this side, sftp copies."""
    if shutil.which(request.param) is None:
        pytest.skip(f"no {request.param} here")
    if request.param == "sftp":
        programs = tmp_path / "programs"
        programs.mkdir()
        for name in ("ssh", "sftp"):
            (programs / name).symlink_to(str(shutil.which(name)))
        monkeypatch.setenv("PATH", str(programs))
    return request.param


def runs(device: Path) -> int:
    return len((device / "bundles" / "runs").read_text().splitlines())


@pytest.mark.usefixtures("copier")
def test_a_build_there_brings_its_record_home(
    build: Build, bundle: Bundle, device: Path, tmp_path: Path
) -> None:
    lines: list[str] = []
    steps: list[tuple[str, int, int, str]] = []
    result = build(
        on_line=lines.append,
        progress=lambda *step: steps.append(step),
        output=tmp_path / "result",
    )
    assert lines == ["step 0"]
    there = Bundle.read(result.bundle)
    assert there.manifest == bundle.manifest
    assert list_engines(there) == [result.record]
    assert Path(result.engine, "model.plan").read_bytes() == PLAN
    assert result.record == engine_record(bundle, PLAN)
    assert result.layers == '{"Layers": []}'
    names = {*bundle.manifest.files, "manifest.json"}
    assert set(result.copied) == {f"bundles/{Path(result.bundle).name}/{name}" for name in names}
    assert not result.attached
    assert set(result.seconds) == {"reach", "copy", "remote"}
    assert [step[0] for step in steps if step[1] == step[2] == 1] == ["reach", "copy", "remote"]
    assert not list((device / "jobs").iterdir()), "a job that was brought home is forgotten"
    written = {path.name for path in (tmp_path / "result").iterdir()}
    assert written == {"build.json", "layers.json", "remote.json"}, "the plan stays there"
    summary = json.loads((tmp_path / "result" / "remote.json").read_text())
    assert summary["record"]["key"] == result.record.key
    assert summary["engine"] == result.engine


def test_the_real_command_line_builds_there(
    build: Build, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    """On a fake device; the second run finds the engine and builds nothing."""
    whole = bundle_with_flavours(tiny_bundle, tmp_path / "whole")
    script = str(ROOT / "tests" / "export" / "fake_device.py")
    command = far_python(script)
    lines: list[str] = []
    result = build(whole.path, on_line=lines.append, remote_command=command)
    assert result.record.options.precision == "int8"
    assert result.record.model_file == whole.manifest.flavours["strong.int8"].file
    assert list_engines(Bundle.read(result.bundle)) == [result.record]
    assert json.loads(result.layers)
    assert any(line.startswith("self-check") for line in lines)
    again = build(whole.path, remote_command=command)
    assert again.record == result.record
    assert again.copied == ()


@without_tensorrt
def test_the_real_command_line_says_why_it_cannot(build: Build) -> None:
    command = far_python("-m", "edge_fusion")
    with pytest.raises(RemoteError, match="failed: got building an engine needs TensorRT, "):
        build(remote_command=command)


@pytest.mark.slow
def test_a_second_run_copies_nothing_and_a_changed_file_alone(build: Build) -> None:
    first = build()
    assert build().copied == ()
    (Path(first.bundle) / "model.fp32.onnx").write_bytes(b"damaged")
    again = build()
    assert [Path(name).name for name in again.copied] == ["model.fp32.onnx"]
    assert again.bundle == first.bundle
    assert Bundle.read(again.bundle)


def test_a_tar_goes_there_as_a_folder(build: Build, bundle: Bundle, tmp_path: Path) -> None:
    files = {name: bundle.file(name) for name in bundle.manifest.files}
    tar = write_bundle(tmp_path / "b.tar", bundle.manifest.model_copy(update={"files": {}}), files)
    result = build(tar.path)
    assert Bundle.read(result.bundle).manifest == tar.manifest
    assert list_engines(Bundle.read(result.bundle)) == [result.record]


def test_a_link_lost_while_cleaning_up_loses_no_engine(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(job: Job) -> None:
        raise LinkLostError("the link to the device broke while cleaning up")

    lines: list[str] = []
    with monkeypatch.context() as patched:
        patched.setattr(remote, "forget", lose)
        result = build(on_line=lines.append, output=tmp_path / "result")
    assert lines[-1].startswith("the link to the device broke while cleaning up; nothing is lost")
    assert (tmp_path / "result" / "build.json").is_file()
    again = build()
    assert (again.record, again.attached) == (result.record, True)


@pytest.fixture
def job_on(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Job]:
    """The job that a device with these facts would be given; nothing is reached or copied."""
    jobs: list[Job] = []

    def stop(job: Job, *_: object) -> None:
        jobs.append(job)
        raise RemoteError("seen enough")

    def plan(**changes: object) -> Job:
        monkeypatch.setattr(remote, "probe", lambda *_: device_facts(**changes))
        with pytest.raises(RemoteError, match="seen enough"):
            build_remote(bundle.path, RemoteOptions("ssh://orin"))
        return jobs.pop()

    monkeypatch.setattr(remote, "upload", lambda *_: ())
    monkeypatch.setattr(remote, "run_job", stop)
    return plan


@pytest.mark.parametrize(
    "changes",
    [
        {"release": "# R36 (release), REVISION: 4.7"},
        {"tensorrt": "10.7.0.23"},
        {"nvpmodel": "pmode:0000 fmode:fanNull"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_an_outcome_from_before_an_upgrade_is_not_todays(
    job_on: Callable[..., Job], changes: dict[str, object]
) -> None:
    """A build ended while nobody listened; then the device got other software or another mode."""
    assert job_on().key == job_on(free_bytes=9 << 30).key
    assert job_on().key != job_on(**changes).key


def test_each_python_has_an_environment_of_its_own(job_on: Callable[..., Job]) -> None:
    """What pip put into the environment of one Python is not seen by another."""
    old, patched, new = (job_on(python=version) for version in ("3.10.12", "3.10.14", "3.12.3"))
    root = "/home/ubuntu/edge-fusion"
    for job, version in ((old, "3.10"), (patched, "3.10"), (new, "3.12")):
        assert job.command[0] == f"{root}/venv-{version}/bin/edge-fusion"
        assert job.install is not None
        assert job.install.environment == f"{root}/venv-{version}"
    assert old.install != patched.install, "it is installed again, into the same"


def test_a_lost_link_is_made_again_and_no_line_is_lost(build: Build, device: Path) -> None:
    lines: list[str] = []

    def cut(line: str) -> None:
        lines.append(line)
        if line == "step 1":
            for pid in ssh_children():
                os.kill(pid, signal.SIGKILL)

    result = build(on_line=cut, remote_command=stand_in(lines=8, sleep=0.2))
    notices = [line for line in lines if not line.startswith("step")]
    assert [line for line in lines if line.startswith("step")] == [f"step {n}" for n in range(8)]
    assert len(notices) == 1
    assert "broke while following the build; trying again in 1 s" in notices[0]
    assert runs(device) == 1
    assert not result.attached, "it was this run that started it"


@pytest.mark.slow
def test_a_build_outlives_the_one_who_started_it(build: Build, device: Path) -> None:
    command = stand_in(lines=10, sleep=0.2)

    def cut(line: str) -> None:
        for pid in ssh_children():
            os.kill(pid, signal.SIGKILL)

    with pytest.raises(LinkLostError, match="broke while following.*run the same command again"):
        build(on_line=cut, remote_command=command, patience_s=0)
    lines: list[str] = []
    result = build(on_line=lines.append, remote_command=command)
    assert result.attached
    assert lines == [f"step {n}" for n in range(10)], "its log is read from the start"
    assert runs(device) == 1
    assert build(remote_command=command).attached is False, "what was brought home starts anew"


@pytest.mark.slow
def test_an_error_there_is_an_error_here(build: Build, device: Path) -> None:
    with pytest.raises(
        RemoteError, match="the build on ssh://.* failed: got no luck; its log: "
    ) as e:
        build(remote_command=stand_in(error="no luck"))
    assert Path(e.value.cure.removeprefix("its log: ")).is_file()
    # the failure was told once; the next run tries again, and does not tell it a second time
    with pytest.raises(RemoteError, match="got no luck"):
        build(remote_command=stand_in(error="no luck"))
    assert runs(device) == 2


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (stand_in(status=137), "got killed, most likely because memory ran out"),
        (stand_in(status=3), "got step 0"),  # its last word, where it names no error
        (("/no/such/program",), "got a program was not found"),
        # ends the shell that would write down how it ended
        (("sh", "-c", "kill -9 $PPID"), "ended without a word: .*was the device switched off"),
        (("true",), "left no engine's record: .*; the same command builds it anew; its log: /"),
    ],
)
def test_every_end_is_told(build: Build, command: tuple[str, ...], message: str) -> None:
    with pytest.raises(RemoteError, match=message):
        build(remote_command=command)


def test_an_engine_of_something_else_is_refused_and_built_anew(build: Build, device: Path) -> None:
    for count in (1, 2):
        with pytest.raises(RemoteError, match="precision: expected fp16, got int8; the same comm"):
            build(precision="fp16")
        assert runs(device) == count, "a bad outcome is told once"


@without_tensorrt
def test_the_devices_answer_without_tensorrt(build: Build, device: Path) -> None:
    """This machine has none: nothing is copied, and the message says what to install."""
    with pytest.raises(RemoteError, match="TensorRT is not installed for the Python .*got Module"):
        build(remote_command=None)
    assert not device.exists()


def test_a_python_that_is_not_there(build: Build) -> None:
    with pytest.raises(RemoteError, match="has no /no/python; install it"):
        build(python="/no/python")


def test_a_python_that_is_too_old_says_so_itself(build: Build) -> None:
    old = next(iter(Path.home().glob(".pyenv/versions/3.[678].*/bin/python3")), None)
    if old is None:
        pytest.skip("no Python before 3.9 here")
    with pytest.raises(RemoteError, match="too old: expected Python 3.10 or newer, got 3.[678]"):
        build(python=str(old), remote_command=None)


def test_an_unknown_host_key(build: Build, server: FarSide, tmp_path: Path) -> None:
    with pytest.raises(RemoteError, match="is not known here.*connecting once by hand: ssh -p"):
        build(ssh_config=server.config(tmp_path, known=""))


def test_a_host_key_that_changed(build: Build, server: FarSide, tmp_path: Path) -> None:
    config = server.config(tmp_path, known=server.known_hosts_line("other_host_key"))
    known = f"ssh-keygen -R '\\[127.0.0.1\\]:{server.port}'"
    with pytest.raises(RemoteError, match=f"is not the known one.*{known}"):
        build(ssh_config=config)


def test_a_key_that_is_refused(build: Build, server: FarSide, tmp_path: Path) -> None:
    with pytest.raises(RemoteError, match="does not accept our key.*ssh-copy-id -p"):
        build(ssh_config=server.config(tmp_path, identity="other_user_key"))


def test_nobody_answers(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "config").write_text("")
    options = RemoteOptions(
        "ssh://nobody@127.0.0.1:1", ssh_config=tmp_path / "config", patience_s=0
    )
    with pytest.raises(LinkLostError, match="no SSH server answers.*openssh-server"):
        build_remote(bundle.path, options)


@pytest.mark.parametrize(
    "names",
    [
        ("letter.txt",),
        # an engine's own folder: its plan would be lost
        ("build.json", "layers.json", "model.plan"),
        ("build.json", "layers.json", "remote.json", "letter.txt"),
    ],
)
def test_a_folder_of_others_is_never_written_to(
    build: Build, tmp_path: Path, names: tuple[str, ...]
) -> None:
    (tmp_path / "mine").mkdir()
    for name in names:
        (tmp_path / "mine" / name).write_text("dear")
    for replace in (False, True):
        with pytest.raises(OutputError, match="no record of a build on a device; choose another"):
            build(output=tmp_path / "mine", replace=replace)
    assert {p.name for p in (tmp_path / "mine").iterdir()} == set(names)


def test_an_older_record_is_replaced_only_when_that_is_wanted(build: Build, tmp_path: Path) -> None:
    output = tmp_path / "record"
    output.mkdir()  # an empty folder is no record
    build(output=output)
    (output / "layers.json").write_text("older")
    with pytest.raises(OutputError, match="the record of an earlier build; .*--force"):
        build(output=output)
    assert (output / "layers.json").read_text() == "older"
    build(output=output, replace=True)
    assert (output / "layers.json").read_text() == '{"Layers": []}'


def test_places_that_cannot_be_looked_at(build: Build, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot write the engine's record .*name too long"):
        build(output=tmp_path / ("x" * 300))
    (tmp_path / "remote.json").write_text("a file, not a folder")
    with pytest.raises(OutputError, match="no record of a build on a device"):
        build(output=tmp_path / "remote.json", replace=True)
    if os.geteuid() == 0:
        pytest.skip("root may look everywhere")
    (tmp_path / "locked" / "record").mkdir(parents=True)
    (tmp_path / "locked").chmod(0)
    with pytest.raises(OutputError, match="you may not write there"):
        build(output=tmp_path / "locked" / "record")
    (tmp_path / "locked").chmod(0o755)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"host": "orin"}, "address: expected ssh://user@host"),
        ({"precision": "int4"}, "precision: expected fp32 or fp16 or int8, got 'int4'"),
        ({"directory": "a'b"}, "folder on the device"),
        ({"directory": "../up"}, "folder on the device"),
        ({"directory": "-o"}, "folder on the device"),
        ({"directory": "a\nb"}, "folder on the device"),
        ({"python": "python3;id"}, "Python on the device"),
        ({"remote_command": ()}, "remote command"),
        ({"patience_s": -1.0}, "patience"),
        ({"directory": "~/"}, "folder on the device"),
        ({"directory": "~other/x"}, "folder on the device"),
    ],
)
def test_options_are_checked_before_anything_happens(
    changes: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        RemoteOptions(**{"host": "ssh://user@orin", **changes})


def test_an_empty_wheelhouse(build: Build, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no wheel; fill it: pip download"):
        build(wheelhouse=tmp_path, remote_command=None)


@pytest.fixture
def python_with_tensorrt(tmp_path: Path) -> str:
    """A Python that finds a module of TensorRT's name, so that the probe lets us pass.

    The virtual environment made from it does not: the package there gives its own answer.
    """
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "tensorrt.py").write_text("__version__ = '10.3.0.30'\n")
    python = tmp_path / "python with tensorrt"
    base = Path(sys.base_prefix) / "bin" / "python3"
    python.write_text(f"#!/bin/sh\nPYTHONPATH='{modules}' exec '{base}' \"$@\"\n")
    python.chmod(0o755)
    return str(python)


@pytest.mark.slow
@without_tensorrt
def test_the_package_is_installed_there_and_gives_its_own_answer(
    build: Build, device: Path, python_with_tensorrt: str
) -> None:
    lines: list[str] = []
    for _ in range(2):
        with pytest.raises(RemoteError, match="failed: got building an engine needs TensorRT"):
            build(python=python_with_tensorrt, remote_command=None, on_line=lines.append)
    assert lines.count("installing edge-fusion and what it needs") == 1, "once is enough"
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    packages = device / f"venv-{version}" / "lib" / f"python{version}" / "site-packages"
    installed = packages / "edge_fusion"
    assert (installed / "export" / "remote.py").read_bytes() == (
        ROOT / "export" / "remote.py"
    ).read_bytes()


@pytest.mark.slow
def test_a_wheelhouse_that_lacks_something(
    build: Build, tmp_path: Path, python_with_tensorrt: str
) -> None:
    house = tmp_path / "house"
    house.mkdir()
    with zipfile.ZipFile(house / "other-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("other.py", "")
    with pytest.raises(RemoteError, match="installing edge-fusion failed.*No matching.*wheelhouse"):
        build(python=python_with_tensorrt, remote_command=None, wheelhouse=house)


def test_the_wheel_is_the_running_package(tmp_path: Path) -> None:
    name, data = pack_wheel()
    assert pack_wheel() == (name, data), "the same code, the same bytes"
    (tmp_path / name).write_bytes(data)
    with zipfile.ZipFile(tmp_path / name) as wheel:
        packed = set(wheel.namelist())
        wheel.extractall(tmp_path / "site")
    for wing in ("edge_fusion", "runtime", "calibration", "export"):
        for path in (ROOT / wing).glob("*.py"):
            inside = path.name if wing == "edge_fusion" else f"{wing}/{path.name}"
            assert f"edge_fusion/{inside}" in packed
    assert "edge_fusion/targets.json" in packed
    assert not [name for name in packed if "__pycache__" in name]
    (found,) = metadata.distributions(name="edge-fusion", path=[str(tmp_path / "site")])
    assert f"-{found.version}-" in name
    assert {"numpy>=1.26", "pydantic>=2.7"} <= set(found.requires or ())
    assert [entry.name for entry in found.entry_points] == ["edge-fusion"]
    for file in found.files or ():
        if file.hash:
            data = file.read_binary()
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            assert (file.hash.value, file.size) == (digest, len(data))
    code = "import edge_fusion.export.remote as r, sys; print(r.__file__)"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == str(tmp_path / "site" / "edge_fusion" / "export" / "remote.py")


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys\n"
        "import edge_fusion.export.remote, edge_fusion.export.trtexec, edge_fusion.export.serving\n"
        "print({'torch', 'onnx', 'nncf', 'tensorrt', 'cv2'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr
