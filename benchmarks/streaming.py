"""What the streaming loop costs beside the model itself, everything in one run.

Three questions, each answered by rounds of the two things compared, one after the other, so that
what else the machine does strikes both:

- throughput: pairs a second of the whole loop over those of the model alone, with frames already in
  memory, for a model that sleeps 20 ms without the interpreter lock and for a bundle on ONNX
  Runtime;
- CPU time of preprocessing with either filling of holes, postprocessing, depth inset and overlay
  with its caption at 640x480: all that a video of overlays takes beside the model and the encoder;
- latency that the loop adds to the model at a camera's 30 frames per second.

    python -m benchmarks.streaming BUNDLE --json figures.json
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Annotated, Any, Literal

import cv2
import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.command import run
from edge_fusion.bundle import Bundle
from edge_fusion.files import write_bytes
from edge_fusion.frame import RgbdFrame
from edge_fusion.preprocess import prepare, saliency_plane
from edge_fusion.runtime.machine import machine_state
from edge_fusion.runtime.session import Session, open_session
from edge_fusion.runtime.sink.overlay import depth_inset, draw_overlay
from edge_fusion.runtime.source.demo import DemoSource
from edge_fusion.runtime.source.replay import ReplayOptions, replayed
from edge_fusion.runtime.stream import stream
from edge_fusion.spec import ModelSpec

MODEL_MS = 20.0
CAMERA_FPS = 30.0
PIECES = ("preprocessing", "postprocessing", "depth inset", "overlay")
DISTINCT = 16  # frames held in memory, played round and round


@dataclass(frozen=True, slots=True)
class Figure:
    """One question's answer.

    Attributes:
        name: What was measured.
        aim: What it should be, as text.
        median: Over the rounds.
        low: The least of them.
        high: The greatest.
        rounds: How many there were.
    """

    name: str
    aim: str
    median: float
    low: float
    high: float
    rounds: int

    @classmethod
    def of(cls, name: str, aim: str, values: Sequence[float]) -> Figure:
        """From one value a round."""
        middle = statistics.median(values)
        return cls(name, aim, middle, min(values), max(values), len(values))


class Sleeper:
    """A model that takes its time without the interpreter lock, as a GPU does."""

    def __init__(self, spec: ModelSpec) -> None:
        plane = np.full((1, 1, spec.height, spec.width), 0.5, np.float32)
        self._answer = {spec.output.name: plane}

    def run(self, inputs: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
        """One answer, 20 ms later."""
        time.sleep(MODEL_MS / 1000)
        return self._answer

    def close(self) -> None:
        """Nothing to free."""


class Memory:
    """Frames that are there already, played round and round."""

    live, uri = False, "memory://frames"

    def __init__(self, frames: Sequence[RgbdFrame], count: int) -> None:
        self._frames, self._count = frames, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> RgbdFrame:
        if not 0 <= index < self._count:
            raise IndexError(index)
        return self._frames[index % len(self._frames)]

    def frames(self) -> Iterator[RgbdFrame]:
        """Every one of them."""
        return islice(cycle(self._frames), self._count)


def alone_fps(session: Session, spec: ModelSpec, frames: Sequence[RgbdFrame], count: int) -> float:
    """Answers a second of the model alone, its inputs prepared beforehand."""
    inputs = [prepare(frame, spec) for frame in frames]
    began = time.perf_counter()
    for one in islice(cycle(inputs), count):
        session.run(one)
    return count / (time.perf_counter() - began)


def throughput(
    name: str,
    aim: float,
    session: Session,
    spec: ModelSpec,
    frames: Sequence[RgbdFrame],
    rounds: int,
) -> Figure:
    """Pairs a second of the loop over those of the model alone."""
    count = max(20, round(2 * alone_fps(session, spec, frames, 20)))  # about two seconds a round
    ratios = []
    for _ in track(range(rounds), description=name):
        alone = alone_fps(session, spec, frames, count)
        looped = stream(session, spec, Memory(frames, count), []).fps
        ratios.append(looped / alone)
    return Figure.of(f"{name}: stream / model alone, frames per second", f">= {aim}", ratios)


def answer_of(frame: RgbdFrame, spec: ModelSpec) -> NDArray[np.float32]:
    """What a good model says of a drawn frame."""
    assert frame.mask is not None
    sharp = cv2.resize(frame.mask.astype(np.float32), (spec.width, spec.height))
    return np.asarray(cv2.GaussianBlur(sharp, (0, 0), 1.5), np.float32)[None, None]


def processing(
    spec: ModelSpec, frames: Sequence[RgbdFrame], holes: Literal["zero", "nearest"], rounds: int
) -> list[Figure]:
    """CPU time of what a video of overlays takes beside model and encoder: in all, and by piece."""
    spec = spec.model_copy(update={"depth": spec.depth.model_copy(update={"holes": holes})})
    answers = {frame.id: answer_of(frame, spec) for frame in frames}

    def pieces(frame: RgbdFrame) -> list[float]:
        began = time.process_time()
        prepare(frame, spec)
        prepared = time.process_time()
        plane = saliency_plane(answers[frame.id], spec)
        checked = time.process_time()
        inset = depth_inset(frame)
        coloured = time.process_time()
        # As the loop gives it to a sink that only paints: the map at the model's own size.
        draw_overlay(frame.rgb, plane, inset=inset, caption=frame.id)
        drawn = time.process_time()
        return list(np.diff([began, prepared, checked, coloured, drawn]))

    spent = [
        1e3 * np.mean([pieces(frame) for frame in frames], axis=0)
        for _ in track(range(4 * rounds + 1), description="processing")
    ][1:]
    by_piece = dict(zip(PIECES, np.transpose(spent).tolist(), strict=True))
    of, where = Figure.of, f"at 640x480, holes {holes}, CPU ms"
    return [
        of(f"preprocessing to picture {where}", "<= 1.5", np.sum(spent, axis=1).tolist()),
        *(of(f"  {name} {where}", "", values) for name, values in by_piece.items()),
    ]


def added_latency(spec: ModelSpec, frames: Sequence[RgbdFrame], rounds: int) -> Figure:
    """Latency at p50 beyond that of the model, at a camera's pace."""
    session, values = Sleeper(spec), []
    for _ in track(range(rounds), description="latency"):
        camera = replayed(Memory(frames, 60), ReplayOptions(pace=CAMERA_FPS))
        summary = stream(session, spec, camera, [])
        values.append(summary.latency.p50_ms - summary.stages["infer"].p50_ms)
    return Figure.of("latency beyond the model's at 30 fps, p50 ms", "<= 5", values)


def measure(bundle: Bundle, rounds: int) -> list[Figure]:
    """Every figure; OpenCV in one thread, as ``run`` has it."""
    cv2.setNumThreads(1)
    spec = bundle.manifest.model
    frames = [DemoSource(DISTINCT)[index] for index in range(DISTINCT)]
    figures = [
        throughput("20 ms model", 0.95, Sleeper(spec), spec, frames, rounds),
        *processing(spec, frames, "zero", rounds),
        *processing(spec, frames, "nearest", rounds),
        added_latency(spec, frames, rounds),
    ]
    with closing(open_session(bundle, "int8", "ort")) as session:
        figures.append(throughput("ONNX Runtime INT8", 0.90, session, spec, frames, rounds))
    return figures


def main(
    bundle: Path,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of every measurement.")] = 7,
    json_to: Annotated[Path | None, typer.Option("--json", help="Write the figures.")] = None,
) -> None:
    """Measure what the loop costs beside the model."""
    figures = measure(Bundle.read(bundle), rounds)
    table = Table("", "aim", "median", "least", "greatest", "rounds")
    for one in figures:
        shown = (f"{value:.3f}" for value in (one.median, one.low, one.high))
        table.add_row(one.name, one.aim, *shown, str(one.rounds))
    Console(width=130).print(table)
    if json_to is not None:
        state: dict[str, Any] = {
            "machine": asdict(machine_state()),
            "figures": list(map(asdict, figures)),
        }
        write_bytes(json_to, json.dumps(state, indent=1, default=str).encode(), "the figures")


if __name__ == "__main__":
    run(main)
