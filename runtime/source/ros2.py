"""``ros2://``: the topics of a running ROS 2, as a live camera."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Generator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any

from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from tf2_msgs.msg import TFMessage

from edge_fusion.errors import FrameError, SourceError
from edge_fusion.frame import RgbdFrame

from ..ros.camera import FrameTree, cdr_stamp_ns
from ..ros.images import COMPRESSED_SUFFIXES, base_topic
from ..ros.node import OwnNode
from ..ros.pairs import PairPlan, Streams, pair_id, plan_pairs
from ..sync import NearestPairer
from .base import UNUSED_INFO, Arrival, Arrivals, decoded
from .ros_options import UNREADABLE, RosOptions, options_from_query, uri_of

_GLANCE_S = 0.2  # how often whoever reads may end the stream
_GRACE_S = 0.5  # for a CameraInfo that was not asked for by name
_LISTED = 12  # topics named in a message
_IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
_WAITING = 32  # depth may come a second after its colour, over a network or made by another node


def open_ros2(path: str, query: Mapping[str, Any]) -> Ros2Source:
    """Open live topics by the parsed query of a URI.

    Raises:
        SourceError: Colour or depth is not named, or the URI has a path.
    """
    options = dict(query)
    timeout_s = options.pop("timeout", 5.0)
    if path.strip("/"):
        raise SourceError(
            f"source 'ros2://{path}'", expected="ros2://?color=TOPIC&depth=TOPIC, without a path"
        )
    return Ros2Source(options_from_query("ros2://", options), timeout_s, uri_of("ros2", "", query))


class Ros2Source:
    """RGB-D pairs of two topics that cameras publish, the newest first.

    It subscribes with the quality of service of sensor data, which takes what any camera offers.
    A topic that ends in ``/compressed`` or ``/compressedDepth`` holds compressed images.  Messages
    are taken undecoded; a pair that is dropped costs no decoding.  What depth means and how it is
    registered follows the same rules as for a recording: see :mod:`.rosbag`.

    Args:
        options: Colour and depth must be named.
        timeout_s: How long no pair may come.
        uri: The source's name.

    Raises:
        SourceError: Colour or depth is not named.
    """

    live = True

    def __init__(self, options: RosOptions, timeout_s: float = 5.0, uri: str = "ros2://") -> None:
        for key in ("color", "depth"):
            if key not in options.named:
                raise SourceError(
                    f"source '{uri}' names no topic for {key}",
                    expected="ros2://?color=TOPIC&depth=TOPIC",
                    cure="see 'ros2 topic list'; depth that the driver aligns to colour is best",
                )
        self._options, self._timeout_s, self._uri = options, timeout_s, uri
        self._counts: dict[str, int] = {}

    @property
    def uri(self) -> str:
        """The URI that opens an equal source."""
        return self._uri

    @property
    def counts(self) -> Mapping[str, int]:
        """Pairs, and messages that came to none."""
        return dict(self._counts)

    def frames(self) -> Generator[RgbdFrame, None, None]:
        """Every pair, decoded."""
        return decoded(self.arrivals())

    def arrivals(self) -> Arrivals:
        """Every pair as it arrives.

        Raises:
            SourceError: No pair came for ``timeout_s``, ROS 2 was shut down, or pairs cannot become
                frames because a unit, a CameraInfo or a transform is missing.
        """
        try:
            node = OwnNode("source")
        except Exception as err:
            raise SourceError(
                "cannot join ROS 2",
                got=str(err),
                cure="are ROS_DOMAIN_ID and RMW_IMPLEMENTATION those of the camera's node?",
            ) from err
        with node:
            listener, clock = _Listener(node, self._options), _AskedClock()
            with closing(self._pairs(listener, clock)) as pairs:
                yield from clock.runs_during(pairs)

    def _pairs(self, listener: _Listener, clock: _AskedClock) -> Arrivals:
        number, planner = 0, _Planner(listener, self._options, self._timeout_s, clock)
        last_s = clock.now_s()
        while True:
            listener.spin_once()
            self._counts = {**listener.counts, UNUSED_INFO: planner.ignored}
            if not listener.pairs:
                if clock.now_s() - last_s > self._timeout_s:
                    raise listener.silence(self._timeout_s)
                yield None
                continue
            last_s = clock.now_s()
            color, depth = listener.pairs.popleft()
            try:
                plan = planner.plan(color, depth)
            except FrameError as err:
                yield err
                continue
            if plan is None:
                yield None
                continue
            yield _arrival(plan, color, depth, number)
            number += 1


class _AskedClock:
    """A clock that stands still while nobody asks for a pair: nothing can come meanwhile."""

    def __init__(self) -> None:
        self._still_s = 0.0

    def now_s(self) -> float:
        return time.monotonic() - self._still_s

    def runs_during(self, arrivals: Arrivals) -> Arrivals:
        for arrival in arrivals:
            left_s = time.monotonic()
            yield arrival
            self._still_s += time.monotonic() - left_s


@dataclass(frozen=True, slots=True)
class _Taken:
    """A message as it came over the wire."""

    raw: bytes
    type: Any
    topic: str
    stamp_ns: int
    arrival_ns: int

    def decode(self) -> Any:
        try:
            return deserialize_message(self.raw, self.type)
        except Exception as err:  # the middleware raises its own
            raise FrameError(f"message of '{self.topic}' is damaged", got=str(err)) from err


def _arrival(plan: PairPlan, color: _Taken, depth: _Taken, number: int) -> Arrival:
    arrival_ns = max(color.arrival_ns, depth.arrival_ns)

    def decode() -> RgbdFrame:
        return plan.frame(
            color.decode(),
            depth.decode(),
            number=number,
            timestamp_ns=color.stamp_ns,
            arrival_ns=arrival_ns,
        )

    return Arrival(pair_id(color.stamp_ns), number, color.stamp_ns, arrival_ns, decode)


class _Listener:
    """Subscribes, and keeps what came: pairs, calibrations, transforms."""

    def __init__(self, node: OwnNode, options: RosOptions) -> None:
        self._node = node
        self._pairer: NearestPairer[_Taken, _Taken]
        self._pairer = NearestPairer(options.tolerance_ns, waiting=_WAITING)
        self._seen: Counter[str] = Counter()
        self._unreadable = 0
        self.pairs: deque[tuple[_Taken, _Taken]] = deque()
        self.infos: dict[str, Any] = {}
        self.tree = FrameTree()
        named = options.named
        self.color, self.depth = named["color"], named["depth"]
        self.color_info = named.get("info", _info_beside(self.color))
        self.depth_info = named.get("depth_info", _info_beside(self.depth))
        for topic, give in ((self.color, self._pairer.color), (self.depth, self._pairer.depth)):
            type_ = CompressedImage if topic.endswith(COMPRESSED_SUFFIXES) else Image
            take = partial(self._take, topic, type_, give)
            node.node.create_subscription(type_, topic, take, qos_profile_sensor_data, raw=True)
        for topic in {self.color_info, self.depth_info}:
            keep = partial(self.infos.__setitem__, topic)
            node.node.create_subscription(CameraInfo, topic, keep, qos_profile_sensor_data)
        node.node.create_subscription(
            TFMessage,
            "/tf_static",
            lambda message: self.tree.add(message.transforms),
            # As it is published: whoever comes later gets it, too.
            QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL),
        )

    @property
    def counts(self) -> dict[str, int]:
        """Pairs, and messages that came to none."""
        return {**self._pairer.counts, UNREADABLE: self._unreadable}

    def spin_once(self) -> None:
        """Take one message, or wait a little for one."""
        try:
            self._node.spin_once(_GLANCE_S)
        except Exception as err:  # the context was shut down, or the middleware failed
            raise SourceError("ROS 2 was shut down or failed", got=str(err)) from err

    def silence(self, timeout_s: float) -> SourceError:
        """What to say where no pair came."""
        seen = {topic: self._seen[topic] for topic in (self.color, self.depth)}
        images = [
            name
            for name, types in self._node.node.get_topic_names_and_types()
            if any(one in types for one in _IMAGE_TYPES)
        ]
        counted = ", ".join(f"{n} messages on '{topic}'" for topic, n in seen.items())
        cure = f"topics with images now: {', '.join(sorted(images)[:_LISTED]) or 'none'}"
        if all(seen.values()):
            cure = "do both topics come from one camera, with stamps of one clock? see tolerance_ms"
        return SourceError(
            f"no pair came for {timeout_s:g} s",
            got=f"{counted}, {self._pairer.counts['pairs']} pairs so far",
            cure=cure,
        )

    def _take(self, topic: str, type_: Any, give: Any, raw: bytes) -> None:
        self._seen[topic] += 1
        try:
            stamp_ns = cdr_stamp_ns(raw)
        except ValueError:
            self._unreadable += 1
            return
        taken = _Taken(bytes(raw), type_, topic, stamp_ns, time.monotonic_ns())
        self.pairs.extend((color, depth) for color, depth, _ in give(stamp_ns, taken))


class _Planner:
    """Decides how pairs become frames as soon as all that belongs to it has come."""

    def __init__(
        self, listener: _Listener, options: RosOptions, timeout_s: float, clock: _AskedClock
    ) -> None:
        self._listener, self._options, self._timeout_s = listener, options, timeout_s
        self._clock = clock
        self._first_s: float | None = None
        self._plan: PairPlan | None = None

    @property
    def ignored(self) -> int:
        """How many CameraInfo were of no use."""
        return int(self._plan is not None and bool(self._plan.ignored))

    def plan(self, color: _Taken, depth: _Taken) -> PairPlan | None:
        """The plan; None: what it needs may still come.

        Raises:
            SourceError: It did not come in time.
            FrameError: This pair is damaged.
        """
        if self._plan is not None:
            return self._plan
        now_s = self._clock.now_s()
        self._first_s = now_s if self._first_s is None else self._first_s
        waited_s = now_s - self._first_s
        listener, options = self._listener, self._options
        # What registration needs need not be waited for: without it the plan fails, and is tried
        # again.  Without the colour camera it succeeds, and no frame would ever know its camera.
        patience_s = self._timeout_s if "info" in options.named else _GRACE_S
        if listener.color_info not in listener.infos and waited_s < patience_s:
            return None
        streams = Streams(
            color=listener.color,
            depth=listener.depth,
            color_info=listener.infos.get(listener.color_info),
            depth_info=listener.infos.get(listener.depth_info),
            tree=lambda: listener.tree,
            declared=options.declared,
            registered=options.registered,
        )
        try:
            self._plan = plan_pairs(streams, color.decode(), depth.decode())
        except SourceError:
            if waited_s < self._timeout_s:
                return None
            raise
        return self._plan


def _info_beside(images: str) -> str:
    return f"{base_topic(images).rpartition('/')[0]}/camera_info"
