"""The witness: verdicts of a child process, and a corpus that holds lint and witness together."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edge_fusion.errors import MissingDependencyError, StepError
from edge_fusion.export import pipeline
from edge_fusion.export import witness as module
from edge_fusion.export.check import check_path
from edge_fusion.export.flavour import make_strong, make_weak, record_ranges
from edge_fusion.export.legalise import legalise
from edge_fusion.export.lint import RULES, LintReport, lint
from edge_fusion.export.models.registry import MODELS
from edge_fusion.export.options import BuildOptions
from edge_fusion.export.quantize import quantize
from edge_fusion.export.witness import (
    LINT_KNOWS_BETTER,
    Verdict,
    WitnessReport,
    compare_with_lint,
    witness,
    witness_all,
    witness_python,
)
from edge_fusion.target import parse_target
from tests.export.lint import (
    test_lint_graph,
    test_lint_operators,
    test_lint_qdq,
    test_lint_speed,
)
from tests.export.lint.conftest import Graph

pytestmark = pytest.mark.export

needs_rtx = pytest.mark.skipif(
    witness_python() is None,
    reason=f"TensorRT-RTX is absent; name an interpreter that has it in {module.PYTHON_VARIABLE}",
)
#: The lint's board of the newest TensorRT for Orin: what the witness's parser is nearest to.
TARGET = parse_target("agx-orin-64gb@7.2")


# --- without TensorRT-RTX: a child that behaves as told ----------------------------------------

CHILD = """
import json, os, signal, sys, time
results, sm, *files = sys.argv[1:]
def say(**record):
    with open(results, "a") as stream: stream.write(json.dumps(record) + "\\n")
say(event="ready", version="0.0")
for file in files:
    text = open(file, "rb").read()
    say(event="start", file=file, sm=sm, stage="parse")
    if b"n_crash" in text: os.kill(os.getpid(), signal.SIGSEGV)
    if b"n_sleep" in text: time.sleep(60)
    say(event="start", file=file, sm=sm, stage="build")
    if b"n_exit" in text: sys.exit("out of luck")
    refused = b"n_refuse" in text
    say(event="done", file=file, sm=sm, outcome="refused" if refused else "ok", stage="build",
        node="", reason="cannot build layer 'n_refuse' here" if refused else "", seconds=0.1,
        plan_bytes=0 if refused else 7, warnings=[])
"""


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "child.py"
    path.write_text(CHILD)
    monkeypatch.setattr(module, "_CHILD", path)
    return path


def named(name: str) -> onnx.ModelProto:
    g = Graph()
    return g.out(g.op("Relu", g.input(), name=name)).model()


def test_a_crash_is_a_verdict_and_the_next_graph_is_judged(child: Path) -> None:
    models = {name: named(f"n_{name}") for name in ("one", "crash", "refuse", "exit", "two")}
    reports = witness_all(models, ("8.6", "8.9"), python=_this_python())
    assert [report.verdicts[0].outcome for report in reports.values()] == [
        "ok",
        "crashed",
        "refused",
        "crashed",
        "ok",
    ]
    crash = reports["crash"].verdicts[1]
    assert (crash.sm, crash.stage, crash.reason) == ("8.9", "parse", "SIGSEGV")
    assert str(crash) == "SM 8.9: crashed in parse: SIGSEGV"
    assert reports["refuse"].verdicts[0].node == "n_refuse"
    assert reports["exit"].verdicts[0].reason == "exit status 1: out of luck"
    assert reports["one"].as_dict()["tensorrt_rtx"] == "0.0"
    assert not reports["crash"].ok


def test_a_child_that_hangs_is_ended(child: Path) -> None:
    reports = witness_all(
        {"sleep": named("n_sleep"), "one": named("n_one")},
        ("8.6",),
        timeout_s=1.0,
        python=_this_python(),
    )
    hung = reports["sleep"].verdicts[0]
    assert (hung.outcome, hung.reason) == ("timed out", "more than 1 s")
    assert reports["one"].ok


def test_a_child_that_does_not_start_is_an_error(child: Path) -> None:
    child.write_text("raise SystemExit('no luck')")
    with pytest.raises(StepError, match="did not start: got exit status 1: no luck; try"):
        witness(named("n_one"), python=_this_python())


def test_unknown_architectures_are_refused() -> None:
    with pytest.raises(
        StepError, match="expected 7.5 or 8.0.*got 8.7; 8.6 and 8.9 are the nearest"
    ):
        witness(named("n_one"), ("8.7",))


def test_a_missing_witness_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(module.PYTHON_VARIABLE, "/nowhere/python")
    assert witness_python() is None
    with pytest.raises(MissingDependencyError, match="TensorRT-RTX.*EDGE_FUSION_RTX_PYTHON"):
        witness(named("n_one"))


def _this_python() -> str:
    import sys

    return sys.executable


# --- comparing --------------------------------------------------------------------------------


def _report(outcome: Any, reason: str = "") -> WitnessReport:
    return WitnessReport("0", (Verdict("8.6", outcome, "build", reason=reason),))


def _lint(*rules: str) -> LintReport:
    report = lint(named("n_one"), TARGET)
    assert report.ok
    from edge_fusion.export.lint import Finding

    found = tuple(Finding(rule, "error", "n_one", "found", "cure") for rule in rules)
    return LintReport(report.target, report.tensorrt, found)


# witness's outcome and reason, lint's errors, whether they part, whether that is known
COMPARED = [
    ("ok", "", (), False, False),
    ("refused", "anything", ("QDQ002",), False, False),
    ("crashed", "SIGSEGV", ("QDQ006",), False, False),
    ("ok", "", ("QDQ001",), True, True),
    ("ok", "", ("QDQ002",), True, False),
    # one error that the witness should have seen is enough
    ("ok", "", ("QDQ001", "QDQ002"), True, False),
    ("ok", "", ("QDQ013",), True, True),
    ("refused", "anything", (), True, False),
    ("refused", "it contains HW-specific datatypes: fp8_e4m3", (), True, True),
]


@pytest.mark.parametrize(("outcome", "reason", "rules", "parted", "known"), COMPARED)
def test_disagreements_are_found_and_explained(outcome, reason, rules, parted, known) -> None:
    found = compare_with_lint(_report(outcome, reason), _lint(*rules))
    assert bool(found) == parted
    if found:
        assert bool(found[0].known) == known
        assert ("(known: " in str(found[0])) == known


def test_the_table_of_exceptions_names_error_rules() -> None:
    errors = {rule.id for rule in RULES if rule.severity == "error"}
    assert set(LINT_KNOWS_BETTER) <= errors
    timeless = {rule.id for rule in RULES if not rule.versions.before}
    assert set(LINT_KNOWS_BETTER) <= timeless  # the others are explained by their versions


# --- the corpus -------------------------------------------------------------------------------


def mha(G: Any, first: bool, second: bool, weights: bool = True) -> Any:
    """Attention of four heads over 196 tokens, with either product in INT8."""
    g = G()
    x = g.input(shape=(1, 196, 64))
    read = g.qdq(x) if weights else x

    def projected() -> str:
        w = g.weight_dq(64, 64, axis=1) if weights else g.weight(64, 64)
        y = g.op("Reshape", g.op("MatMul", read, w), g.const([1, 196, 4, 16], dtype=np.int64))
        return g.op("Transpose", y, perm=[0, 2, 1, 3])

    q, k, v = projected(), g.op("Transpose", projected(), perm=[0, 1, 3, 2]), projected()
    q, k = (g.qdq(q), g.qdq(k)) if first else (q, k)
    a = g.op("Softmax", g.op("MatMul", q, k), axis=-1)
    a, v = (g.qdq(a, 1 / 127), g.qdq(v)) if second else (a, v)
    return g.out(g.op("MatMul", a, v))


def gelu(G: Any) -> Any:
    g = G()
    x = g.input()
    e = g.op("Add", g.op("Erf", g.op("Div", x, g.const(2**0.5))), g.const(1))
    return g.out(g.op("Mul", g.op("Mul", x, e), g.const(0.5)))


def half(G: Any, quantized: bool) -> Any:
    g = G(19)
    x = g.input(kind=10)
    x = g.qdq(x, np.float16(0.05)) if quantized else x
    w = g.weight_dq(32, 32, 3, 3, half=True)
    return g.out(g.op("Conv", x, w), 10)


def mixed_types(G: Any) -> Any:
    """What strong typing forbids: FP16 and FP32 meet in one node."""
    g = G(19)
    return g.out(g.op("Add", g.input(kind=10), g.const(1.0)), 10)


def moving_scale(G: Any) -> Any:
    """A scale that is an input of the graph, in front of a convolution: it ends the parser."""
    g = G()
    x, scale, zero = g.input(), g.input("scale", ()), g.const(0, dtype=np.int8)
    levels = g.op("QuantizeLinear", x, scale, zero)
    y = g.op("DequantizeLinear", levels, scale, zero)
    return g.out(g.op("Conv", y, g.weight_dq(32, 32, 3, 3)))


def sampled(G: Any) -> Any:
    g = G()
    return g.out(g.op("GridSample", g.input(), g.input("grid", (1, 8, 8, 2))))


FURTHER: dict[str, Callable[[Any], Any]] = {
    "mha fp32": lambda G: mha(G, False, False, False),
    "mha weights": lambda G: mha(G, False, False),
    "mha first": lambda G: mha(G, True, False),
    "mha both": lambda G: mha(G, True, True),
    "gelu": gelu,
    "half": lambda G: half(G, False),
    "half qdq": lambda G: half(G, True),
    "grid sample": sampled,
    "mixed types": mixed_types,
    "moving scale": moving_scale,
}
#: Operators that the lint's tests write without all their inputs: they show a rule a name, no more.
_INCOMPLETE = {"GroupNormalization", "Attention", "RMSNormalization"}


def corpus() -> dict[str, onnx.ModelProto]:
    """Every graph of the lint's own tests, broken and cured, each once, and some more."""
    found: dict[bytes, tuple[str, onnx.ModelProto]] = {}
    for group in (test_lint_qdq, test_lint_operators, test_lint_graph, test_lint_speed):
        for index, case in enumerate(group.CASES):
            for kind, build in (("bad", case[2]), ("good", case[3])):
                model = build(Graph).model()
                if not _INCOMPLETE & {node.op_type for node in model.graph.node}:
                    name = f"{case[0]} {kind} {group.__name__.rsplit('_', 1)[-1]}{index}"
                    found.setdefault(model.SerializeToString(), (name, model))
    whole = dict(found.values())
    return whole | {name: build(Graph).model() for name, build in FURTHER.items()}


def test_the_corpus_has_legal_and_illegal_graphs() -> None:
    verdicts = [lint(model, TARGET).ok for model in corpus().values()]
    assert verdicts.count(True) >= 20
    assert verdicts.count(False) >= 20


@needs_rtx
@pytest.mark.slow
def test_lint_and_witness_hold_the_corpus_to_one_verdict() -> None:
    models = corpus()
    reports = witness_all(models, ("8.6",))
    parted = {
        name: found
        for name, model in models.items()
        if (found := compare_with_lint(reports[name], lint(model, TARGET)))
    }
    unknown = [f"{name}: {d}" for name, found in parted.items() for d in found if not d.known]
    assert unknown == []
    # the table carries no exception that nothing needs
    needed = {rule for found in parted.values() for d in found for rule in d.about.split(", ")}
    assert set(LINT_KNOWS_BETTER) <= needed
    outcomes = [report.verdicts[0].outcome for report in reports.values()]
    assert outcomes.count("ok") >= 20
    assert len(outcomes) - outcomes.count("ok") >= 20


@needs_rtx
def test_uint8_is_silently_read_as_int8() -> None:
    g = Graph()
    model = g.out(g.qdq(g.input(), kind=np.uint8)).model()
    (verdict,) = witness(model, ("8.6",)).verdicts
    assert verdict.outcome == "ok"
    assert any("Defaulting to INT8" in warning for warning in verdict.warnings)
    assert not lint(model, TARGET).ok


@needs_rtx
def test_refusals_name_the_node() -> None:
    g = Graph()
    model = g.out(g.qdq(g.input(), zero=5)).model()
    (verdict,) = witness(model, ("8.6",)).verdicts
    assert (verdict.outcome, verdict.stage, verdict.node) == (
        "refused",
        "parse",
        "n_quantizelinear0",
    )
    assert "Non-zero zero point is not supported" in verdict.reason


@needs_rtx
@pytest.mark.slow
def test_both_flavours_build(tiny, simplified) -> None:
    int8 = legalise(quantize(simplified, tiny.samples(4), tiny.SPEC).model).model
    ranges = record_ranges(simplified, tiny.samples(4), threads=1)
    models = {
        "strong int8": make_strong(int8, ranges).model,
        "strong fp16": make_strong(simplified, ranges).model,
        "weak 8.5": make_weak(int8, (8, 5, 2), ranges).model,
        "weak 8.6": make_weak(int8, (8, 6, 2), ranges).model,
    }
    for name, report in witness_all(models, ("8.6", "8.9")).items():
        assert report.ok, f"{name}: {'; '.join(map(str, report.verdicts))}"
        assert all(verdict.plan_bytes for verdict in report.verdicts)


@needs_rtx
@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_every_flavour_of_every_model_of_ours_is_built(name: str, tmp_path: Path) -> None:
    if name.endswith("resnet50") and not os.environ.get("EDGE_FUSION_LONG_TESTS"):
        pytest.skip("takes minutes: set EDGE_FUSION_LONG_TESTS=1")
    # Random weights: what is built is the graph.  64 pixels, or the largest takes minutes.
    options = BuildOptions(
        name,
        tmp_path / "bundle",
        calib=("demo://?frames=4&size=96x96&cut=1",),
        calib_count=4,
        size="64x64",
        untrained=True,
    )
    bundle = pipeline.build(options)
    for target in ("agx-orin-64gb@7.2", "xavier-nx@5.1"):
        for flavour, check in check_path(bundle.path, target, witness=True).items():
            assert check.witness is not None
            assert check.ok, f"{flavour}: {check.witness}"
            assert check.witness.ok, f"{flavour}: {check.witness}"
    names = {f"{kind}.{e}" for kind in ("strong", "weak") for e in ("fp32", "fp16", "int8")}
    assert set(bundle.manifest.flavours) == names
