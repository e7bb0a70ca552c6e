"""Find the fewest layers that must leave INT8 for a gate to hold, with few runs of the network.

Errors of quantization do not add up: on a frame that the network is unsure of, one layer more or
less tips the answer.  So no single ranking is believed.  Layers are ranked twice (each alone in
INT8, and each alone in FP16); along both orders the shortest prefix that holds is found by
doubling and bisection; what of it is not needed is given back in ever smaller chunks (Zeller and
Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", 2002); and a smaller set is
looked for by adding the best of a few candidates at a time.

Nothing here knows what a layer or a metric is: a :class:`Judge` says how a set of layers does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from edge_fusion.errors import StepError

from .gate import Reading

#: Which pairs a set of layers is judged on: a few for ranking, more for searching, all in the end.
Part = Literal["rank", "search", "all"]
Layers = frozenset[str]


class Judge(Protocol):
    """Says how INT8 does without some layers."""

    def __call__(self, reverted: Layers, part: Part) -> Reading:
        """The drops with ``reverted`` in floating point and every other layer in INT8."""
        ...


#: Told each step: its name, on what, the layers in FP16, how they did, and on which pairs.
Note = Callable[[str, str, Layers, Reading, Part], None]


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """How hard to search.

    Attributes:
        ranked_twice: Of how many layers, those that err most alone, the return is tried too.
        candidates: How many layers are compared for each place of a smaller set, and ``tried``
            how many of them on more pairs.
        grow_runs: How many runs the search for a smaller set may take.
        shrink_runs: How many runs giving layers back may take.
    """

    ranked_twice: int = 48
    candidates: int = 8
    tried: int = 2
    grow_runs: int = 24
    shrink_runs: int = 48

    def __post_init__(self) -> None:
        counts = (self.ranked_twice, self.candidates, self.tried, self.grow_runs, self.shrink_runs)
        if min(counts) < 1:
            raise StepError("search options", expected="1 or more each", got=str(self))


@dataclass(frozen=True, slots=True)
class Found:
    """A set of layers with which the gate holds, over all pairs.

    Attributes:
        reverted: They leave INT8; worst first.
        reading: How the rest does.
        spare: What to send back next, should more be needed: every other layer, worst first.
    """

    reverted: tuple[str, ...]
    reading: Reading
    spare: tuple[str, ...] = ()


def find_reverted(
    layers: Sequence[str],
    judge: Judge,
    note: Note = lambda step, detail, reverted, reading, part: None,
    options: SearchOptions | None = None,
) -> Found:
    """Find few layers that must leave INT8.

    Args:
        layers: Everything that computes in INT8.
        judge: Says how a set does; it should remember, since sets are asked for again.
        note: Told each step.
        options: How hard to search.

    Returns:
        A set with which the gate holds; no layer of it can be given back alone, unless the runs
        for that were used up.

    Raises:
        StepError: The gate is missed even with no layer in INT8.
    """
    options = options or SearchOptions()
    plain = judge(frozenset(), "all")
    note("plain", "every layer in INT8", frozenset(), plain, "all")
    if plain.held:
        return Found((), plain, tuple(layers))
    ranking = _Ranking(layers, judge, note, options)
    parts: tuple[Part, ...] = ("search", "all")
    for part in parts:
        reverted = _Hunt(ranking, judge, note, part, options).smallest()
        reading = judge(reverted, "all")
        note("confirm", "on all pairs", reverted, reading, "all")
        if reading.held:
            worst_first = ranking.order("alone")
            return Found(
                tuple(name for name in worst_first if name in reverted),
                reading,
                tuple(name for name in worst_first if name not in reverted),
            )
    raise StepError("the gate is missed with no layer in INT8", got=reading.missing)


ORDERS = ("alone", "without")


@dataclass(slots=True)
class _Ranking:
    """Orders of all layers, the worst first; each is measured when it is first asked for.

    Judged by the gate's own metrics: a layer that errs and does no harm need not go back.
    """

    layers: Sequence[str]
    judge: Judge
    note: Note
    options: SearchOptions
    _orders: dict[str, tuple[str, ...]] = field(default_factory=dict)
    _by_error: list[str] = field(default_factory=list)

    def order(self, name: str) -> tuple[str, ...]:
        if name not in self._orders:
            self._orders[name] = self._alone() if name == "alone" else self._without()
        return self._orders[name]

    def _alone(self) -> tuple[str, ...]:
        """By what each does as the only layer in INT8."""
        everything = frozenset(self.layers)
        found = {name: self.judge(everything - {name}, "rank") for name in self.layers}
        self._by_error = sorted(self.layers, key=lambda name: -found[name].difference)
        order = tuple(sorted(self._by_error, key=lambda name: -found[name].excess))
        self._tell("alone", order, everything - {order[0]}, found[order[0]])
        return order

    def _without(self) -> tuple[str, ...]:
        """By what it gives to send each back alone, of those that err most in themselves."""
        self.order("alone")
        tried = self._by_error[: self.options.ranked_twice]
        found = {name: self.judge(frozenset({name}), "rank") for name in tried}
        order = sorted(tried, key=lambda name: found[name].excess)
        self._tell("without", order, frozenset({order[0]}), found[order[0]])
        return (*order, *(name for name in self._by_error if name not in found))

    def _tell(self, name: str, order: Sequence[str], reverted: Layers, reading: Reading) -> None:
        self.note("rank", f"{name}: {', '.join(order[:3])}", reverted, reading, "rank")


@dataclass(slots=True)
class _Hunt:
    """The search on one part of the pairs."""

    ranking: _Ranking
    judge: Judge
    note: Note
    part: Part
    options: SearchOptions
    runs: int = field(default=0)

    def smallest(self) -> Layers:
        best: Layers | None = None
        for name in ORDERS:
            most = len(self.ranking.layers) if best is None else len(best) - 1
            if most:
                found = self._prefix(name, self.ranking.order(name), most)
                best = best if found is None else self._shrink(found)
        if best is None:  # nothing holds: the last word is the confirmation's
            return frozenset(self.ranking.layers)
        return self._grow(len(best) - 1) or best

    def _try(self, step: str, detail: str, reverted: Layers) -> Reading:
        self.runs += 1
        reading = self.judge(reverted, self.part)
        self.note(step, detail, reverted, reading, self.part)
        return reading

    def _prefix(self, name: str, order: Sequence[str], most: int) -> Layers | None:
        """The shortest prefix that holds, of at most ``most`` layers."""

        def holds(length: int) -> bool:
            return self._try("prefix", name, frozenset(order[:length])).held

        missed, length = 0, 1
        while length <= most and not holds(length):
            missed, length = length, min(2 * length, most) if length < most else most + 1
        if length > most:
            return None
        while length - missed > 1:
            middle = (missed + length) // 2
            if holds(middle):
                length = middle
            else:
                missed = middle
        return frozenset(order[:length])

    def _shrink(self, reverted: Layers) -> Layers:
        """Give back what is not needed: the least suspected first, in ever smaller chunks."""
        first = self.runs
        kept = [name for name in reversed(self.ranking.order("alone")) if name in reverted]
        chunk = len(kept) // 2
        while chunk and self.runs - first < self.options.shrink_runs:
            before, start = len(kept), 0
            while start < len(kept) and self.runs - first < self.options.shrink_runs:
                given = kept[start : start + chunk]
                rest = frozenset(kept).difference(given)
                if rest and self._try("shrink", _named(given), rest).held:
                    kept = [name for name in kept if name in rest]
                else:
                    start += chunk
            if chunk > 1 or len(kept) == before:
                chunk //= 2
        return frozenset(kept)

    def _grow(self, most: int) -> Layers | None:
        """A set of at most ``most`` layers, each place taken by the best of a few candidates.

        Candidates are compared on the few pairs for ranking; the best of them are tried on more.
        """
        first = self.runs
        grown: Layers = frozenset()
        while len(grown) < most:
            candidates = self._candidates(grown)
            found = {name: self.judge(grown | {name}, "rank").excess for name in candidates}
            for name in sorted(found, key=lambda name: found[name])[: self.options.tried]:
                if self.runs - first >= self.options.grow_runs:
                    return None
                if self._try("grow", name, grown | {name}).held:
                    return grown | {name}
            if not found:
                return None
            grown |= {min(found, key=lambda name: found[name])}
        return None

    def _candidates(self, grown: Layers) -> list[str]:
        """The first layers of both orders, in turns."""
        turns = zip(*map(self.ranking.order, ORDERS), strict=True)
        mixed = dict.fromkeys(name for pair in turns for name in pair if name not in grown)
        return list(mixed)[: self.options.candidates]


def _named(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{len(names)} layers"
