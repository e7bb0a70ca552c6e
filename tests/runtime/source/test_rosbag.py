from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rosbags")
pytest.importorskip("mcap")

from edge_fusion.bundle import Bundle
from edge_fusion.errors import FrameError, SourceError
from edge_fusion.frame import Intrinsics, RgbdFrame
from edge_fusion.preprocess import prepare, saliency_map
from edge_fusion.runtime.ledger import FrameRecord
from edge_fusion.runtime.ros.camera import CAMERA_INFO
from edge_fusion.runtime.ros.fields import header_fields, image_fields
from edge_fusion.runtime.ros.images import COMPRESSED, IMAGE
from edge_fusion.runtime.session import open_session
from edge_fusion.runtime.sink.mcap import McapRecording
from edge_fusion.runtime.source.base import ArrivingSource, CountingSource
from edge_fusion.runtime.source.demo import DemoSource
from edge_fusion.runtime.source.folder import FolderSource
from edge_fusion.runtime.source.rosbag import UNREADABLE, RosbagSource
from edge_fusion.runtime.source.uri import open_source
from edge_fusion.spec import DepthSpec
from tests.fakes import bags

STORAGES = ("sqlite3", "mcap")
DEPTH_RAW = "/camera/depth/image_raw"


@pytest.fixture(scope="module")
def scene() -> list[RgbdFrame]:
    """Frames of a small drawn world: millimetres in 16 bits, with a camera."""
    return list(DemoSource(frames=6, width=64, height=48).frames())


def storage_file(folder: Path) -> Path:
    (found,) = (file for file in folder.iterdir() if file.suffix in (".db3", ".mcap"))
    return found


def ids(frames: Iterable[RgbdFrame]) -> list[int]:
    return [frame.timestamp_ns for frame in frames]


def opened(path: Path, query: str = "") -> RosbagSource:
    source = open_source(f"rosbag://{path}{query}")
    assert isinstance(source, RosbagSource)
    return source


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("form", ["folder", "single file", "without metadata.yaml"])
def test_a_recording_gives_the_frames_it_was_made_of(
    tmp_path: Path, scene: list[RgbdFrame], storage: str, form: str
) -> None:
    path = bags.write_bag(tmp_path / "bag", bags.camera_entries(scene), storage)
    if form == "without metadata.yaml":
        (path / "metadata.yaml").unlink()
    source = opened(storage_file(path) if form == "single file" else path)
    assert not source.live
    assert isinstance(source, ArrivingSource)
    assert isinstance(source, CountingSource)
    frames = list(source.frames())
    assert bags.same_frames(scene, frames) == 6
    assert ids(frames) == [bags.stamp_of(number) for number in range(6)]
    assert [frame.number for frame in frames] == list(range(6))
    assert frames[0].arrival_ns == 0
    assert frames[1].id == "1700000000.033333333"
    assert frames[0].intrinsics is not None
    assert source.counts["pairs"] == 6
    assert bags.same_frames(scene, source.frames()) == 6  # and again


def test_a_ros_1_bag_gives_the_same(tmp_path: Path, scene: list[RgbdFrame]) -> None:
    path = bags.write_ros1_bag(tmp_path / "old.bag", bags.camera_entries(scene))
    frames = list(opened(path).frames())
    assert bags.same_frames(scene, frames) == 6
    assert ids(frames) == [bags.stamp_of(number) for number in range(6)]


@pytest.fixture(params=["drawn", "real"])
def stored(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], FolderSource]:
    """Stored pairs: drawn ones everywhere, a walk through an office where the data is."""

    def make() -> FolderSource:
        if request.param == "drawn":
            return FolderSource(request.getfixturevalue("pairs"))
        data = request.getfixturevalue("real_data") / "streams" / "hololens_office"
        return FolderSource(data)

    return make


@pytest.mark.parametrize("storage", STORAGES)
def test_replay_gives_the_saliency_of_the_folder_bit_for_bit(
    tmp_path: Path, stored: Callable[[], FolderSource], tiny_bundle: Bundle, storage: str
) -> None:
    source = stored()
    pairs = [source[index] for index in range(min(12, len(source)))]
    path = bags.write_bag(tmp_path / "bag", bags.camera_entries(pairs), storage)
    replayed = list(opened(path).frames())
    assert bags.same_frames(pairs, replayed) == len(pairs)
    assert ids(replayed) == sorted(ids(replayed))
    spec = tiny_bundle.manifest.model
    with open_session(tiny_bundle, "int8", "ort") as session:
        for one, other in zip(pairs, replayed, strict=True):
            outputs = [
                session.run(prepare(frame, spec))[spec.output.name] for frame in (one, other)
            ]
            maps = [saliency_map(output, spec, one.rgb.shape[:2]) for output in outputs]
            assert maps[0].tobytes() == maps[1].tobytes()
            assert np.ptp(maps[0]) > 0


def test_pairs_are_not_decoded_before_they_are_asked_for(
    tmp_path: Path, scene: list[RgbdFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = opened(bags.write_bag(tmp_path / "bag", bags.camera_entries(scene)))
    decoded: list[str] = []
    decode = source._dialect.decode
    counting = replace(
        source._dialect, decode=lambda raw, kind: (decoded.append(kind), decode(raw, kind))[1]
    )
    monkeypatch.setattr(source, "_dialect", counting)
    arrivals = list(source.arrivals())
    assert decoded == []
    assert arrivals[4].decode().rgb.tobytes() == scene[4].rgb.tobytes()  # the file is closed
    assert decoded == [IMAGE, IMAGE]


def test_an_arrival_can_be_left_in_the_middle(tmp_path: Path, scene: list[RgbdFrame]) -> None:
    source = opened(bags.write_bag(tmp_path / "bag", bags.camera_entries(scene)))
    arrivals = source.arrivals()
    first = next(arrivals)
    arrivals.close()
    assert first.decode().number == 0


def test_images_are_paired_by_their_stamps_not_by_their_order(
    tmp_path: Path, scene: list[RgbdFrame]
) -> None:
    entries = list(bags.camera_entries(scene))
    lost = entries[3 * 2 + 1]  # the third frame's info, colour, depth: colour is dropped
    assert lost[0] == bags.COLOR
    source = opened(bags.write_bag(tmp_path / "bag", [one for one in entries if one is not lost]))
    kept = [*scene[:2], *scene[3:]]
    assert bags.same_frames(kept, source.frames()) == 5
    assert source.counts["depth without colour"] == 1


def test_named_topics_and_a_tolerance_are_taken(tmp_path: Path, scene: list[RgbdFrame]) -> None:
    entries = [
        *bags.camera_entries(scene, color="/left/image", depth="/left/aligned_depth"),
        *bags.camera_entries(scene[::-1], color="/right/image", depth="/right/aligned_depth"),
    ]
    path = bags.write_bag(tmp_path / "bag", sorted(entries, key=lambda one: one[2]))
    query = "?color=/right/image&depth=/right/aligned_depth&tolerance_ms=3"
    source = opened(path, query)
    assert source.uri == f"rosbag://{path}{query}"
    assert bags.same_frames(scene[::-1], source.frames()) == 6
    tight = opened(path, query.replace("=3", "=1"))  # depth comes 2 ms after colour
    with pytest.raises(SourceError, match="holds not one pair"):
        list(tight.frames())


def test_what_is_not_clear_is_listed(tmp_path: Path, scene: list[RgbdFrame]) -> None:
    entries = [
        *bags.camera_entries(scene[:1]),
        *bags.camera_entries(scene[:1], color="/other/image", depth="/other/depth"),
    ]
    path = bags.write_bag(tmp_path / "bag", entries)
    with pytest.raises(SourceError, match="which topic is colour.*name it: color=TOPIC") as caught:
        opened(path)
    assert f"got {bags.COLOR}, /other/image among the topics" in str(caught.value)
    assert f"/other/depth ({IMAGE}, 1)" in str(caught.value)
    assert f"{bags.COLOR_INFO} ({CAMERA_INFO}, 1)" in str(caught.value)
    with pytest.raises(SourceError, match="which topic is depth.*name it: depth=TOPIC"):
        opened(path, f"?color={bags.COLOR}")


def test_of_raw_and_compressed_images_of_one_camera_the_raw_ones_count(
    tmp_path: Path, scene: list[RgbdFrame]
) -> None:
    jpeg = {"header": header_fields(0, "a"), "format": "jpeg", "data": np.zeros(9, np.uint8)}
    grey = image_fields(np.zeros((4, 4), np.uint8), "mono8", header_fields(0, "a"))
    entries = [
        (f"{bags.COLOR}/compressed", COMPRESSED, bags.START_NS, jpeg),
        ("/camera/infra1/image_rect_raw", IMAGE, bags.START_NS, grey),
        *bags.camera_entries(scene),
    ]
    assert bags.same_frames(scene, opened(bags.write_bag(tmp_path / "b", entries)).frames()) == 6


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("?color=/no", "color=/no is not in it: expected a topic of sensor_msgs/msg/Image or"),
        (f"?info={bags.COLOR}", "is a sensor_msgs/msg/Image: expected a topic of .*CameraInfo"),
        ("?colour=/a", "key 'colour' is unknown; rosbag:// takes color=TOPIC"),
        ("?tolerance_ms=-1", "tolerance_ms: expected MS, got '-1'"),
    ],
)
def test_a_wrong_request_is_told(
    tmp_path: Path, scene: list[RgbdFrame], query: str, told: str
) -> None:
    path = bags.write_bag(tmp_path / "bag", bags.camera_entries(scene[:1]))
    with pytest.raises(SourceError, match=told):
        opened(path, query)


def test_no_recording_is_told(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "zero.mcap").touch()
    (tmp_path / "text.mcap").write_text("no recording at all, but long enough for a footer")
    (tmp_path / "text.db3").write_text("no recording")
    (tmp_path / "text.bag").write_text("no recording")
    for name, told in {
        "nothing": "does not exist",
        "empty": "no recording in the folder .*metadata.yaml",
        "zero.mcap": "is empty",
        "text.mcap": "cannot read the recording .*File magic is invalid",
        "text.db3": "cannot read the recording",
        "text.bag": "cannot read the recording .*rosbag reindex",
    }.items():
        with pytest.raises(SourceError, match=told):
            opened(tmp_path / name)
    with pytest.raises(SourceError, match="names no recording: expected rosbag://PATH"):
        open_source("rosbag://")


def half(frame: RgbdFrame) -> RgbdFrame:
    """Depth of every other pixel, as a second, coarser camera would see a far scene."""
    rgb, depth = frame.rgb[::2, ::2].copy(), frame.depth[::2, ::2].copy()
    return replace(frame, rgb=rgb, depth=depth, mask=None)


def unregistered(scene: list[RgbdFrame], *extra: bags.Entry) -> list[bags.Entry]:
    entries = list(extra)
    for (*color, _), (*_, depth) in zip(
        *(
            _by_three(bags.camera_entries(frames, depth=DEPTH_RAW, frame_ids=("color", "depth")))
            for frames in (scene, [half(frame) for frame in scene])
        ),
        strict=True,
    ):
        entries += [*color, depth]
    return entries


def _by_three(entries: Iterable[bags.Entry]) -> list[list[bags.Entry]]:
    listed = list(entries)
    return [listed[start : start + 3] for start in range(0, len(listed), 3)]


def test_depth_of_another_camera_is_registered(tmp_path: Path, scene: list[RgbdFrame]) -> None:
    camera = scene[0].intrinsics
    assert camera is not None
    # Every other pixel, the first one included: the centre of the image moves by a half.
    coarse = Intrinsics(camera.fx / 2, camera.fy / 2, camera.cx / 2, camera.cy / 2)
    info = bags.info_entry("/camera/depth/camera_info", coarse, (24, 32), "depth")
    here = (0.0, 0.0, 0.0)
    links = [bags.static_transform("rig", child, here) for child in ("color", "depth")]
    path = bags.write_bag(tmp_path / "bag", unregistered(scene, info, *links))
    frames = list(opened(path).frames())
    assert len(frames) == 6
    for frame, true in zip(frames, scene, strict=True):
        assert frame.depth.shape == true.depth.shape
        both = (frame.depth > 0) & (true.depth > 0)
        assert both.mean() > 0.8 * (true.depth > 0).mean()
        apart = np.abs(frame.depth[both].astype(float) - true.depth[both])
        assert np.median(apart) < 40  # millimetres: the noise of the sensor

    moved = bags.static_transform("rig", "depth", (0.05, 0.0, 0.0))
    links[1] = moved
    path = bags.write_bag(tmp_path / "moved", unregistered(scene, info, *links))
    assert not np.array_equal(next(opened(path).frames()).depth, frames[0].depth)


def test_depth_that_cannot_be_registered_is_told(tmp_path: Path, scene: list[RgbdFrame]) -> None:
    path = bags.write_bag(tmp_path / "bag", unregistered(scene))
    with pytest.raises(SourceError, match="is not registered to colour") as caught:
        opened(path)
    assert "no calibrated CameraInfo of '/camera/depth/image_raw', no static" in str(caught.value)


def test_a_damaged_message_spoils_its_pair_alone(tmp_path: Path, scene: list[RgbdFrame]) -> None:
    entries = list(bags.camera_entries(scene))
    topic, kind, at, content = entries[1 * 3 + 2]
    assert topic == bags.DEPTH
    entries[1 * 3 + 2] = topic, kind, at, bags.serialised(kind, content)[:-100]
    topic, kind, at, content = entries[3 * 3 + 1]
    assert topic == bags.COLOR
    entries[3 * 3 + 1] = topic, kind, at, b"\0\1"  # not even a header
    source = opened(bags.write_bag(tmp_path / "bag", entries))
    outcomes: list[Any] = []
    for arrival in source.arrivals():
        try:
            outcomes.append(arrival.decode().rgb.tobytes())
        except FrameError as err:
            outcomes.append(str(err))
    assert outcomes[0] == scene[0].rgb.tobytes()
    assert f"message of '{bags.DEPTH}' is damaged" in outcomes[1]
    assert f"message of '{bags.COLOR}' is damaged" in outcomes[3]
    assert outcomes[4:] == [scene[4].rgb.tobytes(), scene[5].rgb.tobytes()]
    assert source.counts[UNREADABLE] == 1


def test_damage_at_the_beginning_does_not_hide_the_rest(
    tmp_path: Path, scene: list[RgbdFrame]
) -> None:
    entries = list(bags.camera_entries(scene))
    for index in (1, 2):
        topic, kind, at, content = entries[index]
        entries[index] = topic, kind, at, bags.serialised(kind, content)[:-100]
    source = opened(bags.write_bag(tmp_path / "bag", entries))
    first, *rest = source.arrivals()
    with pytest.raises(FrameError, match="is damaged"):
        first.decode()
    assert bags.same_frames(scene[1:], [arrival.decode() for arrival in rest]) == 5


@pytest.mark.parametrize("storage", STORAGES)
def test_a_recording_that_breaks_off_delivers_what_it_holds(tmp_path: Path, storage: str) -> None:
    frames = list(DemoSource(frames=40, width=160, height=120).frames())
    path = bags.write_bag(tmp_path / "bag", bags.camera_entries(frames), storage)
    file = storage_file(path)
    with file.open("r+b") as content:
        content.truncate(int(file.stat().st_size * 0.7))
    for place in (path, file):
        source = opened(place)
        delivered = []
        with pytest.raises(SourceError, match="is damaged or breaks off: got .*after .* messages"):
            for frame in source.frames():
                delivered.append(frame)
        assert 15 <= len(delivered) < 35
        assert bags.same_frames(frames[: len(delivered)], delivered) == len(delivered)


def test_a_damaged_chunk_ends_the_recording_there(tmp_path: Path) -> None:
    frames = list(DemoSource(frames=40, width=160, height=120).frames())
    file = tmp_path / "out.mcap"  # with checksums, which rosbags does not write
    sink = McapRecording(file, 30.0)
    for frame in frames:
        saliency = np.zeros(frame.depth.shape, np.float32)
        sink.write(frame, saliency, FrameRecord(frame.number, "", *(0.0,) * 7, 0, 0.0, 1, 0))
    sink.close()
    with file.open("r+b") as content:
        content.seek(int(file.stat().st_size * 0.6))
        content.write(b"\xff" * 100)
    delivered = []
    with pytest.raises(SourceError, match="is damaged or breaks off"):
        for frame in opened(file).frames():
            delivered.append(frame)
    assert 10 <= len(delivered) < 30
    assert bags.same_frames(frames[: len(delivered)], delivered)


def test_several_files_are_one_recording(tmp_path: Path, scene: list[RgbdFrame]) -> None:
    entries = list(bags.camera_entries(scene))
    whole = tmp_path / "whole"
    whole.mkdir()
    for number, part in enumerate((entries[:8], entries[8:])):
        folder = bags.write_bag(tmp_path / f"part_{number}", part, "mcap")
        storage_file(folder).rename(whole / f"whole_{number + 9}.mcap")  # 9 before 10
    assert bags.same_frames(scene, opened(whole).frames()) == 6


@pytest.mark.parametrize("compressed", [True, False], ids=["compressed", "raw"])
def test_a_recording_of_librealsense_tells_its_own_unit(
    tmp_path: Path, scene: list[RgbdFrame], compressed: bool
) -> None:
    """Its topics, encodings and options, as version 2.59 writes them."""
    import cv2

    sensor, image = "/device_0/sensor_0", "/device_0/sensor_0/Depth_0/image"
    color = "/device_0/sensor_1/Color_0/image"
    entries: list[bags.Entry] = [
        (f"{sensor}/option/Depth_Units/value", "std_msgs/msg/String", 0, {"data": "0.000500"}),
        *(bags.static_transform("ref_1", name, (0.0, 0.0, 0.0)) for name in ("Depth", "Color")),
    ]
    camera = scene[0].intrinsics
    assert camera is not None
    for topic in (image, color):
        entries.append(bags.info_entry(f"{topic}/camera_info", camera, (48, 64), "Color"))
    for number, frame in enumerate(scene):
        at = number * bags.PERIOD_NS
        headers = [header_fields(at + late, name) for late, name in ((0, "Color"), (9, "Depth"))]
        if compressed:
            png = cv2.imencode(".png", frame.rgb[..., ::-1])[1].tobytes()
            png16 = bytes(12) + cv2.imencode(".png", frame.depth)[1].tobytes()
            for topic, header, form, data in (
                (f"{color}/data/compressed", headers[0], "rgb8; png compressed bgr8", png),
                (
                    f"{image}/data/compressedDepth",
                    headers[1],
                    "16UC1; compressedDepth png",
                    png16,
                ),
            ):
                array = np.frombuffer(data, np.uint8)
                content = {"header": header, "format": form, "data": array}
                entries.append((topic, COMPRESSED, at, content))
        else:
            entries.append(
                (f"{color}/data", IMAGE, at, image_fields(frame.rgb, "rgb8", headers[0]))
            )
            depth = image_fields(frame.depth, "mono16", headers[1])
            entries.append((f"{image}/data", IMAGE, at, depth))
    path = bags.write_bag(tmp_path / "bag", entries)
    (path / "metadata.yaml").unlink()
    half_millimetres = DepthSpec(scale_to_m=0.0005)
    expected = [replace(frame, depth_spec=half_millimetres) for frame in scene]
    assert bags.same_frames(expected, opened(storage_file(path)).frames()) == 6
    forced = opened(path, "?unit=mm")
    assert next(forced.frames()).depth_spec == DepthSpec(scale_to_m=0.001)
