"""Power rails of a Jetson: the INA3221 and INA238 monitors below ``/sys``, and what adds up.

Readings are what the chips say: a rail at rest may read below zero (an offset of the calibration,
-392 mW has been seen), and the same offset is in every reading, so it is kept and cancels in a
difference.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod

from edge_fusion.board import Tree

from .vitals import PowerReading

#: Which rails make the total, the first entry whose rails are all there.  What enters the board or
#: the module counts before a sum of parts.  ``VDDQ_VDD2_1V8AO`` of an AGX Orin is in no sum: NVIDIA
#: documents it as part of ``VIN_SYS_5V0``, and adding it would count the memory twice.
TOTALS: tuple[tuple[str, ...], ...] = (
    ("VIN",),  # Thor with an INA238 on its carrier: all that enters the board
    ("VDD_IN",),  # Orin Nano and NX, Xavier NX, TX2: all that enters the module
    ("POM_5V_IN",),  # Nano, TX1
    ("VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0"),  # Thor
    ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),  # AGX Orin
    ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"),  # AGX Xavier
)

_HWMON = ("sys/bus/i2c/devices/*/hwmon/hwmon*", "sys/class/hwmon/hwmon*")  # since JetPack 5
_IIO = ("sys/bus/i2c/devices/*/iio:device*", "sys/bus/iio/devices/iio:device*")  # JetPack 4
# Channels 4 to 6 of an INA3221 are its shunts and 7 is their sum: no rails.
_INA3221_CHANNELS = (1, 2, 3)
_NOT_CONNECTED = "NC"


@dataclass(frozen=True, slots=True)
class Rail:
    """One rail and the files that tell its power.

    Attributes:
        name: As the board's designers call it, such as ``VDD_IN``.
        chip: The monitor that measures it.
        files: Numbers whose product, times ``scale``, is the power in mW.
        scale: See ``files``.
    """

    name: str
    chip: str
    files: tuple[str, ...]
    scale: float

    def read_mw(self, tree: Tree) -> int | None:
        """The power now, mW; None where the chip does not answer."""
        numbers = [tree.signed(name) for name in self.files]
        known = [number for number in numbers if number is not None]
        return round(prod(known) * self.scale) if len(known) == len(numbers) else None


def find_rails(tree: Tree) -> tuple[Rail, ...]:
    """Every rail that answers, each name once, in the order of the chips.

    Args:
        tree: The machine's files.

    Example:
        >>> from pathlib import Path
        >>> find_rails(Tree(Path("/nowhere")))
        ()
    """
    rails: dict[str, Rail] = {}
    for rail in _candidates(tree):
        if rail.name not in rails and rail.read_mw(tree) is not None:
            rails[rail.name] = rail
    return tuple(rails.values())


def _candidates(tree: Tree) -> Iterator[Rail]:
    for folder in (folder for pattern in _HWMON for folder in tree.folders(pattern)):
        chip = tree.text(f"{folder}/name", f"{folder}/../../name").strip()
        yield from _FINDERS.get(chip, _no_rails)(tree, folder)
    for folder in (folder for pattern in _IIO for folder in tree.folders(pattern)):
        yield from _iio_rails(tree, folder)


def _no_rails(tree: Tree, folder: str) -> Iterator[Rail]:
    return iter(())


def _ina3221_rails(tree: Tree, folder: str) -> Iterator[Rail]:
    for channel in _INA3221_CHANNELS:
        name = tree.text(f"{folder}/in{channel}_label").strip()
        if name and name != _NOT_CONNECTED:
            # mV times mA is uW
            files = (f"{folder}/in{channel}_input", f"{folder}/curr{channel}_input")
            yield Rail(name, "ina3221", files, 1e-3)


def _ina238_rails(tree: Tree, folder: str) -> Iterator[Rail]:
    # The one INA238 of a Jetson sits at the carrier's input; some kernels give it no label.
    name = tree.text(f"{folder}/in1_label", f"{folder}/label").strip() or "VIN"
    if name != _NOT_CONNECTED:
        yield Rail(name, "ina238", (f"{folder}/power1_input",), 1e-3)


def _iio_rails(tree: Tree, folder: str) -> Iterator[Rail]:
    for path in tree.folders(f"{folder}/rail_name_*"):
        channel = path.rpartition("_")[2]
        name = tree.text(path).strip()
        if name and name != _NOT_CONNECTED and re.fullmatch(r"\d{1,2}", channel):
            yield Rail(name, "ina3221", (f"{folder}/in_power{channel}_input",), 1.0)


_FINDERS = {"ina3221": _ina3221_rails, "ina238": _ina238_rails}


def total_basis(names: Iterable[str]) -> tuple[str, ...]:
    """The rails that make this board's total; empty where the table knows none.

    Example:
        >>> total_basis(["VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"])
        ('VDD_IN',)
    """
    there = set(names)
    return next((basis for basis in TOTALS if there.issuperset(basis)), ())


def total_mw(rails_mw: Mapping[str, int], basis: Iterable[str]) -> int | None:
    """The sum over ``basis``; None where a rail of it is missing, since a part is no total."""
    parts = [rails_mw.get(name) for name in basis]
    known = [part for part in parts if part is not None]
    return sum(known) if parts and len(known) == len(parts) else None


class SysfsRails:
    """Reads rails from ``/sys``, without root.

    Args:
        tree: The machine's files.
        rails: What :func:`find_rails` found there; at least one.
    """

    def __init__(self, tree: Tree, rails: tuple[Rail, ...]) -> None:
        self._tree, self._rails = tree, rails
        self.source = "+".join(sorted({rail.chip for rail in rails}, reverse=True))

    def read(self) -> PowerReading:
        """Every rail that answers now; takes a transfer on the I2C bus for each of its files."""
        at_ns = time.monotonic_ns()
        powers = {rail.name: rail.read_mw(self._tree) for rail in self._rails}
        return PowerReading(at_ns, {name: mw for name, mw in powers.items() if mw is not None})

    def close(self) -> None:
        """Nothing is held."""
