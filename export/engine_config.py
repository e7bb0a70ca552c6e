"""How TensorRT is told to build: precision flags, memory, optimisation level, timing cache."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_fusion.board import BoardState
from edge_fusion.device_key import SEAL_BYTES, is_sealed, seal
from edge_fusion.engine import EngineDevice, EngineOptions, EnginePrecision
from edge_fusion.errors import EngineError, OutputError, StepError
from edge_fusion.files import partial_path, sha256, write_synced, writing
from edge_fusion.runtime.cuda import Cuda
from edge_fusion.runtime.trt_api import TensorRT

from .engine_network import ParsedNetwork, pin_to_fp32

MIB = 1 << 20

#: What a build takes beside its scratch space.  TensorRT, its kernels and the CUDA context hold
#: several hundred MiB before the first layer; weights are held as parsed, as laid out anew for the
#: tactic being timed, and in the plan.
BASE_BYTES = 600 * MIB
WEIGHT_COPIES = 4

#: Scratch space gets this share of what is then left, since timing also allocates activations.
WORKSPACE_SHARE = 0.5
LEAST_WORKSPACE = 32 * MIB
LARGEST_CACHE = 256 * MIB

#: What each precision permits a weakly typed network; a strongly typed one refuses them all.
#: INT8 comes with FP16 for what is not quantized.
_WEAK_FLAGS: dict[EnginePrecision, tuple[str, ...]] = {
    "fp32": (),
    "fp16": ("FP16",),
    "int8": ("FP16", "INT8"),
}

Note = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class ConfigRequest:
    """What a builder configuration is made from.

    Attributes:
        options: How the engine is built.
        workspace_bytes: Most scratch memory a layer may take.
        keep_fp32: Nodes of a weak graph that FP16 would break.
    """

    options: EngineOptions
    workspace_bytes: int
    keep_fp32: Collection[str] = ()


def make_config(api: TensorRT, parsed: ParsedNetwork, request: ConfigRequest) -> Any:
    """A builder configuration, by names that every version has.

    Raises:
        StepError: An option is not in this version, or a node cannot be kept in FP32.
    """
    trt = api.module
    config = parsed.builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, request.workspace_bytes)
    # Without it the inspector knows names alone.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    level = request.options.optimization_level
    if level is not None:
        _set_optimization_level(api, config, level)
    if request.options.flavour == "weak":
        flags = _WEAK_FLAGS[request.options.precision]
        for name in flags:
            config.set_flag(getattr(trt.BuilderFlag, name))
        if "FP16" in flags and pin_to_fp32(trt, parsed, request.keep_fp32):
            config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
    return config


def _set_optimization_level(api: TensorRT, config: Any, level: int) -> None:
    if not hasattr(config, "builder_optimization_level"):
        raise StepError(
            f"TensorRT {api.version_text} has no builder optimisation level",
            expected="TensorRT 8.6 or newer",
            cure="leave --optimization-level out",
        )
    config.builder_optimization_level = level
    if config.builder_optimization_level != level:
        raise StepError(
            f"TensorRT {api.version_text} refuses the builder optimisation level",
            expected=f"at most {config.builder_optimization_level}",
            got=str(level),
        )


# --- memory ------------------------------------------------------------------------------------


def free_memory(cuda: Cuda, board: BoardState) -> int:
    """How many bytes a build may take.

    On a GPU with memory of its own this is what CUDA calls free.  On a Jetson, CPU and GPU share
    one memory and CUDA leaves out what the kernel would give up if asked, such as cached files:
    there the kernel's own estimate counts, where it can be read.
    """
    free, _ = cuda.memory()
    if not cuda.device().integrated or board.available_bytes is None:
        return free
    return board.available_bytes


def workspace_for(free: int, model_bytes: int, wanted_mb: int | None) -> int:
    """Scratch memory for the builder, in bytes.

    Args:
        free: What is free now.
        model_bytes: Size of the ONNX file, nearly all of it weights.
        wanted_mb: What the user wants, in MiB; None takes a share of what is left.

    Raises:
        StepError: There is too little memory: the build would be killed half way, and with it
            perhaps other programs.

    Example:
        >>> workspace_for(2000 * MIB, 50 * MIB, None) // MIB
        600
    """
    needed = BASE_BYTES + WEIGHT_COPIES * model_bytes
    left = free - needed
    workspace = int(WORKSPACE_SHARE * left) if wanted_mb is None else wanted_mb * MIB
    if workspace >= LEAST_WORKSPACE and workspace <= left:
        return workspace
    least = LEAST_WORKSPACE / WORKSPACE_SHARE if wanted_mb is None else workspace
    if wanted_mb is not None and workspace < LEAST_WORKSPACE:
        raise StepError(
            "the builder's workspace",
            expected=f"at least {LEAST_WORKSPACE // MIB} MiB",
            got=f"{wanted_mb} MiB",
            cure="give a larger --workspace, or none",
        )
    cure = "close other programs, on a Jetson the desktop too: sudo systemctl isolate multi-user"
    raise StepError(
        "too little memory to build in",
        expected=f"{(needed + int(least)) // MIB} MiB free",
        got=f"{max(free, 0) // MIB} MiB",
        cure=cure if wanted_mb is None else f"{cure}; or give a smaller --workspace",
    )


# --- timing cache ------------------------------------------------------------------------------


class TimingCache:
    """Kernel timings of one device under one TensorRT, kept beside its engines.

    With them a build that is repeated, or differs in a few layers, takes seconds for minutes.  A
    cache only saves time: one that cannot be used is set aside with a note, and so is a disk that
    has no room for it.  TensorRT reads one only if this user wrote it on this device: the file is
    a seal of 32 bytes, then the timings.

    Args:
        api: TensorRT.
        folder: Where it lies: a bundle's ``engines``.
        device: What it belongs to.
        note: Told why a cache was set aside.
    """

    def __init__(self, api: TensorRT, folder: Path, device: EngineDevice, note: Note) -> None:
        name = sha256(device.model_dump_json().encode())[:16]
        self.path = folder / f"timing-{name}.cache"
        self._api, self._note = api, note
        self._purpose = f"timings {name}"

    def attach(self, config: Any) -> None:
        """Give a configuration the stored timings, or an empty cache to fill."""
        stored = self._read()
        if stored and not self._set(config, stored):
            self._note(f"timing cache {self.path.name} is not of this TensorRT: timing anew")
            stored = b""
        if not stored:
            self._set(config, b"")

    def save(self, config: Any) -> None:
        """Store what the builder has timed."""
        cache = config.get_timing_cache()
        if cache is None:
            return
        timings = bytes(cache.serialize())
        try:
            with writing("the timing cache", self.path):
                if self.path.is_symlink():  # what it leads to is not ours to write
                    self.path.unlink()
            with partial_path(self.path, "the timing cache") as partial:
                write_synced(partial, seal(self._purpose, timings) + timings)
        except (EngineError, OutputError) as err:
            self._note(f"timing cache not kept: {err}")

    def _read(self) -> bytes:
        """The stored timings; empty, with a note, where they are not to be used."""
        try:
            stored, problem = self._stored()
        except OSError as err:
            stored, problem = b"", f"cannot be read ({err.strerror})"
        except EngineError as err:
            stored, problem = b"", f"cannot be verified ({err})"
        if problem:
            self._note(f"timing cache {self.path.name} {problem}: timing anew")
        return stored

    def _stored(self) -> tuple[bytes, str]:
        """The timings, or what is wrong with them; neither where there are none."""
        if self.path.is_symlink():
            return b"", "is a link"
        if not self.path.exists():
            return b"", ""
        if not self.path.is_file() or self.path.stat().st_size > LARGEST_CACHE:
            return b"", f"is no file of at most {LARGEST_CACHE // MIB} MiB"
        data = self.path.read_bytes()
        claimed, timings = data[:SEAL_BYTES], data[SEAL_BYTES:]
        if not is_sealed(self._purpose, timings, claimed):
            return b"", "was not written by this user on this device"
        return timings, ""

    def _set(self, config: Any, stored: bytes) -> bool:
        """Whether TensorRT took it; some versions make an empty one of it and say so in the log."""
        mark = self._api.log.mark()
        cache = config.create_timing_cache(stored)
        if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
            return False
        said = self._api.log.since(mark, "WARNING", "ERROR", "INTERNAL_ERROR")
        return not any("timing cache" in line.lower() for line in said)
