"""What a frame costs in energy: each variant by itself, without a pause, where power can be read.

Latency is measured in turns of a few milliseconds, which no power monitor can tell apart.  So
energy has a turn of its own: rest first, then one variant for some seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from edge_fusion.preprocess import Inputs

from .energy import Energy
from .run_meter import RunMeter
from .session import Session
from .telemetry import Sampler, open_telemetry


def measure_energy(
    sessions: Mapping[str, Session],
    inputs: Mapping[str, Sequence[Inputs]],
    seconds: float,
    *,
    idle_s: float = 2.0,
    progress: Callable[[int, int], None] = lambda done, total: None,
    root: Path = Path("/"),
) -> dict[str, Energy]:
    """Energy of a frame's inference by variant.

    Args:
        sessions: Open sessions by variant.
        inputs: Prepared frames by variant.
        seconds: How long each one runs.
        idle_s: How long the machine rests before, to tell what it draws at rest.
        progress: Told variants done and variants in all.
        root: The folder that stands for ``/``.

    Returns:
        By variant; empty where no power can be read, at once.
    """
    if seconds <= 0 or not power_can_be_read(root):
        return {}
    found: dict[str, Energy] = {}
    progress(0, len(sessions))
    for variant, session in sessions.items():
        with Sampler(open_telemetry(root)) as sampler:
            meter = RunMeter(sampler)
            meter.measure_idle(idle_s)
            found[variant] = _run(session, inputs[variant], meter, seconds)
        progress(len(found), len(sessions))
    return found


def power_can_be_read(root: Path = Path("/")) -> bool:
    """Whether this machine tells what it draws in all."""
    telemetry = open_telemetry(root)
    try:
        return telemetry.sample().total_mw is not None
    finally:
        telemetry.close()


def _run(session: Session, inputs: Sequence[Inputs], meter: RunMeter, seconds: float) -> Energy:
    session.run(inputs[0])
    meter.frame()
    until, number = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        number += 1
        session.run(inputs[number % len(inputs)])
        meter.frame()
    return meter.summary().energy
