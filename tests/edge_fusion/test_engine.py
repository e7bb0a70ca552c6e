"""Engines as they lie in a bundle: named, listed, found, refused."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_fusion.bundle import Bundle
from edge_fusion.engine import (
    LARGEST_RECORD,
    Engine,
    EngineDevice,
    EngineOptions,
    EngineRecord,
    engine_folder,
    engine_key,
    engine_source,
    find_engine,
    list_engines,
    read_engine,
    read_record,
    write_engine,
)
from edge_fusion.errors import EngineError
from tests.export.engine_bundles import bundle_with_flavours
from tests.fakes.engine_records import record_of

DEVICE = EngineDevice(
    name="Orin", sm="8.7", sm_count=8, tensorrt="10.3.0.30", l4t="36.4.3", power_mode="15W"
)
STRONG = EngineOptions(precision="int8", flavour="strong")
PLAN = b"a plan"


@pytest.fixture
def bundle(tiny_bundle: Bundle, tmp_path: Path) -> Bundle:
    return bundle_with_flavours(tiny_bundle, tmp_path / "bundle")


def written(bundle: Bundle, **changed: Any) -> Engine:
    device, options = changed.get("device", DEVICE), changed.get("options", STRONG)
    plan = changed.get("plan", PLAN)
    file = engine_source(bundle, options)
    built = changed.get("created_utc", "2026-01-01T00:00:00+00:00")
    record = record_of(bundle, file, plan, device, options, created_utc=built)
    return write_engine(bundle, record, plan, "{}")


@pytest.mark.parametrize("field", EngineDevice.model_fields)
def test_every_field_of_the_device_changes_the_key(field: str) -> None:
    other = DEVICE.model_copy(update={field: 4 if field == "sm_count" else "other"})
    assert engine_key("a" * 64, other, STRONG) != engine_key("a" * 64, DEVICE, STRONG)


@pytest.mark.parametrize(
    "changed", [{"precision": "fp16"}, {"flavour": "weak"}, {"optimization_level": 0}]
)
def test_every_option_changes_the_key(changed: dict[str, Any]) -> None:
    other = STRONG.model_copy(update=changed)
    assert engine_key("a" * 64, DEVICE, other) != engine_key("a" * 64, DEVICE, STRONG)


def test_what_is_written_is_found(bundle: Bundle) -> None:
    engine = written(bundle)
    assert find_engine(bundle, "int8", DEVICE) == engine
    assert read_engine(bundle, engine.record.key) == engine
    assert list_engines(bundle) == [engine.record]
    assert sorted(p.name for p in engine.folder.iterdir()) == [
        "build.json",
        "layers.json",
        "model.plan",
    ]


def test_writing_again_replaces_the_whole(bundle: Bundle) -> None:
    written(bundle)
    again = written(bundle, plan=b"another plan")
    assert find_engine(bundle, "int8", DEVICE).plan == b"another plan"
    assert [p.name for p in again.folder.parent.iterdir()] == [again.record.key]


def test_the_newest_that_fits_is_found(bundle: Bundle) -> None:
    levels = {"2026-01-02": 1, "2026-01-03": 2, "2026-01-01": 3}
    for created, level in levels.items():
        options = STRONG.model_copy(update={"optimization_level": level})
        written(bundle, options=options, created_utc=f"{created}T00:00:00+00:00")
    other = DEVICE.model_copy(update={"sm_count": 4})
    written(bundle, device=other, created_utc="2026-02-01T00:00:00+00:00")
    assert find_engine(bundle, "int8", DEVICE).record.options.optimization_level == 2
    assert [r.created_utc[:10] for r in list_engines(bundle)] == [
        "2026-02-01",
        "2026-01-03",
        "2026-01-02",
        "2026-01-01",
    ]


def test_none_is_said_with_what_to_run(bundle: Bundle) -> None:
    assert list_engines(bundle) == []
    assert read_engine(bundle, "0" * 16) is None
    with pytest.raises(
        EngineError, match=f"has no fp16 engine; run: edge-fusion build {bundle.path} .* fp16"
    ):
        find_engine(bundle, "fp16", DEVICE)


def test_other_folders_and_unfinished_engines_do_not_count(bundle: Bundle) -> None:
    engine = written(bundle)
    root = engine.folder.parent
    (root / "empty").mkdir()
    (root / "timing-0.cache").write_bytes(b"")
    engine.folder.rename(root / f".{engine.record.key}.partial-x")
    assert list_engines(bundle) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{}", "is damaged: got key: Field required"),
        (b"not json", "is damaged"),
        (b" " * (LARGEST_RECORD + 1), "is too large"),
    ],
)
def test_a_damaged_record_is_said(content: bytes, message: str, bundle: Bundle) -> None:
    engine = written(bundle)
    (engine.folder / "build.json").write_bytes(content)
    with pytest.raises(EngineError, match=f"{message}.*delete .* and build it again"):
        list_engines(bundle)


def damage(folder: Path) -> None:
    (folder / "build.json").write_text("{}")


def outdate(folder: Path) -> None:
    """What a later version may write: other fields, another schema."""
    (folder / "build.json").write_text('{"schema_version": 2, "plans": []}')


def misplace(folder: Path) -> None:
    folder.rename(folder.with_name("f" * 16))


def link(folder: Path) -> None:
    folder.symlink_to(folder.rename(folder.parents[2] / "elsewhere"))


def unseal(folder: Path) -> None:
    record = json.loads((folder / "build.json").read_text())
    (folder / "build.json").write_text(json.dumps({**record, "seal": None}))


FLAWS = [
    (damage, "is damaged: got key: Field required; delete .* and build it again"),
    (outdate, "was written by a newer edge-fusion: got schema 2.*; upgrade edge-fusion"),
    (misplace, "is not of this folder"),
    (link, "got a link; delete the link"),
    (unseal, "was not built by this user on this device: got no seal"),
]


@pytest.mark.parametrize(("flaw", "message"), FLAWS, ids=[flaw.__name__ for flaw, _ in FLAWS])
def test_a_bad_record_is_said_where_nothing_fits_and_never_in_the_way(
    flaw: Callable[[Path], None], message: str, bundle: Bundle
) -> None:
    newer = written(
        bundle,
        options=STRONG.model_copy(update={"optimization_level": 5}),
        created_utc="2027-01-01T00:00:00+00:00",
    )
    flaw(newer.folder)
    with pytest.raises(EngineError, match=message):
        find_engine(bundle, "int8", DEVICE)
    older = written(bundle)
    assert find_engine(bundle, "int8", DEVICE) == older
    # one of another device says less than what is wrong with ours
    shutil.rmtree(older.folder)
    written(bundle, device=DEVICE.model_copy(update={"sm_count": 4}))
    with pytest.raises(EngineError, match=message):
        find_engine(bundle, "int8", DEVICE)


def test_a_link_in_place_of_all_engines_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    engine = written(bundle)
    engines = engine.folder.parent
    engines.rename(tmp_path / "elsewhere")
    engines.symlink_to(tmp_path / "elsewhere")
    for use in (
        lambda: list_engines(bundle),
        lambda: find_engine(bundle, "int8", DEVICE),
        lambda: read_engine(bundle, engine.record.key),
        lambda: written(bundle),
    ):
        with pytest.raises(EngineError, match=f"got a link; delete the link: rm {engines}$"):
            use()
    assert (tmp_path / "elsewhere" / engine.record.key / "model.plan").read_bytes() == PLAN


@pytest.mark.parametrize("name", ["build.json", "model.plan"])
def test_a_link_in_place_of_a_file_is_refused(name: str, bundle: Bundle, tmp_path: Path) -> None:
    path = written(bundle).folder / name
    path.rename(tmp_path / name)
    path.symlink_to(tmp_path / name)
    with pytest.raises(EngineError, match=f"{name} is not what was built: got a link"):
        find_engine(bundle, "int8", DEVICE)


def test_what_the_system_refuses_to_read_is_said(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(bundle)

    def refused(self: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refused)
    with pytest.raises(EngineError, match="cannot read .*engines: got Permission denied"):
        list_engines(bundle)


def test_the_seal_is_in_the_file_and_not_in_the_record(bundle: Bundle) -> None:
    engine = written(bundle)
    stored = json.loads((engine.folder / "build.json").read_text())
    assert len(stored.pop("seal")) == 64
    assert EngineRecord.model_validate(stored) == engine.record
    assert "seal" not in engine.record.model_dump()


@pytest.mark.parametrize("sealed", [True, False])
def test_the_record_beside_a_plan(sealed: bool, bundle: Bundle) -> None:
    engine = written(bundle)
    assert read_record(engine.folder, sealed=sealed) == engine.record
    unseal(engine.folder)
    if sealed:
        with pytest.raises(EngineError, match="was not built by this user on this device"):
            read_record(engine.folder)
    else:  # brought from another device, to be passed on
        assert read_record(engine.folder, sealed=False) == engine.record
        damage(engine.folder)
        with pytest.raises(EngineError, match="copy the plan and its record from its device"):
            read_record(engine.folder, sealed=False)


def test_a_record_in_the_folder_of_another_is_said(bundle: Bundle) -> None:
    engine = written(bundle)
    engine.folder.rename(engine.folder.with_name("f" * 16))
    with pytest.raises(EngineError, match=f"expected f+, got {engine.record.key}"):
        list_engines(bundle)


def test_a_graph_that_is_missing_is_named(tiny_bundle: Bundle) -> None:
    weak = EngineOptions(precision="fp16", flavour="weak")
    with pytest.raises(EngineError, match="under TensorRT 8: expected weak.fp16, got none"):
        engine_source(tiny_bundle, weak)


def test_nothing_is_built_into_a_tar(bundle: Bundle) -> None:
    tar = Bundle(bundle.path.with_suffix(".tar"), bundle.manifest)
    with pytest.raises(EngineError, match="unpack it first: tar -xf"):
        engine_folder(tar, "0" * 16)
    assert list_engines(tar) == []
