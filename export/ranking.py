"""What each INT8 layer alone does to the saliency map, and what the worst of them cost together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray

from edge_fusion.diagnosis import LayerError, worst_layers
from edge_fusion.errors import FrameError, StepError
from edge_fusion.preprocess import activate
from edge_fusion.runtime.ort import OrtSession
from edge_fusion.spec import ModelSpec

from .isolate import check_pair, with_int8
from .progress import Progress, quiet
from .samples import Sample

Planes = list[NDArray[np.float32]]


def rank_layers(
    fp32_model: onnx.ModelProto,
    int8_model: onnx.ModelProto,
    samples: Sequence[Sample],
    spec: ModelSpec,
    progress: Progress = quiet,
    *,
    threads: int | None = None,
) -> tuple[LayerError, ...]:
    """Put each INT8 layer alone into the float network and see what becomes of the saliency map.

    Args:
        fp32_model: The float graph.
        int8_model: The same, quantized.
        samples: Inputs by name; a few suffice, since layers differ by orders of magnitude.
        spec: The model's record.
        progress: Told how many layers are done, as the step ``isolate``.
        threads: Threads of one run; None takes every core.

    Returns:
        Every layer that INT8 computes with its ``saliency_error``, the worst first.

    Raises:
        ModelError: The graphs are not the same network, or nothing in it is INT8.
        StepError: No samples, or an output is not a saliency map.
        SessionError: A sample does not fit the graph.

    Example:
        >>> worst = rank_layers(fp32, int8, samples, spec)[0]  # doctest: +SKIP
        >>> worst.name, worst.saliency_error  # doctest: +SKIP
        ('decoder.2/Conv', 0.0041)
    """
    names = check_pair(fp32_model, int8_model)
    errors = saliency_errors(
        fp32_model,
        int8_model,
        {name: (name,) for name in names},
        samples,
        spec,
        progress,
        threads=threads,
    )
    position = {node.output[0]: index for index, node in enumerate(fp32_model.graph.node)}
    nodes = {node.name or node.output[0]: node for node in fp32_model.graph.node}
    return worst_layers(
        tuple(
            LayerError(
                name=name,
                kind=nodes[name].op_type,
                position=position[nodes[name].output[0]],
                int8=True,
                saliency_error=errors[name],
            )
            for name in names
        )
    )


def saliency_errors(
    fp32_model: onnx.ModelProto,
    int8_model: onnx.ModelProto,
    groups: Mapping[str, Iterable[str]],
    samples: Sequence[Sample],
    spec: ModelSpec,
    progress: Progress = quiet,
    *,
    threads: int | None = None,
) -> dict[str, float]:
    """Mean absolute difference of saliency to FP32, with one group of layers at a time in INT8.

    One network is held at a time, and of all others their saliency maps on the samples.

    Args:
        fp32_model: The float graph.
        int8_model: The same, quantized.
        groups: Names of layers by the name of their group.
        samples: Inputs by name.
        spec: The model's record.
        progress: Told how many groups are done, as the step ``isolate``.
        threads: Threads of one run; None takes every core.

    Returns:
        The difference, 0..1, for each group.

    Raises:
        ModelError: The graphs are not the same network, or a name is not of an INT8 layer.
        StepError: No samples, or an output is not a saliency map.
        SessionError: A sample does not fit the graph.
    """
    reference = saliency_planes(fp32_model, samples, spec, threads=threads)
    errors = {}
    for done, (group, names) in enumerate(groups.items(), start=1):
        mixed = with_int8(fp32_model, int8_model, names)
        errors[group] = mean_difference(
            reference, saliency_planes(mixed, samples, spec, threads=threads)
        )
        progress("isolate", done, len(groups))
    return errors


def saliency_planes(
    model: onnx.ModelProto,
    samples: Sequence[Sample],
    spec: ModelSpec,
    *,
    threads: int | None = None,
) -> Planes:
    """The saliency maps of a network on the samples, as the model's record says to read them.

    Raises:
        StepError: No samples, or an output holds NaN or is no probability.
    """
    if not samples:
        raise StepError("layers cannot be compared", expected="at least one sample", got="none")
    with OrtSession(model.SerializeToString(), threads=threads) as session:
        outputs = [session.run(sample)[spec.output.name] for sample in samples]
    try:
        return [activate(output, spec) for output in outputs]
    except FrameError as err:
        raise StepError(
            f"the saliency map of '{model.graph.name or spec.name}'",
            expected=err.expected,
            got=err.got or err.what,
            cure="repair the network first: a diagnosis needs numbers to compare",
        ) from err


def mean_difference(reference: Planes, other: Planes) -> float:
    """Mean absolute difference over all maps, 0..1."""
    pairs = zip(reference, other, strict=True)
    return float(np.mean([np.abs(one.astype(np.float64) - two).mean() for one, two in pairs]))
