"""The models we carry, and the way in for any other."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from torch import nn

from edge_fusion.errors import CheckpointError, ModelError
from edge_fusion.files import sha256_file
from edge_fusion.spec import ModelSpec

from ..checkpoint import CheckpointReport, load_checkpoint
from .hosts import (
    STRIDE,
    Deployable,
    FusionHost,
    add_mobilenetv2,
    mutualformer_mobilenetv2,
    mutualformer_resnet50,
)


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One model of the registry.

    Attributes:
        name: What ``create_model`` and the command line call it.
        factory: Makes the network with random weights.
        spec: How it is fed.
        summary: One line for people who choose.
        keep_fp16: Globs of nodes that its trained weights showed to be too sensitive for INT8.
    """

    name: str
    factory: Callable[[], FusionHost]
    spec: ModelSpec
    summary: str
    keep_fp16: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A network ready to be folded and traced.

    Attributes:
        name: Registry name or ``module:factory``.
        module: (rgb, depth) -> what ``spec.output`` says, in evaluation mode.
        spec: How it is fed and what it returns.
        checkpoint_report: What the checkpoint held, None without one.
        checkpoint_sha256: Its hash in hexadecimal, None without one.
    """

    name: str
    module: nn.Module
    spec: ModelSpec
    checkpoint_report: CheckpointReport | None
    checkpoint_sha256: str | None


def _entry(
    name: str, factory: Callable[[], FusionHost], summary: str, keep_fp16: tuple[str, ...] = ()
) -> tuple[str, ModelEntry]:
    return name, ModelEntry(name, factory, ModelSpec(name=name), summary, keep_fp16)


#: The layers of mutualformer-mobilenetv2 at strides 2 and 4: few channels, of which some reach far
#: and most do not, and nothing behind them averages their error.  They are 23 % of the MACs.
#: Measured on 187 real frames with the shipped weights: mean difference of INT8 to FP32 0.0019 with
#: them in FP16, 0.010 with them in INT8, where pothole_d2 lost 0.028 of MAE.
SENSITIVE = ("*encoder.features.[123].*/Conv", "*decoder.stages.0.*/Conv")

MODELS: dict[str, ModelEntry] = dict(
    (
        _entry(
            "mutualformer-mobilenetv2",
            mutualformer_mobilenetv2,
            "two MobileNetV2, MutualFormer fusion at strides 16 and 32; the model for small boards",
            SENSITIVE,
        ),
        _entry(
            "mutualformer-resnet50",
            mutualformer_resnet50,
            "two ResNet-50, MutualFormer fusion at strides 16 and 32; the size of the paper's",
        ),
        _entry(
            "add-mobilenetv2",
            add_mobilenetv2,
            "two MobileNetV2 added level by level; the plain baseline that must survive INT8",
        ),
    )
)


def shipped_weights(name: str) -> Path | None:
    """The checkpoint that comes with the package for a model; None where there is none.

    Its model card lies beside it: the data and its terms, the recipe, figures and limits.

    Example:
        >>> shipped_weights("mutualformer-mobilenetv2").name
        'mutualformer-mobilenetv2.safetensors'
        >>> shipped_weights("add-mobilenetv2") is None
        True
    """
    path = Path(str(files("edge_fusion") / "weights" / f"{name}.safetensors"))
    return path if path.is_file() else None


def create_model(name: str) -> FusionHost:
    """Make a model of the registry with random weights.

    Args:
        name: A key of :data:`MODELS`.

    Returns:
        The network, returning logits; its ``forward_with_sides`` serves training.

    Raises:
        ModelError: No such model.

    Example:
        >>> host = create_model("mutualformer-mobilenetv2")
        >>> type(host.rgb_encoder).__name__
        'MobileNetV2'
    """
    return _find(name).factory()


def load_model(
    model: str,
    checkpoint: Path | None = None,
    spec: ModelSpec | None = None,
    *,
    allow_partial: bool = False,
) -> LoadedModel:
    """Make a network with its weights, ready for the road to the engine.

    A model of the registry is wrapped so that it returns saliency.  ``module:factory`` names a
    function without arguments in any importable module, the current directory included; what it
    returns is taken as it is, and ``spec.output.activation`` says whether that is saliency
    (``none``) or logits that the runtime turns into saliency (``sigmoid``).

    Args:
        model: A key of :data:`MODELS`, or ``module:factory``.
        checkpoint: Weights; None keeps those that the factory made.
        spec: How the network is fed; None takes the registry's, or every default of
            :class:`~edge_fusion.spec.ModelSpec` for ``module:factory``.
        allow_partial: Accept a checkpoint that leaves some weights as the factory made them, or
            holds more than a model of the registry has a place for.

    Raises:
        ModelError: The model is unknown, cannot be imported, or does not take two inputs.
        CheckpointError: The weights cannot be read or belong to another network.

    Example:
        >>> load_model("add-mobilenetv2").spec.output.activation
        'none'
    """
    own = ":" not in model
    network = create_model(model) if own else _import_network(model)
    used = spec or (_find(model).spec if own else ModelSpec(name=model))
    report = (
        load_checkpoint(network, checkpoint, allow_partial=allow_partial) if checkpoint else None
    )
    if own:
        _check_own_spec(used)
        if not allow_partial:
            _check_own_report(model, checkpoint, report)
        network = Deployable(network)
    digest = sha256_file(checkpoint) if checkpoint else None
    return LoadedModel(model, network.eval(), used, report, digest)


def _find(name: str) -> ModelEntry:
    try:
        return MODELS[name]
    except KeyError:
        raise ModelError(
            f"unknown model {name!r}",
            expected=f"one of {', '.join(MODELS)}, or module:factory",
            cure="a network of your own is named like my_package.my_module:make_model",
        ) from None


def _check_own_spec(spec: ModelSpec) -> None:
    if spec.height % STRIDE or spec.width % STRIDE:
        raise ModelError(
            f"input size of {spec.name}",
            expected=f"height and width divisible by {STRIDE}",
            got=f"{spec.height} x {spec.width}",
            cure="round both up to the next multiple",
        )
    if spec.depth.channels != 1 or spec.output.activation != "none":
        raise ModelError(
            f"input record of {spec.name}",
            expected="depth.channels 1 and output.activation none",
            got=f"{spec.depth.channels} and {spec.output.activation}",
            cure="leave both at their defaults: this network takes one depth channel and "
            "returns saliency",
        )


def _check_own_report(model: str, checkpoint: Path | None, report: CheckpointReport | None) -> None:
    """Weights of a model with a richer fusion would load into a poorer one, and run as nonsense."""
    if report is not None and report.unexpected:
        raise CheckpointError(
            f"checkpoint {checkpoint}",
            expected=f"the weights of {model} alone",
            got=f"{len(report.unexpected)} tensors more, such as '{report.unexpected[0]}'",
            cure="name the model it was trained as, or allow a partial load",
        )


def _import_network(model: str) -> nn.Module:
    """The network that ``module:factory`` makes."""
    module_name, _, factory_name = model.partition(":")
    with _current_directory_importable():
        try:
            factory = getattr(importlib.import_module(module_name), factory_name)
        # An import runs foreign code, which may raise anything.
        except Exception as err:
            raise ModelError(
                f"cannot import {factory_name!r} from module {module_name!r}",
                got=f"{type(err).__name__}: {err}",
                cure="name it as my_package.my_module:make_model, importable from the current "
                "directory or installed",
            ) from err
        try:
            network = factory()
        except Exception as err:
            raise ModelError(
                f"{model} failed to make its network",
                expected="a factory that needs no arguments",
                got=f"{type(err).__name__}: {err}",
                cure="wrap it in a function that takes none",
            ) from err
    return _checked_network(model, network)


def _checked_network(model: str, network: object) -> nn.Module:
    if not isinstance(network, nn.Module):
        raise ModelError(
            f"what {model} made",
            expected="a torch.nn.Module",
            got=type(network).__name__,
            cure="return the network itself, not its output, weights or class",
        )
    try:
        inspect.signature(network.forward).bind(None, None)
    except TypeError as err:
        raise ModelError(
            f"the network of {model}",
            expected="forward(rgb, depth)",
            got=f"forward{inspect.signature(network.forward)}",
            cure="wrap it in a module with these two inputs",
        ) from err
    return network


@contextmanager
def _current_directory_importable() -> Iterator[None]:
    """Let imports find modules of the current directory, then restore the search path."""
    here = str(Path.cwd())
    before = list(sys.path)
    sys.path.insert(0, here)
    # A file written a moment ago may be missing from the import system's directory cache.
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:] = before
