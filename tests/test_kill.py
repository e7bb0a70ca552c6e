"""SIGTERM at any moment: every output is readable or not there, and nothing else is left."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import pytest

from edge_fusion.bundle import Bundle

TIMES = 50 if os.environ.get("EDGE_FUSION_LONG_TESTS") else 4
LATEST_S = 4.0  # of which starting Python takes one or two
MOST_TO_END_S = 2.0
SOURCE = "demo://?frames=100000&size=160x120&cut=300"


def readable_video(path: Path) -> bool:
    video = cv2.VideoCapture(str(path))
    count = 0
    while video.read()[0]:
        count += 1
    video.release()
    return count > 0


def readable_lines(path: Path) -> bool:
    return all(json.loads(line)["id"] for line in path.read_text().splitlines())


def readable_recording(path: Path) -> bool:
    reader = pytest.importorskip("mcap.reader")
    with path.open("rb") as file:
        summary = reader.make_reader(file).get_summary()
        return summary is not None and summary.statistics.message_count > 0


def readable_masks(folder: Path) -> bool:
    return all(cv2.imread(str(one)) is not None for one in folder.iterdir())


OUTPUTS = {
    "out.mp4": readable_video,
    "out.jsonl": readable_lines,
    "out.mcap": readable_recording,
    "masks": readable_masks,
}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(TIMES))
def test_sigterm_leaves_what_was_written_and_nothing_else(
    tiny_bundle: Bundle, tmp_path: Path, seed: int
) -> None:
    pytest.importorskip("mcap")
    place = tmp_path / "outputs"
    place.mkdir()
    command = [sys.executable, "-m", "edge_fusion", "run", str(tiny_bundle.path), SOURCE]
    sinks = ["out.mp4", "out.jsonl", "out.mcap", "masks/"]
    started = time.monotonic()
    process = subprocess.Popen(
        [*command, *sinks, "--json", "state.json", "--idle", "0"],
        cwd=place,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    time.sleep(random.Random(seed).uniform(0, LATEST_S))
    process.send_signal(signal.SIGTERM)
    killed = time.monotonic()
    _, errors = process.communicate(timeout=30)
    ended_s = time.monotonic() - killed
    left = {path.name for path in place.iterdir()}
    assert left <= {*OUTPUTS, "state.json"}, errors
    assert "Traceback" not in errors
    for name in left & OUTPUTS.keys():
        assert OUTPUTS[name](place / name), f"{name} after {killed - started:.2f} s"
    if "state.json" in left:
        state = json.loads((place / "state.json").read_text())
        assert state["stopped"] == "interrupted"
        assert state["frames"] == len(list((place / "masks").iterdir()))
        assert process.returncode == 0
        assert ended_s < MOST_TO_END_S
