"""The port every inference backend fits, and the one door to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_fusion.errors import MissingDependencyError, SessionError

if TYPE_CHECKING:
    from edge_fusion.bundle import Bundle

Tensors = dict[str, NDArray[np.float32]]


class Session(Protocol):
    """A model ready to run: ``run`` and ``close``, and nothing else."""

    def run(self, inputs: Mapping[str, NDArray[np.float32]]) -> Tensors:
        """Run the model once.

        Args:
            inputs: Every input by name, float32, in the shape the model was built for.

        Returns:
            Every output by name, float32.

        Raises:
            SessionError: An input is missing, or has another shape or dtype.
        """
        ...

    def close(self) -> None:
        """Free what the session holds; a closed session refuses to run."""
        ...


def open_session(bundle: Bundle, variant: str = "int8", backend: str = "ort") -> Session:
    """Open one variant of a bundle on a backend.

    Args:
        bundle: The bundle.
        variant: ``fp32`` or ``int8``; must be among ``bundle.variants``.
        backend: ``ort``: ONNX Runtime on the CPU.

    Raises:
        SessionError: The backend is unknown, or refused the model.
        BundleError: The bundle has no such variant.
        MissingDependencyError: The backend's package is not installed.
    """
    try:
        opener = BACKENDS[backend]
    except KeyError:
        raise SessionError(
            "no such backend", expected=" or ".join(sorted(BACKENDS)), got=repr(backend)
        ) from None
    return opener(bundle.model_bytes(variant))


def _open_ort(model: bytes) -> Session:
    try:
        from .ort import OrtSession
    except ImportError as err:
        raise MissingDependencyError(
            "onnxruntime", needed_for="running on the CPU", extra="ort"
        ) from err
    return OrtSession(model)


BACKENDS: dict[str, Callable[[bytes], Session]] = {"ort": _open_ort}
