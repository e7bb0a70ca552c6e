"""``calib report``: a set for people, on one page that opens offline."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_fusion.calibration_file import CalibrationFile, PairRecord
from edge_fusion.errors import CalibrationError, FrameError, MissingDependencyError
from edge_fusion.files import write_bytes
from edge_fusion.frame import RgbdFrame
from edge_fusion.input_ranges import InputRanges
from edge_fusion.runtime.input_counter import RangesMaker
from edge_fusion.runtime.plot_svg import check_matplotlib
from edge_fusion.runtime.sink.overlay import colour_depth
from edge_fusion.spec import ModelSpec

from .candidates import candidates
from .check_set import CheckReport, check_source, statistics_for
from .create import Progress, open_pairs, quiet
from .measure import measure
from .report_plots import Drawing, drawings
from .set_folder import SetSource

if TYPE_CHECKING:
    import jinja2

MOST_PICTURES = 60  # pairs on the contact sheet; of more, an even choice
MOST_ROWS = 1000  # of the table
_PICTURE_WIDTH = 160
_QUALITY = 72  # 5 kB a picture, 0.8 MB a full sheet
_PAGE = "report.html"
_WINGS = ("edge_fusion.calibration", "edge_fusion.runtime")


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """One pair on the contact sheet: its name, and JPEG files of colour and depth."""

    id: str
    rgb: bytes
    depth: bytes


@dataclass(frozen=True, slots=True)
class SetReport:
    """Everything a page tells of a set.

    Attributes:
        checked: Its source, its number of readable pairs and what the checks found.
        record: Its own record; None of a plain folder.
        items: Every pair in figures, in order.
        ranges: What its inputs look like together.
        pictures: The contact sheet.
    """

    checked: CheckReport
    record: CalibrationFile | None
    items: tuple[PairRecord, ...]
    ranges: InputRanges
    pictures: tuple[Thumbnail, ...]

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready, without pictures."""
        record = self.record
        return {
            **self.checked.model_dump(mode="json"),
            "sha256": record.sha256 if record else None,
            "choice": record.choice.model_dump(mode="json") if record else None,
            "ranges": self.ranges.model_dump(mode="json"),
            "items": [item.model_dump(mode="json") for item in self.items],
        }


def make_report(source: str, model: str | None = None, progress: Progress = quiet) -> SetReport:
    """Read a set, check it, measure it, and take small pictures of it.

    Args:
        source: A set, a folder of pairs, or the URI of another stored source.
        model: Whose training inputs to hold it against; see
            :func:`~.check_set.statistics_for`.
        progress: Told how many pairs are read.

    Raises:
        CalibrationError: It is a camera or an untrustworthy set, or has not one readable pair.
        SourceError: It cannot be opened.

    Example:
        >>> made = make_report("demo://?frames=3&size=64x48")
        >>> len(made.pictures), made.ranges.pairs
        (3, 3)
    """
    checked = check_source(source, statistics_for(model), progress)
    opened = open_pairs(source)
    shown = set(np.linspace(0, checked.pairs - 1, min(checked.pairs, MOST_PICTURES)).round())
    looks = RangesMaker(ModelSpec(name="report"))
    items: list[PairRecord] = []
    pictures: list[Thumbnail] = []
    with closing(candidates(opened)) as found:
        for number, candidate in found:
            try:
                frame = candidate()
            except (FrameError, CalibrationError):
                continue  # the checks have told it
            looks.add(frame)
            if len(items) in shown:
                pictures.append(_thumbnail(frame))
            if isinstance(opened, SetSource):
                items.append(opened.items[number])
            else:
                items.append(measure(frame, number=number))
            progress("pictures", len(items), checked.pairs)
    return SetReport(
        checked=checked,
        record=opened.record if isinstance(opened, SetSource) else None,
        items=tuple(items),
        ranges=looks.ranges(),
        pictures=tuple(pictures),
    )


def write_page(made: SetReport, path: Path, *, command: str = "") -> None:
    """Write one self-contained page: no network, no script, light and dark, below five megabytes.

    Raises:
        MissingDependencyError: jinja2 or matplotlib is not installed.
        OutputError: The page could not be written.
    """
    drawn = drawings(made.items, made.ranges, made.record)
    page = page_template().render(**_context(made, drawn), command=command)
    write_bytes(path, page.encode(), "the report")


def page_template() -> jinja2.Template:
    """The page to fill; ask for it before the work that it is to show.

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
    """The page is ours, its style that of all reports."""
    wing = _WINGS[name != _PAGE]
    return files(wing).joinpath(name).read_text(encoding="utf-8")


def _context(made: SetReport, plots: Sequence[Drawing]) -> dict[str, object]:
    record = made.record
    coverage = record.choice.coverage if record else None
    return {
        "report": made,
        "title": Path(made.checked.source).name or made.checked.source,
        "tiles": _tiles(made),
        "plots": plots,
        "coverage": coverage,
        "pictures": [
            (one.id, *(f"data:image/jpeg;base64,{_text(data)}" for data in (one.rgb, one.depth)))
            for one in made.pictures
        ],
        "rows": [_row(item) for item in made.items[:MOST_ROWS]],
        "left_out": max(0, len(made.items) - MOST_ROWS),
        "sources": record.sources if record else (made.checked.source,),
    }


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _tiles(made: SetReport) -> list[tuple[str, str, str]]:
    """Label, figure, and what it means."""
    holes = made.ranges.inputs["invalid"]
    tiles = [("pairs", str(len(made.items)), _chosen(made))]
    distance = made.ranges.inputs.get("distance")
    if distance is not None:
        span = f"{distance.low:.2f} to {distance.high:.2f} m hold all but 0.2 %"
        tiles.append(("distance, median", f"{distance.median:.2f} m", span))
    tiles.append(("depth without a reading", f"{holes.shares[1]:.1%}", f"at most {holes.high:.1%}"))
    bright = [float(np.mean(item.rgb.mean)) for item in made.items]
    span = f"{min(bright):.2f} to {max(bright):.2f} of 1"
    tiles.append(("brightness, median", f"{np.median(bright):.2f}", span))
    sizes = {(item.width, item.height) for item in made.items}
    first = " x ".join(map(str, min(sizes)))
    tiles.append(("size", first, "pixels" if len(sizes) == 1 else f"and {len(sizes) - 1} others"))
    return tiles


def _chosen(made: SetReport) -> str:
    if made.record is None:
        return "a folder, not a set"
    choice = made.record.choice
    return f"of {choice.available}, {'all' if choice.method == 'all' else f'by {choice.method}'}"


def _row(item: PairRecord) -> tuple[str, ...]:
    depth = item.depth
    distances = (depth.near, depth.median, depth.far)
    return (
        item.id,
        f"{np.mean(item.rgb.mean):.3f}",
        f"{np.mean(item.rgb.std):.3f}",
        f"{item.rgb.detail:.1f}",
        *("" if one is None else f"{one:.4g}" for one in distances),
        f"{depth.invalid:.1%}",
    )


def _thumbnail(frame: RgbdFrame) -> Thumbnail:
    height, width = frame.depth.shape
    size = (_PICTURE_WIDTH, max(1, min(2 * _PICTURE_WIDTH, round(_PICTURE_WIDTH * height / width))))
    rgb = cv2.resize(frame.rgb, size, interpolation=cv2.INTER_AREA)[..., ::-1]
    try:
        depth = colour_depth(frame, size, cv2.COLORMAP_TURBO)
    except FrameError:  # its unit is absurd, as the checks tell; the picture would be, too
        depth = np.zeros((size[1], size[0], 3), np.uint8)
    return Thumbnail(frame.id, _jpeg(np.asarray(rgb, np.uint8)), _jpeg(depth))


def _jpeg(bgr: NDArray[np.uint8]) -> bytes:
    _, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return data.tobytes()
