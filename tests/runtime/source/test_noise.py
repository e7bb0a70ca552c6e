from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_fusion.errors import InputError
from edge_fusion.runtime.source.noise import SENSORS, SensorModel, apply_sensor
from edge_fusion.runtime.source.noise import hidden_from_second_view as hidden

SIZE = (120, 160)
REAL = ("stereo", "structured", "tof")


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def wall(metres: float) -> NDArray[np.float32]:
    return np.full(SIZE, metres, np.float32)


def step(near: float = 1.0, far: float = 2.0) -> NDArray[np.float32]:
    """A near square, columns 60..99, before a far wall."""
    depth = wall(far)
    depth[40:80, 60:100] = near
    return depth


def bare(name: str, **changes: object) -> SensorModel:
    """A sensor without anything random that hides what a test looks at."""
    return replace(SENSORS[name], dropout=0.0, misregistration=0.0, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", SENSORS)
def test_same_state_same_reading(name: str) -> None:
    gray = rng(1).integers(0, 256, SIZE, np.uint8)
    first, again, other = (
        apply_sensor(step(), SENSORS[name], rng(seed), gray) for seed in (3, 3, 4)
    )
    assert first.dtype == np.uint16
    np.testing.assert_array_equal(first, again)
    assert (name == "none") == np.array_equal(first, other)


@pytest.mark.parametrize("name", SENSORS)
def test_true_depth_is_not_changed(name: str) -> None:
    depth = step()
    apply_sensor(depth, SENSORS[name], rng(), np.zeros(SIZE, np.uint8))
    np.testing.assert_array_equal(depth, step())


def test_no_sensor_rounds_to_millimetres() -> None:
    seen = apply_sensor(wall(1.2344), SENSORS["none"], rng())
    assert np.unique(seen).tolist() == [1234]


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("metres", [0.6, 1.5, 3.0])
def test_readings_are_unbiased(name: str, metres: float) -> None:
    seen = apply_sensor(wall(metres), bare(name), rng())
    assert (seen > 0).mean() > 0.99
    assert seen[seen > 0].mean() == pytest.approx(1000 * metres, rel=0.01)


@pytest.mark.parametrize("name", ["stereo", "structured"])
def test_noise_of_triangulation_grows_with_the_square(name: str) -> None:
    sensor = bare(name, disparity_step=0.0, fattening=0.0)
    at_1, at_3 = (float(np.std(apply_sensor(wall(z), sensor, rng()))) for z in (1.0, 3.0))
    expected_mm = 1000 * sensor.disparity_noise / sensor.focal_baseline  # z^2 e / (f b) at 1 m
    assert at_1 == pytest.approx(expected_mm, rel=0.1)
    assert at_3 / at_1 == pytest.approx(9, rel=0.1)


@pytest.mark.parametrize("name", ["stereo", "structured"])
@pytest.mark.parametrize("metres", [1.0, 2.0, 4.0])
def test_quantisation_step_grows_with_the_square(name: str, metres: float) -> None:
    sensor = bare(name, disparity_noise=0.0, fattening=0.0)
    depth = np.tile(np.linspace(0.97, 1.03, SIZE[1], dtype=np.float32) * np.float32(metres), (4, 1))
    levels = np.unique(apply_sensor(depth, sensor, rng()))
    levels = levels[levels > 0].astype(float)
    expected_mm = 1000 * metres**2 * sensor.disparity_step / sensor.focal_baseline
    # One value may be missing where a level lies in a shadow.
    assert np.median(np.diff(levels)) == pytest.approx(expected_mm, rel=0.1, abs=1)


def test_noise_of_time_of_flight_follows_its_formula() -> None:
    sensor = bare("tof")
    for metres in (1.0, 3.0):
        expected_mm = 1000 * (sensor.noise_m + sensor.noise_per_m2 * metres**2)
        spread = np.std(apply_sensor(wall(metres), sensor, rng()))
        assert spread == pytest.approx(expected_mm, rel=0.1)


@pytest.mark.parametrize(("name", "side"), [("stereo", -1), ("structured", 1)])
def test_shadow_lies_on_one_side_and_is_as_wide_as_the_disparities_differ(
    name: str, side: int
) -> None:
    sensor = bare(name, fattening=0.0)
    holes = apply_sensor(step(), sensor, rng()) == 0
    scale = SIZE[1] / 640
    width = int(sensor.focal_baseline * (1 / 1.0 - 1 / 2.0) * scale)  # whole pixels hidden
    assert width >= 3
    beside = np.s_[45:75, 60 - width : 60] if side < 0 else np.s_[45:75, 100 : 100 + width]
    assert holes[beside].mean() > 0.9
    elsewhere = holes.copy()
    elsewhere[40:80, 60 - width - 1 : 60] = False
    elsewhere[40:80, 100 : 100 + width + 1] = False
    assert not elsewhere.any()
    other = np.s_[45:75, 100 : 100 + width] if side < 0 else np.s_[45:75, 60 - width : 60]
    assert not holes[other].any()


def test_hidden_is_what_a_scan_of_the_row_finds() -> None:
    disparity = rng(5).uniform(0, 6, (6, 40)).astype(np.float32)
    for side in (-1, 1):
        landing = np.arange(40) * -side - disparity.astype(float)  # mirrored for side +1
        order = range(40) if side < 0 else range(39, -1, -1)
        columns = list(order)
        for row in range(6):
            for place, column in enumerate(columns):
                later = [landing[row, other] for other in columns[place + 1 :]]
                # Mirroring turns column numbers round; distances along the scan are what counts.
                expected = bool(later) and landing[row, column] >= min(later) - 1e-3
                assert hidden(disparity, -1 if side < 0 else 1)[row, column] == expected


def test_a_plain_wall_hides_nothing() -> None:
    assert not hidden(np.full((4, 30), 7.5, np.float32), -1).any()


def test_near_objects_grow_in_stereo() -> None:
    sensor = bare("stereo", fattening=8.0, disparity_noise=0.0)
    seen = apply_sensor(step(), sensor, rng())
    assert np.count_nonzero((seen > 0) & (seen < 1200)) > 40 * 40


def test_flying_pixels_lie_between_both_sides_and_only_at_edges() -> None:
    sensor = bare("tof", noise_m=0.0, noise_per_m2=0.0)
    seen = apply_sensor(step(), sensor, rng())
    between = (seen > 1010) & (seen < 1990)
    assert 40 < np.count_nonzero(between) < 320
    rows, columns = np.nonzero(between | (seen == 0))
    border = np.minimum.reduce(
        [abs(rows - 39.5), abs(rows - 79.5), abs(columns - 59.5), abs(columns - 99.5)]
    )
    assert border.max() <= 1


@pytest.mark.parametrize("name", REAL)
def test_nothing_is_seen_out_of_range(name: str) -> None:
    sensor = SENSORS[name]
    for metres in (sensor.near_m * 0.9, sensor.far_m * 1.1):
        assert not apply_sensor(wall(metres), sensor, rng()).any()


@pytest.mark.parametrize("name", ["structured", "tof"])
def test_dark_surfaces_return_too_little_light_when_far(name: str) -> None:
    gray = np.full(SIZE, 8, np.uint8)
    gray[:, 80:] = 200
    near, far = (apply_sensor(wall(z), bare(name), rng(), gray) == 0 for z in (0.5, 4.5))
    assert near.mean() < 0.02
    assert far[:, :80].mean() > 0.5
    assert far[:, 80:].mean() < 0.02


def test_stereo_needs_texture() -> None:
    gray = rng(2).integers(0, 256, SIZE, np.uint8)
    gray[:, :80] = 128
    lost = apply_sensor(wall(1.0), bare("stereo"), rng(), gray) == 0
    assert lost[:, :70].mean() > 0.9
    assert lost[:, 90:].mean() < 0.05
    assert not (apply_sensor(wall(1.0), bare("stereo"), rng()) == 0).any()


def test_dropout_covers_its_share() -> None:
    sensor = replace(SENSORS["none"], dropout=0.1)
    shares = [(apply_sensor(wall(1), sensor, rng(seed)) == 0).mean() for seed in range(8)]
    assert np.mean(shares) == pytest.approx(0.1, abs=0.02)


def test_misregistration_shifts_by_whole_pixels_within_its_reach() -> None:
    sensor = replace(SENSORS["none"], misregistration=12.0)  # 3 pixels at this width
    exact = apply_sensor(step(), SENSORS["none"], rng())
    shifts = set()
    for seed in range(60):
        seen = apply_sensor(step(), sensor, rng(seed))
        rows, columns = np.nonzero(seen == 1000)
        down, across = int(rows.min()) - 40, int(columns.min()) - 60
        shifts.add((down, across))
        inner = np.s_[4:-4, 4:-4]
        np.testing.assert_array_equal(seen[inner], np.roll(exact, (down, across), (0, 1))[inner])
    reach = [abs(shift) for pair in shifts for shift in pair]
    assert max(reach) == 3
    assert len(shifts) > 20


def test_wrong_arrays_are_refused() -> None:
    with pytest.raises(InputError, match=r"true depth: expected \(H, W\) float32, got .*float64"):
        apply_sensor(np.ones(SIZE), SENSORS["tof"], rng())  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"brightness: expected \(120, 160\) uint8, got \(2, 2\)"):
        apply_sensor(wall(1), SENSORS["tof"], rng(), np.zeros((2, 2), np.uint8))
