"""What ``rtsp://`` and ``v4l2://`` say: two addresses, and how to read them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from edge_fusion.errors import SourceError

from .cameras import CameraOptions, CameraSource, Open
from .capture import open_camera, open_rtsp
from .credentials import HIDDEN, without_credentials
from .keys import DEPTH_KEYS, Key, filled, size
from .v4l2 import DepthDevice
from .video import query_of

_RTSP, _V4L2 = "rtsp://", "v4l2://"


def _positive(text: str) -> float:
    value = _finite(text)
    if value <= 0:
        raise ValueError(text)
    return value


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


#: Keys of two cameras that know nothing of each other.
PAIR_KEYS: dict[str, Key] = {
    "depth": Key(
        filled, "ADDRESS", "depth: rtsp://..., or a device such as /dev/video2", encoded=True
    ),
    "timeout": Key(_positive, "SECONDS", "without an image until a camera is lost (default 5)"),
    "tolerance_ms": Key(
        _positive, "MS", "farthest apart that a pair may be (default half the slower period)"
    ),
    "depth_delay_ms": Key(_finite, "MS", "how much later depth arrives than colour (default 0)"),
    **DEPTH_KEYS,
}

#: What may be asked of a V4L2 device.
DEVICE_KEYS: dict[str, Key] = {
    "size": Key(size, "WIDTHxHEIGHT", "image size of both (default what the devices have)"),
    "fps": Key(_positive, "RATE", "colour images per second (default what the device has)"),
}


def open_cameras(scheme: str, path: str, query: Mapping[str, Any]) -> CameraSource:
    """Open a colour camera with a depth camera beside it.

    Args:
        scheme: ``rtsp`` or ``v4l2``.
        path: The colour camera: what follows ``rtsp://``, or a device.
        query: Values of :data:`PAIR_KEYS`, and of :data:`DEVICE_KEYS` for V4L2.

    Raises:
        SourceError: As :class:`CameraSource`; or an address is missing or of another kind.
    """
    color = f"{scheme}://{path}"
    written = {key: _written(value) for key, value in query.items()}
    uri = quote(color, safe="/:@%") + query_of(written).replace("&", "?", 1)
    rest = dict(query)
    depth = rest.pop("depth", "")
    if not path or not depth:
        raise SourceError(
            f"source '{without_credentials(uri)}' names no {'depth' if path else 'colour'} camera",
            expected=f"{scheme}://COLOUR?depth=DEPTH&unit=mm",
            cure="a colour camera alone shows no depth: name a second stream or device, or use "
            "realsense:// or oak://",
        )
    wanted_size, fps = rest.pop("size", None), rest.pop("fps", None)
    tolerance_ms = rest.pop("tolerance_ms", None)
    options = CameraOptions(
        timeout_s=rest.pop("timeout", 5.0),
        tolerance_s=None if tolerance_ms is None else tolerance_ms / 1000,
        depth_delay_s=rest.pop("depth_delay_ms", 0.0) / 1000,
    )
    open_color: Open = (
        partial(open_rtsp, address(color), "colour", options.timeout_s)
        if scheme == "rtsp"
        else partial(open_camera, device(color), "colour", wanted_size, fps)
    )
    open_depth: Open = (
        partial(open_rtsp, address(depth), "depth", options.timeout_s)
        if _is_rtsp(depth)
        else partial(DepthDevice, device(depth), wanted_size, options.timeout_s)
    )
    return CameraSource(uri, open_color, open_depth, rest, options)


def address(text: str) -> str:
    """An RTSP address as FFmpeg takes it: user and password percent-encoded.

    Args:
        text: The address; a password that is not encoded is understood where it can be.

    Example:
        >>> address("rtsp://me:p@ss:word@camera:554/1")
        'rtsp://me:p%40ss%3Aword@camera:554/1'
    """
    rest = text.removeprefix(_RTSP)
    first, _, _ = rest.partition("/")
    port = first.rpartition(":")[2] if ":" in first else "0"
    if "@" in first:
        account, _, host = first.rpartition("@")
        host += rest.removeprefix(first)
    elif "@" in rest and not port.isdecimal():  # no port but the beginning of a password
        account, _, host = rest.rpartition("@")
    else:
        return text
    user, colon, password = account.partition(":")
    return f"{_RTSP}{_encoded(user)}{colon}{_encoded(password)}@{host}"


def _encoded(text: str) -> str:
    return quote(unquote(text), safe="")


def device(text: str) -> Path:
    """A V4L2 device by its path, name or number.

    Example:
        >>> [str(device(text)) for text in ("v4l2:///dev/v4l/by-id/usb-cam", "video2", "2")]
        ['/dev/v4l/by-id/usb-cam', '/dev/video2', '/dev/video2']
    """
    name = text.removeprefix(_V4L2)
    return Path("/dev") / (f"video{name}" if name.isdecimal() else name)


def _is_rtsp(text: str) -> bool:
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", text) and not text.startswith((_RTSP, _V4L2)):
        raise SourceError(
            f"depth camera '{without_credentials(text) if '://' in text else HIDDEN}'",
            expected=f"{_RTSP}ADDRESS, or a device such as /dev/video2",
        )
    return text.startswith(_RTSP)


def _written(value: Any) -> Any:
    if isinstance(value, tuple):
        return "x".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else value
