"""What is handed to a model, held against what it takes: the same words on every backend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from edge_fusion.errors import SessionError
from edge_fusion.spec import TensorSpec


def check_inputs(inputs: Mapping[str, NDArray[np.float32]], specs: Sequence[TensorSpec]) -> None:
    """Hold tensors against what a model takes: names, shapes and dtypes, not values.

    Args:
        inputs: Tensors by name.
        specs: What the model takes.

    Raises:
        SessionError: An input is missing, unknown, or of another shape or dtype.

    Example:
        >>> check_inputs({"x": np.zeros((1, 2), np.float32)}, [TensorSpec(name="x", shape=(1, 2))])
    """
    names = [spec.name for spec in specs]
    unknown = sorted(set(inputs) - set(names))
    if unknown:
        raise SessionError(
            f"the model has no input {_quoted(unknown)}",
            expected=_quoted(names),
            got=_quoted(inputs),
        )
    for spec in specs:
        wanted = f"{spec.shape} {spec.dtype}"
        if spec.name not in inputs:
            raise SessionError(
                f"input '{spec.name}' is missing", expected=wanted, got=f"only {_quoted(inputs)}"
            )
        value = inputs[spec.name]
        found = (value.shape, str(value.dtype)) if isinstance(value, np.ndarray) else None
        if found != (spec.shape, spec.dtype):
            raise SessionError(
                f"input '{spec.name}'",
                expected=wanted,
                got=f"{found[0]} {found[1]}" if found else type(value).__name__,
                cure=_cure(spec, value),
            )


def _cure(spec: TensorSpec, value: object) -> str:
    """What to do about an array that does not fit ``spec``."""
    if not isinstance(value, np.ndarray):
        return "pass a numpy array"
    if value.shape == spec.shape:
        return f"convert it with .astype('{spec.dtype}')"
    if value.shape == (*spec.shape[:1], *spec.shape[2:]):
        return "add a channel axis: value[:, None]"
    if value.shape == spec.shape[1:]:
        return "add a batch axis in front: value[None]"
    if value.ndim == 4 and (value.shape[0], value.shape[3], *value.shape[1:3]) == spec.shape:
        return "channels come first: value.transpose(0, 3, 1, 2)"
    return "prepare frames with edge_fusion.preprocess.prepare"


def _quoted(names: Sequence[str] | Mapping[str, object]) -> str:
    return ", ".join(f"'{name}'" for name in names) or "nothing"
