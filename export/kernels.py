"""Do ONNX Runtime's own 8-bit kernels compute on this processor what the graph says?

On x86 without VNNI they add pairs of u8*s8 products in 16 bits and saturate.  A Jetson does not;
whoever runs the INT8 file on such a processor gets another answer than the device gives.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx

from edge_fusion.diagnosis import Finding
from edge_fusion.errors import FrameError, SessionError
from edge_fusion.preprocess import activate
from edge_fusion.runtime.ort import OrtSession
from edge_fusion.spec import ModelSpec

from .ranking import Planes, mean_difference
from .samples import Sample

_X86 = ("x86_64", "AMD64")
_CPUINFO = Path("/proc/cpuinfo")
_MOST = 0.01  # mean difference of saliency; 0.038 was measured where kernels saturate


def saturates_not(machine: str | None = None, cpuinfo: str | None = None) -> str:
    """Why 8-bit kernels cannot saturate on this processor; empty where they may.

    Args:
        machine: Its architecture; None asks the system.
        cpuinfo: The text of ``/proc/cpuinfo``; None reads it.

    Example:
        >>> saturates_not("aarch64", "")
        'this processor is no x86: its 8-bit products do not saturate'
    """
    machine = platform.machine() if machine is None else machine
    if machine not in _X86:
        return "this processor is no x86: its 8-bit products do not saturate"
    if cpuinfo is None:
        cpuinfo = _CPUINFO.read_text(encoding="utf-8") if _CPUINFO.is_file() else ""
    flags = next((line for line in cpuinfo.splitlines() if line.startswith("flags")), "")
    if any(flag.endswith("_vnni") for flag in flags.split()):
        return "this processor has VNNI: its 8-bit products do not saturate"
    return ""


def judge_kernels(
    int8_model: onnx.ModelProto,
    samples: Sequence[Sample],
    spec: ModelSpec,
    literal: Planes,
    *,
    threads: int | None = None,
) -> Finding | str:
    """Run the graph with the optimised 8-bit kernels and hold it against the literal run.

    Args:
        int8_model: The quantized graph.
        samples: Inputs by name.
        spec: The model's record.
        literal: Its saliency maps on the samples with every Q/DQ run as written.
        threads: Threads of one run; None takes every core.

    Returns:
        A finding, an empty text where the two agree, or why this cannot be judged here.
    """
    reason = saturates_not()
    if reason:
        return reason
    try:
        graph = int8_model.SerializeToString()
        with OrtSession(graph, threads=threads, kernels="int8") as session:
            outputs = [session.run(sample)[spec.output.name] for sample in samples]
    except SessionError as err:
        return f"ONNX Runtime has no 8-bit kernels for this graph: {err.got or err.what}"
    try:
        fast = [activate(output, spec) for output in outputs]
    except FrameError:
        fast = [np.full_like(plane, np.inf) for plane in literal]
    gap = min(mean_difference(literal, fast), 1.0)
    if gap < _MOST:
        return ""
    return Finding(
        cause="x86_saturation",
        evidence=f"ONNX Runtime's 8-bit kernels differ from the literal graph by {gap:.4f} on this "
        "processor, which has no VNNI: sums of two products saturate at 16 bits",
        figures={"difference": gap},
        cure="nothing is wrong with the bundle: judge it with 'edge-fusion compare', which runs "
        "the graph literally, or on the device; elsewhere set session.disable_quant_qdq=1",
    )
