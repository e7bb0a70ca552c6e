from __future__ import annotations

import http.client
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import cv2
import numpy as np
import pytest

from edge_fusion.errors import OutputError
from edge_fusion.runtime.sink import web, web_numbers, web_server, web_views
from edge_fusion.runtime.sink.web import WebOptions, WebSink, open_web

MakeResult = Callable[..., Any]
Answer = tuple[int, dict[str, str], bytes]
TOKEN = "a-long-enough-token"


@pytest.fixture
def serve() -> Iterator[Callable[..., WebSink]]:
    """Makes sinks on a free port and closes them."""
    opened: list[WebSink] = []

    def start(**options: Any) -> WebSink:
        extra = {
            name: options.pop(name) for name in ("machine", "drops", "about") if name in options
        }
        opened.append(WebSink(WebOptions(port=0, **options), **extra))
        return opened[-1]

    yield start
    for sink in opened:
        sink.close()


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


# --- what it shows -------------------------------------------------------------------------------


def test_the_page_is_complete_and_runs_nothing_but_itself(serve: Callable[..., WebSink]) -> None:
    status, headers, body = ask(serve(), "/")
    page = body.decode()
    assert status == 200
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert not re.search(r"(src|href)=\"?(https?:)?//", page)  # opens without a network
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe-inline" not in policy
    assert policy.count("'sha256-") == page.count("<script>") + page.count("<style>") == 2
    assert not re.search(r"\sstyle=|\son\w+=", page)  # the policy would forbid them


@pytest.mark.parametrize("view", web_views.VIEWS)
def test_a_snapshot_shows_the_view(
    serve: Callable[..., WebSink], result: MakeResult, view: str
) -> None:
    sink = serve()
    sink.write(*result(5))
    status, headers, body = ask(sink, f"/{view}.jpg")
    assert (status, headers["Content-Type"]) == (200, "image/jpeg")
    picture = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    assert picture.shape == (48, 64, 3)
    inside, outside = picture[24, 13].astype(int), picture[40, 50].astype(int)
    expected = {
        "overlay": inside.sum() > outside.sum() + 100,
        "depth": inside[2] > 100 > inside[0] and outside[0] > outside[2],  # near red, far blue
        "saliency": inside.min() > 240 and outside.max() < 15,
    }
    assert expected[view]


def test_a_stream_brings_views_and_figures(
    serve: Callable[..., WebSink], result: MakeResult
) -> None:
    sink = serve(fps=1000)
    with watching(sink, "/live") as client:
        stream, kinds = parts(client), []
        assert next(stream)[0] == "application/json"  # before the first frame
        for number in range(30):
            sink.write(*result(number))
            time.sleep(0.02)
        while ("application/json", "") not in kinds:
            kinds.append(next(stream)[:2])
    assert {view for kind, view in kinds if kind == "image/jpeg"} == set(web_views.VIEWS)


def test_a_browser_gets_plain_mjpeg(serve: Callable[..., WebSink], result: MakeResult) -> None:
    sink = serve(fps=1000)
    sink.write(*result(0))
    with watching(sink, "/overlay.mjpg") as client:
        stream = parts(client)
        first = next(stream)
        sink.write(*result(9))
        second = next(stream)
    assert first[0] == second[0] == "image/jpeg"
    assert first[2][:2] == b"\xff\xd8"
    assert first[2] != second[2]


def test_nothing_is_drawn_while_nobody_looks_and_once_for_all_who_do(
    serve: Callable[..., WebSink], result: MakeResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[str] = []
    real = web_views._encode
    monkeypatch.setattr(web_views, "_encode", lambda picture: drawn.append("x") or real(picture))
    sink = serve(fps=1000)
    for number in range(20):
        sink.write(*result(number))
    assert ask(sink, "/metrics.json")[0] == 200
    assert drawn == []
    for _ in range(3):
        assert ask(sink, "/overlay.jpg")[0] == 200
    assert drawn == ["x"]


def test_large_frames_are_shrunk(serve: Callable[..., WebSink], result: MakeResult) -> None:
    sink = serve()
    sink.write(*result(size=(90, 2560)))
    shapes = {}
    for view in web_views.VIEWS:
        picture = cv2.imdecode(np.frombuffer(ask(sink, f"/{view}.jpg")[2], np.uint8), 1)
        assert picture is not None
        shapes[view] = picture.shape[:2]
    assert shapes == {"overlay": (45, 1280), "depth": (17, 480), "saliency": (17, 480)}


# --- figures -------------------------------------------------------------------------------------


def test_figures_follow_the_stream(serve: Callable[..., WebSink], result: MakeResult) -> None:
    sink = serve(drops=lambda: {"stale": 2}, about={"model": "tiny"})
    before = json.loads(ask(sink, "/metrics.json")[2])
    assert (before["status"], before["frames"], before["last_frame_age_s"]) == ("starting", 0, None)
    for number in range(4):
        sink.write(*result(number))
    now = json.loads(ask(sink, "/metrics.json")[2])
    assert (now["status"], now["frames"], now["captured"], now["fps"]) == ("ok", 4, 4, 30.0)
    assert now["drops_by_reason"] == {"stale": 2}
    assert now["frame"]["id"] == "f3"
    assert now["stages_ms"] == {
        **{"capture": 1.0, "wait": 0.5, "preprocess": 0.4},
        **{"infer": 20.0, "postprocess": 0.3},
    }
    assert now["latency_ms"] == dict.fromkeys(("last", "p50", "p90", "p99", "max"), 22.2)
    assert now["salient_share"] == round(256 / (48 * 64), 4)
    assert now["machine"] is None
    assert json.loads(ask(sink, "/history.json")[2])["about"] == {"model": "tiny"}


def test_the_machines_sample_is_shown(serve: Callable[..., WebSink], result: MakeResult) -> None:
    class Sample:
        total_mw = 7250

        def as_dict(self) -> dict[str, object]:
            return {"at_ns": 1, "rails_mw": {"VDD_IN": 7250}, "total_mw": 7250}

    sink = serve(machine=Sample)
    sink.write(*result())
    machine = json.loads(ask(sink, "/metrics.json")[2])["machine"]
    assert machine == {"rails_mw": {"VDD_IN": 7250}, "total_mw": 7250}


def test_history_has_every_second_also_the_empty_ones(
    result: MakeResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr(web_numbers.time, "monotonic", lambda: clock[0])
    numbers = web_numbers.Numbers(stalled_after_s=2)
    for at in (100.1, 100.5, 103.2):  # nothing in seconds 1 and 2
        clock[0] = at
        numbers.add(result()[2], (64, 48))
    clock[0] = 104.5
    history = numbers.history()
    assert history["second"] == 3
    assert history["fps"] == [2, 0, 0, 1]
    assert history["latency_p50_ms"] == [22.2, None, None, 22.2]
    clock[0] = 100_000.0
    assert len(numbers.history()["fps"]) == web_numbers.HISTORY_S


def test_health_tells_a_stall_and_the_recovery(
    serve: Callable[..., WebSink], result: MakeResult
) -> None:
    sink = serve(stalled_s=0.2)
    assert ask(sink, "/healthz")[0] == 200
    sink.write(*result(0))
    status, _, body = ask(sink, "/healthz")
    assert (status, json.loads(body)["status"]) == (200, "ok")
    assert set(json.loads(body)) == {
        *("status", "frames", "fps", "last_frame_age_s", "drops", "uptime_s")
    }
    time.sleep(0.3)
    status, _, body = ask(sink, "/healthz")
    health = json.loads(body)
    assert (status, health["status"], health["fps"]) == (503, "stalled", 0.0)
    assert health["last_frame_age_s"] > 0.2
    sink.write(*result(1))
    assert ask(sink, "/healthz")[0] == 200


def test_health_tells_that_no_frame_ever_came(serve: Callable[..., WebSink]) -> None:
    sink = serve(stalled_s=0.2)
    status, _, body = ask(sink, "/healthz")
    assert (status, json.loads(body)["status"]) == (200, "starting")
    time.sleep(0.3)
    status, _, body = ask(sink, "/healthz")
    health = json.loads(body)
    assert (status, health["status"], health["last_frame_age_s"]) == (503, "stalled", None)


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
        r"web page: ValueError in stumble, line \d+ of test_web.py, .*127.0.0.1\n", told
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


# --- opening and closing -------------------------------------------------------------------------


def test_closing_frees_the_port_and_ends_all_threads(result: MakeResult) -> None:
    before = set(threading.enumerate())
    sink = open_web("web://:0", note=lambda line: None)
    sink.write(*result())
    with watching(sink, "/live") as client, watching(sink, "/overlay.mjpg"):
        assert until(lambda: sink._stage.watchers == 2)
        began = time.monotonic()
        sink.close()
        sink.close()
        assert time.monotonic() - began < 0.5
        figures = [json.loads(body) for kind, _, body in parts(client) if "json" in kind]
        assert figures[-1]["status"] == "stopping"
    assert set(threading.enumerate()) <= before
    with closing(open_web(f"web://:{sink.port}", note=lambda line: None)) as again:
        assert ask(again, "/healthz")[0] == 200


def test_a_port_in_use_is_told_with_another(serve: Callable[..., WebSink]) -> None:
    port = serve().port
    message = (
        rf"cannot listen on port {port} .*in use; end the program .*web://127.0.0.1:{port + 1}"
    )
    with pytest.raises(OutputError, match=message):
        open_web(f"web://:{port}")


REFUSED = [
    ("web://no-such-host.invalid:1", "the host 'no-such-host.invalid' is unknown.*web://0.0.0.0"),
    ("web://192.0.2.1:8080", "cannot listen on port 8080.*no address of this machine"),
    ("web://?token=short", "token: expected SECRET"),
    ("web://?token=not%20one!", "token: expected SECRET"),
    ("web://?fps=0", "web page: fps: expected above 0, got 0"),
    ("web://?clients=-1", "web page: clients: expected above 0"),
    ("web://?stalled_s=nan", "web page: stalled_s: expected above 0"),
    ("web://?colour=red", "key 'colour' is unknown; web:// takes token=SECRET, fps=RATE"),
    ("web://:99999", "is no address to listen on"),
]


@pytest.mark.parametrize(("destination", "message"), REFUSED)
def test_a_mistake_is_told_with_its_cure(destination: str, message: str) -> None:
    with pytest.raises(OutputError, match=message):
        open_web(destination)


def test_missing_permission_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(web.Server, "__init__", refuse)
    with pytest.raises(OutputError, match=r"port 80 .*Permission denied; ports below 1024.*:8080"):
        open_web("web://:80")


@pytest.mark.skipif(not socket.has_ipv6, reason="this system has no IPv6")
def test_ipv6_works_as_well() -> None:
    try:
        sink = open_web("web://[::1]:0", note=lambda line: None)
    except OutputError as err:
        pytest.skip(f"no IPv6 loopback here: {err}")
    with closing(sink):
        assert sink.destination == f"web://[::1]:{sink.port}"
        connection = http.client.HTTPConnection("::1", sink.port, timeout=5)
        with closing(connection):
            connection.request("GET", "/healthz")
            assert connection.getresponse().status == 200
