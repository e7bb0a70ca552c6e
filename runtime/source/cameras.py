"""Two live streams, one of colour and one of depth, paired by when their images reach us.

::

    colour reader ──┐
                    ├── NearestPairer ── the newest pair ──> arrivals()
    depth reader  ──┘

Each stream is read in a thread of its own and as fast as it comes, so that nothing old waits in a
driver; a pair that nobody takes is overtaken by the next.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from edge_fusion.errors import EdgeFusionError, SourceError
from edge_fusion.frame import RgbdFrame
from edge_fusion.spec import DepthSpec

from ..sync import NearestPairer
from .base import Arrival, Arrivals, decoded
from .capture import Grabber, Still
from .credentials import without_credentials
from .video import check_first, declared_depth

Open = Callable[[], Grabber]

_WAIT_S = 0.25  # how often whoever reads may end the stream while nothing comes
_LOOKS = 3  # many a camera's first image is damaged
_GRACE_S = 0.5  # a driver that waits as long as we do knows better what was wrong
_FAREWELL_S = 0.4  # how long to wait for the readers at the end; a driver may hold them longer
# What a connection had buffered before we read comes at once, and is old.
_BUFFERED_S = 0.003
_MOST_BUFFERED = 64


@dataclass(frozen=True, slots=True)
class CameraOptions:
    """How two cameras are read.

    Attributes:
        timeout_s: A camera that sends nothing for so long is lost.
        tolerance_s: Farthest apart that colour and depth may arrive; None: half the period of the
            slower stream.
        depth_delay_s: How much later the depth of a moment arrives than its colour.

    Raises:
        SourceError: An option is out of range.
    """

    timeout_s: float = 5.0
    tolerance_s: float | None = None
    depth_delay_s: float = 0.0

    def __post_init__(self) -> None:
        if not 0.1 <= self.timeout_s <= 600:
            raise SourceError("timeout", expected="0.1 to 600 s", got=f"{self.timeout_s:g}")
        if self.tolerance_s is not None and not 0 <= self.tolerance_s <= 10:
            raise SourceError(
                "tolerance_ms", expected="0 to 10000", got=f"{1000 * self.tolerance_s:g}"
            )
        if not -10 <= self.depth_delay_s <= 10:
            raise SourceError(
                "depth_delay_ms",
                expected="-10000 to 10000",
                got=f"{1000 * self.depth_delay_s:g}",
            )


class CameraSource:
    """A colour and a depth camera that know nothing of each other.

    Args:
        uri: How the user wrote it.
        open_color: Connects to the colour camera; called in the thread that reads it.
        open_depth: Connects to the depth camera, likewise.
        declared: What the caller says of the depth; see :func:`~.declared.depth_fields`.
        options: How to read them.

    Raises:
        SourceError: A camera cannot be opened or sends nothing, the streams are swapped or of
            different size, or the depth's unit is not declared or impossible.
    """

    live = True

    def __init__(
        self,
        uri: str,
        open_color: Open,
        open_depth: Open,
        declared: Mapping[str, Any],
        options: CameraOptions | None = None,
    ) -> None:
        self._uri = without_credentials(uri)
        self._depth_spec = declared_depth(self._uri, declared)
        self._connect = partial(
            _Connection, self._uri, open_color, open_depth, options or CameraOptions()
        )
        self._connection = self._opened()
        self._read = False

    @property
    def uri(self) -> str:
        """What the user wrote, without credentials."""
        return self._uri

    @property
    def depth_spec(self) -> DepthSpec:
        """Unit, polarity and invalid value of every pair's depth."""
        return self._depth_spec

    @property
    def counts(self) -> Mapping[str, int]:
        """What became of the images of the latest connection."""
        return self._connection.counts

    def frames(self) -> Generator[RgbdFrame, None, None]:
        """Every pair as it arrives."""
        return decoded(self.arrivals())

    def arrivals(self) -> Arrivals:
        """The newest pair, as often as there is one; None while there is none.

        Raises:
            SourceError: A camera is lost: it closed the connection, or sent nothing for
                ``timeout_s``.
        """
        if self._read:
            self._connection = self._opened()
        self._read = True
        connection = self._connection
        try:
            while True:
                pair = connection.next_pair(_WAIT_S)
                yield None if pair is None else self._arrival(pair)
        finally:
            connection.close()

    def _opened(self) -> _Connection:
        """Connect, and look at the first pairs while whoever started us is there to be told."""
        connection = self._connect()
        try:
            self._look_at(connection)
        except BaseException:
            connection.close()
            raise
        weakref.finalize(self, connection.end)
        return connection

    def _look_at(self, connection: _Connection) -> None:
        for left in reversed(range(_LOOKS)):
            while (pair := connection.next_pair(_WAIT_S)) is None:
                pass
            try:
                return check_first(self._arrival(pair), self._uri)
            except SourceError:
                if not left:
                    raise

    def _arrival(self, pair: _Pair) -> Arrival:
        color, depth = pair
        name = f"{color.number:06d}"

        def decode() -> RgbdFrame:
            return RgbdFrame(
                rgb=color.still.rgb(name),
                depth=depth.still.depth(name),
                depth_spec=self._depth_spec,
                id=name,
                number=color.number,
                timestamp_ns=color.time_ns,
                arrival_ns=max(color.arrival_ns, depth.arrival_ns),
            )

        return Arrival(
            name, color.number, color.time_ns, max(color.arrival_ns, depth.arrival_ns), decode
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Image:
    still: Still
    number: int
    time_ns: int
    arrival_ns: int


_Pair = tuple[_Image, _Image]


class _Connection:
    """Both streams, open and being read until one is lost or :meth:`close`."""

    def __init__(
        self, uri: str, open_color: Open, open_depth: Open, options: CameraOptions
    ) -> None:
        self._uri, self._timeout_s = uri, options.timeout_s
        tolerance_s = options.tolerance_s
        self._pairer: NearestPairer[_Image, _Image] = NearestPairer(
            None if tolerance_s is None else round(tolerance_s * 1e9),
            round(options.depth_delay_s * 1e9),
        )
        self._changed = threading.Condition()
        self._ended = threading.Event()
        self._newest: _Pair | None = None
        self._error: EdgeFusionError | None = None
        self._overtaken = self._damaged = 0
        now = time.monotonic()
        self._seen = {"colour": now, "depth": now}  # when something last came
        self._fresh: set[str] = set()  # streams whose old images are through
        self._paired = now
        streams = (
            ("colour", open_color, self._pairer.color),
            ("depth", open_depth, self._pairer.depth),
        )
        self._threads = [
            threading.Thread(
                target=self._run, args=stream, name=f"edge-fusion-{stream[0]}", daemon=True
            )
            for stream in streams
        ]
        for thread in self._threads:
            thread.start()

    @property
    def counts(self) -> Mapping[str, int]:
        with self._changed:
            return {
                **self._pairer.counts,
                "damaged images": self._damaged,
                "overtaken before they were read": self._overtaken,
            }

    def next_pair(self, timeout_s: float) -> _Pair | None:
        """The newest pair that was not taken yet; None: not one in time.

        Raises:
            SourceError: A stream is lost.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._newest or self._error, timeout_s)
            pair, self._newest = self._newest, None
            if pair is None:
                if self._error is not None:
                    raise self._error
                self._refuse_silence()
            return pair

    def end(self) -> None:
        """Have the readers stop as soon as their drivers let them."""
        self._ended.set()

    def close(self) -> None:
        """Stop reading and free the devices."""
        self.end()
        deadline = time.monotonic() + _FAREWELL_S
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _refuse_silence(self) -> None:
        """Raise if there was no pair for too long, naming the stream that is silent."""
        now = time.monotonic()
        patience_s = self._timeout_s + _GRACE_S
        silent = [name for name, at in self._seen.items() if now - at > patience_s]
        if silent:
            raise SourceError(
                f"{' and '.join(silent)} of '{self._uri}' went silent",
                expected=f"an image within {self._timeout_s:g} s",
                cure="is the camera on, its cable in, its network up?",
            )
        if now - self._paired > patience_s:
            counts = ", ".join(f"{count} {name}" for name, count in self._pairer.counts.items())
            raise SourceError(
                f"colour and depth of '{self._uri}' never come together",
                expected=f"a pair within {self._timeout_s:g} s",
                got=counts,
                cure="give depth_delay_ms=MS if depth comes later, or a larger tolerance_ms=MS",
            )

    def _run(self, name: str, open_stream: Open, push: Callable[..., Any]) -> None:
        grabber: Grabber | None = None
        try:
            grabber = open_stream()
            self._seen[name] = time.monotonic()
            self._read(name, grabber, push)
        except EdgeFusionError as err:
            self._fail(err)
        except Exception as err:  # a driver's; its message may quote an address
            self._fail(
                SourceError(
                    f"reading {name} of '{self._uri}' failed",
                    got=without_credentials(f"{type(err).__name__}: {err}"),
                )
            )
        finally:
            if grabber is not None:
                grabber.release()

    def _read(self, name: str, grabber: Grabber, push: Callable[..., Any]) -> None:
        number = -1
        while not self._ended.is_set():
            began = time.monotonic()
            while (grabbed := grabber.grab()) is None:
                if self._ended.is_set():
                    return
            if not grabbed:
                raise SourceError(
                    f"{name} of '{self._uri}' was lost",
                    got="no further image: the camera closed the stream, or sent nothing for "
                    f"{self._timeout_s:g} s",
                    cure="is the camera on, its cable in, its network up?",
                )
            arrival_ns, number = time.monotonic_ns(), number + 1
            self._seen[name] = time.monotonic()
            if self._seen[name] - began > _BUFFERED_S or number >= _MOST_BUFFERED:
                self._fresh.add(name)
            if len(self._fresh) < len(self._seen):
                continue  # nothing to pair it with yet
            still = grabber.retrieve()
            with self._changed:
                if still is None:
                    self._damaged += 1
                    continue
                image = _Image(still, number, grabber.time_ns, arrival_ns)
                for color, depth, _ in push(arrival_ns, image):
                    self._overtaken += self._newest is not None
                    self._newest, self._paired = (color, depth), time.monotonic()
                    self._changed.notify_all()

    def _fail(self, error: EdgeFusionError) -> None:
        with self._changed:
            self._error = self._error or error
            self._changed.notify_all()
