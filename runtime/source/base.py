"""What a source of RGB-D pairs is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

from edge_fusion.frame import RgbdFrame


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
