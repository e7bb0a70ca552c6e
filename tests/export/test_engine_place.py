"""Where an engine is built: stopped, killed, without room, by two at once, among links."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from edge_fusion.bundle import Bundle, check_destination
from edge_fusion.device_key import STATE_VARIABLE
from edge_fusion.engine import find_engine, list_engines
from edge_fusion.errors import EngineError, OutputError
from edge_fusion.export import engine as engine_module
from edge_fusion.export.engine import EngineBuild, build_engine
from edge_fusion.export.engine_config import TimingCache
from edge_fusion.runtime.trt_api import load_tensorrt
from tests.export.engine_bundles import bundle_with_flavours
from tests.export.engine_device import STRONG, WEAK, Device, Steps, below, here, make_device
from tests.fakes import tensorrt_build

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def bundle(tiny_bundle: Bundle, tmp_path: Path) -> Bundle:
    return bundle_with_flavours(tiny_bundle, tmp_path / "bundle")


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch, fake_tensorrt: Any, fake_cuda: Any) -> Device:
    return make_device(monkeypatch, fake_tensorrt, fake_cuda)


@pytest.mark.parametrize("version", [WEAK, STRONG])
@pytest.mark.parametrize("step", ["parse", "build", "self-check"])
def test_ctrl_c_leaves_no_engine_and_the_repeat_works(
    step: str, version: str, bundle: Bundle, device: Device
) -> None:
    device(version)
    with pytest.raises(KeyboardInterrupt):
        build_engine(bundle, EngineBuild("int8"), Steps(stop_at=step))
    assert all(name.startswith("timing-") for name in below(bundle))
    engine = build_engine(bundle, EngineBuild("int8"))
    assert find_engine(bundle, "int8", engine.record.device) == engine


def test_ctrl_c_stops_the_builder_and_keeps_what_it_timed(
    bundle: Bundle, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    device()
    api = load_tensorrt()
    real = tensorrt_build._announce

    def slow(row: Any, state: Any, config: Any, logger: Any) -> bool:
        for step in range(1000):  # far longer than the test may take, unless it is stopped
            config._cache._entries.add("rgb/Conv")
            if not config.progress_monitor.step_complete("Timing tactics", step):
                return False
            time.sleep(0.01)
        return bool(real(row, state, config, logger))

    monkeypatch.setattr(tensorrt_build, "_announce", slow)
    mark = api.log.mark()
    with pytest.raises(KeyboardInterrupt):
        build_engine(bundle, EngineBuild("int8"), Steps(stop_at="build"))
    assert "BuildCanceled" in api.log.errors(mark)
    assert [name[:7] for name in below(bundle)] == ["timing-"]
    [cache] = bundle.path.glob("engines/timing-*.cache")
    assert b"rgb/Conv" in cache.read_bytes()


def test_a_builder_that_is_still_at_work_is_left_alone(
    bundle: Bundle, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    device()
    main, go_on, ended = threading.main_thread().ident, threading.Event(), threading.Event()

    def deaf(row: Any, state: Any, config: Any, logger: Any) -> bool:
        while config.progress_monitor.step_complete("Timing tactics", 0):
            time.sleep(0.01)
        assert main is not None
        signal.pthread_kill(main, signal.SIGINT)  # the user's second Ctrl-C, while it winds up
        go_on.wait(10)
        ended.set()
        return False

    saved: list[str] = []
    monkeypatch.setattr(tensorrt_build, "_announce", deaf)
    monkeypatch.setattr(TimingCache, "save", lambda self, config: saved.append("saved"))
    with pytest.raises(KeyboardInterrupt):
        build_engine(bundle, EngineBuild("int8"), Steps(stop_at="build"))
    assert not ended.is_set()
    assert saved == []
    go_on.set()
    assert ended.wait(10)  # of no use to later tests, but not to be left running either


KILLED = """
import os, sys
import pytest
from edge_fusion import engine as ground
from edge_fusion.bundle import Bundle
from edge_fusion.engine import RECORD_NAME
from edge_fusion.export import engine
from edge_fusion.export.engine import EngineBuild, build_engine
from edge_fusion.runtime import cuda
from tests.export.engine_device import BOARD
from tests.fakes.cudart import FakeCuda
from tests.fakes.tensorrt_api import Gpu, make_tensorrt
sys.modules["tensorrt"] = make_tensorrt("10.3", Gpu())
cuda.Cuda.load = lambda: FakeCuda()
engine.probe_board = lambda: BOARD
real = ground.write_synced
def written(path, data):
    real(path, data)
    if path.name == RECORD_NAME:
        os._exit(9)  # no handler runs, as after kill -9 or a power cut
ground.write_synced = written
build_engine(Bundle.read(sys.argv[1]), EngineBuild("int8"))
"""


def test_a_kill_while_writing_leaves_nothing_that_counts(bundle: Bundle, device: Device) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(bundle.path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 9, done.stderr
    assert [name for name in below(bundle) if name.endswith("build.json")], "nothing was killed"
    assert list_engines(bundle) == []
    with pytest.raises(EngineError, match="has no int8 engine"):
        find_engine(bundle, "int8", here())
    device()
    engine = build_engine(bundle, EngineBuild("int8"))
    assert {name.split("/")[0] for name in below(bundle)} == {
        engine.record.key,
        *(name for name in below(bundle) if name.startswith("timing-")),
    }


def test_a_full_disk_leaves_nothing(
    bundle: Bundle, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    device()

    def full(path: Path, data: bytes) -> None:
        path.write_bytes(data[:1])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("edge_fusion.engine.write_synced", full)
    monkeypatch.setattr("edge_fusion.export.engine_config.write_synced", full)
    steps = Steps()
    with pytest.raises(OutputError, match="cannot write the engine.*the disk is full"):
        build_engine(bundle, EngineBuild("int8"), steps)
    assert "timing cache not kept" in steps.of("timing")[0]
    assert below(bundle) == []


def test_a_bundle_that_may_not_be_written_to_is_said_before_building(
    bundle: Bundle, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    device()

    def read_only(dir: Path) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("edge_fusion.export.engine_place.tempfile.TemporaryFile", read_only)
    steps = Steps()
    with pytest.raises(OutputError, match="that file system is read-only: write elsewhere"):
        build_engine(bundle, EngineBuild("int8"), steps)
    assert steps.said == []


@pytest.mark.parametrize("name", ["engines", "engines/.lock"])
def test_something_in_the_way_is_said_before_building(
    name: str, bundle: Bundle, device: Device
) -> None:
    device()
    way = bundle.path / name
    way.parent.mkdir(exist_ok=True)
    if name == "engines":
        way.write_text("a file")
    else:
        way.mkdir()
    steps = Steps()
    with pytest.raises(OutputError, match="cannot write the engine .*(a file|a folder)"):
        build_engine(bundle, EngineBuild("int8"), steps)
    assert steps.said == []


def test_a_key_that_cannot_be_made_is_said_before_building(
    bundle: Bundle, device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(STATE_VARIABLE, str(tmp_path / "file" / "state"))
    steps = Steps()
    with pytest.raises(EngineError, match="cannot read this device's key .*EDGE_FUSION_STATE"):
        build_engine(bundle, EngineBuild("int8"), steps)
    assert steps.said == []


# --- links -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["engines", "engines/{key}", "engines/.lock"])
def test_nothing_is_written_through_a_link(
    name: str, bundle: Bundle, device: Device, tmp_path: Path
) -> None:
    device()
    key = build_engine(bundle, EngineBuild("int8", timing_cache=False)).record.key
    shutil.rmtree(bundle.path / "engines")
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis").write_text("mine")
    link = bundle.path / name.format(key=key)
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(precious)
    steps = Steps()
    for rebuild in (False, True):
        with pytest.raises(EngineError, match=f"{link} .*got a link; delete the link: rm {link}"):
            build_engine(bundle, EngineBuild("int8", rebuild=rebuild), steps)
    assert steps.said == []
    assert [path.name for path in precious.iterdir()] == ["thesis"]
    assert link.is_symlink()


# --- two at once -----------------------------------------------------------------------------


@pytest.mark.parametrize("rebuild", [False, True])
def test_of_two_builds_the_second_waits_and_takes_what_the_first_built(
    rebuild: bool, bundle: Bundle, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    device()
    first, second, begun = Steps(), Steps(), threading.Event()
    made: list[str] = []
    real = engine_module.run_builder

    def slow(*args: Any, **kwargs: Any) -> bytes:
        made.append("built")
        begun.set()
        deadline = time.monotonic() + 10
        while not second.of("wait") and time.monotonic() < deadline:
            time.sleep(0.01)
        return real(*args, **kwargs)

    monkeypatch.setattr(engine_module, "run_builder", slow)
    with ThreadPoolExecutor() as pool:
        one = pool.submit(build_engine, bundle, EngineBuild("int8"), first)
        assert begun.wait(10)
        two = pool.submit(build_engine, bundle, EngineBuild("int8", rebuild=rebuild), second)
        assert two.result().record.key == one.result().record.key
    assert first.of("wait") == []
    assert second.of("wait") == ["another build in this bundle is under way and goes first"]
    assert len(made) == (2 if rebuild else 1)
    assert bool(second.of("cache")) is not rebuild


def test_the_lock_belongs_to_the_bundle(bundle: Bundle, device: Device) -> None:
    device()
    engine = build_engine(bundle, EngineBuild("int8"))
    assert (engine.folder.parent / ".lock").is_file()
    assert list_engines(bundle) == [engine.record]
    check_destination(bundle.path, replace=True)  # nothing foreign in it
