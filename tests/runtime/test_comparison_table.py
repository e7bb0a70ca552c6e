from __future__ import annotations

from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from edge_fusion.metrics import METRICS, PROTOCOLS
from edge_fusion.runtime.compare import CompareOptions, compare
from edge_fusion.runtime.comparison import Comparison, VariantCost
from edge_fusion.runtime.comparison_table import notes_table, terminal_table
from edge_fusion.runtime.energy import Energy
from edge_fusion.runtime.intervals import LEAST_ROUNDS
from edge_fusion.runtime.latency import BLOCK, Arithmetic
from edge_fusion.runtime.memory_probe import Memory

CORES = Arithmetic("TensorRT INT8 tensor cores", integer=True)
FOUR = ("fp32", "fp16", "int8", "older=int8")


@pytest.fixture
def make(make_bundle, make_source, opener):
    def made(*variants: str, pairs: int = 3, mask: bool = True, **gains: float) -> Comparison:
        options = CompareOptions(
            variants or ("fp32", "int8"),
            "fake",
            warmup=1,
            repeats=LEAST_ROUNDS * BLOCK,
            memory=False,
            arithmetic=CORES,
        )
        return compare(
            make_bundle(dict.fromkeys(("fp32", "fp16", "int8"), b"m" * 1000)),
            [make_source(pairs, mask=mask)],
            options,
            open_session=opener(fp16=1.0, **gains),
        )

    return made


def printed(renderable: object, width: int = 120, *, colour: bool = False) -> str:
    text = StringIO()
    Console(file=text, width=width, color_system="standard" if colour else None).print(renderable)
    return text.getvalue()


def row(text: str, label: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.strip().startswith(label))
    return line.strip().removeprefix(label).split()


def test_every_figure_has_a_row(make):
    text = printed(terminal_table(make(int8=0.8)))
    for metric in METRICS.values():
        for protocol in PROTOCOLS:
            assert f"{metric.label}, {protocol}" in text
    for label in (
        "mean difference", "latency p50, ms", "latency p99.9, ms", "prepare + finish, ms",
        "speed-up", "file, MB",
    ):  # fmt: skip
        assert label in text
    assert "latency: TensorRT INT8 tensor cores" in text


def test_a_cell_holds_the_figure_and_its_change_and_one_candidate_its_interval(make):
    found = make(int8=0.8, pairs=4)
    change = found.pooled.changes["int8"]["raw"]["mae"]
    before, after = (found.pooled.scores[v].raw.mae for v in ("fp32", "int8"))
    assert row(printed(terminal_table(found)), "MAE, raw") == [
        f"{before:.4f}",
        f"{after:.4f}",
        f"{change.value:+.4f}",
        f"{change.interval.low:+.4f}",
        "to",
        f"{change.interval.high:+.4f}",
    ]


def test_four_variants_stay_on_one_line_each(make):
    text = printed(terminal_table(make(*FOUR, int8=0.8)), width=100)
    assert "..." not in text
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    for label in ("MAE, normalised", "F boundary, raw", "latency p99.9, ms"):
        assert len(row(text, label)) == 7  # the reference, and figure and change of three
    assert all(len(line) <= 100 for line in text.splitlines())


def test_only_a_change_that_is_no_chance_is_coloured(make):
    """Three images that all got worse by the same; and one image, whose spread is not known."""
    red = "\x1b[31m"
    certain = printed(terminal_table(make(int8=0.6)), colour=True)
    assert red in next(line for line in certain.splitlines() if "MAE, raw" in line)
    found = make(int8=0.6)
    mae = found.pooled.changes["int8"]["raw"]["mae"]
    found.pooled.changes["int8"]["raw"]["mae"] = replace(
        mae, interval=replace(mae.interval, low=-0.01)
    )
    doubtful = printed(terminal_table(found), colour=True)
    assert red not in next(line for line in doubtful.splitlines() if "MAE, raw" in line)


def test_one_image_has_no_interval_and_says_so(make):
    found = make(pairs=1, int8=0.6)
    assert len(row(printed(terminal_table(found)), "MAE, raw")) == 3
    assert "nan" not in printed(terminal_table(found)).lower()
    assert "95 % intervals need at least two" in printed(notes_table(found))


def test_costs_are_shares_of_the_references(make):
    energy = Energy(99, 4.0, 20, 1.0, 990.0, 5.0, 495.0)
    costs = {
        "fp32": VariantCost(40_000_000, Memory(10**7, 5 * 10**7), energy=energy),
        "int8": VariantCost(
            10_000_000,
            Memory(10**7, 3 * 10**7),
            plan_bytes=11_000_000,
            energy=replace(energy, gross_mj=495.0),
        ),
    }
    text = printed(terminal_table(replace(make(), costs=costs)))
    assert row(text, "file, MB") == ["40.00", "10.00", "25%"]
    assert row(text, "engine, MB") == ["11.00"]
    assert row(text, "memory added, MB") == ["40.00", "20.00", "50%"]
    assert row(text, "energy, mJ a frame") == ["10.00", "5.00", "50%"]


def test_names_are_no_markup(make):
    assert "[red]x: 3 pairs" in printed(terminal_table(replace(make(), model="[red]x")))
    assert "[red]note" in printed(notes_table(replace(make(), notes=("[red]note",))))


def test_without_masks_the_accuracy_rows_are_left_out(make):
    text = printed(terminal_table(make(mask=False)))
    assert "MAE" not in text
    assert "mean difference" in text
