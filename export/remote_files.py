"""Copying to a device: only what is not there yet, and on from where a lost link broke off."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_fusion.errors import RemoteError
from edge_fusion.files import sha256_file

from .remote_link import Link, Patience, plain
from .remote_probe import DeviceFacts, ask

_ATTEMPTS = 2  # a copy that went on from foreign bytes is made once more, from the start

#: Makes the folders, and answers with the size of every file that is not as it should be.
_DIFFERING = r"""
import hashlib, json, os, sys
def digest(path):
    found = hashlib.sha256()
    with open(path, "rb") as file:
        for chunk in iter(lambda: file.read(1 << 20), b""):
            found.update(chunk)
    return found.hexdigest()
root, wanted, mark = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
differing = {}
for name, expected in wanted.items():
    path = os.path.join(root, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if os.path.islink(path) or os.path.isdir(path):
        sys.exit("%s is no plain file" % path)
    if not os.path.isfile(path):
        differing[name] = 0
    elif digest(path) != expected:
        differing[name] = os.path.getsize(path)
print("\n" + mark + json.dumps(differing))
"""

Report = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True)
class Device:
    """A device that was reached: how, what it is, and which Python of it we use."""

    link: Link
    facts: DeviceFacts
    python: str

    def path(self, *parts: str) -> str:
        """An absolute path below our folder there."""
        return "/".join((self.facts.root.rstrip("/"), *parts))


def upload(
    device: Device, stage: Path, names: Sequence[str], patience: Patience, report: Report
) -> tuple[str, ...]:
    """Bring files to the device; those whose hash is right there already stay as they are.

    Args:
        device: The device.
        stage: A folder that looks as our folder there shall look; it may hold links.
        names: The files in it, by their names below it.
        patience: How long a broken link is tried again.
        report: Told ``(done, total, detail)`` of the files that are copied.

    Returns:
        Names of what was copied.

    Raises:
        LinkLostError: The link broke for longer than patience lasts.
        RemoteError: Copying failed otherwise, or what arrived is not what was sent.
    """
    hashes = {name: sha256_file(stage / name) for name in names}
    copied: dict[str, None] = {}
    for attempt in range(_ATTEMPTS + 1):
        send = _Send(device, stage, hashes, report, resume=attempt == 0, dry=attempt == _ATTEMPTS)
        pending = patience.insist(send.run)
        if not pending:
            return tuple(copied)
        copied |= dict.fromkeys(pending)
    raise RemoteError(
        f"what arrived on {device.link.host} is not what was sent: {', '.join(pending)}",
        cure="is its disk full or failing? run the same command again",
    )


@dataclass(frozen=True, slots=True)
class _Send:
    """One round: see what differs, and copy that unless ``dry``."""

    device: Device
    stage: Path
    hashes: Mapping[str, str]
    report: Report
    resume: bool
    dry: bool

    def run(self) -> list[str]:
        """Returns what differed when the round began."""
        there = self._differing()
        if there and not self.dry:
            size = sum((self.stage / name).stat().st_size for name in there)
            self.report(0, len(there), f"{len(there)} files, {size / 1e6:.1f} MB")
            both = self.device.facts.rsync and shutil.which("rsync")
            (self._rsync if both else self._sftp)(there)
        return list(there)

    def _differing(self) -> dict[str, int]:
        """Size there of every file that is missing (0) or different, in our order."""
        link, root = self.device.link, self.device.facts.root
        wanted = json.dumps(dict(self.hashes))
        answer = ask(link, self.device.python, _DIFFERING, "comparing files", root, wanted)
        if not isinstance(answer, dict) or not set(answer) <= set(self.hashes):
            raise RemoteError(f"comparing files failed on {link.host}", got=plain(str(answer)))
        return {name: int(answer[name]) for name in self.hashes if name in answer}

    # Both go on with what had arrived when a link broke: rsync compares it, sftp trusts it, and
    # the hash of the whole is checked afterwards.  Both run in our own folder, so that no path of
    # this machine has to be quoted for them.

    def _rsync(self, there: Mapping[str, int]) -> None:
        link = self.device.link
        shell = shlex.join(["ssh", "-T", *link.options()])
        keep = "--partial" if self.resume else "--whole-file"
        flags = ("--protect-args", "--copy-links", "--checksum", "--files-from=-")
        target = f"{link.host.at(link.host.copy_name)}:{self.device.facts.root}/"
        names = "".join(f"{name}\n" for name in there)
        command = ["rsync", *flags, keep, "--rsh", shell, "--", "./", target]
        link.copy(command, "copying files", names, folder=self.stage)

    def _sftp(self, there: Mapping[str, int]) -> None:
        link = self.device.link
        batch = []
        for name, size in there.items():
            # It refuses to go on with a file that is as long as it should be already.
            goes_on = self.resume and 0 < size < (self.stage / name).stat().st_size
            verb = "reput" if goes_on else "put"
            batch.append(f'{verb} "./{name}" "{self.device.facts.root}/{name}"\n')
        host = link.host.at(link.host.copy_name)
        command = ["sftp", "-q", "-b", "-", *link.options(), "--", host]
        link.copy(command, "copying files", "".join(batch), folder=self.stage)
