"""The checked, chosen and hashed pairs that INT8 ranges are taken from, prepared for one model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edge_fusion.calibration_file import PairRecord, digest_of
from edge_fusion.errors import CalibrationError, FrameError, SourceError
from edge_fusion.frame import RgbdFrame
from edge_fusion.input_ranges import InputRanges
from edge_fusion.input_statistics import InputStatistics
from edge_fusion.manifest import CalibrationItemRecord, CalibrationRecord
from edge_fusion.preprocess import Inputs, prepare
from edge_fusion.runtime.input_counter import RangesMaker
from edge_fusion.runtime.source.base import StoredSource
from edge_fusion.spec import DepthSpec, ModelSpec

from .check_rules import Judged
from .checks import Finding, check_pairs, refuse_errors
from .choose import choose_random
from .measure import measure
from .pool import HOW_TO_MAKE_ONE, Pool, of_pair
from .set_folder import SetSource

USUAL_COUNT = 64


@dataclass(frozen=True, slots=True)
class CalibrationOptions:
    """Which pairs to calibrate on.

    Attributes:
        sources: Sets, folders or source URIs, pooled.
        count: How many pairs to choose at random; all of them where there are fewer.  None takes
            sets made by ``calib`` as they are, and 64 of all others together.
        seed: Seed of the choice.
    """

    sources: tuple[str, ...]
    count: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.sources:
            raise CalibrationError(
                "INT8 and FP16 need a calibration set, and none was given", cure=HOW_TO_MAKE_ONE
            )
        if self.count is not None and self.count < 1:
            raise CalibrationError("calibration pairs", expected="at least 1", got=str(self.count))
        if len(set(self.sources)) < len(self.sources):
            raise CalibrationError("the same calibration set is given twice", cure="name it once")


@dataclass(frozen=True, slots=True)
class CalibrationSet:
    """The chosen pairs, prepared for one model, and the record that goes into the manifest.

    Attributes:
        samples: One dictionary of inputs per pair, batch 1, as the model takes them.
        record: Sources, choice, seed and the hash of every pair.
        findings: What the checks warn of.
        ranges: What the pairs look like, so that drift from them can be told later.
    """

    samples: tuple[Inputs, ...]
    record: CalibrationRecord
    findings: tuple[Finding, ...] = ()
    ranges: InputRanges | None = None


def load_calibration_set(
    options: CalibrationOptions,
    spec: ModelSpec,
    progress: Callable[[int, int], None] = lambda done, total: None,
    known: InputStatistics | None = None,
) -> CalibrationSet:
    """Choose, check, hash and prepare the pairs to calibrate on.

    Args:
        options: Sources, number and seed.
        spec: The model's input record; pairs go through the same preprocessing as in streaming.
        progress: Called with the number of pairs done and their total.
        known: What the model was trained on; None where nobody knows.

    Raises:
        CalibrationError: A source cannot be read, a chosen pair is unusable or was changed after
            its set was made, the pair being named; or a check found an error.

    Example:
        >>> options = CalibrationOptions(("demo://?frames=4&size=64x48",), count=2)
        >>> chosen = load_calibration_set(options, ModelSpec(name="mine", height=32, width=32))
        >>> len(chosen.samples), chosen.record.available
        (2, 4)
    """
    pool = Pool(options.sources)
    chosen = _choose(pool, options)
    samples: list[Inputs] = []
    judged: dict[tuple[DepthSpec, str], list[PairRecord]] = {}
    items: list[CalibrationItemRecord] = []
    looks = RangesMaker(spec)
    for done, (which, index) in enumerate(chosen, start=1):
        source, frame = pool.sources[which], pool.read(which, index)
        samples.append(_prepared(source, index, frame, spec))
        looks.add(frame)
        pair = _measured(source, which, index, frame)
        judged.setdefault((frame.depth_spec, str(frame.depth.dtype)), []).append(pair)
        items.append(CalibrationItemRecord(source=source.uri, id=frame.id, sha256=pair.sha256))
        progress(done, len(chosen))
    findings = _check(pool, judged, len(items), known)
    refuse_errors(", ".join(source.uri for source in pool.sources), findings)
    record = _choice_record(pool, options, len(items)).model_copy(
        update={
            "items": tuple(items),
            "sha256": digest_of(item.sha256 for item in items),
            "warnings": tuple(map(str, findings)),
        }
    )
    return CalibrationSet(tuple(samples), record, findings, looks.ranges())


def _choose(pool: Pool, options: CalibrationOptions) -> list[tuple[int, int]]:
    """Sets as they are; of all else, or of everything where a number is given, that many."""
    if options.count is not None:
        return choose_random([len(one) for one in pool.sources], options.count, options.seed)
    lengths = [0 if isinstance(one, SetSource) else len(one) for one in pool.sources]
    plain = choose_random(lengths, USUAL_COUNT, options.seed)
    sets = [place for place in pool.places if isinstance(pool.sources[place[0]], SetSource)]
    return sorted(sets + plain)


def _prepared(source: StoredSource, index: int, frame: RgbdFrame, spec: ModelSpec) -> Inputs:
    try:
        return prepare(frame, spec)
    except (FrameError, SourceError) as err:
        raise of_pair(source, index, err) from err


def _measured(source: StoredSource, which: int, index: int, frame: RgbdFrame) -> PairRecord:
    if isinstance(source, SetSource):  # which has just held the pixels against this record
        return source.items[index].model_copy(update={"source": which})
    return measure(frame, source=which, number=index)


def _check(
    pool: Pool,
    judged: dict[tuple[DepthSpec, str], list[PairRecord]],
    count: int,
    known: InputStatistics | None,
) -> tuple[Finding, ...]:
    """Judge pairs of each kind of depth together."""
    registered = [getattr(source, "registered", None) for source in pool.sources]
    found: list[Finding] = []
    for (depth, dtype), pairs in judged.items():
        view = Judged(
            pairs,
            depth,
            dtype,
            whole=False,
            registered=False if False in registered else None,
            pooled=count,
            statistics=known,
        )
        found += [one for one in check_pairs(view) if one not in found]
    return tuple(found)


def _choice_record(pool: Pool, options: CalibrationOptions, count: int) -> CalibrationRecord:
    """How the pairs were chosen, without them: a set that is taken whole says it itself."""
    sets = [one.record.choice for one in pool.sources if isinstance(one, SetSource)]
    empty = CalibrationRecord(
        sources=tuple(source.uri for source in pool.sources),
        available=len(pool),
        choice="random",
        seed=options.seed,
        items=(),
        sha256=digest_of(()),
    )
    if not sets or (options.count is not None and count < len(pool)):
        return empty
    methods, seeds = {one.method for one in sets}, {one.seed for one in sets}
    alone = len(sets) == len(pool.sources)
    plain = sum(len(one) for one in pool.sources if not isinstance(one, SetSource))
    return empty.model_copy(
        update={
            "choice": methods.pop() if alone and len(methods) == 1 else "mixed",
            "seed": seeds.pop() if alone and len(seeds) == 1 else options.seed,
            "available": sum(one.available for one in sets) + plain,
        }
    )
