"""Who may look at the live page, and clients that misbehave."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import numpy as np
import pytest

from edge_fusion.runtime.sink import web_server, web_views
from edge_fusion.runtime.sink.web import WebSink, open_web
from tests.fakes.web_client import TOKEN, MakeResult, ask, asked_raw, parts, until, watching

# --- who may look --------------------------------------------------------------------------------

HOSTS = [
    ("localhost", 200),
    ("LOCALHOST:9999", 200),  # a forwarded port has another number
    ("127.0.0.1:8080", 200),
    ("[::1]:8080", 200),
    ("evil.example", 403),
    ("localhost.evil.example", 403),
    ("127.0.0.1.evil.example:8080", 403),
    ("", 403),
]


def test_only_names_of_this_machine_are_answered(serve: Callable[..., WebSink]) -> None:
    sink = serve()
    assert {host: ask(sink, "/healthz", Host=host)[0] for host, _ in HOSTS} == dict(HOSTS)


def test_a_token_opens_in_each_of_its_forms(serve: Callable[..., WebSink]) -> None:
    sink = serve(token=TOKEN)
    cookie = f"other={{}}; edge_fusion_{sink.port}={TOKEN}"
    assert ask(sink, f"/healthz?token={TOKEN}")[0] == 200
    assert ask(sink, "/healthz", Authorization=f"Bearer {TOKEN}")[0] == 200
    assert ask(sink, "/healthz", Cookie=cookie)[0] == 200
    _, headers, _ = ask(sink, f"/?token={TOKEN}")
    assert headers["Set-Cookie"] == (
        f"edge_fusion_{sink.port}={TOKEN}; HttpOnly; SameSite=Strict; Path=/"
    )
    assert headers["Referrer-Policy"] == "no-referrer"


def test_without_the_token_nothing_is_told(serve: Callable[..., WebSink]) -> None:
    sink = serve(token=TOKEN)
    queries = ["", "?token=", "?token=wrong-token", f"?token={TOKEN}x", "?" + "token=x&" * 99]
    for path in (*web_server.ROUTES, "/nothing"):
        for query in queries:
            status, _, body = ask(sink, path + query)
            assert (status, body) == (401, b"open the address with ?token=... that was printed\n")


def test_a_token_is_made_where_others_can_connect_and_shown_once() -> None:
    said: list[str] = []
    sink = open_web("web://0.0.0.0:0", note=said.append)
    with closing(sink):
        found = re.fullmatch(r"live page: http://[^/]+:\d+/\?token=([\w-]{20,})", said[0])
        assert found
        assert found[1] not in sink.destination
        assert ask(sink, "/healthz")[0] == 401
        assert ask(sink, f"/healthz?token={found[1]}", Host="jetson.local")[0] == 200


def test_on_this_machine_no_token_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    with closing(open_web("web://:0")) as sink:
        assert capsys.readouterr().err == f"live page: http://127.0.0.1:{sink.port}/\n"
        assert ask(sink, "/healthz")[0] == 200


PATHS = [
    "/..",
    "/../web.py",
    "//etc/passwd",
    "/%2e%2e/x",
    "/page.html",
    "/overlay.mjpg/",
    "/live.x",
]


def test_there_is_nothing_beside_the_routes(serve: Callable[..., WebSink]) -> None:
    sink = serve()
    for path in PATHS:
        status, _, body = ask(sink, path)
        assert (status, path) == (404, path)
        assert body.startswith(b"nothing here; there is: / /live")


def test_only_looking_is_allowed(serve: Callable[..., WebSink]) -> None:
    sink = serve()
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        status, headers, _ = ask(sink, "/", method)
        assert (status, headers["Allow"]) == (405, "GET, HEAD")


def test_head_has_no_body(serve: Callable[..., WebSink]) -> None:
    sink = serve()
    for path in ("/", "/live", "/healthz"):
        assert ask(sink, path, "HEAD")[::2] == (200, b"")


def test_no_other_site_may_embed_or_store_it(serve: Callable[..., WebSink]) -> None:
    _, headers, _ = ask(serve(), "/healthz")
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "Python" not in headers["Server"]


# --- clients that misbehave ----------------------------------------------------------------------


def test_a_request_that_is_too_large_is_refused(serve: Callable[..., WebSink]) -> None:
    padding = b"X-Padding: " + b"x" * 3 * web_server.MOST_HEAD_BYTES
    answer = asked_raw(serve(), b"GET / HTTP/1.1\r\nHost: localhost\r\n" + padding[:9000])
    assert answer.startswith(b"HTTP/1.1 431 ")


def test_a_request_that_never_ends_is_dropped(
    serve: Callable[..., WebSink], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web_server, "ANSWER_WITHIN_S", 0.2)
    sink = serve()
    began = time.monotonic()
    assert asked_raw(sink, b"GET / HTTP/1.1\r\nHost: localhost\r\n") == b""
    assert time.monotonic() - began < 2


@pytest.mark.parametrize("nonsense", [b"\x00\xff\x16\x03\r\n\r\n", b"GET\r\n\r\n", b"\r\n\r\n"])
def test_nonsense_harms_nothing(
    serve: Callable[..., WebSink], nonsense: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    sink = serve()
    asked_raw(sink, nonsense)
    assert ask(sink, "/healthz")[0] == 200
    assert capsys.readouterr().err == ""


def test_an_address_that_is_none_is_refused_before_the_token_is_looked_at(
    serve: Callable[..., WebSink], capsys: pytest.CaptureFixture[str]
) -> None:
    sink = serve(token=TOKEN)
    answer = asked_raw(sink, b"GET http://[::1 HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert capsys.readouterr().err == ""


def test_a_mistake_of_ours_is_one_line_without_what_was_asked(
    serve: Callable[..., WebSink],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def stumble(handler: Any) -> None:
        raise ValueError(handler.path)

    monkeypatch.setitem(web_server.ROUTES, "/healthz", stumble)
    request = f"GET /healthz?token={TOKEN} HTTP/1.1\r\nHost: localhost\r\n\r\n"
    assert asked_raw(serve(token=TOKEN), request.encode()) == b""
    told = capsys.readouterr().err
    assert re.fullmatch(
        r"web page: ValueError in stumble, line \d+ of test_web_clients.py, .*127.0.0.1\n", told
    )


def test_too_many_watchers_are_refused_but_a_watchdog_gets_through(
    serve: Callable[..., WebSink],
) -> None:
    sink = serve(clients=2)
    with watching(sink, "/live"), watching(sink, "/overlay.mjpg") as second:
        assert until(lambda: json.loads(ask(sink, "/metrics.json")[2])["watchers"] == 2)
        status, _, body = ask(sink, "/live")
        assert (status, body) == (503, b"too many are looking already\n")
        assert ask(sink, "/healthz")[0] == 200
        second.close()
        # Also without a single frame the empty seat is noticed.
        assert until(lambda: json.loads(ask(sink, "/metrics.json")[2])["watchers"] == 1)


def test_idle_connections_do_not_shut_out_for_ever(
    serve: Callable[..., WebSink], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web_server, "ANSWER_WITHIN_S", 0.5)
    sink = serve(clients=1)
    idle = [
        socket.create_connection(("127.0.0.1", sink.port))
        for _ in range(1 + web_server.SPARE_CONNECTIONS)
    ]
    try:
        assert until(lambda: len(sink._server._open) == len(idle))
        refused = asked_raw(sink, b"")
        assert refused == b"" or refused.startswith(b"HTTP/1.1 503 ")
        assert until(lambda: len(sink._server._open) == 0, 3)
        assert ask(sink, "/healthz")[0] == 200
    finally:
        for client in idle:
            client.close()


def test_three_clients_one_of_which_never_reads_do_not_slow_the_stream(
    serve: Callable[..., WebSink], result: MakeResult
) -> None:
    sink = serve(fps=200)
    noise = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    frame, saliency, record = result(size=(480, 640))
    frame.rgb[:] = noise  # pictures so large that the one who never reads is stuck at once
    seen = [0, 0]

    def look(which: int, client: socket.socket) -> None:
        for kind, _, _ in parts(client):
            seen[which] += kind == "image/jpeg"

    with (
        watching(sink, "/live") as one,
        watching(sink, "/overlay.mjpg") as two,
        watching(sink, "/live"),  # never reads
    ):
        readers = [
            threading.Thread(target=look, args=(which, client), daemon=True)
            for which, client in enumerate((one, two))
        ]
        for reader in readers:
            reader.start()
        assert until(lambda: sink._stage.watchers == 3)
        took_s = []
        for _ in range(60):
            began = time.perf_counter()
            sink.write(frame, saliency, record)
            took_s.append(time.perf_counter() - began)
            time.sleep(0.02)
        figures = json.loads(ask(sink, "/metrics.json")[2])
        assert until(lambda: min(seen) > 5)
        began = time.monotonic()
        sink.close()
        assert time.monotonic() - began < 0.5
        for reader in readers:
            reader.join(2)
    assert float(np.median(took_s)) < 0.002
    assert figures["frames"] == 60
    assert figures["watchers"] == 3


def test_whoever_is_slow_gets_the_newest_picture(result: MakeResult) -> None:
    stage = web_views.Stage(rate=1e6, seats=1)
    for number in range(5):
        stage.show(*result(number)[:2])
    moment = stage.after(1, 0)
    assert moment is not None
    assert (moment.number, moment.frame.id) == (5, "f4")
    assert stage.after(moment.number, 0.01) is None
