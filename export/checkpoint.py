"""Weights into a network and out of it: matched strictly, and said what was done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import save
from torch import Tensor, nn

from edge_fusion.errors import CheckpointError
from edge_fusion.files import write_bytes

from .models.mutualformer import BLOCK_KEYS
from .weights import Tensors, read_weights


@dataclass(frozen=True, slots=True)
class Mismatch:
    """One tensor whose shape is not that of the network."""

    name: str
    expected: tuple[int, ...]
    got: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class CheckpointReport:
    """What a checkpoint did to a network.

    Attributes:
        matched: Names of the network's tensors that were loaded.
        missing: Names of the network's tensors that the file does not have.
        unexpected: Names in the file that the network does not have.
        mismatched: Tensors of both with different shapes; empty unless reported by an error.
        prefix: What was stripped from the file's names, such as ``module.``.
        source: Which entry of a nested file was taken, such as ``model_ema``.
        blocks: MutualFormer blocks loaded from other places: (prefix in the file, prefix here).
    """

    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[Mismatch, ...] = ()
    prefix: str = ""
    source: str = ""
    blocks: tuple[tuple[str, str], ...] = ()

    @property
    def summary(self) -> str:
        """One line, such as ``642 tensors from 'model_ema', 0 missing, 3 unexpected``."""
        parts = [f"{len(self.matched)} tensors" + (f" from '{self.source}'" if self.source else "")]
        if self.prefix:
            parts.append(f"prefix '{self.prefix}' stripped")
        if self.blocks:
            parts.append(f"{len(self.blocks)} MutualFormer blocks from another host")
        parts += [f"{len(self.missing)} missing", f"{len(self.unexpected)} unexpected"]
        return ", ".join(parts)


#: What wrappers of a network put before every name.
WRAPPER_PREFIXES = ("module.", "_orig_mod.")
#: The submodules of a MutualFormer block.
BLOCK_PARTS = tuple(dict.fromkeys(key.partition(".")[0] for key in BLOCK_KEYS))
#: Counters that no inference needs.
BOOKKEEPING = ("num_batches_tracked", "n_averaged")


def load_checkpoint(
    module: nn.Module, path: Path, *, allow_partial: bool = False
) -> CheckpointReport:
    """Load a weights file into a network, in place.

    Names match exactly once the prefixes of wrappers are off.  MutualFormer blocks that have no
    match are taken, in order, from blocks that the file holds under other prefixes.  Floating
    tensors are converted to the network's own precision.

    Args:
        module: The network; unchanged if an error is raised.
        path: ``.safetensors``, ``.pth`` or ``.pt``.
        allow_partial: Accept a file that lacks some of the network's tensors.

    Raises:
        CheckpointError: The file cannot be read, lacks tensors, or holds tensors of other shapes
            or with values that are not finite.

    Example:
        >>> import tempfile
        >>> from torch import nn
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "weights.safetensors"
        ...     save_checkpoint(nn.Linear(2, 3), path, half=True)
        ...     load_checkpoint(nn.Linear(2, 3), path).summary
        '2 tensors, 0 missing, 0 unexpected'
    """
    weights = read_weights(path)
    own = module.state_dict()
    tensors, prefix = _strip_prefixes(weights.tensors, own)
    tensors, blocks = _adopt_blocks(tensors, own)
    report = _compare(own, tensors, prefix=prefix, source=weights.source, blocks=blocks)
    _refuse_wrong_network(path, report, allow_partial)
    _refuse_foreign_block_tensors(path, report, own)
    loaded = {name: tensors[name] for name in report.matched}
    _refuse_non_finite(path, loaded)
    module.load_state_dict(
        {name: t.to(own[name].dtype) for name, t in loaded.items()}, strict=False
    )
    return report


def save_checkpoint(module: nn.Module, path: Path, *, half: bool = False) -> None:
    """Write a network's weights as safetensors, whole or not at all.

    Args:
        module: The network.
        path: The file to write; an existing one is replaced.
        half: Store parameters as float16.  Buffers, and parameters beyond float16's range, keep
            their type: a batch-norm variance may exceed 65504.

    Raises:
        OutputError: The file cannot be written.

    Example:
        >>> import tempfile
        >>> from torch import nn
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_checkpoint(nn.Linear(2, 3), Path(folder) / "weights.safetensors")
    """
    learned = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    # Clones: safetensors refuses two names for the same memory.
    tensors = {
        name: (_to_half(t) if half and name in learned else t).detach().cpu().clone().contiguous()
        for name, t in module.state_dict().items()
    }
    write_bytes(path, save(tensors), "the checkpoint")


def _strip_prefixes(tensors: Tensors, own: Mapping[str, Tensor]) -> tuple[Tensors, str]:
    """Take off what wrappers put before every name, unless the network has it too."""
    tensors = {name: t for name, t in tensors.items() if not name.endswith(BOOKKEEPING)}
    stripped = ""
    while prefix := next(
        (p for p in WRAPPER_PREFIXES if tensors and all(n.startswith(p) for n in tensors)), None
    ):
        if all(name.startswith(prefix) for name in own):
            break
        tensors = {name.removeprefix(prefix): t for name, t in tensors.items()}
        stripped += prefix
    return tensors, stripped


def _block_prefixes(names: Mapping[str, Tensor]) -> list[str]:
    """Prefixes under which ``names`` holds a whole MutualFormer block, in order."""
    first = BLOCK_KEYS[0]
    prefixes = [name.removesuffix(first) for name in names if name.endswith(first)]
    return [
        prefix
        for prefix in prefixes
        if (not prefix or prefix.endswith("."))
        and all(f"{prefix}{key}" in names for key in BLOCK_KEYS)
    ]


def _adopt_blocks(
    tensors: Tensors, own: Mapping[str, Tensor]
) -> tuple[Tensors, tuple[tuple[str, str], ...]]:
    """Rename MutualFormer blocks of another host to the blocks here that have no match."""
    theirs, ours = _block_prefixes(tensors), _block_prefixes(own)
    pairs = tuple(
        zip(
            [p for p in theirs if p not in ours], [p for p in ours if p not in theirs], strict=False
        )
    )
    renamed = {
        f"{theirs}{part}.": f"{ours}{part}." for theirs, ours in pairs for part in BLOCK_PARTS
    }
    adopted = {}
    for name, tensor in tensors.items():
        old = next((old for old in renamed if name.startswith(old)), None)
        adopted[name if old is None else renamed[old] + name.removeprefix(old)] = tensor
    return adopted, pairs


def _compare(
    own: Mapping[str, Tensor],
    tensors: Tensors,
    *,
    prefix: str,
    source: str,
    blocks: tuple[tuple[str, str], ...],
) -> CheckpointReport:
    common = [name for name in own if name in tensors]
    return CheckpointReport(
        matched=tuple(name for name in common if tensors[name].shape == own[name].shape),
        missing=tuple(n for n in own if n not in tensors and not n.endswith(BOOKKEEPING)),
        unexpected=tuple(name for name in tensors if name not in own),
        mismatched=tuple(
            Mismatch(name, tuple(own[name].shape), tuple(tensors[name].shape))
            for name in common
            if tensors[name].shape != own[name].shape
        ),
        prefix=prefix,
        source=source,
        blocks=blocks,
    )


def _refuse_wrong_network(path: Path, report: CheckpointReport, allow_partial: bool) -> None:
    what = f"checkpoint {path}" + (f" (its '{report.source}')" if report.source else "")
    if report.mismatched:
        first = report.mismatched[0]
        raise CheckpointError(
            f"{what}: {len(report.mismatched)} tensors of other shapes; '{first.name}'",
            expected=str(first.expected),
            got=str(first.got),
            cure="it belongs to a network of other widths; name the model it was trained as",
        )
    if not report.matched:
        raise CheckpointError(
            f"{what} has no tensor of this network",
            expected=f"names like '{report.missing[0]}'" if report.missing else "",
            got=f"names like '{report.unexpected[0]}'" if report.unexpected else "",
            cure="name the model it was trained as",
        )
    if report.missing and not allow_partial:
        raise CheckpointError(
            f"{what} lacks {len(report.missing)} tensors of this network",
            expected=f"'{report.missing[0]}' and others",
            got=f"{len(report.matched)} that match, {len(report.unexpected)} of other names",
            cure="name the model it was trained as, or allow a partial load",
        )


def _refuse_foreign_block_tensors(
    path: Path, report: CheckpointReport, own: Mapping[str, Tensor]
) -> None:
    """A block with more tensors than ours computes something else: leaving them out is wrong."""
    parts = tuple(f"{prefix}{part}." for prefix in _block_prefixes(own) for part in BLOCK_PARTS)
    extra = [name for name in report.unexpected if name.startswith(parts)]
    if extra:
        raise CheckpointError(
            f"checkpoint {path}: its MutualFormer blocks have tensors that ours do not",
            expected=f"the {len(BLOCK_KEYS)} tensors of a block without biases in its qkv Linears",
            got=f"'{extra[0]}' besides",
            cure="it was trained with another form of the block and cannot be loaded into this one",
        )


def _refuse_non_finite(path: Path, tensors: Tensors) -> None:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise CheckpointError(
                f"checkpoint {path}: '{name}'",
                expected="finite values",
                got="infinity or NaN",
                cure="the training diverged or the file was converted to float16 beyond its range",
            )


def _to_half(tensor: Tensor) -> Tensor:
    """As float16 where that keeps every value finite."""
    if not tensor.is_floating_point():
        return tensor
    half = tensor.half()
    return half if bool(half.isfinite().all()) else tensor
