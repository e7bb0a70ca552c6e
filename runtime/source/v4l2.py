"""Depth from a V4L2 device.

OpenCV refuses a device that offers nothing but ``Z16``, the format of most depth cameras, so this
speaks to the kernel itself: memory-mapped streaming, as ``linux/videodev2.h`` of 64-bit Linux has
it.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import select
import struct
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np

from edge_fusion.errors import SourceError

from .capture import Still, check_device

#: Formats of depth, best first, and their bytes per pixel.
FORMATS = {"Z16 ": 2, "Y16 ": 2, "GREY": 1}

_BUFFERS = 4
_CAPTURE, _MMAP = 1, 1  # V4L2_BUF_TYPE_VIDEO_CAPTURE, V4L2_MEMORY_MMAP
_DAMAGED = 0x40  # V4L2_BUF_FLAG_ERROR
_WAIT_S = 0.25  # how soon a closed stream is noticed

_FORMAT = struct.Struct("=II12I152x")  # type, padding, v4l2_pix_format, rest of the union
_REQUEST = struct.Struct("=5I")  # count, type, memory, capabilities, flags
_BUFFER = struct.Struct("=5I4xqq16xIIQIII4x")
_INT = struct.Struct("=i")


def _code(direction: int, number: int, layout: struct.Struct) -> int:
    return direction << 30 | layout.size << 16 | ord("V") << 8 | number


_WRITE, _BOTH = 1, 3
_S_FMT = _code(_BOTH, 5, _FORMAT)
_REQBUFS = _code(_BOTH, 8, _REQUEST)
_QUERYBUF = _code(_BOTH, 9, _BUFFER)
_QBUF = _code(_BOTH, 15, _BUFFER)
_DQBUF = _code(_BOTH, 17, _BUFFER)
_STREAMON = _code(_WRITE, 18, _INT)
_STREAMOFF = _code(_WRITE, 19, _INT)


class DepthDevice:
    """A V4L2 device that sends 16-bit or 8-bit images of one channel.

    Args:
        device: Such as ``/dev/video2``.
        size: Width and height to ask for; None: what the device has.
        timeout_s: How long to wait for an image.

    Raises:
        SourceError: There is no such device, it is busy, or it sends no depth of this size.
    """

    def __init__(self, device: Path, size: tuple[int, int] | None, timeout_s: float) -> None:
        check_device(device, "depth")
        self._device, self._timeout_s = device, timeout_s
        self._heard = time.monotonic()
        self._latest: Still | None = None
        self._time_ns = 0
        self._maps: list[mmap.mmap] = []
        with ExitStack() as undo:
            try:
                self._fd = os.open(device, os.O_RDWR | os.O_NONBLOCK)
                undo.callback(os.close, self._fd)
                self._negotiate(size)
                undo.callback(self._unmap)
                self._start()
            except OSError as err:
                raise SourceError(
                    f"cannot open depth camera {device}",
                    got=err.strerror or str(err),
                    cure=f"who uses it? fuser {device}",
                ) from err
            self._undo = undo.pop_all()

    def grab(self) -> bool | None:
        """Wait a moment for the next image; None: none yet.

        False: none came for ``timeout_s``, or the device is gone.
        """
        try:
            if select.select([self._fd], [], [], min(_WAIT_S, self._timeout_s))[0]:
                self._take()
                self._heard = time.monotonic()
                return True
        except BlockingIOError:  # woken for nothing
            pass
        except OSError:  # unplugged
            return False
        return None if time.monotonic() - self._heard < self._timeout_s else False

    def retrieve(self) -> Still | None:
        """The image grabbed last: (H, W) uint16 or uint8."""
        return self._latest

    @property
    def time_ns(self) -> int:
        """The kernel's time of the image grabbed last."""
        return self._time_ns

    def release(self) -> None:
        """Stop the device and close it."""
        with suppress(OSError):  # it may have been unplugged
            self._ioctl(_STREAMOFF, _INT, _CAPTURE)
        self._undo.close()

    def _negotiate(self, size: tuple[int, int] | None) -> None:
        """Agree on a format; the driver answers with the nearest one it has."""
        width, height = size or (640, 480)
        offers = []
        for name in FORMATS:
            code = int.from_bytes(name.encode(), "little")
            pix = (width, height, code, 1, *(0,) * 8)  # 1: progressive
            _, _, *got = self._ioctl(_S_FMT, _FORMAT, _CAPTURE, 0, *pix)
            offers.append(f"{got[0]}x{got[1]} {got[2].to_bytes(4, 'little').decode('latin-1')!r}")
            if got[2] == code and (size is None or (got[0], got[1]) == size):
                self._width, self._height, self._stride = got[0], got[1], got[4]
                self._dtype = np.dtype(f"<u{FORMATS[name]}")
                return
        raise SourceError(
            f"{self._device} sends no depth",
            expected=" or ".join(FORMATS) + (f" of {width}x{height}" if size else ""),
            got=", ".join(sorted(set(offers))),
            cure=f"choose the device and size: v4l2-ctl --device {self._device} --list-formats-ext",
        )

    def _start(self) -> None:
        count, *_ = self._ioctl(_REQBUFS, _REQUEST, _BUFFERS, _CAPTURE, _MMAP, 0, 0)
        for index in range(count):
            buffer = self._ioctl(_QUERYBUF, _BUFFER, *self._buffer(index))
            offset, length = buffer[9] & 0xFFFFFFFF, buffer[10]
            self._maps.append(
                mmap.mmap(self._fd, length, mmap.MAP_SHARED, mmap.PROT_READ, offset=offset)
            )
            self._ioctl(_QBUF, _BUFFER, *self._buffer(index))
        self._ioctl(_STREAMON, _INT, _CAPTURE)

    def _take(self) -> None:
        """Copy the oldest image that is ready, and give its buffer back to the driver."""
        index, _, used, flags, _, seconds, microseconds, *_ = self._ioctl(
            _DQBUF, _BUFFER, *self._buffer(0)
        )
        self._time_ns = seconds * 1_000_000_000 + microseconds * 1000
        whole = not flags & _DAMAGED and used >= self._stride * self._height
        self._latest = Still(self._copy(index), "grey") if whole else None
        self._ioctl(_QBUF, _BUFFER, *self._buffer(index))

    def _copy(self, index: int) -> np.ndarray[tuple[int, int], np.dtype[np.uint16 | np.uint8]]:
        lines = np.frombuffer(self._maps[index], np.uint8, self._stride * self._height)
        row_bytes = self._width * self._dtype.itemsize
        visible = lines.reshape(self._height, self._stride)[:, :row_bytes]
        return np.array(visible).view(self._dtype)  # a copy: the driver writes the next one there

    def _buffer(self, index: int) -> tuple[int, ...]:
        """The fields of ``v4l2_buffer`` that name a buffer."""
        return (index, _CAPTURE, 0, 0, 0, 0, 0, 0, _MMAP, 0, 0, 0, 0)

    def _ioctl(self, request: int, layout: struct.Struct, *values: int) -> tuple[int, ...]:
        """Ask the kernel; the record as it filled it in."""
        record = bytearray(layout.pack(*values))
        fcntl.ioctl(self._fd, request, record)
        return layout.unpack(record)

    def _unmap(self) -> None:
        for one in self._maps:
            one.close()
