"""Drawings by matplotlib as pieces of a page: text stays text, and CSS decides the colours.

Nothing of pyplot is used, no window system is touched, and the same figures give the same bytes:
positions depend on the font that comes with matplotlib, ids on the drawing's name alone.
"""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from edge_fusion.errors import MissingDependencyError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, HEIGHT = 400, 260  # in the drawing's own units; the page scales it
#: Colours that stand for a CSS variable until the drawing is put into a page.
INK, QUIET, LINE, CARD = "#000101", "#000102", "#000103", "#000104"
_NAMES = {INK: "ink", QUIET: "quiet", LINE: "line", CARD: "card"}
#: More variants than this share colours, but not markers.
COLOURS = 8
_TONES = {f"#0002{index:02x}": f"v{index}" for index in range(COLOURS)}
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p", "h")

_SVG = "{http://www.w3.org/2000/svg}"
_LINK = "{http://www.w3.org/1999/xlink}href"
_FAMILIES = ("axes", "figure", "font", "grid", "lines", "patch", "path", "text", "xtick", "ytick")
_NUMBER = re.compile(r"-?\d+\.\d{3,}")
_FONT = re.compile(r"font[^:;]*:[^;]*;? ?")


def tone(index: int) -> str:
    """The colour of a variant by its place."""
    return f"#0002{index % COLOURS:02x}"


def marker(index: int) -> str:
    """The marker of a variant by its place, so that it is told without colours, too."""
    return _MARKERS[index % len(_MARKERS)]


def check_matplotlib() -> None:
    """Ask for it before minutes of measuring whose result it is to draw.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    try:
        import matplotlib.backends.backend_svg
        import matplotlib.figure  # noqa: F401
    except ImportError as err:
        raise MissingDependencyError(
            "matplotlib", needed_for="an HTML report", extra="report"
        ) from err


def draw_svg(
    name: str,
    title: str,
    draw: Callable[[Axes], None],
    *,
    height: int = HEIGHT,
    left: int = 46,
    top: int = 26,
) -> str:
    """One drawing as an ``<svg>`` element for a page.

    Args:
        name: Tells its ids from those of other drawings of the page.
        title: What it shows, for those who cannot see it.
        draw: Draws into axes without frame, in the colours of this module.
        height: In units of which it is :data:`WIDTH` wide.
        left: Room for what stands left of the axes.
        top: Room for what stands above them.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    check_matplotlib()
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with _settings(name):
        figure = Figure(figsize=(WIDTH / 72, height / 72))
        FigureCanvasSVG(figure)
        sides = (
            left / WIDTH,
            38 / height,
            (WIDTH - left - 12) / WIDTH,
            (height - top - 38) / height,
        )
        axes = figure.add_axes(sides)
        _dress(axes)
        draw(axes)
        written = io.BytesIO()
        figure.savefig(written, format="svg", transparent=True)
    return _for_page(written.getvalue(), title)


def swatch_svg(index: int) -> str:
    """A variant's line and marker, as they stand in the drawings, for keys."""
    check_matplotlib()
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.markers import MarkerStyle
    from matplotlib.patches import PathPatch
    from matplotlib.transforms import Affine2D

    with _settings(f"swatch{index}"):
        figure = Figure(figsize=(26 / 72, 12 / 72))
        FigureCanvasSVG(figure)
        figure.add_artist(Line2D([0.04, 0.96], [0.5, 0.5], color=tone(index), linewidth=2.2))
        # As a path and no marker: those have ids, and a swatch is put into a page many times.
        shape = MarkerStyle(marker(index))
        place = Affine2D().scale(6.5 / 72).translate(13 / 72, 6 / 72)
        figure.add_artist(
            PathPatch(
                shape.get_path().transformed(shape.get_transform() + place),
                transform=figure.dpi_scale_trans,
                color=tone(index),
                linewidth=0,
            )
        )
        written = io.BytesIO()
        figure.savefig(written, format="svg", transparent=True)
    return _for_page(written.getvalue(), "")


@contextmanager
def _settings(name: str) -> Iterator[None]:
    """Matplotlib's own defaults, whatever the user's matplotlibrc says, and ours on top."""
    import matplotlib

    defaults: dict[Any, Any] = {
        key: matplotlib.rcParamsDefault[key]
        for key in matplotlib.rcParamsDefault
        if key.partition(".")[0] in _FAMILIES
    }
    ours: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "font.family": "DejaVu Sans",  # comes with it, so that places are the same everywhere
        "font.size": 11.5,
        "text.parse_math": False,
        "axes.unicode_minus": True,
        "path.simplify": True,
    }
    with matplotlib.rc_context({**defaults, **ours}):
        yield


def _dress(axes: Axes) -> None:
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(LINE)
    axes.grid(axis="y", color=LINE, linewidth=0.8)
    axes.tick_params(colors=QUIET, length=0, pad=6, labelcolor=QUIET)
    axes.set_axisbelow(True)
    axes.locator_params(nbins=6)


def label_axes(axes: Axes, x: str, y: str) -> None:
    """Name the axes: upright above the vertical one, where a phone's reader finds it."""
    axes.set_xlabel(x, color=QUIET, loc="right", labelpad=5)
    axes.annotate(y, (0, 1), (-40, 8), "axes fraction", "offset points", color=QUIET)


def _for_page(drawn: bytes, title: str) -> str:
    root = ET.fromstring(drawn)  # what matplotlib wrote a moment ago
    _drop(root, {f"{_SVG}metadata", f"{_SVG}style"})
    referenced = set(re.findall(rb"#([mp][0-9a-f]{10})\b", drawn))
    for element in root.iter():
        element.tag = element.tag.removeprefix(_SVG)
        element.tail = None
        attributes = {
            key: value
            for key, value in element.attrib.items()
            if key != "id" or value.encode() in referenced
        }
        element.attrib.clear()
        for key, value in attributes.items():
            kept = _attribute(key, value)
            if kept:
                element.set("href" if key == _LINK else key, kept)
        if element.tag not in ("text", "tspan"):
            element.text = None
    box = root.get("viewBox", "")
    root.attrib.clear()
    root.set("viewBox", box)
    if title:
        root.attrib.update({"role": "img", "aria-label": title})
    else:
        root.set("aria-hidden", "true")
    return ET.tostring(root, encoding="unicode")


def _attribute(key: str, value: str) -> str:
    if key == "transform" and value.startswith("rotate(-0 "):
        return ""
    value = _NUMBER.sub(lambda number: f"{float(number[0]):.2f}", " ".join(value.split()))
    if key != "style":
        return value
    value = _FONT.sub("", value)
    return re.sub(r"#[0-9a-f]{6}", lambda found: _css(found[0]), value)


def _css(colour: str) -> str:
    name = _NAMES.get(colour) or _TONES.get(colour)
    return f"var(--{name})" if name else colour


def _drop(root: ET.Element, tags: set[str]) -> None:
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in tags:
                parent.remove(child)
