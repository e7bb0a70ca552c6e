"""Fakes for the modules that hold two variants against each other: no network, no backend."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_fusion.bundle import GOLDEN_NAME, Bundle, write_bundle
from edge_fusion.frame import RgbdFrame
from edge_fusion.manifest import Golden, Manifest, Origin
from edge_fusion.spec import DepthSpec, ModelSpec, RgbInput

SPEC = ModelSpec(name="tiny", height=24, width=32, rgb=RgbInput(mean=(0, 0, 0), std=(1, 1, 1)))
MILLIMETRES = DepthSpec(scale_to_m=0.001)


@dataclass
class FakeSession:
    """Answers with the red channel, times ``gain``; remembers how often it ran, and on what."""

    gain: float
    runs: int = 0
    closed: bool = False
    shapes: set[tuple[int, ...]] = field(default_factory=set)

    def run(self, inputs: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
        assert not self.closed
        self.runs += 1
        self.shapes.add(inputs["rgb"].shape)
        return {"saliency": (self.gain * inputs["rgb"][:, :1]).astype(np.float32)}

    def close(self) -> None:
        self.closed = True


class FakeOpener:
    """Opens fake sessions: FP32 with gain 1, INT8 with a gain of your choice."""

    def __init__(self, **gains: float) -> None:
        self.gains = {"fp32": 1.0, "int8": 1.0, **gains}
        self.opened: dict[str, FakeSession] = {}

    def __call__(self, bundle: Bundle, variant: str, backend: str) -> FakeSession:
        self.opened[variant] = FakeSession(self.gains[variant])
        return self.opened[variant]


@dataclass
class ListSource:
    """A stored source over frames in memory."""

    items: Sequence[RgbdFrame]
    uri: str = "memory://frames"
    live: bool = False
    reads: int = 0

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> RgbdFrame:
        self.reads += 1
        return self.items[index]

    def frames(self) -> Iterator[RgbdFrame]:
        yield from self.items


def make_frame(number: int, *, mask: bool = True, size: tuple[int, int] = (48, 64)) -> RgbdFrame:
    """A red square on a dim ground; the square's place and brightness follow ``number``."""
    rng = np.random.default_rng(number)
    truth = np.zeros(size, bool)
    y, x = rng.integers(4, 20, 2)
    truth[y : y + 20, x : x + 24] = True
    rgb = rng.integers(0, 10, (*size, 3), np.uint8)
    rgb[truth] = (200 + number % 50, 40, 30)
    depth = np.where(truth, 700, 1500).astype(np.uint16)
    depth[:3] = 0
    return RgbdFrame(
        rgb, depth, MILLIMETRES, f"pair_{number:03}", number, mask=truth if mask else None
    )


@pytest.fixture
def opener() -> type[FakeOpener]:
    return FakeOpener


@pytest.fixture
def make_source() -> Callable[..., ListSource]:
    def make(pairs: int, *, mask: bool = True, uri: str = "memory://frames", start: int = 0):
        items = [make_frame(start + number, mask=mask) for number in range(pairs)]
        return ListSource(items, uri)

    return make


@pytest.fixture
def make_bundle(tmp_path: Path) -> Callable[..., Bundle]:
    def make(models: Mapping[str, bytes] | None = None) -> Bundle:
        models = models or {"fp32": b"f" * 40_000, "int8": b"i" * 10_000}
        manifest = Manifest(
            created_utc="2026-01-01T00:00:00+00:00",
            model=SPEC,
            origin=Origin(model="tiny", weights="none"),
            precision="int8",
            target="orin-nano@6.2",
            opset=18,
            variants={variant: f"model.{variant}.onnx" for variant in models},
            golden=Golden(source="none", samples=1, mean_abs_tolerance=dict.fromkeys(models, 1e-2)),
            versions={},
        )
        names = [f"input.{tensor.name}" for tensor in SPEC.inputs]
        names += [f"output.{variant}" for variant in models]
        golden = io.BytesIO()
        np.savez(golden, **{name: np.zeros((1, 1, 24, 32), np.float32) for name in names})
        files = {f"model.{variant}.onnx": data for variant, data in models.items()}
        files[GOLDEN_NAME] = golden.getvalue()
        return write_bundle(tmp_path / "bundle", manifest, files, replace=True)

    return make
