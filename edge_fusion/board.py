"""What this machine is: its board, JetPack, power mode, clocks and memory, read without root.

Everything but the architecture comes from files below one root folder, so that a copied tree can
be examined as well as the machine itself.  Files that are missing, unreadable or garbled leave
their fields ``None``: a probe never fails.
"""

from __future__ import annotations

import math
import platform
import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from edge_fusion.errors import TargetError
from edge_fusion.target import board_of, jetpack_of, parse_target

_MOST_BYTES = 32 << 20  # dpkg's status of a full JetPack is about 4 MB
_NUMBER_BYTES = 64  # a file of one number; a large limit costs as much again as the reading
_QUERY_SECONDS = 5.0
_UNCAPPED = (-1, 0)  # how nvpmodel.conf says that a clock is not held down

# Lengths of numbers are bounded: a garbled file must neither overflow nor take long to read.
_PART = re.compile(r"p\d{4}-\d{4}")
_RELEASE = re.compile(r"R(\d{1,4})\s*\(release\),\s*REVISION:\s*(\d{1,4}(?:\.\d{1,4})*)")
_DPKG = re.compile(
    r"^Package: nvidia-l4t-core$(?:\n.+)*?\nVersion: (\d{1,4}(?:\.\d{1,4})+)", re.MULTILINE
)
_MODE = re.compile(r"^<\s*POWER_MODEL\s+ID=(\d{1,9})\s+NAME=([^\s>]+)\s*>", re.MULTILINE)
_TPC_MASK = re.compile(r"^TPC_POWER_GATING\s+TPC_PG_MASK\s+(\d{1,18})\b", re.MULTILINE)
_GPU_CAP = re.compile(r"^GPU\s+MAX_FREQ\s+(-?\d{1,18})\b", re.MULTILINE)
_EMC_CAP = re.compile(r"^EMC\s+MAX_FREQ\s+(-?\d{1,18})\b", re.MULTILINE)

#: The GPU among the devices whose clocks the kernel scales: Orin under JetPack 6 and 7, Orin under
#: JetPack 5, Xavier, Thor.
_GPU_CLOCKS = ("*.gpu", "*.ga10b", "*.gv11b", "gpu-gpc-0")


@dataclass(frozen=True, slots=True)
class OfferedMode:
    """A power mode as this board's own ``nvpmodel.conf`` defines it.

    Attributes:
        id: What ``nvpmodel -m`` takes.
        name: What ``nvpmodel -q`` prints.
        tpcs_off: TPCs (pairs of SMs) that it switches off; 0 where it says nothing.
        gpu_mhz: Highest GPU clock, MHz; infinite where the mode sets none, None if it is not said.
        memory_mhz: Highest memory clock, likewise.
    """

    id: int
    name: str
    tpcs_off: int
    gpu_mhz: float | None
    memory_mhz: float | None


@dataclass(frozen=True, slots=True)
class BoardState:
    """What was found; None where there is nothing to read.

    Attributes:
        model: The board in words, as its firmware writes it; free text, sometimes wrong.
        soc: The chip, such as ``tegra234``.
        part: The module's part number, such as ``p3767-0005``.
        l4t: The L4T release, such as ``36.4.3``.
        jetpack: The JetPack that belongs to it, such as ``6.2``.
        target: What to name with ``--target``, such as ``orin-nano@6.2``; None where unclear.
        power_mode: The power mode's name, such as ``MAXN_SUPER``.
        power_modes: The modes this board offers.
        gpu_mhz: The GPU's clock now, MHz.
        gpu_min_mhz: The lowest it may fall to.
        gpu_max_mhz: The highest it may rise to.
        memory_bytes: Memory in all.
        available_bytes: Memory that new work could have.
        swap_bytes: Swap in all, 0 where there is none.
        architecture: Such as ``aarch64``; None for a copied tree, which does not tell.
    """

    model: str | None = None
    soc: str | None = None
    part: str | None = None
    l4t: str | None = None
    jetpack: str | None = None
    target: str | None = None
    power_mode: str | None = None
    power_modes: tuple[OfferedMode, ...] = ()
    gpu_mhz: float | None = None
    gpu_min_mhz: float | None = None
    gpu_max_mhz: float | None = None
    memory_bytes: int | None = None
    available_bytes: int | None = None
    swap_bytes: int | None = None
    architecture: str | None = None

    @property
    def is_jetson(self) -> bool:
        """Whether this is a Jetson: a Tegra chip, or L4T in a container that hides it."""
        return self.soc is not None or self.l4t is not None

    @property
    def clocks_locked(self) -> bool | None:
        """Whether the GPU's clock is held, as ``jetson_clocks`` does; None where unknown."""
        if self.gpu_min_mhz is None or self.gpu_max_mhz is None:
            return None
        return self.gpu_min_mhz == self.gpu_max_mhz

    @property
    def fastest_mode(self) -> OfferedMode | None:
        """The offered mode in which the GPU is fastest: most TPCs, then clock, then memory.

        Ids and watts do not tell: an Orin Nano's 7 W mode has the highest id, and the 25 W mode
        of an Orin NX clocks its GPU lower than the 15 W mode.
        """
        whole = [mode for mode in self.power_modes if mode.gpu_mhz is not None]
        return max(whole, key=_speed, default=None)

    def as_dict(self) -> dict[str, object]:
        """Everything by name, for JSON; clocks without a limit are null."""
        fields = asdict(self)
        for mode in fields["power_modes"]:
            for name, value in mode.items():
                mode[name] = None if value == math.inf else value
        return {**fields, "clocks_locked": self.clocks_locked}


def probe_board(root: Path = Path("/")) -> BoardState:
    """Look at this machine, or at a tree with its files; never fails.

    Args:
        root: The folder that stands for ``/``.

    Example:
        >>> state = probe_board()
        >>> state.architecture == platform.machine()
        True
    """
    tree = Tree(root)
    compatible = tree.strings(
        "proc/device-tree/compatible", "sys/firmware/devicetree/base/compatible"
    )
    model = tree.strings("proc/device-tree/model", "sys/firmware/devicetree/base/model")
    parts = [part for name in compatible for part in reversed(_PART.findall(name))]
    board = board_of(parts)
    l4t = _l4t(tree)
    jetpack = jetpack_of(l4t) if l4t else None
    modes = _offered_modes(tree.text("etc/nvpmodel.conf"))
    clock, slowest, fastest = _gpu_clocks(tree)
    memory = read_memory(tree)
    return BoardState(
        model=model[0] if model else None,
        soc=_soc(compatible),
        part=next((part for part in parts if board_of([part])), parts[0] if parts else None),
        l4t=l4t,
        jetpack=jetpack,
        target=_target(board, jetpack),
        power_mode=_power_mode(tree, modes),
        power_modes=modes,
        gpu_mhz=clock,
        gpu_min_mhz=slowest,
        gpu_max_mhz=fastest,
        memory_bytes=memory.get("MemTotal"),
        available_bytes=memory.get("MemAvailable"),
        swap_bytes=memory.get("SwapTotal"),
        architecture=platform.machine() if root.resolve() == Path("/") else None,
    )


@dataclass(frozen=True, slots=True)
class Tree:
    """Files below a root; what cannot be read is empty."""

    root: Path

    def text(self, *names: str, most_bytes: int = _MOST_BYTES) -> str:
        """The first of these files that holds anything; bytes that are no text are replaced."""
        for name in names:
            try:
                with (self.root / name).open("rb") as file:
                    content = file.read(most_bytes)
            except OSError:
                continue
            if content:
                return content.decode("utf-8", errors="replace")
        return ""

    def strings(self, *names: str) -> list[str]:
        """A device tree's property: its strings, which end in NUL."""
        parts = (part.strip() for part in self.text(*names).split("\0"))
        return [part for part in parts if part.isprintable() and part and "\ufffd" not in part]

    def number(self, name: str) -> int | None:
        """A file that holds one whole number, not below zero."""
        found = self.signed(name)
        return None if found is None or found < 0 else found

    def signed(self, name: str) -> int | None:
        """A file that holds one whole number, as a current or a temperature is."""
        found = re.fullmatch(r"-?[0-9]{1,18}", self.text(name, most_bytes=_NUMBER_BYTES).strip())
        return int(found[0]) if found else None

    def folders(self, pattern: str) -> Iterable[str]:
        """Names, below the root, of what matches a pattern, in order."""
        try:
            return [
                path.relative_to(self.root).as_posix() for path in sorted(self.root.glob(pattern))
            ]
        except OSError:
            return []


def _soc(compatible: Iterable[str]) -> str | None:
    chips = (name.rpartition(",")[2] for name in compatible)
    return next((chip for chip in chips if re.fullmatch(r"tegra\d+", chip)), None)


def _l4t(tree: Tree) -> str | None:
    """From the release file, else from the package that every L4T has."""
    if found := _RELEASE.search(tree.text("etc/nv_tegra_release")):
        return f"{found[1]}.{found[2]}"
    found = _DPKG.search(tree.text("var/lib/dpkg/status"))
    return found[1] if found else None


def _target(board: str | None, jetpack: str | None) -> str | None:
    """A board under a JetPack that the table does not give it has no name."""
    if board is None or jetpack is None:
        return None
    try:
        return parse_target(f"{board}@{jetpack}").name
    except TargetError:
        return None


def _offered_modes(text: str) -> tuple[OfferedMode, ...]:
    heads = list(_MODE.finditer(text))
    ends = [*(head.start() for head in heads), len(text)][1:]
    return tuple(
        _offered_mode(head, text[head.end() : end]) for head, end in zip(heads, ends, strict=False)
    )


def _offered_mode(head: re.Match[str], body: str) -> OfferedMode:
    mask = _TPC_MASK.search(body)
    return OfferedMode(
        id=int(head[1]),
        name=head[2],
        tpcs_off=int(mask[1]).bit_count() if mask else 0,
        gpu_mhz=_cap_mhz(_GPU_CAP.search(body)),
        memory_mhz=_cap_mhz(_EMC_CAP.search(body)),
    )


def _cap_mhz(found: re.Match[str] | None) -> float | None:
    if found is None:
        return None
    return math.inf if int(found[1]) in _UNCAPPED else int(found[1]) / 1e6


def _speed(mode: OfferedMode) -> tuple[float, ...]:
    return (-mode.tpcs_off, mode.gpu_mhz or 0, mode.memory_mhz or 0)


def _power_mode(tree: Tree, modes: Iterable[OfferedMode]) -> str | None:
    """The mode that nvpmodel stored, by its name, else what nvpmodel itself says."""
    stored = re.search(r"pmode:(\d{1,9})\b", tree.text("var/lib/nvpmodel/status"))
    names = {mode.id: mode.name for mode in modes}
    if stored and int(stored[1]) in names:
        return names[int(stored[1])]
    return _ask_nvpmodel(tree.root)


def _ask_nvpmodel(root: Path) -> str | None:
    places = ":".join(str(root / place) for place in ("usr/sbin", "usr/bin"))
    program = shutil.which("nvpmodel", path=places)
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, "-q"], capture_output=True, timeout=_QUERY_SECONDS, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return None
    answer = done.stdout.decode("utf-8", errors="replace")
    found = re.search(r"NV Power Mode:\s*(\S+)", answer)
    return found[1] if found else None


def gpu_folder(tree: Tree) -> str | None:
    """Where below the root the kernel tells the GPU's clocks; None where it does not."""
    for pattern in _GPU_CLOCKS:
        for folder in tree.folders(f"sys/class/devfreq/{pattern}"):
            if any(value is not None for value in _hertz(tree, folder)):
                return folder
    return None


def _hertz(tree: Tree, folder: str) -> list[int | None]:
    return [tree.number(f"{folder}/{name}_freq") for name in ("cur", "min", "max")]


def _gpu_clocks(tree: Tree) -> tuple[float | None, float | None, float | None]:
    """The GPU's clock now, at least and at most, MHz."""
    folder = gpu_folder(tree)
    if folder is None:
        return None, None, None
    now, least, most = (None if value is None else value / 1e6 for value in _hertz(tree, folder))
    return now, least, most


def read_memory(tree: Tree) -> dict[str, int]:
    """Entries of ``/proc/meminfo`` in bytes, such as ``MemTotal`` and ``MemAvailable``."""
    lines = re.finditer(r"^(\w+): +(\d{1,18}) kB$", tree.text("proc/meminfo"), re.MULTILINE)
    return {line[1]: int(line[2]) * 1024 for line in lines}
