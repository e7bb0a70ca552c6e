"""NVIDIA's own parser and builder as a witness: TensorRT-RTX compiles on the CPU, without a GPU.

It is not the TensorRT of a Jetson, but it shares its parser, and what it refuses Jetsons mostly
refuse too.  It runs in a child process: on some graphs that parser crashes, which is a finding
about the graph and must not be ours.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import onnx

from edge_fusion.errors import MissingDependencyError, StepError

from .lint import RULES, LintReport

Outcome = Literal["ok", "refused", "crashed", "timed out"]

DEFAULT_SM = ("8.6", "8.9")  # the nearest to Orin's 8.7 that TensorRT-RTX compiles for
PYTHON_VARIABLE = "EDGE_FUSION_RTX_PYTHON"

_KNOWN_SM = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")
_CHILD = Path(__file__).with_name("witness_child.py")
_PROBE_S = 60.0
_NODE = re.compile(r"\b(?:node|layer) '?([A-Za-z_/][\w./:-]*)'?", re.IGNORECASE)

#: Lint errors that the witness does not share, and why the lint is right all the same.
LINT_KNOWS_BETTER: dict[str, str] = {
    "QDQ001": "it reads uint8 as int8 with the same scale and only warns; half the range is lost",
    "QDQ003": "it builds scales per channel of an activation, which TensorRT documents for "
    "weights only",
    "QDQ004": "it builds weights with scales along any axis; INT8 kernels have scales for output "
    "channels alone, so that the product is not INT8",
    "QDQ005": "it checks that scales are positive, and lets infinity pass",
    "QDQ006": "it builds some of these and crashes on others",
    "QDQ014": "it reads half-precision scales at any opset; ONNX allows them from 19 on",
    "OPS004": "it goes by operator names and reads opsets that the target does not document",
    "SHP001": "it compiles inputs without a rank; a Jetson's engine needs fixed shapes",
}
#: What the witness refuses and no lint error names, by what it says, and why.
WITNESS_KNOWS_BETTER: dict[str, str] = {
    "HW-specific datatypes": "the type needs a newer GPU than the witness compiled for; the lint "
    "judges the target's",
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What TensorRT-RTX made of one graph for one architecture.

    Attributes:
        sm: Compute capability, such as ``8.6``.
        outcome: ``ok``, ``refused``, ``crashed`` or ``timed out``.
        stage: How far it came: ``parse`` or ``build``.
        node: The node it stopped at, where it named one.
        reason: What it said, or the signal that ended it.
        seconds: Parsing and building together.
        plan_bytes: Size of the plan, 0 where there is none.
        warnings: What it warned of.
    """

    sm: str
    outcome: Outcome
    stage: str
    node: str = ""
    reason: str = ""
    seconds: float = 0.0
    plan_bytes: int = 0
    warnings: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.outcome == "ok":
            return f"SM {self.sm}: ok, {self.plan_bytes / 1e6:.2f} MB in {self.seconds:.1f} s"
        where = f" at {self.node}" if self.node else ""
        return f"SM {self.sm}: {self.outcome} in {self.stage}{where}: {self.reason}"


@dataclass(frozen=True, slots=True)
class WitnessReport:
    """The verdicts on one graph, one for each architecture asked for."""

    version: str
    verdicts: tuple[Verdict, ...]

    @property
    def ok(self) -> bool:
        """Whether every architecture parsed and built."""
        return all(verdict.outcome == "ok" for verdict in self.verdicts)

    def as_dict(self) -> dict[str, Any]:
        """The report for JSON: TensorRT-RTX version, ok, verdicts."""
        return {
            "tensorrt_rtx": self.version,
            "ok": self.ok,
            "verdicts": [asdict(verdict) for verdict in self.verdicts],
        }


@dataclass(frozen=True, slots=True)
class Disagreement:
    """Where lint and witness part.

    Attributes:
        sm: The architecture.
        lint_ok: What the lint said.
        outcome: What the witness said.
        about: The lint's rules, or the witness's reason.
        known: Why both may be right; empty where that is not known.
    """

    sm: str
    lint_ok: bool
    outcome: Outcome
    about: str
    known: str

    def __str__(self) -> str:
        sides = "lint accepts, witness" if self.lint_ok else "lint refuses, witness"
        known = f" (known: {self.known})" if self.known else ""
        return f"SM {self.sm}: {sides} {self.outcome}: {self.about}{known}"


def witness_python() -> str | None:
    """The interpreter that has TensorRT-RTX: named by ``EDGE_FUSION_RTX_PYTHON``, or this one.

    Returns:
        Its path, None where it cannot import TensorRT-RTX.
    """
    python = os.environ.get(PYTHON_VARIABLE) or sys.executable
    probe = "import importlib.util as u; raise SystemExit(not (u.find_spec('tensorrt_rtx') or "
    probe += "u.find_spec('tensorrt_rtx_bindings')))"
    try:
        found = subprocess.run([python, "-c", probe], capture_output=True, timeout=_PROBE_S)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return python if found.returncode == 0 else None


def witness(
    model: onnx.ModelProto,
    sm: Sequence[str] = DEFAULT_SM,
    *,
    timeout_s: float = 300.0,
    python: str | None = None,
) -> WitnessReport:
    """Parse and build one graph with TensorRT-RTX.

    Args:
        model: An ONNX model with its weights inside.
        sm: Compute capabilities to compile for.
        timeout_s: How long one architecture may take.
        python: An interpreter with TensorRT-RTX; None looks for one.

    Returns:
        One verdict for each architecture.  A graph that is refused, or on which the parser
        crashes, is a verdict and no error.

    Raises:
        MissingDependencyError: TensorRT-RTX is not installed.
        StepError: The architecture is not one it compiles for, or the child could not start.

    Example:
        >>> witness(model, sm=("8.6",)).ok  # doctest: +SKIP
        True
    """
    return witness_all({"model": model}, sm, timeout_s=timeout_s, python=python)["model"]


def witness_all(
    models: Mapping[str, onnx.ModelProto],
    sm: Sequence[str] = DEFAULT_SM,
    *,
    timeout_s: float = 300.0,
    python: str | None = None,
) -> dict[str, WitnessReport]:
    """As :func:`witness`, of many graphs by name; they share a child until one crashes it."""
    _check_architectures(sm)
    interpreter = python or witness_python()
    if interpreter is None:
        raise MissingDependencyError(
            "TensorRT-RTX",
            needed_for="the witness",
            cure=f"pip install 'edge-fusion[rtx]', or name another interpreter in "
            f"{PYTHON_VARIABLE}",
        )
    with tempfile.TemporaryDirectory(prefix="edge-fusion-witness-") as folder:
        names = {str(Path(folder) / f"{i}.onnx"): name for i, name in enumerate(models)}
        for file, name in names.items():
            Path(file).write_bytes(models[name].SerializeToString())
        run = _Run(interpreter, Path(folder), timeout_s)
        for architecture in sm:
            run.judge(list(names), f"SM{architecture.replace('.', '')}")
    return {
        name: WitnessReport(
            run.version, tuple(run.found[file, f"SM{a.replace('.', '')}"] for a in sm)
        )
        for file, name in names.items()
    }


def compare_with_lint(report: WitnessReport, linted: LintReport) -> tuple[Disagreement, ...]:
    """Where the witness's verdict on a graph is not the lint's.

    Args:
        report: The witness's.
        linted: The lint's, of the same graph.

    Returns:
        One entry for each architecture on which they part.  ``known`` says why, where both tables
        above, or the version a rule is about, explain it.
    """
    rules = sorted({finding.rule_id for finding in linted.of("error")})
    return tuple(
        Disagreement(
            verdict.sm,
            linted.ok,
            verdict.outcome,
            verdict.reason if linted.ok else ", ".join(rules),
            _known_refusal(verdict) if linted.ok else _known_errors(rules),
        )
        for verdict in report.verdicts
        if linted.ok != (verdict.outcome == "ok")
    )


def _known_refusal(verdict: Verdict) -> str:
    return next((why for said, why in WITNESS_KNOWS_BETTER.items() if said in verdict.reason), "")


def _known_errors(rules: Sequence[str]) -> str:
    """Why the witness shares none of these errors; empty if it should share one of them."""
    reasons = []
    for rule in rules:
        before = next((r.versions for r in RULES if r.id == rule and r.versions.before), None)
        reason = f"{rule} is about {before}" if before else LINT_KNOWS_BETTER.get(rule, "")
        if not reason:
            return ""
        reasons.append(reason)
    return "; ".join(reasons)


def _check_architectures(sm: Sequence[str]) -> None:
    unknown = [one for one in sm if one not in _KNOWN_SM]
    if unknown or not sm:
        raise StepError(
            "witness: compute capability",
            expected=" or ".join(_KNOWN_SM),
            got=", ".join(unknown) or "none",
            cure="8.6 and 8.9 are the nearest to Orin's 8.7",
        )


@dataclass(slots=True)
class _Run:
    """Children one after the other, each going on behind the graph that ended the last one."""

    python: str
    folder: Path
    timeout_s: float
    version: str = ""
    found: dict[tuple[str, str], Verdict] = field(default_factory=dict)

    def judge(self, files: list[str], architecture: str) -> None:
        """Find a verdict for every file."""
        while files:
            ended = self._child(files, architecture)
            waiting = [file for file in files if (file, architecture) not in self.found]
            if not waiting:
                return
            stage, sm = self._reached(waiting[0], architecture), _dotted(architecture)
            if stage is None:
                raise StepError(
                    "the witness did not start",
                    got=ended,
                    cure=f"try {self.python} -c 'import tensorrt_rtx'",
                )
            outcome: Outcome = "timed out" if ended.startswith("more than") else "crashed"
            self.found[waiting[0], architecture] = Verdict(sm, outcome, stage, reason=ended)
            files = waiting[1:]

    def _child(self, files: list[str], architecture: str) -> str:
        """Run a child over some files; what ended it, empty if it came to its end."""
        results = self._results(architecture)
        results.unlink(missing_ok=True)
        command = [self.python, str(_CHILD), str(results), architecture, *files]
        log = self.folder / "child.log"
        with log.open("wb") as stream:
            child = subprocess.Popen(command, stdout=stream, stderr=stream, cwd=self.folder)
            try:
                ended = self._wait(child, results)
            finally:
                if child.poll() is None:
                    child.kill()
                child.wait()
        for record in self._records(results):
            self.version = record.get("version", self.version)
            if record["event"] == "done":
                self.found[record["file"], architecture] = _verdict(record)
        if ended:
            return ended
        code = child.returncode
        if code < 0:
            return signal.Signals(-code).name
        last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
        return f"exit status {code}: {''.join(last)}" if code else ""

    def _wait(self, child: subprocess.Popen[bytes], results: Path) -> str:
        """Wait while the child makes progress: its results grow at every step."""
        while True:
            size = results.stat().st_size if results.exists() else 0
            try:
                child.wait(self.timeout_s)
            except subprocess.TimeoutExpired:
                if (results.stat().st_size if results.exists() else 0) == size:
                    return f"more than {self.timeout_s:g} s"
            else:
                return ""

    def _results(self, architecture: str) -> Path:
        return self.folder / f"{architecture}.jsonl"

    def _records(self, results: Path) -> Iterator[dict[str, Any]]:
        if results.exists():
            for line in results.read_text(encoding="utf-8").splitlines():
                try:
                    yield json.loads(line)
                except ValueError:
                    return  # the last line of a child that was killed while writing

    def _reached(self, file: str, architecture: str) -> str | None:
        stages = [
            record["stage"]
            for record in self._records(self._results(architecture))
            if record["event"] == "start" and record["file"] == file
        ]
        return stages[-1] if stages else None


def _dotted(architecture: str) -> str:
    digits = architecture[2:]
    return f"{digits[:-1]}.{digits[-1]}"


def _verdict(record: Mapping[str, Any]) -> Verdict:
    node = record["node"]
    if not node and (named := _NODE.search(record["reason"])):
        node = named.group(1)
    return Verdict(
        sm=_dotted(record["sm"]),
        outcome=record["outcome"],
        stage=record["stage"],
        node=node,
        reason=record["reason"],
        seconds=round(record["seconds"], 3),
        plan_bytes=record["plan_bytes"],
        warnings=tuple(record["warnings"]),
    )
