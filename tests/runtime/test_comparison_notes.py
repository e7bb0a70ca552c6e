"""Sets that need a word: grey and empty masks, one pair, the same set twice, calibrated pairs."""

from __future__ import annotations

import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest

from edge_fusion.errors import FrameError, InputError, SourceError
from edge_fusion.manifest import CalibrationItemRecord, CalibrationRecord
from edge_fusion.runtime.compare import CompareOptions, compare
from edge_fusion.runtime.comparison_notes import notes_of
from edge_fusion.runtime.machine import Moment
from edge_fusion.runtime.source.folder import FolderSource
from edge_fusion.runtime.source.uri import open_stored

QUICK = CompareOptions(repeats=0, memory=False)


@pytest.fixture
def run(make_bundle, opener):
    def running(*sources, **options):
        options = replace(QUICK, **options)
        return compare(make_bundle(), sources, options, open_session=opener(int8=0.8))

    return running


class TestMasks:
    def test_grey_is_cut_at_half_and_said(self, run, pairs):
        path = pairs / "gt" / "1.png"
        mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        whole = (mask > 127).sum()
        mask[0, :4], mask[1, :4] = 100, 200  # 8 of 3072 pixels
        cv2.imwrite(str(path), mask)
        frame = FolderSource(pairs)[1]
        assert frame.mask.sum() == whole + 4
        assert frame.mask_grey == pytest.approx(8 / mask.size)
        assert any(
            note == "1 of 3 masks hold grey, up to 0.3% of their pixels; what is brighter than "
            "half counts as object"
            for note in run(FolderSource(pairs)).notes
        )

    def test_clean_masks_need_no_word(self, run, pairs):
        assert not [note for note in run(FolderSource(pairs)).notes if "grey" in note]

    def test_masks_without_an_object_are_left_out_of_accuracy(self, run, make_source):
        source, blank = make_source(3), make_source(1, start=7).items[0]
        blank = replace(blank, mask=np.zeros_like(blank.mask))
        with_blank = make_source(3)
        with_blank.items = [*source.items, blank]
        plain, found = run(source), run(with_blank)
        assert (found.pooled.pairs, found.pooled.empty_masks) == (4, 1)
        assert found.pooled.scores["int8"].n == 3
        assert found.pooled.scores["int8"].as_dict() == plain.pooled.scores["int8"].as_dict()
        assert found.images[3].empty_mask
        assert "1 of 4 masks hold no object" in found.notes[0]

    def test_where_no_mask_has_an_object_no_accuracy_is_given(self, run, make_source):
        source = make_source(2)
        source.items = [replace(one, mask=np.zeros_like(one.mask)) for one in source.items]
        found = run(source)
        assert found.pooled.scores == {}
        assert found.pooled.differences["int8"].mean_abs > 0

    def test_a_mask_that_counts_0_and_1_is_refused(self, run, pairs):
        cv2.imwrite(str(pairs / "gt" / "0.png"), np.eye(48, 64, dtype=np.uint8))
        with pytest.raises(FrameError, match="scale it to 0 and 255"):
            run(FolderSource(pairs))


class TestSets:
    def test_one_pair_has_no_intervals_and_says_so(self, run, make_source):
        found = run(make_source(1))
        changes = found.pooled.changes["int8"]["raw"]
        assert {change.interval for change in changes.values()} == {None}
        assert found.pooled.differences["int8"].interval is None
        assert found.notes[0] == ("one pair: 95 % intervals need at least two, so none is given")

    def test_intervals_of_more_hold_what_was_found(self, run, make_source):
        found = run(make_source(6))
        for protocol in found.pooled.changes["int8"].values():
            for name, change in protocol.items():
                assert change.interval.low - 1e-12 <= change.value, name
                assert change.value <= change.interval.high + 1e-12, name
        assert found.pooled.differences["int8"].interval.holds(
            found.pooled.differences["int8"].mean_abs
        )

    @pytest.mark.parametrize("again", ["{0}", "{0}/", "folder://{0}", "{0}/../pairs"])
    def test_the_same_set_twice_is_refused_however_it_is_written(self, run, pairs, again):
        sources = [open_stored(str(pairs)), open_stored(again.format(pairs))]
        with pytest.raises(InputError, match="is there twice.*name it once"):
            run(*sources)

    def test_two_scenes_of_the_demo_are_two_sets(self, run):
        sources = [open_stored(f"demo://?seed={seed}&frames=2&size=64x48") for seed in (1, 2)]
        assert run(*sources).pooled.pairs == 4
        with pytest.raises(InputError, match="is there twice"):
            run(sources[0], sources[0])

    def test_mismatched_pairs_are_refused(self, run, pairs, tmp_path):
        lonely = tmp_path / "lonely"
        shutil.copytree(pairs, lonely)
        (lonely / "depth" / "1.png").unlink()
        with pytest.raises(SourceError, match=r"1\.png|'1'|pair"):
            run(open_stored(str(lonely)))
        small = cv2.imread(str(pairs / "depth" / "2.png"), cv2.IMREAD_UNCHANGED)[:20]
        cv2.imwrite(str(pairs / "depth" / "2.png"), small)
        with pytest.raises(FrameError, match="does not fit its colour image"):
            run(open_stored(str(pairs)))


def test_pairs_that_were_calibrated_on_are_counted(run, make_source, make_bundle):
    """Elsewhere, by another path, as a bundle that was built on another machine."""
    source = make_source(4, uri="folder:///data/streams/office")
    found = replace(run(source), before=None)  # however busy the machine is
    item = CalibrationItemRecord(
        source="folder://../mine/streams/office", id="pair_001", sha256="0" * 64
    )
    record = CalibrationRecord(
        sources=("a",), available=4, choice="random", seed=0,
        items=(item, item.model_copy(update={"id": "pair_099"})), sha256="0" * 64,
    )  # fmt: skip
    bundle = make_bundle()
    manifest = bundle.manifest.model_copy(update={"calibration": record})
    (note,) = notes_of(found, [replace(bundle, manifest=manifest)], [])
    assert note.startswith("1 of the pairs bear the place and name")
    lab = replace(found, images=tuple(replace(one, set="streams/lab") for one in found.images))
    assert notes_of(lab, [replace(bundle, manifest=manifest)], []) == ()
    assert notes_of(found, [bundle], []) == ()


def test_a_throttled_and_a_busy_machine_are_told(run, make_source):
    found = run(make_source(2))
    before = Moment("t", 9.5, None, None, None, None)
    after = replace(before, throttled_by=("over-current oc1",))
    machine = replace(found.machine, usable_cores=2)
    notes = notes_of(replace(found, machine=machine, before=before, after=after), [], [])
    assert "something held the machine back: over-current oc1" in notes
    assert any("load 9.5 on 2 cores" in note for note in notes)
