"""A few real inputs with the outputs they must give, packed for self-checks on the device."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np

from edge_fusion.preprocess import Inputs
from edge_fusion.runtime.ort import OrtSession
from edge_fusion.spec import ModelSpec


def make_golden(models: Mapping[str, bytes], samples: Sequence[Inputs], spec: ModelSpec) -> bytes:
    """Run every variant on a few samples and pack inputs and outputs for later self-checks.

    Args:
        models: ONNX files by variant.
        samples: Prepared inputs, batch 1.
        spec: The model's record.

    Returns:
        The contents of ``golden.npz``: ``input.<name>`` and ``output.<variant>``, batch stacked.

    Raises:
        SessionError: ONNX Runtime refused a model.
    """
    arrays = {
        f"input.{tensor.name}": np.concatenate([sample[tensor.name] for sample in samples])
        for tensor in spec.inputs
    }
    for variant, model in models.items():
        with OrtSession(model) as session:
            outputs = [session.run(sample)[spec.output.name] for sample in samples]
        arrays[f"output.{variant}"] = np.concatenate(outputs)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type] # names are not options
    return buffer.getvalue()
