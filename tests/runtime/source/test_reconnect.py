from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from edge_fusion.errors import SourceError
from edge_fusion.frame import RgbdFrame
from edge_fusion.runtime.source.base import Arrival, Arrivals, losses_of
from edge_fusion.runtime.source.reconnect import Reconnecting, ReconnectOptions
from edge_fusion.runtime.stream import StreamOptions, stream
from edge_fusion.spec import DepthSpec, ModelSpec

QUICK = ReconnectOptions(first_s=0.01, longest_s=0.04)


def arrival(number: int) -> Arrival:
    frame = RgbdFrame(
        np.zeros((8, 8, 3), np.uint8),
        np.full((8, 8), 800, np.uint16),
        DepthSpec(scale_to_m=0.001),
        f"f{number}",
        number,
    )
    return Arrival(frame.id, number, 0, time.monotonic_ns(), lambda: frame)


class Usb:
    """A socket that a camera is plugged into; a plan says what every attempt to open it gives."""

    def __init__(self, *plan: int | str) -> None:
        self.plan = list(plan)
        self.freed = 0

    def open(self) -> Camera:
        step = self.plan.pop(0)
        if isinstance(step, str):
            raise SourceError(step)
        return Camera(self, pairs=step)


class Camera:
    """Gives some pairs and is pulled out, unless nothing more is planned."""

    live, uri = True, "memory://camera"

    def __init__(self, usb: Usb, pairs: int) -> None:
        self.usb, self.pairs = usb, pairs
        self.counts = {"colour without depth": pairs}

    def arrivals(self) -> Arrivals:
        try:
            for number in range(self.pairs):
                yield arrival(number)
            if self.usb.plan:
                raise SourceError("unplugged")
        finally:
            self.usb.freed += 1

    def frames(self) -> Iterator[RgbdFrame]:
        raise AssertionError("arrivals are there to be taken")


def pairless(loss: SourceError) -> Callable[[], Camera]:
    """A camera that opens and then fails, as one whose topics are misspelt."""

    class Mute(Camera):
        def arrivals(self) -> Arrivals:
            yield None
            raise loss

    return lambda: Mute(Usb(), pairs=0)


def numbers(source: Reconnecting) -> list[int]:
    return [one.number for one in source.arrivals() if isinstance(one, Arrival)]


def test_a_camera_that_comes_back_is_read_on() -> None:
    heard: list[str] = []
    usb = Usb(2, "no device", "no device", 3, 1)
    source = Reconnecting(usb.open, QUICK, heard.append)
    assert numbers(source) == [0, 1, 0, 1, 2, 0]
    assert source.counts == {"colour without depth": 6, "times lost": 2, "reconnects": 2}
    assert losses_of(source) == {"colour without depth": 6}  # the page shows them as drops
    assert usb.freed == 3
    assert (
        heard
        == [
            "lost memory://camera: unplugged",
            "found memory://camera again",
        ]
        * 2
    )


def test_what_cannot_be_opened_at_first_is_an_error_at_once() -> None:
    with pytest.raises(SourceError, match="no such serial"):
        Reconnecting(Usb("no such serial").open, QUICK)


def test_what_opens_but_never_gave_a_pair_is_an_error_with_its_cure() -> None:
    heard: list[str] = []
    loss = SourceError("no pair came", got="0 messages", cure="topics now: /camera")
    source = Reconnecting(pairless(loss), QUICK, heard.append)
    with pytest.raises(SourceError, match="no pair came: got 0 messages; topics now: /camera"):
        numbers(source)
    assert heard == []


def opened_in_turn(*openings: Callable[[], Camera]) -> Callable[[], Camera]:
    left = iter(openings)
    return lambda: next(left)()


def test_only_a_pair_says_that_a_camera_was_found_again() -> None:
    heard: list[str] = []
    usb = Usb(1, 2)
    busy = pairless(SourceError("busy"))
    opening = opened_in_turn(usb.open, busy, busy, busy, usb.open)
    began = time.monotonic()
    source = Reconnecting(opening, ReconnectOptions(first_s=0.03, longest_s=10), heard.append)
    assert numbers(source) == [0, 0, 1]
    assert heard == ["lost memory://camera: unplugged", "found memory://camera again"]
    assert source.counts["times lost"] == source.counts["reconnects"] == 1
    assert time.monotonic() - began >= 0.03 * (1 + 2 + 4 + 8)  # the pauses went on growing


def test_a_loss_is_told_with_its_cure() -> None:
    heard: list[str] = []
    loss = SourceError("silent", got="no image", cure="look at its cable")

    class Failing(Camera):
        def arrivals(self) -> Arrivals:
            yield arrival(0)
            raise loss

    usb = Usb(1)
    source = Reconnecting(opened_in_turn(lambda: Failing(usb, 1), usb.open), QUICK, heard.append)
    numbers(source)
    assert heard[0] == "lost memory://camera: silent: got no image; look at its cable"


def test_whatever_a_driver_raises_the_camera_is_looked_for_again() -> None:
    heard: list[str] = []
    usb = Usb(1, 2)

    class Crashing(Camera):
        def arrivals(self) -> Arrivals:
            yield arrival(0)
            raise RuntimeError("rtsp://me:secret@camera broke")

    def unready() -> Camera:
        raise OSError("the device is not ready")

    opening = opened_in_turn(lambda: Crashing(usb, 1), unready, usb.open, usb.open)
    source = Reconnecting(opening, QUICK, heard.append)
    assert numbers(source) == [0, 0, 0, 1]
    assert "got RuntimeError: rtsp://***@camera broke" in heard[0]
    assert source.counts["reconnects"] == source.counts["times lost"] == 2


def test_patience_ends_though_the_camera_can_be_opened() -> None:
    usb, busy = Usb(1, 1), pairless(SourceError("busy"))
    opening = opened_in_turn(usb.open, *[busy] * 50)
    with pytest.raises(SourceError, match="lost: expected it back within 0.1 s, got busy"):
        numbers(Reconnecting(opening, ReconnectOptions(0.01, 0.02, patience_s=0.1)))


def test_patience_ends() -> None:
    source = Reconnecting(
        Usb(1, *["no device"] * 50).open, ReconnectOptions(0.01, 0.02, patience_s=0.1)
    )
    with pytest.raises(SourceError, match="lost: expected it back within 0.1 s, got no device"):
        numbers(source)
    assert source.counts["times lost"] == 1


def test_pauses_grow_up_to_the_longest() -> None:
    times: list[float] = []
    usb = Usb(1, *["no device"] * 5, 1)

    def opening() -> Camera:
        times.append(time.monotonic())
        return usb.open()

    numbers(Reconnecting(opening, QUICK))
    pauses = np.diff(times)[1:]
    assert (pauses >= np.array([0.02, 0.04, 0.04, 0.04, 0.04]) - 0.001).all()
    assert pauses.sum() < 1.0


def test_a_stream_ends_at_once_while_the_camera_is_away() -> None:
    stop = threading.Event()
    source = Reconnecting(
        Usb(2, *["no device"] * 10).open, ReconnectOptions(first_s=60), lambda text: stop.set()
    )

    class Half:
        def run(self, inputs: object) -> dict[str, np.ndarray]:
            return {"saliency": np.full((1, 1, 8, 8), 0.5, np.float32)}

        def close(self) -> None: ...

    began = time.monotonic()
    spec = ModelSpec(name="tiny", height=8, width=8)
    summary = stream(Half(), spec, source, [], StreamOptions(mode="every"), stop=stop)
    assert time.monotonic() - began < 2
    assert (summary.frames, summary.abandoned, summary.stopped) == (2, (), "stop requested")
    assert summary.at_source == {"colour without depth": 2, "times lost": 1}
