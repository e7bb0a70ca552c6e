"""One RGB-D pair as a source delivers it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_fusion.errors import FrameError
from edge_fusion.spec import DepthSpec

DEPTH_DTYPES = (np.uint8, np.uint16, np.float32)
SHORTEST_PLAUSIBLE_RANGE_M = 0.3


@dataclass(frozen=True, slots=True)
class Intrinsics:
    """A pinhole camera in pixels: focal lengths and principal point."""

    fx: float
    fy: float
    cx: float
    cy: float


@dataclass(frozen=True, slots=True, eq=False)
class RgbdFrame:
    """One colour image and the depth registered to it.

    Attributes:
        rgb: (H, W, 3) uint8, red first, 0..255.
        depth: (H, W) uint8, uint16 or float32 in the source's own unit; see ``depth_spec``.
        depth_spec: Unit, polarity and invalid value of ``depth``.
        id: Name of the pair inside its source, for messages and file names.
        number: Frame number, counting from 0.
        timestamp_ns: The device's time of the pair in nanoseconds; 0 where it has none.
        arrival_ns: ``time.monotonic_ns()`` when the pair reached us; 0 for stored pairs.
        mask: (H, W) bool ground truth, or None.
        intrinsics: The colour camera, or None where unknown.
        mask_grey: Share of the mask's pixels that were stored as grey and cut at half, 0..1.

    Raises:
        FrameError: Arrays of the wrong shape or dtype, streams of different size, or an 8-bit
            depth whose declared unit cannot span a scene.
    """

    rgb: NDArray[np.uint8]
    depth: NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.float32]
    depth_spec: DepthSpec
    id: str
    number: int = 0
    timestamp_ns: int = 0
    arrival_ns: int = 0
    mask: NDArray[np.bool_] | None = field(default=None)
    intrinsics: Intrinsics | None = None
    mask_grey: float = 0.0

    def __post_init__(self) -> None:
        if self.rgb.ndim != 3 or self.rgb.shape[2] != 3 or self.rgb.dtype != np.uint8:
            raise FrameError(
                f"colour of '{self.id}'",
                expected="(H, W, 3) uint8",
                got=f"{self.rgb.shape} {self.rgb.dtype}",
                cure="are the two streams swapped?",
            )
        if self.depth.ndim != 2 or self.depth.dtype not in DEPTH_DTYPES:
            raise FrameError(
                f"depth of '{self.id}'",
                expected="(H, W) uint8, uint16 or float32",
                got=f"{self.depth.shape} {self.depth.dtype}",
                cure="are the two streams swapped?",
            )
        for name, plane in (("depth", self.depth), ("mask", self.mask)):
            if plane is not None and plane.shape != self.rgb.shape[:2]:
                raise FrameError(
                    f"{name} of '{self.id}' does not fit its colour image",
                    expected=f"{self.rgb.shape[1]}x{self.rgb.shape[0]} pixels",
                    got=f"{plane.shape[1]}x{plane.shape[0]}",
                    cure="register depth to colour first; both must show the same pixels",
                )
        self._check_unit()

    def _check_unit(self) -> None:
        scale = self.depth_spec.scale_to_m
        if scale is not None and self.depth.dtype == np.uint8:
            reach_m = 255 * scale
            if reach_m < SHORTEST_PLAUSIBLE_RANGE_M:
                raise FrameError(
                    f"depth of '{self.id}' is 8-bit but declared as {scale:g} m per unit",
                    expected="depth that can span a scene",
                    got=f"a largest possible distance of {reach_m:.3f} m",
                    cure="8-bit depth is usually relative: declare unit=relative and larger_is",
                )

    @property
    def valid(self) -> NDArray[np.bool_]:
        """(H, W) bool: where there is a depth reading."""
        return valid_depth(self.depth, self.depth_spec)


def valid_depth(depth: NDArray[Any], spec: DepthSpec) -> NDArray[np.bool_]:
    """Where ``depth`` holds a reading: finite, not ``spec.invalid``, and positive if metric."""
    valid: NDArray[np.bool_] = depth > 0 if spec.metric else np.ones(depth.shape, np.bool_)
    if spec.invalid is not None and not (spec.metric and spec.invalid == 0):
        valid &= depth != spec.invalid
    if depth.dtype.kind == "f":
        valid &= np.isfinite(depth)
    return valid
