"""From names to sessions: what each variant of a comparison is, and how it is opened."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from edge_fusion.bundle import Bundle
from edge_fusion.errors import InputError, MissingDependencyError, SessionError
from edge_fusion.files import sha256
from edge_fusion.spec import ModelSpec, TensorSpec

from .comparison import Precision, VariantInfo
from .latency import ARITHMETIC, UNSTATED, Arithmetic
from .references import VariantRef
from .session import BACKENDS, Execution, Session, choose_backend, execution_of

Opener = Callable[[Bundle, str, str], Session]

_PRECISIONS: dict[str, Precision] = {"fp32": "fp32", "fp16": "fp16", "int8": "int8"}
# The name of an operator stands in the file as it is; no reader of ONNX is needed to find it.
_QUANTIZED = b"DequantizeLinear"


@dataclass(frozen=True, slots=True)
class Candidate:
    """One variant, found but not opened.

    Attributes:
        ref: How it was asked for.
        bundle: The bundle it belongs to; for an ONNX file the one whose input record it is judged
            by.
        backend: Where it is to run, never ``auto``.
        file: The ONNX file's contents; None for a variant of a bundle.
    """

    ref: VariantRef
    bundle: Bundle
    backend: str
    file: bytes | None = None

    @property
    def label(self) -> str:
        """What it is called."""
        return self.ref.label

    @property
    def spec(self) -> ModelSpec:
        """How it is fed and read."""
        return self.bundle.manifest.model

    @property
    def path(self) -> Path:
        """The bundle or the ONNX file."""
        return self.bundle.path if self.file is None else Path(self.ref.path)

    @property
    def onnx_bytes(self) -> int | None:
        """Size of its ONNX file; None where it exists as an engine alone."""
        if self.file is not None:
            return len(self.file)
        name = self.bundle.manifest.variants.get(self.ref.variant)
        return None if name is None else self.bundle.manifest.files[name].size_bytes

    @property
    def sha256(self) -> str:
        """Of its ONNX file; empty where it exists as an engine alone."""
        if self.file is not None:
            return sha256(self.file)
        name = self.bundle.manifest.variants.get(self.ref.variant)
        return "" if name is None else self.bundle.manifest.files[name].sha256

    @property
    def precision(self) -> Precision:
        """What it is written in."""
        named = _PRECISIONS.get(self.ref.variant)
        if named is not None:
            return named
        content = self.bundle.model_bytes(self.ref.variant) if self.file is None else self.file
        return "int8" if _QUANTIZED in content else "fp32"

    def info(self, session: Session, arithmetic: Arithmetic | None) -> VariantInfo:
        """What is behind the label; ``arithmetic`` where the caller knows better."""
        precision = self.precision
        return VariantInfo(
            label=self.label,
            text=self.ref.text,
            kind="file" if self.ref.is_file else "bundle",
            path=str(self.path),
            model=self.path.name if self.ref.is_file else self.spec.name,
            variant=self.ref.variant,
            precision=precision,
            backend=self.backend,
            arithmetic=arithmetic or _arithmetic(self.backend, precision, execution_of(session)),
            sha256=self.sha256,
        )


def resolve(refs: Sequence[VariantRef], bundle: Bundle, backend: str) -> tuple[Candidate, ...]:
    """Find every variant and refuse what cannot work before anything is loaded.

    Args:
        refs: What to compare.
        bundle: The bundle that names without a path belong to.
        backend: Of every variant that names none; see
            :func:`edge_fusion.runtime.session.open_session`.

    Raises:
        InputError: A bundle lacks a variant, or a file cannot be read or cannot run there.
        BundleError: Another bundle is missing or damaged, or a variant exists as an engine alone
            and ONNX Runtime was to run it.
        SessionError: A backend is unknown.
    """
    bundles = {"": bundle}
    found = []
    for ref in refs:
        wanted = ref.backend or backend
        if ref.is_file:
            found.append(_file(ref, bundle, wanted))
            continue
        if ref.path not in bundles:
            bundles[ref.path] = _other_bundle(ref)
        found.append(_variant(ref, bundles[ref.path], wanted))
    return tuple(found)


@contextmanager
def sessions_of(candidates: Sequence[Candidate], opener: Opener) -> Iterator[dict[str, Session]]:
    """Open every variant, by label; all are closed at the end, whatever happens.

    Raises:
        EngineError: On TensorRT, a variant has no engine that belongs to this device.
        InputError: An ONNX file takes other inputs than the bundle's record says.
        SessionError: A backend refused a model.
    """
    with ExitStack() as stack:
        sessions = {}
        for one in candidates:
            opened = (
                opener(one.bundle, one.ref.variant, one.backend)
                if one.file is None
                else _open_file(one, one.file)
            )
            stack.callback(opened.close)
            sessions[one.label] = opened
        yield sessions


def _other_bundle(ref: VariantRef) -> Bundle:
    if not Path(ref.path).exists():
        raise InputError(
            f"variant '{ref.text}': there is no bundle '{ref.path}'",
            expected=f"the path of a bundle, or a backend: {' or '.join(BACKENDS)}",
            cure="is the path right? it is taken from where the command runs",
        )
    return Bundle.read(ref.path)


def _variant(ref: VariantRef, bundle: Bundle, wanted: str) -> Candidate:
    # A backend that the opener alone knows is left to it.
    known = wanted in ("auto", *BACKENDS)
    backend = choose_backend(bundle, ref.variant, wanted) if known else wanted
    # On TensorRT the engines count, and opening them tells.
    if ref.variant not in bundle.variants and (backend != "trt" or ref.variant not in _PRECISIONS):
        raise InputError(
            f"bundle {bundle.path} has no variant {ref.variant}",
            expected=ref.variant,
            got=" and ".join(bundle.variants) or "none",
            cure="build it with --precision int8, or name a variant that it has; a file ends in "
            ".onnx, and a variant of another bundle is BUNDLE:VARIANT",
        )
    return Candidate(ref, bundle, backend)


def _file(ref: VariantRef, bundle: Bundle, wanted: str) -> Candidate:
    if wanted == "trt":
        raise InputError(
            f"'{ref.path}' cannot run on TensorRT: an ONNX file has no engine",
            cure=f"compare it on ONNX Runtime, as ort:{ref.path}, or build it into a bundle: "
            f"edge-fusion build {ref.path}",
        )
    try:
        content = Path(ref.path).read_bytes()
    except OSError as err:
        raise InputError(
            f"cannot read ONNX file '{ref.path}'",
            got=err.strerror or str(err),
            cure="is the path right? it is taken from where the command runs",
        ) from err
    return Candidate(ref, bundle, "ort", content)


def _open_file(candidate: Candidate, content: bytes) -> Session:
    try:
        from .ort import OrtSession
    except ImportError as err:
        raise MissingDependencyError(
            "onnxruntime", needed_for="running an ONNX file", extra="ort"
        ) from err
    try:
        session = OrtSession(content)
    except SessionError as err:
        raise SessionError(
            f"ONNX file '{candidate.path}': {err.what}",
            expected=err.expected,
            got=err.got,
            cure=err.cure or "is it a whole ONNX model in one file?",
        ) from err
    try:
        _check_ports(candidate, session.inputs, session.outputs)
    except InputError:
        session.close()
        raise
    return session


def _check_ports(
    candidate: Candidate, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> None:
    """Hold an ONNX file's inputs and output against the record it is judged by."""
    spec = candidate.spec
    wanted = {one.name: one.shape for one in spec.inputs}
    found = {one.name: one.shape for one in inputs}
    answer = spec.output.name
    if wanted == found and answer in (one.name for one in outputs):
        return
    raise InputError(
        f"'{candidate.path}' does not take and give what the input record of bundle "
        f"{candidate.bundle.path} says, by which plain files are judged",
        expected=f"inputs {_ports(wanted)} and output '{answer}'",
        got=f"inputs {_ports(found)} and output "
        + (" and ".join(f"'{one.name}'" for one in outputs) or "none"),
        cure=f"build it into a bundle with a record of its own (edge-fusion build "
        f"{candidate.path} --calib SET -o OTHER) and compare OTHER:fp32",
    )


def _ports(ports: dict[str, tuple[int, ...]]) -> str:
    return " and ".join(f"'{name}' {shape}" for name, shape in ports.items()) or "none"


def _arithmetic(backend: str, precision: Precision, execution: Execution | None) -> Arithmetic:
    known = ARITHMETIC.get(backend, UNSTATED)
    texts = (known.text, *([execution.text] if execution is not None else []))
    return Arithmetic("; ".join(texts), known.integer and precision == "int8")
