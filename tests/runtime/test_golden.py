from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_fusion.bundle import Bundle
from edge_fusion.errors import BundleError, SessionError
from edge_fusion.runtime.golden import check_golden, golden_tolerance
from edge_fusion.runtime.inspect import check_facts, inspect_bundle
from edge_fusion.runtime.session import open_session


class Shifted:
    """A session that is off by a constant, as a wrongly built engine would be."""

    def __init__(self, offset: float, size: int = 32) -> None:
        self.offset, self.size = offset, size

    def run(self, inputs: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
        return {"saliency": np.full((1, 1, self.size, self.size), self.offset, np.float32)}

    def close(self) -> None:
        pass


@pytest.mark.parametrize("variant", ["fp32", "int8"])
def test_the_backend_reproduces_the_golden_outputs(tiny_bundle: Bundle, variant: str) -> None:
    with closing(open_session(tiny_bundle, variant)) as session:
        check = check_golden(tiny_bundle, session, variant)
    assert check.passed
    assert check.samples == 2
    assert check.mean_abs < 1e-6


def test_wrong_outputs_and_nan_do_not_pass(tiny_bundle: Bundle) -> None:
    assert not check_golden(tiny_bundle, Shifted(0.9), "int8").passed
    assert not check_golden(tiny_bundle, Shifted(float("nan")), "int8").passed


def test_an_output_of_another_size_is_an_error(tiny_bundle: Bundle) -> None:
    with pytest.raises(SessionError, match=r"expected \(1, 32, 32\), got \(1, 16, 16\)"):
        check_golden(tiny_bundle, Shifted(0.0, size=16), "fp32")


def test_inspection_runs_every_variant_only_when_asked(tiny_bundle: Bundle) -> None:
    assert inspect_bundle(tiny_bundle.path).checks == ()
    inspection = inspect_bundle(tiny_bundle.path, self_check=True)
    assert [check.variant for check in inspection.checks] == ["fp32", "int8"]
    assert inspection.passed
    assert (inspection.backend, inspect_bundle(tiny_bundle.path).backend) == ("ort", None)
    assert inspection.as_dict()["backend"] == "ort"
    facts = check_facts(inspection.checks, inspection.backend)
    assert facts["self-check int8 on ort"].startswith("passed: mean absolute difference")
    assert inspection.as_dict()["self_check"][0]["passed"] is True


def test_an_unknown_backend_or_variant_is_named(tiny_bundle: Bundle) -> None:
    with pytest.raises(SessionError, match="expected auto or ort or trt, got 'tpu'"):
        open_session(tiny_bundle, "fp32", backend="tpu")
    with pytest.raises(BundleError, match="no variant 'int4'"):
        open_session(tiny_bundle, "int4", backend="ort")


def test_fp16_is_held_against_the_outputs_of_fp32(tiny_bundle: Bundle) -> None:
    with closing(open_session(tiny_bundle, "fp32", backend="ort")) as session:
        check = check_golden(tiny_bundle, session, "fp16")
    assert (check.variant, check.passed) == ("fp16", True)
    assert check.tolerance == tiny_bundle.manifest.golden.mean_abs_tolerance["fp16"]
    assert not check_golden(tiny_bundle, Shifted(0.9), "fp16").passed


def test_a_tolerance_comes_from_the_manifest_alone(tiny_bundle: Bundle) -> None:
    def stating(**tolerances: float) -> Bundle:
        golden = tiny_bundle.manifest.golden.model_copy(update={"mean_abs_tolerance": tolerances})
        manifest = tiny_bundle.manifest.model_copy(update={"golden": golden})
        return Bundle(tiny_bundle.path, manifest)

    assert golden_tolerance(stating(fp32=0.001, fp16=0.01), "fp16") == 0.01
    with pytest.raises(BundleError, match="expected one for 'fp16', got fp32; build the bundle"):
        golden_tolerance(stating(fp32=0.001), "fp16")


def test_a_variant_without_golden_outputs_is_named(tiny_bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="no golden outputs for 'int4': expected fp32 or int8"):
        check_golden(tiny_bundle, Shifted(0.9), "int4")
