"""The secret of a device: made once, kept to its user, never taken for another."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from edge_fusion import device_key
from edge_fusion.device_key import KEY_NAME, is_sealed, make_key, seal, state_folder
from edge_fusion.errors import EngineError, OutputError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "below" / "state"
    monkeypatch.setenv("EDGE_FUSION_STATE", str(folder))
    return folder


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"EDGE_FUSION_STATE": "/own", "XDG_STATE_HOME": "/xdg"}, "/own"),
        ({"EDGE_FUSION_STATE": "", "XDG_STATE_HOME": "/xdg"}, "/xdg/edge-fusion"),
        ({"XDG_STATE_HOME": "relative"}, "/home/u/.local/state/edge-fusion"),  # as XDG demands
        ({}, "/home/u/.local/state/edge-fusion"),
    ],
)
def test_where_it_lies(
    variables: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("EDGE_FUSION_STATE", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "/home/u", **variables}.items():
        monkeypatch.setenv(name, value)
    assert state_folder() == Path(expected)


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("EDGE_FUSION_STATE", raising=False)
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(EngineError, match="a user without a home; set EDGE_FUSION_STATE"):
        state_folder()


def test_it_is_made_on_first_use_for_its_user_alone(state: Path) -> None:
    assert not is_sealed("a", b"data", bytes(32))
    assert not state.exists(), "looking makes none"
    key = make_key()
    assert (len(key), make_key()) == (32, key)
    assert stat.S_IMODE((state / KEY_NAME).stat().st_mode) == 0o600
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    assert [path.name for path in state.iterdir()] == [KEY_NAME]


def test_a_seal_is_of_one_purpose_one_content_and_one_device(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = seal("engine", b"data")
    assert len(made) == device_key.SEAL_BYTES
    assert is_sealed("engine", b"data", made)
    assert not is_sealed("timings", b"data", made)
    assert not is_sealed("engine", b"date", made)
    assert not is_sealed("engine", b"data", b"")
    monkeypatch.setenv("EDGE_FUSION_STATE", str(tmp_path / "another"))
    assert not is_sealed("engine", b"data", made)
    make_key()
    assert not is_sealed("engine", b"data", made)


def test_many_at_once_agree_on_one_key(state: Path) -> None:
    """Processes, since each looks, finds none and makes one before any other is seen."""
    code = "from edge_fusion.device_key import make_key; print(make_key().hex())"
    running = [
        subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    assert len({one.communicate()[0] for one in running}) == 1
    assert [path.name for path in state.iterdir()] == [KEY_NAME]


def test_the_first_to_write_wins(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.link

    def late(made: str, path: Path) -> None:
        path.write_bytes(b"x" * 32)  # another process, a moment before
        real(made, path)

    monkeypatch.setattr(os, "link", late)
    assert make_key() == b"x" * 32
    assert [path.name for path in state.iterdir()] == [KEY_NAME]


def test_a_damaged_key_is_said_and_not_replaced(state: Path) -> None:
    state.mkdir(parents=True)
    (state / KEY_NAME).write_bytes(b"short")
    for use in (make_key, lambda: is_sealed("a", b"", b"")):
        with pytest.raises(EngineError, match="is damaged: got 5 bytes instead of 32; delete it"):
            use()
    assert (state / KEY_NAME).read_bytes() == b"short"


def test_a_place_that_cannot_be_used_is_said(state: Path) -> None:
    state.mkdir(parents=True)
    (state / KEY_NAME).symlink_to("nowhere")
    with pytest.raises(OutputError, match="a link to nowhere"):
        make_key()
    (state / KEY_NAME).unlink()
    (state / KEY_NAME).mkdir()
    with pytest.raises(EngineError, match="cannot read this device's key .*Is a directory"):
        make_key()
