"""Parse and build ONNX files with TensorRT-RTX, on the CPU: run as a program by ``witness.py``.

It needs no other part of edge-fusion, so that any interpreter with TensorRT-RTX can run it.  It
writes one JSON line before each step and one after it, flushed, so that whoever started it knows
where it was when it crashed::

    python witness_child.py RESULTS.jsonl SM86,SM89 first.onnx second.onnx ...
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any, TextIO

try:
    import tensorrt_rtx as trt
except ImportError:
    import tensorrt_rtx_bindings as trt

_SHOWN = 8  # messages kept of each kind


class _Log(trt.ILogger):  # type: ignore[misc]
    """Keeps errors and warnings, so that nothing is printed over the parent's output."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self.errors: list[str] = []
        self.warnings: list[str] = []

    def log(self, severity: Any, message: str) -> None:
        levels = trt.ILogger.Severity
        if severity in (levels.ERROR, levels.INTERNAL_ERROR):
            self.errors.append(message)
        elif severity == levels.WARNING:
            self.warnings.append(message)


def main(arguments: list[str]) -> int:
    """Witness every file for every architecture, appending to the results."""
    results, architectures, *files = arguments
    with Path(results).open("a", encoding="utf-8") as stream:
        _say(stream, event="ready", version=trt.__version__)
        for file in files:
            for architecture in architectures.split(","):
                _say(stream, event="start", file=file, sm=architecture, stage="parse")
                found = _judge(stream, file, architecture)
                _say(stream, event="done", file=file, sm=architecture, **found)
    return 0


def _judge(stream: TextIO, file: str, architecture: str) -> dict[str, Any]:
    """One file for one architecture: what happened, where, why, how long, how large."""
    log = _Log()
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    started = time.monotonic()
    if not parser.parse_from_file(file):
        return _refusal("parse", started, log, *_first_error(parser, log))
    _say(stream, event="start", file=file, sm=architecture, stage="build")
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, architecture), 0)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        return _refusal("build", started, log, "", log.errors[-1] if log.errors else "")
    return {
        "outcome": "ok",
        "stage": "build",
        "node": "",
        "reason": "",
        "seconds": time.monotonic() - started,
        "plan_bytes": int(plan.nbytes),
        "warnings": log.warnings[:_SHOWN],
    }


def _first_error(parser: Any, log: _Log) -> tuple[str, str]:
    """The node the parser stopped at, and why."""
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        return error.node_name() or error.node_operator(), error.desc()
    return "", log.errors[-1] if log.errors else "the parser gave no reason"


def _refusal(stage: str, started: float, log: _Log, node: str, reason: str) -> dict[str, Any]:
    return {
        "outcome": "refused",
        "stage": stage,
        "node": node,
        "reason": " ".join(reason.split()),
        "seconds": time.monotonic() - started,
        "plan_bytes": 0,
        "warnings": log.warnings[:_SHOWN],
    }


def _say(stream: TextIO, **record: Any) -> None:
    stream.write(json.dumps(record) + "\n")
    stream.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
