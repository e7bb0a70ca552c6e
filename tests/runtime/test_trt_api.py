"""Finding TensorRT: its version, its voice, and what is said where it is missing or broken."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from edge_fusion.board import BoardState
from edge_fusion.engine import EngineDevice
from edge_fusion.errors import MissingDependencyError, SessionError
from edge_fusion.runtime.trt_api import MessageLog, load_tensorrt, parse_version, this_device
from tests.fakes.cudart import FakeCuda
from tests.fakes.tensorrt_api import VERSIONS, Gpu


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_is_loaded_and_dated(fake_tensorrt, version) -> None:
    module = fake_tensorrt(version)
    api = load_tensorrt()
    assert api.module is module
    assert api.version_text == VERSIONS[version]
    assert ".".join(map(str, api.version)) == VERSIONS[version]
    assert api.flavour == ("weak" if version.startswith("8.") else "strong")
    assert load_tensorrt().logger is api.logger  # one for the process


VERSION_TEXTS = [
    ("8.5.3.1", (8, 5, 3, 1)),
    ("10.3.0", (10, 3, 0)),
    ("10.16.2.10", (10, 16, 2, 10)),
    ("8.6.1.post1", (8, 6, 1)),
    ("11.4.0.106+cu13", (11, 4, 0, 106)),
]


@pytest.mark.parametrize(("text", "numbers"), VERSION_TEXTS)
def test_versions_are_read_however_they_are_written(text, numbers) -> None:
    assert parse_version(text) == numbers


def test_what_is_no_version_is_refused() -> None:
    with pytest.raises(SessionError, match="expected numbers, as in 10.3.0.30, got unknown"):
        parse_version("unknown")


def test_a_version_before_8_5_is_refused(fake_tensorrt) -> None:
    fake_tensorrt().__version__ = "8.4.1.5"
    with pytest.raises(SessionError, match=r"too old: expected 8.5 or newer, got 8.4.1.5"):
        load_tensorrt()


def test_a_missing_tensorrt_names_jetpacks_package(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingDependencyError, match="building needs TensorRT") as caught:
        load_tensorrt("building")
    assert "apt install python3-libnvinfer" in str(caught.value)
    assert "--system-site-packages" in str(caught.value)


BROKEN = [
    # a library that the binding links is not there
    'raise ImportError("libnvinfer.so.10: cannot open shared object file")',
    # the same in a wheel, which loads its libraries by ctypes
    'import ctypes; ctypes.CDLL("libnvinfer-that-nobody-has.so.10")',
    # a package that the binding itself needs is not there
    "import tensorrt_libs_that_nobody_has",
]


@pytest.mark.parametrize("body", BROKEN)
def test_a_broken_tensorrt_is_not_a_missing_one(tmp_path: Path, monkeypatch, body) -> None:
    (tmp_path / "tensorrt.py").write_text(body)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    with pytest.raises(SessionError, match="installed but does not import: got .*lib"):
        load_tensorrt()


def test_the_logger_keeps_what_tensorrt_says(fake_tensorrt) -> None:
    module: ModuleType = fake_tensorrt()
    api = load_tensorrt()
    api.logger.log(module.ILogger.Severity.INFO, "before")
    mark = api.log.mark()
    for severity, text in (
        ("VERBOSE", "far too much"),
        ("WARNING", "slow"),
        ("ERROR", "one"),
        ("INTERNAL_ERROR", "two"),
    ):
        api.logger.log(getattr(module.ILogger, severity), text)
    assert api.log.since(mark) == ("slow", "one", "two")
    assert api.log.since(mark, "WARNING") == ("slow",)
    assert api.log.errors(mark) == "one; two"
    assert MessageLog().errors(0) == "no reason given"


def test_this_device_is_what_a_plan_is_tied_to(fake_tensorrt) -> None:
    fake_tensorrt("10.3", Gpu())
    with FakeCuda(sm_count=4) as cuda:
        device = this_device(load_tensorrt(), cuda, BoardState(l4t="36.4.3", power_mode="15W"))
    assert device == EngineDevice(
        name="Orin",
        sm="8.7",
        sm_count=4,
        tensorrt="10.3.0.30",
        l4t="36.4.3",
        power_mode="15W",
    )
