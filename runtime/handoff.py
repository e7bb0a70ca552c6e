"""Handing items from one thread to the next: every one of them, or only the newest.

Both kinds end the same way. After :meth:`Handoff.close` nothing more can be put, a reader still
gets what is waiting, and then :class:`Closed` is raised: it is the end of the stream, not a fault.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Closed(Exception):
    """The other side has closed the handoff; for a reader: and nothing is left in it."""


class Handoff(ABC, Generic[T]):
    """A meeting point of one writing and one reading thread."""

    def __init__(self) -> None:
        self._items: deque[T] = deque()
        # One condition for both sides, always with notify_all: with notify a writer's wake-up
        # could go to another writer and be lost.
        self._changed = threading.Condition()
        self._closed = False

    @abstractmethod
    def put(self, item: T, timeout: float | None = None) -> T | None:
        """Hand ``item`` over.

        Args:
            item: What to hand over.
            timeout: Seconds to wait for room; None waits as long as it takes.

        Returns:
            The waiting item that ``item`` has overtaken and that nobody will read, or None.

        Raises:
            Closed: The handoff is closed.
            TimeoutError: There was no room in time.
        """

    def get(self, timeout: float | None = None) -> T:
        """Take the next item, waiting for it.

        Args:
            timeout: Seconds to wait; None waits as long as it takes.

        Raises:
            Closed: The handoff is closed and empty.
            TimeoutError: Nothing came in time.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._items or self._closed, timeout):
                raise TimeoutError(f"nothing was handed over in {timeout} s")
            if not self._items:
                raise Closed
            item = self._items.popleft()
            self._changed.notify_all()
            return item

    def close(self, *, discard: bool = False) -> int:
        """Take nothing more and wake everybody who waits; closing twice is allowed.

        Args:
            discard: Also throw away what is still waiting.

        Returns:
            How many items were thrown away.
        """
        with self._changed:
            self._closed = True
            thrown_away = len(self._items) if discard else 0
            if discard:
                self._items.clear()
            self._changed.notify_all()
            return thrown_away

    @property
    def closed(self) -> bool:
        """Whether nothing more can be put."""
        return self._closed

    def __len__(self) -> int:
        return len(self._items)

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise Closed


class LatestSlot(Handoff[T]):
    """Holds one item, the newest: a writer never waits, a slow reader misses items.

    Example:
        >>> slot = LatestSlot()
        >>> slot.put("first")
        >>> slot.put("second")
        'first'
        >>> slot.get()
        'second'
    """

    def put(self, item: T, timeout: float | None = None) -> T | None:
        """Replace whatever waits by ``item`` and return what was replaced; never waits."""
        with self._changed:
            self._refuse_if_closed()
            overtaken = self._items.pop() if self._items else None
            self._items.append(item)
            self._changed.notify_all()
            return overtaken


class BoundedQueue(Handoff[T]):
    """Holds up to ``size`` items in order and loses none: a fast writer waits for the reader.

    Example:
        >>> queue = BoundedQueue(size=2)
        >>> queue.put("a"), queue.put("b")
        (None, None)
        >>> queue.close()
        >>> queue.get(), queue.get()
        ('a', 'b')
    """

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ValueError(f"a queue needs room for at least one item, got {size}")
        super().__init__()
        self._size = size

    def put(self, item: T, timeout: float | None = None) -> T | None:
        """Append ``item`` as soon as there is room; nothing is ever overtaken."""
        with self._changed:
            free = self._changed.wait_for(
                lambda: self._closed or len(self._items) < self._size, timeout
            )
            if not free:
                raise TimeoutError(f"no room for {timeout} s")
            self._refuse_if_closed()
            self._items.append(item)
            self._changed.notify_all()
            return None
