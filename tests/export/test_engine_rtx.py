"""The building half against NVIDIA's own builder, which the extra ``rtx`` brings."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from tests.export.engine_bundles import MODELS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def real() -> dict[str, Any]:
    """What TensorRT-RTX made of everything, in a process of its own: its parser may crash."""
    python = os.environ.get("EDGE_FUSION_RTX_PYTHON") or sys.executable
    probe = "from importlib.util import find_spec as f; raise SystemExit(not f('{}'))"
    if subprocess.run([python, "-c", probe.format("tensorrt_rtx_bindings")]).returncode:
        pytest.skip(
            f"{python} has no TensorRT-RTX: install the extra rtx, or name another Python "
            "in EDGE_FUSION_RTX_PYTHON"
        )
    theirs = subprocess.run(
        [python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    ours = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if theirs != ours:
        pytest.skip(f"{python} is Python {theirs}, the packages here are for {ours}")
    done = subprocess.run(
        [python, str(ROOT / "tests/export/rtx_builder.py"), str(MODELS)],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{sysconfig.get_path('purelib')}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("name", ["fp32", "int8", "fp16"])
def test_it_builds_by_the_same_calls(name: str, real: dict[str, Any]) -> None:
    made = real[name]
    assert made.get("plan_bytes", 0) > 1000, made
    assert (made["workspace"], made["level"], made["verbosity"]) == (64 << 20, 2, "DETAILED")
    assert made["cached"] > 0
    assert any(re.fullmatch(r"build \d/[1-9]", phase) for phase in made["phases"])


def test_a_timing_cache_it_refuses_does_not_stop_it(real: dict[str, Any]) -> None:
    # the first build finds none; without a GPU it then refuses even one of its own
    assert real["fp32"]["notes"] == []
    assert "is not of this TensorRT: timing anew" in real["int8"]["notes"][0]


@pytest.mark.parametrize("name", ["fp32", "int8", "fp16"])
def test_its_network_tells_the_work_of_each_layer(name: str, real: dict[str, Any]) -> None:
    # 32 x 32 positions, of three and of nine weights; the INT8 kernels are tensors, not constants
    assert real[name]["macs"] == {"rgb/Conv": 3 * 32 * 32, "depth/Conv": 9 * 32 * 32}


def test_its_parser_errors_name_node_and_reason(real: dict[str, Any]) -> None:
    said = real["foreign"]["error"]
    assert (
        f"TensorRT {real['version']} refuses model.onnx: got node 'head/Sigmoif' (Sigmoif)" in said
    )
    assert "edge-fusion check" in said


def test_garbage_is_refused_without_a_node(real: dict[str, Any]) -> None:
    assert "Failed to parse the ONNX model" in real["garbage"]["error"]
    assert "node '" not in real["garbage"]["error"]


def test_a_level_beyond_its_highest_is_an_error(real: dict[str, Any]) -> None:
    assert "expected at most 5, got 9" in real["high level"]["error"]


def test_ctrl_c_stops_it(real: dict[str, Any]) -> None:
    assert real["stopped"] == {"stopped": True}
    assert any("BuildCanceled" in said for said in real["said"])
    assert [name.partition("-")[0] for name in real["left"]] == ["timing"]
