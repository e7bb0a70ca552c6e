"""Engines on TensorRT: every version and both kinds of GPU by fakes that really compute."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_fusion.errors import SessionError
from edge_fusion.runtime import trt
from edge_fusion.runtime.golden import check_golden
from edge_fusion.runtime.ort import OrtSession
from edge_fusion.runtime.session import Session
from edge_fusion.runtime.trt import TrtSession
from edge_fusion.runtime.trt_api import load_tensorrt
from edge_fusion.spec import DepthInput, ModelSpec
from tests.fakes.cudart import FakeCuda
from tests.fakes.tensorrt_api import VERSIONS, Plan, pack_plan

TINY = ModelSpec(name="tiny", height=32, width=32)
Open = Callable[..., TrtSession]


@pytest.fixture(params=[True, False], ids=["integrated", "discrete"])
def cuda(request, fake_cuda) -> FakeCuda:
    made: FakeCuda = fake_cuda(integrated=request.param)
    return made


@pytest.fixture
def open_plan(cuda, fake_tensorrt, tiny_models) -> Open:
    """Opens a plan of a tiny model; keyword arguments change the plan."""

    def opener(
        version: str = "10.3", spec: ModelSpec = TINY, variant: str = "fp32", **changes: object
    ) -> TrtSession:
        fake_tensorrt(version)
        fields = {"version": VERSIONS[version], "sm": "8.7", "precision": variant, **changes}
        plan = Plan(onnx=tiny_models["int8" if variant == "int8" else "fp32"], **fields)
        return TrtSession(pack_plan(plan), spec, cuda, load_tensorrt())

    return opener


@pytest.fixture
def inputs() -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(0)
    return {
        "rgb": rng.normal(size=(1, 3, 32, 32)).astype(np.float32),
        "depth": rng.random((1, 1, 32, 32), np.float32),
    }


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_gives_what_onnx_runtime_gives(
    open_plan, tiny_models, inputs, version
) -> None:
    with open_plan(version) as session, OrtSession(tiny_models["fp32"], threads=1) as reference:
        for shift in (0.0, 0.5):
            moved = {name: value + np.float32(shift) for name, value in inputs.items()}
            got, wanted = session.run(moved), reference.run(moved)
            assert list(got) == ["saliency"]
            np.testing.assert_array_equal(got["saliency"], wanted["saliency"])


@pytest.mark.parametrize("variant", ["fp32", "fp16", "int8"])
def test_golden_outputs_are_met(open_plan, tiny_bundle, variant) -> None:
    with open_plan(variant=variant) as session:
        check = check_golden(tiny_bundle, session, variant)
    assert check.passed
    if variant == "fp16":
        assert check.mean_abs > 0  # it did round


def test_a_frame_is_one_graph_and_an_integrated_gpu_copies_nothing(open_plan, cuda, inputs) -> None:
    with open_plan() as session:
        integrated = cuda._device.integrated
        assert ("malloc" in cuda.calls) is not integrated
        execution = session.execution
        assert (execution.launch, execution.reason) == ("graph", "")
        cuda.calls.clear()
        session.run(inputs)
        assert cuda.calls == ["launch", "synchronize"]
    assert execution.memory == ("unified" if integrated else "copied")
    words = f"TensorRT 10.3.0.30 on Orin, CUDA graph, {execution.memory} memory"
    assert execution.text == words


def test_where_a_graph_cannot_be_recorded_the_reason_is_kept(
    open_plan, cuda, tiny_models, inputs
) -> None:
    with open_plan(capturable=False) as session, OrtSession(tiny_models["fp32"]) as reference:
        execution = session.execution
        assert execution.launch == "enqueue"
        assert "operation not permitted when stream is capturing" in execution.reason
        assert f"no CUDA graph ({execution.reason})" in execution.text
        cuda.calls.clear()
        got = session.run(inputs)
        np.testing.assert_array_equal(got["saliency"], reference.run(inputs)["saliency"])
    copies = [call for call in cuda.calls if call.startswith("copy")]
    expected = [] if cuda._device.integrated else ["copy_in", "copy_in", "copy_out"]
    assert copies == expected


def test_a_capture_that_fails_at_its_end_is_a_reason_too(open_plan, cuda, monkeypatch) -> None:
    end = cuda.end_capture

    def refuse(stream: int) -> int:
        cuda.destroy_graph(end(stream))
        raise SessionError("CUDA failed to end a capture", got="invalidated (error 901)")

    monkeypatch.setattr(cuda, "end_capture", refuse)
    with open_plan() as session:
        assert session.execution.launch == "enqueue"
        assert "invalidated (error 901)" in session.execution.reason


def test_outputs_are_arrays_of_their_own(open_plan, inputs) -> None:
    with open_plan() as session:
        first = session.run(inputs)["saliency"]
        kept = first.copy()
        second = session.run({name: -value for name, value in inputs.items()})["saliency"]
        np.testing.assert_array_equal(first, kept)
        assert not np.array_equal(first, second)
    assert first.flags.owndata
    assert first.dtype == np.float32
    np.testing.assert_array_equal(first, kept)  # also after the memory went back


def test_inputs_need_not_lie_in_one_piece(open_plan, inputs) -> None:
    strided = {name: np.repeat(value, 2, axis=3)[..., ::2] for name, value in inputs.items()}
    assert not strided["rgb"].flags.c_contiguous
    with open_plan() as session:
        np.testing.assert_array_equal(
            session.run(strided)["saliency"], session.run(inputs)["saliency"]
        )


def test_it_fits_the_port_and_a_closed_one_refuses(open_plan, cuda, inputs) -> None:
    session: Session = open_plan()
    session.run(inputs)
    session.close()
    session.close()  # closing twice is harmless
    with pytest.raises(SessionError, match="the session is closed; open another one"):
        session.run(inputs)
    cuda.close()  # asserts that everything went back


WRONG_INPUTS = [
    ("depth", np.zeros((1, 32, 32), np.float32), "add a channel axis: value[:, None]"),
    ("rgb", np.zeros((1, 32, 32, 3), np.float32), "value.transpose(0, 3, 1, 2)"),
    ("rgb", np.zeros((1, 3, 32, 32), np.float64), "convert it with .astype('float32')"),
]


@pytest.mark.parametrize(("name", "value", "cure"), WRONG_INPUTS)
def test_wrong_inputs_are_named_as_everywhere(
    open_plan, tiny_models, inputs, name, value, cure
) -> None:
    said = []
    for session in (open_plan(), OrtSession(tiny_models["fp32"], threads=1)):
        with session, pytest.raises(SessionError) as caught:
            session.run(inputs | {name: value})
        said.append(str(caught.value))
    assert cure in said[0]
    assert said[0] == said[1]


def test_missing_and_unknown_inputs_are_named(open_plan, inputs) -> None:
    with open_plan() as session:
        with pytest.raises(SessionError, match=r"input 'depth' is missing.*got only 'rgb'"):
            session.run({"rgb": inputs["rgb"]})
        with pytest.raises(SessionError, match=r"no input 'thermal'"):
            session.run(inputs | {"thermal": inputs["depth"]})


MISFITS = [
    ({"spec": ModelSpec(name="m", height=64, width=32)}, r"'rgb': expected \(1, 3, 64, 32\) FLOAT"),
    (
        {"spec": TINY.model_copy(update={"depth": DepthInput(name="thermal")})},
        "of another model: expected inputs rgb, thermal and output saliency, got inputs rgb, depth",
    ),
    ({"dtypes": {"depth": "HALF"}}, r"'depth': expected \(1, 1, 32, 32\) FLOAT, got .* HALF"),
    ({"dtypes": {"saliency": "HALF"}}, r"'saliency': expected \(1, 1, height, width\) FLOAT"),
    ({"sm": "9.0"}, "refused the plan: got .*expecting compute 8.7 got compute 9.0.*; build the"),
    ({"version": "10.7.0.23"}, "refused the plan: got .*expecting library version 10.3.0.30"),
    ({"host_code": True}, "refused the plan: got .*host code is not allowed"),
]


@pytest.mark.parametrize(("changes", "says"), MISFITS)
def test_what_does_not_fit_is_refused_by_name_and_leaves_nothing(
    cuda, fake_tensorrt, tiny_models, changes, says
) -> None:
    fake_tensorrt("10.3")
    spec = changes.get("spec", TINY)
    fields = {"version": "10.3.0.30", "sm": "8.7", **changes}
    fields.pop("spec", None)
    plan = pack_plan(Plan(onnx=tiny_models["fp32"], **fields))
    with pytest.raises(SessionError, match=says):
        TrtSession(plan, spec, cuda, load_tensorrt())
    cuda.close()


def test_garbage_is_refused_with_what_tensorrt_said(cuda, fake_tensorrt) -> None:
    fake_tensorrt("10.3")
    for plan in (b"", b"no plan"):
        with pytest.raises(SessionError, match="refused the plan: got .*magicTag"):
            TrtSession(plan, TINY, cuda, load_tensorrt())


def test_a_machine_without_a_driver_is_said(cuda, fake_tensorrt) -> None:
    fake_tensorrt("10.3", None)
    with pytest.raises(SessionError, match="does not start.*CUDA initialization failure.*doctor"):
        TrtSession(b"", TINY, cuda, load_tensorrt())


FAILING = ["host_alloc", "stream", "launch", "synchronize"]


@pytest.mark.parametrize("name", FAILING)
def test_a_failure_on_the_way_in_leaves_nothing(open_plan, cuda, monkeypatch, name) -> None:
    real = getattr(cuda, name)

    def fail(*arguments: object, **options: object) -> None:
        if name == "synchronize":
            real(*arguments)
        raise SessionError("CUDA failed", got="stub error (error 700)")

    monkeypatch.setattr(cuda, name, fail)
    with pytest.raises(SessionError, match="error 700"):
        open_plan()
    cuda.close()


def test_a_failure_while_running_is_said_and_everything_is_freed(
    open_plan, cuda, inputs, monkeypatch
) -> None:
    session = open_plan(capturable=False)
    monkeypatch.setattr(type(session._context), "execute_async_v3", lambda self, stream: False)
    with session, pytest.raises(SessionError, match="TensorRT refused to run the engine"):
        session.run(inputs)
    cuda.close()


@pytest.mark.parametrize("version", VERSIONS)
def test_the_inspector_is_asked_through_the_session(open_plan, version) -> None:
    layers = ({"Name": "rgb/Conv", "LayerType": "CaskConvolution"},)
    with open_plan(version, layers=layers) as session:
        assert json.loads(session.inspect())["Layers"] == list(layers)
    with pytest.raises(SessionError, match="the session is closed"):
        session.inspect()


def test_an_engine_that_cannot_be_inspected_is_said(open_plan) -> None:
    with open_plan() as session:
        session._engine = SimpleNamespace(create_engine_inspector=lambda: None)
        with pytest.raises(SessionError, match="could not inspect the engine: got no reason given"):
            session.inspect()


class Slow:
    """A CUDA runtime whose next wait lasts until it is told to go on."""

    def __init__(self, cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
        self.waiting, self.go_on = threading.Event(), threading.Event()
        wait = cuda.synchronize

        def synchronize(stream: int) -> None:
            if not self.waiting.is_set():
                self.waiting.set()
                self.go_on.wait(10)
            wait(stream)

        monkeypatch.setattr(cuda, "synchronize", synchronize)


def test_closing_waits_for_the_frame_of_another_thread(
    open_plan, cuda, inputs, monkeypatch, tiny_models
) -> None:
    session = open_plan()
    with OrtSession(tiny_models["fp32"], threads=1) as reference:
        wanted = reference.run(inputs)["saliency"]
    slow = Slow(cuda, monkeypatch)
    with ThreadPoolExecutor() as pool:
        frame = pool.submit(session.run, inputs)
        assert slow.waiting.wait(5)
        closing = pool.submit(session.close)
        assert not closing.done()
        slow.go_on.set()
        np.testing.assert_array_equal(frame.result(5)["saliency"], wanted)
        closing.result(5)
    with pytest.raises(SessionError, match="closed"):
        session.run(inputs)


def test_a_frame_that_does_not_end_keeps_its_memory(open_plan, cuda, inputs, monkeypatch) -> None:
    monkeypatch.setattr(trt, "_LAST_FRAME_S", 0.05)
    session = open_plan()
    slow = Slow(cuda, monkeypatch)
    with ThreadPoolExecutor() as pool:
        frame = pool.submit(session.run, inputs)
        assert slow.waiting.wait(5)
        with pytest.warns(ResourceWarning, match="still at a frame after 0.05 s"):
            session.close()
        slow.go_on.set()
        assert frame.result(5)
    session.close()


@pytest.fixture
def break_down(cuda, monkeypatch) -> Iterator[Callable[[], None]]:
    """Once called, nothing can be waited for or freed any more; the test's end mends it."""
    broken = threading.Event()
    for name, what in (("synchronize", "wait"), ("host_free", "free")):
        sound = getattr(cuda, name)

        def fails(*arguments: object, sound=sound, what=what) -> None:
            sound(*arguments)
            if broken.is_set():
                raise SessionError(f"CUDA failed to {what}")

        monkeypatch.setattr(cuda, name, fails)
    yield broken.set
    broken.clear()


def test_the_first_failure_is_the_one_that_is_told(open_plan, inputs, break_down) -> None:
    session = open_plan()
    break_down()
    with pytest.raises(SessionError, match="CUDA failed to wait"), session:
        session.run(inputs)


def test_a_failure_to_free_is_told_where_nothing_failed_before(open_plan, break_down) -> None:
    session = open_plan()
    break_down()
    with pytest.raises(SessionError, match="CUDA failed to free"):
        session.close()


def test_a_failure_while_opening_is_not_hidden_by_one_while_freeing(open_plan, break_down) -> None:
    break_down()
    with pytest.raises(SessionError, match="CUDA failed to wait"):
        open_plan()
