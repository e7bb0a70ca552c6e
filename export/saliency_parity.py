"""Parity between neighbouring forms of one network, held as saliency: logits have no scale."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import onnx
from numpy.typing import NDArray

from edge_fusion.errors import FrameError, ModelError
from edge_fusion.manifest import ParityRecord
from edge_fusion.preprocess import Inputs, activate
from edge_fusion.runtime.ort import OrtSession
from edge_fusion.spec import ModelSpec

from .parity import Runner, check_parity
from .progress import Progress, step

PARITY_SAMPLES = 4


def parity_record(
    name: str,
    reference: Runner,
    candidate: Runner,
    spec: ModelSpec,
    samples: Sequence[Inputs],
    progress: Progress,
) -> ParityRecord:
    """Hold one form against the last on the first :data:`PARITY_SAMPLES` samples.

    Args:
        name: The pair of forms, a key of :data:`edge_fusion.export.parity.TOLERANCES`.
        reference: The form before.
        candidate: The form after.
        spec: The model's record.
        samples: Inputs by name.
        progress: Told the outcome.

    Raises:
        StepError: They differ by more than that pair may.
    """
    with step(progress, name) as done:
        report = check_parity(
            name,
            as_saliency(reference, spec),
            as_saliency(candidate, spec),
            samples[:PARITY_SAMPLES],
        )
        found = report.difference
        done(f"mean {found.mean_abs:.1e}, max {found.max_abs:.1e}")
    bounds = (("mean", report.tolerance.mean_abs), ("max", report.tolerance.max_abs))
    return ParityRecord(
        name=name,
        mean_abs=found.mean_abs,
        max_abs=found.max_abs,
        tolerance=" and ".join(f"{label} <= {bound:g}" for label, bound in bounds if bound),
        samples=report.samples,
    )


def as_saliency(runner: Runner, spec: ModelSpec) -> Runner:
    """A runner that answers probabilities, whatever the graph ends in.

    Raises:
        ModelError: When run, if the output is no saliency.
    """

    def run(inputs: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
        try:
            return {spec.output.name: activate(runner(inputs)[spec.output.name], spec)}
        except FrameError as err:
            raise ModelError(
                f"model {spec.name}: {err.what}", expected=err.expected, got=err.got, cure=err.cure
            ) from err

    return run


@contextmanager
def running(graph: onnx.ModelProto) -> Iterator[Runner]:
    """A graph on ONNX Runtime, as long as the context lasts."""
    with OrtSession(graph.SerializeToString()) as session:
        yield session.run
