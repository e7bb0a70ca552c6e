from __future__ import annotations

import numpy as np
import pytest

from edge_fusion.errors import FrameError
from edge_fusion.frame import RgbdFrame, valid_depth
from edge_fusion.spec import DepthSpec

MILLIMETRES = DepthSpec(scale_to_m=0.001)
RGB = np.zeros((4, 6, 3), np.uint8)
DEPTH = np.ones((4, 6), np.uint16)


@pytest.mark.parametrize(
    ("rgb", "depth", "mask", "complaint"),
    [
        (RGB, np.ones((4, 5), np.uint16), None, "depth of 'a' does not fit.*6x4.*5x4"),
        (RGB, DEPTH, np.ones((3, 6), np.bool_), "mask of 'a' does not fit"),
        (RGB.astype(np.uint16), DEPTH, None, "colour of 'a'.*uint16.*streams swapped"),
        (RGB[..., 0], DEPTH, None, "colour of 'a'.*streams swapped"),
        (RGB, RGB, None, "depth of 'a'.*streams swapped"),
        (RGB, DEPTH.astype(np.float64), None, "float64"),
        (RGB, DEPTH.astype(np.uint8), None, "8-bit but declared as 0.001 m.*0.255 m.*relative"),
    ],
)
def test_unusable_pairs_are_refused(
    rgb: np.ndarray, depth: np.ndarray, mask: np.ndarray | None, complaint: str
) -> None:
    with pytest.raises(FrameError, match=complaint):
        RgbdFrame(rgb, depth, MILLIMETRES, "a", mask=mask)


def test_8_bit_relative_depth_is_fine() -> None:
    RgbdFrame(RGB, DEPTH.astype(np.uint8), DepthSpec(scale_to_m=None, larger_is="nearer"), "a")


@pytest.mark.parametrize(
    ("depth", "spec", "expected"),
    [
        # zero is the default "no reading"
        (np.array([[0, 5]], np.uint16), MILLIMETRES, [[False, True]]),
        # another marker; zero is still no distance in metres
        (
            np.array([[0, 5, 65535]], np.uint16),
            DepthSpec(scale_to_m=0.001, invalid=65535),
            [[0, 1, 0]],
        ),
        # relative depth may be zero
        (np.array([[0, 5]], np.uint8), DepthSpec(scale_to_m=None, invalid=None), [[1, 1]]),
        # NaN and infinity are never readings
        (np.array([[np.nan, np.inf, 1]], np.float32), DepthSpec(scale_to_m=1.0), [[0, 0, 1]]),
    ],
)
def test_valid_depth(depth: np.ndarray, spec: DepthSpec, expected: list[list[int]]) -> None:
    np.testing.assert_array_equal(valid_depth(depth, spec), np.array(expected, np.bool_))
