"""The ``tensorrt`` module of this machine: found, dated and listened to.

Between 8.5 and 11 TensorRT dropped and renamed much, and its enumerations changed their numbers.
Whoever uses ``TensorRT.module`` keeps to names that all of them have, and never writes a number.
"""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, Any

from edge_fusion.engine import EngineDevice
from edge_fusion.errors import MissingDependencyError, SessionError
from edge_fusion.target import Flavour

from .cuda import Cuda

if TYPE_CHECKING:
    from edge_fusion.board import BoardState

_OLDEST = (8, 5)
_FIRST_STRONG = (10,)
_VERSION = re.compile(r"\d+(?:\.\d+)+")
_CURE = (
    "on a Jetson: sudo apt install python3-libnvinfer, and a virtual environment made with "
    "--system-site-packages by the system's own Python; elsewhere: pip install tensorrt"
)


@dataclass(frozen=True, slots=True)
class Message:
    """One line that TensorRT logged; ``severity`` is its name, such as ``ERROR``."""

    severity: str
    text: str


class MessageLog:
    """What TensorRT logged, oldest first, without what it calls verbose."""

    def __init__(self) -> None:
        self._messages: list[Message] = []

    def add(self, severity: str, text: str) -> None:
        """Keep one message; the builder's verbose ones are too many to."""
        if severity != "VERBOSE":
            self._messages.append(Message(severity, text))

    def mark(self) -> int:
        """The present end, for :meth:`since`."""
        return len(self._messages)

    def since(self, mark: int, *severities: str) -> tuple[str, ...]:
        """What was logged after a mark.

        Args:
            mark: From :meth:`mark`.
            severities: ``INTERNAL_ERROR``, ``ERROR``, ``WARNING`` or ``INFO``; none means all.

        Example:
            >>> log = MessageLog()
            >>> mark = log.mark()
            >>> log.add("ERROR", "no magic tag")
            >>> log.since(mark, "ERROR")
            ('no magic tag',)
        """
        found = self._messages[mark:]
        return tuple(m.text for m in found if not severities or m.severity in severities)

    def errors(self, mark: int) -> str:
        """The errors since a mark in one line; says so where there is none."""
        return "; ".join(self.since(mark, "INTERNAL_ERROR", "ERROR")) or "no reason given"


@dataclass(frozen=True, slots=True)
class TensorRT:
    """TensorRT's Python binding.

    Attributes:
        module: The imported package, or what stands in for it.
        version: Its version as numbers, such as ``(10, 3, 0, 30)``; as many as it states.
        version_text: The same as it writes it.
        logger: The one logger of this process, for ``Runtime``, ``Builder`` and ``OnnxParser``:
            TensorRT sends everything to the first it was given.
        log: What that logger heard.
    """

    module: Any
    version: tuple[int, ...]
    version_text: str
    logger: Any
    log: MessageLog

    @property
    def flavour(self) -> Flavour:
        """Which graphs it is given: ``strong`` carry their precision, ``weak`` get it by flags."""
        return "strong" if self.version >= _FIRST_STRONG else "weak"


def load_tensorrt(needed_for: str = "running an engine") -> TensorRT:
    """Import TensorRT.

    Args:
        needed_for: What needs it, for the message where it is missing.

    Raises:
        MissingDependencyError: It is not installed for this Python.
        SessionError: It is installed but does not import, or is older than 8.5.

    Example:
        >>> load_tensorrt().flavour  # doctest: +SKIP
        'strong'
    """
    try:
        module = importlib.import_module("tensorrt")
    except ModuleNotFoundError as err:
        if err.name != "tensorrt":
            raise _broken(err) from err
        raise MissingDependencyError("TensorRT", needed_for=needed_for, cure=_CURE) from err
    except Exception as err:  # OSError from its wheels, ValueError from another numpy ...
        raise _broken(err) from err
    return _wrap(module)


def this_device(api: TensorRT, cuda: Cuda, board: BoardState) -> EngineDevice:
    """What an engine built here is tied to.

    Raises:
        SessionError: There is no device.
    """
    device = cuda.device()
    return EngineDevice(
        name=device.name,
        sm=f"{device.sm[0]}.{device.sm[1]}",
        sm_count=device.sm_count,
        tensorrt=api.version_text,
        l4t=board.l4t,
        power_mode=board.power_mode,
    )


def parse_version(text: str) -> tuple[int, ...]:
    """The numbers of a version, whatever follows them.

    Raises:
        SessionError: It does not begin with a version.

    Example:
        >>> parse_version("10.16.2.10"), parse_version("8.6.1.post1")
        ((10, 16, 2, 10), (8, 6, 1))
    """
    found = _VERSION.match(text)
    if found is None:
        raise SessionError("TensorRT's version", expected="numbers, as in 10.3.0.30", got=text)
    return tuple(int(part) for part in found[0].split("."))


@cache  # one logger for each module, whoever loads it
def _wrap(module: ModuleType) -> TensorRT:
    text = str(getattr(module, "__version__", "no version"))
    version = parse_version(text)
    if version < _OLDEST:
        raise SessionError(
            "this TensorRT is too old",
            expected=f"{'.'.join(map(str, _OLDEST))} or newer",
            got=text,
            cure="JetPack 5.1 brings 8.5.2",
        )
    log = MessageLog()
    return TensorRT(module, version, text, _logger(module, log), log)


def _logger(module: Any, log: MessageLog) -> Any:
    """A logger of this module's own base class, which exists only once it is imported."""

    class Listener(module.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            module.ILogger.__init__(self)  # pybind refuses super() here

        def log(self, severity: Any, msg: str) -> None:
            log.add(severity.name, msg)

    return Listener()


def _broken(error: Exception) -> SessionError:
    return SessionError("TensorRT is installed but does not import", got=str(error), cure=_CURE)
