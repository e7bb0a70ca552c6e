"""Stored pairs of several sources together, numbered through."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from edge_fusion.errors import CalibrationError, FrameError, SourceError
from edge_fusion.frame import RgbdFrame
from edge_fusion.runtime.source.base import StoredSource
from edge_fusion.runtime.source.uri import open_stored

from .set_folder import SetSource, set_of

HOW_TO_MAKE_ONE = (
    "give frames of your own camera with --calib: a set made by 'edge-fusion calib create SOURCE "
    "-o SET', a folder with rgb/, depth/ and meta.json, or two globs with the depth declared: "
    "--calib 'folder://DIR?rgb=color/*.png&depth=depth/*.png&unit=mm'; 30 to 100 varied pairs do"
)


class Pool:
    """Pairs of several stored sources.

    Args:
        uris: Sets, folders or URIs of stored sources.

    Raises:
        CalibrationError: One cannot be opened or counted, or is a set that cannot be trusted.
    """

    def __init__(self, uris: Sequence[str]) -> None:
        self.sources: tuple[StoredSource, ...] = tuple(_open(uri) for uri in uris)
        self.places = tuple(
            (which, index)
            for which, source in enumerate(self.sources)
            for index in range(len(source))
        )

    def __len__(self) -> int:
        """How many pairs there are."""
        return len(self.places)

    def read(self, which: int, index: int) -> RgbdFrame:
        """Pair ``index`` of source ``which``.

        Raises:
            CalibrationError: It cannot be read; it is named.
        """
        source = self.sources[which]
        try:
            return source[index]
        except (FrameError, SourceError) as err:
            raise of_pair(source, index, err) from err

    def frames(self) -> Iterator[RgbdFrame]:
        """Every pair in order."""
        return (self.read(which, index) for which, index in self.places)


def of_pair(source: StoredSource, index: int, err: FrameError | SourceError) -> CalibrationError:
    """The same error, which names the pair of a calibration set."""
    return CalibrationError(
        f"calibration set {source.uri}, pair {index}: {err.what}",
        expected=err.expected,
        got=err.got,
        cure=err.cure or "repair or remove that pair",
    )


def _open(uri: str) -> StoredSource:
    try:
        folder = set_of(uri)
        return open_stored(uri, masks=False) if folder is None else SetSource(folder)
    except SourceError as err:
        raise CalibrationError(
            f"calibration set {uri}: {err.what}",
            expected=err.expected,
            got=err.got,
            cure=err.cure or HOW_TO_MAKE_ONE,
        ) from err
