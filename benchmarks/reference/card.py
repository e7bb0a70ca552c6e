"""The tables of the model card, from the figures that were measured.

    python -m benchmarks.reference.evaluate WEIGHTS --data DATA --json WEIGHTS.json
    python -m benchmarks.reference.card WEIGHTS.json --int8 int8.json

puts them between the marks of the card that lies beside the figures.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.command import run
from edge_fusion.errors import InputError
from edge_fusion.files import write_bytes

from .data import REAL_SETS

#: MAE and max F of CSNet-L (x2), which sees colour alone, with its public weights.
CSNET: dict[str, tuple[float, float]] = {
    "tabletop_uois": (0.128, 0.750),
    "tabletop_ycb_realsense": (0.062, 0.892),
}
_ROWS = (
    ("validation", ("depth", "blanked", "inverted, declared")),
    *((name, ("depth", "blanked", "another's")) for name in REAL_SETS),
)


def _markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def accuracy_table(figures: Mapping[str, Any]) -> str:
    """MAE and max F of every set by case of depth, beside CSNet-L where it was measured."""
    rows = []
    for name, cases in _ROWS:
        cells = [f"{name} ({figures[name]['depth']['n']})"]
        for case in cases:
            raw = figures[name][case]["raw"]
            cells.append(f"{raw['mae']:.4f} / {raw['f_max']:.3f}")
        csnet = CSNET.get(name)
        cells.append(f"{csnet[0]:.3f} / {csnet[1]:.3f}" if csnet else "-")
        rows.append(cells)
    third = "another frame's depth (validation: inverted, declared)"
    return _markdown(("set (images)", "with depth", "depth blanked", third, "CSNet-L, RGB"), rows)


def pooled_table(figures: Mapping[str, Any]) -> str:
    """The paired bootstrap over the pooled real sets."""
    rows = []
    for case in ("depth against blanked", "another's against blanked"):
        one = figures["pooled"][case]
        ratio = one["mae"] / one["mae_reference"]
        cells = [case, str(one["n"]), f"{one['mae']:.4f}", f"{one['mae_reference']:.4f}"]
        cells += [f"{ratio:.2f}", f"{one['difference']:+.4f}"]
        rows.append([*cells, f"{one['low']:+.4f} to {one['high']:+.4f}"])
    head = ("pooled real sets", "n", "MAE", "MAE blanked", "ratio", "difference", "95 %")
    return _markdown(head, rows)


def int8_table(costs: Sequence[Mapping[str, Any]]) -> str:
    """What INT8 changes, set by set, with depth."""
    rows = []
    for one in costs:
        if one["depth"] == "depth":
            cells = [f"{one['set']} ({one['n']})", f"{one['mae']:.4f}", f"{one['mae_change']:+.4f}"]
            rows.append([*cells, f"{one['f_max']:.3f}", f"{one['f_max_change']:+.4f}"])
    head = ("set (images)", "MAE, FP32", "INT8 changes it by", "max F, FP32", "INT8 changes it by")
    return _markdown(head, rows)


def filled(card: str, tables: Mapping[str, str]) -> str:
    """The card with every table between its marks.

    Example:
        >>> print(filled("<!-- a -->old<!-- /a -->", {"a": "new"}))
        <!-- a -->
        new
        <!-- /a -->
    """
    for name, table in tables.items():
        before, mark, rest = card.partition(f"<!-- {name} -->")
        _, end, after = rest.partition(f"<!-- /{name} -->")
        if not end:
            raise InputError(f"the card has no place for '{name}'", expected=f"<!-- {name} -->")
        card = f"{before}{mark}\n{table}\n{end}{after}"
    return card


def main(
    figures: Annotated[Path, typer.Argument(help="What evaluate wrote; the card lies beside it.")],
    int8: Annotated[Path, typer.Option(help="What benchmarks.reference.int8 wrote.")],
) -> None:
    """Write the tables into the card."""
    card = figures.with_suffix(".md")
    for path in (figures, int8, card):
        if not path.is_file():
            raise InputError(f"no such file: {path}")
    measured = json.loads(figures.read_text())
    tables = {
        "accuracy": accuracy_table(measured),
        "pooled": pooled_table(measured),
        "int8": int8_table(json.loads(int8.read_text())),
    }
    write_bytes(card, filled(card.read_text(), tables).encode(), "the model card")


if __name__ == "__main__":
    run(main)
