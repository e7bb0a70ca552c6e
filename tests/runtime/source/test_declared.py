from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edge_fusion.errors import SourceError
from edge_fusion.frame import Intrinsics
from edge_fusion.runtime.source.declared import depth_fields, read_meta, resolve_depth
from edge_fusion.spec import DepthSpec


def write(folder: Path, content: object) -> Path:
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / "meta.json").write_text(text)
    return folder


GOOD: list[tuple[dict[str, Any], dict[str, Any], DepthSpec]] = [
    # everything in meta.json
    (
        {"unit": "mm", "scale_to_m": 0.001, "larger_is": "farther", "invalid": 0},
        {},
        DepthSpec(scale_to_m=0.001),
    ),
    # a unit is enough for metric depth
    ({"unit": "0.1 mm"}, {}, DepthSpec(scale_to_m=0.0001)),
    # prose as a unit, where the scale is said
    (
        {"unit": "disparity, road removed", "scale_to_m": None, "larger_is": "nearer"},
        {},
        DepthSpec(scale_to_m=None, larger_is="nearer"),
    ),
    ({"unit": "quarter millimetre", "scale_to_m": 0.00025}, {}, DepthSpec(scale_to_m=0.00025)),
    # no invalid value is not the same as invalid 0
    ({"unit": "m", "invalid": None}, {}, DepthSpec(scale_to_m=1, invalid=None)),
    # everything from the caller
    ({}, {"unit": "cm", "invalid": 65535.0}, DepthSpec(scale_to_m=0.01, invalid=65535)),
    # half and half, and agreeing
    ({"unit": "relative"}, {"larger_is": "nearer"}, DepthSpec(scale_to_m=None, larger_is="nearer")),
    ({"unit": "mm", "invalid": 0}, {"unit": "mm"}, DepthSpec(scale_to_m=0.001)),
]


@pytest.mark.parametrize(("meta", "options", "expected"), GOOD)
def test_declarations_add_up(
    tmp_path: Path, meta: dict[str, Any], options: dict[str, Any], expected: DepthSpec
) -> None:
    read = read_meta(write(tmp_path, {"depth": meta}))
    assert resolve_depth("set", depth_fields("set", **options), read.depth) == expected


BAD: list[tuple[object, dict[str, Any], list[str]]] = [
    # declared nowhere
    (
        None,
        {},
        ["set: the unit of its depth is not declared", "folder://PATH?unit=mm", "meta.json"],
    ),
    ({"licence": "mine"}, {}, ["unit of its depth is not declared"]),
    ({"depth": {"invalid": 0}}, {}, ["unit of its depth is not declared"]),
    # declared twice, differently
    (
        {"depth": {"unit": "mm"}},
        {"unit": "m"},
        ["scale_to_m of depth is declared twice", "0.001 as in meta.json", "got 1.0", "correct"],
    ),
    (
        {"depth": {"unit": "mm", "invalid": 0}},
        {"invalid": None},
        ["invalid of depth is declared twice", "got None"],
    ),
    (
        {"depth": {"unit": "relative", "larger_is": "nearer"}},
        {"larger_is": "farther"},
        ["larger_is of depth is declared twice", "nearer as in meta.json"],
    ),
    # impossible
    ({"depth": {"unit": "relative"}}, {}, ["relative depth without a polarity", "larger_is="]),
    (
        {"depth": {"unit": "mm", "larger_is": "nearer"}},
        {},
        ["this declaration of depth is impossible", "grows with distance", "unit=relative"],
    ),
    (None, {"scale_to_m": 0.0}, ["impossible", "scale_to_m", "greater than 0"]),
    (None, {"scale_to_m": float("nan")}, ["impossible", "scale_to_m"]),
    (None, {"unit": "mm", "scale_to_m": 0.01}, ["unit=mm contradicts scale_to_m", "only one"]),
    ({"depth": {"unit": "mm", "scale_to_m": 0.01}}, {}, ["unit=mm contradicts", "meta.json"]),
    ({"depth": {"unit": "mm", "scale_to_m": None}}, {}, ["unit=mm contradicts", "got None"]),
    ({"depth": {"unit": "inch"}}, {}, ["got 'inch'", "m, cm, mm", "give scale_to_m"]),
    # not a usable meta.json
    ('{"depth": {"unit": "mm"', {}, ["meta.json is not valid", "JSON"]),
    ("[]", {}, ["meta.json is not valid"]),
    ({"depth": "mm"}, {}, ["meta.json is not valid", "depth"]),
    ({"depth": {"unit": "mm", "larger_is": "closer"}}, {}, ["depth.larger_is"]),
    ({"depth": {"unit": "mm", "scale_to_m": "small"}}, {}, ["depth.scale_to_m"]),
    ({"depth": {"unit": "mm", "dtype": "int32"}}, {}, ["depth.dtype", "uint16"]),
    ({"depth": {"unit": "mm"}, "intrinsics": {"fx": 1}}, {}, ["intrinsics.fy", "cx"]),
]


@pytest.mark.parametrize(("meta", "options", "parts"), BAD)
def test_bad_declarations(
    tmp_path: Path, meta: object, options: dict[str, Any], parts: list[str]
) -> None:
    if meta is not None:
        write(tmp_path, meta)
    with pytest.raises(SourceError) as caught:
        resolve_depth("set", depth_fields("set", **options), read_meta(tmp_path).depth)
    for part in parts:
        assert part in str(caught.value)


def test_meta_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "meta.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SourceError, match=r"cannot read .*meta\.json"):
        read_meta(tmp_path)


def test_meta_gives_the_rest(tmp_path: Path) -> None:
    camera = {"fx": 1, "fy": 2, "cx": 3, "cy": 4, "note": "as shipped"}
    meta = read_meta(
        write(tmp_path, {"depth": {"dtype": "uint16", "unit": "mm"}, "intrinsics": camera})
    )
    assert (meta.dtype, meta.intrinsics) == ("uint16", Intrinsics(1, 2, 3, 4))
    assert read_meta(write(tmp_path, {"intrinsics": None})).intrinsics is None
