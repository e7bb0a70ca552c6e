from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
import pytest

from edge_fusion.errors import SourceError
from edge_fusion.frame import RgbdFrame
from edge_fusion.runtime.source.base import Arrival, Arrivals, StoredSource
from edge_fusion.runtime.source.demo import DemoSource
from edge_fusion.runtime.source.replay import Replay, ReplayOptions, Selection, replayed
from edge_fusion.spec import DepthSpec

MM = DepthSpec(scale_to_m=0.001)


def frame(number: int, timestamp_ns: int = 0) -> RgbdFrame:
    rgb = np.full((8, 8, 3), number, np.uint8)
    return RgbdFrame(rgb, np.full((8, 8), 800, np.uint16), MM, f"f{number}", number, timestamp_ns)


class Recording:
    """A recording that can only be read in order; nothing comes between its pairs."""

    live, uri = False, "memory://recording?x=1"

    def __init__(self, stamps_ms: Sequence[float]) -> None:
        self.stamps_ns = [round(ms * 1e6) for ms in stamps_ms]
        self.decoded: list[int] = []
        self.counts = {"colour without depth": 1}

    def arrivals(self) -> Arrivals:
        for number, stamp_ns in enumerate(self.stamps_ns):
            yield None
            yield Arrival(
                f"f{number}", number, stamp_ns, 0, lambda n=number, s=stamp_ns: self.get(n, s)
            )

    def get(self, number: int, stamp_ns: int) -> RgbdFrame:
        self.decoded.append(number)
        return frame(number, stamp_ns)

    def frames(self) -> Iterator[RgbdFrame]:
        raise AssertionError("arrivals are there to be taken")


def numbers(source: Replay | Selection | StoredSource, most: int = 100) -> list[int]:
    """What the frames show, whatever they are numbered."""
    return [int(one.rgb[0, 0, 0]) for one in islice(source.frames(), most)]


def test_once_whole_and_fast_is_the_source_itself() -> None:
    source = DemoSource(frames=3)
    assert replayed(source, ReplayOptions()) is source


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (ReplayOptions(start=7), [7, 8, 9]),
        (ReplayOptions(stride=4), [0, 4, 8]),
        (ReplayOptions(start=2, stride=5), [2, 7]),
        (ReplayOptions(start=2, stride=5, loop=True), [2, 7, 2, 7, 2, 7, 2]),
        (ReplayOptions(loop=True), [0, 1, 2, 3, 4, 5, 6]),
    ],
)
def test_which_pairs_are_played(options: ReplayOptions, expected: list[int]) -> None:
    recording = replayed(Recording([0.0] * 10), options)
    assert numbers(recording, 7) == expected
    indexed = replayed(DemoSource(frames=10, width=32, height=32), options)
    stamps = [round(one.timestamp_ns * 30 / 1e9) for one in islice(indexed.frames(), 7)]
    assert stamps == expected


def test_what_can_be_indexed_stays_so_and_keeps_its_numbers() -> None:
    chosen = replayed(DemoSource(frames=10, width=32, height=32), ReplayOptions(start=1, stride=3))
    assert isinstance(chosen, StoredSource)
    assert (len(chosen), chosen[1].number, chosen.live) == (3, 4, False)
    with pytest.raises(IndexError):
        chosen[3]
    with pytest.raises(IndexError):
        chosen[-1]
    assert chosen.uri.endswith("&start=1&stride=3")


def test_numbers_go_on_from_loop_to_loop() -> None:
    looped = replayed(Recording([0.0] * 3), ReplayOptions(loop=True))
    assert [one.number for one in islice(looped.frames(), 7)] == list(range(7))
    assert looped.uri == "memory://recording?x=1&loop=1"
    paced = replayed(Recording([0.0]), ReplayOptions(stride=2, pace=12.5))
    assert paced.uri == "memory://recording?x=1&stride=2&pace=12.5"
    assert looped.counts == {"colour without depth": 1}


def test_a_pair_that_is_left_out_is_not_decoded() -> None:
    recording = Recording([0.0] * 10)
    assert numbers(replayed(recording, ReplayOptions(start=1, stride=4))) == [1, 5, 9]
    assert recording.decoded == [1, 5, 9]


STAMPS = [
    ([0, 20, 40, 100], 0.1),  # as they are
    ([0, 20, 5020, 5040], 0.04 + 1 / 30),  # a pause of 5 s becomes one period
    ([100, 120, 0, 20], 0.04 + 1 / 30),  # so does a step back
]


@pytest.mark.parametrize(("stamps_ms", "expected_s"), STAMPS)
def test_the_real_pace_is_that_of_the_timestamps(stamps_ms: list[float], expected_s: float) -> None:
    source = replayed(Recording(stamps_ms), ReplayOptions(pace="real"))
    assert source.live
    began = time.monotonic()
    arrivals = [one for one in source.arrivals() if isinstance(one, Arrival)]
    took_s = time.monotonic() - began
    assert expected_s - 0.001 <= took_s < expected_s + 0.5
    arrived = [one.arrival_ns for one in arrivals]
    assert arrived == sorted(arrived)
    assert arrivals[0].decode().arrival_ns == arrived[0] > 0


def test_without_timestamps_the_pace_is_the_rate_that_was_asked_for() -> None:
    source = replayed(Recording([0.0] * 6), ReplayOptions(pace=100.0))
    began = time.monotonic()
    assert len(list(source.frames())) == 6
    assert 0.049 <= time.monotonic() - began < 0.5


def test_a_long_wait_gives_way() -> None:
    source = replayed(Recording([0.0, 900.0]), ReplayOptions(pace="real"))
    played = list(source.arrivals())
    assert played.count(None) == 2 + 1  # the recording's own, and one while the second was not due


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: ReplayOptions(start=-1), "start: expected 0 or more, got -1"),
        (lambda: ReplayOptions(stride=0), "stride: expected 1 or more, got 0"),
        (lambda: ReplayOptions(pace=0.0), "pace: expected 0.1 to 1000 pairs a second, got 0"),
        (
            lambda: replayed(DemoSource(frames=3), ReplayOptions(start=3)),
            "start=3 lies beyond the end of 'demo://.*expected less than its 3 pairs",
        ),
        (
            lambda: list(replayed(Recording([0.0]), ReplayOptions(start=1, loop=True)).frames()),
            "start=1 lies beyond the end of 'memory://.*expected less than its 1 pairs",
        ),
    ],
)
def test_what_cannot_be_played(make: object, match: str) -> None:
    with pytest.raises(SourceError, match=match):
        make()  # type: ignore[operator]


def test_the_real_pace_is_that_of_stored_pairs_too() -> None:
    began = time.monotonic()
    frames = list(
        replayed(DemoSource(4, width=32, height=32, fps=20), ReplayOptions(pace="real")).frames()
    )
    assert len(frames) == 4
    assert 0.149 <= time.monotonic() - began < 1
