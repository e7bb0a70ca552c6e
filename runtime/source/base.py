"""What a source of RGB-D pairs is."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

from edge_fusion.errors import FrameError
from edge_fusion.frame import RgbdFrame

from ..sync import JUMPS, PAIRS


class Source(Protocol):
    """Anything that yields RGB-D pairs in order."""

    @property
    def uri(self) -> str:
        """Where the pairs come from, as the user wrote it, without credentials."""
        ...

    @property
    def live(self) -> bool:
        """Whether pairs come at their own pace: live sources drop late pairs, stored ones never."""
        ...

    def frames(self) -> Iterator[RgbdFrame]:
        """Every pair, once.

        Raises:
            SourceError: The source cannot be read any further.
            FrameError: One pair is unusable.
        """
        ...


@runtime_checkable
class StoredSource(Source, Protocol):
    """A source whose pairs are numbered and can be read in any order, any number of times."""

    def __len__(self) -> int:
        """How many pairs there are; at least one."""
        ...

    def __getitem__(self, index: int) -> RgbdFrame:
        """Pair ``index``, counting from 0; ``IndexError`` past the end."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Arrival:
    """A pair that has reached us and is not decoded yet: to drop it costs nothing.

    Attributes:
        id: Name of the pair inside its source.
        number: The device's frame number, or a count from 0; a gap says what was lost before us.
        timestamp_ns: The device's time of the pair in nanoseconds; 0 where it has none.
        arrival_ns: ``time.monotonic_ns()`` when it reached us; 0 for stored pairs.
        decode: Makes the frame; called once at most, from any thread.  It owns its bytes: nothing
            in it belongs to a driver.  Raises FrameError where the pair is damaged.
    """

    id: str
    number: int
    timestamp_ns: int
    arrival_ns: int
    decode: Callable[[], RgbdFrame]


Arrivals: TypeAlias = Generator["Arrival | FrameError | None", None, None]


@runtime_checkable
class ArrivingSource(Source, Protocol):
    """A source whose pairs can be dropped before they are decoded: cameras and recordings."""

    def arrivals(self) -> Arrivals:
        """Every pair as it arrives; closing the generator frees the device or the file.

        Yields:
            A pair; or the error of one that is known to be unusable; or None after half a second
            without either at the latest: only between two of them can the stream be ended.

        Raises:
            SourceError: The source cannot be read any further.
        """
        ...


@runtime_checkable
class CountingSource(Protocol):
    """A source that loses or repairs things before there are pairs, and counts them."""

    @property
    def counts(self) -> Mapping[str, int]:
        """How often what happened, such as ``{"colour without depth": 3, "reconnects": 1}``."""
        ...


def decoded(arrivals: Arrivals) -> Generator[RgbdFrame, None, None]:
    """The frames of arrivals, each decoded at once: what ``frames()`` of such a source returns."""
    try:
        for arrival in arrivals:
            if isinstance(arrival, FrameError):
                raise arrival
            if arrival is not None:
                yield arrival.decode()
    finally:
        arrivals.close()


# What sources count although it costs no image.
TIMES_LOST, RECONNECTS = "times lost", "reconnects"
UNSTAMPED = "messages without a time"
UNUSED_INFO = "CameraInfo of no use"
CLOCKS_DIFFER = "images timed by their arrival: the streams' clocks differ"

_NO_LOSSES = (PAIRS, JUMPS, TIMES_LOST, RECONNECTS, UNSTAMPED, UNUSED_INFO, CLOCKS_DIFFER)


def losses_of(source: Source) -> dict[str, int]:
    """What a source lost before there were pairs, by what it was; nothing that did not happen."""
    counts = source.counts if isinstance(source, CountingSource) else {}
    return {what: count for what, count in counts.items() if count and what not in _NO_LOSSES}
