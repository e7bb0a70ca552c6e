"""Does a flavour still answer like the INT8 reference, as far as that can be asked?

A flavour rounds otherwise than its reference: FP16 has 11 bits.  A sure network hides that.  An
unsure one does not: where a value lies on the border between two levels, the smallest change
flips it, and the flips add up to something as large as the error of quantization itself.  So a
flavour passes where it agrees with its reference, or where it is no further from FP32 than its
reference is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edge_fusion.errors import StepError

from .parity import Arrays, Difference, Runner, Tolerance, check_parity

#: Mean absolute difference of saliency: to the reference, or beyond the reference's own to FP32.
FLAVOUR_TOLERANCE = 0.002

_ANY = Tolerance(mean_abs=1e9)


@dataclass(frozen=True, slots=True)
class FlavourParity:
    """How a flavour agrees with its reference, and both with FP32.

    Attributes:
        name: Which flavour.
        samples: How many inputs were run.
        to_reference: Flavour against the graph it was made from.
        to_fp32: Flavour against FP32.
        reference_to_fp32: The graph it was made from, against FP32.
        tolerance: What was allowed.
    """

    name: str
    samples: int
    to_reference: Difference
    to_fp32: Difference
    reference_to_fp32: Difference
    tolerance: float

    @property
    def excess(self) -> float:
        """How much further from FP32 than its reference, mean absolute; negative if closer."""
        return self.to_fp32.mean_abs - self.reference_to_fp32.mean_abs

    @property
    def ok(self) -> bool:
        """Whether it agrees with its reference, or is no further from FP32."""
        return min(self.to_reference.mean_abs, self.excess) <= self.tolerance

    def __str__(self) -> str:
        return (
            f"mean {self.to_reference.mean_abs:.1e} to its reference; to FP32 "
            f"{self.to_fp32.mean_abs:.1e}, its reference {self.reference_to_fp32.mean_abs:.1e}"
        )


def check_flavour(
    name: str,
    flavour: Runner,
    reference: Runner,
    fp32: Runner,
    samples: Sequence[Arrays],
    tolerance: float = FLAVOUR_TOLERANCE,
) -> FlavourParity:
    """Hold a flavour against the graph it was made from, and both against FP32.

    Run a strong flavour through :func:`round_as_half`: as it is, ONNX Runtime's CPU would compute
    it in FP32.

    Args:
        name: Which flavour, for the message.
        flavour: Inputs by name -> outputs by name.
        reference: The same, of the graph the flavour was made from.
        fp32: The same, of the float graph.
        samples: Inputs by name, at least one.
        tolerance: Mean absolute difference that is allowed.

    Raises:
        StepError: It differs from its reference and is further from FP32, or answers NaN.

    Example:
        >>> import numpy as np
        >>> one = lambda inputs: {"y": inputs["x"]}
        >>> off = lambda inputs: {"y": inputs["x"] + np.float32(0.001)}
        >>> inputs = [{"x": np.zeros(2, np.float32)}]
        >>> round(check_flavour("strong", off, one, one, inputs).excess, 6)
        0.001
    """
    pairs = ((reference, flavour), (fp32, flavour), (fp32, reference))
    to_reference, to_fp32, reference_to_fp32 = (
        check_parity(f"{name} flavour", first, second, samples, _ANY).difference
        for first, second in pairs
    )
    parity = FlavourParity(name, len(samples), to_reference, to_fp32, reference_to_fp32, tolerance)
    if not parity.ok:
        raise StepError(
            f"the {name} flavour does not answer like the graph it was made from",
            expected=f"mean difference of {tolerance:g} or less to it, or no more beyond its own "
            "to FP32",
            got=str(parity),
            cure="keep further nodes in FP32: keep_fp32, beginning with the layers near the input",
        )
    return parity
