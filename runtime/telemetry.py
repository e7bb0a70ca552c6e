"""What a machine draws and how it fares while a stream runs: samples, and who takes them.

``open_telemetry`` takes what the machine has: the power monitors below ``/sys``, else NVIDIA's
``tegrastats``, else nothing that measures power.  A sample names its source, and what cannot be
known is None, never a guess.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from edge_fusion.board import Tree, probe_board
from edge_fusion.errors import InputError

from .rails import SysfsRails, find_rails, total_basis, total_mw
from .tegrastats import Tegrastats, find_tegrastats
from .vitals import KernelVitals, PowerReading, VitalsReader, first_known

POWER_PERIOD_S = 0.2
VITALS_PERIOD_S = 1.0

_FIRST_LINE_S = 2.0  # tegrastats prints its first line after one period
_KEPT = 4096  # samples at hand: 13 minutes
_END_S = 1.0  # how long a reading in progress may hold up the end


@dataclass(frozen=True, slots=True)
class MachineSample:
    """The machine at one moment; None or empty where it does not tell.

    Attributes:
        at_ns: ``time.monotonic_ns()`` when the rails were read.
        rails_mw: Power by rail, mW; slightly below zero where a rail at rest reads so.
        total_mw: Power of the board or module (see ``total_of``), mW.
        total_of: The rails that make the total.
        gpu_mhz: The GPU's clock, MHz; 0 where it is switched off.
        gpu_load: How busy the GPU is, 0..1.
        temperatures_c: Degrees Celsius by zone.
        throttled: Whether something held the machine back since the sample before.
        throttled_by: What did.
        power_mode: The power mode's name when the telemetry was opened.
        cpu_load: How busy all cores together are, 0..1.
        memory_used_bytes: Memory that new work could not have.
        source: ``ina3221`` (``+ina238``) or ``tegrastats`` where power is measured, else what tells
            the rest: ``psutil``, or ``kernel`` for ``/proc`` and ``/sys`` alone.
    """

    at_ns: int
    rails_mw: Mapping[str, int]
    total_mw: int | None
    total_of: tuple[str, ...]
    gpu_mhz: float | None
    gpu_load: float | None
    temperatures_c: Mapping[str, float]
    throttled: bool | None
    throttled_by: tuple[str, ...]
    power_mode: str | None
    cpu_load: float | None
    memory_used_bytes: int | None
    source: str

    def as_dict(self) -> dict[str, Any]:
        """The sample as JSON-ready values."""
        return asdict(self)


class PowerReader(Protocol):
    """Something that measures power rails; never fails."""

    @property
    def source(self) -> str:
        """What measures."""
        ...

    def read(self) -> PowerReading:
        """The rails now; none where they do not answer."""
        ...

    def close(self) -> None:
        """Free what is held; safe to call twice."""
        ...


class Telemetry:
    """Takes samples; made by :func:`open_telemetry`.

    Args:
        power: What measures power, or None.
        vitals: What tells the rest, the better ones first.
        power_mode: The power mode's name.
        other_source: What to call the source where no power is measured.
        notes: What this machine does not tell, and why.
    """

    def __init__(
        self,
        power: PowerReader | None,
        vitals: Sequence[VitalsReader],
        *,
        power_mode: str | None = None,
        other_source: str = "kernel",
        notes: Sequence[str] = (),
    ) -> None:
        self._power, self._vitals, self._power_mode = power, tuple(vitals), power_mode
        self._basis: tuple[str, ...] = ()
        self.source = power.source if power is not None else other_source
        self.notes = tuple(notes)

    def sample(self, keep: MachineSample | None = None) -> MachineSample:
        """The machine now.

        Args:
            keep: An earlier sample of which everything but the power is taken over; None reads all.
        """
        now = PowerReading(time.monotonic_ns(), {})
        power = self._power.read() if self._power is not None else now
        # Chosen once: a rail that fails to answer must not turn the total into another sum.
        self._basis = self._basis or total_basis(power.rails_mw)
        total = total_mw(power.rails_mw, self._basis)
        if keep is not None:
            return replace(keep, at_ns=power.at_ns, rails_mw=power.rails_mw, total_mw=total)
        found = first_known([power.vitals, *(reader.read() for reader in self._vitals)])
        return MachineSample(
            at_ns=power.at_ns,
            rails_mw=power.rails_mw,
            total_mw=total,
            total_of=self._basis,
            gpu_mhz=found.gpu_mhz,
            gpu_load=found.gpu_load,
            temperatures_c=found.temperatures_c,
            throttled=None if found.throttled_by is None else bool(found.throttled_by),
            throttled_by=found.throttled_by or (),
            power_mode=self._power_mode,
            cpu_load=found.cpu_load,
            memory_used_bytes=found.memory_used_bytes,
            source=self.source,
        )

    def close(self) -> None:
        """End what measures; safe to call twice."""
        if self._power is not None:
            self._power.close()


def open_telemetry(root: Path = Path("/")) -> Telemetry:
    """Choose by what the machine has; never fails.

    Args:
        root: The folder that stands for ``/``; psutil is asked about no other machine than this.

    Example:
        >>> telemetry = open_telemetry()
        >>> telemetry.sample().at_ns > 0
        True
        >>> telemetry.close()
    """
    tree = Tree(root)
    power, notes = _open_power(tree)
    vitals: list[VitalsReader] = [KernelVitals(tree)]
    other_source = "kernel"
    if root.resolve() == Path("/"):
        with suppress(ImportError):  # not a loss of anything but what its module says
            from .psutil_vitals import PsutilVitals

            vitals.append(PsutilVitals())
            other_source = "psutil"
    return Telemetry(
        power,
        vitals,
        power_mode=probe_board(root).power_mode,
        other_source=other_source,
        notes=notes,
    )


def _open_power(tree: Tree) -> tuple[PowerReader | None, list[str]]:
    """What measures power here, and what to say about it."""
    if rails := find_rails(tree):
        names = [rail.name for rail in rails]
        known = f"the total of rails {', '.join(names)} is not known"
        return SysfsRails(tree, rails), [] if total_basis(names) else [known]
    program = find_tegrastats(tree.root)
    if program is None:
        return None, ["power is not known: no power monitor below /sys, and no tegrastats"]
    try:
        child = Tegrastats(program, POWER_PERIOD_S)
    except OSError as err:
        return None, [f"power is not known: {program} does not start: {err.strerror}"]
    if child.wait(_FIRST_LINE_S):
        return child, []
    child.close()
    return None, [f"power is not known: {program} printed no rails in {_FIRST_LINE_S:g} s"]


class Sampler:
    """Takes samples in a thread of its own while a ``with`` block runs.

    Power is read every 0.2 s, everything else every second.  A reading that takes longer than its
    period delays the next one instead of piling up.

    Args:
        telemetry: Closed at the end of the block.
        power_period_s: Seconds between samples.
        vitals_period_s: Seconds between samples that read everything.

    Raises:
        InputError: A period is not above zero.

    Example:
        >>> with Sampler(open_telemetry()) as sampler:
        ...     newest = sampler.take()
        >>> newest is sampler.since(newest.at_ns)[0]
        True
    """

    def __init__(
        self,
        telemetry: Telemetry,
        power_period_s: float = POWER_PERIOD_S,
        vitals_period_s: float = VITALS_PERIOD_S,
    ) -> None:
        if not min(power_period_s, vitals_period_s) > 0:
            raise InputError(
                "a sampling period",
                expected="seconds above 0",
                got=f"{power_period_s}, {vitals_period_s}",
            )
        self.telemetry = telemetry
        self._power_s, self._vitals_ns = power_period_s, vitals_period_s * 1e9
        self._samples: deque[MachineSample] = deque(maxlen=_KEPT)
        self._listeners: list[Callable[[MachineSample], None]] = []
        self._reading = threading.Lock()
        self._full: MachineSample | None = None
        self._stop = threading.Event()
        self._started_ns = 0
        self._busy_s = 0.0
        self._problem: str | None = None
        self._thread = threading.Thread(
            target=self._work, name="edge-fusion-telemetry", daemon=True
        )

    def __enter__(self) -> Sampler:
        self._started_ns = time.monotonic_ns()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join(_END_S)
        self.telemetry.close()

    @property
    def newest(self) -> MachineSample | None:
        """The newest sample; None before there is one."""
        return self._samples[-1] if self._samples else None

    @property
    def problem(self) -> str | None:
        """What ended the sampling early; None where nothing did."""
        return self._problem

    @property
    def cost(self) -> float:
        """What the sampling thread has used of one core so far, 0..1."""
        return self._busy_s / max((time.monotonic_ns() - self._started_ns) / 1e9, 1e-9)

    def since(self, at_ns: int) -> tuple[MachineSample, ...]:
        """The samples at and after a moment, of the last 4096."""
        return tuple(one for one in self._samples.copy() if one.at_ns >= at_ns)

    def listen(self, listener: Callable[[MachineSample], None]) -> None:
        """Call this with the newest sample at once, and with every later one as it is taken."""
        with self._reading:
            self._listeners.append(listener)
            if self._samples:
                listener(self._samples[-1])

    def take(self) -> MachineSample | None:
        """Take a sample now, in the calling thread; the newest one where a driver holds us up."""
        if not self._reading.acquire(timeout=_END_S):
            return self.newest
        try:
            full = self._full
            stale = full is None or time.monotonic_ns() - full.at_ns >= self._vitals_ns
            sample = self.telemetry.sample(None if stale else full)
            if stale:
                self._full = sample
            newest = self.newest
            if newest is not None and sample.at_ns <= newest.at_ns:
                return newest  # a line of tegrastats that was read before
            self._samples.append(sample)
            for listener in self._listeners:
                listener(sample)
            return sample
        finally:
            self._reading.release()

    def _work(self) -> None:
        try:
            while not self._stop.is_set():
                began_s = time.monotonic()
                self.take()
                self._busy_s = time.thread_time()
                self._stop.wait(max(self._power_s - (time.monotonic() - began_s), 0.001))
        except Exception as err:  # telemetry must never end a stream
            self._problem = f"telemetry stopped: {type(err).__name__}: {err}"
