"""A whole run: bundle, source and sink, opened and closed together."""

from __future__ import annotations

from pathlib import Path

import cv2
import pytest

from edge_fusion.bundle import Bundle
from edge_fusion.errors import BundleError, FrameError, InputError, OutputError, SessionError
from edge_fusion.runtime.compare import CompareOptions, compare
from edge_fusion.runtime.run import RunOptions, run_bundle, run_facts
from edge_fusion.runtime.source.uri import open_stored
from edge_fusion.runtime.stream import StreamOptions

DEMO = "demo://?frames=3&size=64x48"


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


@pytest.mark.parametrize("name", ["rgb/1.png", "depth/1.png"])
def test_a_damaged_image_costs_its_pair_and_not_the_run(
    tiny_bundle: Bundle, pairs: Path, tmp_path: Path, name: str
) -> None:
    cut_off(pairs / name)
    run = run_bundle(RunOptions(tiny_bundle.path, str(pairs), (f"{tmp_path}/masks/",)))
    assert sorted(path.name for path in (tmp_path / "masks").iterdir()) == ["0.png", "2.png"]
    assert (run.summary.captured, run.summary.frames) == (3, 2)
    assert run.summary.drops == {"unusable frame: cannot decode": 1}
    facts = run_facts(run)
    assert facts["dropped"] == "1 unusable frame: cannot decode"
    assert f"{name}': got a file cut off" in facts["problem 1"]


def test_a_comparison_does_not_go_on_without_a_damaged_pair(
    tiny_bundle: Bundle, pairs: Path
) -> None:
    cut_off(pairs / "depth" / "1.png")
    with pytest.raises(FrameError, match=r"cannot decode '.*/depth/1\.png'"):
        compare(tiny_bundle, [open_stored(str(pairs))], CompareOptions(repeats=0, memory=False))


def test_opencv_keeps_the_threads_it_had(tiny_bundle: Bundle, pairs: Path) -> None:
    before, during = cv2.getNumThreads(), set[int]()
    cv2.setNumThreads(2)
    try:
        run_bundle(
            RunOptions(tiny_bundle.path, str(pairs)),
            on_frame=lambda record: during.add(cv2.getNumThreads()),
        )
        assert (during, cv2.getNumThreads()) == ({1}, 2)
        with pytest.raises(BundleError):
            run_bundle(RunOptions(tiny_bundle.path, str(pairs), variant="int4"))
        assert cv2.getNumThreads() == 2
    finally:
        cv2.setNumThreads(before)


def test_masks_are_not_needed_and_cannot_fail(tiny_bundle: Bundle, pairs: Path) -> None:
    cut_off(pairs / "gt" / "1.png")
    assert run_bundle(RunOptions(tiny_bundle.path, str(pairs))).summary.frames == 3


def test_a_refused_run_leaves_nothing_behind(tiny_bundle: Bundle, tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    sink = str(tmp_path / "out.mp4")
    with pytest.raises(InputError, match="limit: expected above 0"):
        run_bundle(RunOptions(tiny_bundle.path, DEMO, (sink,), stream=StreamOptions(limit=0)))
    with pytest.raises(SessionError, match="no such backend"):
        run_bundle(RunOptions(tiny_bundle.path, DEMO, (sink,), backend="tpu"))
    assert sorted(tmp_path.iterdir()) == before


def test_what_is_played_is_not_written_over(tiny_bundle: Bundle, pairs: Path) -> None:
    before = sorted(path.name for path in (pairs / "depth").iterdir())
    with pytest.raises(OutputError, match="depth"):
        run_bundle(RunOptions(tiny_bundle.path, str(pairs), (f"{pairs}/depth/",)))
    with pytest.raises(OutputError, match="rgb"):
        run_bundle(RunOptions(tiny_bundle.path, str(pairs), (f"{pairs}/rgb/out.mp4",)))
    assert sorted(path.name for path in (pairs / "depth").iterdir()) == before
    assert run_bundle(RunOptions(tiny_bundle.path, str(pairs), (f"{pairs}/masks/",))).summary.frames
