"""Ties: which slices of which tensors stand or fall together. Data, with the closure that each one means.

A port is (tensor, axis). `kept` maps each port to a mask; an axis of unknown size has a mask of length one that is
always set. Closing a tie only ever sets more of the masks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

Port = tuple[str, int]
Kept = Callable[[Port], np.ndarray]
Growth = list[tuple[Port, np.ndarray]]


def _growth(kept: Kept, port: Port, wanted: np.ndarray) -> Growth:
    return [(port, wanted)] if (wanted & ~kept(port)).any() else []


@dataclass(frozen=True, eq=False)
class Same:
    """b[j] is kept exactly when a[index[j]] is (index None: the identity)."""

    a: Port
    b: Port
    index: np.ndarray | None = None

    @property
    def ports(self) -> tuple[Port, ...]:
        return (self.a, self.b)

    def close(self, kept: Kept) -> Growth:
        if self.index is None:
            both = kept(self.a) | kept(self.b)
            return _growth(kept, self.a, both) + _growth(kept, self.b, both)
        b = kept(self.b) | kept(self.a)[self.index]
        a = kept(self.a).copy()
        a[self.index[b]] = True
        return _growth(kept, self.a, a) + _growth(kept, self.b, b)


@dataclass(frozen=True, eq=False)
class Picks:
    """If b[j] is kept, so is a[index[j]]; a may keep more than b reads."""

    a: Port
    b: Port
    index: np.ndarray

    @property
    def ports(self) -> tuple[Port, ...]:
        return (self.a, self.b)

    def close(self, kept: Kept) -> Growth:
        a = kept(self.a).copy()
        a[self.index[kept(self.b)]] = True
        return _growth(kept, self.a, a)


@dataclass(frozen=True, eq=False)
class Grid:
    """Axes `a` and axes `b` count the same elements in row-major order (a Reshape's aligned block).

    A cut must be a product of index sets on both sides: the smallest enclosing grid is kept.
    """

    a: tuple[Port, ...]
    b: tuple[Port, ...]

    @property
    def ports(self) -> tuple[Port, ...]:
        return self.a + self.b

    def close(self, kept: Kept) -> Growth:
        a, b = [kept(p) for p in self.a], [kept(p) for p in self.b]
        before = [m.copy() for m in a + b]
        while True:
            count = sum(int(m.sum()) for m in a + b)
            grid = _product(a).reshape([m.size for m in b])
            b = [m | s for m, s in zip(b, _shadows(grid), strict=True)]
            grid = _product(b).reshape([m.size for m in a])
            a = [m | s for m, s in zip(a, _shadows(grid), strict=True)]
            if sum(int(m.sum()) for m in a + b) == count:
                break
        return [(port, new) for port, new, old in zip(self.ports, a + b, before, strict=True) if (new & ~old).any()]


def _product(masks: list[np.ndarray]) -> np.ndarray:
    grid = np.ones((), bool)
    for mask in masks:
        grid = grid[..., None] & mask
    return grid


def _shadows(grid: np.ndarray) -> list[np.ndarray]:
    rest = [tuple(a for a in range(grid.ndim) if a != axis) for axis in range(grid.ndim)]
    return [np.asarray(grid.any(axis=axes)) for axes in rest]


@dataclass(frozen=True, eq=False)
class EqualPerGroup:
    """A grouped convolution: every group that stays keeps the same number of inputs, and of outputs.

    Which channels fill a group up is a choice, made by `fill` after everything else has converged. Groups of very
    different sizes may be merged, some neighbours at a time, into fewer groups with zeros in their weights: where
    that takes fewer channels and no more multiply-adds. Groups with one channel on a side (depthwise) stay as they
    are: runtimes have kernels of their own for them. So do groups whose weight is computed.
    """

    x: Port
    y: Port
    groups: int
    computed: bool = False

    @property
    def ports(self) -> tuple[Port, ...]:
        return (self.x, self.y)

    def close(self, kept: Kept) -> Growth:
        x, y = kept(self.x).reshape(self.groups, -1), kept(self.y).reshape(self.groups, -1)
        alive = x.any(axis=1) | y.any(axis=1)
        growth: Growth = []
        for port, mask in ((self.x, x), (self.y, y)):
            if mask.shape[1] == 1:  # the only channel of a group that stays
                growth += _growth(kept, port, mask.reshape(-1) | alive)
        return growth

    def fill(self, kept: Kept) -> Growth:
        """The choice: groups that hold too few channels take their first ones that were free."""
        x, y = kept(self.x).reshape(self.groups, -1), kept(self.y).reshape(self.groups, -1)
        alive = np.flatnonzero(x.any(axis=1) | y.any(axis=1))
        if not alive.size:
            return []
        single = self.computed or 1 in (x.shape[1], y.shape[1])
        merged = 1 if single else _best_merge(x[alive].sum(axis=1), y[alive].sum(axis=1))
        growth: Growth = []
        for port, mask in ((self.x, x), (self.y, y)):
            full = mask.copy()
            runs = alive.reshape(-1, merged)
            target = max(1, int(mask[runs].sum(axis=(1, 2)).max()))
            for run in runs:
                run_mask = full[run].reshape(-1)
                free = np.flatnonzero(~run_mask)
                run_mask[free[: target - int(run_mask.sum())]] = True
                full[run] = run_mask.reshape(merged, -1)
            growth += _growth(kept, port, full.reshape(-1))
        return growth


@dataclass(frozen=True, eq=False)
class Blocks:
    """Blocks of slices that several axes have in common, such as the heads of an attention.

    A block of which any axis keeps something stays on all of them. Every block that stays keeps the same number of
    slices of an axis, at least one. Which slices fill a block up is a choice.

    Attributes:
        ports: the axes; one axis may come more than once.
        index: for each of them the slices of each block, [block, slice of the block].
        always: for each of them, in the same layout, the slices that stay whenever their block does; all of them
            where blocks stand or fall as a whole.
    """

    ports: tuple[Port, ...]
    index: tuple[np.ndarray, ...]
    always: tuple[np.ndarray, ...]

    def _alive(self, kept: Kept) -> np.ndarray:
        parts = [kept(port)[index].any(axis=1) for port, index in zip(self.ports, self.index, strict=True)]
        return np.asarray(np.logical_or.reduce(parts))

    def close(self, kept: Kept) -> Growth:
        alive = self._alive(kept)
        growth: Growth = []
        for port, index, always in zip(self.ports, self.index, self.always, strict=True):
            slices = index[alive] if index.shape[1] == 1 else index[always & alive[:, None]]
            growth += _growth(kept, port, _with(kept(port), slices.reshape(-1)))
        return growth

    def fill(self, kept: Kept) -> Growth:
        """The choice: blocks that hold too few slices take their first ones that were free."""
        alive = np.flatnonzero(self._alive(kept))
        growth: Growth = []
        for port, index in zip(self.ports, self.index, strict=True):
            mask = kept(port)[index]
            target = max(1, int(mask.sum(axis=1).max(initial=0)))
            for block in alive:
                free = index[block][~mask[block]]
                growth += _growth(kept, port, _with(kept(port), free[: target - int(mask[block].sum())]))
        return growth


def _with(mask: np.ndarray, slices: np.ndarray) -> np.ndarray:
    """A mask, and these slices."""
    mask = mask.copy()
    mask[slices] = True
    return mask


@dataclass(frozen=True, eq=False)
class Feeds:
    """Slices of one axis that feed each other, in several parts: if part p and slice j are kept, so is every slice k
    with matrix[p, j, k].
    """

    a: Port
    parts: Port
    matrix: np.ndarray

    @property
    def ports(self) -> tuple[Port, ...]:
        return (self.a, self.parts)

    def close(self, kept: Kept) -> Growth:
        a, fed = kept(self.a), np.asarray(self.matrix[kept(self.parts)].any(axis=0))
        while True:
            grown = a | fed[a].any(axis=0)
            if (grown == a).all():
                return _growth(kept, self.a, a)
            a = grown


def merges(inputs: np.ndarray, outputs: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """Ways to merge neighbouring groups.

    Args:
        inputs, outputs: channels that each group keeps, [G].

    Yields:
        (groups merged at a time, inputs, outputs of the largest merged group), from 1 up.
    """
    for merged in range(1, inputs.size + 1):
        if inputs.size % merged == 0:
            sums = inputs.reshape(-1, merged).sum(axis=1), outputs.reshape(-1, merged).sum(axis=1)
            yield merged, max(1, int(sums[0].max())), max(1, int(sums[1].max()))


def _best_merge(inputs: np.ndarray, outputs: np.ndarray) -> int:
    """How many neighbouring groups to merge at a time: fewest channels, and no more multiply-adds than unmerged."""
    best, fewest, limit = 1, 0, 0
    for merged, into, out in merges(inputs, outputs):
        groups = inputs.size // merged
        channels, work = groups * (into + out), groups * into * out
        if merged == 1:
            fewest, limit = channels, work
        elif channels < fewest and work <= limit:
            best, fewest = merged, channels
    return best


@dataclass(frozen=True, eq=False)
class SharedColumns:
    """A grouped convolution whose weight is computed: column j of the weight belongs to every group at once.

    So in each group that stays, channel j of `x` is kept exactly when column j of `w` is. A group stays with any
    channel of `x` or `y`.
    """

    x: Port
    y: Port
    w: Port
    groups: int

    @property
    def ports(self) -> tuple[Port, ...]:
        return (self.x, self.y, self.w)

    def close(self, kept: Kept) -> Growth:
        x, y = kept(self.x).reshape(self.groups, -1), kept(self.y).reshape(self.groups, -1)
        columns = kept(self.w) | x.any(axis=0)
        alive = np.asarray(x.any(axis=1) | y.any(axis=1))
        return _growth(kept, self.w, columns) + _growth(kept, self.x, (alive[:, None] & columns).reshape(-1))


Tie = Same | Picks | Grid | EqualPerGroup | SharedColumns | Blocks | Feeds


def linked(tie: Tie) -> tuple[Port, ...]:
    """The ports of a tie of which one's slices hold the others'."""
    if isinstance(tie, EqualPerGroup):  # it says how many, not which
        return ()
    return (tie.x, tie.w) if isinstance(tie, SharedColumns) else tie.ports
