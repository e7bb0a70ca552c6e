"""Recordings of two video files, written here by OpenCV itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edge_fusion.errors import FrameError, SourceError
from edge_fusion.runtime.source.base import Arrival, ArrivingSource, CountingSource
from edge_fusion.runtime.source.capture import Still
from edge_fusion.runtime.source.uri import open_source
from edge_fusion.runtime.source.video import VideoSource

Images = list[NDArray[Any]]
WIDTH, HEIGHT, COUNT = 64, 48, 12
MM = {"unit": "mm"}


def write(path: Path, images: Images, codec: str = "FFV1", fps: float = 25) -> Path:
    """Write (H, W, 3) uint8 red first, (H, W) uint8 or (H, W) uint16 images as a video."""
    first = images[0]
    options = [cv2.VIDEOWRITER_PROP_IS_COLOR, int(first.ndim == 3)]
    if first.dtype == np.uint16:
        options += [cv2.VIDEOWRITER_PROP_DEPTH, cv2.CV_16U]
    size = first.shape[1], first.shape[0]
    code = cv2.VideoWriter.fourcc(*codec)
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, code, fps, size, options)
    assert writer.isOpened()
    for image in images:
        writer.write(image[..., ::-1] if image.ndim == 3 else image)
    writer.release()
    return path


def colours(count: int = COUNT, size: tuple[int, int] = (HEIGHT, WIDTH)) -> Images:
    rng = np.random.default_rng(1)
    return [rng.integers(0, 256, (*size, 3)).astype(np.uint8) for _ in range(count)]


def depths(count: int = COUNT, size: tuple[int, int] = (HEIGHT, WIDTH)) -> Images:
    rng = np.random.default_rng(2)
    return [rng.integers(0, 65536, size).astype(np.uint16) for _ in range(count)]


def relative(count: int = COUNT) -> Images:
    slope = np.linspace(20, 230, WIDTH, dtype=np.uint8)
    return [np.tile(np.roll(slope, n), (HEIGHT, 1)) for n in range(count)]


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., tuple[Path, Path]]:
    def make(
        color: Images | None = None, depth: Images | None = None, **codecs: str
    ) -> tuple[Path, Path]:
        return (
            write(tmp_path / "color.mkv", color or colours(), codecs.get("color", "FFV1")),
            write(tmp_path / "depth.mkv", depth or depths(), codecs.get("depth", "FFV1")),
        )

    return make


Make = Callable[..., tuple[Path, Path]]


def test_sixteen_bits_come_back_exactly(make: Make) -> None:
    color, depth = make()
    source = open_source(f"video://{color}?depth={depth}&unit=mm")
    assert isinstance(source, ArrivingSource)
    assert isinstance(source, CountingSource)
    assert not source.live
    frames = list(source.frames())
    assert [frame.number for frame in frames] == list(range(COUNT))
    for frame, rgb, values in zip(frames, colours(), depths(), strict=True):
        np.testing.assert_array_equal(frame.rgb, rgb)
        np.testing.assert_array_equal(frame.depth, values)
        assert frame.depth.dtype == np.uint16
    assert frames[3].timestamp_ns == pytest.approx(3 * 40e6, abs=1e6)
    assert frames[0].arrival_ns == 0
    assert frames[0].depth_spec.scale_to_m == 0.001
    assert len(list(source.frames())) == COUNT  # and again, from the beginning
    assert set(source.counts.values()) == {0}


def test_its_uri_opens_an_equal_source(make: Make, tmp_path: Path) -> None:
    color, depth = make()
    spaced = color.rename(tmp_path / "a colour & more.mkv")
    uri = f"video://{quote(str(spaced))}?depth={depth}&scale_to_m=0.0005&invalid=none"
    source = open_source(uri)
    again = open_source(source.uri)
    assert again.uri == source.uri
    assert next(iter(again.frames())).depth_spec == next(iter(source.frames())).depth_spec


def test_pairs_are_decoded_late_and_in_any_order(make: Make) -> None:
    source = VideoSource(*make(), MM)
    arrivals = [pair for pair in source.arrivals() if isinstance(pair, Arrival)]
    for arrival, values in list(zip(arrivals, depths(), strict=True))[::-1]:
        np.testing.assert_array_equal(arrival.decode().depth, values)


def test_closing_frees_the_files(make: Make) -> None:
    color, depth = make()

    def held() -> set[str]:
        links = (Path("/proc/self/fd")).iterdir()
        return {str(link.resolve()) for link in links} & {str(color), str(depth)}

    arrivals = VideoSource(color, depth, MM).arrivals()
    assert not held()
    next(arrivals)
    assert len(held()) == 2
    arrivals.close()
    assert not held()


@pytest.mark.parametrize("codec", ["FFV1", "mp4v"])
def test_relative_depth_of_8_bits(make: Make, codec: str) -> None:
    color, depth = make(None, relative())
    if codec != "FFV1":
        depth = write(depth.with_suffix(".mp4"), relative(), codec)
    source = VideoSource(color, depth, {"unit": "relative", "larger_is": "nearer"})
    frames = list(source.frames())
    assert len(frames) == COUNT
    for frame, values in zip(frames, relative(), strict=True):
        assert frame.depth.dtype == np.uint8
        error = np.abs(frame.depth.astype(int) - values)
        assert error.max() == 0 if codec == "FFV1" else error.mean() < 6
    assert not frames[0].depth_spec.metric


def test_play_some_of_it(make: Make) -> None:
    color, depth = make()
    source = open_source(f"video://{color}?depth={depth}&unit=mm&start=2&stride=4")
    np.testing.assert_array_equal(
        [frame.depth for frame in source.frames()], [depths()[n] for n in (2, 6, 10)]
    )


def refused(color: Path, depth: Path, declared: dict[str, Any] | None = None) -> str:
    with pytest.raises(SourceError) as caught:
        VideoSource(color, depth, MM if declared is None else declared)
    return str(caught.value)


def test_a_missing_file(make: Make, tmp_path: Path) -> None:
    color, depth = make()
    assert "depth video" in (text := refused(color, tmp_path / "no.mkv"))
    assert "does not exist" in text
    assert "colour video" in refused(tmp_path / "no.mp4", depth)
    assert "does not exist" in refused(tmp_path, depth)


@pytest.mark.parametrize(
    ("content", "got"), [(b"", "an empty file"), (b"not a video at all " * 9, "no such video")]
)
def test_no_video(make: Make, content: bytes, got: str) -> None:
    color, depth = make()
    depth.write_bytes(content)
    text = refused(color, depth)
    assert got in text
    assert "ffplay" in text


def cut(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def test_a_cut_off_mp4(make: Make) -> None:
    color, depth = make()
    short = write(color.with_suffix(".mp4"), colours(), "mp4v")
    cut(short, 0.7)
    assert "cut off" in refused(short, depth)


@pytest.mark.parametrize("which", ["colour", "depth", "colour and depth"])
def test_a_cut_off_mkv(make: Make, which: str) -> None:
    color, depth = make()
    for path, name in ((color, "colour"), (depth, "depth")):
        if name in which:
            cut(path, 0.5)
    source = VideoSource(color, depth, MM)
    numbers = []
    with pytest.raises(SourceError, match=f"{which} of .* ends too early: expected 12") as caught:
        for frame in source.frames():
            numbers.append(frame.number)
            assert frame.rgb.shape == (HEIGHT, WIDTH, 3)
    assert 3 <= len(numbers) < COUNT - 2
    assert "cut off or damaged" in str(caught.value)


def test_streams_of_different_length(make: Make) -> None:
    text = refused(*make(colours(12), depths(30)))
    assert "12 colour images at 25 per second and 30 depth images" in text


def test_an_image_more_at_the_end_is_counted(make: Make) -> None:
    source = VideoSource(*make(colours(12), depths(14)), MM)
    assert len(list(source.frames())) == 12
    assert source.counts == {"colour without depth": 0, "depth without colour": 2}


def test_streams_of_different_size(make: Make) -> None:
    text = refused(*make(None, depths(size=(24, 32))))
    assert "expected 64x48 pixels, got 32x24" in text
    assert "register depth to colour" in text


def test_8_bit_depth_declared_as_millimetres(make: Make) -> None:
    text = refused(*make(None, relative()))
    assert "8-bit but declared as 0.001 m per unit" in text
    assert "unit=relative" in text


def test_swapped_streams(make: Make) -> None:
    color, depth = make()
    assert "are the two streams swapped?" in refused(depth, color)
    text = refused(*make(None, colours()))
    assert "got a colour image" in text
    assert "are the two streams swapped?" in text


def test_a_camera_at_night_is_in_shades_of_grey(make: Make, tmp_path: Path) -> None:
    _, depth = make()
    night = [np.repeat(one[..., None], 3, axis=2) for one in relative()]
    grey = write(tmp_path / "grey.mp4", night, "mp4v")
    assert len(list(VideoSource(grey, depth, MM).frames())) == COUNT
    # but not in one channel, and depth is not colourful
    assert "one channel" in refused(depth, depth)
    assert "are the two streams swapped?" in refused(grey, write(depth, colours()))


@pytest.mark.parametrize(
    ("declared", "cure"),
    [
        ({}, "add unit=mm"),
        ({"unit": "relative"}, "larger_is=farther or larger_is=nearer"),
        ({"unit": "mm", "larger_is": "nearer"}, "disparity"),
    ],
)
def test_a_depth_whose_unit_is_unknown(make: Make, declared: dict[str, Any], cure: str) -> None:
    assert cure in refused(*make(), declared)


@pytest.mark.parametrize("uri", ["video://", "video://color.mp4", "video://?depth=d.mkv"])
def test_a_uri_without_a_file(uri: str) -> None:
    with pytest.raises(SourceError, match=r"names no (colour|depth) video"):
        open_source(uri)


def test_an_opencv_without_ffmpeg(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2.videoio_registry, "getBackends", lambda: (cv2.CAP_V4L2,))
    assert "was built without FFMPEG" in refused(*make())


def test_stills_in_the_formats_of_cameras() -> None:
    rgb = np.full((HEIGHT, WIDTH, 3), (200, 80, 40), np.uint8)
    jpeg = cv2.imencode(".jpg", rgb[..., ::-1])[1].reshape(1, -1)
    planes = cv2.cvtColor(rgb, cv2.COLOR_RGB2YUV)
    yuyv = np.empty((HEIGHT, WIDTH, 2), np.uint8)
    yuyv[..., 0] = (planes[..., 0].astype(int) * 219 // 255) + 16  # V4L2 has the narrow range
    yuyv[:, 0::2, 1], yuyv[:, 1::2, 1] = 108, 190
    uyvy = np.ascontiguousarray(yuyv[..., ::-1])
    for pixels, layout, tolerance in (
        (rgb[..., ::-1], "bgr", 0),
        (jpeg, "MJPG", 4),
        (yuyv, "YUYV", 40),
        (uyvy, "UYVY", 40),
    ):
        out = Still(pixels, layout).rgb("it")
        assert out.shape == rgb.shape
        assert np.abs(out.astype(int) - rgb).max() <= tolerance


@pytest.mark.parametrize(
    ("pixels", "layout"),
    [
        (np.zeros((1, 90), np.uint8), "MJPG"),
        (np.zeros((1, 0), np.uint8), "MJPG"),
        (cv2.imencode(".jpg", colours(1)[0])[1].reshape(1, -1)[:, :-900], "MJPG"),  # cut off
        (np.zeros((4, 4), np.uint8), "YUYV"),
    ],
)
def test_a_damaged_still(pixels: NDArray[np.uint8], layout: str) -> None:
    with pytest.raises(FrameError, match="colour of 'it': got a damaged image"):
        Still(pixels, layout).rgb("it")


def test_a_grey_still_of_a_camera_is_colour_in_shades_of_grey() -> None:
    jpeg = cv2.imencode(".jpg", relative(1)[0])[1].reshape(1, -1)
    rgb = Still(jpeg, "MJPG").rgb("it")
    assert rgb.shape == (HEIGHT, WIDTH, 3)
    assert np.ptp(rgb, axis=2).max() == 0
