"""A comparison as a table for the terminal: one row a figure, one column a variant."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from rich import box
from rich.table import Table
from rich.text import Text

from edge_fusion.metrics import METRICS, PROTOCOLS, Metric

from .comparison import Change, Comparison, VariantCost, shown
from .intervals import Interval
from .verdict import count

_UNCHANGED = 5e-5  # less than the last printed digit
_TIMES = "\N{MULTIPLICATION SIGN}"
_STYLES = {True: "green", False: "red", None: ""}


class _Line(NamedTuple):
    """One row: the variants' cells in order, and the interval of the only candidate's change."""

    label: str
    cells: list[Text]
    interval: str = ""


def terminal_table(comparison: Comparison) -> Table:
    """The pooled figures of a comparison; at most 100 columns wide with four variants.

    A candidate's cell holds its figure and how far that is from the reference's.  A change is
    coloured where its 95 % interval leaves out zero, so that nobody reads chance as a finding.
    """
    table = Table(
        title=Text(f"{comparison.model}: {count(comparison.pooled.pairs, 'pair')}"),
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        caption_justify="left",
    )
    table.add_column("figure", no_wrap=True)
    for variant in comparison.variants:
        table.add_column(Text(shown(variant)), justify="right")
    single = len(comparison.candidates) == 1
    if single:
        table.add_column("95 % of the change", justify="right", no_wrap=True)
    for section in (*_accuracy(comparison), list(_costs(comparison))):
        for line in section:
            table.add_row(Text(line.label), *line.cells, *([line.interval] if single else []))
        table.add_section()
    if comparison.latency is not None:
        table.caption = Text(f"latency: {comparison.latency.arithmetic.text}")
    return table


def notes_table(comparison: Comparison) -> Table:
    """What a reader must know about the figures, a line each."""
    table = Table.grid(padding=(0, 1))
    for note in comparison.notes:
        table.add_row("-", Text(note))
    return table


def _accuracy(comparison: Comparison) -> Iterator[list[_Line]]:
    for protocol in PROTOCOLS if comparison.pooled.scores else ():
        yield [_metric_line(comparison, metric, protocol) for metric in METRICS.values()]
    differences = comparison.pooled.differences
    lines = []
    for label, name in (("mean difference", "mean_abs"), ("largest difference", "max_abs")):
        cells = [Text(f"{getattr(differences[v], name):.4f}") for v in comparison.candidates]
        interval = differences[comparison.candidates[0]].interval if name == "mean_abs" else None
        lines.append(_Line(label, [Text(), *cells], _between(interval, "{:.4f}")))
    yield lines


def _metric_line(comparison: Comparison, metric: Metric, protocol: str) -> _Line:
    pooled = comparison.pooled
    figures = {v: getattr(pooled.scores[v], protocol) for v in comparison.variants}
    cells = [Text(f"{metric.of(figures[comparison.reference]):.4f}")]
    interval = None
    for variant in comparison.candidates:
        change = pooled.changes[variant][protocol][metric.name]
        interval = change.interval
        cell = Text(f"{metric.of(figures[variant]):.4f} ")
        cell.append(_signed(change.value), _STYLES[_better(change, metric)])
        cells.append(cell)
    return _Line(f"{metric.label}, {protocol}", cells, _between(interval, "{:+.4f}"))


def _better(change: Change, metric: Metric) -> bool | None:
    """Whether a change is one for the better; None where it may be chance or cannot be seen."""
    if abs(change.value) < _UNCHANGED or (change.interval is not None and change.interval.holds(0)):
        return None
    return (change.value > 0) == metric.higher_is_better


def _costs(comparison: Comparison) -> Iterator[_Line]:
    yield from _latency(comparison)
    for label, unit, read in COSTS:
        found = [read(comparison.costs[variant]) for variant in comparison.variants]
        if any(value is not None for value in found):
            yield _Line(label, _ratios(found, unit))


def _latency(comparison: Comparison) -> Iterator[_Line]:
    latency = comparison.latency
    if latency is None:
        return
    summaries = [latency.summaries[variant] for variant in comparison.variants]
    for label, name in PERCENTILES.items():
        yield _Line(f"latency {label}, ms", _ratios([getattr(one, name) for one in summaries], 1))
    stages = [latency.stages[v] for v in comparison.variants if v in latency.stages]
    if len(stages) == len(comparison.variants):
        cells = [Text(f"{one.prepare_ms:.2f} + {one.finish_ms:.2f}") for one in stages]
        yield _Line("prepare + finish, ms", cells)
    speedups = [latency.speedups[variant] for variant in comparison.candidates]
    yield _Line("speed-up", [Text(), *(Text(f"{one.ratio:.2f}{_TIMES}") for one in speedups)])
    intervals = [
        "" if one.low is None or one.high is None else f"{one.low:.2f} to {one.high:.2f}"
        for one in speedups
    ]
    yield _Line("speed-up, 95 %", [Text(), *map(Text, intervals)])


#: Percentiles of latency by what tables call them.
PERCENTILES = {"p50": "p50_ms", "p90": "p90_ms", "p99": "p99_ms", "p99.9": "p999_ms"}
#: What a variant costs besides time: its name, its unit, and how it is read.
COSTS: tuple[tuple[str, float, Callable[[VariantCost], float | None]], ...] = (
    ("file, MB", 1e6, lambda cost: cost.onnx_bytes or cost.file_bytes),
    ("engine, MB", 1e6, lambda cost: cost.plan_bytes),
    ("memory added, MB", 1e6, lambda cost: cost.memory.added_bytes if cost.memory else None),
    ("memory peak, MB", 1e6, lambda cost: cost.memory.peak_bytes if cost.memory else None),
    ("energy, mJ a frame", 1, lambda c: c.energy.gross_mj_per_frame if c.energy else None),
    ("energy beyond rest, mJ", 1, lambda c: c.energy.net_mj_per_frame if c.energy else None),
)


def _ratios(found: list[float | None], unit: float) -> list[Text]:
    """Values, each candidate's with the share it is of the reference's."""
    first = found[0]
    cells = [Text("" if value is None else f"{value / unit:.2f}") for value in found]
    for cell, value in zip(cells[1:], found[1:], strict=True):
        if value is not None and first is not None and first > 0:
            cell.append(f" {value / first:>4.0%}")
    return cells


def _signed(value: float) -> str:
    return " 0.0000" if abs(value) < _UNCHANGED else f"{value:+.4f}"


def _between(interval: Interval | None, form: str) -> str:
    if interval is None:
        return ""
    return f"{form.format(interval.low)} to {form.format(interval.high)}"
