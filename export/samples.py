"""What calibration samples must look like."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_fusion.errors import CalibrationError, EdgeFusionError
from edge_fusion.runtime.ort import check_inputs
from edge_fusion.spec import ModelSpec, TensorSpec

Sample = Mapping[str, NDArray[np.float32]]

_SLACK = 0.01  # of the 0..1 range before mean and std
_FLAT = 2e-3  # standard deviation of a set in 0..1 that shows nothing; 8-bit steps are 4e-3
_FAR_FROM_UNIT = -0.5  # a record whose smallest value is below this does not take plain 0..1


@dataclass(slots=True)
class _Pool:
    """Extremes and moments of one input over all samples, per channel."""

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    total: NDArray[np.float64]
    squares: NDArray[np.float64]
    count: int = 0

    @classmethod
    def empty(cls, channels: int) -> _Pool:
        return cls(
            np.full(channels, np.inf),
            np.full(channels, -np.inf),
            np.zeros(channels),
            np.zeros(channels),
        )

    def add(self, value: NDArray[np.float32]) -> None:
        wide = value.astype(np.float64)
        axes = (0, 2, 3)
        self.low = np.minimum(self.low, wide.min(axes))
        self.high = np.maximum(self.high, wide.max(axes))
        self.total += wide.sum(axes)
        self.squares += np.square(wide).sum(axes)
        self.count += wide[:, 0].size

    def std(self) -> NDArray[np.float64]:
        mean = self.total / self.count
        spread: NDArray[np.float64] = np.sqrt(
            np.maximum(self.squares / self.count - mean * mean, 0)
        )
        return spread


def check_samples(samples: Iterable[Sample], spec: ModelSpec) -> int:
    """Hold calibration samples against what the model takes.

    Wrong normalisation is the mistake that ruins a quantized model without any message (measured:
    IoU 0.84 to 0.03), so the values are judged too, pooled over the set.

    Args:
        samples: Inputs by name.
        spec: The model's input record.

    Returns:
        How many samples there are.

    Raises:
        CalibrationError: There is none; one has other names, shapes or dtypes, or a value that is
            not finite; or the set is not normalised as ``spec`` says.

    Example:
        >>> from edge_fusion.preprocess import prepare
        >>> from edge_fusion.runtime.source.demo import DemoSource
        >>> spec = ModelSpec(name="mine")
        >>> check_samples([prepare(DemoSource(frames=1)[0], spec)], spec)
        1
    """
    pools = {tensor.name: _Pool.empty(tensor.shape[1]) for tensor in spec.inputs}
    count = 0
    for count, sample in enumerate(samples, 1):
        _check_sample(sample, spec.inputs, f"calibration sample {count - 1}")
        for name, pool in pools.items():
            pool.add(sample[name])
    if not count:
        raise CalibrationError(
            "the calibration set is empty",
            expected="at least one prepared RGB-D pair",
            cure="collect some: a few dozen frames of the scenes the model will see",
        )
    colour = (np.asarray(spec.rgb.mean), np.asarray(spec.rgb.std))
    depth = (np.full(spec.depth.channels, spec.depth.mean), np.full(1, spec.depth.std))
    for name, (mean, std) in {spec.rgb.name: colour, spec.depth.name: depth}.items():
        _check_normalised(name, pools[name], mean, std)
    return count


def _check_sample(sample: Sample, tensors: Sequence[TensorSpec], label: str) -> None:
    try:
        check_inputs(sample, tensors)
    except EdgeFusionError as err:
        raise CalibrationError(f"{label}: {err}") from err
    for name, value in sample.items():
        bad = int(value.size - np.isfinite(value).sum())
        if bad:
            raise CalibrationError(
                f"{label}: input '{name}'",
                expected="finite values",
                got=f"{bad} that are NaN or infinite",
                cure="fill depth holes before calibrating: edge_fusion.preprocess.prepare does",
            )


def _check_normalised(
    name: str, pool: _Pool, mean: NDArray[np.float64], std: NDArray[np.float64]
) -> None:
    """Undo the record's normalisation: what comes out must look like pictures in 0..1."""
    low, high = pool.low * std + mean, pool.high * std + mean
    expected = _interval((0 - mean) / std, (1 - mean) / std)
    got = _interval(pool.low, pool.high)
    cure = "prepare frames with edge_fusion.preprocess.prepare, or correct mean and std of '{}'"
    if low.min() < -_SLACK or high.max() > 1 + _SLACK:
        raise CalibrationError(
            f"calibration input '{name}' is not normalised as the input record says",
            expected=f"values in {expected}",
            got=f"{got}{_guess(pool)}",
            cure=cure.format(name),
        )
    unit = pool.low.min() >= -_SLACK and pool.high.max() <= 1 + _SLACK
    if unit and ((0 - mean) / std).min() < _FAR_FROM_UNIT:
        raise CalibrationError(
            f"calibration input '{name}' looks like plain 0..1 values",
            expected=f"mean and std applied, values spread over {expected}",
            got=got,
            cure=cure.format(name),
        )
    spread = (pool.std() * std).max()
    if spread < _FLAT:
        raise CalibrationError(
            f"calibration input '{name}' is almost constant over the whole set",
            expected=f"values spread over {expected}",
            got=f"{got}, standard deviation {spread:.2g} of the 0..1 range",
            cure="was the sensor covered, or the input divided by 255 twice?",
        )


def _interval(low: NDArray[np.float64], high: NDArray[np.float64]) -> str:
    return f"[{low.min():.4g}, {high.max():.4g}]"


def _guess(pool: _Pool) -> str:
    """What values outside the range most likely are."""
    low, high = pool.low.min(), pool.high.max()
    if low >= 0 and 2 < high <= 255:
        return ", which looks like raw 8-bit values"
    if low >= 0 and high > 255:
        return ", which looks like raw depth or 16-bit values"
    return ""
