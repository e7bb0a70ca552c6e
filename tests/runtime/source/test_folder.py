from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edge_fusion.errors import EdgeFusionError, FrameError, SourceError
from edge_fusion.runtime.ledger import reason_of
from edge_fusion.runtime.source.base import StoredSource
from edge_fusion.runtime.source.folder import FolderSource
from edge_fusion.spec import DepthSpec

MM = DepthSpec(scale_to_m=0.001)


def save(path: Path, image: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, image)
    else:
        path.write_bytes(cv2.imencode(path.suffix, image)[1].tobytes())
    return path


def plane(dtype: Any = np.uint16, height: int = 24, width: int = 32) -> Any:
    return np.random.default_rng(2).integers(1, 250, (height, width)).astype(dtype)


def test_reads_pairs_with_masks_and_intrinsics(make_set: Callable[..., Path]) -> None:
    folder = make_set()
    meta = json.loads((folder / "meta.json").read_text())
    meta["intrinsics"] = {"fx": 1.5, "fy": 2, "cx": 3, "cy": 4, "provenance": "made up"}
    (folder / "meta.json").write_text(json.dumps(meta))
    source = FolderSource(folder)
    frame = source[1]
    assert isinstance(source, StoredSource)
    assert (len(source), source.live, source.depth_spec) == (2, False, MM)
    assert (frame.id, frame.number, frame.rgb.shape) == ("b", 1, (24, 32, 3))
    assert frame.depth.dtype == np.uint16
    assert frame.mask is not None
    assert frame.mask.sum() == 8 * 12
    assert frame.intrinsics is not None
    assert frame.intrinsics.fx == 1.5


def test_colour_comes_red_first(make_set: Callable[..., Path]) -> None:
    folder = make_set(ids=("a",))
    bgr = np.zeros((24, 32, 3), np.uint8)
    bgr[..., 2] = 200
    save(folder / "rgb" / "a.png", bgr)
    assert FolderSource(folder)[0].rgb[0, 0].tolist() == [200, 0, 0]


def test_alpha_is_dropped(make_set: Callable[..., Path]) -> None:
    folder = make_set(ids=("a",))
    bgra = np.zeros((24, 32, 4), np.uint8)
    bgra[:] = (10, 20, 30, 0)
    save(folder / "rgb" / "a.png", bgra)
    assert FolderSource(folder)[0].rgb[0, 0].tolist() == [30, 20, 10]


def test_pairs_are_sorted_naturally(make_set: Callable[..., Path]) -> None:
    folder = make_set(ids=("f10", "f2", "f1", "g"), masks=False)
    assert [frame.id for frame in FolderSource(folder).frames()] == ["f1", "f2", "f10", "g"]


def test_masks_may_be_partial(make_set: Callable[..., Path]) -> None:
    folder = make_set()
    (folder / "gt" / "a.png").unlink()
    first, second = FolderSource(folder).frames()
    assert first.mask is None
    assert second.mask is not None


def test_index_past_the_end(make_set: Callable[..., Path]) -> None:
    source = FolderSource(make_set())
    with pytest.raises(IndexError, match="pair 2 of 2"):
        source[2]
    assert [frame.id for frame in source] == ["a", "b"]  # type: ignore[attr-defined]


GLOBS = [
    # one folder, names that differ by a tag
    ("*_color.jpg", "*_depth.png", "7_color.jpg", "7_depth.png", "7"),
    # two folders with another name
    ("left/*.bmp", "aligned/*.tiff", "left/x.bmp", "aligned/x.tiff", "x"),
    # one folder per pair
    ("scene*/rgb.png", "scene*/depth.npy", "scene03/rgb.png", "scene03/depth.npy", "03"),
    # any depth of folders
    ("**/c_*.png", "**/d_*.png", "u/v/c_1.png", "u/v/d_1.png", "u-v-1"),
]


@pytest.mark.parametrize(("rgb", "depth", "rgb_file", "depth_file", "name"), GLOBS)
def test_globs_match_by_what_they_leave_open(
    tmp_path: Path, rgb: str, depth: str, rgb_file: str, depth_file: str, name: str
) -> None:
    save(tmp_path / rgb_file, np.zeros((24, 32, 3), np.uint8))
    save(tmp_path / depth_file, plane())
    source = FolderSource(tmp_path, rgb=rgb, depth=depth, depth_spec=MM)
    assert [frame.id for frame in source.frames()] == [name]
    np.testing.assert_array_equal(source[0].depth, plane())
    assert source[0].mask is None


DEPTHS = [
    ("a.npy", plane(np.float32), np.float32),
    ("a.npy", plane(np.float64), np.float32),
    ("a.npy", plane(np.uint16)[..., None], np.uint16),
    ("a.tiff", plane(np.float32), np.float32),
    ("a.tif", plane(np.uint16), np.uint16),
    ("a.pgm", plane(np.uint16), np.uint16),
    ("a.png", cv2.merge([plane(np.uint8)] * 3), np.uint8),  # grey saved as colour
    ("a.PNG", plane(np.uint8), np.uint8),
]


@pytest.mark.parametrize(("name", "stored", "dtype"), DEPTHS)
def test_depth_file_kinds(
    make_set: Callable[..., Path], name: str, stored: Any, dtype: Any
) -> None:
    folder = make_set(ids=("a",), meta={"unit": "cm"})
    (folder / "depth" / "a.png").unlink()
    save(folder / "depth" / name, stored)
    frame = FolderSource(folder)[0]
    assert frame.depth.dtype == dtype
    expected = stored[..., 0] if stored.ndim == 3 else stored
    np.testing.assert_array_equal(frame.depth, expected.astype(dtype))


def test_grey_mask_levels(make_set: Callable[..., Path]) -> None:
    folder = make_set(ids=("a",))
    grey = np.zeros((24, 32), np.uint8)
    grey[0, :4] = (127, 128, 255, 1)
    save(folder / "gt" / "a.png", grey)
    frame = FolderSource(folder)[0]
    assert frame.mask is not None
    assert frame.mask[0, :4].tolist() == [False, True, True, False]


def truncate(path: Path, share: float = 0.9) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def _jpeg_cut(folder: Path) -> None:
    (folder / "rgb" / "a.png").unlink()
    truncate(save(folder / "rgb" / "a.jpg", plane(np.uint8, 24, 96).reshape(24, 32, 3)))


BAD_FILES: list[tuple[str, Callable[[Path], object], type[EdgeFusionError], list[str]]] = [
    (
        "truncated png",
        lambda f: truncate(f / "depth/a.png"),
        FrameError,
        ["depth/a.png", "cut off before its end", "copy it again"],
    ),
    ("truncated jpeg", _jpeg_cut, FrameError, ["rgb/a.jpg", "cut off before its end"]),
    (
        "zero bytes",
        lambda f: (f / "rgb/a.png").write_bytes(b""),
        FrameError,
        ["rgb/a.png", "an empty file"],
    ),
    (
        "text with the suffix of an image",
        lambda f: (f / "gt/a.png").write_text("not an image"),
        FrameError,
        ["gt/a.png", "no image"],
    ),
    (
        "damaged inside",
        lambda f: (f / "depth/a.png").write_bytes(
            (b := (f / "depth/a.png").read_bytes())[:90] + bytes(99) + b[189:]
        ),
        FrameError,
        ["depth/a.png", "damaged"],
    ),
    (
        "depth where colour should be",
        lambda f: save(f / "rgb/a.png", plane()),
        FrameError,
        ["rgb/a.png", "three 8-bit channels", "24x32 uint16", "streams swapped"],
    ),
    (
        "16-bit colour",
        lambda f: save(f / "rgb/a.png", plane(np.uint16, 24, 96).reshape(24, 32, 3)),
        FrameError,
        ["rgb/a.png", "uint16", "streams swapped"],
    ),
    (
        "colour where depth should be",
        lambda f: save(f / "depth/a.png", plane(np.uint8, 24, 96).reshape(24, 32, 3)),
        FrameError,
        ["depth/a.png", "one channel", "a colour image", "streams swapped"],
    ),
    (
        "depth of another size",
        lambda f: save(f / "depth/a.png", plane(np.uint16, 24, 30)),
        FrameError,
        ["depth of 'a'", "expected 32x24 pixels, got 30x24", "register depth"],
    ),
    (
        "mask of another size",
        lambda f: save(f / "gt/a.png", np.zeros((12, 16), np.uint8)),
        FrameError,
        ["mask of 'a'", "expected 32x24 pixels, got 16x12"],
    ),
    (
        "8-bit depth declared in millimetres",
        lambda f: save(f / "depth/a.png", plane(np.uint8)),
        FrameError,
        ["depth of 'a' is 8-bit", "0.255 m", "unit=relative"],
    ),
    (
        "a mask that counts 0 and 1",
        lambda f: save(f / "gt/a.png", np.eye(24, 32, dtype=np.uint8)),
        FrameError,
        ["gt/a.png", "no value above 1", "scale it to 0 and 255"],
    ),
    (
        "a mask in colour",
        lambda f: save(f / "gt/a.png", plane(np.uint8, 24, 96).reshape(24, 32, 3)),
        FrameError,
        ["mask", "gt/a.png", "a colour image"],
    ),
    (
        "a mask of 16 bits",
        lambda f: save(f / "gt/a.png", plane()),
        FrameError,
        ["gt/a.png", "8-bit grey", "uint16"],
    ),
]


@pytest.mark.parametrize(
    ("spoil", "error", "parts"), [row[1:] for row in BAD_FILES], ids=[row[0] for row in BAD_FILES]
)
def test_bad_file_is_named_when_read(
    make_set: Callable[..., Path],
    spoil: Callable[[Path], object],
    error: type[EdgeFusionError],
    parts: list[str],
) -> None:
    folder = make_set()
    spoil(folder)
    source = FolderSource(folder)  # opening reads no image
    source[1]
    with pytest.raises(error) as caught:
        source[0]
    for part in parts:
        assert part in str(caught.value)


BAD_ARRAYS = [
    ("int32", np.ones((24, 32), np.int32), FrameError, "expected uint8, uint16 or float32"),
    ("two planes", np.ones((2, 24, 32), np.float32), FrameError, "expected (H, W)"),
    ("objects", np.array([[{}]], object), FrameError, "a plain .npy array"),
]


def _archive() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, depth=plane())
    return buffer.getvalue()


def _array() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, plane())
    return buffer.getvalue()


BAD_BYTES = [
    ("empty", b""),
    ("cut off", _array()[:-9]),
    ("cut off in its header", _array()[:30]),
    ("not an array", b"words"),
    ("an archive", _archive()),
    ("an archive cut off", _archive()[:-40]),
    ("a size out of this world", _array().replace(b"(24, 32)", b"(9999999999999, 32)")),
]


@pytest.mark.parametrize("content", [row[1] for row in BAD_BYTES], ids=[r[0] for r in BAD_BYTES])
def test_a_damaged_array_is_one_bad_pair(make_set: Callable[..., Path], content: bytes) -> None:
    folder = make_set(ids=("a",))
    (folder / "depth" / "a.png").unlink()
    (folder / "depth" / "a.npy").write_bytes(content)
    with pytest.raises(FrameError, match=r"depth/a\.npy'"):
        FolderSource(folder)[0]


@pytest.mark.parametrize("name", ["rgb/a.png", "depth/a.png", "gt/a.png"])
def test_a_file_that_vanished_is_no_bad_pair_but_a_bad_source(
    make_set: Callable[..., Path], name: str
) -> None:
    folder = make_set()
    source = FolderSource(folder)
    (folder / name).unlink()
    with pytest.raises(SourceError, match=f"cannot read .*{name}.*No such file"):
        source[0]


def test_a_thousand_damaged_files_are_one_reason(make_set: Callable[..., Path]) -> None:
    folder = make_set()
    reasons = set()
    for name in "ab":
        truncate(folder / "depth" / f"{name}.png")
        with pytest.raises(FrameError) as caught:
            FolderSource(folder)["ab".index(name)]
        reasons.add(reason_of("unusable frame", caught.value))
    assert reasons == {"unusable frame: cannot decode"}


SPOILT_MASKS: list[tuple[str, Callable[[Path], object]]] = [
    ("damaged", lambda f: truncate(f / "gt/a.png")),
    ("of another size", lambda f: save(f / "gt/a.png", np.zeros((12, 16), np.uint8))),
    ("without a partner", lambda f: save(f / "gt/z.png", np.zeros((24, 32), np.uint8))),
    ("of a kind we do not read", lambda f: [p.rename(f"{p}.exr") for p in (f / "gt").iterdir()]),
]


@pytest.mark.parametrize("spoil", [r[1] for r in SPOILT_MASKS], ids=[r[0] for r in SPOILT_MASKS])
def test_masks_that_nobody_needs_cannot_fail(
    make_set: Callable[..., Path], spoil: Callable[[Path], object]
) -> None:
    folder = make_set()
    spoil(folder)
    with pytest.raises((FrameError, SourceError)):
        FolderSource(folder)[0]
    source = FolderSource(folder, masks=False)
    assert [frame.mask for frame in source.frames()] == [None, None]


def test_a_source_without_masks_is_called_as_it_was_written(make_set: Callable[..., Path]) -> None:
    globs = {"rgb": "rgb/*", "depth": "depth/*", "mask": "gt/*"}
    folder = make_set()
    assert FolderSource(folder, **globs, masks=False).uri == FolderSource(folder, **globs).uri


@pytest.mark.parametrize(
    ("array", "error", "part"), [row[1:] for row in BAD_ARRAYS], ids=[row[0] for row in BAD_ARRAYS]
)
def test_bad_array_is_named(
    make_set: Callable[..., Path], array: Any, error: type[EdgeFusionError], part: str
) -> None:
    folder = make_set(ids=("a",))
    (folder / "depth" / "a.png").unlink()
    np.save(folder / "depth" / "a.npy", array, allow_pickle=True)
    with pytest.raises(error) as caught:
        FolderSource(folder)[0]
    assert part in str(caught.value)
    assert "a.npy" in str(caught.value)


def test_declared_dtype_is_held(make_set: Callable[..., Path]) -> None:
    folder = make_set(ids=("a",), meta={"unit": "m", "dtype": "float32"})
    with pytest.raises(FrameError, match=r"depth/a\.png.*float32, as meta\.json.*uint16"):
        FolderSource(folder)[0]


BAD_SETS: list[tuple[str, Callable[[Path], object], list[str]]] = [
    (
        "colour without depth",
        lambda f: (f / "depth/b.png").unlink(),
        ["1 of 2 files have no depth image", "rgb/b.png", "globs"],
    ),
    (
        "depth without colour",
        lambda f: save(f / "depth/c.png", plane()),
        ["1 of 3 files have no colour image", "depth/c.png"],
    ),
    (
        "mask without colour",
        lambda f: save(f / "gt/a_mask.png", plane(np.uint8)),
        ["1 of 3 files have no colour image", "gt/a_mask.png"],
    ),
    (
        "many without a partner",
        lambda f: [save(f / f"depth/x{n}.png", plane()) for n in range(12)],
        ["12 of 14", "depth/x0.png, depth/x1.png, depth/x2.png and 9 more"],
    ),
    (
        "two files of one name",
        lambda f: save(f / "rgb/a.jpg", np.zeros((24, 32, 3), np.uint8)),
        ["two colour images are called 'a'", "rgb/a.jpg and rgb/a.png", "remove one"],
    ),
    (
        "no depth folder",
        lambda f: (f / "depth").rename(f / "d"),
        ["no subfolder depth", "PATH/depth/ID.png", "d/, gt/, meta.json, rgb/", "rename"],
    ),
    (
        "depth of a kind we do not read",
        lambda f: [p.rename(p.with_suffix(".exr")) for p in (f / "depth").iterdir()],
        ["holds no depth images", "a.exr", ".png"],
    ),
]


@pytest.mark.parametrize(
    ("spoil", "parts"), [row[1:] for row in BAD_SETS], ids=[row[0] for row in BAD_SETS]
)
def test_bad_set_is_refused_when_opened(
    make_set: Callable[..., Path], spoil: Callable[[Path], object], parts: list[str]
) -> None:
    folder = make_set()
    spoil(folder)
    with pytest.raises(SourceError) as caught:
        FolderSource(folder)
    for part in parts:
        assert part in str(caught.value)


def test_hidden_files_are_ignored(make_set: Callable[..., Path]) -> None:
    folder = make_set()
    (folder / "depth" / "._a.png").write_bytes(b"resource fork")
    assert len(FolderSource(folder)) == 2


def test_missing_folder_and_file(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"nowhere does not exist.*PATH/rgb/ID\.png"):
        FolderSource(tmp_path / "nowhere")
    file = save(tmp_path / "one.png", plane())
    with pytest.raises(SourceError, match=r"one\.png is a file: expected a folder"):
        FolderSource(file)


def test_one_glob_alone(make_set: Callable[..., Path]) -> None:
    with pytest.raises(SourceError, match="a glob for rgb but none for depth; give both"):
        FolderSource(make_set(), rgb="rgb/*.png")


def test_glob_outside_the_folder(make_set: Callable[..., Path]) -> None:
    with pytest.raises(SourceError, match=r"glob '/etc/\*'.*relative to the folder"):
        FolderSource(make_set(), rgb="/etc/*", depth="/etc/*")


def test_uri_reopens_an_equal_source(make_set: Callable[..., Path]) -> None:
    from edge_fusion.runtime.source.uri import open_stored

    folder = make_set(meta=None).rename(make_set().parent / "a set & 100%?")
    (folder / "meta.json").unlink(missing_ok=True)
    for spec in (
        MM,
        DepthSpec(scale_to_m=None, larger_is="nearer", invalid=None),
        DepthSpec(scale_to_m=0.00025, invalid=65535),
        DepthSpec(scale_to_m=0.00012345678901, invalid=1048575),  # more digits than %g keeps
    ):
        source = FolderSource(folder, rgb="rgb/*.png", depth="depth/*.png", depth_spec=spec)
        again = open_stored(source.uri)
        assert again.uri == source.uri
        assert again[1].depth_spec == spec
        assert again[1].id == "b"


@pytest.mark.parametrize(
    ("name", "count", "masks"),
    [
        ("tabletop_uois", 9, True),
        ("tabletop_ycb_realsense", 5, True),
        ("gqcnn_primesense", 17, True),
        ("gqcnn_phoxi_bin", 10, True),
        ("uw_rgbd_objects", 11, True),
        ("pothole_d2", 40, True),
        ("streams/hololens_office", 60, False),
        ("streams/d435_robot_lab", 35, False),
        ("backgrounds", 243, False),
    ],
)
def test_real_sets(real_data: Path, name: str, count: int, masks: bool) -> None:
    source = FolderSource(real_data / name)
    meta = json.loads((real_data / name / "meta.json").read_text())
    assert len(source) == count == meta["count"]
    assert source.depth_spec.larger_is == meta["depth"]["larger_is"]
    assert source.depth_spec.scale_to_m == meta["depth"]["scale_to_m"]
    for index in range(0, count, 6):
        frame = source[index]
        assert frame.valid.mean() > 0.05
        assert (frame.mask is not None) == masks
