"""Recordings of robots as one thing: topics and their serialised messages, in order.

What rosbags opens, it reads.  What it refuses because a recorder was killed or a disk was full is
read from the beginning to where it breaks off.
"""

from __future__ import annotations

import os
import sqlite3
from collections import Counter
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

from mcap.reader import make_reader
from mcap.records import Channel, Chunk, McapRecord, Message, Schema
from mcap.stream_reader import StreamReader, breakup_chunk
from rosbags.rosbag1 import Reader as Reader1
from rosbags.rosbag2 import Reader as Reader2
from rosbags.typesys import Stores, get_typestore

from edge_fusion.errors import SourceError
from edge_fusion.files import natural_key

from ..ros.camera import ReadStamp, cdr_stamp_ns, ros1_stamp_ns

SUFFIXES = (".mcap", ".db3", ".bag")
_METADATA = "metadata.yaml"
_BLOCK = 1 << 20
_MOST_CHUNK = 1 << 30  # bytes, unpacked: recorders make chunks of a few MB, a bomb any size


class RawMessage(NamedTuple):
    """A serialised message; ``logged_ns`` is when it was recorded."""

    topic: str
    logged_ns: int
    raw: bytes


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic of a recording: its message type as ROS 2 writes it, and how many there are."""

    type: str
    count: int


class Bag(Protocol):
    """A recording that is open."""

    @property
    def topics(self) -> dict[str, Topic]:
        """Every topic by name."""
        ...

    def messages(self, topics: Collection[str]) -> Generator[RawMessage, None, None]:
        """The messages of some topics, as they were recorded.

        Raises:
            SourceError: The recording breaks off or is damaged; what could be read was delivered.
        """
        ...

    def close(self) -> None:
        """Close the files."""
        ...


@dataclass(frozen=True, slots=True)
class Dialect:
    """How messages of ROS 1 or ROS 2 are read.

    Attributes:
        decode: Serialised bytes and message type to an object with the message's fields; raises
            whatever the damaged bytes lead to.
        stamp_ns: The header stamp of a serialised message.
    """

    decode: Callable[[bytes, str], Any]
    stamp_ns: ReadStamp


def dialect_of(path: Path) -> Dialect:
    """The dialect of a recording.

    The messages read here are the same in every ROS 2, so that the definitions inside a recording,
    of which one may be broken, are not needed.
    """
    return _ros1() if path.suffix == ".bag" else _ros2()


@cache
def _ros1() -> Dialect:
    return Dialect(get_typestore(Stores.ROS1_NOETIC).deserialize_ros1, ros1_stamp_ns)


@cache
def _ros2() -> Dialect:
    return Dialect(get_typestore(Stores.ROS2_HUMBLE).deserialize_cdr, cdr_stamp_ns)


def open_bag(path: Path) -> Bag:
    """Open a recording.

    Args:
        path: A ROS 2 folder, with or without its metadata.yaml; a single ``.db3`` or ``.mcap``
            file; or a ROS 1 ``.bag``.

    Raises:
        SourceError: There is no such recording, or it cannot be read at all.
    """
    if not path.exists():
        raise SourceError(f"the recording '{path}' does not exist")
    if path.is_dir():
        return _open_folder(path)
    if path.suffix not in SUFFIXES:
        raise SourceError(f"'{path}' is no recording", expected=f"a folder, {', '.join(SUFFIXES)}")
    return _open_file(path)


def _open_folder(folder: Path) -> Bag:
    files = sorted(
        (file for file in folder.iterdir() if file.suffix in (".mcap", ".db3")),
        key=lambda file: natural_key(file.name),
    )
    if not (folder / _METADATA).exists() and not files:
        raise SourceError(
            f"no recording in the folder '{folder}'",
            expected=f"{_METADATA} with .mcap or .db3 files",
            cure="a folder of images is opened by folder://PATH",
        )
    if (folder / _METADATA).exists():
        try:
            return _Indexed(Reader2(folder), folder)
        except SourceError:
            if not files:  # compressed ones, which rosbags alone unpacks
                raise
    return _open_chain(files)


def _open_chain(files: Iterable[Path]) -> Bag:
    """The files that can be opened; the first that cannot is told at the end of reading."""
    bags: list[Bag] = []
    broken: SourceError | None = None
    with ExitStack() as opened:
        for file in files:
            try:
                bags.append(opened.enter_context(closing(_open_file(file))))
            except SourceError as err:
                broken = broken or err
        if broken is not None and not bags:
            raise broken
        return _Chain(bags, broken, opened.pop_all())


def _open_file(path: Path) -> Bag:
    if path.stat().st_size == 0:
        raise SourceError(f"the recording '{path}' is empty")
    try:
        return _Indexed(Reader1(path) if path.suffix == ".bag" else Reader2(path), path)
    except SourceError as err:
        sequential = _SEQUENTIAL.get(path.suffix)
        if sequential is None:
            raise
        try:
            return sequential(path)
        except SourceError:
            raise err from None


class _Indexed:
    """A recording that rosbags reads."""

    def __init__(self, reader: Any, path: Path) -> None:
        self._reader, self._path = reader, path
        try:
            for file in path.glob("*.mcap") if path.is_dir() else [path]:
                _check_chunks(file)
            reader.open()
        except Exception as err:  # rosbags raises whatever the damaged bytes lead it to
            raise SourceError(
                f"cannot read the recording '{path}'",
                got=str(err) or type(err).__name__,
                cure="if it is a .bag: rosbag reindex" if path.suffix == ".bag" else "",
            ) from err

    @property
    def topics(self) -> dict[str, Topic]:
        return {
            name: Topic(info.msgtype or "several types", info.msgcount)
            for name, info in self._reader.topics.items()
        }

    def messages(self, topics: Collection[str]) -> Generator[RawMessage, None, None]:
        connections = [one for one in self._reader.connections if one.topic in topics]
        delivered = 0
        if not connections:
            return
        found = self._reader.messages(connections=connections)
        try:
            for connection, logged_ns, raw in found:
                delivered += 1
                yield RawMessage(connection.topic, logged_ns, bytes(raw))
        except GeneratorExit:
            raise
        except Exception as err:
            raise _broken(self._path, delivered, err) from err
        finally:
            found.close()

    def close(self) -> None:
        self._reader.close()


class _Sequential:
    """A file read from its beginning to where it breaks off."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._types: dict[str, str] = {}
        counts: Counter[str] = Counter()
        try:
            for message in self._read(None):
                counts[message.topic] += 1
        except SourceError:
            if not counts:
                raise
        self.topics = {name: Topic(type_, counts[name]) for name, type_ in self._types.items()}

    def messages(self, topics: Collection[str]) -> Generator[RawMessage, None, None]:
        return self._read(topics)

    def close(self) -> None:
        """Nothing stays open."""

    def _read(self, topics: Collection[str] | None) -> Generator[RawMessage, None, None]:
        delivered = 0
        found = self._records()
        try:
            for message in found:
                if topics is None or message.topic in topics:
                    delivered += 1
                    yield message
        except GeneratorExit:
            raise
        except Exception as err:
            raise _broken(self._path, delivered, err) from err
        finally:
            found.close()

    def _records(self) -> Generator[RawMessage, None, None]:
        raise NotImplementedError


class _SequentialMcap(_Sequential):
    """Also one that another program than a ROS recorder wrote, with messages of ROS 2."""

    def _records(self) -> Generator[RawMessage, None, None]:
        schemas: dict[int, str] = {}
        channels: dict[int, str] = {}
        with self._path.open("rb") as file:
            for record in self._unpacked(file):
                if isinstance(record, Schema):
                    schemas[record.id] = record.name
                elif isinstance(record, Channel) and record.message_encoding == "cdr":
                    channels[record.id] = record.topic
                    self._types[record.topic] = schemas.get(record.schema_id, "")
                elif isinstance(record, Message) and record.channel_id in channels:
                    topic = channels[record.channel_id]
                    yield RawMessage(topic, record.log_time, record.data)

    def _unpacked(self, file: BinaryIO) -> Iterator[McapRecord]:
        reader = StreamReader(
            _Used(file),  # type: ignore[arg-type]  # it needs read
            emit_chunks=True,
            validate_crcs=True,
        )
        for record in reader.records:
            if isinstance(record, Chunk):
                _check_chunk(record.uncompressed_size)
                yield from breakup_chunk(record, validate_crc=True)
            else:
                yield record


def _check_chunks(path: Path) -> None:
    """Refuse an MCAP file by the sizes in its index, as rosbags unpacks whatever there is."""
    with path.open("rb") as file:
        try:
            summary = make_reader(file).get_summary()
        except Exception:  # no MCAP, or a broken one: whoever reads it says so
            return
        for chunk in summary.chunk_indexes if summary else ():
            _check_chunk(chunk.uncompressed_size)


def _check_chunk(size: int) -> None:
    if size > _MOST_CHUNK:
        raise ValueError(f"a chunk of {size} bytes, more than the {_MOST_CHUNK} that are unpacked")


class _Used:
    """A file without the zeros at its end: space that a killed recorder held, not yet used."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._left = file.seek(0, os.SEEK_END)
        while self._left:
            start = max(self._left - _BLOCK, 0)
            file.seek(start)
            used = len(file.read(self._left - start).rstrip(b"\0"))
            self._left = start + used
            if used:
                break
        file.seek(0)

    def read(self, count: int) -> bytes:
        """The next bytes, fewer at the end."""
        data = self._file.read(min(count, self._left))
        self._left -= len(data)
        return data


class _SequentialSqlite(_Sequential):
    def _records(self) -> Generator[RawMessage, None, None]:
        address = f"{self._path.resolve().as_uri()}?immutable=1"
        base = sqlite3.connect(address, uri=True, check_same_thread=False)
        try:
            # Else SQLite refuses a file that is shorter than its header says.
            base.execute("PRAGMA writable_schema=ON")
            names = {}
            for number, name, type_ in base.execute("SELECT id, name, type FROM topics"):
                names[number] = name
                self._types[name] = type_
            # In the order of writing: the index by time may lie in the part that is missing.
            rows = base.execute("SELECT topic_id, timestamp, data FROM messages ORDER BY id")
            for number, logged_ns, raw in rows:
                yield RawMessage(names[number], logged_ns, raw)
        finally:
            base.close()


_SEQUENTIAL: dict[str, type[_Sequential]] = {".mcap": _SequentialMcap, ".db3": _SequentialSqlite}


class _Chain:
    """The files of one recording, one after another; a broken one does not hide the next."""

    def __init__(self, bags: list[Bag], broken: SourceError | None, opened: ExitStack) -> None:
        self._bags, self._broken, self._opened = bags, broken, opened

    @property
    def topics(self) -> dict[str, Topic]:
        found: dict[str, Topic] = {}
        for bag in self._bags:
            for name, topic in bag.topics.items():
                before = found[name].count if name in found else 0
                found[name] = Topic(topic.type, before + topic.count)
        return found

    def messages(self, topics: Collection[str]) -> Generator[RawMessage, None, None]:
        broken = self._broken
        for bag in self._bags:
            try:
                yield from bag.messages(topics)
            except SourceError as err:
                broken = broken or err
        if broken is not None:
            raise broken

    def close(self) -> None:
        self._opened.close()


def _broken(path: Path, delivered: int, err: Exception) -> SourceError:
    return SourceError(
        f"the recording '{path}' is damaged or breaks off",
        got=f"{str(err) or type(err).__name__} after {delivered} messages",
        cure="what could be read was delivered; was its recorder killed, or the copy cut short? "
        "mcap recover or ros2 bag reindex make it whole",
    )
