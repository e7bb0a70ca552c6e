"""What a device is, asked before anything is copied, and whether an engine can be built there."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, ValidationError

from edge_fusion.bundle import Bundle
from edge_fusion.engine import EngineOptions, EnginePrecision, engine_source
from edge_fusion.errors import EdgeFusionError, RemoteError, TargetError
from edge_fusion.spec import Record, first_problem
from edge_fusion.target import Target, flavour_of, parse_target

from .remote_link import Link, plain
from .trtexec import trtexec_command

#: Room for the virtual environment with numpy, OpenCV and the rest, and for a plan.
ENVIRONMENT_BYTES = 600 << 20
OLDEST_PYTHON = (3, 10)
ARCHITECTURES = ("aarch64", "x86_64")

_MARK, _NONE = "edge-fusion-answer:", "edge-fusion-no-python"
_RELEASE = re.compile(r"R(\d{1,4})\s*\(release\),\s*REVISION:\s*(\d{1,4}(?:\.\d{1,4})*)")
_POWER_MODE = re.compile(r"pmode:(\d{1,9})\b")
_LAST_TOO_OLD = 35  # L4T's major version under JetPack 5
_FIRST_NUMPY_2 = 38  # under JetPack 7; what JetPack 6 brings is built against numpy 1

#: Runs under Python 3.6 already: an old device must be able to say how old it is.
_PROBE = r"""
import json, os, platform, shutil, sys
def read(path):
    try:
        with open(path, "rb") as file:
            return file.read(4096).decode("utf-8", "replace").strip("\0\n ")
    except OSError:
        return ""
def has(name):
    try:
        import importlib.util
        return importlib.util.find_spec(name) is not None
    except Exception:
        return False
root = os.path.join(os.path.expanduser("~"), sys.argv[1])
there = root
while not os.path.isdir(there):
    there = os.path.dirname(there)
facts = dict(
    root=root,
    python=platform.python_version(),
    architecture=platform.machine(),
    release=read("/etc/nv_tegra_release").split("\n")[0],
    model=read("/proc/device-tree/model"),
    free_bytes=shutil.disk_usage(there).free,
    writable=os.access(there, os.W_OK),
    rsync=shutil.which("rsync") is not None,
    cv2=has("cv2"),
    venv=has("venv") and has("ensurepip"),
    nvpmodel=read("/var/lib/nvpmodel/status"),
    installed=os.path.isfile(os.path.join(
        root, "venv-%d.%d" % sys.version_info[:2], "edge-fusion.installed")),
    tensorrt=None,
    tensorrt_problem="",
)
try:
    import tensorrt
    facts["tensorrt"] = str(tensorrt.__version__)
except BaseException as error:
    facts["tensorrt_problem"] = "%s: %s" % (type(error).__name__, error)
print("\n" + sys.argv[2] + json.dumps(facts))
"""


class DeviceFacts(Record):
    """What the device says of itself.

    Attributes:
        root: Where everything of ours goes there, absolute.
        python: Version of its Python.
        architecture: Such as ``aarch64``.
        release: The first line of ``/etc/nv_tegra_release``, empty where there is none.
        model: The board in words, empty where there is no device tree.
        nvpmodel: What the power mode's daemon stored, empty where there is none.
        free_bytes: Free disk space at ``root``.
        writable: Whether we may write there.
        rsync: Whether it has rsync.
        cv2: Whether its Python has OpenCV.
        venv: Whether its Python can make virtual environments.
        installed: Whether our virtual environment for its Python is there.
        tensorrt: TensorRT's version, None where it cannot be imported.
        tensorrt_problem: Why not.
    """

    root: str
    python: str
    architecture: str
    release: str
    model: str
    nvpmodel: str
    free_bytes: int
    writable: bool
    rsync: bool
    cv2: bool
    venv: bool
    installed: bool
    tensorrt: Annotated[str, Field(pattern=r"^\d{1,3}\.[\w.+]+$")] | None
    tensorrt_problem: str

    @property
    def l4t(self) -> str | None:
        """The L4T release, such as ``36.4.3``; None where this is no Jetson."""
        found = _RELEASE.search(self.release)
        return f"{found[1]}.{found[2]}" if found else None

    @property
    def l4t_major(self) -> int | None:
        """The first number of the L4T release."""
        return int(self.l4t.partition(".")[0]) if self.l4t else None

    @property
    def power_mode(self) -> int | None:
        """The number of the power mode it is in; None where that is not told."""
        found = _POWER_MODE.search(self.nvpmodel)
        return int(found[1]) if found else None

    @property
    def environment(self) -> str:
        """Our virtual environment's folder: no other Python could use its packages."""
        return f"venv-{'.'.join(map(str, self.python_version))}"

    @property
    def python_version(self) -> tuple[int, ...]:
        """The Python's version, comparable."""
        return tuple(int(part) for part in re.findall(r"\d+", self.python)[:2])

    @property
    def requirements(self) -> tuple[str, ...]:
        """What pip must hold to there besides our own requirements."""
        major = self.l4t_major
        bound = major is not None and major < _FIRST_NUMPY_2
        return ("numpy>=1.26,<2",) if bound else ()

    @property
    def extras(self) -> str:
        """Our extras to install there: OpenCV only where the system has none of its own."""
        return "" if self.cv2 else "[opencv]"

    def describe(self) -> str:
        """One line for people."""
        parts = (
            self.model or self.architecture,
            f"L4T {self.l4t}" if self.l4t else "",
            f"Python {self.python}",
            f"TensorRT {self.tensorrt}" if self.tensorrt else "",
        )
        return plain(", ".join(part for part in parts if part))


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be built there.

    Attributes:
        bundle: The bundle.
        precision: The engine's precision.
        copy_bytes: Size of what goes there.
        package: Whether our package is to be installed there.
    """

    bundle: Bundle
    precision: EnginePrecision
    copy_bytes: int
    package: bool = True


def ask(link: Link, python: str, program: str, what: str, *arguments: str) -> Any:
    """Run a Python program on the device and read the JSON it answers with.

    A login script there may print what it likes: only the line with our mark counts.

    Args:
        link: The device.
        python: Its Python.
        program: Prints ``sys.argv[-1]`` followed by JSON, on a line of its own.
        what: What it does, for messages.
        arguments: Its arguments, before the mark.

    Raises:
        LinkLostError: The link broke.
        RemoteError: There is no such Python, or the program failed or gave no answer.
    """
    command = shlex.join([python, "-c", program, *arguments, _MARK])
    there = f"command -v {shlex.quote(python)} > /dev/null 2>&1"
    output = link.run(f"if {there}; then {command} < /dev/null; else echo {_NONE}; fi\n", what)
    lines = output.splitlines()
    if _NONE in lines:
        raise RemoteError(
            f"{link.host} has no {python}",
            cure="install it (sudo apt install python3), or name the one that TensorRT is made "
            "for with --python",
        )
    answers = [line for line in lines if line.startswith(_MARK)]
    try:
        return json.loads(answers[-1][len(_MARK) :])
    except (IndexError, ValueError) as err:
        raise RemoteError(f"{what} failed on {link.host}", got="an answer without JSON") from err


def probe(link: Link, python: str, directory: str) -> DeviceFacts:
    """Ask the device what it is.

    Args:
        link: The device.
        python: Its Python: the one TensorRT's binding is made for.
        directory: Where our files shall go there, absolute or below the home folder.

    Raises:
        LinkLostError: It cannot be reached now.
        RemoteError: It refuses us, or has no such Python.
    """
    try:
        return DeviceFacts.model_validate(ask(link, python, _PROBE, "probing", directory))
    except ValidationError as err:
        raise RemoteError(f"probing failed on {link.host}", got=first_problem(err)) from err


def check_room(link: Link, facts: DeviceFacts, wish: Wish) -> None:
    """Refuse a device that has no place for what will be copied.

    Raises:
        RemoteError: Too little disk space, or a folder that may not be written.
    """
    if not facts.writable:
        raise RemoteError(
            f"{facts.root} on {link.host} may not be written",
            cure="choose another folder with --directory",
        )
    needed = 2 * wish.copy_bytes
    if wish.package and not facts.installed:
        needed += ENVIRONMENT_BYTES
    if facts.free_bytes < needed:
        raise RemoteError(
            f"too little disk space on {link.host} in {facts.root}",
            expected=f"{needed >> 20} MiB free",
            got=f"{facts.free_bytes >> 20} MiB",
            cure="free some, or choose a folder on another disk with --directory",
        )


def check_fit(link: Link, facts: DeviceFacts, wish: Wish) -> None:
    """Refuse a device that cannot build this engine, before anything is copied.

    Raises:
        RemoteError: The message names what is missing and how to get it.
        EngineError: The bundle has no graph for the device's TensorRT.
    """
    major = facts.l4t_major
    if major is not None and major <= _LAST_TOO_OLD:
        raise _too_old_jetpack(link, facts, wish)
    if facts.architecture not in ARCHITECTURES:
        raise RemoteError(
            f"{link.host} has an architecture that TensorRT does not run on",
            expected=" or ".join(ARCHITECTURES),
            got=plain(facts.architecture),
            cure="is this the device you meant?",
        )
    if facts.python_version < OLDEST_PYTHON:
        raise RemoteError(
            f"the Python of {link.host} is too old",
            expected=f"Python {'.'.join(map(str, OLDEST_PYTHON))} or newer",
            got=plain(facts.python),
            cure="name a newer one for which TensorRT is installed with --python",
        )
    if facts.tensorrt is None:
        raise _no_tensorrt(link, facts)
    if not facts.venv:
        raise RemoteError(
            f"the Python of {link.host} cannot make virtual environments",
            cure="install what it lacks, there: sudo apt install python3-venv",
        )
    flavour = flavour_of((int(facts.tensorrt.partition(".")[0]),))
    engine_source(wish.bundle, EngineOptions(precision=wish.precision, flavour=flavour))


def _no_tensorrt(link: Link, facts: DeviceFacts) -> RemoteError:
    cure = (
        "install JetPack's own, there: sudo apt install nvidia-jetpack (or python3-libnvinfer)"
        if facts.l4t
        else "install it for that Python, there: python3 -m pip install tensorrt"
    )
    return RemoteError(
        f"TensorRT is not installed for the Python {plain(facts.python)} of {link.host}",
        got=plain(facts.tensorrt_problem),
        cure=f"{cure}; if it is there for another Python, name that with --python",
    )


def _too_old_jetpack(link: Link, facts: DeviceFacts, wish: Wish) -> RemoteError:
    """JetPack 5 has Python 3.8: no build from here, but the line that builds the same there."""
    try:
        command = trtexec_command(wish.bundle, _jetpack_5(wish.bundle), wish.precision)
        cure = f"copy the bundle there and run in its folder: {command}"
    except EdgeFusionError as err:
        cure = f"trtexec can build there, but {err}"
    return RemoteError(
        f"{link.host} runs L4T {facts.l4t}, whose Python this package does not run on",
        expected="JetPack 6 or newer",
        got=f"Python {plain(facts.python)}",
        cure=cure,
    )


def _jetpack_5(bundle: Bundle) -> Target:
    board = bundle.manifest.target.partition("@")[0]
    try:
        return parse_target(f"{board}@5.1")
    except TargetError:
        return parse_target("agx-xavier@5.1")
