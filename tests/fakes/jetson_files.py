"""Files of ``/sys`` and ``/proc`` as Jetsons have them, and what their tegrastats prints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

I2C = "sys/bus/i2c/devices"


def plant(root: Path, files: Mapping[str, str | bytes]) -> Path:
    """Write files below a root."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def ina3221(
    address: str, rails: Mapping[str, tuple[int, int]], at: str = "hwmon/hwmon1"
) -> dict[str, str]:
    """A monitor with up to three rails (mV, mA), its shunts, and their sum as channel 7."""
    folder = f"{I2C}/{address}/{at}"
    files = {f"{folder}/name": "ina3221\n", f"{folder}/in7_label": "sum of shunt voltages\n"}
    files |= {f"{folder}/in7_input": "123\n", f"{folder}/curr4_input": "99999\n"}
    for channel, (name, (mv, ma)) in enumerate(rails.items(), start=1):
        files[f"{folder}/in{channel}_label"] = f"{name}\n"
        files[f"{folder}/in{channel}_input"] = f"{mv}\n"
        files[f"{folder}/curr{channel}_input"] = f"{ma}\n"
        files[f"{folder}/in{channel + 3}_input"] = "55\n"
    return files


def zones(**celsius: float | None) -> dict[str, str]:
    """Thermal zones; None for one that is switched off."""
    files: dict[str, str] = {}
    for number, (name, value) in enumerate(celsius.items()):
        folder = f"sys/class/thermal/thermal_zone{number}"
        files[f"{folder}/type"] = f"{name}-thermal\n"
        if value is not None:
            files[f"{folder}/temp"] = f"{round(value * 1000)}\n"
    return files


def coolers(states: Mapping[str, int]) -> dict[str, str]:
    """Cooling devices and how much each does."""
    files: dict[str, str] = {}
    for number, (name, state) in enumerate(states.items()):
        folder = f"sys/class/thermal/cooling_device{number}"
        files |= {f"{folder}/type": f"{name}\n", f"{folder}/cur_state": f"{state}\n"}
    return files


def over_current(*counts: int) -> dict[str, str]:
    """The event counters of an Orin's over-current protection."""
    folder = "sys/class/hwmon/hwmon3"
    files = {f"{folder}/oc{n}_event_cnt": f"{count}\n" for n, count in enumerate(counts, start=1)}
    return {f"{folder}/name": "soctherm_oc\n", **files}


CALM = {"pwm-fan": 3, "cpufreq-cpu0": 0, "gpu-throttle-alert": 0, "hot-surface-alert": 1}
STAT = "cpu  100 0 100 700 100 0 0 0 0 0\ncpu0 1 2 3 4 5 6 7 0 0 0\n"

ORIN_NANO_RAILS = {
    **ina3221(
        "1-0040",
        {"VDD_IN": (5000, 1200), "VDD_CPU_GPU_CV": (5000, 260), "VDD_SOC": (5000, 290)},
    ),
    **zones(cpu=51.0, gpu=50.625, tj=51.781, cv0=None),
    **coolers(CALM),
    **over_current(0, 0, 7),
    "sys/class/devfreq/17000000.gpu/device/load": "437\n",
    "proc/stat": STAT,
}
AGX_ORIN_RAILS = {
    **ina3221(
        "1-0040",
        {"VDD_GPU_SOC": (19000, 168), "VDD_CPU_CV": (19000, 21), "VIN_SYS_5V0": (5000, 861)},
    ),
    **ina3221(
        "1-0041", {"NC": (0, 0), "VDDQ_VDD2_1V8AO": (5000, 218)}, at="hwmon/hwmon2"
    ),  # its third channel is switched off
}
THOR_MODULE = ina3221(
    "1-0040",
    {"VDD_GPU": (19600, -20), "VDD_CPU_SOC_MSS": (19600, 282), "VIN_SYS_5V0": (5040, 1000)},
)
THOR_VIN = {
    f"{I2C}/2-0044/hwmon/hwmon4/name": "ina238\n",
    f"{I2C}/2-0044/hwmon/hwmon4/in1_label": "VIN\n",
    f"{I2C}/2-0044/hwmon/hwmon4/power1_input": "16802000\n",
}


def iio(address: str, device: int, rails: Mapping[str, int]) -> dict[str, str]:
    """A monitor as JetPack 4 shows it: power in mW."""
    folder = f"{I2C}/{address}/iio:device{device}"
    files = {}
    for channel, (name, mw) in enumerate(rails.items()):
        files[f"{folder}/rail_name_{channel}"] = f"{name}\n"
        files[f"{folder}/in_power{channel}_input"] = f"{mw}\n"
        files[f"{folder}/in_current{channel}_input"] = "1\n"
        files[f"{folder}/in_voltage{channel}_input"] = "1\n"
    return files


AGX_XAVIER_JP4 = {
    **iio("1-0040", 0, {"GPU": 1155, "CPU": 385, "SOC": 2504}),
    **iio("1-0041", 1, {"CV": 0, "VDDRQ": 192, "SYS5V": 2692}),
    "sys/devices/gpu.0/load": "70\n",
}

TEGRASTATS = {
    "orin-nano-jp6": "08-23-2026 13:57:46 RAM 3595/7607MB (lfb 1x1MB) SWAP 11/3804MB (cached 0MB) "
    "CPU [100%@1728,1%@1728,3%@1728,0%@1728,1%@729,1%@729] GR3D_FREQ 0% cpu@51C soc2@50.562C "
    "soc0@51.031C gpu@50.625C tj@51.781C soc1@51.781C VDD_IN 5832mW/5852mW "
    "VDD_CPU_GPU_CV 1307mW/1327mW VDD_SOC 1468mW/1468mW",
    "agx-orin-jp6": "RAM 13123/62841MB (lfb 63x4MB) SWAP 9/31420MB (cached 0MB) CPU [3%@729,4%@729,"
    "1%@729,4%@729,1%@729,3%@729,2%@729,1%@729,1%@729,4%@729,2%@729,1%@729] GR3D_FREQ 0% "
    "cpu@48.156C soc2@43.562C soc0@45.125C tj@48.156C soc1@44.343C VDD_GPU_SOC 3193mW/3193mW "
    "VDD_CPU_CV 399mW/399mW VIN_SYS_5V0 4306mW/4306mW",
    "agx-orin-jp7": "07-25-2026 09:08:28 RAM 20642/62817MB (lfb 1x2MB) CPU [23%@2201,10%@2201,"
    "4%@2201,14%@2201,30%@2201,18%@2201,10%@2201,10%@2201,33%@2201,7%@2201,5%@2201,27%@2201] "
    "EMC_FREQ 3%@3199 GR3D_FREQ 12%@[1300,1300] NVENC0 off NVDEC0 off NVJPG0 off NVJPG1 off VIC "
    "off OFA off NVDLA0 off NVDLA1 off PVA0_FREQ off APE 174 cpu@52.968C/52.968C "
    "soc2@48.406C/48.406C soc0@49.531C/49.531C gpu@47.625C/47.625C VDD_GPU_SOC "
    "5139mW/5139mW/5139mW VDD_CPU_CV 3268mW/3268mW/3268mW VIN_SYS_5V0 5500mW/5500mW/5500mW",
    "thor": "05-17-2026 10:00:32 RAM 4208/125773MB (lfb 31x4MB) SWAP 0/2048MB (cached 0MB) CPU "
    "[1%@972,0%@972,0%@972,0%@972,1%@972,0%@972,1%@972,1%@972,0%@972,0%@972,3%@972,0%@972,0%@972,"
    "1%@972] EMC_FREQ 0%@665 GR3D_FREQ @[0,0,0] NVENC0_FREQ @0 NVENC1_FREQ @0 NVDEC0_FREQ @0 "
    "NVDEC1_FREQ @0 NVJPG0_FREQ @0 VIC off OFA_FREQ @0 PVA0_FREQ off APE 300 cpu@34.468C tj@34.5C "
    "soc012@33.781C soc345@34.5C VDD_GPU 0mW/0mW VDD_CPU_SOC_MSS 4165mW/4165mW VIN_SYS_5V0 "
    "4126mW/4126mW",
    "thor-vin": "01-20-2026 22:46:22 RAM 17842/125772MB (lfb 79x4MB) CPU [0%@972,0%@972,0%@1566,"
    "0%@1566] cpu@30.468C tj@31.218C soc012@30.218C soc345@31.218C VDD_GPU -392mW/-392mW "
    "VDD_CPU_SOC_MSS 5535mW/5535mW VIN_SYS_5V0 5040mW/5040mW VIN 16802mW/16802mW",
    "agx-xavier-jp4": "RAM 407/15823MB (lfb 3702x4MB) SWAP 0/7911MB (cached 0MB) CPU [1%@2265,"
    "0%@2265,off,off,off,off,off,off] EMC_FREQ 0% GR3D_FREQ 7% AO@26.5C GPU@28C iwlwifi@30C "
    "Tdiode@31.25C PMIC@100C AUX@26.5C CPU@27.5C thermal@27.45C Tboard@27C GPU 1155/1155 CPU "
    "385/385 SOC 2504/2503 CV 0/0 VDDRQ 192/192 SYS5V 2692/2692",
    "agx-xavier-jp5": "[0%@1190,1%@1190] EMC_FREQ 0%@1331 GR3D_FREQ 0%@114 VIC_FREQ 115 APE 150 "
    "AUX@36C CPU@36.5C thermal@35.7C Tboard@37C AO@35C GPU@35C Tdiode@38.75C PMIC@50C GPU "
    "467mW/467mW CPU 467mW/467mW SOC 1245mW/1245mW CV 0mW/0mW VDDRQ 311mW/311mW SYS5V "
    "2768mW/2768mW",
}
