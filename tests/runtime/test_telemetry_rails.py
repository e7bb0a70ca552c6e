"""Power rails and vitals on trees of files as Jetsons have them, whole and garbled."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from edge_fusion.board import Tree, probe_board
from edge_fusion.runtime.rails import SysfsRails, find_rails, total_basis, total_mw
from edge_fusion.runtime.telemetry import open_telemetry
from edge_fusion.runtime.vitals import KernelVitals
from tests.edge_fusion.test_board import AGX_ORIN, ORIN_NANO, THOR, XAVIER
from tests.fakes.jetson_files import (
    AGX_ORIN_RAILS,
    AGX_XAVIER_JP4,
    CALM,
    I2C,
    ORIN_NANO_RAILS,
    THOR_MODULE,
    THOR_VIN,
    coolers,
    ina3221,
    over_current,
    plant,
    zones,
)

BOARDS = [
    # VDD_IN is all that enters the module; the other two are parts of it
    pytest.param(ORIN_NANO_RAILS, 6000, ("VDD_IN",), 3, "ina3221", id="orin-nano"),
    # VDDQ_VDD2_1V8AO is part of VIN_SYS_5V0 and must not count twice; NC is no rail
    pytest.param(
        AGX_ORIN_RAILS,
        3192 + 399 + 4305,
        ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),
        4,
        "ina3221",
        id="agx-orin",
    ),
    # a GPU at rest reads below zero
    pytest.param(
        THOR_MODULE,
        -392 + 5527 + 5040,
        ("VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0"),
        3,
        "ina3221",
        id="thor",
    ),
    pytest.param({**THOR_MODULE, **THOR_VIN}, 16802, ("VIN",), 4, "ina3221+ina238", id="thor-vin"),
    pytest.param(
        AGX_XAVIER_JP4,
        1155 + 385 + 2504 + 0 + 192 + 2692,
        ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"),
        6,
        "ina3221",
        id="agx-xavier-jp4",
    ),
]


@pytest.mark.parametrize(("files", "mw", "total_of", "count", "source"), BOARDS)
def test_rails_and_their_total(
    tmp_path: Path,
    files: Mapping[str, str],
    mw: int,
    total_of: tuple[str, ...],
    count: int,
    source: str,
) -> None:
    telemetry = open_telemetry(plant(tmp_path, files))
    sample = telemetry.sample()
    assert (sample.total_mw, sample.total_of) == (mw, total_of)
    assert len(sample.rails_mw) == count
    assert sample.source == telemetry.source == source
    assert telemetry.notes == ()


def test_an_ina238_is_found_under_any_of_its_labels(tmp_path: Path) -> None:
    folder = f"{I2C}/2-0044/hwmon/hwmon4"
    power = {f"{folder}/name": "ina238\n", f"{folder}/power1_input": "16802000\n"}
    labels: list[dict[str, str]] = [{}, {f"{folder}/label": "VIN\n"}]
    for number, label in enumerate(labels):
        tree = Tree(plant(tmp_path / str(number), {**power, **label}))
        assert [rail.name for rail in find_rails(tree)] == ["VIN"]


def test_rails_below_class_hwmon_are_found_and_not_twice(tmp_path: Path) -> None:
    plant(tmp_path, ina3221("1-0040", {"VDD_IN": (5000, 1000)}))
    (tmp_path / "sys/class/hwmon").mkdir(parents=True)
    (tmp_path / "sys/class/hwmon/hwmon1").symlink_to(tmp_path / I2C / "1-0040/hwmon/hwmon1")
    assert [rail.name for rail in find_rails(Tree(tmp_path))] == ["VDD_IN"]
    (tmp_path / "sys/bus/i2c").rename(tmp_path / "elsewhere")
    (tmp_path / "sys/class/hwmon/hwmon1").unlink()
    (tmp_path / "sys/class/hwmon/hwmon1").symlink_to(
        tmp_path / "elsewhere/devices/1-0040/hwmon/hwmon1"
    )
    assert [rail.name for rail in find_rails(Tree(tmp_path))] == ["VDD_IN"]


def test_other_monitors_are_no_rails(tmp_path: Path) -> None:
    folder = "sys/class/hwmon/hwmon0"
    files = {f"{folder}/name": "nvme\n", f"{folder}/in1_label": "VDD_IN\n"}
    files |= {f"{folder}/in1_input": "5000\n", f"{folder}/curr1_input": "1\n"}
    assert find_rails(Tree(plant(tmp_path, files))) == ()


def test_a_total_with_a_part_missing_is_no_total(tmp_path: Path) -> None:
    telemetry = open_telemetry(plant(tmp_path, {**THOR_MODULE, **THOR_VIN}))
    assert telemetry.sample().total_mw == 16802
    plant(tmp_path, {f"{I2C}/2-0044/hwmon/hwmon4/power1_input": ""})  # the chip does not answer
    sample = telemetry.sample()
    assert sample.total_of == ("VIN",)
    assert sample.total_mw is None  # and not the sum of the module's rails
    assert sample.rails_mw["VDD_GPU"] == -392
    assert total_mw({"VDD_GPU": 1, "VDD_CPU_SOC_MSS": 2}, total_basis(["VIN"])) is None


def test_rails_no_table_knows_are_told_without_a_total(tmp_path: Path) -> None:
    telemetry = open_telemetry(plant(tmp_path, ina3221("1-0040", {"VDD_X": (5000, 100)})))
    sample = telemetry.sample()
    assert (sample.rails_mw, sample.total_mw) == ({"VDD_X": 500}, None)
    assert telemetry.notes == ("the total of rails VDD_X is not known",)


GARBAGE = (b"", b"\0\0", b"\xff\xfe" * 40, b"9" * 6000, b"5000 mV\n", b"--1\n")


@pytest.mark.parametrize("content", GARBAGE, ids=lambda content: repr(content[:8]))
@pytest.mark.parametrize("name", sorted(ORIN_NANO_RAILS))
def test_a_garbled_file_spoils_nothing_else(tmp_path: Path, name: str, content: bytes) -> None:
    whole = open_telemetry(plant(tmp_path / "whole", ORIN_NANO_RAILS)).sample()
    spoilt: dict[str, str | bytes] = {**ORIN_NANO_RAILS, name: content}
    sample = open_telemetry(plant(tmp_path / "spoilt", spoilt)).sample()
    assert sample.as_dict()["source"] in ("ina3221", "kernel")
    if not name.startswith(I2C):
        assert sample.rails_mw == whole.rails_mw
    elif "in1" not in name and "curr1" not in name and "name" not in name:
        assert sample.total_mw == whole.total_mw


def test_rails_that_vanish_while_they_are_read(tmp_path: Path) -> None:
    tree = Tree(plant(tmp_path, ORIN_NANO_RAILS))
    rails = SysfsRails(tree, find_rails(tree))
    current = tmp_path / I2C / "1-0040/hwmon/hwmon1/curr1_input"
    current.unlink()
    if os.geteuid() != 0:
        current.write_text("1200\n")
        current.chmod(0)
    assert set(rails.read().rails_mw) == {"VDD_CPU_GPU_CV", "VDD_SOC"}


# Vitals.


def test_an_orin_nano_in_full(tmp_path: Path) -> None:
    telemetry = open_telemetry(plant(tmp_path, {**ORIN_NANO, **ORIN_NANO_RAILS}))
    plant(tmp_path, {"proc/stat": "cpu  150 0 150 750 100 0 0 0 0 0\n"})
    sample = telemetry.sample()
    assert (sample.gpu_mhz, sample.gpu_load) == (306, 0.437)
    assert sample.temperatures_c == {"cpu": 51.0, "gpu": 50.625, "tj": 51.781}
    assert (sample.throttled, sample.throttled_by) == (False, ())
    assert sample.power_mode == "25W"
    assert sample.cpu_load == pytest.approx(100 / 150)
    assert sample.memory_used_bytes == (7802888 - 5242880) * 1024
    assert sample.rails_mw == {"VDD_IN": 6000, "VDD_CPU_GPU_CV": 1300, "VDD_SOC": 1450}


@pytest.mark.parametrize("board", [ORIN_NANO, AGX_ORIN, THOR, XAVIER])
def test_it_agrees_with_the_board_probe(tmp_path: Path, board: Mapping[str, str]) -> None:
    state = probe_board(plant(tmp_path, board))
    sample = open_telemetry(tmp_path).sample()
    assert sample.gpu_mhz == state.gpu_mhz
    assert sample.power_mode == state.power_mode
    if state.memory_bytes is not None and state.available_bytes is not None:
        assert sample.memory_used_bytes == state.memory_bytes - state.available_bytes


@pytest.mark.parametrize(
    "path",
    [
        "sys/class/devfreq/17000000.gpu/device/load",
        "sys/class/devfreq/17000000.gpu/load",
        "sys/devices/platform/gpu.0/load",
        "sys/devices/gpu.0/load",
    ],
)
def test_the_gpus_load_wherever_the_kernel_puts_it(tmp_path: Path, path: str) -> None:
    reader = KernelVitals(Tree(plant(tmp_path, {**ORIN_NANO, path: "1000\n"})))
    assert reader.read().gpu_load == 1.0


@pytest.mark.parametrize(
    ("name", "slows_down"),
    [
        ("cpu-throttle-alert", True),
        ("cpufreq-cpu4", True),
        ("thermal-cpufreq-0", True),  # before JetPack 5
        ("devfreq-17000000.gpu", True),
        ("devfreq-gpu-gpc-0", True),
        ("gpu-balanced", True),
        ("pwm-fan", False),  # running is its normal state
        ("hot-surface-alert", False),  # warns hands, slows nothing
        ("iwlwifi_1", False),
    ],
)
def test_what_throttling_is(tmp_path: Path, name: str, slows_down: bool) -> None:
    vitals = KernelVitals(Tree(plant(tmp_path, coolers({**CALM, name: 1})))).read()
    assert vitals.throttled_by == ((name,) if slows_down else ())


def test_over_current_counts_from_the_first_look(tmp_path: Path) -> None:
    reader = KernelVitals(Tree(plant(tmp_path, over_current(0, 15, 37))))
    assert reader.read().throttled_by == ()  # 37 since boot is not now
    plant(tmp_path, over_current(0, 15, 40))
    assert reader.read().throttled_by == ("over-current oc3",)
    assert reader.read().throttled_by == ()
    counter = "sys/class/hwmon/hwmon3/oc3_event_cnt"
    plant(tmp_path, {counter: ""})
    assert reader.read().throttled_by == ()
    plant(tmp_path, {counter: "40\n"})  # it answers again: nothing new happened
    assert reader.read().throttled_by == ()


def test_a_processor_counts_how_often_it_was_too_hot(tmp_path: Path) -> None:
    counter = "sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count"
    reader = KernelVitals(Tree(plant(tmp_path, {counter: "3\n"})))
    plant(tmp_path, {counter: "5\n"})
    assert reader.read().throttled_by == ("processor too hot",)


def test_throttling_is_unknown_where_nothing_tells_it(tmp_path: Path) -> None:
    assert KernelVitals(Tree(plant(tmp_path, coolers({"pwm-fan": 2})))).read().throttled_by is None
    sample = open_telemetry(tmp_path).sample()
    assert (sample.throttled, sample.throttled_by) == (None, ())


def test_zones_without_power_and_zones_of_one_name(tmp_path: Path) -> None:
    plant(tmp_path, zones(cpu=40.0, cv0=-256.0))
    plant(tmp_path, {"sys/class/thermal/thermal_zone8/type": "cpu-thermal\n"})
    plant(tmp_path, {"sys/class/thermal/thermal_zone8/temp": "-5000\n"})
    temperatures = KernelVitals(Tree(tmp_path)).read().temperatures_c
    assert temperatures == {"cpu": 40.0, "cpu 2": -5.0}


def test_an_empty_tree_knows_nothing(tmp_path: Path) -> None:
    telemetry = open_telemetry(tmp_path)
    sample = telemetry.sample()
    assert (sample.source, sample.total_mw, sample.cpu_load) == ("kernel", None, None)
    assert (dict(sample.rails_mw), dict(sample.temperatures_c)) == ({}, {})
    assert "no power monitor below /sys, and no tegrastats" in telemetry.notes[0]
    telemetry.close()
