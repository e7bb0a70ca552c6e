from __future__ import annotations

import time

import numpy as np
import pytest

from edge_fusion.runtime.energy_probe import measure_energy, power_can_be_read
from tests.fakes.jetson_files import ina3221, plant

INPUTS = [{"rgb": np.zeros((1, 3, 2, 2), np.float32)}]


class SleepySession:
    def __init__(self, seconds: float) -> None:
        self.seconds, self.runs = seconds, 0

    def run(self, inputs):
        self.runs += 1
        time.sleep(self.seconds)
        return {}

    def close(self) -> None: ...


@pytest.fixture
def board(tmp_path):
    """An Orin Nano that draws 4 W."""
    return plant(tmp_path, ina3221("1-0040", {"VDD_IN": (5000, 800)}))


def test_a_frame_takes_the_power_of_its_time(board):
    assert power_can_be_read(board)
    sessions = {"slow": SleepySession(0.02), "fast": SleepySession(0.01)}
    seen = []
    found = measure_energy(
        sessions, dict.fromkeys(sessions, INPUTS), 0.6, idle_s=0.5,
        progress=lambda *now: seen.append(now), root=board,
    )  # fmt: skip
    assert list(found) == ["slow", "fast"]
    for name, energy in found.items():
        frame_s = energy.seconds / energy.frames
        assert energy.frames == sessions[name].runs - 1
        assert energy.gross_mj_per_frame == pytest.approx(4000 * frame_s, rel=1e-6)
        # It draws at rest what it draws at work.
        assert energy.idle_mw == pytest.approx(4000)
        assert energy.net_mj_per_frame == pytest.approx(0, abs=1e-6)
    assert found["slow"].gross_mj_per_frame > 1.3 * found["fast"].gross_mj_per_frame
    assert seen == [(0, 2), (1, 2), (2, 2)]


def test_where_no_power_can_be_read_nothing_runs(tmp_path):
    session = SleepySession(0)
    assert not power_can_be_read(tmp_path)
    assert measure_energy({"a": session}, {"a": INPUTS}, 5, root=tmp_path) == {}
    assert session.runs == 0


def test_it_can_be_left_out(board):
    session = SleepySession(0)
    assert measure_energy({"a": session}, {"a": INPUTS}, 0, root=board) == {}
    assert session.runs == 0
