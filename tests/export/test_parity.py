"""Parity: figures that are right, and a verdict that names the pair."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest

from edge_fusion.errors import StepError
from edge_fusion.export.parity import (
    TOLERANCES,
    Tolerance,
    check_parity,
    compare_outputs,
)


def y(*values: float) -> dict[str, np.ndarray]:
    return {"y": np.asarray(values, np.float32)}


FIGURES = [
    # reference, candidate, mean_abs, max_abs, rmse, sqnr_db
    (y(1, 1), y(1, 1), 0, 0, 0, math.inf),
    (y(1, 1), y(1.5, 1), 0.25, 0.5, math.sqrt(0.125), 10 * math.log10(2 / 0.25)),
    (y(3, 4), y(3, 3), 0.5, 1, math.sqrt(0.5), 10 * math.log10(25)),
    (y(0, 0), y(1, 0), 0.5, 1, math.sqrt(0.5), -math.inf),  # no signal at all
    (y(0.0), y(0.0), 0, 0, 0, math.inf),
]


@pytest.mark.parametrize(("reference", "candidate", "mean", "peak", "rmse", "sqnr"), FIGURES)
def test_the_figures_are_right(reference, candidate, mean, peak, rmse, sqnr) -> None:
    found = compare_outputs(reference, candidate)
    assert found.mean_abs == pytest.approx(mean)
    assert found.max_abs == pytest.approx(peak)
    assert found.rmse == pytest.approx(rmse)
    assert found.sqnr_db == pytest.approx(sqnr)


def test_outputs_count_by_their_values() -> None:
    reference = {"a": np.zeros(1, np.float32), "b": np.zeros(3, np.float32)}
    candidate = {"a": np.full(1, 4, np.float32), "b": np.zeros(3, np.float32)}
    assert compare_outputs(reference, candidate).mean_abs == 1


INCOMPARABLE = [
    (y(1, 2), y(1), r"expected {'y': \(2,\)}, got {'y': \(1,\)}"),  # would broadcast
    (y(1), {"z": np.ones(1, np.float32)}, "expected {'y'.*got {'z'"),
    (y(), y(), "cannot be compared"),
    ({}, {}, "cannot be compared"),
    (y(math.nan), y(1), "'y' of the reference holds NaN"),
    (y(1), y(math.inf), "'y' of the candidate holds NaN or infinity"),
]


@pytest.mark.parametrize(("reference", "candidate", "message"), INCOMPARABLE)
def test_what_cannot_be_compared_is_refused(reference, candidate, message) -> None:
    with pytest.raises(StepError, match=message):
        compare_outputs(reference, candidate)
    with pytest.raises(StepError, match="parity of 'fp32-int8', sample 0"):
        check_parity("fp32-int8", lambda _: reference, lambda _: candidate, [{}])


def off_by(error: float, scale: float = 1.0):
    """A pair of runs whose answers differ by ``error`` in one value of four."""
    reference = np.array([0, 0.5, 1, 1], np.float32) * scale
    return (
        lambda _: {"y": reference},
        lambda _: {"y": reference + np.array([error, 0, 0, 0], np.float32)},
    )


VERDICTS = [
    # pair, error in one value of four, passes
    ("torch-onnx", 9e-5, True),
    ("torch-onnx", 1.1e-4, False),
    ("onnx-simplified", 9e-6, True),
    ("onnx-simplified", 1.1e-5, False),
    ("fp32-int8", 0.15, True),  # 0.0375 on average: the maximum is not judged
    ("fp32-int8", 0.17, False),
]


@pytest.mark.parametrize(("name", "error", "passes"), VERDICTS)
def test_every_pair_has_its_tolerance(name, error, passes) -> None:
    if passes:
        report = check_parity(name, *off_by(error), [{}, {}])
        assert (report.name, report.samples, report.tolerance) == (name, 2, TOLERANCES[name])
        return
    with pytest.raises(StepError, match=f"parity of '{name}' is missed over 2 samples"):
        check_parity(name, *off_by(error), [{}, {}])


def test_a_miss_gives_figures_bound_and_worst_sample() -> None:
    errors = iter([0.0, 0.4, 0.2])

    def candidate(_):
        return {"y": np.full(2, 0.5 + next(errors), np.float32)}

    with pytest.raises(StepError) as caught:
        check_parity(
            "mine", lambda _: y(0.5, 0.5), candidate, [{}] * 3, Tolerance(0.1, 0.3, "because")
        )
    message = str(caught.value)
    assert "'mine' is missed over 3 samples: mean_abs 0.2 > 0.1, max_abs 0.4 > 0.3" in message
    assert "SQNR" in message
    assert "worst sample 1" in message
    assert "because" in message


def test_bounds_grow_with_logits() -> None:
    report = check_parity("torch-onnx", *off_by(5e-4, scale=10), [{}])
    assert report.difference.peak == 10
    with pytest.raises(StepError, match="0.0012 > 0.001"):
        check_parity("torch-onnx", *off_by(1.2e-3, scale=10), [{}])


def test_both_runs_get_the_same_sample() -> None:
    seen = []

    def run(sample):
        seen.append(sample["x"])
        return y(sample["x"])

    check_parity("torch-onnx", run, run, ({"x": value} for value in (1, 2)))
    assert seen == [1, 1, 2, 2]


def test_no_sample_is_no_parity() -> None:
    with pytest.raises(StepError, match="'torch-onnx': expected at least one sample, got none"):
        check_parity("torch-onnx", *off_by(0), [])


def test_a_pair_without_tolerance_is_refused() -> None:
    with pytest.raises(StepError, match="'other' has no tolerance.*pass a Tolerance"):
        check_parity("other", *off_by(0), [{}])


@pytest.mark.parametrize("bounds", [(None, None), (-1, None), (math.nan, 1), (None, math.inf)])
def test_a_tolerance_must_be_able_to_fail(bounds) -> None:
    with pytest.raises(StepError, match="finite and not negative"):
        Tolerance(*bounds)


def test_every_tolerance_says_why() -> None:
    assert all(tolerance.reason for tolerance in TOLERANCES.values())


def test_it_knows_no_backend() -> None:
    code = (
        "import sys; import edge_fusion.export.parity; "
        "print(sorted({'torch', 'onnx', 'onnxruntime', 'nncf'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
