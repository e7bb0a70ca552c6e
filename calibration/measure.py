"""A pair in figures: what the checks, the choice and the record of a set judge it by.

Every pair is read once and leaves a record of constant size, so that a set of any length is judged
in bounded memory.
"""

from __future__ import annotations

import hashlib
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_fusion.calibration_file import (
    EDGE_REACH,
    EDGE_WIDTH,
    LATEST_NS,
    NEARNESS_BINS,
    THUMB_SIDE,
    DepthStatistics,
    PairRecord,
    RgbStatistics,
)
from edge_fusion.errors import FrameError
from edge_fusion.frame import RgbdFrame
from edge_fusion.preprocess import normalise_depth
from edge_fusion.spec import DepthInput, Triple

_WIDTH = 256  # pixels at which images are judged
_BLACK, _WHITE = 3, 252  # 8-bit levels no well exposed scene stays beyond
_GREY = 1.5  # 8-bit levels between channels that JPEG gives a grey picture
_HASH_SIDE, _HASHED_SIDE = 8, 32
_ENOUGH = 64  # readings that give a correlation worth the name
_NEARNESS = DepthInput(holes="nearest")

Plane = NDArray[np.float32]


def measure(
    frame: RgbdFrame, *, id: str | None = None, source: int = 0, number: int | None = None
) -> PairRecord:
    """Everything that is recorded of one pair.

    Args:
        frame: The pair.
        id: What it is called in its set; None: as in its source.
        source: Which of the set's sources it comes from.
        number: Its number in that source; None: the frame's own.

    Example:
        >>> from edge_fusion.runtime.source.demo import DemoSource
        >>> pair = measure(DemoSource(frames=1)[0])
        >>> pair.id, pair.depth.invalid < 0.5, len(pair.rgb_hash)
        ('demo-0-00000', True, 16)
    """
    size = (_WIDTH, max(1, round(_WIDTH * frame.rgb.shape[0] / frame.rgb.shape[1])))
    rgb = np.asarray(cv2.resize(frame.rgb, size, interpolation=cv2.INTER_AREA), np.uint8)
    grey = np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), np.uint8)
    depth = cv2.resize(frame.depth, size, interpolation=cv2.INTER_NEAREST)
    nearness = _nearness(frame, depth)
    return PairRecord(
        id=frame.id if id is None else id,
        sha256=frame_sha256(frame),
        width=frame.rgb.shape[1],
        height=frame.rgb.shape[0],
        rgb=_rgb_statistics(rgb, grey),
        depth=_depth_statistics(frame, depth, nearness, grey),
        rgb_hash=perceptual_hash(grey.astype(np.float32)),
        depth_hash=perceptual_hash(np.zeros((1, 1), np.float32) if nearness is None else nearness),
        thumb=np.asarray(
            cv2.resize(grey, (THUMB_SIDE, THUMB_SIDE), interpolation=cv2.INTER_AREA), np.uint8
        )
        .tobytes()
        .hex(),
        edges="" if nearness is None else edge_surface(grey, nearness),
        timestamp_ns=frame.timestamp_ns if 0 <= frame.timestamp_ns <= LATEST_NS else 0,
        source=source,
        source_id=frame.id,
        number=frame.number if number is None else number,
    )


def frame_sha256(frame: RgbdFrame) -> str:
    """The hash of a pair's pixels and of what its depth means; any changed pixel changes it."""
    digest = hashlib.sha256(frame.depth_spec.model_dump_json().encode())
    for plane in (frame.rgb, frame.depth):
        digest.update(f"{plane.shape}{plane.dtype}".encode())
        digest.update(np.ascontiguousarray(plane).data)
    return digest.hexdigest()


def perceptual_hash(plane: Plane) -> str:
    """64 bits that stay nearly the same when a picture is resized, compressed or brightened.

    The signs of the lowest 8x8 cosine coefficients of a 32x32 thumbnail against their median
    (Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010, section
    3.2.1).  OpenCV has it in its contrib modules alone, which no Jetson brings.

    Args:
        plane: (H, W) float32 of any range.

    Returns:
        16 hexadecimal digits.
    """
    side = (_HASHED_SIDE, _HASHED_SIDE)
    thumb = np.asarray(cv2.resize(plane, side, interpolation=cv2.INTER_AREA), np.float32)
    lowest = np.asarray(cv2.dct(thumb))[:_HASH_SIDE, :_HASH_SIDE].ravel()
    # The constant term says how bright it is, and would be above any median.
    bits = np.concatenate(([False], lowest[1:] > np.median(lowest[1:])))
    return np.packbits(bits).tobytes().hex()


def edge_surface(grey: NDArray[np.uint8], nearness: Plane) -> str:
    """How well the edges of depth lie on those of colour, as they are and moved by a little.

    Things end in both pictures at the same place, where depth is registered; one picture proves
    little, the mean over a set finds a shift of ten pixels in 640.

    Args:
        grey: (H, W) uint8, the colour image in grey.
        nearness: (H, W) float32, 0..1.

    Returns:
        As :attr:`PairRecord.edges`.
    """
    size = (EDGE_WIDTH, max(4 * EDGE_REACH, round(EDGE_WIDTH * grey.shape[0] / grey.shape[1])))
    of_colour, of_depth = (
        _edges(np.asarray(cv2.resize(plane, size, interpolation=cv2.INTER_AREA), np.float32))
        for plane in (grey, nearness)
    )
    inner = of_colour[EDGE_REACH:-EDGE_REACH, EDGE_REACH:-EDGE_REACH]
    surface = np.nan_to_num(cv2.matchTemplate(of_depth, inner, cv2.TM_CCOEFF_NORMED))
    return np.round(surface.clip(-1, 1) * 127 + 128).astype(np.uint8).tobytes().hex()


def _edges(plane: Plane) -> Plane:
    """Strength of edges; the strongest count no more than others, or one would be all there is."""
    across, down = (cv2.Sobel(plane, cv2.CV_32F, *order) for order in ((1, 0), (0, 1)))
    strength = np.hypot(across, down)
    return np.asarray(np.minimum(strength, np.percentile(strength, 95)), np.float32)


def detail(plane: Plane) -> float:
    """Mean absolute Laplacian of a plane, in its own steps: how much there is to see in it."""
    return float(np.abs(cv2.Laplacian(plane, cv2.CV_32F)).mean())


def _rgb_statistics(rgb: NDArray[np.uint8], grey: NDArray[np.uint8]) -> RgbStatistics:
    mean, std = cv2.meanStdDev(rgb)
    wide = rgb.astype(np.int16)
    apart = max(float(np.abs(wide[..., 1] - wide[..., channel]).mean()) for channel in (0, 2))
    return RgbStatistics(
        mean=_triple(mean),
        std=_triple(std),
        black=round(float((rgb.max(axis=2) <= _BLACK).mean()), 4),
        white=round(float((rgb.min(axis=2) >= _WHITE).mean()), 4),
        detail=round(detail(grey.astype(np.float32)), 3),
        grey=apart < _GREY,
    )


def _triple(values: Any) -> Triple:
    red, green, blue = (round(float(value) / 255, 4) for value in np.ravel(values))
    return red, green, blue


def _nearness(frame: RgbdFrame, depth: NDArray[Any]) -> Plane | None:
    """Nearness with its holes filled; None where it has none: no reading, or an absurd unit."""
    try:
        return normalise_depth(depth, frame.depth_spec, _NEARNESS)
    except FrameError:
        return None


def _depth_statistics(
    frame: RgbdFrame, depth: NDArray[Any], nearness: Plane | None, grey: NDArray[np.uint8]
) -> DepthStatistics:
    valid = frame.valid
    readings = frame.depth[valid]
    invalid = round(1 - readings.size / valid.size, 4)
    if not readings.size:
        return DepthStatistics(invalid=invalid, levels=0)
    unit = frame.depth_spec.scale_to_m or 1.0
    near, median, far = np.percentile(readings, (1, 50, 99)).tolist()
    seen = _readings_of(frame, depth)
    return DepthStatistics(
        low=_rounded(readings.min() * unit),
        near=_rounded(near * unit),
        median=_rounded(median * unit),
        far=_rounded(far * unit),
        high=_rounded(readings.max() * unit),
        detail=None if nearness is None else round(detail(nearness * np.float32(255)), 3),
        invalid=invalid,
        levels=int(np.unique(depth[seen]).size),
        topmost=round(float((readings == readings.max()).mean()), 4),
        nearness=() if nearness is None else _histogram(nearness[seen]),
        downwards=0.0 if nearness is None else _downwards(nearness, seen),
        like_grey=round(abs(_rank_correlation(depth[seen], grey[seen])), 3),
    )


def _readings_of(frame: RgbdFrame, depth: NDArray[Any]) -> NDArray[np.bool_]:
    """Where the depth at the judged size has readings."""
    small = cv2.resize(
        frame.valid.view(np.uint8), depth.shape[::-1], interpolation=cv2.INTER_NEAREST
    )
    return np.asarray(small, np.bool_)


def _histogram(values: Plane) -> tuple[float, ...]:
    counts, _ = np.histogram(values, bins=NEARNESS_BINS, range=(0, 1))
    return tuple(np.round(counts / max(1, values.size), 4).tolist())


def _downwards(nearness: Plane, seen: NDArray[np.bool_]) -> float:
    rows = np.nonzero(seen)[0]
    return round(_correlation(rows.astype(np.float64), nearness[seen].astype(np.float64)), 3)


def _rank_correlation(one: NDArray[Any], two: NDArray[Any]) -> float:
    """Spearman's: 1 for any rising curve between the two, -1 for any falling one."""
    return _correlation(_ranks(one), _ranks(two))


def _ranks(values: NDArray[Any]) -> NDArray[np.float64]:
    """Ranks; equal values share the middle of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    middles: NDArray[np.float64] = (ends - (counts - 1) / 2)[inverse.ravel()]
    return middles


def _correlation(one: NDArray[np.float64], two: NDArray[np.float64]) -> float:
    if one.size < _ENOUGH or one.std() == 0 or two.std() == 0:
        return 0.0
    return float(np.corrcoef(one, two)[0, 1])


def _rounded(value: float) -> float:
    """Six digits: more than any sensor has."""
    return float(f"{value:.6g}")
