"""The doctor: what it remarks, and what it tells to do about it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from edge_fusion.board import BoardState, OfferedMode
from edge_fusion.runtime.doctor import diagnose, examine
from edge_fusion.runtime.surroundings import (
    GpuState,
    OpenCvState,
    PackageState,
    PythonState,
    Surroundings,
    TensorRtState,
)

GIB = 1 << 30
MODES = (
    OfferedMode(0, "15W", 4, 612, 2133),
    OfferedMode(1, "25W", 4, 918, 3199),
    OfferedMode(2, "MAXN_SUPER", 4, float("inf"), float("inf")),
    OfferedMode(3, "7W", 6, 408, 2133),
)
NANO = BoardState(
    model="NVIDIA Jetson Orin Nano Developer Kit",
    soc="tegra234",
    part="p3767-0005",
    l4t="36.4.3",
    jetpack="6.2",
    target="orin-nano@6.2",
    power_mode="MAXN_SUPER",
    power_modes=MODES,
    gpu_mhz=1020,
    gpu_min_mhz=1020,
    gpu_max_mhz=1020,
    memory_bytes=8 * GIB,
    available_bytes=6 * GIB,
    swap_bytes=4 * GIB,
    architecture="aarch64",
)
HEALTHY = Surroundings(
    board=NANO,
    python=PythonState("3.10.12", venv=True, system_packages=True),
    gpu=GpuState("Orin", sm="8.7", sm_count=8, total_bytes=8 * GIB, integrated=True),
    tensorrt=TensorRtState("10.3.0.30", flavour="strong"),
    onnxruntime=PackageState("1.23.2", details=("CPUExecutionProvider",)),
    numpy=PackageState("1.26.4"),
    cv2=OpenCvState("4.8.0", gstreamer=True, gui="GTK3"),
)
X86 = replace(
    HEALTHY,
    board=BoardState(memory_bytes=16 * GIB, available_bytes=GIB, swap_bytes=0),
    gpu=GpuState(None, "no CUDA driver"),
    tensorrt=TensorRtState(None, "No module named 'tensorrt'"),
    cv2=OpenCvState("4.12.0", wheel="opencv-python-headless"),
)
NO_TRT = TensorRtState(None, "No module named 'tensorrt'")


def board(**changes: Any) -> Surroundings:
    return replace(HEALTHY, board=replace(NANO, **changes))


def test_a_board_in_order_gives_no_remark() -> None:
    diagnosis = diagnose(HEALTHY)
    assert diagnosis.remarks == ()
    assert diagnosis.ok


@pytest.mark.parametrize(
    ("seen", "severity", "what", "cure"),
    [
        # TensorRT on a Jetson: the interpreter, then the environment, then the package
        (
            replace(HEALTHY, tensorrt=NO_TRT, python=PythonState("3.12.1", True, True)),
            "error",
            "TensorRT of JetPack 6.2 is made for Python 3.10, and this is 3.12",
            "python3.10 -m venv --system-site-packages",
        ),
        (
            replace(HEALTHY, tensorrt=NO_TRT, python=PythonState("3.10.12", True, False)),
            "error",
            "No module named 'tensorrt'",
            "python3 -m venv --system-site-packages",
        ),
        (replace(HEALTHY, tensorrt=NO_TRT), "error", "cannot be used", "python3-libnvinfer"),
        (
            replace(board(jetpack="5.1.2", target="xavier-nx@5.1.2"), tensorrt=NO_TRT),
            "error",
            "speaks Python 3.8, and edge-fusion needs 3.10",
            "trtexec",
        ),
        (
            replace(HEALTHY, tensorrt=TensorRtState("10.7.0.23", flavour="strong")),
            "warning",
            "TensorRT is 10.7.0.23, and JetPack 6.2 brings 10.3.0",
            "lint for this one",
        ),
        (
            replace(HEALTHY, gpu=GpuState(None, "no driver")),
            "error",
            "no driver",
            "--runtime nvidia",
        ),
        # power and clocks
        (
            board(power_mode="25W"),
            "warning",
            "the power mode is 25W; the GPU is fastest in MAXN_SUPER",
            "sudo nvpmodel -m 2",
        ),
        (board(power_mode=None), "info", "power mode cannot be read", "nvpmodel -q"),
        (
            board(gpu_min_mhz=306.0),
            "warning",
            "between 306 and 1020 MHz",
            "sudo jetson_clocks, after the power mode",
        ),
        (
            board(power_mode="15W", power_modes=(MODES[0], MODES[3])),
            "info",
            "offers no MAXN_SUPER mode",
            "-super",
        ),
        # memory
        (
            board(available_bytes=int(1.5 * GIB)),
            "warning",
            "1.5 GiB of memory are available, and building an engine may take 2 GiB",
            "multi-user.target",
        ),
        (board(swap_bytes=0), "warning", "no swap beside 8.0 GiB", "mkswap"),
        # what is unknown
        (
            board(l4t="36.9.1", jetpack=None, target=None),
            "warning",
            "L4T 36.9.1 belongs to no JetPack",
            "edge-fusion targets",
        ),
        (board(part=None, target=None), "info", "none readable", "name the target yourself"),
        # OpenCV
        (
            replace(HEALTHY, cv2=OpenCvState("4.12.0", wheel="opencv-python")),
            "warning",
            "opencv-python hides the system's OpenCV",
            "pip uninstall opencv-python",
        ),
        (
            replace(HEALTHY, cv2=OpenCvState("4.8.0")),
            "info",
            "reads no GStreamer pipelines",
            "OpenCV that JetPack brings",
        ),
        (
            replace(HEALTHY, cv2=OpenCvState(None, "No module named 'cv2'")),
            "error",
            "No module named 'cv2'",
            "edge-fusion[opencv]",
        ),
        (
            replace(HEALTHY, cv2=OpenCvState(None, "numpy.core.multiarray failed to import")),
            "error",
            "multiarray",
            "numpy<2",
        ),
        # a workstation
        (X86, "info", "ONNX Runtime on the CPU", "built on the target"),
        (
            replace(X86, onnxruntime=PackageState(None, "No module named 'onnxruntime'")),
            "error",
            "nothing here can run a model",
            "edge-fusion[ort]",
        ),
        (  # TensorRT alone runs nothing
            replace(
                X86,
                tensorrt=HEALTHY.tensorrt,
                onnxruntime=PackageState(None, "No module named 'onnxruntime'"),
            ),
            "error",
            "nothing here can run a model",
            "edge-fusion[ort]",
        ),
        (
            replace(X86, onnxruntime=PackageState(None, "No module named 'onnxruntime'")),
            "info",
            "there is no GPU for engines: no CUDA driver",
            "built on the target",
        ),
        (
            replace(X86, gpu=HEALTHY.gpu),
            "warning",
            "No module named 'tensorrt'",
            "edge-fusion targets x86-gpu",
        ),
    ],
)
def test_what_is_wrong_is_said_with_its_cure(
    seen: Surroundings, severity: str, what: str, cure: str
) -> None:
    diagnosis = diagnose(seen)
    found = [remark for remark in diagnosis.remarks if what in remark.what]
    assert len(found) == 1, diagnosis.remarks
    assert found[0].severity == severity
    assert cure in found[0].cure
    assert diagnosis.ok == all(remark.severity != "error" for remark in diagnosis.remarks)


def test_a_workstation_is_not_told_about_power_swap_and_clocks() -> None:
    assert [remark.severity for remark in diagnose(X86).remarks] == ["info"]


def test_onnx_runtime_is_not_claimed_where_it_is_missing() -> None:
    seen = replace(X86, onnxruntime=PackageState(None, "No module named 'onnxruntime'"))
    assert not any("run with ONNX Runtime" in remark.what for remark in diagnose(seen).remarks)


def test_the_gravest_comes_first() -> None:
    seen = replace(board(power_mode="7W", part=None, target=None), gpu=GpuState(None, "no driver"))
    severities = [remark.severity for remark in diagnose(seen).remarks]
    assert severities == ["error", "warning", "info"]


def test_facts_have_their_units() -> None:
    facts = diagnose(
        replace(HEALTHY, board=replace(NANO, gpu_min_mhz=306.0, gpu_mhz=408.0))
    ).facts()
    assert facts["board"] == "orin-nano@6.2, p3767-0005, tegra234"
    assert facts["JetPack"] == "6.2 (L4T 36.4.3)"
    assert facts["power mode"] == "MAXN_SUPER, of 15W, 25W, MAXN_SUPER, 7W"
    assert facts["GPU clock"] == "306 to 1020 MHz, now 408 MHz"
    assert facts["memory"] == "6.0 of 8.0 GiB available, 4.0 GiB of swap"
    assert facts["GPU"] == "Orin, SM 8.7, 8 SMs, 8.0 GiB shared with the CPU"
    assert facts["TensorRT"] == "10.3.0.30, strong graphs"
    assert facts["OpenCV"] == "4.8.0 from the system, windows by GTK3, GStreamer"
    assert facts["python"].startswith("3.10.12 in a virtual environment that sees")
    assert diagnose(HEALTHY).facts()["GPU clock"].startswith("locked at 1020 MHz")
    bare = diagnose(X86).facts()
    assert "JetPack" not in bare
    assert bare["GPU"] == "none: no CUDA driver"


def test_this_machine_is_examined_without_failing() -> None:
    diagnosis = examine()
    assert diagnosis.facts()["numpy"]
    json.dumps(diagnosis.as_dict(), allow_nan=False)
