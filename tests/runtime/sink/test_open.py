from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from edge_fusion.errors import OutputError
from edge_fusion.runtime.sink.masks import MaskFolder
from edge_fusion.runtime.sink.open import (
    SCHEMES,
    SUFFIXES,
    SinkSetting,
    check_outlives_restart,
    describe_sinks,
    open_sink,
    open_sinks,
    outlives_restart,
)
from edge_fusion.runtime.sink.video import OverlayVideo

DESTINATIONS = [
    ("out.mp4", OverlayVideo),
    ("out.MP4", OverlayVideo),
    ("out.mkv", OverlayVideo),
    ("out.avi", OverlayVideo),
    ("masks", MaskFolder),
    ("masks/", MaskFolder),
    ("masks.v1/", MaskFolder),  # a trailing slash decides, whatever the suffix
    ("existing.d", MaskFolder),  # and so does a folder that is there
]


@pytest.mark.parametrize(("destination", "kind"), DESTINATIONS)
def test_the_destination_decides(tmp_path: Path, destination: str, kind: type) -> None:
    (tmp_path / "existing.d").mkdir()
    sink = open_sink(f"{tmp_path}/{destination}", SinkSetting(fps=12.0))
    assert type(sink) is kind
    assert sink.destination.rstrip("/") == f"{tmp_path}/{destination}".rstrip("/")
    sink.close()


def test_an_unknown_suffix_names_the_choices(tmp_path: Path) -> None:
    with pytest.raises(OutputError) as caught:
        open_sink(f"{tmp_path}/out.webm")
    message = str(caught.value)
    assert "expected .mp4, .mkv, .avi, .jsonl, .mcap or a folder, got the suffix '.webm'" in message
    assert "out.webm/'" in message
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_scheme_names_the_choices() -> None:
    expected = "expected web://, rerun://, window://, ros2://, a file or a folder, got ftp://"
    with pytest.raises(OutputError, match=expected) as caught:
        open_sink("ftp://server/out?token=secret")
    assert "secret" not in str(caught.value)


def test_several_are_opened_or_none(tmp_path: Path) -> None:
    both = open_sinks([f"{tmp_path}/out.mp4", f"{tmp_path}/masks/"])
    assert [type(one) for one in both] == [OverlayVideo, MaskFolder]
    for one in both:
        one.close()
    with pytest.raises(OutputError, match="cannot tell"):
        open_sinks([f"{tmp_path}/out.mp4", f"{tmp_path}/out.webm"])
    with pytest.raises(OutputError, match="cannot write"):
        open_sinks([f"{tmp_path}/masks/", f"{tmp_path}/log.jsonl", f"{tmp_path}/no/out.mp4"])
    with pytest.raises(OutputError, match="is named twice"):
        open_sinks([f"{tmp_path}/out.mp4", f"{tmp_path}/out.mp4"])
    assert list(tmp_path.iterdir()) == []


MISTYPED = [
    ("", "a sink without a name"),
    (" ", "a sink without a name"),
    ("web:8080", "lacks its slashes: .*write 'web://:8080', or './web:8080/' for a folder"),
    ("WEB:8080?token=secret-secret", "'WEB:8080' lacks its slashes: .*write 'web://:8080'"),
    ("rerun:out.rrd", "write 'rerun://out.rrd'"),
    ("ros2:/saliency", "write 'ros2:///saliency'"),
    ("window", "write 'window://'"),
    ("web", r"write 'web://\[HOST\]\[:PORT\]'"),
    ("web://8080", "a port stands behind a colon: web://:8080"),
    ("file:///tmp/x.mp4", "write the path alone: '/tmp/x.mp4'$"),
    ("out.rrd", "write 'rerun://out.rrd'$"),
]


@pytest.mark.parametrize(("destination", "message"), MISTYPED)
def test_what_is_mistyped_becomes_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, destination: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OutputError, match=message) as caught:
        open_sink(destination)
    assert "secret" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


SAME = [
    ("o.mp4", "./o.mp4"),
    ("m/", "./m"),
    ("m", "sub/../m/"),
    ("o.jsonl", "link/o.jsonl"),  # a link to this very folder
    ("o-%t.mp4", "./o-%t.mp4"),
    ("rerun://o.rrd", "rerun://./o%2Errd"),
    ("window://", "window://"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_one_place_by_two_names_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one: str, other: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(OutputError, match="is named twice; name every sink once"):
        open_sinks([one, other])
    assert [path.name for path in tmp_path.iterdir()] == ["link"]


def test_two_pages_on_free_ports_are_two() -> None:
    first, second = open_sinks(["web://:0", "web://:0"])
    assert first.destination != second.destination
    first.close()
    second.close()


PLAYED = [
    ("drive.mcap", "drive.mcap"),
    ("drive.mp4", "./sub/../drive.mp4"),
    ("drive.mp4", "link.mp4"),
    ("set/rgb", "set/rgb/"),
    ("set/rgb", "set/rgb/masks/"),
    ("set/depth", "set/depth/out.mp4"),
]


def test_a_second_name_of_what_is_being_played(tmp_path: Path) -> None:
    played, other = tmp_path / "drive.mcap", tmp_path / "other.mcap"
    played.write_bytes(b"recorded")
    os.link(played, other)
    with pytest.raises(OutputError, match="would write into what is being played"):
        open_sink(str(other), SinkSetting(reads=(played,)))


def test_names_that_no_file_can_have(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    for name in (f"{'x' * 300}.mp4", "x" * 300, f"rerun://{'x' * 300}.rrd", "loop/", "loop/a.mp4"):
        place = name if "://" in name else str(tmp_path / name)
        with pytest.raises(OutputError, match="cannot write to"):
            open_sink(place)


@pytest.mark.parametrize(("played", "destination"), PLAYED)
def test_what_is_being_played_is_not_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, played: str, destination: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("set/rgb", "set/depth", "sub"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "link.mp4").symlink_to("drive.mp4")
    for name in ("drive.mcap", "drive.mp4"):
        (tmp_path / name).write_bytes(b"precious")
    with pytest.raises(OutputError, match="would write into what is being played: got .*another"):
        open_sinks(["first.mp4", destination], SinkSetting(reads=(Path(played),)))
    assert (tmp_path / "drive.mcap").read_bytes() == (tmp_path / "drive.mp4").read_bytes()
    assert not (tmp_path / "first.mp4").exists()
    open_sink("set/masks/", SinkSetting(reads=(Path(played),))).close()  # beside it is fine


def test_a_time_in_the_name_gives_every_run_its_own(tmp_path: Path) -> None:
    names = ["a-%t.jsonl", "masks-%t/", "%t.mp4"]
    sinks = open_sinks([f"{tmp_path}/{name}" for name in names])
    moments = {re.sub(r".*(\d{8}-\d{6}).*", r"\1", Path(sink.destination).name) for sink in sinks}
    assert len(moments) == 1  # what belongs together bears one time
    assert re.fullmatch(r"20\d{6}-\d{6}", moments.pop())
    for sink in sinks:
        assert "%t" not in sink.destination
        sink.close()


LASTING = [
    ("out.mp4", False),
    ("out-%t.mp4", True),
    ("log.jsonl", False),
    ("masks/", False),
    ("%t/", True),
    ("rerun://out.rrd", False),
    ("rerun://out-%t.rrd", True),
    ("rerun://:9877", True),
    ("web://0.0.0.0:8080?token=${TOKEN}", True),  # a unit is written before that is known
    ("ros2:///saliency", True),
]


@pytest.mark.parametrize(("destination", "lasting"), LASTING)
def test_what_a_restart_would_overwrite_or_refuse(destination: str, lasting: bool) -> None:
    assert outlives_restart(destination) is lasting


NAMED_BY_TIME = [
    ("out.mp4", "out-%t.mp4"),
    ("a/masks.v1/", "a/masks-%t.v1/"),
    ("masks", "masks-%t"),
    ("rerun://out.rrd?rate=5", "rerun://out-%t.rrd"),
]


@pytest.mark.parametrize(("destination", "named"), NAMED_BY_TIME)
def test_the_cure_of_what_a_restart_would_overwrite_is_one(destination: str, named: str) -> None:
    with pytest.raises(OutputError, match=f"belongs to one run, .*write '{re.escape(named)}'$"):
        check_outlives_restart(["web://:8080", destination])
    check_outlives_restart(["web://:8080", named])


def test_every_option_and_need_is_listed() -> None:
    told = describe_sinks()
    for kind in (*SUFFIXES.values(), *SCHEMES.values()):
        assert kind.form in told
        assert kind.extra in told
        for name, key in kind.keys.items():
            assert re.search(rf"^    {name}={re.escape(key.form)} ", told, re.MULTILINE)
    for word in ("token=", "clients=", "stalled_s=", "rate=", "memory=", "frame_id=", "%t"):
        assert word in told
    assert "edge-fusion[rosbag]" in told
    assert "edge-fusion[rerun]" in told


def test_keys_are_those_the_sinks_take() -> None:
    with pytest.raises(OutputError, match="key 'size' is unknown; web:// takes token=SECRET"):
        open_sink("web://:0?size=3")
