"""Evidence: what is measured, what is recorded as a problem, and what must not be in it."""

from __future__ import annotations

import json
import platform
import socket
from pathlib import Path
from typing import Any

import pytest

from edge_fusion.bundle import Bundle
from edge_fusion.engine import (
    EngineDevice,
    EngineOptions,
    LayerSummary,
    write_engine,
)
from edge_fusion.errors import OutputError, SessionError, SourceError
from edge_fusion.runtime import surroundings
from edge_fusion.runtime.evidence import EvidenceOptions, collect_evidence, write_evidence
from edge_fusion.runtime.ort import OrtSession
from edge_fusion.runtime.session import Execution, Session
from edge_fusion.runtime.surroundings import Doors, EngineState, PackageState
from tests.fakes.engine_records import record_of

QUICK = EvidenceOptions(limit=2, warmup=1, repeats=1)
BUILT = "2026-11-22T10:00:00+00:00"


def closed(*_: object) -> Any:
    raise SessionError("there is no GPU")


NO_GPU = Doors(closed, closed, closed)


class EngineOnTheCpu(OrtSession):
    """What an engine would answer, and what it would say of itself."""

    execution = Execution("graph", "unified", "", "10.3.0.30", "Orin", plan_bytes=4)


def on_the_cpu(bundle: Bundle, precision: str, backend: str) -> Session:
    """Every backend on ONNX Runtime; an FP16 engine gives what FP32 gives."""
    model = bundle.model_bytes("fp32" if precision == "fp16" else precision)
    return EngineOnTheCpu(model) if backend == "trt" else OrtSession(model)


def put_engine(bundle: Bundle) -> None:
    device = EngineDevice(name="Orin", sm="8.7", sm_count=8, tensorrt="10.3.0.30")
    options = EngineOptions(precision="int8", flavour="strong")
    file = bundle.manifest.variants["int8"]
    summary = LayerSummary(layers={"int8": 64, "fp16": 12}, int8_mac_share=0.9)
    record = record_of(bundle, file, b"plan", device, options, created_utc=BUILT, summary=summary)
    write_engine(bundle, record, b"plan", "{}")


def test_a_cpu_machine_records_onnx_runtime_alone(tiny_bundle: Bundle) -> None:
    evidence = collect_evidence(tiny_bundle, options=QUICK, doors=NO_GPU)
    assert evidence["schema_version"] == 1
    assert [(run["backend"], run["precision"]) for run in evidence["runs"]] == [
        ("ort", "fp32"),
        ("ort", "int8"),
    ]
    assert all(run["self_check"]["passed"] for run in evidence["runs"])
    assert evidence["runs"][1]["self_check"]["tolerance"] == 1e-2
    assert list(evidence["measured"]) == ["ort"]
    measured = evidence["measured"]["ort"]
    assert measured["reference"] == "fp32"
    assert measured["pooled"]["pairs"] == 2
    assert 0 < measured["pooled"]["differences"]["int8"]["mean_abs"] < 0.1
    for precision in ("fp32", "int8"):
        figures = measured["latency"]["inference"][precision]
        assert 0 < figures["p50_ms"] <= figures["p90_ms"] <= figures["p99_ms"]
        assert "samples_ms" not in figures
    assert evidence["engines"] == []
    assert evidence["data_is_invented"] is True
    assert evidence["versions"]["tensorrt"] == "absent"
    assert evidence["doctor"]["facts"]["GPU"] == "none: there is no GPU"
    assert evidence["bundle"]["sha256"] == {
        name: entry.sha256 for name, entry in tiny_bundle.manifest.files.items()
    }


def test_a_set_of_pairs_gives_accuracy(tiny_bundle: Bundle, pairs: Path) -> None:
    evidence = collect_evidence(tiny_bundle, [str(pairs)], QUICK, doors=NO_GPU)
    assert evidence["data_is_invented"] is False
    (one,) = evidence["measured"]["ort"]["sets"]
    assert one["pairs"] == 2
    assert set(one["scores"]) == {"fp32", "int8"}


@pytest.fixture
def with_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which FP16 and INT8 engines fit."""
    real = surroundings._bundle_state

    def state(*arguments: Any) -> Any:
        found, problem = real(*arguments)
        assert found is not None
        fits = EngineState("built", BUILT)
        engines = {"fp32": EngineState("absent"), "fp16": fits, "int8": fits}
        return surroundings.BundleState(
            found.model, found.target, found.precision, found.flavours, engines
        ), problem

    monkeypatch.setattr(surroundings, "_bundle_state", state)


@pytest.mark.usefixtures("with_engines")
def test_engines_are_checked_and_their_records_kept(tiny_bundle: Bundle) -> None:
    put_engine(tiny_bundle)
    evidence = collect_evidence(tiny_bundle, options=QUICK, doors=NO_GPU, open_session=on_the_cpu)
    runs = {(run["backend"], run["precision"]): run["self_check"] for run in evidence["runs"]}
    assert set(runs) == {("ort", "fp32"), ("ort", "int8"), ("trt", "fp16"), ("trt", "int8")}
    assert all(check["passed"] for check in runs.values())
    measured = evidence["measured"]["trt"]
    assert measured["reference"] == "fp16"
    assert measured["file_bytes"] == {"fp16": 4, "int8": 4}
    assert "CUDA graph" in measured["latency"]["arithmetic"]["text"]
    (engine,) = evidence["engines"]
    assert engine["summary"] == {"layers": {"int8": 64, "fp16": 12}, "int8_mac_share": 0.9}
    assert engine["device"]["tensorrt"] == "10.3.0.30"


@pytest.mark.usefixtures("with_engines")
def test_a_backend_that_fails_is_recorded_and_stops_nothing(tiny_bundle: Bundle) -> None:
    def broken_engines(bundle: Bundle, precision: str, backend: str) -> Session:
        if backend == "trt":
            raise SessionError(f"cannot load {bundle.path}/engines/x/model.plan", cure="build it")
        return on_the_cpu(bundle, precision, backend)

    evidence = collect_evidence(
        tiny_bundle,
        options=QUICK,
        doors=NO_GPU,
        open_session=broken_engines,
        problems={"build fp16": f"out of memory in {tiny_bundle.path}"},
    )
    runs = {(run["backend"], run["precision"]): run["self_check"] for run in evidence["runs"]}
    assert runs["ort", "int8"]["passed"]
    assert runs["trt", "int8"] == {"problem": "cannot load tiny/engines/x/model.plan; build it"}
    assert "cannot load" in evidence["measured"]["trt"]["problem"]
    assert evidence["problems"] == {"build fp16": "out of memory in tiny"}


def test_one_precision_alone_is_still_timed(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        surroundings, "_onnxruntime", lambda: PackageState(None, "No module named 'onnxruntime'")
    )
    real = surroundings._bundle_state

    def state(*arguments: Any) -> Any:
        found, problem = real(*arguments)
        assert found is not None
        engines = {"int8": EngineState("built", BUILT)}
        return surroundings.BundleState(
            found.model, found.target, found.precision, found.flavours, engines
        ), problem

    monkeypatch.setattr(surroundings, "_bundle_state", state)
    evidence = collect_evidence(tiny_bundle, options=QUICK, doors=NO_GPU, open_session=on_the_cpu)
    assert list(evidence["measured"]) == ["trt"]
    assert evidence["measured"]["trt"]["latency"]["inference"]["int8"]["p50_ms"] > 0


def test_an_output_that_is_none_does_not_pass_and_is_json(tiny_bundle: Bundle) -> None:
    class Broken:
        def run(self, inputs: Any) -> Any:
            return {"saliency": inputs["depth"] * float("nan")}

        def close(self) -> None:
            pass

    evidence = collect_evidence(
        tiny_bundle, options=QUICK, doors=NO_GPU, open_session=lambda *_: Broken()
    )
    check = evidence["runs"][0]["self_check"]
    assert (check["passed"], check["mean_abs"]) == (False, None)
    assert "problem" in evidence["measured"]["ort"]
    json.dumps(evidence, allow_nan=False)


def test_nothing_tells_whose_machine_it_was(
    tiny_bundle: Bundle, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HOSTNAME", "USER", "LOGNAME"):
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("HOME", "/home/secret")
    monkeypatch.setattr(socket, "gethostname", lambda: "secret")
    monkeypatch.setattr(platform, "node", lambda: "secret")
    folder = tmp_path / "secret folder with blanks"
    folder.mkdir()
    bundle = Bundle.read(tiny_bundle.path.rename(folder / "bundle"))
    data = pairs.rename(folder / "pairs")
    put_engine(bundle)
    failed = {
        "build": f"cannot write {bundle.path}/engines, see /home/secret/log.txt",
        "login": "ssh://secret@secret/x of secret in /home/secret",
    }
    evidence = collect_evidence(bundle, [f"folder://{data}"], QUICK, problems=failed, doors=NO_GPU)
    text = json.dumps(evidence)
    assert "secret" not in text
    assert str(tmp_path.parent) not in text
    assert str(Path.cwd()) not in text
    assert evidence["problems"] == {
        "build": "cannot write bundle/engines, see log.txt",
        "login": "ssh://user@host/x of host in ~",  # user and host have one name here
    }


def test_a_damaged_record_is_a_problem_and_costs_nothing_else(tiny_bundle: Bundle) -> None:
    put_engine(tiny_bundle)
    (record,) = (tiny_bundle.path / "engines").glob("*/build.json")
    record.write_text("{")
    evidence = collect_evidence(
        tiny_bundle, options=QUICK, doors=NO_GPU, problems={"build fp16": "no memory"}
    )
    assert evidence["engines"] == []
    assert evidence["runs"][0]["self_check"]["passed"]
    assert evidence["problems"]["build fp16"] == "no memory"
    assert "build.json is damaged" in evidence["problems"]["engines"]


def test_a_set_that_is_missing_is_an_error_before_anything_runs(tiny_bundle: Bundle) -> None:
    with pytest.raises(SourceError, match="nowhere"):
        collect_evidence(tiny_bundle, ["nowhere"], QUICK, doors=NO_GPU)


def test_evidence_is_written_whole_or_not_at_all(tiny_bundle: Bundle, tmp_path: Path) -> None:
    evidence = collect_evidence(tiny_bundle, options=QUICK, doors=NO_GPU)
    write_evidence(tmp_path / "out" / "evidence.json", evidence)
    assert json.loads((tmp_path / "out" / "evidence.json").read_text()) == evidence
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write the evidence"):
        write_evidence(tmp_path / "file" / "evidence.json", evidence)
