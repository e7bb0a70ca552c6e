from __future__ import annotations

import struct
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from edge_fusion.errors import FrameError
from edge_fusion.runtime.ros.images import color_from_message, depth_from_message
from edge_fusion.runtime.source import image
from edge_fusion.runtime.source.image import decode_image, read_depth


def png_header(width: int, height: int) -> bytes:
    """A whole PNG of few bytes that claims to be large; its pixels are missing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    size = struct.pack(">IIBBBBB", width, height, 16, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IEND", b"")


def jpeg_claiming(width: int, height: int, before: bytes = b"") -> bytes:
    """A JPEG whose header claims another size than it has."""
    content = cv2.imencode(".jpg", np.zeros((16, 16, 3), np.uint8))[1].tobytes()
    at = content.index(b"\xff\xc0")
    claimed = content[: at + 5] + struct.pack(">HH", height, width) + content[at + 9 :]
    return claimed[:2] + before + claimed[2:]


COMMENT = b"\xff\xfe\x00\x06\xff\xc0\x00\x01"  # what looks like a size in it is none
BOMBS = {
    "png": png_header(16_000, 16_000),
    "a wide png": png_header(2**31 - 1, 1),
    "jpeg": jpeg_claiming(20_000, 20_000),
    "jpeg with a comment and padding": jpeg_claiming(20_000, 20_000, COMMENT + b"\xff\xff"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_what_claims_to_be_huge_is_refused_by_its_header(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("it was decoded")

    monkeypatch.setattr(cv2, "imdecode", never)
    with pytest.raises(FrameError, match="cannot decode 'x': expected at most 64 million pixels"):
        decode_image(BOMBS[name], "x")


def test_files_and_messages_are_guarded_alike(tmp_path: Path) -> None:
    (tmp_path / "d.png").write_bytes(BOMBS["png"])
    with pytest.raises(FrameError, match="got 16000x16000, as its header says"):
        read_depth(tmp_path / "d.png")
    transport = SimpleNamespace(format="16UC1; compressedDepth png", data=bytes(12) + BOMBS["png"])
    plain = SimpleNamespace(format="16UC1; png compressed", data=BOMBS["png"])
    for message in (transport, plain):
        with pytest.raises(FrameError, match="got 16000x16000"):
            depth_from_message(message, "d")
    with pytest.raises(FrameError, match="got 20000x20000"):
        color_from_message(SimpleNamespace(format="jpeg", data=BOMBS["jpeg"]), "c")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tiff"])
def test_an_image_of_the_largest_size_is_decoded(
    suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = cv2.imencode(suffix, np.zeros((40, 50), np.uint8))[1].tobytes()
    monkeypatch.setattr(image, "MOST_PIXELS", 2000)
    assert decode_image(content, "x").shape == (40, 50)
    monkeypatch.setattr(image, "MOST_PIXELS", 1999)
    if suffix in (".png", ".jpg"):
        with pytest.raises(FrameError, match="got 50x40"):
            decode_image(content, "x")


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_header_that_is_cut_off_is_left_to_the_decoder(suffix: str) -> None:
    content = cv2.imencode(suffix, np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    ending = content[-12:] if suffix == ".png" else content[-2:]
    for kept in (4, 10, 20, 40):
        with pytest.raises(FrameError, match="cannot decode 'x'"):
            decode_image(content[:kept] + ending, "x")
