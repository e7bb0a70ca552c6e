from __future__ import annotations

from edge_fusion.runtime.machine import MachineWatch, machine_state
from tests.fakes.jetson_files import coolers, over_current, plant, zones


def test_the_machine_is_told_with_its_versions():
    machine = machine_state()
    assert {"python", "numpy", "onnxruntime", "tensorrt", "edge_fusion"} <= set(machine.versions)
    assert "cv2" in machine.threads


def test_a_look_tells_clocks_and_temperatures(tmp_path):
    cores = "sys/devices/system/cpu"
    files = {
        f"{cores}/cpu{n}/cpufreq/scaling_cur_freq": f"{mhz}000\n"
        for n, mhz in enumerate((1200, 1400))
    }
    files |= zones(cpu=61.5, gpu=58.0) | coolers({"cpufreq-cpu0": 0})
    plant(tmp_path, files)
    look = MachineWatch(tmp_path).look()
    assert look.cpu_mhz == 1300
    assert look.temperatures_c == {"cpu": 61.5, "gpu": 58.0}
    assert look.throttled_by == ()


def test_throttling_between_two_looks_is_told(tmp_path):
    plant(tmp_path, over_current(3))
    watch = MachineWatch(tmp_path)
    assert watch.look().throttled_by == ()
    plant(tmp_path, over_current(4))
    assert watch.look().throttled_by == ("over-current oc1",)
    assert watch.look().throttled_by == ()


def test_an_x86_kernels_clocks_are_read(tmp_path):
    plant(tmp_path, {"proc/cpuinfo": "cpu MHz\t\t: 2400.000\ncpu MHz\t\t: 2600.5\n"})
    assert MachineWatch(tmp_path).look().cpu_mhz == 2500.25


def test_what_is_not_told_is_none(tmp_path):
    look = MachineWatch(tmp_path).look()
    assert (look.cpu_mhz, look.gpu_mhz, look.power_mode, look.clocks_locked) == (None,) * 4
    assert look.temperatures_c == {}
