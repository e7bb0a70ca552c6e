"""Telling systemd how a service fares, by its datagram protocol and without its library.

Nothing here raises or waits: a service manager that does not listen must not disturb a stream.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Mapping

_STATUS_S = 1.0  # the status line is for people
_LONGEST_STATUS = 200


def _watchdog_s(environment: Mapping[str, str]) -> float | None:
    """Seconds without a sign of life after which systemd steps in; None where it does not."""
    try:
        if int(environment.get("WATCHDOG_PID", os.getpid())) != os.getpid():
            return None  # meant for another process of this service
        microseconds = int(environment["WATCHDOG_USEC"])
    except (KeyError, ValueError):
        return None
    return microseconds / 1e6 if microseconds > 0 else None


class Notifier:
    """Sends states to the service manager that started this process, if one did.

    Args:
        environment: Where ``NOTIFY_SOCKET``, ``WATCHDOG_USEC`` and ``WATCHDOG_PID`` are read.

    Attributes:
        watchdog_s: The service's ``WatchdogSec``; None where it has none.

    Example:
        >>> Notifier({}).ready()  # nobody listens
        False
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        environment = os.environ if environment is None else environment
        name = environment.get("NOTIFY_SOCKET", "")
        # A leading @ stands for the NUL byte of Linux' abstract sockets; other forms (vsock) are
        # for virtual machines that report to their host.
        self._address = "\0" + name[1:] if name.startswith("@") else name
        self._listening = name.startswith(("/", "@")) and len(name) > 1
        self.watchdog_s = _watchdog_s(environment)

    def ready(self, status: str = "") -> bool:
        """The service is up: what waits for it may start, and the watchdog counts from now."""
        return self._send("READY=1", *_status(status))

    def status(self, text: str) -> bool:
        """One line for ``systemctl status``."""
        return self._send(*_status(text))

    def alive(self) -> bool:
        """The service makes progress."""
        return self._send("WATCHDOG=1")

    def stopping(self, status: str = "") -> bool:
        """The service is on its way out."""
        return self._send("STOPPING=1", *_status(status))

    def _send(self, *assignments: str) -> bool:
        """Whether it was sent; a full or missing socket loses it."""
        if not self._listening or not assignments:
            return False
        message = "\n".join(assignments).encode("utf-8", errors="replace")
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as line:
                line.setblocking(False)
                line.connect(self._address)
                return line.send(message) == len(message)
        except (OSError, ValueError):  # ValueError: a NUL within a path
            return False


def _status(text: str) -> tuple[str, ...]:
    """A status line; a line break would begin another assignment."""
    line = " ".join(text.split())[:_LONGEST_STATUS]
    return (f"STATUS={line}",) if line else ()


class Watchdog:
    """Tells systemd that frames come through, and by its silence that they do not.

    Ready is told with the first frame.  From then on ``WATCHDOG=1`` is sent with a frame, once the
    last one is half of ``WatchdogSec`` ago, and never from a timer: a stream that hangs falls
    silent and is restarted.

    Args:
        notifier: Where to.

    Example:
        >>> with Watchdog(Notifier({})) as watchdog:
        ...     watchdog.frame("29.9 fps")
    """

    def __init__(self, notifier: Notifier) -> None:
        self._notifier = notifier
        self._lock = threading.Lock()
        self._ready = False
        self._alive_s = self._told_s = 0.0

    def __enter__(self) -> Watchdog:
        return self

    def __exit__(self, *error: object) -> None:
        self._notifier.stopping()

    def frame(self, status: str = "") -> None:
        """Note that a frame is through; may be called from any thread, as often as frames come.

        Args:
            status: One line for ``systemctl status``, sent at most once a second.
        """
        now = time.monotonic()
        with self._lock:
            if not self._ready:
                self._ready, self._alive_s, self._told_s = True, now, now
                self._notifier.ready(status)
                return
            limit_s = self._notifier.watchdog_s
            if limit_s is not None and now - self._alive_s >= limit_s / 2:
                self._alive_s = now
                self._notifier.alive()
            if status and now - self._told_s >= _STATUS_S:
                self._told_s = now
                self._notifier.status(status)
