from __future__ import annotations

import hashlib
import time

import numpy as np
import pytest

from edge_fusion.errors import SourceError
from edge_fusion.frame import RgbdFrame
from edge_fusion.runtime.source.base import StoredSource
from edge_fusion.runtime.source.demo import NOISES, DemoSource, scene_frame
from edge_fusion.runtime.source.invent import random_scene
from edge_fusion.runtime.source.noise import SENSORS
from edge_fusion.runtime.source.render import Renderer
from edge_fusion.runtime.source.texture import PATTERNS, TILE, VARIANTS, pattern

SMALL = {"width": 96, "height": 72}
SEEDS = range(24)


def digest(frame: RgbdFrame) -> str:
    assert frame.mask is not None
    parts = (frame.rgb, frame.depth, frame.mask)
    return hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()


def test_frames_depend_only_on_seed_and_number() -> None:
    source = DemoSource(frames=8, seed=5, **SMALL)
    in_order = [digest(frame) for frame in source.frames()]
    assert len(set(in_order)) == 8
    assert digest(source[5]) == in_order[5]
    assert digest(DemoSource(frames=300, seed=5, **SMALL)[5]) == in_order[5]
    assert digest(scene_frame(5, 96, 72, "stereo", index=5)) == in_order[5]
    assert [digest(DemoSource(frames=8, seed=5, **SMALL)[i]) for i in (7, 0)] == [
        in_order[7],
        in_order[0],
    ]


def test_seeds_and_sensors_differ() -> None:
    assert len({digest(scene_frame(seed, 96, 72)) for seed in SEEDS}) == len(SEEDS)
    depths = {noise: scene_frame(1, 96, 72, noise).depth.tobytes() for noise in SENSORS}  # type: ignore[arg-type]
    assert len(set(depths.values())) == len(SENSORS)
    assert scene_frame(1, 96, 72).depth.tobytes() in depths.values()  # mixed is one of them


def test_mixed_uses_every_real_sensor() -> None:
    used = {
        noise
        for seed in range(12)
        for noise in ("stereo", "structured", "tof")
        if np.array_equal(
            scene_frame(seed, 48, 36).depth,
            scene_frame(seed, 48, 36, noise).depth,  # type: ignore[arg-type]
        )
    }
    assert used == {"stereo", "structured", "tof"}


def test_a_frame_is_what_it_says() -> None:
    source = DemoSource(frames=4, seed=2, fps=15, **SMALL)
    frame = source[3]
    assert isinstance(source, StoredSource)
    assert (len(source), source.live) == (4, False)
    assert (frame.id, frame.number, frame.timestamp_ns) == ("demo-2-00003", 3, 200_000_000)
    assert (frame.rgb.shape, frame.rgb.dtype) == ((72, 96, 3), np.uint8)
    assert (frame.depth.shape, frame.depth.dtype) == ((72, 96), np.uint16)
    assert frame.depth_spec.scale_to_m == 0.001
    assert frame.intrinsics is not None
    assert frame.intrinsics.cx == 47.5
    with pytest.raises(IndexError, match="demo frame 4 of 4"):
        source[4]


@pytest.mark.parametrize("noise", NOISES)
def test_mask_is_exactly_what_the_things_cover(noise: str) -> None:
    """Where the mask is set the true scene is nearer than the same scene without things."""
    for seed in SEEDS:
        frame = scene_frame(seed, 96, 72, noise)  # type: ignore[arg-type]
        seen = Renderer(random_scene(seed), 96, 72).at(0.0)
        assert frame.mask is not None
        np.testing.assert_array_equal(frame.mask, seen.mask)
        np.testing.assert_array_equal(seen.mask, seen.depth_m < seen.background_m)


def test_depth_is_the_true_depth_of_the_scene() -> None:
    for seed in SEEDS:
        truth = Renderer(random_scene(seed), 96, 72).at(0.0)
        exact = scene_frame(seed, 96, 72, "none")
        np.testing.assert_allclose(exact.depth / 1000, truth.depth_m, atol=6e-4)
        noisy = scene_frame(seed, 96, 72)
        valid = noisy.depth > 0
        error = np.abs(noisy.depth[valid] / 1000 - truth.depth_m[valid]) / truth.depth_m[valid]
        assert np.median(error) < 0.03


def test_the_camera_stays_in_the_room_and_things_above_the_floor() -> None:
    for seed in range(60):
        scene = random_scene(seed)
        renderer = Renderer(scene, 48, 36)
        for seconds in (0.0, 4.0, 9.0):
            seen = renderer.at(seconds)
            assert np.isfinite(seen.depth_m).all()
            assert (seen.depth_m > 0).all()
        for thing in scene.things:
            assert thing.place[1] - abs(thing.sway.amplitude[1]) >= 0


def test_scenes_are_varied_and_not_solved_by_one_cue() -> None:
    frames = [scene_frame(seed, 96, 72) for seed in range(120)]
    foreground = np.array([frame.mask.mean() for frame in frames if frame.mask is not None])
    invalid = np.array([(frame.depth == 0).mean() for frame in frames])
    assert (foreground > 0).all()
    assert 0.05 < np.median(foreground) < 0.25
    assert foreground.max() < 0.75
    assert 0.01 < np.median(invalid) < 0.15
    nearness = [_separation(-frame.depth.astype(float), frame, frame.depth > 0) for frame in frames]
    saturation = [
        _separation(np.ptp(frame.rgb, axis=2), frame, frame.depth > 0) for frame in frames
    ]
    for cue in (nearness, saturation):
        assert 0.6 < np.median(cue) < 0.9  # tells something
        assert np.percentile(cue, 10) < 0.6  # and is not enough


def _separation(cue: object, frame: RgbdFrame, where: object) -> float:
    """Area under the ROC curve of one cue for the mask."""
    assert frame.mask is not None
    values, mask = np.asarray(cue)[where], frame.mask[where]  # type: ignore[index]
    if mask.all() or not mask.any():
        return 0.5
    inside, outside = np.sort(values[mask]), values[~mask]
    above = inside.size - np.searchsorted(inside, outside, "right")
    equal = inside.size - np.searchsorted(inside, outside, "left") - above
    return float((above + equal / 2).mean() / inside.size)


def test_things_move_smoothly() -> None:
    source = DemoSource(frames=60, seed=1, noise="none", **SMALL)
    masks = [frame.mask for frame in source.frames()]
    overlaps = []
    for now, then in zip(masks[1:], masks, strict=False):
        assert now is not None
        assert then is not None
        overlaps.append((now & then).sum() / (now | then).sum())
    assert min(overlaps) > 0.8
    assert masks[0] is not None
    assert masks[59] is not None
    assert (masks[0] & masks[59]).sum() / (masks[0] | masks[59]).sum() < 0.95


def test_size_changes_resolution_not_content() -> None:
    small = Renderer(random_scene(3), 80, 60).at(0.0)
    large = Renderer(random_scene(3), 160, 120).at(0.0)
    shrunk = large.mask.reshape(60, 2, 80, 2).mean((1, 3))
    assert np.abs(shrunk - small.mask).mean() < 0.01
    grey = large.rgb.reshape(60, 2, 80, 2, 3).mean((1, 3))
    assert np.abs(grey - small.rgb).mean() < 12


def test_live_keeps_its_pace_and_skips_when_the_reader_is_late() -> None:
    source = DemoSource(frames=10, fps=50, live=True, width=32, height=32)
    started = time.monotonic()
    numbers = []
    for frame in source.frames():
        assert frame.arrival_ns > 0
        numbers.append(frame.number)
        if frame.number == 0:
            time.sleep(0.09)
    assert time.monotonic() - started >= 9 / 50
    assert numbers[1] >= 4
    assert numbers == sorted(set(numbers))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frames": 0}, "demo: frames: expected 1 to"),
        ({"seed": -1}, "demo: seed: expected 0 to"),
        ({"width": 31}, "demo: width: expected 32 to 4096, got 31"),
        ({"height": 5000}, "demo: height: expected 32 to 4096, got 5000"),
        ({"fps": float("nan")}, "demo: fps"),
        ({"noise": "loud"}, "demo: noise: expected one of stereo, tof"),
    ],
)
def test_bad_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(SourceError, match=message):
        DemoSource(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", PATTERNS)
def test_patterns_wrap_around_and_use_the_whole_range(name: str) -> None:
    for variant in range(VARIANTS):
        tile = pattern(name, variant).astype(int)
        assert tile.shape == (TILE, TILE)
        assert tile.min() <= 3
        assert tile.max() >= 252
        for axis in (0, 1):
            seam = np.abs(tile.take(0, axis) - tile.take(-1, axis)).mean()
            within = np.abs(np.diff(tile, axis=axis)).mean(1 - axis).max()
            assert seam <= 1.5 * within + 1, (name, variant, axis)


def test_a_cut_goes_on_to_the_next_world() -> None:
    cut = DemoSource(frames=6, seed=40, width=64, height=48, cut=2)
    ids = [frame.id for frame in cut.frames()]
    assert ids == [f"demo-{seed}-0000{moment}" for seed in (40, 41, 42) for moment in (0, 1)]
    second = DemoSource(frames=2, seed=41, width=64, height=48)[1]
    np.testing.assert_array_equal(cut[3].rgb, second.rgb)
    np.testing.assert_array_equal(cut[3].depth, second.depth)
