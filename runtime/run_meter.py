"""Telemetry of one stream: what the machine drew and how it fared, from first frame to last."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

from .energy import Energy, EnergyMeter, Power, integrate
from .telemetry import MachineSample, Sampler

_SETTLE_S = 0.5  # after a model was loaded, clocks stay up for a moment
_FIRST_SAMPLE_S = 2.0
# The PMIC of a Xavier tells a constant 100 degrees, not a temperature.
_NO_TEMPERATURES = ("PMIC",)


@dataclass(frozen=True, slots=True)
class TelemetrySummary:
    """The machine during a stream; None or empty where it does not tell.

    Attributes:
        source: What measured; see :class:`MachineSample`.
        power_of: The rails that make the total, such as ``VDD_IN``.
        power_mode: The power mode's name.
        samples: Samples from the first frame to the last.
        mean_mw: Mean power.
        max_mw: Highest power of a sample.
        energy: Energy, whole and per frame, gross and net of rest.
        gpu_mhz_min: The GPU's lowest clock; 0 where it was switched off in between.
        gpu_mhz_max: Its highest clock.
        gpu_load_mean: How busy the GPU was, 0..1.
        temperature_max_c: The highest temperature.
        temperature_max_at: The zone it was in.
        throttled_s: Seconds in which something held the machine back.
        throttled_by: These seconds by what did.
        cpu_load_mean: How busy all cores together were, 0..1.
        cpu_load_max: Its highest value over a second.
        memory_used_max_bytes: Most memory in use, of the whole machine.
        sampler_load: What the sampling itself used of one core, 0..1.
        notes: What this machine does not tell, and what went wrong.
    """

    source: str
    power_of: tuple[str, ...]
    power_mode: str | None
    samples: int
    mean_mw: float | None
    max_mw: int | None
    energy: Energy
    gpu_mhz_min: float | None
    gpu_mhz_max: float | None
    gpu_load_mean: float | None
    temperature_max_c: float | None
    temperature_max_at: str | None
    throttled_s: float | None
    throttled_by: Mapping[str, float]
    cpu_load_mean: float | None
    cpu_load_max: float | None
    memory_used_max_bytes: int | None
    sampler_load: float
    notes: tuple[str, ...] = field(default=())

    def as_dict(self) -> dict[str, Any]:
        """The summary as JSON-ready values."""
        return {**asdict(self), "energy": self.energy.as_dict()}

    def facts(self) -> dict[str, str]:
        """What a person wants to know first, by name."""
        told = {name: tell(self) for name, tell in _FACTS.items()}
        return {name: text for name, text in told.items() if text}


def _power(of: TelemetrySummary) -> str:
    if of.mean_mw is None or of.max_mw is None:
        return ""
    mode = f", power mode {of.power_mode}" if of.power_mode else ""
    rails = " + ".join(of.power_of)
    return (
        f"{of.mean_mw / 1e3:.2f} W, at most {of.max_mw / 1e3:.2f} W ({rails} by {of.source}{mode})"
    )


def _energy(of: TelemetrySummary) -> str:
    gross, net = of.energy.gross_mj_per_frame, of.energy.net_mj_per_frame
    if gross is None:
        return ""
    at_rest = f", {net:.1f} mJ of it beyond rest" if net is not None else ", rest not measured"
    return f"{gross:.1f} mJ a frame{at_rest} ({of.energy.samples} samples)"


def _gpu(of: TelemetrySummary) -> str:
    if of.gpu_mhz_min is None or of.gpu_mhz_max is None:
        return ""
    load = f", {of.gpu_load_mean:.0%} busy" if of.gpu_load_mean is not None else ""
    return f"{of.gpu_mhz_min:.0f} to {of.gpu_mhz_max:.0f} MHz{load}"


def _heat(of: TelemetrySummary) -> str:
    if of.temperature_max_c is None:
        return ""
    return f"at most {of.temperature_max_c:.1f} C ({of.temperature_max_at})"


def _throttling(of: TelemetrySummary) -> str:
    if of.throttled_s is None:
        return ""
    causes = ", ".join(f"{seconds:.1f} s by {cause}" for cause, seconds in of.throttled_by.items())
    return causes or "none"


def _host(of: TelemetrySummary) -> str:
    memory, load = of.memory_used_max_bytes, of.cpu_load_mean
    told = [f"{load:.0%} busy"] if load is not None else []
    told += [f"{memory / 2**30:.1f} GiB of memory used at most"] if memory is not None else []
    return ", ".join(told)


_FACTS: dict[str, Callable[[TelemetrySummary], str]] = {
    "power": _power,
    "energy": _energy,
    "GPU clock": _gpu,
    "temperature": _heat,
    "throttled": _throttling,
    "CPU": _host,
    "telemetry": lambda of: "; ".join(of.notes),
}


@dataclass(slots=True)
class _Tally:
    """Extremes and sums over samples; two of them add up."""

    samples: int = 0
    highest: dict[str, float] = field(default_factory=dict)
    lowest_gpu_mhz: float | None = None
    hottest: tuple[float, str] | None = None
    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, float] = field(default_factory=dict)
    throttled_s: float | None = None
    throttled_by: dict[str, float] = field(default_factory=dict)

    def add(self, sample: MachineSample, seconds: float) -> None:
        """Take in a sample that speaks for the seconds before it."""
        self.samples += 1
        for name in ("total_mw", "gpu_mhz", "cpu_load", "memory_used_bytes"):
            self._raise(name, getattr(sample, name))
        for name in ("gpu_load", "cpu_load"):
            value = getattr(sample, name)
            if value is not None:
                _add(self.sums, {name: value})
                _add(self.counts, {name: 1})
        self.lowest_gpu_mhz = _least(self.lowest_gpu_mhz, sample.gpu_mhz)
        zones = [(c, n) for n, c in sample.temperatures_c.items() if n not in _NO_TEMPERATURES]
        self.hottest = max((*zones, *([self.hottest] if self.hottest else [])), default=None)
        if sample.throttled is not None:
            self.throttled_s = (self.throttled_s or 0.0) + seconds * sample.throttled
            _add(self.throttled_by, dict.fromkeys(sample.throttled_by, seconds))

    def merge(self, other: _Tally) -> None:
        """Take in another's samples."""
        self.samples += other.samples
        for name, value in other.highest.items():
            self._raise(name, value)
        self.lowest_gpu_mhz = _least(self.lowest_gpu_mhz, other.lowest_gpu_mhz)
        self.hottest = max((h for h in (self.hottest, other.hottest) if h), default=None)
        if other.throttled_s is not None:
            self.throttled_s = (self.throttled_s or 0.0) + other.throttled_s
        _add(self.sums, other.sums)
        _add(self.counts, other.counts)
        _add(self.throttled_by, other.throttled_by)

    def mean(self, name: str) -> float | None:
        """Mean of a load over the samples that know it."""
        return self.sums[name] / self.counts[name] if name in self.counts else None

    def _raise(self, name: str, value: float | None) -> None:
        if value is not None:
            self.highest[name] = max(value, self.highest.get(name, value))


def _add(mine: dict[str, float], theirs: Mapping[str, float]) -> None:
    for name, value in theirs.items():
        mine[name] = mine.get(name, 0) + value


def _least(one: float | None, other: float | None) -> float | None:
    return min((value for value in (one, other) if value is not None), default=None)


class RunMeter:
    """Puts samples and frames together; all methods may be called from any thread.

    Args:
        sampler: A running sampler.

    Example:
        >>> from edge_fusion.runtime.telemetry import open_telemetry
        >>> with Sampler(open_telemetry()) as sampler:
        ...     meter = RunMeter(sampler)
        ...     meter.frame()
        ...     meter.summary().energy.frames
        0
    """

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler
        self._lock = threading.Lock()
        self._energy = EnergyMeter()
        self._until_last, self._after_last = _Tally(), _Tally()
        self._before_ns: int | None = None
        self._started = False
        sampler.listen(self._take_in)

    def measure_idle(self, seconds: float, stop: threading.Event | None = None) -> float | None:
        """Measure what the machine draws at rest, before the stream; takes this long and 0.5 s.

        Args:
            seconds: How long.
            stop: Ends it early; nothing is known then.

        Returns:
            Mean power, mW; None, and at once, where power is not measured.
        """
        waiting = stop or threading.Event()
        deadline = time.monotonic() + _FIRST_SAMPLE_S
        while self._sampler.newest is None and time.monotonic() < deadline:
            waiting.wait(0.01)
        newest = self._sampler.newest
        if newest is None or not newest.total_of or waiting.wait(_SETTLE_S):
            return None
        start_ns = time.monotonic_ns()
        if waiting.wait(seconds):
            return None
        end_ns = time.monotonic_ns()
        self._sampler.take()
        idle_mw = _mean_mw(self._sampler.since(start_ns), start_ns, end_ns)
        with self._lock:
            self._energy.idle_mw = idle_mw
        return idle_mw

    def frame(self) -> None:
        """Note that a frame is through, now."""
        at_ns = time.monotonic_ns()
        with self._lock:
            self._energy.frame(at_ns)
            if self._started:
                self._until_last.merge(self._after_last)
            self._started, self._after_last = True, _Tally()

    def summary(self) -> TelemetrySummary:
        """The account from the first frame to the last; takes one more sample."""
        self._sampler.take()
        telemetry = self._sampler.telemetry
        newest = self._sampler.newest
        with self._lock:
            energy, tally = self._energy.result(), self._until_last
            hottest = tally.hottest or (None, None)
            most_mw = tally.highest.get("total_mw")
            most_bytes = tally.highest.get("memory_used_bytes")
            return TelemetrySummary(
                source=telemetry.source,
                power_of=newest.total_of if newest else (),
                power_mode=newest.power_mode if newest else None,
                samples=tally.samples,
                mean_mw=energy.mean_mw,
                max_mw=None if most_mw is None else int(most_mw),
                energy=energy,
                gpu_mhz_min=tally.lowest_gpu_mhz,
                gpu_mhz_max=tally.highest.get("gpu_mhz"),
                gpu_load_mean=tally.mean("gpu_load"),
                temperature_max_c=hottest[0],
                temperature_max_at=hottest[1],
                throttled_s=tally.throttled_s,
                throttled_by=dict(tally.throttled_by),
                cpu_load_mean=tally.mean("cpu_load"),
                cpu_load_max=tally.highest.get("cpu_load"),
                memory_used_max_bytes=None if most_bytes is None else int(most_bytes),
                sampler_load=self._sampler.cost,
                notes=self._notes(energy, bool(newest and newest.total_of)),
            )

    def _take_in(self, sample: MachineSample) -> None:
        with self._lock:
            self._energy.power(sample.at_ns, sample.total_mw)
            seconds = 0.0 if self._before_ns is None else (sample.at_ns - self._before_ns) / 1e9
            self._before_ns = sample.at_ns
            if self._started:
                self._after_last.add(sample, seconds)

    def _notes(self, energy: Energy, measured: bool) -> tuple[str, ...]:
        notes = [*self._sampler.telemetry.notes]
        if self._sampler.problem:
            notes.append(self._sampler.problem)
        if energy.frames and not self._until_last.samples:
            notes.append("the stream was too short for a sample")
        elif measured and energy.frames and energy.gross_mj is None:
            notes.append(f"no energy: power was known for {energy.covered:.0%} of the time")
        return tuple(notes)


def _mean_mw(samples: tuple[MachineSample, ...], start_ns: int, end_ns: int) -> float | None:
    powers = [Power(one.at_ns, one.total_mw) for one in samples]
    pieces = [integrate(a, b, start_ns, end_ns) for a, b in pairwise(powers)]
    covered_s = sum(piece.covered_s for piece in pieces)
    return sum(piece.mj for piece in pieces) / covered_s if covered_s > 0 else None
