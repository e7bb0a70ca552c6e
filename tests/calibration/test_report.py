"""The page of a calibration set: complete, escaped, self-contained, bounded."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from edge_fusion.__main__ import app
from edge_fusion.calibration import report as reporting
from edge_fusion.calibration.create import CreateOptions, create_set
from edge_fusion.calibration.report import SetReport, make_report, write_page
from edge_fusion.calibration_file import CoverageRecord
from edge_fusion.errors import CalibrationError

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

DEMO = "demo://?frames=20&size=64x48&seed=3"


def invoke(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SetReport:
    folder = tmp_path_factory.mktemp("report") / "set"
    create_set(CreateOptions(sources=(DEMO,), output=folder))
    return make_report(str(folder))


def page_of(made: SetReport, path: Path) -> str:
    write_page(made, path, command="edge-fusion calib report <set>")
    return path.read_text(encoding="utf-8")


def test_the_page_shows_every_part(made: SetReport, tmp_path: Path) -> None:
    page = page_of(made, tmp_path / "set.html")
    assert len(made.items) == len(made.pictures) == 20
    assert page.count("data:image/jpeg;base64,") == 40
    assert page.count("<svg") == 5
    for heading in ("Checks", "Figures", "Pictures", "Pairs", "Identity", "Repeat it"):
        assert f">{heading}</h2>" in page
    assert made.record is not None
    assert made.record.sha256 in page
    assert all(item.id in page for item in made.items)


def test_nothing_is_fetched_and_nothing_runs(made: SetReport, tmp_path: Path) -> None:
    page = page_of(made, tmp_path / "set.html")
    assert "default-src 'none'" in page
    assert "<script" not in page
    addresses = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert all(one.startswith(("data:image/jpeg;base64,", "#")) for one in addresses)


def test_what_comes_from_data_is_escaped(made: SetReport, tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    changed = replace(
        made,
        checked=made.checked.model_copy(update={"source": evil}),
        pictures=(replace(made.pictures[0], id=evil),),
    )
    page = page_of(changed, tmp_path / "set.html")
    assert evil not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "report &lt;set&gt;" in page


def test_findings_stand_with_their_cure(tmp_path: Path) -> None:
    few = make_report("demo://?frames=3&size=64x48")
    finding = next(one for one in few.checked.findings if one.check == "few")
    page = page_of(few, tmp_path / "few.html")
    assert "warning: few" in page
    assert finding.cure in page


def test_a_choice_by_coverage_is_drawn_and_tabled(made: SetReport, tmp_path: Path) -> None:
    coverage = CoverageRecord(
        model="tiny",
        model_sha256="0" * 64,
        tensors=7,
        estimator="mean_minmax",
        error={1: 0.5, 8: 0.02, 20: 0.004},
        recommended=20,
    )
    assert made.record is not None
    choice = made.record.choice.model_copy(update={"coverage": coverage})
    record = made.record.model_copy(update={"choice": choice})
    page = page_of(replace(made, record=record), tmp_path / "set.html")
    assert page.count("<svg") == 6
    assert "2.00 %" in page
    assert "20 pairs are enough" in page


def test_a_long_set_has_a_bounded_sheet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(reporting, "MOST_PICTURES", 4)
    monkeypatch.setattr(reporting, "MOST_ROWS", 5)
    made = make_report(DEMO)
    assert [one.id[-2:] for one in made.pictures] == ["00", "06", "13", "19"]
    page = page_of(made, tmp_path / "set.html")
    assert "4 of 20 pairs, evenly chosen" in page
    assert "15 more are in the JSON file" in page


def test_a_full_sheet_of_noise_stays_below_five_megabytes(made: SetReport, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (160, 160, 3), np.uint8)
    data = reporting._jpeg(noise)
    worst = replace(made.pictures[0], rgb=data, depth=data)
    page = page_of(replace(made, pictures=(worst,) * reporting.MOST_PICTURES), tmp_path / "n.html")
    assert len(page.encode()) < 5e6


def test_the_same_set_gives_the_same_page(made: SetReport, tmp_path: Path) -> None:
    assert page_of(made, tmp_path / "a.html") == page_of(made, tmp_path / "b.html")


def test_the_command_writes_both_files(tmp_path: Path) -> None:
    html, told = tmp_path / "set.html", tmp_path / "set.json"
    result = invoke("calib", "report", DEMO, "--html", html, "--json", told)
    assert result.exit_code == 0, result.output
    content = json.loads(told.read_text())
    assert content["pairs"] == len(content["items"]) == content["ranges"]["pairs"] == 20
    assert html.stat().st_size > 10_000


@pytest.mark.parametrize("source", ["nowhere", "v4l2:///dev/null?depth=/dev/null"])
def test_bad_input_writes_nothing(tmp_path: Path, source: str) -> None:
    html = tmp_path / "set.html"
    result = invoke("calib", "report", source, "--html", html)
    assert result.exit_code == 2
    assert "Traceback" not in result.output
    assert not html.exists()


def test_it_says_where_nothing_would_be_written() -> None:
    result = invoke("calib", "report", DEMO)
    assert result.exit_code == 2
    assert "--html FILE" in result.output


def test_a_folder_without_a_readable_pair_is_refused(pairs: Path) -> None:
    for path in (pairs / "rgb").iterdir():
        path.write_bytes(b"no picture")
    with pytest.raises(CalibrationError, match="not one pair"):
        make_report(str(pairs))


def test_a_damaged_pair_is_left_out_and_told(pairs: Path) -> None:
    (pairs / "rgb" / "1.png").write_bytes(b"no picture")
    made = make_report(str(pairs))
    assert [item.id for item in made.items] == ["0", "2"]
    assert "unusable" in [one.check for one in made.checked.findings]


def test_pictures_are_small(made: SetReport) -> None:
    picture = cv2.imdecode(np.frombuffer(made.pictures[0].rgb, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    assert picture.shape == (120, 160, 3)
