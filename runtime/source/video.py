"""A recording of two video files: colour in one, depth in the other, image by image."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from edge_fusion.errors import FrameError, SourceError
from edge_fusion.frame import RgbdFrame
from edge_fusion.spec import DepthSpec

from ..sync import COLOR_ALONE, DEPTH_ALONE
from .base import Arrival, Arrivals, decoded
from .capture import Capture, Still, open_file
from .declared import DepthFields, depth_fields, resolve_depth
from .place import local_path

_SLACK = 2  # images by which a recorder may end one file later, or a container count wrongly
_SLACK_SHARE = 0.02  # the same, of long recordings whose container only estimates their number


class VideoSource:
    """Two video files of the same images: the first of one belongs to the first of the other.

    Depth is read as it is stored where its file holds one channel: 16 bits in FFV1 ``gray16le``
    without any loss. Anything else becomes 8 bits, as of relative depth in H.264.

    Args:
        color: The colour video.
        depth: The depth video.
        declared: What the caller says of the depth; see :func:`~.declared.depth_fields`.

    Raises:
        SourceError: A file is missing, damaged, or of another length or size than the other; the
            files are swapped; or the depth's unit is not declared or impossible.

    Example:
        >>> source = VideoSource("color.mp4", "depth.mkv", {"unit": "mm"})     # doctest: +SKIP
        >>> next(source.frames()).depth.dtype                                  # doctest: +SKIP
        dtype('uint16')
    """

    live = False

    def __init__(
        self, color: str | Path, depth: str | Path, declared: Mapping[str, Any] | None = None
    ) -> None:
        self._written = str(color), str(depth)
        self._declared = dict(declared or {})
        self._color, self._depth = (local_path(path) for path in self._written)
        self._depth_spec = declared_depth(self.uri, self._declared)
        self._counts = {COLOR_ALONE: 0, DEPTH_ALONE: 0}
        with self._opened() as (colors, depths):
            self._check_lengths(colors, depths)
            first = next(self._pairs(colors, depths), None)
            if first is None:
                raise SourceError(f"source '{self.uri}' holds not one pair")
            if isinstance(first, Arrival):
                check_first(first, self.uri)

    @property
    def uri(self) -> str:
        """The URI that opens an equal source."""
        color, depth = (quote(path, safe="/~ ") for path in self._written)
        return f"video://{color}?depth={depth}{query_of(self._declared)}"

    @property
    def depth_spec(self) -> DepthSpec:
        """Unit, polarity and invalid value of every pair's depth."""
        return self._depth_spec

    @property
    def counts(self) -> Mapping[str, int]:
        """Images at the end of one file without a partner in the other."""
        return dict(self._counts)

    def frames(self) -> Generator[RgbdFrame, None, None]:
        """Every pair in order."""
        return decoded(self.arrivals())

    def arrivals(self) -> Arrivals:
        """Every pair in order, its pixels not converted yet.

        Raises:
            SourceError: A file is cut off or damaged; all pairs before were delivered.
        """
        with self._opened() as (colors, depths), closing(self._pairs(colors, depths)) as pairs:
            yield from pairs

    @contextmanager
    def _opened(self) -> Generator[tuple[Capture, Capture], None, None]:
        with (
            _released(open_file(self._color, "colour")) as colors,
            _released(open_file(self._depth, "depth")) as depths,
        ):
            yield colors, depths

    def _check_lengths(self, colors: Capture, depths: Capture) -> None:
        slack = max(_SLACK, _SLACK_SHARE * max(colors.length, depths.length))
        if colors.length and depths.length and abs(colors.length - depths.length) > slack:
            raise SourceError(
                f"the streams of '{self.uri}' differ in length",
                expected="as many depth as colour images",
                got=f"{colors.length} colour images at {colors.fps:g} per second and "
                f"{depths.length} depth images at {depths.fps:g}",
                cure="record both at one rate, or cut them to the same images",
            )

    def _pairs(self, colors: Capture, depths: Capture) -> Arrivals:
        number = 0
        while True:
            more = colors.grab(), depths.grab()
            if not all(more):
                break
            name = f"{number:06d}"
            color, depth = colors.retrieve(), depths.retrieve()
            if color is None or depth is None:
                which = "colour" if color is None else "depth"
                yield FrameError(f"{which} of '{name}'", got="a damaged image")
            else:
                yield self._arrival(name, number, colors.time_ns, color, depth)
            number += 1
        self._check_end(number, more, colors, depths)

    def _arrival(self, name: str, number: int, time_ns: int, color: Still, depth: Still) -> Arrival:
        def decode() -> RgbdFrame:
            return RgbdFrame(
                rgb=color.rgb(name),
                depth=depth.depth(name),
                depth_spec=self._depth_spec,
                id=name,
                number=number,
                timestamp_ns=time_ns,
            )

        return Arrival(name, number, time_ns, 0, decode)

    def _check_end(
        self, pairs: int, more: tuple[bool, bool], colors: Capture, depths: Capture
    ) -> None:
        """Tell the end of two whole files from that of a cut off one."""
        longer = colors if more[0] else depths
        alone = 1 + _left(longer, _SLACK) if any(more) else 0
        self._counts = {COLOR_ALONE: alone * more[0], DEPTH_ALONE: alone * more[1]}
        announced = max(colors.length, depths.length)
        missing = announced - pairs - alone
        if alone > _SLACK or missing > max(_SLACK, _SLACK_SHARE * announced):
            ended = " and ".join(
                name
                for name, has_more in zip(("colour", "depth"), more, strict=True)
                if not has_more
            )
            raise SourceError(
                f"{ended} of '{self.uri}' ends too early",
                expected=f"{announced or 'as many'} images",
                got=f"{pairs}",
                cure="is the file cut off or damaged? copy or record it again",
            )


def _left(capture: Capture, most: int) -> int:
    """How many images there still are, up to a number."""
    return next((seen for seen in range(most) if not capture.grab()), most)


@contextmanager
def _released(capture: Capture) -> Generator[Capture, None, None]:
    try:
        yield capture
    finally:
        capture.release()


def declared_depth(uri: str, declared: Mapping[str, Any]) -> DepthSpec:
    """The depth's unit and polarity, which no video says.

    Args:
        uri: The source, for messages.
        declared: The values of :data:`~.keys.DEPTH_KEYS`.

    Raises:
        SourceError: They are not declared, or impossible.
    """
    if not {"unit", "scale_to_m"} & declared.keys():
        raise SourceError(
            f"source '{uri}': the unit of its depth is not declared",
            cure="add unit=mm (or m, cm, 0.1mm), or unit=relative&larger_is=nearer",
        )
    return resolve_depth(f"source '{uri}'", depth_fields(uri, **declared), DepthFields())


def query_of(values: Mapping[str, Any]) -> str:
    """Values as the rest of a query, ``&`` in front of each."""
    return "".join(
        f"&{key}={'none' if value is None else quote(str(value), safe='/:.')}"
        for key, value in values.items()
    )


def check_first(first: Arrival, uri: str) -> None:
    """Refuse a source whose first pair shows that every pair will be unusable.

    Colour may be in shades of grey, as a camera sends it at night.

    Raises:
        SourceError: Colour has one channel, depth is colour, their sizes differ, or 8-bit depth is
            declared in a unit in which it could not span a scene.
    """
    try:
        first.decode()
    except FrameError as err:
        raise SourceError(
            f"source '{uri}': {err.what}", expected=err.expected, got=err.got, cure=err.cure
        ) from err
