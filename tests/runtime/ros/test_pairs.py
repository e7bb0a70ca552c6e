from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edge_fusion.errors import FrameError, SourceError
from edge_fusion.frame import Intrinsics
from edge_fusion.runtime.ros.camera import FrameTree
from edge_fusion.runtime.ros.fields import camera_info_fields, header_fields, image_fields
from edge_fusion.runtime.ros.pairs import PairPlan, Streams, pair_id, plan_pairs
from edge_fusion.spec import DepthSpec

COLOR, DEPTH = "/camera/color/image_raw", "/camera/depth/image_raw"
CAMERA = Intrinsics(60.0, 60.0, 31.5, 23.5)
MILLIMETRES = DepthSpec(scale_to_m=0.001)


def message(fields: dict[str, Any]) -> Any:
    nested = {k: message(v) if isinstance(v, dict) else v for k, v in fields.items()}
    return SimpleNamespace(**nested)


def picture(frame_id: str = "color", size: tuple[int, int] = (48, 64)) -> Any:
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (*size, 3), np.uint8)
    return message(image_fields(rgb, "rgb8", header_fields(5, frame_id)))


def distances(
    frame_id: str = "color",
    size: tuple[int, int] = (48, 64),
    encoding: str = "16UC1",
    value: float = 2000,
) -> Any:
    dtype = {"16UC1": np.uint16, "mono16": np.uint16, "32FC1": np.float32, "mono8": np.uint8}
    depth = np.full(size, value, dtype[encoding])
    depth[0, 0] = 0
    return message(image_fields(depth, encoding, header_fields(6, frame_id)))


def info(camera: Intrinsics = CAMERA, size: tuple[int, int] = (48, 64)) -> Any:
    return message(camera_info_fields(camera, size, header_fields(5, "color")))


def tree_of(shift_m: float) -> FrameTree:
    tree = FrameTree()
    motion = np.eye(4)
    motion[0, 3] = shift_m
    tree.link("color", "depth", motion)
    return tree


def frame_of(plan: PairPlan, color: Any, depth: Any) -> Any:
    return plan.frame(color, depth, number=3, timestamp_ns=1_000_000_005, arrival_ns=9)


@pytest.mark.parametrize(
    ("depth_frame", "topic", "registered"),
    [
        ("color", DEPTH, False),  # one frame_id
        ("depth", "/camera/aligned_depth_to_color/image_raw", False),
        ("depth", "/camera/depth_registered/image_raw", False),
        ("depth", "/camera/registered/image_raw", False),
        ("depth", "/camera/aligned_depth_to_color/image_raw/compressedDepth", False),
        ("depth", DEPTH, True),  # the user says so
    ],
)
def test_registered_depth_is_left_alone(depth_frame: str, topic: str, registered: bool) -> None:
    streams = Streams(COLOR, topic, color_info=info(), registered=registered)
    color, depth = picture(), distances(depth_frame)
    plan = plan_pairs(streams, color, depth)
    assert plan.registration is None
    frame = frame_of(plan, color, depth)
    assert frame.depth.tobytes() == depth.data.tobytes()
    assert frame.depth_spec == MILLIMETRES
    assert frame.intrinsics == CAMERA
    assert (frame.id, frame.number) == ("1.000000005", 3)
    assert (frame.timestamp_ns, frame.arrival_ns) == (1_000_000_005, 9)


@pytest.mark.parametrize(
    ("frame_ids", "topic"),
    [
        (("", ""), DEPTH),  # nobody has said which frame it is
        (("color", "infra1"), "/camera/aligned_depth_to_infra1/image_raw"),
        (("color", "depth"), "/camera/depth/image_unregistered"),
        (("color", "depth"), "/camera/unregistered/image_raw"),
    ],
)
def test_what_does_not_say_registered_to_colour_is_not_taken_for_it(
    frame_ids: tuple[str, str], topic: str
) -> None:
    streams = Streams(COLOR, topic, color_info=info(), depth_info=info())
    with pytest.raises(SourceError, match="is not registered .*got no static transform from"):
        plan_pairs(streams, picture(frame_ids[0]), distances(frame_ids[1]))


def test_without_camera_info_there_are_no_intrinsics() -> None:
    plan = plan_pairs(Streams(COLOR, DEPTH), picture(), distances())
    assert frame_of(plan, picture(), distances()).intrinsics is None


def test_other_depth_is_registered() -> None:
    half = Intrinsics(30.0, 30.0, 15.5, 11.5)
    streams = Streams(
        COLOR, DEPTH, color_info=info(), depth_info=info(half, (24, 32)), tree=lambda: tree_of(0.1)
    )
    color, depth = picture(), distances("depth", (24, 32))
    frame = frame_of(plan_pairs(streams, color, depth), color, depth)
    assert frame.depth.shape == (48, 64)
    assert frame.depth.dtype == np.uint16
    # 0.1 m to the right at 2 m and a focal length of 60 pixels: 3 pixels stay empty on the left.
    assert not frame.depth[:, :2].any()
    assert (frame.depth[8:-8, 8:-8] == 2000).all()


def test_another_value_for_no_reading_survives_registration() -> None:
    depth = distances("depth")
    depth.data.view(np.uint16)[:] = 2000
    depth.data.view(np.uint16)[: 20 * 64] = 65535
    streams = Streams(
        COLOR,
        DEPTH,
        color_info=info(),
        depth_info=info(),
        tree=lambda: tree_of(0.1),
        declared={"invalid": 65535.0},
    )
    frame = frame_of(plan_pairs(streams, picture(), depth), picture(), depth)
    assert frame.depth_spec.invalid == 65535
    assert set(np.unique(frame.depth)) == {2000, 65535}
    assert not frame.valid[5].any()
    assert frame.valid[30, 30]


@pytest.mark.parametrize(
    ("streams", "missing"),
    [
        (
            Streams(COLOR, DEPTH),
            f"no calibrated CameraInfo of '{COLOR}', no calibrated CameraInfo of '{DEPTH}', "
            "no static transform from 'depth' to 'color'",
        ),
        (
            Streams(COLOR, DEPTH, color_info=info(), depth_info=info()),
            "got no static transform from 'depth' to 'color'",
        ),
        (
            Streams(COLOR, DEPTH, color_info=info(), tree=lambda: tree_of(0.0)),
            f"got no calibrated CameraInfo of '{DEPTH}'",
        ),
        (
            Streams(
                COLOR,
                DEPTH,
                color_info=info(),
                depth_info=info(),
                tree=lambda: tree_of(0.0),
                declared={"scale_to_m": None, "larger_is": "nearer"},
            ),
            "got no metric unit",
        ),
    ],
)
def test_what_is_missing_to_register_is_named(streams: Streams, missing: str) -> None:
    with pytest.raises(SourceError, match="is not registered to colour") as caught:
        plan_pairs(streams, picture(), distances("depth"))
    assert missing in str(caught.value)
    assert "say registered=1" in str(caught.value)


def test_depth_of_8_bits_is_refused_where_it_would_have_to_be_registered() -> None:
    streams = Streams(
        COLOR,
        DEPTH,
        color_info=info(),
        depth_info=info(),
        tree=lambda: tree_of(0.1),
        declared={"scale_to_m": 0.01},
    )
    depth = distances("depth", encoding="mono8", value=200)
    with pytest.raises(SourceError, match="16 bits or float32, got readings of only 8 bits; "):
        plan_pairs(streams, picture(), depth)
    aligned = distances("color", encoding="mono8", value=200)
    assert plan_pairs(streams, picture(), aligned).depth_spec == DepthSpec(scale_to_m=0.01)


def test_depth_of_another_size_cannot_be_declared_registered() -> None:
    streams = Streams(COLOR, DEPTH, registered=True)
    with pytest.raises(SourceError, match=r"\(32x24, frame 'color'\)") as caught:
        plan_pairs(streams, picture(), distances("color", (24, 32)))
    assert "registered=1" not in str(caught.value)


@pytest.mark.parametrize(
    ("encoding", "declared", "spec"),
    [
        ("16UC1", {}, MILLIMETRES),
        ("32FC1", {}, DepthSpec(scale_to_m=1.0)),
        ("16UC1", {"scale_to_m": 0.0001}, DepthSpec(scale_to_m=0.0001)),  # against REP 118
        ("16UC1", {"invalid": 65535.0}, DepthSpec(scale_to_m=0.001, invalid=65535)),
        ("mono16", {"scale_to_m": 0.001}, MILLIMETRES),
        (
            "mono8",
            {"scale_to_m": None, "larger_is": "nearer"},
            DepthSpec(scale_to_m=None, larger_is="nearer"),
        ),
    ],
)
def test_the_unit_is_that_of_rep_118_or_declared(
    encoding: str, declared: Any, spec: DepthSpec
) -> None:
    streams = Streams(COLOR, DEPTH, declared=declared)
    depth = distances(encoding=encoding, value=2)
    assert plan_pairs(streams, picture(), depth).depth_spec == spec


@pytest.mark.parametrize("encoding", ["mono16", "mono8"])
def test_a_unit_that_nothing_tells_is_not_guessed(encoding: str) -> None:
    depth = distances(encoding=encoding, value=2)
    with pytest.raises(SourceError, match=f"got '{encoding}'; declare it: unit=mm"):
        plan_pairs(Streams(COLOR, DEPTH), picture(), depth)


def test_relative_depth_needs_a_polarity() -> None:
    with pytest.raises(SourceError, match="relative depth without a polarity"):
        plan_pairs(Streams(COLOR, DEPTH, declared={"scale_to_m": None}), picture(), distances())


def with_unknown_lens() -> Any:
    told = info()
    told.distortion_model, told.d = "equidistant", np.full(4, 0.1)
    return told


BAD_INFOS = [
    (info(size=(96, 128)), "expected 64x48, got 128x96; name the topic"),
    (info(Intrinsics(60.0, 60.0, 900.0, 23.5)), "this calibration of a camera is impossible"),
    (with_unknown_lens(), "has an unknown lens"),
]


@pytest.mark.parametrize(("bad", "told"), BAD_INFOS)
def test_a_calibration_of_no_use_is_told_where_depth_has_to_be_registered(
    bad: Any, told: str
) -> None:
    streams = Streams(COLOR, DEPTH, color_info=bad, depth_info=info(), tree=lambda: tree_of(0.1))
    with pytest.raises(SourceError, match=told):
        plan_pairs(streams, picture(), distances("depth"))


@pytest.mark.parametrize(("bad", "told"), BAD_INFOS)
def test_a_calibration_of_no_use_is_ignored_where_nothing_stands_on_it(bad: Any, told: str) -> None:
    plan = plan_pairs(Streams(COLOR, DEPTH, color_info=bad), picture(), distances())
    assert re.search(told, plan.ignored)
    assert frame_of(plan, picture(), distances()).intrinsics is None
    assert (
        plan_pairs(Streams(COLOR, DEPTH, color_info=info()), picture(), distances()).ignored == ""
    )


def test_a_stream_that_changes_spoils_its_frame_alone() -> None:
    plan = plan_pairs(Streams(COLOR, DEPTH), picture(), distances())
    with pytest.raises(FrameError, match="changed its encoding: expected 16UC1, got 32FC1"):
        frame_of(plan, picture(), distances(encoding="32FC1", value=2))
    with pytest.raises(FrameError, match="does not fit its colour image"):
        frame_of(plan, picture(size=(24, 32)), distances())
    assert frame_of(plan, picture(), distances()).valid.any()


def test_pairs_are_named_by_their_stamp() -> None:
    assert pair_id(12_000_000_034) == "12.000000034"
