"""Weights into a network and out of it: matched strictly, and said what was done."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import save
from torch import Tensor, nn

from edge_fusion.errors import CheckpointError
from edge_fusion.files import write_bytes

from .models.mutualformer import BLOCK_KEYS
from .weights import Tensors, read_weights


@dataclass(frozen=True, slots=True)
class CheckpointReport:
    """What a checkpoint did to a network.

    Attributes:
        matched: Names of the network's tensors that were loaded.
        missing: Names of the network's tensors that the file does not have.
        unexpected: Names in the file that the network does not have.
        prefix: What was stripped from the file's names, such as ``module.`` or ``ema_model.``.
        source: Which entry of a nested file was taken, such as ``model_ema``.
        blocks: MutualFormer blocks loaded from other places: (prefix in the file, prefix here).
    """

    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    prefix: str = ""
    source: str = ""
    blocks: tuple[tuple[str, str], ...] = ()

    @property
    def summary(self) -> str:
        """One line, such as ``642 tensors from 'model_ema', 0 missing, 1 unexpected ('w')``."""
        parts = [f"{len(self.matched)} tensors" + (f" from '{self.source}'" if self.source else "")]
        if self.prefix:
            averaged = " (averaged weights)" if self.prefix.startswith(AVERAGED_PREFIXES) else ""
            parts.append(f"prefix '{self.prefix}' stripped{averaged}")
        if self.blocks:
            parts.append(f"{len(self.blocks)} MutualFormer blocks from another host")
        parts.append(_counted(self.missing, "missing"))
        parts.append(_counted(self.unexpected, "unexpected"))
        return ", ".join(parts)


def _counted(names: tuple[str, ...], what: str) -> str:
    """``5 missing ('a', 'b', 'c' ...)``."""
    listed = ", ".join(f"'{name}'" for name in names[:NAMED])
    more = " ..." if len(names) > NAMED else ""
    return f"{len(names)} {what}" + (f" ({listed}{more})" if names else "")


#: How many names of each kind a summary gives.
NAMED = 3
#: What averaging wrappers put before every name of the averaged copy: ema-pytorch, Lightning.
AVERAGED_PREFIXES = ("ema_model.", "model_ema.", "ema.")
#: What wrappers put before every name, in order of preference: averaged weights first, then
#: DataParallel and AveragedModel, torch.compile, Lightning, and ema-pytorch's other copy.
WRAPPER_PREFIXES = (*AVERAGED_PREFIXES, "module.", "_orig_mod.", "model.", "online_model.")
#: Tensors that those wrappers add beside the network's own.
WRAPPER_COUNTERS = frozenset({"n_averaged", "initted", "step", "decay", "num_updates"})
#: The submodules of a MutualFormer block.
BLOCK_PARTS = tuple(dict.fromkeys(key.partition(".")[0] for key in BLOCK_KEYS))
#: A counter of every batch norm that no inference needs.
BATCHES_SEEN = "num_batches_tracked"


def load_checkpoint(
    module: nn.Module, path: Path, *, allow_partial: bool = False
) -> CheckpointReport:
    """Load a weights file into a network, in place.

    Names match exactly once the prefixes of wrappers are off; where a file holds averaged weights
    beside the last ones, the averaged are taken.  MutualFormer blocks that have no
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
    tensors, prefix = _unwrap(weights.tensors, own)
    tensors, blocks = _adopt_blocks(tensors, own)
    what = f"checkpoint {path}" + (f" (its '{weights.source}')" if weights.source else "")
    _refuse_other_shapes(what, tensors, own)
    report = CheckpointReport(
        matched=tuple(name for name in own if name in tensors),
        missing=tuple(n for n in own if n not in tensors and not n.endswith(BATCHES_SEEN)),
        unexpected=tuple(name for name in tensors if name not in own),
        prefix=prefix,
        source=weights.source,
        blocks=blocks,
    )
    _refuse_wrong_network(what, report, allow_partial)
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


def _unwrap(tensors: Tensors, own: Mapping[str, Tensor]) -> tuple[Tensors, str]:
    """Take off what wrappers put before the network's names.

    Of all ways to read the file the one that fits most of the network's names is taken, and of
    equal ones the first: a network may itself have a part that is called like a wrapper.
    """
    tensors = {name: t for name, t in tensors.items() if not name.endswith(BATCHES_SEEN)}
    prefixes = list(_prefixes(tensors))
    prefixes.insert(sum(prefix.startswith(AVERAGED_PREFIXES) for prefix in prefixes), "")
    readings = {prefix: _without_prefix(tensors, prefix) for prefix in prefixes}
    best = max(readings, key=lambda prefix: len(own.keys() & readings[prefix].keys()))
    return {
        name: tensor
        for name, tensor in readings[best].items()
        if name in own or _bare(name) not in WRAPPER_COUNTERS
    }, best


def _prefixes(names: Iterable[str], outer: str = "") -> Iterator[str]:
    """Every chain of wrappers' prefixes that some name starts with, averaged weights first."""
    for prefix in WRAPPER_PREFIXES:
        inner = [name for name in names if name.startswith(outer + prefix)]
        if inner:
            yield outer + prefix
            yield from _prefixes(inner, outer + prefix)


def _without_prefix(tensors: Tensors, prefix: str) -> Tensors:
    """The tensors under ``prefix`` by their names below it, and what is no copy of one of them."""
    under = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
    bare = {_bare(name) for name in under}
    rest = {n: t for n, t in tensors.items() if not n.startswith(prefix) and _bare(n) not in bare}
    return under | rest


def _bare(name: str) -> str:
    """A name without any prefix of a wrapper."""
    while prefix := next((p for p in WRAPPER_PREFIXES if name.startswith(p)), None):
        name = name.removeprefix(prefix)
    return name


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


def _refuse_other_shapes(what: str, tensors: Tensors, own: Mapping[str, Tensor]) -> None:
    common = [name for name in own if name in tensors]
    differing = [name for name in common if tensors[name].shape != own[name].shape]
    if differing:
        first = differing[0]
        raise CheckpointError(
            f"{what}: {len(differing)} tensors of other shapes; '{first}'",
            expected=str(tuple(own[first].shape)),
            got=str(tuple(tensors[first].shape)),
            cure="it belongs to a network of other widths; name the model it was trained as",
        )


def _refuse_wrong_network(what: str, report: CheckpointReport, allow_partial: bool) -> None:
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
