"""The accuracy gate of a build: by how much a graph is worse than the FP32 one, on stored pairs.

The figures are those of ``compare``: the same metrics under both protocols, from ONNX Runtime,
which executes every QuantizeLinear and DequantizeLinear as the graph says it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray

from edge_fusion.calibration.measure import frame_sha256
from edge_fusion.errors import FrameError, InputError, SourceError
from edge_fusion.frame import RgbdFrame
from edge_fusion.metrics import METRICS, PROTOCOLS, ImageScores, mean_absolute_difference, pool
from edge_fusion.metrics import score as score_map
from edge_fusion.preprocess import Inputs, prepare, saliency_map
from edge_fusion.runtime.gates import DIFFERENCE, exceeds
from edge_fusion.runtime.ort import OrtSession
from edge_fusion.runtime.source.base import StoredSource
from edge_fusion.runtime.source.uri import open_stored
from edge_fusion.spec import ModelSpec

MOST_PAIRS = 512  # of 1.5 MB each at 256 x 256; more are thinned out evenly
_LEAST_UNIT = 1e-3  # in which a drop beyond its limit is told, where the limit is smaller

Parts = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, eq=False)
class GatePair:
    """One pair, prepared for the model.

    Attributes:
        inputs: As the model takes them.
        size: Height and width of the frame, at which maps are scored.
        mask: (H, W) bool, or None where there is none, or nothing in it.
    """

    inputs: Inputs
    size: tuple[int, int]
    mask: NDArray[np.bool_] | None


@dataclass(frozen=True, slots=True, eq=False)
class GatePairs:
    """The pairs a gate is judged on.

    Attributes:
        pairs: At least one.
        sources: Where they came from.
        available: How many there were to choose from.
        sha256: Hash of their pixels, depth scales and masks.
    """

    pairs: tuple[GatePair, ...]
    sources: tuple[str, ...]
    available: int
    sha256: str

    @property
    def masks(self) -> int:
        """How many pairs have a mask."""
        return sum(pair.mask is not None for pair in self.pairs)


@dataclass(frozen=True, slots=True)
class Reading:
    """How one graph did against the FP32 one.

    Attributes:
        drops: By how much it was worse, by gated metric; the worse of both protocols.
        limits: The largest drop allowed, by metric.
        difference: Mean absolute difference of saliency, whether it is gated or not.
        by_pair: The drops of each pair, by metric; empty where nobody asked for them.
    """

    drops: Mapping[str, float]
    limits: Mapping[str, float]
    difference: float
    by_pair: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    @property
    def held(self) -> bool:
        """Whether every gate holds."""
        return not any(exceeds(drop, self.limits[name]) for name, drop in self.drops.items())

    @property
    def excess(self) -> float:
        """How far the worst gate is beyond its limit, in units of it; negative where all hold."""
        return max((self.drops[name] - limit) / _unit(limit) for name, limit in self.limits.items())

    @property
    def harms(self) -> tuple[float, ...]:
        """For each pair, how far the gate that it harms most moves, in units of its limit."""
        units = {name: _unit(self.limits[name]) for name in self.by_pair}
        by_metric = ([d / units[name] for d in drops] for name, drops in self.by_pair.items())
        return tuple(max(drops) for drops in zip(*by_metric, strict=True))

    @property
    def missing(self) -> str:
        """What is still missing, in words; empty where every gate holds."""
        return ", ".join(
            f"{name} drops by {drop:.4g}, {drop - self.limits[name]:.2g} more than allowed"
            for name, drop in self.drops.items()
            if exceeds(drop, self.limits[name])
        )


def load_gate_pairs(
    sources: Sequence[str],
    spec: ModelSpec,
    max_drop: Mapping[str, float],
    *,
    most: int = MOST_PAIRS,
    progress: Parts = lambda done, total: None,
) -> GatePairs:
    """Read the pairs that a gate is judged on.

    Args:
        sources: Folders or URIs of stored sources.
        spec: The model's input record.
        max_drop: The gate, by metric; all but ``difference`` need masks.
        most: How many pairs to take at most, spread evenly over all sources.
        progress: Called with pairs done and pairs in all.

    Raises:
        InputError: A gate needs masks and no pair has one; as SourceError and FrameError, a source
            or a pair cannot be read.
    """
    opened = [open_stored(uri) for uri in sources]
    places = [(source, index) for source in opened for index in range(len(source))]
    chosen = [places[i] for i in _spread(len(places), most)]
    digest, pairs = hashlib.sha256(), []
    for done, (source, index) in enumerate(chosen, start=1):
        frame, inputs = _read(source, index, spec)
        digest.update(frame_sha256(frame).encode())
        digest.update(b"" if frame.mask is None else np.packbits(frame.mask).tobytes())
        # As in compare, a mask that holds no object says nothing of accuracy.
        mask = frame.mask if frame.mask is not None and frame.mask.any() else None
        pairs.append(GatePair(inputs, frame.rgb.shape[:2], mask))
        progress(done, len(chosen))
    found = GatePairs(
        tuple(pairs), tuple(one.uri for one in opened), len(places), digest.hexdigest()
    )
    _check_masks(found, max_drop)
    return found


class Gate:
    """Judges graphs against the FP32 one on the same pairs; the FP32 graph is run once.

    Args:
        pairs: What to judge on.
        reference: The FP32 graph.
        spec: The model's record.
        max_drop: The largest drop allowed, by metric.
        progress: Called with pairs done and pairs in all while the FP32 graph runs.

    Example:
        >>> gate = Gate(pairs, fp32, spec, {"mae": 0.002})  # doctest: +SKIP
        >>> gate.read(int8).held  # doctest: +SKIP
        False
    """

    def __init__(
        self,
        pairs: GatePairs,
        reference: onnx.ModelProto,
        spec: ModelSpec,
        max_drop: Mapping[str, float],
        progress: Parts = lambda done, total: None,
    ) -> None:
        self.pairs, self.max_drop = pairs, dict(max_drop)
        self._spec = spec
        self._scored = any(name in METRICS for name in max_drop)
        self._outputs: list[NDArray[np.float32]] = []
        self._scores: list[ImageScores | None] = []
        everything = range(len(pairs.pairs))
        for index, output in self._run(reference, everything):
            self._outputs.append(output)
            self._scores.append(self._score(index, self._map(index, output)))
            progress(index + 1, len(everything))

    def read(self, model: onnx.ModelProto, which: Sequence[int] | None = None) -> Reading:
        """Run a graph and hold it against the FP32 one.

        Args:
            model: The graph.
            which: Numbers of the pairs to use; None takes all.

        Raises:
            SessionError: ONNX Runtime refused the graph.
            FrameError: Its output is no saliency.
        """
        chosen = range(len(self.pairs.pairs)) if which is None else which
        differences, scores = [], []
        for index, output in self._run(model, chosen):
            candidate = self._map(index, output)
            known = self._map(index, self._outputs[index])
            differences.append(mean_absolute_difference(known, candidate))
            scores.append((self._scores[index], self._score(index, candidate)))
        return Reading(
            drops={name: self._drop(name, differences, scores) for name in self.max_drop},
            limits=self.max_drop,
            difference=float(np.mean(differences)),
            by_pair={
                name: tuple(
                    self._drop(name, [difference], [both])
                    for difference, both in zip(differences, scores, strict=True)
                )
                for name in self.max_drop
            },
        )

    def _run(
        self, model: onnx.ModelProto, which: Sequence[int]
    ) -> Iterator[tuple[int, NDArray[np.float32]]]:
        with OrtSession(model.SerializeToString()) as session:
            for index in which:
                outputs = session.run(self.pairs.pairs[index].inputs)
                yield index, outputs[self._spec.output.name]

    def _map(self, index: int, output: NDArray[np.float32]) -> NDArray[np.float32]:
        return saliency_map(output, self._spec, self.pairs.pairs[index].size)

    def _score(self, index: int, saliency: NDArray[np.float32]) -> ImageScores | None:
        mask = self.pairs.pairs[index].mask
        return None if mask is None or not self._scored else score_map(saliency, mask)

    @staticmethod
    def _drop(
        name: str,
        differences: Sequence[float],
        scores: Sequence[tuple[ImageScores | None, ImageScores | None]],
    ) -> float:
        """Over the given pairs; 0 where none of them has what the metric needs."""
        if name == DIFFERENCE:
            return float(np.mean(differences))
        both = [(known, found) for known, found in scores if known and found]
        if not both:
            return 0.0
        known, found = pool([one for one, _ in both]), pool([one for _, one in both])
        return max(
            METRICS[name].drop(getattr(known, protocol), getattr(found, protocol))
            for protocol in PROTOCOLS
        )


def _unit(limit: float) -> float:
    return max(limit, _LEAST_UNIT)


def _spread(count: int, most: int) -> list[int]:
    """At most ``most`` of ``count`` places, evenly."""
    return [int(place) for place in np.linspace(0, count - 1, min(count, most)).round()]


def _read(source: StoredSource, index: int, spec: ModelSpec) -> tuple[RgbdFrame, Inputs]:
    try:
        frame = source[index]
        return frame, prepare(frame, spec)
    except (FrameError, SourceError) as err:
        raise InputError(
            f"gate set {source.uri}, pair {index}: {err.what}",
            expected=err.expected,
            got=err.got,
            cure=err.cure or "repair or remove that pair",
        ) from err


def _check_masks(found: GatePairs, max_drop: Mapping[str, float]) -> None:
    needing = [name for name in max_drop if name != DIFFERENCE]
    if needing and not found.masks:
        raise InputError(
            f"gate --max-drop {needing[0]}={max_drop[needing[0]]:g} cannot be judged",
            expected="pairs with masks",
            got=f"{len(found.pairs)} pairs of {', '.join(found.sources)}, none with a mask",
            cure=f"give a set with masks: --gate-data SET; or gate on {DIFFERENCE}, which needs "
            f"none: --max-drop {DIFFERENCE}=0.01",
        )
