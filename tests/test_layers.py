"""Imports run one way: export -> calibration -> runtime -> edge_fusion."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_fusion.bundle import Bundle

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "onnx", "nncf", "onnxslim", "onnxscript", "safetensors")
# What one source or sink stands on, each in a module that is imported when that one is opened.
OPTIONAL = (
    "depthai", "mcap", "psutil", "pyrealsense2", "rclpy", "rerun", "rosbags", "sensor_msgs",
    "std_msgs", "tf2_msgs",
)  # fmt: skip
# The command line imports a wing inside the command that needs it; the face resolves on first use.
DOORS = {
    f"edge_fusion/{name}.py"
    for name in (
        "__main__",
        "__init__",
        "build_command",
        "calib_command",
        "compare_command",
        "device_job",
        "diagnose_command",
        "drift_command",
    )
}
LAYERS = ("edge_fusion", "runtime", "calibration", "export")  # lowest first


def sources() -> list[tuple[str, Path]]:
    return [
        (layer, path)
        for layer in LAYERS
        for path in sorted((ROOT / layer).rglob("*.py"))
        if not any(parent.is_symlink() for parent in path.parents)
    ]


def imported(path: Path) -> Iterator[str]:
    """Absolute names of what a file imports, anywhere in it."""
    package = path.relative_to(ROOT).parent.parts
    package = package if package[0] == "edge_fusion" else ("edge_fusion", *package)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            yield ".".join((*base, *filter(None, [node.module])))


def layer_of(module: str) -> str | None:
    parts = module.split(".")
    if parts[0] != "edge_fusion":
        return None
    return parts[1] if len(parts) > 1 and parts[1] in LAYERS[1:] else "edge_fusion"


@pytest.mark.parametrize(
    ("layer", "path"), sources(), ids=[str(path.relative_to(ROOT)) for _, path in sources()]
)
def test_no_layer_imports_a_higher_one(layer: str, path: Path) -> None:
    if str(path.relative_to(ROOT)) in DOORS:
        return
    above = LAYERS[LAYERS.index(layer) + 1 :]
    reached = {module for module in imported(path) if layer_of(module) in above}
    # A name that exists for type checkers alone is no import.
    assert not reached, f"{path.name} reaches up to {reached}"
    if layer in ("edge_fusion", "runtime", "calibration"):
        heavy = {module for module in imported(path) if module.split(".")[0] in HEAVY}
        assert not heavy, f"{path.name} imports {heavy}"


def test_the_walk_sees_every_layer() -> None:
    assert {layer for layer, _ in sources()} == set(LAYERS)
    assert len(sources()) > 30


@pytest.mark.parametrize("layer", LAYERS[1:])
def test_package_inits_import_nothing(layer: str) -> None:
    for path in (ROOT / layer).rglob("__init__.py"):
        assert list(imported(path)) == [], path


@pytest.mark.parametrize("link", LAYERS[1:])
def test_the_links_for_static_tools_are_there(link: str) -> None:
    assert (ROOT / "edge_fusion" / link).is_symlink()
    assert (ROOT / "edge_fusion" / link).resolve() == ROOT / link


BLOCK = f"""
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {HEAVY!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}} (blocked)", name=name)
sys.meta_path.insert(0, Blocked())
"""


def run_blocked(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", BLOCK + code, *arguments], capture_output=True, text=True, cwd=ROOT
    )


def test_the_blocker_blocks() -> None:
    assert "blocked" in run_blocked("import torch").stderr


def test_runtime_and_calibration_import_without_torch_onnx_and_nncf() -> None:
    names = []
    for layer, path in sources():
        if layer in ("edge_fusion", "runtime", "calibration"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            parts = parts if layer == "edge_fusion" else ("edge_fusion", *parts)
            names.append(".".join(part for part in parts if part != "__init__"))
    done = run_blocked(
        "import importlib\n"
        "from edge_fusion.errors import MissingDependencyError\n"
        f"for name in {names!r}:\n"
        "    if name.endswith('__main__'): continue\n"
        "    try: importlib.import_module(name)\n"
        "    except MissingDependencyError: pass\n"
        "    except ImportError as err:\n"
        f"        if (err.name or '').split('.')[0] not in {OPTIONAL!r}: raise\n"
        "import edge_fusion.__main__; print('imported')"
    )
    assert done.stdout.strip() == "imported", done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "{bundle}", "demo://?frames=3&size=64x48", "{out}/o.mp4"),
        ("compare", "{bundle}", "--data", "demo://?frames=3&size=64x48", "--html", "{out}/r.html"),
        ("inspect", "{bundle}", "--self-check"),
        ("targets", "orin-nano"),
        ("sources",),
    ],
    ids=lambda arguments: arguments[0],
)
def test_commands_work_without_torch_onnx_and_nncf(
    arguments: tuple[str, ...], tiny_bundle: Bundle, tmp_path: Path
) -> None:
    command = [part.format(bundle=tiny_bundle.path, out=tmp_path) for part in arguments]
    done = run_blocked("from edge_fusion.__main__ import main; main()", *command)
    assert done.returncode == 0, done.stderr


def test_commands_that_need_the_workstation_say_so(tmp_path: Path) -> None:
    command = ("build", "add-mobilenetv2", "-o", str(tmp_path / "b"), "--calib", "demo://")
    done = run_blocked("from edge_fusion.__main__ import main; main()", *command)
    assert done.returncode == 2
    assert "'build' needs torch" in done.stderr
    assert "pip install 'edge-fusion[export]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_importing_the_package_is_light() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import sys, edge_fusion.__main__; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(done.stdout.split())
    assert not loaded & {"numpy", "cv2", "pydantic", "torch", "onnx", "nncf", "onnxruntime"}
