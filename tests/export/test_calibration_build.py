"""Building on a set made by ``calib``: exactly those pairs, or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import pytest

from edge_fusion.calibration.create import CreateOptions, create_set
from edge_fusion.calibration.pool import Pool
from edge_fusion.calibration.select import SelectOptions, select_set
from edge_fusion.errors import CalibrationError
from edge_fusion.export.options import BuildOptions
from edge_fusion.export.pipeline import build
from edge_fusion.manifest import CalibrationRecord
from tests.calibration.planted import CLEAN, COUNT, scenes, with_rgb, write_pairs

pytestmark = pytest.mark.export

FACTORY = "tests.export.tiny:two_stream"


def options(output: Path, *calib: Path, **changes: Any) -> BuildOptions:
    fields: dict[str, Any] = {"size": "32x32", "calib": tuple(map(str, calib)), "output": output}
    return BuildOptions(model=FACTORY, **{**fields, **changes})


@pytest.fixture(scope="module")
def chosen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets")
    create_set(CreateOptions((CLEAN,), folder / "all"))
    select_set(Pool([str(folder / "all")]), SelectOptions(folder / "few", 5, "uniform"))
    return folder / "few"


def calibration(bundle: Any) -> CalibrationRecord:
    record = bundle.manifest.calibration
    assert record is not None
    return record


def test_a_set_is_taken_as_it_is_and_gives_the_same_bytes_twice(
    chosen: Path, tmp_path: Path
) -> None:
    first, second = (build(options(tmp_path / name, chosen)) for name in ("a", "b"))
    record = calibration(first)
    assert (record.choice, record.available, len(record.items)) == ("uniform", COUNT, 5)
    from edge_fusion.calibration.set_folder import SetSource

    assert record.sha256 == SetSource(chosen).record.sha256
    for name in first.manifest.variants.values():
        assert first.manifest.files[name] == second.manifest.files[name]


def test_a_number_chooses_from_a_set(chosen: Path, tmp_path: Path) -> None:
    record = calibration(build(options(tmp_path / "a", chosen, calib_count=3)))
    assert (record.choice, record.available, len(record.items)) == ("random", 5, 3)


def test_a_set_and_a_folder_are_mixed(chosen: Path, tmp_path: Path) -> None:
    plain = write_pairs(tmp_path / "plain", scenes(seed=50))
    record = calibration(build(options(tmp_path / "a", chosen, plain)))
    assert (record.choice, record.available, len(record.items)) == ("mixed", 2 * COUNT, 5 + COUNT)


def test_warnings_are_shown_and_recorded(chosen: Path, tmp_path: Path) -> None:
    said: list[str] = []

    def progress(step: str, done: int, total: int, detail: str = "") -> None:
        said.append(f"{step}: {detail}")

    record = calibration(build(options(tmp_path / "a", chosen), progress))
    assert [text for text in said if text.startswith("warning: few: 5 pairs are few")]
    assert record.warnings[0].startswith("5 pairs are few; collect")


def test_a_changed_pixel_is_refused_before_anything_is_built(tmp_path: Path) -> None:
    create_set(CreateOptions((CLEAN,), tmp_path / "set"))
    path = next((tmp_path / "set" / "rgb").iterdir())
    image = cv2.imread(str(path))
    assert image is not None
    image[3, 3, 0] ^= 1
    cv2.imwrite(str(path), image)
    with pytest.raises(CalibrationError, match="was changed after the set was made.*as they are"):
        build(options(tmp_path / "bundle", tmp_path / "set"))
    assert not (tmp_path / "bundle").exists()


def test_an_error_of_a_check_stops_a_build_on_a_plain_folder(tmp_path: Path) -> None:
    plain = write_pairs(tmp_path / "plain", scenes(), registered=False)
    with pytest.raises(CalibrationError, match="not registered to colour.*register it first"):
        build(options(tmp_path / "bundle", plain))
    dark = write_pairs(tmp_path / "dark", scenes(), plant=with_rgb(60))
    with pytest.raises(CalibrationError, match="almost constant over the whole set"):
        build(options(tmp_path / "bundle", dark))
    assert not (tmp_path / "bundle").exists()
