"""A window on this machine's screen, where OpenCV was built to open one."""

from __future__ import annotations

import _thread
import os
import re
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_fusion.errors import OutputError
from edge_fusion.frame import RgbdFrame

from ..ledger import FrameRecord
from .destination import read_destination
from .overlay import depth_inset, draw_overlay

TITLE = "edge-fusion"

_QUIT_KEYS = {ord("q"), ord("Q"), 27}  # 27: escape
_ANSWER_WITHIN_S = 2.0  # the display server, which may be at the other end of a network


class Window:
    """Shows every overlay in a window; q, Escape and closing the window end the run.

    All calls must come from one thread, which the toolkits below OpenCV insist on; the window
    appears with the first frame and lives from frame to frame.

    Args:
        on_quit: Called once when the user closes the window; by default it ends
            the run as Ctrl-C does.

    Raises:
        OutputError: This OpenCV cannot open windows, or there is no display.
    """

    def __init__(self, on_quit: Callable[[], object] = _thread.interrupt_main) -> None:
        _check_opencv()
        _check_display()
        self._on_quit = on_quit
        self._shown = self._left = False

    @property
    def destination(self) -> str:
        """The window."""
        return "window://"

    @property
    def paints(self) -> bool:
        """It does nothing else with saliency."""
        return True

    def write(self, frame: RgbdFrame, saliency: NDArray[np.float32], record: FrameRecord) -> None:
        """Show one overlay and take the keys that were pressed.

        Raises:
            OutputError: The window could not be opened.
        """
        if self._left:
            return
        caption = f"{frame.id}  {record.fps:.1f} fps  {record.latency_ms:.0f} ms"
        picture = draw_overlay(frame.rgb, saliency, inset=depth_inset(frame), caption=caption)
        try:
            if not self._shown:
                cv2.namedWindow(TITLE, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)
                cv2.resizeWindow(TITLE, frame.rgb.shape[1], frame.rgb.shape[0])
                self._shown = True
            cv2.imshow(TITLE, picture)
            key = cv2.waitKey(1)
            closed = cv2.getWindowProperty(TITLE, cv2.WND_PROP_VISIBLE) < 1
        except cv2.error as err:
            raise OutputError(
                "cannot show a window", got=_first_line(err), cure=_OTHER_WAYS
            ) from err
        if closed or (key >= 0 and key & 0xFF in _QUIT_KEYS):
            self._left = True
            self._on_quit()

    def close(self) -> None:
        """Close the window, if there is one."""
        if self._shown:
            self._shown = False
            try:
                cv2.destroyWindow(TITLE)
                cv2.waitKey(1)  # without it the window stays until the process ends
            except cv2.error:
                pass  # the user was faster


def open_window(
    destination: str = "window://", *, on_quit: Callable[[], object] = _thread.interrupt_main
) -> Window:
    """Open a window, or say at once why there can be none.

    Args:
        destination: ``window://``.
        on_quit: See :class:`Window`.

    Raises:
        OutputError: More than ``window://`` was written, this OpenCV cannot open windows, or there
            is no display.
    """
    place, _ = read_destination(destination, "window", {})
    if place:
        raise OutputError(f"destination '{destination}'", expected="window://")
    return Window(on_quit)


_OTHER_WAYS = "look at it in a browser instead: web://:8080"


def _check_opencv() -> None:
    """Refuse an OpenCV without windows; asking it for one would fail after the first frame."""
    if re.search(r"^\s*GUI:\s+NONE\s*$", cv2.getBuildInformation(), re.MULTILINE):
        raise OutputError(
            "this OpenCV cannot open windows: it is a headless build",
            got=f"OpenCV {cv2.__version__} in {Path(cv2.__file__).parent}",
            cure="pip uninstall opencv-python-headless and pip install opencv-python, or use the "
            f"system's own OpenCV; or {_OTHER_WAYS}",
        )


def _check_display() -> None:
    """Refuse where no display answers: Qt would end the whole process."""
    if not sys.platform.startswith("linux") or os.environ.get("WAYLAND_DISPLAY"):
        return
    display = os.environ.get("DISPLAY", "")
    if display and _answers(display):
        return
    raise OutputError(
        "there is no display to open a window on",
        expected="DISPLAY or WAYLAND_DISPLAY to name one that answers",
        got=f"DISPLAY={display}" if display else "neither",
        cure=f"log in with 'ssh -X', or run it on the device's own desktop; or {_OTHER_WAYS}",
    )


def _answers(display: str) -> bool:
    """Whether somebody listens at an X display such as ``:0`` or ``localhost:10.0``."""
    match = re.fullmatch(r"(?:unix)?(?P<host>[^:]*):(?P<number>\d+)(?:\.\d+)?", display)
    if match is None:
        return True  # a path, as on macOS: nothing to try
    number = int(match["number"])
    if match["host"]:
        try:
            with socket.create_connection((match["host"], 6000 + number), _ANSWER_WITHIN_S):
                return True
        except OSError:
            return False
    path = f"/tmp/.X11-unix/X{number}"
    return any(_listens(one) for one in (f"\0{path}", path))  # the abstract name is Linux's own


def _listens(address: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_ANSWER_WITHIN_S)
        return probe.connect_ex(address) == 0


def _first_line(err: Exception) -> str:
    return str(err).strip().partition("\n")[0]
