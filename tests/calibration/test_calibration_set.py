from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_fusion.calibration.calibration_set import (
    CalibrationOptions,
    load_calibration_set,
)
from edge_fusion.calibration.measure import frame_sha256
from edge_fusion.errors import CalibrationError
from edge_fusion.frame import RgbdFrame
from edge_fusion.runtime.source.uri import open_stored
from edge_fusion.spec import DepthSpec, ModelSpec

SPEC = ModelSpec(name="m", height=32, width=32)
DEMO = "demo://?frames=8&size=64x48"


def test_the_choice_is_recorded_and_repeats() -> None:
    options = CalibrationOptions((DEMO,), count=3, seed=5)
    first, second = (load_calibration_set(options, SPEC) for _ in range(2))
    assert first.record == second.record
    assert (len(first.samples), first.record.available, first.record.seed) == (3, 8, 5)
    other = load_calibration_set(CalibrationOptions((DEMO,), count=3, seed=6), SPEC)
    assert other.record.sha256 != first.record.sha256


def test_samples_are_what_the_model_takes() -> None:
    chosen = load_calibration_set(CalibrationOptions((DEMO,), count=2), SPEC)
    for sample in chosen.samples:
        assert {name: value.shape for name, value in sample.items()} == {
            tensor.name: tensor.shape for tensor in SPEC.inputs
        }


def test_several_sets_are_pooled(pairs: Path) -> None:
    chosen = load_calibration_set(CalibrationOptions((DEMO, str(pairs)), count=99), SPEC)
    assert chosen.record.available == len(chosen.record.items) == 11
    assert len({item.source for item in chosen.record.items}) == 2


def test_progress_counts_every_pair() -> None:
    seen: list[tuple[int, int]] = []
    load_calibration_set(
        CalibrationOptions((DEMO,), count=3), SPEC, lambda done, total: seen.append((done, total))
    )
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_any_changed_pixel_unit_or_shape_changes_the_hash() -> None:
    rgb = np.zeros((4, 6, 3), np.uint8)
    depth = np.ones((4, 6), np.uint16)
    metric = DepthSpec(scale_to_m=0.001)
    hashes = {frame_sha256(RgbdFrame(rgb, depth, metric, "a"))}
    for changed in (rgb, depth):
        changed.flat[7] += 1
        hashes.add(frame_sha256(RgbdFrame(rgb, depth, metric, "a")))
    hashes.add(frame_sha256(RgbdFrame(rgb, depth, DepthSpec(scale_to_m=0.01), "a")))
    hashes.add(frame_sha256(RgbdFrame(rgb.reshape(6, 4, 3), depth.reshape(6, 4), metric, "a")))
    assert len(hashes) == 5


def test_the_name_of_a_pair_is_not_part_of_its_hash() -> None:
    frame = open_stored(DEMO)[0]
    renamed = RgbdFrame(frame.rgb, frame.depth, frame.depth_spec, "another")
    assert frame_sha256(frame) == frame_sha256(renamed)


def test_no_set_says_how_to_make_one() -> None:
    with pytest.raises(CalibrationError, match=r"need a calibration set.*rgb/, depth/.*unit=mm"):
        CalibrationOptions(())


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        ("unpaired", r"files have no depth image of the same name: got rgb/1\.png;"),
        ("size", r"depth of '1' does not fit its colour image.*register depth"),
        ("blind", r"depth of '1': no valid reading"),
        ("swapped", r"colour image '.*/rgb/0\.png'.*streams swapped"),
        (
            "8-bit",
            r"depth '.*/depth/0\.png': expected uint16, as meta\.json declares, got uint8;",
        ),
        (
            "8-bit millimetres",
            r"depth of '0' is 8-bit but declared as 0\.001 m per unit.*unit=relative",
        ),
        ("truncated", r"pair 1: cannot decode '.*/depth/1\.png': got a file cut off"),
        ("no meta", r"the unit of its depth is not declared; declare it: .*unit=mm"),
    ],
)
def test_damage_is_named_with_its_cure(pairs: Path, damage: str, complaint: str) -> None:
    depth = pairs / "depth" / "1.png"
    image = cv2.imread(str(depth), cv2.IMREAD_UNCHANGED)
    assert image is not None
    if damage == "unpaired":
        depth.unlink()
    elif damage == "size":
        cv2.imwrite(str(depth), image[:-4])
    elif damage == "blind":
        cv2.imwrite(str(depth), np.zeros_like(image))
    elif damage == "swapped":
        (pairs / "depth").rename(pairs / "was-depth")
        (pairs / "rgb").rename(pairs / "depth")
        (pairs / "was-depth").rename(pairs / "rgb")
    elif damage.startswith("8-bit"):
        if damage == "8-bit millimetres":  # what the set says of itself agrees, and is absurd
            meta = (pairs / "meta.json").read_text()
            (pairs / "meta.json").write_text(meta.replace("uint16", "uint8"))
        for file in (pairs / "depth").iterdir():
            wide = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
            assert wide is not None
            cv2.imwrite(str(file), (wide // 40).astype(np.uint8))
    elif damage == "truncated":
        depth.write_bytes(depth.read_bytes()[:300])
    elif damage == "no meta":
        (pairs / "meta.json").unlink()
    with pytest.raises(CalibrationError, match=complaint):
        load_calibration_set(CalibrationOptions((str(pairs),)), SPEC)


def test_masks_are_not_needed_and_cannot_fail(pairs: Path) -> None:
    expected = load_calibration_set(CalibrationOptions((str(pairs),)), SPEC).record
    (pairs / "gt" / "1.png").write_bytes(b"damaged")
    (pairs / "gt" / "of nothing.png").write_bytes(b"")
    assert load_calibration_set(CalibrationOptions((str(pairs),)), SPEC).record == expected


def test_two_globs_with_the_depth_declared(pairs: Path) -> None:
    (pairs / "meta.json").unlink()
    (pairs / "rgb").rename(pairs / "colour")
    uri = f"folder://{pairs}?rgb=colour/*.png&depth=depth/*.png&unit=mm"
    assert len(load_calibration_set(CalibrationOptions((uri,)), SPEC).samples) == 3


def test_real_sets_are_usable(real_data: Path) -> None:
    sources = tuple(
        str(real_data / "streams" / name) for name in ("hololens_office", "d435_robot_lab")
    )
    chosen = load_calibration_set(CalibrationOptions(sources, count=6), SPEC)
    assert chosen.record.available == 95
