"""Ties: which slices of which tensors stand or fall together. Data, with the closure that each one means.

A port is (tensor, axis). `kept` maps each port to a mask; an axis of unknown size has a mask of length one that is
always set. Closing a tie only ever sets more of the masks.
"""

from __future__ import annotations

from collections.abc import Callable
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

    Which channels fill a group up is a choice, made by `fill` after everything else has converged.
    """

    x: Port
    y: Port
    groups: int

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
        alive = x.any(axis=1) | y.any(axis=1)
        growth: Growth = []
        for port, mask in ((self.x, x), (self.y, y)):
            target = max(1, int(mask.sum(axis=1).max(initial=0)))
            full = mask.copy()
            for group in np.flatnonzero(alive & (mask.sum(axis=1) < target)):
                free = np.flatnonzero(~mask[group])
                full[group, free[: target - int(mask[group].sum())]] = True
            growth += _growth(kept, port, full.reshape(-1))
        return growth


Tie = Same | Picks | Grid | EqualPerGroup
