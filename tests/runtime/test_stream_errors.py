"""Errors in a stream: raised in the caller, sinks closed, no thread left."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from edge_fusion.errors import (
    EdgeFusionError,
    OutputError,
    SessionError,
    SourceError,
)
from edge_fusion.frame import RgbdFrame
from edge_fusion.runtime.stream import stream
from edge_fusion.spec import Output
from tests.fakes.stream import (
    SPEC,
    WAIT_S,
    Collect,
    FakeSession,
    Live,
    Stored,
    frame,
    raiser,
    release_and_settle,
)

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


class Failing(Collect):
    """A sink that cannot be finished."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def close(self) -> None:
        super().close()
        raise self.error


def run_failing_at(stage: str, error: Exception) -> tuple[EdgeFusionError, Collect]:
    """Stream forty frames whose ``stage`` raises ``error`` at the third; what came out of it."""

    def at(name: str) -> Callable[[int], None]:
        return lambda number: raiser(error)() if (stage, number) == (name, 2) else None

    items: list[RgbdFrame | Exception] = [frame(n) for n in range(40)]
    if stage == "source":
        items[2] = error
    sink = Failing(error) if stage == "close" else Collect(lambda item: at("sink")(item.number))
    with pytest.raises(EdgeFusionError) as caught:
        stream(
            FakeSession(at("model")),
            SPEC,
            Stored(items),
            [sink],
            on_progress=lambda record: at("progress")(record.number),
        )
    return caught.value, sink


STAGES = [
    ("source", SourceError, "reading 'memory://stored' failed"),
    ("model", SessionError, "processing frame 'f2' failed"),
    ("sink", OutputError, "writing frame 'f2' to 'memory://sink' failed"),
    ("close", OutputError, "closing 'memory://sink' failed"),
    ("progress", OutputError, "reporting progress failed"),
]


@pytest.mark.parametrize(("stage", "kind", "message"), STAGES)
def test_a_foreign_error_is_wrapped_once(
    stage: str, kind: type[EdgeFusionError], message: str
) -> None:
    error = RuntimeError("driver says no")
    raised, sink = run_failing_at(stage, error)
    assert type(raised) is kind
    assert str(raised) == f"{message}: got RuntimeError: driver says no"
    assert raised.__cause__ is error
    assert sink.closed == 1


@pytest.mark.parametrize("stage", [stage for stage, _, _ in STAGES])
def test_our_own_error_arrives_as_it_is(stage: str) -> None:
    error = SourceError("unplugged") if stage == "source" else OutputError("full")
    raised, sink = run_failing_at(stage, error)
    assert raised is error
    assert sink.closed == 1


def test_a_driver_that_quotes_an_address_shows_no_password() -> None:
    told, _ = run_failing_at("source", RuntimeError("cannot open rtsp://me:secret@camera/live"))
    assert "camera/live" in str(told)
    assert "secret" not in str(told)


def test_what_was_captured_before_the_source_failed_is_still_delivered() -> None:
    items: list[RgbdFrame | Exception] = [frame(n) for n in range(6)]
    items.append(RuntimeError("unplugged"))
    sink = Collect(lambda item: time.sleep(0.005))
    with pytest.raises(SourceError, match="unplugged"):
        stream(FakeSession(), SPEC, Stored(items), [sink])
    assert sink.numbers == list(range(6))


def test_every_sink_is_closed_even_if_one_cannot_be() -> None:
    class Stubborn(Collect):
        def close(self) -> None:
            raise OutputError("no room to finish")

    second = Collect()
    with pytest.raises(OutputError, match="no room to finish"):
        stream(FakeSession(), SPEC, Stored([frame(0)]), [Stubborn(), second])
    assert second.closed == 1


def test_sinks_are_closed_even_if_the_stream_cannot_begin() -> None:
    class Unplugged(Stored):
        @property
        def uri(self) -> str:  # type: ignore[override]
            raise SourceError("no such camera")

    sink = Collect()
    with pytest.raises(SourceError, match="no such camera"):
        stream(FakeSession(), SPEC, Unplugged([frame(0)]), [sink])
    assert sink.closed == 1


@pytest.mark.parametrize("granted", [0, 1, 2])
def test_sinks_are_closed_even_if_threads_are_refused(
    granted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, started = threading.Thread.start, []

    def limited(thread: threading.Thread) -> None:
        if len(started) == granted:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    sink = Collect()
    with pytest.raises(SessionError, match="starting the stream's threads: got can't start"):
        stream(FakeSession(), SPEC, Stored([frame(0)]), [sink])
    assert sink.closed == 1


def test_a_missing_output_names_what_there_is() -> None:
    spec = SPEC.model_copy(update={"output": Output(name="mask")})
    with pytest.raises(SessionError, match="expected 'mask', got 'saliency'"):
        stream(FakeSession(), spec, Stored([frame(0)]), [])


def test_an_error_does_not_wait_for_a_camera_that_sleeps() -> None:
    release = threading.Event()

    def camera() -> Iterator[RgbdFrame]:
        yield frame(0)
        release.wait(WAIT_S)

    began = time.monotonic()
    with pytest.raises(SessionError):
        stream(FakeSession(raiser(RuntimeError("no"))), SPEC, Live(camera), [Collect()])
    assert time.monotonic() - began < 2
    release_and_settle(release)
