"""How single images of a RealSense become pairs, and whether all of them came."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path

from edge_fusion.errors import SourceError
from edge_fusion.frame import RgbdFrame
from edge_fusion.spec import DepthSpec

from ..register import register_depth
from ..sync import PAIRS, NearestPairer
from .base import CLOCKS_DIFFER, Arrival
from .librealsense import Image, Inbox
from .realsense_streams import Stream, Streams

NAMES: Mapping[Stream, str] = {"color": "colour", "depth": "depth"}

_WAITING = 8  # images of one stream that may wait for the other's
_LATE_S = 1.0  # by how much a recording's other streams may outlast colour and depth


class Pairs:
    """Pairs the images of one run of a camera or a recording.

    The two images of a pair were taken within half a period of each other, by one clock.  Where the
    streams tell the time by different clocks, the times at which they reached the computer decide.

    Args:
        streams: The streams that are read.
        inbox: Where their images come from.
        name: What begins a pair's id.
    """

    def __init__(self, streams: Streams, inbox: Inbox, name: str) -> None:
        self._streams, self._inbox, self._name = streams, inbox, name
        tolerance_ns = 500_000_000 // streams.fps if streams.fps else None
        self._pairer: NearestPairer[Image, Image] = NearestPairer(tolerance_ns, waiting=_WAITING)
        self._last: dict[Stream, Image] = {}
        self._lost: Counter[str] = Counter()
        self.images: Counter[Stream] = Counter()

    @property
    def counts(self) -> Mapping[str, int]:
        """What was lost or repaired, by name; nothing that is 0."""
        counts = {**self._pairer.counts, **self._lost, "images overrun": self._inbox.overrun}
        counts.pop(PAIRS)
        return {what: count for what, count in counts.items() if count}

    @property
    def paired(self) -> int:
        """How many pairs there were."""
        return self._pairer.counts[PAIRS]

    def take(self, image: Image) -> Iterator[Arrival]:
        """Take an image; the pairs that became certain."""
        last = self._last.get(image.stream)
        self._last[image.stream] = image
        self.images[image.stream] += 1
        if last is not None and image.number > last.number + 1:
            missing = image.number - last.number - 1
            self._lost[f"{NAMES[image.stream]} images missing by number"] += missing
        stamp_ns = image.stamp_ns
        if len({one.clock for one in self._last.values()}) > 1:
            self._lost[CLOCKS_DIFFER] += 1
            stamp_ns = self._arrived_ns(image)
        pairer = self._pairer
        return self._arrivals(
            pairer.color(stamp_ns, image)
            if image.stream == "color"
            else pairer.depth(stamp_ns, image)
        )

    def _arrived_ns(self, image: Image) -> int:
        """When an image reached the computer, by one clock for both streams."""
        if image.driver_ns and all(one.driver_ns for one in self._last.values()):
            return image.driver_ns
        return image.arrival_ns or image.stamp_ns  # a recording does not know when it was made

    def flush(self) -> Iterator[Arrival]:
        """The pairs that still waited; both streams are at their end."""
        return self._arrivals(self._pairer.flush())

    def describe(self) -> str:
        """What came so far, for messages."""
        told = []
        for stream, name in NAMES.items():
            last = self._last.get(stream)
            clock = f" by {last.clock}" if last else ""
            told.append(f"{name}: {self.images[stream]} images{clock}")
        return f"{', '.join(told)}, {self.paired} pairs"

    def _arrivals(self, pairs: Iterable[tuple[Image, Image, int]]) -> Iterator[Arrival]:
        for color, depth, _ in pairs:
            identity = f"{self._name}-{color.number:06d}"
            yield Arrival(
                id=identity,
                number=color.number,
                timestamp_ns=color.stamp_ns,
                arrival_ns=max(color.arrival_ns, depth.arrival_ns),
                decode=partial(_decode, self._streams, identity, color, depth),
            )


class Account:
    """The counts of a source over all of its runs."""

    def __init__(self) -> None:
        self._past: Counter[str] = Counter()
        self._pairs: Pairs | None = None

    @property
    def counts(self) -> Mapping[str, int]:
        """What was lost or repaired, by name."""
        now = Counter(self._pairs.counts) if self._pairs is not None else Counter()
        return dict(self._past + now)

    def open(self, pairs: Pairs) -> Pairs:
        """Count another run."""
        self._past = Counter(self.counts)
        self._pairs = pairs
        return pairs


def check_complete(name: str, path: Path, pairs: Pairs, reached_s: float, length_s: float) -> None:
    """Check that a recording was read to its end and gave pairs.

    At an image that it cannot read the SDK ends a playback as if it were the end of the file.

    Args:
        name: What the recording is called in messages.
        path: The recording.
        pairs: What came of it.
        reached_s: The last position of its reader.
        length_s: Its length.

    Raises:
        SourceError: It was not, or it did not.
    """
    cure = "the file is damaged after that; record it again, or cut it there"
    for stream, held in _images_in_db3(path).items():
        if pairs.images[stream] < held:
            raise SourceError(
                f"{name} ends early",
                expected=f"{held} {NAMES[stream]} images",
                got=f"{pairs.images[stream]}",
                cure=cure,
            )
    if length_s - reached_s > _LATE_S:
        raise SourceError(
            f"{name} ends early",
            expected=f"{length_s:.1f} s",
            got=f"{reached_s:.1f} s",
            cure=cure,
        )
    if not pairs.paired:
        raise SourceError(
            f"{name} holds no pair",
            expected="colour and depth taken at the same time, by one clock",
            got=pairs.describe(),
        )


def _images_in_db3(path: Path) -> dict[Stream, int]:
    """How many images of each stream a .db3 holds; none of a stream that is not told apart."""
    if path.suffix.lower() != ".db3":
        return {}
    query = (
        "SELECT COUNT(*) FROM messages JOIN topics ON topics.id = messages.topic_id "
        "WHERE topics.name GLOB ? GROUP BY topics.id"
    )
    held: dict[Stream, int] = {}
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as file:
        for stream in NAMES:
            topics = file.execute(query, (f"*/{stream.capitalize()}_*/image/data*",)).fetchall()
            if len(topics) == 1:
                held[stream] = topics[0][0]
    return held


def _decode(streams: Streams, identity: str, color: Image, depth: Image) -> RgbdFrame:
    return RgbdFrame(
        rgb=streams.to_rgb(color.pixels),
        depth=register_depth(
            depth.pixels,
            depth.unit_m,
            streams.depth_camera,
            streams.color_camera,
            streams.depth_to_color,
        ),
        depth_spec=DepthSpec(scale_to_m=depth.unit_m),
        id=identity,
        number=color.number,
        timestamp_ns=color.stamp_ns,
        arrival_ns=max(color.arrival_ns, depth.arrival_ns),
        intrinsics=streams.color_camera.intrinsics,
    )
