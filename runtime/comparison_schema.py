"""The schema of what ``compare --json`` writes; published as ``comparison.schema.json``.

The file beside this module is generated from these records, and a test holds both, and what a
comparison writes, together::

    python -m edge_fusion.runtime.comparison_schema > runtime/comparison.schema.json
"""

from __future__ import annotations

import json
import sys
from importlib.resources import files
from typing import Annotated, Any, Literal

from pydantic import Field, create_model

from edge_fusion.metrics import CURVES, METRICS, PROTOCOLS
from edge_fusion.spec import Record

from .comparison import SCHEMA_VERSION

SCHEMA_NAME = "comparison.schema.json"

Share = Annotated[float, Field(ge=0, le=1)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=0)]
Milliseconds = Annotated[float, Field(ge=0, description="Milliseconds.")]
Label = str


def _named(name: str, doc: str, fields: dict[str, Any]) -> Any:
    """A record whose fields are named by a table."""
    definitions: dict[str, Any] = {field: (kind, ...) for field, kind in fields.items()}
    return create_model(name, __doc__=doc, __base__=Record, **definitions)


_METRICS = _named("Metrics", "A figure for every metric; 0..1 each.", dict.fromkeys(METRICS, float))


class Interval(Record):
    """A 95 % interval, by resampling what was measured in pairs."""

    low: float
    high: float


class Change(Record):
    """A pooled metric of a variant less the reference's."""

    value: float
    interval: Annotated[Interval | None, Field(description="Null for one image.")]


class Difference(Record):
    """How far a variant's maps are from the reference's, 0..1."""

    mean_abs: Share
    max_abs: Share
    interval: Annotated[Interval | None, Field(description="Of mean_abs over many images.")]


_PROTOCOLS = _named(
    "Protocols",
    "; ".join(f"{name}: {meaning}" for name, meaning in PROTOCOLS.items()),
    dict.fromkeys(PROTOCOLS, _METRICS),
)
_SCORES = _named(
    "Scores",
    "Averages over n images whose mask has an object.",
    {"n": Count, **dict.fromkeys(PROTOCOLS, _METRICS)},
)
_CHANGES = _named(
    "Changes",
    "Of every metric, by protocol.",
    dict.fromkeys(
        PROTOCOLS,
        _named("MetricChanges", "A change for every metric.", dict.fromkeys(METRICS, Change)),
    ),
)
_CURVES = _named(
    "Curves",
    "Averages over images, at thresholds 255 down to 0, by protocol.",
    dict.fromkeys(
        PROTOCOLS,
        _named(
            "ProtocolCurves",
            "Values at 256 thresholds.",
            dict.fromkeys(CURVES, Annotated[list[float], Field(min_length=256, max_length=256)]),
        ),
    ),
)


class SetResult(Record):
    """A set of pairs, or all of them pooled: every image weighs the same."""

    name: str
    pairs: Count
    empty_masks: Annotated[Count, Field(description="Pairs whose mask has no object.")]
    scores: dict[Label, _SCORES]  # type: ignore[valid-type]
    differences: dict[Label, Difference]
    changes: dict[Label, _CHANGES]  # type: ignore[valid-type]


class ImageResult(Record):
    """One pair."""

    set: str
    id: str
    degradation: Annotated[
        float, Field(description="By how much the last variant is worse than the first.")
    ]
    empty_mask: bool
    scores: Annotated[
        dict[Label, _PROTOCOLS],  # type: ignore[valid-type]
        Field(description="Empty without a mask."),
    ]
    differences: dict[Label, Difference]


class Arithmetic(Record):
    """What was computed with; integer: whether 8-bit arithmetic ran."""

    text: str
    integer: bool


class VariantInfo(Record):
    """What stands behind a label."""

    label: Label
    text: Annotated[str, Field(description="How it was asked for.")]
    kind: Literal["bundle", "file"]
    path: str
    model: str
    variant: Annotated[str, Field(description="Its name in the bundle; empty for a file.")]
    precision: Literal["fp32", "fp16", "int8"]
    backend: str
    arithmetic: Arithmetic
    sha256: Annotated[str, Field(description="Of the ONNX file; empty for an engine alone.")]


class Inference(Record):
    """Times of the network alone at batch 1."""

    n: Count
    mean_ms: Milliseconds
    p50_ms: Milliseconds
    p90_ms: Milliseconds
    p99_ms: Milliseconds
    p999_ms: Milliseconds
    max_ms: Milliseconds
    jitter_ms: Milliseconds
    samples_ms: Annotated[
        list[float], Field(description="In the order of measuring, in blocks of Latency.block.")
    ]


class StageTimes(Record):
    """Where the time of a frame goes: medians."""

    prepare_ms: Milliseconds
    infer_ms: Milliseconds
    finish_ms: Milliseconds
    total_ms: Milliseconds


class Speedup(Record):
    """Another one's median over the variant's; the ends are null for too few rounds."""

    ratio: float
    low: float | None
    high: float | None


class Latency(Record):
    """Latency, measured in turns."""

    arithmetic: Arithmetic
    batch: Literal[1]
    warmup: Count
    inputs: Count
    block: Count
    prepare_ms: Milliseconds
    finish_ms: Milliseconds
    stages: dict[Label, StageTimes]
    inference: dict[Label, Inference]
    speedups: Annotated[dict[Label, Speedup], Field(description="Against the reference.")]


class Memory(Record):
    """Resident host memory of a process of its own."""

    before_bytes: int
    peak_bytes: int
    added_bytes: int


class Energy(Record):
    """Of frames that ran without a pause; null where power was not known."""

    frames: Count
    seconds: NotNegative
    samples: Count
    covered: Share
    gross_mj: float | None
    idle_mw: float | None
    net_mj: float | None
    mean_mw: float | None
    gross_mj_per_frame: float | None
    net_mj_per_frame: float | None


class VariantCost(Record):
    """What a variant costs besides time."""

    file_bytes: Annotated[Count, Field(description="Of what ran: the ONNX file, or the plan.")]
    plan_bytes: Annotated[Count | None, Field(description="Of the engine's plan.")]
    onnx_bytes: Annotated[Count | None, Field(description="Of the ONNX file.")]
    memory: Memory | None
    energy: Energy | None


class Moment(Record):
    """How the machine was; null or empty where it does not tell."""

    at_utc: str
    load_1min: float | None
    cpu_mhz: float | None
    gpu_mhz: float | None
    clocks_locked: bool | None
    power_mode: str | None
    temperatures_c: dict[str, float]
    throttled_by: Annotated[list[str] | None, Field(description="Now, or since the moment before.")]
    available_bytes: int | None


class Machine(Record):
    """What it ran on."""

    platform: str
    processor: str
    cores: int
    usable_cores: int
    load_1min: float | None
    threads: dict[str, str]
    versions: dict[str, str]
    board: str | None
    target: str | None
    governor: str | None
    before: Moment | None
    after: Moment | None


class Judgement(Record):
    """What is said of one variant."""

    variant: Label
    against: Annotated[Label, Field(description="FP16 beside INT8, else the reference.")]
    accuracy: Literal["kept", "lost", "nothing to keep", "no masks"]
    lost: list[str]
    speed: Literal["faster", "slower", "alike", "unknown"]
    speedup: Speedup | None
    recommended: Annotated[Label, Field(description="Empty where that is not clear.")]
    text: str


class ComparisonDocument(Record):
    """What 'edge-fusion compare --json' writes."""

    schema_version: Literal[2]
    created_utc: str
    bundle: str
    model: str
    backend: str
    variants: Annotated[list[Label], Field(min_length=2, description="The reference first.")]
    about: dict[Label, VariantInfo]
    notes: list[str]
    verdict: list[Judgement]
    pooled: SetResult
    curves: dict[Label, _CURVES]  # type: ignore[valid-type]
    sets: list[SetResult]
    latency: Latency | None
    costs: dict[Label, VariantCost]
    machine: Machine
    images: list[ImageResult]


def comparison_schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12), made from the records.

    Example:
        >>> comparison_schema()["properties"]["schema_version"]["const"]
        2
    """
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"edge-fusion:comparison:{SCHEMA_VERSION}",
        **ComparisonDocument.model_json_schema(mode="serialization"),
    }


def published_schema() -> dict[str, Any]:
    """The JSON schema as it is published with this package.

    Example:
        >>> published_schema() == comparison_schema()
        True
    """
    text = files("edge_fusion.runtime").joinpath(SCHEMA_NAME).read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


if __name__ == "__main__":
    sys.stdout.write(json.dumps(comparison_schema(), indent=1) + "\n")
