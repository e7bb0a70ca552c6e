"""The far side of the remote tests: a real SSH server on loopback, with keys of its own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

SERVER = """
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
AuthorizedKeysFile "{folder}/user_key.pub"
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
MaxStartups 100
Subsystem sftp internal-sftp
"""

CLIENT = """
Host *
  IdentityFile "{identity}"
  IdentitiesOnly yes
  IdentityAgent none
  UserKnownHostsFile "{known}"
  GlobalKnownHostsFile /dev/null
"""


@dataclass(frozen=True)
class FarSide:
    """A running server and what a client needs to reach it."""

    folder: Path
    port: int
    user: str

    @property
    def url(self) -> str:
        return f"ssh://{self.user}@127.0.0.1:{self.port}"

    def known_hosts_line(self, key: str = "host_key") -> str:
        public = (self.folder / f"{key}.pub").read_text()
        return f"[127.0.0.1]:{self.port} {public}"

    def config(self, folder: Path, known: str | None = None, identity: str = "user_key") -> Path:
        """A client configuration that knows the server by ``known``, its true key by default."""
        line = self.known_hosts_line() if known is None else known
        (folder / "known hosts").write_text(line)
        path = folder / "ssh config"
        known_path, identity_path = folder / "known hosts", self.folder / identity
        path.write_text(CLIENT.format(identity=identity_path, known=known_path))
        path.chmod(0o600)
        return path


@contextmanager
def far_side(folder: Path) -> Iterator[FarSide]:
    """Start a server; skips the test where there is none to start."""
    server = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if server is None or shutil.which("ssh") is None or shutil.which("ssh-keygen") is None:
        pytest.skip("no SSH server here: apt-get install openssh-server")
    for name in ("host_key", "other_host_key", "user_key", "other_user_key"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(command, check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where it locks itself in
    (folder / "sshd_config").write_text(SERVER.format(port=port, folder=folder))
    log = (folder / "sshd.log").open("wb")
    command = [server, "-D", "-e", "-f", str(folder / "sshd_config")]
    with log, subprocess.Popen(command, stdout=log, stderr=log) as child:
        try:
            _wait(child, port, folder / "sshd.log")
            user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True)
            yield FarSide(folder, port, user.stdout.strip())
        finally:
            child.terminate()


def _wait(child: subprocess.Popen[bytes], port: int, log: Path) -> None:
    for _ in range(100):
        if child.poll() is not None:
            pytest.skip(f"the SSH server does not start here: {log.read_text().strip()}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError("the SSH server does not answer")


def ssh_children() -> list[int]:
    """The ``ssh`` processes that this process started."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            name, _, rest = (folder / "stat").read_text().partition("(")[2].rpartition(")")
        except OSError:
            continue
        if name == "ssh" and int(rest.split()[1]) == os.getpid():
            found.append(int(folder.name))
    return found
