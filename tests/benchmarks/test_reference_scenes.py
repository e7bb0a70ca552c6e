from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.reference.data import Photo, Photographs, split
from benchmarks.reference.depth import stand_objects
from benchmarks.reference.scenes import CONTRASTS, SceneMaker, SceneOptions
from benchmarks.reference.statistics import depth_statistics
from edge_fusion.errors import SourceError
from edge_fusion.runtime.source.demo import DemoSource
from edge_fusion.spec import ModelSpec

SPEC = ModelSpec(name="test")


def photo(name: str) -> Photo:
    frame = DemoSource(frames=1, seed=int(name), width=96, height=72)[0]
    return Photo(name, frame.rgb, np.asarray(frame.mask, np.uint8) * np.uint8(255))


def maker(options: SceneOptions | None = None) -> SceneMaker:
    rooms = [DemoSource(frames=1, seed=5, width=96, height=72, noise="structured")[0]]
    return SceneMaker(photo, ["1", "2"], rooms, SPEC, options)


@pytest.mark.parametrize(
    "options",
    [
        SceneOptions(composites=0, tables=0),  # photographs as they are
        SceneOptions(composites=1, tables=0),  # cut-outs in real frames
        SceneOptions(composites=0, tables=1),  # cut-outs on drawn tables
        SceneOptions(relative=1),  # 8-bit depth of either polarity
    ],
    ids=str,
)
def test_every_kind_of_scene_makes_what_the_model_takes(options: SceneOptions) -> None:
    scenes, rng = maker(options), np.random.default_rng(0)
    for _ in range(12):
        sample = scenes.make(rng, "1", 96)
        assert sample.inputs["rgb"].shape == (1, 3, 96, 96)
        assert sample.inputs["depth"].shape == (1, 1, 96, 96)
        assert 0 <= sample.inputs["depth"].min() <= sample.inputs["depth"].max() <= 1
        assert sample.mask.shape == (96, 96)
        assert 0 <= sample.mask.min() <= sample.mask.max() <= 1
        assert sample.contrast in (*CONTRASTS, "blanked")


def test_same_seed_same_sample() -> None:
    first, second = (maker().make(np.random.default_rng(7), "1", 64) for _ in range(2))
    np.testing.assert_array_equal(first.inputs["depth"], second.inputs["depth"])
    np.testing.assert_array_equal(first.inputs["rgb"], second.inputs["rgb"])


def test_blanked_depth_is_an_input_of_zeros() -> None:
    sample = maker(SceneOptions(blanked=1)).make(np.random.default_rng(0), "1", 64)
    assert sample.contrast == "blanked"
    assert not sample.inputs["depth"].any()


def test_without_augmentation_the_photograph_stays() -> None:
    sample = maker().make(np.random.default_rng(0), "1", 64, augment=False)
    assert sample.contrast != "blanked"
    assert np.array_equal(sample.frame.mask, sample.mask > 0.5)


def test_an_object_shares_its_depth_with_the_floor_it_stands_on() -> None:
    floor = np.repeat(np.linspace(0.5, 2, 64, dtype=np.float32)[:, None], 64, axis=1)
    mask = np.zeros((64, 64), np.uint8)
    mask[16:48, 24:40] = 1
    contacts, heads = [], []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        near = stand_objects(rng, floor, mask, flat=False, strength=1.0)
        contacts.append(near[47, 32] / floor[47, 32])
        heads.append(near[18, 32] / floor[18, 32])
        np.testing.assert_array_equal(near[mask == 0], floor[mask == 0])
    assert np.median(contacts) == pytest.approx(1, abs=0.05)
    assert np.median(heads) > 1.5


def test_no_strength_leaves_no_trace_of_the_object() -> None:
    floor = np.ones((32, 32), np.float32)
    mask = np.zeros((32, 32), np.uint8)
    mask[8:20, 8:20] = 1
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(stand_objects(rng, floor, mask, flat=True, strength=0.0), floor)


@pytest.mark.parametrize(
    ("nearness", "auc"),
    [
        (lambda mask: mask.astype(np.float32), 1.0),  # the object is nearer
        (lambda mask: 1 - mask.astype(np.float32), 0.0),  # it is farther
        (lambda mask: np.zeros(mask.shape, np.float32), 0.5),  # flat: ties count half
    ],
)
def test_nearness_auc(nearness, auc) -> None:  # type: ignore[no-untyped-def]
    mask = np.zeros((32, 32), bool)
    mask[8:20, 8:20] = True
    figures = depth_statistics(nearness(mask), mask, np.ones_like(mask))
    assert figures.nearness_auc == auc
    assert figures.invalid == 0


def test_the_split_depends_on_names_alone() -> None:
    names = [f"photo-{index}" for index in range(50)]
    training, held_out = split(names, validation=10)
    assert len(held_out) == 10
    assert set(training) | set(held_out) == set(names)
    assert not set(training) & set(held_out)
    assert set(split(names[::-1], validation=10)[1]) == set(held_out)


def test_a_folder_without_photographs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="expected zip files of <id>.rgb.jpg"):
        Photographs(tmp_path)


def test_photographs_of_the_data_folder(real_data: Path) -> None:
    photos = Photographs(real_data / "train-rgb")
    training, held_out = split(photos.ids)
    assert (len(training), len(held_out)) == (9553, 1000)
    one = photos.read(held_out[0])
    assert one.rgb.shape[:2] == one.mask.shape
    assert set(np.unique(one.mask)) <= {0, 255}
