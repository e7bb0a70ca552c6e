"""Run variants side by side: accuracy, agreement, latency, size, memory and energy.

Accuracy comes from one run of every variant on every pair.  Latency is measured apart from it, in
turns on a handful of inputs (:mod:`edge_fusion.runtime.latency`), energy without a pause where
power can be read (:mod:`edge_fusion.runtime.energy_probe`), and memory in a process of its own for
each variant (:mod:`edge_fusion.runtime.memory_probe`), so that nothing hides in anything else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_fusion.bundle import Bundle
from edge_fusion.errors import FrameError, InputError
from edge_fusion.frame import RgbdFrame
from edge_fusion.preprocess import Inputs, prepare, saliency_map

from .accuracy import judge, no_map, summarise
from .candidates import Candidate, Opener, resolve, sessions_of
from .comparison import Comparison, ImageResult, VariantCost, VariantInfo
from .comparison_notes import notes_of
from .energy import Energy
from .energy_probe import measure_energy
from .latency import Arithmetic, Latency, measure_latency
from .machine import MachineWatch, machine_state
from .memory_probe import peak_memory
from .panels import PanelPicker, draw_pictures
from .references import parse_variants
from .session import Session, execution_of, open_session
from .source.base import StoredSource
from .source.uri import open_stored

#: Told parts done, parts in all and what is happening.
Progress = Callable[[int, int, str], None]
Maps = dict[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class CompareOptions:
    """What to compare and how hard to measure.

    Attributes:
        variants: The reference first, then what is held against it, each as
            :mod:`edge_fusion.runtime.references` says: of the bundle, of other bundles, or plain
            ONNX files; on TensorRT ``fp16`` too.
        backend: Where those run that name no backend; see
            :func:`edge_fusion.runtime.session.open_session`.
        limit: Pairs taken from each set, from its start; None takes all.
        warmup: Untimed runs of each variant before the timed ones.
        repeats: Timed runs of each variant; 0 leaves latency and energy out.
        latency_inputs: Pairs, spread over the sets, that latency is measured on.
        memory: Whether to measure memory, which starts one process for each variant.
        energy_s: Where power can be read, seconds that each variant runs for its energy; 0: not.
        worst: Pictures kept of the most degraded pairs.
        typical: Pictures kept of typical pairs.
        arithmetic: What the backend runs INT8 with, where the caller knows better than
            :data:`edge_fusion.runtime.latency.ARITHMETIC`.

    Raises:
        InputError: A number is out of range, or fewer than two variants, or two that cannot be
            told apart.
    """

    variants: tuple[str, ...] = ("fp32", "int8")
    backend: str = "auto"
    limit: int | None = None
    warmup: int = 5
    repeats: int = 100
    latency_inputs: int = 4
    memory: bool = True
    energy_s: float = 4.0
    worst: int = 10
    typical: int = 4
    arithmetic: Arithmetic | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        """What the variants are called, the reference first."""
        return tuple(one.label for one in parse_variants(self.variants))

    def __post_init__(self) -> None:
        parse_variants(self.variants)
        least = {
            "warmup": 1, "repeats": 0, "latency_inputs": 1, "energy_s": 0, "worst": 0, "typical": 0
        }  # fmt: skip
        values = {name: getattr(self, name) for name in least}
        if self.limit is not None:
            least, values = {**least, "limit": 1}, {**values, "limit": self.limit}
        for name, value in values.items():
            if not value >= least[name]:
                raise InputError(name, expected=f"{least[name]} or more", got=str(value))


DEFAULT_OPTIONS = CompareOptions()


def compare_bundle(
    path: Path,
    data: Sequence[str],
    options: CompareOptions = DEFAULT_OPTIONS,
    progress: Progress | None = None,
) -> Comparison:
    """Open a bundle and sets of pairs, and compare the bundle's variants on them.

    Args:
        path: A bundle's folder or ``.tar``.
        data: Folders or URIs of stored sources.
        options: What to compare and how hard to measure.
        progress: As for :func:`compare`.

    Raises:
        BundleError: The bundle is missing or damaged.
        InputError: As for :func:`compare`, and with it SourceError, FrameError and SessionError.
    """
    bundle = Bundle.read(path)
    return compare(bundle, [open_stored(uri) for uri in data], options, progress)


def candidates_of(path: Path, options: CompareOptions) -> tuple[Candidate, ...]:
    """What would be compared: found, but not opened.

    Args:
        path: A bundle's folder or ``.tar``.
        options: What to compare.

    Raises:
        BundleError: A bundle is missing or damaged; as InputError and SessionError, a variant.
    """
    return resolve(parse_variants(options.variants), Bundle.read(path), options.backend)


def compare(
    bundle: Bundle,
    sources: Sequence[StoredSource],
    options: CompareOptions = DEFAULT_OPTIONS,
    progress: Progress | None = None,
    *,
    open_session: Opener = open_session,
) -> Comparison:
    """Hold variants against each other on stored pairs.

    Args:
        bundle: The bundle; its input record also judges plain ONNX files.
        sources: Sets of pairs; those without masks give agreement figures alone.
        options: What to compare and how hard to measure.
        progress: Called with parts done, parts in all and what is happening.
        open_session: Opens one variant of a bundle on a backend.

    Raises:
        InputError: There is no pair, a set is there twice, a bundle lacks a variant, or an ONNX
            file takes other inputs.
        BundleError: A variant exists as an engine alone, and ONNX Runtime was to run it; or
            another bundle is missing or damaged.
        SourceError: A set cannot be read.
        FrameError: A pair is unusable, or a variant's output is not a saliency map.
        EngineError: On TensorRT, a variant has no engine that belongs to this device.
        SessionError: A backend failed.

    Example:
        >>> found = compare(Bundle.read("bundle"), [DemoSource(frames=8)])  # doctest: +SKIP
        >>> found.pooled.differences["int8"].mean_abs  # doctest: +SKIP
        0.0006
    """
    candidates = resolve(parse_variants(options.variants), bundle, options.backend)
    work = _Work(
        candidates, sources, _lengths(sources, options), options,
        progress or (lambda done, total, what: None),
    )  # fmt: skip
    machine, watch = machine_state(), MachineWatch()
    before = watch.look()
    picker = PanelPicker(options.worst, options.typical)
    with sessions_of(candidates, open_session) as sessions:
        about = {one.label: one.info(sessions[one.label], options.arithmetic) for one in candidates}
        by_set, greys = _accuracy(work, sessions, picker)
        latency, energy = _speed(work, sessions, about)
        plans = {label: _plan_bytes(session) for label, session in sessions.items()}
    images = [image for some in by_set for image in some]
    labels = tuple(one.label for one in candidates)
    costs = _costs(work, plans, energy)
    after = watch.look()
    found = Comparison(
        created_utc=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        bundle=str(bundle.path),
        model=bundle.manifest.model.name,
        backend=", ".join(dict.fromkeys(one.backend for one in candidates)),
        variants=labels,
        sets=tuple(
            summarise(source.uri, some, labels)
            for source, some in zip(sources, by_set, strict=True)
        ),
        pooled=summarise("all sets", images, labels),
        images=tuple(images),
        costs=costs,
        latency=latency,
        machine=machine,
        panels=picker.panels(),
        about=about,
        before=before,
        after=after,
    )
    return found.with_notes(notes_of(found, [one.bundle for one in candidates], greys))


@dataclass(frozen=True, slots=True)
class _Work:
    """What is compared, on what, and how."""

    candidates: Sequence[Candidate]
    sources: Sequence[StoredSource]
    lengths: Sequence[int]
    options: CompareOptions
    report: Progress


def _lengths(sources: Sequence[StoredSource], options: CompareOptions) -> list[int]:
    """The number of pairs of each set; refuses what cannot work before anything is loaded."""
    if not sources:
        raise InputError("nothing to compare on", cure="name at least one set: --data SET")
    lengths = [min(len(source), options.limit or len(source)) for source in sources]
    seen: dict[str, str] = {}
    for source, length in zip(sources, lengths, strict=True):
        if length == 0:
            raise InputError(f"set {source.uri} holds no pair", cure="leave it out, or fill it")
        place = _place(source.uri)
        if place in seen:
            raise InputError(
                f"set {source.uri} is there twice",
                got="" if seen[place] == source.uri else f"{seen[place]}, which is the same",
                cure="name it once: its pairs would count double and look surer than they are",
            )
        seen[place] = source.uri
    return lengths


def _place(uri: str) -> str:
    """A set's identity: a folder is the same however its path is written."""
    path, mark, query = uri.removeprefix("folder://").partition("?")
    return uri if "://" in path else f"{Path(path).expanduser().resolve()}{mark}{query}"


def _accuracy(
    work: _Work, sessions: Mapping[str, Session], picker: PanelPicker
) -> tuple[list[list[ImageResult]], list[float]]:
    """One result for each pair by set, and how grey each stored mask was."""
    by_set: list[list[ImageResult]] = [[] for _ in work.sources]
    greys, done, total = [], 0, sum(work.lengths)
    work.report(0, total, "accuracy")
    for place, (source, length) in enumerate(zip(work.sources, work.lengths, strict=True)):
        for index in range(length):
            frame = source[index]
            maps = _run(work.candidates, sessions, frame)
            result = judge(source.uri, frame, maps)
            picker.offer(result.degradation, partial(draw_pictures, frame, maps))
            by_set[place].append(result)
            if frame.mask is not None:
                greys.append(frame.mask_grey)
            done += 1
            work.report(done, total, "accuracy")
    return by_set, greys


def _run(
    candidates: Sequence[Candidate], sessions: Mapping[str, Session], frame: RgbdFrame
) -> Maps:
    prepared, maps, size = _Prepared(frame), {}, frame.rgb.shape[:2]
    for one in candidates:
        inputs = prepared.inputs(one)
        try:
            output = sessions[one.label].run(inputs)[one.spec.output.name]
            maps[one.label] = saliency_map(output, one.spec, size)
        except FrameError as err:
            raise no_map(err, one.label, frame) from err
    return maps


class _Prepared:
    """One frame's inputs; variants that take them alike share them."""

    def __init__(self, frame: RgbdFrame) -> None:
        self._frame = frame
        self._inputs: dict[str, Inputs] = {}

    def inputs(self, candidate: Candidate) -> Inputs:
        """What a variant takes."""
        key = candidate.spec.model_dump_json(exclude={"name", "output"})
        if key not in self._inputs:
            self._inputs[key] = prepare(self._frame, candidate.spec)
        return self._inputs[key]


def _speed(
    work: _Work, sessions: Mapping[str, Session], about: Mapping[str, VariantInfo]
) -> tuple[Latency | None, dict[str, Energy]]:
    """Latency in turns, then energy one by one."""
    options = work.options
    if options.repeats == 0:
        return None, {}
    places = [(place, index) for place, n in enumerate(work.lengths) for index in range(n)]
    spread = np.linspace(0, len(places) - 1, min(options.latency_inputs, len(places)))
    chosen = [places[int(position)] for position in spread]
    frames = [work.sources[place][index] for place, index in chosen]
    specs = {one.label: one.spec for one in work.candidates}
    latency = measure_latency(
        sessions,
        frames,
        work.candidates[0].spec,
        warmup=options.warmup,
        repeats=options.repeats,
        arithmetic=_together(list(about.values())),
        specs=specs,
        progress=lambda done, total: work.report(done, total, "latency"),
    )
    prepared = [_Prepared(frame) for frame in frames]
    inputs = {one.label: [each.inputs(one) for each in prepared] for one in work.candidates}
    energy = measure_energy(
        sessions,
        inputs,
        options.energy_s,
        progress=lambda done, total: work.report(done, total, "energy"),
    )
    return latency, energy


def _together(about: Sequence[VariantInfo]) -> Arithmetic:
    texts = dict.fromkeys(one.arithmetic.text for one in about)
    return Arithmetic("; ".join(texts), any(one.arithmetic.integer for one in about))


def _plan_bytes(session: Session) -> int | None:
    execution = execution_of(session)
    return None if execution is None else execution.plan_bytes


def _costs(
    work: _Work, plans: Mapping[str, int | None], energy: Mapping[str, Energy]
) -> dict[str, VariantCost]:
    costs: dict[str, VariantCost] = {}
    for one in work.candidates:
        work.report(len(costs), len(work.candidates), "memory")
        measured = work.options.memory
        memory = peak_memory(one.path, one.ref.variant, one.backend) if measured else None
        plan, graph = plans[one.label], one.onnx_bytes
        costs[one.label] = VariantCost(
            file_bytes=plan or graph or 0,
            memory=memory,
            plan_bytes=plan,
            onnx_bytes=graph,
            energy=energy.get(one.label),
        )
    work.report(len(costs), len(costs), "memory")
    return costs
