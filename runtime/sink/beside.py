"""A sink in a thread of its own: whatever it does, it never slows the stream."""

from __future__ import annotations

import threading
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_fusion.errors import EdgeFusionError, OutputError
from edge_fusion.frame import RgbdFrame

from ..handoff import Closed, LatestSlot
from ..ledger import FrameRecord
from .base import Sink, only_paints

_FINISH_S = 0.4


class _Shown(NamedTuple):
    frame: RgbdFrame
    saliency: NDArray[np.float32]
    record: FrameRecord


class Beside:
    """Hands the newest result to a sink whenever that is ready for one; it misses the others.

    For what shows the present, such as a page or a window; a file that must hold every frame has
    to be fed by the stream itself.

    Args:
        sink: The sink; from now on it is used by this one's thread alone.
    """

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._slot: LatestSlot[_Shown] = LatestSlot()
        self._error: EdgeFusionError | None = None
        self._thread = threading.Thread(target=self._work, name="edge-fusion-beside", daemon=True)
        self._thread.start()

    @property
    def destination(self) -> str:
        """The sink's."""
        return self._sink.destination

    @property
    def paints(self) -> bool:
        """Whether the sink does nothing else."""
        return only_paints(self._sink)

    def write(self, frame: RgbdFrame, saliency: NDArray[np.float32], record: FrameRecord) -> None:
        """Leave a result for the sink; never waits.

        Raises:
            OutputError: The sink failed at an earlier one.
        """
        if self._error is not None:
            raise self._error
        self._slot.put(_Shown(frame, saliency, record))

    def stop(self) -> None:
        """Have the sink take what is waiting and close; waits for neither."""
        self._slot.close()

    def close(self) -> None:
        """Close the sink, or leave it alone where it hangs; closing twice is allowed.

        Raises:
            OutputError: The sink failed.
        """
        self.stop()
        self._thread.join(_FINISH_S)
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _work(self) -> None:
        try:
            while True:
                shown = self._slot.get()
                self._sink.write(shown.frame, shown.saliency, shown.record)
        except Closed:
            pass
        except Exception as err:
            self._error = self._wrapped(err)
            self._slot.close(discard=True)
        finally:
            try:
                self._sink.close()
            except Exception as err:
                self._error = self._error or self._wrapped(err)

    def _wrapped(self, err: Exception) -> EdgeFusionError:
        if isinstance(err, EdgeFusionError):
            return err
        error = OutputError(f"writing to '{self.destination}' failed", got=f"{err!r}")
        error.__cause__ = err
        return error
