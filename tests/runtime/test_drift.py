"""Drift: a camera that still sees what was calibrated on, and ones that do not."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from edge_fusion.__main__ import app
from edge_fusion.bundle import Bundle, write_bundle
from edge_fusion.calibration.drift import DriftOptions, measure_drift
from edge_fusion.errors import BundleError, CalibrationError, InputError
from edge_fusion.frame import RgbdFrame
from edge_fusion.input_ranges import InputRanges
from edge_fusion.runtime.drift import DriftMeter
from edge_fusion.runtime.drift_watch import drift_figures
from edge_fusion.runtime.input_counter import ranges_of
from edge_fusion.runtime.run import RunOptions, run_bundle
from edge_fusion.runtime.source.demo import DemoSource
from edge_fusion.spec import DepthSpec, ModelSpec

SPEC = ModelSpec(name="mine")
SEEN = DemoSource(frames=48, seed=1, width=64, height=48)
SEEN_URI = "demo://?frames=48&seed=1&size=64x48"
Change = Callable[[RgbdFrame], RgbdFrame]


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def darker(frame: RgbdFrame) -> RgbdFrame:
    return replace(frame, rgb=frame.rgb // 8)


def farther(frame: RgbdFrame) -> RgbdFrame:
    return replace(frame, depth=np.asarray(frame.depth * 3, np.uint16))


def emptier(frame: RgbdFrame) -> RgbdFrame:
    depth = frame.depth.copy()
    depth[:, : depth.shape[1] * 3 // 4] = 0
    return replace(frame, depth=depth)


def same(frame: RgbdFrame) -> RgbdFrame:
    return frame


@pytest.fixture(scope="module")
def ranges() -> InputRanges:
    return ranges_of(list(SEEN.frames())[::2], SPEC)


def judged(ranges: InputRanges, change: Change, threshold: float | None = None) -> DriftMeter:
    meter = DriftMeter(ranges, SPEC, threshold)
    for frame in list(SEEN.frames())[1::2]:
        meter.add(change(frame))
    return meter


@pytest.mark.parametrize(
    ("change", "drifted"),
    [
        (same, set()),
        (darker, {"red", "green", "blue"}),
        (farther, {"distance"}),  # nearness is relative: it does not change
        (emptier, {"invalid"}),
    ],
)
def test_only_what_changed_is_told(ranges, change: Change, drifted: set[str]) -> None:
    found = judged(ranges, change).overall()
    told = {one.input for one in found.inputs if one.exceeded}
    assert drifted <= told
    unaffected = {"red", "green", "blue"} if change in (farther, emptier) else {"distance"}
    assert not told & unaffected - drifted
    assert found.exceeded == bool(drifted)
    if drifted:
        assert found.worst.input in drifted


def test_a_threshold_replaces_the_usual_one(ranges) -> None:
    assert {one.threshold for one in judged(ranges, same, 0.9).overall().inputs} == {0.9}
    assert judged(ranges, same, 1e-6).overall().exceeded


@pytest.mark.parametrize("threshold", [0.0, -1.0, 1.5, float("nan")])
def test_an_impossible_threshold_is_refused(ranges, threshold: float) -> None:
    with pytest.raises(InputError, match="threshold"):
        DriftMeter(ranges, SPEC, threshold)


def test_a_window_forgets(ranges) -> None:
    meter = DriftMeter(ranges, SPEC, window=12)
    frames = list(SEEN.frames())[::2]
    for frame in frames[:12]:
        meter.add(darker(frame))
    assert meter.recent().exceeded
    for frame in frames[12:]:
        meter.add(frame)
    assert not meter.recent().exceeded
    assert meter.worst is not None
    assert meter.worst.exceeded


def test_relative_depth_has_no_distance() -> None:
    relative = DepthSpec(scale_to_m=None, larger_is="farther")
    frames = [replace(frame, depth_spec=relative) for frame in SEEN.frames()]
    assert "distance" not in ranges_of(frames, SPEC).inputs


def test_no_pairs_have_no_ranges() -> None:
    with pytest.raises(CalibrationError):
        ranges_of([], SPEC)


def test_a_blind_frame_is_no_reason_to_stop(ranges) -> None:
    meter = DriftMeter(ranges, SPEC)
    blind = next(iter(SEEN.frames()))
    for _ in range(10):
        meter.add(replace(blind, depth=np.zeros_like(blind.depth)))
    found = {one.input: one for one in meter.overall().inputs}
    assert found["invalid"].clipped == 1
    assert "distance" not in found


def test_the_record_is_small_and_survives_json(ranges) -> None:
    text = ranges.model_dump_json()
    assert len(text) < 4096
    assert InputRanges.model_validate_json(text) == ranges


@pytest.fixture
def calibrated(tiny_bundle: Bundle, tmp_path: Path) -> Bundle:
    manifest = tiny_bundle.manifest
    files = {name: tiny_bundle.file(name) for name in manifest.files}
    known = ranges_of(SEEN.frames(), manifest.model)
    changed = manifest.model_copy(update={"input_ranges": known, "files": {}})
    return write_bundle(tmp_path / "calibrated", changed, files)


@pytest.fixture
def dark_pairs(tmp_path: Path) -> Path:
    folder = tmp_path / "dark"
    for name in ("rgb", "depth"):
        (folder / name).mkdir(parents=True)
    for frame in DemoSource(frames=42, seed=1, width=64, height=48).frames():
        cv2.imwrite(str(folder / "rgb" / f"{frame.number:02}.png"), darker(frame).rgb[..., ::-1])
        cv2.imwrite(str(folder / "depth" / f"{frame.number:02}.png"), frame.depth)
    depth = {"unit": "mm", "scale_to_m": 0.001, "larger_is": "farther", "invalid": 0}
    (folder / "meta.json").write_text(json.dumps({"depth": depth}))
    return folder


def test_a_run_warns_once_with_the_cure(calibrated: Bundle, dark_pairs: Path) -> None:
    notes: list[str] = []
    seen = []
    options = RunOptions(calibrated.path, str(dark_pairs), watch_drift=True)
    run = run_bundle(options, note=notes.append, on_drift=seen.append)
    assert [note for note in notes if "drift" in note] == notes
    assert len(notes) == 1
    assert "calibrate again" in notes[0]
    assert seen
    assert run.drift is not None
    assert run.drift.exceeded
    assert run.as_dict()["drift"]["overall"]["inputs"]["red"]["exceeded"]
    assert run.summary.sinks == ()  # it writes nothing


def test_a_run_that_is_not_watched_says_nothing(calibrated: Bundle, dark_pairs: Path) -> None:
    run = run_bundle(RunOptions(calibrated.path, str(dark_pairs)))
    assert run.drift is None
    assert "drift" not in run.as_dict()


def test_an_older_bundle_says_what_to_do(tiny_bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="build it again, or name the calibration set"):
        run_bundle(RunOptions(tiny_bundle.path, SEEN_URI, watch_drift=True))


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ((), 0),
        (("--watch-drift",), 0),
        (("--watch-drift=0.9",), 0),
        (("--fail-on-drift",), 1),
        (("--watch-drift=much",), 2),
        (("--watch-drift=7",), 2),
    ],
)
def test_the_command_line_watches(
    calibrated: Bundle, dark_pairs: Path, tmp_path: Path, options: tuple[str, ...], status: int
) -> None:
    masks = f"{tmp_path}/masks/"  # a word after the option stays a sink
    result = invoke("run", calibrated.path, dark_pairs, *options, masks)
    assert result.exit_code == status, result.output
    assert "Traceback" not in result.output
    if status < 2:
        assert len(list(Path(masks).iterdir())) == 42
        assert ("drift" in result.output) == bool(options)


def test_a_threshold_without_its_sign_is_no_sink(calibrated: Bundle) -> None:
    result = invoke("run", calibrated.path, SEEN_URI, "--watch-drift", "0.3")
    assert result.exit_code == 2
    assert "write --watch-drift=0.3" in result.stderr
    assert not Path("0.3").exists()


def test_the_newest_judgement_is_there_for_a_page(ranges: InputRanges) -> None:
    meter = DriftMeter(ranges, SPEC)
    assert drift_figures(meter) is None
    for frame in SEEN.frames():
        meter.add(darker(frame))
    figures = drift_figures(meter)
    assert figures is not None
    assert figures["exceeded"]
    assert figures["text"] == str(meter.worst.worst if meter.worst else None)
    json.dumps(figures, allow_nan=False)


def test_calib_drift_holds_a_source_against_a_bundle_and_a_set(
    calibrated: Bundle, dark_pairs: Path
) -> None:
    for reference in (str(calibrated.path), SEEN_URI):
        assert not measure_drift(DriftOptions(reference, SEEN_URI)).exceeded
        assert measure_drift(DriftOptions(reference, str(dark_pairs))).exceeded


def test_calib_drift_on_the_command_line(
    calibrated: Bundle, dark_pairs: Path, tmp_path: Path
) -> None:
    told = tmp_path / "drift.json"
    result = invoke("calib", "drift", calibrated.path, dark_pairs, "--fail", "--json", told)
    assert result.exit_code == 1
    content = json.loads(told.read_text())
    assert content["exceeded"]
    assert content["frames"] == 42
    assert invoke("calib", "drift", calibrated.path, SEEN_URI, "--fail").exit_code == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("nowhere", SEEN_URI),
        (SEEN_URI, "nowhere"),
        (SEEN_URI, SEEN_URI, "--threshold", "2"),
        (SEEN_URI, SEEN_URI, "--layers"),
    ],
)
def test_bad_input_is_one_message(arguments: tuple[str, ...]) -> None:
    result = invoke("calib", "drift", *arguments)
    assert result.exit_code == 2
    assert "error:" in result.output
    assert "Traceback" not in result.output


def test_a_damaged_frame_is_counted(calibrated: Bundle, dark_pairs: Path) -> None:
    (dark_pairs / "rgb" / "00.png").write_bytes(b"no picture")
    report = measure_drift(DriftOptions(str(calibrated.path), str(dark_pairs), limit=12))
    assert (report.unusable, report.summary.overall.frames) == (1, 11)
