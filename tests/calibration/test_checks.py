from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edge_fusion.calibration.check_rules import Judged
from edge_fusion.calibration.check_set import check_source, statistics_for
from edge_fusion.calibration.checks import CHECKS, Finding, check_pairs, refuse_errors
from edge_fusion.calibration.measure import measure
from edge_fusion.calibration_file import PairRecord
from edge_fusion.errors import CalibrationError
from edge_fusion.frame import RgbdFrame
from edge_fusion.input_statistics import statistics_of
from edge_fusion.spec import DepthSpec
from tests.calibration.planted import (
    CLEAN,
    COUNT,
    Plant,
    only,
    scenes,
    with_depth,
    with_rgb,
    write_pairs,
)

MILLIMETRES = DepthSpec(scale_to_m=0.001)


def grey_of_depth(index: int, frame: RgbdFrame) -> RgbdFrame:
    near = np.clip(255 - frame.depth.astype(np.float32) / 40, 0, 255).astype(np.uint8)
    return replace(frame, rgb=np.repeat(near[..., None], 3, axis=2))


def exchanged(index: int, frame: RgbdFrame) -> RgbdFrame:
    """Colour is the depth map, depth the photograph, both as grey pictures."""
    grey = np.asarray(cv2.cvtColor(frame.rgb, cv2.COLOR_RGB2GRAY), np.uint8)
    spec = DepthSpec(scale_to_m=None, larger_is="farther", invalid=None)
    return replace(grey_of_depth(index, frame), depth=grey, depth_spec=spec)


def inverted(index: int, frame: RgbdFrame) -> RgbdFrame:
    """Inverse depth, stored as if it were millimetres."""
    valid = frame.depth > 0
    inverse = np.where(valid, 4e6 / np.maximum(frame.depth, 1), 0).clip(0, 60000)
    return replace(frame, depth=inverse.astype(np.uint16))


def in_metres(index: int, frame: RgbdFrame) -> RgbdFrame:
    return replace(frame, depth=(frame.depth / 1000).astype(np.float32))


def tenths(index: int, frame: RgbdFrame) -> RgbdFrame:
    return replace(
        frame, depth=np.minimum(frame.depth.astype(np.uint32) * 10, 65534).astype(np.uint16)
    )


def eight_bits(index: int, frame: RgbdFrame) -> RgbdFrame:
    return replace(frame, depth=(frame.depth // 40).clip(0, 255).astype(np.uint16))


def undeclared(index: int, frame: RgbdFrame) -> RgbdFrame:
    depth = frame.depth.copy()
    depth[: frame.depth.shape[0] // 2] = 65535
    return replace(frame, depth=depth)


def first_again(index: int, frame: RgbdFrame) -> RgbdFrame:
    return scenes(1)[0] if index == COUNT - 1 else frame


def aside(depth: Any) -> Any:
    return np.roll(depth, 4, axis=1)


def wall(depth: Any) -> Any:
    return np.full_like(depth, 1500)


def few_readings(share: float) -> Plant:
    return with_depth(
        lambda d: np.where(np.arange(d.shape[1]) < d.shape[1] * share, d, 0).astype(np.uint16)
    )


#: check, what is planted, what meta.json says besides, and the message.
PLANTED: list[tuple[str, Plant, dict[str, Any], str]] = [
    ("registration", lambda i, f: f, {"registered": False}, "not registered to colour"),
    ("shifted", with_depth(aside), {}, r"lies about \+[345] columns and \+0 rows beside colour"),
    ("no-depth", only(4)(with_depth(np.zeros_like)), {}, r"pair '004': no valid reading"),
    ("unit", in_metres, {}, r"16 pairs.*: a median distance of 0\.00\d+ m.*is it m rather"),
    ("8-bit", eight_bits, {}, r"nothing in the whole set is farther than 0\.[12]\d+ m"),
    ("swapped", exchanged, {}, "colour is grey and smooth, depth is rich in detail"),
    ("grey-depth", grey_of_depth, {}, "the colour image is the depth map in grey"),
    ("dark", only(2)(with_rgb(0)), {}, r"pair '002': colour is black"),
    ("bright", only(3)(with_rgb(255)), {}, r"pair '003': colour is blown out"),
    ("blurred", only(5)(with_rgb(90)), {}, r"pair '005': colour shows nothing"),
    ("flat-depth", only(6)(with_depth(wall)), {}, "'006': depth is constant"),
    ("saturated", undeclared, {}, "a large part of depth is one largest value"),
    ("holes", only(7)(few_readings(0.05)), {}, "'007': more than 90% of depth has no reading"),
    ("holes", few_readings(0.15), {}, r"half of all pairs have no reading in 8\d% of depth"),
    ("far", tenths, {}, r"half of all pairs show nothing nearer than \d+\.?\d* m"),
    ("polarity", inverted, {}, r"get farther towards their lower edge \(median correlation -0"),
    ("duplicates", first_again, {}, r"1 of 16 pairs show nearly the same.*'015' and '000'"),
]  # fmt: skip


def found(findings: Sequence[Finding]) -> dict[str, Finding]:
    return {finding.check: finding for finding in findings}


@pytest.mark.parametrize(
    ("check", "plant", "meta", "message"),
    PLANTED,
    ids=[f"{row[0]}-{index}" for index, row in enumerate(PLANTED)],
)
def test_every_planted_fault_is_found(
    tmp_path: Path, check: str, plant: Plant, meta: dict[str, Any], message: str
) -> None:
    folder = write_pairs(tmp_path / "set", scenes(), plant=plant, **meta)
    findings = found(check_source(str(folder)).findings)
    assert check in findings
    finding = findings[check]
    assert re.search(message, finding.message), finding.message
    rows = {row.id: row for row in CHECKS}
    assert (finding.severity, finding.cure) == (rows[check].severity, rows[check].cure)


def test_a_clean_set_passes_with_nothing() -> None:
    assert check_source(CLEAN).findings == ()


def test_what_cannot_be_read_is_a_finding_with_its_pair(tmp_path: Path) -> None:
    folder = write_pairs(tmp_path / "set", scenes())
    damaged = folder / "rgb" / "004.png"
    damaged.write_bytes(damaged.read_bytes()[:200])
    smaller = folder / "depth" / "005.png"
    image = cv2.imread(str(smaller), cv2.IMREAD_UNCHANGED)
    assert image is not None
    cv2.imwrite(str(smaller), image[:-8])
    report = check_source(str(folder))
    assert (report.failed, report.pairs) == (True, COUNT - 2)
    named = {name: f.message for f in report.findings if f.check == "unusable" for name in f.pairs}
    assert "cut off before its end" in named["'004'"]
    assert "does not fit its colour image" in named["'005'"]


def judged(items: Sequence[PairRecord], **changes: Any) -> dict[str, Finding]:
    return found(check_pairs(Judged(items, MILLIMETRES, "uint16", **changes)))


@pytest.fixture(scope="module")
def clean() -> list[PairRecord]:
    return [measure(frame) for frame in scenes()]


def at(items: Sequence[PairRecord], times_s: Sequence[float]) -> list[PairRecord]:
    return [
        item.model_copy(update={"timestamp_ns": int(time * 1e9)})
        for item, time in zip(items, times_s, strict=True)
    ]


@pytest.mark.parametrize(
    ("check", "times_s"),
    [
        ("order", [5, 4, *range(6, COUNT + 4)]),  # two files in each other's place
        ("same-time", [5, 6, 6, *range(7, COUNT + 4)]),  # a pair that was stored twice
        ("gap", [*range(5, COUNT + 4), 500]),  # the camera was gone
    ],
)
def test_times_that_cannot_be(clean: list[PairRecord], check: str, times_s: list[float]) -> None:
    assert check not in judged(at(clean, range(5, COUNT + 5)))
    finding = judged(at(clean, times_s))[check]
    assert len(finding.pairs) == 1


def test_a_gap_is_no_loss_where_pairs_were_left_out(clean: list[PairRecord]) -> None:
    late = at(clean, [*range(5, COUNT + 4), 500])
    assert "gap" not in judged(late, whole=False)


def test_each_source_has_its_own_clock(clean: list[PairRecord]) -> None:
    half = COUNT // 2
    times = [*range(100, 100 + half), *range(1, 1 + half)]
    items = [
        item.model_copy(update={"source": int(index >= half)})
        for index, item in enumerate(at(clean, times))
    ]
    assert judged(items) == {}


def test_few_and_many(clean: list[PairRecord]) -> None:
    assert judged(clean[:3])["few"].message == "3 pairs are few"
    assert "few" not in judged(clean[:3], pooled=20)
    many = [
        item.model_copy(update={"rgb_hash": f"{n:016x}", "depth_hash": f"{n * 977**4:016x}"[-16:]})
        for n, item in enumerate(clean * 70)
    ]
    assert "many" in judged(many)


def test_a_set_unlike_the_training_inputs(clean: list[PairRecord]) -> None:
    known = statistics_of(clean, "these very scenes")
    assert judged(clean, statistics=known) == {}
    dark = [
        item.model_copy(update={"rgb": item.rgb.model_copy(update={"mean": (0.01, 0.01, 0.01)})})
        for item in clean
    ]
    message = judged(dark, statistics=known)["unlike-training"].message
    assert message.startswith("mean brightness of colour: a median of 0.010, where 98 %")
    flat = tuple([1.0] + [0.0] * 15)
    far = [
        item.model_copy(update={"depth": item.depth.model_copy(update={"nearness": flat})})
        for item in clean
    ]
    messages = [
        f.message for f in check_pairs(Judged(far, MILLIMETRES, "uint16", statistics=known))
    ]
    assert any("nearness is distributed otherwise" in message for message in messages)


def test_the_statistics_of_our_model_come_with_it(tmp_path: Path) -> None:
    assert statistics_for(None) is None
    known = statistics_for("mutualformer-mobilenetv2")
    assert known is not None
    assert known.pairs >= 100
    record = tmp_path / "own.json"
    record.write_text(known.model_dump_json())
    assert statistics_for(str(record)) == known
    with pytest.raises(CalibrationError, match="nothing is known of the inputs that somebody's"):
        statistics_for("somebody's")
    record.write_text(json.dumps({"pairs": 3}))
    with pytest.raises(CalibrationError, match="is no record of a model's inputs"):
        statistics_for(str(record))


def test_errors_stop_and_the_first_is_told() -> None:
    finding = Finding(check="unit", severity="error", message="m", cure="c")
    warning = Finding(check="few", severity="warning", message="w", cure="c")
    refuse_errors("s", [warning])
    with pytest.raises(CalibrationError, match=r"calibration set s: m \(and 1 more errors\); c"):
        refuse_errors("s", [finding, finding])


def test_a_check_has_an_id_a_cure_and_a_place_in_the_tests() -> None:
    planted = {row[0] for row in PLANTED}
    elsewhere = {"unusable", "order", "same-time", "gap", "few", "many", "unlike-training"}
    assert {check.id for check in CHECKS} == planted | elsewhere
    assert len({check.id for check in CHECKS}) == len(CHECKS)
    assert all(check.cure and check.what for check in CHECKS)


#: What is true of the real sets, by looking at them.
REAL: dict[str, set[str]] = {
    "streams/hololens_office": set(),
    "streams/d435_robot_lab": {"duplicates"},  # the robot stands still for five frames
    "pothole_d2": set(),
    "gqcnn_phoxi_bin": {"few"},
    "gqcnn_primesense": set(),
    "tabletop_uois": {"few"},
    "tabletop_ycb_realsense": {"few"},
    "uw_rgbd_objects": {"few", "duplicates"},  # a turntable that hardly turned
}


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_no_false_alarm_on_real_sets(real_data: Path, name: str) -> None:
    report = check_source(str(real_data / name))
    assert {finding.check for finding in report.findings} == REAL[name]


@pytest.mark.slow
def test_real_sets_are_like_the_training_inputs(real_data: Path) -> None:
    known = statistics_for("mutualformer-mobilenetv2")
    report = check_source(str(real_data / "tabletop_uois"), known)
    assert "unlike-training" not in {finding.check for finding in report.findings}
