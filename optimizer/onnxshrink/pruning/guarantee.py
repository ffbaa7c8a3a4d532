"""What PFP's theorem says of a sampled selection, and whether held-out data agree.

The theorem holds for channels drawn at random and reweighed. It says nothing of a deterministic selection, nor of a
network that was repaired afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from ..ops.rule import Context
from .calibration import Calibration
from .coupling import CouplingClass
from .patches import Reader
from .pfp import TINY, Importance, sample_size, totals_of
from .probe import passes, probe, stream
from .scoring import PATCHES, Scores, bytes_of


@dataclass(frozen=True)
class Bound:
    """The statement for one class: with probability 1 - delta every output of every consumer, positive and negative
    part apart, changes by at most epsilon times itself on the data that scored.

    Attributes:
        name: the class.
        units, kept: before and after.
        s: S, the sum of sensitivities, between 1 and the number of units.
        m: draws.
        epsilon, delta, k: error, failure probability, and the constant K.
        spread: Delta, mean over outputs of (z+ + z-) / |z|, the largest over places: what an error of the parts can
            become in their difference.
        held_out_k: largest share on held-out data over the sensitivity; above K the bound need not hold for them.
    """

    name: str
    units: int
    kept: int
    s: float
    m: int
    epsilon: float
    delta: float
    k: float
    spread: float
    held_out_k: float


@dataclass(frozen=True)
class Guarantee:
    """The bounds of all classes, and what they come to.

    Attributes:
        within: share of held-out outputs (parts apart, layer by layer) that are within (1 +- epsilon).
        worst: largest relative error among them.
        asked: calibration samples that the authors' code asks for.
        used: samples that scored.
    """

    bounds: list[Bound]
    within: float
    worst: float
    asked: int
    used: int

    @property
    def composed(self) -> float:
        """The bound of the whole network: product over classes of (1 + epsilon Delta), minus one."""
        with np.errstate(over="ignore"):
            return float(np.prod([1 + bound.epsilon * bound.spread for bound in self.bounds]) - 1)

    @property
    def delta(self) -> float:
        """Failure probability of all bounds together."""
        return sum(bound.delta for bound in self.bounds)

    def to_json(self) -> dict[str, Any]:
        """The guarantee for machines."""
        whole = {"composed": self.composed, "delta": self.delta, "within": self.within, "worst": self.worst}
        return {**whole, "asked": self.asked, "used": self.used, "classes": [asdict(bound) for bound in self.bounds]}


def bounds(
    classes: Sequence[CouplingClass],
    importance: Sequence[Importance],
    scores: Scores,
    masks: Sequence[np.ndarray],
    epsilon: float,
) -> list[Bound]:
    """The bound of every class that loses units."""
    found = []
    for number, (one, known, mask) in enumerate(zip(classes, importance, masks, strict=True)):
        if mask.all():
            continue
        readings = scores.readings[number].values()
        found.append(
            Bound(
                one.name,
                one.units,
                int(mask.sum()),
                known.total,
                sample_size(epsilon, known.difficulty),
                epsilon,
                known.delta,
                known.k,
                max(reading.spread for reading in readings),
                scores.held_out_k()[number],
            )
        )
    return found


def hold_out(
    context: Context,
    classes: Sequence[CouplingClass],
    factors: Sequence[np.ndarray],
    epsilon: float,
    model: onnx.ModelProto,
    calibration: Calibration,
    *,
    provider: str = "cpu",
    folder: Path | None = None,
    seed: int = 1,
) -> tuple[float, float]:
    """Share of outputs on held-out samples, parts apart, that reweighed layers give within (1 +- epsilon); and the
    largest relative error. Each layer is looked at on the original's inputs.

    Args:
        factors: what each unit's weights are multiplied by, [units] of each class.
    """
    scale: dict[int, np.ndarray] = {}
    nodes = {}
    for found, factor in zip(classes, factors, strict=True):
        for node, port in found.consumers:
            nodes[node.index] = node
            column = scale.setdefault(node.index, np.ones(context.size(*port) or 1))
            column[found.slices[port]] = factor[:, None]
    inside, outcomes, worst = 0, 0, 0.0
    tensors = {node.inputs[0]: bytes_of(context, node.inputs[0]) for node in nodes.values()}
    for names, batch in passes(tensors):
        opened = probe(model, names, provider=provider, folder=folder)
        batches = stream(opened, calibration, calibration.held, batch, lambda done, all: None)
        for round_, (samples, values) in enumerate(batches):
            for index, node in nodes.items():
                if node.inputs[0] not in values:
                    continue
                reader = Reader(node, context)
                rng = np.random.default_rng([seed, index, round_])
                rows = reader.rows(values[node.inputs[0]], PATCHES * samples, rng)
                weight = reader.matrix(context.graph.constants[node.inputs[1]])
                kept = (weight * scale[index][:, None]).astype(np.float32)
                flat = rows.reshape(len(rows), -1)
                right = totals_of(weight.reshape(len(weight), -1), flat)
                sampled = totals_of(kept.reshape(len(weight), -1), flat)
                for signs, z in right.items():
                    there = z > TINY
                    error = np.abs(sampled[signs][there] / z[there] - 1)
                    inside += int((error <= epsilon).sum())
                    outcomes += error.size
                    worst = max(worst, float(error.max(initial=0)))
    return inside / max(outcomes, 1), worst
