"""The place an engine is built into: found writable before anything starts, one build at a time."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from edge_fusion.device_key import make_key
from edge_fusion.engine_record import refuse_link
from edge_fusion.files import writing

from .progress import Progress

LOCK_NAME = ".lock"


@contextmanager
def claimed(folder: Path, progress: Progress) -> Iterator[bool]:
    """Hold a bundle's engines for one build; a second build of that bundle waits.

    Two at once would time their kernels against each other and want twice the memory.

    Args:
        folder: Where the engine will lie.
        progress: Told, as ``wait``, if another build has to finish first.

    Yields:
        Whether there was one: what it built may be what is wanted.

    Raises:
        EngineError: A link stands in the way, or this device's key cannot be read.
        OutputError: The place, or that of this device's key, cannot be written to.
    """
    engines = folder.parent
    refuse_link(engines / LOCK_NAME)
    make_key()  # what is built must be sealed
    with ExitStack() as held:
        with writing("the engine", folder):
            engines.mkdir(exist_ok=True)
            with tempfile.TemporaryFile(dir=engines):
                pass
            lock = os.open(engines / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
            held.callback(os.close, lock)  # which lets go of it, as the end of the process does
            waited = _wait_for(lock, progress)
        # What a build that was killed left of this key; nobody else writes here now.
        for stale in engines.glob(f".{folder.name}.partial-*"):
            shutil.rmtree(stale, ignore_errors=True)
        yield waited


def _wait_for(lock: int, progress: Progress) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        progress("wait", 1, 1, "another build in this bundle is under way and goes first")
        fcntl.flock(lock, fcntl.LOCK_EX)
        return True
    return False
