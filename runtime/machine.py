"""What a measurement ran on: the machine, its load and the versions that matter."""

from __future__ import annotations

import os
import platform
import re
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import cv2
import numpy as np

import edge_fusion
from edge_fusion.board import Tree, probe_board

from .vitals import KernelVitals, VitalsReader, first_known

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_CPU_MHZ = re.compile(r"^cpu MHz\s*: ([0-9]{1,6}(?:\.[0-9]{1,6})?)$", re.MULTILINE)
_CPUINFO_NAMES = ("model name", "Model", "Hardware")  # x86, then ARM boards


@dataclass(frozen=True, slots=True)
class Machine:
    """The state of the machine when a measurement began.

    Attributes:
        platform: Operating system and architecture.
        processor: The processor's name, as far as the system tells it.
        cores: Logical cores of the machine.
        usable_cores: Those this process may use.
        load_1min: Load average of the last minute before the measurement; None if unknown.
            Well above 0 it says that something else was running.
        threads: Thread limits set in the environment, and OpenCV's own.
        versions: Versions of python, numpy, cv2, onnxruntime and tensorrt ("absent" if not
            installed), and our own.
        board: The board in words; None where this is none.
        target: What to name with ``--target``, such as ``orin-nano@6.2``; None off a board.
        governor: What sets the processor's clock, such as ``schedutil``; None if unknown.
    """

    platform: str
    processor: str
    cores: int
    usable_cores: int
    load_1min: float | None
    threads: dict[str, str]
    versions: dict[str, str]
    board: str | None = None
    target: str | None = None
    governor: str | None = None

    def as_dict(self) -> dict[str, object]:
        """Everything by name, for JSON."""
        return asdict(self)


def machine_state() -> Machine:
    """Look at this machine, now.

    Example:
        >>> machine_state().cores >= 1
        True
    """
    board = probe_board()
    governor = Tree(Path("/")).text("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").strip()
    limits = {name: os.environ[name] for name in _THREAD_VARIABLES if name in os.environ}
    cores = os.cpu_count() or 1
    return Machine(
        platform=platform.platform(),
        processor=_processor(),
        cores=cores,
        usable_cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores,
        load_1min=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        threads={**limits, "cv2": str(cv2.getNumThreads())},
        versions={
            "python": platform.python_version(),
            "numpy": np.__version__,
            "cv2": cv2.__version__,
            "onnxruntime": _version_of("onnxruntime"),
            "tensorrt": _version_of("tensorrt"),
            "edge_fusion": edge_fusion.__version__,
        },
        board=board.model if board.is_jetson else None,
        target=board.target,
        governor=governor or None,
    )


@dataclass(frozen=True, slots=True)
class Moment:
    """How the machine was at one moment; None or empty where it does not tell.

    Attributes:
        at_utc: When, in ISO 8601.
        load_1min: Load average of the last minute.
        cpu_mhz: Mean clock of the processor's cores, MHz.
        gpu_mhz: The GPU's clock, MHz; 0 where it is switched off.
        clocks_locked: Whether the GPU's clock is held, as ``jetson_clocks`` does.
        power_mode: The power mode's name.
        temperatures_c: Degrees Celsius by zone.
        throttled_by: What held the machine back, now or since the moment before.
        available_bytes: Memory that new work could have.
    """

    at_utc: str
    load_1min: float | None
    cpu_mhz: float | None
    gpu_mhz: float | None
    clocks_locked: bool | None
    power_mode: str | None
    temperatures_c: dict[str, float] = field(default_factory=dict)
    throttled_by: tuple[str, ...] | None = None
    available_bytes: int | None = None

    def as_dict(self) -> dict[str, object]:
        """Everything by name, for JSON."""
        return asdict(self)


class MachineWatch:
    """Looks at the machine now and then; throttling is told for the time between two looks.

    Args:
        root: The folder that stands for ``/``.

    Example:
        >>> watch = MachineWatch()
        >>> watch.look().at_utc <= watch.look().at_utc
        True
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        readers: list[VitalsReader] = [KernelVitals(Tree(root))]
        if root.resolve() == Path("/"):
            with suppress(ImportError):  # it knows some machines' temperatures better
                from .psutil_vitals import PsutilVitals

                readers.append(PsutilVitals())
        self._readers = readers

    def look(self) -> Moment:
        """The machine now."""
        board = probe_board(self._root)
        found = first_known([reader.read() for reader in self._readers])
        return Moment(
            at_utc=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            load_1min=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
            cpu_mhz=_cpu_mhz(Tree(self._root)),
            gpu_mhz=found.gpu_mhz if found.gpu_mhz is not None else board.gpu_mhz,
            clocks_locked=board.clocks_locked,
            power_mode=board.power_mode,
            temperatures_c=dict(found.temperatures_c),
            throttled_by=found.throttled_by,
            available_bytes=board.available_bytes,
        )


def _cpu_mhz(tree: Tree) -> float | None:
    """Mean of the cores: what scales them says, else what an x86 kernel prints."""
    files = tree.folders("sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq")
    clocks = [khz / 1e3 for khz in map(tree.number, files) if khz is not None]
    if not clocks:
        told = re.findall(
            r"^cpu MHz\s*: ([0-9]{1,6}(?:\.[0-9]{1,6})?)$", _cpuinfo(tree), re.MULTILINE
        )
        clocks = [float(mhz) for mhz in told]
    return float(np.mean(clocks)) if clocks else None


def _cpuinfo(tree: Tree) -> str:
    return tree.text("proc/cpuinfo")


def _version_of(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "absent"


def _processor() -> str:
    lines = _cpuinfo(Tree(Path("/"))).splitlines()
    facts = dict(line.split(":", 1) for line in reversed(lines) if ":" in line)
    by_name = {name.strip(): value.strip() for name, value in facts.items()}
    named = (by_name[name] for name in _CPUINFO_NAMES if by_name.get(name))
    return next(named, platform.processor() or platform.machine())
