from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_fusion.frame import RgbdFrame
from edge_fusion.runtime.sink import overlay
from edge_fusion.runtime.sink.overlay import OverlayStyle, colour_depth, depth_inset, draw_overlay
from edge_fusion.spec import DepthSpec

STYLE = OverlayStyle(tint=(40, 60, 0), outline=(255, 255, 255))


def expected(rgb: np.ndarray, saliency: np.ndarray) -> np.ndarray:
    """What the style says, in plain floating point, without outline."""
    share = saliency[..., None]
    gain = 0.5 + 0.25 * share
    return np.clip(rgb[..., ::-1] * gain + np.array(STYLE.tint) * share, 0, 255)


def test_equals_the_formula_away_from_the_outline() -> None:
    rng = np.random.default_rng(1)
    rgb = rng.integers(0, 256, (200, 160, 3), np.uint8)  # more rows than one band
    saliency = np.tile(np.linspace(0, 1, 160, dtype=np.float32), (200, 1))
    untouched = rgb.copy()
    picture = draw_overlay(rgb, saliency, style=STYLE)
    away = np.abs(saliency - 0.5) > 0.05
    difference = np.abs(picture - expected(rgb, saliency))[away]
    assert difference.max() <= 2.5  # three roundings to 8 bit
    assert picture.dtype == np.uint8
    np.testing.assert_array_equal(rgb, untouched)


def test_the_outline_lies_where_saliency_crosses_one_half() -> None:
    saliency = np.zeros((100, 100), np.float32)
    saliency[30:70, 30:70] = 1
    picture = draw_overlay(np.zeros((100, 100, 3), np.uint8), saliency, style=STYLE)
    line = picture.min(axis=2) > 100
    assert line[30:70, [29, 70]].all()
    assert line[[29, 70], 30:70].all()
    assert not line[33:67, 33:67].any()
    line[27:73, 27:73] = False
    assert not line.any()
    inner = picture[34:66, 34:66].reshape(-1, 3)
    assert (inner == STYLE.tint).all()


@pytest.mark.parametrize("band", [7, 64, 1000])
def test_bands_leave_no_seam(monkeypatch: pytest.MonkeyPatch, band: int) -> None:
    rng = np.random.default_rng(2)
    rgb = rng.integers(0, 256, (130, 90, 3), np.uint8)
    saliency = cv2.GaussianBlur(rng.random((130, 90), np.float32), (0, 0), 9)
    whole = draw_overlay(rgb, saliency)
    monkeypatch.setattr(overlay, "_BAND", band)
    np.testing.assert_array_equal(draw_overlay(rgb, saliency), whole)


@pytest.mark.parametrize(
    # the camera's size, the model's; blocks of 5 for 2, of 53 for 16, none at all, and shrunk
    ("size", "small"),
    [
        ((480, 640), (256, 256)),
        ((480, 848), (256, 256)),
        ((97, 83), (50, 64)),
        ((48, 64), (96, 64)),
    ],
)
@pytest.mark.parametrize("place", [(0.1, 0.2), (0.0, 0.0), (0.7, 0.6), None])
def test_a_smaller_map_is_drawn_as_the_whole_of_it_enlarged(
    size: tuple[int, int], small: tuple[int, int], place: tuple[float, float] | None
) -> None:
    rgb = np.random.default_rng(5).integers(0, 256, (*size, 3), np.uint8)
    plane = np.zeros(small, np.float32)
    if place is not None:
        top, left = round(place[0] * small[0]), round(place[1] * small[1])
        plane[top : top + small[0] // 3, left : left + small[1] // 3] = 1
    levels = (cv2.GaussianBlur(plane, (0, 0), 1.5) * 255).astype(np.uint8)
    whole = cv2.resize(levels, size[::-1], interpolation=cv2.INTER_LINEAR)
    drawn = draw_overlay(rgb, levels.astype(np.float32) / 255)
    np.testing.assert_array_equal(drawn, draw_overlay(rgb, whole.astype(np.float32) / 255))


def test_inset_and_caption_change_only_their_corners() -> None:
    rgb = np.full((240, 320, 3), 200, np.uint8)
    saliency = np.zeros((240, 320), np.float32)
    plain = draw_overlay(rgb, saliency)
    inset = np.full((60, 80, 3), 77, np.uint8)
    dressed = draw_overlay(rgb, saliency, inset=inset, caption="frame 12 \u00e9")
    rows, columns = np.nonzero((dressed != plain).any(axis=2))
    upper = rows < 80
    assert columns[upper].min() > 230  # right corner
    assert rows[~upper].min() > 200
    assert columns[~upper].max() < 220  # left corner
    assert (dressed[:80] == 77).all(axis=2).sum() == 60 * 80


DEPTHS = [
    # dtype, spec, value near the camera, value far from it
    (np.uint16, DepthSpec(scale_to_m=0.001), 500, 4000),
    (np.float32, DepthSpec(scale_to_m=1.0, invalid=None), 0.5, 4.0),
    (np.uint8, DepthSpec(scale_to_m=None, larger_is="nearer"), 250, 20),
    (np.uint8, DepthSpec(scale_to_m=None, larger_is="farther"), 20, 250),
]


@pytest.mark.parametrize(("dtype", "spec", "near", "far"), DEPTHS)
def test_near_is_bright_and_no_reading_black(
    dtype: type, spec: DepthSpec, near: float, far: float
) -> None:
    depth = np.full((120, 160), far, dtype)
    depth[:, :60] = near
    depth[:, 150:] = np.nan if dtype is np.float32 else 0
    frame = RgbdFrame(np.zeros((120, 160, 3), np.uint8), depth, spec, "a")
    picture = depth_inset(frame)
    assert picture is not None
    assert picture.shape == (30, 40, 3)
    brightness = picture.sum(axis=2)
    assert brightness[15, 5] > 300 > brightness[15, 25]
    assert brightness[15, 39] == 0


def test_a_blind_or_flat_depth_is_still_a_picture() -> None:
    rgb = np.zeros((120, 160, 3), np.uint8)
    for value in (0, 900):
        frame = RgbdFrame(
            rgb, np.full((120, 160), value, np.uint16), DepthSpec(scale_to_m=1e-3), ""
        )
        picture = depth_inset(frame)
        assert picture is not None
        assert len(np.unique(picture.reshape(-1, 3), axis=0)) == 1


def test_a_palette_runs_from_far_to_near() -> None:
    depth = np.full((120, 160), 4000, np.uint16)
    depth[:, :80] = 500
    frame = RgbdFrame(np.zeros((120, 160, 3), np.uint8), depth, DepthSpec(scale_to_m=0.001), "a")
    picture = colour_depth(frame, (16, 12), cv2.COLORMAP_TURBO)
    assert picture.shape == (12, 16, 3)
    near, far = picture[6, 2].astype(int), picture[6, 13].astype(int)
    assert near[2] - near[0] > far[2] - far[0]  # blue first: near is redder


def test_a_tiny_frame_has_no_inset(result: Callable[..., tuple[RgbdFrame, np.ndarray]]) -> None:
    frame, *_ = result(size=(48, 64))
    assert depth_inset(frame) is None


def test_on_a_real_frame_the_object_stands_out(real_data: Path) -> None:
    folder = real_data / "tabletop_uois"
    rgb = cv2.cvtColor(cv2.imread(str(folder / "rgb" / "uois_0003.jpg")), cv2.COLOR_BGR2RGB)
    mask = cv2.imread(str(folder / "gt" / "uois_0003.png"), cv2.IMREAD_GRAYSCALE) > 0
    saliency = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 5)
    picture = draw_overlay(rgb, saliency)
    before, after = rgb.mean(axis=2), picture.mean(axis=2)
    assert after[saliency < 0.01].mean() < 0.5 * before[saliency < 0.01].mean()
    assert after[saliency > 0.99].mean() > 0.9 * before[saliency > 0.99].mean()
