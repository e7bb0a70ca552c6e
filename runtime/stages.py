"""What the stages of the streaming loop hand on: pairs captured, prepared, and answered."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_fusion.frame import RgbdFrame
from edge_fusion.preprocess import Inputs

from .source.base import Arrival


class Captured(NamedTuple):
    """A pair as it came, not decoded yet."""

    arrival: Arrival
    capture_ns: int
    at_ns: int  # when it was in hand

    @property
    def arrival_ns(self) -> int:
        """When it reached us: by the source, or when it was read."""
        return self.arrival.arrival_ns or self.at_ns


class Prepared(NamedTuple):
    """A pair and what the model takes of it."""

    captured: Captured
    frame: RgbdFrame
    inputs: Inputs
    wait_ns: int
    preprocess_ns: int
    at_ns: int  # when it was ready


class Result(NamedTuple):
    """A pair and what the model said."""

    prepared: Prepared
    plane: NDArray[np.float32]  # at the model's size
    wait_ns: int
    infer_ns: int
    check_ns: int
    at_ns: int  # when it was ready
