from __future__ import annotations

from pathlib import Path

import pytest

from edge_fusion.errors import OutputError
from edge_fusion.runtime.sink.masks import MaskFolder
from edge_fusion.runtime.sink.open import SinkSetting, open_sink, open_sinks
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
    with pytest.raises(OutputError, match="expected web, rerun, window, ros2 or a folder, got ftp"):
        open_sink("ftp://server/out?token=secret")


def test_several_are_opened_or_none(tmp_path: Path) -> None:
    both = open_sinks([f"{tmp_path}/out.mp4", f"{tmp_path}/masks/"])
    assert [type(one) for one in both] == [OverlayVideo, MaskFolder]
    for one in both:
        one.close()
    (tmp_path / "masks").rmdir()
    with pytest.raises(OutputError, match="cannot tell"):
        open_sinks([f"{tmp_path}/out.mp4", f"{tmp_path}/out.webm"])
    with pytest.raises(OutputError, match="is named twice"):
        open_sinks([f"{tmp_path}/out.mp4", f"{tmp_path}/out.mp4"])
    assert list(tmp_path.iterdir()) == []
