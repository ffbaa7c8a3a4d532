"""The knapsack against brute force, closed forms and its rivals."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from onnxshrink.pruning import knapsack as module
from onnxshrink.pruning.allocation import for_size, ordered, uniform
from onnxshrink.pruning.knapsack import knapsack, measured_errors, shares_lost
from onnxshrink.pruning.size import SizeFunction


def brute(groups: list[int], parts: np.ndarray, lost: np.ndarray) -> float:
    """The least loss of any choice of at most one row of each group that saves all parts."""
    options = [[None, *(row for row, own in enumerate(groups) if own == group)] for group in dict.fromkeys(groups)]
    best = math.inf
    for chosen in itertools.product(*options):
        rows = [row for row in chosen if row is not None]
        if sum(int(parts[row]) for row in rows) >= module.PARTS:
            best = min(best, float(sum(lost[row] for row in rows)))
    return best


@pytest.mark.parametrize("seed", range(20))
def test_one_round_is_optimal(seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(4), 3).tolist()
    parts = np.minimum(rng.integers(-20, 160, 12), module.PARTS)
    lost = rng.uniform(0, 1, 12)
    rows = module._solve(groups, parts, lost)
    best = brute(groups, parts, lost)
    if math.isinf(best):
        assert rows == []
        return
    assert len({groups[row] for row in rows}) == len(rows)
    assert sum(int(parts[row]) for row in rows) >= module.PARTS
    assert sum(lost[row] for row in rows) == pytest.approx(best)


def chain(*costs: float) -> SizeFunction:
    """Each class costs in proportion to its units."""
    return SizeFunction(np.array(costs), np.zeros((len(costs), 1)), np.eye(len(costs))[:, None, :], constant=0.0)


def scores(*sizes: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    drawn = [rng.uniform(0.5, 1.5, size) for size in sizes]
    return [one / one.sum() for one in drawn]


def test_the_dearer_class_goes_first() -> None:
    worth = scores(32, 32)
    cost = chain(1.0, 5.0)
    order = knapsack(worth, shares_lost(worth), cost, (4, 4), (32, 32))
    cheap, dear = order.counts(order.masks(for_size(order, cost, 0.6 * cost([32, 32])) or 0))
    assert dear < cheap


def test_nothing_is_given_up_for_nothing() -> None:
    """Where the cost falls in steps of 16 a class goes down in steps of 16, though it may go down in fours."""
    worth = scores(64, 48, 32)

    def cost(kept: object) -> object:
        units = np.asarray(kept, float)
        total = (np.ceil(units / 16) * 16 * [3.0, 2.0, 1.0]).sum(axis=-1)
        return float(total) if units.ndim == 1 else total

    order = knapsack(worth, shares_lost(worth), cost, (4, 4, 4), (64, 48, 32))
    for share in (0.9, 0.8, 0.6, 0.45):
        gone = for_size(order, cost, share * float(cost([64, 48, 32])))  # type: ignore[arg-type]
        assert gone
        assert all(count % 16 == 0 for count in order.counts(order.masks(gone)))


def test_the_order_holds_all_units_but_one_of_each_class() -> None:
    worth = scores(10, 7, 1)
    order = knapsack(worth, shares_lost(worth), chain(1, 2, 3), (4, 1, 4), (10, 7, 1))
    assert sorted(zip(order.classes.tolist(), order.units.tolist(), strict=True)) == sorted(
        (number, int(unit)) for number, one in enumerate(worth) for unit in np.argsort(one)[:-1]
    )
    assert order.counts(order.masks(len(order))) == [4, 1, 1]
    least = [
        one[np.flatnonzero(~mask)].max() for one, mask in zip(worth, order.masks(8), strict=True) if not mask.all()
    ]
    most = [one[np.flatnonzero(mask)].min() for one, mask in zip(worth, order.masks(8), strict=True) if not mask.all()]
    assert all(gone <= left for gone, left in zip(least, most, strict=True))


@pytest.mark.parametrize("seed", range(5))
def test_it_loses_less_than_equal_shares(seed: int) -> None:
    """At one cost, by the loss that it minimizes; layers cost the product of their inputs and outputs."""
    rng = np.random.default_rng(seed)
    sizes = (32, 64, 48, 16)
    worth = scores(*sizes, seed=seed)
    pairs = [(0, 1), (1, 2), (2, 3)]
    slices = np.zeros((3, 2, 4))
    for term, pair in enumerate(pairs):
        slices[term, [0, 1], pair] = 1
    cost = SizeFunction(rng.uniform(1, 9, 3), np.zeros((3, 2)), slices, 0.0)
    loss = shares_lost(worth)
    target = 0.5 * cost(sizes)
    found = []
    for order in (
        knapsack(worth, loss, cost, (1,) * 4, sizes),
        ordered(uniform(worth), worth, (1,) * 4),
    ):
        counts = order.counts(order.masks(for_size(order, cost, target) or 0))
        assert cost(counts) <= target
        found.append(sum(loss(number, count) for number, count in enumerate(counts)))
    assert found[0] < found[1]


def test_shares_multiply() -> None:
    """Half of what two layers read: twice the logarithm of two."""
    loss = shares_lost([np.full(8, 2 / 8)])
    assert loss(0, 8) == 0
    assert loss(0, 4) == pytest.approx(2 * math.log(2))


def test_errors_are_measured_one_class_at_a_time() -> None:
    worth = scores(16, 8)
    weight = [1.0, 3.0]
    asked = []

    def error(masks: object) -> float:
        gone = [int((~mask).sum()) for mask in masks]  # type: ignore[attr-defined]
        asked.append(gone)
        return sum(w * g for w, g in zip(weight, gone, strict=True))

    loss = measured_errors(worth, (4, 4), error)
    assert all(sum(count > 0 for count in gone) == 1 for gone in asked)
    assert loss(0, 16) == loss(1, 8) == 0
    for units in (12, 8, 4):
        assert loss(0, units) == pytest.approx((16 - units) ** 2)
    assert loss(0, 10) == pytest.approx((16 + 64) / 2)
    assert loss(1, 4) == pytest.approx((3 * 4) ** 2)


def test_sizes_of_many_selections() -> None:
    cost = chain(1.0, 2.0, 4.0)
    many = np.array([[1, 2, 3], [4, 5, 6]])
    assert cost(many).tolist() == [cost(row) for row in many] == [17.0, 38.0]
