"""``edge-fusion calib`` as a user meets it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from edge_fusion.__main__ import app
from edge_fusion.bundle import Bundle
from edge_fusion.calibration.set_folder import SetSource
from edge_fusion.calibration_file import CALIBRATION_NAME
from tests.calibration.planted import CLEAN, COUNT, scenes, with_depth, write_pairs

COMMANDS = ("create", "check", "select")


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["calib", *(str(argument) for argument in arguments)])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean set; not to be changed."""
    place = tmp_path_factory.mktemp("made") / "set"
    result = invoke("create", CLEAN, "-o", place)
    assert result.exit_code == 0, result.output
    return place


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    result = invoke(command, "--help")
    assert result.exit_code == 0
    assert "--json" in result.output


def test_create_tells_what_it_made(tmp_path: Path) -> None:
    place = tmp_path / "set"
    result = invoke("create", CLEAN, "-o", place, "--every", 2, "--json", tmp_path / "made.json")
    assert result.exit_code == 0
    assert f"{COUNT // 2} of {COUNT}, copies" in result.output
    assert "warning few: 8 pairs are few; collect" in result.output
    told = json.loads((tmp_path / "made.json").read_text())
    assert [finding["check"] for finding in told["findings"]] == ["few"]
    assert told["sha256"] == SetSource(place).record.sha256


def test_a_clean_set_has_nothing_to_remark(made: Path, tmp_path: Path) -> None:
    result = invoke("check", made, "--json", tmp_path / "found.json")
    assert (result.exit_code, "nothing to remark" in result.output) == (0, True)
    told = json.loads((tmp_path / "found.json").read_text())
    assert (told["pairs"], told["findings"]) == (COUNT, [])


def test_an_error_makes_the_exit_status_1_and_names_the_pair(tmp_path: Path) -> None:
    folder = write_pairs(tmp_path / "plain", scenes(), plant=with_depth(np.zeros_like))
    result = invoke("check", folder, "--json", tmp_path / "found.json")
    assert result.exit_code == 1
    assert "error no-depth: 16 pairs, such as '000', '001', '002': no valid" in result.output
    told = json.loads((tmp_path / "found.json").read_text())
    assert len(told["findings"][0]["pairs"]) == COUNT


def test_every_check_is_listed() -> None:
    result = invoke("check", "--list")
    assert result.exit_code == 0
    assert all(name in result.output for name in ("grey-depth", "polarity", "unlike-training"))


def test_a_check_of_nothing_says_what_to_name() -> None:
    result = invoke("check")
    assert (result.exit_code, "name a set, or give --list" in result.stderr) == (2, True)


def test_a_choice_at_random(made: Path, tmp_path: Path) -> None:
    result = invoke("select", made, "-n", 4, "--seed", 7, "-o", tmp_path / "few")
    assert result.exit_code == 0, result.output
    assert SetSource(tmp_path / "few").record.choice.seed == 7


@pytest.mark.export
def test_a_choice_by_coverage(made: Path, tiny_bundle: Bundle, tmp_path: Path) -> None:
    arguments = ("select", made, "--choice", "coverage", "--model", tiny_bundle.path)
    result = invoke(*arguments, "-n", 6, "-o", tmp_path / "few")
    assert result.exit_code == 0, result.output
    coverage = SetSource(tmp_path / "few").record.choice.coverage
    assert coverage is not None
    assert coverage.error[COUNT] == 0
    assert f"{coverage.error[6]:.2%}" in result.output
    assert coverage.model == "tiny"
    result = invoke(*arguments, "-o", tmp_path / "recommended")
    assert result.exit_code == 0, result.output
    assert len(SetSource(tmp_path / "recommended")) == coverage.recommended
    assert f"{coverage.recommended} pairs are enough" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("create", "nowhere", "-o", "{out}"), "nowhere does not exist"),
        (("create", "demo://?live=1", "-o", "{out}"), "has no end"),
        (("create", CLEAN, "-o", "{set}"), "exists; name another place, or pass --force"),
        (("create", CLEAN, CLEAN, "-o", "{out}"), "the same source is given twice"),
        (("create", "demo://${{NO_SUCH}}", "-o", "{out}"), "the variable ${NO_SUCH} is not set"),
        (("check", "nowhere"), "nowhere does not exist"),
        (("check", "demo://?live=1"), "is a camera; make a set of it first"),
        (("check", "{set}", "--model", "own"), "nothing is known of the inputs that own"),
        (("select", "{set}", "-o", "{out}"), "is not said; say it with -n"),
        (("select", "{set}", "-n", "99", "-o", "{out}"), "got 16 in all"),
        (("select", "{set}", "-n", "2", "-o", "{set}"), "exists"),
        (("select", "{set}", "--choice", "coverage", "-o", "{out}"), "belong together"),
        (("select", "{set}", "-n", "2", "--model", "b", "-o", "{out}"), "belong together"),
    ],
)
def test_bad_input_is_one_readable_message(
    made: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    filled = [part.format(out=tmp_path / "out", set=made) for part in arguments]
    result = invoke(*filled)
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_in_the_middle_leaves_no_set_and_goes_on(tmp_path: Path, number: int) -> None:
    folder = write_pairs(tmp_path / "plain", scenes() * 20)
    place = tmp_path / "set"
    command = [
        sys.executable,
        "-m",
        "edge_fusion",
        "calib",
        "create",
        str(folder),
        "-o",
        str(place),
    ]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ}
    )
    journal = tmp_path / ".set.partial" / "journal.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (
        journal.exists() and journal.read_text().count("\n") > 20
    ):
        time.sleep(0.01)
    process.send_signal(number)
    output, _ = process.communicate(timeout=30)
    assert not place.exists()
    assert ("pairs are kept: the same command goes on" in output) == (number == signal.SIGTERM)
    result = invoke("create", folder, "-o", place)
    assert result.exit_code == 0, result.output
    assert "pairs were there from an interrupted run" in result.output
    assert len(SetSource(place)) == 20 * COUNT
    assert list(tmp_path.glob(".set*")) == []
    assert (place / CALIBRATION_NAME).is_file()
