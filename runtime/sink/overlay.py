"""Drawing a saliency map over its colour image, fast enough for every frame of a stream.

Everything runs in 8-bit OpenCV operations: blending the same picture with NumPy floats costs more
than five times as much.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import ceil, gcd
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_fusion.frame import RgbdFrame, valid_depth
from edge_fusion.preprocess import normalise_depth, resize_depth
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
        halvings: How often brightness is halved where nothing is salient; a fully salient pixel is
            half as bright again.  Shifts of 8-bit numbers cost a third of multiplications.
        tint: Added where the image is fully salient, (blue, green, red) 0..255.
        outline: Colour of the line where saliency crosses one half; light colours only, because
            it is drawn by taking the brighter of line and image.
    """

    halvings: int = 1
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
        saliency: (h, w) float32, 0..1: the map of the image's size, or the model's own smaller
            one, of which only what is salient is then enlarged.
        style: Brightness and colours.
        inset: (h, w, 3) uint8, blue first: a small picture for the upper right corner, such as
            :func:`depth_inset` makes. It must fit.
        caption: A line of text for the lower left corner; plain ASCII, as OpenCV's fonts are.

    Returns:
        (H, W, 3) uint8, blue first, as OpenCV's writers take it.

    Example:
        >>> grey = np.full((48, 64, 3), 200, np.uint8)
        >>> square = np.zeros((48, 64), np.float32)
        >>> square[16:32, 20:40] = 1
        >>> overlay = draw_overlay(grey, square)
        >>> bool(overlay[24, 30].sum() > overlay[4, 4].sum())
        True
    """
    dim = np.right_shift(rgb, style.halvings)
    canvas = np.asarray(cv2.cvtColor(dim, cv2.COLOR_RGB2BGR, dst=dim), np.uint8)
    levels = np.asarray(cv2.convertScaleAbs(saliency, alpha=255), np.uint8)
    part, alpha = _salient_part(levels, rgb.shape[:2])
    if alpha.size:
        _paint_salient(canvas[part], alpha, style)
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
    depth = resize_depth(frame.depth, size)
    valid = valid_depth(depth, frame.depth_spec)
    if not valid.any():
        return np.zeros((*depth.shape, 3), np.uint8)
    nearness = normalise_depth(depth, frame.depth_spec, _NEARNESS)
    levels = cv2.max((nearness * 255).astype(np.uint8), valid.view(np.uint8))  # 0: no reading
    return np.asarray(cv2.applyColorMap(levels, _colours(palette)), np.uint8)


@lru_cache(maxsize=4)
def _colours(palette: int) -> Image:
    """The palette, but black at 0; given by its number, OpenCV computes it for every picture."""
    colours = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], palette)
    colours[0] = 0
    return np.asarray(colours, np.uint8)


def _salient_part(levels: Image, size: tuple[int, int]) -> tuple[tuple[slice, slice], Image]:
    """Where in an image of ``size`` anything is salient, and (h, w) levels of that part.

    It is cut out before it is enlarged, in whole blocks of pixels that the image has a whole number
    of pixels for: so each level is that of the whole map enlarged.  What is mostly most of the
    image, and not salient, costs nothing.
    """
    left, top, width, height = cv2.boundingRect(levels)
    rows = _blocks(top, top + height, levels.shape[0], size[0])
    columns = _blocks(left, left + width, levels.shape[1], size[1])
    part = rows[1], columns[1]
    if not width or levels.shape == size:
        return part, levels[part]
    shape = part[1].stop - part[1].start, part[0].stop - part[0].start
    enlarged = cv2.resize(levels[rows[0], columns[0]], shape, interpolation=cv2.INTER_LINEAR)
    return part, np.asarray(enlarged, np.uint8)


def _blocks(start: int, stop: int, length: int, wanted: int) -> tuple[slice, slice]:
    """``start:stop`` of ``length`` pixels, grown to whole blocks; the same of ``wanted`` pixels.

    With a pixel of margin, so that what a part is cut from is nothing, as its border then is, and
    with room for the outline.
    """
    blocks = gcd(length, wanted)
    block, wide = length // blocks, wanted // blocks
    margin = 1 + ceil(_REACH * block / wide)
    first, last = max(start - margin, 0) // block, min(-(-(stop + margin) // block), blocks)
    return slice(first * block, last * block), slice(first * wide, last * wide)


def _paint_salient(canvas: Image, alpha: Image, style: OverlayStyle) -> None:
    """Paint what is salient at all, and the outline around it, band by band."""
    edge = _outline(alpha)
    height = max(1, _BAND // alpha.shape[1])
    for top in range(0, len(alpha), height):
        left, _, width, _ = cv2.boundingRect(alpha[max(top - _REACH, 0) : top + height + _REACH])
        if width:
            band = slice(top, top + height), slice(max(left - _REACH, 0), left + width + _REACH)
            _paint(canvas[band], alpha[band], edge[band], style)


def _paint(canvas: Image, alpha: Image, edge: Image, style: OverlayStyle) -> None:
    """Lighten, tint and outline one band of the darkened image in place."""
    glow = np.right_shift(canvas, 1)
    cv2.add(glow, np.array((*style.tint, 0), np.float64), dst=glow)
    cv2.multiply(glow, cv2.cvtColor(alpha, cv2.COLOR_GRAY2BGR), dst=glow, scale=1 / 255)
    cv2.add(canvas, glow, dst=canvas)
    cv2.max(canvas, _coloured(edge, style.outline), dst=canvas)


def _coloured(plane: Image, colour: Colour) -> Image:
    """(H, W) 0..255 as (H, W, 3): at 255 the colour itself, below it a share of it."""
    shares = [
        plane if level == 255 else cv2.convertScaleAbs(plane, alpha=level / 255) for level in colour
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
