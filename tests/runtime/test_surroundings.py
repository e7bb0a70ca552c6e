"""Looking around: the GPU, packages that break, and a bundle with its engines."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edge_fusion.board import BoardState
from edge_fusion.bundle import Bundle, write_bundle
from edge_fusion.engine import (
    EngineDevice,
    EngineOptions,
    list_engines,
    write_engine,
)
from edge_fusion.errors import BundleError, SessionError
from edge_fusion.manifest import FlavourRecord
from edge_fusion.runtime.doctor import REMARK_COLUMNS, Diagnosis, examine
from edge_fusion.runtime.surroundings import Doors, GpuState, TensorRtState, look_around
from tests.fakes.engine_records import record_of

GIB = 1 << 30
NANO = BoardState(soc="tegra234", l4t="36.4.3", power_mode="25W")
DEVICE = EngineDevice(
    name="Orin", sm="8.7", sm_count=8, tensorrt="10.3.0.30", l4t="36.4.3", power_mode="25W"
)


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
    assert seen.gpu == GpuState("Orin", "", "8.7", 8, 8 * GIB, integrated=True)
    assert seen.tensorrt == TensorRtState("10.3.0.30", flavour="strong")
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


BREAKAGES = [
    ("ValueError", "numpy.dtype size changed, may indicate binary incompatibility"),
    ("RuntimeError", "module compiled against API version 0x10"),
    ("SystemError", "initialization of the extension failed"),
    ("AttributeError", "_ARRAY_API not found"),
]


@pytest.mark.parametrize(("error", "says"), BREAKAGES, ids=[error for error, _ in BREAKAGES])
@pytest.mark.parametrize("package", ["cv2", "onnxruntime", "tensorrt"])
def test_a_package_that_breaks_on_import_is_recorded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, package: str, error: str, says: str
) -> None:
    (tmp_path / f"{package}.py").write_text(f"raise {error}({says!r})")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, package, raising=False)
    seen = look_around(NANO, doors=Doors(refuse("no driver")))
    assert getattr(seen, package).version is None
    assert says in getattr(seen, package).problem


def test_a_driver_that_breaks_is_recorded() -> None:
    def door() -> Any:
        raise RuntimeError

    assert look_around(NANO, doors=Doors(door, door, door)).gpu.problem == "RuntimeError"


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
    record = record_of(
        bundle, file, b"plan", device, options, created_utc="2026-11-22T10:00:00+00:00"
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
    severity, what, cure = remark_about(diagnosis, "no graph for an engine in int8")
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


@pytest.mark.parametrize(
    ("name", "old", "new", "says"),
    [
        ("model.plan", b"plan", b"plam", "is damaged or was changed"),
        ("model.plan", b"plan", b"pla", "is not the plan that was built"),
        ("build.json", b"{", b"", "is damaged"),
        ("build.json", b'"Orin"', b'"Thor"', "was changed"),
    ],
)
def test_a_damaged_engine_is_not_taken_for_a_missing_one(
    flavoured: Bundle, tmp_path: Path, name: str, old: bytes, new: bytes, says: str
) -> None:
    put_engine(flavoured, DEVICE)
    file = flavoured.path / "engines" / engine_of(flavoured) / name
    assert old in file.read_bytes()
    file.write_bytes(file.read_bytes().replace(old, new))
    diagnosis = examine(flavoured.path, tmp_path / "nothing", doors())
    assert remark_about(diagnosis, says)[0] == "warning"
    engine = diagnosis.as_dict()["bundle"]["engines"]["fp32"]
    assert (engine["state"], engine["built_utc"]) == ("damaged", None)
    assert re.search(f"unusable: .*{says}", diagnosis.facts()["engine fp32"])


def test_a_bundle_that_is_not_there_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no bundle at .*missing; make one: edge-fusion build"):
        examine(tmp_path / "missing", tmp_path, doors())


def test_a_damaged_bundle_is_a_remark_and_no_failure(tiny_bundle: Bundle, tmp_path: Path) -> None:
    (tiny_bundle.path / "manifest.json").write_text("{")
    diagnosis = examine(tiny_bundle.path, tmp_path, doors())
    severity, _, cure = remark_about(diagnosis, "manifest.json")
    assert severity == "error"
    assert "build it again" in cure


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
    assert content["bundle"]["engines"]["fp32"] == {
        "state": "built",
        "text": "here, built 2026-11-22T10:00:00+00:00",
        "built_utc": "2026-11-22T10:00:00+00:00",
    }
    assert content["bundle"]["engines"]["int8"]["state"] == "no graph"
    assert [set(remark) for remark in content["remarks"]] == [
        {"severity", "what", "cure"} for _ in diagnosis.remarks
    ]
    assert len(REMARK_COLUMNS) == len(diagnosis.rows()[0])
