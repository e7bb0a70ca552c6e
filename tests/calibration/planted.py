"""Folders of pairs with a fault of somebody's choice, and clean ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from edge_fusion.frame import RgbdFrame
from edge_fusion.runtime.source.demo import DemoSource

COUNT = 16
#: As many different scenes as a set should have at least, small and quickly drawn.
CLEAN = f"demo://?frames={COUNT}&size=96x72&cut=1&seed=3"

Plant = Callable[[int, RgbdFrame], RgbdFrame]


@cache
def scenes(count: int = COUNT, seed: int = 3) -> tuple[RgbdFrame, ...]:
    return tuple(DemoSource(frames=count, seed=seed, width=96, height=72, cut=1).frames())


def write_pairs(
    folder: Path, frames: Iterable[RgbdFrame], *, plant: Plant | None = None, **meta: Any
) -> Path:
    """Write pairs as a user would, with a fault planted into each; ``meta`` changes meta.json."""
    for part in ("rgb", "depth"):
        (folder / part).mkdir(parents=True)
    frame = None
    for index, clean in enumerate(frames):
        frame = plant(index, clean) if plant else clean
        cv2.imwrite(str(folder / "rgb" / f"{index:03}.png"), frame.rgb[..., ::-1])
        if frame.depth.dtype == np.float32:
            np.save(folder / "depth" / f"{index:03}.npy", frame.depth)
        else:
            cv2.imwrite(str(folder / "depth" / f"{index:03}.png"), frame.depth)
    assert frame is not None
    fields = {"depth": frame.depth_spec.model_dump(mode="json"), **meta}
    (folder / "meta.json").write_text(json.dumps(fields))
    return folder


def only(*indices: int) -> Callable[[Plant], Plant]:
    """A fault in some pairs alone."""

    def of(plant: Plant) -> Plant:
        return lambda index, frame: plant(index, frame) if index in indices else frame

    return of


def with_rgb(value: Any) -> Plant:
    return lambda index, frame: replace(
        frame, rgb=np.ascontiguousarray(np.broadcast_to(value, frame.rgb.shape).astype(np.uint8))
    )


def with_depth(change: Callable[[Any], Any]) -> Plant:
    return lambda index, frame: replace(frame, depth=change(frame.depth))
