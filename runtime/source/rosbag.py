"""``rosbag://``: recordings of ROS 2 and ROS 1, read without ROS."""

from __future__ import annotations

import re
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from edge_fusion.errors import FrameError, SourceError
from edge_fusion.frame import RgbdFrame
from edge_fusion.spec import DepthSpec

from ..ros.camera import TRANSFORMS, FrameTree
from ..ros.fields import DEPTH_SPEC_TOPIC, RELATIVE_TOPIC
from ..ros.pairs import PairPlan, Streams, pair_id, plan_pairs
from ..sync import NearestPairer
from .bag_file import Bag, Dialect, RawMessage, dialect_of, open_bag
from .bag_topics import ChosenTopics, choose_topics, first_message, list_topics
from .base import UNSTAMPED, UNUSED_INFO, Arrival, Arrivals, decoded
from .declared import DepthFields, spec_fields
from .place import local_path
from .ros_options import (
    UNREADABLE,
    RosOptions,
    options_from_query,
    uri_of,
)

_TF_STATIC = "/tf_static"
# librealsense records its own units, which need not be the millimetres of REP 118.
_LIBREALSENSE = re.compile(r"(/device_\d+/sensor_\d+)/")
_UNITS = "/option/Depth_Units/value"
# Recorders write depth up to half a second after its colour; raw bytes cost little.
_WAITING = 128
_GLANCE_S = 0.25  # how often whoever reads may end the stream
_ONE_PAIR_NS = 16_666_667  # half a period at 30 fps, where a single image tells no period


def open_rosbag(path: str, query: Mapping[str, Any]) -> RosbagSource:
    """Open a recording by the path and the parsed query of its URI.

    Raises:
        SourceError: As :class:`RosbagSource`; or there is no path.
    """
    if not path:
        raise SourceError("source 'rosbag://' names no recording", expected="rosbag://PATH")
    return RosbagSource(path, options_from_query(path, query), uri_of("rosbag", path, query))


class RosbagSource:
    """RGB-D pairs of a recording: two topics, paired by the stamps in their headers.

    Depth in 16UC1 is millimetres and in 32FC1 metres, as REP 118 says; what is declared overrides
    it.  Recordings of librealsense tell their unit themselves.  Depth that is not registered to
    colour is registered by the recorded CameraInfo and static transforms.

    Messages are decoded when a pair is asked for.  A damaged one spoils its pair alone; a recording
    that breaks off delivers what it holds, then raises.

    Args:
        path: A ROS 2 folder or a single ``.db3`` or ``.mcap`` file, or a ROS 1 ``.bag``.
        options: What to read in it.
        uri: The source's name; None: made of the path.

    Raises:
        SourceError: It cannot be read, it is not clear which topics are meant, depth has no known
            unit, or it is not registered to colour and cannot be.

    Example:
        >>> source = RosbagSource("desk.mcap", RosOptions(color="/color"))  # doctest: +SKIP
        >>> next(source.frames()).id                                      # doctest: +SKIP
        '1700000000.033000000'
    """

    live = False

    def __init__(
        self, path: str | Path, options: RosOptions | None = None, uri: str | None = None
    ) -> None:
        self._path = local_path(path)
        self._options = options or RosOptions()
        self._uri = uri or f"rosbag://{path}"
        self._dialect = dialect_of(self._path)
        self._counts: dict[str, int] = {}
        with closing(open_bag(self._path)) as bag:
            known = bag.topics
            self._types = {name: topic.type for name, topic in known.items()}
            self._topics = choose_topics(bag, self._dialect, f"'{self._path}'", self._options.named)
            self._plan = _plan(bag, self._dialect, self._topics, self._options, self._path)
            chosen = self._topics.color, self._topics.depth
            self._stamped = all(_stamped(bag, self._dialect, name) for name in chosen)
        self._tolerance_ns = self._options.tolerance_ns
        if self._tolerance_ns is None and min(known[name].count for name in chosen) == 1:
            self._tolerance_ns = _ONE_PAIR_NS

    @property
    def uri(self) -> str:
        """The URI that opens an equal source."""
        return self._uri

    @property
    def counts(self) -> Mapping[str, int]:
        """Messages that came to no pair, and pairs, of the last reading."""
        return dict(self._counts)

    def frames(self) -> Generator[RgbdFrame, None, None]:
        """Every pair, decoded."""
        return decoded(self.arrivals())

    def arrivals(self) -> Arrivals:
        """Every pair, not decoded yet.

        Raises:
            SourceError: The recording breaks off, everything before was delivered; or there is not
                one pair in it.
        """
        pairer: NearestPairer[_Stamped, _Stamped]
        pairer = NearestPairer(self._tolerance_ns, waiting=_WAITING)
        clock = _Clock(self._dialect, self._stamped)
        number = 0
        with closing(open_bag(self._path)) as bag:
            for pair in self._paired(bag, pairer, clock):
                self._count(pairer, clock)
                if pair is None:
                    yield None
                    continue
                color, depth, _ = pair
                yield Arrival(
                    id=pair_id(color.stamp_ns),
                    number=number,
                    timestamp_ns=color.stamp_ns,
                    arrival_ns=0,
                    decode=partial(self._decode, color, depth, number),
                )
                number += 1
        self._count(pairer, clock)
        if not number:
            raise self._no_pair()

    def _count(self, pairer: NearestPairer[_Stamped, _Stamped], clock: _Clock) -> None:
        self._counts = {
            **pairer.counts,
            UNREADABLE: clock.unreadable,
            UNSTAMPED: clock.unstamped,
            UNUSED_INFO: int(bool(self._plan.ignored)),
        }

    def _no_pair(self) -> SourceError:
        counted = ", ".join(f"{n} {what}" for what, n in self._counts.items() if n)
        return SourceError(
            f"'{self._path}' holds not one pair of '{self._topics.color}' and "
            f"'{self._topics.depth}'",
            expected="images of both whose stamps are near each other",
            got=counted or "no images",
            cure="do both topics come from one camera, with stamps of one clock? allow them to be "
            "farther apart by tolerance_ms=MS, or name other topics by color= and depth=",
        )

    def _paired(
        self, bag: Bag, pairer: NearestPairer[_Stamped, _Stamped], clock: _Clock
    ) -> Iterator[tuple[_Stamped, _Stamped, int] | None]:
        """The pairs; None where none was found for a while."""
        topics = self._topics
        give = {topics.color: pairer.color, topics.depth: pairer.depth}
        broken: SourceError | None = None
        glanced_s = time.monotonic()
        with closing(bag.messages(tuple(give))) as messages:
            try:
                for message in messages:
                    stamped = _Stamped(clock.stamp_ns(message), message.raw)
                    pairs = list(give[message.topic](stamped.stamp_ns, stamped))
                    if pairs or time.monotonic() - glanced_s > _GLANCE_S:
                        yield from pairs or (None,)
                        glanced_s = time.monotonic()
            except SourceError as err:
                broken = err
        yield from pairer.flush()
        if broken is not None:
            raise broken

    def _decode(self, color: _Stamped, depth: _Stamped, number: int) -> RgbdFrame:
        topics = self._topics
        return self._plan.frame(
            self._message(color, topics.color),
            self._message(depth, topics.depth),
            number=number,
            timestamp_ns=color.stamp_ns,
        )

    def _message(self, one: _Stamped, topic: str) -> Any:
        try:
            return self._dialect.decode(one.raw, self._types[topic])
        except Exception as err:  # rosbags raises whatever the damaged bytes lead it to
            raise FrameError(
                f"message of '{topic}' is damaged", got=str(err) or type(err).__name__
            ) from err


@dataclass(frozen=True, slots=True)
class _Stamped:
    """A serialised message and the time in its header."""

    stamp_ns: int
    raw: bytes


class _Clock:
    """Stamps of messages; the time at which it was recorded, where a header holds none.

    Args:
        dialect: How headers are read.
        stamped: Whether the publishers stamped their messages at all.
    """

    def __init__(self, dialect: Dialect, stamped: bool) -> None:
        self._read, self._stamped = dialect.stamp_ns, stamped
        self._ahead_ns: dict[str, int] = {}  # stamp minus recording time of the last good message
        self.unreadable = self.unstamped = 0

    def stamp_ns(self, message: RawMessage) -> int:
        try:
            stamp_ns = self._read(message.raw)
        except ValueError:
            self.unreadable += 1
            return message.logged_ns + self._ahead_ns.get(message.topic, 0)
        if not self._stamped:
            self.unstamped += not stamp_ns
            return message.logged_ns
        self._ahead_ns[message.topic] = stamp_ns - message.logged_ns
        return stamp_ns


def _stamped(bag: Bag, dialect: Dialect, topic: str) -> bool:
    """Whether the headers of a topic tell a time: a clock that begins at 0 goes on from there."""
    stamps: list[int] = []
    with closing(bag.messages([topic])) as messages, suppress(SourceError):
        for message in islice(messages, 2):
            with suppress(ValueError):
                stamps.append(dialect.stamp_ns(message.raw))
    return any(stamps) or not stamps


def _plan(
    bag: Bag, dialect: Dialect, topics: ChosenTopics, options: RosOptions, path: Path
) -> PairPlan:
    firsts = {
        name: first_message(bag, dialect, name)
        for name in (topics.color, topics.depth, topics.color_info, topics.depth_info)
        if name is not None
    }
    for name in (topics.color, topics.depth):
        if firsts[name] is None:
            raise SourceError(
                f"'{path}': not one message of '{name}' can be decoded",
                got=f"the topics {list_topics(bag.topics)}",
            )
    streams = Streams(
        color=topics.color,
        depth=topics.depth,
        color_info=firsts.get(topics.color_info or ""),
        depth_info=firsts.get(topics.depth_info or ""),
        tree=partial(_tree, bag, dialect),
        declared=DepthFields(**{**_recorded_unit(bag, dialect, topics.depth), **options.declared}),
        registered=options.registered,
    )
    try:
        return plan_pairs(streams, firsts[topics.color], firsts[topics.depth])
    except FrameError as err:
        raise SourceError(f"'{path}': its first pair is unusable", got=str(err)) from err


def _tree(bag: Bag, dialect: Dialect) -> FrameTree:
    tree = FrameTree()
    if _TF_STATIC not in bag.topics:
        return tree
    with closing(bag.messages([_TF_STATIC])) as messages, suppress(SourceError):
        for message in messages:
            with suppress(Exception):  # a damaged one: the plan says which frames do not connect
                tree.add(dialect.decode(message.raw, TRANSFORMS).transforms)
    return tree


def _recorded_unit(bag: Bag, dialect: Dialect, depth: str) -> DepthFields:
    """What a recording of ours, or of librealsense, tells of depth beside its images."""
    if depth == RELATIVE_TOPIC:
        return _recorded_spec(bag, dialect)
    sensor = _LIBREALSENSE.match(depth)
    topic = f"{sensor[1]}{_UNITS}" if sensor else ""
    if topic not in bag.topics:
        return DepthFields()
    message = first_message(bag, dialect, topic)
    return DepthFields(scale_to_m=float(message.data), invalid=0.0) if message else DepthFields()


def _recorded_spec(bag: Bag, dialect: Dialect) -> DepthFields:
    """What our relative depth means; that it is relative, where nothing more is told."""
    message = None
    if DEPTH_SPEC_TOPIC in bag.topics:
        message = first_message(bag, dialect, DEPTH_SPEC_TOPIC)
    with suppress(ValueError):  # damaged: which way it counts has to be declared
        if message is not None:
            return spec_fields(DepthSpec.model_validate_json(message.data))
    return DepthFields(scale_to_m=None)
