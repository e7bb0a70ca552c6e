"""What a model takes and what a source delivers, as records that are stored and checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from edge_fusion.errors import ModelError

Polarity = Literal["farther", "nearer"]
Triple = tuple[float, float, float]

LARGEST_SIDE = 4096  # pixels; beyond it a typing error is likelier than a wish
IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)


class Record(BaseModel):
    """A frozen record that refuses unknown fields, infinities and NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class DepthSpec(Record):
    """How a *source* writes depth.

    Metric depth has ``scale_to_m`` (metres = value * scale_to_m); relative depth has none and
    means something only by its order.

    Attributes:
        scale_to_m: Metres per unit: 0.001 for millimetres, None for relative depth or disparity.
        larger_is: What a larger value means.
        invalid: The value that says "no reading"; NaN and infinity always do. None: no such value.
    """

    scale_to_m: Annotated[float, Field(gt=0)] | None
    larger_is: Polarity = "farther"
    invalid: float | None = 0.0

    @model_validator(mode="after")
    def _metric_depth_grows_with_distance(self) -> DepthSpec:
        if self.scale_to_m is not None and self.larger_is == "nearer":
            raise ValueError("depth in metres grows with distance; disparity has no scale_to_m")
        return self

    @property
    def metric(self) -> bool:
        """Whether values convert to metres."""
        return self.scale_to_m is not None


class TensorSpec(Record):
    """One tensor of a deployed graph: ``shape`` in ``layout`` order, batch first."""

    name: str
    shape: tuple[int, ...]
    dtype: Literal["float32"] = "float32"
    layout: Literal["NCHW"] = "NCHW"


class RgbInput(Record):
    """How a model takes colour: ``(value / 255 - mean) / std`` per channel, resized bilinearly."""

    name: str = "rgb"
    mean: Triple = IMAGENET_MEAN
    std: tuple[
        Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]
    ] = IMAGENET_STD
    order: Literal["rgb", "bgr"] = "rgb"
    resize: Literal["linear"] = "linear"


class DepthInput(Record):
    """How a model takes depth: resize by nearest, normalise to 0..1, fill holes, ``(x-mean)/std``.

    Attributes:
        normalisation: ``nearness`` is inverse depth between the frame's ``percentiles``;
            ``minmax`` is depth itself between them; ``linear`` is metres between ``near_m`` and
            ``far_m``.
        larger_is: What a larger input value means to the model.
        holes: ``zero`` leaves 0 where there is no reading; ``nearest`` copies the closest reading.
    """

    name: str = "depth"
    channels: Literal[1, 3] = 1
    normalisation: Literal["nearness", "minmax", "linear"] = "nearness"
    larger_is: Polarity = "nearer"
    percentiles: tuple[float, float] = (1.0, 99.0)
    near_m: Annotated[float, Field(ge=0)] = 0.0
    far_m: Annotated[float, Field(gt=0)] = 10.0
    holes: Literal["zero", "nearest"] = "zero"
    mean: float = 0.0
    std: Annotated[float, Field(gt=0)] = 1.0
    resize: Literal["nearest"] = "nearest"

    @model_validator(mode="after")
    def _ranges_are_ordered(self) -> DepthInput:
        low, high = self.percentiles
        if not 0 <= low < high <= 100:
            raise ValueError(f"percentiles must satisfy 0 <= low < high <= 100, got {low}, {high}")
        if not self.near_m < self.far_m:
            raise ValueError(f"near_m {self.near_m} must be below far_m {self.far_m}")
        return self


class Output(Record):
    """The saliency output: ``sigmoid`` is applied afterwards where the graph ends in logits."""

    name: str = "saliency"
    activation: Literal["none", "sigmoid"] = "none"


class ModelSpec(Record):
    """Everything needed to feed a two-stream model and read its answer.

    Attributes:
        name: What the model is called.
        height: Input height in pixels.
        width: Input width in pixels.
        rgb: How it takes colour.
        depth: How it takes depth.
        output: What it returns: saliency, (1, 1, h, w).
    """

    name: str
    height: Annotated[int, Field(ge=1, le=LARGEST_SIDE)] = 256
    width: Annotated[int, Field(ge=1, le=LARGEST_SIDE)] = 256
    rgb: RgbInput = RgbInput()
    depth: DepthInput = DepthInput()
    output: Output = Output()

    @property
    def inputs(self) -> tuple[TensorSpec, TensorSpec]:
        """The colour and the depth tensor, batch 1."""
        size = (self.height, self.width)
        return (
            TensorSpec(name=self.rgb.name, shape=(1, 3, *size)),
            TensorSpec(name=self.depth.name, shape=(1, self.depth.channels, *size)),
        )


def read_model_spec(path: Path) -> ModelSpec:
    """Read a :class:`ModelSpec` from a JSON file; fields left out keep their defaults.

    Args:
        path: A JSON object such as ``{"name": "mine", "depth": {"normalisation": "minmax"}}``, or
            what ``edge-fusion models NAME --json FILE`` wrote.

    Raises:
        ModelError: The file is missing, is not JSON, or holds a field we do not know.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(record, dict) and "spec" in record:
            record = record["spec"]
        return ModelSpec.model_validate(record)
    except (OSError, ValueError) as err:
        if isinstance(err, ValidationError):
            raise _invalid_record(path, err) from err
        raise ModelError(f"cannot read the model's input record {path}", got=str(err)) from err


def _invalid_record(path: Path, error: ValidationError) -> ModelError:
    return ModelError(
        f"the model's input record {path} is not valid",
        got=first_problem(error),
        cure=f"fields and defaults: {json.dumps(ModelSpec(name='mine').model_dump())}",
    )


def first_problem(error: ValidationError) -> str:
    """The first problem of a validation error in one readable line: ``field: message``."""
    problem = error.errors(include_url=False, include_context=False)[0]
    where = ".".join(str(part) for part in problem["loc"])
    return f"{where}: {problem['msg']}" if where else problem["msg"]
