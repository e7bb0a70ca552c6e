"""What may be said about the topics of an RGB-D camera in ROS, live or recorded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from .declared import DepthFields, depth_fields
from .keys import DEPTH_KEYS, Key, filled, flag

# What a source counts besides images that came to no pair.
UNREADABLE = "unreadable messages"

_TOPICS = ("color", "depth", "info", "depth_info")


def milliseconds(text: str) -> int:
    """A time from 0 up, in milliseconds, as nanoseconds."""
    value = float(text)
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(text)
    return round(value * 1e6)


def seconds(text: str) -> float:
    """A time above 0, in seconds."""
    value = float(text)
    if not (math.isfinite(value) and value > 0):
        raise ValueError(text)
    return value


def topic(text: str) -> str:
    """A topic's name, which begins with a slash."""
    return f"/{filled(text).lstrip('/')}"


ROS_KEYS: dict[str, Key] = {
    "color": Key(topic, "TOPIC", "colour images, raw or compressed"),
    "depth": Key(topic, "TOPIC", "depth images, raw or compressedDepth"),
    "info": Key(topic, "TOPIC", "CameraInfo of colour (default: camera_info beside the images)"),
    "depth_info": Key(topic, "TOPIC", "CameraInfo of depth, which registration needs"),
    "registered": Key(flag, "0|1", "depth is registered to colour, although nothing says so"),
    "tolerance_ms": Key(
        milliseconds, "MS", "farthest apart that a pair may be (default half the slower period)"
    ),
    **DEPTH_KEYS,
}


@dataclass(frozen=True, slots=True)
class RosOptions:
    """Which topics are an RGB-D camera, and what its depth means.

    Attributes:
        color: Topic of colour; None: the only candidate, in a recording.
        depth: Topic of depth; None: likewise.
        info: CameraInfo of colour; None: the one beside it, if there is one.
        depth_info: CameraInfo of depth; None: likewise.
        registered: Depth is registered to colour, although nothing says so.
        tolerance_ns: Farthest apart that a pair may be; None: half the slower stream's period.
        declared: What depth means, where it is not what its encoding says.
    """

    color: str | None = None
    depth: str | None = None
    info: str | None = None
    depth_info: str | None = None
    registered: bool = False
    tolerance_ns: int | None = None
    declared: DepthFields = field(default_factory=DepthFields)

    @property
    def named(self) -> dict[str, str]:
        """The topics that are named, by key."""
        return {key: getattr(self, key) for key in _TOPICS if getattr(self, key) is not None}


def options_from_query(where: str, query: Mapping[str, Any]) -> RosOptions:
    """Options of a parsed query; keys that are not of :data:`ROS_KEYS` are left to others.

    Raises:
        SourceError: The declared unit of depth contradicts itself.
    """
    declared = {key: query[key] for key in DEPTH_KEYS if key in query}
    return RosOptions(
        **{key: query.get(key) for key in _TOPICS},
        registered=query.get("registered", False),
        tolerance_ns=query.get("tolerance_ms"),
        declared=depth_fields(where, **declared),
    )


def uri_of(scheme: str, path: str, query: Mapping[str, Any]) -> str:
    """The URI of a parsed query.

    Example:
        >>> uri_of("rosbag", "a b.mcap", {"color": "/color", "tolerance_ms": 5_000_000})
        'rosbag://a b.mcap?color=/color&tolerance_ms=5'
    """
    texts = {
        key: f"{value / 1e6:.15g}" if key == "tolerance_ms" else _text(value)
        for key, value in query.items()
    }
    pairs = "&".join(f"{key}={quote(text, safe='/.')}" for key, text in texts.items())
    return f"{scheme}://{quote(path, safe='/~ ')}" + (f"?{pairs}" if pairs else "")


def _text(value: Any) -> str:
    if value is None:
        return "none"
    return str(int(value)) if isinstance(value, bool) else str(value)
