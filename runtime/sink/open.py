"""The one door to sinks: from a destination on the command line to the sink that serves it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edge_fusion.errors import OutputError

from .base import Sink
from .masks import MaskFolder
from .video import CODECS, OverlayVideo

DEFAULT_FPS = 30.0


def open_sink(destination: str, fps: float = DEFAULT_FPS) -> Sink:
    """Open the sink for a destination.

    Args:
        destination: ``out.mp4``, ``.mkv`` or ``.avi`` for a video of overlays; ``masks/``, an
            existing folder or a name without suffix for a folder of 8-bit masks.
        fps: Frame rate of a video; masks have none.

    Raises:
        OutputError: No sink serves this destination, or it cannot be written to.

    Example:
        >>> import tempfile
        >>> sink = open_sink(tempfile.mkdtemp() + "/masks/")
        >>> type(sink).__name__
        'MaskFolder'
        >>> sink.close()
    """
    path = Path(destination)
    if destination.endswith("/") or path.is_dir() or not path.suffix:
        return MaskFolder(path)
    try:
        opener = SINKS[path.suffix.lower()]
    except KeyError:
        raise OutputError(
            f"cannot tell what to write to '{destination}'",
            expected=f"a video ({', '.join(sorted(SINKS))}) or a folder",
            got=f"the suffix '{path.suffix}'",
            cure=f"for a folder of masks write '{destination}/'",
        ) from None
    return opener(path, fps)


SINKS: dict[str, Callable[[Path, float], Sink]] = dict.fromkeys(CODECS, OverlayVideo)
