from __future__ import annotations

import base64
import hashlib
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_fusion.diagnosis import Diagnosis, Finding, LayerError, Revert
from edge_fusion.errors import InputError, MissingDependencyError, OutputError
from edge_fusion.manifest import FlavourRecord, QuantizationRecord
from edge_fusion.runtime.compare import CompareOptions, candidates_of, compare
from edge_fusion.runtime.comparison import Comparison, VariantCost
from edge_fusion.runtime.energy import Energy
from edge_fusion.runtime.latency import Arithmetic, Latency, Speedup, StageTimes
from edge_fusion.runtime.machine import Moment
from edge_fusion.runtime.memory_probe import Memory
from edge_fusion.runtime.panels import Panel, Picture
from edge_fusion.runtime.report import check_page, manifests_of, write_html
from edge_fusion.runtime.report_layers import check_diagnosed

INTEGER = Arithmetic("TensorRT INT8 tensor cores", integer=True)
LITERAL = Arithmetic("Q/DQ run literally in float", integer=False)
FOUR = ("fp32", "int8", "soft=int8", "again=fp32")
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"


def latency(speedup: Speedup, arithmetic: Arithmetic) -> Latency:
    rng = np.random.default_rng(0)
    slow = tuple((8 + rng.gamma(2, 0.2, 60)).tolist())
    fast = tuple(ms / speedup.ratio for ms in slow)
    stages = {"fp32": StageTimes(1.25, 8.5, 0.5), "int8": StageTimes(1.25, 4.5, 0.5)}
    samples = {"fp32": slow, "int8": fast}
    return Latency(arithmetic, samples, {"int8": speedup}, 5, 4, 1.25, 0.5, stages)


@pytest.fixture
def make(make_bundle, make_source, opener):
    def made(
        pairs: int = 3,
        mask: bool = True,
        gain: float = 1.0,
        variants: tuple[str, ...] = ("fp32", "int8"),
        repeats: int = 0,
        **changes,
    ) -> Comparison:
        options = CompareOptions(variants, repeats=repeats, memory=False, worst=10, energy_s=0)
        found = compare(
            make_bundle(), [make_source(pairs, mask=mask)], options, open_session=opener(int8=gain)
        )
        return replace(found, **changes)

    return made


class Page(HTMLParser):
    """Collects what the tests ask of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


@pytest.fixture
def page(make, tmp_path):
    def rendered(command: str = "", diagnosis=None, manifests=None, **options) -> Page:
        path = tmp_path / "report.html"
        write_html(make(**options), path, command, diagnosis, manifests)
        return Page(path)

    return rendered


def diagnosed(name: str = "encoder.0/Conv") -> Diagnosis:
    def layer(place: int, name: str, error: float | None) -> LayerError:
        return LayerError(
            name=name, kind="Conv", position=place, int8=error is not None, saliency_error=error,
            accumulated_sqnr_db=20.0 - place, accumulated_cosine=0.99,
            isolated_sqnr_db=None if error is None else 30.0,
        )  # fmt: skip

    return Diagnosis(
        created_utc="2026-01-01T00:00:00+00:00",
        bundle="bundle",
        model="tiny",
        sources=("memory://frames",),
        samples=8,
        saliency_error=0.0125,
        layers=(
            layer(0, name, 0.004),
            *(layer(place, f"quiet.{place}/Conv", 0.0001) for place in range(1, 60)),
            layer(60, "head/Conv", None),
        ),
        findings=(
            Finding(cause="clipping", layer=name, evidence="3 % are clipped", cure="--keep-fp16 X"),
        ),
        reverts=(Revert(layers=(name,), saliency_error=0.0085),),
        conclusion="one layer makes a third of the error",
    )


class TestPage:
    def test_it_needs_nothing_from_outside(self, page):
        found = page(gain=0.8, latency=latency(Speedup(1.8, 1.7, 1.9), INTEGER))
        addresses = [
            value
            for _, attributes in found.tags
            for name, value in attributes.items()
            if name in ("src", "href", "xlink:href", "srcset", "action", "data")
        ]
        assert all(address.startswith(("data:image/", "#")) for address in addresses)
        assert any(address.startswith("data:image/") for address in addresses)
        assert not re.search(r"url\((?!#)|@import", found.source)
        assert "http" not in re.sub(r'http-equiv="', "", found.source)
        assert not {"link", "iframe", "object", "base", "form"} & {tag for tag, _ in found.tags}

    def test_only_its_own_script_may_run(self, page):
        found = page()
        (script,) = re.findall(r"<script>(.*?)</script>", found.source, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        policy = next(
            attributes["content"]
            for tag, attributes in found.tags
            if attributes.get("http-equiv") == "Content-Security-Policy"
        )
        assert f"script-src 'sha256-{digest}'" in policy
        assert "default-src 'none'" in policy

    def test_links_within_it_lead_somewhere(self, page):
        found = page(gain=0.8, latency=latency(Speedup(1.8, 1.7, 1.9), INTEGER))
        ids = [attributes["id"] for _, attributes in found.tags if "id" in attributes]
        assert len(ids) == len(set(ids))
        wanted = {
            attributes["href"][1:]
            for _, attributes in found.tags
            if attributes.get("href", "").startswith("#")
        } | set(re.findall(r"url\(#([^)]+)\)", found.source))
        assert wanted
        assert wanted <= set(ids)

    def test_it_holds_the_verdict_the_figures_and_the_command(self, page):
        found = page(
            "edge-fusion compare b --data 'my set'",
            gain=0.8,
            latency=latency(Speedup(1.8, 1.7, 1.9), INTEGER),
            costs={
                "fp32": VariantCost(40_000_000, Memory(60_000_000, 200_000_000)),
                "int8": VariantCost(
                    10_000_000,
                    Memory(60_000_000, 130_000_000),
                    energy=Energy(100, 2.0, 20, 1.0, 5000.0, 1000.0, 3000.0),
                ),
            },
        )
        for piece in (
            "FP32 against INT8",
            "INT8 is less accurate than FP32",
            "Accuracy, normalised maps",
            "Accuracy, raw maps",
            "file, MB 40.00 10.00 4.00\N{MULTIPLICATION SIGN} less",
            "memory added, MB 140.00 70.00 2.00\N{MULTIPLICATION SIGN} less",
            "energy, mJ a frame 50.00",
            "energy beyond rest, mJ 30.00",
            "times as fast 1.80\N{MULTIPLICATION SIGN} 1.70 to 1.90",
            "prepare the inputs 1.25 1.25 infer 8.50 4.50",
            "p99.9",
            "TensorRT INT8 tensor cores",
            "Worst pairs",
            "pair_002",
            "edge-fusion compare b --data 'my set'",
        ):
            assert piece in found.words, piece
        assert "no 8-bit arithmetic" not in found.words.lower()

    def test_every_table_has_headings_and_every_picture_words(self, page):
        found = page(gain=0.8, latency=latency(Speedup(1.8, 1.7, 1.9), INTEGER))
        count = {tag: sum(one == tag for one, _ in found.tags) for tag in ("table", "caption")}
        assert count["table"] == count["caption"] > 5
        assert all(attributes.get("scope") for tag, attributes in found.tags if tag == "th")
        assert all(attributes.get("alt") for tag, attributes in found.tags if tag == "img")
        drawings = [attributes for tag, attributes in found.tags if tag == "svg"]
        assert sum(one.get("role") == "img" for one in drawings) == 9
        assert all(one.get("aria-label") or one.get("aria-hidden") for one in drawings)

    def test_it_follows_light_and_dark(self, page):
        source = page().source
        light, dark = source.split("@media (prefers-color-scheme: dark)")[:2]
        defined = set(re.findall(r"--([\w]+):", light))
        assert set(re.findall(r"--([\w]+):", dark.split("}")[0])) == defined
        assert set(re.findall(r"var\(--([\w]+)\)", source)) - {"share"} <= defined

    def test_the_same_comparison_gives_the_same_bytes(self, make, tmp_path):
        found = make(gain=0.8, latency=latency(Speedup(1.8, 1.7, 1.9), INTEGER))
        paths = [tmp_path / "one.html", tmp_path / "two.html"]
        for path in paths:
            write_html(found, path)
        assert paths[0].read_bytes() == paths[1].read_bytes()

    def test_without_latency_nothing_is_said_of_it(self, page):
        found = page(gain=0.8)
        assert "Latency" not in found.words
        assert "curves" in [attributes.get("id") for _, attributes in found.tags]

    def test_it_says_that_no_integer_arithmetic_ran(self, page):
        found = page(latency=latency(Speedup(1.1, 1.0, 1.2), LITERAL))
        assert "No 8-bit arithmetic ran, so these times do not show what INT8 gains" in found.words
        assert "latency ratio, not of INT8 arithmetic" in found.words

    def test_pictures_decode_and_have_words(self, page):
        found = page(gain=0.8)
        pictures = [attributes for tag, attributes in found.tags if tag == "img"]
        assert len(pictures) == 3 * 6
        assert {one["alt"] for one in pictures} >= {"depth of pair_000", "INT8 of pair_001"}
        images = [
            cv2.imdecode(
                np.frombuffer(base64.b64decode(one["src"].partition(",")[2]), np.uint8),
                cv2.IMREAD_COLOR,
            )
            for one in pictures
        ]
        assert {image.shape for image in images} == {(48, 64, 3)}
        assert images[0][..., 2].max() > 180 > images[0][..., 0].max()  # the square is red

    def test_pairs_without_masks_have_no_accuracy(self, page):
        found = page(mask=False, gain=0.9, repeats=5)
        assert "Accuracy" not in found.words
        assert "truth" not in found.words
        assert "mean difference of a pixel" in found.words
        assert "3 pairs, no masks" in found.words
        assert "Latency of inference" in found.words

    def test_four_variants_have_a_column_a_sentence_and_a_difference_each(self, page):
        found = page(gain=0.8, variants=FOUR, repeats=5)
        assert "fp32 against INT8 against soft against again" in found.words.replace("FP32", "fp32")
        pictures = [attributes["alt"] for tag, attributes in found.tags if tag == "img"]
        assert len(pictures) == 3 * (3 + 4 + 3)
        assert "difference soft of pair_000" in pictures
        assert "var(--v3)" in found.source
        verdict = found.source.split('class="verdict"')[1].split("</ul>")[0]
        assert verdict.count("<li") == 3

    def test_the_machine_before_and_after(self, page):
        before = Moment(
            "2026-01-01T00:00:00+00:00", 0.25, 1500.0, 306.0, True, "15W", {"cpu": 41.2}
        )
        after = replace(before, temperatures_c={"cpu": 63.0}, throttled_by=("heat",))
        found = page(before=before, after=after)
        assert "power mode 15W 15W" in found.words
        assert "cpu 41 cpu 63" in found.words
        assert "held back by heat" in found.words

    def test_names_are_inert(self, page):
        harmless = page("a command", diagnosed(), gain=0.8)
        found = page(HOSTILE, diagnosed(HOSTILE), gain=0.8, model=HOSTILE)
        kinds = [{tag for tag, _ in one.tags} for one in (found, harmless)]
        assert kinds[0] - kinds[1] == set()
        assert sum(tag == "script" for tag, _ in found.tags) == 1
        assert not [a for _, a in found.tags if any(name.startswith("on") for name in a)]
        assert found.words.count("alert(1)") >= 3

    def test_names_of_pairs_sets_and_variants_are_inert(self, make, tmp_path):
        found = make(gain=0.8, variants=("fp32", "int8"))
        images = tuple(replace(one, id=HOSTILE, set=HOSTILE) for one in found.images)
        sets = (replace(found.sets[0], name=HOSTILE),)
        about = {
            label: replace(one, path=HOSTILE, text=HOSTILE) for label, one in found.about.items()
        }
        path = tmp_path / "report.html"
        write_html(replace(found, images=images, sets=sets, about=about, notes=(HOSTILE,)), path)
        page = Page(path)
        assert sum(tag == "script" for tag, _ in page.tags) == 1
        assert not [a for _, a in page.tags if any(name.startswith("on") for name in a)]
        assert f"colour of {HOSTILE}" in [a["alt"] for tag, a in page.tags if tag == "img"]

    def test_a_diagnosis_is_shown_the_costliest_layer_first(self, page):
        found = page(diagnosis=diagnosed())
        for piece in (
            "one layer makes a third of the error",
            "encoder.0/Conv Conv 0.00400 30.0 20.0 0.9900 clipping",
            "3 % are clipped --keep-fp16 X",
            "none 0.01250 1 0.00850",
            "21 more layers",
            "head/Conv Conv, not INT8",
        ):
            assert piece in found.words, piece
        assert "--share: 100.0%" in found.source

    def test_without_a_diagnosis_the_manifest_tells_what_was_kept_and_why(self, page, make):
        found = make()
        (path,) = {one.path for one in found.about.values()}
        manifest = manifests_of(found)[path].model_copy(update=quantized())
        page = page(manifests={path: manifest})
        for piece in (
            "2 nodes compute in INT8",
            "strong.int8 9 30 2",
            "out of INT8 1 residual stream head/Add",
            "FP32 in strong.int8, weak.int8 2 scale \N{HORIZONTAL ELLIPSIS} of weights",
            "edge-fusion diagnose BUNDLE",
        ):
            assert piece in page.words, piece

    def test_it_tells_what_bundle_it_was(self, page, make):
        found = make()
        shown = page(manifests=manifests_of(found))
        assert found.about["int8"].sha256 in shown.words
        assert "24 by 32, from tiny" in shown.words

    def test_many_pictures_of_many_variants_stay_small(self, make, tmp_path):
        found = make(pairs=12, gain=0.8, variants=(*FOUR, "fifth=int8"))
        rng = np.random.default_rng(0)
        panels = tuple(
            Panel(
                "worst",
                index,
                0.1,
                tuple(
                    Picture(one.label, rng.integers(0, 256, (240, 240, 3)).astype(np.uint8))
                    for one in found.panels[0].pictures
                ),
            )
            for index in range(12)
        )
        path = tmp_path / "many.html"
        write_html(replace(found, panels=panels, images=found.images * 1000), path)
        assert path.stat().st_size < 5_000_000
        page = Page(path)
        assert sum(tag == "img" for tag, _ in page.tags) == 12 * 12
        assert "smaller than usual" in page.words
        assert "11000 less degraded pairs are left out here" in page.words


def quantized() -> dict[str, object]:
    def flavour(name: str) -> FlavourRecord:
        reason = "scale {} of weights '{}' is too small for FP16"
        return FlavourRecord(
            file="model.int8.onnx",
            target="orin-nano@6.2",
            precisions={"fp32": 9, "fp16": 30, "int8": 2},
            kept_fp32={n: reason.format(s, n) for n, s in (("a", "5.1e-05"), ("b", "4.2e-05"))},
            to_reference=0.0,
            to_fp32=0.0,
            reference_to_fp32=0.0,
            samples=4,
        )

    return {
        "quantization": QuantizationRecord(
            options={}, int8_nodes=("a", "b"), kept_fp16={"head/Add": "residual stream"}
        ),
        "flavours": {name: flavour(name) for name in ("strong.int8", "weak.int8")},
    }


class TestCheckPage:
    def test_a_diagnosis_without_a_page_is_refused(self, tmp_path):
        with pytest.raises(InputError, match="is for a report.*add --html"):
            check_page(None, tmp_path / "diagnosis.json")

    def test_a_diagnosis_is_read(self, tmp_path):
        path = tmp_path / "diagnosis.json"
        path.write_text(diagnosed().model_dump_json())
        assert check_page(tmp_path / "report.html", path) == diagnosed()

    def test_a_diagnosis_of_something_else_is_refused(self, make_bundle):
        bundle = make_bundle()
        found = candidates_of(bundle.path, CompareOptions(backend="ort"))
        check_diagnosed(diagnosed(), found)
        known = bundle.manifest.files["model.int8.onnx"].sha256
        check_diagnosed(diagnosed().model_copy(update={"sha256": known}), found)
        with pytest.raises(InputError, match=r"another model: expected tiny, got other;.*diagnose"):
            check_diagnosed(diagnosed().model_copy(update={"model": "other"}), found)
        with pytest.raises(InputError, match="int8 of another bundle, then called 'bundle'"):
            check_diagnosed(diagnosed().model_copy(update={"sha256": "0" * 64}), found)

    def test_neither_is_fine(self):
        assert check_page(None, None) is None

    @pytest.mark.parametrize("package", ["jinja2", "matplotlib.figure"])
    def test_a_missing_package_names_the_extra(self, package, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(MissingDependencyError, match=r"edge-fusion\[report\]"):
            check_page(tmp_path / "report.html", None)


class TestWriting:
    def test_a_page_that_cannot_be_written_is_an_output_error(self, make, tmp_path):
        (tmp_path / "file").write_text("in the way")
        with pytest.raises(OutputError, match="cannot write the report"):
            write_html(make(), tmp_path / "file" / "report.html")

    def test_an_older_page_survives_a_failure(self, make, tmp_path, monkeypatch):
        path = tmp_path / "report.html"
        path.write_text("older")
        monkeypatch.setattr(
            "edge_fusion.files.os.fsync", lambda _: (_ for _ in ()).throw(OSError())
        )
        with pytest.raises(OutputError):
            write_html(make(), path)
        assert path.read_text() == "older"
        assert [file.name for file in tmp_path.iterdir() if "partial" in file.name] == []
