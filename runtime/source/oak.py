"""``oak://``: a Luxonis OAK camera through depthai 3.

Depth is computed and aligned to colour on the camera; the two are put together by their timestamps
on this computer.  depthai's own reconnection is off: it would hide how long nothing came.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_fusion.errors import FrameError, SourceError
from edge_fusion.frame import Intrinsics, RgbdFrame
from edge_fusion.spec import DepthSpec

from .base import Arrival, Arrivals, decoded
from .silence import Silence

SIZE, FPS, TIMEOUT_S = (640, 480), 30.0, 5.0
MONO_SIZE = (640, 400)  # of the stereo pair: the native size of every OAK, or a binned one

MILLIMETRES = DepthSpec(scale_to_m=0.001)

_WAIT = timedelta(milliseconds=200)
_STOP_S = 2.0
_ROOM = 4  # pairs that may wait; then the oldest is forgotten
_SILENT = "plug it in again, into a USB 3 port with enough power, or use a lower fps"
_MISSING = "pairs missing by number"
_IN_USE = "X_LINK_BOOTED"
_UDEV = (
    'echo \'SUBSYSTEM=="usb", ATTRS{idVendor}=="03e7", MODE="0666"\' | sudo tee '
    "/etc/udev/rules.d/80-movidius.rules, and plug it in again"
)


@dataclass(frozen=True, slots=True, eq=False)
class Rig:
    """An opened camera, not started yet.

    Attributes:
        pipeline: The pipeline; it runs on the camera, or on the host without one.
        color: The output that gives colour.
        depth: The output that gives depth in millimetres, aligned to colour and of its size.
        close: Lets go of the camera.
    """

    pipeline: Any
    color: Any
    depth: Any
    close: Callable[[], None]


OpenRig = Callable[[str, tuple[int, int], float], Rig]


def open_oak(
    path: str,
    *,
    size: tuple[int, int] = SIZE,
    fps: float = FPS,
    timeout: float = TIMEOUT_S,
) -> OakCamera:
    """What an ``oak://`` URI names; see :class:`OakCamera`."""
    return OakCamera(path, size, fps, timeout)


def load_sdk() -> Any:
    """The package ``depthai``, told not to report how it is used."""
    os.environ.setdefault("DEPTHAI_TELEMETRY", "0")
    import depthai

    return depthai


def open_rig(mxid: str, size: tuple[int, int], fps: float) -> Rig:
    """Open a camera and lay out what runs on it.

    Args:
        mxid: Its identifier (or IP address); empty for the only one.
        size: Width and height of colour and depth in pixels.
        fps: Pairs per second.

    Raises:
        SourceError: There is no such camera, it is in use, or lacks a colour or a stereo camera.
    """
    sdk = load_sdk()
    device = sdk.Device(_find(sdk, mxid))
    try:
        device.setMaxReconnectionAttempts(0)
        sockets = sdk.CameraBoardSocket
        needed = {"colour": sockets.CAM_A, "left": sockets.CAM_B, "right": sockets.CAM_C}
        present = device.getConnectedCameras()
        lacking = [name for name, socket in needed.items() if socket not in present]
        if lacking:
            raise SourceError(
                f"OAK camera {device.getDeviceId()} ({device.getProductName()})",
                expected="a colour camera and a stereo pair",
                got=f"no {' and no '.join(lacking)} camera",
                cure="use a model with stereo depth, such as OAK-D",
            )
        pipeline = sdk.Pipeline(device)
        color, left, right = (
            pipeline.create(sdk.node.Camera).build(socket) for socket in needed.values()
        )
        # Depth is aligned to a pinhole camera, so colour has to be one.
        colored = color.requestOutput(
            size,
            type=sdk.ImgFrame.Type.RGB888i,
            resizeMode=sdk.ImgResizeMode.CROP,
            fps=fps,
            enableUndistortion=True,
        )
        stereo = pipeline.create(sdk.node.StereoDepth)
        left.requestOutput(MONO_SIZE, fps=fps).link(stereo.left)
        right.requestOutput(MONO_SIZE, fps=fps).link(stereo.right)
        depth = _aligned(sdk, pipeline, device, stereo, colored)
    except BaseException:
        device.close()
        raise
    return Rig(pipeline, colored, depth, device.close)


def _aligned(sdk: Any, pipeline: Any, device: Any, stereo: Any, color: Any) -> Any:
    """The output that gives depth aligned to colour; the newer platform does it in another node."""
    if device.getPlatform() == sdk.Platform.RVC4:
        align = pipeline.create(sdk.node.ImageAlign)
        stereo.depth.link(align.input)
        color.link(align.inputAlignTo)
        return align.outputAligned
    color.link(stereo.inputAlignTo)
    return stereo.depth


def _find(sdk: Any, mxid: str) -> Any:
    devices = sdk.Device.getAllConnectedDevices()
    listed = ", ".join(f"{one.getDeviceId()} at {one.name}" for one in devices) or "none"
    chosen = [one for one in devices if mxid in ("", one.getDeviceId(), one.name)]
    if mxid and not chosen and mxid.count(".") == 3:
        return sdk.DeviceInfo(mxid)  # in a network that broadcasts do not reach
    if len(chosen) != 1:
        raise SourceError(
            f"source 'oak://{mxid}'",
            expected=f"the OAK camera {mxid}" if mxid else "one OAK camera, or the name of one",
            got=f"connected: {listed}",
            cure=f"name one: oak://{devices[0].getDeviceId()}"
            if devices
            else f"plug it into a USB 3 port; if 'lsusb' shows it (03e7:), {_UDEV}",
        )
    if chosen[0].state.name == _IN_USE:
        raise SourceError(
            f"OAK camera {chosen[0].getDeviceId()} is in use",
            cure="end the other program, or unplug the camera and plug it in again",
        )
    return chosen[0]


class OakCamera:
    """A live OAK camera.

    Args:
        mxid: Its identifier or IP address; empty for the only one.
        size: Width and height of both images in pixels.
        fps: Pairs per second.
        timeout_s: Seconds without a pair that end it.
        open_rig: What opens the camera.

    Raises:
        SourceError: There is no such camera, it is in use, or cannot do what is asked.

    Example:
        >>> for frame in OakCamera().frames():  # doctest: +SKIP
        ...     print(frame.number, frame.depth.shape)
    """

    live = True

    def __init__(
        self,
        mxid: str = "",
        size: tuple[int, int] = SIZE,
        fps: float = FPS,
        timeout_s: float = TIMEOUT_S,
        open_rig: OpenRig = open_rig,
    ) -> None:
        for name, value in (("size", min(size)), ("fps", fps), ("timeout", timeout_s)):
            if not value > 0:
                raise SourceError(f"oak: {name}", expected="above 0", got=f"{value:g}")
        self._mxid, self._size, self._fps, self._timeout_s = mxid, size, fps, timeout_s
        self._open_rig = open_rig
        self._counts: Counter[str] = Counter()
        # What cannot work is told now, not after a model was loaded.
        self._opened: Rig | None = self._open()

    @property
    def uri(self) -> str:
        """The URI that opens an equal source."""
        width, height = self._size
        return (
            f"oak://{self._mxid}?size={width}x{height}&fps={self._fps:g}"
            f"&timeout={self._timeout_s:g}"
        )

    @property
    def counts(self) -> Mapping[str, int]:
        """What was lost before there were pairs."""
        return dict(self._counts)

    def frames(self) -> Iterator[RgbdFrame]:
        """Every pair, decoded at once."""
        return decoded(self.arrivals())

    def arrivals(self) -> Arrivals:
        """Every pair as it comes in; None where none came for a moment.

        Raises:
            SourceError: The camera is not there, in use, gone, or sends nothing.
        """
        with self._border(), self._running() as (pipeline, queue):
            silence, last = Silence(self._name, self._timeout_s, _SILENT), None
            while True:
                group = queue.get(_WAIT)
                if group is None and not pipeline.isRunning():
                    raise self._gone()
                silence.check(heard=group is not None)
                if group is None:
                    yield None
                    continue
                color, depth = group["color"], group["depth"]
                number = color.getSequenceNum()
                if last is not None and number > last + 1:
                    self._counts[_MISSING] += number - last - 1
                last = number
                with silence.paused():
                    yield _arrival(self._mxid or "oak", color, depth)

    @property
    def _name(self) -> str:
        return f"OAK camera {self._mxid}".rstrip()

    def _open(self) -> Rig:
        with self._border():
            return self._open_rig(self._mxid, self._size, self._fps)

    @contextmanager
    def _running(self) -> Iterator[tuple[Any, Any]]:
        """The pipeline and the queue of pairs, for as long as the context lasts."""
        sdk = load_sdk()
        rig, self._opened = self._opened or self._open(), None
        try:
            sync = rig.pipeline.create(sdk.node.Sync)
            sync.setRunOnHost(True)
            sync.setSyncThreshold(timedelta(seconds=0.5 / self._fps))
            for name, output in (("color", rig.color), ("depth", rig.depth)):
                # While one stream fails the other must not pile up on the camera.
                sync.inputs[name].setBlocking(False)
                sync.inputs[name].setMaxSize(_ROOM)
                output.link(sync.inputs[name])
            queue = sync.out.createOutputQueue(maxSize=_ROOM, blocking=False)
            rig.pipeline.start()
            yield rig.pipeline, queue
        finally:
            _stop(rig)

    @contextmanager
    def _border(self) -> Iterator[None]:
        """Turn what depthai raises into one of our errors."""
        try:
            yield
        except load_sdk().MessageQueue.QueueException as err:  # no RuntimeError
            raise self._gone() from err
        except RuntimeError as err:
            if "x_link" in str(err).lower():
                raise self._gone() from err
            raise SourceError(
                f"{self._name} failed",
                got=str(err),
                cure="try another size or fps; if the camera hangs, unplug it and plug it in again",
            ) from err

    def _gone(self) -> SourceError:
        return SourceError(
            f"{self._name} was unplugged or stopped by itself",
            cure="plug it in again; if nobody unplugged it, its cable, its hub or its power supply "
            "is weak",
        )


def _stop(rig: Rig) -> None:
    """Stop in a thread of its own: for a camera that was unplugged it may take long.

    A pipeline that is destroyed before its threads have ended waits for them holding the GIL.
    """

    def stop() -> None:
        for release in (rig.pipeline.stop, rig.pipeline.wait, rig.close):
            with suppress(RuntimeError):  # never started, or gone
                release()

    thread = threading.Thread(target=stop, name="edge-fusion-oak-stop", daemon=True)
    thread.start()
    thread.join(_STOP_S)


def _arrival(name: str, color: Any, depth: Any) -> Arrival:
    """A pair; depthai's messages lie in this computer's memory, and holding one stalls nothing."""
    number = color.getSequenceNum()
    stamp_ns = color.getTimestampDevice() // timedelta(microseconds=1) * 1000
    arrival_ns = time.monotonic_ns()
    identity = f"{name}-{number:06d}"
    decode = partial(_decode, color, depth, identity, stamp_ns, arrival_ns)
    return Arrival(identity, number, stamp_ns, arrival_ns, decode)


def _decode(color: Any, depth: Any, identity: str, stamp_ns: int, arrival_ns: int) -> RgbdFrame:
    kinds = color.getType().name, depth.getType().name
    if kinds != ("RGB888i", "RAW16"):
        raise FrameError(
            f"pair '{identity}' of an OAK camera",
            expected="colour as RGB888i, depth as RAW16",
            got=" and ".join(kinds),
        )
    rgb: NDArray[np.uint8] = np.array(color.getFrame())
    millimetres: NDArray[np.uint16] = np.array(depth.getFrame())
    return RgbdFrame(
        rgb=rgb,
        depth=millimetres,
        depth_spec=MILLIMETRES,
        id=identity,
        number=color.getSequenceNum(),
        timestamp_ns=stamp_ns,
        arrival_ns=arrival_ns,
        intrinsics=_intrinsics(color.getTransformation()),
    )


def _intrinsics(transformation: Any) -> Intrinsics | None:
    """The camera after the crop and scaling that made the image, where the image knows it."""
    if transformation is None or not transformation.isValid():
        return None
    (fx, _, cx), (_, fy, cy), _ = transformation.getIntrinsicMatrix()
    return Intrinsics(fx, fy, cx, cy)
