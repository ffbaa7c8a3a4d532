"""Closing ties gives the smallest sets that satisfy them, held against an enumeration of all sets.

A tie is a relation between kept masks. For all but EqualPerGroup the sets that satisfy it are closed under
intersection, so the smallest one above given masks is the intersection of all that lie above them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from onnxshrink.ops.tie import Blocks, EqualPerGroup, Feeds, Grid, Picks, Port, Same, SharedColumns, Tie

Masks = dict[Port, np.ndarray]
A, B, C, D = (("a", 0), ("b", 0), ("c", 0), ("d", 0))


def product(masks: list[np.ndarray]) -> np.ndarray:
    """The elements that a grid keeps, flat, in row-major order."""
    return np.array([all(choice) for choice in itertools.product(*masks)])


def holds(tie: Tie, masks: Masks) -> bool:
    """The definition of each tie, element by element."""
    match tie:
        case Same(a=a, b=b, index=index):
            places = range(len(masks[b])) if index is None else index
            return all(masks[b][j] == masks[a][i] for j, i in enumerate(places))
        case Picks(a=a, b=b, index=index):
            return all(masks[a][i] for j, i in enumerate(index) if masks[b][j])
        case Feeds(a=a, parts=parts, matrix=matrix):
            return all(masks[a][k] for p, j, k in np.argwhere(matrix) if masks[parts][p] and masks[a][j])
        case Grid(a=a, b=b):
            return np.array_equal(product([masks[p] for p in a]), product([masks[p] for p in b]))
        case EqualPerGroup():
            return bool(groupings(tie, masks))
        case SharedColumns(x=x, y=y, w=w, groups=groups):
            rows, others = masks[x].reshape(groups, -1), masks[y].reshape(groups, -1)
            stays = [r.any() or o.any() for r, o in zip(rows, others, strict=True)]
            return all(np.array_equal(r, masks[w] & s) for r, s in zip(rows, stays, strict=True))
        case Blocks(ports=ports, index=index, always=always):
            parts = [masks[port][slices] for port, slices in zip(ports, index, strict=True)]
            stays = np.any([part.any(axis=1) for part in parts], axis=0)
            held = all(
                masks[port][i]
                for port, slices, fixed in zip(ports, index, always, strict=True)
                for i in slices[stays][fixed[stays]]
            )
            counts = [set(part.sum(axis=1)[stays]) for part in parts]
            return held and all(len(count) <= 1 and 0 not in count for count in counts)
    raise TypeError(tie)


def groupings(tie: EqualPerGroup, masks: Masks) -> dict[int, tuple[int, int]]:
    """Ways in which the kept channels are equal groups: neighbours merged at a time -> (channels, multiply-adds)."""
    x, y = (masks[p].reshape(tie.groups, -1).sum(axis=1) for p in (tie.x, tie.y))
    x, y = x[(x > 0) | (y > 0)], y[(x > 0) | (y > 0)]
    if not x.size:
        return {1: (0, 0)}
    found = {}
    for merged in range(1, x.size + 1):
        if x.size % merged == 0:
            into, out = ({sum(row[i : i + merged]) for i in range(0, x.size, merged)} for row in (x, y))
            if len(into) == len(out) == 1 and min(into) > 0 and min(out) > 0:
                groups, i, o = x.size // merged, into.pop(), out.pop()
                found[merged] = (int(groups * (i + o)), int(groups * i * o))
    return found


def supersets(masks: Masks) -> Iterator[Masks]:
    free = [(port, i) for port, mask in masks.items() for i in np.flatnonzero(~mask)]
    for choice in itertools.product([False, True], repeat=len(free)):
        grown = {port: mask.copy() for port, mask in masks.items()}
        for (port, i), chosen in zip(free, choice, strict=True):
            grown[port][i] = chosen
        yield grown


def smallest(ties: list[Tie], masks: Masks) -> Masks:
    """By enumeration."""
    result = {port: np.ones_like(mask) for port, mask in masks.items()}
    for grown in supersets(masks):
        if all(holds(tie, grown) for tie in ties):
            result = {port: result[port] & grown[port] for port in result}
    return result


def closed(ties: list[Tie], masks: Masks) -> Masks:
    """By closing the ties until nothing grows."""
    grown = {port: mask.copy() for port, mask in masks.items()}
    while growth := [step for tie in ties for step in tie.close(grown.__getitem__)]:
        for port, wanted in growth:
            assert (wanted & ~grown[port]).any() or len(growth) > 1, "a growth that adds nothing never ends"
            grown[port] |= wanted
    return grown


def assert_equal(found: Masks, expected: Masks) -> None:
    for port, mask in expected.items():
        np.testing.assert_array_equal(found[port], mask, err_msg=str(port))


def draw(rng: np.random.Generator, sizes: dict[Port, int], share: float = 0.3) -> Masks:
    return {port: rng.random(size) < share for port, size in sizes.items()}


def same(rng: np.random.Generator) -> tuple[Tie, dict[Port, int]]:
    size = int(rng.integers(1, 6))
    return Same(A, B), {A: size, B: size}


def same_with_index(rng: np.random.Generator) -> tuple[Tie, dict[Port, int]]:
    """A slice, a permutation, a tile: b's slices are any of a's, some not at all, some several times."""
    a, b = (int(n) for n in rng.integers(1, 6, 2))
    return Same(A, B, rng.integers(0, a, b)), {A: a, B: b}


def picks(rng: np.random.Generator) -> tuple[Tie, dict[Port, int]]:
    a, b = (int(n) for n in rng.integers(1, 6, 2))
    return Picks(A, B, rng.integers(0, a, b)), {A: a, B: b}


def grid(rng: np.random.Generator) -> tuple[Tie, dict[Port, int]]:
    """[2, 6] -> [3, 4], [8] -> [2, 4], [2, 2, 3] -> [12], ..."""
    shapes = [((2, 3), (6,)), ((6,), (3, 2)), ((2, 4), (4, 2)), ((2, 3), (3, 2)), ((2, 2), (2, 2)), ((2, 2, 2), (4, 2)),
              ((4, 2), (2, 4)), ((1, 4), (4, 1)), ((5,), (5,)), ((2, 4), (8,))]  # fmt: skip
    left, right = shapes[int(rng.integers(len(shapes)))]
    a, b = tuple(("a", i) for i in range(len(left))), tuple(("b", i) for i in range(len(right)))
    return Grid(a, b), {**dict(zip(a, left, strict=True)), **dict(zip(b, right, strict=True))}


def shared_columns(rng: np.random.Generator) -> tuple[Tie, dict[Port, int]]:
    groups, width, out = (int(n) for n in rng.integers(1, 4, 3))
    return SharedColumns(A, B, C, groups), {A: groups * width, B: groups * min(out, 2), C: width}


def feeds(rng: np.random.Generator) -> tuple[Tie, dict[Port, int]]:
    """Units of a recurrent layer in up to two directions."""
    parts, size = int(rng.integers(1, 3)), int(rng.integers(1, 7))
    return Feeds(A, B, rng.random((parts, size, size)) < 0.3), {A: size, B: parts}


@pytest.mark.parametrize("make", [same, same_with_index, picks, grid, feeds, shared_columns])
def test_close_gives_the_smallest_fixpoint(make: Callable[[np.random.Generator], tuple[Tie, dict[Port, int]]]) -> None:
    rng = np.random.default_rng(0)
    for _ in range(25):
        tie, sizes = make(rng)
        masks = draw(rng, sizes, rng.choice([0.1, 0.3, 0.6]))
        assert_equal(closed([tie], masks), smallest([tie], masks))


def test_several_ties_at_once() -> None:
    """A piece of a network: a Concat of two, a permutation of it, a Gather from that."""
    rng = np.random.default_rng(1)
    sizes = {A: 2, B: 3, C: 5, D: 3}
    for _ in range(15):
        ties: list[Tie] = [
            Same(C, A, np.arange(2)),
            Same(C, B, np.arange(2, 5)),
            Picks(C, D, rng.integers(0, 5, 3)),
            Same(A, A),
        ]
        masks = draw(rng, sizes, 0.15)
        assert_equal(closed(ties, masks), smallest(ties, masks))


def test_grids_in_a_row() -> None:
    """Reshape to [2, 2], exchange, Reshape back: a channel shuffle without knowledge of permutations."""
    rng = np.random.default_rng(2)
    p, q = ("p", 0), ("p", 1)
    ties: list[Tie] = [Grid((A,), (p, q)), Grid((q, p), (B,))]
    for _ in range(30):
        masks = draw(rng, {A: 4, p: 2, q: 2, B: 4}, 0.15)
        assert_equal(closed(ties, masks), smallest(ties, masks))


@pytest.mark.parametrize(
    ("groups", "inputs", "outputs"),
    [(2, 2, 2), (2, 3, 2), (3, 2, 1), (3, 1, 2), (4, 1, 1), (2, 1, 3), (4, 2, 2), (2, 3, 3)],
)
def test_equal_per_group_needs_no_fewer(groups: int, inputs: int, outputs: int) -> None:
    """Which channels fill a group is a choice, how many is not: enumeration finds no smaller set that takes no more
    multiply-adds than the groups as they are.
    """
    rng = np.random.default_rng(3)
    tie, single = EqualPerGroup(A, B, groups), 1 in (inputs, outputs)
    for _ in range(10):
        masks = draw(rng, {A: groups * inputs, B: groups * outputs}, rng.choice([0.1, 0.3]))
        found = closed([tie], masks)
        for port, mask in tie.fill(found.__getitem__):
            found[port] |= mask
        assert holds(tie, found)
        assert not tie.fill(found.__getitem__), "nothing is left to choose"
        assert all((found[port] | ~masks[port]).all() for port in masks)
        ways = [way for s in supersets(masks) for way in groupings(tie, s).items()]
        plain = min((way for merged, way in ways if merged == 1), default=(0, 0))
        best = min((c for merged, (c, work) in ways if work <= plain[1] and (merged == 1 or not single)), default=0)
        assert sum(int(mask.sum()) for mask in found.values()) == best


def test_groups_of_a_computed_weight_are_not_merged() -> None:
    """Zeros cannot be written between the parts of a weight that is computed."""
    x = np.array([1, 1, 1, 0, 1, 0, 0, 0, 1, 1, 1, 0, 1, 0, 0, 0], bool)
    for computed, expected in ((False, [3, 1, 3, 1]), (True, [3, 3, 3, 3])):
        tie, found = EqualPerGroup(A, B, 4, computed=computed), {A: x, B: x}
        found |= dict(tie.fill(found.__getitem__))
        assert found[A].reshape(4, 4).sum(axis=1).tolist() == expected


def test_depthwise_needs_no_choice() -> None:
    """One channel to a group: input and output stand or fall together, by closing alone."""
    rng = np.random.default_rng(4)
    for _ in range(20):
        masks = draw(rng, {A: 4, B: 4})
        assert_equal(closed([EqualPerGroup(A, B, 4)], masks), smallest([Same(A, B)], masks))


def test_grid_of_nothing_keeps_nothing() -> None:
    tie = Grid((("a", 0), ("a", 1)), (B,))
    empty = {("a", 0): np.zeros(2, bool), ("a", 1): np.zeros(3, bool), B: np.zeros(6, bool)}
    assert not tie.close(empty.__getitem__)


def blocks(rng: np.random.Generator, *, whole: bool) -> tuple[Blocks, dict[Port, int]]:
    """Two or three blocks on three axes, one of which has other slices as well, in an order of its own."""
    count, widths = [(2, (2, 2, 1)), (3, (2, 1, 1)), (3, (1, 1, 1)), (2, (1, 2, 1))][int(rng.integers(4))]
    order = rng.permutation(count * widths[1] + 1)[: count * widths[1]]
    index = (
        np.arange(count * widths[0]).reshape(count, -1),
        order.reshape(count, -1),
        np.arange(count).reshape(count, 1),
    )
    always = tuple(np.ones(i.shape, bool) if whole else rng.random(i.shape) < 0.2 for i in index)
    return Blocks((A, B, C), index, always), {A: count * widths[0], B: count * widths[1] + 1, C: count}


def test_whole_blocks_need_no_choice() -> None:
    """Heads that stand or fall as a whole: closing alone gives the smallest set."""
    rng = np.random.default_rng(5)
    for _ in range(12):
        tie, sizes = blocks(rng, whole=True)
        masks = draw(rng, sizes, rng.choice([0.1, 0.3]))
        found = closed([tie], masks)
        assert_equal(found, smallest([tie], masks))
        assert not tie.fill(found.__getitem__)


def test_blocks_need_no_fewer() -> None:
    """Which slices fill a block is a choice, how many is not: enumeration finds no smaller set."""
    rng = np.random.default_rng(6)
    for _ in range(16):
        tie, sizes = blocks(rng, whole=False)
        masks = draw(rng, sizes, rng.choice([0.1, 0.3]))
        found = closed([tie], masks)
        while growth := tie.fill(found.__getitem__):
            for port, mask in growth:
                found[port] |= mask
            found = closed([tie], found)
        assert holds(tie, found)
        assert all((found[port] | ~masks[port]).all() for port in masks)
        best = min(sum(int(m.sum()) for m in s.values()) for s in supersets(masks) if holds(tie, s))
        assert sum(int(mask.sum()) for mask in found.values()) == best
