"""Measures that depend on where an error lies: weighted F-measure and boundary F-measure.

The weighted F-measure (Margolin et al., CVPR 2014) lets an error inside the object be forgiven
where its surroundings are right, and makes an error off the object cost more the farther out it is.
The boundary F-measure (Martin et al., PAMI 2004, with the tolerance of Perazzi et al., CVPR 2016)
asks how much of the outline lies where the object's does.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.float64]
Mask = NDArray[np.bool_]

_EPS = float(np.spacing(1.0))
_REACH = 3  # half of the 7 by 7 window that errors are smoothed over
_SIGMA = 5.0
_HALF_LIFE = 5.0  # pixels over which the further weight of an error off the object halves
_TOLERANCE = 0.008  # of the image's diagonal

_STEPS = np.arange(-_REACH, _REACH + 1)
_BELL = np.exp(-(_STEPS**2) / (2 * _SIGMA**2))
_BELL /= _BELL.sum()

#: Steps to what may be the nearest object pixel of one within reach of the window: nearest first;
#: of equal ones the leftmost, then the uppermost, as the reference implementation decides.
_NEAREST_FIRST = sorted(
    (
        (dy, dx)
        for dy in range(-_REACH - 1, _REACH + 2)
        for dx in range(-_REACH - 1, _REACH + 2)
        if 0 < dy**2 + dx**2 <= 2 * _REACH**2
    ),
    key=lambda step: (step[0] ** 2 + step[1] ** 2, step[1], step[0]),
)


@dataclass(frozen=True, slots=True, eq=False)
class Contour:
    """What both measures need of a mask; made by :func:`contour_of`.

    Attributes:
        mask: (H, W) bool.
        weights: (H, W) float64, 1..2: what an error costs there; 1 on the object.
        window: Rows and columns of the object and all that is smoothed with it.
        edge: Flat indices, in the window, of what lies just off the object.
        nearest: The object's pixel nearest to each of them, likewise.
        outline: (H, W) bool.
        near_outline: (H, W) bool, within the tolerance of it.
    """

    mask: Mask
    weights: Plane
    window: tuple[slice, slice]
    edge: NDArray[np.intp]
    nearest: NDArray[np.intp]
    outline: Mask
    near_outline: Mask

    def weighted_f(self, levels: NDArray[np.uint8], values: Plane) -> float:
        """Weighted F-measure with beta 1.

        Args:
            levels: (H, W) uint8, the map.
            values: (256,) float64, what a level counts: 0..1.

        Returns:
            0..1; 0 where the mask is empty.
        """
        if self.edge.size == 0 and not self.mask.any():
            return 0.0
        mask = self.mask[self.window]
        missing = 1 - values[levels[self.window]]
        smooth = np.where(mask, missing, 0).ravel()
        smooth[self.edge] = smooth[self.nearest]
        smooth = cv2.sepFilter2D(
            smooth.reshape(mask.shape), cv2.CV_64F, _BELL, _BELL, borderType=cv2.BORDER_CONSTANT
        )
        n_true = float(np.count_nonzero(mask))
        missed = float(np.minimum(missing, smooth)[mask].sum())
        # Weights by level: the map's protocol only changes what each level counts.
        off = ~self.mask
        alarms = float(np.bincount(levels[off], self.weights[off], 256) @ values)
        recall = 1 - missed / n_true
        precision = (n_true - missed) / (n_true - missed + alarms + _EPS)
        return 2 * recall * precision / (recall + precision + _EPS)

    def boundary_f(self, found: Mask) -> float:
        """F-measure of the outline of what was found, within 0.8 % of the image's diagonal.

        Args:
            found: (H, W) bool.

        Returns:
            0..1.  The image's own edge is no outline: where neither has one, 1 if both are alike
            and 0 if not; where one has none, 0.
        """
        ours, theirs = outline(found), self.outline
        if not (ours.any() and theirs.any()):
            return float(np.array_equal(found, self.mask))
        precision = float(np.mean(self.near_outline[ours]))
        recall = float(np.mean(_around(ours)[theirs]))
        both = precision + recall
        return 2 * precision * recall / both if both else 0.0


def contour_of(mask: Mask) -> Contour:
    """Prepare a mask for both measures.

    Args:
        mask: (H, W) bool, True where the object is.

    Example:
        >>> contour = contour_of(np.eye(8, dtype=bool))
        >>> contour.boundary_f(np.eye(8, dtype=bool))
        1.0
    """
    edge = outline(mask)
    outlines = (edge, _around(edge))
    if not mask.any():
        nothing = np.empty(0, np.intp)
        return Contour(mask, np.ones(mask.shape), (slice(0), slice(0)), nothing, nothing, *outlines)
    squared = np.rint(_distance(mask).astype(np.float64) ** 2)  # exact again
    weights = 2 - np.exp(np.log(0.5) / _HALF_LIFE * np.sqrt(squared))
    weights[mask] = 1
    window = _window(mask)
    return Contour(mask, weights, window, *_nearest(mask[window]), *outlines)


def outline(shape: Mask) -> Mask:
    """A shape's own pixels that touch what is not of it, by a side; (H, W) bool."""
    plain = shape.view(np.uint8)
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    return np.asarray(plain > cv2.erode(plain, cross))  # beyond the image counts as object


def _around(lines: Mask) -> Mask:
    """What lies within the tolerance of lines: 0.8 % of the diagonal, rounded up."""
    reach = int(np.ceil(_TOLERANCE * np.hypot(*lines.shape)))
    y, x = np.ogrid[-reach : reach + 1, -reach : reach + 1]
    disc = (y**2 + x**2 <= reach**2).astype(np.uint8)
    return np.asarray(cv2.dilate(lines.view(np.uint8), disc)).view(np.bool_)


def _distance(shape: Mask) -> NDArray[np.float32]:
    """How far every pixel is from a shape."""
    return np.asarray(
        cv2.distanceTransform((~shape).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    )


def _window(mask: Mask) -> tuple[slice, slice]:
    spans = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    rows, columns = (slice(max(s[0] - _REACH, 0), s[-1] + _REACH + 1) for s in spans)
    return rows, columns


def _nearest(mask: Mask) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """What lies off the object but within reach of it, and the object's pixel nearest to it.

    Only there do errors leak into the object when they are smoothed.
    """
    side = 2 * _REACH + 1
    near = cv2.dilate(mask.view(np.uint8), np.ones((side, side), np.uint8)).view(np.bool_)
    rows, columns = np.nonzero(near & ~mask)
    sources = np.full(len(rows), -1, np.intp)
    room = _REACH + 1
    padded = np.pad(mask, room)
    open_ = np.arange(len(rows))
    for dy, dx in _NEAREST_FIRST:
        y, x = rows[open_] + dy, columns[open_] + dx
        hit = padded[y + room, x + room]
        sources[open_[hit]] = y[hit] * mask.shape[1] + x[hit]
        open_ = open_[~hit]
        if not open_.size:
            break
    return rows * mask.shape[1] + columns, sources
