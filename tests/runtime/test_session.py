"""Which backend runs what, and how it is recorded."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import closing

import pytest

from edge_fusion.board import probe_board
from edge_fusion.bundle import Bundle
from edge_fusion.engine import (
    EngineOptions,
    EngineRecord,
    write_engine,
)
from edge_fusion.errors import BundleError, EngineError, EngineMissingError, SessionError
from edge_fusion.runtime import cuda
from edge_fusion.runtime.compare import CompareOptions, compare
from edge_fusion.runtime.golden import check_golden
from edge_fusion.runtime.inspect import inspect_bundle
from edge_fusion.runtime.ort import OrtSession
from edge_fusion.runtime.run import RunOptions, run_bundle, run_facts
from edge_fusion.runtime.session import (
    choose_backend,
    execution_of,
    missing_for_engines,
    open_session,
)
from edge_fusion.runtime.source.demo import DemoSource
from edge_fusion.runtime.trt import TrtSession
from edge_fusion.runtime.trt_api import load_tensorrt, this_device
from edge_fusion.runtime.verdict import judgements
from tests.fakes.engine_records import record_of
from tests.fakes.tensorrt_api import Plan, pack_plan

DEMO = "demo://?frames=3&size=64x48"
Add = Callable[..., EngineRecord]


@pytest.fixture
def jetson(fake_tensorrt, fake_cuda) -> None:
    """A machine with a GPU and TensorRT 10.3."""
    fake_tensorrt("10.3")
    fake_cuda()


@pytest.fixture
def add_engine(jetson, tiny_bundle: Bundle, tiny_models: dict[str, bytes]) -> Add:
    """Puts an engine into the tiny bundle as a build on this device would."""

    def add(precision: str) -> EngineRecord:
        api, gpu = load_tensorrt(), cuda.Cuda.load()
        variant = "int8" if precision == "int8" else "fp32"
        model = tiny_bundle.manifest.variants[variant]
        device = this_device(api, gpu, probe_board())
        options = EngineOptions(precision=precision, flavour=api.flavour)
        plan = pack_plan(Plan(tiny_models[variant], api.version_text, device.sm, precision))
        record = record_of(tiny_bundle, model, plan, device, options)
        write_engine(tiny_bundle, record, plan, "{}")
        return record

    return add


def test_without_tensorrt_auto_is_onnx_runtime(tiny_bundle, monkeypatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert choose_backend(tiny_bundle, "int8", "auto") == "ort"
    with closing(open_session(tiny_bundle, "int8")) as session:
        assert isinstance(session, OrtSession)
        assert execution_of(session) is None


def test_without_a_gpu_auto_is_onnx_runtime(tiny_bundle, fake_tensorrt, monkeypatch) -> None:
    fake_tensorrt("10.3")
    monkeypatch.setattr(cuda, "missing_gpu", lambda: "no CUDA driver on this machine")
    assert choose_backend(tiny_bundle, "int8", "auto") == "ort"
    with pytest.raises(BundleError) as caught:
        choose_backend(tiny_bundle, "fp16", "auto")
    message = str(caught.value)
    assert "'fp16' of bundle" in message
    assert "can only run as a TensorRT engine: expected fp32 or int8 on ONNX Runtime" in message
    assert "got no CUDA driver on this machine; name one of these, or --backend trt" in message


def test_fp16_on_onnx_runtime_is_refused_with_a_cure_that_helps(tiny_bundle, jetson) -> None:
    for act in (
        lambda: open_session(tiny_bundle, "fp16", "ort"),
        lambda: run_bundle(RunOptions(tiny_bundle.path, DEMO, variant="fp16", backend="ort")),
        lambda: compare(
            tiny_bundle,
            [DemoSource(frames=1)],
            CompareOptions(variants=("fp32", "fp16"), backend="ort", repeats=0, memory=False),
        ),
    ):
        with pytest.raises(BundleError, match="can only run as a TensorRT engine") as caught:
            act()
        assert "--backend trt" in caught.value.cure
        assert "--precision int8" not in str(caught.value)


def test_int8_that_a_bundle_was_built_without_is_not_said_to_be_an_engine(
    tiny_bundle, monkeypatch
) -> None:
    monkeypatch.setattr(cuda, "missing_gpu", lambda: "no CUDA driver on this machine")
    variants = {"fp32": tiny_bundle.manifest.variants["fp32"]}
    manifest = tiny_bundle.manifest.model_copy(update={"variants": variants})
    bundle = Bundle(tiny_bundle.path, manifest)
    with pytest.raises(BundleError, match="no variant 'int8'.*--precision int8"):
        open_session(bundle, "int8")


def test_an_unknown_backend_is_refused_with_a_cure(tiny_bundle) -> None:
    with pytest.raises(SessionError, match="expected auto or ort or trt, got 'tpu'; .*doctor"):
        choose_backend(tiny_bundle, "int8", "tpu")


def test_what_engines_need_is_asked_without_importing_tensorrt(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(cuda, "missing_gpu", lambda: "no CUDA driver on this machine")
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    (tmp_path / "tensorrt.py").write_text("raise SystemError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    assert missing_for_engines() == "no CUDA driver on this machine"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert missing_for_engines() == "no TensorRT for this Python"


def test_a_gpu_that_does_not_work_is_no_missing_one(tiny_bundle, fake_tensorrt, monkeypatch):
    fake_tensorrt("10.3")

    def broken() -> str:
        raise SessionError("the CUDA runtime has no such function")

    monkeypatch.setattr(cuda, "missing_gpu", broken)
    with pytest.raises(SessionError, match="no such function"):
        choose_backend(tiny_bundle, "int8", "auto")


def test_with_both_but_no_engine_auto_says_build(tiny_bundle, jetson) -> None:
    assert choose_backend(tiny_bundle, "int8", "auto") == "trt"
    with pytest.raises(EngineError, match="has no int8 engine; run: edge-fusion build"):
        open_session(tiny_bundle, "int8")
    with pytest.raises(EngineError, match="has no int8 engine; run: edge-fusion build"):
        run_bundle(RunOptions(tiny_bundle.path, DEMO))


def test_a_backend_that_is_named_is_taken(tiny_bundle, jetson) -> None:
    assert choose_backend(tiny_bundle, "int8", "ort") == "ort"
    with closing(open_session(tiny_bundle, "int8", "ort")) as session:
        assert isinstance(session, OrtSession)


def test_an_engine_that_belongs_here_runs(tiny_bundle, add_engine) -> None:
    for precision in ("fp32", "fp16", "int8"):
        record = add_engine(precision)
        with closing(open_session(tiny_bundle, precision)) as session:
            assert isinstance(session, TrtSession)
            assert execution_of(session).plan_bytes == record.plan_bytes
            assert check_golden(tiny_bundle, session, precision).passed


def test_an_engine_of_another_tensorrt_is_refused_unread(
    tiny_bundle, add_engine, fake_tensorrt, monkeypatch
) -> None:
    add_engine("int8")
    fake_tensorrt("10.7")
    monkeypatch.setattr(TrtSession, "__init__", None)  # whatever would be deserialised fails
    with pytest.raises(EngineError, match="does not belong here: tensorrt: expected 10.7.0.23"):
        open_session(tiny_bundle, "int8")


def test_a_variant_that_no_engine_has_is_named(tiny_bundle, jetson) -> None:
    with pytest.raises(BundleError, match="'int4': expected fp32 or fp16 or int8; name one of"):
        open_session(tiny_bundle, "int4", "trt")


def test_inspection_checks_the_engines_that_are_there(tiny_bundle, add_engine) -> None:
    for precision in ("int8", "fp16"):
        add_engine(precision)
    inspection = inspect_bundle(tiny_bundle.path, self_check=True)
    assert inspection.backend == "trt"
    assert [check.variant for check in inspection.checks] == ["fp16", "int8"]
    assert inspection.passed
    assert inspection.as_dict()["backend"] == "trt"
    on_the_cpu = inspect_bundle(tiny_bundle.path, self_check=True, backend="ort")
    assert [check.variant for check in on_the_cpu.checks] == ["fp32", "int8"]


def test_inspection_without_an_engine_to_check_is_no_success(tiny_bundle, jetson) -> None:
    with pytest.raises(EngineMissingError, match="no engine to check; run: .*--backend ort"):
        inspect_bundle(tiny_bundle.path, self_check=True)


def test_run_records_what_was_used(tiny_bundle, add_engine) -> None:
    add_engine("int8")
    run = run_bundle(RunOptions(tiny_bundle.path, DEMO))
    assert run.backend == "trt"
    recorded = run.as_dict()
    assert recorded["backend"] == "trt"
    assert recorded["execution"] == {
        "launch": "graph",
        "memory": "unified",
        "reason": "",
        "tensorrt": "10.3.0.30",
        "device": "Orin",
        "plan_bytes": run.execution.plan_bytes,
    }
    assert run_facts(run)["ran"].endswith(
        "on trt: TensorRT 10.3.0.30 on Orin, CUDA graph, unified memory"
    )


def test_run_on_onnx_runtime_says_so(tiny_bundle, jetson) -> None:
    run = run_bundle(RunOptions(tiny_bundle.path, DEMO, backend="ort"))
    assert (run.backend, run.as_dict()["execution"]) == ("ort", None)
    assert "ONNX Runtime on the CPU" in run_facts(run)["ran"]


def test_compare_holds_three_engines_against_each_other(tiny_bundle, add_engine) -> None:
    records = {precision: add_engine(precision) for precision in ("fp32", "fp16", "int8")}
    options = CompareOptions(
        variants=("fp32", "fp16", "int8"), memory=False, repeats=5, warmup=1, latency_inputs=1
    )
    found = compare(tiny_bundle, [DemoSource(frames=2, width=64, height=48)], options)
    assert found.backend == "trt"
    assert found.candidates == ("fp16", "int8")
    assert 0 < found.pooled.differences["fp16"].mean_abs < 1e-3
    sizes = {variant: cost.file_bytes for variant, cost in found.costs.items()}
    assert sizes == {variant: record.plan_bytes for variant, record in records.items()}
    assert set(found.latency.speedups) == {"fp16", "int8"}
    assert found.latency.arithmetic.integer
    assert found.latency.arithmetic.text == (
        "TensorRT engine built on this device; "
        "TensorRT 10.3.0.30 on Orin, CUDA graph, unified memory"
    )


def test_no_8_bit_arithmetic_is_claimed_where_no_int8_ran(tiny_bundle, add_engine) -> None:
    for precision in ("fp32", "fp16"):
        add_engine(precision)
    options = CompareOptions(variants=("fp32", "fp16"), memory=False, repeats=5, warmup=1)
    found = compare(tiny_bundle, [DemoSource(frames=1, width=64, height=48)], options)
    assert not found.latency.arithmetic.integer


def test_compare_mixes_backends_and_says_so(tiny_bundle, add_engine) -> None:
    records = {precision: add_engine(precision) for precision in ("fp16", "int8")}
    variants = ("ort:fp32", "trt:fp16", "trt:int8", "ort:int8")
    options = CompareOptions(variants=variants, memory=False, repeats=30, warmup=1, energy_s=0)
    found = compare(tiny_bundle, [DemoSource(frames=2, width=64, height=48)], options)
    assert found.backend == "ort, trt"
    assert {label: one.arithmetic.integer for label, one in found.about.items()} == {
        "ort:fp32": False,
        "trt:fp16": False,
        "trt:int8": True,
        "ort:int8": False,
    }
    plans = {label: cost.plan_bytes for label, cost in found.costs.items()}
    assert plans == {
        "ort:fp32": None,
        "trt:fp16": records["fp16"].plan_bytes,
        "trt:int8": records["int8"].plan_bytes,
        "ort:int8": None,
    }
    assert found.costs["trt:fp16"].onnx_bytes is None
    assert found.costs["trt:int8"].onnx_bytes == found.costs["ort:int8"].file_bytes
    assert any("the variants ran on different backends" in note for note in found.notes)
    # Only the INT8 whose arithmetic was 8-bit is judged by FP16, and only by that beside it.
    by_label = {one.variant: one for one in judgements(found)}
    assert by_label["trt:int8"].against == "trt:fp16"
    assert by_label["trt:int8"].speed != "unknown"
    assert (by_label["ort:int8"].against, by_label["ort:int8"].speed) == ("ort:fp32", "unknown")


def test_compare_says_build_where_one_engine_is_missing(tiny_bundle, add_engine) -> None:
    add_engine("fp32")
    with pytest.raises(EngineError, match="has no int8 engine; run: edge-fusion build"):
        compare(tiny_bundle, [DemoSource(frames=1)], CompareOptions(memory=False, repeats=0))
