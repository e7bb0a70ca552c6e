"""The machine of a comparison, in words and figures for a page."""

from __future__ import annotations

from collections.abc import Callable

from .comparison import Comparison
from .machine import Moment


def machine_rows(comparison: Comparison) -> list[tuple[str, str]]:
    """What ran where, as names and values; what is not known is left out."""
    machine = comparison.machine
    rows = {
        "board": machine.board,
        "target": machine.target,
        "system": machine.platform,
        "processor": (
            f"{machine.processor}, {machine.usable_cores} of {machine.cores} cores usable"
        ),
        "clock is set by": machine.governor,
        "load before": None
        if machine.load_1min is None
        else f"{machine.load_1min:.2f} (1 minute average)",
        "thread limits": ", ".join(f"{name} {n}" for name, n in machine.threads.items()),
        "backend": comparison.backend,
        "arithmetic": "" if comparison.latency is None else comparison.latency.arithmetic.text,
        "versions": ", ".join(f"{name} {n}" for name, n in machine.versions.items()),
    }
    return [(name, value) for name, value in rows.items() if value]


_MOMENT: tuple[tuple[str, Callable[[Moment], str | None]], ...] = (
    ("at", lambda one: one.at_utc.replace("T", " ").replace("+00:00", " UTC")),
    ("load, 1 minute average", lambda one: _number(one.load_1min, "{:.2f}")),
    ("processor's clock, MHz", lambda one: _number(one.cpu_mhz, "{:.0f}")),
    ("GPU's clock, MHz", lambda one: _number(one.gpu_mhz, "{:.0f}")),
    ("GPU's clock held", lambda one: _yes(one.clocks_locked)),
    ("power mode", lambda one: one.power_mode),
    (
        "temperatures, \N{DEGREE CELSIUS}",
        lambda one: ", ".join(f"{name} {c:.0f}" for name, c in one.temperatures_c.items()),
    ),
    (
        "held back by",
        lambda one: None if one.throttled_by is None else ", ".join(one.throttled_by) or "nothing",
    ),
    (
        "memory available, MB",
        lambda one: _number(one.available_bytes and one.available_bytes / 1e6, "{:.0f}"),
    ),
)


def moment_rows(before: Moment | None, after: Moment | None) -> list[tuple[str, str, str]]:
    """Name, value before and value after of what the machine told at either moment."""
    if before is None or after is None:
        return []
    rows = [(name, read(before) or "", read(after) or "") for name, read in _MOMENT]
    return [row for row in rows if row[1] or row[2]]


def _number(value: float | None, form: str) -> str | None:
    return None if value is None else form.format(value)


def _yes(value: bool | None) -> str | None:
    return None if value is None else ("yes" if value else "no")
