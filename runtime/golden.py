"""Whether a session gives the outputs that were recorded when the bundle was built."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edge_fusion.bundle import Bundle
from edge_fusion.errors import SessionError

from .session import Session


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
        variant: ``fp32`` or ``int8``.

    Returns:
        The mean absolute difference of saliency over all golden samples, in 0..1.

    Raises:
        SessionError: The session refused an input.
        BundleError: The golden file is damaged or misses this variant.
    """
    golden = bundle.golden()
    spec = bundle.manifest.model
    expected = golden[f"output.{variant}"]
    total = 0.0
    for index in range(len(expected)):
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
        total += float(np.abs(got[0] - expected[index]).mean())
    return GoldenCheck(
        variant,
        len(expected),
        total / len(expected),
        bundle.manifest.golden.mean_abs_tolerance[variant],
    )
