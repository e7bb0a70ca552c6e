"""Evidence from the field: one JSON file that says what a bundle did on one machine.

It may be shown to anybody: no host or user names, no serial numbers, and of every path only its
last part.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import edge_fusion
from edge_fusion.bundle import Bundle
from edge_fusion.engine import ENGINE_PRECISIONS, list_engines
from edge_fusion.errors import EdgeFusionError
from edge_fusion.files import write_bytes

from .candidates import Opener
from .compare import CompareOptions, Progress, compare
from .doctor import Diagnosis, examine
from .golden import check_golden
from .latency import Latency, arithmetic_of, measure_latency
from .machine import Machine, machine_state
from .redact import private_here, redact
from .session import open_session
from .source.base import StoredSource
from .source.uri import open_stored
from .surroundings import GPU_DOORS, Doors, Surroundings

SCHEMA_VERSION = 1
#: Pairs for latency and agreement where no set is given.
INVENTED = ("demo://?frames=8&size=640x480",)


@dataclass(frozen=True, slots=True)
class EvidenceOptions:
    """How hard to measure.

    Attributes:
        limit: Pairs taken from each set; None takes all.
        warmup: Untimed runs of each precision before the timed ones.
        repeats: Timed runs of each precision.
    """

    limit: int | None = None
    warmup: int = 5
    repeats: int = 50


DEFAULT_OPTIONS = EvidenceOptions()


def collect_evidence(
    bundle: Bundle,
    data: Sequence[str] = (),
    options: EvidenceOptions = DEFAULT_OPTIONS,
    progress: Progress | None = None,
    *,
    problems: Mapping[str, str] | None = None,
    doors: Doors = GPU_DOORS,
    open_session: Opener = open_session,
) -> dict[str, Any]:
    """Run everything that a bundle can run on this machine and write down what came out.

    Engines are not built here: whoever can build them does so first.  A backend that fails is
    recorded with its reason and does not stop the others.

    Args:
        bundle: The bundle, with the engines that were built on this machine.
        data: Sets of pairs for accuracy and agreement; invented scenes if there is none.
        options: How hard to measure.
        progress: Called with parts done, parts in all and what is happening.
        problems: What failed before, by name, such as a build; recorded as it is.
        doors: How the GPU is reached.
        open_session: Opens one precision on a backend.

    Returns:
        JSON-ready values; ``schema_version`` says how to read them.

    Raises:
        SourceError: A set cannot be opened.
        BundleError: The bundle is gone.

    Example:
        >>> evidence = collect_evidence(Bundle.read("bundle"))  # doctest: +SKIP
        >>> evidence["runs"][0]["self_check"]["passed"]  # doctest: +SKIP
        True
    """
    report = progress or (lambda done, total, what: None)
    sources = [open_stored(uri) for uri in data or INVENTED]
    machine = machine_state()
    engines, damage = _engine_records(bundle)
    diagnosis = examine(bundle.path, doors=doors)
    runnable = _runnable(bundle, diagnosis.seen)
    pairs = [(backend, precision) for backend, some in runnable.items() for precision in some]
    runs = []
    for done, (backend, precision) in enumerate(pairs):
        report(done, len(pairs), f"self-check of {precision} on {backend}")
        runs.append(_self_check(bundle, backend, precision, open_session))
    measured = {}
    for done, (backend, precisions) in enumerate(runnable.items()):
        report(done, len(runnable), f"measuring on {backend}")
        measured[backend] = _or_problem(
            partial(_measure, bundle, backend, precisions, sources, options, open_session)
        )
    report(1, 1, "evidence")
    content = {
        "schema_version": SCHEMA_VERSION,
        "created_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "bundle": _bundle_facts(bundle),
        **_machine_facts(machine, diagnosis),
        "engines": engines,
        "data": [source.uri for source in sources],
        "data_is_invented": not data,
        "runs": runs,
        "measured": measured,
        "problems": {**(problems or {}), **damage},
    }
    plain: dict[str, Any] = redact(content, private_here([bundle.path], _places(data)))
    return plain


def write_evidence(path: Path, evidence: Mapping[str, Any]) -> None:
    """Write evidence as JSON, whole or not at all.

    Raises:
        OutputError: The file could not be written.
    """
    text = json.dumps(evidence, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_bytes(path, text.encode(), "the evidence")


def _engine_records(bundle: Bundle) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """What was built, and what is wrong with it, by name."""
    try:
        return [record.model_dump(mode="json") for record in list_engines(bundle)], {}
    except EdgeFusionError as err:
        return [], {"engines": str(err)}


def _runnable(bundle: Bundle, seen: Surroundings) -> dict[str, tuple[str, ...]]:
    """The precisions that can be opened by backend, the reference first."""
    found: dict[str, tuple[str, ...]] = {}
    if seen.onnxruntime.version is not None:
        found["ort"] = tuple(p for p in ENGINE_PRECISIONS if p in bundle.variants)
    engines = seen.bundle.engines if seen.bundle is not None else {}
    built = tuple(precision for precision, one in engines.items() if one.state == "built")
    if built:
        found["trt"] = built
    return found


def _self_check(bundle: Bundle, backend: str, precision: str, opener: Opener) -> dict[str, Any]:
    def check() -> dict[str, Any]:
        with closing(opener(bundle, precision, backend)) as session:
            found = check_golden(bundle, session, precision)
        mean = found.mean_abs if math.isfinite(found.mean_abs) else None
        return {**asdict(found), "mean_abs": mean, "passed": found.passed}

    return {"backend": backend, "precision": precision, "self_check": _or_problem(check)}


def _measure(
    bundle: Bundle,
    backend: str,
    precisions: tuple[str, ...],
    sources: Sequence[StoredSource],
    options: EvidenceOptions,
    opener: Opener,
) -> dict[str, Any]:
    """Accuracy, agreement and latency; latency alone where there is nothing to compare with."""
    if len(precisions) == 1:
        return {"latency": _latency_alone(bundle, backend, precisions[0], sources, options, opener)}
    wanted = CompareOptions(
        variants=precisions,
        backend=backend,
        limit=options.limit,
        warmup=options.warmup,
        repeats=options.repeats,
        memory=False,
        energy_s=0,
        worst=0,
        typical=0,
    )
    found = compare(bundle, sources, wanted, open_session=opener)
    return {
        "latency": found.latency and _latency_facts(found.latency),
        "reference": found.reference,
        "pooled": found.pooled.as_dict(),
        "sets": [one.as_dict() for one in found.sets],
        "file_bytes": {precision: cost.file_bytes for precision, cost in found.costs.items()},
    }


def _latency_alone(
    bundle: Bundle,
    backend: str,
    precision: str,
    sources: Sequence[StoredSource],
    options: EvidenceOptions,
    opener: Opener,
) -> dict[str, Any]:
    with closing(opener(bundle, precision, backend)) as session:
        sessions = {precision: session}
        found = measure_latency(
            sessions,
            [source[0] for source in sources],
            bundle.manifest.model,
            warmup=options.warmup,
            repeats=options.repeats,
            arithmetic=arithmetic_of(sessions, backend),
        )
    return _latency_facts(found)


def _latency_facts(latency: Latency) -> dict[str, Any]:
    """Everything but the single samples."""
    figures = {name: summary.as_dict() for name, summary in latency.summaries.items()}
    return {**latency.as_dict(), "inference": figures}


def _or_problem(step: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return step()
    except EdgeFusionError as err:
        return {"problem": str(err)}


def _machine_facts(machine: Machine, diagnosis: Diagnosis) -> dict[str, Any]:
    return {
        "doctor": {"facts": diagnosis.facts(), **diagnosis.as_dict()},
        "machine": machine.as_dict(),
        "versions": {
            "edge_fusion": edge_fusion.__version__,
            **machine.versions,
            "tensorrt": diagnosis.seen.tensorrt.version or "absent",
        },
    }


def _bundle_facts(bundle: Bundle) -> dict[str, Any]:
    manifest = bundle.manifest
    return {
        "model": manifest.model.name,
        "parameters": manifest.origin.parameters,
        "macs": manifest.origin.macs,
        "input": [manifest.model.height, manifest.model.width],
        "precision": manifest.precision,
        "target": manifest.target,
        "created_utc": manifest.created_utc,
        "versions": manifest.versions,
        "sha256": {name: entry.sha256 for name, entry in manifest.files.items()},
    }


def _places(data: Iterable[str]) -> list[Path]:
    """The folders of the sets and what they lie in."""
    paths = [Path(uri.partition("://")[2].partition("?")[0] or uri) for uri in data]
    return [place for path in paths for place in (path, path.parent)]
