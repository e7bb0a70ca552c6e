"""The MutualFormer block as published against its folds: work, CPU latency, difference.

Run ``python benchmarks/cross_diffusion.py``.  Latency is ONNX Runtime on one CPU thread; the forms
take turns, so that a machine that slows down slows all of them.  Read the ratios: milliseconds are
this machine's.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import tempfile
import time
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import nn

from edge_fusion.export.cost import count_call
from edge_fusion.export.fold import fold
from edge_fusion.export.models.mutualformer import MutualFormer
from edge_fusion.runtime.ort import OrtSession
from edge_fusion.runtime.timing import LatencySummary

CHANNELS = 64
OPSET = 18
MIN_ROUNDS, MAX_ROUNDS = 3, 200

Arrays = dict[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Row:
    """One form at one number of tokens.

    Attributes:
        tokens: N.
        form: ``published``, ``folded`` or ``composed`` (folded, and one output Linear).
        mmacs: Millions of multiply-accumulates of the whole block.
        latency: Percentiles in milliseconds.
        speedup: Median latency of the published form over this one's.
        max_abs_difference: From the published form, both in ONNX Runtime.
        max_abs_output: The largest value of the published form's output.
    """

    tokens: int
    form: str
    mmacs: float
    latency: LatencySummary
    speedup: float
    max_abs_difference: float
    max_abs_output: float


def measure(tokens: int, seconds: float) -> list[Row]:
    """Compare the forms of one block at ``tokens`` tokens for about ``seconds``."""
    forms = make_forms()
    shapes = {"x": (1, tokens, 2 * CHANNELS), "xrd": (1, tokens, CHANNELS)}
    rng = np.random.default_rng(tokens)
    inputs = {name: rng.normal(size=s).astype(np.float32) for name, s in shapes.items()}
    sessions = {name: OrtSession(to_onnx(m, inputs), threads=1) for name, m in forms.items()}
    outputs = {name: s.run(inputs)["out"] for name, s in sessions.items()}
    timed = interleave(sessions, inputs, seconds)
    for session in sessions.values():
        session.close()
    expected = outputs["published"]
    latency = {name: LatencySummary.from_ns(ns) for name, ns in timed.items()}
    return [
        Row(
            tokens=tokens,
            form=name,
            mmacs=count_call(module, *shapes.values()).macs / 1e6,
            latency=latency[name],
            speedup=latency["published"].p50_ms / latency[name].p50_ms,
            max_abs_difference=float(np.abs(outputs[name] - expected).max()),
            max_abs_output=float(np.abs(expected).max()),
        )
        for name, module in forms.items()
    ]


def make_forms() -> dict[str, nn.Module]:
    """One random block in three forms of the same weights."""
    torch.manual_seed(0)
    published = MutualFormer(CHANNELS, reference=True).eval()
    for parameter in published.parameters():
        nn.init.normal_(parameter, std=0.2)  # attention that is neither uniform nor one-hot
    folded = MutualFormer(CHANNELS).eval()
    folded.load_state_dict(published.state_dict())
    return {"published": published, "folded": folded, "composed": fold(published).module}


def to_onnx(module: nn.Module, inputs: Mapping[str, NDArray[np.float32]]) -> bytes:
    """Export with PyTorch's maintained exporter."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of the exporter's own insides
        path = Path(folder) / "block.onnx"
        torch.onnx.export(
            module,
            tuple(torch.from_numpy(value) for value in inputs.values()),
            path,
            dynamo=True,
            opset_version=OPSET,
            external_data=False,
            input_names=list(inputs),
            output_names=["out"],
            verbose=False,
        )
        return path.read_bytes()


def interleave(
    sessions: Mapping[str, OrtSession], inputs: Arrays, seconds: float
) -> dict[str, list[int]]:
    """Nanoseconds of every run; every round runs each session once.  They are warm already."""
    timed: dict[str, list[int]] = {name: [] for name in sessions}
    end = time.perf_counter() + seconds
    for done in range(MAX_ROUNDS):
        if done >= MIN_ROUNDS and time.perf_counter() > end:
            break
        for name, session in sessions.items():
            start = time.perf_counter_ns()
            session.run(inputs)
            timed[name].append(time.perf_counter_ns() - start)
    return timed


def table(rows: list[Row]) -> str:
    """The rows as aligned text."""
    head = (
        f"{'N':>5} {'form':<10} {'MMACs':>10} {'p50 ms':>10} {'p90 ms':>10} {'runs':>5} "
        f"{'speedup':>8} {'max |diff|':>11} {'max |out|':>10}"
    )
    lines = [
        f"{r.tokens:>5} {r.form:<10} {r.mmacs:>10.1f} {r.latency.p50_ms:>10.2f} "
        f"{r.latency.p90_ms:>10.2f} {r.latency.n:>5} {r.speedup:>7.1f}x "
        f"{r.max_abs_difference:>11.1e} {r.max_abs_output:>10.1f}"
        for r in rows
    ]
    return "\n".join((head, *lines))


def main() -> None:
    """Measure, print a table, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, nargs="+", default=[100, 400, 1600])
    parser.add_argument("--seconds", type=float, default=10.0, help="per number of tokens")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    rows: list[Row] = []
    for tokens in arguments.tokens:
        rows += measure(tokens, arguments.seconds)
    machine = {
        "processor": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__,
        "threads": 1,
        "channels": CHANNELS,
    }
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    print(table(rows))
    if arguments.json:
        record = {"machine": machine, "rows": [asdict(row) for row in rows]}
        arguments.json.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
