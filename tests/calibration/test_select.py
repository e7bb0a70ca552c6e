from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge_fusion.calibration.create import CreateOptions, create_set
from edge_fusion.calibration.pool import Pool
from edge_fusion.calibration.select import SelectOptions, select_set
from edge_fusion.calibration.set_folder import SetSource
from edge_fusion.errors import CalibrationError
from tests.calibration.planted import CLEAN, COUNT


def create(source: str | Path, output: Path, **options: Any) -> SetSource:
    return create_set(CreateOptions((str(source),), output, **options)).source


@pytest.mark.parametrize("method", ["random", "uniform"])
def test_a_choice_is_a_set_that_says_how_it_was_made(tmp_path: Path, method: Any) -> None:
    create(CLEAN, tmp_path / "all")
    pool = Pool([str(tmp_path / "all")])
    options = SelectOptions(tmp_path / "few", 5, method, seed=3)
    made = select_set(pool, options).source
    choice = made.record.choice
    assert (len(made), choice.method, choice.available) == (5, method, COUNT)
    again = select_set(pool, replace(options, output=tmp_path / "again")).source
    assert made.record.sha256 == again.record.sha256
    if method == "random":
        other = select_set(pool, SelectOptions(tmp_path / "other", 5, method, seed=4)).source
        assert (choice.seed, other.record.sha256 != made.record.sha256) == (3, True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": None}, "how many pairs to choose by 'random' is not said; say it with -n"),
        ({"count": 99}, "99 pairs are to be chosen: got 16 in all"),
        ({"count": 0}, "expected at least 1"),
        ({"method": "best"}, "expected random or uniform or coverage, got 'best'"),
        ({"method": "coverage"}, "--choice coverage --model BUNDLE"),
    ],
)
def test_bad_choices(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        select_set(
            Pool([CLEAN]), SelectOptions(**{"output": tmp_path / "s", "count": 4, **options})
        )
    assert list(tmp_path.iterdir()) == []
