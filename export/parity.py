"""Does the next form of a model still answer like the last one?  Knows no backend."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edge_fusion.errors import StepError

Arrays = Mapping[str, NDArray[np.float32]]
Runner = Callable[[Arrays], Mapping[str, NDArray[np.float32]]]


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far two answers may differ; None is not judged.

    Both bounds are for outputs within -1..1; where the reference reaches further, such as logits,
    they grow in proportion to its largest magnitude.

    Attributes:
        mean_abs: Largest mean of ``|candidate - reference|``.
        max_abs: Largest single ``|candidate - reference|``.
        reason: Why these bounds.
    """

    mean_abs: float | None = None
    max_abs: float | None = None
    reason: str = ""

    def __post_init__(self) -> None:
        bounds = [bound for bound in (self.mean_abs, self.max_abs) if bound is not None]
        if not bounds or not all(0 <= bound < math.inf for bound in bounds):
            raise StepError(
                "tolerance",
                expected="mean_abs or max_abs, finite and not negative",
                got=f"mean_abs={self.mean_abs}, max_abs={self.max_abs}",
            )


TOLERANCES: dict[str, Tolerance] = {
    "torch-onnx": Tolerance(
        max_abs=1e-4,
        reason="float32 rounding in another order; 4e-6 was measured on a trained network",
    ),
    "onnx-simplified": Tolerance(
        max_abs=1e-5, reason="the same arithmetic with constants folded; 3e-8 was measured"
    ),
    "fp32-int8": Tolerance(
        mean_abs=0.04,
        reason="0.0005 to 0.02 was measured on sound graphs, the more the less sure the network is "
        "of its frames, and 0.07 to 0.09 on broken ones; the maximum is about 0.5 at mask edges "
        "even where nothing is wrong, so it is not judged",
    ),
}


@dataclass(frozen=True, slots=True)
class Difference:
    """How two sets of outputs differ.

    Attributes:
        mean_abs: Mean of ``|candidate - reference|``.
        max_abs: Maximum of the same.
        rmse: Root of the mean squared difference.
        sqnr_db: Power of the reference over power of the difference, in decibels; infinite where
            they are equal.
        peak: Largest magnitude of the reference.
    """

    mean_abs: float
    max_abs: float
    rmse: float
    sqnr_db: float
    peak: float


@dataclass(frozen=True, slots=True)
class ParityReport:
    """A pair that was compared and is within its tolerance.

    Attributes:
        name: Which pair, such as ``fp32-int8``.
        samples: How many inputs both were run on.
        difference: Over all samples together.
        worst_sample: The sample with the largest mean difference, counting from 0.
        tolerance: What was allowed.
    """

    name: str
    samples: int
    difference: Difference
    worst_sample: int
    tolerance: Tolerance


@dataclass(slots=True)
class _Sums:
    """Figures that add up over samples, so that no output has to be kept."""

    count: int = 0
    absolute: float = 0.0
    squared: float = 0.0
    power: float = 0.0
    max_abs: float = 0.0
    peak: float = 0.0
    means: list[float] = field(default_factory=list)

    def add(self, reference: Arrays, candidate: Arrays) -> None:
        before, count = self.absolute, self.count
        for name, expected in reference.items():
            wide = expected.astype(np.float64)
            error = np.abs(candidate[name].astype(np.float64) - wide)
            self.count += wide.size
            self.absolute += float(error.sum())
            self.squared += float(np.square(error).sum())
            self.power += float(np.square(wide).sum())
            self.max_abs = max(self.max_abs, float(error.max(initial=0)))
            self.peak = max(self.peak, float(np.abs(wide).max(initial=0)))
        self.means.append((self.absolute - before) / max(self.count - count, 1))

    def difference(self) -> Difference:
        ratio = self.power / self.squared if self.squared else math.inf
        return Difference(
            mean_abs=self.absolute / self.count,
            max_abs=self.max_abs,
            rmse=math.sqrt(self.squared / self.count),
            sqnr_db=10 * math.log10(ratio) if ratio > 0 else -math.inf,
            peak=self.peak,
        )


def compare_outputs(reference: Arrays, candidate: Arrays) -> Difference:
    """How a candidate's outputs differ from the reference's.

    Args:
        reference: Outputs by name.
        candidate: The same names and shapes.

    Raises:
        StepError: Names or shapes differ, nothing to compare, or a value is NaN or infinite.

    Example:
        >>> one = {"y": np.ones(4, np.float32)}
        >>> compare_outputs(one, {"y": np.full(4, 1.5, np.float32)}).mean_abs
        0.5
    """
    _check_comparable(reference, candidate)
    sums = _Sums()
    sums.add(reference, candidate)
    return sums.difference()


def check_parity(
    name: str,
    reference_run: Runner,
    candidate_run: Runner,
    samples: Iterable[Arrays],
    tolerance: Tolerance | None = None,
) -> ParityReport:
    """Run two forms of a model on the same inputs and insist that they agree.

    Args:
        name: Which pair, for the message; the keys of ``TOLERANCES`` bring their own tolerance.
        reference_run: Inputs by name -> outputs by name; ``session.run`` fits.
        candidate_run: The same, of the form under test.
        samples: Inputs by name, at least one.
        tolerance: What is allowed; None takes the entry of ``TOLERANCES``.

    Returns:
        The figures, which are within the tolerance.

    Raises:
        StepError: The pair differs by more than the tolerance, or cannot be compared.

    Example:
        >>> inputs = [{"x": np.ones(2, np.float32)}]
        >>> double = lambda inputs: {"y": 2 * inputs["x"]}
        >>> check_parity("onnx-simplified", double, double, inputs).difference.max_abs
        0.0
    """
    allowed = tolerance or TOLERANCES.get(name)
    if allowed is None:
        raise StepError(
            f"parity of '{name}' has no tolerance of its own",
            expected=" or ".join(TOLERANCES),
            cure="pass a Tolerance",
        )
    sums = _Sums()
    for index, sample in enumerate(samples):
        reference, candidate = reference_run(sample), candidate_run(sample)
        try:
            _check_comparable(reference, candidate)
        except StepError as err:
            raise StepError(f"parity of '{name}', sample {index}: {err}") from err
        sums.add(reference, candidate)
    if not sums.count:
        raise StepError(f"parity of '{name}'", expected="at least one sample", got="none")
    report = ParityReport(
        name, len(sums.means), sums.difference(), int(np.argmax(sums.means)), allowed
    )
    _judge(report)
    return report


def _check_comparable(reference: Arrays, candidate: Arrays) -> None:
    shapes = [{key: value.shape for key, value in side.items()} for side in (reference, candidate)]
    if shapes[0] != shapes[1] or not sum(value.size for value in reference.values()):
        raise StepError("outputs cannot be compared", expected=str(shapes[0]), got=str(shapes[1]))
    for side, values in (("reference", reference), ("candidate", candidate)):
        for key, value in values.items():
            if not np.isfinite(value).all():
                raise StepError(f"output '{key}' of the {side} holds NaN or infinity")


def _judge(report: ParityReport) -> None:
    difference, allowed = report.difference, report.tolerance
    scale = max(1.0, difference.peak)
    missed = [
        f"{label} {found:.3g} > {bound * scale:.3g}"
        for label, found, bound in (
            ("mean_abs", difference.mean_abs, allowed.mean_abs),
            ("max_abs", difference.max_abs, allowed.max_abs),
        )
        if bound is not None and found > bound * scale
    ]
    if missed:
        raise StepError(
            f"parity of '{report.name}' is missed over {report.samples} samples: "
            + ", ".join(missed),
            got=f"mean_abs {difference.mean_abs:.3g}, max_abs {difference.max_abs:.3g}, "
            f"rmse {difference.rmse:.3g}, SQNR {difference.sqnr_db:.1f} dB, "
            f"worst sample {report.worst_sample}",
            cure=f"these bounds: {allowed.reason}" if allowed.reason else "",
        )
