"""A client of the live page: what a browser asks, and what none would."""

from __future__ import annotations

import http.client
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

from edge_fusion.runtime.sink.web import WebSink

MakeResult = Callable[..., Any]
Answer = tuple[int, dict[str, str], bytes]
TOKEN = "a-long-enough-token"


def ask(sink: WebSink, path: str, method: str = "GET", **headers: str) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", sink.port, timeout=5)
    with closing(connection):
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()


def asked_raw(sink: WebSink, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", sink.port), timeout=8) as client:
        client.sendall(request)
        return b"".join(iter(lambda: client.recv(65536), b""))


@contextmanager
def watching(sink: WebSink, path: str) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", sink.port), timeout=5) as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        yield client


def parts(client: socket.socket) -> Iterator[tuple[str, str, bytes]]:
    """Kind, view and body of every part of a stream, as they come."""
    held = b""
    while True:
        while b"\r\n\r\n" not in held:
            if not (more := client.recv(65536)):
                return
            held += more
        head, _, held = held.partition(b"\r\n\r\n")
        if head.startswith(b"HTTP/"):
            continue
        lines = [line for line in head.decode().split("\r\n") if ": " in line]
        headers = dict(line.split(": ", 1) for line in lines)
        length = int(headers["Content-Length"])
        while len(held) < length:
            held += client.recv(65536)
        body, held = held[:length], held[length:]
        yield headers["Content-Type"], headers.get("X-View", ""), body


def until(condition: Callable[[], bool], within_s: float = 5) -> bool:
    deadline = time.monotonic() + within_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()
