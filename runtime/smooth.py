"""Smoothing saliency over time: calmer masks, at the price of following what moves later."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_fusion.errors import InputError

_LONGEST_GAP_NS = 1_000_000_000  # after a longer one the last map says nothing about this one


class Smoother:
    """Exponential smoothing of saliency maps at the model's own size.

    ``m_t = weight * m_(t-1) + (1 - weight) * s_t``; it starts afresh after a second without a map
    and where time runs backwards, as in a recording that starts over.

    Args:
        weight: Share of the past, 0 (none) up to but without 1.

    Raises:
        InputError: The weight is out of range.

    Example:
        >>> smoother = Smoother(0.5)
        >>> ones, zeros = np.ones((1, 1), np.float32), np.zeros((1, 1), np.float32)
        >>> [float(smoother(plane, at)[0, 0]) for at, plane in enumerate((ones, zeros, zeros))]
        [1.0, 0.5, 0.25]
    """

    def __init__(self, weight: float) -> None:
        if not 0 <= weight < 1:
            raise InputError("weight of the smoothing", expected="0 up to 1", got=f"{weight:g}")
        self._weight = np.float32(weight)
        self._past: NDArray[np.float32] | None = None
        self._at_ns = 0

    def __call__(self, plane: NDArray[np.float32], at_ns: int) -> NDArray[np.float32]:
        """The smoothed map.

        Args:
            plane: (h, w) float32, of every frame in order.
            at_ns: When it was taken; any clock, in nanoseconds.
        """
        gap_ns, self._at_ns = at_ns - self._at_ns, at_ns
        past = self._past
        if past is None or past.shape != plane.shape or not 0 <= gap_ns <= _LONGEST_GAP_NS:
            self._past = plane
        else:
            self._past = self._weight * past + (np.float32(1) - self._weight) * plane
        return self._past
