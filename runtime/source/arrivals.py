"""Every kind of source as one stream of arrivals, its unusable pairs included."""

from __future__ import annotations

from collections.abc import Generator, Iterator

from edge_fusion.errors import FrameError
from edge_fusion.frame import RgbdFrame

from .base import Arrival, Arrivals, ArrivingSource, Source, StoredSource


def arrivals_of(source: Source) -> Arrivals:
    """Every pair of a source, or in its place the error that makes it unusable.

    Example:
        >>> from .demo import DemoSource                               # doctest: +SKIP
        >>> [pair.number for pair in arrivals_of(DemoSource(frames=2))]  # doctest: +SKIP
        [0, 1]
    """
    if isinstance(source, StoredSource) and not source.live:
        return _read_each(source)
    if isinstance(source, ArrivingSource):
        return source.arrivals()
    return _take_each(source.frames())


def _read_each(source: StoredSource) -> Arrivals:
    for index in range(len(source)):
        try:
            frame = source[index]
        except FrameError as err:
            yield err
        else:
            yield arrival_of(frame)


def _take_each(pairs: Iterator[RgbdFrame]) -> Arrivals:
    try:
        while True:
            try:
                frame = next(pairs)
            except StopIteration:
                return
            except FrameError as err:
                if isinstance(pairs, Generator):
                    raise  # a generator that raised is at its end: nothing would follow
                yield err
            else:
                yield arrival_of(frame)
    finally:
        if isinstance(pairs, Generator):
            pairs.close()  # here, in the thread that runs it: it may hold a camera


def arrival_of(frame: RgbdFrame) -> Arrival:
    """A frame that is decoded already."""
    return Arrival(frame.id, frame.number, frame.timestamp_ns, frame.arrival_ns, lambda: frame)
