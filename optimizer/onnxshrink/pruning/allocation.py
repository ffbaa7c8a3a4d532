"""Allocation: in which order units of all classes go, and how far a budget goes along it.

Every method gives each unit a threshold: it goes where the network's one error (or the share removed) is at least
that. So a method is an order, a budget is a prefix of it, and the curve of all budgets comes from one scoring run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Size = Callable[[Sequence[int] | np.ndarray], Any]
"""What a model costs with so many units of each class: parameters, multiply-adds or latency; a float, or an array for
many selections [..., classes]."""


@dataclass(frozen=True)
class Order:
    """Units in the order in which they go.

    Attributes:
        classes: class of each unit, [units of all classes].
        units: its number in the class.
        thresholds: ascending.
        sizes: units of each class.
        steps: classes go down to multiples of these.
        aligned: multiples that the shrink rounds the units of each class up to.
        rooms: units that it has to do so, those that carried nothing before among them.
    """

    classes: np.ndarray
    units: np.ndarray
    thresholds: np.ndarray
    sizes: tuple[int, ...]
    steps: tuple[int, ...]
    aligned: tuple[int, ...]
    rooms: tuple[int, ...]

    def __len__(self) -> int:
        return self.classes.size

    def masks(self, gone: int) -> list[np.ndarray]:
        """Units that stay after the first `gone` of the order went; a class gives up whole steps only."""
        stay = [np.ones(size, bool) for size in self.sizes]
        for number, (size, step) in enumerate(zip(self.sizes, self.steps, strict=True)):
            mine = self.units[:gone][self.classes[:gone] == number]
            target = size - mine.size
            rounded = min(size, -(-target // step) * step)
            stay[number][mine[: size - rounded]] = False
        return stay

    def counts(self, masks: Sequence[np.ndarray]) -> list[int]:
        """Units that each class has after the shrink, alignment included."""
        now = [int(mask.sum()) for mask in masks]
        filled = [-(-count // step) * step for count, step in zip(now, self.aligned, strict=True)]
        return [max(count, min(full, room)) for count, full, room in zip(now, filled, self.rooms, strict=True)]


def ordered(
    thresholds: Sequence[np.ndarray],
    ranks: Sequence[np.ndarray],
    aligned: Sequence[int],
    rooms: Sequence[int] | None = None,
    *,
    whole: bool = True,
) -> Order:
    """The order of units by threshold, then by rank within their class.

    Args:
        thresholds: [units] of each class; equal ones go by rank.
        ranks: [units] of each class, the first to go lowest. The last unit of a class stays.
        aligned, rooms: see `Order`; rooms are the units of each class by default.
        whole: classes go down to aligned numbers only; otherwise unit by unit.
    """
    entries = []
    for number, (threshold, rank) in enumerate(zip(thresholds, ranks, strict=True)):
        going = np.lexsort((rank, threshold))[:-1]  # one stays
        entries += [(threshold[unit], place / threshold.size, number, int(unit)) for place, unit in enumerate(going)]
    entries.sort()
    return Order(
        np.array([entry[2] for entry in entries], int),
        np.array([entry[3] for entry in entries], int),
        np.array([entry[0] for entry in entries], float),
        tuple(threshold.size for threshold in thresholds),
        tuple(aligned) if whole else (1,) * len(thresholds),
        tuple(aligned),
        tuple(rooms if rooms is not None else [threshold.size for threshold in thresholds]),
    )


def uniform(scores: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Thresholds by which every class loses the same share of its units, those of the lowest score first."""
    thresholds = []
    for score in scores:
        place = np.empty(score.size)
        place[np.argsort(score, kind="stable")] = np.arange(1, score.size + 1)
        thresholds.append(place / score.size)
    return thresholds


def prefix(order: Order, fits: Callable[[int], bool]) -> int | None:
    """The shortest prefix that fits, found by halving; None where not even the whole order does."""
    if not fits(len(order)):
        return None
    low, high = -1, len(order)  # low does not fit
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high


def for_size(order: Order, size: Size, target: float) -> int | None:
    """The shortest prefix of at most the target size."""
    return prefix(order, lambda gone: bool(size(order.counts(order.masks(gone))) <= target))
