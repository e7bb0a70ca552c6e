"""What a bundle holds and, on request, whether this machine reproduces its golden outputs."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edge_fusion.bundle import Bundle
from edge_fusion.engine import ENGINE_PRECISIONS, list_engines
from edge_fusion.errors import EngineMissingError
from edge_fusion.manifest import CalibrationRecord

from .golden import GoldenCheck, check_golden
from .session import choose_backend, open_session


@dataclass(frozen=True, slots=True)
class Inspection:
    """A bundle whose hashes are right, and its self-checks if they were asked for.

    Attributes:
        bundle: The bundle.
        checks: The outcome for every variant that was run.
        backend: Where they ran, never ``auto``; None if nothing was run.
    """

    bundle: Bundle
    checks: tuple[GoldenCheck, ...] = ()
    backend: str | None = None

    @property
    def passed(self) -> bool:
        """Whether every self-check that was run passed."""
        return all(check.passed for check in self.checks)

    def as_dict(self) -> dict[str, Any]:
        """The manifest and the self-checks as JSON-ready values."""
        return {
            "path": str(self.bundle.path),
            "manifest": self.bundle.manifest.model_dump(mode="json"),
            "backend": self.backend,
            "self_check": [{**asdict(check), "passed": check.passed} for check in self.checks],
        }


def inspect_bundle(path: Path, *, self_check: bool = False, backend: str = "auto") -> Inspection:
    """Read a bundle, check every hash and, if asked, run its golden inputs.

    Args:
        path: A bundle's folder or ``.tar``.
        self_check: Run on this machine every variant, or on TensorRT every precision that an
            engine was built of.
        backend: As for :func:`~edge_fusion.runtime.session.open_session`.

    Raises:
        BundleError: The bundle is missing or damaged.
        EngineError: On TensorRT, there is no engine, or one does not belong to this device.
        SessionError: The backend refused a variant.
    """
    bundle = Bundle.read(path)
    if not self_check:
        return Inspection(bundle)
    backend = choose_backend(bundle, "fp32", backend)
    checks = []
    for variant in _engines(bundle) if backend == "trt" else bundle.variants:
        with closing(open_session(bundle, variant, backend)) as session:
            checks.append(check_golden(bundle, session, variant))
    return Inspection(bundle, tuple(checks), backend)


def _engines(bundle: Bundle) -> list[str]:
    """The precisions that engines were built of, on whatever device, the reference first."""
    there = {record.options.precision for record in list_engines(bundle)}
    if not there:
        raise EngineMissingError(
            f"{bundle.path} has no engine to check",
            cure=f"run: edge-fusion build {bundle.path}, or check its files: --backend ort",
        )
    return [precision for precision in ENGINE_PRECISIONS if precision in there]


def bundle_facts(bundle: Bundle) -> dict[str, str]:
    """What a person wants to know about a bundle first, by name."""
    manifest = bundle.manifest
    origin, spec = manifest.origin, manifest.model
    sizes = {
        variant: manifest.files[name].size_bytes / 1e6
        for variant, name in manifest.variants.items()
    }
    facts = {
        "bundle": str(bundle.path),
        "model": f"{origin.model}, weights {origin.weights}",
        "inputs": ", ".join(f"{t.name} {t.shape}" for t in spec.inputs),
        "depth": f"{spec.depth.normalisation}, larger is {spec.depth.larger_is}, "
        f"holes {spec.depth.holes}",
        "target": f"{manifest.target}, opset {manifest.opset}",
        "files": ", ".join(f"{variant} {size:.2f} MB" for variant, size in sizes.items()),
    }
    if origin.parameters is not None and origin.macs is not None:
        facts["cost"] = f"{origin.parameters / 1e6:.2f} M parameters, {origin.macs / 1e9:.3f} GMACs"
    if origin.checkpoint_report:
        allowed = " (partial load allowed)" if origin.partial else ""
        facts["checkpoint"] = f"{origin.checkpoint_report}{allowed}"
    if manifest.calibration is not None:
        chosen = manifest.calibration
        facts["calibrated"] = (
            f"on {len(chosen.items)} of {chosen.available} pairs, {_chosen(chosen)}, "
            f"from {', '.join(chosen.sources)}"
        )
    for record in manifest.parity:
        facts[record.name] = (
            f"mean {record.mean_abs:.1e}, max {record.max_abs:.1e} ({record.tolerance})"
        )
    for number, remark in enumerate(manifest.lint, start=1):
        facts[f"remark {number}"] = remark
    facts["created"] = manifest.created_utc
    return facts


def _chosen(record: CalibrationRecord) -> str:
    if record.choice == "random":
        return f"seed {record.seed}"
    return {"all": "all of a set", "mixed": "of several sets"}.get(
        record.choice, f"chosen by {record.choice}"
    )


def check_facts(checks: tuple[GoldenCheck, ...], backend: str | None = None) -> dict[str, str]:
    """The outcome of the self-checks, by variant, with the backend they ran on."""
    where = f" on {backend}" if backend else ""
    return {
        f"self-check {check.variant}{where}": f"{'passed' if check.passed else 'FAILED'}: mean "
        f"absolute difference {check.mean_abs:.1e} over {check.samples} pairs, at most "
        f"{check.tolerance:g}"
        for check in checks
    }
