"""The host's side of ``oak://``, driven by a node of depthai that plays the camera.

What runs on the camera (stereo, alignment, undistortion) and the ways a real one is lost are not
tested here; how the pipeline is laid out is checked against stand-ins that note what was linked.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from datetime import timedelta
from itertools import islice
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest

from edge_fusion.errors import FrameError, MissingDependencyError, SourceError
from edge_fusion.frame import Intrinsics
from edge_fusion.runtime.source import oak
from edge_fusion.runtime.source.base import Arrival, ArrivingSource, CountingSource
from edge_fusion.runtime.source.oak import OakCamera, Rig, open_rig
from edge_fusion.runtime.source.uri import open_source

try:
    dai = oak.load_sdk()
except ImportError as err:
    pytest.skip(f"depthai is not installed: {err}", allow_module_level=True)

WIDTH, HEIGHT, PERIOD_MS = 64, 48, 1000 / 30


def message(kind: str, number: int, late_ms: float = 0) -> Any:
    """An image that tells its own number."""
    shape, dtype = {
        "RGB888i": ((HEIGHT, WIDTH, 3), np.uint8),
        "BGR888i": ((HEIGHT, WIDTH, 3), np.uint8),
        "RAW16": ((HEIGHT, WIDTH), np.uint16),
    }[kind]
    pixels = np.full(shape, number, dtype)
    if pixels.ndim == 2:
        pixels += 1000
    else:
        pixels[..., 0] = 255  # red
    made = dai.ImgFrame()
    made.setType(getattr(dai.ImgFrame.Type, kind))
    made.setWidth(WIDTH)
    made.setHeight(HEIGHT)
    made.setStride(pixels.strides[0])
    made.setData(pixels.view(np.uint8).ravel())
    made.setSequenceNum(number)
    made.setTimestamp(timedelta(milliseconds=number * PERIOD_MS + late_ms))
    made.setTimestampDevice(timedelta(milliseconds=number * PERIOD_MS + 5000))
    return made


class Camera:
    """Opens a pipeline in which a host's node sends the given numbers; counts how often it closed.

    Each entry is the number of a pair, or (number of colour or None, of depth or None).  After a
    pair it waits until a reader asked for the next, unless it ``races`` ahead.
    """

    def __init__(self, *scripts: Iterable[Any], kind: str = "RGB888i", races: bool = False) -> None:
        self.scripts, self.kind, self.races = list(scripts), kind, races
        self.asked = threading.Semaphore(2)
        self.sent = self.closed = 0
        self.pipeline: Any = None

    def __call__(self, mxid: str, size: tuple[int, int], fps: float) -> Rig:
        script, kind, camera = self.scripts.pop(0), self.kind, self

        class Player(dai.node.ThreadedHostNode):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                super().__init__()
                self.color, self.depth = self.createOutput(), self.createOutput()

            def run(self) -> None:
                for entry in script:
                    if not self.isRunning():
                        return
                    color, depth = entry if isinstance(entry, tuple) else (entry, entry)
                    if color is not None:
                        self.color.send(message(kind, color))
                    if depth is not None:
                        self.depth.send(message("RAW16", depth, late_ms=3))
                    camera.sent += 1
                    if camera.races or color != depth:
                        time.sleep(0.002)
                    else:
                        camera.asked.acquire(timeout=0.5)

        self.pipeline = dai.Pipeline(createImplicitDevice=False)
        player = self.pipeline.create(Player)
        return Rig(self.pipeline, player.color, player.depth, self.close)

    def close(self) -> None:
        self.closed += 1

    def take(self, pairs: Iterator[Arrival], count: int) -> list[Arrival]:
        """Read on, and let the camera go on."""
        taken = []
        for pair in islice(pairs, count):
            taken.append(pair)
            self.asked.release()
        return taken


def pairs(source: OakCamera) -> Generator[Arrival, None, None]:
    """What arrives, without the moments in which nothing does."""
    with closing(source.arrivals()) as arrivals:
        for arrival in arrivals:
            if arrival is not None:
                assert isinstance(arrival, Arrival)
                yield arrival


def source_of(camera: Camera, timeout_s: float = 5.0) -> OakCamera:
    return OakCamera("18443010", (WIDTH, HEIGHT), 30, timeout_s, camera)


def content(arrival: Arrival) -> tuple[int, int]:
    frame = arrival.decode()
    assert np.unique(frame.depth).size == 1
    assert (frame.rgb[..., 0] == 255).all()
    return int(frame.rgb[0, 0, 1]), int(frame.depth[0, 0]) - 1000


def test_pairs_with_their_own_content() -> None:
    camera = Camera(range(60))
    source = source_of(camera)
    assert isinstance(source, ArrivingSource)
    assert isinstance(source, CountingSource)
    before = time.monotonic_ns()
    with closing(pairs(source)) as arrivals:
        taken = camera.take(arrivals, 60)
    assert [(one.number, *content(one)) for one in taken] == [(n, n, n) for n in range(60)]
    assert source.counts == {}
    frame = taken[7].decode()
    assert frame.id == "18443010-000007"
    assert frame.timestamp_ns == pytest.approx((7 * PERIOD_MS + 5000) * 1e6, abs=1000)
    assert before < frame.arrival_ns < time.monotonic_ns()
    assert frame.depth_spec.scale_to_m == 0.001
    assert frame.intrinsics is None  # the host's images do not know it
    assert camera.closed == 1


def test_images_without_a_partner_are_no_pair_and_counted() -> None:
    script = [
        n if n not in (10, 11, 20) else (n, None) if n == 20 else (None, n) for n in range(40)
    ]
    camera = Camera(script)
    source = source_of(camera)
    with closing(pairs(source)) as arrivals:
        taken = [content(one) for one in camera.take(arrivals, 37)]
    assert taken == [(n, n) for n in range(40) if n not in (10, 11, 20)]
    assert source.counts == {"pairs missing by number": 3}


def test_a_late_reader_gets_the_newest() -> None:
    camera = Camera(range(100), races=True)
    source = source_of(camera)
    with closing(pairs(source)) as arrivals:
        next(arrivals)
        while camera.sent < 100:
            time.sleep(0.01)
        time.sleep(0.1)  # the last of them are put together
        assert next(arrivals).number >= 94
    assert source.counts["pairs missing by number"] >= 90


def test_a_camera_that_falls_silent() -> None:
    camera = Camera(range(5))
    began = time.monotonic()
    with pytest.raises(
        SourceError, match="OAK camera 18443010 sent no pair for 0.3 s; plug it in again"
    ):
        list(pairs(source_of(camera, timeout_s=0.3)))
    assert time.monotonic() - began < 4
    assert camera.closed == 1


def test_a_camera_that_is_gone_is_told_and_opens_again() -> None:
    camera = Camera(range(1000), range(1000))
    source = source_of(camera, timeout_s=30)
    for _ in range(2):
        with closing(pairs(source)) as arrivals:
            next(arrivals)
            camera.pipeline.stop()
            with pytest.raises(SourceError, match="OAK camera 18443010 was unplugged.*plug it in"):
                list(arrivals)
    assert camera.closed == 2


def test_a_reader_that_leaves_frees_the_camera() -> None:
    camera = Camera(range(1000))
    arrivals = pairs(source_of(camera))
    next(arrivals)
    began = time.monotonic()
    arrivals.close()
    assert time.monotonic() - began < oak._STOP_S
    assert camera.closed == 1
    assert "edge-fusion-oak-stop" not in {one.name for one in threading.enumerate()}


def test_a_camera_that_never_stops_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oak, "_STOP_S", 0.2)
    camera = Camera(range(1000))
    release = threading.Event()
    monkeypatch.setattr(camera, "close", lambda: release.wait(10))
    arrivals = pairs(source_of(camera))
    next(arrivals)
    began = time.monotonic()
    arrivals.close()
    assert 0.2 <= time.monotonic() - began < 8
    release.set()


def test_another_colour_order_is_refused() -> None:
    with (
        closing(pairs(source_of(Camera(range(5), kind="BGR888i")))) as arrivals,
        pytest.raises(FrameError, match="expected colour as RGB888i, depth as RAW16, got BGR888i"),
    ):
        next(arrivals).decode()


def test_the_image_knows_its_camera() -> None:
    color, depth = message("RGB888i", 3), message("RAW16", 3)
    transformation = dai.ImgTransformation(WIDTH, HEIGHT)
    transformation.setIntrinsicMatrix([[50.0, 0, 31.5], [0, 51.0, 23.5], [0, 0, 1]])
    color.setTransformation(transformation)
    frame = oak._arrival("oak", color, depth).decode()
    assert frame.intrinsics == Intrinsics(50.0, 51.0, 31.5, 23.5)


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ("size=0x480", "oak: size: expected above 0, got 0"),
        ("fps=0", "oak: fps: expected above 0, got 0"),
        ("timeout=0", "timeout"),
        ("stride=2", "key 'stride' is unknown"),
    ],
)
def test_keys(keys: str, told: str) -> None:
    with pytest.raises(SourceError, match=told):
        open_source(f"oak://?{keys}")


def test_the_uri_opens_an_equal_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oak, "load_sdk", lambda: stand_in("RVC2", name="18443010"))
    source = open_source("oak://18443010?size=320x240&fps=15&timeout=2.5")
    assert source.live
    assert source.uri == "oak://18443010?size=320x240&fps=15&timeout=2.5"


# --- finding and laying out, against stand-ins ----------------------------------------------------


def listed(name: str, state: str = "X_LINK_UNBOOTED") -> Any:
    return SimpleNamespace(
        getDeviceId=lambda: name, name="1.2.3", state=getattr(dai.XLinkDeviceState, state)
    )


FOUND: list[tuple[list[Any], str, str]] = [
    ([], "", "expected one OAK camera, or the name of one, got connected: none; .*udev|tee"),
    ([], "77", "'oak://77': expected the OAK camera 77, got connected: none; plug it into a USB 3"),
    (
        [listed("11"), listed("22")],
        "",
        "got connected: 11 at 1.2.3, 22 at 1.2.3; name one: oak://1",
    ),
    ([listed("11")], "77", "expected the OAK camera 77, got connected: 11"),
    ([listed("11", "X_LINK_BOOTED")], "", "OAK camera 11 is in use; end the other program"),
]


@pytest.mark.parametrize(("devices", "wanted", "told"), FOUND)
def test_cameras_that_cannot_be_had(
    monkeypatch: pytest.MonkeyPatch, devices: list[Any], wanted: str, told: str
) -> None:
    monkeypatch.setattr(dai.Device, "getAllConnectedDevices", staticmethod(lambda: devices))
    with pytest.raises(SourceError, match=told):
        OakCamera(wanted)


@pytest.mark.parametrize("name", ["", "11", "1.2.3"])
def test_a_camera_is_found_by_any_of_its_names(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    device = listed("11")
    monkeypatch.setattr(dai.Device, "getAllConnectedDevices", staticmethod(lambda: [device]))
    assert oak._find(dai, name) is device


def test_a_camera_in_another_network_is_asked_by_its_address() -> None:
    assert oak._find(dai, "192.0.2.7").name == "192.0.2.7"


def stand_in(
    platform: str, sockets: Iterable[str] = ("CAM_A", "CAM_B", "CAM_C"), name: str = "11"
) -> MagicMock:
    """depthai with a camera that notes what is done to it; enumerations are the real ones."""
    sdk = MagicMock()
    sdk.CameraBoardSocket, sdk.Platform = dai.CameraBoardSocket, dai.Platform
    sdk.MessageQueue = dai.MessageQueue
    sdk.ImgFrame.Type, sdk.ImgResizeMode = dai.ImgFrame.Type, dai.ImgResizeMode
    sdk.Device.getAllConnectedDevices.return_value = [listed(name)]
    device = sdk.Device.return_value
    device.getConnectedCameras.return_value = [getattr(dai.CameraBoardSocket, s) for s in sockets]
    device.getPlatform.return_value = getattr(dai.Platform, platform)
    device.getDeviceId.return_value, device.getProductName.return_value = name, "OAK-1"
    nodes: dict[Any, MagicMock] = defaultdict(MagicMock)  # by kind, cameras by socket
    nodes[sdk.node.Camera].build.side_effect = nodes.__getitem__
    sdk.Pipeline.return_value.create.side_effect = nodes.__getitem__
    sdk.nodes = nodes
    return sdk


@pytest.mark.parametrize("platform", ["RVC2", "RVC4"])
def test_depth_is_aligned_to_colour_on_either_platform(
    monkeypatch: pytest.MonkeyPatch, platform: str
) -> None:
    sdk = stand_in(platform)
    monkeypatch.setattr(oak, "load_sdk", lambda: sdk)
    rig = open_rig("", (640, 480), 15.0)
    stereo, align = sdk.nodes[sdk.node.StereoDepth], sdk.nodes[sdk.node.ImageAlign]
    target = stereo if platform == "RVC2" else align
    assert stereo.depth.link.called == (platform == "RVC4")
    rig.color.link.assert_called_once_with(target.inputAlignTo)
    assert rig.depth is (stereo.depth if platform == "RVC2" else align.outputAligned)
    for socket, side in (("CAM_B", stereo.left), ("CAM_C", stereo.right)):
        mono = sdk.nodes[getattr(dai.CameraBoardSocket, socket)].requestOutput
        mono.assert_called_once_with(oak.MONO_SIZE, fps=15.0)
        mono.return_value.link.assert_called_once_with(side)
    sdk.nodes[dai.CameraBoardSocket.CAM_A].requestOutput.assert_called_once_with(
        (640, 480),
        type=dai.ImgFrame.Type.RGB888i,
        resizeMode=dai.ImgResizeMode.CROP,
        fps=15.0,
        enableUndistortion=True,
    )
    sdk.Device.return_value.setMaxReconnectionAttempts.assert_called_once_with(0)


def test_a_camera_without_stereo_is_refused_and_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    sdk = stand_in("RVC2", sockets=["CAM_A"])
    monkeypatch.setattr(oak, "load_sdk", lambda: sdk)
    with pytest.raises(
        SourceError, match=r"OAK camera 11 \(OAK-1\): .*got no left and no right camera; use a"
    ):
        open_rig("", (640, 480), 30.0)
    sdk.Device.return_value.close.assert_called_once_with()


def test_every_name_that_is_used_exists() -> None:
    """Stand-ins accept any name; depthai itself is asked here."""
    uses: list[tuple[Any, Iterable[str]]] = [
        (dai.Device, ("getAllConnectedDevices", "getConnectedCameras", "getPlatform", "close")),
        (dai.Device, ("getDeviceId", "getProductName", "setMaxReconnectionAttempts")),
        (dai.DeviceInfo, ("getDeviceId", "name", "state")),
        (dai.node.Camera, ("build", "requestOutput")),
        (dai.node.StereoDepth, ("left", "right", "depth", "inputAlignTo")),
        (dai.node.ImageAlign, ("input", "inputAlignTo", "outputAligned")),
        (dai.Platform, ("RVC2", "RVC4")),
        (dai.XLinkDeviceState, (oak._IN_USE,)),
    ]
    missing = [
        f"{owner.__name__}.{n}" for owner, names in uses for n in names if not hasattr(owner, n)
    ]
    assert not missing


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "depthai", None)
    with pytest.raises(MissingDependencyError, match=r"'oak://' needs depthai.*\[oak\]"):
        open_source("oak://")


def test_depthai_is_told_not_to_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DEPTHAI_TELEMETRY", raising=False)
    oak.load_sdk()
    assert os.environ["DEPTHAI_TELEMETRY"] == "0"
    monkeypatch.setenv("DEPTHAI_TELEMETRY", "1")  # somebody's own choice
    oak.load_sdk()
    assert os.environ["DEPTHAI_TELEMETRY"] == "1"
