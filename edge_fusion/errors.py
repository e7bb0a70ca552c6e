"""Everything edge-fusion raises on purpose.

::

    EdgeFusionError                  what went wrong: expected, got, cure
    ├── InputError                   something handed to us cannot be used
    │   ├── CheckpointError          a weights file
    │   ├── ModelError               a network: unknown, wrong inputs, already quantized
    │   ├── FrameError               one RGB-D pair
    │   ├── SourceError              a folder, camera or recording of pairs
    │   ├── CalibrationError         a calibration set
    │   ├── BundleError              a bundle: missing, damaged, of a newer schema
    │   ├── EngineError              a plan: damaged, or not to be had
    │   │   ├── EngineMissingError   nothing was built yet
    │   │   └── EngineMismatchError  what was built belongs to another device or model
    │   └── TargetError              a board or JetPack we do not know
    ├── StepError                    a step of the road failed: fold, trace, parity, engine ...
    ├── SessionError                 an inference backend failed
    ├── RemoteError                  a device could not be reached, is unfit, or failed to build
    │   └── LinkLostError            the link to it broke; what was started there goes on
    ├── OutputError                  a result could not be written
    ├── MissingDependencyError       a package this command needs is not installed
    └── GateError                    a gate was not met (exit status 1, all others 2)
"""

from __future__ import annotations


class EdgeFusionError(Exception):
    """Base of every error raised on purpose.

    Args:
        what: What went wrong, naming the file, item or node.
        expected: What would have been right.
        got: What was found instead.
        cure: What to do about it.

    Attributes:
        reason: ``what: expected ..., got ...``, the message without its cure.

    The message is ``reason; cure``.
    """

    exit_code = 2

    def __init__(self, what: str, *, expected: str = "", got: str = "", cure: str = "") -> None:
        self.what, self.expected, self.got, self.cure = what, expected, got, cure
        contrast = ", ".join(
            f"{label} {text}" for label, text in (("expected", expected), ("got", got)) if text
        )
        self.reason = f"{what}: {contrast}" if contrast else what
        super().__init__(f"{self.reason}; {cure}" if cure else self.reason)


class InputError(EdgeFusionError):
    """Something handed to us cannot be used."""


class CheckpointError(InputError):
    """A weights file is missing, damaged, unsafe to read, or of another network."""


class ModelError(InputError):
    """A network is unknown, has the wrong inputs, or is already quantized."""


class FrameError(InputError):
    """One RGB-D pair is unusable: sizes differ, no valid depth, streams swapped, wrong unit."""


class SourceError(InputError):
    """A folder, camera or recording of RGB-D pairs cannot be read."""


class CalibrationError(InputError):
    """A calibration set is missing, empty or unfit for the model."""


class BundleError(InputError):
    """A bundle is missing, damaged, or of a schema this version cannot read."""


class EngineError(InputError):
    """An engine is missing, damaged, or was built for another device, TensorRT or model."""


class EngineMissingError(EngineError):
    """A bundle has no engine of this precision yet."""


class EngineMismatchError(EngineError):
    """A bundle's engine was built for another device, TensorRT or model.

    Args:
        what: What went wrong, naming the bundle and the precision.
        field: The first field that differs: ``model``, or one of ``EngineDevice``.
        theirs: That field where the engine was built.
        ours: That field here.
        cure: What to do about it.
    """

    def __init__(self, what: str, *, field: str, theirs: str, ours: str, cure: str = "") -> None:
        self.field, self.theirs, self.ours = field, theirs, ours
        super().__init__(f"{what}: {field}", expected=ours, got=theirs, cure=cure)


class TargetError(InputError):
    """A board or JetPack is unknown."""


class StepError(EdgeFusionError):
    """A step of the road failed: fold, trace, simplify, quantize, legalise, parity or engine."""


class SessionError(EdgeFusionError):
    """An inference backend refused a model or an input."""


class RemoteError(EdgeFusionError):
    """A device could not be reached, is not fit to build on, or failed to build."""


class LinkLostError(RemoteError):
    """The link to a device broke; what was started there goes on."""


class OutputError(EdgeFusionError):
    """A result could not be written: full disk, no permission, or a place that holds other data."""


class MissingDependencyError(EdgeFusionError):
    """A package that this command needs is not installed."""

    def __init__(self, package: str, *, needed_for: str, extra: str = "", cure: str = "") -> None:
        super().__init__(
            f"{needed_for} needs {package}, which is not installed",
            cure=cure or f"pip install 'edge-fusion[{extra}]'",
        )


class GateError(EdgeFusionError):
    """A figure missed the gate that was set for it."""

    exit_code = 1
