"""The weights that come with the package: small, loaded by name, and as good as their card says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.reference.card import accuracy_table, pooled_table
from benchmarks.reference.data import POOLED_SETS, read_set
from benchmarks.reference.evaluate import (
    CaseScores,
    Predictor,
    depth_against,
    evaluate_set,
    evaluate_validation,
    opposite,
    torch_predictor,
)
from edge_fusion.export.cost import count_cost
from edge_fusion.export.models.registry import load_model, shipped_weights
from edge_fusion.export.options import BuildOptions, weights_of
from edge_fusion.metrics import pool
from edge_fusion.preprocess import prepare

pytestmark = pytest.mark.export

NAME = "mutualformer-mobilenetv2"
LARGEST_BYTES = 13_000_000


@pytest.fixture(scope="module")
def weights() -> Path:
    path = shipped_weights(NAME)
    assert path is not None
    return path


@pytest.fixture(scope="module")
def predictor(weights: Path) -> Predictor:
    return torch_predictor(load_model(NAME, weights))


@pytest.fixture(scope="module")
def real(predictor: Predictor, real_data: Path) -> dict[str, CaseScores]:
    return {name: evaluate_set(predictor, read_set(real_data, name)) for name in POOLED_SETS}


def test_they_are_small_and_so_is_the_network(weights: Path) -> None:
    cost = count_cost(load_model(NAME, weights).module, load_model(NAME).spec)
    assert weights.stat().st_size <= LARGEST_BYTES
    assert cost.parameters <= 4.5e6
    assert cost.macs <= 1.0e9


def test_a_build_by_name_takes_them(weights: Path, tmp_path: Path) -> None:
    options = BuildOptions(NAME, tmp_path / "bundle")
    assert weights_of(options) == weights
    assert weights_of(BuildOptions(NAME, tmp_path / "bundle", untrained=True)) is None
    other = tmp_path / "own.safetensors"
    assert weights_of(BuildOptions(NAME, tmp_path / "bundle", checkpoint=other)) == other


def test_their_card_lies_beside_them(weights: Path) -> None:
    card = weights.with_suffix(".md").read_text()
    assert "research use" in card
    for heading in ("## Data", "## Recipe", "## Figures", "## Limits"):
        assert heading in card
    figures = json.loads(weights.with_suffix(".json").read_text())
    assert accuracy_table(figures) in card
    assert pooled_table(figures) in card


@pytest.mark.slow
def test_depth_helps_on_real_frames_and_a_wrong_one_breaks_nothing(
    real: dict[str, CaseScores],
) -> None:
    own = depth_against(real, "depth", "blanked")
    other = depth_against(real, "another's", "blanked")
    assert own.mae < own.mae_reference
    assert own.high < 0  # the 95 % interval of a paired bootstrap
    assert other.mae <= 1.15 * other.mae_reference


@pytest.mark.slow
def test_held_out_photographs_score_as_the_card_says(predictor: Predictor, real_data: Path) -> None:
    scores = evaluate_validation(predictor, real_data, 60)
    depth, blanked = (pool(scores[case]).raw for case in ("depth", "blanked"))
    assert depth.mae <= 0.036
    assert depth.f_max >= 0.93
    assert blanked.mae <= 0.055
    assert blanked.f_max >= 0.90
    inverted = pool(scores["inverted, declared"]).raw
    assert abs(inverted.mae - depth.mae) <= 0.002


def test_polarity_that_is_declared_changes_nothing(predictor: Predictor, real_data: Path) -> None:
    frame = read_set(real_data, "tabletop_uois")[0]
    one, two = (predictor.run([prepare(f, predictor.spec)]) for f in (frame, opposite(frame)))
    assert float(np.abs(one - two).mean()) <= 0.002
