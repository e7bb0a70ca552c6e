from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import pytest

from edge_fusion.calibration.check_set import check_source
from edge_fusion.calibration.create import CreateOptions, create_set
from edge_fusion.calibration.set_folder import SetSource
from edge_fusion.calibration_file import CALIBRATION_NAME, read_calibration_file
from edge_fusion.errors import CalibrationError
from edge_fusion.manifest import SEAL, seal
from tests.calibration.planted import CLEAN, COUNT, scenes, write_pairs

NO_CURVE = {
    "model": "mine", "model_sha256": "0" * 64, "tensors": 1, "estimator": "minmax", "error": {}
}  # fmt: skip


def create(source: str | Path, output: Path, **options: Any) -> SetSource:
    return create_set(CreateOptions((str(source),), output, **options)).source


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set; not to be changed."""
    return create(CLEAN, tmp_path_factory.mktemp("clean") / "set").folder


def edit_pixel(folder: Path) -> None:
    path = folder / "depth" / "demo-5-00000.png"
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert image is not None
    image[10, 10] += 1
    cv2.imwrite(str(path), image)


def edit_record(folder: Path, **fields: Any) -> None:
    path = folder / CALIBRATION_NAME
    content = json.loads(path.read_text())
    content.update(fields)
    path.write_text(json.dumps(content))


def reseal(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """What somebody could do who knows how: only the contents can be judged then."""
    path = folder / CALIBRATION_NAME
    content = json.loads(path.read_text())
    change(content)
    content[SEAL] = seal(content)
    path.write_text(json.dumps(content))


def add_pair(folder: Path) -> None:
    for part in ("rgb", "depth"):
        shutil.copy(folder / part / "demo-5-00000.png", folder / part / "more.png")


def remove_pair(folder: Path) -> None:
    for part in ("rgb", "depth"):
        (folder / part / "demo-5-00000.png").unlink()


def name_pair(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda content: content["items"][0].update(id=name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (edit_pixel, "pair 'demo-5-00000' was changed after the set was made.*as they are now"),
        (add_pair, "pairs were added to it after it was made: got more"),
        (remove_pair, "pairs were removed from it after it was made"),
        (lambda f: edit_record(f, depth_dtype="uint8"), "was changed after the set was made"),
        (lambda f: edit_record(f, schema_version=2), "version 1, got 2; update edge-fusion"),
        (lambda f: (f / CALIBRATION_NAME).write_text("{"), "cannot read .*calibration.json"),
        (lambda f: (f / CALIBRATION_NAME).write_text("[" * 200_000), "cannot read .*recursion"),
        (lambda f: (f / "depth" / "demo-5-00000.png").unlink(), "files were changed after it"),
        (lambda f: (f / CALIBRATION_NAME).write_text("[]"), "is not a calibration set's"),
        (lambda f: reseal(f, name_pair("../../etc/passwd")), "would leave the set"),
        (lambda f: reseal(f, name_pair("a/b")), "no plain name"),
        (lambda f: reseal(f, name_pair(".hidden")), "no plain name"),
        (lambda f: reseal(f, name_pair("demo-5-00000")), "two pairs have the same id"),
        (lambda f: reseal(f, lambda c: c["items"].pop()), "sha256 is not that of the"),
        (lambda f: reseal(f, lambda c: c["items"][0].update(source=9)), "that is not listed"),
        (lambda f: reseal(f, lambda c: c.update(more=1)), "more: Extra inputs"),
        (lambda f: reseal(f, lambda c: c["items"][0].update(timestamp_ns=10**30)), "timestamp_ns"),
        (lambda f: reseal(f, lambda c: c["items"][0].update(width=10**400)), "items.0.width"),
        (lambda f: reseal(f, lambda c: c["choice"].update(coverage=NO_CURVE)), "coverage.error"),
    ],
)  # fmt: skip
def test_a_set_that_was_changed_is_refused_with_its_cure(
    clean: Path, tmp_path: Path, change: Callable[[Path], object], message: str
) -> None:
    shutil.copytree(clean, tmp_path / "set")
    change(tmp_path / "set")
    with pytest.raises(CalibrationError, match=message):
        list(SetSource(tmp_path / "set").frames())


def test_the_cure_of_an_edited_set_cures(clean: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    shutil.copytree(clean, folder)
    edit_pixel(folder)
    with pytest.raises(CalibrationError, match="remove calibration.json there and make a new set"):
        create(folder, tmp_path / "new")
    (folder / CALIBRATION_NAME).unlink()
    made = create(folder, tmp_path / "new")
    assert made.record.sha256 != SetSource(clean).record.sha256
    assert len(list(made.frames())) == COUNT


def test_edited_pairs_are_left_out_on_request(clean: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    shutil.copytree(clean, folder)
    edit_pixel(folder)
    with pytest.raises(CalibrationError, match="'demo-5-00000' was changed.*--skip-damaged leaves"):
        create(folder, tmp_path / "new")
    assert len(create(folder, tmp_path / "new", skip_damaged=True)) == COUNT - 1


def test_a_record_that_leads_nowhere_makes_no_plain_folder(clean: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    shutil.copytree(clean, folder)
    (folder / CALIBRATION_NAME).unlink()
    (folder / CALIBRATION_NAME).symlink_to("gone.json")
    with pytest.raises(CalibrationError, match="has no calibration.json"):
        check_source(str(folder))


def test_check_names_the_edited_pair_and_goes_on(tmp_path: Path) -> None:
    create(CLEAN, tmp_path / "set")
    edit_pixel(tmp_path / "set")
    report = check_source(str(tmp_path / "set"))
    assert report.failed
    assert report.pairs == COUNT - 1
    assert "was changed after the set was made" in report.findings[0].message


def test_a_plain_folder_is_no_set(tmp_path: Path) -> None:
    folder = write_pairs(tmp_path / "plain", scenes())
    assert read_calibration_file(folder) is None
    with pytest.raises(CalibrationError, match="has no calibration.json"):
        SetSource(folder)
