"""What can be wrong with a set of RGB-D pairs, as one table: id, severity, what, cure.

Every check judges the records of pairs (:mod:`.measure`), never pixels: a set of any length is
judged at once, and again whenever somebody asks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from edge_fusion.errors import CalibrationError
from edge_fusion.spec import Record

from . import check_rules as rules
from .check_rules import Found, Judged

Severity = Literal["error", "warning"]


class Finding(Record):
    """One thing that is wrong with a set.

    Attributes:
        check: Which check found it.
        severity: ``error``: ranges from such pairs are wrong.  ``warning``: they may be.
        message: What was found, in one sentence.
        pairs: Names of the pairs; empty where it concerns the set as a whole.
        cure: What to do about it.
    """

    check: str
    severity: Severity
    message: str
    pairs: tuple[str, ...] = ()
    cure: str

    def __str__(self) -> str:
        """The message with its cure, as one line."""
        return f"{self.message}; {self.cure}"


@dataclass(frozen=True, slots=True)
class Check:
    """One row of the table.

    Attributes:
        id: Its name.
        severity: Of what it finds.
        what: What it looks for, for the table.
        cure: What to do about what it finds.
        find: Looks for it.
    """

    id: str
    severity: Severity
    what: str
    cure: str
    find: Callable[[Judged], Found]


def check_pairs(judged: Judged) -> tuple[Finding, ...]:
    """Judge a set by every check of :data:`CHECKS`.

    Returns:
        What was found, errors first; nothing for a clean set.
    """
    found = [
        Finding(
            check=check.id,
            severity=check.severity,
            message=message,
            pairs=tuple(pairs),
            cure=check.cure,
        )
        for check in CHECKS
        for message, pairs in check.find(judged)
    ]
    return tuple(sorted(found, key=lambda finding: finding.severity != "error"))


def refuse_errors(where: str, findings: Sequence[Finding]) -> None:
    """Stop at a set with errors.

    Raises:
        CalibrationError: There is one; the first is told whole, the others are counted.
    """
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        more = f" (and {len(errors) - 1} more errors)" if len(errors) > 1 else ""
        raise CalibrationError(
            f"calibration set {where}: {errors[0].message}{more}",
            cure=f"{errors[0].cure}; 'edge-fusion calib check' lists everything",
        )


CHECKS: tuple[Check, ...] = (
    Check(
        "unusable",
        "error",
        "a pair is damaged, swapped, of two sizes, or was changed after the set was made",
        "repair or remove it; 'calib create --skip-damaged' leaves such pairs out",
        rules.find_unusable,
    ),
    Check(
        "registration",
        "error",
        "depth that is not registered to colour",
        "register it first: both images must show the same pixels",
        rules.find_unregistered,
    ),
    Check(
        "shifted",
        "warning",
        "depth that lies beside colour",
        "register depth to colour: is it of the depth camera's own view, or of another moment?",
        rules.find_shifted,
    ),
    Check(
        "no-depth",
        "error",
        "a pair without one reading of depth",
        "remove it; was the depth sensor covered, or the invalid value declared wrongly?",
        rules.find_no_depth,
    ),
    Check(
        "unit",
        "error",
        "distances that no depth camera sees",
        "declare the unit rightly: folder://PATH?unit=mm (or m, cm, 0.1mm), or in meta.json",
        rules.find_unit,
    ),
    Check(
        "8-bit",
        "error",
        "8-bit or relative depth declared as metric",
        "declare it as what it is: unit=relative and larger_is=nearer or farther",
        rules.find_eight_bit,
    ),
    Check(
        "swapped",
        "error",
        "colour and depth in each other's place",
        "exchange the two folders or globs",
        rules.find_swapped,
    ),
    Check(
        "grey-depth",
        "error",
        "a colour image that is the depth map in grey",
        "give the colour images: INT8 ranges of the colour stream would be those of depth",
        rules.find_grey_depth,
    ),
    Check(
        "dark",
        "warning",
        "black colour images",
        "remove them: was the lens covered?",
        rules.find_dark,
    ),
    Check(
        "bright",
        "warning",
        "blown-out colour images",
        "remove them; lower the exposure",
        rules.find_bright,
    ),
    Check(
        "blurred",
        "warning",
        "colour images that show nothing",
        "remove them: was the lens covered, or the camera shaken?",
        rules.find_blurred,
    ),
    Check(
        "flat-depth",
        "warning",
        "constant depth",
        "remove them: is a placeholder stored where depth should be?",
        rules.find_flat_depth,
    ),
    Check(
        "saturated",
        "warning",
        "depth that ends at one largest value",
        "if that value says 'no reading', declare it: invalid=VALUE",
        rules.find_saturated,
    ),
    Check(
        "holes",
        "warning",
        "depth with hardly a reading",
        "record where the sensor sees, nearer or with its projector on; remove the emptiest pairs",
        rules.find_holes,
    ),
    Check(
        "far",
        "warning",
        "nothing near in metric depth",
        "is the unit right (0.1mm read as mm)? if the scene is that large, all is well",
        rules.find_nothing_near,
    ),
    Check(
        "polarity",
        "warning",
        "depth that counts the wrong way",
        "is inverse depth declared as metric, or larger_is wrong? disparity is unit=relative and "
        "larger_is=nearer; of a camera that looks up or is mounted upside down it is true",
        rules.find_polarity,
    ),
    Check(
        "order",
        "warning",
        "pairs that go back in time",
        "were files renamed, or recordings mixed? name pairs in the order they were taken",
        rules.find_order,
    ),
    Check(
        "same-time",
        "warning",
        "pairs of the same time",
        "remove the repeated ones: each counts as a scene of its own",
        rules.find_same_time,
    ),
    Check(
        "gap",
        "warning",
        "gaps in time",
        "did the camera lose frames there? if it was stopped on purpose, all is well",
        rules.find_gaps,
    ),
    Check(
        "duplicates",
        "warning",
        "pairs that show nearly the same",
        "they add nothing: calib create --every N, or calib select --choice coverage",
        rules.find_duplicates,
    ),
    Check(
        "few",
        "warning",
        "too few pairs",
        "collect 30 to 100 of the scenes the model will see",
        rules.find_few,
    ),
    Check(
        "many",
        "warning",
        "more pairs than calibration needs",
        "choose some: edge-fusion calib select SET -n 64 --choice coverage -o SET2",
        rules.find_many,
    ),
    Check(
        "unlike-training",
        "warning",
        "inputs unlike those the model was trained on",
        "is the set of the scenes and the camera the model is for? are unit and polarity right?",
        rules.find_unlike,
    ),
)
