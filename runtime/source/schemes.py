"""The table of sources: what each is called, what its URI may say, and how it is opened.

A source that stands on a package of its own is imported when it is opened, so that the others work
without that package.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edge_fusion.errors import SourceError

from .base import Source
from .declared import depth_fields
from .demo import NOISES, DemoSource
from .folder import FolderSource
from .keys import DEPTH_KEYS, Key, Scheme, filled, flag, one_of, size


def _open_folder(path: str, query: Mapping[str, Any], masks: bool) -> Source:
    if not path:
        raise SourceError("source 'folder://' names no folder", expected="folder://PATH")
    globs = {key: query.get(key) for key in ("rgb", "depth", "mask")}
    declared = {key: value for key, value in query.items() if key not in globs}
    return FolderSource(path, **globs, depth_spec=depth_fields(path, **declared), masks=masks)


def _open_demo(path: str, query: Mapping[str, Any], masks: bool) -> Source:
    # Its masks are drawn along with the pictures: nothing is read that could be left unread.
    if path:
        raise SourceError(f"source 'demo://{path}'", expected="demo:// or demo://?key=value")
    options = dict(query)
    if "size" in options:
        options["width"], options["height"] = options.pop("size")
    return DemoSource(**options)


SCHEMES: dict[str, Scheme] = {
    "folder": Scheme(
        _open_folder,
        {
            "rgb": Key(filled, "GLOB", "colour images, if they are not in rgb/"),
            "depth": Key(filled, "GLOB", "depth images, if they are not in depth/"),
            "mask": Key(filled, "GLOB", "masks, if they are not in gt/"),
            **DEPTH_KEYS,
        },
        "folder://PATH",
        "stored pairs: rgb/ID.*, depth/ID.*, optional gt/ID.* and meta.json",
    ),
    "demo": Scheme(
        _open_demo,
        {
            "frames": Key(int, "COUNT", "length (default 300)"),
            "seed": Key(int, "NUMBER", "which world (default 0)"),
            "cut": Key(int, "COUNT", "a new world every so many frames (default 0: never)"),
            "size": Key(size, "WIDTHxHEIGHT", "image size (default 640x480)"),
            "fps": Key(float, "RATE", "frames per second (default 30)"),
            "live": Key(flag, "0|1", "deliver at that pace and skip late frames, as a camera"),
            "noise": Key(
                one_of({n: n for n in NOISES}), "|".join(NOISES), "depth sensor (default stereo)"
            ),
        },
        "demo://",
        "a drawn little world with exact masks, without any hardware",
    ),
}
