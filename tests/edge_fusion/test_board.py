"""The board probe on trees of files as five machines have them, whole and garbled."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Mapping
from pathlib import Path

import pytest

from edge_fusion.board import BoardState, probe_board

MEMINFO = (
    "MemTotal:  7802888 kB\nMemFree:  100000 kB\nMemAvailable:  5242880 kB\nSwapTotal: {} kB\n"
)
TREE = "proc/device-tree"
RELEASE = "# R{} (release), REVISION: {}, GCID: 1, BOARD: generic, EABI: aarch64, DATE: now\n"


def mode(number: int, name: str, mask: int, gpu: int, emc: int) -> str:
    """One mode in the words of a real nvpmodel.conf, with other settings around it."""
    return (
        f"< POWER_MODEL ID={number} NAME={name} >\n"
        "CPU_ONLINE CORE_0 1\n"
        f"TPC_POWER_GATING TPC_PG_MASK {mask}\n"
        "CPU_A78_0 MAX_FREQ 1497600\n"
        "GPU MIN_FREQ 0\n"
        f"GPU MAX_FREQ {gpu}\n"
        f"EMC MAX_FREQ {emc}\n\n"
    )


PREAMBLE = (
    "# < POWER_MODEL ID=id_num NAME=mode_name >\n"
    "< PARAM TYPE=CLOCK NAME=GPU >\n"
    "MAX_FREQ /sys/devices/platform/17000000.gpu/devfreq_dev/max_freq\n\n"
)
DEFAULT = "< PM_CONFIG DEFAULT=1 >\n"
NANO_MODES = (
    PREAMBLE
    + mode(0, "15W", 240, 612000000, 2133000000)
    + mode(1, "25W", 240, 918000000, 3199000000)
    + mode(2, "MAXN_SUPER", 240, -1, -1)
    + mode(3, "7W", 252, 408000000, 2133000000)
    + DEFAULT
)
AGX_MODES = (
    PREAMBLE
    + mode(0, "MAXN", 0, -1, -1)
    + mode(1, "MODE_15W", 248, 408000000, 2133000000)
    + mode(2, "MODE_30W", 240, 612000000, -1)
    + DEFAULT
)


def clocks(folder: str, now: int, least: int, most: int) -> dict[str, str]:
    return {
        f"sys/class/devfreq/{folder}/{name}_freq": f"{value}\n"
        for name, value in (("cur", now), ("min", least), ("max", most))
    }


ORIN_NANO = {
    f"{TREE}/model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0",
    f"{TREE}/compatible": "nvidia,p3768-0000+p3767-0005-super\0nvidia,p3767-0005\0"
    "nvidia,tegra234\0",
    "etc/nv_tegra_release": RELEASE.format(36, "4.3"),
    "etc/nvpmodel.conf": NANO_MODES,
    "var/lib/nvpmodel/status": "pmode:0001\n",
    "proc/meminfo": MEMINFO.format(3901440),
    **clocks("17000000.gpu", 306000000, 306000000, 918000000),
    **clocks("15340000.vic", 1, 1, 1),
}
AGX_ORIN = {
    f"{TREE}/model": "Jetson AGX Orin Developer Kit\0",
    f"{TREE}/compatible": "nvidia,p3737-0000+p3701-0005\0nvidia,tegra234\0",
    "etc/nv_tegra_release": RELEASE.format(36, "3.0"),
    "etc/nvpmodel.conf": AGX_MODES,
    "var/lib/nvpmodel/status": "pmode:0000 fmode:quiet\n",
    **clocks("17000000.gpu", 1300500000, 1300500000, 1300500000),
}
THOR = {
    f"{TREE}/model": "NVIDIA Jetson AGX Thor Developer Kit\0",
    f"{TREE}/compatible": "nvidia,p4071-0000+p3834-0008\0nvidia,p3834-0008\0nvidia,tegra264\0",
    "etc/nv_tegra_release": RELEASE.format(38, "2.2"),
    **clocks("gpu-gpc-0", 0, 315000000, 1575000000),
    **clocks("gpu-nvd-0", 1, 2, 3),
}
XAVIER = {
    f"{TREE}/model": "NVIDIA Jetson Xavier NX Developer Kit\0",
    f"{TREE}/compatible": "nvidia,p3509-0000+p3668-0001\0nvidia,tegra194\0",
    "etc/nv_tegra_release": RELEASE.format(35, "4.1"),
    **clocks("17000000.gv11b", 114750000, 114750000, 1109250000),
}
X86 = {"proc/meminfo": MEMINFO.format(0)}


def plant(root: Path, files: Mapping[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


@pytest.mark.parametrize(
    ("files", "soc", "part", "l4t", "jetpack", "target"),
    [
        (ORIN_NANO, "tegra234", "p3767-0005", "36.4.3", "6.2", "orin-nano@6.2"),
        (AGX_ORIN, "tegra234", "p3701-0005", "36.3.0", "6.0", "agx-orin-64gb@6.0"),
        (THOR, "tegra264", "p3834-0008", "38.2.2", "7.0", "thor-t5000@7.0"),
        (XAVIER, "tegra194", "p3668-0001", "35.4.1", "5.1.2", "xavier-nx@5.1.2"),
        (X86, None, None, None, None, None),
    ],
    ids=["orin-nano", "agx-orin", "thor", "xavier", "x86"],
)
def test_boards_are_told_apart(
    tmp_path: Path,
    files: Mapping[str, str],
    soc: str | None,
    part: str | None,
    l4t: str | None,
    jetpack: str | None,
    target: str | None,
) -> None:
    state = probe_board(plant(tmp_path, files))
    assert (state.soc, state.part, state.l4t) == (soc, part, l4t)
    assert (state.jetpack, state.target) == (jetpack, target)
    assert state.is_jetson == (soc is not None)
    assert state.architecture is None  # no file of the tree tells it


def test_an_orin_nano_in_full(tmp_path: Path) -> None:
    state = probe_board(plant(tmp_path, ORIN_NANO))
    assert state.model == "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super"
    assert state.power_mode == "25W"
    assert [one.name for one in state.power_modes] == ["15W", "25W", "MAXN_SUPER", "7W"]
    assert [one.tpcs_off for one in state.power_modes] == [4, 4, 4, 6]
    assert [one.gpu_mhz for one in state.power_modes] == [612, 918, math.inf, 408]
    assert (state.gpu_mhz, state.gpu_min_mhz, state.gpu_max_mhz) == (306, 306, 918)
    assert state.clocks_locked is False
    assert state.memory_bytes == 7802888 * 1024
    assert state.available_bytes == 5 << 30
    assert state.swap_bytes == 3901440 * 1024


def test_the_fastest_mode_is_neither_the_first_nor_the_last(tmp_path: Path) -> None:
    nano = probe_board(plant(tmp_path / "nano", ORIN_NANO)).fastest_mode
    assert nano is not None
    assert (nano.id, nano.name) == (2, "MAXN_SUPER")
    # fewer watts, more TPCs: what counts is what is switched on
    conf = mode(2, "15W", 252, 612000000, 0) + mode(3, "25W", 240, 408000000, 0)
    orin_nx = probe_board(plant(tmp_path / "nx", {"etc/nvpmodel.conf": conf})).fastest_mode
    assert orin_nx is not None
    assert orin_nx.name == "25W"
    assert BoardState().fastest_mode is None


def test_clocks_are_locked_where_they_cannot_move(tmp_path: Path) -> None:
    assert probe_board(plant(tmp_path / "agx", AGX_ORIN)).clocks_locked is True
    thor = probe_board(plant(tmp_path / "thor", THOR))
    assert thor.clocks_locked is False
    assert (thor.gpu_mhz, thor.gpu_max_mhz) == (0, 1575)
    xavier = probe_board(plant(tmp_path / "xavier", XAVIER))
    assert xavier.gpu_max_mhz == pytest.approx(1109.25)
    assert probe_board(plant(tmp_path / "x86", X86)).clocks_locked is None


def test_the_part_number_counts_and_not_the_model_in_words(tmp_path: Path) -> None:
    wrong = {**ORIN_NANO, f"{TREE}/model": "NVIDIA Jetson Orin NX Developer Kit Super\0"}
    assert probe_board(plant(tmp_path, wrong)).target == "orin-nano@6.2"


def test_l4t_is_read_from_the_package_where_its_file_is_missing(tmp_path: Path) -> None:
    dpkg = (
        "Package: bash\nStatus: install ok installed\nVersion: 5.1-6\n\n"
        "Package: nvidia-l4t-core\nStatus: install ok installed\nSection: core\n"
        "Version: 36.4.7-20250918154033\nDepends: libc6\n\n"
        "Package: zlib1g\nVersion: 1.2.11\n"
    )
    files = {
        **ORIN_NANO,
        "etc/nv_tegra_release": "# R36 (release), REV",
        "var/lib/dpkg/status": dpkg,
    }
    state = probe_board(plant(tmp_path, files))
    assert (state.l4t, state.jetpack, state.target) == ("36.4.7", "6.2.1", "orin-nano@6.2.1")


def test_an_unknown_release_has_no_jetpack_and_no_target(tmp_path: Path) -> None:
    state = probe_board(
        plant(tmp_path, {**ORIN_NANO, "etc/nv_tegra_release": RELEASE.format(99, 1)})
    )
    assert (state.l4t, state.jetpack, state.target) == ("99.1", None, None)


def test_a_release_that_the_board_does_not_run_gives_no_target(tmp_path: Path) -> None:
    state = probe_board(
        plant(tmp_path, {**THOR, "etc/nv_tegra_release": RELEASE.format(36, "4.3")})
    )
    assert (state.jetpack, state.target) == ("6.2", None)


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("echo 'NV Power Mode: MAXN'; echo 0", "MAXN"),
        ("echo 'NVPM ERROR: no root'; exit 1", None),
        ("printf '\\377\\376'", None),
    ],
)
@pytest.mark.parametrize("status", [None, "pmode:0009\n", "pm"])  # absent, not in the conf, cut
def test_nvpmodel_is_asked_where_its_files_do_not_say(
    tmp_path: Path, script: str, expected: str | None, status: str | None
) -> None:
    files = {**ORIN_NANO, "usr/sbin/nvpmodel": f"#!/bin/sh\n{script}\n"}
    del files["var/lib/nvpmodel/status"]
    if status is not None:
        files["var/lib/nvpmodel/status"] = status
    plant(tmp_path, files)
    (tmp_path / "usr/sbin/nvpmodel").chmod(0o755)
    assert probe_board(tmp_path).power_mode == expected


def test_nvpmodel_that_does_not_start_is_no_failure(tmp_path: Path) -> None:
    plant(tmp_path, {"usr/sbin/nvpmodel": b"\x7fELF garbage"})
    (tmp_path / "usr/sbin/nvpmodel").chmod(0o755)
    assert probe_board(tmp_path).power_mode is None


GARBAGE = (b"", b"\0\0\0", b"\xff\xfe" * 50, b"9" * 6000, b"pmode:" + b"1" * 6000, b"< > \n:,+-")


@pytest.mark.parametrize("content", GARBAGE, ids=lambda content: repr(content[:8]))
@pytest.mark.parametrize("name", sorted(ORIN_NANO))
def test_garbled_files_leave_the_rest_as_it_is(tmp_path: Path, name: str, content: bytes) -> None:
    whole = probe_board(plant(tmp_path / "whole", ORIN_NANO))
    state = probe_board(plant(tmp_path / "garbled", {**ORIN_NANO, name: content}))
    assert json.dumps(state.as_dict(), allow_nan=False)
    if name.startswith(TREE):
        assert state.l4t == whole.l4t
    else:
        assert (state.model, state.part) == (whole.model, whole.part)


@pytest.mark.parametrize("keep", [0.1, 0.4, 0.6, 0.9])
@pytest.mark.parametrize("name", sorted(ORIN_NANO))
def test_truncated_files_are_read_as_far_as_they_go(tmp_path: Path, name: str, keep: float) -> None:
    cut = ORIN_NANO[name][: int(len(ORIN_NANO[name]) * keep)]
    state = probe_board(plant(tmp_path, {**ORIN_NANO, name: cut}))
    assert json.dumps(state.as_dict(), allow_nan=False)


def test_a_mode_that_is_cut_off_is_not_taken_for_the_fastest(tmp_path: Path) -> None:
    cut = NANO_MODES[: NANO_MODES.index("GPU MAX_FREQ -1")]
    fastest = probe_board(plant(tmp_path, {"etc/nvpmodel.conf": cut})).fastest_mode
    assert fastest is not None
    assert fastest.name == "25W"


def test_folders_and_forbidden_files_in_the_place_of_files(tmp_path: Path) -> None:
    plant(tmp_path, ORIN_NANO)
    (tmp_path / "etc/nv_tegra_release").unlink()
    (tmp_path / "etc/nv_tegra_release").mkdir()
    (tmp_path / "proc/meminfo").unlink()
    (tmp_path / "proc/meminfo").symlink_to("nowhere")
    if os.geteuid() != 0:
        (tmp_path / "etc/nvpmodel.conf").chmod(0)
    state = probe_board(tmp_path)
    assert (state.l4t, state.memory_bytes) == (None, None)
    assert state.part == "p3767-0005"


def test_nothing_at_all_and_this_machine(tmp_path: Path) -> None:
    assert probe_board(tmp_path / "nowhere") == BoardState()
    here = probe_board()
    assert here.architecture == platform.machine()
    assert set(here.as_dict()) == {*BoardState.__slots__, "clocks_locked"}


def test_nothing_of_this_machine_is_frozen_into_the_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert BoardState().architecture is None
    assert probe_board().architecture == "riscv64"


def test_json_has_no_infinities(tmp_path: Path) -> None:
    fields = probe_board(plant(tmp_path, ORIN_NANO)).as_dict()
    modes = {one["name"]: one for one in json.loads(json.dumps(fields))["power_modes"]}
    assert modes["MAXN_SUPER"]["gpu_mhz"] is None
    assert modes["25W"]["gpu_mhz"] == 918
    assert fields["clocks_locked"] is False
