"""Scales of any choice of pairs by arithmetic: the same that the quantizer finds."""

from __future__ import annotations

import pytest

from benchmarks.calibration_scales import (
    check_against_nncf,
    every_tensor,
    make_template,
    mean_limits,
    measure_extremes,
)
from edge_fusion.errors import GateError
from edge_fusion.export.legalise import legalise
from edge_fusion.export.quantize import quantize


def test_written_scales_are_the_quantizers(tiny, simplified) -> None:
    samples = tiny.samples(6)
    int8 = legalise(quantize(simplified, samples[:3], tiny.SPEC).model).model
    extremes = measure_extremes(simplified, every_tensor(simplified, int8), samples, threads=1)
    template = make_template(int8, extremes, range(3))
    limits = mean_limits(extremes, (1, 4, 5))
    chosen = [samples[index] for index in (1, 4, 5)]
    made = template.with_limits(limits)
    assert check_against_nncf(simplified, chosen, tiny.SPEC, made) < 1e-5
    wrong = template.with_limits({name: 2 * limit for name, limit in limits.items()})
    with pytest.raises(GateError, match="the scale of"):
        check_against_nncf(simplified, chosen, tiny.SPEC, wrong)
