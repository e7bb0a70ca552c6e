"""What the live page shows, and how it opens and closes."""

from __future__ import annotations

import http.client
import json
import re
import socket
import threading
import time
from collections.abc import Callable
from contextlib import closing

import cv2
import numpy as np
import pytest

from edge_fusion.errors import OutputError
from edge_fusion.runtime.sink import web, web_numbers, web_views
from edge_fusion.runtime.sink.web import WebSink, open_web
from tests.fakes.web_client import MakeResult, ask, parts, until, watching

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


def test_drift_is_shown_where_it_is_watched(
    serve: Callable[..., WebSink], result: MakeResult
) -> None:
    judged = {"exceeded": True, "text": "red: 9% outside, shift 0.30"}
    for drift, wanted in ((lambda: judged, judged), (None, None)):
        sink = serve(drift=drift)
        sink.write(*result())
        assert json.loads(ask(sink, "/metrics.json")[2])["drift"] == wanted


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
