"""The names of range estimators, of the classes of tensors they are for, and how they are given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeVar, get_args

from edge_fusion.errors import InputError

Estimator = Literal[
    "mean_minmax",
    "minmax",
    "median_minmax",
    "mean_no_outliers_minmax",
    "mean_quantile",
    "histogram",
]
#: ``encoder``: what is computed before the two streams meet; of the rest, ``fusion``: the tokens
#: that products read, attention's among them; ``decoder``: the maps that convolutions read.
TensorClass = Literal["encoder", "fusion", "decoder"]

ESTIMATORS: tuple[Estimator, ...] = get_args(Estimator)
CLASSES: tuple[TensorClass, ...] = get_args(TensorClass)
DEFAULT_ESTIMATOR: Estimator = "mean_minmax"
AUTO = "auto"

ByClass = dict[TensorClass, Estimator]
_Name = TypeVar("_Name", bound=str)


def parse_estimators(given: Sequence[str]) -> tuple[Estimator, ByClass]:
    """Read ``--estimator`` options.

    Args:
        given: ``NAME`` for every class, ``CLASS=NAME`` for one; later ones win over earlier.

    Returns:
        The estimator of all classes, and those of single ones.

    Raises:
        InputError: No such estimator or class, or one is given twice.

    Example:
        >>> parse_estimators(["minmax", "fusion=mean_quantile"])
        ('minmax', {'fusion': 'mean_quantile'})
    """
    everywhere: list[Estimator] = []
    by_class: ByClass = {}
    for text in given:
        head, equals, tail = text.partition("=")
        name = _one_of(ESTIMATORS, tail if equals else head, text)
        if not equals:
            everywhere.append(name)
            continue
        group = _one_of(CLASSES, head, text)
        if group in by_class:
            raise InputError(f"--estimator {group}=...: given twice", cure="give it once")
        by_class[group] = name
    if len(everywhere) > 1:
        raise InputError(
            f"--estimator {everywhere[0]} and {everywhere[1]}",
            cure=f"give one for all, and others by class, such as fusion={everywhere[1]}",
        )
    return (everywhere[0] if everywhere else DEFAULT_ESTIMATOR), by_class


def check_estimators(given: Sequence[str]) -> None:
    """Refuse what ``--estimator`` cannot mean, before any work is done.

    Raises:
        InputError: No such estimator or class, or ``auto`` with another.
    """
    if AUTO not in given:
        parse_estimators(given)
    elif len(given) > 1:
        raise InputError(f"--estimator {AUTO} chooses for every class", cure="give it alone")


def _one_of(known: tuple[_Name, ...], name: str, text: str) -> _Name:
    for one in known:
        if one == name:
            return one
    kind = "range estimator" if known is ESTIMATORS else "class of tensors"
    also = f", or {AUTO} alone" if known is ESTIMATORS else ""
    raise InputError(
        f"--estimator {text}", expected=f"a {kind}: {', '.join(known)}{also}", got=repr(name)
    )
