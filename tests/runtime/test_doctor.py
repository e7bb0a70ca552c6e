"""The doctor: what it sees, what it remarks and what it tells to do about it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edge_fusion.board import BoardState, OfferedMode
from edge_fusion.bundle import Bundle, write_bundle
from edge_fusion.engine import (
    EngineDevice,
    EngineOptions,
    EngineRecord,
    LayerSummary,
    engine_key,
    list_engines,
    write_engine,
)
from edge_fusion.errors import SessionError
from edge_fusion.files import sha256
from edge_fusion.manifest import FlavourRecord
from edge_fusion.runtime.doctor import REMARK_COLUMNS, Diagnosis, diagnose, examine
from edge_fusion.runtime.surroundings import (
    Doors,
    Gpu,
    OpenCv,
    Package,
    Python,
    Surroundings,
    TensorRt,
    look_around,
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
    python="3.10.12",
    architecture="aarch64",
)
HEALTHY = Surroundings(
    board=NANO,
    python=Python("3.10.12", venv=True, system_packages=True),
    gpu=Gpu("Orin", sm="8.7", sm_count=8, total_bytes=8 * GIB, integrated=True),
    tensorrt=TensorRt("10.3.0.30", flavour="strong"),
    onnxruntime=Package("1.23.2", details=("CPUExecutionProvider",)),
    numpy=Package("1.26.4"),
    cv2=OpenCv("4.8.0", gstreamer=True, gui="GTK3"),
)
X86 = replace(
    HEALTHY,
    board=BoardState(memory_bytes=16 * GIB, available_bytes=GIB, swap_bytes=0),
    gpu=Gpu(None, "no CUDA driver"),
    tensorrt=TensorRt(None, "No module named 'tensorrt'"),
    cv2=OpenCv("4.12.0", wheel="opencv-python-headless"),
)
NO_TRT = TensorRt(None, "No module named 'tensorrt'")
DEVICE = EngineDevice(
    name="Orin", sm="8.7", sm_count=8, tensorrt="10.3.0.30", l4t="36.4.3", power_mode="25W"
)


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
            replace(HEALTHY, tensorrt=NO_TRT, python=Python("3.12.1", True, True)),
            "error",
            "TensorRT of JetPack 6.2 is made for Python 3.10, and this is 3.12",
            "python3.10 -m venv --system-site-packages",
        ),
        (
            replace(HEALTHY, tensorrt=NO_TRT, python=Python("3.10.12", True, False)),
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
            replace(HEALTHY, tensorrt=TensorRt("10.7.0.23", flavour="strong")),
            "warning",
            "TensorRT is 10.7.0.23, and JetPack 6.2 brings 10.3.0",
            "lint for this one",
        ),
        (replace(HEALTHY, gpu=Gpu(None, "no driver")), "error", "no driver", "--runtime nvidia"),
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
            replace(HEALTHY, cv2=OpenCv("4.12.0", wheel="opencv-python")),
            "warning",
            "opencv-python hides the system's OpenCV",
            "pip uninstall opencv-python",
        ),
        (
            replace(HEALTHY, cv2=OpenCv("4.8.0")),
            "info",
            "reads no GStreamer pipelines",
            "OpenCV that JetPack brings",
        ),
        (
            replace(HEALTHY, cv2=OpenCv(None, "No module named 'cv2'")),
            "error",
            "No module named 'cv2'",
            "edge-fusion[opencv]",
        ),
        (
            replace(HEALTHY, cv2=OpenCv(None, "numpy.core.multiarray failed to import")),
            "error",
            "multiarray",
            "numpy<2",
        ),
        # a workstation
        (X86, "info", "ONNX Runtime on the CPU", "built on the target"),
        (
            replace(X86, onnxruntime=Package(None, "No module named 'onnxruntime'")),
            "error",
            "nothing here can run a model",
            "edge-fusion[ort]",
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


def test_the_gravest_comes_first() -> None:
    seen = replace(board(power_mode="7W", part=None, target=None), gpu=Gpu(None, "no driver"))
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


def refuse(message: str) -> Callable[..., Any]:
    def door(*_: object) -> Any:
        raise SessionError(message)

    return door


def doors(device: EngineDevice = DEVICE) -> Doors:
    """Stand-ins for a GPU and a TensorRT that are in order."""
    gpu = SimpleNamespace(name="Orin", sm=(8, 7), sm_count=8, total_bytes=8 * GIB, integrated=True)
    cuda: Any = SimpleNamespace(device=lambda: gpu)
    trt: Any = SimpleNamespace(version_text="10.3.0.30", flavour="strong")
    return Doors(lambda: cuda, lambda: trt, lambda *_: device)


def test_looking_around_asks_the_gpu_and_tensorrt() -> None:
    seen = look_around(NANO, doors=doors())
    assert seen.gpu == HEALTHY.gpu
    assert seen.tensorrt == HEALTHY.tensorrt
    assert seen.numpy.version
    assert seen.python.version


def test_the_real_doors_lead_to_the_gpu_and_tensorrt(
    fake_tensorrt: Callable[..., object], fake_cuda: Callable[..., object], flavoured: Bundle
) -> None:
    fake_tensorrt("10.3")
    fake_cuda()
    seen = look_around(NANO, flavoured.path)
    assert (seen.gpu.problem, seen.gpu.sm) == ("", "8.7")
    assert (seen.tensorrt.version, seen.tensorrt.flavour) == ("10.3.0.30", "strong")
    assert seen.bundle is not None
    assert set(seen.bundle.engines) == {"fp32", "fp16", "int8"}


def test_what_is_absent_is_recorded_with_its_reason() -> None:
    seen = look_around(NANO, doors=Doors(refuse("no driver"), refuse("no libnvinfer"), refuse("")))
    assert (seen.gpu.name, seen.gpu.problem) == (None, "no driver")
    assert (seen.tensorrt.version, seen.tensorrt.problem) == (None, "no libnvinfer")
    assert seen.bundle is None


@pytest.mark.parametrize("package", ["cv2", "onnxruntime"])
def test_a_package_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    seen = look_around(NANO, doors=doors())
    assert getattr(seen, package).version is None
    assert package in getattr(seen, package).problem


def test_opencv_is_read_from_its_build_information(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "  GUI:                           QT5\n    GStreamer:   YES (1.20.3)\n"
    fake = SimpleNamespace(__version__="4.8.0", getBuildInformation=lambda: text)
    monkeypatch.setitem(sys.modules, "cv2", fake)  # type: ignore[arg-type]
    seen = look_around(NANO, doors=doors()).cv2
    assert (seen.version, seen.gui, seen.gstreamer) == ("4.8.0", "QT5", True)
    none = "  GUI:                           NONE\n    GStreamer:                   NO\n"
    monkeypatch.setattr(fake, "getBuildInformation", lambda: none)
    seen = look_around(NANO, doors=doors()).cv2
    assert (seen.gui, seen.gstreamer) == (None, False)


@pytest.fixture
def flavoured(tiny_bundle: Bundle) -> Bundle:
    """The tiny bundle with the graph of a strong FP32 engine."""
    manifest = tiny_bundle.manifest
    flavour = FlavourRecord(
        file=manifest.variants["fp32"],
        target="orin-nano@6.2",
        precisions={"fp32": 3},
        to_reference=0.0,
        to_fp32=0.0,
        reference_to_fp32=0.0,
        samples=2,
    )
    files = {name: tiny_bundle.file(name) for name in manifest.files}
    changed = manifest.model_copy(update={"flavours": {"strong.fp32": flavour}})
    return write_bundle(tiny_bundle.path, changed, files, replace=True)


def put_engine(bundle: Bundle, device: EngineDevice) -> None:
    """An FP32 engine in name; nobody deserialises it here."""
    options = EngineOptions(precision="fp32", flavour="strong")
    file = bundle.manifest.variants["fp32"]
    model = bundle.manifest.files[file].sha256
    record = EngineRecord(
        key=engine_key(model, device, options),
        model_sha256=model,
        device=device,
        options=options,
        model_file=file,
        plan_sha256=sha256(b"plan"),
        plan_bytes=4,
        created_utc="2026-11-22T10:00:00+00:00",
        build_seconds=1.0,
        golden_mean_abs=0.0,
        golden_tolerance=0.01,
        summary=LayerSummary(layers={"fp32": 3}),
    )
    write_engine(bundle, record, b"plan", "{}")


def engine_of(bundle: Bundle) -> str:
    (record,) = list_engines(bundle)
    return record.key


def remark_about(diagnosis: Diagnosis, text: str) -> tuple[str, str, str]:
    found = [row for row in diagnosis.rows() if text in row[1]]
    assert len(found) == 1, diagnosis.rows()
    return found[0]


def test_a_bundle_without_a_graph_for_this_tensorrt(tiny_bundle: Bundle, tmp_path: Path) -> None:
    diagnosis = examine(tiny_bundle.path, tmp_path / "nothing", doors())
    severity, what, cure = remark_about(diagnosis, "no graph for a int8 engine")
    assert severity == "error"
    assert "expected strong.int8, got none" in what
    assert "build the bundle again" in cure
    assert not diagnosis.ok
    facts = diagnosis.facts()
    assert facts["bundle"] == "tiny in int8, made for orin-nano@6.2"
    assert facts["flavours"] == "none"
    assert facts["engine fp32"] == "the bundle has no graph for it"


def test_an_engine_that_fits_and_one_that_does_not(flavoured: Bundle, tmp_path: Path) -> None:
    nothing = tmp_path / "nothing"
    bare = examine(flavoured.path, nothing, doors()).facts()
    assert bare["engine fp32"] == "not built yet"
    put_engine(flavoured, DEVICE)
    here = examine(flavoured.path, nothing, doors())
    assert here.facts()["engine fp32"] == "here, built 2026-11-22T10:00:00+00:00"
    other = DEVICE.model_copy(update={"power_mode": "MAXN_SUPER"})
    there = examine(flavoured.path, nothing, doors(other))
    severity, what, cure = remark_about(there, "does not belong here: power_mode")
    assert severity == "warning"
    assert "expected MAXN_SUPER, got 25W" in what
    assert "edge-fusion build" in cure
    assert there.facts()["engine fp32"] == "none that fits: power_mode is 25W, not MAXN_SUPER"
    (flavoured.path / "engines" / engine_of(flavoured) / "model.plan").write_bytes(b"plam")
    damaged = examine(flavoured.path, nothing, doors())
    assert remark_about(damaged, "is damaged or was changed")[0] == "warning"


def test_a_damaged_bundle_is_a_remark_and_no_failure(tmp_path: Path) -> None:
    diagnosis = examine(tmp_path / "missing", tmp_path, doors())
    severity, _, cure = remark_about(diagnosis, "no bundle at")
    assert severity == "error"
    assert "edge-fusion build" in cure


def test_without_tensorrt_a_bundle_is_still_described(tiny_bundle: Bundle, tmp_path: Path) -> None:
    closed = Doors(refuse("no driver"), refuse("no libnvinfer"), refuse(""))
    diagnosis = examine(tiny_bundle.path, tmp_path / "nothing", closed)
    assert diagnosis.ok
    assert "engine int8" not in diagnosis.facts()
    assert diagnosis.facts()["bundle"].startswith("tiny")


def test_json_holds_everything(flavoured: Bundle, tmp_path: Path) -> None:
    put_engine(flavoured, DEVICE)
    diagnosis = examine(flavoured.path, tmp_path / "nothing", doors())
    content = json.loads(json.dumps(diagnosis.as_dict(), allow_nan=False))
    assert content["schema_version"] == 1
    assert content["gpu"]["sm_count"] == 8
    assert content["bundle"]["engines"]["fp32"].startswith("here")
    assert [set(remark) for remark in content["remarks"]] == [
        {"severity", "what", "cure"} for _ in diagnosis.remarks
    ]
    assert len(REMARK_COLUMNS) == len(diagnosis.rows()[0])


def test_this_machine_is_examined_without_failing() -> None:
    diagnosis = examine()
    assert diagnosis.facts()["numpy"]
    json.dumps(diagnosis.as_dict(), allow_nan=False)
