"""Quantize so that a gate holds: the layers that break it go back to FP16, and no others.

Sets of layers are tried on graphs that take scales and INT8 weights from plain INT8
(:func:`~.isolate.with_int8`), which costs seconds.  What was found is then quantized for real and
judged once more, on all pairs: the bundle's record is about the graph in the bundle.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx

from edge_fusion.errors import GateError
from edge_fusion.manifest import AccuracyGateRecord, GateStepRecord

from .gate import Gate, Reading
from .int8 import Attempt, Int8Maker
from .isolate import with_int8
from .node_cost import count_node_macs, mac_share
from .revert import Found, Layers, Part, find_reverted
from .search_state import Remembered, digest_of, key_of, state_path

RANK_PAIRS = 6
SEARCH_PAIRS = 64
#: Layers that may be sent back one by one where the graph that was quantized for real misses a
#: gate that its stand-in holds; scales of a Concat's inputs may part them.
LAST_LAYERS = 8


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """A quantization that holds the gate, and how it was found."""

    attempt: Attempt
    record: AccuracyGateRecord


@dataclass(frozen=True, slots=True)
class HoldOptions:
    """What to hold.

    Attributes:
        output: The bundle to be: what is measured is kept beside it until it is written.
        min_int8: The least share of the multiply-accumulates that must stay in INT8, 0..1.
    """

    output: Path
    min_int8: float = 0.5


def hold_gate(maker: Int8Maker, plain: Attempt, gate: Gate, options: HoldOptions) -> Held:
    """Send layers back to FP16 until a gate holds.

    Args:
        maker: The FP32 graph, and how it becomes INT8.
        plain: What it makes with every allowed layer in INT8.
        gate: What to hold, and on what.
        options: Where the state lies, and how little INT8 is too little.

    Returns:
        The quantization, which holds the gate on all pairs.

    Raises:
        GateError: So many layers have to go back that INT8 does not pay, or the gate is missed
            even then.
        OutputError: The state could not be written.
    """
    search = _Search(maker, plain, gate, options)
    found = find_reverted(plain.result.quantized, search.judge, search.note)
    attempt, reading = search.confirm(search.worth_it(found))
    reverted = search.reverted_by(attempt)
    share = mac_share(search.macs, attempt.result.quantized)
    record = AccuracyGateRecord(
        max_drop=dict(gate.max_drop),
        sources=gate.pairs.sources,
        frames=len(gate.pairs.pairs),
        masks=gate.pairs.masks,
        sha256=gate.pairs.sha256,
        layers=len(plain.result.quantized),
        reverted=reverted,
        int8_mac_share=share,
        plain_drops=search.plain_drops,
        drops=dict(reading.drops),
        evaluations=search.remembered.runs,
        steps=tuple(search.steps),
    )
    maker.progress("gate", 1, 1, record.summary())
    return Held(attempt, record)


@dataclass(slots=True)
class _Search:
    """What the steps of one search share."""

    maker: Int8Maker
    plain: Attempt
    gate: Gate
    options: HoldOptions
    steps: list[GateStepRecord] = field(default_factory=list)
    remembered: Remembered = field(init=False)
    macs: Mapping[str, int | None] = field(init=False)
    _parts: dict[Part, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        path = state_path(self.options.output)
        self.remembered = Remembered(path, _key(self.maker, self.gate), self.gate.max_drop)
        self.macs = count_node_macs(self.maker.graph)
        self._parts["all"] = tuple(range(len(self.gate.pairs.pairs)))
        kept = f"readings are kept in {path}: interrupted, the build goes on there"
        self.maker.progress("gate", 1, 1, self.remembered.note or kept)

    @property
    def plain_drops(self) -> dict[str, float]:
        return dict(self.judge(frozenset(), "all").drops)

    def judge(self, reverted: Layers, part: Part) -> Reading:
        """How INT8 does without these layers; the first to be asked must be plain INT8."""
        if part not in self._parts:
            self._choose_parts()
        pairs = self._parts[part]
        named = [name for name in self.plain.result.quantized if name not in reverted]

        def model() -> onnx.ModelProto:
            if not reverted:
                return self.plain.model
            return with_int8(self.maker.graph, self.plain.model, named)

        if part == "rank":
            done = self.remembered.runs
            self.maker.progress("rank", done, 0, f"{len(pairs)} pairs a layer")
        return self._read(digest_of(sorted(reverted), pairs), model, pairs)

    def _read(
        self, digest: str, model: Callable[[], onnx.ModelProto], pairs: Sequence[int]
    ) -> Reading:
        first = "rank" not in self._parts  # whose harm to each pair chooses the parts

        def measure() -> tuple[Reading, float]:
            start = time.perf_counter()
            reading = self.gate.read(model(), pairs)
            seconds = time.perf_counter() - start
            return (reading if first else replace(reading, by_pair={})), seconds

        return self.remembered.reading(digest, measure)

    def _choose_parts(self) -> None:
        harms = self.judge(frozenset(), "all").harms
        self._parts["rank"] = most_harmed(harms, RANK_PAIRS)
        self._parts["search"] = stratified(harms, SEARCH_PAIRS)

    def note(self, step: str, detail: str, reverted: Layers, reading: Reading, part: Part) -> None:
        """Show a step and put it on record."""
        self.steps.append(
            GateStepRecord(
                step=step,
                detail=detail,
                reverted=len(reverted),
                drops=dict(reading.drops),
                held=reading.held,
                frames=len(self._parts[part]),
                evaluations=self.remembered.runs,
                seconds=round(self.remembered.seconds, 3),
            )
        )
        drops = ", ".join(f"{name} {drop:+.3g}" for name, drop in reading.drops.items())
        verdict = "holds" if reading.held else "misses"
        done = self.remembered.runs
        self.maker.progress(
            step, done, done, f"{verdict} with {len(reverted)} layers in FP16: {drops} ({detail})"
        )

    def worth_it(self, found: Found) -> Found:
        """Refuse a result that leaves too little in INT8 to be worth its accuracy.

        Raises:
            GateError: It says what would be left, and what was still missing with as much in INT8
                as was asked for.
        """
        quantized = self.plain.result.quantized
        share = self._share(found.reverted)
        if share is None or share >= self.options.min_int8:
            return found
        allowed: list[str] = []
        for name in found.reverted:
            if (self._share([*allowed, name]) or 0) >= self.options.min_int8:
                allowed.append(name)
        reading = self.judge(frozenset(allowed), "all")
        self.note("pays", "as many as may go back", frozenset(allowed), reading, "all")
        if reading.held:  # the search had used up its runs before it saw that
            dropped = tuple(name for name in found.reverted if name not in allowed)
            return Found(tuple(allowed), reading, dropped + found.spare)
        raise GateError(
            f"INT8 does not pay under --max-drop {_wanted(self.gate)}",
            expected=f"{self.options.min_int8:.0%} of the multiply-accumulates in INT8 or more",
            got=f"{share:.0%}: {len(found.reverted)} of {len(quantized)} layers go back to FP16; "
            f"with {len(allowed)} of them, {reading.missing}",
            cure="build it with --precision fp16; or allow a larger drop, calibrate on pairs more "
            "like those of the gate, or accept less INT8 with --min-int8",
        )

    def _share(self, reverted: Sequence[str]) -> float | None:
        gone = set(reverted)
        return mac_share(self.macs, [n for n in self.plain.result.quantized if n not in gone])

    def reverted_by(self, attempt: Attempt) -> tuple[str, ...]:
        """The layers that plain INT8 quantizes and this attempt does not."""
        kept = set(attempt.result.quantized)
        return tuple(name for name in self.plain.result.quantized if name not in kept)

    def confirm(self, found: Found) -> tuple[Attempt, Reading]:
        """Quantize for real, and judge that.

        Raises:
            GateError: The gate is missed, also with a few layers more in FP16.
        """
        everything = self._parts["all"]
        reason = f"sent back by the accuracy gate {_wanted(self.gate)}"
        reverted = list(found.reverted)
        for further in (None, *found.spare[:LAST_LAYERS]):
            reverted += [further] if further else []
            attempt = self.maker.make(reverted, reason) if reverted else self.plain
            digest = digest_of([*reverted, "quantized again"] if reverted else (), everything)
            reading = self._read(digest, partial(_itself, attempt.model), everything)
            self.note("final", "quantized again", frozenset(reverted), reading, "all")
            if reading.held:
                return attempt, reading
        raise GateError(
            f"the gate is missed with {len(reverted)} layers in FP16, once quantized again",
            got=reading.missing,
            cure="keep those layers in FP16 by --keep-fp16 and build again, or allow a larger drop",
        )


def _itself(model: onnx.ModelProto) -> onnx.ModelProto:
    return model


def _key(maker: Int8Maker, gate: Gate) -> str:
    """Readings of another limit on the same metrics are as good: a looser gate finds them there."""
    packages = {name: version(name) for name in ("nncf", "numpy", "onnxruntime")}
    pairs = {"pairs": gate.pairs.sha256, "metrics": sorted(gate.max_drop)}
    return key_of({**maker.identity(), **pairs, **packages})


def _wanted(gate: Gate) -> str:
    return " and ".join(f"{name}={limit:g}" for name, limit in gate.max_drop.items())


def most_harmed(harms: Sequence[float], count: int) -> tuple[int, ...]:
    """Half of ``count`` pairs those that INT8 harms most, the others spread over the rest.

    Example:
        >>> most_harmed([0.0, 9.0, 1.0, 0.0, 8.0, 0.0], 4)
        (0, 1, 4, 5)
    """
    if len(harms) <= count:
        return tuple(range(len(harms)))
    by_harm = np.argsort([-harm for harm in harms], kind="stable").tolist()
    worst, rest = by_harm[: (count + 1) // 2], sorted(by_harm[(count + 1) // 2 :])
    places = np.linspace(0, len(rest) - 1, count // 2).round().astype(int)
    return tuple(sorted({*worst, *(rest[place] for place in places)}))


def stratified(harms: Sequence[float], count: int) -> tuple[int, ...]:
    """``count`` pairs that are harmed as much, on the whole, as all of them.

    Example:
        >>> stratified([0.0, 9.0, 1.0, 0.0, 8.0, 0.0], 3)
        (0, 4, 5)
    """
    if len(harms) <= count:
        return tuple(range(len(harms)))
    by_harm = np.argsort([-harm for harm in harms], kind="stable").tolist()
    places = ((np.arange(count) + 0.5) * len(harms) / count).astype(int)
    return tuple(sorted(by_harm[place] for place in places))
