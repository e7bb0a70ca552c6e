from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("rosbags")
pytest.importorskip("mcap")

from rosbags.highlevel import AnyReader

from edge_fusion.errors import OutputError, SourceError
from edge_fusion.frame import Intrinsics, RgbdFrame
from edge_fusion.runtime.ros import fields as ros
from edge_fusion.runtime.sink import mcap
from edge_fusion.runtime.sink.mcap import McapRecording
from edge_fusion.runtime.source.demo import DemoSource
from edge_fusion.runtime.source.uri import open_source
from edge_fusion.spec import DepthSpec
from tests.fakes import bags

MakeResult = Callable[..., Any]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def messages(path: Path) -> dict[str, list[Any]]:
    """Everything in a file by topic, read with the definitions that the file itself holds."""
    found: dict[str, list[Any]] = {}
    with AnyReader([path]) as reader:
        for connection, logged_ns, raw in reader.messages():
            message = reader.deserialize(raw, connection.msgtype)
            if hasattr(message, "header"):
                stamp = message.header.stamp
                assert stamp.sec * 1_000_000_000 + stamp.nanosec == logged_ns
            found.setdefault(connection.topic, []).append(message)
    return found


def test_other_tools_find_every_message_by_its_definition(
    tmp_path: Path, result: MakeResult
) -> None:
    path = tmp_path / "out.mcap"
    sink = McapRecording(path, 10.0)
    assert sink.destination == str(path)
    written = [result(number) for number in range(3)]
    for frame, saliency, record in written:
        sink.write(replace(frame, intrinsics=Intrinsics(60, 61, 32, 24)), saliency, record)
    assert [name for name in names(tmp_path) if not name.startswith(".")] == []
    sink.close()
    sink.close()
    assert names(tmp_path) == ["out.mcap"]
    found = messages(path)
    assert {topic: len(listed) for topic, listed in found.items()} == dict.fromkeys(
        (
            ros.COLOR_TOPIC,
            ros.INFO_TOPIC,
            ros.DEPTH_TOPIC,
            ros.SALIENCY_TOPIC,
            ros.OVERLAY_TOPIC,
            ros.RECORD_TOPIC,
        ),
        3,
    )
    for number, (frame, saliency, record) in enumerate(written):
        color, mask = found[ros.COLOR_TOPIC][number], found[ros.SALIENCY_TOPIC][number]
        assert color.encoding == "rgb8"
        assert color.data.tobytes() == frame.rgb.tobytes()
        assert color.header.frame_id == mask.header.frame_id == ros.FRAME_ID
        # No timestamp: stamped by the number, ten a second.
        assert color.header.stamp.nanosec == number * 100_000_000
        assert mask.encoding == "mono8"
        assert mask.data.tobytes() == (saliency * 255).astype(np.uint8).tobytes()
        depth = found[ros.DEPTH_TOPIC][number]
        assert depth.encoding == "16UC1"
        assert depth.data.tobytes() == frame.depth.tobytes()
        assert found[ros.INFO_TOPIC][number].k[[0, 4, 2, 5]].tolist() == [60, 61, 32, 24]
        overlay = found[ros.OVERLAY_TOPIC][number]
        assert cv2.imdecode(overlay.data, cv2.IMREAD_UNCHANGED).shape == (48, 64, 3)
        assert json.loads(found[ros.RECORD_TOPIC][number].data) == asdict(record)


@pytest.mark.parametrize("unit", ["millimetres", "metres"])
def test_a_recording_plays_again_without_naming_a_topic(
    tmp_path: Path, result: MakeResult, unit: str
) -> None:
    frames = list(DemoSource(frames=5, width=64, height=48).frames())
    if unit == "metres":
        spec = DepthSpec(scale_to_m=1.0)
        frames = [replace(frame, depth=in_metres(frame), depth_spec=spec) for frame in frames]
    frames = [replace(frame, timestamp_ns=bags.stamp_of(frame.number)) for frame in frames]
    sink = McapRecording(tmp_path / "out.mcap", 30.0)
    for frame in frames:
        sink.write(frame, result(0)[1], result(0)[2])
    sink.close()
    replayed = list(open_source(f"rosbag://{tmp_path}/out.mcap").frames())
    assert bags.same_frames(frames, replayed) == 5
    assert [frame.timestamp_ns for frame in replayed] == [frame.timestamp_ns for frame in frames]


def in_metres(frame: RgbdFrame) -> Any:
    return np.where(frame.depth > 0, frame.depth * np.float32(0.001), np.float32(np.nan))


def test_relative_depth_is_not_taken_for_metres(tmp_path: Path, result: MakeResult) -> None:
    frame, saliency, record = result()
    near = np.full((48, 64), 80, np.uint8)
    relative = DepthSpec(scale_to_m=None, larger_is="nearer")
    sink = McapRecording(tmp_path / "out.mcap", 30.0)
    sink.write(replace(frame, depth=near, depth_spec=relative), saliency, record)
    sink.close()
    found = messages(tmp_path / "out.mcap")
    assert ros.DEPTH_TOPIC not in found
    assert found[ros.RELATIVE_TOPIC][0].encoding == "mono8"
    assert DepthSpec.model_validate_json(found[ros.DEPTH_SPEC_TOPIC][0].data) == relative


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("larger_is", ["nearer", "farther"])
@pytest.mark.parametrize("invalid", [None, 0.0, 7.0])
def test_relative_depth_plays_again_as_what_it_was(
    tmp_path: Path, result: MakeResult, dtype: Any, larger_is: Any, invalid: float | None
) -> None:
    spec = DepthSpec(scale_to_m=None, larger_is=larger_is, invalid=invalid)
    frames = [
        replace(frame, depth=(frame.depth // 64).astype(dtype), depth_spec=spec, intrinsics=None)
        for frame in DemoSource(frames=3, width=64, height=48).frames()
    ]
    record(tmp_path / "out.mcap", frames, result)
    again = open_source(f"rosbag://{tmp_path}/out.mcap")
    assert bags.same_frames(frames, again.frames()) == 3


@pytest.mark.parametrize("spec", [None, b"{"], ids=["none", "damaged"])
def test_relative_depth_of_which_nothing_is_told_is_no_distance(
    tmp_path: Path, result: MakeResult, spec: bytes | None
) -> None:
    frame = result()[0]
    depth = frame.depth.astype(np.float32)
    entries = list(
        bags.camera_entries(
            [replace(frame, depth=depth)] * 2, depth=ros.RELATIVE_TOPIC, encoding="32FC1"
        )
    )
    if spec:
        text = (ros.DEPTH_SPEC_TOPIC, ros.STRING, bags.START_NS, {"data": spec.decode()})
        entries.insert(0, text)
    uri = f"rosbag://{bags.write_bag(tmp_path / 'bag', entries)}"
    with pytest.raises(SourceError, match="relative depth without a polarity.*larger_is=nearer"):
        open_source(uri)
    again = next(open_source(f"{uri}?unit=relative&larger_is=nearer").frames())
    assert again.depth_spec == DepthSpec(scale_to_m=None, larger_is="nearer")


def record(path: Path, frames: list[RgbdFrame], result: MakeResult) -> None:
    sink = McapRecording(path, 30.0)
    for frame in frames:
        _, saliency, told = result(frame.number)
        sink.write(frame, saliency, replace(told, timestamp_ns=frame.timestamp_ns))
    sink.close()


LOOPED_MS = [100, 133, 166, 100, 133, 166, 100]


def test_a_loop_plays_again_in_the_order_of_writing(tmp_path: Path, result: MakeResult) -> None:
    drawn = list(DemoSource(frames=len(LOOPED_MS), width=64, height=48).frames())
    frames = [
        replace(frame, timestamp_ns=ms * 1_000_000)
        for frame, ms in zip(drawn, LOOPED_MS, strict=True)
    ]
    record(tmp_path / "out.mcap", frames, result)
    again = list(open_source(f"rosbag://{tmp_path}/out.mcap").frames())
    assert bags.same_frames(frames, again) == len(LOOPED_MS)
    stamps = [frame.timestamp_ns // 1_000_000 for frame in again]
    assert stamps == [100, 133, 166, 199, 232, 265, 298]
    told = [json.loads(one.data) for one in messages(tmp_path / "out.mcap")[ros.RECORD_TOPIC]]
    assert [one["timestamp_ns"] // 1_000_000 for one in told] == LOOPED_MS  # the device's own


LATE_NS = 2_000_000_000 * 10**9  # in the year 2033
GONE_WRONG_NS: list[tuple[list[int], list[int]]] = [
    # What a camera's clock said, and the stamps in the recording: they grow, one step at a time.
    ([100, 133, 2**63, 166, 199], [100, 133, 166, 199, 232]),  # later than ROS can tell
    ([2**31 * 10**9, 2**31 * 10**9 + 33, 7], [0, 33, 66]),
    ([-50, -20, 10], [0, 30, 60]),
    # A jump ahead is kept, and the step back after it is none of that length.
    ([100, LATE_NS, 133, 166], [100, LATE_NS, LATE_NS + 10**9, LATE_NS + 10**9 + 33]),
]


@pytest.mark.parametrize(("told_ns", "recorded_ns"), GONE_WRONG_NS)
def test_a_clock_that_goes_wrong_does_not_end_the_recording(
    tmp_path: Path, result: MakeResult, told_ns: list[int], recorded_ns: list[int]
) -> None:
    frame, saliency, told = result()
    sink = McapRecording(tmp_path / "out.mcap", 30.0)
    for stamp_ns in told_ns:
        sink.write(replace(frame, timestamp_ns=stamp_ns), saliency, told)
    sink.close()
    found = messages(tmp_path / "out.mcap")[ros.COLOR_TOPIC]
    assert [one.header.stamp.sec * 10**9 + one.header.stamp.nanosec for one in found] == recorded_ns


def test_an_older_file_stays_until_the_new_one_is_finished(
    tmp_path: Path, result: MakeResult
) -> None:
    path = tmp_path / "out.mcap"
    path.write_bytes(b"older")
    sink = McapRecording(path, 30.0)
    sink.write(*result())
    assert path.read_bytes() == b"older"
    sink.close()
    assert len(messages(path)[ros.COLOR_TOPIC]) == 1


def test_without_frames_nothing_is_left(tmp_path: Path) -> None:
    McapRecording(tmp_path / "out.mcap", 30.0).close()
    assert names(tmp_path) == []


def test_a_place_that_cannot_be_written_is_refused_before_any_frame(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot write the recording .*create its folder first"):
        McapRecording(tmp_path / "no" / "out.mcap", 30.0)
    (tmp_path / "taken.mcap").mkdir()
    with pytest.raises(OutputError, match="is a folder; name a file"):
        McapRecording(tmp_path / "taken.mcap", 30.0)
    assert names(tmp_path) == ["taken.mcap"]


@pytest.fixture
def small_disk(disk_of: Callable[[int], Path]) -> Path:
    """A real disk with room for the reserve and a few frames."""
    return disk_of(20)


def noise(result: MakeResult, number: int) -> Any:
    frame, saliency, record = result(number, size=(240, 320))
    rng = np.random.default_rng(number)
    rgb = rng.integers(0, 256, frame.rgb.shape, np.uint8)  # does not compress
    return replace(frame, rgb=rgb), saliency, record


def test_a_disk_that_fills_up_ends_the_recording_in_time(
    small_disk: Path, result: MakeResult
) -> None:
    path = small_disk / "out.mcap"
    sink = McapRecording(path, 30.0)
    written = 0
    with pytest.raises(OutputError, match="cannot write the recording .*the disk is full"):
        while True:
            sink.write(*noise(result, written))
            written += 1
    (small_disk / "last").write_bytes(b"x")  # the rest of the disk may be taken meanwhile
    sink.close()
    assert names(small_disk) == ["last", "out.mcap"]
    assert len(messages(path)[ros.COLOR_TOPIC]) == written > 10


def test_a_disk_that_is_full_is_refused_at_the_door(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mcap, "RESERVE_BYTES", 2**30)
    with pytest.raises(OutputError, match="the disk is full"):
        McapRecording(small_disk / "out.mcap", 30.0)
    assert names(small_disk) == []


LIMITED_SCRIPT = """
import resource, sys
from pathlib import Path
import numpy as np
from edge_fusion.errors import OutputError
from edge_fusion.frame import RgbdFrame
from edge_fusion.runtime.ledger import FrameRecord
from edge_fusion.runtime.sink.mcap import McapRecording
from edge_fusion.spec import DepthSpec

limit = int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
rng = np.random.default_rng(0)
sink = McapRecording(Path(sys.argv[1]), 30.0)
try:
    for number in range(10_000):
        rgb = rng.integers(0, 256, (240, 320, 3), np.uint8)
        depth = np.full((240, 320), 800, np.uint16)
        frame = RgbdFrame(rgb, depth, DepthSpec(scale_to_m=0.001), f"f{number}", number)
        record = FrameRecord(number, "f", *(0.0,) * 7, 0, 0.0, 1, 0)
        sink.write(frame, np.zeros((240, 320), np.float32), record)
        print(number, flush=True)
except OutputError as err:
    print(err, file=sys.stderr)
sink.close()
"""


def test_a_limit_on_file_sizes_ends_the_recording_in_time(tmp_path: Path) -> None:
    path = tmp_path / "out.mcap"
    done = subprocess.run(
        [sys.executable, "-c", LIMITED_SCRIPT, str(path), str(16 * 2**20)],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert "exceed the allowed size" in done.stderr
    assert names(tmp_path) == ["out.mcap"]
    frames = len(done.stdout.split())
    assert len(messages(path)[ros.COLOR_TOPIC]) == frames > 10


def test_a_kill_leaves_no_file_and_what_was_written_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "out.mcap"
    with subprocess.Popen(
        [sys.executable, "-c", LIMITED_SCRIPT, str(path), str(2**34)], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        while int(process.stdout.readline()) < 30:
            pass
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    assert not path.exists()
    (partial,) = tmp_path.iterdir()
    assert partial.name.startswith(".out.partial-")
    frames = []
    with pytest.raises(SourceError, match="is damaged or breaks off"):
        for frame in open_source(f"rosbag://{partial}").frames():
            frames.append(frame)
    assert len(frames) > 20


def test_writing_is_quick(tmp_path: Path, result: MakeResult) -> None:
    """About 8 ms a frame at 640x480 on a desktop: most of it the overlay and its JPEG."""
    sink = McapRecording(tmp_path / "out.mcap", 30.0)
    frame, saliency, record = result(size=(480, 640))
    started = time.process_time()
    for _ in range(20):
        sink.write(frame, saliency, record)
    assert (time.process_time() - started) / 20 < 0.1
    sink.close()
