"""The table of sources: what each is called, what its URI may say, and how it is opened.

A source that stands on a package of its own is imported when it is opened, so that the others work
without that package.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edge_fusion.errors import SourceError

from .base import Source
from .camera_uri import DEVICE_KEYS, PAIR_KEYS, open_cameras
from .declared import depth_fields
from .demo import NOISES, DemoSource
from .folder import FolderSource
from .keys import DEPTH_KEYS, Key, Scheme, filled, flag, one_of, size
from .ros_options import ROS_KEYS, seconds
from .video import VideoSource


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


def _open_rosbag(path: str, query: Mapping[str, Any], masks: bool) -> Source:
    from .rosbag import open_rosbag  # stands on rosbags and mcap

    return open_rosbag(path, query)


def _open_ros2(path: str, query: Mapping[str, Any], masks: bool) -> Source:
    from .ros2 import open_ros2  # stands on rclpy

    return open_ros2(path, query)


def _open_realsense(path: str, query: Mapping[str, Any], masks: bool) -> Source:
    from .realsense import open_realsense  # stands on pyrealsense2

    return open_realsense(path, **query)


def _open_oak(path: str, query: Mapping[str, Any], masks: bool) -> Source:
    from .oak import open_oak  # stands on depthai

    return open_oak(path, **query)


def _open_video(path: str, query: Mapping[str, Any], masks: bool) -> Source:
    if not path or "depth" not in query:
        raise SourceError(
            f"source 'video://{path}' names no {'depth' if path else 'colour'} video",
            expected="video://COLOUR.mp4?depth=DEPTH.mkv&unit=mm",
        )
    declared = {key: value for key, value in query.items() if key != "depth"}
    return VideoSource(path, query["depth"], declared)


def _open_rtsp(path: str, query: Mapping[str, Any], masks: bool) -> Source:
    return open_cameras("rtsp", path, query)


def _open_v4l2(path: str, query: Mapping[str, Any], masks: bool) -> Source:
    return open_cameras("v4l2", path, query)


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
    "rosbag": Scheme(
        _open_rosbag,
        ROS_KEYS,
        "rosbag://PATH",
        "a ROS 2 folder, .db3 or .mcap, or a ROS 1 .bag; topics found where there is one candidate",
    ),
    "ros2": Scheme(
        _open_ros2,
        {**ROS_KEYS, "timeout": Key(seconds, "SECONDS", "without a pair until it fails (5)")},
        "ros2://?color=TOPIC&depth=TOPIC",
        "topics of a running ROS 2",
        stored=False,
        live=True,
    ),
    "realsense": Scheme(
        _open_realsense,
        {
            "size": Key(size, "WIDTHxHEIGHT", "of a camera's colour image (default 640x480)"),
            "fps": Key(int, "RATE", "of a camera, frames per second (default 30)"),
            "timeout": Key(seconds, "SECONDS", "without a pair until it fails (5)"),
        },
        "realsense://[SERIAL|FILE]",
        "a RealSense camera (the only one, or by serial number), or a .db3 or .bag it recorded",
        live=True,
    ),
    "oak": Scheme(
        _open_oak,
        {
            "size": Key(size, "WIDTHxHEIGHT", "image size (default 640x480)"),
            "fps": Key(float, "RATE", "frames per second (default 30)"),
            "timeout": Key(seconds, "SECONDS", "without a pair until it fails (5)"),
        },
        "oak://[MXID]",
        "a Luxonis OAK camera with stereo depth (the only one, or by its identifier)",
        stored=False,
        live=True,
    ),
    "video": Scheme(
        _open_video,
        {"depth": Key(filled, "FILE", "the depth video, 16 bits in FFV1 gray16le"), **DEPTH_KEYS},
        "video://COLOUR?depth=DEPTH",
        "two video files, image by image",
    ),
    "rtsp": Scheme(
        _open_rtsp,
        PAIR_KEYS,
        "rtsp://ADDRESS?depth=ADDRESS",
        "network cameras of colour and depth; a ? or & of an address itself is written %3F or %26",
        stored=False,
        live=True,
        encoded=True,
    ),
    "v4l2": Scheme(
        _open_v4l2,
        {**PAIR_KEYS, **DEVICE_KEYS},
        "v4l2://DEVICE?depth=DEVICE",
        "video devices of colour and depth (Z16, Y16 or GREY): /dev/video0, or 0",
        stored=False,
        live=True,
    ),
}
