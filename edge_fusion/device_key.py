"""This user's secret on this device: what carries its seal was made here.

A bundle may come from anywhere, and whoever made it can write any hash into it.  What this device
adds and later trusts, its engines and their timings, is sealed with a key that never leaves it.
"""

from __future__ import annotations

import hmac
import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path

from edge_fusion.errors import EngineError, OutputError
from edge_fusion.files import writing

STATE_VARIABLE = "EDGE_FUSION_STATE"
KEY_NAME = "device.key"
KEY_BYTES = 32
SEAL_BYTES = 32  # of HMAC-SHA256


def state_folder() -> Path:
    """Where this user's state lies: ``$EDGE_FUSION_STATE``, else where XDG puts it.

    Raises:
        EngineError: None is set and this user has no home.
    """
    if chosen := os.environ.get(STATE_VARIABLE):
        return Path(chosen)
    base = Path(os.environ.get("XDG_STATE_HOME", ""))
    if base.is_absolute():  # XDG: a relative one is to be ignored
        return base / "edge-fusion"
    try:
        return Path.home() / ".local" / "state" / "edge-fusion"
    except RuntimeError as err:
        raise EngineError(
            "no place for this device's key",
            got="a user without a home",
            cure=f"set {STATE_VARIABLE} to a folder of this user",
        ) from err


def make_key() -> bytes:
    """The key of this user on this device; the first use makes it.

    Raises:
        EngineError: It is there but cannot be read, or is damaged.
        OutputError: It could not be written.
    """
    key = _read_key()
    if key is not None:
        return key
    path = state_folder() / KEY_NAME
    with writing("this device's key", path):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, made = tempfile.mkstemp(prefix=f".{KEY_NAME}-", dir=path.parent)  # of mode 0600
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(secrets.token_bytes(KEY_BYTES))
                file.flush()
                os.fsync(file.fileno())
            # Unlike a rename it fails where another process was first, whose key then counts.
            with suppress(FileExistsError):
                os.link(made, path)
        finally:
            Path(made).unlink()
    key = _read_key()
    if key is None:
        raise OutputError(f"cannot write this device's key {path}", got="a link to nowhere")
    return key


def seal(purpose: str, data: bytes) -> bytes:
    """The seal of ``data``, 32 bytes: HMAC-SHA256 under this device's key.

    Args:
        purpose: What it is for; a seal of one purpose is none of another.
        data: What is sealed.

    Raises:
        EngineError: The key cannot be read.
        OutputError: There was none, and it could not be written.
    """
    return _digest(make_key(), purpose, data)


def is_sealed(purpose: str, data: bytes, claimed: bytes) -> bool:
    """Whether ``claimed`` is the seal that this user made on this device; no key is made.

    Raises:
        EngineError: The key cannot be read.
    """
    key = _read_key()
    return key is not None and hmac.compare_digest(_digest(key, purpose, data), claimed)


def _digest(key: bytes, purpose: str, data: bytes) -> bytes:
    return hmac.digest(key, purpose.encode() + b"\0" + data, "sha256")


def _read_key() -> bytes | None:
    path = state_folder() / KEY_NAME
    try:
        key = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as err:
        raise EngineError(
            f"cannot read this device's key {path}",
            got=err.strerror or str(err),
            cure=f"let this user read it, or set {STATE_VARIABLE} to a folder of this user",
        ) from err
    if len(key) != KEY_BYTES:
        raise EngineError(
            f"this device's key {path} is damaged",
            got=f"{len(key)} bytes instead of {KEY_BYTES}",
            cure="delete it and build the engines again",
        )
    return key
