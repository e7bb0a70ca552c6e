"""A build that runs on a device by itself: it outlives the link, and is found again by its name.

::

    ROOT/lock              held by whatever builds: one build at a time on one device
    ROOT/jobs/KEY/lock     held as long as the job lives
                  job.sh   what runs
                  log      what it says
                  exit     stage and status, once it has ended
                  record   the engine's record, as ``build --json`` wrote it
"""

from __future__ import annotations

import re
import shlex
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from edge_fusion.errors import LinkLostError, RemoteError

from .remote_files import Device
from .remote_link import RESUME, Patience, plain
from .remote_probe import ask

Line = Callable[[str], None]

_KEPT_LINES = 200
_LONGEST_LINE = 2000
_FRAME = " │|"  # what usage errors are boxed in
_ERROR = re.compile(r"error: +", re.IGNORECASE)  # ours and pip's
_STARTED, _FINISHED, _RUNNING = "started", "finished", "running"

_LARGEST_ANSWER = 256 << 20

#: Reads how a job ended, and what it left in the engine's folder.
_OUTCOME = r"""
import json, os, sys
job, bundle, most = sys.argv[1], sys.argv[2], int(sys.argv[3])
def read(*parts):
    path = os.path.join(*parts)
    if not os.path.isfile(path) or os.path.getsize(path) > most:
        return None
    with open(path, "rb") as file:
        return file.read().decode("utf-8", "replace")
record = read(job, "record")
try:
    key = os.path.basename(str(json.loads(record)["key"]))
    layers = read(bundle, "engines", key, "layers.json")
except Exception:
    layers = None
print("\n" + sys.argv[4] + json.dumps(dict(exit=read(job, "exit"), record=record, layers=layers)))
"""

#: What an exit status means that is not the program's own.
_STATUSES = {
    127: "a program was not found",
    137: "killed, most likely because memory ran out: close other programs, or add swap",
    143: "terminated by somebody",
}


@dataclass(frozen=True, slots=True)
class Install:
    """How the package gets onto the device.

    Attributes:
        marker: Changes with everything that is installed; what is there already stays.
        environment: The virtual environment's folder there, absolute; one for each Python.
        wheel: Absolute path of our wheel there.
        extras: Our extras that go with it, such as ``[opencv]``.
        requirements: What pip must hold to besides our own requirements.
        wheelhouse: A folder of wheels there instead of pip's index, absolute; None has a network.
    """

    marker: str
    environment: str
    wheel: str
    extras: str
    requirements: tuple[str, ...]
    wheelhouse: str | None


@dataclass(frozen=True, slots=True)
class Job:
    """A build on a device.

    Attributes:
        device: The device.
        key: Its name: the same for the same work, so that it is found again.
        bundle: The bundle's folder there.
        command: What builds, with its arguments; it is told besides where to write the record.
        install: What comes first; None where the command brings itself.
    """

    device: Device
    key: str
    bundle: str
    command: tuple[str, ...]
    install: Install | None

    @property
    def folder(self) -> str:
        """Where it lies there."""
        return self.device.path("jobs", self.key)

    @property
    def record(self) -> str:
        """Where its command writes the engine's record."""
        return f"{self.folder}/record"

    @property
    def log_hint(self) -> str:
        """Where to read what it said, for messages."""
        return f"its log: {self.folder}/log"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a job ended.

    Attributes:
        stage: ``done``, or in which it failed: ``install`` or ``build``; ``lost`` if it did not
            live to say so.
        status: That stage's exit status.
        record: What its command wrote, JSON; empty where it wrote nothing.
        layers: The report of the layers that lies in the engine's folder; empty where none does.
    """

    stage: str
    status: int
    record: str
    layers: str


def run_job(job: Job, patience: Patience, on_line: Line) -> tuple[Outcome, bool]:
    """Start a build, or find it running or just ended, and follow it to its end.

    Args:
        job: The build.
        patience: How long a broken link is tried again.
        on_line: Told every line it prints.

    Returns:
        How it ended, and whether it had been started before.

    Raises:
        LinkLostError: The link broke for longer than patience lasts; the build goes on.
        RemoteError: It failed, or ended without a word.
    """
    found = patience.insist(lambda: job.device.link.run(_start(job), "starting the build"))
    state = found.split()[-1] if found.split() else ""
    if state not in (_STARTED, _FINISHED, _RUNNING):
        raise RemoteError(f"starting the build failed on {job.device.link.host}", got=plain(found))
    kept: deque[str] = deque(maxlen=_KEPT_LINES)

    def keep(line: str) -> None:
        kept.append(line)
        on_line(line)

    _follow(job, patience, keep)
    outcome = patience.insist(lambda: _outcome(job))
    if outcome.stage != "done":
        discard(job, patience)
        raise _failure(job, outcome, kept)
    return outcome, state != _STARTED


def discard(job: Job, patience: Patience) -> None:
    """Take away a failed outcome, so that the next job of its name starts anew; its log stays.

    Raises:
        LinkLostError: The link broke for longer than patience lasts.
    """
    script = f"rm -f {shlex.quote(job.folder)}/exit\n"
    patience.insist(lambda: job.device.link.run(script, "cleaning up"))


def forget(job: Job) -> None:
    """Remove a job whose outcome has been brought home; the next one of its name starts anew.

    Raises:
        LinkLostError: The link broke.
    """
    job.device.link.run(f"rm -rf {shlex.quote(job.folder)}\n", "cleaning up")


def _start(job: Job) -> str:
    """The script that starts a job unless it lives or its outcome is still to be read.

    The lock is taken before the job starts and inherited by it, so there is no moment in which a
    job runs that looks dead.
    """
    folder = shlex.quote(job.folder)
    return f"""
for program in flock setsid; do
  command -v $program > /dev/null || {{ echo "$program is missing (util-linux)" >&2; exit 1; }}
done
mkdir -p {folder} && cd {folder} || exit 1
exec 8>lock
if ! flock -n 8; then echo {_RUNNING}; exit 0; fi
if [ -e exit ]; then echo {_FINISHED}; exit 0; fi
rm -f record
printf '%s' {shlex.quote(_script(job))} > job.sh
setsid sh ./job.sh > log 2>&1 < /dev/null &
echo {_STARTED}
"""


def _script(job: Job) -> str:
    lock = shlex.quote(job.device.path("lock"))
    install = "install || finish install $?\n" if job.install else ""
    return f"""{_installer(job) if job.install else ""}
finish() {{ echo "$1 $2" > exit.partial; mv exit.partial exit; exit 0; }}
exec 9> {lock}
if ! flock -n 9; then echo 'another build runs on this device: waiting for it'; flock 9; fi
export PYTHONUNBUFFERED=1
{install}{shlex.join((*job.command, "--json", job.record))} || finish build $?
finish done 0
"""


def _installer(job: Job) -> str:
    """The shell function that makes the virtual environment, unless it is there as it should be.

    It sees the system's packages, since TensorRT's binding is one of them.  pip takes a wheel of a
    version that is installed for the same, so that ours goes in a second time by force.
    """
    install = job.install
    assert install is not None
    environment = install.environment
    python = shlex.quote(f"{environment}/bin/python")
    marker = shlex.quote(f"{environment}/edge-fusion.installed")
    offline = ["--no-index", "--find-links", install.wheelhouse] if install.wheelhouse else []
    pip = ["-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--quiet"]
    everything = shlex.join([*pip, *offline, install.wheel + install.extras, *install.requirements])
    again = shlex.join([*pip, "--no-index", "--no-deps", "--force-reinstall", install.wheel])
    make = shlex.join([job.device.python, "-m", "venv", "--clear", "--system-site-packages"])
    return f"""
install() {{
  if [ "$(cat {marker} 2>/dev/null)" = {install.marker} ]; then return 0; fi
  echo 'installing edge-fusion and what it needs'
  [ -e {marker} ] || {make} {shlex.quote(environment)} || return
  rm -f {marker}
  {python} {everything} || return
  {python} {again} || return
  echo {install.marker} > {marker}
}}"""


def _follow(job: Job, patience: Patience, on_line: Line) -> None:
    """Give every line of the log once, until the job has ended, through any number of links."""
    seen, rest = 0, b""
    while True:
        try:
            for chunk in job.device.link.stream(_tail(job, seen), "following the build"):
                seen += len(chunk)
                patience.succeed()
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    _give(line, on_line)
                rest = rest[-_LONGEST_LINE:]
        except LinkLostError as lost:
            patience.wait(lost)
        else:
            break
    if rest:
        _give(rest, on_line)


def _give(line: bytes, on_line: Line) -> None:
    text = plain(line.decode("utf-8", errors="replace"))[:_LONGEST_LINE].rstrip()
    if text:
        on_line(text)


def _tail(job: Job, seen: int) -> str:
    """Whether the job lives is asked before its log is read, so that no last word is missed."""
    return f"""
cd {shlex.quote(job.folder)} || exit 1
seen={seen}
while :; do
  lives=1; flock -n lock true && lives=0
  size=$(wc -c < log)
  if [ "$size" -gt "$seen" ]; then
    tail -c +$((seen + 1)) log | head -c $((size - seen))
    seen=$size
  fi
  [ $lives = 1 ] || exit 0
  sleep 0.3
done
"""


def _outcome(job: Job) -> Outcome:
    link, most = job.device.link, str(_LARGEST_ANSWER)
    answer = ask(
        link, job.device.python, _OUTCOME, "reading the outcome", job.folder, job.bundle, most
    )
    text, record, layers = (str(answer[name] or "") for name in ("exit", "record", "layers"))
    found = re.fullmatch(r"(install|build|done) (\d{1,3})\s*", text)
    stage, status = (found[1], int(found[2])) if found else ("lost", 0)
    return Outcome(stage, status, record, layers)


def _failure(job: Job, outcome: Outcome, lines: deque[str]) -> RemoteError:
    host, log = job.device.link.host, job.log_hint
    words = (line.strip(_FRAME) for line in reversed(lines) if re.search(r"\w", line))
    last = next(words, "nothing")
    if outcome.stage == "lost":
        return RemoteError(
            f"the build on {host} ended without a word",
            got=last,
            cure=f"was the device switched off? {RESUME}; {log}",
        )
    said = next((line for line in reversed(lines) if _ERROR.match(line)), None)
    said = _ERROR.sub("", said, count=1) if said else None
    got = said or _STATUSES.get(outcome.status, last)
    if outcome.stage == "install":
        return RemoteError(
            f"installing edge-fusion failed on {host}",
            got=said or last,
            cure="pip there needs a network, or --wheelhouse with all we need for its "
            f"Python; {log}",
        )
    return RemoteError(f"the build on {host} failed", got=got, cure=log)
