"""How many layers have to leave INT8 for a gate to hold: our search against NNCF's.

Both quantize the same FP32 graph with the same parameters, the same nodes kept in floating point
and the same calibration pairs, and both ask the same function how good a graph is: legalised, on
ONNX Runtime in the literal Q/DQ mode, on the same pairs with masks.  Both may rank layers on as
many pairs.  Counted alike on both sides are the nodes that compute on 8-bit values in plain INT8
and do not in the result, and the graphs and pairs that were run.  Seconds are those of running
graphs; quantizing, which is the same for both, is left out.

    python -m benchmarks.accuracy_control BUNDLE --data DATA --json figures.json
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import onnx
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.command import run
from edge_fusion.bundle import Bundle, is_bundle
from edge_fusion.calibration.calibration_set import CalibrationOptions, load_calibration_set
from edge_fusion.errors import GateError
from edge_fusion.export.accuracy import RANK_PAIRS, HoldOptions, hold_gate
from edge_fusion.export.gate import Gate, Reading, load_gate_pairs
from edge_fusion.export.int8 import Attempt, Int8Maker
from edge_fusion.export.isolate import quantizable
from edge_fusion.export.legalise import legalise
from edge_fusion.export.options import BuildOptions
from edge_fusion.export.pipeline import build
from edge_fusion.export.precision import plan_precision
from edge_fusion.export.quantize import QuantizeOptions, nncf_arguments, nncf_parameters
from edge_fusion.files import sha256, write_bytes
from edge_fusion.runtime.gates import parse_gates
from edge_fusion.spec import ModelSpec

os.environ["NNCF_CI"] = "1"  # read when nncf is imported: sends no usage statistics

import nncf
from nncf.quantization.advanced_parameters import AdvancedAccuracyRestorerParameters

#: What is calibrated on, and what is judged on, by the name of the mixture.
STREAMS = ("streams/hololens_office", "streams/d435_robot_lab")
TABLETOPS = ("tabletop_uois", "tabletop_ycb_realsense", "gqcnn_primesense", "gqcnn_phoxi_bin")
MIXTURES = {"pothole": ("pothole_d2",), "pooled": (*TABLETOPS, "pothole_d2")}
SIDES = ("ours", "nncf")
GATES = ("pothole:mae=0.002", "pothole:mae=0.001", "pooled:mae=0.0005", "pooled:difference=0.01")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one side needed to hold one gate.

    Attributes:
        side: ``ours`` or ``nncf``.
        pairs: The mixture.
        gate: Metric and largest drop.
        held: Whether its result holds the gate.
        layers: Nodes that compute on 8-bit values in plain INT8.
        reverted: How many of them do not in the result.
        plain_drop: The drop of plain INT8.
        drop: That of the result.
        graphs: How many graphs were run.
        runs: How many pairs they were run on, all together.
        seconds: What that took.
        names: The layers that were reverted.
    """

    side: str
    pairs: str
    gate: str
    held: bool
    layers: int
    reverted: int
    plain_drop: float
    drop: float
    graphs: int
    runs: int
    seconds: float
    names: tuple[str, ...]


@dataclass(slots=True)
class Meter:
    """A gate that counts what it is asked, and answers twice at the cost of once."""

    gate: Gate
    known: dict[tuple[str, tuple[int, ...]], tuple[Reading, float]] = field(default_factory=dict)
    graphs: int = 0
    runs: int = 0
    seconds: float = 0.0

    def read(self, model: onnx.ModelProto, which: Sequence[int]) -> Reading:
        """Run a graph, or remember that it was run, and count it either way."""
        key = sha256(model.SerializeToString(deterministic=True)), tuple(which)
        if key not in self.known:
            start = time.perf_counter()
            reading = self.gate.read(model, which)
            self.known[key] = reading, time.perf_counter() - start
        reading, seconds = self.known[key]
        self.graphs, self.runs = self.graphs + 1, self.runs + len(which)
        self.seconds += seconds
        return reading

    def reset(self) -> None:
        """Count from nought; what was measured stays known."""
        self.graphs, self.runs, self.seconds = 0, 0, 0.0


class CountingGate(Gate):
    """Our side's gate, with what it is asked counted by a meter."""

    def __init__(self, meter: Meter, max_drop: dict[str, float]) -> None:
        # everything but the limits is the metered gate's own: FP32 is not run again
        self.__dict__.update(meter.gate.__dict__)
        self.max_drop, self._meter = max_drop, meter

    def read(self, model: onnx.ModelProto, which: Sequence[int] | None = None) -> Reading:
        """As :meth:`Gate.read`, counted."""
        everything = range(len(self.pairs.pairs))
        found = self._meter.read(model, list(everything if which is None else which))
        return Reading(found.drops, self.max_drop, found.difference, found.by_pair)


def ours(maker: Int8Maker, plain: Attempt, meter: Meter, max_drop: dict[str, float]) -> Attempt:
    """Our search; its state is kept nowhere, so that everything is counted."""
    with tempfile.TemporaryDirectory() as folder:
        options = HoldOptions(Path(folder) / "bundle", min_int8=0.0)
        return hold_gate(maker, plain, CountingGate(meter, max_drop), options).attempt


def theirs(maker: Int8Maker, meter: Meter, metric: str, limit: float) -> onnx.ModelProto:
    """NNCF's accuracy control on the same graph, parameters, pairs and judgement; legalised."""
    samples = maker.pairs.samples

    def validate(model: onnx.ModelProto, items: Iterable[int]) -> tuple[float, list[float]]:
        reading = meter.read(legalise(model).model, [int(item) for item in items])
        # 1 is the FP32 graph: NNCF divides by what that scores
        return 1 - reading.drops[metric], [1 - drop for drop in reading.by_pair[metric]]

    result = nncf.quantize_with_accuracy_control(
        maker.graph,
        nncf.Dataset(range(len(samples)), lambda index: dict(samples[index])),
        nncf.Dataset(range(len(meter.gate.pairs.pairs))),
        validation_fn=validate,
        max_drop=limit,
        drop_type=nncf.DropType.ABSOLUTE,
        advanced_accuracy_restorer_parameters=AdvancedAccuracyRestorerParameters(
            ranking_subset_size=RANK_PAIRS, num_ranking_workers=1
        ),
        advanced_quantization_parameters=nncf_parameters(maker.settings),
        **nncf_arguments(maker.plan, len(samples)),
    )
    return legalise(result).model


def measure(
    maker: Int8Maker,
    plain: Attempt,
    meter: Meter,
    asked: tuple[str, str, float],
    sides: Sequence[str] = SIDES,
) -> list[Outcome]:
    """Both sides, or one, on one gate: the mixture's name, the metric and its largest drop."""
    name, metric, limit = asked
    everything = list(range(len(meter.gate.pairs.pairs)))
    layers = quantizable(plain.model)
    before = meter.gate.read(plain.model).drops[metric]
    found = []
    for side in sides:
        meter.reset()
        if side == "ours":
            model = ours(maker, plain, meter, {metric: limit}).model
        else:
            model = theirs(maker, meter, metric, limit)
        graphs, runs, seconds = meter.graphs, meter.runs, meter.seconds
        drop = meter.read(model, everything).drops[metric]
        left = set(quantizable(model))
        names = tuple(layer for layer in layers if layer not in left)
        found.append(
            Outcome(
                side,
                name,
                f"{metric}={limit:g}",
                drop <= limit + 1e-12,
                len(layers),
                len(names),
                before,
                drop,
                graphs,
                runs,
                round(seconds, 1),
                names,
            )
        )
        Console(stderr=True).print(found[-1])
    return found


def tell(step: str, done: int, total: int, detail: str = "") -> None:
    """Each finished step on standard error."""
    if total and done == total and detail:
        Console(stderr=True).print(f"{step:<10} {detail}", markup=False, soft_wrap=True)


def fp32_of(model: str) -> tuple[onnx.ModelProto, ModelSpec]:
    """The FP32 graph of a bundle, or of a model that is built for it."""
    if is_bundle(Path(model)):
        bundle = Bundle.read(Path(model))
        return onnx.load_model_from_string(bundle.model_bytes("fp32")), bundle.manifest.model
    with tempfile.TemporaryDirectory() as folder:
        options = BuildOptions(model=model, output=Path(folder) / "bundle", precision="fp32")
        bundle = build(options)
        return onnx.load_model_from_string(bundle.model_bytes("fp32")), bundle.manifest.model


def main(
    model: str,
    data: Annotated[Path, typer.Option(help="The data folder.")],
    json_out: Annotated[Path | None, typer.Option("--json", help="Write all figures.")] = None,
    gates: Annotated[
        list[str] | None, typer.Option("--gate", help="PAIRS:METRIC=VALUE; may be repeated.")
    ] = None,
    pairs: Annotated[int, typer.Option(help="Pairs to judge on, at most.")] = 40,
    calib_count: Annotated[int, typer.Option(help="Pairs to calibrate on.")] = 64,
    side: Annotated[list[str] | None, typer.Option(help="ours or nncf; both if left out.")] = None,
) -> None:
    """Measure both, print a table, and fail where ours reverts more or misses the gate."""
    sides = tuple(side or SIDES)
    graph, spec = fp32_of(model)
    sources = tuple(str(data / name) for name in STREAMS)
    calibration = load_calibration_set(CalibrationOptions(sources, calib_count), spec)
    plan = plan_precision(graph)
    maker = Int8Maker(graph, spec, calibration, QuantizeOptions(), plan, tell)
    plain = maker.make()
    meters: dict[tuple[str, str], Meter] = {}
    outcomes: list[Outcome] = []
    logging.getLogger("nncf").setLevel(logging.WARNING)
    for text in gates or GATES:
        name, _, gate = text.partition(":")
        [(metric, limit)] = parse_gates([gate]).max_drop.items()
        if (name, metric) not in meters:
            folders = [str(data / one) for one in MIXTURES[name]]
            chosen = load_gate_pairs(folders, spec, {metric: limit}, most=pairs)
            meters[name, metric] = Meter(Gate(chosen, graph, spec, {metric: limit}))
        outcomes += measure(maker, plain, meters[name, metric], (name, metric, limit), sides)
        write_figures(json_out, outcomes, meters)
    show(outcomes)
    by_side = {(one.side, one.pairs, one.gate): one for one in outcomes}
    worse = [
        f"{own.pairs}:{own.gate}"
        for own in outcomes
        if own.side == "ours"
        for other in [by_side.get(("nncf", own.pairs, own.gate), own)]
        if not own.held or (other.held and own.reverted > other.reverted)
    ]
    if worse:
        raise GateError(f"NNCF reverts less, or ours misses the gate: {', '.join(worse)}")


def write_figures(
    path: Path | None, outcomes: Sequence[Outcome], meters: dict[tuple[str, str], Meter]
) -> None:
    """Everything so far, so that an interrupted run is not lost."""
    if path is None:
        return
    judged = {name: len(meter.gate.pairs.pairs) for (name, _), meter in meters.items()}
    versions = {"nncf": nncf.__version__, "onnxruntime": version("onnxruntime")}
    content = {"pairs": judged, "rank_pairs": RANK_PAIRS, "versions": versions}
    content |= {"outcomes": [asdict(one) for one in outcomes]}
    write_bytes(path, json.dumps(content, indent=1, allow_nan=False).encode(), "the figures")


def show(outcomes: Sequence[Outcome]) -> None:
    """A table, a line for each side of each gate."""
    table = Table("pairs", "gate", "side", "reverted", "drop", "graphs", "runs", "seconds")
    for one in outcomes:
        drop = f"{one.plain_drop:.4f} to {one.drop:.4f}{'' if one.held else ', missed'}"
        counts = f"{one.reverted} of {one.layers}", drop, str(one.graphs), str(one.runs)
        table.add_row(one.pairs, one.gate, one.side, *counts, f"{one.seconds:.0f}")
    Console().print(table)


if __name__ == "__main__":
    run(main)
