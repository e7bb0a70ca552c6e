"""The wheel, installed elsewhere: a package or data file that was forgotten shows here."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
WINGS = ("calibration", "export", "runtime")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a copy of the tracked files, so that nothing is built into the work tree."""
    folder = tmp_path_factory.mktemp("wheel")
    tracked = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    for name in tracked:
        copy = folder / "source" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_symlink():
            copy.symlink_to((ROOT / name).readlink())
        elif (ROOT / name).exists():
            copy.write_bytes((ROOT / name).read_bytes())
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "-q", "-w", folder, folder / "source"],
        capture_output=True,
        text=True,
    )
    if (
        done.returncode
        and "setuptools" in done.stderr
        and "No matching distribution" in done.stderr
    ):
        pytest.skip("the build backend cannot be fetched here")
    assert done.returncode == 0, done.stderr
    return next(folder.glob("*.whl"))


def test_every_module_and_data_file_is_in_it(wheel: Path) -> None:
    packed = set(zipfile.ZipFile(wheel).namelist())
    for folder in ("edge_fusion", *WINGS):
        for path in (ROOT / folder).rglob("*"):
            if any(parent.is_symlink() for parent in path.parents) or "__pycache__" in path.parts:
                continue
            packed_kind = path.suffix in {".py", ".json", ".html", ".typed", ".safetensors"}
            if packed_kind and path.is_file():
                name = path.relative_to(ROOT).as_posix()
                assert (name if folder == "edge_fusion" else f"edge_fusion/{name}") in packed
    top = {name.split("/")[0] for name in packed}
    assert top == {"edge_fusion", next(name for name in top if name.endswith(".dist-info"))}


def test_it_runs_from_another_folder(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = (
        "import edge_fusion, edge_fusion.runtime.compare, edge_fusion.calibration.calibration_set\n"
        "from edge_fusion.runtime.report import page_template; page_template()\n"
        "from edge_fusion.target import all_targets; assert all_targets()\n"
        "print(edge_fusion.__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "site") in done.stdout
