"""How to stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from edge_fusion.errors import InputError

from .smooth import Smoother

Mode = Literal["auto", "every", "freshest"]
MODES: tuple[str, ...] = get_args(Mode)


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """How to stream.

    Attributes:
        limit: Stop after this many processed frames; None: at the end of the source.
        mode: Process ``every`` pair, or always the ``freshest`` and drop what it has overtaken;
            ``auto``: the freshest of a live source, every one of a stored one.
        queue_size: Items that may wait between two stages; more of them even out jitter and add
            latency.
        max_staleness_ms: Live sources only: drop a frame older than this when the model could
            start on it; None: never.
        smoothing: Share of the past in each saliency map, 0 up to 1; None: each stands alone.
        give_up_after: Unusable frames from the start that end the stream with an error, so that a
            wrong unit is told after seconds, not never; None: keep waiting for a usable one.
    """

    limit: int | None = None
    mode: Mode = "auto"
    queue_size: int = 2
    max_staleness_ms: float | None = None
    smoothing: float | None = None
    give_up_after: int | None = 300

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise InputError("stream option mode", expected=", ".join(MODES), got=self.mode)
        for name in ("limit", "queue_size", "max_staleness_ms", "give_up_after"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InputError(f"stream option {name}", expected="above 0", got=f"{value}")
        if self.smoothing is not None:
            Smoother(self.smoothing)  # refuses a weight out of range
