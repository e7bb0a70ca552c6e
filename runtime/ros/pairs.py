"""From a colour message and a depth message to one RGB-D frame."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_fusion.errors import FrameError, SourceError
from edge_fusion.frame import RgbdFrame
from edge_fusion.spec import DepthSpec

from ..register import Camera, Rigid, register_depth
from ..source.declared import DepthFields, resolve_depth
from .camera import FrameTree, camera_from_info
from .images import DEPTH_ENCODINGS, color_from_message, depth_from_message

# In the name of a topic: what drivers call depth that they have aligned to colour.
_SAYS_REGISTERED = re.compile(r"aligned_depth_to_color|depth_registered|(^|/)registered(/|$)")


@dataclass(frozen=True, slots=True)
class Streams:
    """What is known of two streams of images besides the images.

    Attributes:
        color: Topic of colour.
        depth: Topic of depth.
        color_info: CameraInfo of colour, or None.
        depth_info: CameraInfo of depth, or None.
        tree: Gives the static transforms, where they are needed.
        declared: What the user says about depth; it overrides what the encoding says.
        registered: The user says that depth is registered to colour.
    """

    color: str
    depth: str
    color_info: Any = None
    depth_info: Any = None
    tree: Callable[[], FrameTree] = FrameTree
    declared: DepthFields = field(default_factory=DepthFields)
    registered: bool = False


@dataclass(frozen=True, slots=True)
class Registration:
    """How depth is moved into the colour camera."""

    depth_camera: Camera
    color_camera: Camera
    depth_to_color: Rigid


@dataclass(frozen=True, slots=True)
class PairPlan:
    """How the pairs of two topics become frames; :func:`plan_pairs` makes it.

    Attributes:
        color: Topic of colour.
        depth: Topic of depth.
        encoding: Encoding of the depth images.
        depth_spec: What they mean.
        camera: The colour camera, or None.
        registration: How depth is registered; None: it is already.
        ignored: Why the CameraInfo of colour was not used, where nothing stands on it; or "".
    """

    color: str
    depth: str
    encoding: str
    depth_spec: DepthSpec
    camera: Camera | None
    registration: Registration | None
    ignored: str = ""

    def frame(
        self,
        color_message: Any,
        depth_message: Any,
        *,
        number: int,
        timestamp_ns: int,
        arrival_ns: int = 0,
    ) -> RgbdFrame:
        """One frame of two decoded messages.

        Args:
            color_message: An Image or CompressedImage of colour.
            depth_message: One of depth.
            number: The pair's number.
            timestamp_ns: Its stamp.
            arrival_ns: When it arrived; 0 for a recording.

        Raises:
            FrameError: A message is damaged, or of another kind than the first one was.
        """
        rgb = color_from_message(color_message, self.color)
        depth, encoding = depth_from_message(depth_message, self.depth)
        if encoding != self.encoding:
            raise FrameError(
                f"depth image of '{self.depth}' changed its encoding",
                expected=self.encoding,
                got=encoding,
            )
        if self.registration is not None:
            depth = _registered(depth, self.depth_spec, self.registration)
        return RgbdFrame(
            rgb=rgb,
            depth=depth,
            depth_spec=self.depth_spec,
            id=pair_id(timestamp_ns),
            number=number,
            timestamp_ns=timestamp_ns,
            arrival_ns=arrival_ns,
            intrinsics=self.camera.intrinsics if self.camera else None,
        )


def pair_id(timestamp_ns: int) -> str:
    """The name of a pair: the stamp of its colour image in seconds.

    Example:
        >>> pair_id(1_700_000_000_033_000_000)
        '1700000000.033000000'
    """
    return f"{timestamp_ns // 1_000_000_000}.{timestamp_ns % 1_000_000_000:09d}"


def plan_pairs(streams: Streams, color_message: Any, depth_message: Any) -> PairPlan:
    """Decide from a first pair how all pairs become frames.

    Metric depth has the unit of REP 118: millimetres in 16UC1, metres in 32FC1.  Depth counts as
    registered to colour where both are of one size and have one frame_id that is not empty, or the
    topic's name says ``aligned_depth_to_color`` or ``registered``, or the user does; a CameraInfo
    that is of no use is then ignored.  Otherwise it is registered by the two CameraInfo and the
    static transform between the frames.

    Args:
        streams: What is known besides the images.
        color_message: The first colour image, decoded.
        depth_message: The first depth image, decoded.

    Raises:
        SourceError: The unit of depth is unknown, or it is not registered and cannot be.
        FrameError: An image is damaged or in an unknown encoding.
    """
    size = color_from_message(color_message, streams.color).shape[:2]
    depth, encoding = depth_from_message(depth_message, streams.depth)
    spec = _depth_spec(streams, encoding)
    frames = color_message.header.frame_id, depth_message.header.frame_id
    same = depth.shape == size
    if same and (
        streams.registered
        or (frames[0] and frames[0] == frames[1])
        or _SAYS_REGISTERED.search(streams.depth)
    ):
        return _registered_plan(streams, encoding, spec, (size[0], size[1]))
    camera = _camera(streams.color, streams.color_info, (size[0], size[1]))
    depth_camera = _camera(streams.depth, streams.depth_info, (depth.shape[0], depth.shape[1]))
    motion = streams.tree().motion(frames[1], frames[0]) if all(frames) else None
    coarse = depth.dtype == np.uint8
    if camera is None or depth_camera is None or motion is None or not spec.metric or coarse:
        missing = {
            f"no calibrated CameraInfo of '{streams.color}'": camera is None,
            f"no calibrated CameraInfo of '{streams.depth}'": depth_camera is None,
            f"no static transform from '{frames[1]}' to '{frames[0]}'": motion is None,
            "no metric unit": not spec.metric,
            "readings of only 8 bits": coarse,
        }
        raise SourceError(
            f"depth '{streams.depth}' ({depth.shape[1]}x{depth.shape[0]}, frame '{frames[1]}') is "
            f"not registered to colour '{streams.color}' ({size[1]}x{size[0]}, frame "
            f"'{frames[0]}')",
            expected="what registers it: a CameraInfo of each, a static transform, and metric "
            "depth in 16 bits or float32",
            got=", ".join(name for name, absent in missing.items() if absent),
            cure="record those topics and /tf_static too, or a depth topic that the camera's "
            "driver aligns to colour" + (", or if it is registered say registered=1" * same),
        )
    # Registration leaves 0 where there is no reading, whatever said so before.
    return PairPlan(
        streams.color,
        streams.depth,
        encoding,
        spec.model_copy(update={"invalid": 0.0}) if spec.invalid is None else spec,
        camera,
        Registration(depth_camera, camera, motion),
    )


def _registered_plan(
    streams: Streams, encoding: str, spec: DepthSpec, size: tuple[int, int]
) -> PairPlan:
    ignored, camera = "", None
    try:
        camera = _camera(streams.color, streams.color_info, size)
    except SourceError as err:
        ignored = str(err)
    return PairPlan(streams.color, streams.depth, encoding, spec, camera, None, ignored)


def _depth_spec(streams: Streams, encoding: str) -> DepthSpec:
    known = DepthFields()
    unit_m = DEPTH_ENCODINGS[encoding].unit_m
    if unit_m is not None:
        known = DepthFields(scale_to_m=unit_m, invalid=0.0)
    fields = DepthFields(**{**known, **streams.declared})
    if "scale_to_m" not in fields:
        raise SourceError(
            f"the unit of depth '{streams.depth}' is not known",
            expected="16UC1 (millimetres) or 32FC1 (metres), as REP 118 says",
            got=f"'{encoding}'",
            cure="declare it: unit=mm (or m, cm, 0.1mm; unit=relative&larger_is=nearer)",
        )
    return resolve_depth(f"'{streams.depth}'", fields, DepthFields())


def _camera(topic: str, info: Any, size: tuple[int, int]) -> Camera | None:
    if info is None:
        return None
    camera = camera_from_info(info, topic)
    if camera is None:
        return None
    if (camera.height, camera.width) != size:
        raise SourceError(
            f"the CameraInfo of '{topic}' belongs to images of another size",
            expected=f"{size[1]}x{size[0]}",
            got=f"{camera.width}x{camera.height}",
            cure="name the topic that belongs to it: info=TOPIC for colour, depth_info=TOPIC",
        )
    return camera


def _registered(depth: NDArray[Any], spec: DepthSpec, how: Registration) -> NDArray[Any]:
    if spec.invalid:  # neither None nor 0: a value that would be taken for a distance
        depth = np.where(depth == spec.invalid, depth.dtype.type(0), depth)
    assert spec.scale_to_m is not None  # plan_pairs refuses to register anything else
    moved: NDArray[Any] = register_depth(
        depth, spec.scale_to_m, how.depth_camera, how.color_camera, how.depth_to_color
    )
    if spec.invalid:
        moved = np.where(moved == 0, moved.dtype.type(spec.invalid), moved)
    return moved
