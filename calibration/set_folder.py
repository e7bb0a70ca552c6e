"""A calibration set on disk: opened as a source whose pairs are known by their hashes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

from edge_fusion.calibration_file import (
    CALIBRATION_NAME,
    PairRecord,
    read_calibration_file,
)
from edge_fusion.errors import CalibrationError, FrameError, SourceError
from edge_fusion.frame import RgbdFrame
from edge_fusion.runtime.source.folder import FolderSource

from .measure import frame_sha256

EDITED = (
    "put the file back as it was; or, to take the pairs as they are now, remove "
    "{record} there and make a new set: edge-fusion calib create {folder} -o NEW"
)


class SetSource:
    """A set made by ``edge-fusion calib``: its pairs in their recorded order, with their times.

    Args:
        folder: The set.

    Every pair that is read is held against its recorded hash.

    Raises:
        CalibrationError: The folder has no ``calibration.json`` or one that cannot be trusted, or
            pairs were added or removed.

    Example:
        >>> chosen = SetSource("set/")                                      # doctest: +SKIP
        >>> len(chosen), chosen.record.choice.method                        # doctest: +SKIP
        (32, 'coverage')
    """

    live = False

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).expanduser()
        self._written = str(folder)
        record = read_calibration_file(self.folder)
        if record is None:
            raise CalibrationError(
                f"{folder} has no {CALIBRATION_NAME}",
                expected="a set made by 'edge-fusion calib'",
                cure="make one: edge-fusion calib create SOURCE -o SET",
            )
        self.record = record
        self._pairs = self._listed()
        self._places = {name: index for index, name in enumerate(self._pairs.ids)}
        self._check_listed()

    @property
    def uri(self) -> str:
        """The set's folder, as the user wrote it."""
        return self._written

    @property
    def items(self) -> tuple[PairRecord, ...]:
        """What is recorded of every pair, in order."""
        return self.record.items

    def __len__(self) -> int:
        """How many pairs there are."""
        return len(self.items)

    def __getitem__(self, index: int) -> RgbdFrame:
        """Pair ``index``, held against its recorded hash.

        Raises:
            CalibrationError: It was changed after the set was made, or cannot be read any more.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"pair {index} of {len(self)} in {self.folder}")
        item = self.items[index]
        try:
            frame = self._pairs[self._places[item.id]]
        except (FrameError, SourceError) as err:
            raise CalibrationError(
                f"calibration set {self.uri}, pair '{item.id}': {err.what}",
                expected=err.expected,
                got=err.got,
                cure=self._cure(),
            ) from err
        if frame_sha256(frame) != item.sha256:
            raise CalibrationError(
                f"calibration set {self.uri}: pair '{item.id}' was changed after the set was made",
                expected=f"pixels of hash {item.sha256[:12]}",
                got="others",
                cure=self._cure(),
            )
        return replace(frame, number=index, timestamp_ns=item.timestamp_ns)

    def files(self, index: int) -> tuple[Path, Path]:
        """The colour and the depth file of pair ``index``."""
        return self._pairs.files(self._places[self.items[index].id])

    def frames(self) -> Iterator[RgbdFrame]:
        """Every pair in order."""
        return (self[index] for index in range(len(self)))

    def _cure(self) -> str:
        linked = "; its files are links: were the originals moved or edited?"
        cure = EDITED.format(folder=self.folder, record=CALIBRATION_NAME)
        return cure + linked * (self.record.stored == "links")

    def _listed(self) -> FolderSource:
        try:
            return FolderSource(self.folder, depth_spec=self.record.depth, masks=False)
        except SourceError as err:
            raise CalibrationError(
                f"calibration set {self.uri}: files were changed after it was made",
                got=err.reason,
                cure=self._cure(),
            ) from err

    def _check_listed(self) -> None:
        listed, there = {item.id for item in self.items}, set(self._places)
        for names, problem in ((there - listed, "added to"), (listed - there, "removed from")):
            if names:
                raise CalibrationError(
                    f"calibration set {self.uri}: pairs were {problem} it after it was made",
                    got=", ".join(sorted(names)[:3]),
                    cure=self._cure(),
                )


def set_of(uri: str) -> Path | None:
    """The folder of a set that a path or a plain ``folder://`` URI names; None: it names no set.

    Example:
        >>> set_of("nowhere") is None
        True
    """
    _, scheme, path = uri.rpartition("folder://")
    if scheme and ("?" in path or uri != scheme + path):
        return None
    folder = Path(unquote(path) if scheme else uri).expanduser()
    # One that leads nowhere is there as well: its pairs must not pass for a plain folder's.
    return folder if os.path.lexists(folder / CALIBRATION_NAME) else None
