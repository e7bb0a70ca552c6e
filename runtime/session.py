"""The port every inference backend fits, and the one door to it."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_fusion.engine import ENGINE_PRECISIONS, find_engine
from edge_fusion.errors import BundleError, MissingDependencyError, SessionError

if TYPE_CHECKING:
    from edge_fusion.bundle import Bundle

Tensors = dict[str, NDArray[np.float32]]

#: FP16 is a way to compute the FP32 graph: no file of its own is there for ONNX Runtime.
_ENGINES_ALONE = ("fp16",)


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


@dataclass(frozen=True, slots=True)
class Execution:
    """How a session runs its engine.

    Attributes:
        launch: ``graph``: one CUDA graph for a frame; ``enqueue``: each piece of work by itself,
            which costs more CPU time.
        memory: ``unified``: host and device share the buffers; ``copied``: a discrete GPU.
        reason: Why there is no graph; empty where there is one.
        tensorrt: Version of TensorRT.
        device: Name of the GPU.
        plan_bytes: Size of the engine.
    """

    launch: Literal["graph", "enqueue"]
    memory: Literal["unified", "copied"]
    reason: str
    tensorrt: str
    device: str
    plan_bytes: int

    @property
    def text(self) -> str:
        """The same in words, for reports."""
        launch = "CUDA graph" if self.launch == "graph" else f"no CUDA graph ({self.reason})"
        return f"TensorRT {self.tensorrt} on {self.device}, {launch}, {self.memory} memory"


def execution_of(session: Session) -> Execution | None:
    """How a session runs its engine; None where it has none, as on ONNX Runtime."""
    found = getattr(session, "execution", None)
    return found if isinstance(found, Execution) else None


def open_session(bundle: Bundle, variant: str = "int8", backend: str = "auto") -> Session:
    """Open one variant of a bundle on a backend.

    Args:
        bundle: The bundle.
        variant: ``fp32`` or ``int8``; on ``trt`` also ``fp16``.
        backend: ``trt``: the engine that was built on this device, on TensorRT.  ``ort``: ONNX
            Runtime on the CPU.  ``auto``: see :func:`choose_backend`.

    Raises:
        SessionError: The backend is unknown, refused the model, or does not work here.
        BundleError: The bundle has no such variant.
        EngineError: On ``trt``, no engine of it belongs to this device; says what to run.
        MissingDependencyError: The backend's package is not installed.
    """
    return BACKENDS[choose_backend(bundle, variant, backend)](bundle, variant)


def choose_backend(bundle: Bundle, variant: str, backend: str) -> str:
    """The backend that :func:`open_session` uses, to be shown and recorded.

    Args:
        bundle: The bundle.
        variant: The variant that is to run.
        backend: A key of :data:`BACKENDS`, which is taken as it is; or ``auto``: ``trt`` where
            there are a GPU and TensorRT, whether the engine is there or not, else ``ort``.

    Raises:
        SessionError: The backend is unknown, or CUDA is there but does not work.
        BundleError: It came to ``ort``, and the variant exists as an engine alone.
    """
    if backend not in ("auto", *BACKENDS):
        raise SessionError(
            "no such backend",
            expected=" or ".join(sorted([*BACKENDS, "auto"])),
            got=repr(backend),
            cure="'edge-fusion doctor' tells which of them work here",
        )
    missing = missing_for_engines() if backend == "auto" else ""
    chosen = backend if backend != "auto" else "ort" if missing else "trt"
    if chosen == "ort" and variant in _ENGINES_ALONE:
        raise BundleError(
            f"'{variant}' of bundle {bundle.path} can only run as a TensorRT engine",
            expected=f"{' or '.join(bundle.variants)} on ONNX Runtime",
            got=missing or f"'{variant}'",
            cure="name one of these, or --backend trt on a device where its engine was built",
        )
    return chosen


def missing_for_engines() -> str:
    """What this machine lacks to build and run engines; empty where it lacks nothing.

    Nothing is loaded but the CUDA runtime, so that a TensorRT that is there but does not import
    is found where it is used.

    Raises:
        SessionError: CUDA is there but does not work.

    Example:
        >>> missing_for_engines()  # doctest: +SKIP
        'no CUDA driver on this machine'
    """
    if importlib.util.find_spec("tensorrt") is None:
        return "no TensorRT for this Python"
    from .cuda import missing_gpu

    return missing_gpu()


def _open_ort(bundle: Bundle, variant: str) -> Session:
    try:
        from .ort import OrtSession
    except ImportError as err:
        raise MissingDependencyError(
            "onnxruntime", needed_for="running on the CPU", extra="ort"
        ) from err
    return OrtSession(bundle.model_bytes(variant))


def _open_trt(bundle: Bundle, variant: str) -> Session:
    from edge_fusion.board import probe_board

    from .cuda import Cuda
    from .trt import TrtSession
    from .trt_api import load_tensorrt, this_device

    precision = next((one for one in ENGINE_PRECISIONS if one == variant), None)
    if precision is None:
        raise BundleError(
            f"no engine can be of variant '{variant}'",
            expected=" or ".join(ENGINE_PRECISIONS),
            cure="name one of these",
        )
    api, cuda = load_tensorrt(), Cuda.load()
    engine = find_engine(bundle, precision, this_device(api, cuda, probe_board()))
    return TrtSession(engine.plan, bundle.manifest.model, cuda, api)


BACKENDS: dict[str, Callable[[Bundle, str], Session]] = {"ort": _open_ort, "trt": _open_trt}
