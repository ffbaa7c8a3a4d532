"""What a gated network costs, and the two loss terms that gates add to the task's own: size, and the ejector.

In a short search the form of the gate decides what these losses can find. A sigmoid gate's factor moves into the next
layer's weights, a BatchNorm behind that layer hides it for good, and closing the gate then breaks the network. A step
gate has no factor to move, but as long as it is open the task's loss says nothing of how it would be without the unit:
what costs most falls first, whatever it is good for. Hard-concrete gates are drawn in each batch, sometimes closed, so
that the loss tells. Importance (importance.py) needs no trained gates at all.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import InputError
from .augment import Gated
from .coupling import Cost
from .gate import Gate
from .latency import LatencyCost

KINDS = ("macs", "parameters")


class Size:
    """What a gated network costs, relative to what it cost before any pruning; differentiable in the gates.

    Args:
        gated: the network.
        kind: "macs" (of the example that it was traced with) or "parameters".
        costs: instead of `kind`: a table of your own, as `Cost`, or latencies (`latency_costs`).
        whole: what the network cost once, where it was collapsed since; by default, what it costs with all units.

    Raises:
        InputError: there is no such kind, or nothing that costs.
    """

    def __init__(
        self,
        gated: Gated,
        kind: str = "macs",
        costs: Sequence[Cost | LatencyCost] | None = None,
        whole: float | None = None,
    ) -> None:
        if costs is None and kind not in KINDS:
            raise InputError(f"there is no size {kind!r}", cure=f"take one of {', '.join(KINDS)}")
        self.gated = gated
        found: list[Cost | LatencyCost] = []
        found += costs if costs is not None else gated.coupling.macs if kind == "macs" else parameter_costs(gated)
        width = max((len(cost.terms) for cost in found), default=0)
        counts = torch.zeros(len(found), width, 1 + len(gated.place))
        for row, cost in enumerate(found):
            for column in range(width):
                if column < len(cost.terms):
                    places = gated.places(cost.terms[column])
                    counts[row, column] += torch.bincount(places, minlength=counts.shape[2])
                else:
                    counts[row, column, 0] = 1
        self.counts = counts
        self.latencies = {row: cost for row, cost in enumerate(found) if isinstance(cost, LatencyCost)}
        # what a product of counts costs; latencies are none
        each = [0.0 if isinstance(cost, LatencyCost) else cost.each for cost in found]
        self.each = torch.tensor(each, dtype=torch.float64)
        self.whole = float(self._cost(torch.ones(counts.shape[2]))) if whole is None else whole
        if not self.whole > 0:
            raise InputError(
                f"the network costs {self.whole:g}, of which no share can be kept", cure="take another size, or costs"
            )

    def _cost(self, row: Tensor) -> Tensor:
        self.counts, self.each = self.counts.to(row.device), self.each.to(row.device)
        counts = (self.counts @ row.float()).double()
        total = (counts.prod(dim=1) * self.each).sum()
        for number, cost in self.latencies.items():
            total = total + cost.at(counts[number, 0], counts[number, 1])
        return total

    def relaxed(self) -> Tensor:
        """A/A0 with every unit counted by its gate: a scalar with a gradient."""
        return self._cost(self.gated.open()) / self.whole

    @torch.no_grad()
    def kept(self) -> float:
        """A/A0 with pruned units cut out."""
        return float(self._cost(self.gated.masks())) / self.whole

    def savings(self) -> Tensor:
        """What closing each unit that is still open saves of A/A0 to first order, [1 + units]."""
        row = self.gated.masks().requires_grad_()
        (found,) = torch.autograd.grad(self._cost(row), row)
        return found.detach() / self.whole

    def loss(self, target: float) -> Tensor:
        """max(0, A/A0 - target): constant pull down to the target, none below it, so a network cannot vanish."""
        return torch.relu(self.relaxed() - target)


def parameter_costs(gated: Gated) -> list[Cost]:
    """The number of elements of each parameter, by the units along its axes."""
    names = {name for name, _ in gated.network.named_parameters()}
    costs = []
    for name, shape in gated.coupling.shapes.items():
        if name in names:
            axes = gated.coupling.axes.get(name, {})
            fixed = math.prod(size for axis, size in enumerate(shape) if axis not in axes)
            costs.append(Cost(name, float(fixed), tuple(axes.values())))
    return costs


def ejector_loss(gates: Sequence[Gate], sigma: float = 1.0) -> Tensor:
    """Root mean square of G(alpha) = exp(-(alpha / (2 sigma^2))^2) over the gates that are not yet pruned.

    G is 1 where a gate is undecided (alpha = 0) and falls off on both sides, so descending it makes gates take sides.
    The literal form of arXiv 2308.14605: the square encloses 2 sigma^2, unlike the density of a normal distribution.
    """
    alpha = torch.cat([gate.alpha[gate.mask > 0] for gate in gates])
    if not alpha.numel():
        return alpha.sum()
    bump = torch.exp(-((alpha / (2 * sigma**2)) ** 2))
    # The small constant keeps the gradient of the root finite when every bump is 0.
    return torch.sqrt((bump**2).mean() + 1e-12)
