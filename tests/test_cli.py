"""The command line as a user meets it, in a process of its own where that matters."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from edge_fusion import __version__
from edge_fusion.__main__ import app
from edge_fusion.bundle import Bundle

DEMO = "demo://?frames=6&size=64x48&seed=3"
COMMANDS = (
    "build",
    "run",
    "compare",
    "diagnose",
    "inspect",
    "check",
    "models",
    "targets",
    "sources",
)


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def start(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "edge_fusion", *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ}
    )


def test_help_names_every_command() -> None:
    done = start("--help")
    text, _ = done.communicate()
    assert done.returncode == 0
    assert all(command in text for command in COMMANDS)
    assert "Exit status" in text


def test_help_is_quick_because_it_loads_nothing_that_computes() -> None:
    code = "import sys, edge_fusion.__main__; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "typer" in loaded
    assert not loaded & {
        "cv2", "jinja2", "matplotlib", "nncf", "numpy", "onnx", "onnxruntime", "pydantic", "torch"
    }  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    result = invoke(command, "--help")
    assert result.exit_code == 0
    assert "--json" in result.output


def test_version() -> None:
    assert invoke("--version").output.strip() == f"edge-fusion {__version__}"


def test_run_writes_a_video_and_its_summary(tiny_bundle: Bundle, tmp_path: Path) -> None:
    result = invoke(
        "run", tiny_bundle.path, DEMO, tmp_path / "out.mp4", "--json", tmp_path / "run.json"
    )
    assert result.exit_code == 0, result.output
    summary = json.loads((tmp_path / "run.json").read_text())
    assert summary["frames"] == 6
    assert summary["drops"] == {}
    assert summary["variant"] == "int8"
    assert summary["latency"]["p50_ms"] > 0
    assert (tmp_path / "out.mp4").stat().st_size > 1000


def test_run_on_a_plain_relative_path(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pairs: Path
) -> None:
    monkeypatch.chdir(pairs.parent)
    result = invoke("run", tiny_bundle.path, pairs.name, tmp_path / "masks")
    assert result.exit_code == 0, result.output
    assert len(list((tmp_path / "masks").glob("*.png"))) == 3


def test_variables_in_the_source_and_the_sinks(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEED", "3")
    monkeypatch.setenv("OUT", str(tmp_path / "masks"))
    result = invoke("run", tiny_bundle.path, "demo://?frames=2&size=64x48&seed=${SEED}", "${OUT}/")
    assert result.exit_code == 0, result.output
    assert len(list((tmp_path / "masks").glob("*.png"))) == 2
    monkeypatch.delenv("OUT")
    unset = invoke("run", tiny_bundle.path, DEMO, "${OUT}/")
    assert unset.exit_code == 2
    assert "the variable ${OUT} is not set; export OUT=..." in unset.output
    other = invoke("compare", tiny_bundle.path, "--data", "demo://?seed=${SEED}")  # only of run
    assert "seed: expected NUMBER, got '${SEED}'" in other.output


@pytest.mark.parametrize("password", ["hunter2", "${CAM}"])
def test_a_unit_shows_no_password(monkeypatch: pytest.MonkeyPatch, password: str) -> None:
    uri = f"rtsp://me:{password}@camera/1?depth=rtsp://me:{password}@camera/2&unit=mm"
    arguments = ("run", "b", uri, "--print-unit")
    monkeypatch.setattr(sys, "argv", ["/bin/edge-fusion", *arguments])
    result = invoke(*arguments)
    assert "hunter2" not in result.output
    if password == "hunter2":
        assert result.exit_code == 2
        assert "EnvironmentFile" not in result.output
        assert "chmod 600" in result.output
    else:
        assert result.exit_code == 0, result.output
        assert "EnvironmentFile=/etc/edge-fusion.env" in result.output


def test_a_unit_takes_no_sink_that_the_next_start_would_overwrite(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arguments = ("run", "b", "demo://", "web://:8080", "out.mp4", "--print-unit")
    refused = invoke(*arguments)
    assert refused.exit_code == 2
    assert "out-%t.mp4" in refused.output
    lasting = [one.replace("out.", "out-%t.") for one in arguments]
    monkeypatch.setattr(sys, "argv", ["/bin/edge-fusion", *lasting])
    assert "out-%%t.mp4" in invoke(*lasting).output


def test_sinks_tells_every_option() -> None:
    result = invoke("sinks", "--json", "-")
    kinds = json.loads(result.stdout)
    assert set(kinds["web"]["options"]) == {"token", "fps", "clients", "stalled_s"}
    assert kinds[".mcap"]["needs"] == "edge-fusion[rosbag]"
    assert kinds["rerun"]["options"]["rate"]["form"] == "HZ"


def test_json_alone_on_standard_output(tiny_bundle: Bundle) -> None:
    done = start("run", tiny_bundle.path, DEMO, "--json", "-")
    out, err = done.communicate()
    assert json.loads(out)["frames"] == 6
    assert "fps" in err


def test_compare_reports_and_gates(tiny_bundle: Bundle, tmp_path: Path) -> None:
    arguments = ("compare", tiny_bundle.path, "--data", DEMO, "--json", tmp_path / "c.json")
    passed = invoke(*arguments, "--html", tmp_path / "r.html", "--max-drop", "mae=0.05")
    assert passed.exit_code == 0, passed.output
    assert "<html" in (tmp_path / "r.html").read_text()
    assert json.loads((tmp_path / "c.json").read_text())
    failed = invoke(*arguments, "--require", "iou=0.999")
    assert failed.exit_code == 1
    assert "iou" in failed.output
    unread = invoke(*arguments, "--max-drop", "beauty=1")
    assert unread.exit_code == 2
    assert "beauty" in unread.output


def test_inspect_shows_and_self_checks(tiny_bundle: Bundle) -> None:
    result = invoke("inspect", tiny_bundle.path, "--self-check")
    assert result.exit_code == 0, result.output
    assert "tiny" in result.output
    assert result.output.count("passed") == 2


def test_a_flipped_byte_is_found_before_anything_runs(tiny_bundle: Bundle) -> None:
    file = tiny_bundle.path / "model.int8.onnx"
    data = bytearray(file.read_bytes())
    data[100] ^= 1
    file.write_bytes(data)
    for command in (("inspect",), ("run",), ("compare", "--data")):
        result = invoke(
            command[0], tiny_bundle.path, *command[1:], *([DEMO] if command != ("inspect",) else [])
        )
        assert result.exit_code == 2
        assert re.search(r"'model.int8.onnx' .* is damaged", result.output)
        assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("run", "nowhere", DEMO), "no bundle at nowhere; make one: edge-fusion build"),
        (("targets", "orin-nona"), "did you mean orin-nano"),
        (("run", "{bundle}", "nosuch://x"), "unknown scheme 'nosuch'"),
        (("run", "{bundle}", DEMO, "--variant", "fp16"), "can only run as a TensorRT engine"),
        (("run", "{bundle}", DEMO, "--backend", "tpu"), "no such backend"),
        (("build", "m", "-o", "{bundle}"), "already holds a bundle.*--force"),
        (("compare", "{bundle}", "--data", DEMO, "--html", "no/r.html"), "in an existing folder"),
        (("compare", "{bundle}", "--data", DEMO, "--html", "/proc/r.html"), "cannot write the rep"),
        (("compare", "{bundle}", "--data", DEMO, "--json", "/proc/r.json"), "cannot write the JSO"),
        (
            ("compare", "{bundle}", "--data", DEMO, "--repeats", "5", "--min-speedup", "1"),
            "cannot be judged: expected 26 timed runs",
        ),
    ],
)
def test_bad_input_is_one_readable_message(
    tiny_bundle: Bundle, arguments: tuple[str, ...], complaint: str
) -> None:
    if arguments[0] == "build":
        pytest.importorskip("torch", reason="the workstation's half is not installed here")
    result = invoke(*(part.format(bundle=tiny_bundle.path) for part in arguments))
    assert result.exit_code == 2
    assert re.search(complaint, " ".join(result.output.split()))
    assert "Traceback" not in result.output


def test_debug_shows_the_traceback() -> None:
    done = start("--debug", "inspect", "nowhere")
    _, err = done.communicate()
    assert "Traceback" in err
    assert done.returncode == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_run_with_a_whole_video(
    tiny_bundle: Bundle, tmp_path: Path, number: signal.Signals
) -> None:
    import cv2

    endless = "demo://?frames=1000000&size=64x48&seed=3"
    running = start("run", tiny_bundle.path, endless, tmp_path / "o.mp4", "--json", tmp_path / "r")
    assert running.stdout is not None
    assert "fps" in running.stdout.readline()  # the first live line: frames are flowing
    before = time.monotonic()
    running.send_signal(number)
    out, err = running.communicate(timeout=20)
    assert running.returncode == 0, out + err
    assert time.monotonic() - before < 5
    summary = json.loads((tmp_path / "r").read_text())
    assert summary["stopped"] == "interrupted"
    video = cv2.VideoCapture(str(tmp_path / "o.mp4"))
    assert int(video.get(cv2.CAP_PROP_FRAME_COUNT)) == summary["frames"] > 0
    assert {path.name for path in tmp_path.iterdir()} == {"tiny", "o.mp4", "r"}
