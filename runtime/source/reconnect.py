"""A camera that comes back: opening a live source again, ever more patiently, when it is lost."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass

from edge_fusion.errors import EdgeFusionError, SourceError
from edge_fusion.frame import RgbdFrame

from .arrivals import arrivals_of
from .base import (
    RECONNECTS,
    TIMES_LOST,
    Arrival,
    Arrivals,
    CountingSource,
    Source,
    decoded,
)
from .credentials import without_credentials

_GLANCE_S = 0.25  # how often whoever reads may end the stream while nothing comes


@dataclass(frozen=True, slots=True)
class ReconnectOptions:
    """How to get a lost camera back.

    Attributes:
        first_s: Pause before the first attempt, in seconds; doubled after each that failed.
        longest_s: The longest pause.
        patience_s: How long to try before giving up; None: for ever.
    """

    first_s: float = 0.5
    longest_s: float = 10.0
    patience_s: float | None = None


class Reconnecting:
    """A live source that is opened again when it fails after it has worked.

    It has worked once it gave a pair.  What fails before that is a wrong name, a busy device or a
    missing cable: it fails at once, for whoever started the program is still there to be told.

    Args:
        open: Opens the source; called again after every loss.
        options: How to get it back.
        note: Told in a sentence what happened, from the capturing thread.

    Raises:
        SourceError: It cannot be opened.
    """

    live = True

    def __init__(
        self,
        open: Callable[[], Source],
        options: ReconnectOptions | None = None,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._open, self._options, self._note = open, options or ReconnectOptions(), note
        self._source: Source | None = open()
        self._uri = self._source.uri
        self._past: dict[str, int] = {}
        self._lost = self._reconnects = 0
        self._worked = False

    @property
    def uri(self) -> str:
        """That of the source."""
        return self._uri

    @property
    def counts(self) -> Mapping[str, int]:
        """What the sources counted, and how often they were lost and found again."""
        return {**self._summed(), TIMES_LOST: self._lost, RECONNECTS: self._reconnects}

    def _summed(self) -> dict[str, int]:
        source = self._source  # once: the capturing thread may lose it meanwhile
        now: Mapping[str, int] = source.counts if isinstance(source, CountingSource) else {}
        return {n: self._past.get(n, 0) + now.get(n, 0) for n in {**self._past, **now}}

    def frames(self) -> Generator[RgbdFrame, None, None]:
        """Every pair of every connection."""
        return decoded(self.arrivals())

    def arrivals(self) -> Arrivals:
        """Every pair of every connection; None while there is none.

        Raises:
            SourceError: It never gave a pair, or stayed lost for longer than the options allow.
        """
        search: _Search | None = None  # from a loss to the first pair after it
        while True:
            try:
                if self._source is None:
                    self._source = self._open()
                with closing(arrivals_of(self._source)) as arrivals:
                    for arrival in arrivals:
                        if isinstance(arrival, Arrival):
                            self._found(search)
                            search = None
                        yield arrival
                return  # a live source that ends by itself has ended
            except Exception as err:  # a driver that loses its camera raises whatever it likes
                self._past, self._source = self._summed(), None
                if not self._worked:
                    raise
                loss = self._as_loss(err)
                if search is None:
                    search = self._missed(loss)
                elif search.hopeless:
                    raise self._given_up(loss) from err
            yield from search.rest()

    def _found(self, search: _Search | None) -> None:
        """It gave a pair: not before that is a connection known to be of any use."""
        self._worked = True
        if search is not None:
            self._reconnects += 1
            self._note(f"found {self._uri} again")

    def _as_loss(self, err: Exception) -> EdgeFusionError:
        if isinstance(err, EdgeFusionError):
            return err
        told = without_credentials(f"{type(err).__name__}: {err}")  # it may quote an address
        return SourceError(f"reading '{self._uri}' failed", got=told)

    def _missed(self, loss: EdgeFusionError) -> _Search:
        self._lost += 1
        self._note(f"lost {self._uri}: {loss}")
        return _Search(self._options)

    def _given_up(self, loss: EdgeFusionError) -> SourceError:
        return SourceError(
            f"'{self._uri}' is lost",
            expected=f"it back within {self._options.patience_s:g} s",
            got=str(loss),
        )


class _Search:
    """How long a source has been away, and the pauses between attempts to get it back."""

    def __init__(self, options: ReconnectOptions) -> None:
        self._options, self._pause_s = options, options.first_s
        self._began = time.monotonic()

    @property
    def hopeless(self) -> bool:
        patience_s = self._options.patience_s
        return patience_s is not None and time.monotonic() - self._began > patience_s

    def rest(self) -> Iterator[None]:
        """Pause before the next attempt, longer every time."""
        until = time.monotonic() + self._pause_s
        self._pause_s = min(2 * self._pause_s, self._options.longest_s)
        while (left_s := until - time.monotonic()) > 0:
            time.sleep(min(left_s, _GLANCE_S))
            yield None
