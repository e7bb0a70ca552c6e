"""A comparison for people: a page that opens offline."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_fusion.errors import MissingDependencyError
from edge_fusion.files import write_bytes
from edge_fusion.metrics import METRICS, PROTOCOLS, Metric

from .comparison import Comparison, ImageResult, SetResult
from .panels import DIFFERENCE_GAIN, Panel
from .verdict import FEW_IMAGES, KEEPS_ACCURACY, verdict

if TYPE_CHECKING:
    import jinja2

_MOST_ROWS = 2000
_BINS = 48
_UNCHANGED = 5e-5  # less than the last printed digit
_PHOTO = {"colour", "depth"}
_TIMES = "\N{MULTIPLICATION SIGN}"


def write_html(comparison: Comparison, path: Path, *, command: str = "") -> None:
    """Write one self-contained page: no script, no network, light and dark, a few megabytes.

    Args:
        comparison: What to show, with its pictures.
        path: The page; replaced as a whole if it exists.
        command: The command line that repeats the comparison.

    Raises:
        MissingDependencyError: jinja2 is not installed.
        OutputError: The page could not be written.
    """
    page = page_template().render(_context(comparison, command))
    write_bytes(path, page.encode(), "the report")


def page_template() -> jinja2.Template:
    """The page to fill; ask for it before minutes of measuring that it is to show.

    Raises:
        MissingDependencyError: jinja2 is not installed.
    """
    try:
        import jinja2
    except ImportError as err:
        raise MissingDependencyError("jinja2", needed_for="an HTML report", extra="report") from err
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    source = files("edge_fusion.runtime").joinpath("report.html").read_text(encoding="utf-8")
    return environment.from_string(source)


@dataclass(frozen=True, slots=True)
class Cell:
    """One printed value and how it should look: worse, better, or nothing."""

    text: str
    tone: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table."""

    label: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class Histogram:
    """Latencies of one variant, drawn in a box of 100 by 40; positions in percent."""

    variant: str
    outline: str
    marks: tuple[tuple[str, float], ...]
    figures: str
    beyond: int


def _context(comparison: Comparison, command: str) -> dict[str, object]:
    histograms, ticks = _histograms(comparison)
    rows = sorted(comparison.images, key=lambda image: image.degradation, reverse=True)
    return {
        "c": comparison,
        "command": command,
        "title": " against ".join(variant.upper() for variant in comparison.variants),
        "verdict": verdict(comparison),
        "tiles": _tiles(comparison),
        "headings": _headings(comparison),
        "accuracy": {
            protocol: _accuracy_rows(comparison, comparison.pooled, protocol)
            for protocol in (PROTOCOLS if comparison.pooled.scores else ())
        },
        "protocols": PROTOCOLS,
        "sets": [(one, _set_cells(comparison, one)) for one in comparison.sets],
        "costs": [*_difference_rows(comparison), *_cost_rows(comparison)],
        "histograms": histograms,
        "ticks": ticks,
        "panels": [_panel(comparison, panel) for panel in comparison.panels],
        "gain": DIFFERENCE_GAIN,
        "image_headings": _image_headings(comparison),
        "images": [_image_row(comparison, image) for image in rows[:_MOST_ROWS]],
        "left_out": max(0, len(rows) - _MOST_ROWS),
        "limits": [(METRICS[name].label, limit) for name, limit in KEEPS_ACCURACY.items()],
        "few": FEW_IMAGES,
    }


def _headings(comparison: Comparison) -> list[str]:
    several = len(comparison.candidates) > 1
    changes = [f"change {v.upper()}" if several else "change" for v in comparison.candidates]
    return [variant.upper() for variant in comparison.variants] + changes


def _accuracy_rows(comparison: Comparison, result: SetResult, protocol: str) -> list[Row]:
    figures = {v: getattr(result.scores[v], protocol) for v in comparison.variants}
    rows = []
    for metric in METRICS.values():
        values = [Cell(f"{metric.of(figures[variant]):.4f}") for variant in comparison.variants]
        changes = [
            _change(metric, metric.of(figures[comparison.reference]), metric.of(figures[variant]))
            for variant in comparison.candidates
        ]
        rows.append(Row(metric.label, (*values, *changes)))
    return rows


def _change(metric: Metric, before: float, after: float) -> Cell:
    change = after - before
    if abs(change) < _UNCHANGED:
        return Cell("0.0000")
    better = (change > 0) == metric.higher_is_better
    return Cell(f"{_minus(f'{change:+.4f}')}", "better" if better else "worse")


def _difference_rows(comparison: Comparison) -> list[Row]:
    differences = comparison.pooled.differences
    padding = (Cell(""),) * len(comparison.candidates)
    return [
        Row(
            f"{label} difference",
            (
                Cell(""),
                *(Cell(f"{getattr(differences[v], name):.4f}") for v in comparison.candidates),
                *padding,
            ),
        )
        for name, label in (("mean_abs", "mean"), ("max_abs", "largest"))
    ]


def _cost_rows(comparison: Comparison) -> list[Row]:
    costs = [comparison.costs[variant] for variant in comparison.variants]
    rows = []
    if comparison.latency is not None:
        summaries = [comparison.latency.summaries[variant] for variant in comparison.variants]
        for label, name in (("p50", "p50_ms"), ("p90", "p90_ms"), ("p99", "p99_ms")):
            values = [getattr(summary, name) for summary in summaries]
            rows.append(_ratio_row(f"latency {label}, ms", values, 1))
    rows.append(_ratio_row("file, MB", [cost.file_bytes for cost in costs], 1e6))
    memories = [cost.memory for cost in costs if cost.memory is not None]
    if len(memories) == len(costs):
        rows.append(_ratio_row("memory added, MB", [m.added_bytes for m in memories], 1e6))
        rows.append(_ratio_row("memory peak, MB", [m.peak_bytes for m in memories], 1e6))
    return rows


def _ratio_row(label: str, values: Sequence[float], unit: float) -> Row:
    """Values, and how many times less or more each candidate needs than the reference."""
    cells = [Cell(f"{value / unit:.2f}") for value in values]
    return Row(label, (*cells, *(Cell(_ratio(values[0], value)) for value in values[1:])))


def _ratio(before: float, after: float) -> str:
    if min(before, after) <= 0:
        return ""
    more = after > before
    times = after / before if more else before / after
    return f"{times:.2f}{_TIMES} {'more' if more else 'less'}"


def _set_cells(comparison: Comparison, result: SetResult) -> list[Cell]:
    last = comparison.candidates[-1]
    cells = [Cell(str(result.pairs))]
    for name in KEEPS_ACCURACY:
        metric = METRICS[name]
        if not result.scores:
            cells += [Cell("no masks"), Cell("")]
            continue
        before, after = (
            metric.of(result.scores[v].normalised) for v in (comparison.reference, last)
        )
        cells += [Cell(f"{after:.4f}"), _change(metric, before, after)]
    return [*cells, Cell(f"{result.differences[last].mean_abs:.4f}")]


def _tiles(comparison: Comparison) -> list[tuple[str, str, str]]:
    """Headline figures of the last variant: label, value, remark."""
    last, first = comparison.candidates[-1], comparison.reference
    pooled = comparison.pooled
    tiles = []
    if pooled.scores:
        before, after = pooled.scores[first].raw.mae, pooled.scores[last].raw.mae
        change = _minus(f"{after - before:+.4f}")
        tiles.append(("MAE change", change, f"{before:.4f} to {after:.4f}, raw maps"))
    difference = f"{pooled.differences[last].mean_abs:.4f}"
    tiles.append((f"{last.upper()} against {first.upper()}", difference, "mean per pixel, 0 to 1"))
    sizes = [comparison.costs[variant].file_bytes for variant in (first, last)]
    remark = f"{sizes[0] / 1e6:.1f} to {sizes[1] / 1e6:.1f} MB"
    tiles.append(("file, times smaller", f"{sizes[0] / sizes[1]:.1f}{_TIMES}", remark))
    if comparison.latency is not None:
        speedup = comparison.latency.speedups[last]
        integer = comparison.latency.arithmetic.integer
        label = "speed-up" if integer else "latency ratio, no 8-bit arithmetic"
        interval = "no interval from one round"
        if speedup.low is not None and speedup.high is not None:
            interval = f"95 % interval {speedup.low:.2f} to {speedup.high:.2f}"
        tiles.append((label, f"{speedup.ratio:.2f}{_TIMES}", interval))
    return tiles


def _histograms(comparison: Comparison) -> tuple[list[Histogram], list[str]]:
    """Every variant's latencies on one axis, and the axis' ticks at even distances."""
    if comparison.latency is None:
        return [], []
    summaries = comparison.latency.summaries
    samples = {v: np.asarray(ms) for v, ms in comparison.latency.samples_ms.items()}
    low = min(float(ms.min()) for ms in samples.values())
    high = max(summary.p99_ms for summary in summaries.values())
    margin = max(0.06 * (high - low), 1e-3 * high, 1e-6)
    low, high = max(0.0, low - margin), high + margin
    histograms = []
    for variant, ms in samples.items():
        one = summaries[variant]
        marks = (("p50", one.p50_ms), ("p90", one.p90_ms), ("p99", one.p99_ms))
        histograms.append(
            Histogram(
                variant=variant,
                outline=_outline(ms, low, high),
                marks=tuple((label, 100 * (x - low) / (high - low)) for label, x in marks),
                figures=", ".join(f"{label} {x:.2f}" for label, x in marks) + f" ms, n {one.n}",
                beyond=int((ms > high).sum()),
            )
        )
    ticks = [f"{low + share * (high - low):.2f}" for share in (0, 0.25, 0.5, 0.75, 1)]
    return histograms, ticks


def _outline(ms: NDArray[np.float64], low: float, high: float) -> str:
    counts, edges = np.histogram(ms, bins=_BINS, range=(low, high))
    x = 100 * (edges - low) / (high - low)
    y = 40 - 38 * counts / max(int(counts.max()), 1)
    steps = [
        f"{x[side]:.2f},{y[index]:.2f}" for index in range(_BINS) for side in (index, index + 1)
    ]
    return " ".join(["0,40", *steps, "100,40"])


def _panel(comparison: Comparison, panel: Panel) -> dict[str, object]:
    image = comparison.images[panel.image]
    last = comparison.candidates[-1]
    note = f"mean difference {image.differences[last].mean_abs:.4f}"
    if image.scores:
        before, after = (image.scores[v].raw.mae for v in (comparison.reference, last))
        note = f"MAE {before:.4f} to {after:.4f}, {note}"
    labels = {variant: variant.upper() for variant in comparison.variants}
    return {
        "kind": panel.kind,
        "id": image.id,
        "note": note,
        "pictures": [
            (labels.get(one.label, one.label), _data_uri(one.pixels, photo=one.label in _PHOTO))
            for one in panel.pictures
        ],
    }


def _data_uri(pixels: NDArray[np.uint8], *, photo: bool) -> str:
    suffix, kind, options = (
        (".jpg", "jpeg", [cv2.IMWRITE_JPEG_QUALITY, 85])
        if photo
        else (".png", "png", [cv2.IMWRITE_PNG_COMPRESSION, 9])
    )
    image = pixels[..., ::-1] if pixels.ndim == 3 else pixels
    _, encoded = cv2.imencode(suffix, image, options)
    return f"data:image/{kind};base64,{base64.b64encode(encoded.tobytes()).decode()}"


def _image_headings(comparison: Comparison) -> list[str]:
    names = [variant.upper() for variant in (comparison.reference, comparison.candidates[-1])]
    scored = [f"{metric} {name}" for metric in ("MAE", "IoU") for name in names]
    scored = [*scored, "MAE change"] if comparison.pooled.scores else []
    return [*scored, "mean difference", "largest difference"]


def _image_row(comparison: Comparison, image: ImageResult) -> tuple[ImageResult, list[Cell]]:
    last = comparison.candidates[-1]
    cells: list[Cell] = []
    if comparison.pooled.scores and not image.scores:
        cells = [Cell("")] * 5
    elif image.scores:
        before, after = (image.scores[v].raw for v in (comparison.reference, last))
        values = (before.mae, after.mae, before.iou, after.iou)
        change = _change(METRICS["mae"], before.mae, after.mae)
        cells = [*(Cell(f"{value:.4f}") for value in values), change]
    difference = image.differences[last]
    both = (difference.mean_abs, difference.max_abs)
    return image, [*cells, *(Cell(f"{value:.4f}") for value in both)]


def _minus(text: str) -> str:
    return text.replace("-", "\N{MINUS SIGN}")
