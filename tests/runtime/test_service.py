"""The systemd unit: its words, its escapes, and what systemd itself says of it."""

from __future__ import annotations

import configparser
import grp
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edge_fusion.errors import InputError
from edge_fusion.runtime.service import ServiceOptions, unit_file

COMMAND = [sys.executable, "-m", "edge_fusion", "run", "/opt/b", "realsense://"]


def setting(unit: str, name: str) -> list[str]:
    return re.findall(rf"^{name}=(.*)$", unit, re.MULTILINE)


def test_what_keeps_a_stream_running() -> None:
    unit = unit_file(COMMAND, ServiceOptions(watchdog_s=20, start_s=120, restart_s=2.5))
    expected = {
        "Type": "notify",
        "WatchdogSec": "20",
        "TimeoutStartSec": "120",
        "Restart": "on-failure",
        "RestartSec": "2.5",
        "WatchdogSignal": "SIGTERM",  # so that the files of a stream that hangs are finished
        "SuccessExitStatus": "130",
        "TimeoutStopSec": "20",
        "StartLimitIntervalSec": "0",  # a camera that is missing all night ends nothing
        "SupplementaryGroups": "video",
    }
    assert {name: setting(unit, name) for name in expected} == {
        name: [value] for name, value in expected.items()
    }
    assert setting(unit, "StartLimitBurst") == []
    assert setting(unit, "User") == []
    assert setting(unit, "ExecStart") == [" ".join(COMMAND)]


def test_nothing_hides_the_camera_or_the_gpu() -> None:
    unit = unit_file(COMMAND)
    # ProtectClock implies DeviceAllow, which closes all other devices
    for name in ("PrivateDevices", "DeviceAllow", "DevicePolicy", "ProtectClock", "PrivateTmp"):
        assert setting(unit, name) == []
    for name in ("MemoryDenyWriteExecute", "ProtectKernelTunables"):
        assert setting(unit, name) == []
    assert "AF_NETLINK" in setting(unit, "RestrictAddressFamilies")[0]


def test_every_block_of_settings_has_its_reason() -> None:
    lines = unit_file(COMMAND).splitlines()
    known = {"Description", "WantedBy"}  # say it themselves
    for number, line in enumerate(lines):
        name = line.partition("=")[0]
        if "=" in line and not line.startswith("#") and name not in known:
            above = lines[:number][::-1]
            block = next((one for one in above if not one or one.startswith(("#", "["))), "")
            assert block.startswith(("#", "[")), line


ARGUMENTS = [
    # argument, as it must stand in ExecStart
    ("plain/path-1_2.mp4", "plain/path-1_2.mp4"),
    ("with space", '"with space"'),
    ("50%", "50%%"),
    ("%h and %i", '"%%h and %%i"'),
    ("out-%t.mp4", "out-%%t.mp4"),  # ours, not systemd's
    ("$HOME", '"$$HOME"'),
    ("${HOME}x", '"$${HOME}x"'),
    ('say "hi"', r'"say \"hi\""'),
    ("back\\slash", r'"back\\slash"'),
    ("it's", '"it\'s"'),
    (";", r"\;"),
    ("", '""'),
    ("two\nlines\ttab", r'"two\nlines\ttab"'),
    ("\x07", r'"\x07"'),
    ("größe", '"größe"'),
    ("caf\udce9", r'"caf\xe9"'),  # a file name that is no UTF-8
    ("rtsp://cam/?a=1&b=2", '"rtsp://cam/?a=1&b=2"'),
    ("-", "-"),
]


@pytest.mark.parametrize(("argument", "word"), ARGUMENTS)
def test_arguments_reach_the_program_as_they_are(argument: str, word: str) -> None:
    assert setting(unit_file(["/bin/x", argument]), "ExecStart") == [f"/bin/x {word}"]


def test_a_dollar_in_the_programs_path_is_not_doubled() -> None:
    # systemd puts no variables into the first word
    assert setting(unit_file(["/opt/a b$1%/x"]), "ExecStart") == ['"/opt/a b$1%%/x"']


def test_folders_variables_and_names() -> None:
    unit = unit_file(
        COMMAND,
        ServiceOptions(
            description="100 %\nof it\\",
            user="robot",
            groups=("video", "render"),
            folder=Path("/srv/my robot 5%"),
            writable=[Path("/home/robot/out put"), Path("/home/robot/b")],
            environment={"A": "x y", "B": "$5"},
        ),
    )
    assert setting(unit, "Description") == ["100 %% of it"]
    assert setting(unit, "User") == ["robot"]
    assert setting(unit, "SupplementaryGroups") == ["video render"]
    assert setting(unit, "WorkingDirectory") == ["/srv/my robot 5%%"]  # takes no quotes
    assert setting(unit, "ReadWritePaths") == ['"/home/robot/out put"', "/home/robot/b"]
    assert setting(unit, "Environment")[1:3] == ['"A=x y"', '"B=$5"']


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ([], "the command of a service: expected a program, got nothing"),
        (["edge-fusion", "run"], "expected a whole path, from /, got 'edge-fusion'"),
        (["/bin/a\nb"], "expected no control characters"),
    ],
)
def test_commands_that_systemd_would_not_take(command: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        unit_file(command)


@pytest.mark.parametrize(
    "argument", ["rtsp://me:hunter2@camera/1?depth=x", "web://:8080?token=hunter2hunter2"]
)
def test_no_password_stands_in_a_unit(argument: str) -> None:
    with pytest.raises(
        InputError, match=r"readable by everybody.*chmod 600.*'\$\{NAME\}'"
    ) as caught:
        unit_file([*COMMAND, argument])
    assert "hunter2" not in str(caught.value)


def test_where_the_variables_of_a_command_are_read() -> None:
    assert setting(unit_file(COMMAND), "EnvironmentFile") == []
    command = ["/bin/x", "rtsp://me:${CAM}@c/1"]
    unit = unit_file(command)
    assert setting(unit, "EnvironmentFile") == ["/etc/edge-fusion.env"]
    # The program looks them up itself: systemd would show a value among the arguments.
    assert setting(unit, "ExecStart") == ['/bin/x "rtsp://me:$${CAM}@c/1"']
    elsewhere = unit_file(command, ServiceOptions(secrets=Path("/etc/my 5%.env")))
    assert setting(elsewhere, "EnvironmentFile") == ["/etc/my 5%%.env"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"watchdog_s": 0}, "service option watchdog_s: expected above 0, got 0"),
        ({"restart_s": -1}, "service option restart_s"),
        ({"user": "robot\nExecStart=/bin/sh"}, "a user or group: expected its name or number"),
        ({"groups": ("a b",)}, "a user or group"),
        ({"environment": {"A B": "1"}}, "an environment variable: expected a name, got A B"),
        ({"folder": Path("here")}, "a folder of the service: expected a whole path"),
        ({"writable": [Path("/a\\")]}, "neither a blank nor a backslash at the end"),
    ],
)
def test_options_that_systemd_would_not_take(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ServiceOptions(**options)  # type: ignore[arg-type]


def test_it_is_a_unit_that_other_readers_take_too() -> None:
    parser = configparser.RawConfigParser(strict=False, comment_prefixes=("#",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(unit_file(COMMAND))
    assert parser.sections() == ["Unit", "Service", "Install"]


systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)


def verify(folder: Path, unit: str) -> tuple[int, str]:
    path = folder / "edge-fusion-test.service"
    path.write_text(unit, encoding="utf-8", errors="surrogateescape")
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "SYSTEMD_LOG_LEVEL": "info"},
    )
    told = [line for line in done.stderr.splitlines() if "edge-fusion-test" in line]
    return done.returncode, "\n".join(told)


@systemd
def test_systemd_takes_it(tmp_path: Path) -> None:
    program = tmp_path / "a b%c$d" / "edge fusion"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    options = ServiceOptions(
        user="root",
        groups=(grp.getgrgid(0).gr_name,),
        folder=tmp_path,
        writable=[program.parent],
        environment={"A": "x y"},
    )
    command = [str(program), *(argument for argument, _ in ARGUMENTS)]
    code, told = verify(tmp_path, unit_file(command, options))
    assert (code, told) == (0, "")


@systemd
def test_systemds_word_means_something(tmp_path: Path) -> None:
    unit = unit_file(COMMAND)
    missing = unit_file(["/nowhere/edge-fusion"])
    assert verify(tmp_path, missing)[0] != 0
    assert "Unknown key" in verify(tmp_path, unit.replace("WatchdogSec", "WatchDogSec"))[1]
    assert verify(tmp_path, unit.replace("Type=notify", "Type=nonsense"))[1] != ""
