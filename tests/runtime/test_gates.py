"""Gates on speed; those on metrics are in test_compare.py."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edge_fusion.errors import GateError, InputError
from edge_fusion.runtime.compare import CompareOptions, compare
from edge_fusion.runtime.gates import check_gates, check_judgeable, parse_gates
from edge_fusion.runtime.latency import BLOCK, Arithmetic, Latency, Speedup

CORES = Arithmetic("TensorRT INT8 tensor cores", integer=True)
LITERAL = Arithmetic("Q/DQ run literally in float", integer=False)
SPEEDUPS = {"fp16": Speedup(1.8, 1.7, 1.9), "int8": Speedup(1.3, 1.1, 1.5)}


@pytest.fixture
def make(make_bundle, make_source, opener):
    def made(arithmetic=CORES, speedups=None, variants=("fp32", "fp16", "int8"), **source):
        options = CompareOptions(variants, "fake", repeats=0, memory=False, arithmetic=arithmetic)
        models = dict.fromkeys(("fp32", "fp16", "int8"), b"m")
        found = compare(
            make_bundle(models), [make_source(2, **source)], options,
            open_session=opener(fp16=1.0),
        )  # fmt: skip
        speedups = SPEEDUPS if speedups is None else speedups
        samples = dict.fromkeys(found.variants, tuple(np.ones(2 * BLOCK)))
        return replace(found, latency=Latency(arithmetic, samples, speedups, 5, 4, 1.0, 1.0))

    return made


def gates(*texts, **options):
    return parse_gates(min_speedup=texts, labels=("fp32", "fp16", "int8"), **options)


def test_the_lower_end_of_the_interval_decides(make):
    check_gates(make(), gates("1.1"))
    with pytest.raises(GateError) as caught:
        check_gates(make(), gates("1.2"))  # the ratio itself is 1.3
    assert caught.value.exit_code == 1
    assert str(caught.value) == (
        "gate --min-speedup 1.2 is missed by int8: expected 1.2 or more at the lower end of the "
        "95 % interval, got 1.30 times as fast, 1.10 to 1.50"
    )


def test_a_gate_may_name_one_variant(make):
    check_gates(make(), gates("fp16=1.6"))
    with pytest.raises(GateError, match=r"--min-speedup 1.6 is missed by int8"):
        check_gates(make(), gates("fp16=1.5", "int8=1.6"))


def test_int8_without_8_bit_arithmetic_is_not_judged(make):
    """Neither passed nor failed in silence, whatever the figure."""
    for limit in ("0.5", "1.2"):
        with pytest.raises(InputError, match=r"cannot be judged for int8.*literally") as caught:
            check_gates(make(LITERAL), gates(f"int8={limit}"))
        assert caught.value.exit_code == 2
        assert "--speed-as-it-ran" in caught.value.cure


def test_a_reference_without_8_bit_arithmetic_is_not_judged_by_either(make):
    found = make(LITERAL, {"fp32": Speedup(2, 1.9, 2.1)}, variants=("int8", "fp32"))
    with pytest.raises(InputError, match="cannot be judged for fp32: int8 is INT8 and ran without"):
        check_gates(found, parse_gates(min_speedup=["1.1"], labels=("int8", "fp32")))


def test_it_is_judged_where_that_is_asked_for(make):
    check_gates(make(LITERAL), gates("int8=1.05", speed_as_it_ran=True))
    with pytest.raises(GateError, match="missed by int8"):
        check_gates(make(LITERAL), gates("int8=1.2", speed_as_it_ran=True))


def test_floats_are_judged_anywhere(make):
    check_gates(make(LITERAL), gates("fp16=1.6"))
    with pytest.raises(GateError, match="missed by fp16"):
        check_gates(make(LITERAL), gates("fp16=1.75"))


def test_a_missed_gate_is_named_before_one_that_cannot_be_judged(make):
    found = parse_gates(["difference=0"], ["iou=1"], ["int8=1.1"], labels=("fp32", "fp16", "int8"))
    with pytest.raises(GateError, match=r"--require iou=1 .*also .*cannot be judged for int8"):
        check_gates(make(LITERAL), found)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"latency": None}, "latency was left out"),
        ({"speedups": {"fp16": Speedup(2, None, None)}}, "too few rounds for an interval"),
    ],
)
def test_what_was_not_measured_is_not_judged(make, change, why):
    found = make(speedups=change.get("speedups"))
    found = replace(found, latency=None) if "latency" in change else found
    with pytest.raises(InputError, match=f"cannot be judged for fp16: {why}"):
        check_gates(found, gates("fp16=1.1"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fast", "VALUE or LABEL=VALUE"),
        ("0", "value above 0"),
        ("-1", "value above 0"),
        ("nan", "value above 0"),
        ("int8=", "for example --min-speedup 1.15"),
        ("fp32=1.2", "expected fp16 or int8, got 'fp32'"),  # the reference against itself
        ("int9=1.2", "expected fp16 or int8, got 'int9'"),
    ],
)
def test_bad_syntax_is_refused(text, message):
    with pytest.raises(InputError, match=message):
        gates(text)


def test_a_gate_given_twice_is_refused():
    with pytest.raises(InputError, match="--min-speedup 1.2 is given twice"):
        gates("1.1", "1.2")


def test_masks_without_an_object_judge_no_metric(make):
    found = make()
    blind = replace(found.pooled, scores={}, changes={}, empty_masks=2)
    with pytest.raises(InputError, match="no pair has a mask with an object"):
        check_gates(replace(found, pooled=blind), parse_gates(["mae=0.1"]))


@pytest.mark.parametrize("repeats", [0, 25])
def test_a_gate_on_speed_that_so_few_runs_cannot_judge_is_refused_before_the_measuring(repeats):
    gates = parse_gates(min_speedup=["1.2"])
    with pytest.raises(InputError, match=r"--min-speedup 1.2 .*26 timed runs.*--repeats 30"):
        check_judgeable(gates, repeats)
    check_judgeable(gates, 26)
    check_judgeable(parse_gates(["mae=0.1"]), repeats)
