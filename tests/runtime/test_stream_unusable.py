"""Frames that cannot be used: dropped, counted by reason, and no end of the run."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_fusion.errors import (
    FrameError,
    SourceError,
)
from edge_fusion.frame import RgbdFrame
from edge_fusion.runtime.stream import StreamOptions, stream
from edge_fusion.spec import DepthInput, DepthSpec
from tests.fakes.stream import (
    SPEC,
    WAIT_S,
    Collect,
    FakeSession,
    Live,
    Stored,
    Tensors,
    frame,
)

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


UNUSABLE: list[tuple[RgbdFrame | FrameError, str]] = [
    (frame(1, depth_mm=0), "no valid depth"),
    # the id is not part of the reason: a thousand bad files are one line
    (FrameError("depth of 'f1' does not fit"), "unusable frame: depth does not fit"),
]


@pytest.mark.parametrize(("bad", "reason"), UNUSABLE)
def test_an_unusable_frame_is_counted_and_the_run_goes_on(
    bad: RgbdFrame | FrameError, reason: str
) -> None:
    sink = Collect()
    summary = stream(FakeSession(), SPEC, Stored([frame(0), bad, frame(2), bad]), [sink])
    assert sink.numbers == [0, 2]
    assert (summary.captured, summary.drops) == (4, {reason: 2})
    assert len(summary.problems) == 2
    assert "'f1'" in summary.problems[0]


def test_an_unusable_output_is_counted() -> None:
    class Overflowing(FakeSession):
        def run(self, inputs: Mapping[str, NDArray[np.float32]]) -> Tensors:
            outputs = super().run(inputs)
            if self.count == 2:
                outputs["saliency"][:] = np.nan
            return outputs

    sink = Collect()
    summary = stream(Overflowing(), SPEC, Stored([frame(n) for n in range(3)]), [sink])
    assert sink.numbers == [0, 2]
    assert summary.drops == {"unusable output: the model's output holds NaN or infinity": 1}


def test_a_wrong_unit_is_told_instead_of_an_empty_result() -> None:
    spec = SPEC.model_copy(update={"depth": DepthInput(normalisation="linear")})
    relative = RgbdFrame(
        np.zeros((24, 32, 3), np.uint8),
        np.ones((24, 32), np.uint8),
        DepthSpec(scale_to_m=None),
        "r",
    )
    sink = Collect()
    with pytest.raises(SourceError, match="not one frame of 'memory://stored'") as caught:
        stream(FakeSession(), spec, Stored([relative] * 3), [sink])
    assert "3 x unusable frame: depth: the model takes depth in metres" in str(caught.value)
    assert "declare the source's unit" in str(caught.value)
    assert isinstance(caught.value.__cause__, FrameError)
    assert sink.closed == 1


def test_an_empty_source_is_an_error() -> None:
    with pytest.raises(SourceError, match="'memory://stored' delivered nothing"):
        stream(FakeSession(), SPEC, Stored([]), [])


def test_a_hopeless_live_source_is_given_up() -> None:
    def camera() -> Iterator[RgbdFrame]:
        number = 0
        while True:
            time.sleep(0.001)
            yield frame(number, depth_mm=0)
            number += 1

    with pytest.raises(SourceError, match="no valid depth"):
        stream(FakeSession(), SPEC, Live(camera), [], StreamOptions(give_up_after=5))


def test_bad_frames_after_a_good_one_do_not_end_the_run() -> None:
    items = [frame(0), *(frame(n, depth_mm=0) for n in range(1, 20)), frame(20)]
    sink = Collect()
    stream(FakeSession(), SPEC, Stored(items), [sink], StreamOptions(give_up_after=5))
    assert sink.numbers == [0, 20]


def test_an_iterator_goes_on_after_an_unusable_frame() -> None:
    taken = threading.Event()

    class Camera:
        number = -1

        def __iter__(self) -> Camera:
            return self

        def __next__(self) -> RgbdFrame:
            self.number += 1
            if self.number == 1:
                raise FrameError("colour of 'f1'", cure="wipe the lens")
            if self.number == 3:
                raise StopIteration
            if self.number == 2:
                assert taken.wait(WAIT_S)  # or it would overtake the first
            return frame(self.number)

    sink = Collect()
    summary = stream(FakeSession(lambda count: taken.set()), SPEC, Live(Camera), [sink])
    assert (sink.numbers, summary.captured) == ([0, 2], 3)
    assert summary.drops == {"unusable frame: colour": 1}


def test_a_generator_that_raised_is_at_its_end_and_says_why() -> None:
    error = FrameError("colour of 'f1'", cure="wipe the lens")

    def camera() -> Iterator[RgbdFrame]:
        yield frame(0)
        raise error

    sink = Collect()
    with pytest.raises(FrameError) as caught:
        stream(FakeSession(), SPEC, Live(camera), [sink])
    assert caught.value is error
    assert sink.numbers == [0]
