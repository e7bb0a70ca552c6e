"""Field evidence in one go: build every engine that this device can, run all, write one file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edge_fusion.bundle import Bundle
from edge_fusion.engine import ENGINE_PRECISIONS
from edge_fusion.errors import EdgeFusionError, InputError
from edge_fusion.runtime.compare import Progress
from edge_fusion.runtime.evidence import collect_evidence, write_evidence
from edge_fusion.runtime.session import missing_for_engines

from .engine import EngineBuild, build_engine


def write_field_evidence(
    bundle: Path | None, output: Path, data: Sequence[str], progress: Progress
) -> dict[str, Any]:
    """Build the engines of a bundle on this device, run everything and write what came out.

    Without a GPU or TensorRT nothing is built, and the evidence is ONNX Runtime's alone.  A build
    that fails is written down and stops nothing.

    Args:
        bundle: The bundle.
        output: The JSON file.
        data: Sets of pairs for accuracy and agreement; invented scenes if there is none.
        progress: Told what is happening.

    Returns:
        What was written.

    Raises:
        InputError: There is no bundle to run.
        OutputError: The file cannot be written.
    """
    if bundle is None:
        raise InputError("--evidence needs a bundle to run", cure="doctor --evidence FILE BUNDLE")
    opened = Bundle.read(bundle)
    problems = _build_all(opened, progress)
    evidence = collect_evidence(opened, data, progress=progress, problems=problems)
    write_evidence(output, evidence)
    return evidence


def _build_all(bundle: Bundle, progress: Progress) -> dict[str, str]:
    """Build what can be built; what failed, by name."""
    try:
        absent = missing_for_engines()
    except EdgeFusionError as err:
        absent = str(err)
    if absent:
        return {"build": absent}
    problems = {}
    wanted = [p for p in ENGINE_PRECISIONS if _has_graph(bundle, p)]
    for done, precision in enumerate(wanted):
        progress(done, len(wanted), f"building {precision}")
        try:
            build_engine(bundle, EngineBuild(precision))
        except EdgeFusionError as err:
            problems[f"build {precision}"] = str(err)
    return problems


def _has_graph(bundle: Bundle, precision: str) -> bool:
    return any(name.endswith(f".{precision}") for name in bundle.manifest.flavours)
