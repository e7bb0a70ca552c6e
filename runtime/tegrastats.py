"""NVIDIA's ``tegrastats`` as a child process: for Jetsons whose rails ``/sys`` does not show.

A line is free text and differs between JetPacks: powers came without a unit (4), with ``mW`` (5 and
6) and with a third value (7); the GPU's clock is missing (6), one number (5) or one per cluster
(7); its load is missing on Thor.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .vitals import PowerReading, Vitals, plausible

_MEGABYTE = 1 << 20
_LONGEST_LINE = 8192
_FRESH_S = 3.0  # an older line says nothing about now

# Numbers are bounded in length: garbage must take no time to reject.
_MEMORY = re.compile(r"\b(?:RAM|SWAP|IRAM) \d{1,9}/\d{1,9}[kM]B")
_RAM_USED = re.compile(r"\bRAM (\d{1,9})/\d{1,9}MB")
_POWER = r"-?\d{1,9}(?:mW)?"
_RAIL = re.compile(
    rf"(?<![\w@/])([A-Z][A-Z0-9_]{{0,31}}) (-?\d{{1,9}})(?:mW)?(?:/{_POWER}){{1,2}}(?![\w%/])"
)
_ZONE = re.compile(r"\b(\w{1,32})@(-?\d{1,4}(?:\.\d{1,6})?)C\b")
_GPU = re.compile(r"\bGR3D_FREQ (?:(\d{1,3})%)?(?:@\[?([\d,]{1,64})\]?)?")
_CPU = re.compile(r"(?:\bCPU |^)\[([^\]]{1,2048})\]")
_CORE = re.compile(r"(\d{1,3})%(?:@\d{1,6})?$")


@dataclass(frozen=True, slots=True)
class TegraLine:
    """One line: rails (mW, now and not averaged) and what else it tells."""

    rails_mw: dict[str, int]
    vitals: Vitals


def parse_line(line: str) -> TegraLine | None:
    """Read one line of tegrastats; None where nothing in it is known.

    Args:
        line: As printed, of any JetPack since 4.

    Example:
        >>> parse_line("RAM 407/15823MB GR3D_FREQ 7% GPU@28C GPU 1155/1155").rails_mw
        {'GPU': 1155}
    """
    ram = _RAM_USED.search(line)
    gpu_load, gpu_mhz = _gpu(line)
    zones = {name: float(celsius) for name, celsius in _ZONE.findall(line)}
    vitals = Vitals(
        gpu_mhz=gpu_mhz,
        gpu_load=gpu_load,
        temperatures_c=plausible(zones),
        cpu_load=_cpu_load(line),
        memory_used_bytes=int(ram[1]) * _MEGABYTE if ram else None,
    )
    rails = {name: int(now) for name, now in _RAIL.findall(_MEMORY.sub("", line))}
    return TegraLine(rails, vitals) if rails or vitals != Vitals() else None


def _gpu(line: str) -> tuple[float | None, float | None]:
    """Load, 0..1, and the fastest cluster's clock, MHz."""
    found = _GPU.search(line)
    if found is None:
        return None, None
    clocks = [int(one) for one in (found[2] or "").split(",") if one]
    return (
        min(int(found[1]) / 100, 1.0) if found[1] else None,
        float(max(clocks)) if clocks else None,
    )


def _cpu_load(line: str) -> float | None:
    """Mean over the cores that are on, 0..1."""
    found = _CPU.search(line)
    cores = (_CORE.match(core.strip()) for core in found[1].split(",")) if found else ()
    loads = [min(int(core[1]), 100) for core in cores if core]
    return sum(loads) / len(loads) / 100 if loads else None


def find_tegrastats(root: Path) -> str | None:
    """The program of this machine, or of a tree."""
    places = [str(root / place) for place in ("usr/bin", "usr/sbin")]
    on_path = shutil.which("tegrastats") if root.resolve() == Path("/") else None
    return on_path or shutil.which("tegrastats", path=":".join(places))


class Tegrastats:
    """A running tegrastats, whose newest line is at hand.

    Args:
        program: Its path.
        period_s: Seconds between lines.

    Raises:
        OSError: It does not start.
    """

    source = "tegrastats"

    def __init__(self, program: str, period_s: float) -> None:
        self._process = subprocess.Popen(
            [program, "--interval", str(max(round(period_s * 1000), 1))],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for us: the last lines are still wanted
        )
        self._fresh = threading.Condition()
        self._newest: PowerReading | None = None
        self._ended = False
        self._reader = threading.Thread(
            target=self._read_lines, name="edge-fusion-tegrastats", daemon=True
        )
        self._reader.start()

    def wait(self, timeout_s: float) -> bool:
        """Whether a line with rails came within this time."""
        with self._fresh:
            self._fresh.wait_for(lambda: self._newest is not None or self._ended, timeout_s)
            return self._newest is not None

    def read(self) -> PowerReading:
        """The newest line; without rails where none came lately."""
        now = time.monotonic_ns()
        with self._fresh:
            newest = self._newest
        if newest is None or now - newest.at_ns > _FRESH_S * 1e9:
            return PowerReading(now, {})
        return newest

    def close(self) -> None:
        """End the process; safe to call twice."""
        if self._process.poll() is None:
            with suppress(ProcessLookupError):
                # its whole session: what it started would keep the pipe open
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._reader.join(timeout=1.0)

    def _read_lines(self) -> None:
        stream = self._process.stdout
        assert stream is not None
        with stream:
            while line := stream.readline(_LONGEST_LINE):
                parsed = parse_line(line.decode("utf-8", errors="replace"))
                if parsed is not None and parsed.rails_mw:
                    reading = PowerReading(time.monotonic_ns(), parsed.rails_mw, parsed.vitals)
                    with self._fresh:
                        self._newest = reading
                        self._fresh.notify_all()
        with self._fresh:
            self._ended = True
            self._fresh.notify_all()
