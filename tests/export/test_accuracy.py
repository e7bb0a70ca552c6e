"""``build --max-drop`` from end to end, on a network of which one layer is known to break INT8."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from typer.testing import CliRunner

from edge_fusion.__main__ import app
from edge_fusion.bundle import Bundle
from edge_fusion.calibration.calibration_set import CalibrationOptions, load_calibration_set
from edge_fusion.errors import GateError, InputError
from edge_fusion.export.accuracy import Held, HoldOptions, hold_gate, most_harmed, stratified
from edge_fusion.export.fold import fold
from edge_fusion.export.gate import Gate, GatePairs, Reading, load_gate_pairs
from edge_fusion.export.int8 import Int8Maker
from edge_fusion.export.options import BuildOptions
from edge_fusion.export.pipeline import build
from edge_fusion.export.precision import plan_precision
from edge_fusion.export.quantize import QuantizeOptions
from edge_fusion.export.search_state import Remembered, forget, state_path
from edge_fusion.export.simplify import simplify
from edge_fusion.export.trace import trace
from edge_fusion.manifest import AccuracyGateRecord, GateStepRecord, Manifest
from edge_fusion.runtime.compare import CompareOptions, compare_bundle
from edge_fusion.runtime.gates import check_gates, parse_gates
from edge_fusion.runtime.inspect import bundle_facts
from tests.export.planted import SENSITIVE, planted
from tests.export.tiny import SPEC

pytestmark = pytest.mark.export

ROOT = Path(__file__).resolve().parents[2]
FACTORY = "tests.export.planted:planted"
CALIB = "demo://?frames=6&size=64x48"
GATE_DATA = "demo://?frames=8&size=64x48&seed=5"
GATE = "mae=0.015"


def options(tmp_path: Path, **changes: Any) -> BuildOptions:
    fields: dict[str, Any] = {
        "model": FACTORY,
        "output": tmp_path / "bundle",
        "calib": (CALIB,),
        "size": "32x32",
        "calib_count": 6,
        "max_drop": (GATE,),
        "gate_data": (GATE_DATA,),
    }
    return BuildOptions(**{**fields, **changes})


class Heard:
    """A progress that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, step: str, done: int, total: int, detail: str = "") -> None:
        if total and done == total:
            self.lines.append(f"{step} {detail}")

    def says(self, text: str) -> bool:
        return any(text in line for line in self.lines)


@pytest.fixture(scope="module")
def graph() -> onnx.ModelProto:
    return simplify(trace(fold(planted()).module, SPEC)).model


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def maker(graph: onnx.ModelProto, heard: Heard) -> Int8Maker:
    pairs = load_calibration_set(CalibrationOptions((CALIB,), 6), SPEC)
    return Int8Maker(graph, SPEC, pairs, QuantizeOptions(), plan_precision(graph), heard)


@pytest.fixture(scope="module")
def gate_pairs() -> GatePairs:
    return load_gate_pairs([GATE_DATA], SPEC, {"mae": 1})


def hold(
    maker: Int8Maker,
    pairs: GatePairs,
    tmp_path: Path,
    max_drop: Mapping[str, float] | None = None,
    min_int8: float = 0.5,
) -> Held:
    gate = Gate(pairs, maker.graph, SPEC, max_drop or {"mae": 0.015})
    return hold_gate(maker, maker.make(), gate, HoldOptions(tmp_path / "bundle", min_int8))


@pytest.fixture(scope="module")
def gated(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return build(options(tmp_path_factory.mktemp("gated")))


def gate_of(bundle: Bundle) -> AccuracyGateRecord:
    quantization = bundle.manifest.quantization
    assert quantization is not None
    assert quantization.gate is not None
    return quantization.gate


def without_time(steps: tuple[GateStepRecord, ...]) -> list[dict[str, Any]]:
    return [step.model_dump(exclude={"seconds"}) for step in steps]


def readings(state: Path) -> int:
    """How many the state holds; it is whole whenever it is read."""
    return len(json.loads(state.read_text())["readings"]) if state.exists() else 0


def test_the_layer_that_breaks_int8_goes_back_and_no_other(gated: Bundle) -> None:
    record = gate_of(gated)
    assert record.reverted == (SENSITIVE,)
    assert record.plain_drops["mae"] > 0.015 >= record.drops["mae"]
    quantization = gated.manifest.quantization
    assert quantization is not None
    assert len(quantization.int8_nodes) == 10
    assert SENSITIVE not in quantization.int8_nodes
    assert quantization.kept_fp16[SENSITIVE] == "sent back by the accuracy gate mae=0.015"
    facts = bundle_facts(gated)
    assert facts["gate"] == record.summary()
    assert facts["sent back"] == SENSITIVE


def test_the_gate_is_what_compare_measures(gated: Bundle) -> None:
    few = CompareOptions(repeats=0, memory=False, backend="ort")
    found = compare_bundle(gated.path, [GATE_DATA], few)
    drop = gate_of(gated).drops["mae"]
    check_gates(found, parse_gates([f"mae={drop + 1e-9}"]))
    with pytest.raises(GateError, match="is missed by int8"):
        check_gates(found, parse_gates([f"mae={drop - 1e-6}"]))


def test_no_state_stays_beside_a_bundle(gated: Bundle) -> None:
    assert [path.name for path in gated.path.parent.iterdir()] == ["bundle"]


def test_a_manifest_may_lack_a_gate(gated: Bundle) -> None:
    content = gated.manifest.model_dump(mode="json")
    assert content["quantization"].pop("gate")
    quantization = Manifest.model_validate(content).quantization
    assert quantization is not None
    assert quantization.gate is None


def test_each_step_is_told_and_recorded(
    maker: Int8Maker, gate_pairs: GatePairs, heard: Heard, tmp_path: Path
) -> None:
    record = hold(maker, gate_pairs, tmp_path).record
    steps = [step.step for step in record.steps]
    assert steps == ["plain", "rank", "prefix", "confirm", "final"]
    assert record.steps[-1].drops == record.drops
    assert record.steps[-1].evaluations == record.evaluations
    assert (record.frames, record.masks) == (8, 8)
    told = [line for line in heard.lines if line.split()[0] in steps]
    assert len(told) == len(steps)
    assert told[0].startswith("plain misses with 0 layers in FP16: mae +0.03")
    assert heard.says("1 of 11 layers back to FP16, 10, 62% of the MACs in INT8; mae drops by")
    assert record.int8_mac_share == pytest.approx(0.62, abs=0.005)


def test_a_gate_that_holds_already_costs_one_run(
    maker: Int8Maker, gate_pairs: GatePairs, tmp_path: Path
) -> None:
    held = hold(maker, gate_pairs, tmp_path, {"mae": 0.2, "f_max": 0.5})
    assert held.record.reverted == ()
    assert [step.step for step in held.record.steps] == ["plain", "final"]
    assert held.record.evaluations == 1
    assert set(held.record.drops) == {"mae", "f_max"}


def test_difference_needs_no_masks(maker: Int8Maker, pairs: Path, tmp_path: Path) -> None:
    shutil.rmtree(pairs / "gt")
    unmasked = load_gate_pairs([str(pairs)], SPEC, {"difference": 0.1})
    record = hold(maker, unmasked, tmp_path, {"difference": 0.1}).record
    assert (record.frames, record.masks) == (3, 0)
    assert 0 < record.drops["difference"] < 0.1


def test_every_other_gate_does_and_says_what_to_give(tmp_path: Path, pairs: Path) -> None:
    """The calibration set is what is judged on where nothing else is named."""
    shutil.rmtree(pairs / "gt")
    with pytest.raises(InputError) as refused:
        build(options(tmp_path, calib=(str(pairs),), gate_data=()))
    assert "gate --max-drop mae=0.015 cannot be judged" in str(refused.value)
    assert "3 pairs of" in str(refused.value)
    assert "none with a mask; give a set with masks: --gate-data SET" in str(refused.value)


@pytest.mark.slow
def test_a_killed_build_goes_on_where_it_was(gated: Bundle, tmp_path: Path) -> None:
    """SIGKILL in the middle of the search: the next build ends alike and measures the rest."""
    output = tmp_path / "bundle"
    state = state_path(output)
    command = [
        *(sys.executable, "-m", "edge_fusion", "build", FACTORY, "-o", str(output)),
        *("--calib", CALIB, "--calib-count", "6", "--size", "32x32"),
        *("--max-drop", GATE, "--gate-data", GATE_DATA),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    running = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, env=environment)
    wait_for(lambda: running.poll() is not None or readings(state) >= 4)
    running.send_signal(signal.SIGKILL)
    assert running.wait(30) == -signal.SIGKILL
    there = readings(state)
    assert 4 <= there < gate_of(gated).evaluations
    assert not output.exists()
    heard = Heard()
    bundle = build(options(tmp_path), heard)
    assert heard.says(f"going on from {state}: {there} readings")
    assert bundle.manifest.files == gated.manifest.files
    assert without_time(gate_of(bundle).steps) == without_time(gate_of(gated).steps)
    assert not state.exists()


def wait_for(happened: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.02)


def test_what_is_known_is_not_measured_again(
    maker: Int8Maker, gate_pairs: GatePairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted at any reading: those before it are taken from the file, the end is the same."""
    whole = hold(maker, gate_pairs, tmp_path / "whole").record
    measured: list[int] = []
    read = Gate.read

    def counted(gate: Gate, *arguments: Any) -> Reading:
        if len(measured) == 7:
            measured.append(-1)
            raise KeyboardInterrupt
        measured.append(1)
        return read(gate, *arguments)

    monkeypatch.setattr(Gate, "read", counted)
    with pytest.raises(KeyboardInterrupt):
        hold(maker, gate_pairs, tmp_path / "cut")
    again = hold(maker, gate_pairs, tmp_path / "cut").record
    assert without_time(again.steps) == without_time(whole.steps)
    assert again.reverted == whole.reverted
    assert measured.count(1) == whole.evaluations


def test_int8_that_does_not_pay_is_refused_with_what_is_missing(
    maker: Int8Maker, gate_pairs: GatePairs, heard: Heard, tmp_path: Path
) -> None:
    """And what was measured serves the next attempt, with less asked of INT8."""
    with pytest.raises(GateError) as refused:
        hold(maker, gate_pairs, tmp_path, min_int8=0.9)
    message = str(refused.value)
    assert "INT8 does not pay under --max-drop mae=0.015" in message
    assert "expected 90% of the multiply-accumulates in INT8 or more, got 62%" in message
    assert "1 of 11 layers go back to FP16; with 0 of them, mae drops by 0.03" in message
    assert "more than allowed; build it with --precision fp16" in message
    assert refused.value.exit_code == 1
    known = readings(state_path(tmp_path / "bundle"))
    assert known >= 12
    assert hold(maker, gate_pairs, tmp_path).record.reverted == (SENSITIVE,)
    assert heard.says(f"{known} readings are there already")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"{half a fi", "is damaged or no search's state: its readings are discarded"),
        (b'{"a": "list of somebody else"}', "is damaged or no search's state"),
        (
            json.dumps({"kind": "edge-fusion accuracy search", "key": "0" * 64}).encode(),
            "is of another model, calibration set, gate set or version",
        ),
    ],
)
def test_a_state_of_no_use_is_discarded_aloud(
    tmp_path: Path, content: bytes, complaint: str
) -> None:
    path = tmp_path / "bundle.search.json"
    path.write_bytes(content)
    remembered = Remembered(path, "1" * 64, {"mae": 1})
    assert complaint in remembered.note
    remembered.reading("one", lambda: (Reading({"mae": 0.5}, {"mae": 1}, 0.1), 2.0))
    again = Remembered(path, "1" * 64, {"mae": 0.1})
    assert "1 readings are there already" in again.note
    known = again.reading("one", lambda: pytest.fail("it is known"))
    assert (known.drops, known.held, again.seconds, again.runs) == ({"mae": 0.5}, False, 2.0, 1)
    forget(path)
    assert not path.exists()


def test_other_pairs_or_another_plan_are_another_search(
    maker: Int8Maker, gate_pairs: GatePairs, heard: Heard, tmp_path: Path
) -> None:
    hold(maker, gate_pairs, tmp_path, {"mae": 0.2})
    hold(maker, gate_pairs, tmp_path, {"mae": 0.3})
    assert heard.lines[-1].startswith("gate 0 of 11")
    assert sum("going on" in line for line in heard.lines) == 1, "another limit is the same search"
    hold(replace(maker, settings=QuantizeOptions("minmax")), gate_pairs, tmp_path, {"mae": 0.2})
    assert sum("discarded" in line for line in heard.lines) == 1
    other = load_gate_pairs(["demo://?frames=3&size=64x48&seed=6"], SPEC, {"mae": 1})
    hold(replace(maker, settings=QuantizeOptions("minmax")), other, tmp_path, {"mae": 0.3})
    assert sum("discarded" in line for line in heard.lines) == 2


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"max_drop": ("mae",)}, "METRIC=VALUE"),
        ({"max_drop": ("mae=-1",)}, "0 or more"),
        ({"max_drop": ("beauty=0.1",)}, "got 'beauty'"),
        ({"max_drop": ("mae=0.1", "mae=0.2")}, "given twice"),
        ({"max_drop": ()}, "--gate-data needs a --max-drop"),
        ({"precision": "fp16"}, "--max-drop is for --precision int8"),
        ({"min_int8": 1.5}, "min-int8: expected a share, 0 to 1, got 1.5"),
        ({"min_int8": float("nan")}, "min-int8"),
    ],
)
def test_what_is_asked_wrongly_is_refused_at_once(
    tmp_path: Path, changes: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(InputError, match=complaint):
        options(tmp_path, **changes)


def test_the_command_line_refuses_a_bad_gate_in_one_line(tmp_path: Path) -> None:
    arguments = ["build", FACTORY, "-o", str(tmp_path / "b"), "--max-drop", "mae:0.1"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert "gate --max-drop mae:0.1: expected METRIC=VALUE" in result.output
    assert "Traceback" not in result.output


def test_a_gate_set_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere"):
        build(options(tmp_path, gate_data=("nowhere",)))


def test_pairs_to_rank_on_are_the_worst_and_some_of_the_rest() -> None:
    harms = [0.0] * 100
    harms[40], harms[70] = 2.0, 1.0
    chosen = most_harmed(harms, 8)
    assert {40, 70} <= set(chosen)
    assert len(chosen) == 8
    assert max(chosen) - min(chosen) > 80, "the others are spread"
    assert most_harmed([1.0, 2.0], 8) == (0, 1)


def test_pairs_to_search_on_are_harmed_as_all_of_them_are() -> None:
    harms = [float(index % 17) for index in range(1000)]
    chosen = stratified(harms, 64)
    assert len(set(chosen)) == 64
    mean = sum(harms[index] for index in chosen) / 64
    assert mean == pytest.approx(sum(harms) / 1000, rel=0.05)
