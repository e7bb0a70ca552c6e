"""The ``trtexec`` line that builds what ``build_engine`` builds, for devices without our Python.

JetPack 5 has Python 3.8, which this package does not run on; its engines are built by this line
and served by Triton or Isaac ROS.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

from edge_fusion.bundle import Bundle
from edge_fusion.engine import PLAN_NAME, EngineOptions, EnginePrecision, engine_source
from edge_fusion.errors import EngineError, InputError, TargetError
from edge_fusion.target import Flavour, Target, Version

#: Share of a board's memory that the builder may use for scratch space: CPU and GPU share it.
WORKSPACE_SHARE = 1 / 4

#: JetPack puts trtexec where no PATH leads.
_PROGRAM = {True: "/usr/src/tensorrt/bin/trtexec", False: "trtexec"}

_PRECISIONS: tuple[EnginePrecision, ...] = ("fp32", "fp16", "int8")
_PLAIN_FILE = re.compile(r"[\w][\w.+-]*")


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
    flavours: tuple[Flavour, ...] = ("strong", "weak")
    precisions: tuple[EnginePrecision, ...] = _PRECISIONS

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
    plan: str = PLAN_NAME,
    workspace_mib: int | None = None,
    optimization_level: int | None = None,
) -> str:
    """The shell line that builds an engine on ``target``, to be run in the bundle's folder there.

    It also measures the engine's latency, with random inputs.

    Args:
        bundle: The bundle; its file is the one that ``edge-fusion build`` reads.
        target: The board and its software, which decide the flags.
        precision: ``fp32``, ``fp16`` or ``int8``.
        plan: Name of the plan to write; the timing cache and the layers' report lie beside it.
        workspace_mib: Scratch memory the builder may use, MiB; None takes a quarter of the
            board's memory, and leaves the flag out on a host whose memory is not known.
        optimization_level: 0..5, from TensorRT 8.6 on; None keeps TensorRT's default.

    Returns:
        One line, quoted for a POSIX shell.

    Raises:
        EngineError: The bundle was built without the graph that this TensorRT needs, or trtexec
            cannot name a node that FP16 would break.
        TargetError: The target's TensorRT has no such flag.
        InputError: The name of the plan is no plain file name, or a number is out of range.
    """
    _check(plan, workspace_mib, optimization_level)
    options = EngineOptions(precision=precision, flavour=target.flavour)
    model, pinned = engine_source(bundle, options), _pinned(bundle, options)
    stem = plan.rpartition(".")[0] or plan
    if workspace_mib is None and target.ram_gb is not None:
        workspace_mib = int(target.ram_gb * 1024 * WORKSPACE_SHARE)
    values: dict[str, str | int | None] = {
        "model": model,
        "plan": plan,
        "cache": f"{stem}.cache",
        "layers": f"{stem}.layers.json",
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


def _check(plan: str, workspace_mib: int | None, optimization_level: int | None) -> None:
    if not _PLAIN_FILE.fullmatch(plan):
        raise InputError(
            "the plan's name", expected="a plain file name such as model.plan", got=repr(plan)
        )
    ranges = (("workspace", workspace_mib, 1, 1 << 20), ("level", optimization_level, 0, 5))
    for name, value, low, high in ranges:
        if value is not None and not low <= value <= high:
            raise InputError(f"the builder's {name}", expected=f"{low}..{high}", got=str(value))


def _pinned(bundle: Bundle, options: EngineOptions) -> str | None:
    """The nodes of a weak graph that FP16 would break, as trtexec wants them; None without any.

    A node that computes in INT8 stays free: FP16 does not reach it.
    """
    manifest = bundle.manifest
    kept = manifest.flavours[f"{options.flavour}.{options.precision}"].kept_fp32
    quantized = manifest.quantization if options.precision == "int8" else None
    free = set(quantized.int8_nodes if quantized else ())
    names = [] if options.precision == "fp32" else [name for name in kept if name not in free]
    for name in names:
        if set(name) & set(",:"):
            raise EngineError(
                f"trtexec cannot keep node {name!r} in FP32",
                expected="a name without ',' and ':'",
                cure="build the engine with --precision fp32, or rename the node",
            )
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
