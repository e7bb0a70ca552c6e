"""The figures of a comparison as rows of a page's tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from edge_fusion.metrics import METRICS, PROTOCOLS, Metric

from .comparison import Change, Comparison, ImageResult, SetResult, shown
from .comparison_table import COSTS, PERCENTILES
from .intervals import Interval

_UNCHANGED = 5e-5  # less than the last printed digit
_SURE = "95\N{NO-BREAK SPACE}%"
_TIMES = "\N{MULTIPLICATION SIGN}"
_STAGES = {
    "prepare the inputs": "prepare_ms",
    "infer": "infer_ms",
    "finish the map": "finish_ms",
    "all three": "total_ms",
}
_OF_SETS = (("mae", "raw"), ("s", "normalised"), ("f_max", "normalised"))


@dataclass(frozen=True, slots=True)
class Cell:
    """One printed value.

    Attributes:
        text: The value.
        note: What stands beside or below it, in small.
        interval: The 95 % interval of what the note says.
        tone: ``better`` or ``worse``; empty where neither can be said.
        share: Length of a bar behind it, percent of the cell; None draws none.
    """

    text: str
    note: str = ""
    interval: str = ""
    tone: str = ""
    share: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table."""

    label: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """Lines of a table that belong together, and what the notes of its cells are."""

    heading: str
    rows: tuple[Row, ...]
    changes: str = ""


def variant_groups(comparison: Comparison) -> list[Group]:
    """All pooled figures: one column a variant, one row a figure, in groups."""
    found, first = comparison.pooled.scores, shown(comparison.reference)
    groups = [Group("What it is", tuple(_identity(comparison)))]
    for protocol in PROTOCOLS if found else ():
        rows = tuple(_metric_row(comparison, metric, protocol) for metric in METRICS.values())
        groups.append(Group(f"Accuracy, {protocol} maps", rows, "change"))
    groups.append(Group(f"Difference to {first}", _differences(comparison), _SURE))
    groups.append(
        Group("Latency of inference, ms", tuple(_latency(comparison)), f"against {first}")
    )
    groups.append(Group("Median of a frame's parts, ms", tuple(_stages(comparison))))
    groups.append(Group("Cost", tuple(_costs(comparison)), f"against {first}"))
    return [group for group in groups if group.rows]


def _identity(comparison: Comparison) -> Iterator[Row]:
    about = [comparison.about[v] for v in comparison.variants if v in comparison.about]
    if len(about) < len(comparison.variants):
        return
    if len({one.model for one in about}) > 1:
        yield Row("model", tuple(Cell(one.model) for one in about))
    yield Row("precision", tuple(Cell(one.precision.upper()) for one in about))
    yield Row("backend", tuple(Cell(one.backend) for one in about))


def _metric_row(comparison: Comparison, metric: Metric, protocol: str) -> Row:
    scores, changes = comparison.pooled.scores, comparison.pooled.changes
    cells = []
    for variant in comparison.variants:
        text = f"{metric.of(getattr(scores[variant], protocol)):.4f}"
        change = changes[variant][protocol][metric.name] if variant in changes else None
        cells.append(Cell(text) if change is None else _changed(text, change, metric))
    arrow = "\N{UPWARDS ARROW}" if metric.higher_is_better else "\N{DOWNWARDS ARROW}"
    return Row(f"{metric.label}\N{NO-BREAK SPACE}{arrow}", tuple(cells))


def _changed(text: str, change: Change, metric: Metric) -> Cell:
    interval = between(change.interval, signed)
    tone = tone_of(change.value, change.interval, metric)
    return Cell(text, signed(change.value), interval, tone)


def tone_of(value: float, interval: Interval | None, metric: Metric) -> str:
    """Better or worse; empty where it cannot be seen or may be chance."""
    if abs(value) < _UNCHANGED or (interval is not None and interval.holds(0)):
        return ""
    return "better" if (value > 0) == metric.higher_is_better else "worse"


def _differences(comparison: Comparison) -> tuple[Row, ...]:
    found = [comparison.pooled.differences[variant] for variant in comparison.candidates]
    means = (
        Cell(f"{one.mean_abs:.4f}", "", between(one.interval, "{:.4f}".format)) for one in found
    )
    return (
        Row("mean per pixel", (Cell(""), *means)),
        Row("largest pixel", (Cell(""), *(Cell(f"{one.max_abs:.4f}") for one in found))),
    )


def _latency(comparison: Comparison) -> Iterator[Row]:
    latency = comparison.latency
    if latency is None:
        return
    summaries = [latency.summaries[variant] for variant in comparison.variants]
    for label, name in PERCENTILES.items():
        yield Row(label, _with_ratios([getattr(one, name) for one in summaries], 1))
    cells = [Cell("")]
    for variant in comparison.candidates:
        one = latency.speedups[variant]
        interval = None if one.low is None or one.high is None else Interval(one.low, one.high)
        cells.append(Cell(f"{one.ratio:.2f}{_TIMES}", "", between(interval, "{:.2f}".format)))
    yield Row("times as fast", tuple(cells))
    yield Row("timed runs", tuple(Cell(str(one.n)) for one in summaries))


def _stages(comparison: Comparison) -> Iterator[Row]:
    latency = comparison.latency
    if latency is None or set(comparison.variants) - set(latency.stages):
        return
    found = [latency.stages[variant] for variant in comparison.variants]
    for label, name in _STAGES.items():
        yield Row(label, tuple(Cell(f"{getattr(one, name):.2f}") for one in found))


def _costs(comparison: Comparison) -> Iterator[Row]:
    for label, unit, read in COSTS:
        found = [read(comparison.costs[variant]) for variant in comparison.variants]
        if any(value is not None for value in found):
            yield Row(label, _with_ratios(found, unit))


def _with_ratios(values: Sequence[float | None], unit: float) -> tuple[Cell, ...]:
    """Values; below each but the first, how many times more or less it is."""
    first = values[0]
    cells = []
    for place, value in enumerate(values):
        text = "" if value is None else f"{value / unit:.2f}"
        known = place > 0 and value is not None and first is not None
        cells.append(Cell(text, ratio(first, value) if known and first and value else ""))
    return tuple(cells)


def ratio(before: float, after: float) -> str:
    """How many times more or less, such as ``3.75x less``; empty without a meaning."""
    if min(before, after) <= 0:
        return ""
    more = after > before
    times = after / before if more else before / after
    return f"{times:.2f}{_TIMES} {'more' if more else 'less'}" if times >= 1.005 else "alike"


def set_rows(comparison: Comparison) -> list[tuple[SetResult, list[Row]]]:
    """A row for each variant of each set; :func:`set_headings` names the columns."""
    return [
        (one, [_set_row(comparison, one, variant) for variant in comparison.variants])
        for one in comparison.sets
    ]


def _set_row(comparison: Comparison, result: SetResult, variant: str) -> Row:
    cells = []
    for name, protocol in _OF_SETS:
        if not result.scores:
            cells.append(Cell(""))
            continue
        metric = METRICS[name]
        text = f"{metric.of(getattr(result.scores[variant], protocol)):.4f}"
        changes = result.changes.get(variant)
        change = changes[protocol][name] if changes else None
        cells.append(Cell(text) if change is None else _changed(text, change, metric))
    difference = result.differences.get(variant)
    if difference is None:
        cells.append(Cell(""))
    else:
        interval = between(difference.interval, "{:.4f}".format)
        cells.append(Cell(f"{difference.mean_abs:.4f}", "", interval))
    return Row(shown(variant), tuple(cells))


def set_headings() -> list[str]:
    """Of the columns of :func:`set_rows`."""
    named = [f"{METRICS[name].label}, {protocol}" for name, protocol in _OF_SETS]
    return [*named, "difference"]


def image_headings(comparison: Comparison) -> list[str]:
    """Of the columns of :func:`image_row`."""
    names = [shown(variant) for variant in comparison.variants]
    scored = comparison.pooled.scores
    columns = [f"MAE {name}" for name in names] if scored else []
    columns += [f"IoU {name}" for name in (names[0], names[-1])] if scored else []
    columns += [f"change {name}" for name in names[1:]] if scored else []
    return [*columns, *(f"difference {name}" for name in names[1:])]


def image_row(comparison: Comparison, image: ImageResult) -> tuple[Cell, ...]:
    """Raw MAE of all variants, IoU of the outer two, changes of MAE, and differences."""
    cells: list[Cell] = []
    variants, candidates = comparison.variants, comparison.candidates
    if comparison.pooled.scores and not image.scores:
        cells = [Cell("")] * (len(variants) + 2 + len(candidates))
    elif comparison.pooled.scores:
        raw = {variant: image.scores[variant].raw for variant in variants}
        first, last = raw[variants[0]], raw[variants[-1]]
        cells = [Cell(f"{raw[variant].mae:.4f}") for variant in variants]
        cells += [Cell(f"{one.iou:.4f}") for one in (first, last)]
        for variant in candidates:
            change = raw[variant].mae - first.mae
            cells.append(Cell(signed(change), tone=tone_of(change, None, METRICS["mae"])))
    means = (image.differences[variant].mean_abs for variant in candidates)
    return (*cells, *(Cell(f"{mean:.4f}") for mean in means))


def tiles(comparison: Comparison, variant: str) -> list[Row]:
    """Headline figures of one candidate: each a label, and a cell."""
    found = [*_accuracy_tiles(comparison, variant)]
    mean = comparison.pooled.differences[variant].mean_abs
    found.append(Row("mean difference of a pixel", (Cell(f"{mean:.4f}", "of 0 to 1"),)))
    sizes = [comparison.costs[one].file_bytes for one in (comparison.reference, variant)]
    if min(sizes) > 0:
        text = f"{sizes[0] / 1e6:.1f} to {sizes[1] / 1e6:.1f} MB"
        times = max(sizes) / min(sizes)
        what = "smaller" if sizes[1] < sizes[0] else "larger"
        what = what if times >= 1.05 else "as large"
        found.append(Row(f"times {what}", (Cell(f"{times:.1f}{_TIMES}", text),)))
    latency = comparison.latency
    if latency is not None:
        one = latency.speedups[variant]
        literal = "latency ratio, not of INT8 arithmetic"
        label = literal if not latency.arithmetic.integer else "times as fast"
        interval = "no interval from so few rounds"
        if one.low is not None and one.high is not None:
            interval = f"{_SURE}: {one.low:.2f} to {one.high:.2f}"
        found.append(Row(label, (Cell(f"{one.ratio:.2f}{_TIMES}", interval),)))
        p99 = latency.summaries[variant].p99_ms
        before = latency.summaries[comparison.reference].p99_ms
        found.append(Row("latency p99", (Cell(f"{p99:.1f} ms", f"from {before:.1f} ms"),)))
    return found


def _accuracy_tiles(comparison: Comparison, variant: str) -> Iterator[Row]:
    pooled = comparison.pooled
    for name, protocol in (("mae", "raw"), ("f_max", "normalised")):
        if not pooled.scores:
            return
        metric = METRICS[name]
        before, after = (
            metric.of(getattr(pooled.scores[one], protocol))
            for one in (comparison.reference, variant)
        )
        changes = pooled.changes.get(variant)
        interval = changes[protocol][name].interval if changes else None
        tone = tone_of(after - before, interval, metric)
        cell = Cell(
            signed(after - before), f"{before:.4f} to {after:.4f}, {protocol} maps", tone=tone
        )
        yield Row(f"change of {metric.label}", (cell,))


def signed(value: float) -> str:
    """A change with its sign, as printed: ``+0.0012``, and ``0.0000`` for less than a digit."""
    text = "0.0000" if abs(value) < _UNCHANGED else f"{value:+.4f}"
    return text.replace("-", "\N{MINUS SIGN}")


def between(interval: Interval | None, form: Callable[[float], str]) -> str:
    """The ends of an interval; empty without one."""
    return "" if interval is None else f"{form(interval.low)} to {form(interval.high)}"


def set_names(comparison: Comparison) -> dict[str, str]:
    """Short names of the sets by URI: a folder's last part, where that tells them apart."""
    uris = [one.name for one in comparison.sets]
    short = {uri: _last_part(uri) for uri in uris}
    taken = list(short.values())
    return {uri: name if taken.count(name) == 1 else uri for uri, name in short.items()}


def _last_part(uri: str) -> str:
    path = uri.removeprefix("folder://").partition("?")[0].rstrip("/")
    return uri if "://" in path else path.rpartition("/")[2] or uri
