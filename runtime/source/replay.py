"""Playing a stored source otherwise than once, whole and as fast as possible."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import Literal

from edge_fusion.errors import SourceError
from edge_fusion.frame import RgbdFrame

from .arrivals import arrivals_of
from .base import Arrival, Arrivals, CountingSource, Source, StoredSource, decoded

Pace = Literal["fast", "real"] | float

_USUAL_FPS = 30.0  # of a source without timestamps
_LONGEST_STEP_S = 1.0  # a recording that pauses longer, or runs backwards, goes on at its own rate
_GLANCE_S = 0.5  # how often whoever reads may end the stream while nothing is due


@dataclass(frozen=True, slots=True)
class ReplayOptions:
    """How to play a stored source.

    Attributes:
        start: Pairs to leave out at the beginning.
        stride: Take every so-manieth pair.
        loop: Begin again at the end, without end.
        pace: ``fast`` as possible; or live, as a camera: at the ``real`` pace of the timestamps,
            30 pairs a second where there are none, or at so many pairs a second.

    Raises:
        SourceError: An option is out of range.
    """

    start: int = 0
    stride: int = 1
    loop: bool = False
    pace: Pace = "fast"

    def __post_init__(self) -> None:
        for name, least in (("start", 0), ("stride", 1)):
            if getattr(self, name) < least:
                raise SourceError(name, expected=f"{least} or more", got=str(getattr(self, name)))
        if not isinstance(self.pace, str) and not 0.1 <= self.pace <= 1000:
            raise SourceError("pace", expected="0.1 to 1000 pairs a second", got=f"{self.pace:g}")

    @property
    def selects(self) -> bool:
        """Whether some pairs are left out."""
        return self.start > 0 or self.stride > 1

    @property
    def query(self) -> str:
        """What differs from playing it once, as a URI has it."""
        usual = ReplayOptions()
        named = {name: getattr(self, name) for name in self.__slots__}
        changed = {n: v for n, v in named.items() if v != getattr(usual, n)}
        return "&".join(f"{n}={v if isinstance(v, str) else f'{v:g}'}" for n, v in changed.items())


def replayed(source: Source, options: ReplayOptions) -> Source:
    """A stored source, played as the options say; as it is where they say nothing.

    Args:
        source: A source that is not live.
        options: How to play it.

    Raises:
        SourceError: It starts beyond the end.

    Example:
        >>> from .demo import DemoSource                                       # doctest: +SKIP
        >>> few = replayed(DemoSource(frames=10), ReplayOptions(start=4, stride=3))
        ...                                                                    # doctest: +SKIP
        >>> [frame.number for frame in few.frames()]                           # doctest: +SKIP
        [4, 7]
    """
    if options.loop or options.pace != "fast":
        return Replay(source, options)
    if not options.selects:
        return source
    return (
        Selection(source, options) if isinstance(source, StoredSource) else Replay(source, options)
    )


def _with_query(uri: str, query: str) -> str:
    return uri + ("&" if "?" in uri else "?") + query if query else uri


class Selection:
    """Some of the pairs of a source that can be read in any order; their numbers stay.

    Args:
        source: The source.
        options: ``start`` and ``stride``.

    Raises:
        SourceError: It starts beyond the end.
    """

    live = False

    def __init__(self, source: StoredSource, options: ReplayOptions) -> None:
        self._source, self._options = source, options
        self._indices = range(options.start, len(source), options.stride)
        if not self._indices:
            raise SourceError(
                f"start={options.start} lies beyond the end of '{source.uri}'",
                expected=f"less than its {len(source)} pairs",
            )

    @property
    def uri(self) -> str:
        """The URI that opens an equal source."""
        return _with_query(self._source.uri, self._options.query)

    def __len__(self) -> int:
        """How many pairs are left."""
        return len(self._indices)

    def __getitem__(self, index: int) -> RgbdFrame:
        """Pair ``index`` of those that are left."""
        if index < 0:
            raise IndexError(f"pair {index}")
        return self._source[self._indices[index]]

    def frames(self) -> Iterator[RgbdFrame]:
        """Every pair that is left, in order."""
        return (self[index] for index in range(len(self)))


class Replay:
    """A stored source played in a loop, at a camera's pace, or from somewhere in its middle.

    Numbers go on counting from loop to loop.  It is live unless it is played as fast as possible.

    Args:
        source: A source that is not live.
        options: How to play it.
    """

    def __init__(self, source: Source, options: ReplayOptions) -> None:
        self._source, self._options = source, options
        self.live = options.pace != "fast"

    @property
    def uri(self) -> str:
        """The URI that opens an equal source."""
        return _with_query(self._source.uri, self._options.query)

    @property
    def endless(self) -> bool:
        """Whether it begins again at its end."""
        return self._options.loop

    @property
    def counts(self) -> Mapping[str, int]:
        """What the source itself counts."""
        return self._source.counts if isinstance(self._source, CountingSource) else {}

    def frames(self) -> Generator[RgbdFrame, None, None]:
        """Every pair as it is due."""
        return decoded(self.arrivals())

    def arrivals(self) -> Arrivals:
        """Every pair as it is due, not decoded yet."""
        clock = _Clock(self._options.pace) if self.live else None
        number = count()
        for arrival in self._selected():
            if not isinstance(arrival, Arrival):
                yield arrival
                continue
            if clock is not None:
                yield from clock.wait_for(arrival.timestamp_ns)
            yield _as_due(arrival, next(number), time.monotonic_ns() if self.live else 0)

    def _selected(self) -> Arrivals:
        """The pairs that are wanted, again and again where it loops."""
        while True:
            seen = 0
            for arrival in self._once():
                if arrival is not None:
                    seen += 1
                    position = seen - 1 - self._options.start
                    if position < 0 or position % self._options.stride:
                        continue
                yield arrival
            if seen <= self._options.start:
                raise SourceError(
                    f"start={self._options.start} lies beyond the end of '{self._source.uri}'",
                    expected=f"less than its {seen} pairs",
                )
            if not self._options.loop:
                return

    def _once(self) -> Arrivals:
        """All pairs, read as late as possible: one that is dropped costs nothing."""
        source = self._source
        if not isinstance(source, StoredSource) or self._options.pace == "real":
            yield from arrivals_of(source)  # read at once: its time is known only then
            return
        for index in range(len(source)):
            yield Arrival(f"pair {index}", index, 0, 0, partial(source.__getitem__, index))


def _as_due(arrival: Arrival, number: int, arrival_ns: int) -> Arrival:
    """The pair as if it had arrived just now."""

    def decode() -> RgbdFrame:
        return replace(arrival.decode(), number=number, arrival_ns=arrival_ns)

    return replace(arrival, number=number, arrival_ns=arrival_ns, decode=decode)


class _Clock:
    """Waits until a pair is due."""

    def __init__(self, pace: Pace) -> None:
        self._by_timestamp = pace == "real"
        self._period_s = 1 / (_USUAL_FPS if isinstance(pace, str) else pace)
        self._due_s = 0.0
        self._last_ns: int | None = None

    def wait_for(self, timestamp_ns: int) -> Iterator[None]:
        """Sleep until the pair of this time is due, giving way twice a second."""
        if self._last_ns is None:
            self._due_s = time.monotonic()
        else:
            step_s = (timestamp_ns - self._last_ns) / 1e9
            in_order = self._by_timestamp and timestamp_ns > 0 and 0 <= step_s <= _LONGEST_STEP_S
            self._due_s += step_s if in_order else self._period_s
        self._last_ns = timestamp_ns
        while (left_s := self._due_s - time.monotonic()) > 0:
            time.sleep(min(left_s, _GLANCE_S))
            if left_s > _GLANCE_S:
                yield None
