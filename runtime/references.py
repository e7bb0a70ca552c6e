"""How variants are named on a command line: ``fp32``, ``trt:fp16``, ``other/bundle:int8`` ...

::

    [LABEL=][BACKEND:]VARIANT            of the bundle that is compared:  fp32   trt:fp16   ort:int8
    [LABEL=][BACKEND:]BUNDLE:VARIANT     of another bundle:  old/bundle:int8   new=./b.tar:int8
    [LABEL=]FILE.onnx                    a plain ONNX file with the same two inputs

``BACKEND`` is ``ort`` or ``trt``; without it the run's own backend counts.  What is named without a
label is called after what it is; two variants never share a label.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_fusion.errors import InputError

from .session import BACKENDS

FORMS = "[LABEL=][BACKEND:]VARIANT, [LABEL=][BACKEND:]BUNDLE:VARIANT or [LABEL=]FILE.onnx"

_LABEL = re.compile(r"[\w.+-]+")
_ONNX, _TAR = ".onnx", ".tar"


@dataclass(frozen=True, slots=True)
class VariantRef:
    """A variant as it was asked for.

    Attributes:
        text: As it was written.
        label: What tables, gates and JSON call it.
        backend: ``ort`` or ``trt``; empty where the run's own backend counts.
        path: Another bundle's folder or ``.tar``, or an ONNX file; empty for the bundle that is
            compared.
        variant: Name of the variant; empty for an ONNX file.
    """

    text: str
    label: str
    backend: str = ""
    path: str = ""
    variant: str = ""

    @property
    def is_file(self) -> bool:
        """Whether it is a plain ONNX file."""
        return not self.variant


def parse_variants(texts: Sequence[str]) -> tuple[VariantRef, ...]:
    """Read what to compare, the reference first.

    Args:
        texts: One reference each; see the top of this file.

    Raises:
        InputError: Fewer than two, one that is empty, malformed or ambiguous, or two of the same
            label.

    Example:
        >>> [one.label for one in parse_variants(["fp32", "trt:int8", "old=b/c:int8", "d/e.onnx"])]
        ['fp32', 'trt:int8', 'old', 'e']
    """
    if len(texts) < 2 or "" in texts or len(set(texts)) < len(texts):
        raise InputError(
            "variants to compare",
            expected="two or more different ones, the reference first",
            got=", ".join(text or "an empty name" for text in texts) or "none",
            cure="name them with one comma between two: fp32,int8; the same one twice needs a "
            "label: fp32,again=fp32",
        )
    refs = tuple(parse_reference(text) for text in texts)
    seen: dict[str, VariantRef] = {}
    for ref in refs:
        if ref.label in seen:
            raise InputError(
                f"'{seen[ref.label].text}' and '{ref.text}' would both be called '{ref.label}'",
                cure=f"give one of them a label of its own: other={ref.text.split('=', 1)[-1]}",
            )
        seen[ref.label] = ref
    return refs


def parse_reference(text: str) -> VariantRef:
    """Read one reference.

    Raises:
        InputError: It is malformed, or can be read in two ways.

    Example:
        >>> parse_reference("ort:old/bundle:int8").path
        'old/bundle'
    """
    label, rest = _split_label(text)
    backend, rest = _split_backend(text, rest)
    if rest.lower().endswith(_ONNX):
        ref = VariantRef(text, label, backend, path=rest)
    elif ":" in rest:
        path, _, variant = rest.rpartition(":")
        ref = VariantRef(text, label, backend, path, variant)
        if not (path and variant):
            raise _malformed(text)
    elif "/" in rest or rest.endswith(_TAR):
        raise InputError(
            f"variant '{text}' names a place, but no variant of it",
            expected=FORMS,
            cure=f"a variant of a bundle: {rest}:int8; ONNX files end in {_ONNX}",
        )
    else:
        ref = VariantRef(text, label, backend, variant=rest)
        if not rest:
            raise _malformed(text)
    return ref if label else VariantRef(text, _default_label(ref), backend, ref.path, ref.variant)


def _split_label(text: str) -> tuple[str, str]:
    label, equals, rest = text.partition("=")
    if not equals:
        return "", text
    if not label or not rest:
        raise _malformed(text)
    if not _LABEL.fullmatch(label):
        return "", text  # a path with = in it
    place = text if text.lower().endswith(_ONNX) else text.rpartition(":")[0]
    if place.startswith(f"{label}=") and Path(place).exists():
        raise InputError(
            f"variant '{text}' can be read in two ways: as label '{label}', and as the path "
            f"'{place}', which exists",
            cure=f"for the path write ./{text}; for the label choose another one",
        )
    return label, rest


def _split_backend(text: str, rest: str) -> tuple[str, str]:
    backend, colon, inner = rest.partition(":")
    if not colon or backend not in BACKENDS:
        return "", rest
    if ":" not in inner and Path(backend).is_dir():
        raise InputError(
            f"variant '{text}' can be read in two ways: on backend '{backend}', and as a variant "
            f"of the bundle in folder '{backend}', which exists",
            cure=f"for the folder write ./{rest}; for the backend write {inner} and --backend "
            f"{backend}, or run it from another folder",
        )
    return backend, inner


def _default_label(ref: VariantRef) -> str:
    name = Path(ref.path).absolute().resolve().name if ref.path else ""
    for suffix in (_ONNX, _TAR):
        name = name[: -len(suffix)] if name.lower().endswith(suffix) else name
    return ":".join(filter(None, (ref.backend, name, ref.variant)))


def _malformed(text: str) -> InputError:
    return InputError(
        f"variant '{text}'", expected=FORMS, cure="for example fp32, trt:fp16, old/bundle:int8"
    )
