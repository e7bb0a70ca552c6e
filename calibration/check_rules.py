"""What each check of a set looks for, on the records of its pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from edge_fusion.calibration_file import EDGE_REACH, EDGE_SIDE, EDGE_WIDTH, PairRecord
from edge_fusion.input_statistics import InputStatistics, compare_inputs
from edge_fusion.spec import DepthSpec

PLAUSIBLE_M = (0.08, 200.0)  # from the closest depth cameras to long stereo baselines
_EIGHT_BIT_REACH_M = 0.3  # beyond 255 mm and its noise
_NOTHING_NEAR_M = 8.0  # the nearest hundredth of an indoor scene lies within
_MOST_DARK, _MOST_BRIGHT = 0.97, 0.9
_NO_DETAIL = 1.0  # 8-bit steps of mean Laplacian; the softest real frame has 3
_SAME_PICTURE = 0.97  # rank correlation of depth with grey; the highest of real frames is 0.9
_FEW_LEVELS = 8
_MOST_INVALID, _USUAL_INVALID = 0.9, 0.7
_AT_THE_TOP = 0.3
_UPSIDE_DOWN = -0.35
_SAME_BITS = 4  # of 64, in both hashes; frames of a moving camera are 6 and more apart
_SAME_LEVELS = 28  # of 255 in any of 16x16 parts: noise changes 22, another small object 35
# Of edges of depth and colour: real sets correlate by 0.1 to 0.33, at most one step from in place.
_ENOUGH_EDGES, _SHIFTED, _RELATED, _STRONGER = 8, 2, 0.08, 0.03
_FEW, _MANY = 16, 1024
_LONG_STEP = 10.0  # times the usual one
_SHORTEST_GAP_NS = 1_000_000_000
_MOST = 0.5  # of the pairs, for what is a property of the whole set


@dataclass(frozen=True, slots=True)
class Judged:
    """A set as the checks see it.

    Attributes:
        items: What is recorded of the pairs that could be read, in order.
        depth: What their depth means.
        dtype: Of the depth.
        whole: Whether they are all pairs of a recording: only then a gap in time is a loss.
        registered: What the source says of registration; None: nothing.
        unusable: Pairs that could not be read, each with the reason and its cure.
        pooled: How many pairs there are with those of other kinds of depth; None: no others.
        statistics: What the model was trained on; None where that is not known.
    """

    items: Sequence[PairRecord]
    depth: DepthSpec
    dtype: str
    whole: bool = True
    registered: bool | None = None
    unusable: Sequence[tuple[str, str]] = ()
    pooled: int | None = None
    statistics: InputStatistics | None = None


Found = Iterator[tuple[str, Sequence[str]]]  # what, and the pairs it concerns


def _every(
    judged: Judged, holds: Callable[[PairRecord], bool], what: str, least: float = 0.0
) -> Found:
    """All pairs of which something holds, if they are more than a share of the set."""
    names = [item.id for item in judged.items if holds(item)]
    if names and len(names) > least * len(judged.items):
        yield f"{_counted(names)} {what}", names


def _counted(names: Sequence[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:3])
    if len(names) == 1:
        return f"pair {shown}:"
    return f"{len(names)} pairs{', such as' if len(names) > 3 else ':'} {shown}:"


def find_unusable(judged: Judged) -> Found:
    """Pairs that could not be read, as whoever read them says."""
    for name, reason in judged.unusable:
        yield f"pair {name}: {reason}", [name]


def find_unregistered(judged: Judged) -> Found:
    """Depth that the source itself says is not registered."""
    if judged.registered is False:
        yield "depth is not registered to colour, as meta.json says", []


def find_shifted(judged: Judged) -> Found:
    """Edges of depth beside those of colour, in the mean over the set."""
    known = [item for item in judged.items if item.edges]
    if len(known) < _ENOUGH_EDGES:
        return
    surfaces = _bytes([item.edges for item in known]).astype(np.float64)
    mean = ((surfaces - 128) / 127).mean(axis=0).reshape(EDGE_SIDE, EDGE_SIDE)
    row, column = divmod(int(mean.argmax()), EDGE_SIDE)
    down, right = row - EDGE_REACH, column - EDGE_REACH
    stronger = mean[row, column] - mean[EDGE_REACH, EDGE_REACH]
    if (
        max(abs(down), abs(right)) >= _SHIFTED
        and mean[row, column] > _RELATED
        and stronger > _STRONGER
    ):
        width = float(np.median([item.width for item in known]))
        pixels = [round(steps * width / EDGE_WIDTH) for steps in (right, down)]
        yield (
            f"depth lies about {pixels[0]:+d} columns and {pixels[1]:+d} rows beside colour (the "
            f"edges of both correlate by {mean[row, column]:.2f} there, by "
            f"{mean[EDGE_REACH, EDGE_REACH]:.2f} as they are)",
            [],
        )


def find_no_depth(judged: Judged) -> Found:
    """Pairs without any reading."""
    return _every(judged, lambda item: item.depth.median is None, "no valid reading of depth")


def find_unit(judged: Judged) -> Found:
    """Median distances that no depth camera sees."""
    if judged.depth.scale_to_m is None:
        return
    nearest, farthest = PLAUSIBLE_M
    wrong = [
        item
        for item in judged.items
        if item.depth.median is not None and not nearest <= item.depth.median <= farthest
    ]
    if wrong:
        middle = float(np.median([item.depth.median or 0 for item in wrong]))
        names = [item.id for item in wrong]
        yield (
            f"{_counted(names)} a median distance of {middle:.3g} m, where {nearest:g} to "
            f"{farthest:g} m is plausible{_meant(middle, judged.depth.scale_to_m)}",
            names,
        )


def _meant(middle_m: float, scale_to_m: float) -> str:
    """Which unit would make it a scene."""
    for unit, scale in (("m", 1.0), ("mm", 1e-3), ("0.1mm", 1e-4)):
        if scale != scale_to_m and 0.3 <= middle_m * scale / scale_to_m <= 10:
            return f": is it {unit} rather?"
    return ""


def find_eight_bit(judged: Judged) -> Found:
    """Metric depth that ends where 8 bits of millimetres do."""
    if judged.depth.scale_to_m is None:
        return
    known = [item for item in judged.items if item.depth.high is not None]
    names = [item.id for item in known if (item.depth.high or 0) < _EIGHT_BIT_REACH_M]
    # One pair may show a hand before the lens; a set does not.
    if names and len(names) == len(known):
        reach = max(item.depth.high or 0 for item in known)
        yield (
            f"nothing in the whole set is farther than {reach:.3g} m, which 8-bit or relative "
            f"depth declared as {judged.depth.scale_to_m:g} m per unit would look like",
            names,
        )


def find_swapped(judged: Judged) -> Found:
    """A smooth grey picture as colour, and as depth one as rich in detail as a photograph."""

    def holds(item: PairRecord) -> bool:
        return (
            item.rgb.grey
            and item.depth.detail is not None
            and item.depth.detail > 2 * item.rgb.detail
            and item.depth.like_grey < _SAME_PICTURE
            and item.depth.invalid < 0.01  # a photograph read as depth has hardly a hole
        )

    return _every(judged, holds, "colour is grey and smooth, depth is rich in detail", _MOST)


def find_grey_depth(judged: Judged) -> Found:
    """Grey pictures that rank their pixels as depth does."""
    return _every(
        judged,
        lambda item: item.depth.like_grey > _SAME_PICTURE and item.rgb.grey,
        "the colour image is the depth map in grey",
    )


def find_dark(judged: Judged) -> Found:
    """Black pictures."""
    return _every(judged, lambda item: item.rgb.black > _MOST_DARK, "colour is black")


def find_bright(judged: Judged) -> Found:
    """Blown-out pictures."""
    return _every(judged, lambda item: item.rgb.white > _MOST_BRIGHT, "colour is blown out")


def find_blurred(judged: Judged) -> Found:
    """Pictures without any detail that are neither black nor white."""

    def holds(item: PairRecord) -> bool:
        judged_already = item.rgb.black > _MOST_DARK or item.rgb.white > _MOST_BRIGHT
        return item.rgb.detail < _NO_DETAIL and not judged_already

    return _every(judged, holds, "colour shows nothing: flat or hopelessly blurred")


def find_flat_depth(judged: Judged) -> Found:
    """Depth of hardly a value."""
    return _every(
        judged,
        lambda item: item.depth.median is not None and item.depth.levels < _FEW_LEVELS,
        f"depth is constant: fewer than {_FEW_LEVELS} different readings",
    )


def find_saturated(judged: Judged) -> Found:
    """Depth of which a large part is the largest value."""
    return _every(
        judged,
        lambda item: item.depth.topmost > _AT_THE_TOP and item.depth.levels >= _FEW_LEVELS,
        "a large part of depth is one largest value",
    )


def find_holes(judged: Judged) -> Found:
    """Pairs, or a set, with hardly a reading."""
    yield from _every(
        judged,
        lambda item: item.depth.invalid > _MOST_INVALID and item.depth.median is not None,
        f"more than {_MOST_INVALID:.0%} of depth has no reading",
    )
    shares = [item.depth.invalid for item in judged.items if item.depth.invalid <= _MOST_INVALID]
    if shares and float(np.median(shares)) > _USUAL_INVALID:
        yield f"half of all pairs have no reading in {np.median(shares):.0%} of depth", []


def find_nothing_near(judged: Judged) -> Found:
    """Metric scenes without anything near."""
    nearest = [item.depth.near for item in judged.items if item.depth.near is not None]
    if judged.depth.scale_to_m is not None and nearest:
        middle = float(np.median(nearest))
        if _NOTHING_NEAR_M < middle < PLAUSIBLE_M[1]:
            yield f"half of all pairs show nothing nearer than {middle:.3g} m", []


def find_polarity(judged: Judged) -> Found:
    """Pictures that get farther downwards."""
    slopes = [item.depth.downwards for item in judged.items if item.depth.nearness]
    if slopes and float(np.median(slopes)) < _UPSIDE_DOWN:
        yield (
            "pictures get farther towards their lower edge (median correlation "
            f"{np.median(slopes):.2f}), which floors and tables do not",
            [],
        )


def _times(judged: Judged) -> dict[int, list[PairRecord]]:
    """Pairs with a time, by source: each source has a clock of its own."""
    timed: dict[int, list[PairRecord]] = {}
    for item in judged.items:
        if item.timestamp_ns:
            timed.setdefault(item.source, []).append(item)
    return timed


def find_order(judged: Judged) -> Found:
    """Pairs older than the one before, by source."""
    names = [
        later.id
        for items in _times(judged).values()
        for earlier, later in pairwise(items)
        if later.timestamp_ns < earlier.timestamp_ns
    ]
    if names:
        yield f"{_counted(names)} older than the pair before", names


def find_same_time(judged: Judged) -> Found:
    """Times that occur twice in a source."""
    names = []
    for items in _times(judged).values():
        seen: set[int] = set()
        for item in items:
            if item.timestamp_ns in seen:
                names.append(item.id)
            seen.add(item.timestamp_ns)
    if names:
        yield f"{_counted(names)} the same timestamp as another pair", names


def find_gaps(judged: Judged) -> Found:
    """Steps in time far longer than the usual one."""
    if not judged.whole:
        return
    names = []
    for items in _times(judged).values():
        times = np.asarray([item.timestamp_ns for item in items], np.int64)
        steps = np.diff(times)
        usual = float(np.median(steps[steps > 0])) if (steps > 0).any() else 0.0
        late = steps > max(_LONG_STEP * usual, _SHORTEST_GAP_NS)
        names += [items[int(index) + 1].id for index in np.nonzero(late)[0]]
    if names:
        yield f"{_counted(names)} a gap in time before", names


def find_duplicates(judged: Judged) -> Found:
    """Pairs that show nearly the same as an earlier one."""
    twins = near_duplicates(judged.items)
    if twins:
        of_all = f"{len(twins)} of {len(judged.items)} pairs"
        first = next(iter(twins.items()))
        yield (
            f"{of_all} show nearly the same as an earlier one, such as '{first[0]}' and "
            f"'{first[1]}'",
            list(twins),
        )


def near_duplicates(items: Sequence[PairRecord]) -> dict[str, str]:
    """Pairs whose colour and depth both look nearly like those of an earlier one.

    Both perceptual hashes must agree but for a few bits; and no part of the colour image may have
    changed, because the same table with another small thing on it is another scene.

    Returns:
        ``{pair: the earliest that looks like it}``.
    """
    planes = [_bits([item.rgb_hash for item in items]), _bits([item.depth_hash for item in items])]
    thumbs = _bytes([item.thumb for item in items]).astype(np.float32)
    thumbs -= thumbs.mean(axis=1, keepdims=True)  # exposure may differ
    twins: dict[str, str] = {}
    for index in range(1, len(items)):
        # Of signs -1 and 1, a product tells how many are equal: 64 - 2 * distance.
        apart = np.maximum(*((64 - plane[:index] @ plane[index]) / 2 for plane in planes))
        for earlier in np.nonzero(apart <= _SAME_BITS)[0].tolist():
            if np.abs(thumbs[earlier] - thumbs[index]).max() <= _SAME_LEVELS:
                twins[items[index].id] = items[earlier].id
                break
    return twins


def _bits(hashes: Sequence[str]) -> NDArray[np.float32]:
    return np.unpackbits(_bytes(hashes), axis=1).astype(np.float32) * 2 - 1


def _bytes(texts: Sequence[str]) -> NDArray[np.uint8]:
    """(n, k) uint8 from n hexadecimal texts of equal length."""
    return np.frombuffer(bytes.fromhex("".join(texts)), np.uint8).reshape(len(texts), -1)


def find_few(judged: Judged) -> Found:
    """Sets that are too small."""
    count = judged.pooled or len(judged.items)
    if count < _FEW:
        yield f"{count} {'pair is' if count == 1 else 'pairs are'} few", []


def find_many(judged: Judged) -> Found:
    """Sets that are larger than any use of them."""
    if len(judged.items) > _MANY:
        yield f"{len(judged.items)} pairs: calibration takes minutes and gigabytes for nothing", []


def find_unlike(judged: Judged) -> Found:
    """Inputs unlike those the model was trained on."""
    if judged.statistics is not None:
        for message in compare_inputs(judged.items, judged.statistics):
            yield message, []
