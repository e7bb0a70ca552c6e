"""Calibration samples: wrong normalisation ruins a model silently, so it is an error here."""

from __future__ import annotations

import numpy as np
import pytest

from edge_fusion.errors import CalibrationError
from edge_fusion.export.samples import check_samples
from edge_fusion.spec import DepthInput, ModelSpec, RgbInput

CENTRED = ModelSpec(
    name="centred", height=32, width=32, depth=DepthInput(channels=3, mean=0.5, std=0.5)
)
PLAIN = ModelSpec(
    name="plain", height=32, width=32, rgb=RgbInput(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
)


@pytest.mark.parametrize("spec", ["default", CENTRED, PLAIN], ids=["imagenet", "centred", "plain"])
def test_good_samples_pass_and_are_counted(tiny, spec) -> None:
    spec = tiny.SPEC if spec == "default" else spec
    assert check_samples(iter(tiny.samples(5, spec)), spec) == 5


def test_one_flat_frame_in_a_good_set_is_fine(tiny) -> None:
    samples = tiny.samples(4)
    samples[2]["depth"] = np.zeros_like(samples[2]["depth"])
    assert check_samples(samples, tiny.SPEC) == 4


def raw(tiny) -> np.ndarray:
    """The pixels of the tiny samples before mean and std, 0..1."""
    spec = tiny.SPEC.rgb
    mean, std = (np.reshape(values, (3, 1, 1)) for values in (spec.mean, spec.std))
    return (tiny.samples(1)[0]["rgb"] * std + mean).astype(np.float32)


def normalised(tiny, pixels: np.ndarray) -> np.ndarray:
    spec = tiny.SPEC.rgb
    mean, std = (np.reshape(values, (3, 1, 1)) for values in (spec.mean, spec.std))
    return (pixels - mean) / std


WRONG = [
    # 0..255, the mistake that was measured to ruin a model
    ("rgb", lambda t: raw(t) * 255, r"not normalised.*values in \[-2\.118, 2\.64\].*8-bit values"),
    # mean and std forgotten
    ("rgb", raw, r"looks like plain 0\.\.1 values: expected mean and std applied"),
    # divided by 255 twice
    (
        "rgb",
        lambda t: normalised(t, raw(t) / 255),
        r"'rgb' is almost constant over the whole set.*divided by 255 twice",
    ),
    # mean and std applied to 0..255
    ("rgb", lambda t: normalised(t, raw(t) * 255), "not normalised as the input record says"),
    # a covered camera
    ("rgb", lambda t: np.full((1, 3, 32, 32), -1.8, np.float32), "almost constant"),
    # millimetres
    ("depth", lambda t: 500 + 4000 * raw(t)[:, :1], r"'depth'.*\[0, 1\].*raw depth or 16-bit"),
    # 8-bit depth that was never scaled
    ("depth", lambda t: 255 * raw(t)[:, :1], r"'depth' is not normalised.*raw 8-bit values"),
    # centred for another model
    ("depth", lambda t: 2 * raw(t)[:, :1] - 1, r"'depth' is not normalised.*got \[-"),
    # a covered sensor
    ("depth", lambda t: np.zeros((1, 1, 32, 32), np.float32), "'depth' is almost constant"),
]


@pytest.mark.parametrize(("name", "value", "message"), WRONG)
def test_wrong_normalisation_is_named(tiny, name, value, message) -> None:
    samples = [sample | {name: value(tiny).astype(np.float32)} for sample in tiny.samples(3)]
    with pytest.raises(CalibrationError, match=message):
        check_samples(samples, tiny.SPEC)


def test_plain_values_for_a_model_that_wants_them_centred(tiny) -> None:
    samples = [
        sample | {"depth": np.repeat(raw(tiny)[:, :1], 3, axis=1)}
        for sample in tiny.samples(2, CENTRED)
    ]
    with pytest.raises(CalibrationError, match=r"'depth' looks like plain 0\.\.1.*\[-1, 1\]"):
        check_samples(samples, CENTRED)


def test_imagenet_values_for_a_model_that_wants_them_plain(tiny) -> None:
    with pytest.raises(CalibrationError, match=r"'rgb' is not normalised.*values in \[0, 1\]"):
        check_samples(tiny.samples(2), PLAIN)


def test_the_cure_is_named(tiny) -> None:
    samples = [sample | {"rgb": 255 * raw(tiny)} for sample in tiny.samples(1)]
    with pytest.raises(CalibrationError, match=r"preprocess\.prepare, or correct mean and std"):
        check_samples(samples, tiny.SPEC)


UNFIT = [
    ({"depth": None}, r"calibration sample 1: input 'depth' is missing"),
    ({"thermal": np.zeros(1, np.float32)}, r"sample 1: the model has no input 'thermal'"),
    (
        {"depth": np.zeros((1, 32, 32), np.float32)},
        r"input 'depth': expected \(1, 1, 32, 32\) float32, got \(1, 32, 32\)",
    ),
    ({"depth": np.zeros((1, 1, 32, 32))}, r"got \(1, 1, 32, 32\) float64"),
    (
        {"depth": np.full((1, 1, 32, 32), np.nan, np.float32)},
        r"sample 1: input 'depth': expected finite values, got 1024 that are NaN",
    ),
]


@pytest.mark.parametrize(("changes", "message"), UNFIT)
def test_unfit_samples_are_named_by_number(tiny, changes, message) -> None:
    samples = tiny.samples(3)
    samples[1] = {k: v for k, v in (samples[1] | changes).items() if v is not None}
    with pytest.raises(CalibrationError, match=message):
        check_samples(samples, tiny.SPEC)


def test_an_empty_set_says_how_to_make_one(tiny) -> None:
    with pytest.raises(CalibrationError, match=r"is empty.*a few dozen frames"):
        check_samples([], tiny.SPEC)
