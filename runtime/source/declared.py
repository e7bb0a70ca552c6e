"""What a stored set says about its depth: ``meta.json``, the caller, or both, which must agree.

Depth files do not say their unit or which way they count, and a wrong guess ruins a model without
any message.  So nothing is guessed: what is declared nowhere, or twice and differently, is an
error.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict

from pydantic import BaseModel, ConfigDict, ValidationError

from edge_fusion.errors import SourceError
from edge_fusion.frame import Intrinsics
from edge_fusion.spec import DepthSpec, Polarity, first_problem

UNITS: dict[str, float | None] = {
    "m": 1.0,
    "cm": 0.01,
    "mm": 0.001,
    "0.1mm": 0.0001,
    "relative": None,
}
META = "meta.json"

_HOW = (
    "declare it: folder://PATH?unit=mm (or m, cm, 0.1mm; unit=relative&larger_is=nearer), or put "
    'meta.json beside the images: {"depth": {"unit": "mm", "invalid": 0}}'
)


class DepthFields(TypedDict, total=False):
    """The fields of a :class:`DepthSpec` that somebody declared; absent means not declared."""

    scale_to_m: float | None
    larger_is: Polarity
    invalid: float | None


@dataclass(frozen=True, slots=True)
class Meta:
    """What ``meta.json`` says; everything is optional.

    Attributes:
        depth: The declared fields of the depth.
        dtype: The dtype of the depth files, or None.
        intrinsics: The colour camera, or None.
        registered: Whether depth is registered to colour; None: not said.
    """

    depth: DepthFields
    dtype: str | None = None
    intrinsics: Intrinsics | None = None
    registered: bool | None = None


class _Lenient(BaseModel):
    """A record inside ``meta.json``, which may hold much that is not ours."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class _MetaDepth(_Lenient):
    dtype: Literal["uint8", "uint16", "float32"] | None = None
    unit: str | None = None
    scale_to_m: float | None = None
    larger_is: Polarity | None = None
    invalid: float | None = None


class _MetaCamera(_Lenient):
    fx: float
    fy: float
    cx: float
    cy: float


class _MetaFile(_Lenient):
    depth: _MetaDepth | None = None
    intrinsics: _MetaCamera | None = None
    registered: Any = None  # prose is nothing we could act on


def read_meta(folder: Path) -> Meta:
    """Read ``meta.json`` of a set; a set without one declares nothing.

    Raises:
        SourceError: The file cannot be read, is not JSON, or says something impossible.
    """
    path = folder / META
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return Meta(DepthFields())
    except (OSError, UnicodeDecodeError) as err:
        raise SourceError(f"cannot read {path}", got=str(err)) from err
    try:
        content = _MetaFile.model_validate_json(text)
    except ValidationError as err:
        raise SourceError(
            f"{path} is not valid",
            got=first_problem(err),
            cure='depth is {"dtype", "unit", "scale_to_m" or null, "larger_is", "invalid"}, '
            'intrinsics {"fx", "fy", "cx", "cy"} or null',
        ) from err
    camera = content.intrinsics
    return Meta(
        depth=_meta_fields(path, content.depth) if content.depth else DepthFields(),
        dtype=content.depth.dtype if content.depth else None,
        intrinsics=Intrinsics(camera.fx, camera.fy, camera.cx, camera.cy) if camera else None,
        registered=content.registered if isinstance(content.registered, bool) else None,
    )


def _meta_fields(path: Path, depth: _MetaDepth) -> DepthFields:
    named = depth.model_fields_set
    options: dict[str, Any] = {
        name: getattr(depth, name) for name in ("scale_to_m", "invalid") if name in named
    }
    if depth.larger_is:
        options["larger_is"] = depth.larger_is
    # With scale_to_m given, unit may be prose: "disparity, road plane removed".
    unit = depth.unit.replace(" ", "") if depth.unit else None
    if unit in UNITS or "scale_to_m" not in options:
        return depth_fields(str(path), unit=unit, **options)
    return depth_fields(str(path), **options)


def depth_fields(where: str, *, unit: str | None = None, **options: Any) -> DepthFields:
    """Declared fields from a named unit and explicit values.

    Args:
        where: Who declares, for messages.
        unit: A key of :data:`UNITS`, or None.
        options: Any of ``scale_to_m``, ``larger_is`` and ``invalid``.

    Raises:
        SourceError: The unit is unknown, or contradicts ``scale_to_m``.

    Example:
        >>> depth_fields("here", unit="mm", invalid=0.0)
        {'scale_to_m': 0.001, 'invalid': 0.0}
    """
    fields = DepthFields()
    if unit is not None:
        if unit not in UNITS:
            raise SourceError(
                f"{where}: unit of depth",
                expected=f"one of {', '.join(UNITS)}",
                got=f"'{unit}'",
                cure="for any other unit give scale_to_m, metres per unit",
            )
        fields["scale_to_m"] = UNITS[unit]
        if "scale_to_m" in options and options["scale_to_m"] != UNITS[unit]:
            raise SourceError(
                f"{where}: unit={unit} contradicts scale_to_m",
                expected=f"scale_to_m {UNITS[unit]}",
                got=str(options["scale_to_m"]),
                cure="give only one of the two",
            )
    fields.update(options)  # type: ignore[typeddict-item]
    return fields


def resolve_depth(where: str, declared: DepthFields, meta: DepthFields) -> DepthSpec:
    """One :class:`DepthSpec` from what the caller and ``meta.json`` declare.

    Args:
        where: The set, for messages.
        declared: The caller's fields.
        meta: The fields of ``meta.json``.

    Raises:
        SourceError: They disagree, the unit or the polarity of relative depth is declared
            nowhere, or the result is impossible.

    Example:
        >>> resolve_depth("set", DepthFields(scale_to_m=0.001), DepthFields(invalid=0))
        DepthSpec(scale_to_m=0.001, larger_is='farther', invalid=0.0)
    """
    for name in declared.keys() & meta.keys():
        if declared[name] != meta[name]:  # type: ignore[literal-required]
            raise SourceError(
                f"{where}: {name} of depth is declared twice",
                expected=f"{meta[name]} as in {META}",  # type: ignore[literal-required]
                got=str(declared[name]),  # type: ignore[literal-required]
                cure=f"leave it out of the request, or correct {META}",
            )
    fields: dict[str, Any] = {**meta, **declared}
    if "scale_to_m" not in fields:
        raise SourceError(f"{where}: the unit of its depth is not declared", cure=_HOW)
    if fields["scale_to_m"] is None and "larger_is" not in fields:
        raise SourceError(
            f"{where}: relative depth without a polarity",
            expected="larger_is=farther or larger_is=nearer",
            cure="look at one depth image: are near things brighter? then larger_is=nearer",
        )
    try:
        return DepthSpec(**fields)
    except ValidationError as err:
        raise SourceError(
            f"{where}: this declaration of depth is impossible",
            got=first_problem(err),
            cure="disparity and inverse depth are unit=relative&larger_is=nearer",
        ) from err


def spec_fields(spec: DepthSpec) -> DepthFields:
    """A whole :class:`DepthSpec` as declared fields."""
    return DepthFields(scale_to_m=spec.scale_to_m, larger_is=spec.larger_is, invalid=spec.invalid)
