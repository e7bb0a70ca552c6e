from __future__ import annotations

import cv2
import numpy as np
import pytest

from edge_fusion import preprocess
from edge_fusion.errors import FrameError
from edge_fusion.frame import RgbdFrame
from edge_fusion.preprocess import (
    activate,
    normalise_depth,
    normalise_rgb,
    prepare,
    resize_depth,
    saliency_map,
)
from edge_fusion.spec import DepthInput, DepthSpec, ModelSpec, Output, RgbInput

MM = DepthSpec(scale_to_m=0.001)
NEARNESS = DepthInput(percentiles=(0, 100))


def test_rgb_table_equals_the_formula() -> None:
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    rgb = RgbInput()
    expected = (image / 255 - np.array(rgb.mean)) / np.array(rgb.std)
    np.testing.assert_allclose(normalise_rgb(image, rgb), expected.transpose(2, 0, 1), atol=1e-6)
    swapped = normalise_rgb(image, RgbInput(order="bgr", mean=(0, 0, 0), std=(1, 1, 1)))
    np.testing.assert_allclose(swapped, image[..., ::-1].transpose(2, 0, 1) / 255, atol=1e-7)


@pytest.mark.parametrize(
    ("depth", "source", "model", "expected"),
    [
        # inverse depth between the frame's extremes: 1 m is 1, 4 m is 0, 2 m is 1/3
        ([1000, 2000, 4000], MM, NEARNESS, [1, 1 / 3, 0]),
        # no reading is 0
        ([1000, 0, 4000], MM, NEARNESS, [1, 0, 0]),
        # the unit cancels
        ([10000, 20000, 40000], DepthSpec(scale_to_m=0.0001), NEARNESS, [1, 1 / 3, 0]),
        # disparity already is inverse depth
        ([1, 2, 3], DepthSpec(scale_to_m=None, larger_is="nearer"), NEARNESS, [0, 0.5, 1]),
        # relative depth is only turned round
        ([1, 2, 3], DepthSpec(scale_to_m=None, larger_is="farther"), NEARNESS, [1, 0.5, 0]),
        # a model that wants depth itself, larger is farther
        (
            [1000, 2000, 3000],
            MM,
            DepthInput(normalisation="minmax", larger_is="farther", percentiles=(0, 100)),
            [0, 0.5, 1],
        ),
        # ... or nearer
        (
            [1000, 2000, 3000],
            MM,
            DepthInput(normalisation="minmax", percentiles=(0, 100)),
            [1, 0.5, 0],
        ),
        # metres between 1 and 3, clipped
        (
            [500, 2000, 5000],
            MM,
            DepthInput(normalisation="linear", larger_is="farther", near_m=1, far_m=3),
            [0, 0.5, 1],
        ),
        # holes take the closest reading
        ([1000, 0, 0, 0, 4000], MM, DepthInput(percentiles=(0, 100), holes="nearest"), None),
        # mean and std come last
        (
            [1000, 2000, 4000],
            MM,
            DepthInput(percentiles=(0, 100), mean=0.5, std=0.5),
            [1, -1 / 3, -1],
        ),
        # a flat wall has no nearness, and no division by zero
        ([2000, 2000, 2000], MM, NEARNESS, [0, 0, 0]),
    ],
)
def test_depth_normalisation(
    depth: list[int], source: DepthSpec, model: DepthInput, expected: list[float] | None
) -> None:
    result = normalise_depth(np.array([depth], np.uint16), source, model)
    assert result.dtype == np.float32
    if expected is None:
        np.testing.assert_allclose(result[0, [0, 1, 3, 4]], [1, 1, 0, 0], atol=1e-6)
    else:
        np.testing.assert_allclose(result[0], expected, atol=1e-6)


def test_polarity_declared_right_gives_the_same_input() -> None:
    depth = np.random.default_rng(1).integers(500, 5000, (40, 40)).astype(np.float32)
    disparity = (1e6 / depth).astype(np.float32)
    metric = normalise_depth(depth, MM, DepthInput())
    relative = normalise_depth(
        disparity, DepthSpec(scale_to_m=None, larger_is="nearer"), DepthInput()
    )
    np.testing.assert_allclose(metric, relative, atol=1e-5)


def test_all_zero_depth_is_refused_by_name() -> None:
    frame = RgbdFrame(np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint16), MM, "kitchen_7")
    with pytest.raises(FrameError, match="'kitchen_7': no valid reading.*sensor covered"):
        prepare(frame, ModelSpec(name="m", height=8, width=8))


@pytest.mark.parametrize(
    ("scale_to_m", "plausible"), [(1.0, False), (0.001, True), (0.00001, False)]
)
def test_a_wrong_unit_is_found_by_its_distance(scale_to_m: float, plausible: bool) -> None:
    depth = np.full((8, 8), 800, np.uint16)
    spec = DepthSpec(scale_to_m=scale_to_m)
    if plausible:
        normalise_depth(depth, spec, DepthInput())
    else:
        with pytest.raises(FrameError, match=r"a median of 0\.08 to 200 m, got .* unit of depth"):
            normalise_depth(depth, spec, DepthInput())


def test_relative_depth_cannot_feed_a_metric_model() -> None:
    with pytest.raises(FrameError, match="takes depth in metres.*unit=mm"):
        normalise_depth(
            np.ones((2, 2), np.uint8),
            DepthSpec(scale_to_m=None),
            DepthInput(normalisation="linear"),
        )


def test_prepare_gives_the_declared_tensors() -> None:
    spec = ModelSpec(name="m", height=16, width=24, depth=DepthInput(name="d", channels=3))
    depth = np.arange(801, 921, dtype=np.uint16).reshape(10, 12)
    inputs = prepare(RgbdFrame(np.zeros((10, 12, 3), np.uint8), depth, MM, "a"), spec)
    for tensor in spec.inputs:
        assert inputs[tensor.name].shape == tensor.shape
        assert inputs[tensor.name].dtype == np.float32
        assert inputs[tensor.name].flags.c_contiguous
    np.testing.assert_array_equal(inputs["d"][0, 0], inputs["d"][0, 2])


def test_logits_become_probabilities_of_the_frame_size() -> None:
    spec = ModelSpec(name="m", output=Output(activation="sigmoid"))
    saliency = saliency_map(np.zeros((1, 1, 4, 4), np.float32), spec, (7, 9))
    assert saliency.shape == (7, 9)
    np.testing.assert_allclose(saliency, 0.5)


def test_large_logits_do_not_overflow_and_rounding_is_no_fault() -> None:
    logits = ModelSpec(name="m", output=Output(activation="sigmoid"))
    values = np.array([-200, -1, 0, 200], np.float32)
    np.testing.assert_allclose(activate(values, logits), [0, 0.268941, 0.5, 1], atol=1e-6)
    barely = np.array([[[[-5e-4, 1 + 5e-4]]]], np.float32)
    np.testing.assert_array_equal(saliency_map(barely, ModelSpec(name="m"), (1, 2)), [[0, 1]])


@pytest.mark.parametrize(
    ("output", "complaint"),
    [
        (np.full((1, 1, 2, 2), np.nan, np.float32), "NaN"),
        (np.zeros((1, 2, 2, 2), np.float32), r"expected \(1, 1, h, w\)"),
        (np.full((1, 1, 2, 2), 1.5, np.float32), r"0\.\.1, got 1\.5\.\.1\.5; if these are logits"),
        (np.full((1, 1, 2, 2), -1, np.float32), r"got -1\.\.-1; if these are logits"),
    ],
)
def test_a_broken_output_is_refused(output: np.ndarray, complaint: str) -> None:
    with pytest.raises(FrameError, match=complaint):
        saliency_map(output, ModelSpec(name="m"), (4, 4))


@pytest.mark.parametrize("activation", ["none", "sigmoid"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_value_that_is_no_number_is_enough(activation: str, value: float) -> None:
    output = np.full((1, 1, 64, 64), 0.5, np.float32)
    output[0, 0, 63, 17] = value
    spec = ModelSpec(name="m", output=Output(activation=activation))
    with pytest.raises(FrameError, match="NaN or infinity"):
        saliency_map(output, spec, (64, 64))


@pytest.mark.parametrize("count", [1, 2, 3, 57, 5000])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("falling", [False, True])
def test_percentiles_are_those_of_numpy(count: int, dtype: type, falling: bool) -> None:
    wanted = (0, 1, 50, 99, 100)
    depth = (1 + 250 * np.random.default_rng(count).random((1, count))).astype(dtype)
    value = preprocess._inverse if falling else preprocess._itself
    whole = np.repeat(np.repeat(depth, 2, axis=0), 2, axis=1)  # every second pixel is ``depth``
    limits = preprocess._limits(whole, np.ones(whole.shape, np.bool_), wanted, value, falling)
    readings = depth if count >= 1000 else whole
    values = 1 / readings.astype(np.float64) if falling else readings
    np.testing.assert_allclose(limits, np.percentile(values, wanted), rtol=1e-6)


def plainly(depth: np.ndarray, source: DepthSpec, model: DepthInput) -> np.ndarray:
    """What the records of source and model say, in double precision; holes are NaN."""
    values = depth.astype(np.float64)
    if source.metric:
        values[~(values > 0)] = np.nan
    values[~np.isfinite(values) | (depth == source.invalid)] = np.nan
    if model.normalisation == "linear":
        assert source.scale_to_m is not None
        metres = values * source.scale_to_m
        unit = np.clip((metres - model.near_m) / (model.far_m - model.near_m), 0, 1)
        larger_is = "farther"
    else:
        larger_is = source.larger_is
        if model.normalisation == "nearness" and larger_is == "farther":
            values, larger_is = 1 / values if source.metric else -values, "nearer"
        low, high = np.nanpercentile(values[::2, ::2], model.percentiles)
        unit = np.clip((values - low) / (high - low), 0, 1)
    return (unit if larger_is == model.larger_is else 1 - unit) - model.mean


@pytest.mark.parametrize("larger_is", ["nearer", "farther"])
@pytest.mark.parametrize("normalisation", ["nearness", "minmax", "linear"])
@pytest.mark.parametrize(
    ("dtype", "top", "source"),
    [
        (np.uint16, 6000, MM),
        (np.uint16, 60000, DepthSpec(scale_to_m=0.0001, invalid=65535)),
        (np.uint8, 250, DepthSpec(scale_to_m=None, larger_is="nearer", invalid=None)),
        (np.uint8, 250, DepthSpec(scale_to_m=None, larger_is="farther", invalid=255)),
        (np.float32, 6.0, DepthSpec(scale_to_m=1.0)),
    ],
)
def test_every_road_gives_what_the_records_say(
    dtype: type, top: float, source: DepthSpec, normalisation: str, larger_is: str
) -> None:
    if normalisation == "linear" and not source.metric:
        pytest.skip("relative depth has no metres")
    rng = np.random.default_rng(3)
    depth = (top * (0.1 + 0.9 * rng.random((96, 80)))).astype(dtype)
    hole = np.nan if dtype is np.float32 else source.invalid
    if hole is not None:
        depth[rng.random(depth.shape) < 0.1] = hole
    depth[5, :7] = 0  # no reading if metric
    model = DepthInput(
        normalisation=normalisation, larger_is=larger_is, mean=0.25, near_m=1, far_m=4
    )
    untouched = depth.copy()
    expected = plainly(depth, source, model)
    for holes in ("zero", "nearest"):
        got = normalise_depth(depth, source, model.model_copy(update={"holes": holes}))
        measured = np.isfinite(expected)
        np.testing.assert_allclose(got[measured], expected[measured], atol=2e-6)
        if holes == "zero":
            np.testing.assert_array_equal(got[~measured], -0.25)
    np.testing.assert_array_equal(depth, untouched)


@pytest.mark.parametrize("size", [(256, 256), (31, 77), (640, 480), (900, 700)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_depth_is_resized_as_opencv_does(size: tuple[int, int], dtype: type) -> None:
    depth = np.random.default_rng(4).integers(0, 200, (480, 640)).astype(dtype)
    expected = cv2.resize(depth, size, interpolation=cv2.INTER_NEAREST)
    np.testing.assert_array_equal(resize_depth(depth, size), expected)


@pytest.mark.parametrize("missing", [0.02, 0.5, 0.98])
def test_a_hole_takes_a_reading_that_is_nearest(missing: float) -> None:
    rng = np.random.default_rng(0)
    unit, valid = rng.random((24, 31), np.float32), rng.random((24, 31)) > missing
    filled = preprocess._nearest_holes(unit.copy(), valid)
    assert np.array_equal(filled[valid], unit[valid])
    rows, columns = np.nonzero(valid)
    for row, column in np.argwhere(~valid):
        apart = np.hypot(rows - row, columns - column)
        # The transform goes by steps of a chamfer: a few percent longer ways count as equal.
        near = unit[rows, columns][apart <= 1.1 * apart.min() + 0.1]
        assert filled[row, column] in near
