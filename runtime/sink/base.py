"""Where saliency maps go."""

from __future__ import annotations

import sys
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from edge_fusion.frame import RgbdFrame

from ..ledger import FrameRecord

SALIENT = 0.5  # saliency from which on a pixel belongs to the salient region


class Sink(Protocol):
    """Anything that takes frames with their saliency: a video, a folder, a window."""

    @property
    def destination(self) -> str:
        """Where the results go, as the user wrote it."""
        ...

    def write(self, frame: RgbdFrame, saliency: NDArray[np.float32], record: FrameRecord) -> None:
        """Take one result; frames come in order, always from the same thread.

        Args:
            frame: The frame the saliency belongs to.
            saliency: (H, W) float32 in 0..1, as large as the frame; not to be changed. A
                :class:`Painter` may get the model's own smaller map.
            record: Its way through the stream until now: ``sink_ms`` is still 0.

        Raises:
            OutputError: It could not be written.
        """
        ...

    def close(self) -> None:
        """Finish what was written and free everything; closing twice is allowed.

        Called exactly once at the end of a run, also of one that failed: what was written until
        then must be usable. After a ``write`` that failed nothing half-written may remain.

        Raises:
            OutputError: What was written could not be finished.
        """
        ...


@runtime_checkable
class Painter(Protocol):
    """A sink that may do nothing with saliency but paint it.

    It then gets the map at the model's own size: :func:`.overlay.draw_overlay` enlarges the salient
    part as it paints, and no map of the frame's size has to be made where nobody else takes one.
    """

    @property
    def paints(self) -> bool:
        """Whether it only paints."""
        ...


def only_paints(sink: Sink) -> bool:
    """Whether a sink takes the model's own map as well as the one of the frame's size."""
    return isinstance(sink, Painter) and sink.paints


@runtime_checkable
class Onlooker(Sink, Protocol):
    """A sink that shows the present and keeps nothing: a page, a window."""

    def stop(self) -> None:
        """Begin to end; never waits.  ``close`` follows."""
        ...


def on_standard_error(line: str) -> None:
    """Where a sink says something to whoever started it, if nobody else listens."""
    print(line, file=sys.stderr)
