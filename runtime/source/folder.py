"""``folder://``: pairs stored as files, ``{rgb,depth,gt}/<id>.*`` or two globs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import quote

from edge_fusion.errors import SourceError
from edge_fusion.files import natural_key
from edge_fusion.frame import RgbdFrame
from edge_fusion.spec import DepthSpec

from .declared import DepthFields, read_meta, resolve_depth, spec_fields
from .image import DEPTH_SUFFIXES, MASK_SUFFIXES, RGB_SUFFIXES, read_depth, read_mask, read_rgb

LAYOUT = (
    "PATH/rgb/ID.png, PATH/depth/ID.png with the same IDs, if known PATH/gt/ID.png, "
    "and PATH/meta.json with the unit of depth"
)
_SHOWN = 3  # files named in a message


@dataclass(frozen=True, slots=True)
class _Item:
    """The files of one pair."""

    id: str
    rgb: Path
    depth: Path
    mask: Path | None


class FolderSource:
    """RGB-D pairs in a folder, matched by name, sorted naturally (``2`` before ``10``).

    Args:
        path: The folder.
        rgb: Glob of the colour images relative to ``path``; None: ``rgb/*``.
        depth: Glob of the depth images; given exactly when ``rgb`` is; None: ``depth/*``.
        mask: Glob of the masks; None: ``gt/*`` beside ``rgb/*``, none with globs.  Pairs without
            a mask have none.
        depth_spec: What the depth means, whole or in part; ``meta.json`` gives the rest and may
            not disagree.
        masks: Whether to read masks.  False where nobody needs them: then none is looked for, and
            none can fail.

    Files belong together when the parts of their names that the globs leave open are equal:
    ``rgb=*_color.png&depth=*_depth.png`` matches ``7_color.png`` with ``7_depth.png``.

    Raises:
        SourceError: The folder, a subfolder or a partner is missing, or the depth's unit is not
            declared.

    Example:
        >>> source = FolderSource("captures/desk")                      # doctest: +SKIP
        >>> len(source), source[0].id                                   # doctest: +SKIP
        (120, '0000')
    """

    def __init__(
        self,
        path: str | Path,
        rgb: str | None = None,
        depth: str | None = None,
        mask: str | None = None,
        depth_spec: DepthSpec | DepthFields | None = None,
        *,
        masks: bool = True,
    ) -> None:
        self._written = str(path)
        self._globs = {"rgb": rgb, "depth": depth, "mask": mask}
        self._path = _folder(path)
        self._items = _pair(self._path, **self._globs, masks=masks)
        declared = spec_fields(depth_spec) if isinstance(depth_spec, DepthSpec) else depth_spec
        self._declared = declared or DepthFields()
        self._meta = read_meta(self._path)
        self._depth_spec = resolve_depth(str(self._path), self._declared, self._meta.depth)

    @property
    def uri(self) -> str:
        """The URI that opens an equal source."""
        query = {name: glob for name, glob in self._globs.items() if glob is not None}
        for name, value in self._declared.items():
            query[name] = "none" if value is None else str(value)  # of a float: every digit
        if query.get("scale_to_m") == "none":
            del query["scale_to_m"]
            query["unit"] = "relative"
        pairs = "&".join(f"{name}={quote(value, safe='/*[]!.')}" for name, value in query.items())
        path = quote(self._written, safe="/~ ")
        return f"folder://{path}?{pairs}" if pairs else f"folder://{path}"

    @property
    def live(self) -> bool:
        """False: every pair is delivered."""
        return False

    @property
    def depth_spec(self) -> DepthSpec:
        """Unit, polarity and invalid value of every pair's depth."""
        return self._depth_spec

    @property
    def registered(self) -> bool | None:
        """Whether ``meta.json`` says that depth is registered to colour; None: it says nothing."""
        return self._meta.registered

    @property
    def ids(self) -> tuple[str, ...]:
        """The names of all pairs, in order."""
        return tuple(item.id for item in self._items)

    def files(self, index: int) -> tuple[Path, Path]:
        """The colour and the depth file of pair ``index``."""
        item = self._items[index]
        return item.rgb, item.depth

    def __len__(self) -> int:
        """How many pairs there are."""
        return len(self._items)

    def __getitem__(self, index: int) -> RgbdFrame:
        """Read pair ``index``, 0 up to the length.

        Raises:
            SourceError: A file cannot be read.
            FrameError: A file is damaged, or they do not make a pair: swapped, or of different
                size.
        """
        if not 0 <= index < len(self._items):
            raise IndexError(f"pair {index} of {len(self._items)} in {self._path}")
        item = self._items[index]
        mask, grey = read_mask(item.mask) if item.mask else (None, 0.0)
        return RgbdFrame(
            rgb=read_rgb(item.rgb),
            depth=read_depth(item.depth, self._meta.dtype),
            depth_spec=self._depth_spec,
            id=item.id,
            number=index,
            mask=mask,
            intrinsics=self._meta.intrinsics,
            mask_grey=grey,
        )

    def frames(self) -> Iterator[RgbdFrame]:
        """Every pair in order."""
        return (self[index] for index in range(len(self)))


def _folder(path: str | Path) -> Path:
    folder = Path(path).expanduser()
    if not folder.exists():
        raise SourceError(f"folder {folder} does not exist", cure=f"expected {LAYOUT}")
    if not folder.is_dir():
        raise SourceError(f"{folder} is a file", expected="a folder", cure=f"expected {LAYOUT}")
    return folder


def _pair(
    folder: Path, rgb: str | None, depth: str | None, mask: str | None, *, masks: bool
) -> tuple[_Item, ...]:
    if (rgb is None) != (depth is None):
        given, missing = ("rgb", "depth") if depth is None else ("depth", "rgb")
        raise SourceError(
            f"{folder}: a glob for {given} but none for {missing}",
            cure=f"give both, or neither for the layout {LAYOUT}",
        )
    if rgb is None or depth is None:
        _check_layout(folder)
        rgb, depth = "rgb/*", "depth/*"
        mask = mask or ("gt/*" if (folder / "gt").is_dir() else None)
    colours = _files(folder, rgb, RGB_SUFFIXES, "colour images")
    depths = _files(folder, depth, DEPTH_SUFFIXES, "depth images")
    truths = _files(folder, mask, MASK_SUFFIXES, "masks") if mask and masks else {}
    _check_partners(folder, colours, depths, truths)
    return tuple(
        _Item(key, colours[key], depths[key], truths.get(key))
        for key in sorted(colours, key=natural_key)
    )


def _check_layout(folder: Path) -> None:
    missing = [name for name in ("rgb", "depth") if not (folder / name).is_dir()]
    if not missing:
        return
    found = sorted(entry.name + "/" * entry.is_dir() for entry in folder.iterdir())[:6]
    raise SourceError(
        f"{folder} has no subfolder {' and no subfolder '.join(missing)}",
        expected=LAYOUT,
        got=", ".join(found) or "an empty folder",
        cure="rename the subfolders, or say where the files are: "
        "folder://PATH?rgb=color/*.png&depth=aligned/*.png&unit=mm",
    )


def _files(folder: Path, glob: str, suffixes: tuple[str, ...], what: str) -> dict[str, Path]:
    """The readable files of a glob by what it leaves open of their names."""
    try:
        matched = sorted(path for path in folder.glob(glob) if path.is_file())
    except (ValueError, NotImplementedError, OSError) as err:
        raise SourceError(
            f"{folder}: glob '{glob}'", expected="a pattern relative to the folder", got=str(err)
        ) from err
    visible = [path for path in matched if not path.name.startswith(".")]
    readable = [path for path in visible if path.suffix.lower() in suffixes]
    if not readable:
        others = ", ".join(path.name for path in visible[:_SHOWN])
        raise SourceError(
            f"{folder} holds no {what} at {glob}",
            expected=f"files ending in {' '.join(suffixes)}",
            got=others,
            cure="convert them, or correct the glob" if others else "correct the glob",
        )
    found: dict[str, Path] = {}
    name_of = _namer(glob)
    for path in readable:
        key = name_of(path.relative_to(folder).as_posix())
        if key in found:
            raise SourceError(
                f"{folder}: two {what} are called '{key}'",
                got=f"{found[key].relative_to(folder)} and {path.relative_to(folder)}",
                cure="remove one of them",
            )
        found[key] = path
    return found


_WILDCARDS = {"**/": "(?:(.*)/)?", "**": "(.*)", "*": "([^/]*)", "?": "([^/])"}


def _namer(glob: str) -> Callable[[str], str]:
    """What names a pair: the parts of a path that the glob leaves open, without file suffix."""
    stem = re.sub(r"\.(\*|\w+)$", "", glob)
    pieces = re.split(r"(\*\*/|\*\*|\*|\?|\[[^]]*\])", stem)
    pattern = "".join(
        _WILDCARDS.get(piece, f"({piece})" if piece.startswith("[") else re.escape(piece))
        for piece in pieces
    ).replace("([!", "([^")

    def name(path: str) -> str:
        without_suffix = str(PurePosixPath(path).with_suffix(""))
        match = re.fullmatch(pattern, without_suffix)
        parts = [part for part in match.groups() if part] if match else []
        return "-".join(parts).replace("/", "-") or PurePosixPath(path).stem

    return name


def _check_partners(
    folder: Path, colours: Mapping[str, Path], depths: Mapping[str, Path], masks: Mapping[str, Path]
) -> None:
    """Every colour image has a depth, every depth and every mask a colour image."""
    for have, other, missing in (
        (colours, depths, "depth image"),
        (depths, colours, "colour image"),
        (masks, colours, "colour image"),
    ):
        alone = sorted(have.keys() - other.keys(), key=natural_key)
        if alone:
            names = ", ".join(str(have[key].relative_to(folder)) for key in alone[:_SHOWN])
            more = f" and {len(alone) - _SHOWN} more" if len(alone) > _SHOWN else ""
            raise SourceError(
                f"{folder}: {len(alone)} of {len(have)} files have no {missing} of the same name",
                got=names + more,
                cure="add the partners, remove these files, or give globs "
                "(rgb=*_color.png&depth=*_depth.png) if the names differ",
            )
