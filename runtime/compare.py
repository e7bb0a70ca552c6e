"""Run the variants of a bundle side by side: accuracy, agreement, latency, size and memory.

Accuracy comes from one run of every variant on every pair.  Latency is measured apart from it, in
turns on a handful of inputs (:mod:`edge_fusion.runtime.latency`), and memory in a process of its
own for each variant (:mod:`edge_fusion.runtime.memory_probe`), so that nothing hides in anything
else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_fusion.bundle import Bundle
from edge_fusion.errors import InputError
from edge_fusion.frame import RgbdFrame
from edge_fusion.preprocess import prepare, saliency_map
from edge_fusion.spec import ModelSpec

from .accuracy import judge, summarise
from .comparison import Comparison, ImageResult, VariantCost
from .latency import Arithmetic, Latency, arithmetic_of, measure_latency
from .machine import machine_state
from .memory_probe import peak_memory
from .panels import PanelPicker, draw_pictures
from .session import BACKENDS, Execution, Session, choose_backend, execution_of, open_session
from .source.base import StoredSource
from .source.uri import open_stored

Opener = Callable[[Bundle, str, str], Session]
#: Told parts done, parts in all and what is happening.
Progress = Callable[[int, int, str], None]
Maps = dict[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class CompareOptions:
    """What to compare and how hard to measure.

    Attributes:
        variants: The reference first, then what is held against it; on TensorRT ``fp16`` too.
        backend: Where they run; see :func:`edge_fusion.runtime.session.open_session`.
        limit: Pairs taken from each set, from its start; None takes all.
        warmup: Untimed runs of each variant before the timed ones.
        repeats: Timed runs of each variant; 0 leaves latency out.
        latency_inputs: Pairs, spread over the sets, that latency is measured on.
        memory: Whether to measure memory, which starts one process for each variant.
        worst: Pictures kept of the most degraded pairs.
        typical: Pictures kept of typical pairs.
        arithmetic: What the backend runs INT8 with, where the caller knows better than
            :data:`edge_fusion.runtime.latency.ARITHMETIC`.

    Raises:
        InputError: A number is out of range, or fewer than two different variants.
    """

    variants: tuple[str, ...] = ("fp32", "int8")
    backend: str = "auto"
    limit: int | None = None
    warmup: int = 5
    repeats: int = 50
    latency_inputs: int = 4
    memory: bool = True
    worst: int = 6
    typical: int = 4
    arithmetic: Arithmetic | None = None

    def __post_init__(self) -> None:
        names = set(self.variants) - {""}
        if len(names) < 2 or len(names) < len(self.variants):
            raise InputError(
                "variants to compare",
                expected="two or more different ones, the reference first",
                got=", ".join(name or "an empty name" for name in self.variants) or "none",
                cure="name them with one comma between two: fp32,int8",
            )
        least = {"warmup": 1, "repeats": 0, "latency_inputs": 1, "worst": 0, "typical": 0}
        values = {name: getattr(self, name) for name in least}
        if self.limit is not None:
            least, values = {**least, "limit": 1}, {**values, "limit": self.limit}
        for name, value in values.items():
            if value < least[name]:
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


def compare(
    bundle: Bundle,
    sources: Sequence[StoredSource],
    options: CompareOptions = DEFAULT_OPTIONS,
    progress: Progress | None = None,
    *,
    open_session: Opener = open_session,
) -> Comparison:
    """Hold the variants of a bundle against each other on stored pairs.

    Args:
        bundle: The bundle.
        sources: Sets of pairs; those without masks give agreement figures alone.
        options: What to compare and how hard to measure.
        progress: Called with parts done, parts in all and what is happening.
        open_session: Opens one variant on a backend.

    Raises:
        InputError: There is no pair, or the bundle lacks a variant.
        BundleError: A variant exists as an engine alone, and ONNX Runtime was to run it.
        SourceError: A set cannot be read.
        FrameError: A pair is unusable, or a variant's output is not a saliency map.
        EngineError: On TensorRT, a variant has no engine that belongs to this device.
        SessionError: A backend failed.

    Example:
        >>> found = compare(Bundle.read("bundle"), [DemoSource(frames=8)])  # doctest: +SKIP
        >>> found.pooled.differences["int8"].mean_abs  # doctest: +SKIP
        0.0006
    """
    options = replace(options, backend=_one_backend(bundle, options))
    lengths = _check_request(bundle, sources, options)
    report = progress or (lambda done, total, what: None)
    machine = machine_state()
    model = bundle.manifest.model
    picker = PanelPicker(options.worst, options.typical)
    images: list[ImageResult] = []
    by_set: list[list[ImageResult]] = [[] for _ in sources]
    with _sessions(bundle, options, open_session) as sessions:
        report(0, sum(lengths), "accuracy")
        for place, frame in _pairs(sources, lengths):
            maps = _run(sessions, frame, model)
            result = judge(sources[place].uri, frame, maps)
            picker.offer(result.degradation, partial(draw_pictures, frame, maps))
            images.append(result)
            by_set[place].append(result)
            report(len(images), sum(lengths), "accuracy")
        report(0, 1, "latency")
        latency = _latency(sessions, sources, lengths, model, options)
        report(1, 1, "latency")
        executions = {variant: execution_of(session) for variant, session in sessions.items()}
    costs = {}
    for done, variant in enumerate(options.variants):
        report(done, len(options.variants), "memory")
        costs[variant] = _cost(bundle, variant, options, executions[variant])
    report(len(costs), len(costs), "memory")
    return Comparison(
        created_utc=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        bundle=str(bundle.path),
        model=model.name,
        backend=options.backend,
        variants=options.variants,
        sets=tuple(
            summarise(source.uri, some, options.variants)
            for source, some in zip(sources, by_set, strict=True)
        ),
        pooled=summarise("all sets", images, options.variants),
        images=tuple(images),
        costs=costs,
        latency=latency,
        machine=machine,
        panels=picker.panels(),
    )


def _one_backend(bundle: Bundle, options: CompareOptions) -> str:
    """The backend of every variant; one that the opener alone knows is left to it."""
    if options.backend not in ("auto", *BACKENDS):
        return options.backend
    chosen = [choose_backend(bundle, variant, options.backend) for variant in options.variants]
    return chosen[0]  # what decides between them is the machine


def _check_request(
    bundle: Bundle, sources: Sequence[StoredSource], options: CompareOptions
) -> list[int]:
    """Refuse what cannot work before anything is loaded; the number of pairs of each set."""
    missing = [variant for variant in options.variants if variant not in bundle.variants]
    if missing and options.backend != "trt":  # there the engines count, and opening them tells
        raise InputError(
            f"bundle {bundle.path} has no variant {' and no variant '.join(missing)}",
            expected=" and ".join(options.variants),
            got=" and ".join(bundle.variants) or "none",
            cure="build it with --precision int8, or name two variants that it has",
        )
    if not sources:
        raise InputError("nothing to compare on", cure="name at least one set: --data SET")
    lengths = [min(len(source), options.limit or len(source)) for source in sources]
    for source, length in zip(sources, lengths, strict=True):
        if length == 0:
            raise InputError(f"set {source.uri} holds no pair", cure="leave it out, or fill it")
    return lengths


@contextmanager
def _sessions(
    bundle: Bundle, options: CompareOptions, opener: Opener
) -> Iterator[dict[str, Session]]:
    with ExitStack() as stack:
        sessions = {}
        for variant in options.variants:
            sessions[variant] = opener(bundle, variant, options.backend)
            stack.callback(sessions[variant].close)
        yield sessions


def _pairs(
    sources: Sequence[StoredSource], lengths: Sequence[int]
) -> Iterator[tuple[int, RgbdFrame]]:
    for place, (source, length) in enumerate(zip(sources, lengths, strict=True)):
        for index in range(length):
            yield place, source[index]


def _run(sessions: Mapping[str, Session], frame: RgbdFrame, model: ModelSpec) -> Maps:
    inputs = prepare(frame, model)
    size = frame.rgb.shape[:2]
    return {
        variant: saliency_map(session.run(inputs)[model.output.name], model, size)
        for variant, session in sessions.items()
    }


def _latency(
    sessions: Mapping[str, Session],
    sources: Sequence[StoredSource],
    lengths: Sequence[int],
    model: ModelSpec,
    options: CompareOptions,
) -> Latency | None:
    if options.repeats == 0:
        return None
    places = [(place, index) for place, n in enumerate(lengths) for index in range(n)]
    spread = np.linspace(0, len(places) - 1, min(options.latency_inputs, len(places)))
    chosen = [places[int(position)] for position in spread]
    return measure_latency(
        sessions,
        [sources[place][index] for place, index in chosen],
        model,
        warmup=options.warmup,
        repeats=options.repeats,
        arithmetic=options.arithmetic or arithmetic_of(sessions, options.backend),
    )


def _cost(
    bundle: Bundle, variant: str, options: CompareOptions, execution: Execution | None
) -> VariantCost:
    memory = peak_memory(bundle.path, variant, options.backend) if options.memory else None
    if execution is not None:
        return VariantCost(file_bytes=execution.plan_bytes, memory=memory)
    entry = bundle.manifest.files[bundle.manifest.variants[variant]]
    return VariantCost(file_bytes=entry.size_bytes, memory=memory)
