"""What a doctor has to say about a machine: one function for each thing, all of them in a table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from edge_fusion.dependencies import CURES
from edge_fusion.errors import EdgeFusionError

from .surroundings import Surroundings

Severity = Literal["error", "warning", "info"]

GIB = 1 << 30
#: A network of 43 million weights was built within 1 GiB; CUDA and TensorRT's libraries take about
#: as much again.
BUILD_BYTES = 2 * GIB
#: Below this a board has no memory to spare beside a desktop, and swap saves a build.
_SMALL_BYTES = 16 * GIB
_OLDEST_PYTHON = (3, 10)


@dataclass(frozen=True, slots=True)
class Remark:
    """One thing to know: how bad it is, what it is and what to do."""

    severity: Severity
    what: str
    cure: str


Rule = Callable[[Surroundings], Iterator[Remark]]


def _cuda(seen: Surroundings) -> Iterator[Remark]:
    if seen.gpu.name is not None:
        return
    if seen.board.is_jetson:
        yield Remark(
            "error",
            f"this is a Jetson, but CUDA cannot be used: {seen.gpu.problem}",
            "sudo apt install nvidia-jetpack; a container must be started with --runtime nvidia",
        )
    else:
        what = "models run with ONNX Runtime on the CPU"
        if seen.onnxruntime.version is None:
            what = "there is no GPU for engines"
        yield Remark(
            "info",
            f"{what}: {seen.gpu.problem}",
            "engines are built on the target itself, with this same command line",
        )


def _tensorrt(seen: Surroundings) -> Iterator[Remark]:
    if seen.tensorrt.version is not None:
        return
    what = f"TensorRT cannot be used: {seen.tensorrt.problem}"
    if seen.board.is_jetson:
        yield Remark("error", *_jetson_tensorrt(seen, what))
    elif seen.gpu.name is not None:
        yield Remark(
            "warning",
            what,
            "to build and run engines here, install tensorrt in a version that "
            "'edge-fusion targets x86-gpu' lists",
        )


def _jetson_tensorrt(seen: Surroundings, what: str) -> tuple[str, str]:
    """The reasons in the order in which they hide each other."""
    needed = seen.target.python if seen.target else None
    ours = ".".join(seen.python.version.split(".")[:2])
    if needed is not None and tuple(map(int, needed.split("."))) < _OLDEST_PYTHON:
        return (
            f"TensorRT of JetPack {seen.board.jetpack} speaks Python {needed}, and edge-fusion "
            "needs 3.10",
            "build the engine here with the line that the workstation prints: edge-fusion build "
            "BUNDLE --print-trtexec --target xavier-nx",
        )
    if needed is not None and needed != ours:
        return (
            f"TensorRT of JetPack {seen.board.jetpack} is made for Python {needed}, and this is "
            f"{ours}",
            f"python{needed} -m venv --system-site-packages ENV, and install edge-fusion there",
        )
    if not seen.python.system_packages:
        return (
            what,
            "this virtual environment does not see JetPack's packages: make one with "
            "python3 -m venv --system-site-packages ENV",
        )
    return what, "sudo apt install python3-libnvinfer"


def _tensorrt_version(seen: Surroundings) -> Iterator[Remark]:
    if seen.tensorrt.version is None or seen.target is None:
        return
    ours = seen.tensorrt.version.split(".")
    theirs = seen.target.tensorrt_text.split(".")
    if ours[: len(theirs)] != theirs:
        yield Remark(
            "warning",
            f"TensorRT is {seen.tensorrt.version}, and JetPack {seen.board.jetpack} brings "
            f"{seen.target.tensorrt_text}",
            "bundles are linted for the version JetPack brings; lint for this one, or leave the "
            "environment or container that replaces it",
        )


def _power_mode(seen: Surroundings) -> Iterator[Remark]:
    board = seen.board
    if not board.is_jetson:
        return
    fastest = board.fastest_mode
    if board.power_mode is None:
        yield Remark(
            "info",
            "the power mode cannot be read, and a latency means little without it",
            "run nvpmodel -q outside of any container and note what it says",
        )
    elif fastest is not None and fastest.name != board.power_mode:
        yield Remark(
            "warning",
            f"the power mode is {board.power_mode}; the GPU is fastest in {fastest.name}",
            f"sudo nvpmodel -m {fastest.id}, before building: an engine belongs to the power mode "
            "it was built in",
        )


def _super_mode(seen: Surroundings) -> Iterator[Remark]:
    named = {mode.name for mode in seen.target.modes} if seen.target else set()
    offered = {mode.name for mode in seen.board.power_modes}
    if offered and "MAXN_SUPER" in named - offered:
        yield Remark(
            "info",
            "this board was flashed without its Super configuration and offers no MAXN_SUPER mode",
            "flash it with the configuration whose name ends in -super for the higher clocks",
        )


def _clocks(seen: Surroundings) -> Iterator[Remark]:
    board = seen.board
    if board.is_jetson and board.clocks_locked is False:
        yield Remark(
            "warning",
            f"the GPU's clock may move between {board.gpu_min_mhz:.0f} and "
            f"{board.gpu_max_mhz:.0f} MHz, and latencies with it",
            "sudo jetson_clocks, after the power mode was set",
        )


def _memory(seen: Surroundings) -> Iterator[Remark]:
    board = seen.board
    if not (board.is_jetson or seen.gpu.name):
        return
    if board.available_bytes is not None and board.available_bytes < BUILD_BYTES:
        yield Remark(
            "warning",
            f"{board.available_bytes / GIB:.1f} GiB of memory are available, and building an "
            f"engine may take {BUILD_BYTES / GIB:.0f} GiB",
            "end other programs; sudo systemctl isolate multi-user.target ends the desktop",
        )
    small = board.memory_bytes is not None and board.memory_bytes < _SMALL_BYTES
    if board.is_jetson and small and board.swap_bytes == 0:
        yield Remark(
            "warning",
            f"there is no swap beside {(board.memory_bytes or 0) / GIB:.1f} GiB of memory: a build "
            "that needs more is killed",
            "sudo fallocate -l 4G /swapfile && sudo chmod 600 /swapfile && sudo mkswap /swapfile "
            "&& sudo swapon /swapfile",
        )


def _release(seen: Surroundings) -> Iterator[Remark]:
    board = seen.board
    if board.l4t is not None and board.jetpack is None:
        yield Remark(
            "warning",
            f"L4T {board.l4t} belongs to no JetPack that edge-fusion knows",
            "name the target yourself; 'edge-fusion targets' lists what is known",
        )
    elif board.is_jetson and board.target is None:
        yield Remark(
            "info",
            f"which target this board is cannot be told from its part number "
            f"({board.part or 'none readable'}) and L4T ({board.l4t or 'none readable'})",
            "name the target yourself; 'edge-fusion targets' lists what is known",
        )


def _opencv(seen: Surroundings) -> Iterator[Remark]:
    cv2 = seen.cv2
    if cv2.version is None:
        numpy_1 = "numpy.core.multiarray" in cv2.problem or "_ARRAY_API" in cv2.problem
        cure = CURES["a cv2 built for this numpy" if numpy_1 else "cv2"]
        yield Remark("error", f"OpenCV cannot be imported: {cv2.problem}", cure)
    elif seen.board.is_jetson and cv2.wheel and not cv2.gstreamer:
        yield Remark(
            "warning",
            f"{cv2.wheel} hides the system's OpenCV and reads no GStreamer pipelines, which CSI "
            "cameras need",
            f"pip uninstall {cv2.wheel}, in an environment made with --system-site-packages",
        )
    elif seen.board.is_jetson and not cv2.gstreamer:
        yield Remark(
            "info",
            "this OpenCV reads no GStreamer pipelines, which CSI cameras need",
            "use the OpenCV that JetPack brings",
        )


def _onnxruntime(seen: Surroundings) -> Iterator[Remark]:
    if seen.onnxruntime.version is None and not seen.runs_engines:
        yield Remark(
            "error",
            f"nothing here can run a model: ONNX Runtime is missing, too "
            f"({seen.onnxruntime.problem})",
            CURES["onnxruntime"],
        )


def _bundle(seen: Surroundings) -> Iterator[Remark]:
    if seen.bundle_problem is not None:
        yield _from_error("error", seen.bundle_problem)
    if seen.bundle is None:
        return
    for precision, engine in seen.bundle.engines.items():
        # Of another precision only an engine that is there is spoken of.
        spoken_of = precision == seen.bundle.precision or engine.state in ("misfit", "damaged")
        if engine.problem is not None and spoken_of:
            severity: Severity = "error" if engine.state == "no graph" else "warning"
            yield _from_error(severity, engine.problem)


def _from_error(severity: Severity, err: EdgeFusionError) -> Remark:
    return Remark(severity, err.reason, err.cure)


RULES: tuple[Rule, ...] = (
    _cuda,
    _tensorrt,
    _tensorrt_version,
    _onnxruntime,
    _opencv,
    _release,
    _power_mode,
    _super_mode,
    _clocks,
    _memory,
    _bundle,
)
