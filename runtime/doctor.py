"""What a machine has, what it lacks to build and run engines, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edge_fusion.board import probe_board

from .doctor_rules import GIB, RULES, Remark
from .surroundings import GPU_DOORS, BundleState, Doors, Surroundings, look_around

REMARK_COLUMNS = ("severity", "found", "cure")
_GRAVITY = ("error", "warning", "info")


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What was seen, and what there is to say about it, gravest first."""

    seen: Surroundings
    remarks: tuple[Remark, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing stands in the way; warnings and hints may still be there."""
        return all(remark.severity != "error" for remark in self.remarks)

    def facts(self) -> dict[str, str]:
        """What was seen, in words, by name."""
        facts = {name: tell(self.seen) for name, tell in _FACTS.items()}
        if self.seen.bundle is not None:
            facts |= _bundle_facts(self.seen.bundle)
        return {name: text for name, text in facts.items() if text}

    def rows(self) -> list[tuple[str, str, str]]:
        """The remarks under :data:`REMARK_COLUMNS`."""
        return [(remark.severity, remark.what, remark.cure) for remark in self.remarks]

    def as_dict(self) -> dict[str, Any]:
        """Everything by name, for JSON."""
        seen = self.seen
        return {
            "schema_version": 1,
            "ok": self.ok,
            "board": seen.board.as_dict(),
            "python": asdict(seen.python),
            "gpu": asdict(seen.gpu),
            "tensorrt": asdict(seen.tensorrt),
            "onnxruntime": asdict(seen.onnxruntime),
            "numpy": asdict(seen.numpy),
            "cv2": asdict(seen.cv2),
            "bundle": None if seen.bundle is None else _bundle_dict(seen.bundle),
            "remarks": [asdict(remark) for remark in self.remarks],
        }


def examine(
    bundle: Path | None = None, root: Path = Path("/"), doors: Doors = GPU_DOORS
) -> Diagnosis:
    """Examine this machine and, if one is named, a bundle on it; nothing is changed.

    Args:
        bundle: A bundle's folder or ``.tar``.
        root: The folder that stands for ``/`` where the board's own files are read.
        doors: How the GPU is reached.

    Raises:
        BundleError: There is nothing where the bundle should be; one that is damaged is a remark.

    Example:
        >>> diagnosis = examine()
        >>> sorted(diagnosis.facts())[:2]  # doctest: +SKIP
        ['GPU', 'TensorRT']
    """
    seen = look_around(probe_board(root), bundle, doors)
    if seen.bundle_problem is not None and bundle is not None and not bundle.exists():
        raise seen.bundle_problem
    return diagnose(seen)


def diagnose(seen: Surroundings) -> Diagnosis:
    """Apply every rule to what was seen."""
    remarks = [remark for rule in RULES for remark in rule(seen)]
    return Diagnosis(seen, tuple(sorted(remarks, key=lambda one: _GRAVITY.index(one.severity))))


def _machine(seen: Surroundings) -> str:
    return seen.board.model or f"{seen.board.architecture or 'unknown'} machine"


def _board(seen: Surroundings) -> str:
    board = seen.board
    return ", ".join(part for part in (board.target, board.part, board.soc) if part)


def _jetpack(seen: Surroundings) -> str:
    board = seen.board
    return f"{board.jetpack or 'unknown'} (L4T {board.l4t})" if board.l4t else ""


def _power_mode(seen: Surroundings) -> str:
    board = seen.board
    offered = ", ".join(mode.name for mode in board.power_modes)
    mode = board.power_mode or ("unknown" if board.is_jetson else "")
    return f"{mode}, of {offered}" if mode and offered else mode


def _clock(seen: Surroundings) -> str:
    board = seen.board
    if board.gpu_min_mhz is None or board.gpu_max_mhz is None:
        return ""
    now = "" if board.gpu_mhz is None else f", now {board.gpu_mhz:.0f} MHz"
    if board.clocks_locked:
        return f"locked at {board.gpu_max_mhz:.0f} MHz{now}"
    return f"{board.gpu_min_mhz:.0f} to {board.gpu_max_mhz:.0f} MHz{now}"


def _memory(seen: Surroundings) -> str:
    board = seen.board
    if board.memory_bytes is None or board.available_bytes is None:
        return ""
    swap = "no swap" if not board.swap_bytes else f"{board.swap_bytes / GIB:.1f} GiB of swap"
    free, total = board.available_bytes / GIB, board.memory_bytes / GIB
    return f"{free:.1f} of {total:.1f} GiB available, {swap}"


def _gpu(seen: Surroundings) -> str:
    gpu = seen.gpu
    if gpu.name is None:
        return f"none: {gpu.problem}"
    shared = " shared with the CPU" if gpu.integrated else ""
    size = f"{gpu.total_bytes / GIB:.1f} GiB{shared}"
    return f"{gpu.name}, SM {gpu.sm}, {gpu.sm_count} SMs, {size}"


def _tensorrt(seen: Surroundings) -> str:
    tensorrt = seen.tensorrt
    if tensorrt.version is None:
        return f"none: {tensorrt.problem}"
    return f"{tensorrt.version}, {tensorrt.flavour} graphs"


def _onnxruntime(seen: Surroundings) -> str:
    package = seen.onnxruntime
    if package.version is None:
        return f"none: {package.problem}"
    return f"{package.version}, {', '.join(package.details)}"


def _opencv(seen: Surroundings) -> str:
    cv2 = seen.cv2
    if cv2.version is None:
        return f"none: {cv2.problem}"
    windows = f"windows by {cv2.gui}" if cv2.gui else "no windows"
    streams = "GStreamer" if cv2.gstreamer else "no GStreamer"
    return f"{cv2.version} from {cv2.wheel or 'the system'}, {windows}, {streams}"


def _python(seen: Surroundings) -> str:
    python = seen.python
    if not python.venv:
        return python.version
    sees = "sees" if python.system_packages else "does not see"
    return f"{python.version} in a virtual environment that {sees} the system's packages"


_FACTS: dict[str, Callable[[Surroundings], str]] = {
    "machine": _machine,
    "board": _board,
    "JetPack": _jetpack,
    "power mode": _power_mode,
    "GPU clock": _clock,
    "memory": _memory,
    "GPU": _gpu,
    "TensorRT": _tensorrt,
    "ONNX Runtime": _onnxruntime,
    "OpenCV": _opencv,
    "numpy": lambda seen: seen.numpy.version or "",
    "python": _python,
}


def _bundle_facts(bundle: BundleState) -> dict[str, str]:
    facts = {
        "bundle": f"{bundle.model} in {bundle.precision}, made for {bundle.target}",
        "flavours": ", ".join(bundle.flavours) or "none",
    }
    for precision, state in bundle.engines.items():
        facts[f"engine {precision}"] = state.text
    return facts


def _bundle_dict(bundle: BundleState) -> dict[str, Any]:
    engines = {
        precision: {"state": engine.state, "text": engine.text, "built_utc": engine.built_utc}
        for precision, engine in bundle.engines.items()
    }
    return {
        "model": bundle.model,
        "target": bundle.target,
        "precision": bundle.precision,
        "flavours": list(bundle.flavours),
        "engines": engines,
    }
