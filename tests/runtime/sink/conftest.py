from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_fusion.frame import RgbdFrame
from edge_fusion.spec import DepthSpec

Result = tuple[RgbdFrame, NDArray[np.float32]]


@pytest.fixture
def result() -> Callable[..., Result]:
    """Makes a frame, a bright square on grey that wanders with its number, and its saliency."""

    def make(
        number: int = 0,
        *,
        frame_id: str | None = None,
        size: tuple[int, int] = (48, 64),
        arrival_ns: int = 0,
    ) -> Result:
        rgb = np.full((*size, 3), 90, np.uint8)
        saliency = np.zeros(size, np.float32)
        left = number % (size[1] - 16)
        rgb[16:32, left : left + 16] = (230, 120, 40)
        saliency[16:32, left : left + 16] = 1
        depth = np.where(saliency > 0, 600, 1200).astype(np.uint16)
        spec = DepthSpec(scale_to_m=0.001)
        name = f"f{number}" if frame_id is None else frame_id
        return RgbdFrame(rgb, depth, spec, name, number, arrival_ns=arrival_ns), saliency

    return make
