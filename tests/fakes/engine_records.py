"""Records of engines as a build would write them, without building any."""

from __future__ import annotations

from typing import Any

from edge_fusion.bundle import Bundle
from edge_fusion.engine import (
    EngineDevice,
    EngineOptions,
    EngineRecord,
    LayerSummary,
    engine_key,
)
from edge_fusion.files import sha256


def record_of(
    bundle: Bundle,
    file: str,
    plan: bytes,
    device: EngineDevice,
    options: EngineOptions,
    **changes: Any,
) -> EngineRecord:
    """What ``build.json`` says of ``plan``, built from a file of a bundle; keywords change it."""
    model_sha256 = bundle.manifest.files[file].sha256
    fields: dict[str, Any] = {
        "key": engine_key(model_sha256, device, options),
        "model_sha256": model_sha256,
        "device": device,
        "options": options,
        "model_file": file,
        "plan_sha256": sha256(plan),
        "plan_bytes": len(plan),
        "created_utc": "2026-01-01T00:00:00Z",
        "build_seconds": 1.5,
        "golden_mean_abs": 0.001,
        "golden_tolerance": 0.01,
        "summary": LayerSummary(layers={options.precision: 3}),
    }
    return EngineRecord(**{**fields, **changes})
