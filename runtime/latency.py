"""How long a frame takes, measured so that two variants can be compared.

Clocks, heat and neighbours change while one measures.  So the variants take turns in short
blocks, every round starts with another one, the first run of each block (with the other variant's
weights still in the caches) is thrown away, and the ratio comes with an interval that was
bootstrapped over rounds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from edge_fusion.errors import InputError
from edge_fusion.frame import RgbdFrame
from edge_fusion.preprocess import Inputs, prepare, saliency_map
from edge_fusion.spec import ModelSpec

from .intervals import paired_interval
from .session import Session, Tensors, execution_of
from .timing import LatencySummary

BLOCK = 5  # timed runs of one variant before the next one's turn
_COST_RUNS = 5


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """What arithmetic a backend used for INT8; without it an INT8 latency means nothing.

    Attributes:
        text: In words, for reports.
        integer: Whether 8-bit arithmetic ran at all.
    """

    text: str
    integer: bool


ARITHMETIC: dict[str, Arithmetic] = {
    "ort": Arithmetic("ONNX Runtime on the CPU with Q/DQ run literally in float", integer=False),
    "trt": Arithmetic("TensorRT engine built on this device", integer=True),
}
UNSTATED = Arithmetic("kernels that the backend does not state", integer=False)


def arithmetic_of(sessions: Mapping[str, Session], backend: str) -> Arithmetic:
    """What the sessions compute with: what the backend does, and how they run their engines."""
    known = ARITHMETIC.get(backend, UNSTATED)
    found = [execution_of(session) for session in sessions.values()]
    texts = dict.fromkeys(one.text for one in found if one is not None)
    return Arithmetic("; ".join((known.text, *texts)), known.integer and "int8" in sessions)


@dataclass(frozen=True, slots=True)
class Speedup:
    """How many times faster than another one a variant's median is.

    Attributes:
        ratio: The other's median over the variant's.
        low: Lower end of its 95 % interval; None where the rounds are too few to tell.
        high: Upper end.
    """

    ratio: float
    low: float | None
    high: float | None

    @property
    def known(self) -> bool:
        """Whether there is an interval to judge by."""
        return self.low is not None and self.high is not None

    @property
    def faster(self) -> bool:
        """Whether it is measurably faster: the whole interval lies above 1."""
        return self.low is not None and self.low > 1

    @property
    def slower(self) -> bool:
        """Whether it is measurably slower: the whole interval lies below 1."""
        return self.high is not None and self.high < 1

    @property
    def text(self) -> str:
        """In words, such as ``1.80 times as fast, 1.70 to 1.90``."""
        if self.low is None or self.high is None:
            return f"{self.ratio:.2f} times as fast, from too few rounds for an interval"
        return f"{self.ratio:.2f} times as fast, {self.low:.2f} to {self.high:.2f}"


@dataclass(frozen=True, slots=True)
class StageTimes:
    """Where the time of a frame goes: medians in milliseconds.

    Attributes:
        prepare_ms: From frame to inputs.
        infer_ms: The network.
        finish_ms: From output to saliency map at the frame's size.
    """

    prepare_ms: float
    infer_ms: float
    finish_ms: float

    @property
    def total_ms(self) -> float:
        """All three."""
        return self.prepare_ms + self.infer_ms + self.finish_ms

    def as_dict(self) -> dict[str, float]:
        """The figures by name, for JSON."""
        return {**asdict(self), "total_ms": self.total_ms}


@dataclass(frozen=True, slots=True)
class Latency:
    """Latency at batch 1.

    Attributes:
        arithmetic: What ran, of all variants together.
        samples_ms: Every timed inference by variant, in milliseconds, in the order of measuring:
            blocks of :data:`BLOCK`, one in each round.
        speedups: Every variant but the first, against the first.
        warmup: Untimed runs of each variant before the first timed one.
        inputs: How many different prepared frames were used in turn.
        prepare_ms: Median of frame to inputs, of the first variant.
        finish_ms: Median of output to saliency map at the frame's size, of the first variant.
        stages: The parts of a frame's time by variant.
    """

    arithmetic: Arithmetic
    samples_ms: dict[str, tuple[float, ...]]
    speedups: dict[str, Speedup]
    warmup: int
    inputs: int
    prepare_ms: float
    finish_ms: float
    stages: dict[str, StageTimes] = field(default_factory=dict)

    @property
    def summaries(self) -> dict[str, LatencySummary]:
        """Percentiles by variant."""
        return {
            variant: LatencySummary.from_ns([round(ms * 1e6) for ms in samples])
            for variant, samples in self.samples_ms.items()
        }

    def speedup(self, reference: str, other: str) -> Speedup:
        """How many times faster than ``reference`` another variant is, whichever they are."""
        return speedup_of(*(self._rounds(variant) for variant in (reference, other)))

    def _rounds(self, variant: str) -> NDArray[np.float64]:
        return np.asarray(self.samples_ms[variant], np.float64).reshape(-1, BLOCK)

    def as_dict(self) -> dict[str, object]:
        """Everything by name, for JSON."""
        return {
            "arithmetic": asdict(self.arithmetic),
            "batch": 1,
            "warmup": self.warmup,
            "inputs": self.inputs,
            "block": BLOCK,
            "prepare_ms": self.prepare_ms,
            "finish_ms": self.finish_ms,
            "stages": {variant: one.as_dict() for variant, one in self.stages.items()},
            "inference": {
                variant: {**summary.as_dict(), "samples_ms": list(self.samples_ms[variant])}
                for variant, summary in self.summaries.items()
            },
            "speedups": {variant: asdict(one) for variant, one in self.speedups.items()},
        }


def measure_latency(
    sessions: Mapping[str, Session],
    frames: Sequence[RgbdFrame],
    spec: ModelSpec,
    *,
    warmup: int,
    repeats: int,
    arithmetic: Arithmetic = UNSTATED,
    specs: Mapping[str, ModelSpec] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Latency:
    """Time every session on the same prepared frames, in turns.

    Args:
        sessions: Open sessions by variant; the first is the reference.
        frames: A handful of frames.
        spec: The model's record.
        warmup: Untimed runs of each variant before all.
        repeats: Timed runs of each variant; rounded up to whole blocks of :data:`BLOCK`.
        arithmetic: What the sessions compute with.
        specs: Records by variant, where they are of several models.
        progress: Told rounds done and rounds in all.

    Raises:
        InputError: No session, no frame, or ``repeats`` below 1.
    """
    if not sessions or not frames or repeats < 1:
        raise InputError(
            "latency",
            expected="at least one session, one frame and one repeat",
            got=f"{len(sessions)}, {len(frames)} and {repeats}",
        )
    specs = {variant: (specs or {}).get(variant, spec) for variant in sessions}
    inputs = _prepared(frames, specs)
    outputs = {
        variant: _warm_up(session, inputs[variant], warmup)[specs[variant].output.name]
        for variant, session in sessions.items()
    }
    samples = _in_turns(sessions, inputs, -(-repeats // BLOCK), progress)
    reference = next(iter(sessions))
    stages = {
        variant: _stages(frames, specs[variant], outputs[variant], samples[variant])
        for variant in sessions
    }
    return Latency(
        arithmetic=arithmetic,
        samples_ms={variant: tuple(times.ravel().tolist()) for variant, times in samples.items()},
        speedups={
            variant: speedup_of(samples[reference], samples[variant])
            for variant in sessions
            if variant != reference
        },
        warmup=warmup,
        inputs=len(frames),
        prepare_ms=stages[reference].prepare_ms,
        finish_ms=stages[reference].finish_ms,
        stages=stages,
    )


def _prepared(
    frames: Sequence[RgbdFrame], specs: Mapping[str, ModelSpec]
) -> dict[str, list[Inputs]]:
    """Inputs by variant; equal records share them."""
    known: list[tuple[ModelSpec, list[Inputs]]] = []
    found = {}
    for variant, spec in specs.items():
        if all(other != spec for other, _ in known):
            known.append((spec, [prepare(frame, spec) for frame in frames]))
        found[variant] = next(inputs for other, inputs in known if other == spec)
    return found


def _stages(
    frames: Sequence[RgbdFrame],
    spec: ModelSpec,
    output: NDArray[np.float32],
    samples: NDArray[np.float64],
) -> StageTimes:
    return StageTimes(
        prepare_ms=_median_ms([partial(prepare, frame, spec) for frame in frames]),
        infer_ms=float(np.median(samples)),
        finish_ms=_median_ms(
            [partial(saliency_map, output, spec, frame.rgb.shape[:2]) for frame in frames]
        ),
    )


def _warm_up(session: Session, inputs: Sequence[Inputs], runs: int) -> Tensors:
    output = session.run(inputs[0])
    for index in range(1, runs):
        output = session.run(inputs[index % len(inputs)])
    return output


def _in_turns(
    sessions: Mapping[str, Session],
    inputs: Mapping[str, Sequence[Inputs]],
    rounds: int,
    progress: Callable[[int, int], None],
) -> dict[str, NDArray[np.float64]]:
    """Durations in milliseconds by variant, (rounds, BLOCK)."""
    order = list(sessions)
    samples = {variant: np.empty((rounds, BLOCK)) for variant in order}
    progress(0, rounds)
    for turn in range(rounds):
        shift = turn % len(order)
        for variant in order[shift:] + order[:shift]:
            session, feeds = sessions[variant], inputs[variant]
            session.run(feeds[turn % len(feeds)])
            for index in range(BLOCK):
                feed = feeds[(turn * BLOCK + index) % len(feeds)]
                start = time.perf_counter_ns()
                session.run(feed)
                samples[variant][turn, index] = (time.perf_counter_ns() - start) / 1e6
        progress(turn + 1, rounds)
    return samples


def speedup_of(reference: NDArray[np.float64], other: NDArray[np.float64]) -> Speedup:
    """Ratio of medians; rounds are resampled in pairs, so that drift common to both cancels.

    Args:
        reference: (rounds, :data:`BLOCK`) milliseconds.
        other: The same of the other variant, in the same rounds.
    """
    interval = paired_interval(
        (reference, other), lambda both: np.median(both[0], axis=1) / np.median(both[1], axis=1)
    )
    ratio = float(np.median(reference) / np.median(other))
    if interval is None:
        return Speedup(ratio, None, None)
    return Speedup(ratio, interval.low, interval.high)


def _median_ms(calls: Sequence[Callable[[], object]]) -> float:
    durations = []
    for call in calls:
        for _ in range(_COST_RUNS):
            start = time.perf_counter_ns()
            call()
            durations.append((time.perf_counter_ns() - start) / 1e6)
    return float(np.median(durations))
