"""The road on real camera frames, where the real sets are at hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from torch import nn

from edge_fusion.export.checkpoint import load_checkpoint
from edge_fusion.export.fold import fold
from edge_fusion.export.models.registry import create_model, shipped_weights
from edge_fusion.export.parity import check_parity
from edge_fusion.export.trace import torch_runner, trace
from edge_fusion.preprocess import Inputs, prepare
from edge_fusion.runtime.ort import OrtSession
from edge_fusion.runtime.source.folder import FolderSource
from edge_fusion.spec import ModelSpec, Output

pytestmark = [pytest.mark.export, pytest.mark.slow]

SPEC = ModelSpec(name="mutualformer-mobilenetv2", output=Output(activation="sigmoid"))


@pytest.fixture(scope="module")
def frames(real_data: Path) -> list[Inputs]:
    """Two frames of three sensors, as the model takes them."""
    sets = ("tabletop_uois", "uw_rgbd_objects", "streams/hololens_office")
    return [prepare(FolderSource(real_data / name)[i], SPEC) for name in sets for i in (0, 5)]


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """The main model with trained weights: random ones amplify rounding without end."""
    path = shipped_weights("mutualformer-mobilenetv2")
    assert path is not None
    host = create_model("mutualformer-mobilenetv2")
    load_checkpoint(host, path)
    return host.eval()


@pytest.fixture(scope="module")
def session(network: nn.Module) -> Iterator[OrtSession]:
    graph: onnx.ModelProto = trace(fold(network).module, SPEC)
    with OrtSession(graph.SerializeToString()) as opened:
        yield opened


def test_torch_and_onnx_runtime_agree_on_real_frames(
    network: nn.Module, session: OrtSession, frames: list[Inputs]
) -> None:
    def saliency(logits: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"saliency": 1 / (1 + np.exp(-logits["saliency"]))}

    runner = torch_runner(network, SPEC)
    report = check_parity(
        "torch-onnx",
        lambda x: saliency(dict(runner(x))),
        lambda x: saliency(session.run(x)),
        frames,
    )
    assert report.difference.max_abs <= 1e-4
    spread = np.std([runner(frame)["saliency"].mean() for frame in frames])
    assert spread > 1e-3  # the outputs differ between frames: there was something to compare
