from __future__ import annotations

from pathlib import Path

import pytest

from edge_fusion.errors import OutputError
from edge_fusion.runtime.sink.masks import MaskFolder
from edge_fusion.runtime.sink.open import open_sink
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
    sink = open_sink(f"{tmp_path}/{destination}", fps=12.0)
    assert type(sink) is kind
    assert sink.destination.rstrip("/") == f"{tmp_path}/{destination}".rstrip("/")
    sink.close()


def test_an_unknown_suffix_names_the_choices(tmp_path: Path) -> None:
    with pytest.raises(OutputError) as caught:
        open_sink(f"{tmp_path}/out.webm")
    message = str(caught.value)
    assert "expected a video (.avi, .mkv, .mp4) or a folder, got the suffix '.webm'" in message
    assert "out.webm/'" in message
    assert list(tmp_path.iterdir()) == []
