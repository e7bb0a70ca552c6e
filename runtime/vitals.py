"""How a machine is beside its power: clocks, load, temperatures, throttling, CPU and memory.

What the kernel does not tell stays unknown.  Throttling is known from three kinds of files:

- the cooling devices that hold a clock down (``cpufreq-*``, ``devfreq-*``) or announce that the
  firmware does (``*-throttle-alert``).  They tell the moment: what begins and ends between two
  readings is missed.  Fans and the warning that a surface is hot slow nothing down and are left
  out;
- the event counters of an Orin's or Thor's over-current protection (``oc*_event_cnt``), which miss
  nothing but do not say for how long;
- the thermal counters of an x86 processor.

Not known from files: throttling by the power budget of a mode itself, which only shows as a clock
below what the mode allows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Protocol

from edge_fusion.board import Tree, gpu_folder, read_memory

_GPU_LOADS = (  # per mille; the first is below the folder of its clocks
    "{folder}/device/load",
    "{folder}/load",
    "sys/devices/platform/gpu.0/load",
    "sys/devices/gpu.0/load",  # JetPack 4
)
_ZONES = "sys/class/thermal/thermal_zone*"
_COOLERS = "sys/class/thermal/cooling_device*"
_SLOWS_DOWN = re.compile(r".*-throttle-alert|(thermal-)?(cpufreq|devfreq)-.*|.*-balanced")
_COUNTERS = {  # of throttling events since boot: what each is called
    "sys/class/hwmon/hwmon*/oc*_event_cnt": "over-current",
    "sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count": "processor too hot",
}
_ZONE_SUFFIX = re.compile(r"([-_]thermal|-therm|_tegra|-Die)$")
_COLDEST_C, _HOTTEST_C = -100.0, 200.0  # a zone without power reads -256


@dataclass(frozen=True, slots=True)
class Vitals:
    """What one source tells about a machine; None or empty where it does not.

    Attributes:
        gpu_mhz: The GPU's clock, MHz; 0 where it is switched off.
        gpu_load: How busy the GPU is, 0..1.
        temperatures_c: Degrees Celsius by zone.
        throttled_by: What holds the machine back now; empty where nothing does.
        cpu_load: How busy all cores together are, 0..1.
        memory_used_bytes: Memory that new work could not have.
    """

    gpu_mhz: float | None = None
    gpu_load: float | None = None
    temperatures_c: Mapping[str, float] = field(default_factory=dict)
    throttled_by: tuple[str, ...] | None = None
    cpu_load: float | None = None
    memory_used_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class PowerReading:
    """Rails at one moment, and what their source tells besides.

    Attributes:
        at_ns: ``time.monotonic_ns()`` of the reading.
        rails_mw: Power by rail, mW.
        vitals: What came with it.
    """

    at_ns: int
    rails_mw: Mapping[str, int]
    vitals: Vitals = field(default_factory=Vitals)


class VitalsReader(Protocol):
    """Something that tells how the machine is; never fails."""

    def read(self) -> Vitals:
        """How the machine is now; loads are since the last call."""
        ...


def first_known(several: Iterable[Vitals]) -> Vitals:
    """Each value from the first that knows it.

    Example:
        >>> first_known([Vitals(gpu_load=0.5), Vitals(gpu_load=0.1, gpu_mhz=918.0)]).gpu_mhz
        918.0
    """
    merged: dict[str, object] = {}
    for vitals in several:
        for one in fields(Vitals):
            value = getattr(vitals, one.name)
            if one.name not in merged and value is not None and value != {}:
                merged[one.name] = value
    return Vitals(**merged)  # type: ignore[arg-type]


class KernelVitals:
    """Reads ``/sys`` and ``/proc`` below a root, without root rights.

    Args:
        tree: The machine's files.
    """

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._gpu = gpu_folder(tree)
        self._gpu_load = _first_number(tree, (one.format(folder=self._gpu) for one in _GPU_LOADS))
        self._zones = dict(_unique(_named(tree, _ZONES)))
        self._coolers = [
            (n, path) for n, path in _named(tree, _COOLERS) if _SLOWS_DOWN.fullmatch(n)
        ]
        self._counters = dict(_counters(tree))
        self._counts = {path: tree.number(path) for path in self._counters}
        self._cpu_times = _cpu_times(tree)

    def read(self) -> Vitals:
        """How the machine is now; loads and events are since the last call."""
        return Vitals(
            gpu_mhz=self._gpu_mhz(),
            gpu_load=self._read_gpu_load(),
            temperatures_c=self._temperatures_c(),
            throttled_by=self._throttled_by(),
            cpu_load=self._cpu_load(),
            memory_used_bytes=self._memory_used_bytes(),
        )

    def _gpu_mhz(self) -> float | None:
        hertz = self._tree.number(f"{self._gpu}/cur_freq") if self._gpu else None
        return None if hertz is None else hertz / 1e6

    def _read_gpu_load(self) -> float | None:
        per_mille = self._tree.number(self._gpu_load) if self._gpu_load else None
        return None if per_mille is None else min(per_mille / 1000, 1.0)

    def _temperatures_c(self) -> dict[str, float]:
        millidegrees = {name: self._tree.signed(f"{at}/temp") for name, at in self._zones.items()}
        return plausible({n: m / 1000 for n, m in millidegrees.items() if m is not None})

    def _throttled_by(self) -> tuple[str, ...] | None:
        states = {name: self._tree.number(f"{path}/cur_state") for name, path in self._coolers}
        counts = {path: self._tree.number(path) for path in self._counters}
        known = [*states.values(), *counts.values()]
        if all(value is None for value in known):
            return None
        grown = []
        for path, count in counts.items():
            if count is not None:  # else what was counted last still stands
                grown += [self._counters[path]] * (count > (self._counts[path] or 0))
                self._counts[path] = count
        return (*(name for name, state in states.items() if state), *grown)

    def _cpu_load(self) -> float | None:
        before, self._cpu_times = self._cpu_times, _cpu_times(self._tree)
        if before is None or self._cpu_times is None:
            return None
        busy, total = (now - then for now, then in zip(self._cpu_times, before, strict=True))
        return min(max(busy / total, 0.0), 1.0) if total > 0 else None

    def _memory_used_bytes(self) -> int | None:
        memory = read_memory(self._tree)
        total, available = memory.get("MemTotal"), memory.get("MemAvailable")
        return None if total is None or available is None else total - available


def plausible(temperatures_c: Mapping[str, float]) -> dict[str, float]:
    """Temperatures without those of sensors that have no power."""
    return {n: c for n, c in temperatures_c.items() if _COLDEST_C < c < _HOTTEST_C}


def zone_name(kind: str) -> str:
    """A zone as tegrastats calls it, whatever the kernel adds to its name.

    Example:
        >>> zone_name("gpu-thermal"), zone_name("Tboard_tegra")
        ('gpu', 'Tboard')
    """
    return _ZONE_SUFFIX.sub("", kind)


def _first_number(tree: Tree, names: Iterable[str]) -> str | None:
    return next((name for name in names if tree.number(name) is not None), None)


def _named(tree: Tree, pattern: str) -> Iterator[tuple[str, str]]:
    """What each folder's ``type`` says, and the folder."""
    for folder in tree.folders(pattern):
        if kind := tree.text(f"{folder}/type").strip():
            yield zone_name(kind), folder


def _unique(named: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Equal names numbered: ``acpitz``, ``acpitz 2``."""
    seen: dict[str, int] = {}
    for name, folder in named:
        seen[name] = seen.get(name, 0) + 1
        yield (name if seen[name] == 1 else f"{name} {seen[name]}"), folder


def _counters(tree: Tree) -> Iterator[tuple[str, str]]:
    for pattern, what in _COUNTERS.items():
        for path in tree.folders(pattern):
            protection = re.search(r"/(oc\d+)_event_cnt$", path)
            yield path, f"{what} {protection[1]}" if protection else what


def _cpu_times(tree: Tree) -> tuple[int, int] | None:
    """Busy and all ticks of all cores since boot."""
    found = re.match(r"cpu +(\d{1,18}(?: \d{1,18}){3,9})\n", tree.text("proc/stat", most_bytes=512))
    if found is None:
        return None
    # user, nice, system, idle, iowait, irq, softirq, steal; guests are in user and nice already
    ticks = [int(part) for part in found[1].split()][:8]
    idle = sum(ticks[3:5])
    return sum(ticks) - idle, sum(ticks)
