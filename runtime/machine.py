"""What a measurement ran on: the machine, its load and the versions that matter."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import cv2
import numpy as np

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
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
        versions: Versions of python, numpy, cv2 and onnxruntime ("absent" if not installed).
    """

    platform: str
    processor: str
    cores: int
    usable_cores: int
    load_1min: float | None
    threads: dict[str, str]
    versions: dict[str, str]

    def as_dict(self) -> dict[str, object]:
        """Everything by name, for JSON."""
        return asdict(self)


def machine_state() -> Machine:
    """Look at this machine, now.

    Example:
        >>> machine_state().cores >= 1
        True
    """
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
        },
    )


def _version_of(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "absent"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    facts = dict(line.split(":", 1) for line in reversed(lines) if ":" in line)
    by_name = {name.strip(): value.strip() for name, value in facts.items()}
    named = (by_name[name] for name in _CPUINFO_NAMES if by_name.get(name))
    return next(named, platform.processor() or platform.machine())
