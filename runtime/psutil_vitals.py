"""What psutil tells about this machine; comes by the extra ``telemetry``.

Linux tells CPU and memory in ``/proc`` too.  psutil adds temperatures of machines whose sensors are
no thermal zones, and systems without ``/proc``.
"""

from __future__ import annotations

from contextlib import suppress

import psutil

from .vitals import Vitals, plausible


class PsutilVitals:
    """Reads this machine, never a copied tree."""

    def __init__(self) -> None:
        psutil.cpu_percent()  # the first call only starts the measuring

    def read(self) -> Vitals:
        """How the machine is now; the load is since the last call."""
        memory = psutil.virtual_memory()
        return Vitals(
            temperatures_c=_temperatures_c(),
            cpu_load=min(psutil.cpu_percent() / 100, 1.0),
            memory_used_bytes=memory.total - memory.available,
        )


def _temperatures_c() -> dict[str, float]:
    """By chip and sensor; empty where the system has none, as on macOS and in most containers."""
    found: dict[str, float] = {}
    with suppress(AttributeError, OSError):
        for chip, sensors in psutil.sensors_temperatures().items():
            for number, sensor in enumerate(sensors, start=1):
                found[f"{chip} {sensor.label or number}"] = float(sensor.current)
    return plausible(found)
