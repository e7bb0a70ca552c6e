"""What the README shows is run: the worked example whole, every other command for its options."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from edge_fusion.__main__ import app

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"(?:<!-- (?P<mark>[^>]*) -->\n)?```(?P<kind>\w*)\n(?P<text>.*?)```", re.S)


def blocks(mark: str) -> list[tuple[str, str]]:
    found = [match.groupdict() for match in BLOCK.finditer(README)]
    return [(b["kind"], b["text"]) for b in found if (b["mark"] or "").startswith(mark)]


@pytest.mark.export
@pytest.mark.slow
def test_the_worked_example_of_an_own_model_works(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    [(_, record)] = blocks("file: late_fusion.json")
    (tmp_path / "late_fusion.json").write_text(record)
    (python, code), (shell, commands) = blocks("run: own-model")
    assert (python, shell) == ("python", "sh")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for command in ([sys.executable, "-W", "ignore", "-c", code], ["sh", "-ec", commands]):
        done = subprocess.run(
            command, cwd=tmp_path, env={**os.environ, "PATH": path}, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
    manifest = json.loads((tmp_path / "late" / "manifest.json").read_text())
    assert manifest["model"]["name"] == "late-fusion"
    assert manifest["quantization"]["int8_nodes"]
    assert (tmp_path / "late.mp4").stat().st_size > 1000


def commands() -> list[list[str]]:
    text = "\n".join(match["text"] for match in BLOCK.finditer(README)).replace("\\\n", " ")
    lines = [line.removeprefix("$ ") for line in text.splitlines()]
    shown = [shlex.split(line, comments=True) for line in lines if line.startswith("edge-fusion ")]
    return [words[1:] for words in shown]


def test_the_readme_shows_every_job() -> None:
    assert {words[0] for words in commands()} >= {"build", "run", "compare", "inspect", "check"}


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_option_it_shows_exists(words: list[str]) -> None:
    command = words[:2] if words[0] == "calib" else words[:1]
    usage = CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": "200"}).output
    for word in words:
        if word.startswith("-") and word != "-":
            assert word in usage


@pytest.mark.parametrize("target", ["demo", "test"])
def test_its_two_commands_are_in_the_makefile(target: str) -> None:
    assert f"make {target} " in README
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.M)


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)#:]+)\)", README))
def test_its_links_lead_somewhere(link: str) -> None:
    assert (ROOT / link).exists()


def test_no_placeholder_is_left() -> None:
    assert not re.search(r"@[A-Z]+@", README)
