"""A systemd unit that keeps a stream running on a device, each line with its reason."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edge_fusion.errors import InputError

from .source.credentials import has_variables, shows_credentials

_PLAIN = re.compile(r"[A-Za-z0-9_@%+=:,./-]+")
_ACCOUNT = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,30}\$?|\d{1,10}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}


@dataclass(frozen=True, slots=True)
class ServiceOptions:
    """How a stream is to run as a service.

    Attributes:
        description: What ``systemctl`` calls it.
        user: Who it runs as; None: root, which no stream needs.
        groups: More groups of that user: ``video`` opens the GPU and cameras of a Jetson.  One that
            the system does not have keeps the service from starting.
        folder: Where relative paths of the command begin; None: ``/``.
        writable: Folders in homes that sinks write to; they must exist when the service starts.
        environment: Variables by name.
        secrets: Where the variables are that the command names as ``${NAME}``.
        watchdog_s: Seconds without a sign of life after which it is restarted.
        start_s: Seconds until the first frame: the engine is loaded and the camera opened in them.
        restart_s: Seconds before it is started again.

    Raises:
        InputError: A time is not above zero, or a name or path is none that systemd takes.
    """

    description: str = "RGB-D saliency stream of edge-fusion"
    user: str | None = None
    groups: Sequence[str] = ("video",)
    folder: Path | None = None
    writable: Sequence[Path] = ()
    environment: dict[str, str] = field(default_factory=dict)
    secrets: Path = Path("/etc/edge-fusion.env")
    watchdog_s: float = 30.0
    start_s: float = 300.0
    restart_s: float = 5.0

    def __post_init__(self) -> None:
        for name in ("watchdog_s", "start_s", "restart_s"):
            if not getattr(self, name) > 0:
                raise InputError(
                    f"service option {name}", expected="above 0", got=f"{getattr(self, name)}"
                )
        for account in (*([self.user] if self.user is not None else []), *self.groups):
            if not _ACCOUNT.fullmatch(account):
                raise InputError("a user or group", expected="its name or number", got=account)
        for variable in self.environment:
            if not _VARIABLE.fullmatch(variable):
                raise InputError("an environment variable", expected="a name", got=variable)
        for path in (*([self.folder] if self.folder is not None else []), *self.writable):
            _absolute("a folder of the service", str(path))
        _absolute("the file of a service's variables", str(self.secrets))


def unit_file(command: Sequence[str], options: ServiceOptions | None = None) -> str:
    """The text of a systemd unit, for ``/etc/systemd/system/NAME.service``.

    Everybody can read a unit, so no password may stand in it.  What the command names as
    ``${NAME}`` the program itself looks up, in variables that only root can read.

    Args:
        command: The program by its whole path, and its arguments; systemd gets exactly these.
        options: How it is to run.

    Raises:
        InputError: The program is not named by its whole path, or holds a control character; or an
            argument shows a password or token.

    Example:
        >>> print(unit_file(["/opt/edge-fusion/bin/edge-fusion", "run", "b 1"]).splitlines()[-1])
        WantedBy=multi-user.target
    """
    options = options or ServiceOptions()
    if not command:
        raise InputError("the command of a service", expected="a program", got="nothing")
    program, *arguments = command
    _absolute("the program of a service", program)
    if any(map(shows_credentials, arguments)):
        raise InputError(
            "a unit is readable by everybody, and this command shows a password or token",
            cure=f"write NAME=... into {options.secrets} (chmod 600), and '${{NAME}}' in single "
            "quotes into the command instead",
        )
    secrets = str(options.secrets) if any(map(has_variables, arguments)) else None
    values = {
        "description": _one_line(options.description),
        "exec": " ".join([_word(program), *(_argument(one) for one in arguments)]),
        "who": _settings(("User", options.user), ("SupplementaryGroups", " ".join(options.groups))),
        "folder": f"{options.folder or '/'}".replace("%", "%%"),
        "environment": _settings(
            *(("Environment", _word(f"{k}={v}")) for k, v in options.environment.items())
        ),
        "secrets": _secrets(secrets),
        "writable": _settings(*(("ReadWritePaths", _word(str(one))) for one in options.writable)),
    }
    times = {name: f"{getattr(options, name):g}" for name in ("watchdog_s", "start_s", "restart_s")}
    filled = _UNIT.format(**values, **times)
    return re.sub(r"\n{3,}", "\n\n", filled)


def _absolute(what: str, path: str) -> None:
    if not path.startswith("/"):
        raise InputError(what, expected="a whole path, from /", got=f"'{path}'")
    # At the end of a line, systemd drops blanks and takes a backslash for a continuation.
    if not path.isprintable() or path.endswith((" ", "\\")):
        raise InputError(
            what,
            expected="no control characters, and neither a blank nor a backslash at the end",
            got=repr(path),
            cure="give it another name",
        )


def _settings(*pairs: tuple[str, str | None]) -> str:
    return "\n".join(f"{name}={value}" for name, value in pairs if value)


def _secrets(path: str | None) -> str:
    return f"{_SECRETS}\nEnvironmentFile={path.replace('%', '%%')}" if path else ""


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("%", "%%").rstrip("\\")


def _argument(text: str) -> str:
    """One argument after the program: a dollar would begin a variable there."""
    return _word(text.replace("$", "$$")) if text != ";" else r"\;"


def _word(text: str) -> str:
    """One word as systemd splits them: quoted where needed, and ``%`` no specifier."""
    if _PLAIN.fullmatch(text):
        return text.replace("%", "%%")
    escaped = "".join(_ESCAPES.get(one, one) for one in text.replace("%", "%%"))
    # Control characters, and bytes of a file name that are no UTF-8.
    raw = re.sub("[\x01-\x1f\x7f\udc80-\udcff]", lambda c: f"\\x{ord(c[0]) & 255:02x}", escaped)
    return f'"{raw}"'


_SECRETS = "# Passwords and tokens, NAME=VALUE; for root alone: chmod 600."

_UNIT = """\
[Unit]
Description={description}
# An engine belongs to the power mode it was built in, so the mode is set first; the daemon serves
# CSI cameras. Where a machine lacks one of them, its name is passed over.
After=nvpmodel.service nvargus-daemon.service network.target
# Started again for as long as it takes: nobody may be there to do it by hand when the camera that
# was missing all night is plugged in.
StartLimitIntervalSec=0

[Service]
# Counts as started with its first frame.
Type=notify
NotifyAccess=main
ExecStart={exec}
WorkingDirectory={folder}
{who}
# Lines reach the journal as they are written.
Environment=PYTHONUNBUFFERED=1
{environment}
{secrets}

# Loading the engine and opening the camera take this long at most.
TimeoutStartSec={start_s}
# A stream that gives no sign of life for so long is started again. It is asked to end first, so
# that its files are finished, and killed where it does not listen.
WatchdogSec={watchdog_s}
WatchdogSignal=SIGTERM
# A lost camera may end the stream with an error; systemctl stop does not, nor does an interrupt
# while the engine is loaded.
Restart=on-failure
SuccessExitStatus=130
# Lets a camera that was plugged in again settle.
RestartSec={restart_s}
# The stream ends within two seconds of SIGTERM; a long recording on a slow card may take longer to
# finish.
KillSignal=SIGTERM
TimeoutStopSec=20

# No way to more rights than it starts with.
NoNewPrivileges=yes
RestrictSUIDSGID=yes
LockPersonality=yes
RestrictNamespaces=yes
# Programs, settings and homes are only read, but for the folders that sinks write to.
ProtectSystem=full
ProtectHome=read-only
{writable}
# What CUDA compiles for this GPU is kept here, since the home is read-only.
CacheDirectory=edge-fusion
Environment=CUDA_CACHE_PATH=%C/edge-fusion
# Kernel modules, the kernel's log and control groups are no concern of a stream.
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectHostname=yes
# Network cameras and viewers; netlink tells USB cameras' drivers what is plugged in.
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
SystemCallArchitectures=native
# Left off on purpose:
# PrivateDevices and DeviceAllow would hide cameras and the GPU, and so would ProtectClock, which
# implies DeviceAllow; PrivateTmp would hide /tmp/argus_socket, where CSI cameras are served;
# ProtectKernelTunables would make /sys read-only, where drivers of USB cameras write;
# MemoryDenyWriteExecute would stop CUDA from compiling kernels.

[Install]
WantedBy=multi-user.target
"""
