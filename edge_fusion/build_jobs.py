"""What ``edge-fusion build`` can be asked for, and which of its options each job takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

import typer

from edge_fusion.errors import InputError


class Precision(str, Enum):
    """The precisions a bundle and an engine can be built for."""

    fp32 = "fp32"
    fp16 = "fp16"
    int8 = "int8"


class ExporterName(str, Enum):
    """torch's two ONNX exporters."""

    dynamo = "dynamo"
    legacy = "legacy"


class ServerFormat(str, Enum):
    """What serves a bundle instead of this package."""

    triton = "triton"
    triton_ort = "triton-ort"
    isaac_ros = "isaac-ros"


@dataclass(frozen=True, slots=True)
class Job:
    """One thing that ``build`` does.

    Attributes:
        title: What comes of it, for messages.
        asked_by: What asks for it, as messages name what an option belongs to.
        options: The parameters of the command that it takes, besides those that all take.
        instead: For parameters that look as if they belonged here: why not, and what to do.
    """

    title: str
    asked_by: str
    options: frozenset[str]
    instead: Mapping[str, str] = field(default_factory=dict, compare=False)


_BY_ALL = frozenset({"model", "precision", "json_to"})
_BUILDER = frozenset({"force", "optimization_level", "workspace", "timing_cache"})
_EXPORT = frozenset({"export", "output", "force"})
_OWN_TARGET = {"target": "an engine is for the device that builds it: leave it out"}

MODEL = Job(
    "a bundle",
    "building a bundle from a model",
    frozenset(
        {
            "output", "target", "force", "calib", "checkpoint", "spec", "size", "calib_count",
            "seed", "estimator", "keep_fp16", "force_int8", "max_drop", "gate_data", "min_int8",
            "opset", "exporter", "allow_partial", "untrained",
        }
    ),
)  # fmt: skip
HERE = Job(
    "an engine for this device",
    "building an engine here",
    _BUILDER,
    {**_OWN_TARGET, "output": "the engine is kept in the bundle: leave it out"},
)
ON = Job(
    "an engine built with --on",
    "--on ssh://USER@HOST",
    _BUILDER | {"on", "output", "wheelhouse", "directory", "python", "ssh_config"},
    _OWN_TARGET,
)
TRTEXEC = Job(
    "a line for trtexec",
    "--print-trtexec",
    frozenset({"print_trtexec", "target", "optimization_level", "workspace"}),
    {
        "output": "the line goes to standard output: leave it out",
        "timing_cache": "the line always names a timing cache: leave it out",
    },
)
EXPORTS = {
    ServerFormat.triton: Job("a model for Triton", "--export triton", _EXPORT | {"plan", "name"}),
    ServerFormat.triton_ort: Job(
        "a model for Triton's ONNX Runtime",
        "--export triton-ort",
        _EXPORT | {"name"},
        {"plan": "ONNX Runtime reads the bundle's own graph: leave it out, or --export triton"},
    ),
    ServerFormat.isaac_ros: Job(
        "parameters for Isaac ROS", "--export isaac-ros", _EXPORT | {"plan"}
    ),
}
JOBS = (MODEL, HERE, ON, TRTEXEC, *EXPORTS.values())
_SELECTORS = ("on", "print_trtexec", "export")


def means_a_bundle(context: typer.Context, model: str) -> bool:
    """Whether MODEL|BUNDLE is meant as a bundle, however damaged or mistyped it may be.

    A folder that has no manifest may share its name with a model: options that a model alone takes
    decide.

    Raises:
        InputError: The path cannot be looked at.
    """
    from edge_fusion.bundle import is_bundle
    from edge_fusion.manifest import MANIFEST_NAME

    path = Path(model)
    for_model = MODEL.options.difference(*(job.options for job in JOBS if job is not MODEL))
    try:
        if model.endswith(("/", ".tar")) or (path / MANIFEST_NAME).exists() or is_bundle(path):
            return True
        return path.is_dir() and not for_model & set(_given(context))
    except OSError as err:
        raise InputError(f"cannot read {model}", got=err.strerror or str(err)) from err


def choose_device_job(context: typer.Context) -> Job:
    """What is to be made of a bundle.

    Raises:
        InputError: Two jobs were asked for at once.
    """
    given = _given(context)
    asked = [name for name in _SELECTORS if name in given]
    if len(asked) > 1:
        flags = [given[name] for name in asked]
        raise InputError(
            f"{', '.join(flags[:-1])} and {flags[-1]} ask for different things",
            cure="give one of them, and run the command again for the other",
        )
    by_selector: dict[str, Job] = {"on": ON, "print_trtexec": TRTEXEC}
    if asked == ["export"]:
        return EXPORTS[context.params["export"]]
    return by_selector[asked[0]] if asked else HERE


def refuse_others(context: typer.Context, job: Job, model: str) -> None:
    """Refuse the options on the command line that a job does not take.

    Raises:
        InputError: Names the first of them, what it belongs to, and what to do.
    """
    for name, flag in _given(context).items():
        if name in job.options | _BY_ALL:
            continue
        owners = [other for other in JOBS if name in other.options]
        if job is MODEL:
            belongs, got = "a bundle", f"{model}, which is not a bundle"
        else:
            belongs = _either(owner.asked_by for owner in owners)
            got = f"{model}, a bundle already" if owners == [MODEL] else job.title
        cure = job.instead.get(name, "leave it out; see 'edge-fusion build --help'")
        raise InputError(f"{flag} belongs to {belongs}", got=got, cure=cure)


def _given(context: typer.Context) -> dict[str, str]:
    """The parameters that stand on the command line, each with its flag."""
    found = {}
    for param in context.command.params:
        name = param.name or ""
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            switched_off = context.params.get(name) is False
            found[name] = max(param.secondary_opts if switched_off else param.opts, key=len)
    return found


def _either(names: Iterable[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last
