from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from edge_fusion.errors import ModelError
from edge_fusion.spec import DepthInput, DepthSpec, ModelSpec, RgbInput, read_model_spec


def test_inputs_follow_the_record() -> None:
    spec = ModelSpec(name="m", height=64, width=96, depth=DepthInput(name="d", channels=3))
    assert [(tensor.name, tensor.shape) for tensor in spec.inputs] == [
        ("rgb", (1, 3, 64, 96)),
        ("d", (1, 3, 64, 96)),
    ]


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: DepthSpec(scale_to_m=0.001, larger_is="nearer"), "grows with distance"),
        (lambda: DepthSpec(scale_to_m=0), "greater than 0"),
        (lambda: DepthSpec(scale_to_m=float("nan")), "finite"),
        (lambda: DepthInput(percentiles=(99, 1)), "low < high"),
        (lambda: DepthInput(near_m=5, far_m=2), "near_m"),
        (lambda: DepthInput(std=0), "greater than 0"),
        (lambda: RgbInput(std=(0.2, 0.0, 0.2)), "greater than 0"),
        (lambda: ModelSpec(name="m", colour="red"), "Extra inputs"),
    ],
)
def test_records_refuse_nonsense(make: object, complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        make()  # type: ignore[operator]


def test_a_record_survives_its_file(tmp_path: Path) -> None:
    spec = ModelSpec(name="mine", depth=DepthInput(normalisation="linear", far_m=4.0))
    file = tmp_path / "spec.json"
    for text in (spec.model_dump_json(), f'{{"macs": 3, "spec": {spec.model_dump_json()}}}'):
        file.write_text(text)
        assert read_model_spec(file) == spec


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (None, "cannot read"),
        ("not json", "cannot read"),
        ("[1]", "not valid"),
        ('{"name": "m", "width": 99999}', "width"),
        ('{"name": "m", "rgb": {"mean": [0, 0]}}', "rgb.mean"),
        ('{"name": "m", "depht": {}}', "depht"),
    ],
)
def test_a_bad_file_is_refused_with_the_field(
    tmp_path: Path, text: str | None, complaint: str
) -> None:
    file = tmp_path / "spec.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ModelError, match=complaint):
        read_model_spec(file)
