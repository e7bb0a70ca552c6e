"""A checked, chosen and hashed set of RGB-D pairs to take INT8 ranges from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from edge_fusion.errors import CalibrationError, FrameError, SourceError
from edge_fusion.manifest import CalibrationItemRecord, CalibrationRecord
from edge_fusion.preprocess import Inputs, prepare
from edge_fusion.runtime.source.base import StoredSource
from edge_fusion.runtime.source.uri import open_stored
from edge_fusion.spec import ModelSpec

from .measure import frame_sha256

HOW_TO_MAKE_ONE = (
    "give frames of your own camera with --calib: a folder with rgb/, depth/ and meta.json, "
    "or two globs with the depth declared: "
    "--calib 'folder://DIR?rgb=color/*.png&depth=depth/*.png&unit=mm'; 30 to 100 varied pairs do"
)


@dataclass(frozen=True, slots=True)
class CalibrationOptions:
    """Which pairs to calibrate on.

    Attributes:
        sources: Folders or source URIs, pooled.
        count: How many pairs to choose; all of them where there are fewer.
        seed: Seed of the choice.
    """

    sources: tuple[str, ...]
    count: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.sources:
            raise CalibrationError(
                "INT8 and FP16 need a calibration set, and none was given", cure=HOW_TO_MAKE_ONE
            )
        if self.count < 1:
            raise CalibrationError("calibration pairs", expected="at least 1", got=str(self.count))
        if len(set(self.sources)) < len(self.sources):
            raise CalibrationError("the same calibration set is given twice", cure="name it once")


@dataclass(frozen=True, slots=True)
class CalibrationSet:
    """The chosen pairs, prepared for one model, and the record that goes into the manifest.

    Attributes:
        samples: One dictionary of inputs per pair, batch 1, as the model takes them.
        record: Sources, choice, seed and the hash of every pair.
    """

    samples: tuple[Inputs, ...]
    record: CalibrationRecord


def load_calibration_set(
    options: CalibrationOptions,
    spec: ModelSpec,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> CalibrationSet:
    """Choose, check, hash and prepare the pairs to calibrate on.

    Args:
        options: Sources, number and seed.
        spec: The model's input record; pairs go through the same preprocessing as in streaming.
        progress: Called with the number of pairs done and their total.

    Raises:
        CalibrationError: A source cannot be read, or a chosen pair is unusable; the pair is named.

    Example:
        >>> options = CalibrationOptions(("demo://?frames=4&size=64x48",), count=2)
        >>> chosen = load_calibration_set(options, ModelSpec(name="mine", height=32, width=32))
        >>> len(chosen.samples), chosen.record.available
        (2, 4)
    """
    sources = [_open(uri) for uri in options.sources]
    chosen = choose_random([len(source) for source in sources], options.count, options.seed)
    samples, items = [], []
    for done, (which, index) in enumerate(chosen, start=1):
        source = sources[which]
        try:
            frame = source[index]
            samples.append(prepare(frame, spec))
        except (FrameError, SourceError) as err:
            raise CalibrationError(
                f"calibration set {source.uri}, pair {index}: {err.what}",
                expected=err.expected,
                got=err.got,
                cure=err.cure or "repair or remove that pair",
            ) from err
        items.append(
            CalibrationItemRecord(source=source.uri, id=frame.id, sha256=frame_sha256(frame))
        )
        progress(done, len(chosen))
    record = CalibrationRecord(
        sources=tuple(source.uri for source in sources),
        available=sum(len(source) for source in sources),
        choice="random",
        seed=options.seed,
        items=tuple(items),
        sha256=hashlib.sha256("".join(item.sha256 for item in items).encode()).hexdigest(),
    )
    return CalibrationSet(tuple(samples), record)


def choose_random(lengths: Sequence[int], count: int, seed: int) -> list[tuple[int, int]]:
    """Choose ``count`` pairs uniformly from all sources together, without replacement.

    Returns:
        (source, index) in order; every pair where there are no more than ``count``.

    Example:
        >>> choose_random([2, 1], 10, seed=0)
        [(0, 0), (0, 1), (1, 0)]
    """
    everything = [(which, index) for which, n in enumerate(lengths) for index in range(n)]
    if count >= len(everything):
        return everything
    picked = np.random.default_rng(seed).choice(len(everything), size=count, replace=False)
    return [everything[position] for position in sorted(picked.tolist())]


def _open(uri: str) -> StoredSource:
    try:
        return open_stored(uri, masks=False)
    except SourceError as err:
        raise CalibrationError(
            f"calibration set {uri}: {err.what}",
            expected=err.expected,
            got=err.got,
            cure=err.cure or HOW_TO_MAKE_ONE,
        ) from err
