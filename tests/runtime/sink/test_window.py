from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edge_fusion.errors import OutputError
from edge_fusion.runtime.sink import window
from edge_fusion.runtime.sink.window import open_window

MakeResult = Callable[..., Any]
WITH_QT = "\n  GUI:                           QT5\n    QT:   YES (ver 5.15)\n"


class Screen:
    """Stands for the window functions of an OpenCV that has them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pictures: list[np.ndarray] = []
        self.key, self.visible, self.open = -1, 1.0, False
        monkeypatch.setattr(cv2, "getBuildInformation", lambda: WITH_QT)
        monkeypatch.setattr(cv2, "namedWindow", lambda *_: setattr(self, "open", True))
        monkeypatch.setattr(cv2, "resizeWindow", lambda *_: None)
        monkeypatch.setattr(cv2, "imshow", lambda _, picture: self.pictures.append(picture))
        monkeypatch.setattr(cv2, "waitKey", lambda _: self.key)
        monkeypatch.setattr(cv2, "getWindowProperty", lambda *_: self.visible)
        monkeypatch.setattr(cv2, "destroyWindow", lambda _: setattr(self, "open", False))
        monkeypatch.setattr(window, "_check_display", lambda: None)


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    return Screen(monkeypatch)


def test_the_overlay_is_shown_and_the_window_goes_at_the_end(
    screen: Screen, result: MakeResult
) -> None:
    sink = open_window()
    assert not screen.open
    sink.write(*result(0))
    sink.write(*result(1))
    assert screen.open
    assert [picture.shape for picture in screen.pictures] == [(48, 64, 3)] * 2
    sink.close()
    sink.close()
    assert not screen.open


@pytest.mark.parametrize("state", [{"key": ord("q")}, {"key": 27}, {"visible": 0.0}])
def test_leaving_ends_the_run_once(
    screen: Screen, result: MakeResult, state: dict[str, Any]
) -> None:
    left: list[int] = []
    sink = open_window(on_quit=lambda: left.append(1))
    sink.write(*result(0))
    assert left == []
    for name, value in state.items():
        setattr(screen, name, value)
    for number in (1, 2, 3):
        sink.write(*result(number))
    assert left == [1]
    assert len(screen.pictures) == 2


def test_another_key_changes_nothing(screen: Screen, result: MakeResult) -> None:
    left: list[int] = []
    screen.key = ord("x")
    open_window(on_quit=lambda: left.append(1)).write(*result(0))
    assert left == []


def test_a_failing_window_is_told(
    screen: Screen, result: MakeResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise cv2.error("(-2:Unspecified error) no window\nin function 'cvNamedWindow'")

    monkeypatch.setattr(cv2, "namedWindow", fail)
    with pytest.raises(OutputError, match=r"cannot show a window: got .*no window; .*web://:8080"):
        open_window().write(*result(0))


def test_a_headless_build_is_refused_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "\n  GUI:              NONE\n  X: 1\n")
    with pytest.raises(OutputError, match=r"headless build.*pip install opencv-python.*web://"):
        open_window()


def test_more_than_the_scheme_is_refused() -> None:
    with pytest.raises(OutputError, match="expected window://"):
        open_window("window://left")
    with pytest.raises(OutputError, match="key 'size' is unknown; window:// takes no keys"):
        open_window("window://?size=3")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems need no display")
@pytest.mark.parametrize(
    ("display", "got"), [("", "neither"), (":9731", "DISPLAY=:9731"), ("localhost:59999", "DISPL")]
)
def test_a_display_that_does_not_answer_is_refused(
    monkeypatch: pytest.MonkeyPatch, display: str, got: str
) -> None:
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: WITH_QT)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setenv("DISPLAY", display)
    with pytest.raises(OutputError, match=f"no display.*got {got}.*ssh -X"):
        open_window()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems need no display")
def test_a_display_that_answers_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: WITH_QT)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind("\0/tmp/.X11-unix/X9732")
        server.listen()
        monkeypatch.setenv("DISPLAY", ":9732.0")
        open_window().close()
