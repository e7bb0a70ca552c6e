"""How long a source that should deliver may say nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from edge_fusion.errors import SourceError


class Silence:
    """Notices that nothing came for too long.

    Args:
        name: What is listened to, for the message.
        timeout_s: How long it may be silent.
        cure: What to do about it.
        so_far: What came until then, for the message.
    """

    def __init__(
        self, name: str, timeout_s: float, cure: str, so_far: Callable[[], str] = str
    ) -> None:
        self._name, self._timeout_s, self._cure, self._so_far = name, timeout_s, cure, so_far
        self._since = time.monotonic()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """The time in which nobody asks for a pair does not count."""
        began = time.monotonic()
        yield
        self._since += time.monotonic() - began

    def check(self, heard: bool) -> None:
        """Note whether something came.

        Raises:
            SourceError: Nothing did for too long.
        """
        if heard:
            self._since = time.monotonic()
        elif time.monotonic() - self._since > self._timeout_s:
            raise SourceError(
                f"{self._name} sent no pair for {self._timeout_s:g} s",
                got=self._so_far(),
                cure=self._cure,
            )
