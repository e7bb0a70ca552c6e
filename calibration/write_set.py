"""Writing a calibration set: pair by pair beside its final place, whole or not at all.

Until it is whole a set grows in a hidden folder beside its place.  A journal there has one line for
every pair that is written, so that the same command goes on where it was killed.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from dataclasses import replace as changed
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_fusion import __version__
from edge_fusion.calibration_file import (
    CALIBRATION_NAME,
    CalibrationFile,
    ChoiceRecord,
    DepthDtype,
    PairRecord,
    digest_of,
    is_plain_id,
    write_calibration_file,
)
from edge_fusion.errors import CalibrationError, OutputError
from edge_fusion.files import writing
from edge_fusion.frame import Intrinsics, RgbdFrame
from edge_fusion.runtime.source.declared import META
from edge_fusion.spec import DepthSpec

from .check_rules import Judged
from .measure import measure

WHAT = "the calibration set"
_JOURNAL, _LOCK = "journal.jsonl", "lock"
_OURS = ("rgb", "depth", META, CALIBRATION_NAME)
_PNG_EFFORT = [cv2.IMWRITE_PNG_COMPRESSION, 1]  # a third of the time for a tenth more bytes
_LONGEST_ID = 100


@dataclass(slots=True)
class _Shape:
    """What all pairs of a set share: taken from the first, asked of the others."""

    depth: DepthSpec
    dtype: DepthDtype
    intrinsics: Intrinsics | None


@dataclass(slots=True)
class SetWriter:
    """A set as it grows; :func:`writing_set` makes one.

    Attributes:
        folder: Where it grows.
        items: What is recorded of the pairs that are written, in order.
        resumed: How many of them an earlier run wrote.
    """

    folder: Path
    items: list[PairRecord] = field(default_factory=list)
    resumed: int = 0
    _shape: _Shape | None = None
    _noted: _Shape | None = None  # as the journal has it
    _names: set[str] = field(default_factory=set)

    def add(
        self,
        frame: RgbdFrame,
        *,
        source: int = 0,
        number: int | None = None,
        links: tuple[Path, Path] | None = None,
    ) -> PairRecord:
        """Measure and write one pair.

        Args:
            frame: The pair.
            source: Which of the set's sources it comes from.
            number: Its number there; None: the frame's own.
            links: Its colour and depth file, to be linked to; None writes copies: colour as PNG,
                depth as 16- or 8-bit PNG, or as ``.npy`` where it is floating point, because no
                16-bit step holds every float.

        Raises:
            CalibrationError: Its depth is of another unit or dtype than that of the pairs before.
            OutputError: It could not be written.
        """
        self._share(frame)
        name = self._name(frame.id)
        record = measure(frame, id=name, source=source, number=number)
        if links:
            _link(self.folder, name, links)
        else:
            _copy(self.folder, name, frame)
        self._note(record)
        return record

    def judged(self, *, whole: bool = True, registered: bool | None = None) -> Judged:
        """What is written so far, as the checks see it."""
        if self._shape is None:
            raise CalibrationError("not one pair to judge", cure="is the source empty?")
        shape = self._shape
        return Judged(tuple(self.items), shape.depth, shape.dtype, whole, registered)

    def finish(self, sources: Sequence[str], choice: ChoiceRecord, *, linked: bool) -> None:
        """Write what makes the folder a set: ``meta.json`` and ``calibration.json``."""
        shape = self._shape
        if shape is None:
            raise CalibrationError("not one pair to make a set of", cure="is the source empty?")
        with writing(WHAT, self.folder):
            (self.folder / META).write_text(json.dumps(_meta(shape), indent=1) + "\n")
        hashes = [item.sha256 for item in self.items]
        write_calibration_file(
            self.folder,
            CalibrationFile(
                created_utc=datetime.now(timezone.utc).isoformat(timespec="seconds"),
                version=__version__,
                sources=tuple(sources),
                depth=shape.depth,
                depth_dtype=shape.dtype,
                stored="links" if linked else "copies",
                choice=choice,
                items=tuple(self.items),
                sha256=digest_of(hashes),
            ),
        )
        for name in (_JOURNAL, _LOCK):
            (self.folder / name).unlink(missing_ok=True)

    def _share(self, frame: RgbdFrame) -> None:
        dtype = cast(DepthDtype, str(frame.depth.dtype))  # a frame holds no other
        shape = _Shape(frame.depth_spec, dtype, frame.intrinsics)
        if self._shape is None:
            self._shape = shape
        wanted = self._shape
        if (shape.depth, shape.dtype) != (wanted.depth, wanted.dtype):
            raise CalibrationError(
                f"pair '{frame.id}' has another kind of depth than the pairs before it",
                expected=f"{wanted.dtype}, {_describe(wanted.depth)}",
                got=f"{shape.dtype}, {_describe(shape.depth)}",
                cure="one set holds one kind of depth: make two, and give both to build with "
                "--calib ONE --calib OTHER",
            )
        if shape.intrinsics != wanted.intrinsics:
            wanted.intrinsics = None  # of several cameras: nothing that could be said of all

    def _name(self, source_id: str) -> str:
        """A file name for a pair: its id where that can be one, else what of it can."""
        stem = re.sub(r"[^\w.-]+", "_", source_id)[:_LONGEST_ID].lstrip(".") or "pair"
        name, attempt = stem, 1
        while name.casefold() in self._names or not is_plain_id(name):
            attempt += 1
            name = f"{stem}-{attempt}"
        self._names.add(name.casefold())
        return name

    def _note(self, record: PairRecord) -> None:
        """One line in the journal: from now on the pair is written."""
        with writing(WHAT, self.folder), (self.folder / _JOURNAL).open("a") as journal:
            if self._noted != self._shape and self._shape is not None:
                journal.write(json.dumps(_meta(self._shape)) + "\n")
                self._noted = changed(self._shape)
            journal.write(record.model_dump_json() + "\n")
        self.items.append(record)


@contextmanager
def writing_set(
    path: Path, recipe: dict[str, Any] | None, *, replace: bool = False
) -> Iterator[SetWriter]:
    """A writer whose set takes its place as a whole when the block ends.

    Args:
        path: The set's folder.
        recipe: Everything the set follows from, as JSON has it.  A run that was killed is taken up
            again by one of the same recipe; with None there is nothing to take up.
        replace: Replace an older set.

    Raises:
        OutputError: The place is taken, cannot be written to, or the disk is full.  Nothing is left
            but, where there is a recipe, what can be taken up again.
    """
    path = Path(path).expanduser()
    check_place(path, replace=replace)
    with writing(WHAT, path):
        final = path.resolve()
        final.parent.mkdir(parents=True, exist_ok=True)
        partial = _partial_of(final)
        lock = _locked(partial, path)
    try:
        writer = _taken_up(partial, recipe)
        yield writer
        check_place(path, replace=replace)  # somebody may have taken it since
        _put_in_place(partial, final)
    except BaseException as err:
        # Only who was interrupted wants to go on with the same; after an error it is another set.
        if recipe is None or not isinstance(err, KeyboardInterrupt):
            shutil.rmtree(partial, ignore_errors=True)
        raise
    finally:
        os.close(lock)


def check_place(path: Path, *, replace: bool) -> None:
    """Refuse a place that is taken, before any work is done.

    Raises:
        OutputError: Something else lies there, or an older set that may not be replaced.
    """
    if not path.exists() and not path.is_symlink():
        return
    try:
        found = sorted(entry.name for entry in path.iterdir())
    except OSError as err:
        raise OutputError(
            f"cannot write {WHAT} {path}", got="it is no folder", cure="name another place"
        ) from err
    foreign = [name for name in found if name not in _OURS]
    if found and (CALIBRATION_NAME not in found or foreign):
        raise OutputError(
            f"{path} holds something that is no calibration set",
            got=", ".join((foreign or found)[:3]),
            cure="name another place: it is not replaced, not even with --force",
        )
    if found and not replace:
        raise OutputError(f"{path} exists", cure="name another place, or pass --force")


def kept_of(path: Path) -> int:
    """How many pairs an interrupted run has written of a set that is not there yet."""
    journal = _partial_of(Path(path).expanduser().resolve()) / _JOURNAL
    try:
        return sum('"sha256"' in line for line in journal.read_text().splitlines())
    except OSError:
        return 0


def _partial_of(final: Path) -> Path:
    return final.with_name(f".{final.name}.partial")


def _locked(partial: Path, path: Path) -> int:
    """Make the growing folder this process's own; the lock dies with the process."""
    partial.mkdir(exist_ok=True)
    lock = os.open(partial / _LOCK, os.O_CREAT | os.O_RDWR, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as err:
        os.close(lock)
        raise OutputError(
            f"{path} is being written by another process", cure="wait for it, or end it"
        ) from err
    return lock


def _taken_up(partial: Path, recipe: dict[str, Any] | None) -> SetWriter:
    """What an earlier run of the same recipe left, or an empty folder."""
    wanted = json.dumps(recipe, sort_keys=True)
    writer = SetWriter(partial)
    journal = partial / _JOURNAL
    with writing(WHAT, partial):
        # Killed while it was written, the last line may lack its end.
        lines = journal.read_text().split("\n")[:-1] if journal.exists() and recipe else []
        if lines and lines[0] == wanted:
            _read_journal(writer, lines[1:])
        for part in ("rgb", "depth"):
            if not writer.items:
                shutil.rmtree(partial / part, ignore_errors=True)
            (partial / part).mkdir(exist_ok=True)
        kept = [json.dumps(_meta(writer._shape))] if writer._shape else []
        kept += [item.model_dump_json() for item in writer.items]
        journal.write_text("\n".join([wanted, *kept, ""]))
    writer.resumed = len(writer.items)
    return writer


def _read_journal(writer: SetWriter, lines: Sequence[str]) -> None:
    """Take what is whole; what comes behind the first doubt is written again."""
    there = [_whole_files(writer.folder / part) for part in ("rgb", "depth")]
    try:
        for line in lines:
            fields = json.loads(line)
            if "registered" in fields:
                writer._shape = _shape_of(fields)
                continue
            item = PairRecord.model_validate(fields)
            if any(item.id not in names for names in there):
                break
            writer.items.append(item)
            writer._names.add(item.id.casefold())
    except (ValueError, KeyError, TypeError):
        pass
    if not writer.items:
        writer._shape = None


def _whole_files(folder: Path) -> set[str]:
    """Names of pairs that have a file which is not empty, as a full disk leaves them."""
    if not folder.is_dir():
        return set()
    files = (file for file in folder.iterdir() if file.is_symlink() or file.stat().st_size)
    return {file.stem for file in files}


def _shape_of(meta: dict[str, Any]) -> _Shape:
    depth = {name: meta["depth"][name] for name in DepthSpec.model_fields}
    camera = Intrinsics(**meta["intrinsics"]) if meta["intrinsics"] else None
    return _Shape(DepthSpec(**depth), meta["depth"]["dtype"], camera)


def _put_in_place(partial: Path, final: Path) -> None:
    retired = final.with_name(f".{final.name}.replaced-{os.getpid()}")
    with writing(WHAT, final):
        partial.chmod(0o755)
        if final.exists():
            final.rename(retired)
        try:
            partial.rename(final)
        except BaseException:
            if retired.exists():
                retired.rename(final)
            raise
    shutil.rmtree(retired, ignore_errors=True)


def _copy(folder: Path, name: str, frame: RgbdFrame) -> None:
    dtype = str(frame.depth.dtype)
    with writing(WHAT, folder):
        _write_png(folder / "rgb" / f"{name}.png", frame.rgb[..., ::-1])
        if dtype == "float32":
            with (folder / "depth" / f"{name}.npy").open("wb") as file:
                np.save(file, frame.depth)
        else:
            _write_png(folder / "depth" / f"{name}.png", frame.depth)


def _write_png(path: Path, image: NDArray[Any]) -> None:
    done, data = cv2.imencode(".png", np.ascontiguousarray(image), _PNG_EFFORT)
    if not done:
        raise OutputError(f"cannot encode {path}")
    path.write_bytes(data.tobytes())


def _link(folder: Path, name: str, files: tuple[Path, Path]) -> None:
    with writing(WHAT, folder):
        for part, file in zip(("rgb", "depth"), files, strict=True):
            place = folder / part / f"{name}{file.suffix.lower()}"
            place.unlink(missing_ok=True)
            place.symlink_to(file.resolve())


def _meta(shape: _Shape) -> dict[str, Any]:
    camera = shape.intrinsics
    named = {"fx": camera.fx, "fy": camera.fy, "cx": camera.cx, "cy": camera.cy} if camera else None
    return {
        "depth": {"dtype": shape.dtype, **shape.depth.model_dump(mode="json")},
        "registered": True,
        "intrinsics": named,
    }


def _describe(depth: DepthSpec) -> str:
    scale = f"{depth.scale_to_m:g} m per unit" if depth.metric else f"larger is {depth.larger_is}"
    return f"{scale}, invalid {depth.invalid}"
