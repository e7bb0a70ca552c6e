"""``calib check``: everything that is wrong with the pairs of a source."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from edge_fusion.bundle import Bundle, is_bundle
from edge_fusion.calibration_file import PairRecord
from edge_fusion.errors import CalibrationError, FrameError
from edge_fusion.input_statistics import InputStatistics, read_statistics, shipped_statistics
from edge_fusion.runtime.source.base import Source, StoredSource
from edge_fusion.runtime.source.credentials import without_credentials
from edge_fusion.spec import DepthSpec, Record

from .candidates import Candidate, candidates
from .check_rules import Judged
from .checks import Finding, check_pairs
from .create import Progress, open_pairs, quiet
from .measure import measure
from .set_folder import SetSource


class CheckReport(Record):
    """What was found.

    Attributes:
        source: What was checked, without credentials.
        pairs: How many pairs could be read.
        findings: What is wrong, errors first.
    """

    source: str
    pairs: int
    findings: tuple[Finding, ...]

    @property
    def failed(self) -> bool:
        """Whether one of the findings is an error."""
        return any(finding.severity == "error" for finding in self.findings)


def check_source(
    uri: str, known: InputStatistics | None = None, progress: Progress = quiet
) -> CheckReport:
    """Read every pair of a set, or of any stored source, and judge them.

    Pairs of a set are held against their recorded hashes; those of other sources are measured.

    Args:
        uri: A set, a folder or a source URI.
        known: What the model was trained on; None where nobody knows.
        progress: Told how many pairs are read.

    Raises:
        SourceError: The source cannot be opened.
        CalibrationError: It is a camera, an untrustworthy set, or has not one readable pair.

    Example:
        >>> [one.check for one in check_source("demo://?frames=2&size=64x48").findings]
        ['few']
    """
    source = open_pairs(uri)
    if source.live:
        raise CalibrationError(
            f"source '{source.uri}' is a camera",
            cure="make a set of it first: edge-fusion calib create SOURCE --seconds 60 -o SET",
        )
    total = len(source) if isinstance(source, StoredSource) else 0
    items: list[PairRecord] = []
    unusable: list[tuple[str, str]] = []
    kinds: list[tuple[DepthSpec, str]] = []
    with closing(candidates(source)) as found:
        for number, candidate in found:
            try:
                items.append(_judge(source, number, candidate, kinds))
            except (FrameError, CalibrationError) as err:
                name = _name(source, number)
                unusable.append((name, err.reason))
            progress("pairs", number + 1 if number + 1 < total else 0, total)
    progress("pairs", 1, 1, f"{len(items)} read")
    shown = without_credentials(source.uri)
    if not kinds:
        first = unusable[0][1] if unusable else "no pairs"
        raise CalibrationError(f"{shown}: not one pair can be read", got=first)
    (depth, dtype), *others = dict.fromkeys(kinds)
    unusable += [("depth", f"pairs of another kind of depth: {kind[1]}") for kind in others]
    whole = not isinstance(source, SetSource) or source.record.choice.method == "all"
    view = Judged(
        items,
        depth,
        dtype,
        whole=whole,
        registered=getattr(source, "registered", None),
        unusable=unusable,
        statistics=known,
    )
    return CheckReport(source=shown, pairs=len(items), findings=check_pairs(view))


def _judge(
    source: Source, number: int, candidate: Candidate, kinds: list[tuple[DepthSpec, str]]
) -> PairRecord:
    frame = candidate()
    if (frame.depth_spec, str(frame.depth.dtype)) not in kinds:
        kinds.append((frame.depth_spec, str(frame.depth.dtype)))
    if isinstance(source, SetSource):  # which has just held the pixels against this record
        return source.items[number]
    return measure(frame, number=number)


def _name(source: Source, number: int) -> str:
    ids = getattr(source, "ids", None)
    return f"'{ids[number]}'" if ids else str(number)


def statistics_for(model: str | None) -> InputStatistics | None:
    """What a model was trained on: of a bundle, of a name of 'models', or of a JSON record.

    Raises:
        CalibrationError: It is a file that is no such record, or nothing is known of it.
        BundleError: It is a damaged bundle.
    """
    if model is None:
        return None
    path = Path(model)
    if path.suffix == ".json" and path.is_file():
        return read_statistics(path)
    name = model
    if is_bundle(path):
        origin = Bundle.read(path).manifest.origin
        shipped = f"{origin.model}.safetensors"
        name = origin.model if origin.weights == shipped else ""
    known = shipped_statistics(name) if name else None
    if known is None:
        raise CalibrationError(
            f"nothing is known of the inputs that {model} was trained on",
            expected="a model whose weights come with edge-fusion, a bundle of it, or a record",
            cure="leave --model out, or give such a record as JSON: "
            "edge_fusion.input_statistics.statistics_of makes one of measured pairs",
        )
    return known
