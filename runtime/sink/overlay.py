"""Drawing a saliency map over its colour image, fast enough for every frame of a stream.

Everything runs in 8-bit OpenCV operations: blending the same picture with NumPy floats costs more
than five times as much.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_fusion.errors import OutputError
from edge_fusion.frame import RgbdFrame, valid_depth
from edge_fusion.preprocess import normalise_depth
from edge_fusion.spec import DepthInput

Image: TypeAlias = NDArray[np.uint8]
Colour = tuple[int, int, int]  # blue, green, red: 0..255

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_INSET_PART = 4  # the inset is a quarter of the image wide
_TEXT_HEIGHT_PART = 32  # a caption is a thirty-second of the image high
_BAND = 100_000  # pixels painted at a time: what they need stays in the cache
_REACH = 2  # pixels that the outline stands out
_SMALLEST_INSET = 24  # pixels; below it depth cannot be made out
_NEARNESS = DepthInput()  # the eye wants the foreground spread out, as models do


@dataclass(frozen=True, slots=True)
class OverlayStyle:
    """How an overlay looks.

    Attributes:
        background: Brightness left where nothing is salient, 0..1.
        foreground: Brightness of the image under a fully salient pixel, 0..1.
        tint: Added where the image is fully salient, (blue, green, red) 0..255.
        outline: Colour of the line where saliency crosses one half; light colours only, because
            it is drawn by taking the brighter of line and image.
    """

    background: float = 0.45
    foreground: float = 0.75
    tint: Colour = (64, 88, 0)
    outline: Colour = (235, 255, 200)


DEFAULT_STYLE = OverlayStyle()


def draw_overlay(
    rgb: Image,
    saliency: NDArray[np.float32],
    *,
    style: OverlayStyle = DEFAULT_STYLE,
    inset: Image | None = None,
    caption: str = "",
) -> Image:
    """Show what is salient: the rest darkens, the salient region glows inside a thin outline.

    Args:
        rgb: (H, W, 3) uint8, red first; left as it is.
        saliency: (H, W) float32, 0..1.
        style: Brightness and colours.
        inset: (h, w, 3) uint8, blue first: a small picture for the upper right corner, such as
            :func:`depth_inset` makes. It must fit.
        caption: A line of text for the lower left corner; plain ASCII, as OpenCV's fonts are.

    Returns:
        (H, W, 3) uint8, blue first, as OpenCV's writers take it.

    Raises:
        OutputError: The saliency map has another size than the image.

    Example:
        >>> grey = np.full((48, 64, 3), 200, np.uint8)
        >>> square = np.zeros((48, 64), np.float32)
        >>> square[16:32, 20:40] = 1
        >>> overlay = draw_overlay(grey, square)
        >>> bool(overlay[24, 30].sum() > overlay[4, 4].sum())
        True
    """
    if saliency.shape != rgb.shape[:2]:
        raise OutputError(
            "a saliency map must be as large as its image",
            expected=f"{rgb.shape[:2]}",
            got=f"{saliency.shape}",
            cure="make it with saliency_map(output, spec, frame.rgb.shape[:2])",
        )
    alpha = np.asarray(cv2.convertScaleAbs(saliency, alpha=255), np.uint8)
    canvas = np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), np.uint8)
    cv2.convertScaleAbs(canvas, dst=canvas, alpha=_level(style.background) / 255)
    _paint_salient(canvas, rgb, alpha, style)
    if inset is not None:
        _place(canvas, inset)
    if caption:
        _write(canvas, caption)
    return canvas


def depth_inset(frame: RgbdFrame) -> Image | None:
    """A frame's depth as a small picture for a corner: near is bright, no reading is black.

    Returns:
        (H/4, W/4, 3) uint8, blue first; None where the image is too small to hold one.

    Example:
        >>> from edge_fusion.spec import DepthSpec
        >>> ramp = np.tile(np.linspace(500, 900, 160).astype(np.uint16), (120, 1))
        >>> colour = np.zeros((120, 160, 3), np.uint8)
        >>> depth_inset(RgbdFrame(colour, ramp, DepthSpec(scale_to_m=0.001), "a")).shape
        (30, 40, 3)
    """
    height, width = (side // _INSET_PART for side in frame.depth.shape)
    if min(height, width) < _SMALLEST_INSET:
        return None
    return colour_depth(frame, (width, height), cv2.COLORMAP_INFERNO)


def colour_depth(frame: RgbdFrame, size: tuple[int, int], palette: int) -> Image:
    """A frame's depth as a coloured picture: nearness by the palette, no reading is black.

    Args:
        frame: Any frame; its depth's unit does not matter, only its order.
        size: Width and height of the picture.
        palette: One of OpenCV's ``COLORMAP_...``; its upper end is near.

    Returns:
        (H, W, 3) uint8 of that size, blue first.
    """
    depth = cv2.resize(frame.depth, size, interpolation=cv2.INTER_NEAREST)
    valid = valid_depth(depth, frame.depth_spec)
    if not valid.any():
        return np.zeros((*depth.shape, 3), np.uint8)
    nearness = normalise_depth(depth, frame.depth_spec, _NEARNESS)
    picture = cv2.applyColorMap((nearness * 255).astype(np.uint8), palette)
    picture[~valid] = 0
    return np.asarray(picture, np.uint8)


def _paint_salient(canvas: Image, rgb: Image, alpha: Image, style: OverlayStyle) -> None:
    """Paint what is salient at all, and the outline around it; the rest is mostly most of it."""
    x, y, w, h = cv2.boundingRect(alpha)
    if not w:
        return
    left, right, bottom = max(x - _REACH, 0), x + w + _REACH, y + h + _REACH
    height = max(16, _BAND // (right - left))
    for top in range(max(y - _REACH, 0), bottom, height):
        rows = slice(top, min(top + height, bottom))
        above, before = max(top - _REACH, 0), max(left - _REACH, 0)
        around = np.ascontiguousarray(alpha[above : rows.stop + _REACH, before : right + _REACH])
        part = np.asarray(cv2.cvtColor(rgb[rows, left:right], cv2.COLOR_RGB2BGR), np.uint8)
        edge = _outline(around)[top - above :, left - before :][: len(part), : part.shape[1]]
        _paint(part, alpha[rows, left:right], edge, style)
        canvas[rows, left:right] = part


def _level(share: float) -> int:
    return round(255 * share)


def _paint(bgr: Image, alpha: Image, edge: Image, style: OverlayStyle) -> None:
    """Darken, tint and outline one band of the image in place."""
    rise = style.foreground - style.background
    gain = cv2.convertScaleAbs(alpha, alpha=rise, beta=255 * style.background)
    cv2.multiply(bgr, cv2.merge([gain, gain, gain]), dst=bgr, scale=1 / 255)
    cv2.add(bgr, _scaled_planes(alpha, style.tint), dst=bgr)
    cv2.max(bgr, _scaled_planes(edge, style.outline), dst=bgr)


def _scaled_planes(plane: Image, colour: Colour) -> Image:
    """(H, W) 0..255 as (H, W, 3): at 255 the colour itself, below it a share of it."""
    shares = [
        cv2.convertScaleAbs(plane, alpha=level / 255) if level else np.zeros_like(plane)
        for level in colour
    ]
    return np.asarray(cv2.merge(shares), np.uint8)


def _outline(alpha: Image) -> Image:
    """(H, W) uint8: a soft line, two to three pixels wide, where saliency crosses one half.

    The gradient of the mask, slightly blurred, looks like an anti-aliased contour at a tenth of
    the cost of drawing one.
    """
    _, mask = cv2.threshold(alpha, 127, 255, cv2.THRESH_BINARY)
    edge = cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, _cross())
    return np.asarray(cv2.GaussianBlur(edge, (3, 3), 0), np.uint8)


@lru_cache(maxsize=1)
def _cross() -> Image:
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3)), np.uint8)


def _place(canvas: Image, inset: Image) -> None:
    height, width = inset.shape[:2]
    margin = max(4, canvas.shape[1] // 80)
    left = canvas.shape[1] - margin - width
    canvas[margin : margin + height, left : left + width] = inset
    corner, opposite = (left - 1, margin - 1), (left + width, margin + height)
    cv2.rectangle(canvas, corner, opposite, (230, 230, 230), 1)


def _write(canvas: Image, caption: str) -> None:
    height = canvas.shape[0]
    scale = max(0.35, height / _TEXT_HEIGHT_PART / 30)
    margin = max(4, height // 48)
    text = caption.encode("ascii", "replace").decode("ascii")
    (text_width, text_height), below = cv2.getTextSize(text, _FONT, scale, 1)
    top = height - 2 * margin - text_height - below
    strip = canvas[max(top, 0) :, : text_width + 2 * margin]
    cv2.convertScaleAbs(strip, dst=strip, alpha=0.35)
    where = (margin, height - margin - below)
    cv2.putText(canvas, text, where, _FONT, scale, (240, 240, 240), 1, cv2.LINE_AA)
