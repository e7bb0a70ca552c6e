"""Stopping while there is still room to finish: few encoders tell of a full disk, some hang."""

from __future__ import annotations

import shutil
from pathlib import Path

from edge_fusion.errors import OutputError


def check_room(what: str, path: Path, reserve_bytes: int, so_far: str) -> None:
    """Refuse to go on where the disk is nearly full.

    Args:
        what: What is being written, for the message.
        path: Where it grows.
        reserve_bytes: What has to be free, so that it can be finished.
        so_far: What it holds by now, for the message.

    Raises:
        OutputError: Less is free.
    """
    free = shutil.disk_usage(path.parent).free
    if free < reserve_bytes:
        raise OutputError(
            f"no room left for {what}",
            expected=f"{reserve_bytes / 2**20:.0f} MiB free to finish it",
            got=f"{free / 2**20:.1f} MiB; it ends after {so_far}",
            cure="free some space, or write to another disk",
        )
