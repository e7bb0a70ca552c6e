from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from edge_fusion.errors import GateError, InputError, SessionError
from edge_fusion.metrics import METRICS
from edge_fusion.runtime.compare import CompareOptions, compare
from edge_fusion.runtime.gates import Gates, check_gates, parse_gates
from edge_fusion.runtime.latency import BLOCK, Arithmetic, measure_latency
from edge_fusion.runtime.machine import machine_state
from edge_fusion.runtime.memory_probe import peak_memory
from edge_fusion.runtime.panels import LONG_SIDE, PanelPicker

QUICK = CompareOptions(repeats=BLOCK, warmup=1, memory=False)


class TestAccuracy:
    def test_a_dimmer_int8_shows_in_raw_maps_and_in_the_difference(
        self, make_bundle, make_source, opener
    ):
        found = compare(make_bundle(), [make_source(6)], QUICK, open_session=opener(int8=0.5))
        fp32, int8 = (found.pooled.scores[variant] for variant in ("fp32", "int8"))
        assert found.pooled.pairs == fp32.n == 6
        assert int8.raw.mae > fp32.raw.mae + 0.03
        assert int8.normalised.mae == pytest.approx(fp32.normalised.mae, abs=0.01)
        assert int8.raw.iou == 0
        assert fp32.raw.iou > 0.9
        # Half of red: the mean of the first map is twice the mean difference.
        assert found.pooled.differences["int8"].mean_abs == pytest.approx(
            np.mean([image.differences["int8"].mean_abs for image in found.images])
        )
        assert found.pooled.differences["int8"].max_abs > 0.35

    def test_equal_variants_agree_to_the_bit(self, make_bundle, make_source, opener):
        found = compare(make_bundle(), [make_source(3)], QUICK, open_session=opener())
        assert found.pooled.differences["int8"].mean_abs == 0
        assert all(image.degradation == 0 for image in found.images)

    def test_sets_are_reported_apart_and_pooled_by_image(self, make_bundle, make_source, opener):
        sources = [make_source(2, uri="a"), make_source(6, uri="b", start=10)]
        found = compare(make_bundle(), sources, QUICK, open_session=opener(int8=0.8))
        assert [one.name for one in found.sets] == ["a", "b"]
        assert [one.pairs for one in found.sets] == [2, 6]
        maes = [one.scores["int8"].raw.mae for one in found.sets]
        assert found.pooled.scores["int8"].raw.mae == pytest.approx((2 * maes[0] + 6 * maes[1]) / 8)
        assert [image.id for image in found.images][:3] == ["pair_000", "pair_001", "pair_010"]

    def test_pairs_without_masks_give_agreement_alone(self, make_bundle, make_source, opener):
        found = compare(
            make_bundle(), [make_source(3, mask=False)], QUICK, open_session=opener(int8=0.9)
        )
        assert found.pooled.scores == {}
        assert found.pooled.differences["int8"].mean_abs > 0
        assert found.images[0].degradation == found.images[0].differences["int8"].mean_abs

    def test_masked_and_unmasked_sets_mix(self, make_bundle, make_source, opener):
        sources = [make_source(2, uri="a"), make_source(3, uri="b", mask=False)]
        found = compare(make_bundle(), sources, QUICK, open_session=opener())
        assert found.pooled.pairs == 5
        assert found.pooled.scores["fp32"].n == 2
        assert found.sets[1].scores == {}

    def test_every_variant_runs_each_pair_once_apart_from_latency(
        self, make_bundle, make_source, opener
    ):
        open_fake, options = opener(), replace(QUICK, repeats=0)
        found = compare(make_bundle(), [make_source(5)], options, open_session=open_fake)
        assert found.latency is None
        assert {name: session.runs for name, session in open_fake.opened.items()} == {
            "fp32": 5,
            "int8": 5,
        }
        assert all(session.closed for session in open_fake.opened.values())

    def test_limit_and_progress(self, make_bundle, make_source, opener):
        seen = []
        sources = [make_source(5, uri="a"), make_source(1, uri="b")]
        compare(
            make_bundle(),
            sources,
            replace(QUICK, limit=2),
            lambda *now: seen.append(now),
            open_session=opener(),
        )
        assert seen == [
            (0, 3, "accuracy"),
            (1, 3, "accuracy"),
            (2, 3, "accuracy"),
            (3, 3, "accuracy"),
            (0, 1, "latency"),
            (1, 1, "latency"),
            (0, 2, "memory"),
            (1, 2, "memory"),
            (2, 2, "memory"),
        ]

    def test_the_record_is_plain_json(self, make_bundle, make_source, opener):
        found = compare(make_bundle(), [make_source(2)], QUICK, open_session=opener(int8=0.7))
        again = json.loads(json.dumps(found.as_dict(), allow_nan=False))
        assert set(again["pooled"]["scores"]["int8"]["raw"]) == set(METRICS)
        assert again["images"][1]["id"] == "pair_001"
        assert again["costs"]["fp32"]["file_bytes"] == 40_000
        assert again["costs"]["fp32"]["memory"] is None
        assert again["latency"]["arithmetic"]["integer"] is False
        assert len(again["latency"]["inference"]["int8"]["samples_ms"]) == BLOCK


class TestRefusals:
    def test_a_missing_variant(self, make_bundle, make_source, opener):
        with pytest.raises(InputError, match=r"no variant int8.*got fp32; build it with"):
            compare(make_bundle({"fp32": b"f"}), [make_source(1)], QUICK, open_session=opener())

    def test_no_set(self, make_bundle, opener):
        with pytest.raises(InputError, match="--data SET"):
            compare(make_bundle(), [], QUICK, open_session=opener())

    def test_an_empty_set_before_anything_is_opened(self, make_bundle, make_source, opener):
        open_fake = opener()
        with pytest.raises(InputError, match="set nothing holds no pair"):
            compare(
                make_bundle(),
                [make_source(1), make_source(0, uri="nothing")],
                QUICK,
                open_session=open_fake,
            )
        assert open_fake.opened == {}

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"variants": ("int8",)}, "two or more different"),
            ({"variants": ("int8", "int8")}, "got int8, int8"),
            ({"variants": ("fp32", "", "int8")}, "got fp32, an empty name, int8; name them with"),
            ({"variants": ("fp32", "")}, "got fp32, an empty name"),
            ({"warmup": 0}, "warmup: expected 1 or more, got 0"),
            ({"repeats": -1}, "repeats: expected 0 or more"),
            ({"limit": 0}, "limit: expected 1 or more"),
        ],
    )
    def test_options_out_of_range(self, options, message):
        with pytest.raises(InputError, match=message):
            CompareOptions(**options)

    def test_sessions_are_closed_when_a_pair_fails(self, make_bundle, make_source, opener):
        source, open_fake = make_source(2), opener()
        blind = replace(source.items[1], depth=np.zeros_like(source.items[1].depth))
        source.items = [source.items[0], blind]
        with pytest.raises(InputError, match="depth of 'pair_001'"):
            compare(make_bundle(), [source], QUICK, open_session=open_fake)
        assert all(session.closed for session in open_fake.opened.values())


class SleepySession:
    def __init__(self, clock: list[int], cost_ns: int, drift_ns: int = 0) -> None:
        self.clock, self.cost_ns, self.drift_ns, self.log = clock, cost_ns, drift_ns, []

    def run(self, inputs):
        self.log.append(self.clock[0])
        self.clock[0] += self.cost_ns + self.drift_ns * (self.clock[0] // 1_000_000)
        return {"saliency": inputs["rgb"][:, :1]}

    def close(self) -> None: ...


@pytest.fixture
def clock(monkeypatch):
    now = [0]
    monkeypatch.setattr("edge_fusion.runtime.latency.time.perf_counter_ns", lambda: now[0])
    return now


class TestLatency:
    def test_figures_follow_the_clock(self, make_bundle, make_source, clock):
        sessions = {
            "fp32": SleepySession(clock, 8_000_000),
            "int8": SleepySession(clock, 2_000_000),
        }
        spec = make_bundle().manifest.model
        found = measure_latency(sessions, make_source(2).items, spec, warmup=3, repeats=27)
        assert found.summaries["fp32"].p50_ms == 8
        assert found.summaries["int8"].p99_ms == 2
        assert found.summaries["int8"].n == 30  # 27, in whole blocks of five
        speedup = found.speedups["int8"]
        assert (speedup.ratio, speedup.low, speedup.high) == (4, 4, 4)

    def test_variants_take_turns_and_the_first_run_of_a_block_is_not_timed(
        self, make_bundle, make_source, clock
    ):
        sessions = {name: SleepySession(clock, 1_000_000) for name in ("a", "b")}
        spec = make_bundle().manifest.model
        measure_latency(sessions, make_source(1).items, spec, warmup=1, repeats=2 * BLOCK)
        runs = sorted((at, name) for name, one in sessions.items() for at in one.log)[2:]
        blocks = [name for _, name in runs][:: BLOCK + 1]
        assert len(runs) == 2 * 2 * (BLOCK + 1)
        assert blocks == ["a", "b", "b", "a"]

    def test_drift_that_slows_both_leaves_the_ratio_alone(self, make_bundle, make_source, clock):
        # Both slow down steadily: the medians move, their ratio does not by much.
        sessions = {
            "fp32": SleepySession(clock, 2_000_000, drift_ns=2_000),
            "int8": SleepySession(clock, 2_000_000, drift_ns=2_000),
        }
        spec = make_bundle().manifest.model
        found = measure_latency(sessions, make_source(1).items, spec, warmup=1, repeats=100)
        fp32 = found.samples_ms["fp32"]
        assert max(fp32) > 1.4 * min(fp32)
        speedup = found.speedups["int8"]
        assert speedup.low <= 1 <= speedup.high
        assert speedup.ratio == pytest.approx(1, abs=0.02)

    def test_nothing_to_time_is_refused(self, make_bundle):
        with pytest.raises(InputError, match="at least one session"):
            measure_latency({}, [], make_bundle().manifest.model, warmup=1, repeats=1)

    def test_the_callers_word_on_arithmetic_wins(self, make_bundle, make_source, opener):
        bundle, sources = make_bundle(), [make_source(1)]
        options = replace(QUICK, arithmetic=Arithmetic("tensor cores", integer=True))
        found = compare(bundle, sources, options, open_session=opener())
        assert found.latency.arithmetic.text == "tensor cores"
        found = compare(bundle, sources, replace(QUICK, backend="new"), open_session=opener())
        assert found.latency.arithmetic.text == "kernels that the backend does not state"
        assert not found.latency.arithmetic.integer


class TestGates:
    @pytest.fixture
    def found(self, make_bundle, make_source, opener):
        return compare(make_bundle(), [make_source(4)], QUICK, open_session=opener(int8=0.8))

    def test_met_gates_pass(self, found):
        check_gates(found, parse_gates(["mae=0.2", "difference=0.5"], ["iou=0.5", "mae=0.5"]))

    @pytest.mark.parametrize(
        ("max_drop", "require", "message"),
        [
            # Normalised maps are alike: only the raw protocol catches the dimmer map.
            (["mae=0.01"], [], r"--max-drop mae=0.01 is missed by int8 \(raw maps\).*at most 0.01"),
            ([], ["s=0.999"], r"--require s=0.999 is missed by int8.*at least 0.999, got 0\.\d{4}"),
            ([], ["mae=0.0001"], r"expected at most 0.0001, got 0\.\d{4}"),
            (["difference=0.001"], [], r"--max-drop difference=0.001 is missed by int8: "),
            (["mae=0.01", "difference=0.001"], [], "also gate --max-drop difference=0.001"),
        ],
    )
    def test_a_missed_gate_says_what_was_wanted_and_found(self, found, max_drop, require, message):
        with pytest.raises(GateError, match=message) as caught:
            check_gates(found, parse_gates(max_drop, require))
        assert caught.value.exit_code == 1

    def test_a_better_variant_never_drops(self, make_bundle, make_source, opener):
        found = compare(make_bundle(), [make_source(4)], QUICK, open_session=opener(fp32=0.7))
        fp32, int8 = (found.pooled.scores[variant].raw.mae for variant in ("fp32", "int8"))
        assert int8 < fp32 - 0.02
        check_gates(found, Gates(max_drop={"mae": 0.005}))

    def test_a_gate_that_needs_masks_is_not_passed_in_silence(
        self, make_bundle, make_source, opener
    ):
        sources = [make_source(2, mask=False)]
        found = compare(make_bundle(), sources, QUICK, open_session=opener())
        check_gates(found, parse_gates(["difference=0.001"]))
        with pytest.raises(InputError, match=r"no pair has a mask.*gate on difference"):
            check_gates(found, parse_gates(["mae=0.5"]))

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("mae", "expected METRIC=VALUE"),
            ("mae=", "for example --max-drop mae=0.002"),
            ("mae=x", "METRIC=VALUE"),
            ("mae=nan", "METRIC=VALUE"),
            ("mae=-0.1", "0 or more"),
            ("mea=0.1", "expected mae or s or f_max.*got 'mea'"),
        ],
    )
    def test_bad_syntax_is_refused(self, text, message):
        with pytest.raises(InputError, match=message):
            parse_gates([text])

    def test_a_gate_given_twice_is_refused(self):
        with pytest.raises(InputError, match="--require iou is given twice"):
            parse_gates([], ["iou=0.5", "iou=0.6"])


class TestPanels:
    def test_the_worst_and_the_median_are_kept_and_few_are_drawn(self):
        drawn = []
        picker = PanelPicker(worst=3, typical=2)
        degradations = np.random.default_rng(1).permutation(1000) / 1000
        for index, value in enumerate(degradations):
            picker.offer(float(value), lambda index=index: drawn.append(index) or ())
        panels = picker.panels()
        assert [panel.kind for panel in panels] == ["worst"] * 3 + ["typical"] * 2
        assert [panel.degradation for panel in panels[:3]] == [0.999, 0.998, 0.997]
        assert all(degradations[panel.image] == panel.degradation for panel in panels)
        assert all(abs(panel.degradation - 0.5) < 0.15 for panel in panels[3:])
        assert len(drawn) < 200  # of 1000: a record only improves now and then

    def test_no_image_is_shown_twice(self):
        picker = PanelPicker(worst=4, typical=4)
        for value in (0.3, 0.1, 0.2):
            picker.offer(value, tuple)
        assert sorted(panel.image for panel in picker.panels()) == [0, 1, 2]

    def test_pictures_are_small_and_labelled(self, make_bundle, make_source, opener):
        found = compare(make_bundle(), [make_source(8)], QUICK, open_session=opener(int8=0.8))
        assert len(found.panels) == 8  # all, as there are fewer than ten
        labels = [picture.label for picture in found.panels[0].pictures]
        assert labels == ["colour", "depth", "truth", "fp32", "int8", "difference int8"]
        for picture in found.panels[0].pictures:
            assert picture.pixels.dtype == np.uint8
            assert max(picture.pixels.shape[:2]) <= LONG_SIDE
        depth = found.panels[0].pictures[1].pixels
        assert not depth[0].any()  # no reading: black
        near = depth[found.panels[0].pictures[2].pixels > 128].mean(axis=0)
        assert near[0] > near[2]  # the object is near: more red than blue


def tiny_model(weights: int) -> bytes:
    onnx = pytest.importorskip("onnx", reason="onnx makes the model of this test")
    helper, floats = onnx.helper, onnx.TensorProto.FLOAT
    ballast = np.zeros(weights, np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["rgb"], ["grey"], axes=[1], keepdims=1),
            helper.make_node("ReduceMean", ["ballast"], ["zero"], axes=[0], keepdims=1),
            helper.make_node("Mul", ["grey", "depth"], ["seen"]),
            helper.make_node("Add", ["seen", "zero"], ["saliency"]),
        ],
        "tiny",
        [
            helper.make_tensor_value_info("rgb", floats, (1, 3, 24, 32)),
            helper.make_tensor_value_info("depth", floats, (1, 1, 24, 32)),
        ],
        [helper.make_tensor_value_info("saliency", floats, (1, 1, 24, 32))],
        [onnx.numpy_helper.from_array(ballast, "ballast")],
    )
    opset = helper.make_opsetid("", 17)
    return helper.make_model(graph, opset_imports=[opset], ir_version=9).SerializeToString()


class TestMemory:
    def test_each_variant_is_measured_in_a_process_of_its_own(self, make_bundle, make_source):
        bundle = make_bundle({"fp32": tiny_model(10_000_000), "int8": tiny_model(1_000)})
        here = np.ones(100_000_000, np.float32)  # 400 MB that must not show in the children
        found = compare(bundle, [make_source(2)], CompareOptions(repeats=BLOCK))
        fp32, int8 = (found.costs[variant].memory for variant in ("fp32", "int8"))
        assert here.nbytes > int8.peak_bytes > int8.before_bytes > 0
        assert fp32.added_bytes > int8.added_bytes + 36_000_000
        assert found.costs["fp32"].file_bytes > 40_000_000
        assert found.pooled.differences["int8"].mean_abs == 0

    def test_a_failing_child_is_explained(self, make_bundle):
        bundle = make_bundle()  # its models are no ONNX
        with pytest.raises(SessionError, match=r"memory of variant 'int8'.*refused the model") as e:
            peak_memory(bundle.path, "int8", "ort")
        assert f"edge-fusion run {bundle.path} demo:// --variant int8" in str(e.value)
        assert "CompareOptions" not in str(e.value)

    def test_a_system_that_does_not_tell_gives_none(self, make_bundle, monkeypatch, tmp_path):
        monkeypatch.setattr("edge_fusion.runtime.memory_probe._STATUS", tmp_path / "absent")
        assert peak_memory(make_bundle().path, "int8", "ort") is None


def test_the_machine_is_described():
    machine = machine_state()
    assert machine.processor
    assert 1 <= machine.usable_cores <= machine.cores
    assert machine.versions["numpy"] == np.__version__
    assert machine.versions["python"].count(".") == 2


def test_comparing_needs_no_heavy_package():
    code = (
        "import sys; sys.modules.update(torch=None, onnx=None, nncf=None, onnxruntime=None,"
        " jinja2=None); import edge_fusion.runtime.report, edge_fusion.runtime.compare,"
        " edge_fusion.runtime.gates"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
