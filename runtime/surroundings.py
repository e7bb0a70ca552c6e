"""What this process has around it: Python, packages, a CUDA device, TensorRT, a bundle."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from edge_fusion.board import BoardState
from edge_fusion.bundle import Bundle
from edge_fusion.engine import (
    ENGINE_PRECISIONS,
    EngineDevice,
    EngineOptions,
    EnginePrecision,
    engine_source,
    find_engine,
)
from edge_fusion.errors import (
    EdgeFusionError,
    EngineError,
    EngineMismatchError,
    EngineMissingError,
)
from edge_fusion.target import Flavour, Target, parse_target

if TYPE_CHECKING:
    from .cuda import Cuda, CudaDevice
    from .trt_api import TensorRT

T = TypeVar("T")

_OPENCV_WHEELS = (
    "opencv-python",
    "opencv-python-headless",
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
)


def _load_cuda() -> Cuda:
    from .cuda import Cuda

    return Cuda.load()


def _load_tensorrt() -> TensorRT:
    from .trt_api import load_tensorrt

    return load_tensorrt()


def _this_device(tensorrt: TensorRT, cuda: Cuda, board: BoardState) -> EngineDevice:
    from .trt_api import this_device

    return this_device(tensorrt, cuda, board)


@dataclass(frozen=True, slots=True)
class Doors:
    """How the GPU is reached; tests put stand-ins here."""

    cuda: Callable[[], Cuda] = _load_cuda
    tensorrt: Callable[[], TensorRT] = _load_tensorrt
    device: Callable[[TensorRT, Cuda, BoardState], EngineDevice] = _this_device


GPU_DOORS = Doors()


@dataclass(frozen=True, slots=True)
class PackageState:
    """One package: its version, or None and why it cannot be imported."""

    version: str | None
    problem: str = ""
    details: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class OpenCvState:
    """OpenCV as it was built.

    Attributes:
        version: None where it cannot be imported.
        problem: Why not.
        wheel: The package from PyPI it came from; None for the system's own.
        gstreamer: Whether it reads GStreamer pipelines, which CSI cameras need.
        gui: What it opens windows with; None where it cannot.
    """

    version: str | None
    problem: str = ""
    wheel: str | None = None
    gstreamer: bool = False
    gui: str | None = None


@dataclass(frozen=True, slots=True)
class PythonState:
    """The Python that runs this, and whether it sees the system's packages."""

    version: str
    venv: bool
    system_packages: bool


@dataclass(frozen=True, slots=True)
class GpuState:
    """The CUDA device, or ``name`` None and the reason."""

    name: str | None
    problem: str = ""
    sm: str = ""
    sm_count: int = 0
    total_bytes: int = 0
    integrated: bool = False


@dataclass(frozen=True, slots=True)
class TensorRtState:
    """TensorRT, or ``version`` None and the reason."""

    version: str | None
    problem: str = ""
    flavour: Flavour | None = None


@dataclass(frozen=True, slots=True)
class EngineState:
    """One precision of a bundle on this device.

    Attributes:
        state: ``built``: an engine is here and fits.  ``absent``: none was built yet.
            ``misfit``: those that are here belong elsewhere.  ``damaged``: one is here that
            cannot be used.  ``no graph``: the bundle has nothing to build one from.
        built_utc: When the engine that fits was built; None unless ``built``.
        problem: What is said of every other state.
    """

    state: Literal["built", "absent", "misfit", "damaged", "no graph"]
    built_utc: str | None = None
    problem: EngineError | None = None

    @property
    def text(self) -> str:
        """The same in words."""
        if isinstance(self.problem, EngineMismatchError):
            field, theirs, ours = self.problem.field, self.problem.theirs, self.problem.ours
            return f"none that fits: {field} is {theirs}, not {ours}"
        reason = self.problem.reason if self.problem else "no reason given"
        return {
            "built": f"here, built {self.built_utc}",
            "absent": "not built yet",
            "misfit": "none that fits",
            "damaged": f"unusable: {reason}",
            "no graph": "the bundle has no graph for it",
        }[self.state]


@dataclass(frozen=True, slots=True)
class BundleState:
    """A bundle as this machine sees it; ``engines`` is empty without TensorRT and a GPU."""

    model: str
    target: str
    precision: str
    flavours: tuple[str, ...]
    engines: Mapping[EnginePrecision, EngineState] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Everything a diagnosis is made from."""

    board: BoardState
    python: PythonState
    gpu: GpuState
    tensorrt: TensorRtState
    onnxruntime: PackageState
    numpy: PackageState
    cv2: OpenCvState
    bundle: BundleState | None = None
    bundle_problem: EdgeFusionError | None = None

    @property
    def runs_engines(self) -> bool:
        """Whether there are both a GPU and TensorRT."""
        return self.gpu.name is not None and self.tensorrt.version is not None

    @property
    def target(self) -> Target | None:
        """The target that the board is, where that is clear."""
        return parse_target(self.board.target) if self.board.target else None


def look_around(
    board: BoardState, bundle: Path | None = None, doors: Doors = GPU_DOORS
) -> Surroundings:
    """Look at everything once; what is absent is recorded with its reason, nothing raises.

    Args:
        board: What :func:`edge_fusion.board.probe_board` found.
        bundle: A bundle to look at as well.
        doors: How the GPU is reached.

    Example:
        >>> look_around(BoardState()).numpy.problem
        ''
    """
    cuda, no_cuda = _open(doors.cuda)
    found, no_device = _open(cuda.device) if cuda is not None else (None, no_cuda)
    trt, no_trt = _open(doors.tensorrt)
    device = None
    if trt is not None and cuda is not None and found is not None:
        device, no_trt = _open(lambda: doors.device(trt, cuda, board))
    state, problem = _bundle_state(bundle, trt, device)
    return Surroundings(
        board=board,
        python=_python(),
        gpu=_gpu(found, no_device),
        tensorrt=_tensorrt(trt, no_trt),
        onnxruntime=_onnxruntime(),
        numpy=PackageState(import_module("numpy").__version__),
        cv2=_opencv(),
        bundle=state,
        bundle_problem=problem,
    )


def _open(door: Callable[[], T]) -> tuple[T | None, str]:
    """What is behind a door, or why there is nothing."""
    try:
        return door(), ""
    except EdgeFusionError as err:
        return None, err.reason
    except Exception as err:
        return None, _why(err)


def _why(err: Exception) -> str:
    """Why a package or driver of others does not work.

    A broken one raises what it likes on import: ImportError and OSError, AttributeError and
    ValueError where it was built against another numpy, RuntimeError, SystemError.
    """
    return str(err) or type(err).__name__


def _tensorrt(found: TensorRT | None, problem: str) -> TensorRtState:
    if found is None:
        return TensorRtState(None, problem)
    return TensorRtState(found.version_text, problem, found.flavour)


def _gpu(device: CudaDevice | None, problem: str) -> GpuState:
    if device is None:
        return GpuState(None, problem)
    return GpuState(
        name=device.name,
        sm="{}.{}".format(*device.sm),
        sm_count=device.sm_count,
        total_bytes=device.total_bytes,
        integrated=device.integrated,
    )


def _python() -> PythonState:
    venv = sys.prefix != sys.base_prefix
    settings = ""
    with suppress(OSError):
        settings = (Path(sys.prefix) / "pyvenv.cfg").read_text(encoding="utf-8", errors="replace")
    shared = re.search(r"include-system-site-packages\s*=\s*true", settings, re.IGNORECASE)
    return PythonState(python_version(), venv, not venv or shared is not None)


def _onnxruntime() -> PackageState:
    try:
        ort: Any = import_module("onnxruntime")
        return PackageState(ort.__version__, details=tuple(ort.get_available_providers()))
    except Exception as err:
        return PackageState(None, _why(err))


def _opencv() -> OpenCvState:
    try:
        cv2: Any = import_module("cv2")
        build: str = cv2.getBuildInformation()
    except Exception as err:
        return OpenCvState(None, _why(err))
    gui = re.search(r"^\s*GUI:\s*(\S+)", build, re.MULTILINE)
    return OpenCvState(
        version=cv2.__version__,
        wheel=next(filter(_installed, _OPENCV_WHEELS), None),
        gstreamer=re.search(r"^\s*GStreamer:\s*YES", build, re.MULTILINE) is not None,
        gui=gui[1] if gui and gui[1] != "NONE" else None,
    )


def _installed(distribution: str) -> bool:
    try:
        return bool(version(distribution))
    except PackageNotFoundError:
        return False


def _bundle_state(
    path: Path | None, tensorrt: TensorRT | None, device: EngineDevice | None
) -> tuple[BundleState | None, EdgeFusionError | None]:
    if path is None:
        return None, None
    try:
        bundle = Bundle.read(path)
    except EdgeFusionError as err:
        return None, err
    engines: dict[EnginePrecision, EngineState] = {}
    if tensorrt is not None and device is not None:
        for precision in ENGINE_PRECISIONS:
            engines[precision] = _engine_state(bundle, precision, tensorrt.flavour, device)
    manifest = bundle.manifest
    return (
        BundleState(
            model=manifest.model.name,
            target=manifest.target,
            precision=manifest.precision,
            flavours=tuple(manifest.flavours),
            engines=engines,
        ),
        None,
    )


def _engine_state(
    bundle: Bundle, precision: EnginePrecision, flavour: Flavour, device: EngineDevice
) -> EngineState:
    try:
        engine_source(bundle, EngineOptions(precision=precision, flavour=flavour))
    except EngineError as err:
        return EngineState("no graph", problem=err)
    try:
        record = find_engine(bundle, precision, device).record
    except EngineMissingError as err:
        return EngineState("absent", problem=err)
    except EngineMismatchError as err:
        return EngineState("misfit", problem=err)
    except EngineError as err:
        return EngineState("damaged", problem=err)
    return EngineState("built", record.created_utc)
