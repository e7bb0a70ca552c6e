from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_fusion.errors import OutputError
from edge_fusion.runtime.sink.records import FrameLog, frame_line, open_records

MakeResult = Callable[..., Any]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_holds_the_record_the_times_and_the_region(
    tmp_path: Path, result: MakeResult
) -> None:
    path = tmp_path / "out.jsonl"
    sink = open_records(path)
    for number in (3, 4):
        sink.write(*result(number, arrival_ns=77))
    assert len(lines(path)) == 2  # before closing
    sink.close()
    sink.close()
    line = lines(path)[0]
    assert (line["number"], line["id"], line["infer_ms"], line["fps"]) == (3, "f3", 20.0, 30.0)
    assert (line["captured"], line["dropped"], line["timestamp_ns"]) == (4, 0, 0)
    assert (line["arrival_ns"], line["width"], line["height"]) == (77, 64, 48)
    assert line["unix_ns"] > 1.6e18
    assert line["salient_box"] == [3, 16, 16, 16]
    assert line["salient_share"] == line["saliency_mean"] == round(256 / (48 * 64), 4)
    assert "sink_ms" not in line
    assert sink.destination == str(path)


BOXES = [
    ([], None),
    ([(0, 0, 0.49)], None),  # below one half
    ([(0, 0, 0.5)], [0, 0, 1, 1]),
    ([(47, 63, 1.0)], [63, 47, 1, 1]),
    ([(10, 20, 0.6), (12, 5, 0.9)], [5, 10, 16, 3]),  # two regions, one box
]


@pytest.mark.parametrize(("pixels", "box"), BOXES)
def test_the_box_surrounds_what_is_salient(
    result: MakeResult, pixels: list[tuple[int, int, float]], box: list[int] | None
) -> None:
    frame, _, record = result()
    saliency = np.zeros((48, 64), np.float32)
    for row, column, value in pixels:
        saliency[row, column] = value
    line = frame_line(frame, saliency, record)
    assert line["salient_box"] == box
    assert line["salient_share"] == round(float((saliency >= 0.5).mean()), 4)


def test_a_file_that_holds_something_is_refused_and_untouched(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text("{}\n")
    with pytest.raises(OutputError, match=r"exists: .*3 bytes in it; name another file, or remove"):
        FrameLog(path)
    assert path.read_text() == "{}\n"


def test_an_empty_file_is_taken(tmp_path: Path, result: MakeResult) -> None:
    path = tmp_path / "out.jsonl"
    path.touch()
    sink = FrameLog(path)
    sink.write(*result())
    sink.close()
    assert len(lines(path)) == 1


@pytest.mark.parametrize(
    ("name", "cure"), [("none/out.jsonl", "create its folder first"), (".", "is a folder")]
)
def test_a_place_that_cannot_be_written_is_told_at_once(
    tmp_path: Path, name: str, cure: str
) -> None:
    with pytest.raises(OutputError, match=f"cannot write the frame log .*{cure}"):
        FrameLog(tmp_path / name)


def test_a_full_disk_leaves_whole_lines_and_says_how_many(
    tmp_path: Path, result: MakeResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out.jsonl"
    sink = FrameLog(path)
    sink.write(*result(0))
    kept = path.read_bytes()

    class Full:
        def __init__(self, file: Any) -> None:
            self._file, self._room = file, 40

        def write(self, data: memoryview) -> int:
            if not self._room:
                raise OSError(errno.ENOSPC, "No space left on device")
            taken, self._room = self._room, 0
            return int(self._file.write(data[:taken]))

        def __getattr__(self, name: str) -> Any:
            return getattr(self._file, name)

    monkeypatch.setattr(sink, "_file", Full(sink._file))
    with pytest.raises(OutputError, match="No space left.*the 1 lines before are kept"):
        sink.write(*result(1))
    sink.close()
    assert path.read_bytes() == kept


def test_a_kill_loses_the_last_line_at_most(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    script = f"""
        import os, numpy as np
        from pathlib import Path
        from edge_fusion.frame import RgbdFrame
        from edge_fusion.runtime.ledger import FrameRecord
        from edge_fusion.runtime.sink.records import FrameLog
        from edge_fusion.spec import DepthSpec
        sink = FrameLog(Path({str(path)!r}))
        rgb, depth = np.zeros((8, 8, 3), np.uint8), np.ones((8, 8), np.uint16)
        for n in range(5):
            frame = RgbdFrame(rgb, depth, DepthSpec(scale_to_m=0.001), str(n), n)
            record = FrameRecord(n, str(n), 0, 0, 0, 0, 0, 0, 0, 0, 0, n + 1, 0)
            sink.write(frame, np.zeros((8, 8), np.float32), record)
        os.kill(os.getpid(), {int(signal.SIGKILL)})
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], env={**os.environ}, check=False
    )
    assert done.returncode == -signal.SIGKILL
    assert [line["number"] for line in lines(path)] == [0, 1, 2, 3, 4]


def test_without_a_line_no_file_is_left(tmp_path: Path) -> None:
    open_records(tmp_path / "new.jsonl").close()
    (tmp_path / "kept.jsonl").touch()
    open_records(tmp_path / "kept.jsonl").close()  # somebody else made it
    assert [path.name for path in tmp_path.iterdir()] == ["kept.jsonl"]
