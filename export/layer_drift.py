"""Which layers an INT8 graph would clip on what a camera gives now, worst first."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edge_fusion.bundle import Bundle
from edge_fusion.errors import BundleError, CalibrationError, FrameError
from edge_fusion.frame import RgbdFrame
from edge_fusion.preprocess import prepare
from edge_fusion.runtime.ort import OrtSession

from .graph import GraphView
from .samples import Sample

LEVELS = 127
BEYOND = 127.5 / 127  # of the range: what rounds to its end loses no more than any value does
LAYER_COLUMNS = ("tensor", "range", "reached", "of the range", "clipped", "worst frame")


@dataclass(frozen=True, slots=True)
class LayerDrift:
    """One quantized tensor against its range.

    Attributes:
        tensor: Its name in the graph.
        limit: Its range is -limit to limit: 127 times its scale.
        reached: The largest absolute value that FP32 has there.
        clipped: Share of its values beyond the range by more than half a step, over all frames.
        worst: That of the worst frame.
    """

    tensor: str
    limit: float
    reached: float
    clipped: float
    worst: float

    def cells(self) -> tuple[str, ...]:
        """A row of the table."""
        ratio = f"{self.reached / self.limit:.2f}"
        shares = (f"{self.clipped:.3%}", f"{self.worst:.3%}")
        return (self.tensor, f"{self.limit:.4g}", f"{self.reached:.4g}", ratio, *shares)

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def layer_drift(
    bundle: Bundle, frames: Iterable[RgbdFrame | FrameError], *, threads: int | None = None
) -> tuple[LayerDrift, ...]:
    """Run the FP32 graph on frames and count what lies beyond the ranges of the INT8 graph.

    Counted inside the graph, so that memory stays that of one run.

    Args:
        bundle: One with an INT8 graph.
        frames: What a camera gives now; frames that cannot be used are left out.
        threads: Threads of one run; None takes every core.

    Returns:
        Every quantized activation, the most clipped first.

    Raises:
        BundleError: The bundle has no INT8 graph.
        CalibrationError: Not one frame can be used.
    """
    if "int8" not in bundle.manifest.variants:
        raise BundleError(
            f"{bundle.path} has no INT8 graph",
            cure="ranges of layers are those of --precision int8",
        )
    graphs = {
        name: onnx.load_model_from_string(bundle.file(bundle.manifest.variants[name]))
        for name in ("fp32", "int8")
    }
    limits = _limits(graphs["fp32"], graphs["int8"])
    spec = bundle.manifest.model
    rows = []
    with OrtSession(_counting(graphs["fp32"], limits), threads=threads) as session:
        for frame in frames:
            try:
                if isinstance(frame, FrameError):
                    continue
                sample = prepare(frame, spec)
            except FrameError:
                continue
            rows.append(_row(session, sample, len(limits)))
    if not rows:
        raise CalibrationError("not one frame can be used to judge layers")
    figures = np.asarray(rows)
    found = [
        LayerDrift(
            tensor=name,
            limit=limit,
            reached=float(figures[:, 0, place].max()),
            clipped=float(figures[:, 1, place].mean()),
            worst=float(figures[:, 1, place].max()),
        )
        for place, (name, limit) in enumerate(limits.items())
    ]
    return tuple(sorted(found, key=lambda one: (-one.clipped, one.limit / max(one.reached, 1e-12))))


def _row(session: OrtSession, sample: Sample, count: int) -> list[list[float]]:
    outputs = session.run(sample)
    return [
        [float(outputs[f"{what}.{place}"]) for place in range(count)]
        for what in ("reached", "clipped")
    ]


def _limits(fp32: onnx.ModelProto, int8: onnx.ModelProto) -> dict[str, float]:
    """How far each quantized activation may reach; those alone that the float graph has, too."""
    known = {name for node in fp32.graph.node for name in node.output}
    known |= {value.name for value in fp32.graph.input}
    return {
        q.data: float(q.scale.reshape(())) * LEVELS
        for q in GraphView(int8).quantizers
        if q.quantizes and not q.constant and q.data in known
        if q.scale is not None and q.scale.size == 1
    }


def _counting(fp32: onnx.ModelProto, limits: dict[str, float]) -> bytes:
    """The float graph, whose outputs are two scalars for each tensor: reach and share beyond."""
    probe = onnx.ModelProto()
    probe.CopyFrom(fp32)
    graph = probe.graph
    del graph.output[:]
    for place, (name, limit) in enumerate(limits.items()):
        size, over = f"size.{place}", f"over.{place}"
        bound = f"bound.{place}"
        value = np.asarray(limit * BEYOND, np.float32)
        graph.initializer.append(numpy_helper.from_array(value, bound))
        graph.node.extend(
            [
                helper.make_node("Abs", [name], [size]),
                helper.make_node("ReduceMax", [size], [f"reached.{place}"], keepdims=0),
                helper.make_node("Greater", [size, bound], [over]),
                helper.make_node("Cast", [over], [f"cut.{place}"], to=TensorProto.FLOAT),
                helper.make_node("ReduceMean", [f"cut.{place}"], [f"clipped.{place}"], keepdims=0),
            ]
        )
        for what in ("reached", "clipped"):
            info = helper.make_tensor_value_info(f"{what}.{place}", TensorProto.FLOAT, ())
            graph.output.append(info)
    data: bytes = probe.SerializeToString()
    return data
