from __future__ import annotations

import base64
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_fusion.errors import MissingDependencyError, OutputError
from edge_fusion.runtime.compare import CompareOptions, compare
from edge_fusion.runtime.comparison import Comparison, VariantCost
from edge_fusion.runtime.latency import Arithmetic, Latency, Speedup
from edge_fusion.runtime.memory_probe import Memory
from edge_fusion.runtime.report import write_html

INTEGER = Arithmetic("TensorRT INT8 tensor cores", integer=True)
LITERAL = Arithmetic("Q/DQ run literally in float", integer=False)


def latency(speedup: Speedup, arithmetic: Arithmetic) -> Latency:
    rng = np.random.default_rng(0)
    slow = tuple((8 + rng.gamma(2, 0.2, 60)).tolist())
    fast = tuple(ms / speedup.ratio for ms in slow)
    return Latency(arithmetic, {"fp32": slow, "int8": fast}, {"int8": speedup}, 5, 4, 1.25, 0.5)


@pytest.fixture
def make(make_bundle, make_source, opener):
    def made(pairs: int = 3, mask: bool = True, gain: float = 1.0, **changes) -> Comparison:
        options = CompareOptions(repeats=0, memory=False)
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
    def rendered(command: str = "", **options) -> Page:
        path = tmp_path / "report.html"
        write_html(make(**options), path, command=command)
        return Page(path)

    return rendered


class TestPage:
    def test_it_needs_nothing_from_outside(self, page):
        found = page(latency=None)
        addresses = [
            value
            for _, attributes in found.tags
            for name, value in attributes.items()
            if name in ("src", "href", "srcset", "action", "data")
        ]
        assert addresses
        assert all(address.startswith("data:image/") for address in addresses)
        assert "url(" not in found.source
        assert not {"script", "link", "iframe"} & {tag for tag, _ in found.tags}
        assert "default-src 'none'" in found.source

    def test_it_holds_the_verdict_the_figures_and_the_command(self, page, make):
        found = page(
            "edge-fusion compare b --data 'my set'",
            gain=0.8,
            latency=latency(Speedup(1.8, 1.7, 1.9), INTEGER),
            costs={
                "fp32": VariantCost(40_000_000, Memory(60_000_000, 200_000_000)),
                "int8": VariantCost(10_000_000, Memory(60_000_000, 130_000_000)),
            },
        )
        for piece in (
            "FP32 against INT8",
            "INT8 is less accurate than FP32",
            "Normalised maps",
            "Raw maps",
            "file, MB 40.00 10.00 4.00\N{MULTIPLICATION SIGN} less",
            "memory added, MB 140.00 70.00 2.00\N{MULTIPLICATION SIGN} less",
            "1.25 ms to prepare",
            "TensorRT INT8 tensor cores",
            "Worst pairs",
            "pair_002",
            "edge-fusion compare b --data 'my set'",
        ):
            assert piece in found.words, piece
        assert sum(tag == "polygon" for tag, _ in found.tags) == 2
        assert "prefers-color-scheme: dark" in found.source
        assert "no 8-bit arithmetic" not in found.words.lower()

    def test_it_says_that_no_integer_arithmetic_ran(self, page):
        found = page(latency=latency(Speedup(1.1, 1.0, 1.2), LITERAL))
        assert "No 8-bit arithmetic ran, so these times do not show what INT8 gains" in found.words
        assert "speed-up" not in found.words

    def test_pictures_decode_and_have_words(self, page):
        found = page(gain=0.8)
        pictures = [attributes for tag, attributes in found.tags if tag == "img"]
        assert len(pictures) == 3 * 6
        assert {one["alt"] for one in pictures} >= {"depth of pair_000", "INT8 of pair_001"}
        for one in pictures:
            data = base64.b64decode(one["src"].partition(",")[2])
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
            assert image.shape == (48, 64, 3)

    def test_colour_keeps_its_channels(self, page):
        first = next(attributes for tag, attributes in page().tags if tag == "img")
        data = base64.b64decode(first["src"].partition(",")[2])
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        assert image[..., 2].max() > 180 > image[..., 0].max()  # the square is red

    def test_pairs_without_masks_have_no_accuracy_tables(self, page):
        found = page(mask=False, gain=0.9)
        assert "Raw maps" not in found.words
        assert "truth" not in found.words
        assert "mean difference" in found.words

    def test_names_are_escaped(self, page):
        found = page("run --data '<script>alert(1)</script>'", model="<b>bold</b>")
        assert "script" not in {tag for tag, _ in found.tags}
        assert "<b>bold" not in found.source
        assert "&lt;b&gt;bold&lt;/b&gt;" in found.source
        assert "&lt;script&gt;" in found.source

    def test_many_pairs_stay_small(self, make, tmp_path):
        few = make(pairs=4, gain=0.9)
        many = replace(few, images=few.images * 750)
        path = tmp_path / "many.html"
        write_html(many, path)
        assert path.stat().st_size < 5_000_000
        assert "1000 less degraded pairs are left out here" in Page(path).words

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

    def test_a_missing_jinja2_names_the_extra(self, make, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "jinja2", None)
        with pytest.raises(MissingDependencyError, match=r"edge-fusion\[report\]"):
            write_html(make(), tmp_path / "report.html")
