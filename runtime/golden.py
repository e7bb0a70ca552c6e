"""Outputs recorded when a bundle is built, and whether a session still gives them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_fusion.bundle import Bundle
from edge_fusion.errors import BundleError, FrameError, SessionError
from edge_fusion.preprocess import activate
from edge_fusion.spec import ModelSpec

from .session import Session

Plane = NDArray[np.float32]

# FP16 is a way to compute the FP32 model: it has no outputs of its own to be held against.
_REFERENCES = {"fp16": "fp32"}


@dataclass(frozen=True, slots=True)
class GoldenCheck:
    """The outcome of a self-check: mean absolute difference against its tolerance."""

    variant: str
    samples: int
    mean_abs: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the outputs are close enough; NaN never is."""
        return self.mean_abs <= self.tolerance


def check_golden(bundle: Bundle, session: Session, variant: str) -> GoldenCheck:
    """Run the golden inputs through a session and compare with the recorded outputs.

    Args:
        bundle: The bundle the session was opened from.
        session: An open session of that variant, on any backend.
        variant: ``fp32``, ``int8``, or ``fp16``, which is held against the outputs of FP32.

    Returns:
        The mean absolute difference of saliency over all golden samples, in 0..1.

    Raises:
        SessionError: The session refused an input.
        BundleError: The golden file is damaged, or the bundle has no such variant.
    """
    tolerance = golden_tolerance(bundle, variant)
    golden = bundle.golden()
    spec = bundle.manifest.model
    expected = golden[f"output.{_REFERENCES.get(variant, variant)}"]
    differences = []
    for index, wanted in enumerate(expected):
        feed = {
            tensor.name: golden[f"input.{tensor.name}"][index : index + 1] for tensor in spec.inputs
        }
        got = session.run(feed)[spec.output.name]
        if got.shape[1:] != expected.shape[1:]:
            raise SessionError(
                f"output of variant '{variant}'",
                expected=str(expected.shape[1:]),
                got=str(got.shape[1:]),
            )
        differences.append(_distance(got[0], wanted, spec))
    return GoldenCheck(
        variant,
        len(expected),
        float(np.mean(differences)),
        tolerance,
    )


def golden_tolerance(bundle: Bundle, variant: str) -> float:
    """Largest mean absolute difference of saliency that a variant may have, 0..1.

    Raises:
        BundleError: The bundle has no such variant, or states no tolerance for it.
    """
    tolerances = bundle.manifest.golden.mean_abs_tolerance
    reference = _REFERENCES.get(variant, variant)
    if reference not in bundle.variants:
        raise BundleError(
            f"bundle {bundle.path} has no golden outputs for '{variant}'",
            expected=" or ".join(bundle.variants),
            cure="name one of these, or build the bundle again with that --precision",
        )
    if variant not in tolerances:
        raise BundleError(
            f"the manifest of bundle {bundle.path} states no golden tolerance",
            expected=f"one for '{variant}'",
            got=", ".join(tolerances) or "none",
            cure="build the bundle again on the workstation",
        )
    return tolerances[variant]


def _distance(got: Plane, wanted: Plane, spec: ModelSpec) -> float:
    """Mean absolute difference of saliency; infinite where the output is none at all."""
    try:
        return float(np.abs(activate(got, spec) - activate(wanted, spec)).mean())
    except FrameError:
        return math.inf
