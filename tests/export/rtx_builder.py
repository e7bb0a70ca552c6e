"""Drive the building half against the real TensorRT-RTX: a program for ``test_engine_rtx.py``.

It prints one JSON object: what came of each attempt.  TensorRT-RTX builds on the CPU and cannot
read its plans back there, so inspection and self-check are left out.
"""

from __future__ import annotations

import json
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

try:
    import tensorrt_rtx as trt
except ImportError:
    import tensorrt_rtx_bindings as trt

from edge_fusion.engine import EngineDevice, EngineOptions
from edge_fusion.errors import EdgeFusionError
from edge_fusion.export import engine_watch
from edge_fusion.export.engine import run_builder
from edge_fusion.export.engine_config import ConfigRequest, TimingCache, make_config
from edge_fusion.export.engine_network import parse_network
from edge_fusion.runtime.trt_api import MessageLog, TensorRT, _logger

HERE = EngineDevice(name="none", sm="8.6", sm_count=1, tensorrt=trt.__version__)
STRONG = EngineOptions(precision="int8", flavour="strong", optimization_level=2)


def main(models: Path, workspace: Path) -> dict[str, Any]:
    """Everything the building half does, as far as it goes without a GPU."""
    engine_watch.POLL_SECONDS = 0.001  # a build takes a tenth of a second, and is to be stopped
    log = MessageLog()
    api = TensorRT(trt, (11,), trt.__version__, _logger(trt, log), log)
    tiny = {name: (models / f"tiny.{name}.onnx").read_bytes() for name in ("fp32", "int8", "fp16")}
    builds = {name: attempt(lambda m=m: build(api, m, workspace)) for name, m in tiny.items()}
    foreign = tiny["fp32"].replace(b"Sigmoid", b"Sigmoif")
    return {
        "version": trt.__version__,
        **builds,
        "foreign": attempt(lambda: build(api, foreign, workspace)),
        "garbage": attempt(lambda: build(api, b"no onnx at all", workspace)),
        "stopped": attempt(lambda: build(api, tiny["int8"], workspace, stop=True)),
        "said": log.since(0, "ERROR"),
        "high level": attempt(
            lambda: configure(
                api, tiny["fp32"], STRONG.model_copy(update={"optimization_level": 9})
            )
        ),
        "left": sorted(path.name for path in workspace.iterdir()),
    }


def attempt(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return work()
    except EdgeFusionError as err:
        return {"error": str(err)}
    except KeyboardInterrupt:
        return {"stopped": True}


def configure(api: TensorRT, model: bytes, options: EngineOptions) -> dict[str, Any]:
    parsed = parse_network(api, "strong", model, "model.onnx")
    make_config(api, parsed, ConfigRequest(options, 64 << 20))
    return {}


def build(api: TensorRT, model: bytes, folder: Path, *, stop: bool = False) -> dict[str, Any]:
    parsed = parse_network(api, "strong", model, "model.onnx")
    config = make_config(api, parsed, ConfigRequest(STRONG, 64 << 20))
    # Without a GPU a target must be named; TensorRT itself has no such option.
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM86, 0)
    notes: list[str] = []
    cache = TimingCache(api, folder, HERE, notes.append)
    cache.attach(config)
    phases: list[str] = []

    def progress(step: str, done: int, total: int, detail: str = "") -> None:
        phases.append(f"{step} {done}/{total}")
        if stop:
            raise KeyboardInterrupt

    plan = run_builder(api, parsed, config, progress, cache)
    return {
        "plan_bytes": len(plan),
        "macs": dict(parsed.macs),
        "workspace": config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE),
        "level": config.builder_optimization_level,
        "verbosity": config.profiling_verbosity.name,
        "notes": notes,
        "phases": phases,
        "cached": cache.path.stat().st_size,
    }


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # its timing cache does nothing, and says so at every call
    with tempfile.TemporaryDirectory() as made:
        print(json.dumps(main(Path(sys.argv[1]), Path(made))))
