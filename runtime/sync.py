"""Pairing two streams by time: each depth image with the colour image nearest to it.

Let ``a`` be the oldest colour image that waits and ``b`` the oldest depth image.  Farther apart
than the tolerance, the earlier of them has no partner: whatever comes later is farther away.
Within it they are a pair, unless the next image of the earlier one's stream lies nearer to the
later one: then the earlier one has no partner.  Each image is used once, and pairs keep their
order.

That next image may not be here yet.  To be nearer it would have to follow within ``2 |a - b|``; if
no image of its stream followed that soon of late, the pair is taken for certain and does not wait
for it.  So two images that are each other's nearest become a pair as a rule, not always: where one
follows sooner than any did of late, its partner may have been given to the image before it, and
where more images wait than there is room for, the oldest are paired or given up as they are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, Generic, TypeVar

A = TypeVar("A")
B = TypeVar("B")
T = TypeVar("T")

PAIRS = "pairs"
COLOR_ALONE = "colour without depth"
DEPTH_ALONE = "depth without colour"
OUT_OF_ORDER = "out of order"
JUMPS = "jumps in time"

_RECENT = 32  # gaps that tell a stream's period and its shortest gap
_JUMP_NS = 500_000_000  # farther back than any reordering, longer than the gaps of most cameras
_JUMP_PERIODS = 8


class NearestPairer(Generic[A, B]):
    """Pairs colour with depth by the nearest timestamps.

    Stamps of one stream are expected to grow; the two streams may come interleaved in any way.  A
    stamp that repeats or lies a little before the last one is refused; one far from it is a jump of
    the clock: what waited from before it is given up, and pairing goes on.  At most ``waiting``
    images of each stream are held.  Not for several threads at once.

    Args:
        tolerance_ns: Farthest apart that a pair may be; None: half the period of the slower
            stream, measured as it runs.
        depth_offset_ns: What the depth's clock shows more than the colour's at the same moment; it
            is subtracted from every depth stamp.
        waiting: Images of each stream that may wait for a partner, at least 2.

    Example:
        >>> pairer: NearestPairer[str, str] = NearestPairer(tolerance_ns=10)
        >>> list(pairer.color(100, "colour 1")), list(pairer.depth(103, "depth 1"))
        ([], [])
        >>> list(pairer.color(133, "colour 2"))
        [('colour 1', 'depth 1', 3)]
        >>> list(pairer.depth(136, "depth 2"))
        [('colour 2', 'depth 2', 3)]
    """

    def __init__(
        self, tolerance_ns: int | None = None, depth_offset_ns: int = 0, waiting: int = 4
    ) -> None:
        if tolerance_ns is not None and tolerance_ns < 0:
            raise ValueError(f"a tolerance is not negative, got {tolerance_ns} ns")
        if waiting < 2:
            raise ValueError(f"two images of a stream must have room to wait, got {waiting}")
        self._tolerance_ns, self._offset_ns = tolerance_ns, depth_offset_ns
        self._colors: _Lane[A] = _Lane(waiting)
        self._depths: _Lane[B] = _Lane(waiting)
        self._pairs = 0

    @property
    def counts(self) -> Mapping[str, int]:
        """What became of the images that wait no longer.

        ``pairs``; ``colour without depth`` and ``depth without colour``; ``out of order``, images
        refused for a stamp that repeats or comes too late; ``jumps in time``, of either stream.
        """
        colors, depths = self._colors, self._depths
        return {
            PAIRS: self._pairs,
            COLOR_ALONE: colors.alone,
            DEPTH_ALONE: depths.alone,
            OUT_OF_ORDER: colors.refused + depths.refused,
            JUMPS: colors.jumps + depths.jumps,
        }

    @property
    def tolerance_ns(self) -> int | None:
        """Farthest apart that a pair may be now; None: not known before both streams run."""
        if self._tolerance_ns is not None:
            return self._tolerance_ns
        periods = self._colors.period_ns, self._depths.period_ns
        return max(periods) // 2 if min(periods) else None

    def color(self, stamp_ns: int, item: A) -> Iterator[tuple[A, B, int]]:
        """Take a colour image.

        Args:
            stamp_ns: Its time in nanoseconds.
            item: Anything; it comes back in its pair.

        Returns:
            The pairs that became certain, oldest first: colour, depth, and by how many
            nanoseconds the depth is later, its offset subtracted.
        """
        self._colors.take(stamp_ns, item, self._depths)
        return iter(self._certain())

    def depth(self, stamp_ns: int, item: B) -> Iterator[tuple[A, B, int]]:
        """Take a depth image; otherwise as :meth:`color`."""
        self._depths.take(stamp_ns - self._offset_ns, item, self._colors)
        return iter(self._certain())

    def flush(self) -> Iterator[tuple[A, B, int]]:
        """The pairs that still waited for a nearer partner; both streams are at their end."""
        pairs = self._certain(ended=True)
        self._colors.give_up()
        self._depths.give_up()
        return iter(pairs)

    def _certain(self, ended: bool = False) -> list[tuple[A, B, int]]:
        colors, depths = self._colors, self._depths
        tolerance_ns = self.tolerance_ns
        pairs: list[tuple[A, B, int]] = []
        while tolerance_ns is not None and colors.waiting and depths.waiting:
            apart_ns = depths.waiting[0][0] - colors.waiting[0][0]
            earlier: _Lane[Any] = colors if apart_ns >= 0 else depths
            nearer = earlier.comes_within(2 * abs(apart_ns))
            if abs(apart_ns) > tolerance_ns or nearer:
                earlier.pass_over()
            elif nearer is None and not (ended or colors.full or depths.full):
                break
            else:
                pairs.append((colors.waiting.popleft()[1], depths.waiting.popleft()[1], apart_ns))
        colors.keep_to_room()
        depths.keep_to_room()
        self._pairs += len(pairs)
        return pairs


class _Lane(Generic[T]):
    """One stream: what waits, oldest first, and the gaps between its stamps."""

    def __init__(self, room: int) -> None:
        self.waiting: deque[tuple[int, T]] = deque()
        self.alone = self.refused = self.jumps = 0
        self.period_ns = 0  # median of the recent gaps; 0: not known yet
        self._room = room
        self._gaps: deque[int] = deque(maxlen=_RECENT)
        self._shortest_ns = 0
        self._last_ns: int | None = None

    @property
    def full(self) -> bool:
        return len(self.waiting) >= self._room

    def take(self, stamp_ns: int, item: T, other: _Lane[Any]) -> None:
        """Append an item, or refuse it for its stamp."""
        if self._last_ns is not None:
            gap_ns = stamp_ns - self._last_ns
            jump_ns = max(_JUMP_NS, _JUMP_PERIODS * self.period_ns)
            if -jump_ns <= gap_ns <= 0:
                self.refused += 1
                return
            if gap_ns < 0:
                self.jumps += 1
                self.give_up()
                # The other stream's images from before the jump would outlast every new one; those
                # that jumped along are at the near end of it.
                other.give_up(after_ns=stamp_ns - gap_ns // 2)
            else:
                self.jumps += bool(self._gaps) and gap_ns > jump_ns
                self._learn(gap_ns)
        self._last_ns = stamp_ns
        self.waiting.append((stamp_ns, item))

    def comes_within(self, span_ns: int) -> bool | None:
        """Whether the item after the oldest follows within less than a span; None: not certain."""
        if len(self.waiting) > 1:
            return self.waiting[1][0] - self.waiting[0][0] < span_ns
        return False if span_ns <= self._shortest_ns else None

    def pass_over(self) -> None:
        """The oldest item has no partner."""
        self.waiting.popleft()
        self.alone += 1

    def give_up(self, after_ns: int | None = None) -> None:
        """No item that waits has a partner; or only none of those after a time."""
        kept = [one for one in self.waiting if after_ns is not None and one[0] <= after_ns]
        self.alone += len(self.waiting) - len(kept)
        self.waiting = deque(kept)

    def keep_to_room(self) -> None:
        while len(self.waiting) > self._room:
            self.pass_over()

    def _learn(self, gap_ns: int) -> None:
        self._gaps.append(gap_ns)
        ordered = sorted(self._gaps)
        self.period_ns = ordered[len(ordered) // 2]
        self._shortest_ns = ordered[0]
