"""A recording of what went in and came out, as robots record: MCAP with ROS 2 messages."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from mcap.writer import CompressionType, Writer
from numpy.typing import NDArray
from rosbags.typesys import Stores, get_typestore

from edge_fusion.errors import OutputError
from edge_fusion.files import partial_name, writing
from edge_fusion.frame import RgbdFrame

from ..ledger import FrameRecord
from ..ros import fields as ros
from ..ros.camera import CAMERA_INFO
from ..ros.images import COMPRESSED, IMAGE

#: Kept free, so that a recording that fills the disk can be finished: the index goes to its end.
RESERVE_BYTES = 8 * 2**20
CHUNK_BYTES = 2 * 2**20

_INDEX_SHARE = 1000  # the index takes less than a thousandth of what it points to
_STEP_BYTES = 16 * 2**20  # asked of the disk at a time
_LONGEST_STEP_NS = 1_000_000_000  # a longer one is a jump, and tells nothing of what follows
_WHAT = "the recording"

_TYPES = {
    ros.COLOR_TOPIC: IMAGE,
    ros.INFO_TOPIC: CAMERA_INFO,
    ros.DEPTH_TOPIC: IMAGE,
    ros.RELATIVE_TOPIC: IMAGE,
    ros.DEPTH_SPEC_TOPIC: ros.STRING,
    ros.SALIENCY_TOPIC: IMAGE,
    ros.OVERLAY_TOPIC: COMPRESSED,
    ros.RECORD_TOPIC: ros.STRING,
}


class McapRecording:
    """Writes each frame's colour, depth, camera, saliency, overlay and record to one MCAP file.

    The topics lie under ``/edge_fusion/``; ``rosbag://`` plays the file again, with the frames it
    was made of, and so do ``ros2 bag play`` and robot viewers.  Colour and depth are stored as they
    are, saliency in 8 bits.  Stamps always grow, so that it plays in the order of writing: from
    where the source's time jumps back, as at the end of a loop, or is none that ROS has, they go
    on; the record keeps the source's own.

    The file grows hidden beside its destination and takes the name, and the place of an older file,
    only when it is finished.  Its space is taken from the disk before it is written to, so that a
    full disk ends it in time to be finished.

    Args:
        path: Ends with ``.mcap``.
        fps: Frame rate that stamps the frames of a source without timestamps.

    Raises:
        OutputError: The folder is missing or cannot be written to, or the disk is nearly full.
    """

    def __init__(self, path: Path, fps: float) -> None:
        if path.is_dir():
            raise OutputError(f"'{path}' is a folder", cure="name a file for the recording in it")
        self._path, self._fps = path, fps
        self._partial = partial_name(path)
        self._channels: dict[str, int] = {}
        self._frames = 0
        self._clock = _Clock(round(1e9 / fps))
        self._damaged = False
        with writing(_WHAT, path):
            self._file = _ReservedFile(self._partial)
        try:
            with writing(_WHAT, path):
                self._file.reserve(CHUNK_BYTES)
        except OutputError:
            self._file.close()
            self._partial.unlink(missing_ok=True)
            raise
        self._writer: Writer | None = Writer(
            self._file,  # type: ignore[arg-type]  # it needs write, tell and flush
            chunk_size=CHUNK_BYTES,
            compression=CompressionType.LZ4,  # a third to half smaller for nearly no time
        )
        self._writer.start(profile="ros2", library="edge-fusion")

    @property
    def destination(self) -> str:
        """The recording's path."""
        return str(self._path)

    def write(self, frame: RgbdFrame, saliency: NDArray[np.float32], record: FrameRecord) -> None:
        """Append one frame.

        Raises:
            OutputError: The disk is full or failed; what was written before is finished by
                ``close``.
        """
        assert self._writer is not None, "written to after close"
        stamp_ns = self._clock.growing_ns(ros.frame_stamp_ns(frame, self._fps))
        messages = [
            (topic, _serialised(topic, content))
            for topic, content in _contents(frame, saliency, record, stamp_ns)
        ]
        size = sum(len(raw) + 64 for _, raw in messages)
        with writing(_WHAT, self._path):
            self._file.reserve(CHUNK_BYTES + size + size // 100)
            self._damaged = True  # until all of it is in
            for topic, raw in messages:
                self._writer.add_message(
                    self._channel(topic),
                    log_time=stamp_ns,
                    data=raw,
                    publish_time=stamp_ns,
                    sequence=self._frames,
                )
            self._damaged = False
        self._frames += 1

    def close(self) -> None:
        """Finish the recording and give it its name; without frames leave nothing."""
        writer, self._writer = self._writer, None
        if writer is None:
            return
        try:
            with writing(_WHAT, self._path):
                if self._frames and not self._damaged:
                    writer.finish()  # type: ignore[no-untyped-call]
                    self._file.seal()
                    self._partial.replace(self._path)
        finally:
            self._file.close()
            self._partial.unlink(missing_ok=True)

    def _channel(self, topic: str) -> int:
        if topic not in self._channels:
            assert self._writer is not None
            text, digest = _definition(_TYPES[topic])
            schema = self._writer.register_schema(_TYPES[topic], "ros2msg", text.encode())
            self._channels[topic] = self._writer.register_channel(
                topic, "cdr", schema, {"topic_type_hash": digest}
            )
        return self._channels[topic]


def _contents(
    frame: RgbdFrame, saliency: NDArray[np.float32], record: FrameRecord, stamp_ns: int
) -> list[tuple[str, ros.Fields]]:
    """Topics and fields of one frame's messages."""
    header = ros.frame_header(frame, stamp_ns)
    found = [
        (ros.COLOR_TOPIC, ros.color_fields(frame, header)),
        ros.depth_fields(frame, header),
        (ros.SALIENCY_TOPIC, ros.saliency_fields(saliency, header)),
        (ros.OVERLAY_TOPIC, ros.overlay_fields(frame, saliency, header)),
        (ros.RECORD_TOPIC, ros.record_fields(record)),
    ]
    if not frame.depth_spec.metric:
        found.append((ros.DEPTH_SPEC_TOPIC, ros.depth_spec_fields(frame.depth_spec)))
    if frame.intrinsics is not None:
        size = (frame.rgb.shape[0], frame.rgb.shape[1])
        info = ros.camera_info_fields(frame.intrinsics, size, header)
        found.append((ros.INFO_TOPIC, info))
    return found


class _Clock:
    """Stamps that always grow: one that does not is moved behind the last, and so is the rest.

    So is one that no message can bear, of a camera whose clock went wrong.
    """

    def __init__(self, step_ns: int) -> None:
        self._step_ns = step_ns
        self._offset_ns = 0
        self._last_ns: int | None = None

    def growing_ns(self, stamp_ns: int) -> int:
        last_ns, now_ns = self._last_ns, stamp_ns + self._offset_ns
        if last_ns is not None and last_ns < now_ns and ros.is_ros_time(now_ns):
            self._step_ns = min(now_ns - last_ns, _LONGEST_STEP_NS)
        elif last_ns is not None or not ros.is_ros_time(now_ns):
            now_ns = 0 if last_ns is None else last_ns + self._step_ns
            self._offset_ns = now_ns - stamp_ns
        self._last_ns = now_ns
        return now_ns


class _ReservedFile:
    """A file whose space is the disk's own promise: what was reserved can be written."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._written = self._held = 0

    def reserve(self, count: int) -> None:
        """Hold room for so many bytes and for what finishes the file.

        Raises:
            OSError: The disk, a quota or a limit on file sizes does not give it.
        """
        needed = self._written + count + RESERVE_BYTES + self._written // _INDEX_SHARE
        if needed <= self._held:
            return
        try:
            os.posix_fallocate(self._file.fileno(), 0, needed + _STEP_BYTES)
            self._held = needed + _STEP_BYTES
        except OSError:
            os.posix_fallocate(self._file.fileno(), 0, needed)
            self._held = needed

    def write(self, data: bytes) -> int:
        """Append; all of it or an OSError."""
        self._written += len(data)
        return self._file.write(data)

    def tell(self) -> int:
        """How much was written."""
        return self._written

    def flush(self) -> None:
        """Hand to the system what was written."""
        self._file.flush()

    def seal(self) -> None:
        """Give back what was held in vain, and wait until the disk has the rest."""
        self._file.flush()
        self._file.truncate(self._written)
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file, as it is."""
        self._file.close()


@cache
def _typestore() -> Any:
    return get_typestore(Stores.ROS2_HUMBLE)


def _serialised(topic: str, content: ros.Fields) -> bytes:
    store, msgtype = _typestore(), _TYPES[topic]
    message = ros.message_from_fields(store.types, msgtype, content)
    return bytes(store.serialize_cdr(message, msgtype))


@cache
def _definition(msgtype: str) -> tuple[str, str]:
    """A message type's definition and its hash, as a recorder of ROS 2 stores them."""
    text, _ = _typestore().generate_msgdef(msgtype, ros_version=2)
    return str(text), str(_typestore().hash_rihs01(msgtype))
