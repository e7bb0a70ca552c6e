"""A contact sheet: real frames with what FP32 and INT8 find in them, to be looked at.

python -m benchmarks.reference.sheet BUNDLE --data DATA --out sheet.png
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import typer
from numpy.typing import NDArray

from benchmarks.command import run
from edge_fusion.bundle import Bundle
from edge_fusion.errors import OutputError
from edge_fusion.files import write_bytes
from edge_fusion.frame import RgbdFrame
from edge_fusion.preprocess import prepare, saliency_map
from edge_fusion.runtime.ort import OrtSession
from edge_fusion.runtime.panels import Picture, draw_pictures

from .data import read_set

#: How many frames of each set, evenly spread.
FRAMES = {
    "streams/hololens_office": 4,
    "streams/d435_robot_lab": 3,
    "tabletop_uois": 6,
    "tabletop_ycb_realsense": 3,
    "gqcnn_primesense": 2,
    "uw_rgbd_objects": 2,
}
COLUMNS = 2  # frames side by side
TILE = (200, 150)  # width, height of a picture
CAPTION = 14


def chosen(data: Path) -> list[RgbdFrame]:
    """Twenty frames of six sets."""
    frames: list[RgbdFrame] = []
    for name, count in FRAMES.items():
        every = read_set(data, name)
        frames += [every[i] for i in np.linspace(0, len(every) - 1, count).round().astype(int)]
    return frames


def draw_sheet(bundle: Bundle, frames: list[RgbdFrame]) -> NDArray[np.uint8]:
    """All frames in one picture, (H, W, 3) uint8, blue first."""
    spec = bundle.manifest.model
    with ExitStack() as stack:
        sessions = {
            variant: stack.enter_context(OrtSession(bundle.model_bytes(variant)))
            for variant in bundle.variants
        }
        rows = []
        for frame in frames:
            inputs, (height, width) = prepare(frame, spec), frame.rgb.shape[:2]
            maps = {
                name: saliency_map(one.run(inputs)[spec.output.name], spec, (height, width))
                for name, one in sessions.items()
            }
            rows.append(np.hstack([_tile(picture) for picture in draw_pictures(frame, maps)]))
    widest = max(row.shape[1] for row in rows)
    rows = [np.pad(row, ((0, 0), (0, widest - row.shape[1]), (0, 0))) for row in rows]
    rows += [np.zeros_like(rows[0])] * (-len(rows) % COLUMNS)
    lines = [np.hstack(rows[i : i + COLUMNS]) for i in range(0, len(rows), COLUMNS)]
    return np.asarray(np.vstack(lines), np.uint8)


def _tile(picture: Picture) -> NDArray[np.uint8]:
    pixels = picture.pixels
    if pixels.ndim == 2:
        pixels = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB), np.uint8)
    tile = cv2.resize(pixels, TILE, interpolation=cv2.INTER_AREA)[..., ::-1]
    canvas = cv2.copyMakeBorder(tile, CAPTION, 2, 2, 2, cv2.BORDER_CONSTANT)
    cv2.putText(
        canvas, picture.label, (4, CAPTION - 3), cv2.FONT_HERSHEY_SIMPLEX, 0.38, (255, 255, 255)
    )
    return np.asarray(canvas, np.uint8)


def main(
    bundle: Path,
    data: Annotated[Path, typer.Option(help="The data folder.")],
    out: Annotated[Path, typer.Option(help="The picture to write, .png.")],
) -> None:
    """Draw the sheet."""
    fine, encoded = cv2.imencode(".png", draw_sheet(Bundle.read(bundle), chosen(data)))
    if not fine:
        raise OutputError(f"cannot encode {out}")
    write_bytes(out, encoded.tobytes(), "the sheet")


if __name__ == "__main__":
    run(main)
