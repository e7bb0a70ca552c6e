"""The ``trtexec`` line that builds what ``build_engine`` builds, for devices without our Python.

JetPack 5 has Python 3.8, which this package does not run on; its engines are built by this line
and served by Triton or Isaac ROS.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import get_args

from edge_fusion.bundle import Bundle
from edge_fusion.engine import PLAN_NAME, EngineOptions, EnginePrecision, engine_source
from edge_fusion.errors import InputError, TargetError
from edge_fusion.target import Flavour, Target, Version

from .trtexec_pins import nodes_to_pin

#: Share of a board's memory that the builder may use for scratch space: CPU and GPU share it.
WORKSPACE_SHARE = 1 / 4

#: JetPack puts trtexec where no PATH leads.
_PROGRAM = {True: "/usr/src/tensorrt/bin/trtexec", False: "trtexec"}

#: The timing cache and the layers' report lie beside the plan.
_STEM = PLAN_NAME.rpartition(".")[0]


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag of ``trtexec`` and where it has a meaning.

    Attributes:
        text: The flag; a name in braces is filled in, and the flag is left out where it is unset.
        since: The first TensorRT that knows it.
        until: The first TensorRT that refuses it or ignores it; None if none does.
        flavours: The flavours it belongs to.
        precisions: The precisions it belongs to.
    """

    text: str
    since: Version = (8, 5)
    until: Version | None = None
    flavours: tuple[Flavour, ...] = get_args(Flavour)
    precisions: tuple[EnginePrecision, ...] = get_args(EnginePrecision)

    def known_to(self, tensorrt: Version) -> bool:
        """Whether a version of ``trtexec`` takes the flag."""
        return self.since <= tensorrt and (self.until is None or tensorrt < self.until)

    @property
    def name(self) -> str:
        """The flag without its value: ``--onnx``."""
        return self.text.partition("=")[0]


#: From 11 on every network is strongly typed: precision flags are refused, and what asked for
#: strong typing or CUDA graphs has become the only way.
FLAGS = (
    Flag("--onnx={model}"),
    Flag("--saveEngine={plan}"),
    Flag("--fp16", until=(11,), flavours=("weak",), precisions=("fp16", "int8")),
    Flag("--int8", until=(11,), flavours=("weak",), precisions=("int8",)),
    Flag("--precisionConstraints={constraints}", until=(11,), flavours=("weak",)),
    Flag("--layerPrecisions={pinned}", until=(11,), flavours=("weak",)),
    Flag("--layerOutputTypes={pinned}", until=(11,), flavours=("weak",)),
    Flag("--stronglyTyped", since=(10,), until=(11,), flavours=("strong",)),
    Flag("--memPoolSize=workspace:{workspace_mib}"),
    Flag("--timingCacheFile={cache}"),
    Flag("--builderOptimizationLevel={optimization_level}", since=(8, 6)),
    Flag("--profilingVerbosity=detailed"),
    Flag("--exportLayerInfo={layers}"),
    Flag("--useCudaGraph", until=(11,)),
)


def trtexec_command(
    bundle: Bundle,
    target: Target,
    precision: EnginePrecision,
    *,
    workspace_mib: int | None = None,
    optimization_level: int | None = None,
) -> str:
    """The shell line that builds an engine on ``target``, to be run in the bundle's folder there.

    It also measures the engine's latency, with random inputs.

    Args:
        bundle: The bundle; its file is the one that ``edge-fusion build`` reads.
        target: The board and its software, which decide the flags.
        precision: ``fp32``, ``fp16`` or ``int8``.
        workspace_mib: Scratch memory the builder may use, MiB; None takes a quarter of the
            board's memory, and leaves the flag out on a host whose memory is not known.
        optimization_level: 0..5, from TensorRT 8.6 on; None keeps TensorRT's default.

    Returns:
        One line, quoted for a POSIX shell; it writes ``model.plan`` there, and beside it the
        timing cache and the layers' report.

    Raises:
        EngineError: The bundle was built without the graph that this TensorRT needs, or a node
            that FP16 would break is not in it or has a name that trtexec cannot take.
        TargetError: The target's TensorRT has no such flag.
        InputError: A number is out of range.
    """
    _check(workspace_mib, optimization_level)
    options = EngineOptions(precision=precision, flavour=target.flavour)
    model, pinned = engine_source(bundle, options), _pinned(bundle, options)
    if workspace_mib is None and target.ram_gb is not None:
        workspace_mib = int(target.ram_gb * 1024 * WORKSPACE_SHARE)
    values: dict[str, str | int | None] = {
        "model": model,
        "plan": PLAN_NAME,
        "cache": f"{_STEM}.cache",
        "layers": f"{_STEM}.layers.json",
        "constraints": "obey" if pinned else None,
        "pinned": pinned,
        "workspace_mib": workspace_mib,
        "optimization_level": optimization_level,
    }
    unset = {f"{{{name}}}" for name, value in values.items() if value is None}
    chosen = [
        flag
        for flag in FLAGS
        if target.flavour in flag.flavours
        and precision in flag.precisions
        and not any(name in flag.text for name in unset)
    ]
    _refuse_unknown(chosen, target)
    known = [flag.text.format(**values) for flag in chosen if flag.known_to(target.tensorrt)]
    return shlex.join([_PROGRAM[target.jetpack is not None], *known])


def _check(workspace_mib: int | None, optimization_level: int | None) -> None:
    ranges = (("workspace", workspace_mib, 1, 1 << 20), ("level", optimization_level, 0, 5))
    for name, value, low, high in ranges:
        if value is not None and not low <= value <= high:
            raise InputError(f"the builder's {name}", expected=f"{low}..{high}", got=str(value))


def _pinned(bundle: Bundle, options: EngineOptions) -> str | None:
    """The nodes to keep in FP32, as trtexec wants them; None without any.

    A strong graph says itself what stays FP32, and nothing else is in FP16 without the flag.
    """
    if options.flavour == "strong" or options.precision == "fp32":
        return None
    record = bundle.manifest.flavours[f"{options.flavour}.{options.precision}"]
    names = nodes_to_pin(bundle.file(record.file), record.kept_fp32)
    return ",".join(f"{name}:fp32" for name in names) or None


def _refuse_unknown(chosen: list[Flag], target: Target) -> None:
    """Refuse what was asked for and cannot be had; flags that became the default just go."""
    for flag in chosen:
        if target.tensorrt < flag.since:
            raise TargetError(
                f"trtexec {target.tensorrt_text} of {target.name} has no {flag.name}",
                expected=f"TensorRT {'.'.join(map(str, flag.since))} or later",
                cure="leave it at TensorRT's default",
            )
