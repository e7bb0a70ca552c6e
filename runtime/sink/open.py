"""The one door to sinks: from a destination on the command line to the sink that serves it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from edge_fusion.dependencies import naming_missing_packages
from edge_fusion.errors import OutputError

from .base import Sink
from .beside import Beside
from .masks import MaskFolder
from .video import CODECS, OverlayVideo

if TYPE_CHECKING:
    from ..telemetry import MachineSample

DEFAULT_FPS = 30.0


@dataclass(frozen=True, slots=True)
class SinkSetting:
    """What a sink may want to know besides its destination.

    Attributes:
        fps: Frame rate of a video.
        machine: The newest sample of this machine, or None.
        drops: Frames dropped so far, and what the source lost before there were pairs, by reason.
        about: What runs, by name, such as the model, the backend and the source.
        note: Where to say something to whoever started the program, such as an address.
    """

    fps: float = DEFAULT_FPS
    machine: Callable[[], MachineSample | None] = lambda: None
    drops: Callable[[], Mapping[str, int]] = dict
    about: Mapping[str, str] = field(default_factory=dict)
    note: Callable[[str], None] = lambda text: None


@dataclass(frozen=True, slots=True)
class SinkKind:
    """One kind of sink.

    Attributes:
        open: Opens it, given the destination.
        form: What to write.
        meaning: What becomes of it.
    """

    open: Callable[[str, SinkSetting], Sink]
    form: str
    meaning: str


def open_sink(destination: str, setting: SinkSetting | None = None) -> Sink:
    """Open the sink for a destination.

    Args:
        destination: A file whose suffix says what to write, ``SCHEME://...``, or for a folder of
            8-bit masks a name that ends with a slash or has no suffix; see :func:`describe_sinks`.
        setting: What the sink may want to know.

    Raises:
        OutputError: No sink serves this destination, or it cannot be written to.
        MissingDependencyError: It needs a package that is not installed.

    Example:
        >>> import tempfile
        >>> sink = open_sink(tempfile.mkdtemp() + "/masks/")
        >>> type(sink).__name__
        'MaskFolder'
        >>> sink.close()
    """
    setting = setting or SinkSetting()
    scheme, separator, _ = destination.partition("://")
    if separator:
        kind, known, what = SCHEMES.get(scheme.lower()), tuple(SCHEMES), f"{scheme}://"
    else:
        path = Path(destination)
        if destination.endswith("/") or path.is_dir() or not path.suffix:
            return MaskFolder(path)
        kind, known = SUFFIXES.get(path.suffix.lower()), tuple(SUFFIXES)
        what = f"the suffix '{path.suffix}'"
    if kind is None:
        raise OutputError(
            f"cannot tell what to write to '{destination.partition('?')[0]}'",
            expected=f"{', '.join(known)} or a folder",
            got=what,
            cure=f"for a folder of masks write '{destination.partition('?')[0]}/'; see "
            "'edge-fusion sinks'",
        )
    with naming_missing_packages(what):
        return kind.open(destination, setting)


def open_sinks(destinations: Sequence[str], setting: SinkSetting | None = None) -> list[Sink]:
    """Open several, or none of them.

    Raises:
        OutputError: One cannot be opened, or two are the same.
    """
    for destination in destinations:
        if destinations.count(destination) > 1:
            raise OutputError(f"'{destination}' is named twice", cure="name every sink once")
    with ExitStack() as opened:
        sinks = []
        for destination in destinations:
            sink = open_sink(destination, setting)
            opened.callback(sink.close)
            sinks.append(sink)
        opened.pop_all()
        return sinks


def describe_sinks() -> str:
    """Every kind of sink, as text."""
    kinds = {kind.form: kind.meaning for kind in (*SUFFIXES.values(), *SCHEMES.values())}
    kinds["NAME/"] = "a folder of masks, 8-bit PNG, one per frame"
    width = max(map(len, kinds))
    return "\n".join(f"{form:<{width}}  {meaning}" for form, meaning in kinds.items())


def _video(destination: str, setting: SinkSetting) -> Sink:
    return OverlayVideo(Path(destination), setting.fps)


def _records(destination: str, setting: SinkSetting) -> Sink:
    from .records import open_records

    return open_records(Path(destination))


def _mcap(destination: str, setting: SinkSetting) -> Sink:
    from .mcap import McapRecording

    return McapRecording(Path(destination), setting.fps)


def _web(destination: str, setting: SinkSetting) -> Sink:
    from .web import open_web

    return open_web(
        destination,
        machine=setting.machine,
        drops=setting.drops,
        about=setting.about,
        note=setting.note,
    )


def _rerun(destination: str, setting: SinkSetting) -> Sink:
    from .rerun import open_rerun

    return Beside(open_rerun(destination, note=setting.note))


def _window(destination: str, setting: SinkSetting) -> Sink:
    from .window import open_window

    return Beside(open_window(destination))


def _ros2(destination: str, setting: SinkSetting) -> Sink:
    from .ros2 import open_ros2

    return Beside(open_ros2(destination))


#: Files, by suffix.
SUFFIXES: dict[str, SinkKind] = {
    **dict.fromkeys(CODECS, SinkKind(_video, "OUT.mp4|.mkv|.avi", "a video of overlays")),
    ".jsonl": SinkKind(_records, "OUT.jsonl", "a line of JSON per frame: times, drops, region"),
    ".mcap": SinkKind(_mcap, "OUT.mcap", "a ROS 2 recording of colour, depth and saliency"),
}

#: What is no file.
SCHEMES: dict[str, SinkKind] = {
    "web": SinkKind(
        _web, "web://[HOST][:PORT]", "a live page with pictures, figures and /healthz; loopback"
    ),
    "rerun": SinkKind(_rerun, "rerun://[OUT.rrd]", "the Rerun viewer, live or as a recording"),
    "window": SinkKind(_window, "window://", "a window, where OpenCV can open one"),
    "ros2": SinkKind(_ros2, "ros2:///TOPIC", "saliency as sensor_msgs/Image on a topic"),
}
