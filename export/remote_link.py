"""A device over OpenSSH's own client: keys alone, known host keys alone, nothing asked.

Scripts travel on standard input to ``sh -s``, so that no login shell ever sees our quoting.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from edge_fusion.errors import InputError, LinkLostError, MissingDependencyError, RemoteError

T = TypeVar("T")

#: Seconds until a host that does not answer is given up; and until a silent link counts as lost.
CONNECT_S, SILENCE_S = 15, 60
_SSH_FAILED = 255
_CHUNK = 1 << 16

_HOST = re.compile(
    r"ssh://(?:(?P<user>[A-Za-z_][A-Za-z0-9_.-]{0,63})@)?"
    r"(?P<name>[A-Za-z0-9][A-Za-z0-9_.-]{0,252}|\[[0-9A-Fa-f:]{2,45}\])"
    r"(?::(?P<port>[0-9]{1,5}))?/?"
)


@dataclass(frozen=True, slots=True)
class SshHost:
    """Where a device is reached.

    Attributes:
        name: Host name, an alias of ``~/.ssh/config``, or an address.
        user: Login name; None leaves it to ``~/.ssh/config``.
        port: None leaves it to ``~/.ssh/config``, which means 22.
    """

    name: str
    user: str | None = None
    port: int | None = None

    def __str__(self) -> str:
        """As it was written: ``ssh://user@host:port``."""
        port = f":{self.port}" if self.port else ""
        return f"ssh://{self.at(self.copy_name)}{port}"

    @property
    def copy_name(self) -> str:
        """The name as ``sftp`` and ``rsync`` want it: an IPv6 address in brackets."""
        return f"[{self.name}]" if ":" in self.name else self.name

    @property
    def known_name(self) -> str:
        """The name under which ``known_hosts`` lists it."""
        return f"[{self.name}]:{self.port}" if self.port not in (None, 22) else self.name

    def at(self, name: str) -> str:
        """``user@name``, or the name alone."""
        return f"{self.user}@{name}" if self.user else name


def parse_host(text: str) -> SshHost:
    """Read ``ssh://[user@]host[:port]``.

    Raises:
        InputError: It is of another form; names that start with ``-``, spaces and control
            characters are refused, since a program might take them for options.

    Example:
        >>> parse_host("ssh://ubuntu@orin.local:2222")
        SshHost(name='orin.local', user='ubuntu', port=2222)
    """
    found = _HOST.fullmatch(text)
    port = int(found["port"]) if found and found["port"] else None
    if found is None or (port is not None and not 1 <= port <= 65535):
        raise InputError(
            "the device's address",
            expected="ssh://user@host or ssh://user@host:port",
            got=repr(text),
        )
    return SshHost(found["name"].strip("[]"), found["user"], port)


@dataclass(frozen=True, slots=True)
class _Failure:
    """What OpenSSH says, what that means and what to do; ``lost`` ones are worth another try."""

    pattern: str
    what: str
    cure: str
    lost: bool = False


#: Read from the top: OpenSSH says several things at once, the first is the reason.
_FAILURES = (
    _Failure(
        r"HOST IDENTIFICATION HAS CHANGED",
        "the host key of {host} is not the known one: the device was set up anew, or something "
        "else answers in its place",
        "if it was set up anew: ssh-keygen -R '{known}', then connect once by hand and compare "
        "the fingerprint",
    ),
    _Failure(
        r"host key is known for|Host key verification failed|authenticity of host",
        "the host key of {host} is not known here",
        "compare its fingerprint (on the device: ssh-keygen -lf "
        "/etc/ssh/ssh_host_ed25519_key.pub) and add it by connecting once by hand: {by_hand}",
    ),
    _Failure(
        r"Permission denied \(|Too many authentication failures",
        "{host} does not accept our key",
        "give it yours: {copy_id}; keys with a passphrase must be in ssh-agent (ssh-add)",
    ),
    _Failure(
        r"Could not resolve hostname",
        "{host} has no address",
        "is the name right, and is the device in this network?",
    ),
    _Failure(
        r"No space left on device|[Dd]isk quota exceeded",
        "the disk of {host} is full",
        "free some space there",
    ),
    _Failure(
        r"Bad configuration option|Can't open user config file|Bad owner or permissions",
        "ssh refuses its configuration",
        "mend the file it names",
    ),
    _Failure(r"Unable to negotiate|no matching", "{host} and our ssh have no method in common", ""),
    _Failure(
        r"Connection refused",
        "{host} is there, but no SSH server answers",
        "is the port right, and is openssh-server installed and running there?",
        lost=True,
    ),
    _Failure(
        r"timed out|No route to host|Network is unreachable|Host is down",
        "{host} cannot be reached",
        "is it switched on, and is the address right?",
        lost=True,
    ),
)


@dataclass(frozen=True, slots=True)
class Link:
    """How commands reach a device; holds no connection, so that nothing needs mending.

    Attributes:
        host: The device.
        config: A configuration file for ssh instead of ``~/.ssh/config``.
    """

    host: SshHost
    config: Path | None = None

    def options(self) -> list[str]:
        """Options that ``ssh`` and ``sftp`` share; they win over the configuration file."""
        settings = {
            "BatchMode": "yes",
            "PasswordAuthentication": "no",
            "KbdInteractiveAuthentication": "no",
            "StrictHostKeyChecking": "yes",
            "ForwardAgent": "no",
            "ForwardX11": "no",
            "PermitLocalCommand": "no",
            "ClearAllForwardings": "yes",
            "ConnectTimeout": str(CONNECT_S),
            "ServerAliveInterval": str(SILENCE_S // 4),
            "ServerAliveCountMax": "4",
            "LogLevel": "ERROR",
        }
        if self.host.port is not None:
            settings["Port"] = str(self.host.port)
        config = ["-F", str(self.config.resolve())] if self.config else []
        return [*config, *(f"-o{name}={value}" for name, value in settings.items())]

    def run(self, script: str, what: str) -> str:
        """Run a shell script there.

        Args:
            script: For a POSIX shell; nothing in it may read standard input.
            what: What it does, for the message if it fails.

        Returns:
            Its standard output.

        Raises:
            LinkLostError: The link broke, or could not be made for now.
            RemoteError: The host refuses us, or the script failed.
        """
        with _needing("ssh"):
            done = subprocess.run(self._shell(), input=script.encode(), capture_output=True)
        self.check(done.returncode, done.stderr, what)
        return done.stdout.decode("utf-8", errors="replace")

    def stream(self, script: str, what: str) -> Iterator[bytes]:
        """Run a shell script there and give its standard output as it comes.

        Raises:
            LinkLostError: The link broke, or could not be made for now.
            RemoteError: The host refuses us, or the script failed.
        """
        with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as complaints:
            given.write(script.encode())
            given.seek(0)
            with (
                _needing("ssh"),
                subprocess.Popen(
                    self._shell(), stdin=given, stdout=subprocess.PIPE, stderr=complaints
                ) as child,
            ):
                assert child.stdout is not None
                try:
                    # what has come, without waiting for a full buffer
                    while chunk := os.read(child.stdout.fileno(), _CHUNK):
                        yield chunk
                except BaseException:  # whoever reads us has had enough
                    child.terminate()
                    raise
            complaints.seek(0)
            self.check(child.returncode, complaints.read(), what)

    def copy(self, command: list[str], what: str, batch: str = "", *, folder: Path) -> None:
        """Run ``sftp`` or ``rsync`` over this link, in a folder of this machine.

        Raises:
            LinkLostError: The link broke.
            RemoteError: It failed otherwise.
        """
        with _needing(command[0]):
            done = subprocess.run(command, input=batch.encode(), capture_output=True, cwd=folder)
        self.check(done.returncode, done.stderr, what)

    def check(self, status: int, complaint: bytes, what: str) -> None:
        """Turn a child's exit status and standard error into the error they mean.

        Raises:
            LinkLostError: The link broke, or could not be made for now.
            RemoteError: Anything else but success.
        """
        if status == 0:
            return
        text = plain(complaint.decode("utf-8", errors="replace"))
        for failure in _FAILURES:
            if re.search(failure.pattern, text):
                raise self._error(failure, text)
        last = next((line for line in reversed(text.splitlines()) if line.strip()), "")
        if status == _SSH_FAILED or status < 0 or _BROKEN.search(text):
            raise LinkLostError(
                f"the link to {self.host} broke while {what}",
                got=last or f"exit status {status}",
                cure=RESUME,
            )
        raise RemoteError(f"{what} failed on {self.host}", got=last or f"exit status {status}")

    def _error(self, failure: _Failure, text: str) -> RemoteError:
        port = f" -p {self.host.port}" if self.host.port else ""
        target = shlex.quote(self.host.at(self.host.name))
        words = {
            "host": str(self.host),
            "known": self.host.known_name,
            "by_hand": f"ssh{port} {target}",
            "copy_id": f"ssh-copy-id{port} {target}",
        }
        kind = LinkLostError if failure.lost else RemoteError
        line = next(line for line in text.splitlines() if re.search(failure.pattern, line))
        return kind(
            failure.what.format(**words), got=line.strip(" @"), cure=failure.cure.format(**words)
        )

    def _shell(self) -> list[str]:
        return ["ssh", "-T", *self.options(), "--", self.host.at(self.host.name), "exec sh -s"]


RESUME = "run the same command again: it goes on where it stopped, and finds a build that runs"
_BROKEN = re.compile(
    r"Connection (?:to \S+ )?(?:closed|reset|lost)|[Bb]roken pipe|not responding|"
    r"connection unexpectedly closed|error in rsync protocol data stream"
)


@dataclass(slots=True)
class Patience:
    """How long a broken link is tried again.

    Attributes:
        limit_s: Seconds without any success after which it is given up; 0 never tries again.
        notice: Told why we wait.
    """

    limit_s: float
    notice: Callable[[str], None]
    _since: float | None = field(default=None, init=False)
    _delay: float = field(default=1.0, init=False)

    def succeed(self) -> None:
        """Something came through: the clock starts anew."""
        self._since, self._delay = None, 1.0

    def wait(self, lost: LinkLostError) -> None:
        """Wait a while before the next try.

        Raises:
            LinkLostError: The one given, once the limit is reached.
        """
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        if now - self._since + self._delay > self.limit_s:
            raise lost
        self.notice(f"{lost.what}; trying again in {self._delay:g} s")
        time.sleep(self._delay)
        self._delay = min(2 * self._delay, 15.0)

    def insist(self, action: Callable[[], T]) -> T:
        """Do what can be done twice, again and again while the link breaks."""
        while True:
            try:
                result = action()
            except LinkLostError as lost:
                self.wait(lost)
            else:
                self.succeed()
                return result


_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")


def plain(text: str) -> str:
    r"""Text from a device without what could steer a terminal; line breaks stay.

    Example:
        >>> plain("\x1b[31mred\x1b[0m\r\a and more")
        'red and more'
    """
    bare = _ESCAPE.sub("", text)
    return "".join(char for char in bare if char in "\n\t" or char.isprintable())


@contextmanager
def _needing(program: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as err:
        raise MissingDependencyError(
            f"the program {program}",
            needed_for="building on a device",
            cure="install OpenSSH's client: sudo apt install openssh-client",
        ) from err
