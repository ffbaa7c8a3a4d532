"""The methods: each turns scores into one order of all units, and a prefix of it into a selection."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..choices import Allocation, Method, Variant
from ..ops.rule import Context
from . import pfp
from .allocation import Order, Size, ordered, uniform
from .coupling import CouplingClass
from .knapsack import knapsack, measured_errors, shares_lost
from .pfp import Importance
from .scoring import Scores, magnitudes


@dataclass(frozen=True)
class Selection:
    """Which units stay.

    Attributes:
        masks: [units] of each class.
        factors: what the weights that read a unit are multiplied by, [units] of each class; None: nothing is.
        epsilon: the network's one error, of PFP only.
    """

    masks: list[np.ndarray]
    factors: list[np.ndarray] | None = None
    epsilon: float | None = None


@dataclass(frozen=True)
class Selector:
    """An order of units, and how a prefix of it becomes a selection.

    Attributes:
        order: units in the order in which they go.
        importance: of PFP, for each class.
        variant: of PFP: "top" keeps the most sensitive units, "sampled" draws and reweighs, "mixed" does both.
        drawn: of the sampled variant, the draws of each class.
        seed: of the mixed variant's draws.
    """

    order: Order
    importance: list[Importance] | None = None
    variant: Variant = "top"
    drawn: list[np.ndarray] | None = None
    seed: int = 0

    def __call__(self, gone: int) -> Selection:
        """The selection after the first `gone` units went."""
        masks = self.order.masks(gone)
        if self.importance is None:
            return Selection(masks)
        epsilon = float(self.order.thresholds[gone - 1]) if gone else 0.0
        if not gone or self.variant == "top":
            return Selection(masks, None, epsilon)
        if self.drawn is not None:
            counts = [self._count(known, epsilon) for known in self.importance]
            factors = [
                np.ones(mask.size) if mask.all() else pfp.reweighing(known, drawn, count) * mask
                for known, drawn, count, mask in zip(self.importance, self.drawn, counts, masks, strict=True)
            ]
            return Selection(masks, factors, epsilon)
        rng = np.random.default_rng(self.seed)
        factors = [
            np.ones(mask.size) if mask.all() else pfp.mixed(known, int(mask.sum()), rng)
            for known, mask in zip(self.importance, masks, strict=True)
        ]
        return Selection([factor > 0 for factor in factors], factors, epsilon)

    @staticmethod
    def _count(known: Importance, epsilon: float) -> int:
        """Draws for an error at which a unit's first draw just does not count any more."""
        return pfp.sample_size(epsilon * (1 + 1e-12), known.difficulty) if epsilon else pfp.MAX_DRAWS


def selector(
    method: Method,
    variant: Variant,
    allocation: Allocation,
    context: Context,
    classes: Sequence[CouplingClass],
    scores: Scores | None,
    aligned: Sequence[int],
    rooms: Sequence[int],
    seed: int,
    cost: Size,
    error: Callable[[Sequence[np.ndarray]], float],
) -> Selector:
    """The order of a method.

    Args:
        allocation: of Wanda and magnitude: the same share of every class; one threshold for all classes on scores
            divided by their class's mean; a knapsack of the scores' shares; or one of measured errors. PFP allocates by
            its one error, random by shares.
        scores: of the calibration data; Wanda and PFP need them.
        aligned, rooms: what alignment does to each class (see allocation.Order).
        cost: of the units that classes keep: what a knapsack saves.
        error: of the network with masks [units] of each class.
    """
    if method == "pfp":
        assert scores is not None
        known = scores.importance()
        ranks = [one.sensitivity for one in known]
        if variant != "sampled":
            return Selector(
                ordered([pfp.top_thresholds(one) for one in known], ranks, aligned, rooms), known, variant, None, seed
            )
        drawn = [pfp.draws(one, np.random.default_rng([seed, number])) for number, one in enumerate(known)]
        thresholds = [pfp.sampled_thresholds(one, some) for one, some in zip(known, drawn, strict=True)]
        return Selector(ordered(thresholds, ranks, aligned, rooms, whole=False), known, variant, drawn)
    if method == "wanda":
        assert scores is not None
        worth = scores.wanda()
    elif method == "magnitude":
        worth = magnitudes(context, classes)
    else:
        rng = np.random.default_rng(seed)
        return Selector(ordered(uniform(worth := [rng.random(one.units) for one in classes]), worth, aligned, rooms))
    if allocation in ("knapsack", "utilization"):
        loss = shares_lost(worth) if allocation == "knapsack" else measured_errors(worth, aligned, error)
        return Selector(knapsack(worth, loss, cost, aligned, rooms))
    thresholds = uniform(worth) if allocation == "uniform" else [one / max(float(one.mean()), 1e-30) for one in worth]
    return Selector(ordered(thresholds, worth, aligned, rooms))
