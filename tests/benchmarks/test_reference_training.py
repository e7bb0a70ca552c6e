from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from torch import nn
from torch.nn import functional

from benchmarks.reference.evaluate import compare, opposite
from benchmarks.reference.feeds import DemoFeed
from benchmarks.reference.pretrained import (
    Classifier,
    Layer,
    load_encoder,
    read_layers,
    spread_into_norms,
)
from benchmarks.reference.train import PHOTOGRAPHS, TrainOptions, edge_weight, structure_loss
from edge_fusion.errors import CheckpointError
from edge_fusion.export.models.mobilenetv2 import MobileNetV2
from edge_fusion.preprocess import prepare
from edge_fusion.runtime.source.demo import DemoSource
from edge_fusion.spec import DepthSpec, ModelSpec

pytestmark = pytest.mark.export


def random_layers() -> list[Layer]:
    torch.manual_seed(0)
    convolutions = [m for m in MobileNetV2().modules() if isinstance(m, nn.Conv2d)]
    layers = [(c.weight.detach().clone(), 0.1 * torch.randn(c.out_channels)) for c in convolutions]
    tail = (torch.randn(1280, 320, 1, 1) * 0.05, torch.zeros(1280))
    return [*layers, tail, (torch.randn(1001, 1280, 1, 1) * 0.05, torch.zeros(1001))]


def test_colour_statistics_are_folded_into_the_first_convolution() -> None:
    layers = random_layers()
    encoder = MobileNetV2()
    load_encoder(encoder, layers)
    levels = torch.rand(1, 3, 32, 32)
    mean, std = (
        torch.tensor(ModelSpec(name="x").rgb.mean),
        torch.tensor(ModelSpec(name="x").rgb.std),
    )
    ours = encoder.eval().features[0]((levels - mean[:, None, None]) / std[:, None, None])
    weight, bias = layers[0]
    theirs = nn.functional.conv2d(2 * levels - 1, weight, bias, 2, 1).clamp(0, 6)
    # At the border, ours pads with the mean colour and theirs with grey.
    torch.testing.assert_close(ours[..., 1:, 1:], theirs[..., 1:, 1:], atol=1e-5, rtol=1e-4)


def test_depth_is_taken_as_a_grey_image() -> None:
    layers = random_layers()
    encoder = MobileNetV2(1)
    load_encoder(encoder, layers)
    nearness = torch.rand(1, 1, 32, 32)
    weight, bias = layers[0]
    theirs = nn.functional.conv2d((2 * nearness - 1).repeat(1, 3, 1, 1), weight, bias, 2, 1)
    ours = encoder.eval().features[0](nearness)
    torch.testing.assert_close(
        ours[..., 1:, 1:], theirs.clamp(0, 6)[..., 1:, 1:], atol=1e-5, rtol=1e-4
    )


def test_spreading_into_norms_keeps_the_function_also_in_training_mode() -> None:
    encoder = MobileNetV2()
    load_encoder(encoder, random_layers())
    image = torch.randn(4, 3, 64, 64)
    with torch.no_grad():
        before = encoder.eval()(image)
        spread_into_norms(encoder, [image])
        after = encoder(image)
        training = encoder.train()(image)
    for old, new, trained in zip(before, after, training, strict=True):
        torch.testing.assert_close(new, old, atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(trained, old, atol=1e-3, rtol=1e-3)
    stem = encoder.features[0][1]
    assert float(stem.running_var.median()) == pytest.approx(1, abs=0.05)


def test_the_two_paddings_sample_the_same_features_one_pixel_apart() -> None:
    layers = random_layers()
    ours, theirs = (Classifier(layers, same_padding=same).eval() for same in (False, True))
    image = torch.randn(1, 3, 64, 64)
    moved = nn.functional.pad(image, (3, 0, 3, 0))[..., :64, :64]  # stride 4: 1 + 2 pixels
    with torch.no_grad():
        inside = np.s_[..., 4:12, 4:12]
        torch.testing.assert_close(
            ours.encoder(image)[0][inside], theirs.encoder(moved)[0][inside], atol=1e-4, rtol=1e-4
        )


def test_encoder_weights_of_another_network_are_refused() -> None:
    layers = random_layers()
    layers[5] = (torch.zeros(7, 96, 1, 1), torch.zeros(7))
    with pytest.raises(CheckpointError, match=r"first difference .*\(7, 96, 1, 1\)"):
        load_encoder(MobileNetV2(), layers)


def test_missing_encoder_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="mobilenet_v2_1.0_imagenet_dequant"):
        read_layers(tmp_path)


def test_the_public_weights_recognise_a_granny_smith(real_data: Path) -> None:
    from benchmarks.reference.data import Photographs

    layers = read_layers(real_data)
    names = (real_data / "weights/imagenet_labels.txt").read_text().splitlines()
    photo = Photographs(real_data / "train-rgb").read("n07742313_17315")
    frame = DemoSource(frames=1)[0]
    spec = ModelSpec(name="x", height=224, width=224)
    rgb = prepare(
        type(frame)(
            photo.rgb, np.full(photo.mask.shape, 800, np.uint16), DepthSpec(scale_to_m=0.001), "x"
        ),
        spec,
    )["rgb"]
    with torch.no_grad():
        found = Classifier(layers).eval()(torch.from_numpy(rgb)).argmax()
    assert names[int(found)] == "Granny Smith"


def test_structure_loss_prefers_the_truth() -> None:
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., 8:24, 8:24] = 1
    weight = edge_weight(mask)
    right, empty = (
        structure_loss(8 * (2 * m - 1), mask, weight) for m in (mask, torch.zeros_like(mask))
    )
    assert float(right) < 0.01 < float(empty)


def test_edge_weight_is_that_of_the_whole_window() -> None:
    mask = (torch.rand(2, 1, 96, 80, generator=torch.Generator().manual_seed(0)) > 0.5).float()
    near = functional.avg_pool2d(mask, 11, 1, 5, count_include_pad=False)  # 80 // 8 | 1
    torch.testing.assert_close(edge_weight(mask), 1 + 5 * (near - mask).abs())


@pytest.mark.parametrize("options", [TrainOptions(), PHOTOGRAPHS], ids=["scenes", "photographs"])
def test_schedules(options: TrainOptions) -> None:
    assert sum(options.shares) == pytest.approx(1)
    assert options.size_at(0) == options.sizes[0]
    assert options.size_at(1) == options.sizes[-1]
    assert options.batch_at(options.sizes[0]) == options.batch
    assert options.rate_at(0) == 0
    assert max(options.rate_at(x / 100) for x in range(101)) == pytest.approx(
        options.learning_rate, rel=0.02
    )


def test_demo_feed_never_repeats_a_batch() -> None:
    feed = DemoFeed(ModelSpec(name="x"), seed=0)
    (first, *_), (second, *_) = (feed.batch(32, 4) for _ in range(2))
    assert first.shape == (4, 3, 32, 32)
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("noise", ["none", "stereo"])
def test_inverted_and_declared_depth_prepares_to_the_same_input(noise: str) -> None:
    frame = DemoSource(frames=1, noise=noise)[0]  # type: ignore[arg-type]
    spec = ModelSpec(name="x")
    turned = opposite(frame)
    twice = opposite(turned)
    own = prepare(frame, spec)["depth"]
    np.testing.assert_allclose(prepare(turned, spec)["depth"], own, atol=1e-4)
    np.testing.assert_allclose(prepare(twice, spec)["depth"], own, atol=1e-4)


def test_bootstrap_sees_a_clear_difference_and_doubts_an_unclear_one() -> None:
    rng = np.random.default_rng(0)
    base = rng.random(40)
    clear = compare(list(base), list(base + 0.1))
    assert clear.difference == pytest.approx(-0.1)
    assert clear.high < 0
    assert clear.chance_better == 1
    unclear = compare(list(base), list(base + rng.normal(0, 0.1, 40)))
    assert unclear.low < 0 < unclear.high
