"""Peak host memory of one variant, measured in a process of its own.

Two variants loaded one after the other in one process hide behind each other's peak.  A child
also needs care: ``getrusage`` reports at least the peak of the process that started it, because
Linux carries that figure across ``exec``.  The kernel's own high-water mark (``VmHWM``) starts
afresh, so this module reads that.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

import edge_fusion
from edge_fusion.bundle import Bundle
from edge_fusion.errors import EdgeFusionError, SessionError
from edge_fusion.spec import TensorSpec

from .session import Session, open_session

_STATUS = Path("/proc/self/status")
_RUNS = 3  # arenas grow on the first runs
_TIMEOUT_S = 600


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident host memory of a process that opened one variant and ran it.

    Memory of a discrete GPU is not in it.

    Attributes:
        before_bytes: Resident before the backend and the model were loaded.
        peak_bytes: The most that was resident at any time from then on.
    """

    before_bytes: int
    peak_bytes: int

    @property
    def added_bytes(self) -> int:
        """What the backend, the model and its runs needed at their peak."""
        return self.peak_bytes - self.before_bytes

    def as_dict(self) -> dict[str, int]:
        """The figures by name, for JSON."""
        return {**asdict(self), "added_bytes": self.added_bytes}


def peak_memory(path: Path, variant: str, backend: str) -> Memory | None:
    """Measure one variant in a child process.

    Args:
        path: A bundle, or a plain ONNX file.
        variant: One of the bundle's variants; empty for an ONNX file.
        backend: A backend of :func:`edge_fusion.runtime.session.open_session`.

    Returns:
        The figures, or None where the system does not tell (it is read from ``/proc``).

    Raises:
        SessionError: The child failed, or took more than ten minutes.
    """
    if not _STATUS.is_file():
        return None
    command = [sys.executable, "-m", __name__, str(path), variant, backend]
    cure = f"see whether it runs alone: {_run_command(path, variant, backend)}" if variant else ""
    package_root = Path(next(iter(edge_fusion.__path__))).parent
    paths = [str(package_root), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    what = "measuring the memory of " + (f"variant '{variant}'" if variant else str(path))
    try:
        child = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=_TIMEOUT_S
        )
    except subprocess.TimeoutExpired as err:
        raise SessionError(f"{what} took more than {_TIMEOUT_S} s", cure=cure) from err
    if child.returncode != 0:
        complaint = child.stderr.strip().splitlines() or [f"exit status {child.returncode}"]
        raise SessionError(f"{what} failed", got=complaint[-1], cure=cure)
    return Memory(**json.loads(child.stdout.splitlines()[-1]))


def _run_command(bundle: Path, variant: str, backend: str) -> str:
    """The command that shows a variant's trouble with nothing around it."""
    options = ("--variant", variant, "--backend", backend, "--limit", "3")
    return shlex.join(("edge-fusion", "run", str(bundle), "demo://", *options))


def measure_here(path: Path, variant: str, backend: str) -> Memory:
    """Open and run one variant in this process, on zeros; memory does not depend on values.

    Args:
        path: A bundle, or a plain ONNX file.
        variant: One of the bundle's variants; empty for an ONNX file.
        backend: Where the variant runs.
    """
    bundle = Bundle.read(path) if variant else None
    _forget_peak()
    before = _status("VmRSS")
    if bundle is None:
        session, specs = _open_file(path)
    else:
        session, specs = open_session(bundle, variant, backend), bundle.manifest.model.inputs
    inputs = {one.name: np.zeros(one.shape, np.float32) for one in specs}
    try:
        for _ in range(_RUNS):
            session.run(inputs)
    finally:
        session.close()
    return Memory(before_bytes=before, peak_bytes=_status("VmHWM"))


def _open_file(path: Path) -> tuple[Session, Sequence[TensorSpec]]:
    from .ort import OrtSession  # counts as what the backend needs

    session = OrtSession(path.read_bytes())
    return session, session.inputs


def _forget_peak() -> None:
    """Start the high-water mark afresh: reading the bundle has already raised it."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return  # a hardened kernel; the mark then includes reading the bundle, one file at a time


def _status(field: str) -> int:
    for line in _STATUS.read_text(encoding="ascii").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise SessionError(f"{_STATUS} has no field {field}")


def _main(arguments: list[str]) -> int:
    path, variant, backend = arguments
    try:
        memory = measure_here(Path(path), variant, backend)
    except EdgeFusionError as err:
        print(err, file=sys.stderr)
        return err.exit_code
    print(json.dumps(asdict(memory)))
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
