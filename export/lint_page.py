"""The lint's documentation, written from its table of rules.

``python -m edge_fusion.export.lint_page > export/LINT.md`` writes it anew.
"""

from __future__ import annotations

from collections import Counter

from .lint import RULES, rules_table
from .witness import LINT_KNOWS_BETTER, WITNESS_KNOWS_BETTER

#: What the rules of each family are about, by the letters of their ids.
FAMILIES: dict[str, str] = {
    "QDQ": "Q/DQ pairs: what TensorRT reads otherwise than ONNX means it, or not at all",
    "OPS": "Operators: what its parser does not import",
    "RSZ": "Resizing",
    "SHP": "Shapes",
    "TYP": "Element types",
    "EXT": "Files",
    "FP16": "Range: what overflows in half precision",
    "ACC": "Accuracy: what is legal in INT8 and better left out of it",
    "PRF": "Speed: what is legal and faster otherwise",
}

_HEAD = """# What the lint knows

`edge-fusion check PATH --target orin-nano@6.2` holds a graph against these {count} rules, those of
the target's TensorRT version, without TensorRT and without a GPU. An **error** means that TensorRT
refuses the graph or reads it wrongly ({error} rules), a **warning** that it is slower or less
accurate than it need be ({warning} rules). Errors make the exit status 1; `--json FILE` has
everything for machines.

This page is written from the table of rules: `python -m edge_fusion.export.lint_page`.
"""

_WITNESS = """
## The witness

With the extra `rtx` installed, `check --witness` also has NVIDIA's own parser and builder,
TensorRT-RTX, parse and build every graph for SM 8.6 and 8.9, on the CPU and in a child process. It
is not the TensorRT of a Jetson, but shares its parser. Where the two part for a known reason:
"""


def lint_page() -> str:
    """The page, as Markdown.

    Example:
        >>> lint_page().splitlines()[0]
        '# What the lint knows'
    """
    counts = Counter(rule.severity for rule in RULES)
    parts = [
        _HEAD.format(count=len(RULES), error=counts["error"], warning=counts["warning"]).rstrip()
    ]
    rows = rules_table()
    for letters, about in FAMILIES.items():
        parts.append(f"\n## {about}\n")
        parts += [_rule(row) for row in rows if _family(row["id"]) == letters]
    parts.append(_WITNESS)
    parts += [f"- {rule}, an error of the lint alone: {why}." for rule, why in _sorted_reasons()]
    parts += [
        f'- "{said}", refused by the witness alone: {why}.'
        for said, why in WITNESS_KNOWS_BETTER.items()
    ]
    return "\n".join(parts) + "\n"


def _family(rule_id: str) -> str:
    return max((f for f in FAMILIES if rule_id.startswith(f)), key=len, default="")


def _rule(row: dict[str, str]) -> str:
    versions = "every TensorRT" if row["versions"] == "all" else row["versions"]
    return (
        f"**{row['id']}** ({row['severity']}, {versions}): {row['title']}. "
        f"Otherwise {row['why']}. *{row['cure'][0].upper()}{row['cure'][1:]}.*\n"
    )


def _sorted_reasons() -> list[tuple[str, str]]:
    return sorted(LINT_KNOWS_BETTER.items())


if __name__ == "__main__":
    print(lint_page(), end="")
