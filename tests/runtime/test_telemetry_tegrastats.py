"""tegrastats: lines of every JetPack, and programs that print them, die or print garbage."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from edge_fusion.runtime import telemetry as telemetry_module
from edge_fusion.runtime.rails import total_basis, total_mw
from edge_fusion.runtime.tegrastats import Tegrastats, find_tegrastats, parse_line
from edge_fusion.runtime.telemetry import open_telemetry
from tests.edge_fusion.test_board import ORIN_NANO
from tests.fakes.jetson_files import ORIN_NANO_RAILS, TEGRASTATS, plant

MB = 1 << 20


@pytest.mark.parametrize(
    ("board", "total", "rails", "gpu_load", "gpu_mhz", "zones", "cpu_load", "ram_mb"),
    [
        ("orin-nano-jp6", 5832, 3, 0.0, None, 6, 1.06 / 6, 3595),
        ("agx-orin-jp6", 3193 + 399 + 4306, 3, 0.0, None, 5, 0.27 / 12, 13123),
        ("agx-orin-jp7", 5139 + 3268 + 5500, 3, 0.12, 1300.0, 4, 1.91 / 12, 20642),
        ("thor", 0 + 4165 + 4126, 3, None, 0.0, 4, 0.08 / 14, 4208),
        ("thor-vin", 16802, 4, None, None, 4, 0.0, 17842),
        ("agx-xavier-jp4", 1155 + 385 + 2504 + 0 + 192 + 2692, 6, 0.07, None, 9, 0.005, 407),
        ("agx-xavier-jp5", 467 + 467 + 1245 + 0 + 311 + 2768, 6, 0.0, 114.0, 8, 0.005, None),
    ],
)
def test_lines_of_every_jetpack(
    board: str,
    total: int,
    rails: int,
    gpu_load: float | None,
    gpu_mhz: float | None,
    zones: int,
    cpu_load: float,
    ram_mb: int | None,
) -> None:
    parsed = parse_line(TEGRASTATS[board])
    assert parsed is not None
    assert len(parsed.rails_mw) == rails
    assert total_mw(parsed.rails_mw, total_basis(parsed.rails_mw)) == total
    vitals = parsed.vitals
    assert (vitals.gpu_load, vitals.gpu_mhz) == (gpu_load, gpu_mhz)
    assert len(vitals.temperatures_c) == zones
    assert vitals.cpu_load == pytest.approx(cpu_load)
    assert vitals.memory_used_bytes == (None if ram_mb is None else ram_mb * MB)


def test_a_rail_below_zero_is_kept_and_memory_is_no_rail() -> None:
    parsed = parse_line(TEGRASTATS["thor-vin"])
    assert parsed is not None
    assert parsed.rails_mw["VDD_GPU"] == -392
    assert parse_line("RAM 1/2MB SWAP 3/4MB IRAM 0/252kB(lfb 252kB)") is not None
    assert parse_line("RAM 1/2MB SWAP 3/4MB IRAM 0/252kB(lfb 252kB)").rails_mw == {}  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "line", ["", "\n", "tegrastats: permission denied", "\ufffd" * 99, "A" * 9000, "CPU [,,,off]"]
)
def test_garbage_is_no_line(line: str) -> None:
    assert parse_line(line) is None


@pytest.mark.parametrize("line", TEGRASTATS.values(), ids=TEGRASTATS)
def test_a_line_that_is_cut_anywhere_does_no_harm(line: str) -> None:
    for end in range(0, len(line), 7):
        parse_line(line[:end])


def script(folder: Path, body: str) -> str:
    program = folder / "tegrastats"
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)
    return str(program)


def printing(line: str, period: str = "0.02") -> str:
    return f"while echo '{line}'; do sleep {period}; done"


@pytest.fixture
def on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


def test_it_is_second_to_the_files(tmp_path: Path) -> None:
    root = plant(tmp_path, ORIN_NANO_RAILS)
    (root / "usr/bin").mkdir(parents=True)
    script(root / "usr/bin", printing(TEGRASTATS["orin-nano-jp6"]))
    assert open_telemetry(root).source == "ina3221"


def test_it_measures_where_the_files_do_not(tmp_path: Path) -> None:
    root = plant(tmp_path, ORIN_NANO)
    (root / "usr/bin").mkdir(parents=True)
    script(root / "usr/bin", printing(TEGRASTATS["orin-nano-jp6"]))
    telemetry = open_telemetry(root)
    try:
        sample = telemetry.sample()
    finally:
        telemetry.close()
    assert (sample.source, sample.total_mw, sample.total_of) == ("tegrastats", 5832, ("VDD_IN",))
    assert sample.memory_used_bytes == 3595 * MB  # the line's, as it comes first
    assert sample.gpu_mhz == 306  # the line lacks it: from the kernel
    assert sample.power_mode == "25W"


def test_the_interval_is_told_and_the_program_ends_with_us(on_path: Path) -> None:
    line = TEGRASTATS["thor"]
    program = script(on_path, f'echo "$*" > {on_path}/said; {printing(line)}')
    assert find_tegrastats(Path("/")) == program
    running = Tegrastats(program, 0.2)
    assert running.wait(5)
    running.close()
    running.close()
    assert (on_path / "said").read_text() == "--interval 200\n"
    assert not running._reader.is_alive()
    assert running._process.returncode == -9


def test_one_that_dies_leaves_no_stale_power(
    on_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = Tegrastats(script(on_path, f"echo '{TEGRASTATS['thor']}'"), 0.2)
    assert running.wait(5)
    assert running.read().rails_mw["VDD_CPU_SOC_MSS"] == 4165
    monkeypatch.setattr("edge_fusion.runtime.tegrastats._FRESH_S", 0.05)
    time.sleep(0.1)
    assert running.read().rails_mw == {}
    running.close()


@pytest.mark.parametrize(
    "body",
    [
        "exit 1",
        "echo 'must be root'; exit 1",
        "head -c 20000 /dev/zero; sleep 60",
        "yes '%%% @@@ \\377'",
        "sleep 60",
    ],
    ids=["dies", "complains", "no lines", "garbage", "silent"],
)
def test_one_that_is_of_no_use_is_said_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str
) -> None:
    monkeypatch.setattr(telemetry_module, "_FIRST_LINE_S", 0.2)
    (tmp_path / "usr/bin").mkdir(parents=True)
    program = script(tmp_path / "usr/bin", body)
    began = time.monotonic()
    telemetry = open_telemetry(tmp_path)
    assert time.monotonic() - began < 5
    assert telemetry.source == "kernel"
    assert telemetry.notes == (f"power is not known: {program} printed no rails in 0.2 s",)


def test_one_that_does_not_start_is_said_so(tmp_path: Path) -> None:
    plant(tmp_path, {"usr/bin/tegrastats": b"\x7fELF garbage"})
    (tmp_path / "usr/bin/tegrastats").chmod(0o755)
    assert "does not start" in open_telemetry(tmp_path).notes[0]
