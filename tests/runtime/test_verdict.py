from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from edge_fusion.runtime.compare import CompareOptions, compare
from edge_fusion.runtime.comparison import Comparison, VariantCost
from edge_fusion.runtime.latency import BLOCK, Arithmetic, Latency, speedup_of
from edge_fusion.runtime.verdict import judgements, verdict

CORES = Arithmetic("TensorRT INT8 tensor cores", integer=True)
LITERAL = Arithmetic("Q/DQ run literally in float", integer=False)
MODELS = {"fp32": b"f" * 40_000, "fp16": b"h" * 20_000, "int8": b"i" * 10_000}


def latency(arithmetic: Arithmetic = CORES, rounds: int = 20, **median_ms: float) -> Latency:
    """Rounds of noisy times around medians."""
    rng = np.random.default_rng(0)
    noise = 1 + 0.01 * rng.standard_normal((rounds, BLOCK))
    times = {
        name: ms * noise * (1 + 0.002 * rng.random((rounds, BLOCK)))
        for name, ms in median_ms.items()
    }
    first = next(iter(times))
    return Latency(
        arithmetic,
        {name: tuple(ms.ravel().tolist()) for name, ms in times.items()},
        {name: speedup_of(times[first], ms) for name, ms in times.items() if name != first},
        5, 4, 1.25, 0.5,
    )  # fmt: skip


@pytest.fixture
def make(make_bundle, make_source, opener):
    def made(
        *variants: str,
        pairs: int = 3,
        mask: bool = True,
        arithmetic: Arithmetic = CORES,
        times: Latency | None = None,
        **gains: float,
    ) -> Comparison:
        options = CompareOptions(
            variants or ("fp32", "int8"), "fake", repeats=0, memory=False, arithmetic=arithmetic
        )
        found = compare(
            make_bundle(MODELS), [make_source(pairs, mask=mask)], options,
            open_session=opener(**{"fp16": 1.0, **gains}),
        )  # fmt: skip
        return replace(found, latency=times)

    return made


class TestAccuracy:
    def test_equal_maps_keep_the_accuracy(self, make):
        assert verdict(make()).startswith(
            "INT8 keeps the accuracy of FP32 on 3 images (normalised maps: MAE 0.0"
        )

    def test_a_dimmed_map_is_named_with_the_protocol_that_shows_it(self, make):
        assert re.match(
            r"INT8 is less accurate than FP32 in MAE.* on 3 images \(raw maps: MAE 0\.0\d+ to",
            verdict(make(int8=0.6)),
        )

    def test_few_images_are_called_few(self, make):
        caution = "too few for more than gross failures"
        assert caution in verdict(make(pairs=3))
        assert caution not in verdict(make(pairs=50))

    def test_without_masks_no_accuracy_is_claimed(self, make):
        text = verdict(make(mask=False, int8=0.9))
        assert "accuracy of" not in text
        assert re.match(r"INT8 differs from FP32 by 0\.0\d+ per pixel .* no masks", text)

    def test_nothing_is_praised_where_the_reference_finds_nothing(self, make):
        """Maps that are black everywhere agree perfectly, and are worth nothing."""
        found = make(fp32=0.0, int8=0.0, times=latency(fp32=8, int8=4))
        (one,) = judgements(found)
        assert (one.accuracy, one.lost, one.recommended) == ("nothing to keep", (), "")
        assert "FP32 itself finds nothing on 3 images (F max 0." in one.text
        assert "keeps" not in one.text

    def test_a_reference_that_marks_by_chance_finds_nothing(self, make, monkeypatch):
        rng = np.random.default_rng(0)

        def noise(output, spec, size):
            return rng.random(size).astype(np.float32)

        monkeypatch.setattr("edge_fusion.runtime.compare.saliency_map", noise)
        (one,) = judgements(make(pairs=8))
        assert one.accuracy == "nothing to keep"

    def test_a_loss_that_cannot_be_ruled_out_is_said(self, make):
        """Each image shifts MAE by 0.001 on average, but by very different amounts."""
        found = make(pairs=50)
        changes = found.pooled.changes["int8"]
        worse = replace(
            changes["raw"]["mae"],
            interval=replace(changes["raw"]["mae"].interval, low=-0.001, high=0.0042),
        )
        changes["raw"]["mae"] = worse
        text = verdict(found)
        assert "keeps the accuracy" in text
        assert "though MAE of raw maps may be 0.0042 worse" in text


class TestSpeed:
    def test_it_is_not_claimed_where_no_integer_arithmetic_ran(self, make):
        found = make(arithmetic=LITERAL, times=latency(LITERAL, fp32=8, int8=4))
        (one,) = judgements(found)
        assert one.speed == "unknown"
        assert "Q/DQ run literally in float, which says nothing about the speed of INT8" in one.text
        assert "faster" not in one.text
        assert "2.00" not in one.text

    @pytest.mark.parametrize(
        ("int8", "claim"),
        [
            (4.0, r"it is faster \(2\.00 times as fast, (1\.99|2\.00) to 2\.0\d\) with TensorRT"),
            (10.0, r"it is slower \(0\.80 times as fast, 0\.\d\d to 0\.80\) with TensorRT INT8"),
            (8.0, r"it is not measurably faster or slower \(1\.00 times as fast"),
        ],
    )
    def test_it_follows_the_interval(self, make, int8, claim):
        times = latency(fp32=8, int8=int8)
        if int8 == 8.0:  # the very same times
            both = dict.fromkeys(times.samples_ms, times.samples_ms["fp32"])
            rounds = np.reshape(both["fp32"], (-1, BLOCK))
            times = replace(times, samples_ms=both, speedups={"int8": speedup_of(rounds, rounds)})
        assert re.search(claim, verdict(make(times=times)))

    def test_too_few_rounds_are_said(self, make):
        found = make(times=latency(rounds=1, fp32=8, int8=4))
        assert "too few rounds were timed to say which is faster" in verdict(found)


class TestBesideHalfPrecision:
    THREE = ("fp32", "fp16", "int8")

    def judged(self, make, **options):
        half, eight = judgements(make(*self.THREE, **options))
        assert (half.variant, half.against) == ("fp16", "fp32")
        assert eight.variant == "int8"
        return half, eight

    def test_int8_that_is_faster_and_as_accurate_is_recommended(self, make):
        half, eight = self.judged(make, times=latency(fp32=8, fp16=4, int8=3))
        assert (eight.against, eight.speed, eight.recommended) == ("fp16", "faster", "int8")
        assert eight.text.startswith("INT8 keeps the accuracy of FP16")
        assert "faster than FP16 (1.33 times as fast" in eight.text
        assert eight.text.endswith(": INT8 is recommended.")
        assert half.recommended == ""

    def test_int8_that_is_no_faster_does_not_pay(self, make):
        """Twice as fast as FP32, and yet not worth it."""
        _, eight = self.judged(make, times=latency(fp32=8, fp16=4, int8=4.2))
        assert (eight.speed, eight.recommended) == ("slower", "fp16")
        assert eight.text.endswith(": INT8 does not pay, FP16 is recommended.")

    def test_int8_that_is_worse_for_nothing_does_not_pay(self, make):
        _, eight = self.judged(make, times=latency(fp32=8, fp16=4, int8=5), int8=0.6)
        assert (eight.accuracy, eight.recommended) == ("lost", "fp16")
        assert eight.text.startswith("INT8 is less accurate than FP16 in MAE")

    def test_faster_but_worse_is_left_to_the_reader(self, make):
        _, eight = self.judged(make, times=latency(fp32=8, fp16=4, int8=2), int8=0.6)
        assert (eight.accuracy, eight.speed, eight.recommended) == ("lost", "faster", "")
        assert "yours to judge" in eight.text

    def test_half_precision_that_lost_accuracy_itself_is_not_recommended(self, make):
        times = latency(fp32=8, fp16=4, int8=5)
        _, eight = self.judged(make, times=times, fp16=0.6, int8=0.6)
        assert (eight.against, eight.accuracy, eight.recommended) == ("fp16", "kept", "")

    def test_half_precision_that_finds_nothing_judges_nobody(self, make):
        """An overflow in FP16 must not make INT8 look good, nor be recommended."""
        _, eight = self.judged(make, times=latency(fp32=8, fp16=4, int8=5), fp16=0.0)
        assert (eight.against, eight.recommended) == ("fp32", "")

    def test_without_8_bit_arithmetic_nothing_is_recommended(self, make):
        times = latency(LITERAL, fp32=8, fp16=4, int8=5)
        _, eight = self.judged(make, arithmetic=LITERAL, times=times)
        assert (eight.speed, eight.recommended) == ("unknown", "")

    def test_where_it_is_the_reference_it_judges_too(self, make):
        (one,) = judgements(make("fp16", "int8", times=latency(fp16=4, int8=4.5)))
        assert (one.against, one.recommended) == ("fp16", "fp16")


@pytest.mark.parametrize(
    ("size", "claim"),
    [(10_000, "its file is 4.0 times smaller"), (50_000, "its file is no smaller")],
)
def test_size(make, size, claim):
    costs = {"fp32": VariantCost(40_000, None), "int8": VariantCost(size, None)}
    assert claim in verdict(replace(make(), costs=costs))


def test_engines_are_called_engines(make):
    costs = {v: VariantCost(n, None, plan_bytes=n) for v, n in (("fp32", 300), ("int8", 100))}
    assert "its engine is 3.0 times smaller" in verdict(replace(make(), costs=costs))


def test_labels_are_shown_as_they_are(make):
    assert verdict(make("fp32", "mine=int8")).startswith("mine keeps the accuracy of FP32")
