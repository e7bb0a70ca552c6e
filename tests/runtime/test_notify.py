"""What systemd is told, through sockets as it opens them."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_fusion.runtime import notify
from edge_fusion.runtime.notify import Notifier, Watchdog


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    """A service manager's socket, by its name in ``NOTIFY_SOCKET``."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@edge-fusion-{uuid.uuid4()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind("\0" + name[1:] if name.startswith("@") else name)
        listening.setblocking(False)
        yield name, listening


def heard(listening: socket.socket) -> list[str]:
    messages = []
    while True:
        try:
            messages.append(listening.recv(4096).decode())
        except BlockingIOError:
            return messages


def test_every_state(manager: tuple[str, socket.socket]) -> None:
    name, listening = manager
    notifier = Notifier({"NOTIFY_SOCKET": name})
    assert notifier.ready("streaming 29.9 fps")
    assert notifier.status("two\nlines\tand READY=1")
    assert notifier.alive()
    assert notifier.stopping()
    assert heard(listening) == [
        "READY=1\nSTATUS=streaming 29.9 fps",
        "STATUS=two lines and READY=1",
        "WATCHDOG=1",
        "STOPPING=1",
    ]


def test_this_process_environment_is_the_default(
    manager: tuple[str, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, listening = manager
    monkeypatch.setenv("NOTIFY_SOCKET", name)
    assert Notifier().ready()
    assert heard(listening) == ["READY=1"]


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"NOTIFY_SOCKET": ""},
        {"NOTIFY_SOCKET": "/"},
        {"NOTIFY_SOCKET": "@"},
        {"NOTIFY_SOCKET": "relative"},
        {"NOTIFY_SOCKET": "vsock:2:1234"},
        {"NOTIFY_SOCKET": "/nowhere/at/all"},
        {"NOTIFY_SOCKET": "/" + "x" * 400},
        {"NOTIFY_SOCKET": "/a\0b"},
        {"NOTIFY_SOCKET": "@nobody-listens-here"},
    ],
    ids=str,
)
def test_nobody_listening_is_no_failure(environment: dict[str, str]) -> None:
    with Watchdog(Notifier(environment)) as watchdog:
        watchdog.frame("29.9 fps")
    assert Notifier(environment).ready() is False


def test_an_empty_status_is_not_sent(manager: tuple[str, socket.socket]) -> None:
    name, listening = manager
    assert Notifier({"NOTIFY_SOCKET": name}).status(" \n") is False
    assert heard(listening) == []


def test_a_manager_that_does_not_read_holds_nobody_up(manager: tuple[str, socket.socket]) -> None:
    name, _ = manager
    notifier = Notifier({"NOTIFY_SOCKET": name})
    sent = [notifier.status("x" * 5000) for _ in range(10_000)]
    assert sent[0]
    assert not sent[-1]  # the queue is full: lost, and not waited for


def test_a_status_has_an_end(manager: tuple[str, socket.socket]) -> None:
    name, listening = manager
    Notifier({"NOTIFY_SOCKET": name}).status("x" * 5000)
    assert heard(listening) == ["STATUS=" + "x" * 200]


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),  # for another process
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "x"}, None),
        ({}, None),
    ],
)
def test_when_the_watchdog_bites(environment: dict[str, str], seconds: float | None) -> None:
    assert Notifier(environment).watchdog_s == seconds


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


def test_signs_of_life_come_with_frames_and_only_with_them(
    manager: tuple[str, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, listening = manager
    clock = Clock()
    monkeypatch.setattr(notify, "time", clock)
    environment = {"NOTIFY_SOCKET": name, "WATCHDOG_USEC": str(10_000_000)}
    with Watchdog(Notifier(environment)) as watchdog:
        assert heard(listening) == []  # opened, and not yet ready
        watchdog.frame("first")
        assert heard(listening) == ["READY=1\nSTATUS=first"]
        for _ in range(120):  # 12 s of 10 fps
            clock.now += 0.1
            watchdog.frame()
        assert heard(listening) == ["WATCHDOG=1"] * 2  # at 5 s and at 10 s
        clock.now += 60  # it hangs: silence
        assert heard(listening) == []
        watchdog.frame()
        assert heard(listening) == ["WATCHDOG=1"]
    assert heard(listening) == ["STOPPING=1"]


def test_the_status_is_told_once_a_second(
    manager: tuple[str, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, listening = manager
    clock = Clock()
    monkeypatch.setattr(notify, "time", clock)
    watchdog = Watchdog(Notifier({"NOTIFY_SOCKET": name}))  # without WatchdogSec
    for number in range(31):
        watchdog.frame(f"frame {number}")
        clock.now += 0.125
    told = heard(listening)
    assert told[0] == "READY=1\nSTATUS=frame 0"
    assert told[1:] == ["STATUS=frame 8", "STATUS=frame 16", "STATUS=frame 24"]


def test_an_error_on_the_way_still_says_stopping(manager: tuple[str, socket.socket]) -> None:
    name, listening = manager
    with pytest.raises(KeyError), Watchdog(Notifier({"NOTIFY_SOCKET": name})):
        raise KeyError
    assert heard(listening) == ["STOPPING=1"]
