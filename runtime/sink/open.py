"""The one door to sinks: from a destination on the command line to the sink that serves it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote

from edge_fusion.dependencies import naming_missing_packages
from edge_fusion.errors import OutputError

from ..source.keys import Key, describe_keys
from .base import Sink
from .beside import Beside
from .keys import RERUN_KEYS, ROS2_KEYS, WEB_KEYS
from .masks import MaskFolder
from .video import CODECS, OverlayVideo

if TYPE_CHECKING:
    from ..telemetry import MachineSample

DEFAULT_FPS = 30.0

#: In the name of a file or folder: when it was opened.
TIME = "%t"

_TIME_FORM = "%Y%m%d-%H%M%S"
_SEE = "see 'edge-fusion sinks'"


@dataclass(frozen=True, slots=True)
class SinkSetting:
    """What a sink may want to know besides its destination.

    Attributes:
        fps: Frame rate of a video.
        machine: The newest sample of this machine, or None.
        drops: Frames dropped so far, and what the source lost before there were pairs, by reason.
        drift: The newest judgement of the inputs, JSON-ready; None where nobody watches them.
        about: What runs, by name, such as the model, the backend and the source.
        note: Where to say something to whoever started the program, such as an address.
        reads: Files and folders that are being played: nothing is written to or into them.
    """

    fps: float = DEFAULT_FPS
    machine: Callable[[], MachineSample | None] = lambda: None
    drops: Callable[[], Mapping[str, int]] = dict
    drift: Callable[[], Mapping[str, Any] | None] = lambda: None
    about: Mapping[str, str] = field(default_factory=dict)
    note: Callable[[str], None] = lambda text: None
    reads: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class SinkKind:
    """One kind of sink.

    Attributes:
        open: Opens it, given the destination.
        form: What to write.
        meaning: What becomes of it.
        keys: What may stand behind the question mark.
        extra: The extra that brings what it needs; empty where that is always there.
        file: Of a scheme: the suffix with which it names a file; empty where it never does.
    """

    open: Callable[[str, SinkSetting], Sink]
    form: str
    meaning: str
    keys: Mapping[str, Key] = field(default_factory=dict)
    extra: str = ""
    file: str = ""


class _Wanted(NamedTuple):
    """A destination, its kind, and the file or folder it is, if any, with the time put in."""

    destination: str
    kind: SinkKind
    path: Path | None

    @property
    def shown(self) -> str:
        """The destination without what may be a token."""
        return self.destination if "://" not in self.destination else _head(self.destination)


def open_sink(destination: str, setting: SinkSetting | None = None) -> Sink:
    """Open the sink for a destination.

    Args:
        destination: A file whose suffix says what to write, ``SCHEME://...``, or for a folder of
            8-bit masks a name that ends with a slash or has no suffix; see :func:`describe_sinks`.
            ``%t`` in the name of a file or folder becomes the time, UTC as 20260131-235959.
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
    return open_sinks([destination], setting)[0]


def open_sinks(destinations: Sequence[str], setting: SinkSetting | None = None) -> list[Sink]:
    """Open several, or none of them.

    Args:
        destinations: As for :func:`open_sink`; one moment for every ``%t`` in them.
        setting: What the sinks may want to know.

    Raises:
        OutputError: One cannot be opened, two are the same, or one is what is being played.
    """
    setting = setting or SinkSetting()
    now = time.strftime(_TIME_FORM, time.gmtime())
    wanted = [_wanted(destination, now) for destination in destinations]
    _refuse_repeated(wanted)
    for one in wanted:
        _refuse_played(one, setting.reads)
    with ExitStack() as opened:
        sinks = []
        for one in wanted:
            with naming_missing_packages(one.shown):
                sink = one.kind.open(one.destination, setting)
            opened.callback(sink.close)
            sinks.append(sink)
        opened.pop_all()
        return sinks


def outlives_restart(destination: str) -> bool:
    """Whether a run may be started again and again with it, and nothing is refused or lost.

    A file or folder of one name belongs to the first run alone; with ``%t`` in the name every run
    has its own.

    Raises:
        OutputError: No sink serves this destination.

    Example:
        >>> [outlives_restart(one) for one in ("out.mp4", "out-%t.mp4", "web://:8080")]
        [False, True, True]
    """
    return _wanted(destination).path is None or TIME in destination


def check_outlives_restart(destinations: Sequence[str]) -> None:
    """Refuse what a service could use once; see :func:`outlives_restart`.

    Raises:
        OutputError: One is a file or folder without ``%t`` in its name, or no sink serves it.
    """
    for destination in destinations:
        if outlives_restart(destination):
            continue
        path = _wanted(destination).path
        suffix = path.suffix if path is not None else ""
        whole = _head(destination).rstrip("/")
        end = "/" if destination.endswith("/") else ""
        raise OutputError(
            f"the sink '{destination}' belongs to one run, and a service may be started again",
            expected=f"{TIME} in its name, which becomes the time of each start",
            cure=f"write '{whole.removesuffix(suffix)}-{TIME}{suffix}{end}'",
        )


def describe_sinks() -> str:
    """Every kind of sink with its options, as text."""
    kinds = {kind.form: kind for kind in (*SUFFIXES.values(), MASKS, *SCHEMES.values())}
    lines: list[str] = []
    for kind in kinds.values():
        needs = f"; needs {kind.extra}" if kind.extra else ""
        lines.append(f"{kind.form}  {kind.meaning}{needs}")
        lines.extend(describe_keys(kind.keys))
    lines.append(f"{TIME} in the name of a file or folder: when it was opened, UTC 20260131-235959")
    return "\n".join(lines)


def _wanted(destination: str, now: str = TIME) -> _Wanted:
    _refuse_mistyped(destination)
    scheme, separator, _ = destination.partition("://")
    if not separator:
        path = _path(destination.replace(TIME, now))
        folder = destination.endswith("/") or path.is_dir() or not path.suffix
        kind = MASKS if folder else _kind_of_file(destination, path.suffix)
        return _Wanted(destination.replace(TIME, now), kind, path)
    kind = _kind_of_scheme(destination, scheme)
    place = unquote(_head(destination).partition("://")[2])
    if not (kind.file and place.endswith(kind.file)):
        return _Wanted(destination, kind, None)
    head, mark, query = destination.partition("?")
    named = head.replace(TIME, now) + mark + query
    return _Wanted(named, kind, _path(place.replace(TIME, now)))


def _path(written: str) -> Path:
    """A path that a file may have, whether there is one or not."""
    path = Path(written)
    try:
        path.resolve().exists()
    except (OSError, RuntimeError, ValueError) as err:  # too long, links in a circle, a NUL
        reason = err.strerror if isinstance(err, OSError) else None
        raise OutputError(
            f"cannot write to '{written}'", got=reason or str(err), cure="choose another name"
        ) from err
    return path


def _kind_of_file(destination: str, suffix: str) -> SinkKind:
    kind = SUFFIXES.get(suffix.lower())
    if kind is not None:
        return kind
    schemes = [name for name, one in SCHEMES.items() if one.file == suffix.lower()]
    raise OutputError(
        f"cannot tell what to write to '{destination}'",
        expected=f"{', '.join(SUFFIXES)} or a folder",
        got=f"the suffix '{suffix}'",
        cure=f"write '{schemes[0]}://{destination}'"
        if schemes
        else f"for a folder of masks write '{destination}/'; {_SEE}",
    )


def _kind_of_scheme(destination: str, scheme: str) -> SinkKind:
    kind = SCHEMES.get(scheme.lower())
    if kind is not None:
        return kind
    path = unquote(_head(destination).partition("://")[2])
    raise OutputError(
        f"cannot tell what to write to '{_head(destination)}'",
        expected=f"{', '.join(f'{name}://' for name in SCHEMES)}, a file or a folder",
        got=f"{scheme}://",
        cure=f"write the path alone: '{path}'"
        if scheme.lower() == "file"
        else f"a file or a folder is written as its path alone; {_SEE}",
    )


def _refuse_mistyped(destination: str) -> None:
    """Refuse what would become a folder of masks by mistake."""
    if not destination.strip():
        raise OutputError(
            "a sink without a name", expected="a file, a folder or SCHEME://...", cure=_SEE
        )
    scheme, _, rest = destination.partition(":")
    kind = SCHEMES.get(scheme.lower())
    if kind is None or rest.startswith("//"):
        return
    head = _head(rest)
    meant = f"{scheme.lower()}://{':' if head.isdigit() else ''}{head}" if head else kind.form
    raise OutputError(
        f"the sink '{_head(destination)}' lacks its slashes",
        expected=kind.form,
        cure=f"write '{meant}', or './{_head(destination)}/' for a folder of that name",
    )


def _refuse_repeated(wanted: Sequence[_Wanted]) -> None:
    seen: set[Path | str] = set()
    for one in wanted:
        if one.path is None and _head(one.destination).rstrip("/").endswith(":0"):
            continue  # any free port: another one each time
        place = one.path.resolve() if one.path is not None else one.destination
        if place in seen:
            raise OutputError(f"'{one.shown}' is named twice", cure="name every sink once")
        seen.add(place)


def _refuse_played(one: _Wanted, reads: Sequence[Path]) -> None:
    if one.path is None:
        return
    written = one.path.resolve()
    for played in reads:
        if played.resolve() in (written, *written.parents) or _is_one_file(played, written):
            raise OutputError(
                f"the sink '{one.shown}' would write into what is being played",
                got=f"'{played}'",
                cure="name another file or folder",
            )


def _is_one_file(one: Path, other: Path) -> bool:
    """Whether two names, which may be hard links, lead to one file."""
    with suppress(OSError):  # where one does not exist yet
        return one.samefile(other)
    return False


def _head(destination: str) -> str:
    return destination.partition("?")[0]


def _video(destination: str, setting: SinkSetting) -> Sink:
    return OverlayVideo(Path(destination), setting.fps)


def _masks(destination: str, setting: SinkSetting) -> Sink:
    return MaskFolder(Path(destination))


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
        drift=setting.drift,
        note=setting.note,
    )


def _rerun(destination: str, setting: SinkSetting) -> Sink:
    from .rerun import open_rerun

    sink = open_rerun(destination, note=setting.note)
    return Beside(sink) if sink.live else sink


def _window(destination: str, setting: SinkSetting) -> Sink:
    from .window import open_window

    return Beside(open_window(destination))


def _ros2(destination: str, setting: SinkSetting) -> Sink:
    from .ros2 import open_ros2

    return Beside(open_ros2(destination))


#: What is neither a file nor a scheme.
MASKS = SinkKind(_masks, "NAME/", "a folder of masks, 8-bit PNG, one per frame")

#: Files, by suffix.
SUFFIXES: dict[str, SinkKind] = {
    **dict.fromkeys(CODECS, SinkKind(_video, "OUT.mp4|.mkv|.avi", "a video of overlays")),
    ".jsonl": SinkKind(_records, "OUT.jsonl", "a line of JSON per frame: times, drops, region"),
    ".mcap": SinkKind(
        _mcap,
        "OUT.mcap",
        "a ROS 2 recording of colour, depth and saliency",
        extra="edge-fusion[rosbag]",
    ),
}

#: What is named by a scheme.
SCHEMES: dict[str, SinkKind] = {
    "web": SinkKind(
        _web,
        "web://[HOST][:PORT]",
        "a live page with pictures, figures and /healthz; loopback, port 8080",
        WEB_KEYS,
    ),
    "rerun": SinkKind(
        _rerun,
        "rerun://[HOST][:PORT] or rerun://OUT.rrd",
        "the Rerun viewer, live; or a recording of every frame",
        RERUN_KEYS,
        extra="edge-fusion[rerun]",
        file=".rrd",
    ),
    "window": SinkKind(_window, "window://", "a window, where OpenCV can open one"),
    "ros2": SinkKind(
        _ros2,
        "ros2:///TOPIC",
        "saliency as sensor_msgs/Image on a topic",
        ROS2_KEYS,
        extra="a sourced ROS 2",
    ),
}
