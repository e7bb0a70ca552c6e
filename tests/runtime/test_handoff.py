from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from edge_fusion.runtime.handoff import BoundedQueue, Closed, Handoff, LatestSlot

WAIT_S = 5.0  # far longer than anything here takes; reached only by a lost wake-up

MAKERS: list[Callable[[], Handoff[int]]] = [LatestSlot, lambda: BoundedQueue(1)]
both = pytest.mark.parametrize("make", MAKERS, ids=["slot", "queue"])


def in_thread(work: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    """Run ``work`` beside the test; its result, or what it raised, lands in the list."""
    outcome: list[object] = []

    def record() -> None:
        try:
            outcome.append(work())
        except (Closed, TimeoutError) as err:
            outcome.append(type(err))

    thread = threading.Thread(target=record)
    thread.start()
    return thread, outcome


def test_slot_keeps_the_newest_and_returns_the_overtaken() -> None:
    slot: LatestSlot[int] = LatestSlot()
    assert [slot.put(item) for item in range(4)] == [None, 0, 1, 2]
    assert slot.get() == 3
    assert len(slot) == 0


def test_slot_loses_nothing_when_the_reader_keeps_up() -> None:
    slot: LatestSlot[int] = LatestSlot()
    for item in range(3):
        assert slot.put(item) is None
        assert slot.get() == item


def test_queue_keeps_order_and_blocks_when_full() -> None:
    queue: BoundedQueue[int] = BoundedQueue(2)
    queue.put(0)
    queue.put(1)
    with pytest.raises(TimeoutError, match="no room"):
        queue.put(2, timeout=0.01)
    assert [queue.get(), queue.get()] == [0, 1]


def test_queue_needs_room() -> None:
    with pytest.raises(ValueError, match="at least one"):
        BoundedQueue(0)


@both
def test_get_times_out(make: Callable[[], Handoff[int]]) -> None:
    with pytest.raises(TimeoutError):
        make().get(timeout=0.01)


@both
def test_a_waiting_reader_is_woken_by_put(make: Callable[[], Handoff[int]]) -> None:
    handoff = make()
    thread, outcome = in_thread(lambda: handoff.get(WAIT_S))
    time.sleep(0.02)
    handoff.put(7)
    thread.join(WAIT_S)
    assert outcome == [7]


@both
def test_close_wakes_every_reader(make: Callable[[], Handoff[int]]) -> None:
    handoff = make()
    readers = [in_thread(lambda: handoff.get(WAIT_S)) for _ in range(3)]
    time.sleep(0.02)
    began = time.monotonic()
    handoff.close()
    for thread, _ in readers:
        thread.join(WAIT_S)
    assert [outcome for _, outcome in readers] == [[Closed]] * 3
    assert time.monotonic() - began < 1


@pytest.mark.parametrize("discard", [False, True])
def test_close_wakes_a_writer_that_waits_for_room(discard: bool) -> None:
    queue: BoundedQueue[int] = BoundedQueue(1)
    queue.put(0)
    thread, outcome = in_thread(lambda: queue.put(1, WAIT_S))
    time.sleep(0.02)
    queue.close(discard=discard)
    thread.join(WAIT_S)
    assert outcome == [Closed]
    assert len(queue) == (0 if discard else 1)


@both
def test_what_waits_at_close_is_still_read(make: Callable[[], Handoff[int]]) -> None:
    handoff = make()
    handoff.put(1)
    handoff.close()
    handoff.close()
    assert handoff.closed
    with pytest.raises(Closed):
        handoff.put(2)
    assert handoff.get() == 1
    with pytest.raises(Closed):
        handoff.get()


@both
def test_discard_throws_away_what_waits(make: Callable[[], Handoff[int]]) -> None:
    handoff = make()
    handoff.put(1)
    handoff.close(discard=True)
    with pytest.raises(Closed):
        handoff.get()


def test_queue_loses_no_item_between_busy_threads() -> None:
    queue: BoundedQueue[int] = BoundedQueue(2)
    count = 5000

    def write() -> None:
        for item in range(count):
            queue.put(item, WAIT_S)
        queue.close()

    writer, _ = in_thread(write)
    read = []
    with pytest.raises(Closed):
        while True:
            read.append(queue.get(WAIT_S))
    writer.join(WAIT_S)
    assert read == list(range(count))


def test_slot_accounts_for_every_item_between_busy_threads() -> None:
    slot: LatestSlot[int] = LatestSlot()
    count = 5000
    overtaken = []

    def write() -> None:
        for item in range(count):
            lost = slot.put(item)
            if lost is not None:
                overtaken.append(lost)
        slot.close()

    writer, _ = in_thread(write)
    read = []
    with pytest.raises(Closed):
        while True:
            read.append(slot.get(WAIT_S))
    writer.join(WAIT_S)
    assert sorted(read + overtaken) == list(range(count))
    assert read == sorted(read)
    assert read[-1] == count - 1
