from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PRELUDE = "import sys; from edge_fusion.__main__ import main; sys.argv[1:] = {!r}; main()"


def edge_fusion(*arguments: str) -> subprocess.CompletedProcess[str]:
    code = PRELUDE.format(list(arguments))
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--diagnosis", "d.json"], "is for a report"),  # and nothing would show it
        (["--html", "r.html", "--diagnosis", "d.json"], "cannot read the diagnosis"),
    ],
)
def test_a_diagnosis_that_cannot_be_shown_is_said_before_the_measuring(
    options: list[str], message: str, tmp_path: Path
) -> None:
    done = edge_fusion("compare", str(tmp_path / "no-bundle"), "--data", "no-set", *options)
    assert done.returncode == 2
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "r.html").exists()


def test_other_commands_do_not_pay_for_drawing() -> None:
    code = (
        "import sys, edge_fusion.__main__, edge_fusion.runtime.report\n"
        "assert not {'matplotlib', 'jinja2'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
