"""The streaming loop as one function; how it works is told in :mod:`.pipeline`."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import ExitStack

from edge_fusion.spec import ModelSpec

from .ledger import FrameRecord, StreamSummary
from .pipeline import Pipeline, Progress
from .session import Session
from .sink.base import Sink
from .source.base import Source
from .stream_options import StreamOptions

__all__ = ["FrameRecord", "Progress", "StreamOptions", "StreamSummary", "stream"]


def stream(
    session: Session,
    spec: ModelSpec,
    source: Source,
    sinks: Sequence[Sink],
    options: StreamOptions | None = None,
    on_progress: Progress | None = None,
    stop: threading.Event | None = None,
) -> StreamSummary:
    """Run every pair of a source through a model and into sinks.

    Stored sources lose nothing and keep their order. Live sources keep only the newest pair while
    the model is busy (``options.mode`` chooses otherwise). A pair that cannot be used is dropped,
    counted by reason and never ends the run on its own. Ctrl-C and ``stop`` end the run within two
    seconds: the frame in the model is finished, the sinks are closed and the summary is returned.
    A second Ctrl-C does not wait.

    Args:
        session: The model; stays open.
        spec: What the model takes and returns.
        source: Where pairs come from.
        sinks: Where results go; closed on every way out, also after an error.
        options: How to stream.
        on_progress: Called after each frame, in the sinks' thread, with the frame's record; limit
            its rate yourself.
        stop: Ends the stream when set, from any thread or from a signal handler.

    Returns:
        The account of every frame.

    Raises:
        SourceError: The source failed, or not one of its frames could be used.
        SessionError: The model failed.
        OutputError: A sink failed.

    Example:
        >>> class Nearness:
        ...     def run(self, inputs):
        ...         return {"saliency": inputs["depth"]}
        ...     def close(self): ...
        >>> from edge_fusion.runtime.source.demo import DemoSource
        >>> stream(Nearness(), ModelSpec(name="mine"), DemoSource(frames=3), sinks=[]).frames
        3
    """
    with ExitStack() as untaken:
        for sink in sinks:
            untaken.callback(sink.close)
        pipeline = Pipeline(session, spec, source, sinks, options or StreamOptions(), on_progress)
        untaken.pop_all()  # from here on its threads close them
    return pipeline.run(stop or threading.Event())
