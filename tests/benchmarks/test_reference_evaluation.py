from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from torch import Tensor, nn

from benchmarks.reference.evaluate import evaluate_set, report, torch_predictor, with_depth_of
from edge_fusion.export.models.registry import LoadedModel
from edge_fusion.runtime.source.demo import DemoSource
from edge_fusion.spec import ModelSpec

pytestmark = pytest.mark.export
SPEC = ModelSpec(name="depth alone", height=64, width=64)


class DepthAlone(nn.Module):
    """Calls near things salient, whatever the colour."""

    def forward(self, rgb: Tensor, depth: Tensor) -> Tensor:
        return depth


def test_every_case_of_depth_reaches_the_model(tmp_path: Path) -> None:
    frames = list(DemoSource(frames=4, width=80, height=64, noise="none").frames())
    model = torch_predictor(LoadedModel("test", DepthAlone(), SPEC, None, None))
    scores = evaluate_set(model, frames)
    assert {case: len(each) for case, each in scores.items()} == {
        "depth": 4,
        "blanked": 4,
        "another's": 4,
    }
    shares = [float(np.mean(np.asarray(frame.mask))) for frame in frames]
    blanked = [one.raw.mae for one in scores["blanked"]]
    np.testing.assert_allclose(blanked, shares, atol=1e-6)  # nothing found: the error is the object
    figures = report({"tabletop_uois": scores})
    assert figures["pooled"]["depth against blanked"]["n"] == 4


def test_the_depth_of_another_frame_comes_with_its_meaning() -> None:
    small = DemoSource(frames=1, width=80, height=64)[0]
    large = DemoSource(frames=1, seed=1, width=160, height=120)[0]
    swapped = with_depth_of(small, large)
    assert swapped.depth.shape == small.depth.shape
    assert swapped.depth.dtype == large.depth.dtype
    assert swapped.depth_spec == large.depth_spec
    np.testing.assert_array_equal(swapped.rgb, small.rgb)
