"""A comparison for people: one page that opens offline, and is read without any script."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from edge_fusion.bundle import Bundle
from edge_fusion.diagnosis import Diagnosis, read_diagnosis
from edge_fusion.errors import InputError, MissingDependencyError
from edge_fusion.files import write_bytes
from edge_fusion.manifest import Manifest
from edge_fusion.metrics import METRICS, PROTOCOLS

from .comparison import Comparison, shown
from .panel_files import picture_uris
from .panels import DIFFERENCE, DIFFERENCE_GAIN, Panel
from .plot_svg import check_matplotlib, swatch_svg
from .report_layers import PRECISIONS, SERIES, layer_table, precisions_of
from .report_machine import machine_rows, moment_rows
from .report_plots import curve_plots, latency_plots, pair_plots, tradeoff_plots
from .report_tables import (
    image_headings,
    image_row,
    set_headings,
    set_names,
    set_rows,
    tiles,
    variant_groups,
)
from .verdict import FEW_IMAGES, KEEPS_ACCURACY, judgements

if TYPE_CHECKING:
    import jinja2

MOST_ROWS = 1000
_PAGE, _SCRIPT = "report.html", "report_script.html"


def write_html(
    comparison: Comparison,
    path: Path,
    command: str = "",
    diagnosis: Diagnosis | None = None,
    manifests: Mapping[str, Manifest] | None = None,
) -> None:
    """Write one self-contained page: no network, light and dark, below five megabytes.

    Args:
        comparison: What to show, with its pictures.
        path: The page; replaced as a whole if it exists.
        command: The command line that repeats the comparison.
        diagnosis: What was found out about the layers.
        manifests: Of the bundles that took part, by path; see :func:`manifests_of`.

    Raises:
        MissingDependencyError: jinja2 or matplotlib is not installed.
        OutputError: The page could not be written.
    """
    template = page_template()
    page = template.render(_context(comparison, command, diagnosis, manifests or {}))
    write_bytes(path, page.encode(), "the report")


def check_page(path: Path | None, diagnosis: Path | None) -> Diagnosis | None:
    """Find out before minutes of measuring that a page can be made of it.

    Args:
        path: The page that is wanted; None for none.
        diagnosis: What ``edge-fusion diagnose --json`` wrote, to be shown on it; None for none.

    Returns:
        The diagnosis.

    Raises:
        MissingDependencyError: jinja2 or matplotlib is not installed.
        InputError: The diagnosis cannot be read, or there is no page to show it on.
    """
    if path is not None:
        page_template()
    if diagnosis is None:
        return None
    if path is None:
        raise InputError(
            f"the diagnosis {diagnosis} is for a report", cure="add --html FILE, or leave it out"
        )
    return read_diagnosis(diagnosis)


def manifests_of(comparison: Comparison) -> dict[str, Manifest]:
    """The manifests of the bundles that took part, by path.

    Raises:
        BundleError: One of them is not there any more.
    """
    paths = [one.path for one in comparison.about.values() if one.kind == "bundle"]
    return {path: Bundle.read(path).manifest for path in dict.fromkeys(paths)}


def page_template() -> jinja2.Template:
    """The page to fill; ask for it before minutes of measuring that it is to show.

    Raises:
        MissingDependencyError: jinja2 or matplotlib is not installed.
    """
    try:
        import jinja2
    except ImportError as err:
        raise MissingDependencyError("jinja2", needed_for="an HTML report", extra="report") from err
    check_matplotlib()
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_template_text),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(_PAGE)


def _template_text(name: str) -> str:
    return files("edge_fusion.runtime").joinpath(name).read_text(encoding="utf-8")


def _script_hash() -> str:
    """What lets the page's own script run, and no other: its content security policy names it."""
    content = _template_text(_SCRIPT).split("<script>")[1].split("</script>")[0]
    return base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()


def _context(
    comparison: Comparison,
    command: str,
    diagnosis: Diagnosis | None,
    manifests: Mapping[str, Manifest],
) -> dict[str, object]:
    rows = sorted(comparison.images, key=lambda image: image.degradation, reverse=True)
    uris, grade = picture_uris(comparison.panels)
    return {
        "c": comparison,
        "command": command,
        "script_hash": _script_hash(),
        "title": " against ".join(shown(variant) for variant in comparison.variants),
        "names": [shown(variant) for variant in comparison.variants],
        "swatches": [swatch_svg(index) for index in range(len(comparison.variants))],
        "judgements": judgements(comparison),
        "featured": shown(comparison.candidates[-1]),
        "tiles": tiles(comparison, comparison.candidates[-1]),
        "groups": variant_groups(comparison),
        "protocols": PROTOCOLS,
        "tradeoffs": tradeoff_plots(comparison),
        "latencies": latency_plots(comparison),
        "curves": curve_plots(comparison),
        "pairs": pair_plots(comparison),
        "set_names": set_names(comparison),
        "set_headings": set_headings(),
        "sets": set_rows(comparison),
        "panels": [
            _panel(comparison, panel, some)
            for panel, some in zip(comparison.panels, uris, strict=True)
        ],
        "smaller": grade.scale < 1,
        "gain": DIFFERENCE_GAIN,
        "image_headings": image_headings(comparison),
        "images": [(image, image_row(comparison, image)) for image in rows[:MOST_ROWS]],
        "left_out": max(0, len(rows) - MOST_ROWS),
        "diagnosis": diagnosis,
        "layers": layer_table(diagnosis) if diagnosis else None,
        "layer_series": [(name, swatch_svg(place)) for name, place in SERIES.items()],
        "precisions": precisions_of(manifests),
        "precision_names": PRECISIONS,
        "manifests": manifests,
        "machine": machine_rows(comparison),
        "moments": moment_rows(comparison.before, comparison.after),
        "limits": [(METRICS[name].label, limit) for name, limit in KEEPS_ACCURACY.items()],
        "few": FEW_IMAGES,
    }


def _panel(comparison: Comparison, panel: Panel, uris: list[str]) -> dict[str, object]:
    """A panel's words and its pictures: what each shows, its figure, and its address."""
    image = comparison.images[panel.image]
    figures = {variant: f"MAE {one.raw.mae:.4f}" for variant, one in image.scores.items()}
    for variant, one in image.differences.items():
        figures[f"{DIFFERENCE} {variant}"] = f"mean {one.mean_abs:.4f}"
    names = {variant: shown(variant) for variant in comparison.variants}
    names |= {f"{DIFFERENCE} {v}": f"difference {shown(v)}" for v in comparison.candidates}
    pictures = [
        (names.get(one.label, one.label), figures.get(one.label, ""), uri)
        for one, uri in zip(panel.pictures, uris, strict=True)
    ]
    return {"kind": panel.kind, "id": image.id, "set": image.set, "pictures": pictures}
