"""``calib create`` and the writing half of ``calib select``: pairs of any source into a set."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol

from edge_fusion.calibration_file import ChoiceRecord
from edge_fusion.errors import CalibrationError, FrameError
from edge_fusion.runtime.source.base import Source, StoredSource, losses_of
from edge_fusion.runtime.source.credentials import without_credentials
from edge_fusion.runtime.source.folder import FolderSource
from edge_fusion.runtime.source.replay import Replay
from edge_fusion.runtime.source.uri import open_source

from .candidates import candidates
from .checks import Finding, check_pairs, refuse_errors
from .pool import HOW_TO_MAKE_ONE
from .set_folder import SetSource, set_of
from .write_set import SetWriter, check_place, writing_set


class Progress(Protocol):
    """Told how far each step is: ``total`` 0 means unknown, ``done == total`` finished."""

    def __call__(self, step: str, done: int, total: int, detail: str = "") -> None:
        """Report ``done`` of ``total`` parts of ``step``."""
        ...


def quiet(step: str, done: int, total: int, detail: str = "") -> None:
    """Report nothing."""


@dataclass(frozen=True, slots=True)
class CreateOptions:
    """What to make a set of.

    Attributes:
        sources: Sources as ``run`` takes them, one after the other.
        output: The set's folder.
        limit: Stop after so many pairs in all; None: at the sources' end.
        every: Take every so-manieth pair of each source.
        seconds: Stop each source after so many seconds: of a camera by the clock, of a recording by
            its timestamps.
        reference: Link to the files of folders instead of copying pairs.
        skip_damaged: Leave out pairs that cannot be read instead of stopping at them.
        replace: Replace an older set.

    Raises:
        CalibrationError: No source, or an option is out of range.
    """

    sources: tuple[str, ...]
    output: Path
    limit: int | None = None
    every: int = 1
    seconds: float | None = None
    reference: bool = False
    skip_damaged: bool = False
    replace: bool = False

    def __post_init__(self) -> None:
        if not self.sources:
            raise CalibrationError("no source to make a calibration set of", cure=HOW_TO_MAKE_ONE)
        if len(set(self.sources)) < len(self.sources):
            raise CalibrationError("the same source is given twice", cure="name it once")
        for name in ("limit", "every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise CalibrationError(name, expected="at least 1", got=str(value))
        if self.seconds is not None and not self.seconds > 0:
            raise CalibrationError("seconds", expected="more than 0", got=f"{self.seconds:g}")


@dataclass(frozen=True, slots=True)
class Created:
    """A set that was written.

    Attributes:
        source: The set, opened again.
        findings: What its checks warn of.
        resumed: How many pairs an interrupted run had written before.
        skipped: Numbers of the damaged pairs that were left out, with the reason.
        losses: What the sources lost before there were pairs, by what it was.
    """

    source: SetSource
    findings: tuple[Finding, ...]
    resumed: int = 0
    skipped: tuple[tuple[int, str], ...] = ()
    losses: dict[str, int] = field(default_factory=dict)


def create_set(options: CreateOptions, progress: Progress = quiet) -> Created:
    """Make a checked calibration set of any sources.

    Pairs are read, measured, hashed and written one at a time.  A run that is interrupted leaves no
    set; where the sources are stored, the same command goes on where it stopped.

    Args:
        options: What to make it of.
        progress: Told how many pairs are written.

    Raises:
        CalibrationError: A source has no pair or a damaged one, pairs of different kinds of depth
            are mixed, or a check found an error.
        SourceError: A source cannot be opened or read.
        OutputError: The set cannot be written; nothing is left behind.

    Example:
        >>> options = CreateOptions(("rosbag://lab.mcap",), Path("set"), every=15)  # doctest: +SKIP
        >>> len(create_set(options).source)                                # doctest: +SKIP
        40
    """
    check_place(options.output, replace=options.replace)
    sources = [open_pairs(uri) for uri in options.sources]
    for source in sources:
        _check_source(source, options)
    shown = tuple(without_credentials(source.uri) for source in sources)
    recipe = None if any(source.live for source in sources) else _recipe(options, shown)
    with writing_set(options.output, recipe, replace=options.replace) as writer:
        filling = _Filling(writer, options, progress, _expected(sources, options))
        for which, source in enumerate(sources):
            filling.take(which, source)
        if not writer.items:
            raise CalibrationError(f"not one pair in {', '.join(shown)}", cure=HOW_TO_MAKE_ONE)
        count = len(writer.items)
        progress("pairs", count, count, f"{count} of {filling.available}")
        findings = check_pairs(writer.judged(whole=options.every == 1, registered=_said(sources)))
        refuse_errors(", ".join(shown), findings)
        choice = ChoiceRecord(available=filling.available)
        writer.finish(shown, choice, linked=options.reference)
    losses = {what: count for source in sources for what, count in losses_of(source).items()}
    made = SetSource(options.output)
    return Created(made, findings, writer.resumed, tuple(filling.skipped), losses)


@dataclass(slots=True)
class _Filling:
    """A set that is being filled from one source after the other."""

    writer: SetWriter
    options: CreateOptions
    progress: Progress
    expected: int
    available: int = 0
    skipped: list[tuple[int, str]] = field(default_factory=list)

    def take(self, which: int, source: Source) -> None:
        """Write the pairs of one source that are wanted and not there yet."""
        there = {(item.source, item.number) for item in self.writer.items}
        number = -1
        with closing(candidates(source, self.options.seconds)) as found:
            # A camera is not waited for where nothing more is wanted of it.
            for number, candidate in found if not self._full else ():
                self.available += 1
                if number % self.options.every or (which, number) in there:
                    continue
                try:
                    frame = candidate()
                except (FrameError, CalibrationError) as err:
                    self._leave_out(source, number, err)
                    continue
                files = link_of(source, number) if self.options.reference else None
                self.writer.add(frame, source=which, number=number, links=files)
                count = len(self.writer.items)
                self.progress("pairs", min(count, max(self.expected - 1, 0)), self.expected)
                if self._full:
                    break
        if isinstance(source, StoredSource) and not source.live:
            self.available += len(source) - number - 1

    @property
    def _full(self) -> bool:
        limit = self.options.limit
        return limit is not None and len(self.writer.items) >= limit

    def _leave_out(self, source: Source, number: int, err: FrameError | CalibrationError) -> None:
        if not (self.options.skip_damaged or source.live):
            named = isinstance(err, CalibrationError)  # a set names the pair itself
            raise CalibrationError(
                err.what if named else f"source '{source.uri}', pair {number}: {err.what}",
                expected=err.expected,
                got=err.got,
                cure=f"{err.cure or 'repair or remove that pair'}; --skip-damaged leaves it out",
            ) from err
        self.skipped.append((number, err.reason))


def open_pairs(uri: str) -> Source:
    """Open what pairs come from: a set made by ``calib``, or any source of ``run``.

    Raises:
        SourceError: As :func:`edge_fusion.runtime.source.uri.open_source`.
        CalibrationError: It is a set that cannot be trusted.
    """
    folder = set_of(uri)
    return SetSource(folder) if folder is not None else open_source(uri, masks=False)


def _check_source(source: Source, options: CreateOptions) -> None:
    endless = source.live or (isinstance(source, Replay) and source.endless)
    if endless and options.limit is None and (options.seconds is None or not source.live):
        raise CalibrationError(
            f"source '{source.uri}' has no end",
            cure="say how much of it to take: --limit 64; of a camera also --seconds 60 --every 15",
        )
    if options.reference:
        link_of(source, 0)


def link_of(source: Source, index: int) -> tuple[Path, Path]:
    """The files of a pair, to be linked to.

    Raises:
        CalibrationError: The source's pairs are not files.
    """
    if not isinstance(source, (FolderSource, SetSource)):
        raise CalibrationError(
            f"source '{source.uri}' has no files to refer to",
            expected="a folder of pairs, without start= and stride=",
            cure="leave --reference out: its pairs are copied",
        )
    return source.files(index)


def _recipe(options: CreateOptions, shown: Sequence[str]) -> dict[str, Any]:
    """What an interrupted run must have in common with the one that takes it up."""
    changing = ("output", "replace", "sources")
    kept = {f.name: getattr(options, f.name) for f in fields(options) if f.name not in changing}
    return {**kept, "sources": list(shown), "working_folder": str(Path.cwd())}


def _expected(sources: Sequence[Source], options: CreateOptions) -> int:
    """How many pairs there will be; 0 where nobody knows."""
    lengths = [len(one) for one in sources if isinstance(one, StoredSource) and not one.live]
    if options.seconds is not None or len(lengths) < len(sources):
        return options.limit or 0
    count = sum(-(-length // options.every) for length in lengths)
    return min(count, options.limit or count)


def _said(sources: Sequence[Source]) -> bool | None:
    """What the sources say of registration: no, where one says no."""
    said = [getattr(source, "registered", None) for source in sources]
    return False if False in said else None
