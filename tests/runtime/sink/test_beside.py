from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_fusion.errors import OutputError
from edge_fusion.frame import RgbdFrame
from edge_fusion.runtime.ledger import FrameRecord
from edge_fusion.runtime.sink.base import Onlooker
from edge_fusion.runtime.sink.beside import Beside

WAIT_S = 5.0
MakeResult = Callable[..., tuple[RgbdFrame, NDArray[np.float32], FrameRecord]]


class Slow:
    """Takes its first result when it is let."""

    destination = "slow://"

    def __init__(self) -> None:
        self.let, self.busy, self.closed = threading.Event(), threading.Event(), 0
        self.numbers: list[int] = []

    def write(self, frame: RgbdFrame, saliency: NDArray[np.float32], record: FrameRecord) -> None:
        self.numbers.append(frame.number)
        self.busy.set()
        self.let.wait(WAIT_S)

    def close(self) -> None:
        self.closed += 1


def test_a_slow_sink_misses_results_and_costs_no_time(result: MakeResult) -> None:
    slow = Slow()
    sink = Beside(slow)
    sink.write(*result(0))
    assert slow.busy.wait(WAIT_S)
    began = time.perf_counter()
    for number in range(1, 100):
        sink.write(*result(number))
    assert time.perf_counter() - began < 1  # making the results; waiting would take far longer
    slow.let.set()
    deadline = time.monotonic() + WAIT_S
    while len(slow.numbers) < 2 and time.monotonic() < deadline:
        time.sleep(0.001)
    sink.close()
    assert slow.numbers == [0, 99]
    assert slow.closed == 1
    sink.close()
    assert slow.closed == 1


@pytest.mark.parametrize("error", [OutputError("the page is gone"), ValueError("odd")])
def test_what_fails_in_the_thread_is_told_at_the_next_result(
    error: Exception, result: MakeResult
) -> None:
    class Failing(Slow):
        def write(self, *result: object) -> None:
            raise error

    failing = Failing()
    sink = Beside(failing)
    sink.write(*result(0))
    with pytest.raises(OutputError, match="the page is gone|writing to 'slow://' failed.*odd"):
        for _ in range(1000):
            time.sleep(0.005)
            sink.write(*result(1))
    assert failing.closed == 1


def test_a_sink_that_hangs_does_not_hold_up_the_end(result: MakeResult) -> None:
    slow = Slow()
    sink = Beside(slow)
    sink.write(*result(0))
    assert slow.busy.wait(WAIT_S)
    began = time.monotonic()
    sink.close()
    assert time.monotonic() - began < 1
    slow.let.set()


def test_several_that_hang_are_told_first_and_cost_the_time_of_one(result: MakeResult) -> None:
    hanging = [Slow() for _ in range(4)]
    sinks = [Beside(one) for one in hanging]
    for one, sink in zip(hanging, sinks, strict=True):
        sink.write(*result(0))
        assert one.busy.wait(WAIT_S)
    began = time.monotonic()
    for sink in sinks:
        assert isinstance(sink, Onlooker)  # so that a run tells it before it closes any
        sink.stop()
    assert time.monotonic() - began < 0.2  # it waits for nobody
    for one in hanging:
        one.let.set()
    for sink in sinks:
        sink.close()
    assert [one.closed for one in hanging] == [1] * 4
