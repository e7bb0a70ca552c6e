from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_fusion.frame import RgbdFrame
from edge_fusion.runtime.ledger import FrameRecord
from edge_fusion.runtime.sink.web import WebOptions, WebSink
from edge_fusion.spec import DepthSpec

Result = tuple[RgbdFrame, NDArray[np.float32], FrameRecord]


@pytest.fixture
def result() -> Callable[..., Result]:
    """Makes a bright square on grey that wanders with its number: frame, saliency, record."""

    def make(
        number: int = 0,
        *,
        frame_id: str | None = None,
        size: tuple[int, int] = (48, 64),
        arrival_ns: int = 0,
    ) -> Result:
        rgb = np.full((*size, 3), 90, np.uint8)
        saliency = np.zeros(size, np.float32)
        left = number % (size[1] - 16)
        rgb[16:32, left : left + 16] = (230, 120, 40)
        saliency[16:32, left : left + 16] = 1
        depth = np.where(saliency > 0, 600, 1200).astype(np.uint16)
        spec = DepthSpec(scale_to_m=0.001)
        name = f"f{number}" if frame_id is None else frame_id
        frame = RgbdFrame(rgb, depth, spec, name, number, arrival_ns=arrival_ns)
        record = FrameRecord(
            number=number,
            id=name,
            capture_ms=1.0,
            wait_ms=0.5,
            preprocess_ms=0.4,
            infer_ms=20.0,
            postprocess_ms=0.3,
            sink_ms=0.0,
            latency_ms=22.2,
            timestamp_ns=0,
            fps=30.0,
            captured=number + 1,
            dropped=0,
        )
        return frame, saliency, record

    return make


@pytest.fixture
def disk_of(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts a real disk of so many MiB."""
    folder = tmp_path / "disk"

    def mounted(mebibytes: int) -> Path:
        folder.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", str(folder)]
        if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
            pytest.skip("mounting a small disk needs privileges")
        return folder

    yield mounted
    if folder.is_mount():
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def serve() -> Iterator[Callable[..., WebSink]]:
    """Makes sinks on a free port and closes them."""
    opened: list[WebSink] = []

    def start(**options: Any) -> WebSink:
        extra = {
            name: options.pop(name)
            for name in ("machine", "drops", "about", "drift")
            if name in options
        }
        opened.append(WebSink(WebOptions(port=0, **options), **extra))
        return opened[-1]

    yield start
    for sink in opened:
        sink.close()
