"""Fixtures shared by all tests."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest

from edge_fusion.bundle import GOLDEN_NAME, Bundle, write_bundle
from edge_fusion.device_key import STATE_VARIABLE
from edge_fusion.manifest import Golden, Manifest, Origin
from edge_fusion.runtime import cuda
from edge_fusion.runtime.ort import OrtSession
from edge_fusion.runtime.source.demo import DemoSource
from edge_fusion.spec import ModelSpec
from tests.fakes.cudart import FakeCuda
from tests.fakes.tensorrt_api import ORIN, Gpu, make_tensorrt

MODELS = Path(__file__).parent / "models"
TINY = ModelSpec(name="tiny", height=32, width=32)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real RGB-D sets, which is never part of the repository."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    path = Path(os.environ.get("EDGE_FUSION_DATA", default))
    if not path.is_dir():
        pytest.skip("real RGB-D data is absent; set EDGE_FUSION_DATA to its folder")
    return path


@pytest.fixture(scope="session", autouse=True)
def state_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the device's key of all tests lies; never this user's own."""
    folder = tmp_path_factory.mktemp("state")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(STATE_VARIABLE, str(folder))
        yield folder


@pytest.fixture
def tiny_models() -> dict[str, bytes]:
    """The ONNX files of ``tests/models`` by variant: 32x32, near things are salient."""
    return {name: (MODELS / f"tiny.{name}.onnx").read_bytes() for name in ("fp32", "int8")}


@pytest.fixture
def tiny_bundle(tmp_path: Path, tiny_models: dict[str, bytes]) -> Bundle:
    """A complete bundle of the tiny models, written without torch or onnx."""
    rng = np.random.default_rng(0)
    golden = {
        "input.rgb": rng.normal(size=(2, 3, 32, 32)).astype(np.float32),
        "input.depth": rng.random((2, 1, 32, 32)).astype(np.float32),
    }
    for variant, model in tiny_models.items():
        with OrtSession(model) as session:
            outputs = [
                session.run(
                    {
                        "rgb": golden["input.rgb"][i : i + 1],
                        "depth": golden["input.depth"][i : i + 1],
                    }
                )
                for i in range(2)
            ]
        golden[f"output.{variant}"] = np.concatenate([out["saliency"] for out in outputs])
    buffer = io.BytesIO()
    np.savez(buffer, **golden)
    manifest = Manifest(
        created_utc="2026-01-01T00:00:00Z",
        model=TINY,
        origin=Origin(model="tiny", weights="made by hand", parameters=13, macs=12288),
        precision="int8",
        target="orin-nano@6.2",
        opset=18,
        variants={name: f"model.{name}.onnx" for name in tiny_models},
        golden=Golden(
            source="made by hand",
            samples=2,
            mean_abs_tolerance={"fp32": 1e-4, "fp16": 2e-4, "int8": 1e-2},
        ),
        versions={},
    )
    files = {f"model.{name}.onnx": data for name, data in tiny_models.items()}
    return write_bundle(tmp_path / "tiny", manifest, {**files, GOLDEN_NAME: buffer.getvalue()})


@pytest.fixture
def fake_tensorrt(monkeypatch: pytest.MonkeyPatch) -> Callable[..., ModuleType]:
    """``fake_tensorrt(version, gpu)`` makes ``import tensorrt`` find a fake for one test."""

    def install(version: str = "10.3", gpu: Gpu | None = ORIN) -> ModuleType:
        module = make_tensorrt(version, gpu)
        monkeypatch.setitem(sys.modules, "tensorrt", module)
        return module

    return install


@pytest.fixture
def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., FakeCuda]]:
    """``fake_cuda(integrated=True, ...)`` makes ``Cuda.load()`` give one fake; no leak passes."""
    made: list[FakeCuda] = []

    def install(**options: object) -> FakeCuda:
        made.append(FakeCuda(**options))  # type: ignore[arg-type]
        monkeypatch.setattr(cuda.Cuda, "load", lambda: made[-1])
        monkeypatch.setattr(cuda, "missing_gpu", lambda: "")
        return made[-1]

    yield install
    for one in made:
        one.close()


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """A folder of three stored RGB-D pairs with masks and meta.json, drawn by the demo source."""
    folder = tmp_path / "pairs"
    for name in ("rgb", "depth", "gt"):
        (folder / name).mkdir(parents=True)
    for frame in DemoSource(frames=3, seed=7, width=64, height=48).frames():
        cv2.imwrite(str(folder / "rgb" / f"{frame.number}.png"), frame.rgb[..., ::-1])
        cv2.imwrite(str(folder / "depth" / f"{frame.number}.png"), frame.depth)
        mask = np.asarray(frame.mask, np.uint8) * 255
        cv2.imwrite(str(folder / "gt" / f"{frame.number}.png"), mask)
    meta = {
        "depth": {
            "dtype": "uint16",
            "unit": "mm",
            "scale_to_m": 0.001,
            "larger_is": "farther",
            "invalid": 0,
        }
    }
    (folder / "meta.json").write_text(json.dumps(meta))
    return folder
