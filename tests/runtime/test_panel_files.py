from __future__ import annotations

import base64

import cv2
import numpy as np
import pytest

from edge_fusion.runtime.panel_files import GRADES, MOST_BYTES, picture_uris
from edge_fusion.runtime.panels import LONG_SIDE, Panel, Picture


def decoded(uri: str) -> np.ndarray:
    data = base64.b64decode(uri.partition(",")[2])
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)


def noise(label: str, side: int = LONG_SIDE, channels: int = 1) -> Picture:
    shape = (side, side) if channels == 1 else (side, side, channels)
    return Picture(label, np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8))


def test_few_pictures_keep_their_maps_without_loss():
    picture = noise("int8", 48)
    uris, grade = picture_uris([Panel("worst", 0, 0.1, (picture,))])
    assert grade is GRADES[0]
    assert uris[0][0].startswith("data:image/png;base64,")
    assert np.array_equal(decoded(uris[0][0]), picture.pixels)


@pytest.mark.parametrize(
    ("label", "kind"), [("colour", "jpeg"), ("depth", "jpeg"), ("fp32", "png")]
)
def test_photographs_are_jpeg(label, kind):
    uris, _ = picture_uris([Panel("worst", 0, 0.1, (noise(label, 48, 3),))])
    assert uris[0][0].startswith(f"data:image/{kind};base64,")


def test_red_stays_red():
    red = Picture("difference int8", np.full((8, 8, 3), (255, 0, 0), np.uint8))
    uris, _ = picture_uris([Panel("worst", 0, 0.1, (red,))])
    assert decoded(uris[0][0])[0, 0].tolist() == [0, 0, 255]  # OpenCV reads blue first


def test_what_cannot_be_compressed_is_made_smaller_until_it_fits():
    labels = ("colour", "depth", "truth", *"abcde", *(f"difference {one}" for one in "bcde"))
    panel = Panel("worst", 0, 0.1, tuple(noise(one, channels=3) for one in labels))
    uris, grade = picture_uris([panel] * 12)
    assert grade.scale < 1
    assert sum(len(uri) for some in uris for uri in some) <= MOST_BYTES
    assert decoded(uris[0][0]).shape[0] == round(LONG_SIDE * grade.scale)


def test_nothing_to_show_is_nothing():
    assert picture_uris([]) == ([], GRADES[0])
