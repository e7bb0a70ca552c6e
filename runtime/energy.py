"""Energy of a stream from samples of power: whole, and net of what the machine draws at rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

_LONGEST_GAP_S = 2.0  # between two samples; what happened in a longer one is not known
_LEAST_COVERED = 0.9  # of the time, for a figure at all


class Power(NamedTuple):
    """Power at one moment."""

    at_ns: int
    mw: int | None


class Integral(NamedTuple):
    """Energy over the part of a time that samples cover."""

    mj: float = 0.0
    covered_s: float = 0.0
    samples: int = 0

    def plus(self, other: Integral) -> Integral:
        """Both together."""
        return Integral(
            self.mj + other.mj, self.covered_s + other.covered_s, self.samples + other.samples
        )


@dataclass(frozen=True, slots=True)
class Energy:
    """Energy between the first frame and the last.

    Opening a camera and the model's first run are before the first frame and so not in it.

    Attributes:
        frames: Frames after the first one.
        seconds: From the first frame to the last.
        samples: Samples of power in between.
        covered: Share of that time between samples that are close enough, 0..1.
        gross_mj: Everything the board or module drew; None where power is not measured, or less
            than nine tenths of the time is covered.
        idle_mw: What it drew at rest before; None where that was not measured.
        net_mj: ``gross_mj`` less the energy at rest over the same time.
    """

    frames: int
    seconds: float
    samples: int
    covered: float
    gross_mj: float | None
    idle_mw: float | None
    net_mj: float | None

    @property
    def mean_mw(self) -> float | None:
        """Mean power."""
        return None if self.gross_mj is None else self.gross_mj / self.seconds

    @property
    def gross_mj_per_frame(self) -> float | None:
        """Energy of a frame, rest included."""
        return None if self.gross_mj is None else self.gross_mj / self.frames

    @property
    def net_mj_per_frame(self) -> float | None:
        """Energy of a frame beyond rest."""
        return None if self.net_mj is None else self.net_mj / self.frames

    def as_dict(self) -> dict[str, float | int | None]:
        """Everything by name, for JSON."""
        names = (*self.__slots__, "mean_mw", "gross_mj_per_frame", "net_mj_per_frame")
        return {name: getattr(self, name) for name in names}


def integrate(first: Power, last: Power, start_ns: int, end_ns: int) -> Integral:
    """Energy between two samples next to each other, as far as it lies within a time.

    Power is taken to change evenly from one to the other (the trapezoidal rule).

    Example:
        >>> integrate(Power(0, 1000), Power(10**9, 3000), 0, 5 * 10**8).mj
        750.0
    """
    start, end = max(start_ns, first.at_ns), min(end_ns, last.at_ns)
    samples = int(last.mw is not None and start_ns <= last.at_ns <= end_ns)
    span_ns = last.at_ns - first.at_ns
    if start >= end or first.mw is None or last.mw is None or span_ns > _LONGEST_GAP_S * 1e9:
        return Integral(samples=samples)
    middle = ((start + end) / 2 - first.at_ns) / span_ns
    seconds = (end - start) / 1e9
    return Integral((first.mw + (last.mw - first.mw) * middle) * seconds, seconds, samples)


class EnergyMeter:
    """Adds up energy while samples and frames come in, in constant memory.

    The end of a stream is known only afterwards: it is the last frame.  So what came after the
    last frame so far is kept apart until the next one.  Not safe to use from two threads.

    Example:
        >>> meter = EnergyMeter(idle_mw=1000)
        >>> for second in range(5):
        ...     meter.power(second * 10**9, 3000)
        >>> meter.result().gross_mj is None  # there was no frame
        True
    """

    def __init__(self, idle_mw: float | None = None) -> None:
        self.idle_mw = idle_mw
        self._frames = 0
        self._first_ns = self._last_ns = 0
        self._before: Power | None = None
        self._until_last = Integral()
        self._edge: tuple[Power, Power] | None = None  # the samples around the last frame
        self._after_edge = Integral()

    def power(self, at_ns: int, mw: int | None) -> None:
        """Take a sample; None for one in which no rail answered."""
        before, self._before = self._before, Power(at_ns, mw)
        if before is None or not self._frames or at_ns <= before.at_ns:
            return
        piece = integrate(before, self._before, self._first_ns, at_ns)
        if at_ns <= self._last_ns:  # a frame came while it was read
            self._until_last = self._until_last.plus(piece)
        elif self._edge is None:
            self._edge = before, self._before
        else:
            self._after_edge = self._after_edge.plus(piece)

    def frame(self, at_ns: int) -> None:
        """Note that a frame is through."""
        self._frames += 1
        if self._frames == 1:
            self._first_ns = self._last_ns = at_ns
            return
        if self._edge is not None and self._edge[1].at_ns <= at_ns:
            until = self._until_last.plus(integrate(*self._edge, self._first_ns, at_ns))
            self._until_last = until.plus(self._after_edge)
            self._edge, self._after_edge = None, Integral()
        self._last_ns = max(at_ns, self._last_ns)

    def result(self) -> Energy:
        """The account from the first frame to the last."""
        seconds = (self._last_ns - self._first_ns) / 1e9
        whole = self._until_last
        if self._edge is not None:
            whole = whole.plus(integrate(*self._edge, self._first_ns, self._last_ns))
        covered = min(whole.covered_s / seconds, 1.0) if seconds > 0 else 0.0
        known = covered >= _LEAST_COVERED
        gross = whole.mj * seconds / whole.covered_s if known else None
        net = None if gross is None or self.idle_mw is None else gross - self.idle_mw * seconds
        return Energy(
            frames=max(self._frames - 1, 0),
            seconds=seconds,
            samples=whole.samples,
            covered=covered,
            gross_mj=gross,
            idle_mw=self.idle_mw,
            net_mj=net,
        )
