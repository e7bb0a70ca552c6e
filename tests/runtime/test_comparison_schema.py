from __future__ import annotations

import json
from dataclasses import replace

import pytest
from pydantic import ValidationError

from edge_fusion.runtime.compare import CompareOptions, compare
from edge_fusion.runtime.comparison import SCHEMA_VERSION, VariantCost
from edge_fusion.runtime.comparison_schema import (
    ComparisonDocument,
    comparison_schema,
    published_schema,
)
from edge_fusion.runtime.energy import Energy
from edge_fusion.runtime.intervals import LEAST_ROUNDS
from edge_fusion.runtime.latency import BLOCK
from edge_fusion.runtime.memory_probe import Memory

CASES = {
    "masks": {},
    "no masks": {"mask": False},
    "one pair": {"pairs": 1},
    "no latency": {"repeats": 0},
    "too few rounds": {"repeats": BLOCK},
}


@pytest.fixture
def make(make_bundle, make_source, opener):
    def made(pairs=3, mask=True, repeats=LEAST_ROUNDS * BLOCK):
        options = CompareOptions(
            ("fp32", "int8", "again=fp32"), warmup=1, repeats=repeats, memory=False
        )
        found = compare(
            make_bundle(), [make_source(pairs, mask=mask)], options, open_session=opener(int8=0.7)
        )
        energy = Energy(9, 1.0, 5, 1.0, 90.0, None, None)
        cost = VariantCost(10, Memory(1, 2), plan_bytes=10, energy=energy)
        return replace(found, costs={**found.costs, "int8": cost})

    return made


@pytest.mark.parametrize("case", CASES)
def test_what_is_written_meets_the_schema_and_nothing_is_left_out(make, case):
    written = json.loads(json.dumps(make(**CASES[case]).as_dict(), allow_nan=False))
    read = ComparisonDocument.model_validate(written)
    assert json.loads(read.model_dump_json()) == written


def test_the_published_file_is_current():
    assert published_schema() == comparison_schema(), (
        "write it again: python -m edge_fusion.runtime.comparison_schema "
        "> runtime/comparison.schema.json"
    )


def test_another_version_and_unknown_fields_are_refused(make):
    written = json.loads(json.dumps(make().as_dict()))
    assert written["schema_version"] == SCHEMA_VERSION
    for change in ({"schema_version": SCHEMA_VERSION - 1}, {"surprise": 1}):
        with pytest.raises(ValidationError):
            ComparisonDocument.model_validate({**written, **change})


def test_curves_of_every_variant_are_kept(make):
    curves = make().as_dict()["curves"]
    assert set(curves) == {"fp32", "int8", "again"}
    assert len(curves["int8"]["raw"]["precision"]) == 256


def test_the_verdict_is_in_it(make):
    first, second = make().as_dict()["verdict"]
    assert (first["variant"], first["against"], first["accuracy"]) == ("int8", "fp32", "lost")
    assert second["text"].startswith("again keeps the accuracy of FP32")
