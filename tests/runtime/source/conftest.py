"""Small sets of pairs on disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

METRIC = {"unit": "mm", "scale_to_m": 0.001, "larger_is": "farther", "invalid": 0}

MakeSet = Callable[..., Path]


def save(path: Path, image: NDArray[Any]) -> Path:
    """Write an array as the image its suffix names, or as .npy."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, image)
    else:
        done, content = cv2.imencode(path.suffix, image)
        assert done
        path.write_bytes(content.tobytes())
    return path


def colour(height: int = 24, width: int = 32) -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)


def depth(height: int = 24, width: int = 32) -> NDArray[np.uint16]:
    return np.random.default_rng(2).integers(400, 4000, (height, width)).astype(np.uint16)


def mask(height: int = 24, width: int = 32) -> NDArray[np.uint8]:
    plane = np.zeros((height, width), np.uint8)
    plane[4:12, 8:20] = 255
    return plane


@pytest.fixture
def make_set(tmp_path: Path) -> MakeSet:
    """``make_set(ids=("a", "b"), masks=True, meta=METRIC)`` writes a set and returns its folder."""

    def make(ids: tuple[str, ...] = ("a", "b"), masks: bool = True, meta: object = METRIC) -> Path:
        folder = tmp_path / "set"
        for name in ids:
            save(folder / "rgb" / f"{name}.png", colour()[..., ::-1])
            save(folder / "depth" / f"{name}.png", depth())
            if masks:
                save(folder / "gt" / f"{name}.png", mask())
        if meta is not None:
            text = meta if isinstance(meta, str) else json.dumps({"depth": meta})
            (folder / "meta.json").write_text(text)
        return folder

    return make
