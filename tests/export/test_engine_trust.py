"""Whose engine it is: what is refused before a byte of a plan is deserialised."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_fusion.bundle import Bundle
from edge_fusion.device_key import STATE_VARIABLE
from edge_fusion.engine import Engine, find_engine, read_engine
from edge_fusion.errors import EngineError, SessionError
from edge_fusion.export.engine import EngineBuild, build_engine
from edge_fusion.runtime.trt import TrtSession
from edge_fusion.runtime.trt_api import load_tensorrt
from tests.export.engine_bundles import MODELS, bundle_with_flavours
from tests.export.engine_device import Device, Steps, here, make_device


@pytest.fixture
def bundle(tiny_bundle: Bundle, tmp_path: Path) -> Bundle:
    return bundle_with_flavours(tiny_bundle, tmp_path / "bundle")


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch, fake_tensorrt: Any, fake_cuda: Any) -> Device:
    return make_device(monkeypatch, fake_tensorrt, fake_cuda)


@pytest.fixture
def built(bundle: Bundle, device: Device) -> Engine:
    device()
    return build_engine(bundle, EngineBuild("int8"))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"sm": "8.6"}, "does not belong here: sm: expected 8.6, got 8.7"),
        ({"tensorrt": "10.3.0.26"}, r"tensorrt: expected 10\.3\.0\.26, got 10\.3\.0\.30"),
        ({"power_mode": "15W"}, "power_mode: expected 15W, got MAXN_SUPER"),
        ({"power_mode": None}, "power_mode: expected None, got MAXN_SUPER"),
        ({"sm_count": 4}, "sm_count: expected 4, got 8"),
        ({"l4t": "36.4.7"}, r"l4t: expected 36\.4\.7, got 36\.4\.3"),
        ({"name": "Xavier"}, "name: expected Xavier, got Orin"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_an_engine_of_another_device_is_refused_with_the_field(
    changed: dict[str, Any], message: str, bundle: Bundle, built: Engine
) -> None:
    with pytest.raises(EngineError, match=f"{message}.*edge-fusion build .*--precision int8"):
        find_engine(bundle, "int8", here(**changed))
    assert find_engine(bundle, "int8", here()) == built


def flip(plan: Path) -> None:
    data = bytearray(plan.read_bytes())
    data[len(data) // 2] ^= 1
    plan.write_bytes(data)


def truncate(plan: Path) -> None:
    plan.write_bytes(plan.read_bytes()[:-1])


def link(plan: Path) -> None:
    plan.rename(plan.with_name("elsewhere"))
    plan.symlink_to("elsewhere")


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (flip, "is damaged or was changed: expected sha256.*build it again"),
        (
            truncate,
            r"expected a file of \d+ bytes, got \d+ bytes.*build it again",
        ),
        (link, "got a link; delete the link: rm .*model.plan"),
        (Path.unlink, "cannot read .*No such file.*build it again"),
    ],
)
def test_a_plan_that_is_not_what_was_built_is_never_read(
    harm: Callable[[Path], None], message: str, bundle: Bundle, built: Engine
) -> None:
    harm(built.folder / "model.plan")
    with pytest.raises(EngineError, match=message):
        find_engine(bundle, "int8", here())


def forge(folder: Path, **fields: Any) -> None:
    record = json.loads((folder / "build.json").read_text())
    for name, value in fields.items():
        owner = record["device"] if name in record["device"] else record
        owner[name] = value
    (folder / "build.json").write_text(json.dumps(record))


def test_a_record_that_claims_another_device_is_refused(bundle: Bundle, device: Device) -> None:
    # built on an Orin NX, its record says it was built here
    device(name="Orin NX")
    engine = build_engine(bundle, EngineBuild("int8"))
    forge(engine.folder, name="Orin")
    with pytest.raises(EngineError, match="was changed: got a key that is not that of its fields"):
        find_engine(bundle, "int8", here())


def test_a_record_that_lies_in_another_folder_is_refused(bundle: Bundle, built: Engine) -> None:
    moved = built.folder.rename(built.folder.with_name("0123456789abcdef"))
    with pytest.raises(EngineError, match=f"expected {moved.name}, got {built.record.key}"):
        find_engine(bundle, "int8", here())


def test_a_plan_put_in_place_of_ours_is_refused(bundle: Bundle, built: Engine) -> None:
    other = bytearray(built.plan)
    other[-1] ^= 1
    (built.folder / "model.plan").write_bytes(other)
    with pytest.raises(EngineError, match="damaged or was changed"):
        read_engine(bundle, built.record.key)


def test_an_engine_of_an_older_model_is_refused(
    bundle: Bundle, built: Engine, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    other = (MODELS / "tiny.fp16.onnx").read_bytes()
    newer = bundle_with_flavours(tiny_bundle, tmp_path / "newer", replaced={"strong.int8": other})
    shutil.copytree(built.folder, newer.path / "engines" / built.record.key)
    with pytest.raises(EngineError, match="does not belong here: model: expected"):
        find_engine(newer, "int8", here())


def test_an_engine_is_no_reason_to_refuse_its_bundle(bundle: Bundle, built: Engine) -> None:
    assert Bundle.read(bundle.path).manifest == bundle.manifest


# --- who wrote it ----------------------------------------------------------------------------


def of_somebody_else(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """An engine that fits this device in every field, sealed by another device's user."""
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv(STATE_VARIABLE, str(tmp_path / "elsewhere"))
        return build_engine(bundle, EngineBuild("int8", timing_cache=False))


def test_a_forged_engine_that_fits_in_every_field_is_not_read(
    bundle: Bundle, device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device()
    engine = of_somebody_else(bundle, tmp_path, monkeypatch)
    monkeypatch.setattr("edge_fusion.engine._read_plan", lambda *_: pytest.fail("it was read"))
    message = "was not built by this user on this device: got a seal of another key; build it here"
    for use in (
        lambda: find_engine(bundle, "int8", here()),
        lambda: read_engine(bundle, engine.record.key),
    ):
        with pytest.raises(EngineError, match=f"{message}.*edge-fusion build {bundle.path}"):
            use()


def test_it_is_built_here_when_asked_to(
    bundle: Bundle, device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device()
    of_somebody_else(bundle, tmp_path, monkeypatch)
    steps = Steps()
    engine = build_engine(bundle, EngineBuild("int8"), steps)
    assert "building again: the engine in" in steps.of("cache")[0]
    assert find_engine(bundle, "int8", here()) == engine


def test_two_users_may_share_their_state(
    bundle: Bundle, built: Engine, tmp_path: Path, state_folder: Path
) -> None:
    shutil.copytree(state_folder, tmp_path / "shared")
    with pytest.MonkeyPatch.context() as other:
        other.setenv(STATE_VARIABLE, str(tmp_path / "shared"))
        assert find_engine(bundle, "int8", here()) == built


@pytest.mark.parametrize("step", ["no seal", "another seal", "another field"])
def test_what_was_sealed_cannot_be_changed(step: str, bundle: Bundle, built: Engine) -> None:
    path = built.folder / "build.json"
    record = json.loads(path.read_text())
    seal = record["seal"]
    changes = {
        "no seal": {"seal": None},
        "another seal": {"seal": f"{int(seal[0] == '0')}{seal[1:]}"},
        "another field": {"golden_tolerance": 9.0},
    }
    path.write_text(json.dumps({**record, **changes[step]}))
    with pytest.raises(EngineError, match="was not built by this user on this device"):
        find_engine(bundle, "int8", here())
    # how it is laid out does not count
    path.write_text(json.dumps(dict(reversed(record.items()))))
    assert find_engine(bundle, "int8", here()) == built


def test_the_session_refuses_a_plan_of_another_tensorrt(
    bundle: Bundle, built: Engine, device: Device, fake_cuda: Callable[..., Any]
) -> None:
    """The last line of defence: TensorRT's own check, should a record be forged throughout."""
    device("10.7")
    with pytest.raises(SessionError, match="not compatible with this version"):
        TrtSession(built.plan, bundle.manifest.model, fake_cuda(), load_tensorrt())
