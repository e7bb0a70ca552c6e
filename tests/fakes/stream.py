"""Sources, models and sinks held in memory, for tests of the streaming loop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from edge_fusion.frame import RgbdFrame
from edge_fusion.runtime.stream import FrameRecord, StreamSummary
from edge_fusion.spec import DepthSpec, ModelSpec

SPEC = ModelSpec(name="tiny", height=16, width=16)
MM = DepthSpec(scale_to_m=0.001)
WAIT_S = 5.0  # far longer than anything here takes

Tensors = dict[str, NDArray[np.float32]]


def frame(number: int, *, depth_mm: int = 800, arrival_ns: int = 0) -> RgbdFrame:
    rgb = np.full((24, 32, 3), number % 256, np.uint8)
    depth = np.full((24, 32), depth_mm, np.uint16)
    return RgbdFrame(rgb, depth, MM, f"f{number}", number, arrival_ns=arrival_ns)


class Stored:
    """A recording held in memory; an item may be an error to raise in its place."""

    live = False
    uri = "memory://stored"

    def __init__(self, items: Sequence[RgbdFrame | Exception]) -> None:
        self.items = items
        self.read = 0

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> RgbdFrame:
        self.read += 1
        item = self.items[index]
        if isinstance(item, Exception):
            raise item
        return item

    def frames(self) -> Iterator[RgbdFrame]:
        return (self[index] for index in range(len(self)))


class Live:
    """A camera played by a generator or an iterator."""

    live = True
    uri = "memory://live"

    def __init__(self, play: Callable[[], Iterator[RgbdFrame]]) -> None:
        self.play = play

    def frames(self) -> Iterator[RgbdFrame]:
        return self.play()


class FakeSession:
    """Answers one half everywhere; ``before`` may wait or raise first."""

    def __init__(self, before: Callable[[int], None] = lambda count: None) -> None:
        self.before = before
        self.count = 0

    def run(self, inputs: Mapping[str, NDArray[np.float32]]) -> Tensors:
        self.before(self.count)
        self.count += 1
        return {"saliency": np.full((1, 1, 16, 16), 0.5, np.float32)}

    def close(self) -> None: ...


class Collect:
    """Keeps the numbers it was given; ``before`` may wait or raise first."""

    destination = "memory://sink"

    def __init__(self, before: Callable[[RgbdFrame], None] = lambda frame: None) -> None:
        self.before = before
        self.numbers: list[int] = []
        self.closed = 0

    def write(self, frame: RgbdFrame, saliency: NDArray[np.float32], record: FrameRecord) -> None:
        self.before(frame)
        assert saliency.shape == frame.rgb.shape[:2]
        self.numbers.append(frame.number)

    def close(self) -> None:
        self.closed += 1


def raiser(error: Exception) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise error

    return fail


def adds_up(summary: StreamSummary) -> bool:
    return summary.captured == (summary.frames + sum(summary.drops.values()) + summary.unprocessed)


def release_and_settle(release: threading.Event) -> None:
    """Let an abandoned thread go, so that the check for left-over threads sees the truth."""
    release.set()
    for thread in threading.enumerate():
        if thread.name.startswith("edge-fusion-"):
            thread.join(WAIT_S)


def endless() -> Iterator[RgbdFrame]:
    number = 0
    while True:
        time.sleep(0.002)
        yield frame(number)
        number += 1
