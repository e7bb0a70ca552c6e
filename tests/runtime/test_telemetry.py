"""The sampler, the energy of a stream, and its summary."""

from __future__ import annotations

import importlib.util
import json
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from edge_fusion.errors import InputError
from edge_fusion.runtime.energy import EnergyMeter, Power, integrate
from edge_fusion.runtime.run_meter import RunMeter
from edge_fusion.runtime.telemetry import MachineSample, Sampler, Telemetry, open_telemetry
from edge_fusion.runtime.vitals import PowerReading, Vitals
from tests.fakes.jetson_files import ORIN_NANO_RAILS, plant

S = 10**9


class FakePower:
    """Power that follows a script; counts how often it is asked."""

    source = "ina3221"

    def __init__(self, mw: Callable[[int], int | None]) -> None:
        self.mw, self.reads, self.closed = mw, 0, False

    def read(self) -> PowerReading:
        self.reads += 1
        mw = self.mw(self.reads)
        return PowerReading(time.monotonic_ns(), {} if mw is None else {"VDD_IN": mw})

    def close(self) -> None:
        self.closed = True


class FakeVitals:
    """Vitals from a list, the last of them again and again."""

    def __init__(self, *several: Vitals) -> None:
        self.several, self.reads = several, 0

    def read(self) -> Vitals:
        self.reads += 1
        return self.several[min(self.reads, len(self.several)) - 1]


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.002)


# Energy.


@pytest.mark.parametrize(
    ("start_s", "end_s", "mj", "covered_s"),
    [
        (0, 2, 4000, 2),  # all of it: 1 W rising to 3 W
        (0, 1, 1500, 1),  # its first half
        (1, 2, 2500, 1),  # its second half
        (-5, 9, 4000, 2),  # not beyond the samples
        (3, 4, 0, 0),
    ],
)
def test_the_trapezoid_is_cut_to_the_time(
    start_s: int, end_s: int, mj: float, covered_s: float
) -> None:
    piece = integrate(Power(0, 1000), Power(2 * S, 3000), start_s * S, end_s * S)
    assert (piece.mj, piece.covered_s) == (mj, covered_s)


def test_energy_lies_between_the_first_frame_and_the_last() -> None:
    meter = EnergyMeter(idle_mw=1000)
    events = [
        *((t * S // 5, "power") for t in range(60)),  # 12 s at 5 Hz
        *((2 * S + n * S // 10 + 7, "frame") for n in range(61)),  # from 2 s to 8 s
    ]
    for at_ns, what in sorted(events):
        if what == "frame":
            meter.frame(at_ns)
        else:
            meter.power(at_ns, 5000 if 2 * S <= at_ns <= 8 * S else 1000)
    energy = meter.result()
    assert (energy.frames, energy.seconds) == (60, 6.0)
    assert energy.samples == 30
    assert energy.covered == pytest.approx(1)
    assert energy.gross_mj == pytest.approx(30_000, rel=1e-6)
    assert energy.net_mj == pytest.approx(24_000, rel=1e-6)
    assert energy.gross_mj_per_frame == pytest.approx(500)
    assert energy.net_mj_per_frame == pytest.approx(400)
    assert energy.mean_mw == pytest.approx(5000)
    assert json.loads(json.dumps(energy.as_dict()))["net_mj_per_frame"] == pytest.approx(400)


def test_a_long_tail_after_the_last_frame_costs_nothing() -> None:
    meter = EnergyMeter()
    for t in range(11):
        meter.power(t * S, 2000)
        meter.frame(t * S + 1)
    whole = meter.result()
    for t in range(11, 5000):
        meter.power(t * S, 90_000)
    assert meter.result().gross_mj == pytest.approx(whole.gross_mj or 0, rel=1e-6)
    assert meter.result().frames == 10


def test_a_pause_between_frames_is_in_the_account() -> None:
    meter = EnergyMeter()
    for t in range(101):
        meter.power(t * S, 2000)
        if t in (1, 2, 90):
            meter.frame(t * S)
    assert meter.result().gross_mj == pytest.approx(89 * 2000)


def test_a_gap_that_is_too_long_leaves_no_figure() -> None:
    meter = EnergyMeter()
    meter.frame(0)
    for t in (0, 1, 2, 60, 61):
        meter.power(t * S, 2000)
    meter.frame(61 * S)
    energy = meter.result()
    assert energy.covered < 0.1
    assert (energy.gross_mj, energy.net_mj, energy.gross_mj_per_frame) == (None, None, None)


@pytest.mark.parametrize("frames", [0, 1])
def test_fewer_than_two_frames_have_no_energy(frames: int) -> None:
    meter = EnergyMeter(idle_mw=5)
    for t in range(3):
        meter.power(t * S, 2000)
        if t == 1 and frames:
            meter.frame(t * S)
    assert meter.result().gross_mj_per_frame is None


def test_a_stream_shorter_than_a_sample_is_still_measured_between_two() -> None:
    meter = EnergyMeter()
    meter.power(0, 1000)
    meter.frame(S // 4)
    meter.frame(3 * S // 4)
    meter.power(S, 3000)
    assert meter.result().gross_mj == pytest.approx(1000)


# The sampler.


def test_power_is_read_more_often_than_the_rest() -> None:
    power = FakePower(lambda n: n)
    vitals = FakeVitals(Vitals(cpu_load=0.25))
    with Sampler(Telemetry(power, [vitals]), 0.005, 0.1) as sampler:
        wait_until(lambda: power.reads >= 30)
    assert vitals.reads < power.reads / 4
    samples = sampler.since(0)
    assert [one.total_mw for one in samples] == list(range(1, len(samples) + 1))
    assert all(one.cpu_load == 0.25 for one in samples)  # taken over from the last full one
    assert sampler.newest is samples[-1]
    assert sampler.since(samples[-2].at_ns) == samples[-2:]
    assert power.closed
    assert 0 < sampler.cost < 1
    assert sampler.problem is None


def test_the_sampler_ends_with_its_block_and_with_errors() -> None:
    power = FakePower(lambda n: 1)
    with pytest.raises(KeyError), Sampler(Telemetry(power, [])):
        raise KeyError
    assert power.closed
    assert "edge-fusion-telemetry" not in {one.name for one in threading.enumerate()}


def test_a_reader_that_fails_ends_the_sampling_and_not_the_stream() -> None:
    def fail(n: int) -> int:
        if n == 3:
            raise ZeroDivisionError("odd")
        return 1

    with Sampler(Telemetry(FakePower(fail), []), 0.001) as sampler:
        meter = RunMeter(sampler)
        wait_until(lambda: sampler.problem is not None)
        meter.frame()
        assert "telemetry stopped: ZeroDivisionError: odd" in meter.summary().notes
    assert len(sampler.since(0)) >= 2


def test_a_driver_that_hangs_holds_nobody_up() -> None:
    hung = threading.Event()

    def hang(n: int) -> int:
        if n == 2:
            hung.wait(20)
        return 1

    began = time.monotonic()
    with Sampler(Telemetry(FakePower(hang), []), 0.001) as sampler:
        wait_until(lambda: sampler.newest is not None)
        time.sleep(0.02)
        assert sampler.take() is sampler.newest
    assert time.monotonic() - began < 4
    hung.set()


def test_a_reading_that_is_not_new_is_taken_once() -> None:
    class Old(FakePower):
        def read(self) -> PowerReading:
            self.reads += 1
            return PowerReading(77, {"VDD_IN": 1})

    power = Old(lambda n: 1)
    with Sampler(Telemetry(power, []), 0.001) as sampler:
        wait_until(lambda: power.reads > 5)
    assert len(sampler.since(0)) == 1


@pytest.mark.parametrize("period", [0.0, -1.0, float("nan")])
def test_a_period_is_above_zero(period: float) -> None:
    with pytest.raises(InputError, match="a sampling period: expected seconds above 0, got"):
        Sampler(Telemetry(None, []), period)


# The summary.


def sample(at_ns: int, **known: object) -> MachineSample:
    plain = Telemetry(None, []).sample()
    return replace(plain, at_ns=at_ns, **known)  # type: ignore[arg-type]


def test_a_run_in_full() -> None:
    phases = (
        Vitals(gpu_mhz=306, gpu_load=0.0, temperatures_c={"tj": 40.0}, throttled_by=()),
        Vitals(
            gpu_mhz=918,
            gpu_load=0.8,
            temperatures_c={"tj": 71.5, "cpu": 60.0, "PMIC": 100.0},
            throttled_by=("gpu-throttle-alert",),
            cpu_load=0.5,
            memory_used_bytes=3 << 30,
        ),
    )
    started = threading.Event()
    power = FakePower(lambda n: 9000 if started.is_set() else 4000)
    telemetry = Telemetry(power, [FakeVitals(*phases)], power_mode="25W")
    with Sampler(telemetry, 0.002, 0.002) as sampler:
        meter = RunMeter(sampler)
        assert meter.measure_idle(0.05) == pytest.approx(4000)
        started.set()
        wait_until(lambda: (sampler.newest or sample(0)).total_mw == 9000)
        for _ in range(11):
            meter.frame()
            time.sleep(0.01)
        meter.frame()
        summary = meter.summary()
    assert (summary.source, summary.power_of, summary.power_mode) == ("ina3221", ("VDD_IN",), "25W")
    assert summary.samples > 10
    assert summary.mean_mw == pytest.approx(9000)
    assert summary.max_mw == 9000
    assert summary.energy.frames == 11
    seconds = summary.energy.seconds
    assert summary.energy.gross_mj == pytest.approx(9000 * seconds)
    assert summary.energy.net_mj == pytest.approx(5000 * seconds)
    assert (summary.gpu_mhz_min, summary.gpu_mhz_max) == (918, 918)  # the first came too early
    assert (summary.temperature_max_c, summary.temperature_max_at) == (71.5, "tj")
    assert summary.throttled_s == pytest.approx(seconds, abs=0.05)
    assert summary.throttled_by == {"gpu-throttle-alert": summary.throttled_s}
    assert summary.gpu_load_mean == pytest.approx(0.8)
    assert summary.cpu_load_mean == pytest.approx(0.5)
    assert summary.memory_used_max_bytes == 3 << 30
    assert summary.notes == ()
    told = json.loads(json.dumps(summary.as_dict()))
    assert told["energy"]["net_mj_per_frame"] == pytest.approx(5000 * seconds / 11)
    facts = summary.facts()
    assert facts["power"] == "9.00 W, at most 9.00 W (VDD_IN by ina3221, power mode 25W)"
    assert "mJ of it beyond rest" in facts["energy"]
    assert facts["temperature"] == "at most 71.5 C (tj)"
    assert facts["throttled"].endswith("s by gpu-throttle-alert")
    assert facts["CPU"] == "50% busy, 3.0 GiB of memory used at most"


def test_without_rails_nothing_waits_and_nothing_is_invented() -> None:
    with Sampler(Telemetry(None, [FakeVitals(Vitals(cpu_load=0.1))]), 0.002) as sampler:
        meter = RunMeter(sampler)
        began = time.monotonic()
        assert meter.measure_idle(60) is None
        assert time.monotonic() - began < 5
        meter.frame()
        seen = len(sampler.since(0))
        wait_until(lambda: len(sampler.since(0)) > seen + 1)
        meter.frame()
        summary = meter.summary()
    assert (summary.mean_mw, summary.max_mw, summary.energy.gross_mj) == (None, None, None)
    assert summary.throttled_s is None
    assert summary.cpu_load_mean == pytest.approx(0.1)
    assert set(summary.facts()) == {"CPU"}


def test_rails_that_fall_silent_are_told() -> None:
    power = FakePower(lambda n: 4000 if n < 4 else None)
    with Sampler(Telemetry(power, []), 0.002) as sampler:
        meter = RunMeter(sampler)
        meter.frame()
        wait_until(lambda: power.reads > 40)
        meter.frame()
        summary = meter.summary()
    assert summary.energy.gross_mj is None
    assert summary.notes[0].startswith("no energy: power was known for ")


def test_a_stream_without_a_sample_says_so() -> None:
    with Sampler(Telemetry(FakePower(lambda n: 1), []), 30.0) as sampler:
        meter = RunMeter(sampler)
        wait_until(lambda: sampler.newest is not None)
        meter.frame()
        meter.frame()
        summary = meter.summary()
    assert summary.notes == ("the stream was too short for a sample",)
    assert summary.energy.gross_mj is not None  # power was known just before and after


def test_idle_can_be_broken_off() -> None:
    stop = threading.Event()
    stop.set()
    with Sampler(Telemetry(FakePower(lambda n: 1), []), 0.002) as sampler:
        wait_until(lambda: sampler.newest is not None)
        assert RunMeter(sampler).measure_idle(60, stop) is None


# This machine.


def test_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = importlib.util.find_spec("psutil") is not None
    telemetry = open_telemetry()
    telemetry.sample()
    time.sleep(0.05)  # a load is of a time, and the kernel counts in hundredths of a second
    first = telemetry.sample()
    telemetry.close()
    if first.total_of:
        pytest.skip("this machine measures power")
    assert first.source == ("psutil" if installed else "kernel")
    assert first.memory_used_bytes is not None
    assert first.memory_used_bytes > 1 << 20
    assert first.cpu_load is not None
    assert 0 <= first.cpu_load <= 1
    monkeypatch.setitem(sys.modules, "psutil", None)  # as if it were not installed
    monkeypatch.delitem(sys.modules, "edge_fusion.runtime.psutil_vitals", raising=False)
    alone = open_telemetry()
    sample = alone.sample()
    assert sample.source == "kernel"
    assert sample.memory_used_bytes == pytest.approx(first.memory_used_bytes, rel=0.5)


def test_a_tree_of_another_machine_is_not_mixed_with_this_one(tmp_path: Path) -> None:
    telemetry = open_telemetry(plant(tmp_path, ORIN_NANO_RAILS))
    assert telemetry.sample().memory_used_bytes is None  # the tree has no meminfo, this machine has
