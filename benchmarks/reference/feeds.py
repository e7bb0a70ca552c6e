"""Endless training batches: from the demo's procedural scenes, or from photographs."""

from __future__ import annotations

import multiprocessing
import queue
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_fusion.errors import StepError
from edge_fusion.preprocess import prepare
from edge_fusion.runtime.source.demo import DemoSource
from edge_fusion.spec import ModelSpec

from .data import Photographs, read_backgrounds, split
from .scenes import SceneMaker

#: rgb (n, 3, s, s), depth (n, 1, s, s) as the model takes them, mask (n, 1, s, s) in 0..1.
Batch = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]
Planes = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]  # of one sample

UNSEEN = 1 << 30  # demo seeds from here on are never trained on
MOMENTS = 300  # frames of one demo world to choose from: ten seconds
PER_WORLD = 4  # samples drawn from one demo world per batch
_AHEAD = 3  # batches a worker prepares in advance
_PATIENCE_S = 120.0
_GLANCE_S = 5.0  # how often an idle worker looks whether it is still needed


class Feed(Protocol):
    """Where training batches come from."""

    def batch(self, size: int, count: int) -> Batch:
        """The next ``count`` samples of ``size`` x ``size`` pixels."""

    def close(self) -> None:
        """Stop whatever works ahead."""


class DemoFeed:
    """Procedural scenes of the demo source; every batch from other worlds."""

    def __init__(self, spec: ModelSpec, seed: int) -> None:
        self._spec, self._scene = spec, seed * 1_000_003 % UNSEEN

    def batch(self, size: int, count: int) -> Batch:
        """The next samples, a few from each of the next worlds."""
        drawn: list[Planes] = []
        for first in range(0, count, PER_WORLD):
            few = min(PER_WORLD, count - first)
            drawn.extend(demo_samples(self._scene + first, few, size, self._spec))
        self._scene = (self._scene + count) % UNSEEN
        return _stack(drawn)

    def close(self) -> None:
        """Nothing works ahead."""


def demo_samples(scene: int, count: int, size: int, spec: ModelSpec) -> Iterator[Planes]:
    """``count`` moments of one random demo world, half of them mirrored.

    Several moments share a world because making its textures costs more than drawing it.

    Yields:
        rgb (3, s, s), depth (1, s, s) and mask (1, s, s), float32, as the model takes them.
    """
    rng = np.random.default_rng(scene)
    world = DemoSource(MOMENTS, scene, width=size * 4 // 3, height=size, noise="mixed")
    at_size = spec.model_copy(update={"height": size, "width": size})
    for moment in rng.choice(MOMENTS, size=count, replace=False):
        frame = world[int(moment)]
        inputs = prepare(frame, at_size)
        mask = cv2.resize(
            np.asarray(frame.mask, np.float32), (size, size), interpolation=cv2.INTER_AREA
        )
        step = -1 if rng.random() < 0.5 else 1
        yield (
            inputs[spec.rgb.name][0][..., ::step],
            inputs[spec.depth.name][0][..., ::step],
            np.asarray(mask, np.float32)[None, :, ::step],
        )


class PhotoFeed:
    """Photographs of the training split through :class:`SceneMaker`, endlessly, ever reshuffled.

    Args:
        data: The data folder; see :mod:`.data`.
        spec: The model's input record.
        seed: Seed of everything drawn.
        worker: (index, number of workers): takes every so-manieth photograph.
    """

    def __init__(
        self, data: Path, spec: ModelSpec, seed: int, worker: tuple[int, int] = (0, 1)
    ) -> None:
        index, workers = worker
        photos = Photographs(data / "train-rgb")
        names, _ = split(photos.ids)
        self._spec = spec
        self._rng = np.random.default_rng([seed, index])
        self._maker = SceneMaker(photos.read, names, read_backgrounds(data), spec)
        self._names = _reshuffled(names[index::workers], self._rng)

    def batch(self, size: int, count: int) -> Batch:
        """The next samples."""
        drawn: list[Planes] = []
        for _ in range(count):
            sample = self._maker.make(self._rng, next(self._names), size)
            rgb, depth = (sample.inputs[i.name][0] for i in (self._spec.rgb, self._spec.depth))
            drawn.append((rgb, depth, sample.mask[None]))
        return _stack(drawn)

    def close(self) -> None:
        """Nothing works ahead."""


class ParallelFeed:
    """:class:`PhotoFeed` in processes of its own, a few batches ahead of the training.

    Args:
        data: The data folder.
        spec: The model's input record.
        seed: Seed of everything drawn.
        workers: How many processes.
    """

    def __init__(self, data: Path, spec: ModelSpec, seed: int, workers: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._wanted: multiprocessing.Queue[tuple[int, int]] = context.Queue()
        self._made: multiprocessing.Queue[Batch | BaseException] = context.Queue()
        self._ordered = 0
        self._target = _AHEAD * workers
        self._processes = [
            context.Process(
                target=_work,
                args=(data, spec, seed, (index, workers), self._wanted, self._made),
                daemon=True,
            )
            for index in range(workers)
        ]
        for process in self._processes:
            process.start()

    def batch(self, size: int, count: int) -> Batch:
        """The next batch made; its size may be one that was asked for a few calls ago.

        Raises:
            StepError: A worker failed or fell silent.
        """
        while self._ordered <= self._target:
            self._wanted.put((size, count))
            self._ordered += 1
        try:
            made = self._made.get(timeout=_PATIENCE_S)
        except queue.Empty as err:
            raise StepError(
                "no training batch arrived", expected=f"one within {_PATIENCE_S:g} s"
            ) from err
        self._ordered -= 1
        if isinstance(made, BaseException):
            raise StepError("a process that makes training batches failed", got=repr(made))
        return made

    def close(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.terminate()
            process.join()


def _work(
    data: Path,
    spec: ModelSpec,
    seed: int,
    worker: tuple[int, int],
    wanted: multiprocessing.Queue[tuple[int, int]],
    made: multiprocessing.Queue[Batch | BaseException],
) -> None:
    cv2.setNumThreads(1)
    try:
        feed = PhotoFeed(data, spec, seed, worker)
        parent = multiprocessing.parent_process()
        while parent is not None and parent.is_alive():  # a killed training leaves nobody behind
            try:
                order = wanted.get(timeout=_GLANCE_S)
            except queue.Empty:
                continue
            made.put(feed.batch(*order))
    except Exception as err:  # the other side cannot see it otherwise
        made.put(err)


def open_feed(data: Path | None, spec: ModelSpec, seed: int, workers: int) -> Feed:
    """Photographs where there is a data folder, else the demo's scenes."""
    if data is None:
        return DemoFeed(spec, seed)
    return ParallelFeed(data, spec, seed, workers) if workers else PhotoFeed(data, spec, seed)


def _reshuffled(names: list[str], rng: np.random.Generator) -> Iterator[str]:
    while True:
        for index in rng.permutation(len(names)):
            yield names[index]


def _stack(drawn: list[Planes]) -> Batch:
    rgb, depth, mask = (np.stack(planes) for planes in zip(*drawn, strict=True))
    return rgb, depth, mask
