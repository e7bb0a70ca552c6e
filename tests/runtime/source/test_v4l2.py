"""Depth from V4L2, against a kernel that the test plays."""

from __future__ import annotations

import errno
import fcntl
import mmap
import select
import shutil
import subprocess
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_fusion.errors import SourceError
from edge_fusion.runtime.source import v4l2
from edge_fusion.runtime.source.v4l2 import DepthDevice

DEVICE = Path("/dev/null")  # a character device that may be opened
PAGE = mmap.PAGESIZE


class Kernel:
    """A driver with one format and one size, and buffers that the test fills."""

    def __init__(self, fourcc: str = "Z16 ", size: tuple[int, int] = (8, 6), pad: int = 0) -> None:
        self.fourcc, self.size = fourcc, size
        self.stride = size[0] * v4l2.FORMATS.get(fourcc, 2) + pad
        self.calls: list[int] = []
        self.queued: deque[int] = deque()
        self.ready: deque[tuple[int, int, int]] = deque()  # index, bytes used, flags
        self.buffers: list[bytearray] = []
        self.fails: dict[int, int] = {}  # request -> errno
        self.sent = 0

    def ioctl(self, fd: int, request: int, record: bytearray) -> int:
        self.calls.append(request)
        if request in self.fails:
            raise OSError(self.fails[request], "made to fail")
        handlers: dict[int, Callable[[bytearray], None]] = {
            v4l2._S_FMT: self._format,
            v4l2._REQBUFS: lambda record: None,
            v4l2._QUERYBUF: self._query,
            v4l2._QBUF: lambda record: self.queued.append(v4l2._BUFFER.unpack(record)[0]),
            v4l2._DQBUF: self._dequeue,
            v4l2._STREAMON: lambda record: None,
            v4l2._STREAMOFF: lambda record: None,
        }
        handlers[request](record)
        return 0

    def send(self, image: NDArray[Any], *, used: int | None = None, flags: int = 0) -> None:
        index = self.queued.popleft()
        lines = np.zeros((image.shape[0], self.stride), np.uint8)
        lines[:, : image.shape[1] * image.itemsize] = image.view(np.uint8)
        self.buffers[index][: lines.size] = lines.tobytes()
        self.ready.append((index, lines.size if used is None else used, flags))

    def select(self, reading: list[int], *_: Any) -> tuple[list[int], list[int], list[int]]:
        if not self.ready:
            time.sleep(0.01)
        return (reading if self.ready else []), [], []

    def map(self, fd: int, length: int, *_: Any, offset: int) -> bytearray:
        assert offset == len(self.buffers) * PAGE
        self.buffers.append(_Map(length))
        return self.buffers[-1]

    def _format(self, record: bytearray) -> None:
        fields = list(v4l2._FORMAT.unpack(record))
        fields[2:5] = *self.size, int.from_bytes(self.fourcc.encode(), "little")
        fields[6] = self.stride
        v4l2._FORMAT.pack_into(record, 0, *fields)

    def _query(self, record: bytearray) -> None:
        fields = list(v4l2._BUFFER.unpack(record))
        fields[9], fields[10] = fields[0] * PAGE, PAGE
        v4l2._BUFFER.pack_into(record, 0, *fields)

    def _dequeue(self, record: bytearray) -> None:
        index, used, flags = self.ready.popleft()
        self.sent += 1
        fields = (index, 1, used, flags, 1, 12, self.sent, self.sent, 1, 0, PAGE, 0, 0)
        v4l2._BUFFER.pack_into(record, 0, *fields)


class _Map(bytearray):
    def close(self) -> None:
        self.clear()


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Kernel]:
    def play(**options: Any) -> Kernel:
        kernel = Kernel(**options)
        monkeypatch.setattr(fcntl, "ioctl", kernel.ioctl)
        monkeypatch.setattr(mmap, "mmap", kernel.map)
        monkeypatch.setattr(select, "select", kernel.select)
        return kernel

    return play


Play = Callable[..., Kernel]


def image(number: int, dtype: Any = np.uint16) -> NDArray[Any]:
    return (np.arange(48).reshape(6, 8) + 100 * number).astype(dtype)


@pytest.mark.parametrize(
    ("fourcc", "dtype", "pad"),
    [("Z16 ", np.uint16, 0), ("Y16 ", np.uint16, 16), ("GREY", np.uint8, 8)],
)
def test_images_come_back_exactly(play: Play, fourcc: str, dtype: Any, pad: int) -> None:
    kernel = play(fourcc=fourcc, pad=pad)
    device = DepthDevice(DEVICE, None, 1.0)
    taken = []
    for number in range(10):  # more than there are buffers
        kernel.send(image(number, dtype))
        assert device.grab()
        still = device.retrieve()
        assert still is not None
        assert still.layout == "grey"
        assert device.time_ns == 12 * 10**9 + (number + 1) * 1000
        taken.append(still.depth("it"))
    for number, depth in enumerate(taken):  # copies: the driver has written over its buffers
        assert depth.dtype == dtype
        np.testing.assert_array_equal(depth, image(number, dtype))
    device.release()
    assert kernel.calls[-1] == v4l2._STREAMOFF


def test_a_damaged_image_is_left_out(play: Play) -> None:
    kernel = play()
    device = DepthDevice(DEVICE, None, 1.0)
    kernel.send(image(0), flags=0x40)
    kernel.send(image(1), used=10)
    kernel.send(image(2))
    stills = [device.retrieve() for _ in range(3) if device.grab()]
    assert [still is None for still in stills] == [True, True, False]
    assert len(kernel.queued) == 4  # the driver has all its buffers back
    device.release()


def test_silence_ends_within_the_timeout(play: Play) -> None:
    play()
    device = DepthDevice(DEVICE, None, 0.1)
    began = time.monotonic()
    while (grabbed := device.grab()) is None:
        pass
    assert grabbed is False
    assert 0.1 <= time.monotonic() - began < 1
    device.release()


def test_a_device_with_nothing_yet_is_left_within_a_moment(play: Play) -> None:
    play()
    device = DepthDevice(DEVICE, None, 30.0)
    began = time.monotonic()
    assert device.grab() is None
    assert time.monotonic() - began < 2 * v4l2._WAIT_S
    device.release()


def test_a_device_that_is_unplugged(play: Play) -> None:
    kernel = play()
    device = DepthDevice(DEVICE, None, 5.0)
    kernel.send(image(0))
    kernel.fails = {v4l2._DQBUF: errno.ENODEV, v4l2._STREAMOFF: errno.ENODEV}
    assert not device.grab()
    device.release()


def test_woken_for_nothing_it_waits_on(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = play()
    device = DepthDevice(DEVICE, None, 1.0)
    kernel.send(image(0))
    kernel.fails = {v4l2._DQBUF: errno.EAGAIN}
    waits = kernel.select

    def select_twice(*args: Any) -> Any:
        if len([call for call in kernel.calls if call == v4l2._DQBUF]) > 1:
            kernel.fails = {}
        return waits(*args)

    monkeypatch.setattr(select, "select", select_twice)
    grabbed = [device.grab() for _ in range(3)]
    assert grabbed == [None, None, True]
    device.release()


def test_the_size_that_is_asked_for(play: Play) -> None:
    play(size=(8, 6))
    DepthDevice(DEVICE, (8, 6), 1.0).release()
    with pytest.raises(SourceError, match="sends no depth: expected .* of 16x12, got 8x6 'Z16 '"):
        DepthDevice(DEVICE, (16, 12), 1.0)


def test_a_device_that_sends_colour(play: Play) -> None:
    play(fourcc="YUYV")
    with pytest.raises(SourceError, match="got 8x6 'YUYV'; choose the device and size: v4l2-ctl"):
        DepthDevice(DEVICE, None, 1.0)


@pytest.mark.parametrize(
    ("request_", "problem"), [("_S_FMT", "EBUSY"), ("_REQBUFS", "ENOMEM"), ("_STREAMON", "EIO")]
)
def test_a_device_that_refuses(play: Play, request_: str, problem: str) -> None:
    kernel = play()
    kernel.fails = {getattr(v4l2, request_): getattr(errno, problem)}
    with pytest.raises(SourceError, match=f"cannot open depth camera {DEVICE}.*fuser"):
        DepthDevice(DEVICE, None, 1.0)
    assert not any(kernel.buffers)  # unmapped


def test_no_device() -> None:
    with pytest.raises(SourceError, match="no depth camera at /dev/video97") as caught:
        DepthDevice(Path("/dev/video97"), None, 1.0)
    assert "--device" in str(caught.value)


def test_a_file_is_no_device(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="expected a V4L2 device"):
        DepthDevice(tmp_path, None, 1.0)


HEADER = """
#include <linux/videodev2.h>
#include <stdio.h>
#include <stddef.h>
#define AT(member) (unsigned long)offsetof(struct v4l2_buffer, member)
int main(void) {
    printf("%lu %lu %lu %lu %lu %lu %lu", (unsigned long)VIDIOC_S_FMT,
           (unsigned long)VIDIOC_REQBUFS, (unsigned long)VIDIOC_QUERYBUF,
           (unsigned long)VIDIOC_QBUF, (unsigned long)VIDIOC_DQBUF,
           (unsigned long)VIDIOC_STREAMON, (unsigned long)VIDIOC_STREAMOFF);
    printf(" %lu %lu %lu %lu %lu %lu", AT(timestamp), AT(timecode), AT(sequence), AT(memory),
           AT(m), AT(length));
    printf(" %lu", (unsigned long)offsetof(struct v4l2_format, fmt.pix.bytesperline));
    return 0;
}
"""


def test_records_are_those_of_the_kernel(tmp_path: Path) -> None:
    compiler = shutil.which("cc")
    if compiler is None or not Path("/usr/include/linux/videodev2.h").exists():
        pytest.skip("needs a C compiler and linux/videodev2.h")
    (tmp_path / "it.c").write_text(HEADER)
    subprocess.run([compiler, "it.c", "-o", "it"], cwd=tmp_path, check=True)
    answer = subprocess.run([tmp_path / "it"], capture_output=True, text=True, check=True)
    requests = [v4l2._S_FMT, v4l2._REQBUFS, v4l2._QUERYBUF, v4l2._QBUF, v4l2._DQBUF]
    requests += [v4l2._STREAMON, v4l2._STREAMOFF]
    record = v4l2._BUFFER.pack(0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 0, 0)
    words = [record.index(value.to_bytes(4, "little")) for value in range(1, 7)]
    seconds, _, sequence, memory, m, length = words
    pix = v4l2._FORMAT.pack(*(0,) * 6, 7, *(0,) * 7)
    expected = [*requests, seconds, seconds + 16, sequence, memory, m, length, pix.index(7)]
    assert [int(number) for number in answer.stdout.split()] == expected
