from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from edge_fusion.errors import MissingDependencyError
from edge_fusion.runtime import plots
from edge_fusion.runtime.plot_svg import COLOURS, draw_svg, swatch_svg

LINE = (np.linspace(0, 1, 50), np.linspace(0.2, 0.9, 50))


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ET.fromstring(svg).iter("text")]


def drawn_tradeoff(metric: str = "MAE") -> str:
    reference = plots.Point(20.0, None, 0.04, None)
    return plots.tradeoff(
        "t", "title", metric, [reference, plots.Point(9.0, (8.5, 9.5), 0.041, (0.038, 0.043))]
    )


class TestTradeoff:
    def test_what_is_next_to_equal_has_ticks_short_enough_to_be_seen(self):
        points = [plots.Point(20.0, None, value, None) for value in (0.020495, 0.020487)]
        ticks = [
            text for text in texts(plots.tradeoff("t", "title", "MAE", points)) if "0.02" in text
        ]
        assert ticks
        assert max(map(len, ticks)) <= len("0.0205")


class TestDrawing:
    def test_colours_are_left_to_the_page(self):
        svg = plots.curves("c", "title", ("x", "y"), [LINE, LINE, LINE])
        assert {"var(--v0)", "var(--v1)", "var(--v2)", "var(--quiet)", "var(--line)"} <= {
            part.rstrip(";\"'") for part in svg.replace(":", " ").split()
        }
        assert "#" not in svg.replace("url(#", "").replace('href="#', "")

    def test_text_is_text_in_the_pages_own_font(self):
        svg = plots.curves("c", "title", ("threshold", "F"), [LINE])
        assert {"threshold", "F"} <= set(texts(svg))
        assert "font" not in svg

    def test_it_has_a_name_for_those_who_cannot_see_it(self):
        root = ET.fromstring(plots.curves("c", 'a "title" <b>', ("x", "y"), [LINE]))
        assert root.get("role") == "img"
        assert root.get("aria-label") == 'a "title" <b>'
        assert root.get("viewBox")
        assert root.get("width") is None

    def test_the_same_figures_give_the_same_bytes(self):
        assert drawn_tradeoff() == drawn_tradeoff()

    def test_ids_of_two_drawings_differ(self):
        def ids(svg: str) -> set[str]:
            found = {element.get("id", "") for element in ET.fromstring(svg).iter()} - {""}
            assert found
            return found

        lines = [LINE, LINE]
        first, second = (plots.curves(name, "t", ("x", "y"), lines) for name in ("one", "two"))
        assert not ids(first) & ids(second)

    def test_nothing_is_loaded_and_no_style_reaches_the_page(self):
        svg = drawn_tradeoff()
        assert "http" not in svg
        assert not {"style", "metadata", "script", "image"} & {
            element.tag for element in ET.fromstring(svg).iter()
        }

    def test_the_users_settings_do_not_matter(self):
        import matplotlib

        before = drawn_tradeoff()
        with matplotlib.rc_context({"font.size": 30, "lines.linewidth": 9, "axes.grid": True}):
            assert drawn_tradeoff() == before

    def test_settings_come_back(self):
        import matplotlib

        before = dict(matplotlib.rcParams)
        drawn_tradeoff()
        assert dict(matplotlib.rcParams) == before

    def test_a_dollar_is_no_formula(self):
        assert r"$\frac" in texts(drawn_tradeoff(r"$\frac"))

    def test_more_variants_than_colours_keep_markers_apart(self):
        assert swatch_svg(0) != swatch_svg(COLOURS)
        assert "var(--v0)" in swatch_svg(COLOURS)

    def test_no_window_system_is_touched(self):
        code = (
            "import sys; from edge_fusion.runtime.plot_svg import swatch_svg; swatch_svg(0);"
            "assert 'matplotlib.pyplot' not in sys.modules;"
            "assert not [name for name in sys.modules if 'tkinter' in name or 'Qt' in name]"
        )
        subprocess.run([sys.executable, "-c", code], check=True)

    def test_a_missing_matplotlib_names_the_extra(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
        with pytest.raises(MissingDependencyError, match=r"edge-fusion\[report\]"):
            draw_svg("n", "t", lambda axes: None)


class TestLatencies:
    def test_what_lies_beyond_the_end_is_counted(self):
        _, beyond = plots.latencies("t", [[1.0] * 2000, [*[2.0] * 1998, 1000.0]])
        assert beyond == 1

    @pytest.mark.parametrize("samples", [[5.0], [5.0, 5.0, 5.0]])
    def test_times_without_spread_are_drawn(self, samples):
        svg, beyond = plots.latencies("t", [samples, samples])
        assert beyond == 0
        assert "latency, ms" in texts(svg)

    def test_times_far_apart_share_a_logarithmic_axis(self):
        svg, _ = plots.latencies("t", [[100.0, 120.0], [1.0, 1.2]])
        assert {"1", "10", "100"} <= set(texts(svg))

    def test_stages_are_written_out(self):
        assert "1.00 + 20.00 + 0.50 = 21.50" in texts(plots.stages("t", [(1, 20, 0.5)]))


class TestPairs:
    def test_many_pairs_are_thinned_but_keep_the_worst(self):
        first = np.full(5000, 0.1)
        other = first.copy()
        other[1234] = 0.9
        svg, count = plots.pairs("t", [first, other])
        assert count == 300
        assert len(svg) < 100_000
        assert svg != plots.pairs("t", [first, first])[0]
        _, few = plots.pairs("t", [first[:40], other[:40]])
        assert few == 40

    def test_maps_without_any_error_are_drawn(self):
        svg, _ = plots.pairs("t", [np.zeros(3), np.zeros(3)])
        assert "MAE of the reference" in texts(svg)


def test_layers_far_above_the_rest_do_not_flatten_it():
    place = np.arange(4.0)
    svg = plots.layer_errors("t", {1: (place, np.array([20, 30, 200, 25.0]))}, 60)
    assert "200" not in texts(svg)
    assert "60" in texts(svg)
