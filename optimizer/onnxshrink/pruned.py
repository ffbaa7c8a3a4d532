"""What `prune` returns."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import onnx

from .benchmark import Ratio
from .pruning.guarantee import Guarantee
from .pruning.repair import Fit
from .result import Result


@dataclass(frozen=True)
class ClassMask:
    """What one coupling class keeps.

    Attributes:
        name: its first layer.
        layers: the layers whose output channels it is.
        units: how many units it had.
        kept: numbers of those that stay.
    """

    name: str
    layers: tuple[str, ...]
    units: int
    kept: tuple[int, ...]


@dataclass(frozen=True)
class Point:
    """One budget: shares of the original's size (None where
    unknown), and the error on held-out data.
    """

    macs: float | None
    parameters: float
    error: float
    latency: float | None = None


@dataclass(frozen=True)
class Latency:
    """A latency budget and what came of it, as shares of the original's latency.

    Attributes:
        wanted: by the caller.
        predicted: by the table of layer latencies.
        measured: against the original in turns; None where the table is of another machine.
        place: provider and machine of the table.
    """

    wanted: float
    predicted: float
    measured: Ratio | None
    place: str


@dataclass
class Pruned:
    """What `prune` did.

    Attributes:
        model: the result; with `masks_only` the original with zeros, else shrunk.
        masks: what each coupling class keeps.
        error: of the result on held-out data: the largest over outputs of |y' - y| / |y|.
        error_before_repair: the same without the repair.
        epsilon: PFP's one error for the whole network.
        guarantee: what the theorem says; None where it says nothing, then `no_guarantee` says why.
        curve: size against error for budgets of the same order, from all units to the least, without repair.
        point: the result beside the curve: its size by the same functions, and `error`.
        fits: how each layer was repaired.
        sizes: parameters and MACs (None where unknown), before and after.
        metric: the caller's metric, before and after.
        latency: what a latency budget came to.
        shrunk: what `optimize` did; None with `masks_only`.
    """

    model: onnx.ModelProto
    masks: list[ClassMask]
    error: float
    error_before_repair: float
    epsilon: float | None
    guarantee: Guarantee | None
    no_guarantee: str
    curve: list[Point]
    point: Point
    fits: list[Fit]
    sizes: dict[str, tuple[int | None, int | None]]
    metric: tuple[float, float] | None = None
    latency: Latency | None = None
    shrunk: Result | None = None
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """The report for machines."""
        return {
            "error": self.error,
            "error_before_repair": self.error_before_repair,
            "epsilon": self.epsilon,
            "guarantee": None if self.guarantee is None else self.guarantee.to_json(),
            "no_guarantee": self.no_guarantee,
            "metric": self.metric,
            "latency": None if self.latency is None else asdict(self.latency),
            **{name: {"before": before, "after": after} for name, (before, after) in self.sizes.items()},
            "classes": [asdict(mask) for mask in self.masks],
            "curve": [asdict(point) for point in self.curve],
            "point": asdict(self.point),
            "repair": [asdict(one) for one in self.fits],
            "notes": self.notes,
            "shrink": None if self.shrunk is None else self.shrunk.to_json(),
        }
