"""The HTTP side of the web page: who may ask, what there is to ask for, and streams of pictures.

Nothing is read from a disk while serving, every route is an exact name, and every connection
answers one request: what arrives is read within a few seconds and a few kilobytes, or not at all.
"""

from __future__ import annotations

import io
import ipaddress
import json
import secrets
import socket
import socketserver
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from .base import on_standard_error
from .web_numbers import Numbers
from .web_views import Moment, Stage

MOST_HEAD_BYTES = 8192  # of a request: line and headers
ANSWER_WITHIN_S = 5.0  # a request has to be there, and a short answer taken, within this
STUCK_AFTER_S = 10.0  # a client that takes nothing of a picture for so long is let go
SPARE_CONNECTIONS = 16  # beside the streams: so that a watchdog gets through when all are taken

_NUMBERS_EVERY_S = 0.25
_LOOK_EVERY_S = 1.0  # whether a client that waits for pictures is still there
_STILL_WITHIN_S = 2.0  # how long a snapshot waits for the first picture
# What lies in a send buffer is old when it arrives: two pictures are enough, and the system's own
# choice, which may grow to megabytes, would put a slow client seconds behind.
_SEND_BUFFER_BYTES = 128 * 1024
_LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_EDGE = b"\r\n--frame\r\n"


@dataclass(frozen=True, slots=True)
class Site:
    """What is served, and to whom.

    Attributes:
        stage: Where the pictures come from.
        numbers: Where the figures come from.
        page: The page, complete.
        policy: Its Content-Security-Policy.
        about: What runs here, for the page: model, source and the like.
        token: What a client has to know; empty where everybody on this machine may look.
        local_only: Whether only names of this very machine may stand in a request's Host.
    """

    stage: Stage
    numbers: Numbers
    page: bytes
    policy: str
    about: dict[str, str]
    token: str = field(repr=False)
    local_only: bool


class Server(socketserver.ThreadingTCPServer):
    """Listens and answers, one thread for each connection.

    ``HTTPServer`` itself is not used: it asks the name service for its own name, which may take
    seconds on a device without one.

    Args:
        address: Host, numeric, and port; 0 takes any free one.
        site: What to serve.
        seats: How many connections may be open; more are refused at once.

    Raises:
        OSError: It cannot listen there.
    """

    allow_reuse_address = True  # a restart need not wait for the old connections to be forgotten
    daemon_threads = True
    request_queue_size = 32

    def __init__(self, address: tuple[str, int], site: Site, seats: int) -> None:
        numeric = ipaddress.ip_address(address[0].partition("%")[0])
        self.address_family = socket.AF_INET6 if numeric.version == 6 else socket.AF_INET
        self.site = site
        self._seats = threading.BoundedSemaphore(seats)
        self._open: dict[socket.socket, threading.Thread] = {}
        self._lock = threading.Lock()
        super().__init__(address, Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread of its own, or refuse where too many are open."""
        if not self._seats.acquire(blocking=False):
            request.settimeout(0)
            with suppress(OSError):
                request.send(b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\n\r\n")
            self.shutdown_request(request)
            return
        thread = threading.Thread(
            target=self.process_request_thread,
            args=(request, client_address),
            name="edge-fusion-web-client",
            daemon=True,
        )
        with self._lock:
            self._open[request] = thread
        thread.start()

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer and make room again."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._lock:
                self._open.pop(request, None)
            self._seats.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that left in the middle; report what is a mistake of ours."""
        err = sys.exc_info()[1]
        if err is not None and not isinstance(err, OSError):
            where = traceback.extract_tb(err.__traceback__)[-1]
            # One line, and without the message: it may quote the request, and with it the token.
            on_standard_error(
                f"web page: {type(err).__name__} in {where.name}, line {where.lineno} of "
                f"{Path(where.filename).name}, while answering {client_address[0]}"
            )

    def hang_up(self, within_s: float) -> None:
        """End every connection, also those in the middle of a picture, and wait for the threads."""
        with self._lock:
            still_open = dict(self._open)
        deadline = time.monotonic() + within_s
        _join(still_open.values(), time.monotonic() + within_s / 4)  # most end by themselves
        for connection in still_open:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        _join(still_open.values(), deadline)


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Server
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "edge-fusion", ""
    disable_nagle_algorithm = True

    def handle(self) -> None:
        """Read the request as a whole, within its limits, and answer it."""
        self.close_connection = True
        self.rfile.close()
        head = _read_head(self.connection)
        if head is None:
            return
        self.rfile = io.BytesIO(head)
        self.connection.settimeout(ANSWER_WITHIN_S)
        if len(head) > MOST_HEAD_BYTES:
            self.requestline, self.request_version, self.command = "", "HTTP/1.1", "GET"
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the request is too large")
            return
        self.handle_one_request()

    def do_GET(self) -> None:
        """Answer what there is to get."""
        try:
            parts = urlsplit(self.path)
        except ValueError:
            self._refuse(HTTPStatus.BAD_REQUEST, "that is no address")
            return
        refusal = self._refusal(parts.query)
        if refusal is not None:
            self._refuse(*refusal)
            return
        route = ROUTES.get(parts.path)
        if route is None:
            known = " ".join(ROUTES)
            self._refuse(HTTPStatus.NOT_FOUND, f"nothing here; there is: {known}")
            return
        route(self)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        """Refuse: nothing here can be changed."""
        self._refuse(HTTPStatus.METHOD_NOT_ALLOWED, "only GET and HEAD", ("Allow", "GET, HEAD"))

    do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_POST

    def log_message(self, *_: object) -> None:
        """Say nothing: an address may hold the token."""

    def _refusal(self, query: str) -> tuple[HTTPStatus, str] | None:
        """Why this client gets nothing; None where it may look."""
        site = self.server.site
        if site.local_only and _host_name(self.headers.get("Host", "")) not in _LOCAL_NAMES:
            # Another site's name that was pointed at this machine: its pages must not read ours.
            return HTTPStatus.FORBIDDEN, "this page answers to localhost and 127.0.0.1 only"
        if site.token and not any(
            secrets.compare_digest(one.encode(), site.token.encode()) for one in self._tokens(query)
        ):
            return HTTPStatus.UNAUTHORIZED, "open the address with ?token=... that was printed"
        return None

    def _tokens(self, query: str) -> Sequence[str]:
        """Every token the client showed: in the address, as a header, as a cookie."""
        try:
            found = parse_qs(query, max_num_fields=16).get("token", [])
        except ValueError:  # more fields than any client of ours sends
            found = []
        scheme, _, bearer = self.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            found.append(bearer.strip())
        # By hand: one odd cookie of another program on this host would stop http.cookies.
        for cookie in self.headers.get("Cookie", "").split(";"):
            name, _, value = cookie.strip().partition("=")
            if name == self._cookie_name:
                found.append(value)
        return found

    @property
    def _cookie_name(self) -> str:
        return f"edge_fusion_{self.server.server_address[1]}"  # browsers tell no ports apart

    def _send_page(self) -> None:
        site = self.server.site
        extra = [("Content-Security-Policy", site.policy), ("Referrer-Policy", "no-referrer")]
        if site.token:
            cookie = f"{self._cookie_name}={site.token}; HttpOnly; SameSite=Strict; Path=/"
            extra.append(("Set-Cookie", cookie))
        self._send(HTTPStatus.OK, "text/html; charset=utf-8", site.page, *extra)

    def _send_health(self) -> None:
        health = self.server.site.numbers.health()
        healthy = health["status"] not in ("stalled", "stopping")
        self._send_json(health, HTTPStatus.OK if healthy else HTTPStatus.SERVICE_UNAVAILABLE)

    def _send_metrics(self) -> None:
        self._send_json(self._figures())

    def _send_history(self) -> None:
        site = self.server.site
        self._send_json({"about": site.about, **site.numbers.history()})

    def _figures(self) -> dict[str, Any]:
        stage = self.server.site.stage
        figures, moment = self.server.site.numbers.now(stage.watchers), stage.newest
        share = None if moment is None else round(moment.salient_share(), 4)
        return {**figures, "salient_share": share}

    def _send_still(self, view: str) -> None:
        stage = self.server.site.stage
        moment = stage.newest or stage.after(0, _STILL_WITHIN_S)
        if moment is None:
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, "no picture yet")
            return
        self._send(HTTPStatus.OK, "image/jpeg", moment.jpeg(view))

    def _send_json(self, record: dict[str, Any], status: HTTPStatus = HTTPStatus.OK) -> None:
        text = json.dumps(record, separators=(",", ":")) + "\n"
        self._send(status, "application/json", text.encode())

    def _refuse(self, status: HTTPStatus, why: str, *extra: tuple[str, str]) -> None:
        self._send(status, "text/plain; charset=utf-8", f"{why}\n".encode(), *extra)

    def _send(self, status: HTTPStatus, kind: str, body: bytes, *extra: tuple[str, str]) -> None:
        self._send_head(status, kind, ("Content-Length", str(len(body))), *extra)
        if self.command != "HEAD":
            self.wfile.write(body)

    def _send_head(self, status: HTTPStatus, kind: str, *extra: tuple[str, str]) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Connection", "close")
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")  # no other site embeds us
        for name, value in extra:
            self.send_header(name, value)
        self.end_headers()

    def _send_stream(self, views: Sequence[str], numbers: bool) -> None:
        """Parts without end: pictures of ``views`` as they come, and figures in between."""
        stage = self.server.site.stage
        with stage.watching() as seated:
            if not seated:
                self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, "too many are looking already")
                return
            self._send_head(HTTPStatus.OK, "multipart/x-mixed-replace; boundary=frame")
            if self.command == "HEAD":
                return
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
            self.connection.settimeout(STUCK_AFTER_S)
            self.wfile.write(_EDGE[2:])
            self._send_parts(stage, views, numbers)

    def _send_parts(self, stage: Stage, views: Sequence[str], numbers: bool) -> None:
        seen, numbers_due_s = 0, 0.0
        wait_s = _NUMBERS_EVERY_S if numbers else _LOOK_EVERY_S
        while not stage.closed:
            moment = stage.after(seen, wait_s)
            if moment is not None:
                seen = moment.number
                for view in views:
                    self._send_picture(moment, view)
            elif _has_left(self.connection):
                return
            if numbers and time.monotonic() >= numbers_due_s:
                numbers_due_s = time.monotonic() + _NUMBERS_EVERY_S * 0.9
                self._send_part("application/json", json.dumps(self._figures()).encode())
        if numbers:
            self._send_part("application/json", json.dumps(self._figures()).encode())

    def _send_picture(self, moment: Moment, view: str) -> None:
        self._send_part("image/jpeg", moment.jpeg(view), f"X-View: {view}\r\n")

    def _send_part(self, kind: str, body: bytes, extra: str = "") -> None:
        # The edge follows at once: a browser shows a picture when it has seen its end.
        head = f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n{extra}\r\n"
        self.wfile.write(b"".join((head.encode(), body, _EDGE)))


def _views(*views: str, numbers: bool = False) -> Callable[[Handler], None]:
    return lambda handler: handler._send_stream(views, numbers)


def _still(view: str) -> Callable[[Handler], None]:
    return lambda handler: handler._send_still(view)


#: Everything there is; a path that is not here leads nowhere.
ROUTES: dict[str, Callable[[Handler], None]] = {
    "/": Handler._send_page,
    "/live": _views("overlay", "depth", "saliency", numbers=True),
    "/numbers": _views(numbers=True),
    "/history.json": Handler._send_history,
    "/metrics.json": Handler._send_metrics,
    "/healthz": Handler._send_health,
    "/overlay.mjpg": _views("overlay"),
    "/depth.mjpg": _views("depth"),
    "/saliency.mjpg": _views("saliency"),
    "/overlay.jpg": _still("overlay"),
    "/depth.jpg": _still("depth"),
    "/saliency.jpg": _still("saliency"),
}


def _join(threads: Iterable[threading.Thread], deadline_s: float) -> None:
    for thread in threads:
        thread.join(max(0.0, deadline_s - time.monotonic()))


def _read_head(connection: socket.socket) -> bytes | None:
    """A request up to its empty line, or as much as is too much; None where it never came."""
    deadline, head = time.monotonic() + ANSWER_WITHIN_S, b""
    while b"\r\n\r\n" not in head and len(head) <= MOST_HEAD_BYTES:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            return None
        connection.settimeout(left_s)
        try:
            more = connection.recv(4096)
        except OSError:
            return None
        if not more:
            return None
        head += more
    return head


def _has_left(connection: socket.socket) -> bool:
    """Whether the other end has closed the connection, found out without waiting."""
    timeout_s = connection.gettimeout()
    try:
        connection.settimeout(0)
        return connection.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
    finally:
        connection.settimeout(timeout_s)


def _host_name(host: str) -> str:
    """The name in a Host header without its port, in lower case."""
    name = host.strip().lower()
    if name.startswith("["):
        return name[1:].partition("]")[0]
    return name.partition(":")[0]
