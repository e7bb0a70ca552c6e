"""Boards and the software they run: what an engine is built for and a graph is judged against.

A target is written ``board@software``: ``orin-nano@6.2`` is an Orin Nano under JetPack 6.2,
``x86-gpu@10.13`` a desktop GPU with TensorRT 10.13.  The facts are in ``targets.json``; figures
from memory or derived by a formula are named in ``Target.weak``.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Literal

from edge_fusion.errors import TargetError
from edge_fusion.spec import Record

Version = tuple[int, ...]
Flavour = Literal["strong", "weak"]
Precision = Literal["fp32", "tf32", "fp16", "bf16", "int8", "int4", "fp8", "fp4"]

_FIRST_STRONG: Version = (10,)  # TensorRT 10 brought strongly typed networks


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


class Figures(Record):
    """Peak figures of a board from one JetPack on: Super modes came with JetPack 6.2."""

    since: str
    max_mhz: int | None
    int8_tops: float | None
    fp16_tflops: float | None
    bandwidth_gbs: float | None
    weak: tuple[str, ...] = ()


class Board(Record):
    """One board: its silicon, the software it runs and its peak figures."""

    title: str
    soc: str | None
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
            self.tensorrt_text,
            str(self.opset_max),
            "-" if self.sm is None else "{}.{}".format(*self.sm),
            *map(figure, ("int8_tops", "ram_gb", "bandwidth_gbs")),
            str(self.dla_cores),
        )

    @property
    def flavour(self) -> Flavour:
        """``strong`` where precision lives in the graph (TensorRT 10 and later), else ``weak``."""
        return "strong" if self.tensorrt >= _FIRST_STRONG else "weak"


COLUMNS = ("target", "board", "TensorRT", "opset", "SM", "TOPS", "RAM GB", "GB/s", "DLA")


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


def _version(text: str) -> Version:
    return tuple(int(part) for part in text.split("."))


@cache
def _table() -> _Table:
    text = files("edge_fusion").joinpath("targets.json").read_text(encoding="utf-8")
    return _Table.model_validate(json.loads(text))
