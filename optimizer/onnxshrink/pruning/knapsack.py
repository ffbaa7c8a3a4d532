"""Allocation by a knapsack: which class gives up how many units, so that least is lost for what is saved.

After HALP (Shen et al., NeurIPS 2022) and knapsack pruning (Aflalo et al., 2020): a class offers to go down to several
numbers of units, those of the lowest score first, each with a loss and a saving; one offer of each class is taken so
that the savings reach a target and the losses are least, by dynamic programming. What one class saves depends on the
others, because a layer's cost is a function of its inputs and its outputs. So the target is approached in rounds, and
savings are taken anew from where the last one ended. All rounds together are an order of units, of which a budget is a
prefix.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from .allocation import Order, Size

ROUND = 0.9
"""Each round leaves this much of the cost."""

OFFERS = (1, 2, 3, 4, 8, 16, 32, 64)
"""Steps that a class offers to give up in one round."""

PARTS = 256
"""Parts of a round's target that savings are counted in."""

HALVINGS = 8

Loss = Callable[[int, int], float]
"""What is lost in all when a class (by number) keeps only so many units."""


def shares_lost(scores: Sequence[np.ndarray]) -> Loss:
    """The loss by scores: minus the sum over layers of the logarithm of the share of its score that a layer keeps.

    Scores of a class are sums of the shares that a unit has in each layer, so their sum is the number of layers.
    Shares multiply along a network, so their logarithms add up; and the last units of a class are dear.
    """
    kept = [np.cumsum(np.sort(score)[::-1]) for score in scores]

    def loss(number: int, units: int) -> float:
        total = float(kept[number][-1])
        if total <= 0:
            return 0.0
        return -total * float(np.log(max(float(kept[number][units - 1]) / total, 1e-12)))

    return loss


def measured_errors(
    scores: Sequence[np.ndarray], aligned: Sequence[int], error: Callable[[Sequence[np.ndarray]], float]
) -> Loss:
    """The loss by measuring: the squared error of the network when one class alone keeps so many units.

    With the cost as divisor this is the FLOPs utilization of Network Adjustment (Chen et al., 2020), there estimated by
    dropping channels at random. Squares of small errors of different layers add up. Measured at quarters of each class,
    in a straight line between them.

    Args:
        scores: [units] of each class; the lowest go first.
        aligned: classes go down in steps of this.
        error: of the network with masks [units] of each class.
    """
    whole = [np.ones(score.size, bool) for score in scores]
    curves = []
    for number, (score, step) in enumerate(zip(scores, aligned, strict=True)):
        going, points = np.argsort(score, kind="stable"), {score.size: 0.0}
        for part in (3, 2, 1):
            left = max(step, score.size * part // 4 // step * step)
            if left < score.size and left not in points:
                mask = whole[number].copy()
                mask[going[: score.size - left]] = False
                points[left] = error([*whole[:number], mask, *whole[number + 1 :]]) ** 2
        units = sorted(points)
        curves.append((units, np.maximum.accumulate([points[count] for count in units][::-1])[::-1]))

    def loss(number: int, units: int) -> float:
        counts, squares = curves[number]
        return float(np.interp(units, counts, squares)) * max(1.0, counts[0] / max(units, 1))

    return loss


def knapsack(
    scores: Sequence[np.ndarray],
    loss: Loss,
    cost: Size,
    aligned: Sequence[int],
    rooms: Sequence[int],
) -> Order:
    """The order in which units go when every round takes the offers that lose least for what they save.

    Args:
        scores: [units] of each class; the lowest go first.
        loss: of a class that keeps so many of its units.
        cost: of all classes, also of many selections at once ([..., classes]).
        aligned, rooms: see `Order`; classes go down in steps of `aligned`.
    """
    going = [np.argsort(score, kind="stable") for score in scores]
    now = [score.size for score in scores]
    sequence: list[tuple[int, int]] = []
    while True:
        offers = [_offers(count, step) for count, step in zip(now, aligned, strict=True)]
        flat = [(number, left) for number, some in enumerate(offers) for left in some]
        if not flat:
            break
        here = float(np.asarray(cost(now)))
        tried = np.tile(np.array(now, float), (len(flat), 1))
        for row, (number, left) in enumerate(flat):
            tried[row, number] = left
        saved = here - np.asarray(cost(tried))
        lost = np.array([loss(number, left) - loss(number, now[number]) for number, left in flat])
        taken = _cheapest([number for number, _ in flat], saved, np.maximum(lost, 0), here * (1 - ROUND))
        taken.sort(key=lambda row: lost[row] / max(saved[row], 1e-12))
        for row in taken:
            number, left = flat[row]
            size = scores[number].size
            sequence += [(number, int(unit)) for unit in going[number][size - now[number] : size - left]]
            now[number] = left
    for number, score in enumerate(scores):  # what is left of a step goes last, but for one unit
        rest = going[number][score.size - now[number] : -1]
        sequence += [(number, int(unit)) for unit in rest]
    return Order(
        np.array([number for number, _ in sequence], int),
        np.array([unit for _, unit in sequence], int),
        np.arange(1, len(sequence) + 1, dtype=float),
        tuple(score.size for score in scores),
        tuple(aligned),
        tuple(aligned),
        tuple(rooms),
    )


def _offers(count: int, step: int) -> list[int]:
    """Multiples of the step below a number of units, not all of them."""
    largest = (count - 1) // step
    return [(largest + 1 - steps) * step for steps in OFFERS if steps <= largest]


def _cheapest(groups: Sequence[int], saved: np.ndarray, lost: np.ndarray, target: float) -> list[int]:
    """Rows, at most one of each group, that save the target at the least loss.

    A target that they cannot save together is halved; where even a small one is too much, the first of each group.
    """
    for _ in range(HALVINGS):
        parts = np.minimum(np.floor(saved / max(target, 1e-30) * PARTS), PARTS).astype(int)
        rows = _solve(groups, parts, lost)
        if rows:
            return rows
        target /= 2
    return [groups.index(group) for group in dict.fromkeys(groups)]


def _solve(groups: Sequence[int], parts: np.ndarray, lost: np.ndarray) -> list[int]:
    """The multiple-choice knapsack: rows that together save `PARTS` at the least loss; none where they cannot."""
    best = np.full(PARTS + 1, np.inf)
    best[0] = 0
    taken: list[tuple[np.ndarray, np.ndarray]] = []
    for group in dict.fromkeys(groups):
        improved, row_of, came_from = best.copy(), np.full(PARTS + 1, -1), np.arange(PARTS + 1)
        for row in [row for row, own in enumerate(groups) if own == group and parts[row] > 0]:
            p = int(parts[row])
            values, origin = np.full(PARTS + 1, np.inf), np.arange(PARTS + 1) - p
            values[p:PARTS] = best[: PARTS - p] + lost[row]
            origin[PARTS] = PARTS - p + int(np.argmin(best[PARTS - p :]))
            values[PARTS] = best[origin[PARTS]] + lost[row]
            better = values < improved
            improved[better], row_of[better], came_from[better] = values[better], row, origin[better]
        best = improved
        taken.append((row_of, came_from))
    if not np.isfinite(best[PARTS]):
        return []
    rows, place = [], PARTS
    for row_of, came_from in reversed(taken):
        if row_of[place] >= 0:
            rows.append(int(row_of[place]))
        place = int(came_from[place])
    return rows
