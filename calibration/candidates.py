"""Pairs of any source that are numbered but not read yet, up to the end that was asked for."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import closing

from edge_fusion.errors import CalibrationError, FrameError
from edge_fusion.frame import RgbdFrame
from edge_fusion.runtime.source.arrivals import arrivals_of
from edge_fusion.runtime.source.base import Arrival, Source, StoredSource

Candidate = Callable[[], RgbdFrame]
Candidates = Generator[tuple[int, Candidate], None, None]


def candidates(source: Source, seconds: float | None = None) -> Candidates:
    """Every pair of a source, as its number and what reads it.

    Args:
        source: A source.
        seconds: Stop after so many seconds: of a camera by the clock, of a recording by its
            timestamps.

    Raises:
        CalibrationError: Seconds are asked of pairs without timestamps.
        SourceError: The source cannot be read any further.
    """
    if source.live:
        return _live(source, seconds)
    found = _stored(source) if isinstance(source, StoredSource) else _streamed(source)
    return found if seconds is None else _within(found, seconds, source)


def _live(source: Source, seconds: float | None) -> Candidates:
    started = time.monotonic()
    with closing(_streamed(source, idle=True)) as found:
        for number, candidate in found:
            if seconds is not None and time.monotonic() - started > seconds:
                return
            if number >= 0:
                yield number, candidate


def _streamed(source: Source, *, idle: bool = False) -> Candidates:
    """In order; with ``idle`` also a number below 0 now and then while nothing comes."""
    with closing(arrivals_of(source)) as arrivals:
        number = 0
        for arrival in arrivals:
            if arrival is None:
                if idle:
                    yield -1, _nothing
                continue
            yield number, arrival.decode if isinstance(arrival, Arrival) else _raising(arrival)
            number += 1


def _stored(source: StoredSource) -> Candidates:
    for number in range(len(source)):
        yield number, _reading(source, number)


def _within(found: Candidates, seconds: float, source: Source) -> Candidates:
    first_ns: int | None = None
    with closing(found):
        for number, candidate in found:
            try:
                frame = candidate()
            except (FrameError, CalibrationError):
                yield number, candidate  # whoever reads it is told again, and decides
                continue
            if first_ns is None:
                first_ns = frame.timestamp_ns
            elif not frame.timestamp_ns:
                raise CalibrationError(
                    f"the pairs of '{source.uri}' have no timestamps",
                    cure="leave --seconds out: --limit N and --every N count pairs",
                )
            if (frame.timestamp_ns - first_ns) / 1e9 > seconds:
                return
            yield number, _known(frame)


def _reading(source: StoredSource, number: int) -> Candidate:
    return lambda: source[number]


def _known(frame: RgbdFrame) -> Candidate:
    return lambda: frame


def _raising(err: FrameError) -> Candidate:
    def raise_it() -> RgbdFrame:
        raise err

    return raise_it


def _nothing() -> RgbdFrame:
    raise AssertionError("there is no pair")
