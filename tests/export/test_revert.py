"""The search for the layers that break a gate, on networks that are nothing but their harms."""

from __future__ import annotations

import random
from collections.abc import Mapping

import pytest

from edge_fusion.errors import StepError
from edge_fusion.export.gate import Reading
from edge_fusion.export.revert import Found, Layers, Part, SearchOptions, find_reverted

pytestmark = pytest.mark.export

LIMIT = 0.01


class Harms:
    """A judge under which harms add up; ``pairs`` of layers harm only together."""

    def __init__(
        self,
        harms: Mapping[str, float],
        pairs: Mapping[tuple[str, str], float] | None = None,
        *,
        part_bias: float = 0.0,
    ) -> None:
        self.harms, self.pairs, self.part_bias = dict(harms), dict(pairs or {}), part_bias
        self.asked: set[tuple[Layers, Part]] = set()

    def __call__(self, reverted: Layers, part: Part) -> Reading:
        self.asked.add((reverted, part))
        left = set(self.harms) - reverted
        drop = sum(self.harms[name] for name in left)
        drop += sum(harm for both, harm in self.pairs.items() if left.issuperset(both))
        drop -= self.part_bias if part == "search" and left else 0
        error = sum(abs(self.harms[name]) + 0.001 for name in left)
        return Reading({"mae": drop}, {"mae": LIMIT}, error)


def names(count: int) -> list[str]:
    return [f"layer{index}" for index in range(count)]


def find(judge: Harms, options: SearchOptions | None = None) -> Found:
    return find_reverted(list(judge.harms), judge, options=options)


def test_nothing_goes_back_where_the_gate_holds_already() -> None:
    judge = Harms(dict.fromkeys(names(20), LIMIT / 30))
    assert find(judge).reverted == ()
    assert judge.asked == {(frozenset(), "all")}, "and nothing is ranked"


def test_the_one_layer_that_breaks_the_gate_goes_back() -> None:
    judge = Harms(dict.fromkeys(names(100), 0.00005) | {"layer71": 0.05})
    assert find(judge).reverted == ("layer71",)


@pytest.mark.parametrize("seed", range(8))
def test_of_harms_that_add_up_the_fewest_go_back(seed: int) -> None:
    chance = random.Random(seed)
    judge = Harms({name: chance.expovariate(400) for name in names(40)})
    fewest, left = 0, sum(judge.harms.values())
    for harm in sorted(judge.harms.values(), reverse=True):
        if left <= LIMIT:
            break
        fewest, left = fewest + 1, left - harm
    found = find(judge)
    assert found.reading.held
    assert judge(frozenset(found.reverted), "all").held
    assert len(found.reverted) == fewest


@pytest.mark.parametrize("seed", range(8))
def test_nothing_more_can_be_given_back(seed: int) -> None:
    """Also where harms cancel out and layers harm only together, and no prefix is minimal."""
    chance = random.Random(seed)
    layers = names(24)
    harms = {name: chance.gauss(0.001, 0.004) for name in layers}
    harms["layer3"] += 0.03
    pairs = {tuple(chance.sample(layers, 2)): chance.uniform(0, 0.02) for _ in range(6)}
    judge = Harms(harms, pairs)  # type: ignore[arg-type]  # samples of two
    found = find(judge, SearchOptions(shrink_runs=1000))
    assert judge(frozenset(found.reverted), "all").held
    for name in found.reverted:
        rest = frozenset(found.reverted) - {name}
        assert not judge(rest, "all").held, f"{name} went back in vain"


def test_a_layer_that_errs_and_does_no_harm_stays() -> None:
    judge = Harms(dict.fromkeys(names(30), 0.0) | {"loud": -0.02, "layer5": 0.05})
    assert find(judge).reverted == ("layer5",), "'loud' makes up for some of it"


def test_what_only_its_return_shows_is_found() -> None:
    """Two layers that harm together alone: neither does when it is the only one in INT8."""
    judge = Harms(dict.fromkeys(names(30), 0.0), {("layer7", "layer9"): 0.05})
    assert set(find(judge).reverted) <= {"layer7", "layer9"}
    assert len(find(judge).reverted) == 1


def test_few_runs_find_many_layers() -> None:
    """Doubling and bisection, not one run for each layer that goes back."""
    harms = dict.fromkeys(names(200), 0.0)
    harms |= {f"layer{index}": 0.01 for index in range(0, 128, 2)}  # 64, of which 63 must go
    judge = Harms(harms)
    found = find(judge)
    assert len(found.reverted) == 63
    searched = {one for one in judge.asked if one[1] != "rank"}
    limits = SearchOptions()
    assert len(searched) <= 2 * 16 + limits.shrink_runs + limits.grow_runs


def test_what_holds_on_some_pairs_alone_is_searched_again_on_all() -> None:
    judge = Harms(dict.fromkeys(names(12), 0.005), part_bias=0.02)
    found = find(judge)
    assert len(found.reverted) == 10
    assert judge(frozenset(found.reverted), "all").held
    assert not judge(frozenset(found.reverted[:6]), "all").held
    assert judge(frozenset(found.reverted[:6]), "search").held, "the bait was there"


def test_every_step_is_told_with_its_reading() -> None:
    judge = Harms(dict.fromkeys(names(8), 0.0) | {"layer2": 0.05, "layer3": 0.04})
    told: list[tuple[str, int, bool]] = []
    find_reverted(
        list(judge.harms),
        judge,
        lambda step, detail, reverted, reading, part: told.append(
            (step, len(reverted), reading.held)
        ),
    )
    assert told[0] == ("plain", 0, False)
    assert told[-1] == ("confirm", 2, True)
    assert {"rank", "prefix", "shrink", "grow"} <= {step for step, *_ in told}


def test_spare_layers_come_worst_first() -> None:
    judge = Harms({"a": 0.05, "b": 0.001, "c": 0.004, "d": 0.002})
    found = find(judge)
    assert found.reverted == ("a",)
    assert found.spare == ("c", "d", "b")


def test_a_gate_that_is_missed_without_int8_is_an_error() -> None:
    class Hopeless(Harms):
        def __call__(self, reverted: Layers, part: Part) -> Reading:
            return Reading({"mae": 1.0}, {"mae": LIMIT}, 1.0)

    with pytest.raises(StepError, match="missed with no layer in INT8.*mae drops by 1"):
        find(Hopeless(dict.fromkeys(names(3), 0.1)))


def test_options_are_counts() -> None:
    with pytest.raises(StepError, match="1 or more"):
        SearchOptions(candidates=0)
