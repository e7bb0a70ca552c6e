"""Pairing by time: every rule on its own, and the whole against a brute-force oracle."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import numpy as np
import pytest

from edge_fusion.runtime.sync import (
    COLOR_ALONE,
    DEPTH_ALONE,
    JUMPS,
    OUT_OF_ORDER,
    PAIRS,
    NearestPairer,
)

MS = 1_000_000
Message = tuple[str, int]  # stream and stamp; the stamp is the item, too
Pair = tuple[int, int]


def feed(pairer: NearestPairer[int, int], messages: Iterable[Message]) -> list[Pair]:
    """Push messages in this order; the stamps of the pairs, the end of the streams included."""
    push = {"colour": pairer.color, "depth": pairer.depth}
    pairs = [pair for stream, stamp in messages for pair in push[stream](stamp, stamp)]
    pairs += pairer.flush()
    return [(colour, depth) for colour, depth, _ in pairs]


def by_time(colours: Iterable[int], depths: Iterable[int]) -> list[Message]:
    messages = [("colour", c) for c in colours] + [("depth", d) for d in depths]
    return sorted(messages, key=lambda message: message[1])


def nearest_to_each_other(colours: list[int], depths: list[int], tolerance: int) -> set[Pair]:
    """The oracle: all pairs of which each is the other's only nearest, by looking at every one."""
    apart = np.abs(np.subtract.outer(np.array(colours), np.array(depths)))
    found = set()
    for i, j in zip(*np.nonzero(apart <= tolerance), strict=True):
        nearest = apart[i, j]
        if (apart[i] <= nearest).sum() == 1 and (apart[:, j] <= nearest).sum() == 1:
            found.add((colours[i], depths[j]))
    return found


def most_pairs(colours: list[int], depths: list[int], tolerance: int) -> int:
    """The oracle of the count: most pairs in order that any choice could make."""
    best = np.zeros((len(colours) + 1, len(depths) + 1), np.int64)
    for i, colour in enumerate(colours):
        for j, depth in enumerate(depths):
            here = best[i, j] + (abs(colour - depth) <= tolerance)
            best[i + 1, j + 1] = max(best[i, j + 1], best[i + 1, j], here)
    return int(best[-1, -1])


@pytest.mark.parametrize(
    ("colours", "depths", "expected"),
    [
        # the same times
        ([0, 33, 66], [0, 33, 66], [(0, 0), (33, 33), (66, 66)]),
        # depth a little later; a little earlier
        ([0, 33, 66], [5, 38, 71], [(0, 5), (33, 38), (66, 71)]),
        ([5, 38, 71], [0, 33, 66], [(5, 0), (38, 33), (71, 66)]),
        # a lost colour image, a lost depth image
        ([0, 66], [0, 33, 66], [(0, 0), (66, 66)]),
        ([0, 33, 66], [0, 66], [(0, 0), (66, 66)]),
        # the second colour image is nearer to the first depth image than the first one is
        ([0, 14, 40], [10, 41], [(14, 10), (40, 41)]),
        # colour twice as fast
        ([0, 16, 33, 49, 66], [1, 34, 67], [(0, 1), (33, 34), (66, 67)]),
        # exactly the tolerance apart, and 1 more
        ([0, 100], [16, 117], [(0, 16)]),
        # each depth once: two colour images around one depth image
        ([0, 10], [5], [(0, 5)]),
        ([0, 33], [], []),
    ],
)
def test_pairs_the_nearest(colours: list[int], depths: list[int], expected: list[Pair]) -> None:
    pairer: NearestPairer[int, int] = NearestPairer(tolerance_ns=16)
    assert feed(pairer, by_time(colours, depths)) == expected
    alone = len(colours) - len(expected), len(depths) - len(expected)
    assert pairer.counts == {
        PAIRS: len(expected),
        COLOR_ALONE: alone[0],
        DEPTH_ALONE: alone[1],
        OUT_OF_ORDER: 0,
        JUMPS: 0,
    }


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("tolerance", [None, 5 * MS, 40 * MS])
def test_random_streams_against_the_oracles(seed: int, tolerance: int | None) -> None:
    rng = np.random.default_rng(seed)
    # Each stream begins with its shortest gap: later ones cannot surprise the pairer.
    periods = rng.choice([16, 33, 66], 2) * MS
    colours, depths = (
        np.cumsum([0, 8 * MS, *rng.choice([0.5, 1, 1, 1, 1.5, 2], 150) * period]).astype(int)
        + int(rng.integers(0, 33 * MS))
        for period in periods
    )
    pairer: NearestPairer[int, int] = NearestPairer(tolerance, waiting=64)
    late = {"colour": int(rng.integers(0, 60 * MS)), "depth": int(rng.integers(0, 60 * MS))}
    messages = sorted(by_time(colours, depths), key=lambda m: m[1] + late[m[0]])
    pairs = feed(pairer, messages)
    reach = pairer.tolerance_ns if tolerance is None else tolerance
    assert reach is not None
    assert len({c for c, _ in pairs}) == len({d for _, d in pairs}) == len(pairs)
    assert all(a < c and b < d for (a, b), (c, d) in pairwise(pairs))
    counts = pairer.counts
    assert counts[PAIRS] == len(pairs)
    assert counts[PAIRS] + counts[COLOR_ALONE] == len(colours)
    assert counts[PAIRS] + counts[DEPTH_ALONE] == len(depths)
    if tolerance is not None:  # a measured one is not yet steady at the beginning
        assert all(abs(c - d) <= reach for c, d in pairs)
        assert nearest_to_each_other(list(colours), list(depths), reach) <= set(pairs)
        # With a tolerance wider than a period the nearest partner costs some of the farther ones.
        assert len(pairs) >= 0.8 * most_pairs(list(colours), list(depths), reach)


@pytest.mark.parametrize(
    ("jitter_ms", "drop", "offset_ms", "rates", "least"),
    [
        (0, 0, 0, (30, 30), 0.999),
        (2, 0, 0, (30, 30), 0.999),
        (5, 0.1, 0, (30, 30), 0.88),
        (2, 0.1, 8, (30, 30), 0.88),
        (2, 0.1, 60, (30, 30), 0.88),  # declared: depth_offset_ns
        (2, 0.05, 0, (30, 15), 0.90),
        (2, 0.05, 0, (30, 60), 0.98),
    ],
)
def test_share_of_pairs_under_jitter_and_drops(
    jitter_ms: float, drop: float, offset_ms: float, rates: tuple[int, int], least: float
) -> None:
    rng = np.random.default_rng(0)
    streams = []
    for rate, offset in zip(rates, (0, offset_ms), strict=True):
        times = np.arange(100 * rate) * 1000 / rate + offset
        times = times + rng.normal(0, jitter_ms, len(times))
        streams.append((np.sort(times[rng.random(len(times)) >= drop]) * MS).astype(int))
    messages = sorted(by_time(*streams), key=lambda m: m[1] + rng.random() * 4 * MS)
    declared = int(offset_ms * MS) if offset_ms > 33 else 0
    pairer: NearestPairer[int, int] = NearestPairer(depth_offset_ns=declared)
    pairs = feed(pairer, messages)
    possible = min(len(stream) for stream in streams)
    assert len(pairs) >= least * possible
    if not jitter_ms:
        assert all(c == d for c, d in pairs)


def test_pairs_that_leave_no_doubt_do_not_wait() -> None:
    pairer: NearestPairer[int, int] = NearestPairer()
    feed_from = [(index * 33, index * 33 + 4) for index in range(20)]
    delivered = []
    for colour, depth in feed_from:
        list(pairer.color(colour, colour))
        delivered.append([d for _, d, _ in pairer.depth(depth, depth)])
    assert delivered[5:] == [[depth] for _, depth in feed_from[5:]]


def test_a_doubtful_pair_waits_for_the_nearer_partner() -> None:
    pairer: NearestPairer[int, int] = NearestPairer(tolerance_ns=16)
    assert list(pairer.color(0, 0)) == []
    assert list(pairer.depth(10, 10)) == []
    assert list(pairer.color(14, 14)) == []  # and now 14 waits for a depth image at 10 to 18
    assert list(pairer.depth(41, 41)) == [(14, 10, -4)]


def test_the_difference_is_given_without_the_offset() -> None:
    pairer: NearestPairer[str, str] = NearestPairer(tolerance_ns=16, depth_offset_ns=500)
    assert list(pairer.color(100, "colour")) == []
    assert list(pairer.depth(603, "depth")) == []
    assert list(pairer.flush()) == [("colour", "depth", 3)]


def test_pushing_works_without_reading_the_result() -> None:
    pairer: NearestPairer[int, int] = NearestPairer(tolerance_ns=16)
    pairer.color(0, 0)
    pairer.depth(1, 1)
    assert [d for _, _, d in pairer.flush()] == [1]


def test_repeated_and_late_stamps_are_refused() -> None:
    pairer: NearestPairer[int, int] = NearestPairer(tolerance_ns=16)
    messages = [("colour", 0), ("depth", 0), ("depth", 0), ("colour", 33), ("colour", 20)]
    assert feed(pairer, [*messages, ("depth", 33)]) == [(0, 0), (33, 33)]
    assert pairer.counts[OUT_OF_ORDER] == 2


HOUR = 3_600_000 * MS


def running(begin: int, end: int, shift: int = 0) -> list[Message]:
    times = [n * 33 * MS + shift for n in range(begin, end)]
    return by_time(times, [time + MS for time in times])


@pytest.mark.parametrize("shift", [HOUR, -HOUR])
def test_both_clocks_jump(shift: int) -> None:
    pairer: NearestPairer[int, int] = NearestPairer()
    messages = running(0, 50, 2 * HOUR) + running(50, 100, 2 * HOUR + shift)
    pairs = feed(pairer, messages)
    assert len(pairs) >= 98
    assert pairer.counts[JUMPS] == 2
    assert all(abs(c - d) == MS for c, d in pairs)


@pytest.mark.parametrize("shift", [HOUR, -HOUR])
@pytest.mark.parametrize("stream", ["colour", "depth"])
def test_one_clock_jumps_and_comes_back(stream: str, shift: int) -> None:
    pairer: NearestPairer[int, int] = NearestPairer()
    messages = [
        (name, stamp + shift * (name == stream and 30 <= number // 2 < 60))
        for number, (name, stamp) in enumerate(running(0, 100, 2 * HOUR))
    ]
    pairs = feed(pairer, messages)
    assert 65 <= len(pairs) <= 70
    assert pairer.counts[JUMPS] >= 2
    assert all(abs(c - d) == MS for c, d in pairs)


def test_one_wrong_stamp_costs_few_pairs() -> None:
    messages = running(0, 100, HOUR)
    messages[80] = ("colour", 5 * HOUR)
    pairer: NearestPairer[int, int] = NearestPairer()
    assert len(feed(pairer, messages)) >= 97


def test_a_pause_of_both_streams_is_survived() -> None:
    pairer: NearestPairer[int, int] = NearestPairer()
    assert len(feed(pairer, running(0, 20) + running(500, 520))) == 40


def test_memory_is_bounded_when_one_stream_is_silent() -> None:
    held: list[int] = []

    class Item:
        def __init__(self) -> None:
            held.append(1)

        def __del__(self) -> None:
            held.pop()

    pairer: NearestPairer[Item, Item] = NearestPairer(waiting=4)
    for number in range(1000):
        assert list(pairer.color(number * 33 * MS, Item())) == []
        assert len(held) <= 4
    assert pairer.counts[COLOR_ALONE] == 996
    list(pairer.flush())
    assert not held
    assert pairer.counts[COLOR_ALONE] == 1000


def test_a_stream_that_dies_and_returns() -> None:
    both = running(0, 30), running(60, 90)
    colour_alone = [message for message in running(30, 60) if message[0] == "colour"]
    pairer: NearestPairer[int, int] = NearestPairer()
    assert len(feed(pairer, [*both[0], *colour_alone, *both[1]])) == 60


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tolerance_ns": -1}, "a tolerance is not negative, got -1 ns"),
        ({"waiting": 1}, "two images of a stream must have room to wait, got 1"),
    ],
)
def test_impossible_options(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NearestPairer(**options)
