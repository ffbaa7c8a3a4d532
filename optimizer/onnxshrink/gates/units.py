"""Units: what of a network stands or falls together, as disjoint sets of numbers."""

import torch
from torch import Tensor


class Units:
    """Disjoint sets of unit numbers. Set 0 holds all that must stay."""

    def __init__(self) -> None:
        self._parent = [0]
        self._roots: set[int] = set()  # of sets with more than one unit

    def new(self, count: int) -> Tensor:
        """`count` fresh units, [count] int64."""
        start = len(self._parent)
        self._parent.extend(range(start, start + count))
        return torch.arange(start, start + count)

    def find(self, unit: int) -> int:
        """The smallest number of the unit's set."""
        while self._parent[unit] != unit:
            self._parent[unit] = self._parent[self._parent[unit]]
            unit = self._parent[unit]
        return unit

    def join(self, a: Tensor, b: Tensor) -> None:
        """Join the units of two arrays pairwise, as they broadcast."""
        a, b = torch.broadcast_tensors(a, b)
        pairs = torch.stack([a.reshape(-1), b.reshape(-1)], 1)
        for one, other in torch.unique(pairs[pairs[:, 0] != pairs[:, 1]], dim=0).tolist():
            one, other = self.find(one), self.find(other)
            if one != other:
                self._parent[max(one, other)] = min(one, other)
                self._roots.add(min(one, other))

    def joined(self, units: Tensor) -> Tensor:
        """Which of these fresh units were joined with others, bool [n]."""
        return torch.tensor([self.find(u) != u or u in self._roots for u in units.tolist()], dtype=torch.bool)

    def keep(self, units: Tensor) -> None:
        """All these must stay."""
        self.join(units, torch.zeros((), dtype=torch.long))

    def roots(self) -> Tensor:
        """For each unit, in order, the smallest number of its set."""
        return torch.tensor([self.find(unit) for unit in range(len(self._parent))], dtype=torch.long)

    def resolve(self, units: Tensor) -> Tensor:
        """The array with each unit replaced by the smallest number of its set."""
        found, back = torch.unique(units, return_inverse=True)
        return torch.tensor([self.find(u) for u in found.tolist()], dtype=torch.long)[back]
