from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_fusion.errors import SourceError
from edge_fusion.runtime.source.demo import DemoSource
from edge_fusion.runtime.source.folder import FolderSource
from edge_fusion.runtime.source.uri import SCHEMES, describe_schemes, open_source, open_stored

RELATIVE = "unit=relative&larger_is=nearer"


@pytest.fixture
def beside(make_set: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A set called ``set`` without meta.json, and the working directory beside it."""
    folder = make_set(meta=None)
    (folder.parent / "cwd").mkdir()
    monkeypatch.chdir(folder.parent / "cwd")
    monkeypatch.setenv("HOME", str(folder.parent))
    return folder


FOLDERS = [
    "folder://../set?unit=mm",  # urllib takes '..' for a host
    "folder://{absolute}?unit=mm",
    "folder://~/set?unit=mm",
    "folder://./../set?unit=mm",
    "folder://%2E./set?unit=mm",
    "FOLDER://../set?unit=mm",
    "../set?unit=mm",
    "~/set?unit=mm",
    "{absolute}?unit=mm",
    "folder://../set?unit=mm&",
    "folder://../set?scale_to_m=0.001&larger_is=farther&invalid=0",
    "folder://../set?rgb=rgb/*.png&depth=depth/*.png&mask=gt/*.png&unit=mm",
    "folder://../set?rgb=rgb/?.png&depth=depth/[ab].png&mask=gt/*&unit=mm",
]


@pytest.mark.parametrize("uri", FOLDERS)
def test_folders(beside: Path, uri: str) -> None:
    source = open_stored(uri.format(absolute=beside))
    frame = source[1]
    assert isinstance(source, FolderSource)
    assert (len(source), frame.id, frame.depth_spec.scale_to_m) == (2, "b", 0.001)
    assert frame.mask is not None


@pytest.mark.parametrize("uri", ["../set?unit=mm", FOLDERS[-1]])
@pytest.mark.parametrize("opener", [open_source, open_stored])
def test_masks_may_be_left_unread(
    beside: Path, uri: str, opener: Callable[..., FolderSource]
) -> None:
    (beside / "gt" / "b.png").write_bytes(b"damaged")
    assert opener(uri.format(absolute=beside), masks=False)[1].mask is None


def test_declared_fields_arrive(beside: Path) -> None:
    spec = open_stored(f"folder://../set?{RELATIVE}&invalid=none")[0].depth_spec
    assert (spec.scale_to_m, spec.larger_is, spec.invalid) == (None, "nearer", None)


def test_plain_path_with_meta(make_set: Callable[..., Path]) -> None:
    folder = make_set()
    odd = folder.rename(folder.parent / "what?unit=none")
    assert len(open_stored(str(odd))) == 2
    assert len(open_stored(os.path.relpath(odd))) == 2


def test_demo() -> None:
    source = open_source("demo://?frames=7&seed=3&size=64x48&fps=10&live=1&noise=tof&cut=0")
    assert isinstance(source, DemoSource)
    assert (len(source), source.live) == (7, True)
    frame = source[2]
    assert (frame.rgb.shape, frame.timestamp_ns) == ((48, 64, 3), 200_000_000)
    assert source.uri == "demo://?frames=7&seed=3&size=64x48&fps=10&live=1&noise=tof&cut=0"
    default = open_stored("demo://")
    assert (len(default), default.live) == (300, False)


BAD = [
    ("realsence://", ["unknown scheme 'realsence'", "folder://, demo://", "path of a folder"]),
    ("http://host/x", ["unknown scheme 'http'"]),
    ("folder://", ["names no folder"]),
    ("folder://../nowhere", ["../nowhere does not exist", "PATH/rgb/ID.png"]),
    ("nowhere", ["nowhere does not exist"]),
    ("", ["names no folder"]),
    ("folder://../set", ["unit of its depth is not declared", "unit=mm"]),
    ("folder://../set?units=mm", ["key 'units' is unknown", "folder:// takes rgb=GLOB", "unit=m|"]),
    ("folder://../set?unit=mm&unit=cm", ["key 'unit' is given twice"]),
    ("folder://../set?unit=feet", ["unit: expected m|cm|mm|0.1mm|relative, got 'feet'"]),
    ("folder://../set?unit", ["unit: expected m|cm", "got ''"]),
    ("folder://../set?scale_to_m=small", ["scale_to_m: expected METRES, got 'small'"]),
    ("folder://../set?scale_to_m=-1", ["impossible", "scale_to_m"]),
    ("folder://../set?unit=mm&scale_to_m=0.1", ["unit=mm contradicts scale_to_m"]),
    ("folder://../set?unit=mm&larger_is=nearer", ["impossible", "unit=relative"]),
    ("folder://../set?unit=relative", ["relative depth without a polarity"]),
    ("folder://../set?unit=mm&larger_is=up", ["larger_is: expected farther|nearer, got 'up'"]),
    ("folder://../set?unit=mm&invalid=x", ["invalid: expected NUMBER|none, got 'x'"]),
    ("folder://../set?unit=mm&rgb=", ["rgb: expected GLOB"]),
    ("folder://../set?unit=mm&rgb=*.png", ["a glob for rgb but none for depth"]),
    ("folder://../set?unit=mm&rgb=x/*&depth=d/*", ["holds no colour images at x/*"]),
    ("demo://seed=3", ["demo://?key=value"]),
    ("demo://?sed=3", ["key 'sed' is unknown", "demo:// takes frames=COUNT"]),
    ("demo://?seed=x", ["seed: expected NUMBER, got 'x'"]),
    ("demo://?seed=-1", ["demo: seed: expected 0 to"]),
    ("demo://?frames=0", ["demo: frames: expected 1 to"]),
    ("demo://?size=640", ["size: expected WIDTHxHEIGHT, got '640'"]),
    ("demo://?size=8x8", ["demo: width: expected 32 to 4096, got 8"]),
    ("demo://?fps=0", ["demo: fps"]),
    ("demo://?fps=nan", ["demo: fps"]),
    ("demo://?live=maybe", ["live: expected 0|1, got 'maybe'"]),
    ("demo://?noise=loud", ["noise: expected stereo|tof|structured|none|mixed, got 'loud'"]),
]


@pytest.mark.parametrize(("uri", "parts"), BAD)
def test_bad_uris(beside: Path, uri: str, parts: list[str]) -> None:
    with pytest.raises(SourceError) as caught:
        open_source(uri)
    for part in parts:
        assert part in str(caught.value)


def test_live_is_not_stored() -> None:
    with pytest.raises(
        SourceError, match=r"cannot be counted: expected stored pairs.*without live=1"
    ):
        open_stored("demo://?live=1")


def test_every_scheme_and_key_is_described() -> None:
    text = describe_schemes()
    for name, scheme in SCHEMES.items():
        assert f"{name}://" in text
        for key in scheme.keys:
            assert f"{key}=" in text


def test_a_stored_source_may_be_played_otherwise() -> None:
    few = open_stored("demo://?frames=10&size=32x32&start=2&stride=4")
    assert [frame.number for frame in few.frames()] == [2, 6]
    paced = open_source("demo://?frames=2&size=32x32&pace=200")
    assert paced.live
    assert paced.uri.endswith("&pace=200")
    assert [frame.number for frame in paced.frames()] == [0, 1]


@pytest.mark.parametrize(
    ("uri", "match"),
    [
        ("demo://?live=1&loop=1", r"is a camera: got loop; leave that out"),
        ("demo://?loop=1", r"cannot be counted.*leave out loop and pace"),
        ("demo://?pace=slow", r"pace: expected fast\|real\|RATE, got 'slow'"),
        ("demo://?pace=0", r"pace: expected 0.1 to 1000 pairs a second, got 0"),
        ("demo://?reconnect=1", r"key 'reconnect' is unknown"),  # nothing can be lost
    ],
)
def test_what_means_nothing_is_refused(uri: str, match: str) -> None:
    with pytest.raises(SourceError, match=match):
        open_stored(uri)


CAMERA = "rtsp://cam/1?depth=rtsp://"
CUT_PASSWORDS = [
    # a password with ? & or =, which cuts it into what looks like keys and values
    ("rtsp://me:pa?ssw0rd@cam/1?depth=rtsp://cam/2&unit=mm", r"key '\*\*\*' is unknown"),
    (f"{CAMERA}me:p&ssw0rd@cam/2&unit=mm", r"key '\*\*\*' is unknown"),
    (f"{CAMERA}me:p&ssw0rd&x@cam/2&unit=mm", r"key '\*\*\*' is unknown"),
    (f"{CAMERA}me:p&ssw0rd=x@cam/2&unit=mm", r"key '\*\*\*' is unknown"),
    (f"{CAMERA}me:p&unit=ssw0rd@cam/2", r"unit: expected m\|cm.*got '\*\*\*'"),
    (f"{CAMERA}me:p&unit=ssw0rd&x@cam/2", r"unit: expected m\|cm.*got '\*\*\*'"),
    # a mistyped scheme
    ("rtsp:me:ssw0rd@cam/1", r"'\*\*\*@cam/1' is neither a folder nor an address.*mind the ://"),
    ("rtsp:/me:ssw0rd@cam", r"neither a folder nor an address"),
    ("rtsp//me:ss?w0rd@cam/1", r"neither a folder nor an address"),
    ("me:ssw0rd@cam/1?depth=me:ssw0rd@cam/2", r"neither a folder nor an address"),
    ("rtps://me:ssw0rd@cam/1", r"unknown scheme 'rtps'"),
    ("rtsp://cam/1?depth=rtsp:me:ssw0rd@cam/2&unit=mm", r"depth camera '\*\*\*': expected rtsp://"),
]


@pytest.mark.parametrize(("uri", "match"), CUT_PASSWORDS)
def test_no_piece_of_a_password_is_shown(uri: str, match: str) -> None:
    with pytest.raises(SourceError, match=match) as caught:
        open_source(uri)
    told = "".join(traceback.format_exception(caught.value)).rpartition("SourceError:")[2]
    assert "w0rd" not in told
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_a_scheme_without_its_slashes() -> None:
    with pytest.raises(SourceError, match=r"'demo:seed=3' is neither .*mind the ://"):
        open_source("demo:seed=3")
