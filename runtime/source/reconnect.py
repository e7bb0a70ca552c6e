"""A camera that comes back: opening a live source again, ever more patiently, when it is lost."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass

from edge_fusion.errors import SourceError
from edge_fusion.frame import RgbdFrame

from .arrivals import arrivals_of
from .base import Arrivals, CountingSource, Source, decoded

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

    One that cannot be opened to begin with fails at once: that is a wrong name or a missing cable,
    and whoever started the program is still there to be told.

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

    @property
    def uri(self) -> str:
        """That of the source."""
        return self._uri

    @property
    def counts(self) -> Mapping[str, int]:
        """What the sources counted, and how often they were lost and found again."""
        return {**self._summed(), "times lost": self._lost, "reconnects": self._reconnects}

    def _summed(self) -> dict[str, int]:
        now: Mapping[str, int] = (
            self._source.counts if isinstance(self._source, CountingSource) else {}
        )
        return {n: self._past.get(n, 0) + now.get(n, 0) for n in {**self._past, **now}}

    def frames(self) -> Generator[RgbdFrame, None, None]:
        """Every pair of every connection."""
        return decoded(self.arrivals())

    def arrivals(self) -> Arrivals:
        """Every pair of every connection; None while there is none.

        Raises:
            SourceError: It stayed lost for longer than the options allow.
        """
        while True:
            try:
                yield from self._until_lost()
                return  # a live source that ends by itself has ended
            except SourceError as err:
                loss = err
            self._lost += 1
            self._past, self._source = self._summed(), None
            self._note(f"lost {self._uri}: {loss.what}")
            yield from self._search(loss)
            self._reconnects += 1
            self._note(f"found {self._uri} again")

    def _until_lost(self) -> Arrivals:
        assert self._source is not None
        with closing(arrivals_of(self._source)) as arrivals:
            yield from arrivals

    def _search(self, loss: SourceError) -> Iterator[None]:
        """Try to open it again until that works."""
        began, pause_s = time.monotonic(), self._options.first_s
        while self._source is None:
            yield from _rest(pause_s)
            try:
                self._source = self._open()
            except SourceError as err:
                loss = err
            patience_s = self._options.patience_s
            if self._source is None and patience_s is not None:
                gone_s = time.monotonic() - began
                if gone_s > patience_s:
                    raise SourceError(
                        f"'{self._uri}' is lost",
                        expected=f"it back within {patience_s:g} s",
                        got=str(loss),
                    ) from loss
            pause_s = min(2 * pause_s, self._options.longest_s)


def _rest(seconds: float) -> Iterator[None]:
    until = time.monotonic() + seconds
    while (left_s := until - time.monotonic()) > 0:
        time.sleep(min(left_s, _GLANCE_S))
        yield None
