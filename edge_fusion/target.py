"""Boards and the software they run: what an engine is built for and a graph is judged against.

A target is written ``board@software``: ``orin-nano@6.2`` is an Orin Nano under JetPack 6.2,
``x86-gpu@10.13`` a desktop GPU with TensorRT 10.13.  The facts are in ``targets.json``; figures
from memory or derived by a formula are named in ``Target.weak``.  Power modes are those of the
boards' own ``nvpmodel.conf``: they switch SMs off as well as slowing clocks, so that a latency
without its mode means nothing.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from typing import Literal

from edge_fusion.errors import TargetError
from edge_fusion.spec import Record

Version = tuple[int, ...]
Flavour = Literal["strong", "weak"]
Precision = Literal["fp32", "tf32", "fp16", "bf16", "int8", "int4", "fp8", "fp4"]

_FIRST_STRONG: Version = (10,)  # TensorRT 10 brought strongly typed networks
_INT8_PER_CLOCK = {"tegra234": 4096}  # dense INT8 operations of one SM per clock, FP16 half of it


def flavour_of(tensorrt: Version) -> Flavour:
    """``strong`` where precision lives in the graph (TensorRT 10 and later), else ``weak``.

    Example:
        >>> flavour_of((10, 3, 0)), flavour_of((8, 6, 2))
        ('strong', 'weak')
    """
    return "strong" if tensorrt >= _FIRST_STRONG else "weak"


class Software(Record):
    """One row of software: a JetPack line, or a TensorRT on a host that has no JetPack.

    Attributes:
        releases: Its patch releases, each with its L4T versions.
        cuda: CUDA version, None where the host chooses it.
        tensorrt: TensorRT version that comes with it.
        python: The Python that TensorRT's binding is made for, None where the host chooses it.
        opset_max: The newest ONNX opset that TensorRT's parser documents.
        weak: Names of fields whose source is weak.
    """

    releases: dict[str, tuple[str, ...]]
    cuda: str | None
    tensorrt: str
    python: str | None
    opset_max: int
    weak: tuple[str, ...] = ()


class PowerMode(Record):
    """One of a board's power modes.

    Attributes:
        name: As ``nvpmodel -q`` prints it, such as ``MAXN_SUPER``.
        sm_count: Streaming multiprocessors that are on.
        gpu_mhz: Highest GPU clock the mode allows, MHz.
        tpc_mask: The bit mask of switched-off TPCs (pairs of SMs); None where unknown.
        default: Whether a freshly flashed board is in it.
        weak: Names of the fields above whose source is weak.
    """

    name: str
    sm_count: int
    gpu_mhz: int
    tpc_mask: int | None = None
    default: bool = False
    weak: tuple[str, ...] = ()


class Figures(Record):
    """Peak figures of a board from one JetPack on: Super modes came with JetPack 6.2."""

    since: str
    max_mhz: int | None
    int8_tops: float | None
    fp16_tflops: float | None
    bandwidth_gbs: float | None
    modes: tuple[PowerMode, ...] = ()
    weak: tuple[str, ...] = ()


class Board(Record):
    """One board: its silicon, the software it runs and its peak figures.

    ``parts`` are the part numbers under which a device tree names it: the model in words is free
    text that carriers write, and sometimes the name of another module.
    """

    title: str
    soc: str | None
    parts: tuple[str, ...] = ()
    sm: str | None
    sm_count: int | None
    ram_gb: float | None
    dla_cores: int
    precisions: tuple[Precision, ...]
    runs: Literal["jetpack", "tensorrt"]
    software: tuple[str, ...]
    default: str
    figures: tuple[Figures, ...]
    weak: tuple[str, ...] = ()


class _Table(Record):
    schema_version: Literal[1]
    software: dict[Literal["jetpack", "tensorrt"], dict[str, Software]]
    boards: dict[str, Board]


class Target(Record):
    """A board under one software: everything that decides how an engine is built for it.

    Figures are peaks of the whole board in its highest power mode; None means unknown.

    Attributes:
        board: Board name, such as ``orin-nano``.
        title: Its name in words.
        jetpack: JetPack release, None on an x86 host.
        l4t: L4T versions of that release, newest last.
        cuda: CUDA version.
        python: The Python that TensorRT's binding is made for.
        tensorrt: TensorRT version, comparable: ``target.tensorrt >= (8, 6)``.
        opset_max: The newest ONNX opset its parser documents.
        soc: Chip name as the device tree writes it.
        sm: Compute capability, (major, minor).
        sm_count: Streaming multiprocessors.
        max_mhz: Highest GPU clock, MHz.
        int8_tops: Dense INT8, 10^12 operations per second (GPU alone, no DLA).
        fp16_tflops: Dense FP16, 10^12 operations per second.
        ram_gb: Memory shared by CPU and GPU, GB; the smallest variant where a board has several.
        bandwidth_gbs: Memory bandwidth, GB/s.
        dla_cores: Deep-learning accelerators on the chip.
        precisions: What the GPU can compute in.
        modes: Its power modes, slowest GPU first; empty where they are not known.
        weak: Names of the fields above whose source is memory or derivation.
    """

    board: str
    title: str
    jetpack: str | None
    l4t: tuple[str, ...]
    cuda: str | None
    python: str | None
    tensorrt: Version
    opset_max: int
    soc: str | None
    sm: tuple[int, int] | None
    sm_count: int | None
    max_mhz: int | None
    int8_tops: float | None
    fp16_tflops: float | None
    ram_gb: float | None
    bandwidth_gbs: float | None
    dla_cores: int
    precisions: tuple[Precision, ...]
    modes: tuple[PowerMode, ...] = ()
    weak: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """``board@software``, which :func:`parse_target` reads back."""
        software = self.jetpack or ".".join(map(str, self.tensorrt[:2]))
        return f"{self.board}@{software}"

    @property
    def tensorrt_text(self) -> str:
        """The TensorRT version as text: ``10.3.0``."""
        return ".".join(map(str, self.tensorrt))

    def cells(self) -> tuple[str, ...]:
        """One row under :data:`COLUMNS`; ``~`` marks figures whose source is weak."""

        def figure(field: str) -> str:
            value = getattr(self, field)
            return "-" if value is None else f"{value:g}{'~' if field in self.weak else ''}"

        return (
            self.name,
            self.title,
            self.tensorrt_text + ("~" if "tensorrt" in self.weak else ""),
            figure("opset_max"),
            "-" if self.sm is None else "{}.{}".format(*self.sm),
            *map(figure, ("int8_tops", "ram_gb", "bandwidth_gbs")),
            str(self.dla_cores),
        )

    @property
    def flavour(self) -> Flavour:
        """The flavour its TensorRT reads."""
        return flavour_of(self.tensorrt)

    def mode_tops(self, mode: PowerMode) -> float | None:
        """Dense INT8 peak of one power mode, 10^12 operations per second; FP16 is half of it.

        None where the chip's rate per clock is not known.

        Example:
            >>> nano = parse_target("orin-nano@6.2")
            >>> [f"{mode.name} {nano.mode_tops(mode):.0f}" for mode in nano.modes]
            ['7W 7', '15W 20', '25W 30', 'MAXN_SUPER 33']
        """
        rate = _INT8_PER_CLOCK.get(self.soc or "")
        return None if rate is None else mode.sm_count * mode.gpu_mhz * rate * 1e-6

    def mode_cells(self) -> list[tuple[str, ...]]:
        """Rows under :data:`MODE_COLUMNS`; ``~`` marks figures whose source is weak."""

        def row(mode: PowerMode) -> tuple[str, ...]:
            marked = {
                field: f"{getattr(mode, field)}{'~' if field in mode.weak else ''}"
                for field in ("sm_count", "gpu_mhz")
            }
            tops = self.mode_tops(mode)
            mark = "~" if mode.weak else ""
            peaks = ["-" if x is None else f"{x:.1f}{mark}" for x in (tops, tops and tops / 2)]
            mask = "-" if mode.tpc_mask is None else str(mode.tpc_mask)
            return (self.name, mode.name, *marked.values(), mask, *peaks, "*" * mode.default)

        return [row(mode) for mode in self.modes]


COLUMNS = ("target", "board", "TensorRT", "opset", "SM", "TOPS", "RAM GB", "GB/s", "DLA")
MODE_COLUMNS = ("from", "power mode", "SMs", "MHz", "TPC mask", "TOPS", "FP16 TFLOPS", "default")


def parse_target(text: str) -> Target:
    """Read a target such as ``orin-nano@6.2``.

    Args:
        text: ``board`` or ``board@software``; upper and lower case are the same.  The software is
            a JetPack release, on ``x86-gpu`` a TensorRT version.  Without ``@`` a board's usual
            one is meant: JetPack 6.2 for Orin, 7.1 for Thor, 5.1 for Xavier.

    Raises:
        TargetError: The board is unknown, or does not run that software.

    Example:
        >>> target = parse_target("orin-nano@6.2")
        >>> target.name, target.tensorrt, target.sm, target.tensorrt >= (10,)
        ('orin-nano@6.2', (10, 3, 0), (8, 7), True)
    """
    board, at, software = text.strip().lower().partition("@")
    table = _table()
    if board not in table.boards:
        raise _unknown("no such board", board, table.boards, f"{board}{at}{software}")
    row = table.boards[board]
    return _target(board, row, table.software[row.runs], software if at else row.default)


def list_targets(board: str | None = None) -> tuple[Target, ...]:
    """Boards in the table's order: each under its usual software, or one under all it runs.

    Args:
        board: A board name, or a whole target, which is then the only one; None lists every board.

    Raises:
        TargetError: The board is unknown, or does not run that software.

    Example:
        >>> [target.name for target in list_targets("orin-nano@6.2")]
        ['orin-nano@6.2']
    """
    table = _table()
    if board is None:
        return tuple(parse_target(name) for name in table.boards)
    only = parse_target(board)
    if "@" in board:
        return (only,)
    return tuple(
        parse_target(f"{only.board}@{software}") for software in table.boards[only.board].software
    )


def all_targets() -> tuple[Target, ...]:
    """Every board under every software it runs."""
    return tuple(target for board in _table().boards for target in list_targets(board))


def mode_rows(targets: Iterable[Target]) -> list[tuple[str, ...]]:
    """The power modes of targets under :data:`MODE_COLUMNS`, each set where it first appears.

    Example:
        >>> [row[:2] for row in mode_rows(list_targets("orin-nano"))][:3]
        [('orin-nano@5.1', '7W'), ('orin-nano@5.1', '15W'), ('orin-nano@6.2', '7W')]
    """
    seen: set[tuple[str, tuple[str, ...]]] = set()
    rows = []
    for target in targets:
        kind = (target.board, tuple(mode.model_dump_json() for mode in target.modes))
        if kind not in seen:
            seen.add(kind)
            rows += target.mode_cells()
    return rows


def jetpack_of(l4t: str) -> str | None:
    """The JetPack release that an L4T version belongs to; None where the table has none.

    Args:
        l4t: Such as ``36.4.3``; trailing zeros do not matter.

    Example:
        >>> jetpack_of("36.4.3"), jetpack_of("36.3.0"), jetpack_of("38.2.2"), jetpack_of("36.9")
        ('6.2', '6.0', '7.0', None)
    """
    wanted = _padded(l4t)
    for software in _table().software["jetpack"].values():
        for release, versions in software.releases.items():
            for known in versions:
                # An entry of two numbers, such as 38.2, stands for all its patch releases.
                if wanted[: known.count(".") + 1] == _padded(known)[: known.count(".") + 1]:
                    return release
    return None


def board_of(parts: Iterable[str]) -> str | None:
    """The board that one of the part numbers names, such as ``p3767-0005``; None if none does.

    Example:
        >>> board_of(["p3768-0000", "p3767-0005"])
        'orin-nano'
    """
    named = set(parts)
    return next((name for name, row in _table().boards.items() if named & set(row.parts)), None)


def _target(name: str, board: Board, known: Mapping[str, Software], release: str) -> Target:
    kind = {"jetpack": "JetPack", "tensorrt": "TensorRT"}[board.runs]
    lines = {patch: line for line in board.software for patch in known[line].releases}
    if release not in lines:
        raise _unknown(f"{board.title} does not run {kind} {release}", release, lines, name)
    software = known[lines[release]]
    figures = [f for f in board.figures if _version(f.since) <= _version(release)][-1]
    sm = _version(board.sm) if board.sm else None
    return Target(
        board=name,
        title=board.title,
        jetpack=release if board.runs == "jetpack" else None,
        l4t=software.releases[release],
        cuda=software.cuda,
        python=software.python,
        tensorrt=_version(software.tensorrt),
        opset_max=software.opset_max,
        soc=board.soc,
        sm=(sm[0], sm[1]) if sm else None,
        sm_count=board.sm_count,
        max_mhz=figures.max_mhz,
        int8_tops=figures.int8_tops,
        fp16_tflops=figures.fp16_tflops,
        ram_gb=board.ram_gb,
        bandwidth_gbs=figures.bandwidth_gbs,
        dla_cores=board.dla_cores,
        precisions=board.precisions,
        modes=figures.modes,
        weak=(*board.weak, *figures.weak, *software.weak),
    )


def _unknown(what: str, got: str, known: Mapping[str, object], board: str) -> TargetError:
    close = difflib.get_close_matches(got, known, n=1, cutoff=0.5)
    prefix = "" if board.startswith(got) else f"{board}@"
    return TargetError(
        what,
        expected="one of " + ", ".join(known),
        got=repr(got),
        cure=f"did you mean {prefix}{close[0]}?" if close else "choose one of these",
    )


def _padded(text: str) -> Version:
    """Three numbers of a version that may have fewer; nothing where it is no version."""
    parts = text.split(".")
    if not all(part.isascii() and part.isdecimal() for part in parts):
        return ()
    return (*map(int, parts), 0, 0)[:3]


def _version(text: str) -> Version:
    return tuple(int(part) for part in text.split("."))


@cache
def _table() -> _Table:
    text = files("edge_fusion").joinpath("targets.json").read_text(encoding="utf-8")
    return _Table.model_validate(json.loads(text))
