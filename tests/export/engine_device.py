"""A machine to build engines on, made of fakes: an Orin with any TensorRT, and what it says."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from edge_fusion.board import BoardState
from edge_fusion.bundle import Bundle
from edge_fusion.engine import EngineDevice
from edge_fusion.export import engine as engine_module
from edge_fusion.runtime.cuda import Cuda
from tests.fakes.tensorrt_api import VERSIONS, Gpu

BOARD = BoardState(l4t="36.4.3", power_mode="MAXN_SUPER", available_bytes=4 << 30)
STRONG, WEAK = "10.3", "8.5.3"

Device = Callable[..., None]


def make_device(
    monkeypatch: pytest.MonkeyPatch,
    fake_tensorrt: Callable[..., ModuleType],
    fake_cuda: Callable[..., Any],
) -> Device:
    """``device(version)`` makes this machine an Orin with that TensorRT."""

    def install(version: str = STRONG, *, board: BoardState = BOARD, **cuda: Any) -> None:
        sm = cuda.get("sm", (8, 7))
        fake_tensorrt(version, Gpu(name=cuda.get("name", "Orin"), sm=f"{sm[0]}.{sm[1]}"))
        monkeypatch.setattr(engine_module, "probe_board", lambda: board)

        def load() -> Any:  # each build opens and closes one of its own
            opened = fake_cuda(**cuda)
            monkeypatch.setattr(Cuda, "load", load)
            return opened

        load()

    return install


class Steps:
    """Progress that remembers, and may be told to stop at a step as Ctrl-C would."""

    def __init__(self, stop_at: str = "") -> None:
        self.said: list[tuple[str, str]] = []
        self.stop_at = stop_at

    def __call__(self, step: str, done: int, total: int, detail: str = "") -> None:
        self.said.append((step, detail))
        if step == self.stop_at:
            raise KeyboardInterrupt

    def of(self, step: str) -> list[str]:
        return [detail for name, detail in self.said if name == step]


def below(bundle: Bundle) -> list[str]:
    """Every file below the bundle's engines, hidden ones too but the lock."""
    names = (str(p.relative_to(bundle.path / "engines")) for p in bundle.path.glob("engines/**/*"))
    return sorted(name for name in names if name != ".lock")


def here(precision: str = "int8", **changed: Any) -> EngineDevice:
    fields = {
        "name": "Orin",
        "sm": "8.7",
        "sm_count": 8,
        "tensorrt": VERSIONS[STRONG],
        "l4t": "36.4.3",
        "power_mode": "MAXN_SUPER",
    }
    return EngineDevice(**{**fields, **changed})
